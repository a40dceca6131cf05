//! Trains on a folder of pictures, one subfolder per class, then classifies one of them.
//! `cargo run --release --example own_images -- photos`; without a folder, on 3,000 digits that it writes as PNG files.

use std::fs;
use std::path::{Path, PathBuf};

use image::GrayImage;
use shadernet::config::{Augment, LearningRate, TrainConfig};
use shadernet::dataset::{Part, survey};
use shadernet::{Classifier, Device, Images, Model, Run, TrainingData};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let temporary = tempfile::tempdir()?;
    let folder = match std::env::args_os().nth(1) {
        Some(folder) => PathBuf::from(folder),
        None => digits(temporary.path())?,
    };
    // Grey or RGB, and how many classes: the pictures decide. `shadernet new` writes a larger network in this way.
    let found = survey(&folder)?;
    found.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let model =
        Model::builder("pictures", [found.images.channels, 28, 28]).conv2d(8, 3).relu().batch_norm2d();
    let model = model.conv2d(16, 3).stride(2).relu().batch_norm2d().conv2d(found.classes.len(), 3).stride(2);
    let augment = Augment::default().rotate_degrees(10.0).shift_pixels(2.0).scale(0.1);
    let recipe = TrainConfig::default().epochs(12).batch_size(32).learning_rate(LearningRate::one_cycle(0.1));
    let model = model.global_avg_pool2d().train(recipe.augment(augment)).build()?;

    let data = TrainingData::load(&folder, model.input)?;
    println!("{}: {} pictures to train, {} to test", folder.display(), data.train.count, data.test.count);
    let mut run = Run::builder(model, data).device(Device::cpu()).start()?;
    run.train(&mut ())?;
    let summary = run.finish()?;
    println!("{:.1} % of the test pictures are right", summary.final_test_accuracy);

    let mut classifier = Classifier::open(summary.folder.join("model.safetensors"), &Device::cpu())?;
    let mut names: Vec<_> =
        fs::read_dir(folder.join(&found.classes[0]))?.flatten().map(|file| file.path()).collect();
    names.sort();
    if let Some(picture) = names.first() {
        let answer = classifier.classify_file(picture)?;
        println!("{}: {}", picture.display(), classifier.name_of(&answer));
    }
    println!("the network is in {}", summary.folder.display());
    Ok(())
}

/// 3,000 test images of MNIST as `<label>/<number>.png`.
fn digits(folder: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let mnist = Images::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mnist"), Part::Test)?;
    for (number, (pixels, label)) in mnist.pixels.chunks(28 * 28).zip(&mnist.labels).take(3000).enumerate() {
        let class = folder.join(label.to_string());
        fs::create_dir_all(&class)?;
        let image = GrayImage::from_raw(28, 28, pixels.to_vec());
        image.ok_or("an image of another size")?.save(class.join(format!("{number}.png")))?;
    }
    Ok(folder.to_owned())
}
