//! The register-tiled correlation under both the forward convolution and the gradient of its input.

use super::{parts, taps_inside};
use pulp::Simd;

/// One correlation of an input block `[channels, height, width, 16]` with a set of filters:
///
/// `out[o, y, x] = bias[o] + Σ weight[o, c, i, j] · in[c, y·step + origin₀ + i, x·step + origin₁ + j]`
///
/// over all c and those taps (i, j) that fall on the input. Strides into weight and output are free.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gather {
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) out_channels: usize,
    /// Output rows and columns to compute.
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) taps: [usize; 2],
    pub(crate) step: usize,
    pub(crate) origin: [isize; 2],
    /// Pixels from one output channel, row, column to the next, and the first pixel to write.
    pub(crate) out_strides: [usize; 3],
    pub(crate) out_first: usize,
    /// Numbers from one filter to the next, from one channel to the next, and in one channel of a filter.
    pub(crate) weight_out: usize,
    pub(crate) weight_in: usize,
    pub(crate) weight_taps: usize,
    /// Numbers from one tap to the next, and the place of tap (0, 0).
    pub(crate) tap_strides: [isize; 2],
    pub(crate) tap_first: usize,
}

/// Where a tile of output starts.
#[derive(Clone, Copy)]
struct Place {
    channel: usize,
    y: usize,
    x: usize,
}

impl Gather {
    /// Overwrites the outputs of one group with the correlation.
    #[inline(always)]
    pub(crate) fn run<S: Simd>(
        &self,
        simd: S,
        input: &[S::f32s],
        weight: &[f32],
        bias: Option<&[f32]>,
        output: &mut [S::f32s],
    ) {
        for y in 0..self.rows {
            let mut channel = 0;
            while channel < self.out_channels {
                let place = Place { channel, y, x: 0 };
                // Accumulators, inputs and weights of a tap all fit the 32 (or 16) vector registers: compilers like to
                // load them all first, and would spill accumulators of a larger tile.
                channel += match self.out_channels - channel {
                    8.. if S::REGISTER_COUNT >= 32 => {
                        self.row::<S, 8, 2>(simd, place, input, weight, bias, output)
                    }
                    4.. => self.row::<S, 4, 2>(simd, place, input, weight, bias, output),
                    _ => self.row::<S, 1, 8>(simd, place, input, weight, bias, output),
                };
            }
        }
    }

    /// One output row of O channels, up to P pixels at a time. Returns O.
    #[inline(always)]
    fn row<S: Simd, const O: usize, const P: usize>(
        &self,
        simd: S,
        mut place: Place,
        input: &[S::f32s],
        weight: &[f32],
        bias: Option<&[f32]>,
        output: &mut [S::f32s],
    ) -> usize {
        let filter = (self.channels - 1) * self.weight_in + self.weight_taps;
        let (mut filters, mut biases) = ([&weight[..0]; O], [0.0; O]);
        for o in 0..O {
            filters[o] = &weight[(place.channel + o) * self.weight_out..][..filter];
            biases[o] = bias.map_or(0.0, |bias| bias[place.channel + o]);
        }
        // Pixels side by side share their taps only if none of these falls off the image.
        let fits = |x: usize, pixels: usize| {
            let start = (x * self.step) as isize + self.origin[1];
            let end = start + ((pixels - 1) * self.step + self.taps[1]) as isize;
            x + pixels <= self.columns && start >= 0 && end <= self.width as isize
        };
        while place.x < self.columns {
            place.x += if fits(place.x, P) {
                self.tile::<S, O, P>(simd, place, input, filters, biases, output)
            } else if fits(place.x, 2) {
                self.tile::<S, O, 2>(simd, place, input, filters, biases, output)
            } else {
                self.tile::<S, O, 1>(simd, place, input, filters, biases, output)
            };
        }
        O
    }

    /// O channels × P pixels of output, summed up in registers. Returns P.
    #[inline(always)]
    fn tile<S: Simd, const O: usize, const P: usize>(
        &self,
        simd: S,
        place: Place,
        input: &[S::f32s],
        filters: [&[f32]; O],
        biases: [f32; O],
        output: &mut [S::f32s],
    ) -> usize {
        for part in 0..parts::<S>() {
            // A step known to be 1 leaves one bounds check per tap.
            let sums: [[S::f32s; P]; O] = match self.step {
                1 => self.sums(simd, 1, place, part, input, filters, biases),
                step => self.sums(simd, step, place, part, input, filters, biases),
            };
            let [plane, row, column] = self.out_strides;
            let first = self.out_first + place.y * row + place.x * column;
            for (o, sums) in sums.into_iter().enumerate() {
                let first = first + (place.channel + o) * plane;
                for (p, sum) in sums.into_iter().enumerate() {
                    output[(first + p * column) * parts::<S>() + part] = sum;
                }
            }
        }
        P
    }

    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "split from its only caller for the constant step")]
    fn sums<S: Simd, const O: usize, const P: usize>(
        &self,
        simd: S,
        step: usize,
        place: Place,
        part: usize,
        input: &[S::f32s],
        filters: [&[f32]; O],
        biases: [f32; O],
    ) -> [[S::f32s; P]; O] {
        let parts = parts::<S>();
        let top = (place.y * step) as isize + self.origin[0];
        let left = (place.x * step) as isize + self.origin[1];
        let columns = taps_inside(left, self.taps[1], self.width);
        let zero = simd.splat_f32s(0.0);
        let mut sums = [[zero; P]; O];
        for o in 0..O {
            sums[o] = [simd.splat_f32s(biases[o]); P];
        }
        for c in 0..self.channels {
            for i in taps_inside(top, self.taps[0], self.height) {
                let row = (c * self.height) as isize + top + i as isize;
                let start = row * self.width as isize + left;
                let tap = (c * self.weight_in + self.tap_first) as isize + i as isize * self.tap_strides[0];
                for j in columns.clone() {
                    let start = (start + j as isize) as usize * parts + part;
                    let tap = (tap + j as isize * self.tap_strides[1]) as usize;
                    let pixels = &input[start..][..(P - 1) * step * parts + 1];
                    let mut row = [zero; P];
                    for p in 0..P {
                        row[p] = pixels[p * step * parts];
                    }
                    for o in 0..O {
                        let weight = simd.splat_f32s(filters[o][tap]);
                        for p in 0..P {
                            sums[o][p] = simd.mul_add_e_f32s(weight, row[p], sums[o][p]);
                        }
                    }
                }
            }
        }
        sums
    }
}
