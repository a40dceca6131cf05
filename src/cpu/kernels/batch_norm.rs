//! Batch normalisation in training, forward: sums over a block, and what is computed from the sums over the batch. Rectifiers
//! before and behind it are part of the same passes, as these take as long as memory does.

use super::activation::factor;
use super::{LANES, dispatch, parts, vectors, vectors_mut};
use pulp::{Arch, Simd, bytemuck};

/// The rectifiers that belong to a batch normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Rectified {
    /// Its input is rectified first.
    pub(crate) input: bool,
    /// So is its output.
    pub(crate) output: bool,
}

/// `x` where it is positive, else 0, by the product that [`activation`](super::activation) takes.
#[inline(always)]
fn rectify<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    simd.mul_f32s(x, factor(simd, 0.0, x))
}

/// Two sums per channel of a block: for every channel c, over its pixels and the first `valid` lanes,
/// `sums[c] = [Σ (x - shift[c]), Σ (x - shift[c])²]`, where `shift[c]` becomes the channel's first value.
///
/// `input`, which is rectified before if `rectified` says so, is `[channels, ..., 16]`, `shift` and `sums` `[channels]`. With a
/// shift near the mean the variance suffers no cancellation.
pub(crate) fn batch_norm_sums(
    arch: Arch,
    rectified: Rectified,
    input: &mut [f32],
    shift: &mut [f32],
    valid: usize,
    sums: &mut [[f64; 2]],
) {
    check(&[input], shift.len());
    assert!(sums.len() == shift.len() && valid <= LANES);
    dispatch!(
        arch,
        shifted_sums(
            rectified: Rectified,
            input: &'a mut [f32],
            shift: &'a mut [f32],
            valid: usize,
            sums: &'a mut [[f64; 2]],
        )
    );
}

#[inline(always)]
fn shifted_sums<S: Simd>(
    simd: S,
    rectified: Rectified,
    input: &mut [f32],
    shift: &mut [f32],
    valid: usize,
    sums: &mut [[f64; 2]],
) {
    let len = input.len() / shift.len();
    for ((sums, shift), plane) in sums.iter_mut().zip(shift).zip(input.chunks_exact_mut(len)) {
        *shift = if rectified.input { plane[0] * f32::from(u8::from(plane[0] > 0.0)) } else { plane[0] };
        let shift = simd.splat_f32s(*shift);
        let plane = vectors_mut::<S>(plane);
        *sums = if rectified.input {
            plane_sums(
                simd,
                plane.len(),
                valid,
                #[inline(always)]
                |i| {
                    plane[i] = rectify(simd, plane[i]);
                    let x = simd.sub_f32s(plane[i], shift);
                    (x, x)
                },
            )
        } else {
            plane_sums(
                simd,
                plane.len(),
                valid,
                #[inline(always)]
                |i| {
                    let x = simd.sub_f32s(plane[i], shift);
                    (x, x)
                },
            )
        };
    }
}

/// `output = input · scale[c] + offset[c]` for every channel c, either rectified as `rectified` says.
///
/// `input` and `output` are `[channels, ..., 16]`, `scale` and `offset` `[channels]`.
pub(crate) fn batch_norm_apply(
    arch: Arch,
    rectified: Rectified,
    input: &[f32],
    scale: &[f32],
    offset: &[f32],
    output: &mut [f32],
) {
    check(&[input, output], scale.len());
    assert_eq!(offset.len(), scale.len());
    dispatch!(
        arch,
        apply(
            rectified: Rectified,
            input: &'a [f32],
            scale: &'a [f32],
            offset: &'a [f32],
            output: &'a mut [f32],
        )
    );
}

#[inline(always)]
fn apply<S: Simd>(
    simd: S,
    rectified: Rectified,
    input: &[f32],
    scale: &[f32],
    offset: &[f32],
    output: &mut [f32],
) {
    let plane = input.len() / scale.len() / S::F32_LANES;
    let planes = vectors::<S>(input).chunks_exact(plane);
    let outputs = vectors_mut::<S>(output).chunks_exact_mut(plane);
    for (((&scale, &offset), input), output) in scale.iter().zip(offset).zip(planes).zip(outputs) {
        let (scale, offset) = (simd.splat_f32s(scale), simd.splat_f32s(offset));
        match (rectified.input, rectified.output) {
            (false, false) => {
                for (y, &x) in output.iter_mut().zip(input) {
                    *y = simd.mul_add_e_f32s(x, scale, offset);
                }
            }
            (false, true) => {
                for (y, &x) in output.iter_mut().zip(input) {
                    *y = rectify(simd, simd.mul_add_e_f32s(x, scale, offset));
                }
            }
            (true, false) => {
                for (y, &x) in output.iter_mut().zip(input) {
                    *y = simd.mul_add_e_f32s(rectify(simd, x), scale, offset);
                }
            }
            (true, true) => {
                for (y, &x) in output.iter_mut().zip(input) {
                    *y = rectify(simd, simd.mul_add_e_f32s(rectify(simd, x), scale, offset));
                }
            }
        }
    }
}

