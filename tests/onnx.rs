//! The reference and the kernels against ONNX's backend test suite: independent numbers. See
//! `tests/data/onnx/README.md`. The suite's `f32` outputs must be within the bounds of the reference; so must those
//! of the kernels, and the two within twice the bounds of each other.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "onnx/bench.rs"]
mod bench;
mod common;
#[path = "onnx/kernels.rs"]
mod kernels;

use std::collections::BTreeMap;

use bench::Bench;
use kernels::Kernels;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::Value;
use shadernet::config::Optimizer;
use shadernet::gpu::GpuOptions;
use shadernet::optimizers::Step;
use shadernet::shader;
use shadernet::tensor::{Array, Arrays, gamma};

/// Cases of each operator in the file.
const CASES: &str = "Adam 2, AveragePool 6, BatchNormalization 9, Conv 11, ConvTranspose 4, Dropout 8, Flatten 4, \
    Gemm 11, GlobalAveragePool 2, LeakyRelu 5, LogSoftmax 9, MatMul 1, MaxPool 10, MaxUnpool 1, Momentum 3, Relu 3, \
    Softmax 9, SoftmaxCrossEntropyLoss 8";

/// One node with its arrays, in ONNX's layout.
#[derive(Debug, Clone, Deserialize)]
struct Case {
    #[serde(skip)]
    name: String,
    op: String,
    attributes: BTreeMap<String, Value>,
    inputs: Vec<String>,
    outputs: Vec<String>,
    #[serde(skip)]
    values: BTreeMap<String, Array>,
}

fn cases() -> Vec<Case> {
    let bytes = std::fs::read("tests/data/onnx/cases.safetensors").unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let cases = &metadata.metadata().as_ref().unwrap()["cases"];
    let cases: BTreeMap<String, Case> = serde_json::from_str(cases).unwrap();
    let complete = |(name, mut case): (String, Case)| {
        for tensor in case.inputs.iter().chain(&case.outputs) {
            case.values.insert(tensor.clone(), read(&file, &format!("{name}.{tensor}")));
        }
        Case { name, ..case }
    };
    cases.into_iter().map(complete).collect()
}

fn read(file: &SafeTensors<'_>, name: &str) -> Array {
    let tensor = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let bytes = tensor.data();
    let data = match tensor.dtype() {
        Dtype::F32 => bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
        Dtype::I64 => bytes.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
        other => panic!("{name} is {other:?}"),
    };
    Array::exact(tensor.shape(), data)
}

/// As [N, C, H, W]: missing axes are one, those after the fourth are merged into the third.
fn image(array: &Array) -> Array {
    let mut shape = array.shape.clone();
    if shape.len() > 4 {
        shape = vec![shape[0], shape[1], shape[2..].iter().product()];
    }
    shape.resize(4, 1);
    Array::exact(&shape, array.data.clone())
}

fn transposed(array: &Array) -> Array {
    let [rows, columns] = array.shape[..] else { panic!("{:?} is no matrix", array.shape) };
    let data = (0..rows * columns).map(|at| array.data[at % rows * columns + at / rows]);
    Array::exact(&[columns, rows], data.collect())
}

/// Rounded to `f32`, as the kernels need it: one of the two spare roundings in the bound of a sum.
fn scaled(array: &Array, factor: f64) -> Array {
    let values: Vec<f32> = array.data.iter().map(|value| (factor * value) as f32).collect();
    Array::from_f32(&array.shape, &values)
}

/// The rows along an axis as [rows, classes], and the index that each value had.
fn rows(array: &Array, axis: i64) -> (Array, Vec<usize>) {
    let axis = axis.rem_euclid(array.shape.len() as i64) as usize;
    let (classes, inner) = (array.shape[axis], array.shape[axis + 1..].iter().product::<usize>());
    let rows = array.data.len() / classes;
    let of_row =
        |row: usize| (0..classes).map(move |class| (row / inner * classes + class) * inner + row % inner);
    let from: Vec<usize> = (0..rows).flat_map(of_row).collect();
    (Array::exact(&[rows, classes], from.iter().map(|&at| array.data[at]).collect()), from)
}

impl Case {
    fn input(&self, index: usize) -> &Array {
        &self.values[&self.inputs[index]]
    }

    fn output(&self, index: usize) -> &Array {
        &self.values[&self.outputs[index]]
    }

    fn float(&self, attribute: &str, default: f64) -> f64 {
        self.attributes.get(attribute).map_or(default, |value| value.as_f64().unwrap())
    }

