//! Runs a written graph, in `f64` and image by image, from the file alone: the check covers exactly what was written.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use rayon::prelude::*;

use super::proto::*;
use crate::layers::window::Axis;
use crate::threads::on_all_processors;

/// A parsed graph.
#[derive(Debug)]
pub struct Graph {
    nodes: Vec<NodeProto>,
    constants: BTreeMap<String, Value>,
    input: [usize; 3],
}

/// A tensor without the batch axis: (channels, height, width) of an image, or a constant of any dimensions.
#[derive(Debug, Clone, PartialEq)]
struct Value {
    shape: Vec<usize>,
    data: Vec<f64>,
    /// Of whole numbers of 8 bits, the smallest and the largest.
    limits: Option<[f64; 2]>,
}

impl Value {
    fn new(shape: Vec<usize>, data: Vec<f64>) -> Self {
        Self { shape, data, limits: None }
    }
}

impl Graph {
    /// Parses a file.
    ///
    /// # Errors
    /// Bytes that are not an ONNX file, and tensors and shapes that [`super::to_onnx`] and [`super::to_onnx_int8`] do not write.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let model = ModelProto::decode(bytes).map_err(|error| format!("not an ONNX file: {error}"))?;
        let graph = model.graph.ok_or("the file has no graph")?;
        let input = graph.input.first().and_then(extents);
        let input = input.filter(|input| len_of(input).is_some_and(|len| len > 0));
        let input = input.ok_or("the input is not [batch, C, H, W]")?;
        let mut names = BTreeSet::new();
        if let Some(twice) = graph.node.iter().find(|node| !names.insert(&node.name)) {
            return Err(format!("two nodes are called {}", twice.name));
        }
        let constants = graph.initializer.into_iter().map(|tensor| {
            let value = constant(&tensor)
                .ok_or_else(|| format!("the tensor {} has another type or length", tensor.name))?;
            Ok((tensor.name, value))
        });
        Ok(Self { nodes: graph.node, constants: constants.collect::<Result<_, String>>()?, input })
    }

    /// Values of the output called `name` for each image; `pixels` are all images' [channels, height, width], from 0 to 1.
    ///
    /// # Errors
    /// An operator that is unknown or does not fit its inputs.
    pub fn run(&self, pixels: &[f32], name: &str) -> Result<Vec<f64>, String> {
        let images = pixels.par_chunks(self.input.iter().product());
        let images: Vec<Vec<f64>> = on_all_processors(|| {
            images.map(|image| self.run_one(image, name, &BTreeMap::new())).collect::<Result<_, String>>()
        })?;
        Ok(images.concat())
    }

    /// The output `name` for an image; of the outputs in `given`, their values are taken from there.
    pub(super) fn run_one(
        &self,
        image: &[f32],
        name: &str,
        given: &BTreeMap<String, Vec<f64>>,
    ) -> Result<Vec<f64>, String> {
        let first = Value::new(self.input.to_vec(), image.iter().map(|&v| v.into()).collect());
        let mut values = BTreeMap::from([("pixels", first)]);
        for node in &self.nodes {
            let fail = |message: &str| format!("node {} ({}): {message}", node.name, node.op_type);
            let inputs: Option<Vec<&Value>> = node
                .input
                .iter()
                .map(|input| values.get(input.as_str()).or_else(|| self.constants.get(input)))
                .collect();
            let inputs = inputs.ok_or_else(|| fail("an input is missing"))?;
            let mut made = compute(node, &inputs)
                .ok_or_else(|| fail("does not match its inputs, or is not supported"))?;
            let output = node.output.first().ok_or_else(|| fail("no output"))?;
            if let Some(given) = given.get(output) {
                made.data.clone_from(given);
            }
            values.insert(output, made);
        }
        let value = values.remove(name).ok_or_else(|| format!("there is no output {name}"))?;
        Ok(value.data)
    }
}

/// The extents after the batch.
fn extents(info: &ValueInfoProto) -> Option<[usize; 3]> {
    let dims = &info.r#type.as_ref()?.tensor_type.as_ref()?.shape.as_ref()?.dim;
    let fixed = dims.get(1..)?.iter().map(|dim| usize::try_from(dim.dim_value?).ok());
    fixed.collect::<Option<Vec<_>>>()?.try_into().ok()
}

