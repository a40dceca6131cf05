//! Group normalisation (Wu and He 2018): each image separately. Formulas and kernels: `shaders/group_norm.wgsl`.

use serde::{Deserialize, Serialize};

use super::moments::{Bounded, Moments};
use super::*;
use crate::tensor::{Array, FLUSH, Sum, gamma};

pub(super) const KIND: LayerKind = LayerKind::new::<GroupNorm>("group_norm", "GroupNorm", "group_norm");

/// `{ type = "group_norm", groups = 4, eps = 1e-5 }`, as in PyTorch: statistics of each image and group of channels,
/// with the biased variance. One group is a layer norm over the image; one group per channel is an instance norm.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupNorm {
    groups: usize,
    #[serde(default = "default_eps")]
    eps: f32,
}

fn default_eps() -> f32 {
    1e-5
}

impl GroupNorm {
    /// For each image and group: its moments, and the channel and the range of flat indices of each of its maps.
    fn groups_of<'a>(
        &'a self,
        input: &'a Array,
    ) -> impl Iterator<Item = (Moments, impl Iterator<Item = (usize, std::ops::Range<usize>)> + Clone)> + 'a
    {
        let [n, channels, h, w] = input.nchw();
        let group_channels = channels / self.groups;
        (0..n * self.groups).map(move |group| {
            let maps = group * group_channels..(group + 1) * group_channels;
            let values = &input.data[maps.start * h * w..maps.end * h * w];
            let maps = maps.map(move |map| (map % channels, map * h * w..(map + 1) * h * w));
            (Moments::of(values.iter().copied(), f64::from(self.eps)), maps)
        })
    }
}

/// x̂ = `(x − mean) · inv_std`. Two roundings of the largest possible mean and `inv_std`, plus the effect of their
/// own errors.
fn normalised(x: f64, moments: &Moments) -> Bounded {
    let Moments { mean, inv_std, .. } = *moments;
    let centred = x - mean.value;
    let from_moments = inv_std.largest() * mean.bound + centred.abs() * inv_std.bound;
    let roundings = gamma(3) * (x.abs() + mean.largest()) * inv_std.largest();
    let bound = from_moments + roundings + FLUSH * (1.0 + inv_std.largest());
    Bounded { value: centred * inv_std.value, bound }
}

impl Layer for GroupNorm {
    fn keys(&self) -> toml::Table {
        keys_of(self)
    }

    fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        if !(self.eps > 0.0 && self.eps < 1.0) {
            return Err(format!("eps = {} must be above 0 and below 1", self.eps));
        }
        let channels = inputs[0].channels;
        if self.groups == 0 || !channels.is_multiple_of(self.groups) {
            return Err(format!("groups = {} must divide the {channels} input channels", self.groups));
        }
        Ok(inputs[0])
    }

    fn params(&self, inputs: &[Shape]) -> Vec<Param> {
        let param = |name, value| Param {
            name,
            shape: vec![inputs[0].channels],
            init: Init::Constant(value),
            trained: true,
            decays: false,
            min: f32::NEG_INFINITY,
        };
        vec![param("weight", 1.0), param("bias", 0.0)]
    }

    fn op(&self, _: &[Shape]) -> Op {
        Op::GroupNorm { groups: self.groups, eps: self.eps }
    }

    fn forward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        let input = &arrays["input"];
        let mut output = Array::zeros(&input.shape);
        for (moments, maps) in self.groups_of(input) {
            for (c, map) in maps {
                let (weight, bias) = (arrays["weight"].data[c], arrays["bias"].data[c]);
                for at in map {
                    // The weight may be multiplied by inv_std or by x̂: two more roundings, with the bias.
                    let x_hat = normalised(input.data[at], &moments);
                    output.data[at] = x_hat.value * weight + bias;
                    let magnitude = x_hat.largest() * weight.abs() + bias.abs();
                    output.bound[at] = weight.abs() * x_hat.bound + gamma(3) * magnitude + 2.0 * FLUSH;
                }
            }
        }
        Arrays::from([("output", output)])
    }

    fn backward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        let (input, weight, grad_output) = (&arrays["input"], &arrays["weight"], &arrays["grad_output"]);
        let mut grad_input = Array::zeros(&input.shape);
        let mut of_weight = vec![Sum::default(); weight.data.len()];
        let mut of_bias = of_weight.clone();
        for (moments, maps) in self.groups_of(input) {
            // Σ w·g and Σ w·g·x̂ over the group. A channel's w may be multiplied by its sums instead.
            let (mut sum, mut sum_normalised) = (Sum::default(), Sum::default());
            for (c, map) in maps.clone() {
                let w = weight.data[c];
                for at in map {
                    let (g, error) = (grad_output.data[at], grad_output.bound[at]);
                    let x_hat = normalised(input.data[at], &moments);
                    let product_error = error * x_hat.largest() + g.abs() * x_hat.bound;
                    of_bias[c].add_bounded(g, error);
                    of_weight[c].add_bounded(g * x_hat.value, product_error);
                    sum.add_bounded(w * g, w.abs() * error);
                    sum_normalised.add_bounded(w * g * x_hat.value, w.abs() * (product_error + FLUSH));
                }
            }
            // inv_std · (w·g − Σ w·g / m − x̂ · Σ w·g·x̂ / m): the last of the three terms has the most roundings,
            // one for x̂ times the mean and six for the mean (one for the sum of products, five for 1/m or a
            // quotient); then two differences, and the product.
            let m = moments.count as f64;
            let mean = Bounded { value: sum.value / m, bound: sum.bound() / m };
            let product = Bounded { value: sum_normalised.value / m, bound: sum_normalised.bound() / m };
            let inv_std = moments.inv_std;
            for (c, map) in maps {
                let w = weight.data[c];
                for at in map {
                    let (g, error) = (grad_output.data[at], grad_output.bound[at]);
                    let x_hat = normalised(input.data[at], &moments);
                    let rest = w * g - mean.value - x_hat.value * product.value;
                    let carried = w.abs() * error
                        + mean.bound
                        + x_hat.largest() * product.bound
                        + x_hat.bound * product.value.abs();
                    let magnitude =
                        w.abs() * (g.abs() + error) + mean.largest() + x_hat.largest() * product.largest();
                    let flushed = FLUSH * (4.0 + x_hat.largest());
                    let rest_bound = carried + gamma(11) * magnitude + flushed;
                    grad_input.data[at] = inv_std.value * rest;
                    grad_input.bound[at] =
                        inv_std.largest() * rest_bound + inv_std.bound * rest.abs() + FLUSH;
                }
            }
        }
        let [mut grad_weight, mut grad_bias] = [(); 2].map(|()| Array::zeros(&weight.shape));
        for (c, (of_weight, of_bias)) in of_weight.into_iter().zip(of_bias).enumerate() {
            grad_weight.set(c, of_weight);
            grad_bias.set(c, of_bias);
        }
        Arrays::from([("grad_input", grad_input), ("grad_weight", grad_weight), ("grad_bias", grad_bias)])
    }

    fn launches(&self, pass: Pass, context: &PlanContext) -> Vec<Launch> {
        let Shape { channels, height, width } = context.inputs[0];
        let constants = || {
            [
                ("QUADS", context.quads as f64),
                ("CHANNELS", channels as f64),
                ("PIXELS", (height * width) as f64),
                ("GROUPS", self.groups as f64),
                ("EPS", f64::from(self.eps)),
            ]
        };
        let launch =
            |entry_point, workgroups| Launch::new("group_norm", entry_point, workgroups * 64, constants());
        let maps = context.quads * channels;
        match pass {
            Pass::Train | Pass::Eval => vec![launch("map_sums", maps), launch("forward", maps)],
            Pass::Backward => vec![
                launch("grad_map_sums", maps),
                launch("grad_params", channels),
                launch("backward_input", maps),
            ],
        }
    }

    fn saved(&self, context: &PlanContext) -> Vec<(&'static str, usize)> {
        // Pairs of vec4s.
        let maps = 8 * context.quads * context.inputs[0].channels;
        vec![("moments", 8 * context.quads * self.groups), ("sums", maps), ("grad_sums", maps)]
    }
}
