//! A network in whole numbers as a graph whose values are quantized and dequantized: what runs in real numbers between them,
//! runtimes replace by operators of whole numbers.

use super::graph::{Draft, conv, filter_dims, int};
use super::proto::TensorProto;
use crate::checkpoint::Checkpoint;
use crate::inference::{self, Kind, Op, Step, Value};
use crate::int8::{self, Numbers, Quantized};
use crate::tensor::Shape;

/// The network in whole numbers as the bytes of an ONNX file (`QuantizeLinear` and `DequantizeLinear` behind each operator but the
/// last), with the numbers of `net`, which was made from `checkpoint`. Runtimes round elsewhere, so each step may be off by one
/// unit; the logits are not rounded.
///
/// # Examples
/// ```
/// use shadernet::Checkpoint;
/// use shadernet::dataset::{Images, Part};
/// use shadernet::export::onnx::{Graph, to_onnx_int8};
/// use shadernet::int8::Quantized;
///
/// let (checkpoint, images) = (Checkpoint::seed()?, Images::load("data/mnist".as_ref(), Part::Train)?);
/// let bytes = to_onnx_int8(&checkpoint, &Quantized::new(&checkpoint, &images)?);
/// let probabilities = Graph::read(&bytes)?.run(&[0.0; 28 * 28], "probabilities")?;
/// assert_eq!(probabilities.len(), 10);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn to_onnx_int8(checkpoint: &Checkpoint, net: &Quantized) -> Vec<u8> {
    let mut graph = Draft::new(&checkpoint.model);
    graph.floats("pixel", &[], &[1.0 / 255.0]);
    graph.tensor("black", TensorProto::UINT8, &[], vec![0]);
    // No layer can be called input or loss, so these names are unique.
    graph.node("input.bytes", "QuantizeLinear", &["pixels", "pixel", "black"], "bytes", Vec::new());
    let zeros = image_zeros(net);
    graph.floats("ones", &[zeros.len()], &vec![1.0; zeros.len()]);
    graph.tensor("means", TensorProto::UINT8, &[zeros.len()], zeros);
    graph.node(
        "input.centre",
        "DequantizeLinear",
        &["bytes", "ones", "means"],
        "centred",
        vec![int("axis", 1)],
    );
    let program = &net.program;
    let mut made: Vec<(String, Shape)> = Vec::new();
    for (at, (step, numbers)) in program.steps.iter().zip(&net.steps).enumerate() {
        let value = |value: &Value| match *value {
            Value::Image => ("centred".to_owned(), program.input),
            Value::Made(step) => made[step].clone(),
        };
        let inputs: Vec<(String, Shape)> = step.inputs.iter().map(value).collect();
        let inputs = graph.reshaped(step, inputs);
        let scale = match step.inputs[0] {
            Value::Image => 1.0,
            Value::Made(step) => net.steps[step].scale,
        };
        let output = graph.step(step, numbers, inputs, scale);
        let output = graph.limited(&step.name, numbers, output);
        let is_last = at + 1 == program.steps.len();
        made.push((if is_last { output } else { graph.rounded(&step.name, numbers, &output) }, step.output));
    }
    graph.finish(checkpoint, &made.last().expect("a network has a step").0)
}

/// The byte of each channel of the image that stands for 0.
fn image_zeros(net: &Quantized) -> Vec<u8> {
    let reads = |(step, _): &(&Step, &Numbers)| step.inputs[0] == Value::Image;
    let zeros =
        net.program.steps.iter().zip(&net.steps).find(reads).map(|(_, numbers)| match &numbers.compute {
            // From 0 to 255, as the conversion sees to.
            int8::Compute::Conv { zeros, .. } => zeros.iter().map(|&zero| zero as u8).collect(),
            _ => unreachable!("only convolutions read the image"),
        });
    zeros.unwrap_or_else(|| vec![0; net.program.input.channels])
}

