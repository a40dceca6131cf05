//! A model as the CPU engine runs it: which kernel each layer takes, which buffers it connects, and the phases.

use std::ops::Range;
use std::sync::Arc;

use super::kernels::{ConvDims, LANES, PoolDims};
use crate::layers::window::{Conv, Pool};
use crate::layers::{self, Activation, Layer};
use crate::model::Model;
use crate::tensor::Shape;

/// One layer that computes.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) kernel: Kernel,
    /// Activation buffer that is read, and the one that is written.
    pub(super) input: usize,
    pub(super) output: usize,
    /// The layer's parameters and running statistics, by their index in the model's.
    pub(super) params: Vec<usize>,
    /// Where the gradient of each of them lies in a flat vector of all; running statistics have none. Layers that share a
    /// parameter have a gradient each.
    pub(super) grads: Vec<Option<Range<usize>>>,
    /// True if something below is trained, so that the gradient of the input is wanted.
    pub(super) grad_input: bool,
    /// Index of the layer in the model.
    pub(super) layer: u32,
}

#[derive(Debug)]
pub(super) enum Kernel {
    Conv2d(ConvDims),
    LeakyRelu {
        slope: f32,
    },
    BatchNorm2d {
        number: usize,
        eps: f32,
        momentum: f32,
    },
    MaxPool2d(PoolDims),
    AvgPool2d(PoolDims),
    /// The dropout layer with this number, counted from 0; each net has its own rate.
    Dropout {
        number: usize,
    },
    Fallback {
        layer: Arc<dyn Layer>,
        input: Shape,
        output: Shape,
    },
}

#[derive(Debug)]
pub(super) struct Program {
    pub(super) arch: pulp::Arch,
    pub(super) ops: Vec<Op>,
    /// Values of one image in each activation buffer.
    pub(super) buffers: Vec<usize>,
    /// By parameter the gradients of the layers that compute with it, first to last; running statistics have none.
    pub(super) grad_ranges: Vec<Vec<Range<usize>>>,
    /// Channels and operation of each batch normalisation.
    pub(super) batch_norms: Vec<(usize, usize)>,
    grad_len: usize,
    classes: usize,
    phases: Vec<Range<usize>>,
}

impl Program {
    pub(super) fn new(model: &Model) -> Self {
        let mut ops = Vec::new();
        let mut buffers = vec![model.input.len()];
        let mut batch_norms = Vec::new();
        let mut phases = Vec::new();
        let (mut input, mut phase_start, mut dropouts) = (0, 0, 0);
        let indices = model.param_indices();
        let mut grad_ranges = vec![Vec::new(); model.params().len()];
        let mut grad_len = 0;
        let first_trained = model.layers.iter().position(|layer| layer.parameter_count() > 0);
        for (index, layer) in model.layers.iter().enumerate() {
            let kernel = match layer.op {
                // The same values: the next layer reads the same buffer.
                layers::Op::Reshape => continue,
                layers::Op::Conv2d(conv) => Kernel::Conv2d(conv_dims(&conv)),
                layers::Op::Activation(Activation::LeakyRelu { slope }) => Kernel::LeakyRelu { slope },
                layers::Op::BatchNorm2d { eps, momentum } => {
                    // A batch normalisation begins a phase: the one before it ends with its sums.
                    phases.push(phase_start..ops.len());
                    phase_start = ops.len();
                    batch_norms.push((layer.output.channels, ops.len()));
                    Kernel::BatchNorm2d { number: batch_norms.len() - 1, eps, momentum }
                }
                layers::Op::MaxPool2d(pool) => Kernel::MaxPool2d(pool_dims(&pool)),
                layers::Op::AvgPool2d(pool) => Kernel::AvgPool2d(pool_dims(&pool)),
                layers::Op::Dropout { .. } => {
                    dropouts += 1;
                    Kernel::Dropout { number: dropouts - 1 }
                }
                layers::Op::Opaque => {
                    let (input, output) = (layer.inputs[0], layer.output);
                    Kernel::Fallback { layer: Arc::clone(&layer.layer), input, output }
                }
            };
            let params = indices[index].clone();
            let grads = params.iter().zip(&layer.params).map(|(&param, about)| {
                let range = about.trained.then(|| grad_len..grad_len + about.size())?;
                grad_len = range.end;
                grad_ranges[param].push(range.clone());
                Some(range)
            });
            let grads = grads.collect();
            // A rectifier works in place where nobody needs what it overwrites.
            let before = ops.last().map(|op: &Op| &op.kernel);
            let in_place = matches!(kernel, Kernel::LeakyRelu { .. })
                && matches!(before, Some(Kernel::Conv2d(_) | Kernel::BatchNorm2d { .. }));
            if !in_place {
                buffers.push(layer.output.len());
            }
            let grad_input = first_trained.is_some_and(|first| index > first);
            ops.push(Op {
                kernel,
                input,
                output: buffers.len() - 1,
                params,
                grads,
                grad_input,
                layer: index as u32,
            });
            input = buffers.len() - 1;
        }
        phases.push(phase_start..ops.len());
        Self {
            arch: pulp::Arch::new(),
            grad_ranges,
            grad_len,
            ops,
            buffers,
            batch_norms,
            classes: model.class_count(),
            phases,
        }
    }

    pub(super) fn classes(&self) -> usize {
        self.classes
    }

    /// Ranges of operations between batch normalisations; all but the first begin with one.
    pub(super) fn phases(&self) -> &[Range<usize>] {
        &self.phases
    }

    /// Number of values of all gradients.
    pub(super) fn grad_len(&self) -> usize {
        self.grad_len
    }

    /// Values of the largest activation of a block.
    pub(super) fn largest(&self) -> usize {
        self.buffers.iter().max().copied().unwrap_or(0) * LANES
    }
}

fn conv_dims(conv: &Conv) -> ConvDims {
    ConvDims {
        in_channels: conv.input.channels,
        in_height: conv.input.height,
        in_width: conv.input.width,
        out_channels: conv.output.channels,
        out_height: conv.output.height,
        out_width: conv.output.width,
        kernel: conv.kernel,
        stride: conv.stride,
        padding: conv.padding,
        groups: conv.groups,
    }
}

fn pool_dims(pool: &Pool) -> PoolDims {
    PoolDims {
        channels: pool.input.channels,
        in_height: pool.input.height,
        in_width: pool.input.width,
        out_height: pool.output.height,
        out_width: pool.output.width,
        kernel: pool.kernel,
        stride: pool.stride,
        padding: [pool.padding; 2],
    }
}