fn constant(tensor: &TensorProto) -> Option<Value> {
    fn numbers<const N: usize>(bytes: &[u8], number: fn([u8; N]) -> f64) -> Option<Vec<f64>> {
        let (words, rest) = bytes.as_chunks();
        rest.is_empty().then(|| words.iter().map(|&word| number(word)).collect())
    }
    let bytes = &tensor.raw_data[..];
    let (data, limits) = match tensor.data_type {
        TensorProto::FLOAT => (numbers(bytes, |word| f32::from_le_bytes(word).into()), None),
        TensorProto::INT64 => (numbers(bytes, |word| i64::from_le_bytes(word) as f64), None),
        TensorProto::INT32 => (numbers(bytes, |word| i32::from_le_bytes(word).into()), None),
        TensorProto::UINT8 => (numbers(bytes, |[byte]| byte.into()), Some([0.0, 255.0])),
        TensorProto::INT8 => (numbers(bytes, |word| i8::from_le_bytes(word).into()), Some([-128.0, 127.0])),
        _ => return None,
    };
    let data = data?;
    let shape: Option<Vec<usize>> = tensor.dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    let shape = shape?;
    (len_of(&shape)? == data.len()).then_some(Value { shape, data, limits })
}

/// Number of values of a shape; `None` if it overflows.
fn len_of(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |len, &extent| len.checked_mul(extent))
}

