//! A trained network as an ONNX graph, and a small interpreter that checks a written graph against the network.
//!
//! The graph takes `pixels` [batch, channels, height, width] from 0 to 1, normalises them itself, and gives `logits` and
//! `probabilities` [batch, classes]. Operators are those of opset 17.

mod graph;
mod interpreter;
mod proto;

pub use graph::to_onnx;
pub use interpreter::Graph;
