//! The folder of a run. One process at a time works in it, and what dead ones left there is no obstacle.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Remedy, Result};
use crate::files::{self, MadeFolders};
use crate::lock::{self, Lock};

/// A folder that is ours to write into. If nothing is written, dropping it removes what was made.
#[derive(Debug)]
pub(super) struct RunFolder {
    path: PathBuf,
    /// Dropped before the folders, which would else not be empty.
    lock: Option<Lock>,
    made: MadeFolders,
}

/// Name of the lock of a run's folder.
const LOCK: &str = "lock";

/// Fails if `out` exists and is not an empty folder: a run never writes over another.
pub(super) fn check_free(out: &Path) -> Result<()> {
    match is_empty(out) {
        Ok(empty) => {
            Lock::check_free(out, LOCK)?;
            if empty { Ok(()) } else { Err(taken(out, "this folder exists and is not empty")) }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotADirectory && out.exists() => {
            Err(taken(out, "this is a file"))
        }
        Err(error) => Err(Error::io("open", out)(error)),
    }
}

fn taken(out: &Path, what: &str) -> Error {
    Error::Usage(format!("{}: {what}; a run needs a new or empty folder", out.display()))
        .with(Remedy::NewFolder)
}

/// True if nothing is in a folder but locks and temporary files, which dead processes leave behind.
fn is_empty(folder: &Path) -> std::io::Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        if !name.to_string_lossy().starts_with(lock::PREFIX)
            && !name.to_string_lossy().starts_with(files::PREFIX)
        {
            return Ok(false);
        }
    }
    Ok(true)
}

impl RunFolder {
    /// Makes `out`, or `runs/<name>-<n>` with the first free number.
    pub(super) fn create(out: Option<&Path>, name: &str) -> Result<Self> {
        let mut folder = Self { path: PathBuf::new(), lock: None, made: MadeFolders::default() };
        let Some(out) = out else {
            let runs = Path::new("runs");
            folder.made.make(runs)?;
            let mut number = 1;
            while !folder.claim(&runs.join(format!("{name}-{number}")))? {
                number += 1;
            }
            return Ok(folder);
        };
        check_free(out)?;
        // A folder with nothing but what a dead run left was made by that run: it goes, if this one writes nothing either.
        if std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
            folder.made.add(out);
        }
        folder.made.make(out)?;
        folder.path = out.to_owned();
        folder.lock = Some(Lock::take(out, LOCK)?);
        match is_empty(out) {
            Ok(true) => {
                files::remove_leftovers(out);
                Ok(folder)
            }
            // Another run has begun and ended since.
            Ok(false) => Err(taken(out, "this folder exists and is not empty")),
            Err(error) => Err(Error::io("read", out)(error)),
        }
    }

    /// Takes `path` for this run, if it is a new folder, or one in which a dead run left nothing of use.
    fn claim(&mut self, path: &Path) -> Result<bool> {
        let io = |error| Error::io("make the folder", path)(error);
        match std::fs::create_dir(path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if !path.is_dir() || !is_empty(path).map_err(io)? {
                    return Ok(false);
                }
            }
            Err(error) => return Err(io(error)),
        }
        // Two runs that start together get two folders.
        let lock = match Lock::take(path, LOCK) {
            Err(Error::Busy { .. }) => return Ok(false),
            lock => lock?,
        };
        if !is_empty(path).map_err(io)? {
            return Ok(false);
        }
        files::remove_leftovers(path);
        (self.path, self.lock) = (path.to_owned(), Some(lock));
        self.made.add(path);
        Ok(true)
    }

    /// Fails if another process has the folder.
    pub(super) fn check_owner(path: &Path) -> Result<()> {
        Lock::check_free(path, LOCK)
    }

    /// The folder of a run that goes on.
    pub(super) fn existing(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), lock: Some(Lock::take(path, LOCK)?), made: MadeFolders::default() })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// True as long as the folder is the one that was taken.
    pub(super) fn is_ours(&self) -> bool {
        self.lock.as_ref().is_some_and(Lock::is_held)
    }

    /// Fails if somebody has removed, moved or replaced the folder: what is there now belongs to others.
    pub(super) fn check(&self) -> Result<()> {
        if self.is_ours() {
            return Ok(());
        }
        let message =
            "this folder was removed, moved or replaced during the run; nothing more is written to it";
        Err(Error::data(&self.path, message))
    }

    /// Writes a file of the run.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.check()?;
        files::write_atomically(&self.path.join(name), bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_folders_vanish_and_used_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a/b/c");
        drop(RunFolder::create(Some(&out), "x").unwrap());
        assert!(!dir.path().join("a").exists());
        let folder = RunFolder::create(Some(&out), "x").unwrap();
        folder.write("file", b"text").unwrap();
        drop(folder);
        assert!(out.join("file").exists());
        let message = RunFolder::create(Some(&out), "x").unwrap_err().to_string();
        assert!(message.contains("exists and is not empty"), "{message}");
        let message = RunFolder::create(Some(&out.join("file")), "x").unwrap_err().to_string();
        assert!(message.contains("this is a file"), "{message}");
        let below = out.join("file/x");
        assert!(RunFolder::create(Some(&below), "x").is_err());
    }

    #[test]
    fn a_folder_has_one_owner_and_what_dead_ones_left_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("x");
        let folder = RunFolder::create(Some(&out), "x").unwrap();
        assert!(matches!(RunFolder::create(Some(&out), "x"), Err(Error::Busy { .. })));
        assert!(matches!(RunFolder::existing(&out), Err(Error::Busy { .. })));
        folder.write("file", b"text").unwrap();
        drop(folder);
        drop(RunFolder::existing(&out).unwrap());
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
        // A run that was killed before it saved anything.
        std::fs::remove_file(out.join("file")).unwrap();
        std::fs::write(out.join(".shadernet.lock"), "process 1").unwrap();
        std::fs::write(out.join(".shadernet-Ab12Cd"), "half a file").unwrap();
        let folder = RunFolder::create(Some(&out), "x").unwrap();
        folder.write("file", b"text").unwrap();
        drop(folder);
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1, "the temporary file is gone");
    }
}
