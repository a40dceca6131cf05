//! Group normalisation: each lane separately, from the statistics to the gradients.

use super::batch_norm::part_sums;
use super::{LANES, dispatch, parts, vectors, vectors_mut};
use pulp::{Arch, Simd};

/// Which values of a block are normalised together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct GroupNormDims {
    pub(crate) channels: usize,
    /// Divides the channels.
    pub(crate) groups: usize,
    /// Added to the variance.
    pub(crate) eps: f32,
}

impl GroupNormDims {
    /// Panics unless the blocks of a call have equal lengths, with the right number of channels.
    fn check(&self, blocks: &[&[f32]], params: &[&[f32]]) {
        assert!(self.channels.is_multiple_of(self.groups));
        assert!(blocks.iter().all(|block| block.len() == blocks[0].len()));
        assert!(blocks[0].len().is_multiple_of(self.channels * LANES));
        assert!(params.iter().all(|param| param.len() == self.channels));
    }
}

/// `output = (input - mean) / √(variance + ε) · weight[c] + bias[c]` for every channel c, with mean and variance of each group
/// of channels in each lane. Blocks are `[channels, ..., 16]`, `weight` and `bias` `[channels]`.
pub(crate) fn group_norm(
    arch: Arch,
    dims: &GroupNormDims,
    input: &[f32],
    weight: &[f32],
    bias: &[f32],
    output: &mut [f32],
) {
    dims.check(&[input, output], &[weight, bias]);
    dispatch!(
        arch,
        forward(
            dims: &'a GroupNormDims,
            input: &'a [f32],
            weight: &'a [f32],
            bias: &'a [f32],
            output: &'a mut [f32],
        )
    );
}

#[inline(always)]
fn forward<S: Simd>(
    simd: S,
    dims: &GroupNormDims,
    input: &[f32],
    weight: &[f32],
    bias: &[f32],
    output: &mut [f32],
) {
    let (input, output) = (vectors::<S>(input), vectors_mut::<S>(output));
    let plane = input.len() / dims.channels;
    let group = dims.channels / dims.groups;
    for first in (0..dims.channels).step_by(group) {
        for part in 0..parts::<S>() {
            let [mean, inv_std] = moments(simd, &input[first * plane..][..group * plane], part, dims.eps);
            for c in first..first + group {
                let scale = simd.mul_f32s(inv_std, simd.splat_f32s(weight[c]));
                let bias = simd.splat_f32s(bias[c]);
                for i in (c * plane + part..(c + 1) * plane).step_by(parts::<S>()) {
                    output[i] = simd.mul_add_e_f32s(simd.sub_f32s(input[i], mean), scale, bias);
                }
            }
        }
    }
}

/// Mean and `1 / √(variance + ε)` in the lanes of one part of the vectors.
#[inline(always)]
fn moments<S: Simd>(simd: S, values: &[S::f32s], part: usize, eps: f32) -> [S::f32s; 2] {
    let shift = values[part];
    let [sum, squares] = lane_sums(
        simd,
        values.len(),
        part,
        #[inline(always)]
        |i| {
            let distance = simd.sub_f32s(values[i], shift);
            (distance, distance)
        },
    );
    let count = simd.splat_f32s((values.len() / parts::<S>()) as f32);
    let from_shift = simd.div_f32s(sum, count);
    let square = simd.mul_f32s(from_shift, from_shift);
    let variance = simd.max_f32s(simd.sub_f32s(simd.div_f32s(squares, count), square), simd.splat_f32s(0.0));
    let std = simd.sqrt_f32s(simd.add_f32s(variance, simd.splat_f32s(eps)));
    [simd.add_f32s(shift, from_shift), simd.div_f32s(simd.splat_f32s(1.0), std)]
}

