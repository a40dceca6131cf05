//! Batch normalisation in training, backward, with the rectifiers before and behind it. Its tests are in
//! [`batch_norm`](super::batch_norm).

use super::activation::factor;
use super::batch_norm::{Rectified, check, plane_sums};
use super::{LANES, dispatch, vectors, vectors_mut};
use pulp::{Arch, Simd};

/// What the gradient of a batch normalisation needs from the whole batch; slices `[channels]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchNormGrad<'a> {
    /// Mean of the input over the batch.
    pub(crate) mean: &'a [f32],
    /// `1 / √(variance + ε)` of the input.
    pub(crate) inv_std: &'a [f32],
    /// Factor of the gradient: weight · `inv_std`.
    pub(crate) scale: &'a [f32],
    /// The output is the input · `scale` + `offset`.
    pub(crate) offset: &'a [f32],
    /// Mean of `grad_output` over the batch.
    pub(crate) mean_grad: &'a [f32],
    /// Mean of `grad_output · x̂` over the batch, where `x̂ = (input - mean) · inv_std`.
    pub(crate) mean_grad_xhat: &'a [f32],
}

/// Two sums per channel of a block: `sums[c] = [Σ grad_output, Σ grad_output · x̂]`, where
/// `x̂ = (input - mean[c]) · inv_std[c]`, over the pixels and the first `valid` lanes. If the output is rectified, what
/// it does not pass on is left out.
///
/// `input` and `grad_output` are `[channels, ..., 16]`. Of `batch`, the means of gradients are not read.
pub(crate) fn batch_norm_grad_sums(
    arch: Arch,
    rectified: Rectified,
    batch: BatchNormGrad,
    input: &[f32],
    grad_output: &[f32],
    valid: usize,
    sums: &mut [[f64; 2]],
) {
    check(&[input, grad_output], batch.mean.len());
    assert!(sums.len() == batch.mean.len() && valid <= LANES);
    dispatch!(
        arch,
        grad_sums(
            rectified: Rectified,
            batch: BatchNormGrad<'a>,
            input: &'a [f32],
            grad_output: &'a [f32],
            valid: usize,
            sums: &'a mut [[f64; 2]],
        )
    );
}

#[inline(always)]
fn grad_sums<S: Simd>(
    simd: S,
    rectified: Rectified,
    batch: BatchNormGrad,
    input: &[f32],
    grad_output: &[f32],
    valid: usize,
    sums: &mut [[f64; 2]],
) {
    let len = input.len() / batch.mean.len() / S::F32_LANES;
    let (input, grad) = (vectors::<S>(input), vectors::<S>(grad_output));
    for (c, sums) in sums.iter_mut().enumerate() {
        let (input, grad) = (&input[c * len..][..len], &grad[c * len..][..len]);
        let [mean, scale, offset] =
            [batch.mean[c], batch.scale[c], batch.offset[c]].map(|x| simd.splat_f32s(x));
        *sums = if rectified.output {
            plane_sums(
                simd,
                len,
                valid,
                #[inline(always)]
                |i| {
                    let y = simd.mul_add_e_f32s(input[i], scale, offset);
                    (simd.mul_f32s(grad[i], factor(simd, 0.0, y)), simd.sub_f32s(input[i], mean))
                },
            )
        } else {
            plane_sums(
                simd,
                len,
                valid,
                #[inline(always)]
                |i| (grad[i], simd.sub_f32s(input[i], mean)),
            )
        };
        sums[1] *= f64::from(batch.inv_std[c]);
    }
}

