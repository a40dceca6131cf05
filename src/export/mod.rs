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

/// Writes an exported file, whole or not at all.
///
/// # Errors
/// A file that exists, unless `force` replaces it, and what the system refuses.
pub fn write(path: &Path, bytes: &[u8], force: bool) -> Result<()> {
    // Also a link that leads nowhere is something that the user has there.
    if !force && path.symlink_metadata().is_ok() {
        let message = format!("{} exists: --force replaces it, another name keeps it", path.display());
        return Err(Error::Usage(message));
    }
    files::write_atomically(path, bytes)
}
