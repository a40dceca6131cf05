//! The GPU against the reference: every element of every tensor that any kernel writes, within its proven bound.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;

use common::nets::{Case, check_random_networks, random_weights, some_cases};
use common::{Draw, gpu};
use shadernet::batch::Sample;
use shadernet::config::{Augment, Fill, LearningRate, Optimizer, TrainConfig};
use shadernet::dataset::Images;
use shadernet::doctor::{Table, check_step};
use shadernet::engine::{Engine, Metrics, Setup, Vector};
use shadernet::gpu::{Gpu, GpuEngine, GpuOptions};
use shadernet::layers::{Grain, LAYERS};
use shadernet::model::Model;
use shadernet::normalization::Normalization;
use shadernet::reference::Reference;
use shadernet::replica::Replica;
use shadernet::shader;
use shadernet::tensor::Array;

const CHECKED: GpuOptions = GpuOptions { checked: true, ..GpuOptions::FUSED };
const UNFUSED: GpuOptions = GpuOptions { fuse: false, ..CHECKED };

fn setup<'a>(
    model: &'a Model,
    replicas: &'a [Replica],
    normalization: &'a Normalization,
    images: &'a Arc<Images>,
) -> Setup<'a> {
    Setup { model, replicas, shuffle: true, normalization, training: Some(images), test: images }
}

/// Another for each channel.
fn normalization(model: &Model) -> Normalization {
    Draw::new(2).normalization(model.input.channels)
}

/// An engine with random weights and random optimizer memory.
fn engine(gpu: Gpu, setup: &Setup<'_>, reuse: bool, options: GpuOptions) -> GpuEngine {
    let mut engine = GpuEngine::new(gpu, setup, GpuOptions { reuse, ..options }).unwrap();
    for (replica, &Replica { seed, .. }) in setup.replicas.iter().enumerate() {
        let weights = random_weights(setup.model, seed);
        engine.write(Vector::Weights, replica, &weights).unwrap();
        let average = random_weights(setup.model, seed + 1);
        engine.write(Vector::Average, replica, &average).unwrap();
        for name in setup.model.train.optimizer.memory() {
            let vector = Vector::Memory(name);
            let mut memory = engine.read(vector, replica).unwrap();
            let mut draw = Draw::new(seed + 77);
            for value in memory.iter_mut().flat_map(|tensor| &mut tensor.data) {
                let random = 0.01 * draw.normal();
                *value = if *name == "second_moment" { random * random } else { random };
            }
            engine.write(vector, replica, &memory).unwrap();
        }
    }
    engine
}

/// One step of a random network, every element of every tensor.
fn check_case(case: &Case, model: &Model, options: GpuOptions, table: &mut Table) -> Result<(), String> {
    let train = &model.train;
    let mut nets = Replica::of_seeds(model, [case.seed, 900, 31]);
    // The second has other settings; in the third everything is switched off.
    let mut augment = train.augment.plain_epochs(train.augment.plain_epochs / 2).fill(Fill::Edge);
    augment.strengths_mut().into_iter().for_each(|strength| *strength *= 0.5);
    augment.pad_crop *= 2.0;
    nets[1] = Replica {
        learning_rate: LearningRate::Constant { rate: 0.05 },
        weight_decay: 0.04,
        dropout: nets[1].dropout.iter().map(|rate| 0.5 * rate).collect(),
        label_smoothing: 0.2,
        augment,
        ..nets[1].clone()
    };
    nets[2] = Replica {
        weight_decay: 0.0,
        dropout: vec![0.0; nets[2].dropout.len()],
        label_smoothing: 0.0,
        augment: Augment::default(),
        ..nets[2].clone()
    };
    nets.truncate(case.replicas);
    // The third step of each epoch is short.
    let count = 2 * train.batch_size + train.batch_size.div_ceil(2);
    let images = Draw::new(case.seed).images(count, model.input.into(), model.class_count());
    let normalization = Draw::new(case.seed + 1).normalization(model.input.channels);
    let setup = Setup { shuffle: case.shuffle, ..setup(model, &nets, &normalization, &images) };
    let mut engine = engine(gpu().unwrap(), &setup, false, options);
    engine.set_step(case.step).unwrap();
    check_step(&mut engine, &setup, "net", table)
}

