//! Adapts a network to new classes: takes the trained digits network, draws its last layer anew for two classes, odd and
//! even, and trains it on 500 images. `cargo run --release --example fine_tune`

use std::path::Path;

use shadernet::config::LearningRate;
use shadernet::dataset::Part;
use shadernet::{Checkpoint, Images, Model, Result, Run, TrainingData};

fn main() -> Result<()> {
    let digits = Checkpoint::seed()?;
    let mut config = digits.model.config();
    config.name = "parity".into();
    let last = config.layers.iter().rposition(|layer| layer.keys.contains_key("out_channels"));
    let last = &mut config.layers[last.expect("the network ends with a convolution")];
    last.keys.insert("out_channels".into(), 2.into());
    config.train = config.train.epochs(8).batch_size(32).learning_rate(LearningRate::one_cycle(0.02));
    let model = Model::new(config)?;

    // Every tensor that still fits is the trained one; the others are new.
    let fits = |new: &shadernet::tensor::Tensor| {
        let mut old = digits.weights.iter();
        old.find(|old| old.name == new.name && old.shape == new.shape).cloned()
    };
    let weights: Vec<_> = model.init(0).into_iter().map(|new| fits(&new).unwrap_or(new)).collect();

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mnist");
    let train = parity(Images::load(&folder, Part::Train)?.split(500, 0)?.1);
    let test = parity(Images::load(&folder, Part::Test)?);
    let data = TrainingData::from_images(train, test, ["even", "odd"])?;
    for (how, initial) in [("from the digits network", Some(weights)), ("from random weights", None)] {
        let mut run = Run::builder(model.clone(), data.clone());
        if let Some(weights) = initial {
            run = run.initial_weights(weights);
        }
        let mut run = run.start()?;
        run.train(&mut ())?;
        println!("{how}: {:.2} %", run.finish()?.final_test_accuracy);
    }
    Ok(())
}

fn parity(mut images: Images) -> Images {
    images.labels.iter_mut().for_each(|label| *label %= 2);
    images
}
