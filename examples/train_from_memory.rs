//! Trains on images that the program makes: crosses and rings. `cargo run --release --example train_from_memory`

use std::ops::ControlFlow;

use shadernet::config::{LearningRate, TrainConfig};
use shadernet::train::EpochMetrics;
use shadernet::{Images, Model, Result, Run, TrainingData, rng};

fn main() -> Result<()> {
    let labels: Vec<u8> = [0, 1].repeat(600); // 1,200 images of one channel, 16x16 pixels: bytes, 0 for black
    let pixels = labels.iter().enumerate().flat_map(|(image, &label)| draw(image as u32, label)).collect();
    let (train, test) = Images::new([1, 16, 16], pixels, labels)?.split(200, 0)?;
    let data = TrainingData::from_images(train, test, ["cross", "ring"])?;

    let recipe = TrainConfig::default().epochs(5).batch_size(32).learning_rate(LearningRate::one_cycle(0.05));
    let model = Model::builder("shapes", [1, 16, 16]).conv2d(8, 5).stride(2).relu().batch_norm2d();
    let model = model.conv2d(2, 3).global_avg_pool2d().train(recipe).build()?;

    let mut run = Run::builder(model, data).seed(1).start()?;
    run.train(&mut |rows: &[EpochMetrics]| {
        println!("epoch {}: {:.1} % of the test images", rows[0].epoch, rows[0].test_accuracy);
        // Good enough: what is left of the run is saved, and could be resumed.
        if rows[0].test_accuracy == 100.0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    println!("the network is in {}", run.finish()?.folder.display());
    Ok(())
}

/// A cross or a ring at a random place, with noise.
fn draw(image: u32, label: u8) -> Vec<u8> {
    let [x, y, ..] = rng::words(0, 0, image, 0).map(|word| 5 + (word % 6) as i32);
    let pixel = |at: i32| {
        let (dx, dy) = (at % 16 - x, at / 16 - y);
        let (distance, is_near) = (dx * dx + dy * dy, dx.abs().max(dy.abs()) <= 4);
        let is_ink = if label == 0 { is_near && (dx == 0 || dy == 0) } else { (9..=16).contains(&distance) };
        let noise = (rng::words(0, 1, image, at as u32)[0] % 60) as u8;
        if is_ink { 255 - noise } else { noise }
    };
    (0..256).map(pixel).collect()
}
