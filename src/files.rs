//! Files that exist completely or not at all, and never replace a user's file.

use std::fs::{File, FileType};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::error::{Error, Result};

mod made;
mod outputs;
mod shell;

pub(crate) use made::MadeFolders;

pub use outputs::{check_free, check_outputs};
pub use shell::quoted;

/// Writes a temporary file next to the target, syncs it and renames it: at any moment, even if the power fails,
/// readers see either the old file or the new one. A symbolic link is kept and followed, and a replaced file keeps
/// its permissions; other hard links keep the old content.
///
/// # Errors
/// I/O errors; the old file is then unchanged.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_pieces_atomically(path, &[bytes])
}

/// The same with the content in pieces.
pub(crate) fn write_pieces_atomically(path: &Path, pieces: &[&[u8]]) -> Result<()> {
    let write = || -> io::Result<()> {
        let target = target_of(path)?;
        remove_leftovers(folder_of(&target));
        let mut tries = 0;
        loop {
            match replace(&target, pieces) {
                // Another process took our file for a leftover just before it was locked.
                Err(error)
                    if error.kind() == ErrorKind::NotFound && tries < 9 && folder_of(&target).is_dir() =>
                {
                    tries += 1;
                }
                done => return done,
            }
        }
    };
    write().map_err(Error::io("write", path))
}

fn replace(target: &Path, pieces: &[&[u8]]) -> io::Result<()> {
    let folder = folder_of(target);
    let mut file = temporary_in(folder)?;
    // First, so that a private file is private at every moment.
    if let Ok(old) = target.metadata() {
        file.as_file().set_permissions(old.permissions())?;
    }
    // Through the inner file: the wrapper's errors contain the temporary name.
    pieces.iter().try_for_each(|piece| file.as_file_mut().write_all(piece))?;
    file.as_file().sync_all()?;
    // Before the file is replaced, so that it is kept if this fails. A folder may be writable but not readable.
    #[cfg(unix)]
    let folder = match File::open(folder) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
        folder => Some(folder?),
    };
    file.persist(target)?;
    // A rename is durable once its folder is on disk; only Unix lets us request that, and not on every file system.
    #[cfg(unix)]
    match folder.map(|folder| folder.sync_all()) {
        Some(Err(error)) if ![ErrorKind::InvalidInput, ErrorKind::Unsupported].contains(&error.kind()) => {
            return Err(error);
        }
        _ => {}
    }
    Ok(())
}

/// The file that a path refers to, following links, including dangling ones.
fn target_of(path: &Path) -> io::Result<PathBuf> {
    let mut target = path.to_owned();
    for _ in 0..40 {
        match target.read_link() {
            Ok(link) => target = folder_of(&target).join(link),
            Err(_) => return Ok(target),
        }
    }
    Err(io::Error::other("too many links in a row"))
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Fails if no file can be created in `folder`: better now than after an hour of training.
#[cfg(feature = "download")]
pub(crate) fn check_writable(folder: &Path) -> Result<()> {
    temporary_in(folder).map(drop).map_err(Error::io("write into", folder))
}

/// Prefix of temporary file names.
pub(crate) const PREFIX: &str = ".shadernet-";
/// Random letters and digits that follow.
const RANDOM: usize = 6;

/// A file that is deleted unless renamed, locked while this process has it open.
fn temporary_in(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).rand_bytes(RANDOM);
    // Temporary files are private; results are for everyone that the user's umask allows.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder.tempfile_in(folder).map_err(|error| {
        // The system's own reason, without the temporary name, which means nothing to the user.
        let text = error.to_string();
        let reason = text.split_once(" at path ").map_or(&*text, |(reason, _)| reason);
        io::Error::new(error.kind(), reason)
    })?;
    // Where locks don't work, the file can't be taken for a leftover either.
    let _ = file.as_file().try_lock();
    Ok(file)
}