impl Draft {
    /// The inputs in the shapes in which the step sees them.
    fn reshaped(&mut self, step: &Step, inputs: Vec<(String, Shape)>) -> Vec<String> {
        let mut names = Vec::new();
        for (position, ((name, made), seen)) in inputs.into_iter().zip(&step.shapes).enumerate() {
            if made == *seen {
                names.push(name);
                continue;
            }
            let [shape, output] = ["shape", "seen"].map(|what| format!("{}.{what}{position}", step.name));
            self.shape(&shape, &<[usize; 3]>::from(*seen));
            self.node(&output, "Reshape", &[&name, &shape], &output, Vec::new());
            names.push(output);
        }
        names
    }

    /// What the step makes of real inputs, of which the first has this scale; returns its name.
    fn step(&mut self, step: &Step, numbers: &Numbers, inputs: Vec<String>, input_scale: f64) -> String {
        let kind = match &step.compute {
            inference::Compute::Conv(_) => {
                let made = self.conv(&step.name, numbers, &inputs[0], input_scale);
                let Some(pool) = step.maximum else { return made };
                return self.operator(step, "maximum", Kind::MaxPool(pool), vec![made]);
            }
            inference::Compute::Activation(function) => {
                Kind::Activation { function: *function, slopes: Vec::new() }
            }
            inference::Compute::Prelu(slopes) => {
                Kind::Activation { function: crate::layers::Activation::Prelu, slopes: slopes.clone() }
            }
            inference::Compute::GroupNorm { groups, eps, weight, bias } => {
                Kind::GroupNorm { groups: *groups, eps: *eps, weight: weight.clone(), bias: bias.clone() }
            }
            inference::Compute::MaxPool(pool) => Kind::MaxPool(*pool),
            inference::Compute::AvgPool(pool) => Kind::AvgPool { pool: *pool, global: false },
            inference::Compute::Add => Kind::Add,
            inference::Compute::Concat => Kind::Concat,
            inference::Compute::Multiply => Kind::Multiply,
        };
        self.operator(step, "real", kind, inputs)
    }

    /// An operator of a step, on real numbers.
    fn operator(&mut self, step: &Step, what: &str, kind: Kind, inputs: Vec<String>) -> String {
        let name = format!("{}.{what}", step.name);
        self.op(&Op { name, kind, inputs: step.inputs.clone(), output: step.output }, inputs)
    }

    fn conv(&mut self, name: &str, numbers: &Numbers, input: &str, input_scale: f64) -> String {
        let int8::Compute::Conv { sizes, weight, bias, multipliers, .. } = &numbers.compute else {
            unreachable!("a convolution stays one")
        };
        let part = |part: &str| format!("{name}.{part}");
        let (mut weight, mut bias, mut scales) = (weight.clone(), bias.clone(), Vec::new());
        for ((multiplier, weights), bias) in
            multipliers.iter().zip(weight.chunks_mut(sizes.filter())).zip(&mut bias)
        {
            let scale = multiplier.factor() * numbers.scale / input_scale;
            // Scales are positive in ONNX.
            let sign = if scale == 0.0 { 0 } else { scale.signum() as i32 };
            weights.iter_mut().for_each(|weight| *weight *= sign as i8);
            *bias *= sign;
            scales.push(if sign == 0 { 1.0 } else { scale.abs() });
        }
        let filters = [sizes.output.channels];
        let floats = |scales: &[f64], by: f64| -> Vec<f32> {
            scales.iter().map(|scale| (scale * by).max(f64::from(f32::MIN_POSITIVE)) as f32).collect()
        };
        self.floats(&part("weight_scale"), &filters, &floats(&scales, 1.0));
        self.floats(&part("bias_scale"), &filters, &floats(&scales, input_scale));
        let bytes = weight.iter().map(|&weight| weight as u8).collect();
        self.tensor(&part("weight_int8"), TensorProto::INT8, &filter_dims(sizes), bytes);
        self.tensor(&part("weight_zero"), TensorProto::INT8, &filters, vec![0; filters[0]]);
        let bytes = bias.iter().flat_map(|bias| bias.to_le_bytes()).collect();
        self.tensor(&part("bias_int32"), TensorProto::INT32, &filters, bytes);
        for (what, inputs) in [
            ("weight", &["weight_int8", "weight_scale", "weight_zero"][..]),
            ("bias", &["bias_int32", "bias_scale"]),
        ] {
            let inputs: Vec<String> = inputs.iter().map(|input| part(input)).collect();
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            self.node(&part(what), "DequantizeLinear", &inputs, &part(what), vec![int("axis", 0)]);
        }
        let output = part("output");
        self.node(name, "Conv", &[input, &part("weight"), &part("bias")], &output, conv(sizes));
        output
    }

