//! From a trained network to the bytes of an ONNX file.

use std::f32::consts::FRAC_1_SQRT_2;

use prost::Message;

use super::proto::*;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::layers::window::{Conv, Pool};
use crate::layers::{self, Activation};
use crate::model::Source;
use crate::tensor::Shape;

/// Supported by readers since 2022.
const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;

/// One operator of the network, with its numbers.
#[derive(Debug)]
struct Op {
    name: String,
    kind: Kind,
    inputs: Vec<Value>,
    output: Shape,
}

/// A value of the graph.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    /// The normalised image.
    Image,
    /// The output of the operator with this index.
    Made(usize),
}

#[derive(Debug)]
enum Kind {
    Conv {
        sizes: Conv,
        weight: Vec<f32>,
        bias: Option<Vec<f32>>,
    },
    Activation {
        function: Activation,
        slopes: Vec<f32>,
    },
    BatchNorm {
        eps: f32,
        weight: Vec<f32>,
        bias: Vec<f32>,
        mean: Vec<f32>,
        var: Vec<f32>,
    },
    GroupNorm {
        groups: usize,
        eps: f32,
        weight: Vec<f32>,
        bias: Vec<f32>,
    },
    MaxPool(Pool),
    AvgPool {
        pool: Pool,
        global: bool,
    },
    Add,
    Concat,
    Multiply,
    Reshape,
    /// Its input: for what was folded into a neighbour, or does nothing in inference.
    Nothing,
}

/// The network as the bytes of an ONNX file. With `fold_batch_norm`, a batch normalisation directly after a
/// convolution or linear layer, or directly before one without padding, is folded into its weights; others stay.
///
/// # Errors
/// A kind of layer for which there is no operator here.
///
/// # Examples
/// ```
/// use shadernet::checkpoint::Checkpoint;
/// use shadernet::export::onnx::{Graph, to_onnx};
///
/// let bytes = to_onnx(&Checkpoint::seed()?, true)?;
/// // A separate reader runs the file, to check it.
/// let probabilities = Graph::read(&bytes)?.run(&[0.0; 28 * 28], "probabilities")?;
/// assert_eq!(probabilities.len(), 10);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn to_onnx(checkpoint: &Checkpoint, fold_batch_norm: bool) -> Result<Vec<u8>> {
    let mut ops = ops(checkpoint)?;
    if fold_batch_norm {
        fold(&mut ops);
    }
    let model = &checkpoint.model;
    let mut graph = Draft { graph: GraphProto { name: model.name.clone(), ..Default::default() } };
    let Shape { channels, height, width } = model.input;
    graph.graph.input.push(typed("pixels", &[channels, height, width]));
    let normalization = &checkpoint.normalization;
    graph.floats("mean", &[1, channels, 1, 1], &normalization.mean);
    graph.floats("std", &[1, channels, 1, 1], &normalization.std);
    // No layer can be called input or loss, so these names are unique.
    graph.node("input.centre", "Sub", &["pixels", "mean"], "centred", Vec::new());
    graph.node("input.scale", "Div", &["centred", "std"], "normalised", Vec::new());
    let mut made: Vec<String> = Vec::new();
    for op in &ops {
        let name = |value: &Value| match *value {
            Value::Image => "normalised".to_owned(),
            Value::Made(op) => made[op].clone(),
        };
        let inputs: Vec<String> = op.inputs.iter().map(name).collect();
        made.push(graph.op(op, inputs));
    }
    let last = made.last().expect("a checked model");
    graph.node("loss.classes", "Flatten", &[last], "logits", vec![int("axis", 1)]);
    let mut scaled = "logits";
    if let Some(temperature) = checkpoint.temperature {
        graph.floats("temperature", &[1, 1], &[temperature]);
        graph.node("loss.temperature", "Div", &[scaled, "temperature"], "tempered", Vec::new());
        scaled = "tempered";
    }
    graph.node("loss.softmax", "Softmax", &[scaled], "probabilities", vec![int("axis", 1)]);
    for output in ["logits", "probabilities"] {
        graph.graph.output.push(typed(output, &[model.class_count()]));
    }
    let classes = serde_json::to_string(&checkpoint.classes).expect("names are JSON");
    let model = ModelProto {
        ir_version: IR_VERSION,
        producer_name: "shadernet".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(graph.graph),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        metadata_props: vec![StringStringEntryProto { key: "classes".into(), value: classes }],
    };
    Ok(model.encode_to_vec())
}

