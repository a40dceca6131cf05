//! What engines guarantee in training: any amount of work can be started ahead, without changing anything else.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::sync::Arc;

use common::{Draw, gpu};
use sha2::{Digest, Sha256};
use shadernet::cpu::CpuEngine;
use shadernet::dataset::Images;
use shadernet::engine::{Engine, Metrics, Setup, Vector};
use shadernet::gpu::{GpuEngine, GpuOptions};
use shadernet::model::Model;
use shadernet::normalization::Normalization;
use shadernet::replica::Replica;

const MODEL: &str = r#"
    name = "small"
    input = [1, 6, 6]
    layers = [
      { type = "conv2d", out_channels = 4, kernel = 3 },
      { type = "relu" },
      { type = "batch_norm2d" },
      { type = "flatten" },
      { type = "linear", out_features = 3 },
    ]
    [train]
    epochs = 200
    batch_size = 5
    average_decay = 0.9
    learning_rate = { schedule = "constant", rate = 0.01 }
    "#;
const SEEDS: [u32; 2] = [4, 9];

/// Thirty-two images: six steps of five and one of two per epoch.
fn images() -> Arc<Images> {
    let mut draw = Draw::new(7);
    let pixels = (0..32 * 36).map(|_| draw.word() as u8).collect();
    let labels = (0..32).map(|_| draw.below(3) as u8).collect();
    Arc::new(Images::new([1, 6, 6], pixels, labels).unwrap())
}

/// Calls `check` with each available engine, created twice.
fn with_engines(check: impl Fn(&str, &mut dyn Engine, &mut dyn Engine)) {
    let (model, images) = (Model::parse(MODEL, "small.toml").unwrap(), images());
    let replicas = Replica::of_seeds(&model, SEEDS);
    let setup = Setup {
        model: &model,
        replicas: &replicas,
        shuffle: true,
        normalization: &Normalization::uniform(model.input.channels, 0.5, 0.3),
        training: Some(&images),
        test: &images,
    };
    let begin = |engine: &mut dyn Engine| {
        for (replica, &seed) in SEEDS.iter().enumerate() {
            for vector in [Vector::Weights, Vector::Average] {
                engine.write(vector, replica, &model.init(seed)).unwrap();
            }
        }
    };
    let cpu = || {
        let mut engine = CpuEngine::new(&setup, Some(2)).unwrap();
        begin(&mut engine);
        engine
    };
    check("CPU engine", &mut cpu(), &mut cpu());
    let on_gpu = || {
        let mut engine = GpuEngine::new(gpu()?, &setup, GpuOptions::DEFAULT).unwrap();
        begin(&mut engine);
        Some(engine)
    };
    if let (Some(mut one), Some(mut other)) = (on_gpu(), on_gpu()) {
        check("GPU", &mut one, &mut other);
    }
}

fn weights(engine: &mut dyn Engine) -> Vec<Vec<u32>> {
    let all = engine.read_all(Vector::Weights).unwrap().into_iter();
    all.map(|tensors| tensors.iter().flat_map(|tensor| &tensor.data).map(|value| value.to_bits()).collect())
        .collect()
}

#[test]
fn work_that_is_started_ahead_is_the_same_work() {
    with_engines(|name, one, other| {
        let apart: Vec<Vec<Metrics>> = vec![
            one.train(3).unwrap(),
            one.train(9).unwrap(),
            one.evaluate(true).unwrap(),
            one.train(2).unwrap(),
        ];
        other.start_training(3).unwrap();
        other.start_training(9).unwrap();
        other.start_evaluation(true, 0..other.evaluation_steps()).unwrap();
        other.start_training(2).unwrap();
        let ahead: Vec<_> = (0..4).map(|_| other.collect().unwrap()).collect();
        assert_eq!(apart, ahead, "{name}");
        assert_eq!(apart[1][0].images, 9 * 5 - 3, "{name}: one batch has two images only");
        assert_eq!(apart[2][1].images, 32, "{name}");
        assert_ne!(apart[0][0].loss_sum, apart[0][1].loss_sum, "{name}: the nets have different seeds");
        assert_eq!(weights(one), weights(other), "{name}");
        assert_eq!((one.step(), other.step()), (14, 14), "{name}");
    });
}

