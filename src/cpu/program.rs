//! A model as the CPU engine runs it: which kernel each layer uses, which buffers it connects, and the phases.

use std::ops::Range;
use std::sync::Arc;

use super::kernels::{GroupNormDims, PoolDims, Rectified};
use crate::layers::window::{Conv, Pool};
use crate::layers::{self, Activation, Layer, Param};
use crate::model::{Model, NamedLayer, Source};
use crate::tensor::Shape;

/// A layer that computes something.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) kernel: Kernel,
    /// Activation buffers that are read, and the one that is written.
    pub(super) inputs: Vec<usize>,
    pub(super) output: usize,
    /// The layer's parameters and running statistics, by index in the model.
    pub(super) params: Vec<usize>,
    /// Where the gradient of each of them is in a flat vector of all; running statistics have none. Layers that share
    /// a parameter each have their own gradient.
    pub(super) grads: Vec<Option<Range<usize>>>,
    /// Its backward pass; none if neither it nor anything below is trained.
    pub(super) back: Option<Back>,
    /// Index of the layer in the model.
    pub(super) layer: u32,
}

/// Where the gradients of values are in the backward pass, by slot.
#[derive(Debug)]
pub(super) struct Back {
    pub(super) grad_output: usize,
    /// For each input.
    pub(super) shares: Vec<Share>,
}

/// A reader's share of the gradient of a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Share {
    /// Nothing that contributes to the value is trained.
    Unwanted,
    /// It is computed in this slot, which may be that of the output's gradient, replacing it.
    Made(usize),
    /// It is computed in one slot and added to another, which holds the shares of later readers.
    Added { made: usize, to: usize },
}

#[derive(Debug)]
pub(super) enum Kernel {
    Conv2d(Conv),
    Activation(Activation),
    BatchNorm2d {
        number: usize,
        eps: f32,
        momentum: f32,
        /// Rectifiers that are part of it.
        rectified: Rectified,
    },
    /// A frozen batch normalisation, by its running statistics.
    FrozenNorm {
        eps: f32,
    },
    GroupNorm(GroupNormDims),
    MaxPool2d(PoolDims),
    AvgPool2d(PoolDims),
    /// The dropout layer with this number, counted from 0; each net has its own rate.
    Dropout {
        number: usize,
    },
    Add,
    Concat,
    /// For each input, the output pixels per value.
    Multiply {
        maps: [usize; 2],
    },
    Fallback(Fallback),
}

/// What the reference implementation of a layer without a tuned kernel needs.
#[derive(Debug)]
pub(super) struct Fallback {
    pub(super) layer: Arc<dyn Layer>,
    pub(super) inputs: Vec<Shape>,
    pub(super) output: Shape,
    pub(super) params: Vec<Param>,
    pub(super) frozen: bool,
}

impl Fallback {
    /// True for a layer with running statistics: it computes them over the whole batch, unless it is frozen.
    pub(super) fn sees_batch(&self) -> bool {
        !self.frozen && self.params.iter().any(|param| !param.trained)
    }
}

#[derive(Debug)]
pub(super) struct Program {
    pub(super) arch: pulp::Arch,
    pub(super) ops: Vec<Op>,
    /// Values per image in each activation buffer.
    pub(super) buffers: Vec<usize>,
    /// Values per image in each gradient slot.
    pub(super) slots: Vec<usize>,
    /// The slot of the logits' gradient.
    pub(super) grad_logits: usize,
    /// For each parameter, the gradients of the layers that use it, first to last; running statistics have none.
    pub(super) grad_ranges: Vec<Vec<Range<usize>>>,
    /// Channels and operation of each batch normalisation.
    pub(super) batch_norms: Vec<(usize, usize)>,
    grad_len: usize,
    classes: usize,
    phases: Vec<Range<usize>>,
}

