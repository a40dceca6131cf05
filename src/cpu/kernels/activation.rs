//! `ReLU` and its leaky variant.

use super::{dispatch, vectors, vectors_mut};
use pulp::{Arch, Simd};

/// Multiplies what is not positive by `slope`; slope 0 is `ReLU`. In place, blocks of any shape.
pub(crate) fn leaky_relu(arch: Arch, slope: f32, values: &mut [f32]) {
    dispatch!(arch, forward(slope: f32, values: &'a mut [f32]));
}

#[inline(always)]
fn forward<S: Simd>(simd: S, slope: f32, values: &mut [f32]) {
    for x in vectors_mut::<S>(values) {
        *x = simd.mul_f32s(*x, factor(simd, slope, *x));
    }
}

/// Makes the gradient of the output that of the input, in place: multiplies it by `slope` where `output` is not positive.
/// Slices of one length, blocks of any shape.
pub(crate) fn leaky_relu_grad(arch: Arch, slope: f32, output: &[f32], grad: &mut [f32]) {
    assert_eq!(output.len(), grad.len());
    dispatch!(arch, backward(slope: f32, output: &'a [f32], grad: &'a mut [f32]));
}

#[inline(always)]
fn backward<S: Simd>(simd: S, slope: f32, output: &[f32], grad: &mut [f32]) {
    for (dy, &y) in vectors_mut::<S>(grad).iter_mut().zip(vectors::<S>(output)) {
        *dy = simd.mul_f32s(*dy, factor(simd, slope, y));
    }
}

/// 1 where `x` is positive, else `slope`. A choice between the old value and another, rather than between factors, would
/// become a masked store, which is slow.
#[inline(always)]
fn factor<S: Simd>(simd: S, slope: f32, x: S::f32s) -> S::f32s {
    let positive = simd.greater_than_f32s(x, simd.splat_f32s(0.0));
    simd.select_f32s(positive, simd.splat_f32s(1.0), simd.splat_f32s(slope))
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
                let (mut y, mut dx) = (x.clone(), dy.clone());
                leaky_relu(arch, slope, &mut y);
                leaky_relu_grad(arch, slope, &y, &mut dx);
                for i in 0..x.len() {
                    let factor = if x[i] > 0.0 { 1.0 } else { slope };
                    assert_eq!((y[i], dx[i]), (factor * x[i], factor * dy[i]));
                }
            }
        }
    }
}
