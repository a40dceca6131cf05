//! Computes a program in `f32`, image by image: what ranges are taken from, and what the exported C does.

use std::ops::{AddAssign, Range};

use super::{Compute, Filter, Program, Step, Value};
use crate::layers::window::{Conv, Pool};

impl Program {
    /// What each step makes of an image, [channels, height, width].
    pub(crate) fn run(&self, pixels: &[u8]) -> Vec<Vec<f32>> {
        let area = self.input.area();
        let affine: Vec<(f32, f32)> = self.normalization.affine().collect();
        let normalised = |(at, &pixel): (usize, &u8)| {
            let (scale, offset) = affine[at / area];
            f32::from(pixel) * scale + offset
        };
        let image: Vec<f32> = pixels.iter().enumerate().map(normalised).collect();
        self.run_steps(&image, |at, inputs| {
            let step = &self.steps[at];
            let mut output = step.run(inputs);
            if let Some(limits) = &step.limits {
                for (map, [low, high]) in output.chunks_mut(step.output.area()).zip(limits) {
                    map.iter_mut().for_each(|value| *value = value.clamp(*low as f32, *high as f32));
                }
            }
            output
        })
    }

    /// What `compute` makes in each step, given its index and its inputs.
    pub(crate) fn run_steps<T>(
        &self,
        image: &[T],
        compute: impl Fn(usize, &[&[T]]) -> Vec<T>,
    ) -> Vec<Vec<T>> {
        let mut made: Vec<Vec<T>> = Vec::with_capacity(self.steps.len());
        for (at, step) in self.steps.iter().enumerate() {
            let value = |value: &Value| match *value {
                Value::Image => image,
                Value::Made(step) => &*made[step],
            };
            let inputs: Vec<&[T]> = step.inputs.iter().map(value).collect();
            let output = compute(at, &inputs);
            made.push(output);
        }
        made
    }
}

impl Step {
    fn run(&self, inputs: &[&[f32]]) -> Vec<f32> {
        let area = self.output.area();
        match &self.compute {
            Compute::Conv(filter) => {
                let output = filter.run(inputs[0]);
                match &self.maximum {
                    Some(pool) => {
                        pooled(pool, |_, taps| taps.map(|tap| output[tap]).fold(f32::NEG_INFINITY, f32::max))
                    }
                    None => output,
                }
            }
            Compute::Activation(function) => {
                inputs[0].iter().map(|&x| function.value(x.into()) as f32).collect()
            }
            Compute::Prelu(slopes) => {
                let value = |(at, &x): (usize, &f32)| if x > 0.0 { x } else { slopes[at / area] * x };
                inputs[0].iter().enumerate().map(value).collect()
            }
            Compute::GroupNorm { groups, eps, weight, bias } => {
                let mut output = inputs[0].to_vec();
                let size = output.len() / groups;
                for (group, values) in output.chunks_mut(size).enumerate() {
                    let count = values.len() as f32;
                    let mean = values.iter().sum::<f32>() / count;
                    let variance = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / count;
                    let inverse = 1.0 / (variance + eps).sqrt();
                    for (at, x) in values.iter_mut().enumerate() {
                        let channel = (group * size + at) / area;
                        *x = (*x - mean) * inverse * weight[channel] + bias[channel];
                    }
                }
                output
            }
            Compute::MaxPool(pool) => {
                pooled(pool, |_, taps| taps.map(|tap| inputs[0][tap]).fold(f32::NEG_INFINITY, f32::max))
            }
            Compute::AvgPool(pool) => {
                let share = 1.0 / (pool.kernel[0] * pool.kernel[1]) as f32;
                pooled(pool, |_, taps| taps.map(|tap| inputs[0][tap]).sum::<f32>() * share)
            }
            Compute::Add => {
                let mut sum = inputs[0].to_vec();
                for input in &inputs[1..] {
                    sum.iter_mut().zip(*input).for_each(|(sum, x)| *sum += x);
                }
                sum
            }
            Compute::Concat => inputs.concat(),
            Compute::Multiply => (0..self.output.len())
                .map(|at| inputs[0][self.place_in_input(0, at)] * inputs[1][self.place_in_input(1, at)])
                .collect(),
        }
    }

    /// Which value of an input belongs to a value of the output: that in its place, or the only one of its channel.
    pub(crate) fn place_in_input(&self, input: usize, at: usize) -> usize {
        if self.shapes[input] == self.output { at } else { at / self.output.area() }
    }
}

impl Filter {
    fn run(&self, input: &[f32]) -> Vec<f32> {
        let mut sums = vec![0.0f32; self.sizes.output.len()];
        for_each_row(&self.sizes, |to, weight, from, stride| {
            let weight = self.weight[weight];
            add_row(&mut sums[to], &input[from..], stride, |x| weight * x);
        });
        let area = self.sizes.output.area();
        let finish = |(at, &sum): (usize, &f32)| {
            (self.scale[at / area] * f64::from(sum) + self.bias[at / area]) as f32
        };
        sums.iter().enumerate().map(finish).collect()
    }
}

/// Calls `row(outputs, weight, input, stride)` for every weight and every row of outputs that it contributes to: their range,
/// its index, the index of the first one's input, and the distance between inputs. What is in the padding is left out.
pub(crate) fn for_each_row(conv: &Conv, mut row: impl FnMut(Range<usize>, usize, usize, usize)) {
    let [rows, columns] = conv.axes();
    let (input, output) = (conv.input, conv.output);
    for o in 0..output.channels {
        for c in 0..conv.group_in() {
            let channel = o / conv.group_out() * conv.group_in() + c;
            for (i, j) in (0..rows.kernel).flat_map(|i| (0..columns.kernel).map(move |j| (i, j))) {
                let weight = (o * conv.group_in() + c) * conv.taps() + i * columns.kernel + j;
                let inside = |x: &usize| columns.input_index(*x, j).is_some();
                let Some(first) = (0..output.width).find(inside) else { continue };
                let end = (first..output.width).rfind(inside).expect("the first one") + 1;
                let column = columns.input_index(first, j).expect("it is inside");
                for y in 0..output.height {
                    if let Some(line) = rows.input_index(y, i) {
                        let to = (o * output.height + y) * output.width;
                        let from = (channel * input.height + line) * input.width + column;
                        row(to + first..to + end, weight, from, conv.stride);
                    }
                }
            }
        }
    }
}

/// Adds what `term` makes of every `stride`-th value to the sums. Neighbours are left to the compiler's vectors.
pub(crate) fn add_row<S: AddAssign, T: Copy>(
    sums: &mut [S],
    values: &[T],
    stride: usize,
    term: impl Fn(T) -> S,
) {
    if stride == 1 {
        sums.iter_mut().zip(values).for_each(|(sum, &x)| *sum += term(x));
    } else {
        sums.iter_mut().zip(values.iter().step_by(stride)).for_each(|(sum, &x)| *sum += term(x));
    }
}

/// For each value of the output, what `value` makes of it and of the inputs' places under its window, without padding.
pub(crate) fn pooled<T>(pool: &Pool, value: impl Fn(usize, &mut dyn Iterator<Item = usize>) -> T) -> Vec<T> {
    let (area, width) = (pool.output.area(), pool.output.width);
    let one = |at: usize| {
        let map = at / area * pool.input.area();
        value(at, &mut pool.taps(at % area / width, at % width).map(|tap| map + tap))
    };
    (0..pool.output.len()).map(one).collect()
}