    /// What a step made, within its limits, where these are narrower than the numbers.
    fn limited(&mut self, name: &str, numbers: &Numbers, mut made: String) -> String {
        for (end, op_type) in [(0, "Max"), (1, "Min")] {
            let limits: Vec<i32> = numbers.limits.iter().map(|limits| limits[end]).collect();
            if limits.iter().all(|&limit| limit == int8::BITS[end] || limit == int8::LOGIT_BITS[end]) {
                continue;
            }
            let real = |limit: &i32| (numbers.scale * f64::from(limit - numbers.zero)) as f32;
            let values: Vec<f32> = limits.iter().map(real).collect();
            let [limit, output] = ["limit", "limited"].map(|what| format!("{name}.{what}{end}"));
            self.floats(&limit, &[1, values.len(), 1, 1], &values);
            self.node(&output, op_type, &[&made, &limit], &output, Vec::new());
            made = output;
        }
        made
    }

    /// What a step made, as whole numbers and back.
    fn rounded(&mut self, name: &str, numbers: &Numbers, made: &str) -> String {
        let [scale, zero, whole, real] =
            ["scale", "zero", "quantized", "dequantized"].map(|what| format!("{name}.{what}"));
        self.floats(&scale, &[], &[numbers.scale as f32]);
        self.tensor(&zero, TensorProto::INT8, &[], vec![numbers.zero as i8 as u8]);
        self.node(&whole, "QuantizeLinear", &[made, &scale, &zero], &whole, Vec::new());
        self.node(&real, "DequantizeLinear", &[&whole, &scale, &zero], &real, Vec::new());
        real
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::dataset::Images;
    use crate::export::onnx::Graph;
    use crate::model::Model;
    use crate::rng;

    /// Of equal whole numbers, each operator makes equal ones, but for halves, which graphs round to even: a quarter of what a mean of
    /// four makes.
    #[test]
    fn each_step_rounds_to_the_same_numbers() {
        for text in [
            include_str!("../../../tests/all_layers.toml"),
            include_str!("../../../tests/export/branches.toml"),
        ] {
            let model = Model::parse(text, "test").unwrap();
            let shape = model.input;
            let pixels: Vec<u8> =
                (0..4 * shape.len() as u32).map(|at| rng::words(1, 0, 0, at)[0] as u8).collect();
            let images = Images::new(shape, pixels, vec![0; 4]).unwrap();
            let checkpoint = Checkpoint {
                weights: model.init(5),
                normalization: crate::normalization::Normalization::uniform(shape.channels, 0.4, 0.3),
                model,
                ..Checkpoint::seed().unwrap()
            };
            let net = Quantized::new(&checkpoint, &images).unwrap();
            let graph = Graph::read(&to_onnx_int8(&checkpoint, &net)).unwrap();
            for image in images.pixels.chunks(shape.len()) {
                let exact = net.run_all(image);
                let real: Vec<f32> = image.iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
                let steps = || net.program.steps.iter().zip(&net.steps).zip(&exact);
                let given: BTreeMap<String, Vec<f64>> = steps()
                    .map(|((step, numbers), values)| {
                        let real = |&q: &i16| numbers.scale * f64::from(i32::from(q) - numbers.zero);
                        (format!("{}.dequantized", step.name), values.iter().map(real).collect())
                    })
                    .collect();
                for ((step, _), values) in steps().take(exact.len() - 1) {
                    let made = graph.run_one(&real, &format!("{}.quantized", step.name), &given).unwrap();
                    let off = made.iter().zip(values).map(|(a, &b)| (a - f64::from(b)).abs());
                    let (most, some) = off
                        .fold((0f64, 0), |(most, some), off| (most.max(off), some + usize::from(off > 0.0)));
                    assert!(
                        most <= 1.0 && some <= values.len() / 3,
                        "{}: {most}, {some} of {}",
                        step.name,
                        values.len()
                    );
                }
            }
        }
    }
}
