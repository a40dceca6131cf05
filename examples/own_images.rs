//! Trains on a folder of pictures with one folder per class, and classifies one of them with the trained network.
//! `cargo run --release --example own_images -- photos`; without a folder, on 3,000 digits of MNIST as PNG files.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use image::GrayImage;
use shadernet::checkpoint::Checkpoint;
use shadernet::classify::{classify, read};
use shadernet::dataset::{Images, Part, survey};
use shadernet::device::Device;
use shadernet::gpu::GpuOptions;
use shadernet::model::Model;
use shadernet::replica::Replica;
use shadernet::train::{Run, Settings, TrainingData};

fn main() -> Result<(), Box<dyn Error>> {
    let temporary = tempfile::tempdir()?;
    let folder = match std::env::args_os().nth(1) {
        Some(folder) => PathBuf::from(folder),
        None => digits(temporary.path())?,
    };

    // The pictures determine grey or RGB, and the number of classes. `shadernet new` writes a larger network this way.
    let found = survey(&folder)?;
    found.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let (channels, classes) = (found.images.channels, found.classes.len());
    let text = format!(
        r#"
        name = "pictures"
        input = [{channels}, 28, 28]
        layers = [
          {{ type = "conv2d", out_channels = 8, kernel = 3 }},
          {{ type = "relu" }},
          {{ type = "batch_norm2d" }},
          {{ type = "conv2d", out_channels = 16, kernel = 3, stride = 2 }},
          {{ type = "relu" }},
          {{ type = "batch_norm2d" }},
          {{ type = "conv2d", out_channels = {classes}, kernel = 3, stride = 2 }},
          {{ type = "global_avg_pool2d" }},
        ]
        [train]
        epochs = 12
        batch_size = 32
        learning_rate = {{ schedule = "one_cycle", peak = 0.1 }}
        augment = {{ rotate_degrees = 10.0, shift_pixels = 2.0, scale = 0.1 }}
        "#
    );
    let model = Model::parse(&text, "the example")?;
    let data = TrainingData::load(&folder, model.input, 0)?;
    data.check(&model)?;
    println!("{}: {} pictures to train, {} to test", folder.display(), data.train.count, data.test.count);

    let device = Device::cpu(None);
    let replicas = vec![Replica::new(&model, &model.train, 0)];
    let settings = Settings { replicas, shuffle: true, data: folder.clone(), hold_out: 0 };
    let mut run = Run::start(&model, &settings, &data, &device, GpuOptions::DEFAULT, None, None)?;
    run.train(None, &mut ())?;
    let summary = run.finish()?;
    println!("{:.1} % of the test pictures are right", summary.final_test_accuracy);

    let checkpoint = Checkpoint::load(summary.folder.join("model.safetensors"))?;
    if let Some(picture) = first_picture(&folder)? {
        let answers = classify(&checkpoint, &[read(&picture, &checkpoint)?], &device)?;
        println!("{}: {}", picture.display(), checkpoint.classes[answers[0].class]);
    }
    println!("the network is in {}", summary.folder.display());
    Ok(())
}

/// 3,000 test images of MNIST as `<label>/<number>.png`.
fn digits(folder: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let mnist = Images::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mnist"), Part::Test)?;
    let size = mnist.height * mnist.width;
    for (number, (pixels, label)) in mnist.pixels.chunks(size).zip(&mnist.labels).take(3000).enumerate() {
        let class = folder.join(label.to_string());
        fs::create_dir_all(&class)?;
        let image = GrayImage::from_raw(mnist.width as u32, mnist.height as u32, pixels.to_vec());
        image.ok_or("an image of another size")?.save(class.join(format!("{number}.png")))?;
    }
    Ok(folder.to_owned())
}

/// Any file below `folder`, the first by name.
fn first_picture(folder: &Path) -> Result<Option<PathBuf>, std::io::Error> {
    let mut entries =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    entries.sort();
    for path in entries {
        if !path.is_dir() {
            return Ok(Some(path));
        }
        if let Some(found) = first_picture(&path)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
