//! Batch normalisation in training: sums over a block, and what is computed from the sums over the batch.

use super::{LANES, dispatch, parts, vectors, vectors_mut};
use pulp::{Arch, Simd, bytemuck};

/// Two sums per channel of a block: for every channel c, over its pixels and the first `valid` lanes,
/// `sums[c] = [Σ (x - shift[c]), Σ (x - shift[c])²]`.
///
/// `input` is `[channels, ..., 16]`, `shift` and `sums` `[channels]`. With a shift near the mean (the running mean,
/// say) the variance suffers no cancellation. Each block may have its own shifts.
pub(crate) fn batch_norm_sums(arch: Arch, input: &[f32], shift: &[f32], valid: usize, sums: &mut [[f64; 2]]) {
    check(&[input], shift.len());
    assert!(sums.len() == shift.len() && valid <= LANES);
    dispatch!(
        arch,
        shifted_sums(
            input: &'a [f32],
            shift: &'a [f32],
            valid: usize,
            sums: &'a mut [[f64; 2]],
        )
    );
}

#[inline(always)]
fn shifted_sums<S: Simd>(simd: S, input: &[f32], shift: &[f32], valid: usize, sums: &mut [[f64; 2]]) {
    let planes = vectors::<S>(input).chunks_exact(input.len() / shift.len() / S::F32_LANES);
    for ((sums, &shift), plane) in sums.iter_mut().zip(shift).zip(planes) {
        let shift = simd.splat_f32s(shift);
        *sums = plane_sums(
            simd,
            plane.len(),
            valid,
            #[inline(always)]
            |i| {
                let x = simd.sub_f32s(plane[i], shift);
                (x, x)
            },
        );
    }
}

/// `output = input · scale[c] + offset[c]` for every channel c.
///
/// `input` and `output` are `[channels, ..., 16]`, `scale` and `offset` `[channels]`.
pub(crate) fn batch_norm_apply(arch: Arch, input: &[f32], scale: &[f32], offset: &[f32], output: &mut [f32]) {
    check(&[input, output], scale.len());
    assert_eq!(offset.len(), scale.len());
    dispatch!(
        arch,
        apply(input: &'a [f32], scale: &'a [f32], offset: &'a [f32], output: &'a mut [f32])
    );
}

#[inline(always)]
fn apply<S: Simd>(simd: S, input: &[f32], scale: &[f32], offset: &[f32], output: &mut [f32]) {
    let plane = input.len() / scale.len() / S::F32_LANES;
    let planes = vectors::<S>(input).chunks_exact(plane);
    let outputs = vectors_mut::<S>(output).chunks_exact_mut(plane);
    for (((&scale, &offset), input), output) in scale.iter().zip(offset).zip(planes).zip(outputs) {
        let (scale, offset) = (simd.splat_f32s(scale), simd.splat_f32s(offset));
        for (y, &x) in output.iter_mut().zip(input) {
            *y = simd.mul_add_e_f32s(x, scale, offset);
        }
    }
}

/// What the gradient of a batch normalisation needs from the whole batch; slices `[channels]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchNormGrad<'a> {
    /// Mean of the input over the batch.
    pub(crate) mean: &'a [f32],
    /// `1 / √(variance + ε)` of the input.
    pub(crate) inv_std: &'a [f32],
    /// Factor of the gradient: weight · `inv_std`.
    pub(crate) scale: &'a [f32],
    /// Mean of `grad_output` over the batch.
    pub(crate) mean_grad: &'a [f32],
    /// Mean of `grad_output · x̂` over the batch, where `x̂ = (input - mean) · inv_std`.
    pub(crate) mean_grad_xhat: &'a [f32],
}

/// Two sums per channel of a block: `sums[c] = [Σ grad_output, Σ grad_output · x̂]`, where
/// `x̂ = (input - mean[c]) · inv_std[c]`, over the pixels and the first `valid` lanes.
///
/// `input` and `grad_output` are `[channels, ..., 16]`, the other slices `[channels]`.
pub(crate) fn batch_norm_grad_sums(
    arch: Arch,
    input: &[f32],
    grad_output: &[f32],
    mean: &[f32],
    inv_std: &[f32],
    valid: usize,
    sums: &mut [[f64; 2]],
) {
    check(&[input, grad_output], mean.len());
    assert!(inv_std.len() == mean.len() && sums.len() == mean.len() && valid <= LANES);
    dispatch!(
        arch,
        grad_sums(
            input: &'a [f32],
            grad_output: &'a [f32],
            mean: &'a [f32],
            inv_std: &'a [f32],
            valid: usize,
            sums: &'a mut [[f64; 2]],
        )
    );
}

