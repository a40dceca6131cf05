//! Convolution: the gradients of the weights and the bias.

use super::conv::{check, flattened, is_matrix};
use super::linear;
use super::{Buffer, LANES, dispatch, parts, vectors};
use crate::layers::window::Conv;
use crate::tensor::Shape;
use pulp::{Arch, Simd};
use std::cell::RefCell;

thread_local! {
    /// Holds the padded input, or that of a linear layer with its axes exchanged; kept to avoid allocations in each step.
    static SCRATCH: RefCell<Buffer> = RefCell::default();
}

/// The gradients of a convolution's weights and bias, summed over the 16 images of one block.
///
/// `input` is `[in_channels, in_height, in_width, 16]`, `grad_output` `[out_channels, output.height, output.width, 16]`;
/// `grad_weight`, `[out_channels, in_channels / groups, height, width]`, and `grad_bias`, `[out_channels]`, are
/// overwritten. Lanes without an image must hold finite inputs and zero gradients.
pub(crate) fn conv2d_grad_weight(
    arch: Arch,
    conv: &Conv,
    input: &[f32],
    grad_output: &[f32],
    grad_weight: &mut [f32],
    grad_bias: Option<&mut [f32]>,
) {
    check(conv, input.len(), grad_weight.len(), grad_bias.as_ref().map(|bias| bias.len()), grad_output.len());
    SCRATCH.with_borrow_mut(|scratch| {
        if is_matrix(conv) {
            let inputs = conv.input.channels;
            dispatch!(
                arch,
                grad_matrix(
                    inputs: usize,
                    input: &'a [f32],
                    grad_output: &'a [f32],
                    scratch: &'a mut Buffer,
                    grad_weight: &'a mut [f32],
                    grad_bias: Option<&'a mut [f32]>,
                )
            );
        } else if conv.padding == [0; 4] {
            run(arch, flattened(*conv), input, grad_output, grad_weight, grad_bias);
        } else {
            let (conv, padded) = pad(conv, input, scratch);
            run(arch, conv, padded, grad_output, grad_weight, grad_bias);
        }
    });
}

/// Copies `input` into the middle of a zeroed `padded`. Returns both, with the shape without padding.
fn pad<'a>(conv: &Conv, input: &[f32], padded: &'a mut Buffer) -> (Conv, &'a [f32]) {
    let Shape { channels, height, width } = conv.input;
    let [top, bottom, left, right] = conv.padding;
    let shape = Shape::new(channels, top + height + bottom, left + width + right);
    let padded = padded.room(shape.len() * LANES);
    padded.fill(0.0);
    for (row, pixels) in input.chunks_exact(width * LANES).enumerate() {
        let y = row / height * shape.height + top + row % height;
        padded[(y * shape.width + left) * LANES..][..pixels.len()].copy_from_slice(pixels);
    }
    (Conv { input: shape, padding: [0; 4], ..*conv }, padded)
}

fn run(
    arch: Arch,
    conv: Conv,
    input: &[f32],
    grad_output: &[f32],
    grad_weight: &mut [f32],
    grad_bias: Option<&mut [f32]>,
) {
    dispatch!(
        arch,
        grad_parameters(
            conv: Conv,
            input: &'a [f32],
            grad_output: &'a [f32],
            grad_weight: &'a mut [f32],
            grad_bias: Option<&'a mut [f32]>,
        )
    );
}

#[inline(always)]
fn grad_parameters<S: Simd>(
    simd: S,
    conv: Conv,
    input: &[f32],
    grad_output: &[f32],
    grad_weight: &mut [f32],
    grad_bias: Option<&mut [f32]>,
) {
    let filters = grad_weight.len() / conv.groups;
    let inputs = vectors::<S>(input).chunks_exact(conv.group_in() * conv.input.area() * parts::<S>());
    let grads = vectors::<S>(grad_output).chunks_exact(conv.group_out() * conv.output.area() * parts::<S>());
    for ((input, grad), weight) in inputs.zip(grads).zip(grad_weight.chunks_exact_mut(filters)) {
        let group = Group { conv, input, grad };
        let mut channel = 0;
        while channel < conv.group_out() {
            // Accumulators, gradients and an input fit the 32 (or 16) vector registers.
            channel += match conv.group_out() - channel {
                4.. if S::REGISTER_COUNT >= 32 => group.channels::<4>(simd, channel, weight),
                2.. => group.channels::<2>(simd, channel, weight),
                _ => group.lone_channel(simd, channel, weight),
            };
        }
    }
    if let Some(grad_bias) = grad_bias {
        add_up_planes(simd, conv.output.area(), grad_output, grad_bias);
    }
}

#[inline(always)]
fn grad_matrix<S: Simd>(
    simd: S,
    inputs: usize,
    input: &[f32],
    grad_output: &[f32],
    scratch: &mut Buffer,
    grad_weight: &mut [f32],
    grad_bias: Option<&mut [f32]>,
) {
    linear::grad_weight(simd, inputs, input, grad_output, scratch, grad_weight);
    if let Some(grad_bias) = grad_bias {
        add_up_planes(simd, 1, grad_output, grad_bias);
    }
}

