//! Folders that go again if nothing came of them.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Folders that were made for a piece of work. If nothing is in them in the end, they go again.
#[derive(Debug, Default)]
pub(crate) struct MadeFolders {
    /// Innermost first.
    made: Vec<PathBuf>,
}

impl MadeFolders {
    /// Makes a folder and those around it, as far as they are missing.
    pub(crate) fn make(&mut self, path: &Path) -> Result<()> {
        if path.as_os_str().is_empty() || path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.make(parent)?;
        }
        match std::fs::create_dir(path) {
            Ok(()) => self.add(path),
            // Another process was faster.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(error) => return Err(Error::io("make the folder", path)(error)),
        }
        Ok(())
    }

    /// Counts a folder as made.
    pub(crate) fn add(&mut self, path: &Path) {
        self.made.insert(0, path.to_owned());
    }
}

impl Drop for MadeFolders {
    fn drop(&mut self) {
        for path in &self.made {
            // A folder with files in it stays, and so do those around it.
            if std::fs::remove_dir(path).is_err() {
                break;
            }
        }
    }
}