#[inline(always)]
fn grad_sums<S: Simd>(
    simd: S,
    input: &[f32],
    grad_output: &[f32],
    mean: &[f32],
    inv_std: &[f32],
    valid: usize,
    sums: &mut [[f64; 2]],
) {
    let len = input.len() / mean.len() / S::F32_LANES;
    let (input, grad) = (vectors::<S>(input), vectors::<S>(grad_output));
    for (c, sums) in sums.iter_mut().enumerate() {
        let (input, grad) = (&input[c * len..][..len], &grad[c * len..][..len]);
        let mean = simd.splat_f32s(mean[c]);
        *sums = plane_sums(
            simd,
            len,
            valid,
            #[inline(always)]
            |i| (grad[i], simd.sub_f32s(input[i], mean)),
        );
        sums[1] *= f64::from(inv_std[c]);
    }
}

/// Turns the gradient of a batch normalisation's output into that of its input, in place, for a block:
/// `scale · (grad - mean_grad - x̂ · mean_grad_xhat)`, and 0 in all but the first `valid` lanes.
///
/// `input` and `grad` are `[channels, ..., 16]`.
pub(crate) fn batch_norm_grad_input(
    arch: Arch,
    batch: BatchNormGrad,
    input: &[f32],
    valid: usize,
    grad: &mut [f32],
) {
    check(&[input, grad], batch.mean.len());
    dispatch!(
        arch,
        grad_input_planes(
            batch: BatchNormGrad<'a>,
            input: &'a [f32],
            valid: usize,
            grad: &'a mut [f32],
        )
    );
}

#[inline(always)]
fn grad_input_planes<S: Simd>(simd: S, batch: BatchNormGrad, input: &[f32], valid: usize, grad: &mut [f32]) {
    let len = input.len() / batch.mean.len() / S::F32_LANES;
    let planes = vectors_mut::<S>(grad).chunks_exact_mut(len).zip(vectors::<S>(input).chunks_exact(len));
    for (c, (grad, input)) in planes.enumerate() {
        // scale · (dy - mean_grad - x̂ · mean_grad_xhat) = scale · dy + (x - mean) · slope + offset.
        let slope = -batch.scale[c] * batch.inv_std[c] * batch.mean_grad_xhat[c];
        let offset = simd.splat_f32s(-batch.scale[c] * batch.mean_grad[c]);
        let [scale, slope, mean] = [batch.scale[c], slope, batch.mean[c]].map(|x| simd.splat_f32s(x));
        for (dy, &x) in grad.iter_mut().zip(input) {
            let rest = simd.mul_add_e_f32s(simd.sub_f32s(x, mean), slope, offset);
            *dy = simd.mul_add_e_f32s(scale, *dy, rest);
        }
    }
    if valid < LANES {
        for lanes in grad.chunks_exact_mut(LANES) {
            lanes[valid..].fill(0.0);
        }
    }
}

/// `[Σ a, Σ a · b]` over the vectors of a plane, where `(a, b) = term(index)`, and over the first `valid` lanes.
/// Sums run in four strands, then in f64 over strands and lanes.
#[inline(always)]
fn plane_sums<S: Simd>(
    simd: S,
    len: usize,
    valid: usize,
    term: impl Fn(usize) -> (S::f32s, S::f32s),
) -> [f64; 2] {
    let mut total = [0.0; 2];
    for part in 0..parts::<S>() {
        let lanes = valid.saturating_sub(part * S::F32_LANES).min(S::F32_LANES);
        for (total, strands) in total.iter_mut().zip(part_sums(simd, len, part, &term)) {
            for strand in strands {
                let sums: &[f32] = bytemuck::cast_slice(std::slice::from_ref(&strand));
                *total += sums[..lanes].iter().map(|&x| f64::from(x)).sum::<f64>();
            }
        }
    }
    total
}

/// Independent running sums.
const STRANDS: usize = 4;

