//! Computes a network in whole numbers, exactly as the exported C does.

use super::fixed::Multiplier;
use super::{Compute, NORM_BITS, Numbers, Quantized};
use crate::inference::{Step, add_row, for_each_row, pooled};

impl Quantized {
    /// The logits of an image, [channels, height, width].
    pub(super) fn run(&self, pixels: &[u8]) -> Vec<i16> {
        self.run_all(pixels).pop().expect("a network has a step")
    }

    /// What each step makes of an image.
    pub(crate) fn run_all(&self, pixels: &[u8]) -> Vec<Vec<i16>> {
        let image: Vec<i16> = pixels.iter().map(|&pixel| pixel.into()).collect();
        let compute = |at: usize, inputs: &[&[i16]]| self.steps[at].run(&self.program.steps[at], inputs);
        self.program.run_steps(&image, compute)
    }
}

impl Numbers {
    fn run(&self, step: &Step, inputs: &[&[i16]]) -> Vec<i16> {
        let output = step.output;
        let area = output.area();
        // Adds the zero and limits.
        let finish = |channel: usize, value: i32| {
            let [low, high] = self.limits[channel];
            value.saturating_add(self.zero).clamp(low, high) as i16
        };
        match &self.compute {
            Compute::Conv { sizes, weight, bias, multipliers, zeros } => {
                let area = sizes.output.area();
                let mut sums: Vec<i32> = (0..sizes.output.len()).map(|at| bias[at / area]).collect();
                let zero_of =
                    |index: usize| zeros[if zeros.len() == 1 { 0 } else { index / sizes.input.area() }];
                for_each_row(sizes, |to, at, from, stride| {
                    let (weight, zero) = (i32::from(weight[at]), zero_of(from));
                    add_row(&mut sums[to], &inputs[0][from..], stride, |q| weight * (i32::from(q) - zero));
                });
                let value = |(at, sum): (usize, i32)| finish(at / area, multipliers[at / area].times(sum));
                let made: Vec<i16> = sums.into_iter().enumerate().map(value).collect();
                let largest = |pool| {
                    pooled(pool, |_, taps| taps.map(|tap| made[tap]).max().expect("a window has a value"))
                };
                step.maximum.as_ref().map(largest).unwrap_or(made)
            }
            Compute::Table(table) => {
                inputs[0].iter().map(|&q| table[(i32::from(q) + 128) as usize].into()).collect()
            }
            Compute::Prelu { zero, positive, negative } => {
                let value = |(at, &q): (usize, &i16)| {
                    let x = i32::from(q) - zero;
                    let factor = if x >= 0 { positive } else { &negative[at / area] };
                    finish(at / area, factor.times(x))
                };
                inputs[0].iter().enumerate().map(value).collect()
            }
            Compute::GroupNorm { groups, eps, multipliers, bias } => {
                let size = output.len() / groups;
                let mut output = Vec::with_capacity(step.output.len());
                for values in inputs[0].chunks(size) {
                    let sum: i64 = values.iter().map(|&q| i64::from(q)).sum();
                    let squares: i64 = values.iter().map(|&q| i64::from(q) * i64::from(q)).sum();
                    let count = size as i64;
                    let variance = (count * squares - sum * sum + eps) as u64;
                    let root = variance.isqrt().max(1) as i64;
                    for &q in values {
                        let scaled = (count * i64::from(q) - sum) * (1 << NORM_BITS);
                        let half = if scaled < 0 { -(root / 2) } else { root / 2 };
                        let normalised = ((scaled + half) / root) as i32;
                        let channel = output.len() / area;
                        let value = multipliers[channel].times(normalised).saturating_add(bias[channel]);
                        output.push(finish(channel, value));
                    }
                }
                output
            }
            Compute::MaxPool(pool) => pooled(pool, |at, taps| {
                let largest = taps.map(|tap| inputs[0][tap]).max().expect("a window has a value");
                let [low, high] = self.limits[at / area];
                i32::from(largest).clamp(low, high) as i16
            }),
            Compute::AvgPool { pool, zero, multiplier } => pooled(pool, |at, taps| {
                let sum = taps.map(|tap| i32::from(inputs[0][tap]) - zero).sum();
                finish(at / area, multiplier.times(sum))
            }),
            Compute::Add { inputs: scales, shift, multiplier } => {
                let value = |at: usize| {
                    let term = |(values, (zero, factor)): (&&[i16], &(i32, Multiplier))| {
                        factor.times((i32::from(values[at]) - zero) << shift)
                    };
                    finish(at / area, multiplier.times(inputs.iter().zip(scales).map(term).sum()))
                };
                (0..output.len()).map(value).collect()
            }
            Compute::Concat(scales) => {
                let mut output = Vec::with_capacity(step.output.len());
                for (values, (zero, factor)) in inputs.iter().zip(scales) {
                    for &q in *values {
                        output.push(finish(output.len() / area, factor.times(i32::from(q) - zero)));
                    }
                }
                output
            }
            Compute::Multiply { zeros, multiplier } => {
                let value = |at: usize| {
                    let factor = |input: usize| {
                        i32::from(inputs[input][step.place_in_input(input, at)]) - zeros[input]
                    };
                    finish(at / area, multiplier.times(factor(0) * factor(1)))
                };
                (0..output.len()).map(value).collect()
            }
        }
    }
}
