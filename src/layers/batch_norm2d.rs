//! Batch normalisation over images and pixels (Ioffe and Szegedy 2015). Formulas and kernels: `shaders/batch_norm2d.wgsl`.

use serde::{Deserialize, Serialize};

use super::moments::{Bounded, Moments, inv_std};
use super::*;
use crate::tensor::{Array, FLUSH, Sum, gamma};

pub(super) const KIND: LayerKind = LayerKind::new::<BatchNorm2d>("batch_norm2d", "BatchNorm2d", "batch_norm");

/// `{ type = "batch_norm2d", eps = 1e-5, momentum = 0.1 }`, with PyTorch's conventions: normalisation by the biased
/// variance, the unbiased one updates `running_var`, and `momentum` is the weight of the newest batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchNorm2d {
    #[serde(default = "default_eps")]
    eps: f32,
    #[serde(default = "default_momentum")]
    momentum: f32,
}

fn default_eps() -> f32 {
    1e-5
}

fn default_momentum() -> f32 {
    0.1
}

/// The values of channel `c` with their flat indices.
fn channel(array: &Array, c: usize) -> impl Iterator<Item = (usize, f64)> + Clone + '_ {
    let [n, channels, h, w] = array.nchw();
    (0..n).flat_map(move |n| {
        let start = (n * channels + c) * h * w;
        (start..start + h * w).map(move |index| (index, array.data[index]))
    })
}

/// `(input − mean) · inv_std · weight + bias` for channel `c`.
fn normalise(arrays: &Arrays, c: usize, mean: Bounded, inv_std: Bounded, output: &mut Array) {
    let (weight, bias) = (arrays["weight"].data[c], arrays["bias"].data[c]);
    for (index, x) in channel(&arrays["input"], c) {
        let centred = x - mean.value;
        output.data[index] = centred * inv_std.value * weight + bias;
        let from_statistics =
            inv_std.value * mean.bound + centred.abs() * inv_std.bound + mean.bound * inv_std.bound;
        let magnitude = (x.abs() + mean.value.abs()) * inv_std.value * weight.abs() + bias.abs();
        output.bound[index] = weight.abs() * from_statistics + gamma(6) * magnitude + FLUSH;
    }
}

impl Layer for BatchNorm2d {
    fn keys(&self) -> toml::Table {
        keys_of(self)
    }

    fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        if !(self.eps > 0.0 && self.eps < 1.0) {
            return Err(format!("eps = {} must be above 0 and below 1", self.eps));
        }
        if !(0.0..=1.0).contains(&self.momentum) {
            return Err(format!("momentum = {} must be from 0 to 1", self.momentum));
        }
        Ok(inputs[0])
    }

    fn params(&self, inputs: &[Shape]) -> Vec<Param> {
        let param = |name, value, trained| Param {
            name,
            shape: vec![inputs[0].channels],
            init: Init::Constant(value),
            trained,
            decays: false,
            min: if name == "running_var" { 0.0 } else { f32::NEG_INFINITY },
        };
        vec![
            param("weight", 1.0, true),
            param("bias", 0.0, true),
            param("running_mean", 0.0, false),
            param("running_var", 1.0, false),
        ]
    }

    fn forward(&self, arrays: &Arrays, context: &Context) -> Arrays {
        let input = &arrays["input"];
        let channels = input.shape[1];
        let mut output = Array::zeros(&input.shape);
        if !context.training {
            for c in 0..channels {
                let var = Bounded::exact(arrays["running_var"].data[c]);
                let mean = Bounded::exact(arrays["running_mean"].data[c]);
                normalise(arrays, c, mean, inv_std(var, f64::from(self.eps)), &mut output);
            }
            return Arrays::from([("output", output)]);
        }
        let names = ["mean", "inv_std", "running_mean", "running_var"];
        let mut made = Arrays::from(names.map(|name| (name, Array::zeros(&[channels]))));
        // Given statistics are those of a device, from which its output was made.
        let given = |name: &str, c: usize| {
            arrays.get(name).map(|array| Bounded { value: array.data[c], bound: array.bound[c] })
        };
        for c in 0..channels {
            let values = channel(input, c).map(|(_, x)| x);
            let Moments { mean, var, inv_std, count } = Moments::of(values, f64::from(self.eps));
            let (given_mean, given_inv_std) = (given("mean", c), given("inv_std", c));
            normalise(arrays, c, given_mean.unwrap_or(mean), given_inv_std.unwrap_or(inv_std), &mut output);
            let mut put = |name, Bounded { value, bound }| {
                let array: &mut Array = made.get_mut(name).expect("listed above");
                (array.data[c], array.bound[c]) = (value, bound);
            };
            put("mean", mean);
            put("inv_std", inv_std);
            let momentum = f64::from(self.momentum);
            let running = |old: f64, new: Bounded, factor: f64| {
                let (keep, take) = ((1.0 - momentum) * old, momentum * new.value * factor);
                let bound = momentum * new.bound * factor + gamma(5) * (keep.abs() + take.abs());
                Bounded { value: keep + take, bound }
            };
            let unbiased = count as f64 / (count as f64 - 1.0).max(1.0);
            put("running_mean", running(arrays["running_mean"].data[c], mean, 1.0));
            put("running_var", running(arrays["running_var"].data[c], var, unbiased));
        }
        made.insert("output", output);
        made
    }

    fn backward(&self, arrays: &Arrays, context: &Context) -> Arrays {
        let (input, grad_output) = (&arrays["input"], &arrays["grad_output"]);
        let channels = input.shape[1];
        let mut grad_input = Array::zeros(&input.shape);
        if !context.training {
            // Frozen: its statistics do not depend on the input.
            for c in 0..channels {
                let inv_std = inv_std(Bounded::exact(arrays["running_var"].data[c]), f64::from(self.eps));
                let weight = arrays["weight"].data[c];
                for (index, _) in channel(input, c) {
                    let (upstream, error) = (grad_output.data[index], grad_output.bound[index]);
                    let product = weight * inv_std.value * upstream;
                    let carried =
                        weight.abs() * (inv_std.bound * (upstream.abs() + error) + inv_std.value * error);
                    grad_input.data[index] = product;
                    grad_input.bound[index] = carried + gamma(4) * product.abs() + FLUSH;
                }
            }
            return Arrays::from([("grad_input", grad_input)]);
        }
        let [mut grad_weight, mut grad_bias] = [(); 2].map(|()| Array::zeros(&[channels]));
        for c in 0..channels {
            let (mean, inv_std) = (arrays["mean"].data[c], arrays["inv_std"].data[c]);
            let weight = arrays["weight"].data[c];
            // x̂ = (x − mean) · inv_std, and the bound on its error.
            let normalised = |x: f64| Bounded {
                value: (x - mean) * inv_std,
                bound: gamma(3) * (x.abs() + mean.abs()) * inv_std,
            };
            let (mut sum, mut sum_normalised, mut carried) = (Sum::default(), Sum::default(), 0.0);
            for (index, x) in channel(input, c) {
                let x_hat = normalised(x);
                let (upstream, error) = (grad_output.data[index], grad_output.bound[index]);
                sum.add_bounded(upstream, error);
                sum_normalised.add_bounded(upstream * x_hat.value, error * x_hat.value.abs());
                carried += (upstream.abs() + error) * x_hat.bound;
            }
            grad_bias.set(c, sum);
            grad_weight.set(c, sum_normalised);
            grad_weight.bound[c] += carried;
            let m = sum.terms as f64;
            for (index, x) in channel(input, c) {
                let x_hat = normalised(x);
                let terms = [grad_output.data[index], sum.value / m, x_hat.value * sum_normalised.value / m];
                grad_input.data[index] = weight * inv_std * (terms[0] - terms[1] - terms[2]);
                let carried = (grad_bias.bound[c]
                    + x_hat.value.abs() * grad_weight.bound[c]
                    + x_hat.bound * (sum_normalised.value.abs() + grad_weight.bound[c]))
                    / m
                    + grad_output.bound[index];
                let magnitude: f64 = terms.iter().map(|term| term.abs()).sum();
                grad_input.bound[index] = weight.abs() * inv_std * (carried + gamma(8) * magnitude) + FLUSH;
            }
        }
        Arrays::from([("grad_input", grad_input), ("grad_weight", grad_weight), ("grad_bias", grad_bias)])
    }

    fn launches(&self, pass: Pass, context: &PlanContext) -> Vec<Launch> {
        let Shape { channels, height, width } = context.inputs[0];
        let rows = context.quads * channels * height;
        let elements = rows * width;
        // One workgroup of 64 per channel.
        let finish = channels * 64;
        let constants = || {
            [
                ("QUADS", context.quads as f64),
                ("CHANNELS", channels as f64),
                ("HEIGHT", height as f64),
                ("WIDTH", width as f64),
                ("EPS", f64::from(self.eps)),
                ("MOMENTUM", f64::from(self.momentum)),
            ]
        };
        let launch =
            |entry_point, invocations| Launch::new("batch_norm2d", entry_point, invocations, constants());
        match pass {
            Pass::Train => {
                vec![launch("row_sums", rows), launch("statistics", finish), launch("forward", elements)]
            }
            Pass::Eval => vec![launch("forward_eval", elements)],
            Pass::Backward if context.frozen => vec![launch("backward_input_frozen", elements)],
            Pass::Backward => vec![
                launch("grad_row_sums", rows),
                launch("grad_params", finish),
                launch("backward_input", elements),
            ],
        }
    }

    fn saved(&self, context: &PlanContext) -> Vec<(&'static str, usize)> {
        let Shape { channels, height, .. } = context.inputs[0];
        let rows = context.quads * channels * height;
        let per_channel = [("mean", channels), ("inv_std", channels), ("grad_means", 2 * channels)];
        per_channel.into_iter().chain([("sums", 2 * rows), ("grad_sums", 2 * rows)]).collect()
    }

    fn op(&self, _: &[Shape]) -> Op {
        Op::BatchNorm2d { eps: self.eps, momentum: self.momentum }
    }
}