/// The layers as operators.
fn ops(checkpoint: &Checkpoint) -> Result<Vec<Op>> {
    let model = &checkpoint.model;
    let indices = model.param_indices();
    let mut ops = Vec::new();
    for (layer, indices) in model.layers.iter().zip(indices) {
        let values = |name: &str| {
            let at = layer.params.iter().position(|param| param.name == name)?;
            Some(checkpoint.weights[indices[at]].data.clone())
        };
        let known = |name: &str| values(name).expect("a layer has its parameters");
        let kind = match layer.op {
            layers::Op::Conv2d(sizes) => Kind::Conv { sizes, weight: known("weight"), bias: values("bias") },
            layers::Op::Activation(function) => {
                Kind::Activation { function, slopes: values("weight").unwrap_or_default() }
            }
            layers::Op::BatchNorm2d { eps, .. } => Kind::BatchNorm {
                eps,
                weight: known("weight"),
                bias: known("bias"),
                mean: known("running_mean"),
                var: known("running_var"),
            },
            layers::Op::GroupNorm { groups, eps } => {
                Kind::GroupNorm { groups, eps, weight: known("weight"), bias: known("bias") }
            }
            layers::Op::MaxPool2d(pool) => Kind::MaxPool(pool),
            layers::Op::AvgPool2d(pool) => {
                Kind::AvgPool { pool, global: pool == Pool::global(layer.inputs[0]) }
            }
            layers::Op::Add => Kind::Add,
            layers::Op::Concat => Kind::Concat,
            layers::Op::Multiply => Kind::Multiply,
            layers::Op::Reshape => Kind::Reshape,
            // A trained network drops nothing.
            layers::Op::Dropout { .. } => Kind::Nothing,
            layers::Op::Opaque => {
                let message =
                    format!("layer `{}`: the ONNX export does not support {}", layer.name, layer.kind.name);
                return Err(Error::Usage(message));
            }
        };
        let value = |source: &Source| match *source {
            Source::Image => Value::Image,
            Source::Layer(layer) => Value::Made(layer),
        };
        let inputs = layer.sources.iter().map(value).collect();
        ops.push(Op { name: layer.name.clone(), kind, inputs, output: layer.output });
    }
    Ok(ops)
}

/// Folds batch normalisations into adjacent convolutions: scale · (W x + b) + shift = (scale · W) x + (scale · b +
/// shift) after one; W (scale · x + shift) + b = (W · scale) x + (W · shift + b) before one, if x is not zero-padded.
/// The neighbour must not have any other reader or source.
fn fold(ops: &mut [Op]) {
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); ops.len()];
    for (index, op) in ops.iter().enumerate() {
        for input in &op.inputs {
            if let Value::Made(made) = *input {
                readers[made].push(index);
            }
        }
    }
    // Skips what does nothing.
    let behind = |ops: &[Op], mut at: usize| loop {
        let [reader] = readers[at][..] else { return None };
        match ops[reader].kind {
            Kind::Nothing => at = reader,
            _ => return Some(reader),
        }
    };
    for index in 0..ops.len() {
        let Some(affine) = affine(&ops[index].kind) else { continue };
        let mut before = ops[index].inputs[0];
        while let Value::Made(made) = before
            && matches!(ops[made].kind, Kind::Nothing)
        {
            before = ops[made].inputs[0];
        }
        let folded = match before {
            Value::Made(made) if behind(ops, made) == Some(index) => {
                scale_outputs(&mut ops[made].kind, &affine)
            }
            _ => false,
        };
        let folded =
            folded || behind(ops, index).is_some_and(|next| scale_inputs(&mut ops[next].kind, &affine));
        if folded {
            ops[index].kind = Kind::Nothing;
        }
    }
}

/// Scale and shift per channel.
fn affine(kind: &Kind) -> Option<Vec<[f64; 2]>> {
    let Kind::BatchNorm { eps, weight, bias, mean, var } = kind else { return None };
    let channel = |c: usize| {
        let [weight, bias, mean, var] = [weight, bias, mean, var].map(|values| f64::from(values[c]));
        let scale = weight / (var + f64::from(*eps)).sqrt();
        [scale, bias - scale * mean]
    };
    Some((0..weight.len()).map(channel).collect())
}

fn scale_outputs(kind: &mut Kind, affine: &[[f64; 2]]) -> bool {
    let Kind::Conv { weight, bias, .. } = kind else { return false };
    let filter = weight.len() / affine.len();
    let bias = bias.get_or_insert_with(|| vec![0.0; affine.len()]);
    for ((filter, bias), [scale, shift]) in weight.chunks_mut(filter).zip(bias).zip(affine) {
        filter.iter_mut().for_each(|weight| *weight = (scale * f64::from(*weight)) as f32);
        *bias = (scale * f64::from(*bias) + shift) as f32;
    }
    true
}

