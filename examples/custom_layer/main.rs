//! A custom layer in both engines: max(x, 0)², the activation that an architecture search found for Primer (So et al.
//! 2021). Checks its kernels on this machine's GPU against the formula below, trains two epochs, reads the result
//! back.
//! `cargo run --release --example custom_layer`

use std::path::Path;

use shadernet::doctor::{Depth, examine};
use shadernet::gpu::{Adapter, GpuOptions};
use shadernet::{Checkpoint, Device, Model, Result, Run, TrainingData};

mod squared_relu;

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

fn main() -> Result<()> {
    squared_relu::register()?;
    let model = Model::parse(MODEL, "the example")?;
    let device = Device::auto();

    if let Some(adapter) = Adapter::all().first() {
        let report = examine(&model, adapter, Depth::Full, GpuOptions::DEFAULT)?;
        for kernel in report.launches.iter().filter(|kernel| kernel.launch.starts_with("squared_relu1")) {
            println!("{}: error {:.2} of what is allowed", kernel.launch, kernel.largest_error_of_bound);
        }
        println!("{}: {}", report.adapter, if report.is_well() { "all right" } else { "WRONG" });
    }

    let data = TrainingData::load(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mnist"), model.input)?;
    let mut run = Run::builder(model, data).device(device.clone()).start()?;
    run.train(&mut ())?;
    let summary = run.finish()?;
    let saved = Checkpoint::load(summary.folder.join("model.safetensors"))?;
    println!("{}: {:.2} % of the test images, on {device}", saved.model.name, summary.final_test_accuracy);
    println!("{}", saved.model);
    Ok(())
}
