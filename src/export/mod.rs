//! A trained network as a file for another program.

pub mod c;
#[cfg(feature = "gpu")]
mod html;
pub mod onnx;
mod pytorch;

pub use c::{CSize, CSource, c_sizes, to_c, to_c_int8};
#[cfg(feature = "gpu")]
pub use html::{html, html_to_train};
pub use onnx::{to_onnx, to_onnx_int8};
pub use pytorch::to_pytorch;