fn scale_inputs(kind: &mut Kind, affine: &[[f64; 2]]) -> bool {
    let Kind::Conv { sizes, weight, bias } = kind else { return false };
    if sizes.padding != [0; 4] {
        return false;
    }
    let (taps, group_in, group_out) = (sizes.taps(), sizes.group_in(), sizes.group_out());
    let bias = bias.get_or_insert_with(|| vec![0.0; sizes.output.channels]);
    for (out, (filter, bias)) in weight.chunks_mut(group_in * taps).zip(bias).enumerate() {
        let mut shifted = f64::from(*bias);
        for (c, taps) in filter.chunks_mut(taps).enumerate() {
            let [scale, shift] = affine[out / group_out * group_in + c];
            for weight in taps {
                shifted += shift * f64::from(*weight);
                *weight = (scale * f64::from(*weight)) as f32;
            }
        }
        *bias = shifted as f32;
    }
    true
}

/// A graph under construction.
struct Draft {
    graph: GraphProto,
}

impl Draft {
    fn tensor(&mut self, name: &str, data_type: i32, dims: &[usize], raw_data: Vec<u8>) {
        let dims = dims.iter().map(|&dim| dim as i64).collect();
        self.graph.initializer.push(TensorProto { dims, data_type, name: name.into(), raw_data });
    }

    fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, TensorProto::FLOAT, dims, bytes);
    }

    /// A shape for a Reshape: the batch, which a 0 leaves unchanged, and `rest`.
    fn shape(&mut self, name: &str, rest: &[usize]) {
        let extents = std::iter::once(0).chain(rest.iter().map(|&extent| extent as i64));
        let bytes = extents.flat_map(i64::to_le_bytes).collect();
        self.tensor(name, TensorProto::INT64, &[1 + rest.len()], bytes);
    }

    fn node(
        &mut self,
        name: &str,
        op_type: &str,
        input: &[&str],
        output: &str,
        attribute: Vec<AttributeProto>,
    ) {
        self.graph.node.push(NodeProto {
            input: input.iter().map(|&name| name.into()).collect(),
            output: vec![output.into()],
            name: name.into(),
            op_type: op_type.into(),
            attribute,
        });
    }

    /// Adds (1 + erf(x/√2)) / 2 and returns the name of its output.
    fn normal_distribution(&mut self, layer: &str, x: &str) -> String {
        let mut last = x.to_owned();
        for (step, op_type, operand) in [
            ("scaled", "Mul", Some(FRAC_1_SQRT_2)),
            ("erf", "Erf", None),
            ("raised", "Add", Some(1.0)),
            ("normal", "Mul", Some(0.5)),
        ] {
            let output = format!("{layer}.{step}");
            let constant = format!("{output}_by");
            let mut inputs = vec![last.as_str()];
            if let Some(value) = operand {
                self.floats(&constant, &[], &[value]);
                inputs.push(&constant);
            }
            self.node(&output, op_type, &inputs, &output, Vec::new());
            last = output;
        }
        last
    }

    /// Adds an operator that reads `inputs` and returns the name of its output.
    fn op(&mut self, Op { name, kind, output: shape, .. }: &Op, mut inputs: Vec<String>) -> String {
        let output = format!("{name}.output");
        // Layers that share weights get separate copies: folding makes them differ.
        let mut floats = |graph: &mut Self, of: &str, dims: &[usize], values: &[f32]| {
            let tensor = format!("{name}.{of}");
            graph.floats(&tensor, dims, values);
            inputs.push(tensor);
        };
        let (op_type, attributes) = match kind {
            Kind::Conv { sizes, weight, bias } => {
                let Conv { kernel, stride, padding: [top, bottom, left, right], dilation, .. } = *sizes;
                let dims = [sizes.output.channels, sizes.group_in(), kernel[0], kernel[1]];
                floats(self, "weight", &dims, weight);
                if let Some(bias) = bias {
                    floats(self, "bias", &[bias.len()], bias);
                }
                let mut attributes = window(kernel, [stride; 2], [top, left, bottom, right]);
                attributes.push(int("group", sizes.groups));
                if dilation != [1, 1] {
                    attributes.push(ints("dilations", &dilation));
                }
                ("Conv", attributes)
            }
            Kind::BatchNorm { eps, weight, bias, mean, var } => {
                for (of, values) in
                    [("weight", weight), ("bias", bias), ("running_mean", mean), ("running_var", var)]
                {
                    floats(self, of, &[values.len()], values);
                }
                ("BatchNormalization", vec![float("epsilon", *eps)])
            }
            Kind::GroupNorm { groups, eps, weight, bias } => {
                // This opset lacks it: one map per group, normalised as such, then reshaped back and scaled.
                let part = |part: &str| format!("{name}.{part}");
                let [groups_shape, ones, zeros] = ["groups", "ones", "zeros"].map(part);
                self.shape(&groups_shape, &[*groups, shape.len() / groups]);
                self.floats(&ones, &[*groups], &vec![1.0; *groups]);
                self.floats(&zeros, &[*groups], &vec![0.0; *groups]);
                self.shape(&part("shape"), &<[usize; 3]>::from(*shape));
                let per_channel = [weight.len(), 1, 1];
                self.floats(&part("weight"), &per_channel, weight);
                self.floats(&part("bias"), &per_channel, bias);
                let mut made = inputs.remove(0);
                let mut then = |step: &str, op_type, others: &[&str], attributes| {
                    let output = part(&format!("{step}.output"));
                    self.node(&part(step), op_type, &[&[&*made], others].concat(), &output, attributes);
                    made = output;
                };
                then("split", "Reshape", &[&groups_shape], vec![]);
                then("norm", "InstanceNormalization", &[&ones, &zeros], vec![float("epsilon", *eps)]);
                then("join", "Reshape", &[&part("shape")], vec![]);
                then("scale", "Mul", &[&part("weight")], vec![]);
                inputs = vec![made, part("bias")];
                ("Add", Vec::new())
            }
            Kind::Activation { function, slopes } => match function {
                Activation::LeakyRelu { slope: 0.0 } => ("Relu", Vec::new()),
                Activation::LeakyRelu { slope } => ("LeakyRelu", vec![float("alpha", *slope)]),
                Activation::Prelu => {
                    floats(self, "weight", &[slopes.len(), 1, 1], slopes);
                    ("PRelu", Vec::new())
                }
                Activation::Relu6 => {
                    floats(self, "min", &[], &[0.0]);
                    floats(self, "max", &[], &[6.0]);
                    ("Clip", Vec::new())
                }
                Activation::Sigmoid => ("Sigmoid", Vec::new()),
                Activation::Tanh => ("Tanh", Vec::new()),
                // Only later opsets have operators for these two.
                Activation::Silu => {
                    let sigmoid = format!("{name}.sigmoid");
                    self.node(&sigmoid, "Sigmoid", &[&inputs[0]], &sigmoid, Vec::new());
                    inputs.push(sigmoid);
                    ("Mul", Vec::new())
                }
                Activation::Gelu => {
                    inputs.push(self.normal_distribution(name, &inputs[0]));
                    ("Mul", Vec::new())
                }
                Activation::HardSigmoid => ("HardSigmoid", vec![float("alpha", 1.0 / 6.0)]),
                Activation::HardSwish => ("HardSwish", Vec::new()),
            },
            Kind::MaxPool(pool) => ("MaxPool", window(pool.kernel, pool.stride, [pool.padding; 4])),
            Kind::AvgPool { global: true, .. } => ("GlobalAveragePool", Vec::new()),
            Kind::AvgPool { pool, .. } => {
                let mut attributes = window(pool.kernel, pool.stride, [pool.padding; 4]);
                attributes.push(int("count_include_pad", 1));
                ("AveragePool", attributes)
            }
            Kind::Add if inputs.len() == 2 => ("Add", Vec::new()),
            Kind::Add => ("Sum", Vec::new()),
            Kind::Concat => ("Concat", vec![int("axis", 1)]),
            Kind::Multiply => ("Mul", Vec::new()),
            Kind::Nothing => return inputs.remove(0),
            Kind::Reshape => {
                let tensor = format!("{name}.shape");
                self.shape(&tensor, &<[usize; 3]>::from(*shape));
                inputs.push(tensor);
                ("Reshape", Vec::new())
            }
        };
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.node(name, op_type, &inputs, &output, attributes);
        output
    }
}