/// `[Σ a, Σ a · b]` in each lane of one part, where `(a, b) = term(index)`.
#[inline(always)]
fn lane_sums<S: Simd>(
    simd: S,
    len: usize,
    part: usize,
    term: impl Fn(usize) -> (S::f32s, S::f32s),
) -> [S::f32s; 2] {
    let [[a, b, c, d], [e, f, g, h]] = part_sums(simd, len, part, term);
    let pairs = |a, b, c, d| simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d));
    [pairs(a, b, c, d), pairs(e, f, g, h)]
}

/// The gradients of a group normalisation: of `weight` and `bias`, summed over the block, and of the input, if
/// needed. All are overwritten; blocks are `[channels, ..., 16]`, the others `[channels]`. A lane whose `grad_output`
/// is 0 adds nothing and gets 0.
#[expect(clippy::too_many_arguments, reason = "three gradients, and what they are made from")]
pub(crate) fn group_norm_grad(
    arch: Arch,
    dims: &GroupNormDims,
    input: &[f32],
    weight: &[f32],
    grad_output: &[f32],
    grad_weight: &mut [f32],
    grad_bias: &mut [f32],
    grad_input: Option<&mut [f32]>,
) {
    dims.check(&[input, grad_output], &[weight, grad_weight, grad_bias]);
    assert!(grad_input.as_ref().is_none_or(|grad| grad.len() == input.len()));
    dispatch!(
        arch,
        backward(
            dims: &'a GroupNormDims,
            input: &'a [f32],
            weight: &'a [f32],
            grad_output: &'a [f32],
            grad_weight: &'a mut [f32],
            grad_bias: &'a mut [f32],
            grad_input: Option<&'a mut [f32]>,
        )
    );
}

