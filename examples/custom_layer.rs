//! A custom layer in both engines: max(x, 0)², the activation that an architecture search found for Primer (So et al.
//! 2021). Checks its kernels on this machine's GPU against the formula below, trains two epochs, reads the result
//! back.
//! `cargo run --release --example custom_layer`

use std::path::Path;

use serde::{Deserialize, Serialize};
use shadernet::checkpoint::Checkpoint;
use shadernet::device::Device;
use shadernet::doctor::{Depth, examine};
use shadernet::error::Result;
use shadernet::gpu::{Adapters, GpuOptions};
use shadernet::layers::{self, Context, Launch, Layer, LayerKind, Pass, PlanContext};
use shadernet::model::Model;
use shadernet::replica::Replica;
use shadernet::tensor::{Array, Arrays, FLUSH, Shape, gamma};
use shadernet::toml;
use shadernet::train::{Run, Settings, TrainingData};

/// `{ type = "squared_relu" }`, without keys.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SquaredRelu {}

/// Names are the wiring: `input` is the previous layer's output, `grad_output` comes from the next layer. A vec4
/// holds the same value of four images; `id.z` is the number of the network when several train side by side.
pub(crate) const WGSL: &str = "
override ELEMENTS: u32; // vec4s of one network

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> grad_output: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> grad_input: array<vec4<f32>>;

@compute @workgroup_size(64)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.x + id.y * groups.x * 64u;
    if (index < ELEMENTS) {
        let positive = max(input[id.z * ELEMENTS + index], vec4(0.0));
        output[id.z * ELEMENTS + index] = positive * positive;
    }
}

@compute @workgroup_size(64)
fn backward_input(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.x + id.y * groups.x * 64u;
    if (index < ELEMENTS) {
        let positive = max(input[id.z * ELEMENTS + index], vec4(0.0));
        grad_input[id.z * ELEMENTS + index] = 2.0 * positive * grad_output[id.z * ELEMENTS + index];
    }
}
";

/// a·b, where both may be off by their bounds, and a correct kernel rounds `roundings` times.
fn product(a: &Array, b: &Array, roundings: usize) -> Array {
    let mut made = a.clone();
    for i in 0..made.data.len() {
        made.data[i] = a.data[i] * b.data[i];
        made.bound[i] = a.data[i].abs() * b.bound[i]
            + a.bound[i] * (b.data[i].abs() + b.bound[i])
            + gamma(roundings) * made.data[i].abs()
            + FLUSH;
    }
    made
}

fn positive(input: &Array) -> Array {
    let mut made = input.clone();
    made.data.iter_mut().for_each(|value| *value = value.max(0.0));
    made
}

impl Layer for SquaredRelu {
    fn keys(&self) -> toml::Table {
        toml::Table::new()
    }

    fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }

    /// The layer's definition in f64, and how far a correct f32 kernel can be from it.
    fn forward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        let positive = positive(&arrays["input"]);
        Arrays::from([("output", product(&positive, &positive, 1))])
    }

    fn backward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        let mut slope = positive(&arrays["input"]);
        slope.data.iter_mut().chain(&mut slope.bound).for_each(|value| *value *= 2.0);
        Arrays::from([("grad_input", product(&slope, &arrays["grad_output"], 2))])
    }

    fn launches(&self, pass: Pass, context: &PlanContext) -> Vec<Launch> {
        let entry_point = if pass == Pass::Backward { "backward_input" } else { "forward" };
        let elements = context.quads * context.output.len();
        vec![Launch::new("squared_relu", entry_point, elements, [("ELEMENTS", elements as f64)])]
    }
}

const MODEL: &str = r#"
name = "squared"
input = [1, 28, 28]
layers = [
  { type = "conv2d", out_channels = 8, kernel = 3, stride = 2 },
  { type = "squared_relu" },
  { type = "batch_norm2d" },
  { type = "conv2d", out_channels = 16, kernel = 3, stride = 2, groups = 2 },
  { type = "squared_relu" },
  { type = "batch_norm2d" },
  { type = "conv2d", out_channels = 10, kernel = 3 },
  { type = "global_avg_pool2d" },
]
[train]
epochs = 2
batch_size = 64
learning_rate = { schedule = "one_cycle", peak = 0.05 }
"#;

pub(crate) fn register() -> Result<()> {
    let kind = LayerKind::new::<SquaredRelu>("squared_relu", "SquaredReLU", "squared_relu");
    layers::register(kind, WGSL)
}

fn main() -> Result<()> {
    register()?;
    let model = Model::parse(MODEL, "the example")?;
    let device = Device::choose("auto", None)?;

    let adapters = Adapters::find();
    if adapters.reports().next().is_some() {
        let report = examine(&model, &adapters, 0, Depth::Full, GpuOptions::DEFAULT)?;
        for kernel in report.launches.iter().filter(|kernel| kernel.launch.starts_with("squared_relu1")) {
            println!("{}: error {:.2} of what is allowed", kernel.launch, kernel.largest_error_of_bound);
        }
        println!("{}: {}", report.adapter, if report.is_well() { "all right" } else { "WRONG" });
    }

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mnist");
    let data = TrainingData::load(&folder, model.input, 0)?;
    let settings = Settings {
        replicas: vec![Replica::new(&model, &model.train, 0)],
        shuffle: true,
        data: folder,
        hold_out: 0,
    };
    let mut run = Run::start(&model, &settings, &data, &device, GpuOptions::DEFAULT, None, None)?;
    run.train(None, &mut ())?;
    let summary = run.finish()?;
    let saved = Checkpoint::load(summary.folder.join("model.safetensors"))?;
    println!("{}: {:.2} % of the test images, on {device}", saved.model.name, summary.final_test_accuracy);
    println!("{}", saved.model);
    Ok(())
}