    fn int(&self, attribute: &str, default: i64) -> i64 {
        self.attributes.get(attribute).map_or(default, |value| value.as_i64().unwrap())
    }

    fn first(&self, attribute: &str) -> i64 {
        self.attributes[attribute][0].as_i64().unwrap()
    }

    /// Compares an output of ONNX with `want`.
    fn check(&self, output: usize, want: &Array, bench: &mut Bench) -> Result<(), String> {
        let got = &self.output(output).data;
        let place = format!("{}, {}", self.name, self.outputs[output]);
        bench.table.check(&self.op, &place, &got.iter().map(|&v| v as f32).collect::<Vec<_>>(), want)
    }

    fn run(&self, bench: &mut Bench) -> Result<(), String> {
        let window = || format!("stride = {}\npadding = {}", self.first("strides"), self.first("pads"));
        match self.op.as_str() {
            "Relu" => self.check(0, &bench.output("relu", "", self.input(0))?, bench),
            "LeakyRelu" => {
                let keys = format!("negative_slope = {:?}", self.float("alpha", 0.01));
                self.check(0, &bench.output("leaky_relu", &keys, self.input(0))?, bench)
            }
            "Flatten" => self.check(0, &bench.output("flatten", "", self.input(0))?, bench),
            "GlobalAveragePool" => {
                self.check(0, &bench.output("global_avg_pool2d", "", self.input(0))?, bench)
            }
            "AveragePool" => {
                let keys = format!("kernel = {}\n{}", self.first("kernel_shape"), window());
                self.check(0, &bench.output("avg_pool2d", &keys, self.input(0))?, bench)
            }
            "MaxPool" | "MaxUnpool" => self.max_pool(&window(), bench),
            "Conv" | "ConvTranspose" => self.convolution(&window(), bench),
            "Gemm" | "MatMul" => self.linear(bench),
            "BatchNormalization" => self.batch_norm(bench),
            "Dropout" => self.dropout(bench),
            "Softmax" | "LogSoftmax" => self.softmax(bench),
            "SoftmaxCrossEntropyLoss" => self.loss(bench),
            "Momentum" | "Adam" => self.optimizer(bench),
            other => panic!("{other}"),
        }
    }

    /// Forward; and where ONNX gives the winners, their part of the gradient: distinct numbers must arrive at them.
    fn max_pool(&self, window: &str, bench: &mut Bench) -> Result<(), String> {
        let keys = format!("kernel = {}\n{window}", self.first("kernel_shape"));
        if self.op == "MaxUnpool" {
            // An input with maxima at ONNX's positions.
            let mut input = Array::zeros(&self.output(0).shape);
            self.input(1).data.iter().for_each(|&winner| input.data[winner as usize] = 1.0);
            let arrays = Arrays::from([("input", input), ("grad_output", self.input(0).clone())]);
            return self.check(0, &bench.apply("max_pool2d", &keys, arrays, true)?["grad_input"], bench);
        }
        let mut grad_output = self.output(0).clone();
        grad_output.data.iter_mut().enumerate().for_each(|(index, value)| *value = index as f64 + 1.0);
        let arrays = Arrays::from([("input", self.input(0).clone()), ("grad_output", grad_output.clone())]);
        let made = bench.apply("max_pool2d", &keys, arrays, true)?;
        self.check(0, &made["output"], bench)?;
        if self.outputs.len() < 2 {
            return Ok(());
        }
        let [n, c, height, width] = self.input(0).nchw();
        assert_eq!(n * c, 1, "indices of one map");
        let mut routed = vec![0.0; height * width];
        for (&winner, value) in self.output(1).data.iter().zip(&grad_output.data) {
            let winner = winner as usize;
            let by_columns = self.int("storage_order", 0) == 1;
            routed[if by_columns { winner % height * width + winner / height } else { winner }] += value;
        }
        if routed == made["grad_input"].data { Ok(()) } else { Err(format!("{}: winners", self.name)) }
    }

    /// A transposed convolution is the gradient of the convolution that has its output as input.
    fn convolution(&self, window: &str, bench: &mut Bench) -> Result<(), String> {
        let weight = self.input(1).clone();
        let (out, kernel, groups, bias) =
            (weight.shape[0], weight.shape[2], self.int("group", 1), self.inputs.len() > 2);
        let keys =
            format!("out_channels = {out}\nkernel = {kernel}\ngroups = {groups}\nbias = {bias}\n{window}");
        let mut arrays = Arrays::from([("weight", weight)]);
        let result = if self.op == "Conv" {
            arrays.insert("input", self.input(0).clone());
            "output"
        } else {
            arrays.insert("input", Array::zeros(&self.output(0).shape));
            arrays.insert("grad_output", self.input(0).clone());
            "grad_input"
        };
        if bias {
            arrays.insert("bias", self.input(2).clone());
        }
        self.check(0, &bench.apply("conv2d", &keys, arrays, true)?[result], bench)
    }

