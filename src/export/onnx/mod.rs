//! A trained network as an ONNX graph, and a small interpreter that checks a written graph against the network.
//!
//! The graph takes `pixels` [batch, channels, height, width] from 0 to 1, normalises them itself, and gives `logits` and
//! `probabilities` [batch, classes]. Operators are those of opset 17.

mod graph;
mod int8;
mod interpreter;
mod proto;

pub use graph::to_onnx;
pub use int8::to_onnx_int8;
pub use interpreter::Graph;
