//! Folders that are removed again if they stay empty.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Folders created for a piece of work. Those that are empty at the end are removed.
#[derive(Debug, Default)]
pub(crate) struct MadeFolders {
    /// Innermost first.
    made: Vec<PathBuf>,
}

impl MadeFolders {
    /// Creates a folder and its missing parents.
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

    /// Counts a folder as created.
    pub(crate) fn add(&mut self, path: &Path) {
        self.made.insert(0, path.to_owned());
    }
}

impl Drop for MadeFolders {
    fn drop(&mut self) {
        for path in &self.made {
            // A folder with files in it is kept, and so are its parents.
            if std::fs::remove_dir(path).is_err() {
                break;
            }
        }
    }
}