    /// y = alpha · a · b + beta · c, with a · b = input · weightᵀ.
    fn linear(&self, bench: &mut Bench) -> Result<(), String> {
        let [transposed_a, transposed_b] = ["transA", "transB"].map(|name| self.int(name, 0) == 1);
        let a = if transposed_a { transposed(self.input(0)) } else { self.input(0).clone() };
        let weight = if transposed_b { self.input(1).clone() } else { transposed(self.input(1)) };
        let (out, bias) = (weight.shape[0], self.inputs.len() > 2);
        let mut arrays =
            Arrays::from([("input", image(&a)), ("weight", scaled(&weight, self.float("alpha", 1.0)))]);
        if bias {
            let values = self.input(2).data.iter().cycle().take(out).copied().collect();
            arrays.insert("bias", scaled(&Array::exact(&[out], values), self.float("beta", 1.0)));
        }
        let made = bench.apply("linear", &format!("out_features = {out}\nbias = {bias}"), arrays, true)?;
        self.check(0, &made["output"], bench)
    }

    /// ONNX's momentum is the weight of the old statistics, and its running variance uses the biased one.
    fn batch_norm(&self, bench: &mut Bench) -> Result<(), String> {
        let training = self.int("training_mode", 0) == 1;
        let keep = self.float("momentum", 0.9);
        let keys = format!("eps = {:?}\nmomentum = {:?}", self.float("epsilon", 1e-5), 1.0 - keep);
        let input = image(self.input(0));
        let count = (input.data.len() / input.shape[1]) as f64;
        let names = ["weight", "bias", "running_mean", "running_var"];
        let mut arrays = Arrays::from([("input", input)]);
        arrays.extend(names.iter().enumerate().map(|(index, &name)| (name, self.input(index + 1).clone())));
        let mut made = bench.apply("batch_norm2d", &keys, arrays, training)?;
        self.check(0, &made["output"], bench)?;
        if !training {
            return Ok(());
        }
        let var = made.get_mut("running_var").unwrap();
        for (new, old) in var.data.iter_mut().zip(&self.input(4).data) {
            *new = keep * old + (*new - keep * old) * (count - 1.0) / count;
        }
        self.check(1, &made["running_mean"], bench)?;
        self.check(2, &made["running_var"], bench)
    }

    /// In inference mode, or in training with a ratio of zero, which keeps everything.
    fn dropout(&self, bench: &mut Bench) -> Result<(), String> {
        let training = self.inputs.len() > 2 && self.input(2).data[0] == 1.0;
        let rate = if self.inputs.len() > 1 { self.input(1).data[0] } else { self.float("ratio", 0.5) };
        let arrays = Arrays::from([("input", image(self.input(0)))]);
        let made = bench.apply("dropout", &format!("rate = {rate:?}"), arrays, training)?;
        self.check(0, &made["output"], bench)?;
        let all = Array::exact(&self.input(0).shape, vec![1.0; self.input(0).data.len()]);
        if self.outputs.len() > 1 { self.check(1, &all, bench) } else { Ok(()) }
    }

    /// Logarithms of probabilities from the loss, probabilities from its gradient (p − onehot) / N.
    fn softmax(&self, bench: &mut Bench) -> Result<(), String> {
        let (logits, from) = rows(self.input(0), self.int("axis", -1));
        let by_row = if self.op == "LogSoftmax" {
            bench.log_softmax(&logits)?
        } else {
            let [rows, classes] = logits.shape[..] else { unreachable!() };
            let mut p = bench.cross_entropy(&logits, &vec![0; rows])?["grad_logits"].clone();
            for at in 0..p.data.len() {
                let onehot = f64::from(u8::from(at % classes == 0));
                p.data[at] = p.data[at] * rows as f64 + onehot;
                p.bound[at] *= rows as f64;
            }
            p
        };
        let mut want = Array::zeros(&self.input(0).shape);
        for (row, &at) in from.iter().enumerate() {
            (want.data[at], want.bound[at]) = (by_row.data[row], by_row.bound[row]);
        }
        self.check(0, &want, bench)
    }