#[test]
fn every_element_of_every_tensor_is_within_its_bound() {
    if gpu().is_none() {
        return;
    }
    // One per active thread.
    let tables = Mutex::new(Vec::new());
    check_random_networks(|case, model| {
        let mut table = tables.lock().unwrap().pop().unwrap_or_default();
        let grain = |coarse| Some(if coarse { Grain::Coarse } else { Grain::Fine });
        let options = GpuOptions { grain: grain(case.seed.is_multiple_of(2)), ..CHECKED };
        // The kernels of single layers remain the fallback.
        let mut result = check_case(case, model, options, &mut table);
        if case.seed.is_multiple_of(3) && result.is_ok() {
            let options = GpuOptions { grain: grain(case.seed.is_multiple_of(9)), ..UNFUSED };
            let unfused = check_case(case, model, options, &mut table);
            result = unfused.map_err(|message| format!("each layer alone: {message}"));
        }
        tables.lock().unwrap().push(table);
        result
    })
    .unwrap_or_else(|message| panic!("{message}"));
    let tables = tables.into_inner().unwrap();
    tables.iter().for_each(|table| println!("{table}"));
    if std::env::var_os("SHADERNET_RANDOM_NETS").is_some() {
        return; // perhaps too few to cover everything
    }
    for kind in [
        "avg_pool2d.grad_input",
        "adaptive_avg_pool2d.grad_input",
        "batch_norm2d.grad_bias",
        "conv2d.grad_bias",
        "dropout.grad_input",
        "global_avg_pool2d.grad_input",
        "group_norm.grad_input",
        "group_norm.grad_weight",
        "leaky_relu.grad_input",
        "linear.grad_weight",
        "max_pool2d.grad_input",
        "relu.grad_input",
        "sgd.velocity",
        "adam.second_moment",
        "average.average",
        "batch.changes",
        "batch.input",
    ] {
        assert!(tables.iter().any(|table| table.has(kind)), "{kind} was never compared");
    }
}

/// The property test works: a shader that is wrong for one kind of network is found, and so is the smallest such network.
#[test]
fn a_wrong_shader_shrinks_to_the_smallest_network_that_has_it() {
    if gpu().is_none() {
        return;
    }
    let (from, to) = ("select(NEGATIVE_SLOPE * x", "select(-NEGATIVE_SLOPE * x");
    let source = shader::find("activation").source;
    assert!(source.contains(from), "activation.wgsl no longer has `{from}`");
    let broken: &'static str = source.replacen(from, to, 1).leak();
    let options = GpuOptions { replace: Some(("activation", broken)), ..UNFUSED };
    let check = |case: &Case, model: &Model| check_case(case, model, options, &mut Table::default());
    let message = check_random_networks(check).unwrap_err();
    println!("{message}");
    // The message is a model file from which nothing can be removed: the layer, and a head of two.
    let model = Model::parse(&message, "message").unwrap();
    let kinds: Vec<_> = model.layers.iter().map(|layer| layer.kind.name).collect();
    assert_eq!(kinds, ["leaky_relu", "global_avg_pool2d", "linear"], "{message}");
    assert!(message.contains("layer0.output at ["), "{message}");
    // Images are added as long as the pixels of the first are above 0, where nothing is wrong.
    assert!(model.train.batch_size <= 3 && model.input.len() == 1, "{message}");
}

/// A net with everything that uses random words, sums or shared memory.
const EVERYTHING: &str = r#"
    name = "everything"
    input = [1, 12, 11]
    layers = [
        { type = "conv2d", out_channels = 6, kernel = 3 },
        { type = "relu" },
        { type = "batch_norm2d" },
        { type = "max_pool2d", kernel = 2 },
        { type = "dropout", rate = 0.2 },
        { type = "conv2d", out_channels = 6, kernel = 3, groups = 2, padding = 1 },
        { type = "leaky_relu" },
        { type = "batch_norm2d" },
        { type = "group_norm", groups = 3 },
        { type = "flatten" },
        { type = "linear", out_features = 5 },
    ]"#;

/// Three steps of [`EVERYTHING`]; each replica's bits and metrics.
fn bits(seeds: &[u32], reuse: bool, options: GpuOptions) -> Option<Vec<(Vec<u32>, Metrics)>> {
    let mut model = Model::parse(EVERYTHING, "everything").unwrap();
    model.train = TrainConfig::default()
        .epochs(200)
        .batch_size(7)
        .optimizer(Optimizer::Sgd { momentum: 0.8, nesterov: false, weight_decay: 0.02 })
        .learning_rate(LearningRate::Constant { rate: 0.03 })
        .label_smoothing(0.1)
        .average_decay(0.99)
        .augment(Augment::default().rotate_degrees(20.0).shift_pixels(2.0).scale(0.2).shear(0.1));
    let images = Draw::new(3).images(17, model.input.into(), model.class_count());
    let nets = Replica::of_seeds(&model, seeds.iter().copied());
    let normalization = normalization(&model);
    let setup = setup(&model, &nets, &normalization, &images);
    let mut engine = engine(gpu()?, &setup, reuse, options);
    engine.poison(0x7fc0_0001);
    let metrics = engine.train(3).unwrap();
    assert_eq!(engine.broken_guards().unwrap(), Vec::<String>::new());
    let mut replica_bits = |replica| {
        let mut bits = Vec::new();
        for vector in [Vector::Weights, Vector::Average, Vector::Memory("velocity")] {
            let tensors = engine.read(vector, replica).unwrap();
            bits.extend(tensors.iter().flat_map(|tensor| tensor.data.iter().map(|value| value.to_bits())));
        }
        assert!(bits.iter().all(|&word| f32::from_bits(word).is_finite()));
        bits
    };
    let bits: Vec<_> = (0..seeds.len()).map(&mut replica_bits).collect();
    Some(bits.into_iter().zip(metrics).collect())
}

