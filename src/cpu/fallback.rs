//! Layers without a tuned kernel: the reference implementation on the images of a block. Slow, and right: a new layer
//! trains on the CPU before anybody has tuned it. It works for layers that treat images independently.

use super::kernels::{LANES, pack, unpack};
use crate::layers::{Context, Layer};
use crate::tensor::{Array, Arrays, Shape};

pub(super) fn context(seed: u32, step: u32, layer: u32, first_image: usize, training: bool) -> Context {
    Context { training, seed, step, layer, first_image }
}

/// A block as an array [16, C, H, W].
fn array(block: &[f32], shape: Shape) -> Array {
    let mut images = vec![0.0; block.len()];
    unpack(block, shape.len(), &mut images);
    Array::from_f32(&[LANES, shape.channels, shape.height, shape.width], &images)
}

fn arrays<'a>(params: impl Iterator<Item = (&'static str, &'a [f32])>) -> Arrays {
    params.map(|(name, values)| (name, Array::from_f32(&[values.len()], values))).collect()
}

pub(super) fn forward<'a>(
    layer: &dyn Layer,
    shape: Shape,
    params: impl Iterator<Item = (&'static str, &'a [f32])>,
    context: &Context,
    input: &[f32],
    output: &mut [f32],
) {
    let mut given = arrays(params);
    given.insert("input", array(input, shape));
    let made = layer.forward(&given, context)["output"].to_f32();
    pack(&made, made.len() / LANES, output);
}

/// Returns what the reference made, for the gradients of the parameters.
pub(super) fn backward<'a>(
    layer: &dyn Layer,
    [in_shape, out_shape]: [Shape; 2],
    params: impl Iterator<Item = (&'static str, &'a [f32])>,
    context: &Context,
    [input, output, grad_output]: [&[f32]; 3],
    grad_input: &mut [f32],
) -> Arrays {
    let mut given = arrays(params);
    given.insert("input", array(input, in_shape));
    // What forward saved beside the output is made again.
    given.extend(layer.forward(&given, context));
    given.insert("output", array(output, out_shape));
    given.insert("grad_output", array(grad_output, out_shape));
    let made = layer.backward(&given, context);
    let values = made["grad_input"].to_f32();
    pack(&values, values.len() / LANES, grad_input);
    made
}

/// The gradient of the parameter called `name`.
pub(super) fn grad_of(made: &Arrays, name: &str) -> Vec<f32> {
    let wanted = format!("grad_{name}");
    made.iter()
        .find(|(key, _)| **key == wanted)
        .map(|(_, array)| array.to_f32())
        .expect("a gradient each parameter")
}
