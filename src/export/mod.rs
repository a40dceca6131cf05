//! A trained network as a file for another program.

#[cfg(feature = "gpu")]
mod html;
pub mod onnx;
mod pytorch;

#[cfg(feature = "gpu")]
pub use html::{html, html_to_train};
pub use onnx::to_onnx;
pub use pytorch::to_pytorch;