#[expect(clippy::too_many_arguments, reason = "as above")]
#[inline(always)]
fn backward<S: Simd>(
    simd: S,
    dims: &GroupNormDims,
    input: &[f32],
    weight: &[f32],
    grad_output: &[f32],
    grad_weight: &mut [f32],
    grad_bias: &mut [f32],
    mut grad_input: Option<&mut [f32]>,
) {
    let (input, upstream) = (vectors::<S>(input), vectors::<S>(grad_output));
    let plane = input.len() / dims.channels;
    let group = dims.channels / dims.groups;
    let count = simd.splat_f32s((group * plane / parts::<S>()) as f32);
    grad_weight.fill(0.0);
    grad_bias.fill(0.0);
    for first in (0..dims.channels).step_by(group) {
        for part in 0..parts::<S>() {
            let [mean, inv_std] = moments(simd, &input[first * plane..][..group * plane], part, dims.eps);
            let (mut sum, mut products) = (simd.splat_f32s(0.0), simd.splat_f32s(0.0));
            for c in first..first + group {
                let (x, dy) = (&input[c * plane..][..plane], &upstream[c * plane..][..plane]);
                let [of_bias, of_weight] = lane_sums(
                    simd,
                    plane,
                    part,
                    #[inline(always)]
                    |i| (dy[i], simd.sub_f32s(x[i], mean)),
                );
                let of_weight = simd.mul_f32s(of_weight, inv_std);
                grad_bias[c] += simd.reduce_sum_f32s(of_bias);
                grad_weight[c] += simd.reduce_sum_f32s(of_weight);
                let weight = simd.splat_f32s(weight[c]);
                sum = simd.mul_add_e_f32s(weight, of_bias, sum);
                products = simd.mul_add_e_f32s(weight, of_weight, products);
            }
            let Some(grad_input) = &mut grad_input else { continue };
            let grad_input = vectors_mut::<S>(grad_input);
            // inv_std · (weight · dy - sum/count - x̂ · products/count) = scale · dy + (x - mean) · slope + offset.
            let per_value = simd.neg_f32s(simd.div_f32s(inv_std, count));
            let offset = simd.mul_f32s(per_value, sum);
            let slope = simd.mul_f32s(simd.mul_f32s(per_value, inv_std), products);
            for c in first..first + group {
                let scale = simd.mul_f32s(inv_std, simd.splat_f32s(weight[c]));
                for i in (c * plane + part..(c + 1) * plane).step_by(parts::<S>()) {
                    let rest = simd.mul_add_e_f32s(simd.sub_f32s(input[i], mean), slope, offset);
                    grad_input[i] = simd.mul_add_e_f32s(scale, upstream[i], rest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::kernels::testing::{archs, random};
    use crate::cpu::kernels::unpack;
    use crate::layers::{Context, LayerKind};
    use crate::tensor::{Array, Arrays};

    /// Every value is within the reference's proven bound, on all instruction sets, and lanes without a gradient get none.
    #[test]
    fn is_within_the_reference_s_bounds() {
        let context = Context { training: true, seed: 0, step: 0, layer: 0, first_image: 0 };
        for (channels, groups, [height, width], valid) in
            [(1, 1, [1, 1], 16), (6, 2, [3, 5], 5), (4, 4, [7, 2], 1), (5, 1, [4, 4], 15), (8, 4, [1, 1], 16)]
        {
            let dims = GroupNormDims { channels, groups, eps: 1e-3 };
            let keys = toml::from_str(&format!("groups = {groups}\neps = 1e-3")).unwrap();
            let layer = LayerKind::find("group_norm").unwrap().parse(keys).unwrap();
            let image = channels * height * width;
            // A mean that is large relative to the deviation.
            let input: Vec<f32> = random(1, image * LANES).iter().map(|x| x + 3.0).collect();
            let [weight, bias] = [2, 3].map(|key| random(key, channels));
            let mut upstream = random(4, input.len());
            upstream.chunks_exact_mut(LANES).for_each(|lanes| lanes[valid..].fill(0.0));
            let array = |block: &[f32]| {
                let mut images = vec![0.0; block.len()];
                unpack(block, image, &mut images);
                Array::from_f32(&[LANES, channels, height, width], &images)
            };
            let given = Arrays::from([
                ("input", array(&input)),
                ("weight", Array::from_f32(&[channels], &weight)),
                ("bias", Array::from_f32(&[channels], &bias)),
                ("grad_output", array(&upstream)),
            ]);
            let mut want = layer.forward(&given, &context);
            want.extend(layer.backward(&given, &context));
            let check = |name: &str, got: &Array| {
                for (i, got) in got.data.iter().enumerate() {
                    let (value, bound) = (want[name].data[i], want[name].bound[i]);
                    assert!(
                        (got - value).abs() <= bound,
                        "{dims:?} {name} {i}: {got}, not {value} ± {bound:e}"
                    );
                }
            };
            for arch in archs() {
                let [mut output, mut grad_input] = [(); 2].map(|()| vec![f32::NAN; input.len()]);
                group_norm(arch, &dims, &input, &weight, &bias, &mut output);
                check("output", &array(&output));
                for wanted in [true, false] {
                    let [mut grad_weight, mut grad_bias] = [(); 2].map(|()| vec![f32::NAN; channels]);
                    let grad_input = wanted.then_some(&mut grad_input[..]);
                    group_norm_grad(
                        arch,
                        &dims,
                        &input,
                        &weight,
                        &upstream,
                        &mut grad_weight,
                        &mut grad_bias,
                        grad_input,
                    );
                    check("grad_weight", &Array::from_f32(&[channels], &grad_weight));
                    check("grad_bias", &Array::from_f32(&[channels], &grad_bias));
                }
                check("grad_input", &array(&grad_input));
                assert!(
                    grad_input.chunks_exact(LANES).all(|lanes| lanes[valid..].iter().all(|&dx| dx == 0.0))
                );
            }
        }
    }

    #[test]
    fn a_group_of_one_value_becomes_the_bias() {
        let dims = GroupNormDims { channels: 2, groups: 2, eps: 1e-5 };
        let input = random(1, 2 * LANES);
        for arch in archs() {
            let mut output = vec![f32::NAN; input.len()];
            group_norm(arch, &dims, &input, &[3.0, -2.0], &[0.5, 0.25], &mut output);
            assert_eq!(output, [[0.5; LANES], [0.25; LANES]].concat());
        }
    }
}
