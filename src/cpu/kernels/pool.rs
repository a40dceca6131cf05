//! Max and average pooling.

use super::{LANES, dispatch, parts, taps_inside, vectors, vectors_mut};
use pulp::{Arch, Simd};

/// The shape of a 2-D pooling; pairs are (rows, columns).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PoolDims {
    /// Channels of input and output.
    pub(crate) channels: usize,
    /// Rows of the input.
    pub(crate) in_height: usize,
    /// Columns of the input.
    pub(crate) in_width: usize,
    /// Rows of the output: `(in_height + 2·padding - kernel) / stride + 1`.
    pub(crate) out_height: usize,
    /// Columns of the output.
    pub(crate) out_width: usize,
    /// Sides of the window.
    pub(crate) kernel: [usize; 2],
    /// Pixels from one window to the next.
    pub(crate) stride: [usize; 2],
    /// Pixels around the image, at most half the window: -∞ for the maximum, 0 for the average.
    pub(crate) padding: [usize; 2],
}

impl PoolDims {
    /// Calls `visit` with every window's output vector and its taps' input vectors, in row-major order.
    #[inline(always)]
    fn windows<S: Simd>(&self, mut visit: impl FnMut(usize, Window)) {
        let [kernel_h, kernel_w] = self.kernel;
        let parts = parts::<S>();
        for plane in 0..self.channels {
            for y in 0..self.out_height {
                let top = (y * self.stride[0]) as isize - self.padding[0] as isize;
                let rows = taps_inside(top, kernel_h, 1, self.in_height);
                let row = plane * self.in_height + (top + rows.start as isize) as usize;
                for x in 0..self.out_width {
                    let left = (x * self.stride[1]) as isize - self.padding[1] as isize;
                    let columns = taps_inside(left, kernel_w, 1, self.in_width);
                    let column = (left + columns.start as isize) as usize;
                    let output = (plane * self.out_height + y) * self.out_width + x;
                    for part in 0..parts {
                        let window = Window {
                            first: (row * self.in_width + column) * parts + part,
                            rows: rows.len(),
                            columns: columns.len(),
                            row_step: self.in_width * parts,
                            column_step: parts,
                        };
                        visit(output * parts + part, window);
                    }
                }
            }
        }
    }

    /// Whether any pixel can be in two windows.
    fn overlaps(&self) -> bool {
        self.stride[0] < self.kernel[0] || self.stride[1] < self.kernel[1]
    }

    /// Panics unless the slices of a call have the right lengths.
    fn check(&self, input: usize, output: usize) {
        assert_eq!(input, self.channels * self.in_height * self.in_width * LANES);
        assert_eq!(output, self.channels * self.out_height * self.out_width * LANES);
        assert!((0..2).all(|axis| 2 * self.padding[axis] <= self.kernel[axis]));
    }
}

/// The part of a window inside the image, in vectors.
#[derive(Clone, Copy)]
struct Window {
    first: usize,
    rows: usize,
    columns: usize,
    row_step: usize,
    column_step: usize,
}

impl Window {
    /// Calls `visit` with each tap's vector, in row-major order.
    #[inline(always)]
    fn taps(self, mut visit: impl FnMut(usize)) {
        if (self.rows, self.columns) == (2, 2) {
            // The by far most common window, unrolled.
            let next = self.first + self.row_step;
            let taps = [self.first, self.first + self.column_step, next, next + self.column_step];
            return taps.into_iter().for_each(visit);
        }
        for i in 0..self.rows {
            for j in 0..self.columns {
                visit(self.first + i * self.row_step + j * self.column_step);
            }
        }
    }
}