    fn loss(&self, bench: &mut Bench) -> Result<(), String> {
        let (logits, from) = rows(self.input(0), 1);
        let [rows, classes] = logits.shape[..] else { unreachable!() };
        let targets: Vec<u8> = self.input(1).data.iter().map(|&target| target as u8).collect();
        let mut made = bench.cross_entropy(&logits, &targets)?;
        let mut sum = made["sum"].clone();
        match self.attributes["reduction"].as_str().unwrap() {
            "none" => self.check(0, &made["loss"], bench)?,
            "sum" => self.check(0, &sum, bench)?,
            _ => {
                sum.data[0] /= rows as f64;
                sum.bound[0] = sum.bound[0] / rows as f64 + gamma(1) * sum.data[0];
                self.check(0, &sum, bench)?;
            }
        }
        if self.outputs.len() < 2 {
            return Ok(());
        }
        // ONNX's logarithms of probabilities, and the gradient that follows from them.
        let log_p = bench.log_softmax(&logits)?;
        let grad = made.get_mut("grad_logits").unwrap();
        let (mut by_row, mut grad_of_onnx) = (log_p.clone(), Vec::new());
        for (at, &index) in from.iter().enumerate() {
            let given = self.output(1).data[index];
            (by_row.data[index], by_row.bound[index]) = (log_p.data[at], log_p.bound[at]);
            let onehot = f64::from(u8::from(at % classes == usize::from(targets[at / classes])));
            grad_of_onnx.push(((given.exp() - onehot) / rows as f64) as f32);
            grad.bound[at] += 2.0 * given.exp() * log_p.bound[at] / rows as f64;
        }
        self.check(1, &by_row, bench)?;
        bench.table.check("gradient of the loss", &self.name, &grad_of_onnx, grad)
    }

    /// T = 0, so ONNX's momentum ignores beta, and its Adam has no bias correction, like ours after very many steps.
    fn optimizer(&self, bench: &mut Bench) -> Result<(), String> {
        let [alpha, beta] = [("alpha", 0.9), ("beta", 0.999)].map(|(key, or)| self.float(key, or) as f32);
        let (rule, names): (_, &[_]) = if self.op == "Adam" {
            let eps = self.float("epsilon", 0.0) as f32;
            let rule = Optimizer::Adam { beta1: alpha, beta2: beta, eps, weight_decay: 0.0 };
            (rule, &["params", "grads", "first_moment", "second_moment"])
        } else {
            let nesterov = self.attributes["mode"] == "nesterov";
            let rule = Optimizer::Sgd { momentum: alpha, nesterov, weight_decay: 0.0 };
            (rule, &["params", "grads", "velocity"])
        };
        let count = (self.inputs.len() - 2) / names.len();
        let step = Step { step: 65_535, learning_rate: self.input(0).data[0] };
        for tensor in 0..count {
            let arrays = names.iter().enumerate();
            let arrays = arrays.map(|(group, &name)| (name, self.input(2 + group * count + tensor).clone()));
            let mut arrays: Arrays = arrays.collect();
            let decay = vec![self.float("norm_coefficient", 0.0); arrays["params"].data.len()];
            arrays.insert("weight_decay", Array::exact(&arrays["params"].shape, decay));
            let made = bench.update(&rule, &arrays, step)?;
            for (group, name) in names.iter().filter(|&&name| name != "grads").enumerate() {
                self.check(group * count + tensor, &made[name], bench)?;
            }
        }
        Ok(())
    }
}

#[test]
fn the_reference_agrees_with_onnx() {
    let (mut bench, mut counts) = (Bench::default(), BTreeMap::new());
    for case in cases() {
        case.run(&mut bench).unwrap();
        *counts.entry(case.op).or_insert(0) += 1;
    }
    assert!(counts.keys().all(|op| bench.table.has(op)), "an operator of which nothing was compared");
    let counts: Vec<_> = counts.iter().map(|(op, count)| format!("{op} {count}")).collect();
    println!("{}\nreference: {} cases: {}", bench.table, cases().len(), counts.join(", "));
    assert_eq!(counts.join(", "), CASES);
}

const CHECKED: GpuOptions = GpuOptions { checked: true, ..GpuOptions::DEFAULT };

