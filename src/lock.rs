//! Locks a folder for writing by a single process: an advisory lock on a file in it, which the system releases when
//! the process ends, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::{Error, Result, shown};

/// Prefix of lock file names.
pub(crate) const PREFIX: &str = ".shadernet.";
/// More than any owner writes about itself.
const MOST_BYTES: u64 = 1 << 10;

const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// Takes the lock `name` in `folder`, which tells others which process holds it.
    ///
    /// # Errors
    /// [`Error::Busy`] if another process holds it, or an error from the system.
    pub(crate) fn take(folder: &Path, name: &str) -> Result<Self> {
        let mut path = folder.join(format!("{PREFIX}{name}"));
        let mut tries = 0;
        loop {
            let file = open(&path, true).map_err(Error::io("write into", folder))?;
            match file.try_lock() {
                Ok(()) => {}
                // Another process may only have checked whether it is free.
                Err(TryLockError::WouldBlock) if tries < TRIES => {
                    tries += 1;
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Err(TryLockError::WouldBlock) => return Err(busy(folder, file)),
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Interrupted => continue,
                // A file system without locks keeps no process out.
                Err(TryLockError::Error(_)) => {}
            }
            let mut lock = Self { path, file };
            // Its last owner may have removed the file after it was opened here; then the name is free for others.
            if !lock.is_held() {
                path = lock.path.clone();
                continue;
            }
            let about = format!(
                "process {} on {} since {}",
                std::process::id(),
                gethostname::gethostname().display(),
                humantime::format_rfc3339_seconds(SystemTime::now())
            );
            // Only for others to read: the lock holds without it.
            let _ = lock.file.set_len(0).and_then(|()| lock.file.write_all(about.as_bytes()));
            return Ok(lock);
        }
    }

    /// True as long as the file in the folder is the locked one: the folder may have been moved or replaced.
    pub(crate) fn is_held(&self) -> bool {
        let opened = self.file.try_clone().and_then(same_file::Handle::from_file);
        let named = same_file::Handle::from_path(&self.path);
        matches!((opened, named), (Ok(opened), Ok(named)) if opened == named)
    }

    /// Fails with [`Error::Busy`] if another process holds the lock.
    pub(crate) fn check_free(folder: &Path, name: &str) -> Result<()> {
        let file = match open(&folder.join(format!("{PREFIX}{name}")), false) {
            Ok(file) => file,
            Err(error) if [ErrorKind::NotFound, ErrorKind::PermissionDenied].contains(&error.kind()) => {
                return Ok(());
            }
            Err(error) => return Err(Error::io("write into", folder)(error)),
        };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(busy(folder, file)),
            Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still held, to remove no other process's file.
        if self.is_held() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Opens a lock file. Other things with this name are not our locks: a pipe would wait, and a link would lead elsewhere.
fn open(path: &Path, make: bool) -> io::Result<File> {
    if let Ok(found) = path.symlink_metadata()
        && !found.is_file()
    {
        let message = format!("{} is in the way and is not a lock file", path.display());
        return Err(io::Error::new(ErrorKind::InvalidInput, message));
    }
    if make {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
    } else {
        File::open(path)
    }
}

fn busy(folder: &Path, mut file: File) -> Error {
    let mut owner = String::new();
    // On Windows, other processes cannot read a locked file.
    let read = file.rewind().and_then(|()| file.take(MOST_BYTES).read_to_string(&mut owner));
    if read.is_err() || owner.is_empty() {
        owner = "another process".into();
    }
    Error::Busy { path: folder.to_owned(), owner: shown(&owner).into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_and_others_hear_who() {
        let dir = tempfile::tempdir().unwrap();
        let message = |result: Result<()>| result.unwrap_err().to_string();
        Lock::check_free(dir.path(), "lock").unwrap();
        let lock = Lock::take(dir.path(), "lock").unwrap();
        let other = Lock::take(dir.path(), "other").unwrap();
        let start = format!("{}: in use by process {} on ", dir.path().display(), std::process::id());
        for message in
            [message(Lock::take(dir.path(), "lock").map(drop)), message(Lock::check_free(dir.path(), "lock"))]
        {
            if cfg!(unix) {
                assert!(message.starts_with(&start) && message.contains(" since 20"), "{message}");
            }
        }
        drop((lock, other));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        // A folder replaced while locked is no longer held, and the new contents are kept.
        let lock = Lock::take(dir.path(), "lock").unwrap();
        assert!(lock.is_held());
        std::fs::remove_file(dir.path().join(".shadernet.lock")).unwrap();
        let new = Lock::take(dir.path(), "lock").unwrap();
        assert!(!lock.is_held() && new.is_held());
        drop(lock);
        assert!(new.is_held());
        drop(new);
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("elsewhere", dir.path().join(".shadernet.lock")).unwrap();
            for message in [
                message(Lock::take(dir.path(), "lock").map(drop)),
                message(Lock::check_free(dir.path(), "lock")),
            ] {
                assert!(message.contains("is not a lock file"), "{message}");
            }
            std::fs::remove_file(dir.path().join(".shadernet.lock")).unwrap();
        }
        // A dead process's file is not a lock.
        std::fs::write(dir.path().join(".shadernet.lock"), "process 1 on moon since ever and a day").unwrap();
        Lock::check_free(dir.path(), "lock").unwrap();
        drop(Lock::take(dir.path(), "lock").unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn of_many_at_once_one_wins_each_round() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, rounds) =
            (std::sync::atomic::AtomicUsize::new(0), std::sync::atomic::AtomicUsize::new(0));
        let order = std::sync::atomic::Ordering::SeqCst;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        if let Ok(lock) = Lock::take(dir.path(), "lock") {
                            assert_eq!(inside.fetch_add(1, order), 0);
                            rounds.fetch_add(1, order);
                            inside.fetch_sub(1, order);
                            drop(lock);
                        }
                    }
                });
            }
        });
        assert!(rounds.load(order) > 0);
    }
}
