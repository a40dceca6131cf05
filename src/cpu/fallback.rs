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

#[cfg(test)]
mod tests {
    use super::super::kernels::{ConvDims, conv2d_forward, conv2d_grad_input, conv2d_grad_weight};
    use super::*;
    use crate::layers::LayerKind;
    use crate::rng;

    fn random(seed: u32, len: usize) -> Vec<f32> {
        (0..len as u32).map(|i| rng::signed(rng::words(seed, 0, 0, i)[0])).collect()
    }

    fn assert_close(got: &[f32], want: &[f32]) {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 1e-5 * (1.0 + want.abs()), "{got} {want}");
        }
    }

    /// A convolution as if it had no tuned kernel does what the tuned one does.
    #[test]
    fn does_what_a_tuned_kernel_does() {
        let keys = toml::from_str("out_channels = 3\nkernel = 2").unwrap();
        let layer = LayerKind::find("conv2d").unwrap().parse(keys).unwrap();
        let (in_shape, out_shape) = (Shape::new(2, 4, 5), Shape::new(3, 3, 4));
        let dims = ConvDims {
            in_channels: 2,
            in_height: 4,
            in_width: 5,
            out_channels: 3,
            out_height: 3,
            out_width: 4,
            kernel: 2,
            stride: 1,
            padding: 0,
            groups: 1,
        };
        let arch = pulp::Arch::new();
        let (weight, bias) = (random(1, 24), random(2, 3));
        let (input, grad_output) = (random(3, 40 * LANES), random(4, 36 * LANES));
        let params = || [("weight", &weight[..]), ("bias", &bias[..])].into_iter();
        let context = context(0, 0, 0, 0, true);

        let (mut output, mut wanted) = (vec![0.0; 36 * LANES], vec![0.0; 36 * LANES]);
        forward(layer.as_ref(), in_shape, params(), &context, &input, &mut output);
        conv2d_forward(arch, &dims, &input, &weight, Some(&bias), &mut wanted);
        assert_close(&output, &wanted);

        let (mut grad_input, mut wanted) = (vec![0.0; 40 * LANES], vec![0.0; 40 * LANES]);
        let given = [&input[..], &output, &grad_output];
        let made =
            backward(layer.as_ref(), [in_shape, out_shape], params(), &context, given, &mut grad_input);
        conv2d_grad_input(arch, &dims, &grad_output, &weight, &mut wanted);
        assert_close(&grad_input, &wanted);

        let (mut grad_weight, mut grad_bias) = (vec![0.0; 24], vec![0.0; 3]);
        conv2d_grad_weight(arch, &dims, &input, &grad_output, &mut grad_weight, Some(&mut grad_bias));
        assert_close(&grad_of(&made, "weight"), &grad_weight);
        assert_close(&grad_of(&made, "bias"), &grad_bias);
    }
}