/// Turns the gradient of a batch normalisation's output into that of its input, in place, for a block:
/// `scale · (grad - mean_grad - x̂ · mean_grad_xhat)`, and 0 in all but the first `valid` lanes. With rectifiers, the
/// gradient of what they make becomes that of what they read.
///
/// `input`, as [`batch_norm_sums`] leaves it, and `grad` are `[channels, ..., 16]`.
pub(crate) fn batch_norm_grad_input(
    arch: Arch,
    rectified: Rectified,
    batch: BatchNormGrad,
    input: &[f32],
    valid: usize,
    grad: &mut [f32],
) {
    check(&[input, grad], batch.mean.len());
    dispatch!(
        arch,
        grad_input_planes(
            rectified: Rectified,
            batch: BatchNormGrad<'a>,
            input: &'a [f32],
            valid: usize,
            grad: &'a mut [f32],
        )
    );
}

/// What the gradient of one channel's input is computed from.
struct PlaneGrad<S: Simd> {
    simd: S,
    scale: S::f32s,
    offset: S::f32s,
    mean: S::f32s,
    slope: S::f32s,
    rest: S::f32s,
}

impl<S: Simd> PlaneGrad<S> {
    #[inline(always)]
    fn new(simd: S, batch: BatchNormGrad, c: usize) -> Self {
        // scale · (dy - mean_grad - x̂ · mean_grad_xhat) = scale · dy + (x - mean) · slope + rest.
        let slope = -batch.scale[c] * batch.inv_std[c] * batch.mean_grad_xhat[c];
        let rest = -batch.scale[c] * batch.mean_grad[c];
        let [scale, offset, mean, slope, rest] =
            [batch.scale[c], batch.offset[c], batch.mean[c], slope, rest].map(|x| simd.splat_f32s(x));
        Self { simd, scale, offset, mean, slope, rest }
    }

    /// Through the rectifier behind the normalisation.
    #[inline(always)]
    fn behind(&self, x: S::f32s, dy: S::f32s) -> S::f32s {
        let y = self.simd.mul_add_e_f32s(x, self.scale, self.offset);
        self.simd.mul_f32s(dy, factor(self.simd, 0.0, y))
    }

    /// Through the normalisation.
    #[inline(always)]
    fn through(&self, x: S::f32s, dy: S::f32s) -> S::f32s {
        let rest = self.simd.mul_add_e_f32s(self.simd.sub_f32s(x, self.mean), self.slope, self.rest);
        self.simd.mul_add_e_f32s(self.scale, dy, rest)
    }

    /// Through the rectifier before the normalisation.
    #[inline(always)]
    fn before(&self, x: S::f32s, dx: S::f32s) -> S::f32s {
        self.simd.mul_f32s(dx, factor(self.simd, 0.0, x))
    }
}

#[inline(always)]
fn grad_input_planes<S: Simd>(
    simd: S,
    rectified: Rectified,
    batch: BatchNormGrad,
    input: &[f32],
    valid: usize,
    grad: &mut [f32],
) {
    let len = input.len() / batch.mean.len() / S::F32_LANES;
    let planes = vectors_mut::<S>(grad).chunks_exact_mut(len).zip(vectors::<S>(input).chunks_exact(len));
    for (c, (grad, input)) in planes.enumerate() {
        let plane = PlaneGrad::new(simd, batch, c);
        let pixels = grad.iter_mut().zip(input);
        match (rectified.input, rectified.output) {
            (false, false) => pixels.for_each(
                #[inline(always)]
                |(dy, &x)| *dy = plane.through(x, *dy),
            ),
            (false, true) => pixels.for_each(
                #[inline(always)]
                |(dy, &x)| *dy = plane.through(x, plane.behind(x, *dy)),
            ),
            (true, false) => pixels.for_each(
                #[inline(always)]
                |(dy, &x)| *dy = plane.before(x, plane.through(x, *dy)),
            ),
            (true, true) => pixels.for_each(
                #[inline(always)]
                |(dy, &x)| *dy = plane.before(x, plane.through(x, plane.behind(x, *dy))),
            ),
        }
    }
    if valid < LANES {
        for lanes in grad.chunks_exact_mut(LANES) {
            lanes[valid..].fill(0.0);
        }
    }
}
