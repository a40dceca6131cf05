//! The folder of a run.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;

/// A folder that is ours to write into. If nothing is written, dropping it removes what was made.
#[derive(Debug)]
pub(super) struct RunFolder {
    path: PathBuf,
    /// Folders that were made for this run, innermost first.
    made: Vec<PathBuf>,
}

/// Fails if `out` exists and is not an empty folder: a run never writes over another.
pub(super) fn check_free(out: &Path) -> Result<()> {
    let taken = |what: &str| {
        let message = format!(
            "--out {}: {what}; name a new or empty folder (`--resume DIR` goes on with a run)",
            out.display()
        );
        Err(Error::Usage(message))
    };
    match std::fs::read_dir(out) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => taken("this folder exists and is not empty"),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotADirectory && out.exists() => taken("this is a file"),
        Err(error) => Err(Error::io("open", out)(error)),
    }
}

impl RunFolder {
    /// Makes `out`, or `runs/<name>-<n>` with the first free number.
    pub(super) fn create(out: Option<&Path>, name: &str) -> Result<Self> {
        let mut folder = Self { path: PathBuf::new(), made: Vec::new() };
        if let Some(out) = out {
            check_free(out)?;
            folder.path = out.to_owned();
            folder.make_with_parents(out)?;
        } else {
            let runs = Path::new("runs");
            folder.make_with_parents(runs)?;
            let mut number = 1;
            while folder.path.as_os_str().is_empty() {
                let path = runs.join(format!("{name}-{number}"));
                // Making it is the test: two runs that start together get two folders.
                match std::fs::create_dir(&path) {
                    Ok(()) => folder.path = path,
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                    Err(error) => return Err(Error::io("make the folder", path)(error)),
                }
            }
            folder.made.insert(0, folder.path.clone());
        }
        files::check_writable(&folder.path)?;
        Ok(folder)
    }

    /// The folder of a run that goes on.
    pub(super) fn existing(path: &Path) -> Result<Self> {
        files::check_writable(path)?;
        Ok(Self { path: path.to_owned(), made: Vec::new() })
    }

    fn make_with_parents(&mut self, path: &Path) -> Result<()> {
        if path.as_os_str().is_empty() || path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.make_with_parents(parent)?;
        }
        match std::fs::create_dir(path) {
            Ok(()) => self.made.insert(0, path.to_owned()),
            // Another run was faster.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(error) => return Err(Error::io("make the folder", path)(error)),
        }
        Ok(())
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file of the run.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        files::write_atomically(&self.path.join(name), bytes)
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        for path in &self.made {
            // A folder with files in it stays, and so do those around it.
            if std::fs::remove_dir(path).is_err() {
                break;
            }
        }
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
}
