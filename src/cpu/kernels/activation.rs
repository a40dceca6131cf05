//! `ReLU` and its leaky variant.

use super::{dispatch, vectors, vectors_mut};
use pulp::{Arch, Simd};

/// `output = input` where that is positive, else `slope · input`; slope 0 is `ReLU`. Slices of one length, blocks of any
/// shape.
pub(crate) fn leaky_relu(arch: Arch, slope: f32, input: &[f32], output: &mut [f32]) {
    assert_eq!(input.len(), output.len());
    dispatch!(arch, forward(slope: f32, input: &'a [f32], output: &'a mut [f32]));
}

#[inline(always)]
fn forward<S: Simd>(simd: S, slope: f32, input: &[f32], output: &mut [f32]) {
    let (zero, slope) = (simd.splat_f32s(0.0), simd.splat_f32s(slope));
    for (y, &x) in vectors_mut::<S>(output).iter_mut().zip(vectors::<S>(input)) {
        let positive = simd.greater_than_f32s(x, zero);
        *y = simd.select_f32s(positive, x, simd.mul_f32s(slope, x));
    }
}

/// `grad_input = grad_output` where `output` is positive, else `slope · grad_output`. Slices of one length, blocks of
/// any shape.
pub(crate) fn leaky_relu_grad(
    arch: Arch,
    slope: f32,
    output: &[f32],
    grad_output: &[f32],
    grad_input: &mut [f32],
) {
    assert!(output.len() == grad_output.len() && output.len() == grad_input.len());
    dispatch!(
        arch,
        backward(
            slope: f32,
            output: &'a [f32],
            grad_output: &'a [f32],
            grad_input: &'a mut [f32],
        )
    );
}

#[inline(always)]
fn backward<S: Simd>(simd: S, slope: f32, output: &[f32], grad_output: &[f32], grad_input: &mut [f32]) {
    let (zero, slope) = (simd.splat_f32s(0.0), simd.splat_f32s(slope));
    let given = vectors::<S>(output).iter().zip(vectors::<S>(grad_output));
    for (dx, (&y, &dy)) in vectors_mut::<S>(grad_input).iter_mut().zip(given) {
        let positive = simd.greater_than_f32s(y, zero);
        *dx = simd.select_f32s(positive, dy, simd.mul_f32s(slope, dy));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::kernels::testing::{archs, random};

    #[test]
    fn matches_the_definition() {
        let mut x = random(1, 5 * 16);
        x[3] = 0.0;
        let dy = random(2, x.len());
        for arch in archs() {
            for slope in [0.0, 0.01, 0.5] {
                let (mut y, mut dx) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
                leaky_relu(arch, slope, &x, &mut y);
                leaky_relu_grad(arch, slope, &y, &dy, &mut dx);
                for i in 0..x.len() {
                    let factor = if x[i] > 0.0 { 1.0 } else { slope };
                    assert_eq!((y[i], dx[i]), (factor * x[i], factor * dy[i]));
                }
            }
        }
    }
}