#[test]
fn the_same_seed_gives_the_same_bits_however_it_is_run() {
    let Some(first) = bits(&[4], true, CHECKED) else { return };
    let again = |seeds: &[u32], reuse, options| bits(seeds, reuse, options).unwrap();
    let same = |a: &(Vec<u32>, Metrics), b: &(Vec<u32>, Metrics), what: &str| {
        let different = a.0.iter().zip(&b.0).filter(|(a, b)| a != b).count();
        assert!(different == 0 && a.1 == b.1, "{what}: {different} values of {} differ", a.0.len());
    };
    same(&first[0], &again(&[4], true, CHECKED)[0], "a second run");
    same(&first[0], &again(&[4], false, CHECKED)[0], "without sharing of memory");
    let apart = |options| {
        let other = again(&[4], true, options);
        let differences =
            first[0].0.iter().zip(&other[0].0).map(|(&a, &b)| f32::from_bits(a) - f32::from_bits(b));
        differences.map(f32::abs).fold(0.0, f32::max)
    };
    // A compiler may round differently in different code, and NVIDIA's does.
    let unchecked = apart(GpuOptions::FUSED);
    assert!(unchecked < 1e-4, "steps with and without checks in the shaders are {unchecked} apart");
    let unfused = apart(UNFUSED);
    assert!(unfused > 0.0 && unfused < 1e-4, "fused and unfused steps are {unfused} apart");
    let [coarse, fine] =
        [Grain::Coarse, Grain::Fine].map(|grain| apart(GpuOptions { grain: Some(grain), ..CHECKED }));
    assert!(coarse.min(fine) == 0.0 && (1e-9..1e-4).contains(&coarse.max(fine)), "{coarse} and {fine} apart");
    let three = again(&[9, 4, 60_000], true, CHECKED);
    same(&first[0], &three[1], "as one of three replicas");
    same(&again(&[60_000], true, CHECKED)[0], &three[2], "the last of three replicas");
    assert_ne!(first[0].0[0], three[0].0[0], "another seed");
}

#[test]
fn evaluation_agrees_with_the_reference() {
    let mut kinds = BTreeSet::new();
    for (number, case) in some_cases(200).into_iter().enumerate() {
        let mut model = case.model();
        let known = kinds.len();
        kinds.extend(model.layers.iter().map(|layer| layer.kind.name));
        if kinds.len() == known {
            continue; // A few networks that together have every kind of layer are enough.
        }
        let Some(gpu) = gpu() else { return };
        model.train.average_decay = 0.9;
        // Two batches of 256, the second short and not a multiple of four.
        let images = Draw::new(case.seed).images(331, model.input.into(), model.class_count());
        let nets = Replica::of_seeds(&model, [2, 3]);
        let normalization = normalization(&model);
        let setup = setup(&model, &nets, &normalization, &images);
        let mut engine = engine(gpu, &setup, true, CHECKED);
        let batches = setup.eval_batches();
        let input = (0..331).flat_map(|image| batches.reference(&images, Sample::plain(image)).data);
        let shape = [331, model.input.channels, model.input.height, model.input.width];
        let input = Array::exact(&shape, input.collect());
        for averaged in [false, true] {
            let weights = random_weights(&model, 2 + u32::from(averaged));
            let want = Reference::new(&model, &weights).logits(input.clone());
            let got = engine.logits(averaged).unwrap();
            let largest = want.data.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
            for (got, want) in got.iter().zip(&want.data) {
                // Errors of all layers add up: a few hundred roundings of the largest value.
                assert!((f64::from(*got) - want).abs() < 3e-5 * largest, "net {number}: {got} {want}");
            }
            let metrics = engine.evaluate(averaged).unwrap();
            let classes = model.class_count();
            let losses = shadernet::losses::cross_entropy::cross_entropy(&want, &images.labels, 0.0);
            let loss: f64 = losses["loss"].data.iter().sum();
            assert!((metrics[0].loss_sum - loss).abs() < 1e-4 * loss, "{metrics:?} {loss}");
            let hits = got.chunks(classes).zip(&images.labels).filter(|(row, label)| {
                (0..classes).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])) == Some(usize::from(**label))
            });
            assert_eq!((metrics[0].correct, metrics[0].images), (hits.count(), 331));
        }
    }
    assert_eq!(kinds.len(), LAYERS.len(), "{kinds:?}");
}