/// The gradient of the bias, from planes of `area` pixels.
#[inline(always)]
fn add_up_planes<S: Simd>(simd: S, area: usize, grad_output: &[f32], grad_bias: &mut [f32]) {
    let planes = vectors::<S>(grad_output).chunks_exact(area * parts::<S>());
    for (bias, plane) in grad_bias.iter_mut().zip(planes) {
        *bias = plane_sum(simd, plane);
    }
}

/// Adds up a plane in four independent sums.
#[inline(always)]
fn plane_sum<S: Simd>(simd: S, plane: &[S::f32s]) -> f32 {
    let mut sums = [simd.splat_f32s(0.0); 4];
    let (fours, rest) = plane.as_chunks::<4>();
    for four in fours {
        for (sum, &x) in sums.iter_mut().zip(four) {
            *sum = simd.add_f32s(*sum, x);
        }
    }
    for &x in rest {
        sums[0] = simd.add_f32s(sums[0], x);
    }
    let [a, b, c, d] = sums;
    simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d)))
}

/// The channels of one group, without padding. All the weights' sums run over the lanes too, so the vectors of a
/// pixel count as pixels.
struct Group<'a, V> {
    conv: Conv,
    input: &'a [V],
    grad: &'a [V],
}

impl<V: Copy> Group<'_, V> {
    /// The gradients of O filters. Returns O.
    #[inline(always)]
    fn channels<const O: usize>(
        &self,
        simd: impl Simd<f32s = V>,
        channel: usize,
        weight: &mut [f32],
    ) -> usize {
        let taps = weight.len() / self.conv.group_out();
        let mut tap = 0;
        while tap < taps {
            // Four and four where six would leave a tile of one or two.
            tap += match taps - tap {
                ..=4 | 7 | 8 => self.tile::<O, 4>(simd, channel, tap, weight),
                _ => self.tile::<O, 6>(simd, channel, tap, weight),
            };
        }
        O
    }

    /// The gradient of one filter, nine taps at once: all of a 3x3 kernel. Returns 1.
    #[inline(always)]
    fn lone_channel(&self, simd: impl Simd<f32s = V>, channel: usize, weight: &mut [f32]) -> usize {
        let taps = weight.len() / self.conv.group_out();
        for tap in (0..taps).step_by(9) {
            self.tile::<1, 9>(simd, channel, tap, weight);
        }
        1
    }

    /// The gradients of O filters at T taps (or as many as there are), summed in registers. Returns T.
    #[inline(always)]
    fn tile<const O: usize, const T: usize>(
        &self,
        simd: impl Simd<f32s = V>,
        channel: usize,
        tap: usize,
        weight: &mut [f32],
    ) -> usize {
        let sums = match self.conv.stride {
            1 => self.sums::<_, O, T>(simd, 1, channel, tap),
            stride => self.sums::<_, O, T>(simd, stride, channel, tap),
        };
        let filters = weight.chunks_exact_mut(weight.len() / self.conv.group_out()).skip(channel);
        for (sums, filter) in sums.into_iter().zip(filters) {
            for (sum, weight) in sums.into_iter().zip(&mut filter[tap..]) {
                *weight = simd.reduce_sum_f32s(sum);
            }
        }
        T
    }

    #[inline(always)]
    fn sums<S: Simd<f32s = V>, const O: usize, const T: usize>(
        &self,
        simd: S,
        stride: usize,
        channel: usize,
        tap: usize,
    ) -> [[V; T]; O] {
        let Conv { input, output, kernel: [height, width], dilation, .. } = self.conv;
        let parts = parts::<S>();
        // Increments tap indices, as a division for each would take longer than a small image. Those past the last
        // start at the first pixel.
        let (mut c, mut i, mut j) = (tap / (height * width), tap / width % height, tap % width);
        let mut starts = [0; T];
        let taps = self.conv.filter() - tap;
        for start in starts.iter_mut().take(taps) {
            *start = ((c * input.height + i * dilation[0]) * input.width + j * dilation[1]) * parts;
            j += 1;
            if j == width {
                (i, j) = (i + 1, 0);
            }
            if i == height {
                (c, i) = (c + 1, 0);
            }
        }
        let grad_len = output.width * parts;
        let input_len = if stride == 1 { grad_len } else { ((output.width - 1) * stride + 1) * parts };
        let zero = simd.splat_f32s(0.0);
        let mut sums = [[zero; T]; O];
        for y in 0..output.height {
            let (mut grads, mut inputs) = ([&self.grad[..0]; O], [&self.input[..0]; T]);
            for o in 0..O {
                grads[o] = &self.grad[((channel + o) * output.height + y) * grad_len..][..grad_len];
            }
            for t in 0..T {
                inputs[t] = &self.input[starts[t] + y * stride * input.width * parts..][..input_len];
            }
            for x in 0..grad_len {
                let at = if stride == 1 { x } else { x / parts * stride * parts + x % parts };
                let mut grad = [zero; O];
                for o in 0..O {
                    grad[o] = grads[o][x];
                }
                for t in 0..T {
                    let pixel = inputs[t][at];
                    for o in 0..O {
                        sums[o][t] = simd.mul_add_e_f32s(grad[o], pixel, sums[o][t]);
                    }
                }
            }
        }
        sums
    }
}
