//! Convolution: the layer itself and the gradient of its input.

use super::direct_conv::{DirectConv, Scratch};
use super::linear::{FEWEST_CHANNELS, Matrix};
use super::{LANES, dispatch, parts, vectors, vectors_mut};
use crate::layers::window::{Axis, Conv};
use crate::tensor::Shape;
use pulp::{Arch, Simd};
use std::cell::RefCell;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The same convolution, with the image flattened to one row where pixels don't mix.
pub(super) fn flattened(mut conv: Conv) -> Conv {
    if conv.is_pointwise() {
        for shape in [&mut conv.input, &mut conv.output] {
            *shape = Shape::new(shape.channels, 1, shape.area());
        }
    }
    conv
}

/// True for a product with a matrix that is large enough for kernels of its own.
pub(crate) fn is_matrix(conv: &Conv) -> bool {
    conv.is_pointwise()
        && conv.groups == 1
        && conv.output.area() == 1
        && conv.input.channels.min(conv.output.channels) >= FEWEST_CHANNELS
}

/// Panics unless the slices of a call have the right lengths.
pub(super) fn check(conv: &Conv, input: usize, weight: usize, bias: Option<usize>, output: usize) {
    assert_eq!(input, conv.input.len() * LANES);
    assert_eq!(weight, conv.output.channels * conv.filter());
    assert!(bias.is_none_or(|bias| bias == conv.output.channels));
    assert_eq!(output, conv.output.len() * LANES);
}