/// `[Σ a, Σ a · b]` in strands, over those of `len` vectors that are part `part` of a pixel,
/// where `(a, b) = term(index)`.
#[inline(always)]
pub(super) fn part_sums<S: Simd>(
    simd: S,
    len: usize,
    part: usize,
    term: impl Fn(usize) -> (S::f32s, S::f32s),
) -> [[S::f32s; STRANDS]; 2] {
    let parts = parts::<S>();
    let mut sums = [[simd.splat_f32s(0.0); STRANDS]; 2];
    let mut add = |strand: usize, i: usize| {
        let (a, b) = term(i);
        sums[0][strand] = simd.add_f32s(sums[0][strand], a);
        sums[1][strand] = simd.mul_add_e_f32s(a, b, sums[1][strand]);
    };
    let whole = len - len % (STRANDS * parts);
    for i in (part..whole).step_by(STRANDS * parts) {
        for strand in 0..STRANDS {
            add(strand, i + strand * parts);
        }
    }
    for i in (whole + part..len).step_by(parts) {
        add(0, i);
    }
    sums
}

/// Panics unless the blocks have equal lengths, with `channels` planes.
fn check(blocks: &[&[f32]], channels: usize) {
    assert!(blocks.iter().all(|block| block.len() == blocks[0].len()));
    assert!(blocks[0].len().is_multiple_of(channels * LANES));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::kernels::testing::{archs, random};

    /// Channels, pixels and valid lanes to test.
    const SHAPES: [(usize, usize, usize); 5] = [(1, 1, 16), (3, 7, 5), (5, 25, 1), (8, 16, 15), (2, 49, 16)];

    fn close(got: f64, want: f64, size: f64) {
        assert!((got - want).abs() <= 4e-7 * size, "{got} for {want}, size {size}");
    }

    #[test]
    fn sums_match_f64() {
        for arch in archs() {
            for (channels, pixels, valid) in SHAPES {
                let x = random(1, channels * pixels * LANES);
                let dy = random(2, x.len());
                let [shift, inv_std] = [3, 4].map(|key| random(key, channels));
                let mut sums = [vec![[f64::NAN; 2]; channels], vec![[f64::NAN; 2]; channels]];
                batch_norm_sums(arch, &x, &shift, valid, &mut sums[0]);
                batch_norm_grad_sums(arch, &x, &dy, &shift, &inv_std, valid, &mut sums[1]);
                for c in 0..channels {
                    let mut want = [[0.0; 4]; 2];
                    for i in (0..pixels * LANES).filter(|i| i % LANES < valid) {
                        let i = c * pixels * LANES + i;
                        let [x, dy, shift, inv_std] = [x[i], dy[i], shift[c], inv_std[c]].map(f64::from);
                        let xhat = (x - shift) * inv_std;
                        let terms = [[x - shift, (x - shift).powi(2)], [dy, dy * xhat]];
                        for (want, [a, b]) in want.iter_mut().zip(terms) {
                            *want = [want[0] + a, want[1] + b, want[2] + a.abs(), want[3] + b.abs()];
                        }
                    }
                    for (sums, want) in sums.iter().zip(want) {
                        close(sums[c][0], want[0], want[2]);
                        close(sums[c][1], want[1], want[3]);
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_match_f64() {
        for arch in archs() {
            for (channels, pixels, valid) in SHAPES {
                let x = random(1, channels * pixels * LANES);
                let dy = random(2, x.len());
                let [mean, inv_std, scale, mean_grad, mean_grad_xhat] =
                    [3, 4, 5, 6, 7].map(|key| random(key, channels));
                let (mut y, mut dx) = (vec![f32::NAN; x.len()], dy.clone());
                batch_norm_apply(arch, &x, &scale, &mean, &mut y);
                let batch = BatchNormGrad {
                    mean: &mean,
                    inv_std: &inv_std,
                    scale: &scale,
                    mean_grad: &mean_grad,
                    mean_grad_xhat: &mean_grad_xhat,
                };
                batch_norm_grad_input(arch, batch, &x, valid, &mut dx);
                for i in 0..x.len() {
                    let c = i / (pixels * LANES);
                    let [x, dy, m, r, a, g, gx] =
                        [x[i], dy[i], mean[c], inv_std[c], scale[c], mean_grad[c], mean_grad_xhat[c]]
                            .map(f64::from);
                    close(y[i].into(), x * a + m, (x * a).abs() + m.abs());
                    let want = a * (dy - g - (x - m) * r * gx);
                    let size = a.abs() * (dy.abs() + g.abs() + ((x - m) * r * gx).abs());
                    if i % LANES < valid {
                        close(dx[i].into(), want, size);
                    } else {
                        assert_eq!(dx[i], 0.0);
                    }
                }
            }
        }
    }
}
