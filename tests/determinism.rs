//! The same seed gives the same bits on the CPU engine, whatever the number of threads and however the steps are cut up.
//! (`tests/gpu_layers.rs` holds the same promise for the GPU.)
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;

use shadernet::cpu::CpuEngine;
use shadernet::dataset::{Images, Part};
use shadernet::engine::{Engine, Setup, Vector};
use shadernet::model::Model;
use shadernet::tensor::Tensor;

/// Averaged weights of the seed network after thirty steps, taken in `pieces`.
fn weights_after(images: &Images, seed: u32, threads: usize, pieces: &[usize]) -> Vec<Tensor> {
    let text = include_str!("../data/models/seed.toml").replace("rate = 0.0", "rate = 0.1");
    let model = Model::parse(&text, "seed.toml").unwrap();
    let setup = Setup {
        model: &model,
        train: &model.train,
        seeds: &[seed],
        shuffle: true,
        mean: 0.1307,
        std: 0.3081,
        training: Some(images),
        test: images,
    };
    let mut engine = CpuEngine::new(&setup, Some(threads)).unwrap();
    let first = model.init(seed);
    engine.write(Vector::Weights, 0, &first).unwrap();
    engine.write(Vector::Average, 0, &first).unwrap();
    for &steps in pieces {
        engine.train(steps).unwrap();
        // An evaluation in between must leave no trace.
        engine.evaluate(true).unwrap();
    }
    engine.read(Vector::Average, 0).unwrap()
}

#[test]
fn threads_and_pauses_do_not_change_a_bit() {
    let mut images = Images::load(Path::new("data/mnist"), Part::Test).unwrap();
    // Ten batches of 64 and one of 60 in an epoch.
    images.count = 700;
    images.pixels.truncate(700 * 784);
    images.labels.truncate(700);
    let want = weights_after(&images, 3, 1, &[30]);
    for (threads, pieces) in [(2, &[30][..]), (3, &[30]), (2, &[1, 10, 19])] {
        assert!(weights_after(&images, 3, threads, pieces) == want, "{threads} threads, pieces {pieces:?}");
    }
    assert!(weights_after(&images, 4, 1, &[30]) != want, "another seed gives other weights");
}
