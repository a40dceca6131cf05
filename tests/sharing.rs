//! Layers that share weights compute what layers with equal weights do, and the gradient is the sum of their gradients.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use common::nets::random_weights;
use common::{Draw, gpu};
use shadernet::config::{LearningRate, Optimizer, TrainConfig};
use shadernet::cpu::CpuEngine;
use shadernet::engine::{Engine, Setup, Vector};
use shadernet::gpu::{GpuEngine, GpuOptions};
use shadernet::model::Model;
use shadernet::reference::{At, Reference};
use shadernet::replica::Replica;
use shadernet::tensor::{Array, Tensor};

/// Convolutions with and without groups, with and without bias, normalisations and linear layers, each with a layer
/// that shares its weights; `conv` has three uses, one of which names another that borrows.
const SHARED: &str = r#"
    name = "shared"
    input = [2, 9, 8]
    layers = [
      { type = "conv2d", out_channels = 4, kernel = 3, padding = 1 },
      { type = "relu" },
      { type = "batch_norm2d", name = "norm" },
      { type = "conv2d", name = "conv", out_channels = 4, kernel = 3, padding = 1 },
      { type = "relu" },
      { type = "batch_norm2d", weights_of = "norm", momentum = 0.3 },
      { type = "conv2d", name = "again", weights_of = "conv", out_channels = 4, kernel = 3, stride = 2 },
      { type = "leaky_relu" },
      { type = "conv2d", name = "step", out_channels = 4, kernel = 3, padding = 1, groups = 4, bias = false },
      { type = "conv2d", weights_of = "step", out_channels = 4, kernel = 3, padding = 2, groups = 4, bias = false },
      { type = "batch_norm2d" },
      { type = "conv2d", weights_of = "again", out_channels = 4, kernel = 3 },
      { type = "flatten" },
      { type = "linear", name = "first", out_features = 12 },
      { type = "linear", name = "second", out_features = 12 },
      { type = "linear", weights_of = "second", out_features = 12 },
    ]
    "#;

/// The same layers, each with its own weights.
fn unshared() -> Model {
    let mut text = SHARED.to_owned();
    while let Some(at) = text.find("weights_of") {
        let end = at + text[at..].find(", ").unwrap() + 2;
        text.replace_range(at..end, "");
    }
    Model::parse(&text, "unshared").unwrap()
}

/// Momentum without Nesterov: after one step the velocity is the gradient.
fn training() -> TrainConfig {
    TrainConfig::default()
        .epochs(1)
        .batch_size(22)
        .optimizer(Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 })
        .learning_rate(LearningRate::Constant { rate: 0.1 })
}

/// Weights and statistics for each layer of a model: those of the shared net's layers.
fn weights_of_each(shared: &Model, weights: &[Tensor], unshared: &Model) -> Vec<Tensor> {
    let values = shared.param_indices().into_iter().flatten().map(|index| &weights[index]);
    let tensors = unshared.params().into_iter().zip(values);
    tensors.map(|(param, tensor)| Tensor { name: param.name, ..tensor.clone() }).collect()
}

/// A step's gradients from an engine: SGD's memory after the first step.
fn engines_gradients(engine: &mut dyn Engine, weights: &[Tensor]) -> Vec<Tensor> {
    engine.write(Vector::Weights, 0, weights).unwrap();
    engine.train(1).unwrap();
    engine.read(Vector::Memory("velocity"), 0).unwrap()
}

