//! Convolution: the layer itself and the gradient of its input.

use super::gather::{Gather, Scratch};
use super::{LANES, dispatch, parts, vectors, vectors_mut};
use pulp::{Arch, Simd};
use std::cell::RefCell;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The shape of a 2-D convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConvDims {
    /// Channels of the input.
    pub(crate) in_channels: usize,
    /// Rows of the input.
    pub(crate) in_height: usize,
    /// Columns of the input.
    pub(crate) in_width: usize,
    /// Channels of the output.
    pub(crate) out_channels: usize,
    /// Rows of the output: `(in_height + 2·padding - kernel) / stride + 1`.
    pub(crate) out_height: usize,
    /// Columns of the output.
    pub(crate) out_width: usize,
    /// Side of the square kernel.
    pub(crate) kernel: usize,
    /// Pixels from one window to the next.
    pub(crate) stride: usize,
    /// Zeros on each side of the image.
    pub(crate) padding: usize,
    /// Groups of channels that do not see each other; divides both channel counts.
    pub(crate) groups: usize,
}

impl ConvDims {
    /// The same shape, with the image drawn out to one row where pixels do not mix.
    pub(crate) fn flattened(mut self) -> Self {
        if self.kernel == 1 && self.stride == 1 && self.padding == 0 {
            (self.in_height, self.in_width) = (1, self.in_height * self.in_width);
            (self.out_height, self.out_width) = (1, self.out_height * self.out_width);
        }
        self
    }

    /// Input channels that a filter sees.
    pub(crate) fn group_in(&self) -> usize {
        self.in_channels / self.groups
    }

    /// Filters of a group.
    pub(crate) fn group_out(&self) -> usize {
        self.out_channels / self.groups
    }

    /// Pixels of an input channel.
    pub(crate) fn in_plane(&self) -> usize {
        self.in_height * self.in_width
    }

    /// Pixels of an output channel.
    pub(crate) fn out_plane(&self) -> usize {
        self.out_height * self.out_width
    }

    /// Panics unless the slices of a call have the right lengths.
    pub(crate) fn check(&self, input: usize, weight: usize, bias: Option<usize>, output: usize) {
        let filter = self.group_in() * self.kernel * self.kernel;
        assert_eq!(input, self.in_channels * self.in_plane() * LANES);
        assert_eq!(weight, self.out_channels * filter);
        assert!(bias.is_none_or(|bias| bias == self.out_channels));
        assert_eq!(output, self.out_channels * self.out_plane() * LANES);
    }
}

/// Convolves a block.
///
/// `input` is `[in_channels, in_height, in_width, 16]`, `weight` `[out_channels, in_channels / groups, kernel, kernel]`,
/// `bias` `[out_channels]`, `output` `[out_channels, out_height, out_width, 16]`.
pub(crate) fn conv2d_forward(
    arch: Arch,
    dims: &ConvDims,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    output: &mut [f32],
) {
    dims.check(input.len(), weight.len(), bias.map(<[f32]>::len), output.len());
    let dims = dims.flattened();
    SCRATCH.with_borrow_mut(|scratch| {
        dispatch!(
            arch,
            forward(
                dims: ConvDims,
                input: &'a [f32],
                weight: &'a [f32],
                bias: Option<&'a [f32]>,
                scratch: &'a mut Scratch,
                output: &'a mut [f32],
            )
        );
    });
}

#[inline(always)]
fn forward<S: Simd>(
    simd: S,
    dims: ConvDims,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    scratch: &mut Scratch,
    output: &mut [f32],
) {
    let area = dims.kernel * dims.kernel;
    let gather = Gather {
        channels: dims.group_in(),
        height: dims.in_height,
        width: dims.in_width,
        out_channels: dims.group_out(),
        rows: dims.out_height,
        columns: dims.out_width,
        taps: [dims.kernel; 2],
        step: dims.stride,
        origin: [-(dims.padding as isize); 2],
        out_strides: [dims.out_plane(), dims.out_width, 1],
        out_first: 0,
        weight_out: dims.group_in() * area,
        weight_in: area,
        tap_strides: [dims.kernel as isize, 1],
        tap_first: 0,
    };
    let inputs = vectors::<S>(input).chunks_exact(dims.group_in() * dims.in_plane() * parts::<S>());
    let weights = weight.chunks_exact(gather.weight_out * dims.group_out());
    let outputs =
        vectors_mut::<S>(output).chunks_exact_mut(dims.group_out() * dims.out_plane() * parts::<S>());
    for (g, ((input, weight), output)) in inputs.zip(weights).zip(outputs).enumerate() {
        let bias = bias.map(|bias| &bias[g * dims.group_out()..]);
        gather.run(simd, input, weight, bias, scratch, output);
    }
}

