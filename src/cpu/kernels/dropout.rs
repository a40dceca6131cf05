//! Dropout.

use super::{LANES, dispatch};
use crate::rng;
use pulp::{Arch, Simd};

/// Drops each value of a block with probability `rate`, else scales it by `1 / (1 - rate)`. `input` and `output` are
/// `[elements, 16]`. Applied to the gradient, this is also the backward pass.
///
/// Element e of image n, counted in the batch, is kept if word n mod 4 of `rng::words(key, step, n / 4, e)` is at least
/// `rng::drop_threshold(rate)`. `first_image`, a multiple of 16, is the image in lane 0.
pub(crate) fn dropout(
    arch: Arch,
    rate: f32,
    key: u32,
    step: u32,
    first_image: u32,
    input: &[f32],
    output: &mut [f32],
) {
    assert!(input.len() == output.len() && input.len().is_multiple_of(LANES));
    assert!(first_image.is_multiple_of(LANES as u32));
    // The seed network has the layer without using it, and random words take longer than a convolution's sums.
    if rate == 0.0 {
        return output.copy_from_slice(input);
    }
    let first_group = first_image / 4;
    dispatch!(
        arch,
        masked(
            rate: f32,
            key: u32,
            step: u32,
            first_group: u32,
            input: &'a [f32],
            output: &'a mut [f32],
        )
    );
}

/// Groups of four images whose words are drawn together.
const GROUPS: usize = 16;

/// Left to the compiler to vectorise: loops over many groups first, then over the lanes they mask.
#[inline(always)]
fn masked<S: Simd>(
    _: S,
    rate: f32,
    key: u32,
    step: u32,
    first_group: u32,
    input: &[f32],
    output: &mut [f32],
) {
    let (threshold, scale) = (rng::drop_threshold(rate), 1.0 / (1.0 - rate));
    let chunks = input.chunks(4 * GROUPS).zip(output.chunks_mut(4 * GROUPS));
    for (chunk, (input, output)) in (0..).zip(chunks) {
        let mut words = [[0; GROUPS]; 4];
        for i in 0..GROUPS {
            let at = chunk * GROUPS as u32 + i as u32;
            let [a, b, c, d] = rng::words(key, step, first_group + at % 4, at / 4);
            (words[0][i], words[1][i], words[2][i], words[3][i]) = (a, b, c, d);
        }
        let lanes = input.as_chunks::<4>().0.iter().zip(output.as_chunks_mut::<4>().0);
        for (i, (x, y)) in lanes.enumerate() {
            for j in 0..4 {
                // A randomly taken branch costs more than the product.
                let keep = u32::from(words[j][i] >= threshold).wrapping_neg();
                y[j] = f32::from_bits((x[j] * scale).to_bits() & keep);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::kernels::testing::{archs, random};

    #[test]
    fn matches_the_definition() {
        for arch in archs() {
            for (elements, rate, first_image) in [(1, 0.5, 0), (37, 0.25, 48), (50, 0.0, 16)] {
                let x = random(1, elements * LANES);
                let mut y = vec![f32::NAN; x.len()];
                dropout(arch, rate, 7, 3, first_image, &x, &mut y);
                for i in 0..x.len() {
                    let (element, image) = ((i / LANES) as u32, first_image + (i % LANES) as u32);
                    let word = rng::words(7, 3, image / 4, element)[image as usize % 4];
                    let kept = word >= rng::drop_threshold(rate);
                    assert_eq!(y[i], if kept { x[i] * (1.0 / (1.0 - rate)) } else { 0.0 });
                }
            }
        }
    }
}