/// A way to compute the gradients of a step from these weights; `None` if there is no such device.
type Way<'a> = &'a dyn Fn(&Setup<'_>, &[Tensor]) -> Option<Vec<Tensor>>;

/// Largest distance between the shared net's gradients and the sums of the other's, as a fraction of a tensor's
/// largest value.
fn distance(way: Way<'_>) -> Option<f64> {
    let (mut shared, mut unshared) = (Model::parse(SHARED, "shared").unwrap(), unshared());
    [&mut shared, &mut unshared].into_iter().for_each(|model| model.train = training());
    let images = Draw::new(5).images(training().batch_size, shared.input.into(), shared.class_count());
    let weights = random_weights(&shared, 3);
    let gradients = |model: &Model, weights: &[Tensor]| {
        let replicas = [Replica::new(model, 3)];
        let setup = Setup {
            model,
            replicas: &replicas,
            shuffle: false,
            normalization: &Draw::new(4).normalization(model.input.channels),
            training: Some(&images),
            test: &images,
        };
        way(&setup, weights)
    };
    let got = gradients(&shared, &weights)?;
    let parts = gradients(&unshared, &weights_of_each(&shared, &weights, &unshared))?;

    let trained: Vec<_> = shared.params().into_iter().filter(|param| param.param.trained).collect();
    assert_eq!(
        got.iter().map(|t| &t.name).collect::<Vec<_>>(),
        trained.iter().map(|p| &p.name).collect::<Vec<_>>()
    );
    let mut sums: Vec<Vec<f64>> = got.iter().map(|tensor| vec![0.0; tensor.data.len()]).collect();
    let mut parts = parts.iter();
    for (layer, indices) in shared.layers.iter().zip(shared.param_indices()) {
        for (param, index) in layer.params.iter().zip(indices).filter(|(param, _)| param.trained) {
            let name = &shared.params()[index].name;
            let sum = &mut sums[trained.iter().position(|other| other.name == *name).unwrap()];
            let part = parts.next().unwrap();
            assert_eq!(part.shape, param.shape, "{}", part.name);
            sum.iter_mut().zip(&part.data).for_each(|(sum, &value)| *sum += f64::from(value));
        }
    }
    assert!(parts.next().is_none());
    let mut worst = 0.0f64;
    for (tensor, sum) in got.iter().zip(&sums) {
        let largest = sum.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        assert!(largest > 1e-6, "{} has no gradient", tensor.name);
        for (&value, sum) in tensor.data.iter().zip(sum) {
            worst = worst.max((f64::from(value) - sum).abs() / largest);
        }
    }
    Some(worst)
}

/// The sums are rounded to `f32` in each engine; a fused plan adds up parts in another order.
#[track_caller]
fn assert_sums(what: &str, way: Way<'_>) {
    let Some(distance) = distance(way) else { return };
    println!("{what}: {distance:.1e}");
    assert!(distance < 1e-6, "{what}: {distance:e} of the largest value off");
}

#[test]
fn the_references_gradient_is_the_sum_over_the_uses() {
    assert_sums("reference", &|setup, weights| {
        let mut reference = Reference::new(setup.model, weights);
        let (images, batches) = (setup.training?, setup.train_batches()?);
        let (settings, _) = setup.replicas[0].settings(setup.model, batches.epochs);
        let samples: Vec<_> = (0..images.count).map(|image| batches.sample(&settings, 0, image)).collect();
        let pixels = samples.iter().flat_map(|&sample| batches.reference(images, sample).data);
        let input = Array::exact(&[images.count, 2, 9, 8], pixels.collect());
        let targets: Vec<u8> = samples.iter().map(|sample| images.labels[sample.index as usize]).collect();
        reference.step(input, &targets, At { seed: 3, step: 0, learning_rate: 0.1 });
        let velocity = setup.model.params().into_iter().zip(reference.memory("velocity"));
        let trained = velocity.filter(|(param, _)| param.param.trained);
        let tensor = |(param, array): (shadernet::model::ModelParam, &Array)| Tensor {
            name: param.name,
            shape: array.shape.clone(),
            data: array.to_f32(),
        };
        Some(trained.map(tensor).collect())
    });
}

#[test]
fn the_engines_gradient_is_the_sum_over_the_uses() {
    assert_sums("CPU engine", &|setup, weights| {
        Some(engines_gradients(&mut CpuEngine::new(setup, Some(2)).unwrap(), weights))
    });
    for (what, options) in [("GPU", GpuOptions::DEFAULT), ("GPU, fused", GpuOptions::FUSED)] {
        assert_sums(what, &|setup, weights| {
            let options = GpuOptions { checked: true, ..options };
            Some(engines_gradients(&mut GpuEngine::new(gpu()?, setup, options).unwrap(), weights))
        });
    }
}

#[test]
fn shared_weights_are_counted_named_and_drawn_once() {
    let (shared, unshared) = (Model::parse(SHARED, "shared").unwrap(), unshared());
    let names: Vec<String> = shared.params().into_iter().map(|param| param.name).collect();
    let want = "conv1.weight conv1.bias norm.weight norm.bias norm.running_mean norm.running_var conv.weight conv.bias \
                batch_norm2.running_mean batch_norm2.running_var step.weight batch_norm3.weight batch_norm3.bias \
                batch_norm3.running_mean batch_norm3.running_var first.weight first.bias second.weight second.bias";
    assert_eq!(names.join(" "), want);
    let borrowed = [2 * 4, 2 * (4 * 4 * 9 + 4), 4 * 9, 12 * 12 + 12];
    let counts = [&shared, &unshared].map(Model::parameter_count);
    assert_eq!(counts[1] - counts[0], borrowed.iter().sum::<usize>());
    assert_eq!(shared.init(1).iter().map(|tensor| tensor.data.len()).sum::<usize>(), counts[0] + 2 * 3 * 4);
    let rows = shared.to_string();
    let row = |title: &str| rows.lines().find(|line| line.contains(title)).unwrap().to_owned();
    assert!(row("Conv2d-4 ").ends_with(" 148") && row("Conv2d-7 ").ends_with(" 0"), "{rows}");

    // In the model file, a layer names the owner, and the net is the same.
    let text = shared.to_toml();
    assert_eq!(text.matches(r#"weights_of = "conv""#).count(), 2, "{text}");
    let again = Model::parse(&text, "again").unwrap();
    assert_eq!((again.params(), again.to_toml()), (shared.params(), text));
}

#[test]
fn what_cannot_be_shared_is_refused_with_line_layer_and_reason() {
    let refused = |layer: &str| {
        let text = format!(
            "name = \"x\"\ninput = [2, 6, 6]\nlayers = [\n\
             {{ type = \"conv2d\", name = \"step\", out_channels = 2, kernel = 3, padding = 1 }},\n\
             {{ type = \"batch_norm2d\", name = \"norm\" }},\n\
             {{ {layer} }},\n\
             {{ type = \"conv2d\", name = \"later\", out_channels = 2, kernel = 3 }},\n\
             {{ type = \"global_avg_pool2d\" }},\n]"
        );
        Model::parse(&text, "x.toml").unwrap_err().to_string()
    };
    let conv = |owner: &str, more: &str| {
        refused(&format!(r#"type = "conv2d", weights_of = "{owner}", out_channels = 2, {more}"#))
    };
    assert_eq!(
        conv("stop", "kernel = 3"),
        "x.toml:6: layer `conv2`: there is no earlier layer \"stop\" for weights_of (did you mean step?); there are step, norm"
    );
    // Itself, and a later one.
    assert!(conv("conv2", "kernel = 3").ends_with("that is this layer itself; name an earlier one"));
    assert!(conv("later", "kernel = 3").ends_with("that layer comes later; move it before this one"));
    assert_eq!(
        conv("norm", "kernel = 3"),
        "x.toml:6: layer `conv2`: weights_of = \"norm\": that is a batch_norm2d, this is a conv2d"
    );
    assert_eq!(
        conv("step", "kernel = 2"),
        "x.toml:6: layer `conv2`: weights_of = \"step\": that has weight [2, 2, 3, 3], bias [2]; \
         this needs weight [2, 2, 2, 2], bias [2]"
    );
    assert!(conv("step", "kernel = 3, groups = 2").ends_with("this needs weight [2, 1, 3, 3], bias [2]"));
    assert!(conv("step", "kernel = 3, bias = false").ends_with("this needs weight [2, 2, 3, 3]"));
    assert_eq!(
        refused(r#"type = "relu", weights_of = "step""#),
        "x.toml:6: layer `relu1`: weights_of = \"step\": layers of type relu have no weights"
    );
    assert_eq!(
        refused(r#"type = "conv2d", weights_of = 7, out_channels = 2, kernel = 3"#),
        "x.toml:6: weights_of must be text in quotes"
    );
}