/// The gradient of a convolution's input, for a block.
///
/// `grad_output` is `[out_channels, out_height, out_width, 16]`, `weight`
/// `[out_channels, in_channels / groups, kernel, kernel]`; `grad_input`, `[in_channels, in_height, in_width, 16]`, is
/// overwritten.
pub(crate) fn conv2d_grad_input(
    arch: Arch,
    dims: &ConvDims,
    grad_output: &[f32],
    weight: &[f32],
    grad_input: &mut [f32],
) {
    dims.check(grad_input.len(), weight.len(), None, grad_output.len());
    let dims = dims.flattened();
    SCRATCH.with_borrow_mut(|scratch| {
        dispatch!(
            arch,
            backward(
                dims: ConvDims,
                grad_output: &'a [f32],
                weight: &'a [f32],
                scratch: &'a mut Scratch,
                grad_input: &'a mut [f32],
            )
        );
    });
}

/// Input pixels whose coordinate has one remainder modulo the stride take the same taps, every stride-th one. For each
/// pair of remainders the gradient is a correlation of stride 1 with these taps, turned round.
#[inline(always)]
fn backward<S: Simd>(
    simd: S,
    dims: ConvDims,
    grad_output: &[f32],
    weight: &[f32],
    scratch: &mut Scratch,
    grad_input: &mut [f32],
) {
    let ConvDims { kernel, stride, in_width, .. } = dims;
    let area = kernel * kernel;
    let filter = dims.group_in() * area;
    for phase in 0..stride * stride {
        let rows = Phase::new(&dims, dims.in_height, phase / stride);
        let columns = Phase::new(&dims, in_width, phase % stride);
        let gather = Gather {
            channels: dims.group_out(),
            height: dims.out_height,
            width: dims.out_width,
            out_channels: dims.group_in(),
            rows: rows.count,
            columns: columns.count,
            taps: [rows.taps, columns.taps],
            step: 1,
            origin: [rows.origin, columns.origin],
            out_strides: [dims.in_plane(), stride * in_width, stride],
            out_first: rows.first * in_width + columns.first,
            weight_out: area,
            weight_in: filter,
            tap_strides: [-((stride * kernel) as isize), -(stride as isize)],
            tap_first: rows.last_tap * kernel + columns.last_tap,
        };
        let grads =
            vectors::<S>(grad_output).chunks_exact(dims.group_out() * dims.out_plane() * parts::<S>());
        let weights = weight.chunks_exact(filter * dims.group_out());
        let outputs =
            vectors_mut::<S>(grad_input).chunks_exact_mut(dims.group_in() * dims.in_plane() * parts::<S>());
        for ((grad, weight), output) in grads.zip(weights).zip(outputs) {
            gather.run(simd, grad, weight, None, scratch, output);
        }
    }
}

/// Along one axis, the input pixels `first + q·stride`, `q` in `0..count`, that are `phase` away from a window's start
/// modulo the stride. Taps `phase + t·stride`, `t` in `0..taps`, reach them, from output pixel
/// `q + origin + taps - 1 - t`.
struct Phase {
    first: usize,
    count: usize,
    taps: usize,
    last_tap: usize,
    origin: isize,
}

