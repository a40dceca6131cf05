//! Trains a network of 2,170 parameters on MNIST for three epochs, on a GPU or the processor, and writes runs/tiny-1.
//! `cargo run --release --example train`

use std::path::Path;

use shadernet::device::Device;
use shadernet::error::Result;
use shadernet::gpu::GpuOptions;
use shadernet::model::Model;
use shadernet::replica::Replica;
use shadernet::train::{Row, Run, Settings, TrainingData, Watch};

const MODEL: &str = r#"
name = "tiny"
input = [1, 28, 28]            # channels, height, width
layers = [
  { type = "conv2d", out_channels = 8, kernel = 3, stride = 2 },
  { type = "relu" },
  { type = "batch_norm2d" },
  { type = "conv2d", out_channels = 16, kernel = 3, stride = 2, groups = 2 },
  { type = "relu" },
  { type = "batch_norm2d" },
  { type = "conv2d", out_channels = 10, kernel = 3 },
  { type = "global_avg_pool2d" },
]
[train]
epochs = 3
batch_size = 64
learning_rate = { schedule = "one_cycle", peak = 0.2 }
"#;

/// Prints a line per epoch.
struct Printer;

impl Watch for Printer {
    fn epoch(&mut self, rows: &[Row]) {
        for row in rows {
            println!(
                "epoch {}: {:.2} % of the test images, {:.1} s",
                row.epoch, row.test_accuracy, row.seconds
            );
        }
    }
}

fn main() -> Result<()> {
    let model = Model::parse(MODEL, "the example")?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mnist");
    let data = TrainingData::load(&folder, model.input, 0)?;
    let device = Device::choose("auto", None)?;
    println!("{}: {} parameters, on {device}", model.name, model.parameter_count());

    let replicas = vec![Replica::new(&model, &model.train, 0)]; // seed 0; several would train side by side
    let settings = Settings { replicas, shuffle: true, data: folder, hold_out: 0 };
    let mut run = Run::start(&model, &settings, &data, &device, GpuOptions::DEFAULT, None, None)?;
    run.train(None, &mut Printer)?;
    let summary = run.finish()?;
    println!("{:.2} %, saved in {}", summary.final_test_accuracy, summary.folder.display());
    Ok(())
}
