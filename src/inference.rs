//! A trained network as what remains to be computed: operators with their numbers, and the same as
//! steps with all else folded into them. The exports and `int8` begin here.

use crate::error::{Error, Result};
use crate::layers::window::{Conv, Pool};
use crate::layers::{self, Activation};
use crate::model::{Model, Source};
use crate::tensor::{Shape, Tensor};

mod fold;
mod program;
mod run;

pub(crate) use fold::fold;
pub(crate) use program::{Compute, Filter, Program, Step};
pub(crate) use run::{add_row, for_each_row, pooled};

/// One operator of the network, with its numbers.
#[derive(Debug)]
pub(crate) struct Op {
    /// The layer's name.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) inputs: Vec<Value>,
    /// Shape of its output.
    pub(crate) output: Shape,
}

/// A value of the graph.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    /// The normalised image.
    Image,
    /// The output of the operator with this index.
    Made(usize),
}

#[derive(Debug)]
pub(crate) enum Kind {
    Conv {
        sizes: Conv,
        weight: Vec<f32>,
        bias: Option<Vec<f32>>,
    },
    Activation {
        function: Activation,
        slopes: Vec<f32>,
    },
    BatchNorm {
        eps: f32,
        weight: Vec<f32>,
        bias: Vec<f32>,
        mean: Vec<f32>,
        var: Vec<f32>,
    },
    GroupNorm {
        groups: usize,
        eps: f32,
        weight: Vec<f32>,
        bias: Vec<f32>,
    },
    MaxPool(Pool),
    AvgPool {
        pool: Pool,
        global: bool,
    },
    Add,
    Concat,
    Multiply,
    Reshape,
    /// Its input: for what was folded into a neighbour, or does nothing in inference.
    Nothing,
}

/// The layers of a network with these weights, in the order of [`Model::params`], as operators.
///
/// # Errors
/// A kind of layer for which `reader`, such as "the ONNX export", has no operator.
pub(crate) fn ops(model: &Model, weights: &[Tensor], reader: &str) -> Result<Vec<Op>> {
    let indices = model.param_indices();
    let mut ops = Vec::new();
    for (layer, indices) in model.layers.iter().zip(indices) {
        let values = |name: &str| {
            let at = layer.params.iter().position(|param| param.name == name)?;
            Some(weights[indices[at]].data.clone())
        };
        let known = |name: &str| values(name).expect("a layer has its parameters");
        let kind = match layer.op {
            layers::Op::Conv2d(sizes) => Kind::Conv { sizes, weight: known("weight"), bias: values("bias") },
            layers::Op::Activation(function) => {
                Kind::Activation { function, slopes: values("weight").unwrap_or_default() }
            }
            layers::Op::BatchNorm2d { eps, .. } => Kind::BatchNorm {
                eps,
                weight: known("weight"),
                bias: known("bias"),
                mean: known("running_mean"),
                var: known("running_var"),
            },
            layers::Op::GroupNorm { groups, eps } => {
                Kind::GroupNorm { groups, eps, weight: known("weight"), bias: known("bias") }
            }
            layers::Op::MaxPool2d(pool) => Kind::MaxPool(pool),
            layers::Op::AvgPool2d(pool) => {
                Kind::AvgPool { pool, global: pool == Pool::global(layer.inputs[0]) }
            }
            layers::Op::Add => Kind::Add,
            layers::Op::Concat => Kind::Concat,
            layers::Op::Multiply => Kind::Multiply,
            layers::Op::Reshape => Kind::Reshape,
            // A trained network drops nothing.
            layers::Op::Dropout { .. } => Kind::Nothing,
            layers::Op::Opaque => {
                let message =
                    format!("layer `{}`: {reader} does not support {}", layer.name, layer.kind.name);
                return Err(Error::Usage(message));
            }
        };
        let value = |source: &Source| match *source {
            Source::Image => Value::Image,
            Source::Layer(layer) => Value::Made(layer),
        };
        let inputs = layer.sources.iter().map(value).collect();
        ops.push(Op { name: layer.name.clone(), kind, inputs, output: layer.output });
    }
    Ok(ops)
}