/// The maximum of every window. `input` is `[channels, in_height, in_width, 16]`, `output`
/// `[channels, out_height, out_width, 16]`.
pub(crate) fn max_pool2d(arch: Arch, dims: &PoolDims, input: &[f32], output: &mut [f32]) {
    dims.check(input.len(), output.len());
    dispatch!(arch, max(dims: &'a PoolDims, input: &'a [f32], output: &'a mut [f32]));
}

#[inline(always)]
fn max<S: Simd>(simd: S, dims: &PoolDims, input: &[f32], output: &mut [f32]) {
    let (input, output) = (vectors::<S>(input), vectors_mut::<S>(output));
    dims.windows::<S>(
        #[inline(always)]
        |out, window| {
            let mut best = input[window.first];
            window.taps(
                #[inline(always)]
                |tap| best = simd.max_f32s(best, input[tap]),
            );
            output[out] = best;
        },
    );
}

/// The gradient of max pooling's input: that of a window goes to its first maximum in row-major order. `input` and
/// `grad_input`, which is overwritten, are `[channels, in_height, in_width, 16]`, `grad_output`
/// `[channels, out_height, out_width, 16]`.
pub(crate) fn max_pool2d_grad(
    arch: Arch,
    dims: &PoolDims,
    input: &[f32],
    grad_output: &[f32],
    grad_input: &mut [f32],
) {
    dims.check(input.len(), grad_output.len());
    assert_eq!(grad_input.len(), input.len());
    dispatch!(
        arch,
        max_grad(
            dims: &'a PoolDims,
            input: &'a [f32],
            grad_output: &'a [f32],
            grad_input: &'a mut [f32],
        )
    );
}

#[inline(always)]
fn max_grad<S: Simd>(simd: S, dims: &PoolDims, input: &[f32], grad_output: &[f32], grad_input: &mut [f32]) {
    grad_input.fill(0.0);
    let zero = simd.splat_f32s(0.0);
    let (input, grad) = (vectors::<S>(input), vectors::<S>(grad_output));
    let output = vectors_mut::<S>(grad_input);
    let overlaps = dims.overlaps();
    dims.windows::<S>(
        #[inline(always)]
        |out, window| {
            let mut best = input[window.first];
            window.taps(
                #[inline(always)]
                |tap| best = simd.max_f32s(best, input[tap]),
            );
            // The first maximum takes the gradient and leaves none for the rest.
            let mut left = grad[out];
            window.taps(
                #[inline(always)]
                |tap| {
                    let hit = simd.equal_f32s(input[tap], best);
                    let taken = simd.select_f32s(hit, left, zero);
                    left = simd.select_f32s(hit, zero, left);
                    output[tap] = if overlaps { simd.add_f32s(output[tap], taken) } else { taken };
                },
            );
        },
    );
}

/// The mean of every window, padding included. `input` is `[channels, in_height, in_width, 16]`, `output`
/// `[channels, out_height, out_width, 16]`.
pub(crate) fn avg_pool2d(arch: Arch, dims: &PoolDims, input: &[f32], output: &mut [f32]) {
    dims.check(input.len(), output.len());
    dispatch!(arch, avg(dims: &'a PoolDims, input: &'a [f32], output: &'a mut [f32]));
}

#[inline(always)]
fn avg<S: Simd>(simd: S, dims: &PoolDims, input: &[f32], output: &mut [f32]) {
    let area = simd.splat_f32s((dims.kernel[0] * dims.kernel[1]) as f32);
    let (input, output) = (vectors::<S>(input), vectors_mut::<S>(output));
    dims.windows::<S>(
        #[inline(always)]
        |out, window| {
            let mut sum = simd.splat_f32s(0.0);
            window.taps(
                #[inline(always)]
                |tap| sum = simd.add_f32s(sum, input[tap]),
            );
            output[out] = simd.div_f32s(sum, area);
        },
    );
}

/// The gradient of average pooling's input. `grad_output` is `[channels, out_height, out_width, 16]`; `grad_input`,
/// `[channels, in_height, in_width, 16]`, is overwritten.
pub(crate) fn avg_pool2d_grad(arch: Arch, dims: &PoolDims, grad_output: &[f32], grad_input: &mut [f32]) {
    dims.check(grad_input.len(), grad_output.len());
    dispatch!(
        arch,
        avg_grad(dims: &'a PoolDims, grad_output: &'a [f32], grad_input: &'a mut [f32])
    );
}

#[inline(always)]
fn avg_grad<S: Simd>(simd: S, dims: &PoolDims, grad_output: &[f32], grad_input: &mut [f32]) {
    grad_input.fill(0.0);
    let area = simd.splat_f32s((dims.kernel[0] * dims.kernel[1]) as f32);
    let (grad, output) = (vectors::<S>(grad_output), vectors_mut::<S>(grad_input));
    let overlaps = dims.overlaps();
    dims.windows::<S>(
        #[inline(always)]
        |out, window| {
            let share = simd.div_f32s(grad[out], area);
            window.taps(
                #[inline(always)]
                |tap| {
                    output[tap] = if overlaps { simd.add_f32s(output[tap], share) } else { share };
                },
            );
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::kernels::testing::{Exact, archs, random};

    /// Kernels, strides and paddings; overlapping windows, adjacent windows and windows with gaps.
    const WINDOWS: [[[usize; 2]; 3]; 8] = [
        [[1, 1], [1, 1], [0, 0]],
        [[2, 2], [2, 2], [0, 0]],
        [[2, 2], [1, 1], [1, 1]],
        [[3, 3], [2, 2], [1, 1]],
        [[3, 2], [1, 2], [1, 0]],
        [[2, 3], [3, 3], [0, 1]],
        [[5, 5], [3, 3], [2, 2]],
        [[7, 9], [7, 9], [0, 0]],
    ];

    fn shapes() -> impl Iterator<Item = PoolDims> {
        WINDOWS.into_iter().map(|[kernel, stride, padding]| {
            let (channels, in_height, in_width) = (3, 7, 9);
            let out_height = (in_height + 2 * padding[0] - kernel[0]) / stride[0] + 1;
            let out_width = (in_width + 2 * padding[1] - kernel[1]) / stride[1] + 1;
            PoolDims { channels, in_height, in_width, out_height, out_width, kernel, stride, padding }
        })
    }

    /// Calls `visit` with each output index and the input indices of its window.
    fn for_windows(dims: &PoolDims, mut visit: impl FnMut(usize, &[usize])) {
        let plane = dims.out_height * dims.out_width;
        for out in 0..dims.channels * plane * LANES {
            let (pixel, lane) = (out / LANES, out % LANES);
            let (c, y, x) = (pixel / plane, pixel % plane / dims.out_width, pixel % dims.out_width);
            let mut taps = Vec::new();
            for i in 0..dims.kernel[0] {
                for j in 0..dims.kernel[1] {
                    let row = (y * dims.stride[0] + i).wrapping_sub(dims.padding[0]);
                    let column = (x * dims.stride[1] + j).wrapping_sub(dims.padding[1]);
                    if row < dims.in_height && column < dims.in_width {
                        let pixel = (c * dims.in_height + row) * dims.in_width + column;
                        taps.push(pixel * LANES + lane);
                    }
                }
            }
            visit(out, &taps);
        }
    }

    fn data(dims: &PoolDims) -> (Vec<f32>, Vec<f32>) {
        let input = random(1, dims.channels * dims.in_height * dims.in_width * LANES);
        // Few distinct values, so that windows have several maxima.
        let input = input.iter().map(|x| (x * 3.0).round()).collect();
        (input, random(2, dims.channels * dims.out_height * dims.out_width * LANES))
    }

    #[test]
    fn maxima_match_the_definition() {
        for arch in archs() {
            for dims in shapes() {
                let (x, dy) = data(&dims);
                let (mut y, mut dx) = (vec![f32::NAN; dy.len()], vec![f32::NAN; x.len()]);
                max_pool2d(arch, &dims, &x, &mut y);
                max_pool2d_grad(arch, &dims, &x, &dy, &mut dx);
                let mut want = vec![Exact::default(); x.len()];
                for_windows(&dims, |out, taps| {
                    let best = taps.iter().copied().reduce(|a, b| if x[b] > x[a] { b } else { a });
                    let best = best.expect("a window touches the image");
                    assert_eq!(y[out], x[best], "{dims:?}");
                    want[best].add(dy[out], 1.0);
                });
                want.iter().zip(&dx).for_each(|(want, &dx)| want.check(dx, &dims));
            }
        }
    }

    #[test]
    fn means_match_f64() {
        for arch in archs() {
            for dims in shapes() {
                let (x, dy) = data(&dims);
                let (mut y, mut dx) = (vec![f32::NAN; dy.len()], vec![f32::NAN; x.len()]);
                avg_pool2d(arch, &dims, &x, &mut y);
                avg_pool2d_grad(arch, &dims, &dy, &mut dx);
                let share = 1.0 / (dims.kernel[0] * dims.kernel[1]) as f32;
                let mut want = vec![Exact::default(); x.len()];
                for_windows(&dims, |out, taps| {
                    let mut mean = Exact::default();
                    for &tap in taps {
                        mean.add(x[tap], share);
                        want[tap].add(dy[out], share);
                    }
                    mean.check(y[out], &dims);
                });
                want.iter().zip(&dx).for_each(|(want, &dx)| want.check(dx, &dims));
            }
        }
    }
}
