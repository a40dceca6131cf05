//! From a program and the ranges of its values to whole numbers.

use super::fixed::Multiplier;
use super::{BITS, Compute, LOGIT_BITS, NORM_BITS, Numbers, Quantized};
use crate::error::{Error, Result};
use crate::inference::{self, Filter, Program, Value};

/// Scale and zero of an activation.
#[derive(Debug, Clone, Copy)]
struct Scale {
    scale: f64,
    zero: i32,
}

impl Scale {
    /// For values from `low` to `high`, between which 0 is: 0 is a whole number.
    fn of([low, high]: [f64; 2]) -> Self {
        let scale = (high - low) / f64::from(BITS[1] - BITS[0]);
        if !(scale > 0.0 && scale.is_normal()) {
            return Self { scale: 1.0, zero: 0 };
        }
        Self { scale, zero: (f64::from(BITS[0]) - low / scale).round() as i32 }
    }

    /// For logits: twice as large as those seen, and 0 is 0.
    fn of_logits(range: [f64; 2]) -> Self {
        let largest = range.into_iter().fold(0.0, |largest: f64, end| largest.max(end.abs()));
        let scale = 2.0 * largest / f64::from(LOGIT_BITS[1]);
        Self { scale: if scale.is_normal() { scale } else { 1.0 }, zero: 0 }
    }

    fn quantize(self, x: f64, [low, high]: [i32; 2]) -> i32 {
        ((x / self.scale).round() + f64::from(self.zero)).clamp(low.into(), high.into()) as i32
    }
}

pub(super) fn convert(program: Program, ranges: &[[f64; 2]]) -> Result<Quantized> {
    let mut draft = Draft { program: &program, scales: Vec::new() };
    let steps = ranges.iter().enumerate().map(|(at, range)| draft.step(at, *range)).collect::<Result<_>>()?;
    Ok(Quantized { program, steps })
}

struct Draft<'a> {
    program: &'a Program,
    /// Those of the steps so far.
    scales: Vec<Scale>,
}

