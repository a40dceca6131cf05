//! Trained networks in other forms.

pub mod onnx;
mod pytorch;

pub use pytorch::to_pytorch;