/// One node's output; `None` if it is unknown or does not fit.
fn compute(node: &NodeProto, inputs: &[&Value]) -> Option<Value> {
    let &x = inputs.first()?;
    let of = |name: &str| node.attribute.iter().find(|attribute| attribute.name == name);
    let float = |name: &str| Some(f64::from(of(name)?.f?));
    let each = |f: &dyn Fn(f64) -> f64| Value { data: x.data.iter().map(|&v| f(v)).collect(), ..x.clone() };
    Some(match node.op_type.as_str() {
        "Add" | "Sum" | "Sub" | "Mul" | "Div" | "Max" | "Min" => {
            let of = match node.op_type.as_str() {
                "Sub" => |a: f64, b: f64| a - b,
                "Mul" => |a, b| a * b,
                "Div" => |a, b| a / b,
                "Max" => f64::max,
                "Min" => f64::min,
                _ => |a, b| a + b,
            };
            inputs[1..].iter().try_fold(x.clone(), |joined, other| binary(&joined, other, of))?
        }
        "QuantizeLinear" => {
            let ([scale], [zero]) = (&inputs.get(1)?.data[..], &inputs.get(2)?.data[..]) else { return None };
            let limits = inputs[2].limits?;
            let round = |v: f64| ((v / scale).round_ties_even() + zero).clamp(limits[0], limits[1]);
            Value { limits: Some(limits), ..each(&round) }
        }
        "DequantizeLinear" => {
            let scales = &inputs.get(1)?.data;
            let zeros = inputs.get(2).map_or(&[0.0][..], |zeros| &zeros.data);
            if scales.is_empty() || x.data.is_empty() || !x.data.len().is_multiple_of(scales.len()) {
                return None;
            }
            // Constants have no batch: the axis that the scales belong to comes first either way.
            let channel = x.data.len() / scales.len();
            let real = |(at, &v): (usize, &f64)| {
                let zero = zeros.get(at / channel).or(zeros.first())?;
                Some(scales.get(at / channel)? * (v - zero))
            };
            Value::new(x.shape.clone(), x.data.iter().enumerate().map(real).collect::<Option<_>>()?)
        }
        "Concat" if of("axis")?.i? == 1 => {
            let channels = inputs.iter().map(|input| input.shape.first().copied()).sum::<Option<usize>>()?;
            let same = |input: &&Value| input.shape.get(1..) == x.shape.get(1..);
            let shape = [&[channels], x.shape.get(1..)?].concat();
            let data = inputs.iter().flat_map(|input| &input.data).copied().collect();
            inputs.iter().all(same).then(|| Value::new(shape, data))?
        }
        "InstanceNormalization" => {
            let epsilon = float("epsilon")?;
            let (scale, bias) = (&inputs.get(1)?.data, &inputs.get(2)?.data);
            let plane = x.data.len() / x.shape.first()?;
            let mut data = Vec::with_capacity(x.data.len());
            for (c, plane) in x.data.chunks(plane).enumerate() {
                let mean_of =
                    |f: &dyn Fn(f64) -> f64| plane.iter().map(|&v| f(v)).sum::<f64>() / plane.len() as f64;
                let mean = mean_of(&|v| v);
                let factor = scale.get(c)? / (mean_of(&|v| (v - mean) * (v - mean)) + epsilon).sqrt();
                let bias = bias.get(c)?;
                data.extend(plane.iter().map(|v| (v - mean) * factor + bias));
            }
            Value { data, ..x.clone() }
        }
        "Relu" => each(&|v| v.max(0.0)),
        "LeakyRelu" => {
            let alpha = float("alpha")?;
            each(&|v| if v < 0.0 { alpha * v } else { v })
        }
        "PRelu" => {
            let slopes = &inputs.get(1)?.data;
            let plane = x.data.len() / x.shape.first()?;
            if ![1, x.shape[0]].contains(&slopes.len()) {
                return None;
            }
            let rectify =
                |(at, &v): (usize, &f64)| v.max(0.0) + slopes[at / plane % slopes.len()] * v.min(0.0);
            Value { data: x.data.iter().enumerate().map(rectify).collect(), ..x.clone() }
        }
        "Clip" => {
            let ([low], [high]) = (&inputs.get(1)?.data[..], &inputs.get(2)?.data[..]) else { return None };
            each(&|v| v.max(*low).min(*high))
        }
        "Sigmoid" => each(&|v| 1.0 / (1.0 + (-v).exp())),
        "Tanh" => each(&f64::tanh),
        "Erf" => each(&libm::erf),
        "HardSigmoid" => {
            let alpha = float("alpha")?;
            each(&|v| (alpha * v + 0.5).clamp(0.0, 1.0))
        }
        "HardSwish" => each(&|v| v * (v / 6.0 + 0.5).clamp(0.0, 1.0)),
        "BatchNormalization" => {
            let epsilon = float("epsilon")?;
            let [scale, bias, mean, var] = [1, 2, 3, 4].map(|at| inputs.get(at).map(|value| &value.data));
            let (scale, bias, mean, var) = (scale?, bias?, mean?, var?);
            let plane = x.data.len() / x.shape.first()?;
            let channel = |at: usize| at / plane;
            let normalise = |(at, &v): (usize, &f64)| {
                let c = channel(at);
                Some(scale.get(c)? * (v - mean.get(c)?) / (var.get(c)? + epsilon).sqrt() + bias.get(c)?)
            };
            Value { data: x.data.iter().enumerate().map(normalise).collect::<Option<_>>()?, ..x.clone() }
        }
        "Conv" => {
            convolution(x, inputs.get(1)?, inputs.get(2).copied(), window(node, &x.shape)?, of("group")?.i?)?
        }
        "MaxPool" => pool(x, window(node, &x.shape)?, &|taps, _| taps.fold(f64::NEG_INFINITY, f64::max))?,
        "AveragePool" if of("count_include_pad")?.i? == 1 => {
            pool(x, window(node, &x.shape)?, &|taps, area| taps.sum::<f64>() / area as f64)?
        }
        "GlobalAveragePool" => {
            let plane = x.data.len() / x.shape.first()?;
            let means = x.data.chunks(plane).map(|plane| plane.iter().sum::<f64>() / plane.len() as f64);
            Value::new(vec![x.shape[0], 1, 1], means.collect())
        }
        "Reshape" => {
            let shape: Vec<usize> =
                inputs.get(1)?.data.get(1..)?.iter().map(|&extent| extent as usize).collect();
            (len_of(&shape)? == x.data.len()).then(|| Value::new(shape, x.data.clone()))?
        }
        "Flatten" => Value::new(vec![x.data.len()], x.data.clone()),
        "Softmax" => {
            let largest = x.data.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let powers = each(&|v| (v - largest).exp());
            let sum: f64 = powers.data.iter().sum();
            Value { data: powers.data.iter().map(|power| power / sum).collect(), ..powers }
        }
        _ => return None,
    })
}

/// Two values of the same shape, combined; one of them may have a single value, for the whole other one or for each
/// of its channels.
fn binary(a: &Value, b: &Value, join: fn(f64, f64) -> f64) -> Option<Value> {
    let (large, small) = if a.data.len() >= b.data.len() { (a, b) } else { (b, a) };
    // A constant may have the axis of the batch, too.
    let channels =
        small.shape.strip_prefix(&[1]).filter(|rest| rest.len() == 3).unwrap_or(&small.shape).first();
    let gates = || channels == large.shape.first() && channels == Some(&small.data.len());
    if large.shape != small.shape && small.data.len() != 1 && !gates() {
        return None;
    }
    let [in_a, in_b] = [a, b].map(|value| large.data.len() / value.data.len().max(1));
    let data = (0..large.data.len()).map(|at| join(a.data[at / in_a], b.data[at / in_b])).collect();
    Some(Value::new(large.shape.clone(), data))
}