/// Removes temporary files left in `folder` by dead processes: those that are not locked.
pub(crate) fn remove_leftovers(folder: &Path) {
    let Ok(entries) = folder.read_dir() else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let random = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let is_ours =
            |random: &str| random.len() == RANDOM && random.bytes().all(|b| b.is_ascii_alphanumeric());
        if !random.is_some_and(is_ours) || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let unlocked = File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
        if unlocked {
            // Another process may be faster.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Opens a file for reading. A pipe would wait for a writer, and a device may never end: only a regular file, or a
/// link to one, is opened.
///
/// # Errors
/// [`Error::Io`] if it is missing, refused or not a regular file.
pub(crate) fn open(path: &Path) -> Result<File> {
    let open = || -> io::Result<File> {
        let kind = std::fs::metadata(path)?.file_type();
        if !kind.is_file() {
            let message = format!("this is {}, not a regular file", name_of_kind(kind));
            return Err(io::Error::new(ErrorKind::InvalidInput, message));
        }
        File::open(path)
    };
    open().map_err(Error::io("read", path))
}

/// Name of a directory entry's kind, if it is not a regular file.
pub(crate) fn name_of_kind(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a pipe";
        } else if kind.is_socket() {
            return "a socket";
        } else if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
    }
    if kind.is_dir() { "a folder" } else { "something else" }
}

/// Reads a whole regular file, but no more than `limit` bytes; `None` if it is larger.
///
/// # Errors
/// [`Error::Io`], also if it is not a regular file or memory is short.
pub fn read_at_most(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let file = open(path)?;
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // All at once, with an error instead of an abort if memory is short.
        bytes.try_reserve_exact(file.metadata()?.len().min(limit) as usize)?;
        (&file).take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(Error::io("read", path))?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of a reader's remaining content, in lower-case hexadecimal digits.
pub(crate) fn sha256(reader: &mut impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        match reader.read(&mut piece)? {
            0 => return Ok(hex(&hash.finalize())),
            count => hash.update(&piece[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write_atomically(&path, b"first").unwrap();
        write_atomically(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let plain = dir.path().join("plain");
            std::fs::write(&plain, "").unwrap();
            let mode = |path| std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode(&path), mode(&plain));
        }
        let message = write_atomically(&path.join("below"), b"").unwrap_err().to_string();
        assert!(message.starts_with("cannot write "), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn links_and_permissions_of_a_replaced_file_stay() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("folder")).unwrap();
        std::fs::write(path("folder/file"), "old").unwrap();
        std::fs::set_permissions(path("folder/file"), PermissionsExt::from_mode(0o640)).unwrap();
        symlink("folder/file", path("link")).unwrap();
        symlink("link", path("link of a link")).unwrap();
        symlink("folder/new", path("dangling")).unwrap();
        write_atomically(&path("link of a link"), b"new").unwrap();
        write_atomically(&path("dangling"), b"new").unwrap();
        for name in ["link", "link of a link", "dangling"] {
            assert!(path(name).is_symlink(), "{name}");
            assert_eq!(std::fs::read(path(name)).unwrap(), b"new", "{name}");
        }
        assert_eq!(path("folder/file").metadata().unwrap().permissions().mode() & 0o777, 0o640);
        symlink("loop", path("loop")).unwrap();
        assert!(write_atomically(&path("loop"), b"").is_err());
    }

    #[test]
    fn what_dead_processes_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let names = || -> std::collections::BTreeSet<_> {
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        };
        // A live writer, and files with similar names.
        let living = temporary_in(dir.path()).unwrap();
        for name in [".shadernet-notes.txt", ".shadernet.lock", "shadernet-abcdef"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::fs::create_dir(dir.path().join(".shadernet-folder")).unwrap();
        let mut wanted = names();
        std::fs::write(dir.path().join(".shadernet-a1B2c3"), "dead").unwrap();
        assert_ne!(names(), wanted);
        write_atomically(&dir.path().join("x"), b"").unwrap();
        wanted.insert("x".into());
        assert_eq!(names(), wanted);
        drop(living);
    }

    #[test]
    fn writers_beside_each_other_do_not_take_each_others_files() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let path = dir.path().join(format!("{}", writer / 2));
                scope.spawn(move || {
                    for _ in 0..50 {
                        write_atomically(&path, b"all").unwrap();
                        assert_eq!(std::fs::read(&path).unwrap(), b"all");
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn large_files_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write_atomically(&path, &[7; 10]).unwrap();
        assert_eq!(read_at_most(&path, 10).unwrap(), Some(vec![7; 10]));
        assert_eq!(read_at_most(&path, 9).unwrap(), None);
        assert!(read_at_most(dir.path(), 9).is_err());
    }
}
