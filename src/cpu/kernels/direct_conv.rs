//! The register-tiled correlation used by both the forward convolution and the gradient of its input.

use super::{Buffer, LANES, parts, taps_inside, vectors_mut};
use pulp::Simd;

/// Pixels in a tile of several channels, and in one of a single channel.
const PIXELS: usize = 2;
const DEPTHWISE_PIXELS: usize = 4;

/// One correlation of an input block `[channels, height, width, 16]` with a set of filters:
///
/// `out[o, y, x] = bias[o] + Σ weight[o, c, i, j] · in[c, y·step + origin₀ + i·dilation₀, x·step + origin₁ + j·dilation₁]`
///
/// over all c and those taps (i, j) that are inside the input. Strides into weight and output are free.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DirectConv {
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) out_channels: usize,
    /// Output rows and columns to compute.
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) taps: [usize; 2],
    pub(crate) dilation: [usize; 2],
    pub(crate) step: usize,
    pub(crate) origin: [isize; 2],
    /// Pixels from one output channel, row, column to the next, and the first pixel to write.
    pub(crate) out_strides: [usize; 3],
    pub(crate) out_first: usize,
    /// Values from one filter to the next, and from one channel to the next.
    pub(crate) weight_out: usize,
    pub(crate) weight_in: usize,
    /// Values from one tap to the next, and the position of tap (0, 0).
    pub(crate) tap_strides: [isize; 2],
    pub(crate) tap_first: usize,
}

/// Scratch space of a correlation, kept to avoid allocations in each step.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Weights in order of use: [tile of channels, input channel, tap row, tap column, channel of the tile].
    weights: Vec<f32>,
    /// What the current output row uses.
    taps: Vec<Taps>,
    /// The input with its padding on the left and right.
    padded: Buffer,
}

/// Adjacent taps (undilated if several), and where the first output of the current row finds them.
#[derive(Debug, Clone, Copy)]
struct Taps {
    /// Index of the first tap in a filter.
    first: usize,
    /// Input pixel under it.
    pixel: usize,
}

/// Where a tile of output starts, and what it uses.
#[derive(Clone, Copy)]
struct Tile<'a> {
    channel: usize,
    y: usize,
    x: usize,
    taps: &'a [Taps],
    weights: &'a [f32],
}

impl DirectConv {
    /// Overwrites the outputs of one group with the correlation.
    #[inline(always)]
    pub(crate) fn run<S: Simd>(
        &self,
        simd: S,
        input: &[S::f32s],
        weight: &[f32],
        bias: Option<&[f32]>,
        scratch: &mut Scratch,
        output: &mut [S::f32s],
    ) {
        let Scratch { weights, taps, padded } = scratch;
        weights.clear();
        let mut channel = 0;
        while channel < self.out_channels {
            let tile = self.tile_channels::<S>(channel);
            self.pack(weight, channel, tile, weights);
            channel += tile;
        }
        // With columns of zeros on the left and right, tiles at the edge are like all others.
        let reach = self.taps[1].saturating_sub(1) * self.dilation[1] + 1;
        let last = (self.columns.max(self.tile_pixels()) - 1) * self.step + reach;
        let left = (-self.origin[1]).max(0) as usize;
        let right = (last as isize + self.origin[1] - self.width as isize).max(0) as usize;
        let wide = Self {
            width: left + self.width + right,
            origin: [self.origin[0], self.origin[1] + left as isize],
            ..*self
        };
        let input = if wide.width == self.width {
            input
        } else {
            let padded = vectors_mut::<S>(padded.room(self.channels * self.height * wide.width * LANES));
            pad_columns(simd, input, padded, [left, self.width, right].map(|columns| columns * parts::<S>()));
            padded
        };
        // A constant step, with three adjacent taps at a time, leaves one bounds check for all their pixels.
        match (self.step, self.taps[1] % 3) {
            (1, 0) if self.dilation[1] == 1 => wide.rows::<S, 3>(simd, 1, input, weights, bias, taps, output),
            (1, _) => wide.rows::<S, 1>(simd, 1, input, weights, bias, taps, output),
            (step, _) => wide.rows::<S, 1>(simd, step, input, weights, bias, taps, output),
        }
    }

    /// Pixels in a tile.
    #[inline(always)]
    fn tile_pixels(&self) -> usize {
        if self.out_channels == 1 { DEPTHWISE_PIXELS } else { PIXELS }
    }

    /// Channels in the tile that starts with `channel`. Those past the last have zero weights and are not written.
    #[inline(always)]
    fn tile_channels<S: Simd>(&self, channel: usize) -> usize {
        match self.out_channels - channel {
            _ if self.out_channels == 1 => 1,
            8.. if S::REGISTER_COUNT >= 32 => 8,
            _ => 4,
        }
    }

    /// Appends the weights of a tile.
    #[inline(always)]
    fn pack(&self, weight: &[f32], channel: usize, tile: usize, packed: &mut Vec<f32>) {
        let [rows, columns] = self.taps;
        let start = packed.len();
        packed.resize(start + self.channels * rows * columns * tile, 0.0);
        let packed = &mut packed[start..];
        for o in 0..tile.min(self.out_channels - channel) {
            let filter = &weight[(channel + o) * self.weight_out..];
            let mut places = packed.iter_mut().skip(o).step_by(tile);
            for c in 0..self.channels {
                for i in 0..rows as isize {
                    let first = (c * self.weight_in + self.tap_first) as isize + i * self.tap_strides[0];
                    for (j, place) in (0..columns as isize).zip(&mut places) {
                        *place = filter[(first + j * self.tap_strides[1]) as usize];
                    }
                }
            }
        }
    }