/// The axes, down and across, of a window that slides over maps of `shape`; `None` if it does not fit.
fn window(node: &NodeProto, shape: &[usize]) -> Option<[Axis; 2]> {
    fn ints<const N: usize>(node: &NodeProto, name: &str) -> Option<[usize; N]> {
        let attribute = node.attribute.iter().find(|attribute| attribute.name == name)?;
        let ints = attribute.ints.iter().map(|&value| usize::try_from(value).ok());
        ints.collect::<Option<Vec<_>>>()?.try_into().ok()
    }
    let &[_, height, width] = shape else { return None };
    let (kernel, stride) = (ints::<2>(node, "kernel_shape")?, ints::<2>(node, "strides")?);
    let [top, left, bottom, right] = ints(node, "pads")?;
    let is_dilated = node.attribute.iter().any(|attribute| attribute.name == "dilations");
    let dilation = if is_dilated { ints(node, "dilations")? } else { [1, 1] };
    let axis = |input, at: usize, padding| {
        let sizes = [kernel[at], stride[at], dilation[at]];
        let [kernel, stride, dilation] = sizes;
        let axis = Axis { input, kernel, stride, dilation, padding };
        (sizes.iter().all(|&size| size > 0) && axis.output().is_some()).then_some(axis)
    };
    Some([axis(height, 0, [top, bottom])?, axis(width, 1, [left, right])?])
}

fn convolution(
    x: &Value,
    weight: &Value,
    bias: Option<&Value>,
    window: [Axis; 2],
    groups: i64,
) -> Option<Value> {
    let ([down, across], &[filters, group_in, ..]) = (window, &weight.shape[..]) else { return None };
    let groups = usize::try_from(groups).ok().filter(|&groups| groups > 0)?;
    let (height, width, rows, columns) = (down.output()?, across.output()?, down.kernel, across.kernel);
    if weight.data.len() != filters * group_in * rows * columns
        || Some(group_in * groups) != x.shape.first().copied()
    {
        return None;
    }
    let mut data = vec![0.0; filters * height * width];
    for (filter, plane) in data.chunks_mut(height * width).enumerate() {
        if let Some(bias) = bias {
            plane.fill(*bias.data.get(filter)?);
        }
        let first = filter / (filters / groups) * group_in;
        for (tap, &weight) in weight.data.chunks(group_in * rows * columns).nth(filter)?.iter().enumerate() {
            let (c, i, j) = (tap / (rows * columns), tap / columns % rows, tap % columns);
            let input = &x.data[(first + c) * down.input * across.input..][..down.input * across.input];
            for y in 0..height {
                let Some(row) = down.input_index(y, i) else { continue };
                for x in 0..width {
                    if let Some(column) = across.input_index(x, j) {
                        plane[y * width + x] += weight * input[row * across.input + column];
                    }
                }
            }
        }
    }
    Some(Value::new(vec![filters, height, width], data))
}

/// `of` gets the values under a window and its area.
fn pool(
    x: &Value,
    [down, across]: [Axis; 2],
    of: &dyn Fn(&mut dyn Iterator<Item = f64>, usize) -> f64,
) -> Option<Value> {
    let channels = *x.shape.first()?;
    let (height, width, rows, columns) = (down.output()?, across.output()?, down.kernel, across.kernel);
    let mut data = Vec::with_capacity(channels * height * width);
    for plane in x.data.chunks(down.input * across.input) {
        for at in 0..height * width {
            let mut taps = (0..rows * columns).filter_map(|tap| {
                let row = down.input_index(at / width, tap / columns)?;
                Some(plane[row * across.input + across.input_index(at % width, tap % columns)?])
            });
            data.push(of(&mut taps, rows * columns));
        }
    }
    Some(Value::new(vec![channels, height, width], data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_nobody_can_count_are_no_constants() {
        let of = |dims: &[i64], values: usize| {
            constant(&TensorProto {
                dims: dims.to_vec(),
                data_type: TensorProto::FLOAT,
                raw_data: vec![0; 4 * values],
                ..Default::default()
            })
        };
        assert_eq!(of(&[2, 3], 6).map(|value| value.shape), Some(vec![2, 3]));
        // In 64 bits, the product of the first is 0.
        for dims in [&[1 << 62, 8][..], &[-1, 6], &[2, 4]] {
            for values in [0, 6] {
                assert!(of(dims, values).is_none(), "{dims:?}");
            }
        }
    }
}