impl Phase {
    fn new(dims: &ConvDims, len: usize, phase: usize) -> Self {
        let ConvDims { kernel, stride, padding, .. } = *dims;
        let first = (phase + stride - padding % stride) % stride;
        let taps = kernel.saturating_sub(phase).div_ceil(stride);
        Self {
            first,
            count: len.saturating_sub(first).div_ceil(stride),
            taps,
            last_tap: phase + taps.saturating_sub(1) * stride,
            origin: ((first + padding - phase) / stride) as isize + 1 - taps as isize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::kernels::conv2d_grad_weight;
    use crate::cpu::kernels::testing::{Exact, archs, random};

    /// Channels in, channels out, groups: every tile size and its remainders, plain, grouped, depthwise.
    const CHANNELS: [[usize; 3]; 9] = [
        [1, 8, 1],
        [3, 5, 1],
        [5, 3, 1],
        [8, 16, 1],
        [7, 12, 1],
        [12, 7, 1],
        [6, 4, 2],
        [5, 5, 5],
        [2, 6, 2],
    ];

    /// All of these with all windows, on images narrower and wider than a tile.
    fn shapes() -> impl Iterator<Item = ConvDims> {
        let windows = [1, 2, 3, 5].into_iter().flat_map(|kernel| {
            (1..=3).flat_map(move |stride| (0..=2).map(move |padding| [kernel, stride, padding]))
        });
        windows.enumerate().flat_map(|(i, [kernel, stride, padding])| {
            let (in_height, in_width) = (5 + i % 3, if i % 2 == 0 { 9 } else { 5 });
            CHANNELS.into_iter().map(move |[in_channels, out_channels, groups]| ConvDims {
                in_channels,
                in_height,
                in_width,
                out_channels,
                out_height: (in_height + 2 * padding - kernel) / stride + 1,
                out_width: (in_width + 2 * padding - kernel) / stride + 1,
                kernel,
                stride,
                padding,
                groups,
            })
        })
    }

    /// Calls `visit` with the indices (output, input, weight) of every product.
    fn for_products(d: &ConvDims, mut visit: impl FnMut(usize, usize, usize)) {
        let out_len = d.out_channels * d.out_plane();
        let filter = d.group_in() * d.kernel * d.kernel;
        for out in 0..out_len {
            let (o, y, x) = (out / d.out_plane(), out % d.out_plane() / d.out_width, out % d.out_width);
            for tap in 0..filter {
                let (c, i, j) = (tap / d.kernel / d.kernel, tap / d.kernel % d.kernel, tap % d.kernel);
                let c = o / d.group_out() * d.group_in() + c;
                let row = (y * d.stride + i).wrapping_sub(d.padding);
                let column = (x * d.stride + j).wrapping_sub(d.padding);
                if row < d.in_height && column < d.in_width {
                    let input = c * d.in_plane() + row * d.in_width + column;
                    for lane in 0..LANES {
                        visit(out * LANES + lane, input * LANES + lane, o * filter + tap);
                    }
                }
            }
        }
    }

    #[test]
    fn every_direction_matches_f64() {
        for arch in archs() {
            for dims in shapes() {
                let x = random(1, dims.in_channels * dims.in_plane() * LANES);
                let dy = random(2, dims.out_channels * dims.out_plane() * LANES);
                let area = dims.kernel * dims.kernel;
                let w = random(3, dims.out_channels * dims.group_in() * area);
                let b = random(4, dims.out_channels);
                let [mut y, mut dx, mut dw, mut db] =
                    [&dy, &x, &w, &b].map(|like| vec![f32::NAN; like.len()]);
                conv2d_forward(arch, &dims, &x, &w, Some(&b), &mut y);
                conv2d_grad_input(arch, &dims, &dy, &w, &mut dx);
                conv2d_grad_weight(arch, &dims, &x, &dy, &mut dw, Some(&mut db));

                let [mut want_y, mut want_dx, mut want_dw, mut want_db] =
                    [&dy, &x, &w, &b].map(|like| vec![Exact::default(); like.len()]);
                for out in 0..dy.len() {
                    let o = out / LANES / dims.out_plane();
                    want_y[out].add(b[o], 1.0);
                    want_db[o].add(dy[out], 1.0);
                }
                for_products(&dims, |out, input, weight| {
                    want_y[out].add(x[input], w[weight]);
                    want_dx[input].add(dy[out], w[weight]);
                    want_dw[weight].add(dy[out], x[input]);
                });
                for (name, want, got) in [
                    ("output", want_y, y),
                    ("input", want_dx, dx),
                    ("weight", want_dw, dw),
                    ("bias", want_db, db),
                ] {
                    for (want, got) in want.iter().zip(got) {
                        want.check(got, &(name, arch, dims));
                    }
                }
            }
        }
    }

    #[test]
    fn bias_is_optional() {
        let dims = shapes().next().expect("there are shapes");
        let x = random(1, dims.in_channels * dims.in_plane() * LANES);
        let w = random(2, dims.out_channels * dims.group_in() * dims.kernel * dims.kernel);
        let mut y = [vec![1.0; dims.out_channels * dims.out_plane() * LANES], vec![]];
        y[1] = vec![2.0; y[0].len()];
        let zeros = vec![0.0; dims.out_channels];
        conv2d_forward(Arch::new(), &dims, &x, &w, None, &mut y[0]);
        conv2d_forward(Arch::new(), &dims, &x, &w, Some(&zeros), &mut y[1]);
        assert_eq!(y[0], y[1]);
    }
}
