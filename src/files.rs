//! Files that are there whole or not at all, and never instead of one that the user has there.

use std::fs::{File, FileType};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// What the names of temporary files begin with.
pub(crate) const PREFIX: &str = ".shadernet-";

/// Fails if no file can be written at `path`, before any work was done for it: because a folder is in the way, or without
/// `force` anything at all, or because the folder around it is missing or read-only.
///
/// # Errors
/// [`Error::Usage`], which says what would help, and [`Error::Io`].
///
/// # Examples
/// ```
/// # use shadernet::files::{check_free, write_atomically};
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("model.toml");
/// check_free(&path, false)?;
/// write_atomically(&path, b"name = \"tiny\"\n")?;
/// assert!(check_free(&path, false).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn check_free(path: &Path, force: bool) -> Result<()> {
    if path.is_dir() {
        return Err(Error::Usage(format!("{}: this is a folder; name a file", path.display())));
    }
    // Also a link that leads nowhere is something that the user has there.
    if !force && path.symlink_metadata().is_ok() {
        let message = format!("{} exists: --force replaces it, another name keeps it", path.display());
        return Err(Error::Usage(message));
    }
    temporary_in(folder_of(path)).map(drop).map_err(Error::io("write", path))
}

/// Writes a file under a temporary name beside its place, waits for the disk and renames it: whoever looks, whenever
/// the power fails, sees the old file or the new one.
///
/// # Errors
/// What the system refuses; the old file is then untouched.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = folder_of(path);
    let write = || -> std::io::Result<()> {
        let mut file = temporary_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        // A rename lasts once its folder is on the disk; only Unix lets us ask for that.
        #[cfg(unix)]
        File::open(folder)?.sync_all()?;
        Ok(())
    };
    write().map_err(Error::io("write", path))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Fails if no file can be made in `folder`: better now than after an hour of training.
pub(crate) fn check_writable(folder: &Path) -> Result<()> {
    temporary_in(folder).map(drop).map_err(Error::io("write into", folder))
}

fn temporary_in(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX);
    // Temporary files are private; results are for everyone whom the user's umask admits.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder).map_err(|error| {
        // The system's own reason, without the temporary name, of which the user knows nothing.
        let text = error.to_string();
        let reason = text.split_once(" at path ").map_or(&*text, |(reason, _)| reason);
        std::io::Error::new(error.kind(), reason)
    })
}

/// Opens a file to read. A pipe would wait for somebody who writes, and a device may never end: only a regular file, or a
/// link to one, is opened.
///
/// # Errors
/// [`Error::Io`] for what is missing or refused, and for what is no regular file.
pub(crate) fn open(path: &Path) -> Result<File> {
    let open = || -> std::io::Result<File> {
        let kind = std::fs::metadata(path)?.file_type();
        if !kind.is_file() {
            let message = format!("this is {}, not a regular file", name_of_kind(kind));
            return Err(std::io::Error::new(ErrorKind::InvalidInput, message));
        }
        File::open(path)
    };
    open().map_err(Error::io("read", path))
}

/// What something in a folder is, if it is no regular file.
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
pub(crate) fn read_at_most(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// SHA-256 of what a reader still has, in lower-case hexadecimal digits.
pub(crate) fn sha256(reader: &mut impl Read) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        match reader.read(&mut piece)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
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

    #[test]
    fn what_is_there_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let message = |path: &Path, force| check_free(path, force).err().map(|error| error.to_string());
        assert_eq!(message(&path, false), None);
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("nowhere", &path).unwrap();
            assert!(message(&path, false).unwrap().contains("x exists: --force replaces it"));
            std::fs::remove_file(&path).unwrap();
        }
        std::fs::write(&path, "").unwrap();
        assert!(message(&path, false).unwrap().contains("x exists: --force replaces it"));
        assert_eq!(message(&path, true), None);
        for force in [false, true] {
            assert!(message(dir.path(), force).unwrap().contains("this is a folder; name a file"));
        }
        assert!(message(&path.join("below"), false).unwrap().starts_with("cannot write "));
        assert!(!message(&path.join("below"), false).unwrap().contains(".shadernet-"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
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