#[test]
fn the_kernels_agree_with_onnx() {
    let Some(gpu) = common::gpu() else { return };
    let adapter = gpu.info.clone();
    let mut bench = Bench { kernels: Some(Kernels::new(gpu, CHECKED)), ..Bench::default() };
    let (mut with_kernel, mut without) = (0, BTreeMap::new());
    for case in cases() {
        let before = bench.kernels.as_ref().unwrap().launches;
        case.run(&mut bench).unwrap_or_else(|message| panic!("{}: {message}", case.name));
        if bench.kernels.as_ref().unwrap().launches > before {
            with_kernel += 1;
        } else {
            *without.entry(case.op).or_insert(0) += 1;
        }
    }
    let launches = bench.kernels.as_ref().unwrap().launches;
    println!(
        "{}\n{adapter}: {with_kernel} cases in {launches} launches; without a kernel: {without:?}",
        bench.table
    );
    // Flattening only changes the shape.
    assert_eq!((with_kernel, without), (102, BTreeMap::from([("Flatten".to_owned(), 4)])));
}

/// The kernels' control: each shader that ONNX has cases for, broken in one place, fails one of them.
#[test]
fn a_broken_kernel_is_noticed() {
    for (name, line, broken, op) in [
        ("adam", "BETA1 * first_moment", "0.999 * BETA1 * first_moment", "Adam"),
        (
            "avg_pool2d",
            "input[(map * IN_HEIGHT + row - PADDING)",
            "input[(map * IN_HEIGHT + row)",
            "AveragePool",
        ),
        ("batch_norm2d", "inverseSqrt(batch_var + EPS)", "inverseSqrt(batch_var)", "BatchNormalization"),
        (
            "batch_norm2d",
            "inverseSqrt(still_running_var[c] + EPS)",
            "inverseSqrt(still_running_var[c])",
            "BatchNormalization",
        ),
        (
            "conv2d",
            "row[p * STRIDE + j * DILATION_WIDTH] * tap",
            "row[p * STRIDE + (KERNEL_WIDTH - 1u - j) * DILATION_WIDTH] * tap",
            "Conv",
        ),
        ("conv2d", "start = bias[", "start = -bias[", "Gemm"),
        (
            "conv2d",
            "row[p + SPAN - j * DILATION_WIDTH] * tap",
            "row[p + j * DILATION_WIDTH] * tap",
            "ConvTranspose",
        ),
        ("cross_entropy", "(p - q) * share", "(p - 0.9999 * q) * share", "Softmax"),
        (
            "cross_entropy",
            "exp(logits[start + class_index] - max_logit)",
            "exp(logits[start + class_index])",
            "LogSoftmax",
        ),
        ("cross_entropy", "half > 0u", "half > 1u", "SoftmaxCrossEntropyLoss"),
        (
            "dropout",
            "= input[id.z * ELEMENTS + index];",
            "= 1.01 * input[id.z * ELEMENTS + index];",
            "Dropout",
        ),
        ("activation", "select(NEGATIVE_SLOPE * x, x,", "select(NEGATIVE_SLOPE * x, -x,", "LeakyRelu"),
        ("max_pool2d", "var best = Window(vec4(LOWEST)", "var best = Window(vec4(0.0)", "MaxPool"),
        ("max_pool2d", "best.place, vec4(place), wins", "best.place, vec4(place + 1u), wins", "MaxUnpool"),
        ("sgd", "grad + MOMENTUM * moved", "MOMENTUM * moved", "Momentum"),
    ] {
        let Some(gpu) = common::gpu() else { return };
        let source = shader::find(name).source;
        assert!(source.contains(line), "{name}.wgsl has no {line}");
        let text: &'static str = Box::leak(source.replace(line, broken).into_boxed_str());
        let options = GpuOptions { replace: Some((name, text)), ..CHECKED };
        let mut bench = Bench { kernels: Some(Kernels::new(gpu, options)), ..Bench::default() };
        let of_op = cases().into_iter().filter(|case| case.op == op);
        let wrong = of_op.filter(|case| case.run(&mut bench).is_err()).count();
        assert!(wrong > 0, "{name}: no case of {op} noticed {broken}");
    }
}

/// The control: every output is compared, and an error in its last value is noticed.
#[test]
fn a_wrong_value_is_noticed() {
    for case in cases() {
        for output in &case.outputs {
            let mut wrong = case.clone();
            let value = wrong.values.get_mut(output).unwrap().data.last_mut().unwrap();
            let integer = output == "z" && case.op != "SoftmaxCrossEntropyLoss"; // an index or a mask
            *value -= if integer { 1.0 } else { 2e-5 * value.abs().max(1.0) };
            let result = wrong.run(&mut Bench::default());
            assert!(result.is_err(), "{}: a wrong {output} went unnoticed", case.name);
        }
    }
}
