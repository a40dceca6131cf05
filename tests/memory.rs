//! The CPU engine takes the memory that it says it will take.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

#[path = "common/alloc.rs"]
mod alloc;

use std::sync::Arc;

use alloc::Counting;
use shadernet::cpu::CpuEngine;
use shadernet::dataset::{FileNames, Images};
use shadernet::engine::{Engine, Setup, Vector};
use shadernet::model::Model;
use shadernet::normalization::Normalization;
use shadernet::replica::Replica;

#[global_allocator]
static MEMORY: Counting = Counting::new();

const WIDE: &str = r#"{ type = "conv2d", out_channels = 32, kernel = 3, padding = 1 }, { type = "relu" },
    { type = "batch_norm2d" }, { type = "conv2d", out_channels = 48, kernel = 3, padding = 1 }, { type = "max_pool2d", kernel = 2 },
    { type = "conv2d", out_channels = 3, kernel = 3 }, { type = "global_avg_pool2d" }"#;
const LINEAR: &str = r#"{ type = "flatten" }, { type = "linear", out_features = 1500 }, { type = "dropout", rate = 0.1 },
    { type = "linear", out_features = 1500 }, { type = "relu" }, { type = "linear", out_features = 3 }"#;
const DEEP: &str = r#"{ type = "conv2d", out_channels = 16, kernel = 3, padding = 1 }, { type = "relu" },
    { type = "relu" }, { type = "avg_pool2d", kernel = 3, stride = 1, padding = 1 }, { type = "leaky_relu" }, { type = "relu" },
    { type = "conv2d", out_channels = 3, kernel = 3 }, { type = "global_avg_pool2d" }"#;

/// Within a fifth for nets of all kinds, batch sizes and numbers of nets and threads, in training and evaluation.
fn the_estimate_is_what_is_taken() {
    let images = Arc::new(Images {
        count: 400,
        channels: 1,
        height: 24,
        width: 24,
        pixels: (0..400 * 576).map(|at| (at % 251) as u8).collect(),
        labels: (0..400).map(|image| (image % 3) as u8).collect(),
        files: FileNames::default(),
    });
    let few = Arc::new(Images {
        count: 40,
        pixels: images.pixels[..40 * 576].to_vec(),
        labels: images.labels[..40].to_vec(),
        files: FileNames::default(),
        ..*images
    });
    for (layers, batch_size, nets, optimizer, average, threads) in [
        (WIDE, 256, 1, "sgd", 0.0, 1),
        (WIDE, 16, 1, "adam", 0.9, 2),
        (LINEAR, 16, 8, "adam", 0.0, 1),
        (LINEAR, 128, 1, "sgd", 0.5, 2),
        (DEEP, 400, 2, "adamw", 0.0, 2),
    ] {
        let text = format!(
            "name = \"x\"\ninput = [1, 24, 24]\nlayers = [{layers}]\n[train]\nepochs = 2\nbatch_size = {batch_size}\n\
             average_decay = {average}\noptimizer = {{ type = {optimizer:?} }}\n\
             learning_rate = {{ schedule = \"constant\", rate = 0.001 }}"
        );
        let model = Model::parse(&text, "x.toml").unwrap();
        let replicas = Replica::of_seeds(&model, 0..nets);
        for training in [true, false] {
            let setup = Setup {
                model: &model,
                replicas: &replicas,
                shuffle: true,
                normalization: &Normalization::uniform(model.input.channels, 0.5, 0.3),
                training: training.then_some(&images),
                test: &few,
            };
            let needed = CpuEngine::memory(&setup, threads);
            // The last engine's threads end in their own time.
            std::thread::sleep(std::time::Duration::from_millis(100));
            let (taken, ()) = MEMORY.peak_of(|| {
                let mut engine = CpuEngine::new(&setup, Some(threads)).unwrap();
                if training {
                    engine.train(1).unwrap();
                }
                engine.evaluate(false).unwrap();
                if training {
                    // For saving: all vectors, and as much again for the file.
                    let all = [Vector::Weights, Vector::Average].into_iter();
                    let all =
                        all.chain(model.train.optimizer.memory().iter().map(|&name| Vector::Memory(name)));
                    let read: Vec<_> = all.map(|vector| engine.read_all(vector).unwrap()).collect();
                    std::hint::black_box((read.clone(), read));
                }
            });
            let ratio = needed as f64 / taken as f64;
            let what = format!("batches of {batch_size}, {nets} nets, {optimizer}, {training}");
            assert!((0.8..1.25).contains(&ratio), "{what}: {needed} said, {taken} taken");
        }
    }
}

/// What does not fit is rejected before anything significant is allocated.
#[cfg(target_os = "linux")]
fn too_much_is_refused_first() {
    let text = "name = \"x\"\ninput = [1, 4000, 4000]\nlayers = [{ type = \"relu\" }, { type = \"global_avg_pool2d\" }, \
                { type = \"linear\", out_features = 2 }]\n[train]\nbatch_size = 65536";
    let model = Model::parse(text, "x.toml").unwrap();
    // The pixels are never read.
    let (pixels, labels) = (Vec::new(), Vec::new());
    let files = FileNames::default();
    let (count, channels, height, width) = (1 << 20, 1, 4000, 4000);
    let images = Arc::new(Images { count, channels, height, width, pixels, labels, files });
    let replicas = Replica::of_seeds(&model, 0..1);
    let setup = Setup {
        model: &model,
        replicas: &replicas,
        shuffle: true,
        normalization: &Normalization::uniform(1, 0.5, 0.3),
        training: Some(&images),
        test: &images,
    };
    let (taken, refused) = MEMORY.peak_of(|| CpuEngine::new(&setup, Some(2)).map(drop));
    assert!(taken < 1 << 20, "{taken} bytes");
    let message = refused.unwrap_err().to_string();
    assert!(message.starts_with("CPU engine: training in batches of 65536 needs "), "{message}");
    assert!(message.contains(" TiB of memory, ") && message.contains("fit"), "{message}");
}

/// A single test, since others running alongside would be counted.
#[test]
fn memory_is_asked_for_and_then_taken() {
    the_estimate_is_what_is_taken();
    #[cfg(target_os = "linux")]
    too_much_is_refused_first();
}