/// Convolves a block.
///
/// `input` is `[in_channels, in_height, in_width, 16]`, `weight` `[out_channels, in_channels / groups, height, width]`,
/// `bias` `[out_channels]`, `output` `[out_channels, out_height, out_width, 16]`.
pub(crate) fn conv2d_forward(
    arch: Arch,
    conv: &Conv,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    output: &mut [f32],
) {
    check(conv, input.len(), weight.len(), bias.map(<[f32]>::len), output.len());
    let conv = flattened(*conv);
    SCRATCH.with_borrow_mut(|scratch| {
        dispatch!(
            arch,
            forward(
                conv: Conv,
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
    conv: Conv,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    scratch: &mut Scratch,
    output: &mut [f32],
) {
    if is_matrix(&conv) {
        let [inputs, outputs] = [conv.input.channels, conv.output.channels];
        let matrix = Matrix { weight, inputs, outputs, transposed: false };
        return matrix.multiply(simd, vectors::<S>(input), bias, vectors_mut::<S>(output));
    }
    let [top, _, left, _] = conv.padding;
    let gather = DirectConv {
        channels: conv.group_in(),
        height: conv.input.height,
        width: conv.input.width,
        out_channels: conv.group_out(),
        rows: conv.output.height,
        columns: conv.output.width,
        taps: conv.kernel,
        dilation: conv.dilation,
        step: conv.stride,
        origin: [-(top as isize), -(left as isize)],
        out_strides: [conv.output.area(), conv.output.width, 1],
        out_first: 0,
        weight_out: conv.filter(),
        weight_in: conv.taps(),
        tap_strides: [conv.kernel[1] as isize, 1],
        tap_first: 0,
    };
    let inputs = vectors::<S>(input).chunks_exact(conv.group_in() * conv.input.area() * parts::<S>());
    let weights = weight.chunks_exact(gather.weight_out * conv.group_out());
    let outputs =
        vectors_mut::<S>(output).chunks_exact_mut(conv.group_out() * conv.output.area() * parts::<S>());
    for (g, ((input, weight), output)) in inputs.zip(weights).zip(outputs).enumerate() {
        let bias = bias.map(|bias| &bias[g * conv.group_out()..]);
        gather.run(simd, input, weight, bias, scratch, output);
    }
}

/// The gradient of a convolution's input for a block.
///
/// `grad_output` is `[out_channels, out_height, out_width, 16]`, `weight`
/// `[out_channels, in_channels / groups, height, width]`; `grad_input`, `[in_channels, in_height, in_width, 16]`, is
/// overwritten.
pub(crate) fn conv2d_grad_input(
    arch: Arch,
    conv: &Conv,
    grad_output: &[f32],
    weight: &[f32],
    grad_input: &mut [f32],
) {
    check(conv, grad_input.len(), weight.len(), None, grad_output.len());
    let conv = flattened(*conv);
    SCRATCH.with_borrow_mut(|scratch| {
        dispatch!(
            arch,
            backward(
                conv: Conv,
                grad_output: &'a [f32],
                weight: &'a [f32],
                scratch: &'a mut Scratch,
                grad_input: &'a mut [f32],
            )
        );
    });
}

/// Input pixels with the same remainder of their coordinate modulo the stride use the same taps, at regular
/// intervals. For each pair of remainders the gradient is a correlation of stride 1 with these taps, reversed.
#[inline(always)]
fn backward<S: Simd>(
    simd: S,
    conv: Conv,
    grad_output: &[f32],
    weight: &[f32],
    scratch: &mut Scratch,
    grad_input: &mut [f32],
) {
    if is_matrix(&conv) {
        let [outputs, inputs] = [conv.input.channels, conv.output.channels];
        let matrix = Matrix { weight, inputs, outputs, transposed: true };
        return matrix.multiply(simd, vectors::<S>(grad_output), None, vectors_mut::<S>(grad_input));
    }
    let Conv { input, output, stride, .. } = conv;
    let [vertical, horizontal] = conv.axes();
    let across = conv.kernel[1];
    for rows in (0..stride).filter_map(|phase| Phase::new(&vertical, phase)) {
        for columns in (0..stride).filter_map(|phase| Phase::new(&horizontal, phase)) {
            let gather = DirectConv {
                channels: conv.group_out(),
                height: output.height,
                width: output.width,
                out_channels: conv.group_in(),
                rows: rows.count,
                columns: columns.count,
                taps: [rows.taps, columns.taps],
                dilation: [rows.dilation, columns.dilation],
                step: 1,
                origin: [rows.origin, columns.origin],
                out_strides: [input.area(), stride * input.width, stride],
                out_first: rows.first * input.width + columns.first,
                weight_out: conv.taps(),
                weight_in: conv.filter(),
                tap_strides: [-((rows.tap_stride * across) as isize), -(columns.tap_stride as isize)],
                tap_first: rows.last_tap * across + columns.last_tap,
            };
            let grads =
                vectors::<S>(grad_output).chunks_exact(conv.group_out() * output.area() * parts::<S>());
            let weights = weight.chunks_exact(conv.filter() * conv.group_out());
            let outputs =
                vectors_mut::<S>(grad_input).chunks_exact_mut(conv.group_in() * input.area() * parts::<S>());
            for ((grad, weight), output) in grads.zip(weights).zip(outputs) {
                gather.run(simd, grad, weight, None, scratch, output);
            }
        }
    }
}

/// Along one axis, the input pixels `first + q·stride`, `q` in `0..count`, at offset `phase` from a window's start
/// modulo the stride. Taps `last_tap - t·tap_stride`, `t` in `0..taps`, reach them, from output pixel
/// `q + origin + t·dilation`.
struct Phase {
    first: usize,
    count: usize,
    taps: usize,
    tap_stride: usize,
    last_tap: usize,
    dilation: usize,
    origin: isize,
}

impl Phase {
    /// `None` if there is no such pixel.
    fn new(axis: &Axis, phase: usize) -> Option<Self> {
        let Axis { input, kernel, stride, dilation, padding: [padding, _] } = *axis;
        let first = (phase + stride - padding % stride) % stride;
        let count = input.checked_sub(first).filter(|&rest| rest > 0)?.div_ceil(stride);
        // Tap i reaches them if i·dilation ≡ phase modulo the stride: if any does, then every (stride / common)-th.
        let common = greatest_common_divisor(stride, dilation);
        let tap_stride = stride / common;
        let first_tap = (0..tap_stride.min(kernel)).find(|tap| tap * dilation % stride == phase);
        let taps = first_tap.map_or(0, |tap| (kernel - tap).div_ceil(tap_stride));
        let last_tap = first_tap.map_or(0, |tap| tap + (taps - 1) * tap_stride);
        // Without a tap, nothing is read.
        let origin = ((first + padding) as isize - (last_tap * dilation) as isize) / stride as isize;
        Some(Self { first, count, taps, tap_stride, last_tap, dilation: dilation / common, origin })
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::kernels::conv2d_grad_weight;
    use crate::cpu::kernels::testing::{Exact, archs, random};

    /// Input channels, output channels, groups: every tile size and its remainders, plain, grouped, depthwise.
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

    /// Kernel, dilation and padding of windows that are not square, with dilations that divide the stride, are
    /// multiples of it or neither, unevenly padded, wider than the image.
    const WINDOWS: [([usize; 2], [usize; 2], [usize; 4]); 9] = [
        ([3, 2], [1, 1], [0, 2, 1, 0]),
        ([1, 4], [1, 1], [0, 0, 2, 1]),
        ([4, 1], [1, 1], [3, 0, 0, 0]),
        ([3, 3], [2, 2], [2, 2, 2, 2]),
        ([2, 3], [3, 2], [1, 3, 4, 0]),
        ([2, 2], [4, 6], [0, 4, 1, 6]),
        ([1, 3], [5, 4], [0, 0, 8, 7]),
        ([7, 13], [1, 1], [6, 5, 9, 12]),
        ([2, 1], [4, 1], [0, 0, 0, 0]),
    ];

    /// All channels with all windows, on images narrower and wider than a tile.
    fn shapes() -> impl Iterator<Item = Conv> {
        let square = [1, 2, 3, 5].into_iter().flat_map(|kernel| {
            (1..=3).flat_map(move |stride| {
                (0..=2).map(move |padding| (([kernel; 2], [1; 2], [padding; 4]), stride))
            })
        });
        let others = WINDOWS.into_iter().flat_map(|window| (1..=4).map(move |stride| (window, stride)));
        square.chain(others).enumerate().flat_map(|(i, ((kernel, dilation, padding), stride))| {
            let size = [5 + i % 3, if i % 2 == 0 { 9 } else { 5 }];
            CHANNELS.into_iter().map(move |[in_channels, out_channels, groups]| {
                let input = Shape::new(in_channels, size[0], size[1]);
                let conv = Conv { input, output: input, kernel, stride, padding, dilation, groups };
                let [height, width] = conv.axes().map(|axis| axis.output().unwrap());
                Conv { output: Shape::new(out_channels, height, width), ..conv }
            })
        })
    }

    /// Linear layers, with whole tiles and parts of tiles.
    fn matrices() -> impl Iterator<Item = Conv> {
        [[32, 32], [48, 34], [37, 53], [100, 33], [784, 64]].into_iter().map(|[inputs, outputs]| {
            let [input, output] = [inputs, outputs].map(|channels| Shape::new(channels, 1, 1));
            let conv = Conv {
                input,
                output,
                kernel: [1; 2],
                stride: 1,
                padding: [0; 4],
                dilation: [1; 2],
                groups: 1,
            };
            assert!(is_matrix(&conv));
            conv
        })
    }

    /// Calls `visit` with the indices (output, input, weight) of every product.
    fn for_products(conv: &Conv, mut visit: impl FnMut(usize, usize, usize)) {
        let (input, output) = (conv.input, conv.output);
        let ([rows, columns], [_, across]) = (conv.axes(), conv.kernel);
        for out in 0..output.len() {
            let (o, at) = (out / output.area(), out % output.area());
            for tap in 0..conv.filter() {
                let (c, i, j) = (tap / conv.taps(), tap % conv.taps() / across, tap % across);
                let c = o / conv.group_out() * conv.group_in() + c;
                let row =
                    (at / output.width * conv.stride + i * conv.dilation[0]).wrapping_sub(rows.padding[0]);
                let column =
                    (at % output.width * conv.stride + j * conv.dilation[1]).wrapping_sub(columns.padding[0]);
                if row < input.height && column < input.width {
                    let input = c * input.area() + row * input.width + column;
                    for lane in 0..LANES {
                        visit(out * LANES + lane, input * LANES + lane, o * conv.filter() + tap);
                    }
                }
            }
        }
    }

    #[test]
    fn every_direction_matches_f64() {
        for arch in archs() {
            for conv in shapes().chain(matrices()) {
                let x = random(1, conv.input.len() * LANES);
                let dy = random(2, conv.output.len() * LANES);
                let w = random(3, conv.output.channels * conv.filter());
                let b = random(4, conv.output.channels);
                let [mut y, mut dx, mut dw, mut db] =
                    [&dy, &x, &w, &b].map(|like| vec![f32::NAN; like.len()]);
                conv2d_forward(arch, &conv, &x, &w, Some(&b), &mut y);
                conv2d_grad_input(arch, &conv, &dy, &w, &mut dx);
                conv2d_grad_weight(arch, &conv, &x, &dy, &mut dw, Some(&mut db));

                let [mut want_y, mut want_dx, mut want_dw, mut want_db] =
                    [&dy, &x, &w, &b].map(|like| vec![Exact::default(); like.len()]);
                for out in 0..dy.len() {
                    let o = out / LANES / conv.output.area();
                    want_y[out].add(b[o], 1.0);
                    want_db[o].add(dy[out], 1.0);
                }
                for_products(&conv, |out, input, weight| {
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
                        want.check(got, &(name, arch, conv));
                    }
                }
            }
        }
    }

    #[test]
    fn bias_is_optional() {
        let conv = shapes().next().expect("there are shapes");
        let x = random(1, conv.input.len() * LANES);
        let w = random(2, conv.output.channels * conv.filter());
        let mut y = [vec![1.0; conv.output.len() * LANES], vec![]];
        y[1] = vec![2.0; y[0].len()];
        let zeros = vec![0.0; conv.output.channels];
        conv2d_forward(Arch::new(), &conv, &x, &w, None, &mut y[0]);
        conv2d_forward(Arch::new(), &conv, &x, &w, Some(&zeros), &mut y[1]);
        assert_eq!(y[0], y[1]);
    }
}