/// `[Σ a, Σ a · b]` over the vectors of a plane, where `(a, b) = term(index)`, and over the first `valid` lanes.
/// Sums run in four strands, then in f64 over strands and lanes.
#[inline(always)]
pub(super) fn plane_sums<S: Simd>(
    simd: S,
    len: usize,
    valid: usize,
    mut term: impl FnMut(usize) -> (S::f32s, S::f32s),
) -> [f64; 2] {
    let mut total = [0.0; 2];
    for part in 0..parts::<S>() {
        let lanes = valid.saturating_sub(part * S::F32_LANES).min(S::F32_LANES);
        for (total, strands) in total.iter_mut().zip(part_sums(simd, len, part, &mut term)) {
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
    mut term: impl FnMut(usize) -> (S::f32s, S::f32s),
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
pub(super) fn check(blocks: &[&[f32]], channels: usize) {
    assert!(blocks.iter().all(|block| block.len() == blocks[0].len()));
    assert!(blocks[0].len().is_multiple_of(channels * LANES));
}

#[cfg(test)]
mod tests {
    use super::super::{BatchNormGrad, batch_norm_grad_input, batch_norm_grad_sums};
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
                let [mean, inv_std] = [3, 4].map(|key| random(key, channels));
                let mut shift = vec![f32::NAN; channels];
                let mut sums = [vec![[f64::NAN; 2]; channels], vec![[f64::NAN; 2]; channels]];
                let none = Rectified::default();
                batch_norm_sums(arch, none, &mut x.clone(), &mut shift, valid, &mut sums[0]);
                let batch = BatchNormGrad {
                    mean: &mean,
                    inv_std: &inv_std,
                    scale: &inv_std,
                    offset: &mean,
                    mean_grad: &[],
                    mean_grad_xhat: &[],
                };
                batch_norm_grad_sums(arch, none, batch, &x, &dy, valid, &mut sums[1]);
                for c in 0..channels {
                    let mut want = [[0.0; 4]; 2];
                    for i in (0..pixels * LANES).filter(|i| i % LANES < valid) {
                        let i = c * pixels * LANES + i;
                        assert_eq!(shift[c], x[c * pixels * LANES]);
                        let [x, dy, shift, mean, inv_std] =
                            [x[i], dy[i], shift[c], mean[c], inv_std[c]].map(f64::from);
                        let xhat = (x - mean) * inv_std;
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
                batch_norm_apply(arch, Rectified::default(), &x, &scale, &mean, &mut y);
                let batch = BatchNormGrad {
                    mean: &mean,
                    inv_std: &inv_std,
                    scale: &scale,
                    offset: &mean,
                    mean_grad: &mean_grad,
                    mean_grad_xhat: &mean_grad_xhat,
                };
                batch_norm_grad_input(arch, Rectified::default(), batch, &x, valid, &mut dx);
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

    /// With rectifiers it does what they do before and behind it, bit by bit.
    #[test]
    fn rectifiers_are_those_of_their_own_passes() {
        use crate::cpu::kernels::{activation, activation_grad};
        use crate::layers::Activation;
        const RELU: Activation = Activation::LeakyRelu { slope: 0.0 };
        let none = Rectified::default();
        for arch in archs() {
            for (channels, pixels, valid) in SHAPES {
                for rectified in [[true, false], [false, true], [true, true]] {
                    let rectified = Rectified { input: rectified[0], output: rectified[1] };
                    let [x, dy] = [1, 2].map(|key| random(key, channels * pixels * LANES));
                    let [mean, inv_std, scale, offset, mean_grad, mean_grad_xhat] =
                        [3, 4, 5, 6, 7, 8].map(|key| random(key, channels));
                    let (mean, inv_std) = (&mean[..], &inv_std[..]);
                    let (scale, offset) = (&scale[..], &offset[..]);
                    let (mean_grad, mean_grad_xhat) = (&mean_grad[..], &mean_grad_xhat[..]);
                    let batch = BatchNormGrad { mean, inv_std, scale, offset, mean_grad, mean_grad_xhat };
                    let made = |rectified: Rectified, alone: Rectified| {
                        let (mut x, mut dy, mut y) = (x.clone(), dy.clone(), vec![0.0; x.len()]);
                        let mut shift = vec![0.0; channels];
                        let mut sums = [vec![[0.0; 2]; channels], vec![[0.0; 2]; channels]];
                        if alone.input {
                            activation(arch, RELU, &[], &mut x);
                        }
                        batch_norm_sums(arch, rectified, &mut x, &mut shift, valid, &mut sums[0]);
                        batch_norm_apply(arch, rectified, &x, scale, offset, &mut y);
                        if alone.output {
                            activation(arch, RELU, &[], &mut y);
                            activation_grad(arch, RELU, &[], &y, &mut dy);
                        }
                        batch_norm_grad_sums(arch, rectified, batch, &x, &dy, valid, &mut sums[1]);
                        batch_norm_grad_input(arch, rectified, batch, &x, valid, &mut dy);
                        if alone.input {
                            activation_grad(arch, RELU, &[], &x, &mut dy);
                        }
                        let bits =
                            [x, y, dy, shift].map(|values| bytemuck::cast_slice::<_, u32>(&values).to_vec());
                        (bits, sums)
                    };
                    assert!(made(rectified, none) == made(none, rectified), "{arch:?}, {rectified:?}");
                }
            }
        }
    }
}