    /// Lists the taps of output row `y` that are on rows of the input, K side by side.
    #[inline(always)]
    fn list<const K: usize>(&self, y: usize, taps: &mut Vec<Taps>) {
        let [rows, columns] = self.taps;
        let top = (y * self.step) as isize + self.origin[0];
        taps.clear();
        let [down, across] = self.dilation;
        let inside = taps_inside(top, rows, down, self.height);
        for c in 0..self.channels {
            for i in inside.clone() {
                let row = c * self.height + (top + (i * down) as isize) as usize;
                let (first, pixel) = ((c * rows + i) * columns, row * self.width + self.origin[1] as usize);
                taps.extend(
                    (0..columns).step_by(K).map(|j| Taps { first: first + j, pixel: pixel + j * across }),
                );
            }
        }
    }

    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "split from its only caller for the constants")]
    fn rows<S: Simd, const K: usize>(
        &self,
        simd: S,
        step: usize,
        input: &[S::f32s],
        weights: &[f32],
        bias: Option<&[f32]>,
        taps: &mut Vec<Taps>,
        output: &mut [S::f32s],
    ) {
        let filter = self.channels * self.taps[0] * self.taps[1];
        let pixels = self.tile_pixels();
        for y in 0..self.rows {
            self.list::<K>(y, taps);
            // The last tile of a row overlaps the one before it instead of going past the end.
            for x in (0..self.columns).step_by(pixels) {
                let x = x.min(self.columns.saturating_sub(pixels));
                let mut channel = 0;
                while channel < self.out_channels {
                    let tile = Tile { channel, y, x, taps, weights: &weights[channel * filter..] };
                    channel += match self.tile_channels::<S>(channel) {
                        1 => self.tile::<S, 1, DEPTHWISE_PIXELS, K>(simd, step, tile, input, bias, output),
                        8 => self.tile::<S, 8, PIXELS, K>(simd, step, tile, input, bias, output),
                        _ => self.tile::<S, 4, PIXELS, K>(simd, step, tile, input, bias, output),
                    };
                }
            }
        }
    }

    /// O channels of P pixels. Returns O.
    #[inline(always)]
    fn tile<S: Simd, const O: usize, const P: usize, const K: usize>(
        &self,
        simd: S,
        step: usize,
        tile: Tile,
        input: &[S::f32s],
        bias: Option<&[f32]>,
        output: &mut [S::f32s],
    ) -> usize {
        let Tile { channel, y, x, .. } = tile;
        let (channels, columns) = (O.min(self.out_channels - channel), P.min(self.columns));
        let mut biases = [0.0; O];
        if let Some(bias) = bias {
            biases[..channels].copy_from_slice(&bias[channel..][..channels]);
        }
        for part in 0..parts::<S>() {
            let input = &input[x * step * parts::<S>() + part..];
            let sums: [[S::f32s; P]; O] = tile.sums::<S, O, P, K>(simd, step, input, biases);
            let [plane, row, column] = self.out_strides;
            let first = self.out_first + y * row + x * column + channel * plane;
            for o in 0..O {
                for p in 0..P {
                    if o < channels && p < columns {
                        output[(first + o * plane + p * column) * parts::<S>() + part] = sums[o][p];
                    }
                }
            }
        }
        O
    }
}

impl Tile<'_> {
    /// O channels × P pixels of output, summed in registers: accumulators, pixels and weights fit the 32 (or 16)
    /// vector registers, with one or two to spare, as the compiler loads ahead. `input` starts at the tile's first
    /// column.
    #[inline(always)]
    fn sums<S: Simd, const O: usize, const P: usize, const K: usize>(
        &self,
        simd: S,
        step: usize,
        input: &[S::f32s],
        biases: [f32; O],
    ) -> [[S::f32s; P]; O] {
        let parts = parts::<S>();
        let weights = self.weights.as_chunks::<O>().0;
        let zero = simd.splat_f32s(0.0);
        let mut sums = [[zero; P]; O];
        for o in 0..O {
            sums[o] = [simd.splat_f32s(biases[o]); P];
        }
        for taps in self.taps {
            let weights = &weights[taps.first..][..K];
            let pixels = &input[taps.pixel * parts..][..((P - 1) * step + K - 1) * parts + 1];
            for k in 0..K {
                let mut column = [zero; P];
                for p in 0..P {
                    column[p] = pixels[(p * step + k) * parts];
                }
                for o in 0..O {
                    let weight = simd.splat_f32s(weights[k][o]);
                    for p in 0..P {
                        sums[o][p] = simd.mul_add_e_f32s(weight, column[p], sums[o][p]);
                    }
                }
            }
        }
        sums
    }
}

/// Copies rows of `input` to `padded`, with zeros left and right; lengths in vectors.
#[inline(always)]
fn pad_columns<S: Simd>(
    simd: S,
    input: &[S::f32s],
    padded: &mut [S::f32s],
    [left, width, right]: [usize; 3],
) {
    let zero = simd.splat_f32s(0.0);
    for (row, padded) in input.chunks_exact(width).zip(padded.chunks_exact_mut(left + width + right)) {
        padded[..left].fill(zero);
        padded[left..][..width].copy_from_slice(row);
        padded[left + width..].fill(zero);
    }
}