/// For padding, ONNX lists the beginnings of both axes first.
fn window(kernel: [usize; 2], stride: [usize; 2], pads: [usize; 4]) -> Vec<AttributeProto> {
    vec![ints("kernel_shape", &kernel), ints("strides", &stride), ints("pads", &pads)]
}

fn int(name: &str, value: usize) -> AttributeProto {
    let (i, r#type) = (Some(value as i64), AttributeProto::INT);
    AttributeProto { name: name.into(), i, r#type, ..Default::default() }
}

fn ints(name: &str, values: &[usize]) -> AttributeProto {
    let ints = values.iter().map(|&value| value as i64).collect();
    AttributeProto { name: name.into(), ints, r#type: AttributeProto::INTS, ..Default::default() }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.into(), f: Some(value), r#type: AttributeProto::FLOAT, ..Default::default() }
}

/// A tensor of floats whose first axis is the batch.
fn typed(name: &str, rest: &[usize]) -> ValueInfoProto {
    let batch = Dimension { dim_param: Some("batch".into()), ..Default::default() };
    let fixed = |&extent: &usize| Dimension { dim_value: Some(extent as i64), ..Default::default() };
    let dim = std::iter::once(batch).chain(rest.iter().map(fixed)).collect();
    let tensor = TensorTypeProto { elem_type: TensorProto::FLOAT, shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}