impl Program {
    pub(super) fn new(model: &Model) -> Self {
        let mut ops: Vec<Op> = Vec::new();
        let mut buffers = vec![model.input.len()];
        let mut batch_norms = Vec::new();
        let mut phases = Vec::new();
        let (mut phase_start, mut dropouts) = (0, 0);
        let indices = model.param_indices();
        let mut grad_ranges = vec![Vec::new(); model.params().len()];
        let mut grad_len = 0;
        // The buffer of each layer's output.
        let mut outputs: Vec<usize> = Vec::new();
        for (index, layer) in model.layers.iter().enumerate() {
            let read = |source: &Source| match *source {
                Source::Image => 0,
                Source::Layer(layer) => outputs[layer],
            };
            let inputs: Vec<usize> = layer.sources.iter().map(read).collect();
            match rectifies(model, layer) {
                Some(Side::Behind) => {
                    let Some(Op { kernel: Kernel::BatchNorm2d { rectified, .. }, .. }) =
                        ops.iter_mut().find(|op| op.output == inputs[0])
                    else {
                        unreachable!("a batch normalisation is an operation")
                    };
                    rectified.output = true;
                    outputs.push(inputs[0]);
                    continue;
                }
                Some(Side::Before) => {
                    outputs.push(inputs[0]);
                    continue;
                }
                None => {}
            }
            let mut begin_phase = || {
                phases.push(phase_start..ops.len());
                phase_start = ops.len();
            };
            let kernel = match layer.op {
                // The same values: its readers read the same buffer.
                layers::Op::Reshape => {
                    outputs.push(inputs[0]);
                    continue;
                }
                layers::Op::Conv2d(conv) => Kernel::Conv2d(conv),
                layers::Op::Activation(function) => Kernel::Activation(function),
                layers::Op::BatchNorm2d { eps, .. } if layer.frozen => Kernel::FrozenNorm { eps },
                layers::Op::BatchNorm2d { eps, momentum } => {
                    // A batch normalisation begins a phase: the previous one ends with its sums.
                    begin_phase();
                    batch_norms.push((layer.output.channels, ops.len()));
                    let rectified = layer.sources.iter().any(|source| match source {
                        Source::Image => false,
                        Source::Layer(maker) => rectifies(model, &model.layers[*maker]) == Some(Side::Before),
                    });
                    let rectified = Rectified { input: rectified, output: false };
                    Kernel::BatchNorm2d { number: batch_norms.len() - 1, eps, momentum, rectified }
                }
                layers::Op::GroupNorm { groups, eps } => {
                    Kernel::GroupNorm(GroupNormDims { channels: layer.output.channels, groups, eps })
                }
                layers::Op::MaxPool2d(pool) => Kernel::MaxPool2d(pool_dims(&pool)),
                layers::Op::AvgPool2d(pool) => Kernel::AvgPool2d(pool_dims(&pool)),
                layers::Op::Dropout { .. } => {
                    dropouts += 1;
                    Kernel::Dropout { number: dropouts - 1 }
                }
                layers::Op::Add => Kernel::Add,
                layers::Op::Concat => Kernel::Concat,
                layers::Op::Multiply => {
                    let map = |position: usize| layer.output.len() / layer.inputs[position].len();
                    Kernel::Multiply { maps: [map(0), map(1)] }
                }
                layers::Op::Opaque => {
                    let fallback = Fallback {
                        layer: Arc::clone(&layer.layer),
                        inputs: layer.inputs.clone(),
                        output: layer.output,
                        params: layer.params.clone(),
                        frozen: layer.frozen,
                    };
                    if fallback.sees_batch() {
                        begin_phase();
                    }
                    Kernel::Fallback(fallback)
                }
            };
            let params = indices[index].clone();
            let grads = params.iter().zip(&layer.params).map(|(&param, about)| {
                let range = (about.trained && !layer.frozen).then(|| grad_len..grad_len + about.size())?;
                grad_len = range.end;
                grad_ranges[param].push(range.clone());
                Some(range)
            });
            let grads = grads.collect();
            let output = if works_in_place(model, layer) {
                inputs[0]
            } else {
                buffers.push(layer.output.len());
                buffers.len() - 1
            };
            outputs.push(output);
            ops.push(Op { kernel, inputs, output, params, grads, back: None, layer: index as u32 });
        }
        phases.push(phase_start..ops.len());
        let logits = outputs.last().copied().unwrap_or(0);
        let (slots, grad_logits) = place_gradients(model, &mut ops, &buffers, logits);
        Self {
            arch: pulp::Arch::new(),
            grad_ranges,
            grad_len,
            ops,
            buffers,
            slots,
            grad_logits,
            batch_norms,
            classes: model.class_count(),
            phases,
        }
    }

    pub(super) fn classes(&self) -> usize {
        self.classes
    }

    /// Ranges of operations that a block passes through without waiting for others; all but the first begin with one
    /// that needs sums over the whole batch.
    pub(super) fn phases(&self) -> &[Range<usize>] {
        &self.phases
    }

    /// Total number of gradient values.
    pub(super) fn grad_len(&self) -> usize {
        self.grad_len
    }
}

