//! Layers without a tuned kernel: the reference implementation on the images of a block. Slow, but correct: a new
//! layer trains on the CPU before it has been tuned. It works for layers that treat images independently; those with
//! running statistics get all blocks of a batch at once.

use super::block::Block;
use super::kernels::{LANES, pack, unpack};
use super::program::{Fallback, Op, Share};
use crate::layers::{Context, grad_input_name, input_name};
use crate::tensor::{Array, Arrays, Shape};

pub(super) fn context(seed: u32, step: u32, layer: u32, first_image: usize, training: bool) -> Context {
    Context { training, seed, step, layer, first_image }
}

/// Images of a block that count: all lanes if it is processed alone (some may hold no image), else those of the batch.
fn images(layer: &Fallback, block: &Block) -> usize {
    if layer.sees_batch() { block.valid } else { LANES }
}

/// Values of all blocks as an array [N, C, H, W].
fn array<'b>(
    layer: &Fallback,
    blocks: &'b [Block],
    shape: Shape,
    values: impl Fn(&'b Block) -> &'b [f32],
) -> Array {
    let mut all = Vec::new();
    for block in blocks {
        let start = all.len();
        all.resize(start + images(layer, block) * shape.len(), 0.0);
        unpack(values(block), shape.len(), &mut all[start..]);
    }
    Array::from_f32(&[all.len() / shape.len(), shape.channels, shape.height, shape.width], &all)
}

/// Writes an array into all blocks.
fn put(layer: &Fallback, blocks: &mut [Block], made: &Array, values: impl Fn(&mut Block) -> &mut [f32]) {
    let (all, len) = (made.to_f32(), made.data.len() / made.shape[0]);
    let mut rest = &all[..];
    for block in blocks {
        let (own, behind) = rest.split_at(images(layer, block) * len);
        pack(own, len, values(block));
        rest = behind;
    }
}

/// What the layer reads: its inputs, parameters and running statistics.
fn given<'p>(
    layer: &Fallback,
    op: &Op,
    params: impl Iterator<Item = (&'static str, &'p [f32])>,
    blocks: &[Block],
) -> Arrays {
    let mut given: Arrays = params
        .zip(&layer.params)
        .map(|((name, values), about)| (name, Array::from_f32(&about.shape, values)))
        .collect();
    let count = layer.inputs.len();
    for (position, &shape) in layer.inputs.iter().enumerate() {
        let input = array(layer, blocks, shape, |block| block.input(op, position));
        given.insert(input_name(count, position), input);
    }
    given
}

/// Computes the blocks' outputs. Returns what the reference computed, for the running statistics.
pub(super) fn forward<'p>(
    layer: &Fallback,
    op: &Op,
    params: impl Iterator<Item = (&'static str, &'p [f32])>,
    context: &Context,
    blocks: &mut [Block],
) -> Arrays {
    let made = layer.layer.forward(&given(layer, op, params, blocks), context);
    put(layer, blocks, &made["output"], |block| block.output_mut(op));
    made
}

/// Computes the gradients of the inputs, each in its slot, and those of the parameters, in the first block.
pub(super) fn backward<'p>(
    layer: &Fallback,
    op: &Op,
    params: impl Iterator<Item = (&'static str, &'p [f32])>,
    context: &Context,
    blocks: &mut [Block],
) {
    let Some(back) = &op.back else { return };
    let mut given = given(layer, op, params, blocks);
    // What forward saved besides the output is recomputed.
    given.extend(layer.layer.forward(&given, context));
    let len = layer.output.len() * LANES;
    given.insert("output", array(layer, blocks, layer.output, |block| block.output(op)));
    let grad_output = array(layer, blocks, layer.output, |block| block.slot(back.grad_output, len));
    given.insert("grad_output", grad_output);
    let made = layer.layer.backward(&given, context);
    for (position, share) in back.shares.iter().enumerate() {
        if let Share::Made(slot) | Share::Added { made: slot, .. } = *share {
            let grad = &made[grad_input_name(layer.inputs.len(), position)];
            let len = layer.inputs[position].len() * LANES;
            put(layer, blocks, grad, |block| block.slot_mut(slot, len));
        }
    }
    for (param, range) in layer.params.iter().zip(&op.grads) {
        let Some(range) = range else { continue };
        let name = format!("grad_{}", param.name);
        let grad = made.iter().find(|(made, _)| **made == name).map(|(_, grad)| grad.to_f32());
        let grad = grad.expect("a gradient each parameter");
        let (first, others) = blocks.split_first_mut().expect("a batch has images");
        first.grads[range.clone()].copy_from_slice(&grad);
        others.iter_mut().for_each(|block| block.grads[range.clone()].fill(0.0));
    }
}
