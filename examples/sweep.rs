//! Which learning rate, and does dropout help? Trains six networks side by side, each on 55,000 images of MNIST, and tests
//! them on 5,000 held-out ones: the test set stays closed. `cargo run --release --example sweep`

use std::path::Path;

use shadernet::train::Sweep;
use shadernet::{Model, Result, Run, TrainConfig, TrainingData};

fn main() -> Result<()> {
    let recipe = TrainConfig::default().epochs(1).batch_size(64);
    let model = Model::builder("swept", [1, 28, 28]).conv2d(8, 5).stride(2).relu().batch_norm2d();
    let model = model.dropout(0.0).conv2d(10, 5).stride(2).global_avg_pool2d().train(recipe).build()?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mnist");
    let data = TrainingData::load_held_out(folder, model.input, 5000)?;

    let mut nets = Sweep::parse(&["learning_rate=0.05,0.1,0.2", "dropout=0,0.1"])?.replicas(&model, &[0])?;
    // Any list will do: here the last two decay their weights, too.
    for net in &mut nets[4..] {
        net.weight_decay = 5e-4;
        net.point.0.insert("weight_decay".into(), net.weight_decay);
    }
    let mut run = Run::builder(model, data).replicas(nets).start()?;
    run.train(&mut ())?;
    let summary = run.finish()?;
    for net in &summary.replicas {
        println!("{:.2} %, loss {:.4}: {}", net.final_test_accuracy, net.final_test_loss, net.net.point);
    }
    println!("the networks are in {}", summary.folder.display());
    Ok(())
}