impl Draft<'_> {
    fn step(&mut self, at: usize, range: [f64; 2]) -> Result<Numbers> {
        let step = &self.program.steps[at];
        let is_last = at + 1 == self.program.steps.len();
        let source = |value: &Value| match *value {
            // What a convolution makes of it knows the image's own scales.
            Value::Image => Scale { scale: 1.0, zero: 0 },
            Value::Made(step) => self.scales[step],
        };
        let inputs: Vec<Scale> = step.inputs.iter().map(source).collect();
        let scale = match (&step.compute, is_last) {
            (_, true) => Scale::of_logits(range),
            // It only picks.
            (inference::Compute::MaxPool(_), _) => inputs[0],
            _ => Scale::of(range),
        };
        let bits = if is_last { LOGIT_BITS } else { BITS };
        let limits = match &step.limits {
            Some(limits) => {
                limits.iter().map(|limits| limits.map(|limit| scale.quantize(limit, bits))).collect()
            }
            None => vec![bits; step.output.channels],
        };
        let compute = self.compute(step, &inputs, scale)?;
        self.scales.push(scale);
        Ok(Numbers { compute, scale: scale.scale, zero: scale.zero, limits })
    }

    fn compute(&self, step: &inference::Step, inputs: &[Scale], output: Scale) -> Result<Compute> {
        let fail = |message: String| Error::Usage(format!("layer `{}`: {message}", step.name));
        let to_output = |input: &Scale| (input.zero, Multiplier::new(input.scale / output.scale));
        Ok(match &step.compute {
            inference::Compute::Conv(filter) => {
                return self.conv(filter, step.inputs[0], inputs[0], output).map_err(fail);
            }
            inference::Compute::Activation(function) => {
                let value = |q: i32| {
                    let x = inputs[0].scale * f64::from(q - inputs[0].zero);
                    output.quantize(function.value(x), BITS) as i8
                };
                Compute::Table((BITS[0]..=BITS[1]).map(value).collect())
            }
            inference::Compute::Prelu(slopes) => {
                let (zero, positive) = to_output(&inputs[0]);
                let factor = inputs[0].scale / output.scale;
                let negative = slopes.iter().map(|&slope| Multiplier::new(factor * f64::from(slope)));
                Compute::Prelu { zero, positive, negative: negative.collect() }
            }
            inference::Compute::GroupNorm { groups, eps, weight, bias } => {
                let count = step.output.len() / groups;
                if count > MOST_NORMALISED {
                    return Err(fail(format!(
                        "in whole numbers a group can have at most {MOST_NORMALISED} values, not {count}"
                    )));
                }
                let square = (count as f64).powi(2);
                let eps = square * f64::from(*eps) / (inputs[0].scale * inputs[0].scale);
                let unit = output.scale * f64::from(1u32 << NORM_BITS);
                Compute::GroupNorm {
                    groups: *groups,
                    eps: eps.round().min(2f64.powi(61)) as i64,
                    multipliers: weight
                        .iter()
                        .map(|&weight| Multiplier::new(f64::from(weight) / unit))
                        .collect(),
                    bias: bias.iter().map(|&bias| limited(f64::from(bias) / output.scale)).collect(),
                }
            }
            inference::Compute::MaxPool(pool) => Compute::MaxPool(*pool),
            inference::Compute::AvgPool(pool) => {
                let count = pool.kernel[0] * pool.kernel[1];
                if count > MOST_SUMMED {
                    return Err(fail(format!(
                        "in whole numbers a window can have at most {MOST_SUMMED} values, not {count}: sums have 32 bits"
                    )));
                }
                let multiplier = Multiplier::new(inputs[0].scale / (output.scale * count as f64));
                Compute::AvgPool { pool: *pool, zero: inputs[0].zero, multiplier }
            }
            inference::Compute::Add => {
                // As many bits as the sum of all inputs, each at most 255, leaves of 32.
                let shift = 20 - (inputs.len().div_ceil(2)).next_power_of_two().ilog2();
                let unit = 2.0 * inputs.iter().fold(0.0, |most: f64, input| most.max(input.scale));
                Compute::Add {
                    inputs: inputs
                        .iter()
                        .map(|input| (input.zero, Multiplier::new(input.scale / unit)))
                        .collect(),
                    shift: shift as u8,
                    multiplier: Multiplier::new(unit / (f64::from(1u32 << shift) * output.scale)),
                }
            }
            inference::Compute::Concat => Compute::Concat(inputs.iter().map(to_output).collect()),
            inference::Compute::Multiply => Compute::Multiply {
                zeros: [inputs[0].zero, inputs[1].zero],
                multiplier: Multiplier::new(inputs[0].scale * inputs[1].scale / output.scale),
            },
        })
    }

    /// A convolution. Each channel of the output has a scale of its own, so that its largest weight is ±127.
    fn conv(&self, filter: &Filter, source: Value, input: Scale, output: Scale) -> Result<Compute, String> {
        let sizes = filter.sizes;
        let normalization = &self.program.normalization;
        // Scale of each channel of the input, and what is left of its zero, which for the image is no whole number.
        let (scales, zeros, rests): (Vec<f64>, Vec<i32>, Vec<f64>) = match source {
            Value::Made(_) => (vec![input.scale], vec![input.zero], vec![0.0]),
            Value::Image => {
                let scales = normalization.std.iter().map(|std| 1.0 / (255.0 * f64::from(*std))).collect();
                let means: Vec<f64> = normalization.mean_pixels().map(f64::from).collect();
                if let Some(mean) = means.iter().find(|mean| !(0.0..=255.0).contains(*mean)) {
                    return Err(format!(
                        "in whole numbers the pixels' mean must be from 0 to 255, not {mean}"
                    ));
                }
                let zeros = means.iter().map(|mean| mean.round() as i32).collect();
                (scales, zeros, means.iter().map(|mean| mean.round() - mean).collect())
            }
        };
        let unit = scales.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let (taps, group_in, group_out) = (sizes.taps(), sizes.group_in(), sizes.group_out());
        let (mut weight, mut bias, mut multipliers) = (Vec::new(), Vec::new(), Vec::new());
        for (out, weights) in filter.weight.chunks(sizes.filter()).enumerate() {
            let of_channel = |tap: usize, values: &[f64]| {
                let channel = out / group_out * group_in + tap / taps;
                values[if values.len() == 1 { 0 } else { channel }]
            };
            let scaled: Vec<f64> = weights
                .iter()
                .enumerate()
                .map(|(tap, &weight)| f64::from(weight) * of_channel(tap, &scales) / unit)
                .collect();
            let shifted: f64 =
                scaled.iter().enumerate().map(|(tap, weight)| weight * of_channel(tap, &rests)).sum();
            let scale = filter.scale[out];
            // The bias in units of a weight times an input, before `scale`. If that is 0, the weights are, too.
            let (scaled, scale, whole_bias) = if scale == 0.0 {
                (vec![0.0; scaled.len()], 1.0, filter.bias[out] / unit)
            } else {
                (scaled, scale, filter.bias[out] / (scale * unit) + shifted)
            };
            let largest = scaled.iter().fold(0.0, |largest: f64, weight| largest.max(weight.abs()));
            // A large bias asks for coarser weights.
            let step = (largest / 127.0).max(whole_bias.abs() / LARGEST_BIAS).max(1e-30);
            let quantized: Vec<i8> = scaled.iter().map(|weight| (weight / step).round() as i8).collect();
            let most = quantized.iter().map(|&weight| i64::from(weight).abs()).sum::<i64>() * LARGEST_INPUT;
            if most + LARGEST_BIAS as i64 > i64::from(i32::MAX) {
                return Err(format!(
                    "in whole numbers its sums may overflow 32 bits: up to {most}, of {} weights each",
                    sizes.filter()
                ));
            }
            bias.push((whole_bias / step).round() as i32);
            multipliers.push(Multiplier::new(scale * step * unit / output.scale));
            weight.extend(quantized);
        }
        Ok(Compute::Conv { sizes, weight, bias, multipliers, zeros })
    }
}

/// Largest distance of a value from its zero: of 8 bits each.
const LARGEST_INPUT: i64 = 255;
const LARGEST_BIAS: f64 = (1u32 << 29) as f64;
/// Such sums of values of 8 bits fit in 31.
const MOST_SUMMED: usize = 1 << 22;
const MOST_NORMALISED: usize = 1 << 22;

fn limited(x: f64) -> i32 {
    x.round().clamp(-1e9, 1e9) as i32
}