#[test]
fn an_evaluation_in_parts_is_the_whole_evaluation() {
    with_engines(|name, one, other| {
        one.train(3).unwrap();
        other.train(3).unwrap();
        let whole = one.evaluate(false).unwrap();
        let steps = other.evaluation_steps();
        assert!(steps > 1, "{name}");
        let mut sums = vec![Metrics::default(); SEEDS.len()];
        for step in 0..steps {
            other.start_evaluation(false, step..step + 1).unwrap();
            sums.iter_mut().zip(other.collect().unwrap()).for_each(|(sum, part)| sum.add(part));
        }
        for (whole, sum) in whole.iter().zip(&sums) {
            assert_eq!((whole.correct, whole.images), (sum.correct, sum.images), "{name}");
            assert!((whole.loss_sum - sum.loss_sum).abs() <= 1e-12 * whole.loss_sum, "{name}");
        }
    });
}

/// A GPU keeps the metrics of 1,024 steps.
#[test]
fn more_steps_than_the_ring_holds_lose_no_metrics() {
    with_engines(|name, one, other| {
        let whole = one.train(1050).unwrap();
        let mut sums = vec![Metrics::default(); SEEDS.len()];
        for _ in 0..21 {
            for (sum, part) in sums.iter_mut().zip(other.train(50).unwrap()) {
                sum.add(part);
            }
        }
        for (whole, sum) in whole.iter().zip(&sums) {
            assert_eq!((whole.correct, whole.images), (sum.correct, sum.images), "{name}");
            let difference = (whole.loss_sum - sum.loss_sum).abs();
            assert!(difference <= 1e-9 * sum.loss_sum, "{name}: {whole:?} {sum:?}");
        }
        assert_eq!(weights(one), weights(other), "{name}");
    });
}

#[test]
fn each_replica_reads_what_was_written_to_it() {
    let model = Model::parse(MODEL, "small.toml").unwrap();
    with_engines(|name, engine, _| {
        let written: Vec<_> = SEEDS.iter().map(|&seed| model.init(seed)).collect();
        for vector in [Vector::Weights, Vector::Average] {
            let all = engine.read_all(vector).unwrap();
            for (replica, want) in written.iter().enumerate() {
                assert_eq!(&all[replica], want, "{name} {vector:?}");
                assert_eq!(&engine.read(vector, replica).unwrap(), want, "{name} {vector:?}");
            }
        }
        assert!(
            engine
                .read(Vector::Memory("velocity"), 1)
                .unwrap()
                .iter()
                .all(|t| t.data.iter().all(|&v| v == 0.0))
        );
    });
}

/// Drivers that keep nothing themselves get back what they compiled; a damaged file is ignored.
#[test]
fn what_the_driver_compiled_is_kept_on_disk() {
    let Some(mut gpu) = gpu() else { return };
    if gpu.info.backend != "vulkan" {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    gpu.pipelines = Some(folder.path().join("made"));
    let (model, images) = (Model::parse(MODEL, "small.toml").unwrap(), images());
    let replicas = Replica::of_seeds(&model, SEEDS);
    let setup = Setup {
        model: &model,
        replicas: &replicas,
        shuffle: true,
        normalization: &Normalization::uniform(model.input.channels, 0.5, 0.3),
        training: Some(&images),
        test: &images,
    };
    GpuEngine::new(gpu, &setup, GpuOptions::DEFAULT).unwrap();
    let mut files = folder.path().join("made").read_dir().unwrap();
    let path = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none(), "one file a device");
    let kept = std::fs::read(&path).unwrap();
    for damaged in [&kept[..kept.len() - 1], &[0; 200], b""] {
        std::fs::write(&path, damaged).unwrap();
        let mut again = common::gpu().unwrap();
        again.pipelines = Some(folder.path().join("made"));
        let mut engine = GpuEngine::new(again, &setup, GpuOptions::DEFAULT).unwrap();
        engine.train(1).unwrap();
        // Intact again: its digest matches the rest. With some drivers, the same code may have another length.
        let mended = std::fs::read(&path).unwrap();
        assert!(mended.len() > kept.len() / 2, "{} bytes in place of {}", mended.len(), kept.len());
        assert_eq!(mended[..32], Sha256::digest(&mended[32..])[..]);
    }
}