/// A rectifier works in place if nothing needs what it overwrites.
fn works_in_place(model: &Model, layer: &NamedLayer) -> bool {
    let (layers::Op::Activation(function), [Source::Layer(maker)]) = (layer.op, &layer.sources[..]) else {
        return false;
    };
    if function.reads_input() {
        return false;
    }
    let maker = &model.layers[*maker];
    matches!(maker.op, layers::Op::Conv2d(_) | layers::Op::BatchNorm2d { .. }) && maker.readers.len() == 1
}

/// Where a rectifier is that is part of a batch normalisation.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Side {
    Before,
    Behind,
}

/// The side of a batch normalisation on which a layer is a rectifier that nothing else reads or makes; none for all others.
fn rectifies(model: &Model, layer: &NamedLayer) -> Option<Side> {
    if layer.op != layers::Op::Activation(Activation::LeakyRelu { slope: 0.0 })
        || !works_in_place(model, layer)
    {
        return None;
    }
    let normalises = |index: usize| {
        let layer = &model.layers[index];
        matches!(layer.op, layers::Op::BatchNorm2d { .. }) && !layer.frozen
    };
    match (&layer.sources[..], &layer.readers[..]) {
        ([Source::Layer(maker)], _) if normalises(*maker) => Some(Side::Behind),
        (_, [reader]) if normalises(reader.layer) => Some(Side::Before),
        _ => None,
    }
}

/// Gradient slots, some of them free.
#[derive(Default)]
struct Slots {
    sizes: Vec<usize>,
    free: Vec<usize>,
}

impl Slots {
    /// The smallest free slot that is large enough, else the largest free one, which grows, else a new one.
    fn take(&mut self, len: usize) -> usize {
        let fitting = self.free.iter().copied().filter(|&slot| self.sizes[slot] >= len);
        let fitting = fitting.min_by_key(|&slot| self.sizes[slot]);
        let slot = fitting.or_else(|| self.free.iter().copied().max_by_key(|&slot| self.sizes[slot]));
        let slot = slot.unwrap_or_else(|| {
            self.sizes.push(0);
            self.sizes.len() - 1
        });
        self.free.retain(|&other| other != slot);
        self.sizes[slot] = self.sizes[slot].max(len);
        slot
    }
}

/// Assigns a slot to the gradient of each value: as many as are alive at once in the backward pass. Returns the
/// slots' sizes, and the slot of the logits' gradient.
fn place_gradients(model: &Model, ops: &mut [Op], buffers: &[usize], logits: usize) -> (Vec<usize>, usize) {
    let mut slots = Slots::default();
    // Where the gradient of a buffer's values is, as far as it has been computed.
    let mut places: Vec<Option<usize>> = vec![None; buffers.len()];
    let grad_logits = slots.take(buffers[logits]);
    places[logits] = Some(grad_logits);
    for op in ops.iter_mut().rev() {
        let layer = &model.layers[op.layer as usize];
        if !layer.needs_grad {
            continue;
        }
        let grad_output = places[op.output].take().expect("each value has a reader that goes back");
        let wanted: Vec<bool> = layer.sources.iter().map(|&source| model.needs_grad(source)).collect();
        let last_wanted = wanted.iter().rposition(|wanted| *wanted);
        let mut kept = true;
        // Freed only after all inputs: a layer without a tuned kernel computes all their gradients before any is added.
        let mut temporary = Vec::new();
        let mut share = |position: usize| {
            if !wanted[position] {
                return Share::Unwanted;
            }
            // Elementwise, or the same for all.
            let in_place = match op.kernel {
                Kernel::Activation(_) | Kernel::BatchNorm2d { .. } | Kernel::FrozenNorm { .. } => true,
                Kernel::Add => last_wanted == Some(position),
                _ => false,
            };
            let buffer = op.inputs[position];
            match places[buffer] {
                Some(to) => {
                    let shared = in_place || matches!(op.kernel, Kernel::Add);
                    let made = if shared { grad_output } else { slots.take(buffers[buffer]) };
                    if !shared {
                        temporary.push(made);
                    }
                    Share::Added { made, to }
                }
                None => {
                    let made = if in_place { grad_output } else { slots.take(buffers[buffer]) };
                    kept &= !in_place;
                    places[buffer] = Some(made);
                    Share::Made(made)
                }
            }
        };
        let shares = (0..wanted.len()).map(&mut share).collect();
        slots.free.append(&mut temporary);
        if kept {
            slots.free.push(grad_output);
        }
        op.back = Some(Back { grad_output, shares });
    }
    (slots.sizes, grad_logits)
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
