//! Trains a network of 2,170 parameters on MNIST for three epochs, on a GPU or the processor, and writes runs/tiny-1.
//! `cargo run --release --example train`

use std::ops::ControlFlow;
use std::path::Path;

use shadernet::config::{LearningRate, TrainConfig};
use shadernet::train::EpochMetrics;
use shadernet::{Device, Model, Result, Run, TrainingData};

fn main() -> Result<()> {
    let recipe = TrainConfig::default().epochs(3).batch_size(64).learning_rate(LearningRate::one_cycle(0.2));
    let model = Model::builder("tiny", [1, 28, 28]) // channels, height, width
        .conv2d(8, 3)
        .stride(2)
        .relu()
        .batch_norm2d()
        .conv2d(16, 3)
        .stride(2)
        .groups(2)
        .relu()
        .batch_norm2d()
        .conv2d(10, 3)
        .global_avg_pool2d()
        .train(recipe)
        .build()?;
    let data = TrainingData::load(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mnist"), model.input)?;
    let device = Device::auto();
    println!("{}: {} parameters, on {device}", model.name, model.parameter_count());

    let mut run = Run::builder(model, data).device(device).start()?;
    run.train(&mut |rows: &[EpochMetrics]| {
        println!("epoch {}: {:.2} % of the test images", rows[0].epoch, rows[0].test_accuracy);
        ControlFlow::Continue(())
    })?;
    let summary = run.finish()?;
    println!("{:.2} %, saved in {}", summary.final_test_accuracy, summary.folder.display());
    Ok(())
}
