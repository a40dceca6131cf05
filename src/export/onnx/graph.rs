//! From a trained network to the bytes of an ONNX file.

use std::f32::consts::FRAC_1_SQRT_2;

use prost::Message;

use super::proto::*;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::inference::{self, Kind, Op, Value};
use crate::layers::Activation;
use crate::layers::window::Conv;
use crate::model::Model;

/// Supported by readers since 2022.
const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;

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
    let mut ops = inference::ops(&checkpoint.model, &checkpoint.weights, "the ONNX export")?;
    if fold_batch_norm {
        inference::fold(&mut ops);
    }
    let mut graph = Draft::new(&checkpoint.model);
    let channels = checkpoint.model.input.channels;
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
    Ok(graph.finish(checkpoint, made.last().expect("a checked model")))
}

/// A graph under construction.
pub(super) struct Draft {
    graph: GraphProto,
}

impl Draft {
    /// With its input, `pixels`.
    pub(super) fn new(model: &Model) -> Self {
        let mut graph = GraphProto { name: model.name.clone(), ..Default::default() };
        graph.input.push(typed("pixels", &<[usize; 3]>::from(model.input)));
        Self { graph }
    }

    /// The file, with the outputs that follow from the last layer's.
    pub(super) fn finish(mut self, checkpoint: &Checkpoint, last: &str) -> Vec<u8> {
        self.node("loss.classes", "Flatten", &[last], "logits", vec![int("axis", 1)]);
        let mut scaled = "logits";
        if let Some(temperature) = checkpoint.temperature {
            self.floats("temperature", &[1, 1], &[temperature]);
            self.node("loss.temperature", "Div", &[scaled, "temperature"], "tempered", Vec::new());
            scaled = "tempered";
        }
        self.node("loss.softmax", "Softmax", &[scaled], "probabilities", vec![int("axis", 1)]);
        for output in ["logits", "probabilities"] {
            self.graph.output.push(typed(output, &[checkpoint.model.class_count()]));
        }
        let classes = serde_json::to_string(&checkpoint.classes).expect("names are JSON");
        let model = ModelProto {
            ir_version: IR_VERSION,
            producer_name: "shadernet".into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            graph: Some(self.graph),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
            metadata_props: vec![StringStringEntryProto { key: "classes".into(), value: classes }],
        };
        model.encode_to_vec()
    }

    pub(super) fn tensor(&mut self, name: &str, data_type: i32, dims: &[usize], raw_data: Vec<u8>) {
        let dims = dims.iter().map(|&dim| dim as i64).collect();
        self.graph.initializer.push(TensorProto { dims, data_type, name: name.into(), raw_data });
    }

    pub(super) fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, TensorProto::FLOAT, dims, bytes);
    }

    /// A shape for a Reshape: the batch, which a 0 leaves unchanged, and `rest`.
    pub(super) fn shape(&mut self, name: &str, rest: &[usize]) {
        let extents = std::iter::once(0).chain(rest.iter().map(|&extent| extent as i64));
        let bytes = extents.flat_map(i64::to_le_bytes).collect();
        self.tensor(name, TensorProto::INT64, &[1 + rest.len()], bytes);
    }

    pub(super) fn node(
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
    pub(super) fn op(
        &mut self,
        Op { name, kind, output: shape, .. }: &Op,
        mut inputs: Vec<String>,
    ) -> String {
        let output = format!("{name}.output");
        // Layers that share weights get separate copies: folding makes them differ.
        let mut floats = |graph: &mut Self, of: &str, dims: &[usize], values: &[f32]| {
            let tensor = format!("{name}.{of}");
            graph.floats(&tensor, dims, values);
            inputs.push(tensor);
        };
        let (op_type, attributes) = match kind {
            Kind::Conv { sizes, weight, bias } => {
                floats(self, "weight", &filter_dims(sizes), weight);
                if let Some(bias) = bias {
                    floats(self, "bias", &[bias.len()], bias);
                }
                ("Conv", conv(sizes))
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

pub(super) fn filter_dims(sizes: &Conv) -> [usize; 4] {
    [sizes.output.channels, sizes.group_in(), sizes.kernel[0], sizes.kernel[1]]
}

/// Attributes of a convolution.
pub(super) fn conv(sizes: &Conv) -> Vec<AttributeProto> {
    let Conv { kernel, stride, padding: [top, bottom, left, right], dilation, groups, .. } = *sizes;
    let mut attributes = window(kernel, [stride; 2], [top, left, bottom, right]);
    attributes.push(int("group", groups));
    if dilation != [1, 1] {
        attributes.push(ints("dilations", &dilation));
    }
    attributes
}

/// For padding, ONNX lists the beginnings of both axes first.
fn window(kernel: [usize; 2], stride: [usize; 2], pads: [usize; 4]) -> Vec<AttributeProto> {
    vec![ints("kernel_shape", &kernel), ints("strides", &stride), ints("pads", &pads)]
}

pub(super) fn int(name: &str, value: usize) -> AttributeProto {
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