/// More than 64 quads of images: each part of the batch has several, the last one fewer, and the last quad is not full.
#[test]
fn parts_of_a_large_batch_have_several_quads() {
    let Some(gpu) = gpu() else { return };
    let text = r#"
        name = "parts"
        input = [1, 9, 8]
        layers = [
            { type = "conv2d", out_channels = 3, kernel = 3, padding = 1 },
            { type = "relu" },
            { type = "batch_norm2d" },
            { type = "conv2d", out_channels = 2, kernel = 2 },
            { type = "batch_norm2d" },
            { type = "leaky_relu" },
            { type = "conv2d", out_channels = 5, kernel = 3 },
            { type = "conv2d", out_channels = 3, kernel = 1 },
            { type = "global_avg_pool2d" },
        ]"#;
    let mut model = Model::parse(text, "parts").unwrap();
    model.train = TrainConfig::default().batch_size(275).average_decay(0.9);
    let images = Draw::new(2).images(400, model.input.into(), 3);
    let nets = Replica::of_seeds(&model, [6, 8]);
    let normalization = normalization(&model);
    let setup = setup(&model, &nets, &normalization, &images);
    let mut engine = engine(gpu, &setup, false, CHECKED);
    let plan = engine.training_plan().unwrap();
    let parts = plan.launches.iter().find_map(|launch| launch.constants.get("PARTS"));
    assert_eq!(parts, Some(&35.0), "69 quads by two");
    let mut table = Table::default();
    for step in [0, 1] {
        engine.set_step(step).unwrap();
        check_step(&mut engine, &setup, "net", &mut table).unwrap();
    }
    assert!(table.has("batch_norm2d.running_var") && table.has("conv2d.grad_weight"));
}

/// More than 65,535 workgroups: the launch is folded into a second row, and every element must still be processed once.
#[test]
fn launches_beyond_the_limit_of_workgroups_are_folded() {
    let Some(gpu) = gpu() else { return };
    let text = r#"
        name = "wide"
        input = [1, 2100, 2000]
        layers = [
            { type = "leaky_relu", negative_slope = 0.3 },
            { type = "max_pool2d", kernel = 50 },
            { type = "conv2d", out_channels = 2, kernel = 1 },
            { type = "global_avg_pool2d" },
        ]"#;
    let mut model = Model::parse(text, "wide").unwrap();
    model.train = TrainConfig::default().batch_size(4);
    let images = Draw::new(1).images(4, model.input.into(), 2);
    let nets = Replica::of_seeds(&model, [1]);
    let normalization = normalization(&model);
    let setup = setup(&model, &nets, &normalization, &images);
    let mut engine = engine(gpu, &setup, false, UNFUSED);
    engine.poison(0x7fc0_0001);
    engine.train(1).unwrap();
    let plan = engine.training_plan().unwrap();
    let folded = plan.launches.iter().filter(|launch| launch.workgroups[1] > 1);
    assert_eq!(folded.count(), 2, "gather and leaky_relu");
    let floats = |name: &str| -> Vec<f32> {
        let words = engine.read_tensor(name).unwrap().unwrap();
        words.into_iter().map(f32::from_bits).collect()
    };
    let (input, output) = (floats("input"), floats("leaky_relu1.output"));
    let scale = setup.normalization.affine().next().unwrap();
    let (settings, _) = nets[0].settings(&model, model.train.epochs);
    let image_of: Vec<usize> =
        (0..4).map(|n| setup.train_batches().unwrap().sample(&settings, 0, n).index as usize).collect();
    let size = model.input.len();
    for (at, (&value, &result)) in input.iter().zip(&output).enumerate() {
        let pixel = f32::from(images.pixels[image_of[at % 4] * size + at / 4]);
        assert!((value - (pixel * scale.0 + scale.1)).abs() < 1e-6, "input {at}: {value}");
        let want = if value > 0.0 { value } else { 0.3 * value };
        assert!((result - want).abs() <= 1e-7 * want.abs(), "output {at}: {result} {want}");
    }
}
