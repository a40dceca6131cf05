//! The three nets of `MLPerf` Tiny compute what Keras computes: answers, and the gradient of every parameter.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::gpu;
use safetensors::SafeTensors;
use shadernet::cpu::CpuEngine;
use shadernet::dataset::Images;
use shadernet::engine::{Engine, Setup, Vector};
use shadernet::gpu::{GpuEngine, GpuOptions};
use shadernet::model::Model;
use shadernet::normalization::Normalization;
use shadernet::replica::Replica;
use shadernet::tensor::Tensor;

const IMAGES: usize = 100;
const BATCH: usize = 4;
const PROJECTIONS: usize = 16;
const MEAN: f32 = 0.5;
const STD: f32 = 0.25;

/// As `words` in `tests/fixtures/mlperf_tiny.py`, which explains this.
fn word(stream: u64, at: usize) -> u32 {
    let mut x = at as u64 + (stream << 32);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((x ^ (x >> 31)) >> 32) as u32
}

fn uniform(stream: u64, at: usize) -> f32 {
    (word(stream, at) >> 8) as f32 / 8_388_608.0 - 1.0
}

fn weights(model: &Model) -> Vec<Tensor> {
    let mut tensors = model.init(0);
    for (stream, (tensor, param)) in tensors.iter_mut().zip(model.params()).enumerate() {
        let shape = &param.param.shape;
        let (centre, reach) = match (param.param.name, &shape[..]) {
            ("running_var", _) => (1.0, 0.5),
            ("weight", [_]) => (1.0, 0.25),
            ("weight", _) => (0.0, (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt() as f32),
            _ => (0.0, 0.25),
        };
        for (at, value) in tensor.data.iter_mut().enumerate() {
            *value = centre + reach * uniform(stream as u64, at);
        }
    }
    tensors
}

fn images(model: &Model, stream: u64, count: usize) -> Arc<Images> {
    let pixels = (0..count * model.input.len()).map(|at| word(stream, at) as u8).collect();
    let labels = (0..count).map(|at| (word(stream + 1, at) % model.class_count() as u32) as u8).collect();
    Arc::new(Images::new(model.input, pixels, labels).unwrap())
}

/// Norm of `grad` minus Keras's gradient as a fraction of the latter's, by their projections on vectors of ±1.
fn distance(grad: &[f32], stream: u64, norm: f64, projections: &[f64]) -> f64 {
    let sign = |k: usize, at: usize| f64::from(1 - 2 * (word(stream, k * grad.len() + at) & 1) as i32);
    let squares = projections.iter().enumerate().map(|(k, want)| {
        let got: f64 = grad.iter().enumerate().map(|(at, &g)| sign(k, at) * f64::from(g)).sum();
        (got - want) * (got - want)
    });
    (squares.sum::<f64>() / PROJECTIONS as f64).sqrt() / norm
}

fn floats(file: &SafeTensors, name: &str) -> Vec<f64> {
    let tensor = file.tensor(name).unwrap();
    match tensor.dtype() {
        safetensors::Dtype::F32 => {
            tensor.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes).into()).collect()
        }
        _ => tensor.data().as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect(),
    }
}

fn integer(file: &SafeTensors, name: &str) -> u64 {
    u64::from_le_bytes(file.tensor(name).unwrap().data().try_into().unwrap())
}

/// One of the nets, on the CPU engine or on an adapter, if there is one.
fn check(name: &str, on_cpu: bool) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join(format!("data/models/{name}.toml"))).unwrap();
    let mut model = Model::parse(&text, name).unwrap();
    // Masks differ between libraries. Plain steps with rate 1 show the gradients as differences of weights.
    let (layers, _) = text.split_once("[train]").unwrap();
    let layers = layers.replace("rate = 0.2", "rate = 0.0").replace("rate = 0.4", "rate = 0.0");
    let recipe = "[train]\nbatch_size = 4\noptimizer = { type = \"sgd\", momentum = 0.0 }\n\
                  learning_rate = { schedule = \"constant\", rate = 1.0 }\n";
    model = Model::parse(&format!("{layers}{recipe}"), &model.name).unwrap();
    let bytes = std::fs::read(root.join("tests/fixtures/mlperf_tiny.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();

    let stream = integer(&file, &format!("{name}.stream"));
    let (training, test) = (images(&model, stream, BATCH), images(&model, stream, IMAGES));
    let setup = Setup {
        model: &model,
        replicas: &[Replica::new(&model, 0)],
        shuffle: false,
        normalization: &Normalization::uniform(model.input.channels, MEAN, STD),
        training: Some(&training),
        test: &test,
    };
    let mut engine: Box<dyn Engine> = if on_cpu {
        Box::new(CpuEngine::new(&setup, None).unwrap())
    } else {
        let Some(gpu) = gpu() else { return };
        Box::new(GpuEngine::new(gpu, &setup, GpuOptions::DEFAULT).unwrap())
    };
    let before = weights(&model);
    engine.write(Vector::Weights, 0, &before).unwrap();

    let want = floats(&file, &format!("{name}.logits"));
    let got = engine.logits(false).unwrap();
    assert_eq!(got.len(), want.len());
    let off = got.iter().zip(&want).map(|(&got, want)| (f64::from(got) - want).abs()).fold(0.0, f64::max);
    println!("{name}: logits up to {:.1}, off by {off:.1e}", want.iter().fold(0.0f64, |a, b| a.max(b.abs())));
    assert!(off <= 1e-4, "{name}: logits are off by {off}");

    engine.train(1).unwrap();
    let after = engine.read(Vector::Weights, 0).unwrap();
    let norms = floats(&file, &format!("{name}.norms"));
    let projections = floats(&file, &format!("{name}.projections"));
    let trained = model.params().into_iter().enumerate().filter(|(_, param)| param.param.trained);
    let (mut count, mut worst) = (0, 0.0f64);
    for (place, (index, param)) in trained.enumerate() {
        let [before, after] = [&before[index].data, &after[index].data];
        let grad: Vec<f32> = before.iter().zip(after).map(|(before, after)| before - after).collect();
        count += grad.len();
        // The gradient of a bias before a batch normalisation is nothing but rounding errors.
        let largest = norms.iter().fold(0.0f64, |a, &b| a.max(b));
        let norm = norms[place].max(1e-3 * largest);
        let off = distance(&grad, stream + 2, norm, &projections[place * PROJECTIONS..][..PROJECTIONS]);
        assert!(off <= 1e-3, "{name}: gradient of {} is off by {off} of its length {norm}", param.name);
        worst = worst.max(off);
    }
    assert_eq!(count, model.parameter_count());
    println!("{name}: gradients of {count} parameters off by {worst:.1e} of their lengths at most");
}

#[test]
fn resnet8_is_keras_s() {
    check("resnet8", true);
    check("resnet8", false);
}

#[test]
fn mobilenet_is_keras_s() {
    check("mobilenet-0.25", true);
    check("mobilenet-0.25", false);
}

#[test]
fn ds_cnn_is_keras_s() {
    check("ds-cnn", true);
    check("ds-cnn", false);
}
