//! A trained network as a file for another program.

use std::path::Path;

use crate::error::{Error, Result};
use crate::files;

mod html;
pub mod onnx;
mod pytorch;

pub use html::html;
pub use onnx::to_onnx;
pub use pytorch::to_pytorch;

/// Fails if a file is in the way.
///
/// # Errors
/// A file that exists.
pub fn check_absent(path: &Path) -> Result<()> {
    // Also a link that leads nowhere is something that the user has there.
    if path.symlink_metadata().is_ok() {
        let message = format!("{} exists: --force replaces it, another name keeps it", path.display());
        return Err(Error::Usage(message));
    }
    Ok(())
}

/// Writes an exported file, whole or not at all; one that exists is replaced.
///
/// # Errors
/// What the system refuses.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    files::write_atomically(path, bytes)
}
