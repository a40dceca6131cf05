//! Steps in `float`.

use super::step::{Helper, Place, Terms, Writer, Zero};
use super::text::{float, product, sum};
use crate::inference::{Compute, Filter, Program, Step};
use crate::layers::Activation;

impl Writer<'_> {
    pub(super) fn float_conv(
        &mut self,
        program: &Program,
        name: &str,
        filter: &Filter,
        input: &Place,
    ) -> Terms {
        let sizes = &filter.sizes;
        let (taps, group_in, group_out) = (sizes.taps(), sizes.group_in(), sizes.group_out());
        let normalization = &program.normalization;
        let scaled = |(at, weight): (usize, &f32)| {
            let out = at / sizes.filter();
            let mut weight = f64::from(*weight) * filter.scale[out];
            if input.is_image() {
                let channel = (out / group_out * group_in + at % sizes.filter() / taps)
                    .min(normalization.channels() - 1);
                weight /= 255.0 * f64::from(normalization.std[channel]);
            }
            float(weight as f32)
        };
        let weights = filter.weight.iter().enumerate().map(scaled);
        let weight = self.constants.array("float", 4, format!("weight_{name}"), weights);
        let biases = filter.bias.iter().map(|&bias| float(bias as f32));
        let bias = self.constants.array("float", 4, format!("bias_{name}"), biases);
        let zeros: Vec<String> = normalization.mean_pixels().map(float).collect();
        let zero = match zeros.as_slice() {
            _ if !input.is_image() => Zero::None,
            [first, rest @ ..] if rest.iter().all(|zero| zero == first) => Zero::One(first.clone()),
            _ => Zero::Each(self.constants.array("float", 4, format!("zero_{name}"), &zeros)),
        };
        let cast = if input.is_image() { "(float)" } else { "" };
        Terms { kind: "float", bias, weight, zero, cast }
    }

    pub(super) fn float_finish(&mut self, step: &Step, value: &str, c: &str, place: &str) {
        if let Some(limits) = &step.limits {
            for (end, name, sign) in [(0, "low", '<'), (1, "high", '>')] {
                let values: Vec<f32> = limits.iter().map(|limits| limits[end] as f32).collect();
                if values.iter().all(|value| value.is_infinite()) {
                    continue;
                }
                let limit = if values.iter().all(|value| *value == values[0]) {
                    float(values[0])
                } else {
                    // What has no limit on this side has one far away.
                    let values = values.iter().map(|value| float(value.clamp(f32::MIN, f32::MAX)));
                    let array = self.constants.array("float", 4, self.name(name, step), values);
                    format!("{array}[{c}]")
                };
                self.functions.line(format_args!("if ({value} {sign} {limit})"));
                self.functions.line(format_args!("    {value} = {limit};"));
            }
        }
        self.functions.line(format_args!("{place} = {value};"));
    }

    pub(super) fn float_pointwise(&mut self, step: &Step, values: &[String], c: &str, place: &str) {
        let (x, other) = (&values[0], values.last().expect("it has an input"));
        let value = match &step.compute {
            Compute::Add => values.join(" + "),
            Compute::Multiply => format!("{x} * {other}"),
            Compute::Activation(Activation::LeakyRelu { slope }) => {
                format!("{x} > 0.0f ? {x} : {} * {x}", float(*slope))
            }
            Compute::Prelu(slopes) => {
                let array = self.constants.array(
                    "float",
                    4,
                    self.name("slope", step),
                    slopes.iter().map(|&slope| float(slope)),
                );
                format!("{x} > 0.0f ? {x} : {array}[{c}] * {x}")
            }
            Compute::Activation(function) => {
                let name = name(*function);
                self.need(Helper::Function(name));
                format!("{name}({x})")
            }
            _ => unreachable!("it has loops of its own"),
        };
        self.functions.line(format_args!("float value = {value};"));
        self.float_finish(step, "value", c, place);
    }

    pub(super) fn float_group_norm(&mut self, step: &Step, groups: usize, input: &Place, output: &Place) {
        let Compute::GroupNorm { eps, weight, bias, .. } = &step.compute else { unreachable!("it is one") };
        let (shape, channels) = (step.output, step.output.channels / groups);
        let weight =
            self.constants.array("float", 4, self.name("weight", step), weight.iter().map(|&x| float(x)));
        let bias = self.constants.array("float", 4, self.name("bias", step), bias.iter().map(|&x| float(x)));
        let count = float((shape.len() / groups) as f32);
        let g = self.functions.each("g", groups);
        let outer = self.functions.depth();
        self.functions.line("float mean = 0.0f, variance = 0.0f;");
        for term in ["mean += {};", "variance += ({} - mean) * ({} - mean);"] {
            let [c, y, x] = self.all_values(channels, shape);
            let channel = sum(&product(&g, channels), &c);
            self.functions.line(term.replace("{}", &input.at(&channel, &y, &x)));
            self.functions.end_to(outer);
            let made = term.split(' ').next().expect("a name");
            self.functions.line(format_args!("{made} /= {count};"));
        }
        self.functions.line(format_args!("const float factor = 1.0f / sqrtf(variance + {});", float(*eps)));
        let [c, y, x] = self.all_values(channels, shape);
        let channel = sum(&product(&g, channels), &c);
        let value = input.at(&channel, &y, &x);
        self.functions.line(format_args!(
            "float value = ({value} - mean) * factor * {weight}[{channel}] + {bias}[{channel}];"
        ));
        self.float_finish(step, "value", &channel, &output.at(&channel, &y, &x));
        self.need(Helper::Function("sqrtf"));
    }

    /// Begins loops over all values of some channels.
    pub(super) fn all_values(&mut self, channels: usize, shape: crate::tensor::Shape) -> [String; 3] {
        let c = self.functions.each("c", channels);
        let y = self.functions.each("y", shape.height);
        let x = self.functions.each("x", shape.width);
        [c, y, x]
    }
}

/// A function's name in the file.
fn name(function: Activation) -> &'static str {
    match function {
        Activation::LeakyRelu { .. } | Activation::Prelu => unreachable!("it is written out"),
        Activation::Relu6 => "relu6",
        Activation::Sigmoid => "sigmoid",
        Activation::Tanh => "tanhf",
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::HardSigmoid => "hard_sigmoid",
        Activation::HardSwish => "hard_swish",
    }
}

/// The formula of such a function; those of the library need none.
pub(super) fn formula(name: &str) -> Option<&'static str> {
    Some(match name {
        "relu6" => "x < 0.0f ? 0.0f : x > 6.0f ? 6.0f : x",
        "sigmoid" => "1.0f / (1.0f + expf(-x))",
        "silu" => "x / (1.0f + expf(-x))",
        "gelu" => "0.5f * x * erfcf(-0.70710678f * x)",
        "hard_sigmoid" => "x < -3.0f ? 0.0f : x > 3.0f ? 1.0f : (x + 3.0f) / 6.0f",
        "hard_swish" => "x < -3.0f ? 0.0f : x > 3.0f ? x : x * (x + 3.0f) / 6.0f",
        _ => return None,
    })
}
