//! Convolutions of a single pixel with a 1x1 kernel, which is what linear layers are: matrix products with the 16 images
//! of a block.

use pulp::Simd;

use super::{Buffer, LANES, parts, vectors, vectors_mut};

/// Below so many channels of input and of output, packing weights for the direct convolution costs nothing that counts.
pub(super) const FEWEST_CHANNELS: usize = 32;
/// Outputs of a tile: accumulators for 16 images, their input and a weight fit the 16 vector registers of AVX2.
const TILE: usize = 6;
/// The same for 32 registers, each of which holds all 16 images.
const WIDE_TILE: usize = 16;

/// A matrix that is read in place, as `weight[output · step_out + input · step_in]`; one of the steps is 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) weight: &'a [f32],
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// Inputs are rows: the steps are 1 and `outputs`, not `inputs` and 1.
    pub(super) transposed: bool,
}

impl Matrix<'_> {
    /// `output[o] = bias[o] + Σ weight[o, i] · input[i]`, for 16 images; each sum is in the order of the inputs.
    #[inline(always)]
    pub(super) fn multiply<S: Simd>(
        &self,
        simd: S,
        input: &[S::f32s],
        bias: Option<&[f32]>,
        output: &mut [S::f32s],
    ) {
        if S::REGISTER_COUNT >= 32 && parts::<S>() == 1 {
            self.tiles::<S, WIDE_TILE>(simd, input, bias, output);
        } else {
            self.tiles::<S, TILE>(simd, input, bias, output);
        }
    }

    #[inline(always)]
    fn tiles<S: Simd, const O: usize>(
        &self,
        simd: S,
        input: &[S::f32s],
        bias: Option<&[f32]>,
        output: &mut [S::f32s],
    ) {
        for first in (0..self.outputs).step_by(O) {
            // The last tile overlaps the one before it instead of going past the end.
            let first = first.min(self.outputs.saturating_sub(O));
            match (parts::<S>(), self.transposed) {
                (1, false) => self.tile::<S, O, 1, false>(simd, first, input, bias, output),
                (1, true) => self.tile::<S, O, 1, true>(simd, first, input, bias, output),
                (_, false) => self.tile::<S, O, 2, false>(simd, first, input, bias, output),
                (_, true) => self.tile::<S, O, 2, true>(simd, first, input, bias, output),
            }
        }
    }

    /// O outputs from `first` on, P vectors of images at a time.
    #[inline(always)]
    fn tile<S: Simd, const O: usize, const P: usize, const TRANSPOSED: bool>(
        &self,
        simd: S,
        first: usize,
        input: &[S::f32s],
        bias: Option<&[f32]>,
        output: &mut [S::f32s],
    ) {
        let mut rows = [&self.weight[..0]; O];
        if !TRANSPOSED {
            for (o, row) in rows.iter_mut().enumerate() {
                *row = &self.weight[(first + o) * self.inputs..][..self.inputs];
            }
        }
        for part in (0..parts::<S>()).step_by(P) {
            let mut sums = [[simd.splat_f32s(0.0); P]; O];
            if let Some(bias) = bias {
                for o in 0..O {
                    sums[o] = [simd.splat_f32s(bias[first + o]); P];
                }
            }
            for i in 0..self.inputs {
                let images = &input[i * parts::<S>() + part..][..P];
                let column = if TRANSPOSED { &self.weight[i * self.outputs + first..][..O] } else { &[] };
                for o in 0..O {
                    let weight = simd.splat_f32s(if TRANSPOSED { column[o] } else { rows[o][i] });
                    for p in 0..P {
                        sums[o][p] = simd.mul_add_e_f32s(weight, images[p], sums[o][p]);
                    }
                }
            }
            for o in 0..O {
                for p in 0..P {
                    output[(first + o) * parts::<S>() + part + p] = sums[o][p];
                }
            }
        }
    }
}

/// The gradient of the weights, `grad_weight[o, i] = Σ grad_output[o, n] · input[i, n]` over the images n in order.
/// `turned` is scratch space.
#[inline(always)]
pub(super) fn grad_weight<S: Simd>(
    simd: S,
    inputs: usize,
    input: &[f32],
    grad_output: &[f32],
    turned: &mut Buffer,
    grad_weight: &mut [f32],
) {
    // [image, input], each row a whole number of tiles: the sums then need no reduction within a vector.
    let tile = 2 * S::F32_LANES;
    let row = inputs.next_multiple_of(tile);
    let turned = turned.room(LANES * row);
    for (i, lanes) in input.as_chunks::<LANES>().0.iter().enumerate() {
        for (n, &value) in lanes.iter().enumerate() {
            turned[n * row + i] = value;
        }
    }
    let (turned, row) = (vectors::<S>(turned), row / S::F32_LANES);
    let outputs = grad_output.len() / LANES;
    // The inner loop's part of the input stays in the first-level cache, and so does all of the output's gradient.
    for start in (0..inputs).step_by(tile) {
        for first in (0..outputs).step_by(TILE) {
            let first = first.min(outputs.saturating_sub(TILE));
            let grads = &grad_output[first * LANES..].as_chunks::<LANES>().0[..TILE];
            let mut sums = [[simd.splat_f32s(0.0); 2]; TILE];
            for n in 0..LANES {
                let values = &turned[n * row + start / S::F32_LANES..][..2];
                for o in 0..TILE {
                    let grad = simd.splat_f32s(grads[o][n]);
                    for p in 0..2 {
                        sums[o][p] = simd.mul_add_e_f32s(grad, values[p], sums[o][p]);
                    }
                }
            }
            for o in 0..TILE {
                let rest = &mut grad_weight[(first + o) * inputs + start..(first + o + 1) * inputs];
                // A copy, as sums whose address is taken are kept in memory.
                let sums = sums[o];
                match vectors_mut::<S>(rest) {
                    [a, b, ..] => [*a, *b] = sums,
                    _ => rest.copy_from_slice(&bytemuck::cast_slice(&sums)[..rest.len()]),
                }
            }
        }
    }
}
