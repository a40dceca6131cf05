//! A net has the same bits as the single run with its seed and settings, whatever nets are trained alongside it:
//! every setting differs somewhere, and is switched off somewhere.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::collections::BTreeSet;

use common::nets::everything;
use common::{Draw, gpu};
use shadernet::config::{Augment, ClassWeights, Fill, LearningRate, Optimizer, TrainConfig};
use shadernet::cpu::CpuEngine;
use shadernet::engine::{Engine, Metrics, Setup, Vector};
use shadernet::gpu::{GpuEngine, GpuOptions};
use shadernet::model::Model;
use shadernet::replica::Replica;

/// The first dropout is fused with the convolution after it, the second is a separate layer.
const MODEL: &str = r#"
    name = "sweep"
    input = [1, 12, 11]
    layers = [
        { type = "conv2d", out_channels = 5, kernel = 3 },
        { type = "relu" },
        { type = "batch_norm2d" },
        { type = "max_pool2d", kernel = 2 },
        { type = "dropout", rate = 0.2 },
        { type = "conv2d", out_channels = 6, kernel = 3, padding = 1 },
        { type = "leaky_relu" },
        { type = "batch_norm2d" },
        { type = "dropout", rate = 0.3 },
        { type = "flatten" },
        { type = "linear", out_features = 5 },
    ]"#;
/// The same with a head that is fused with the loss.
const WITH_HEAD: (&str, &str) = (
    r#"{ type = "flatten" },
        { type = "linear", out_features = 5 },"#,
    r#"{ type = "conv2d", out_channels = 5, kernel = 1 },
        { type = "global_avg_pool2d" },"#,
);

const SGD: Optimizer = Optimizer::Sgd { momentum: 0.8, nesterov: true, weight_decay: 0.02 };
const ADAM: Optimizer = Optimizer::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.02 };
const ADAMW: Optimizer = Optimizer::Adamw { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.02 };
/// Two epochs of three steps, and one step.
const STEPS: usize = 7;

fn training(optimizer: Optimizer) -> TrainConfig {
    TrainConfig::default()
        .epochs(4)
        .batch_size(7)
        .optimizer(optimizer)
        .learning_rate(LearningRate::Cosine { peak: 0.03, end: 0.1 })
        .label_smoothing(0.1)
        .class_weights(Some(ClassWeights::Each(vec![1.0, 0.3, 2.0, 1.5, 0.7])))
        .average_decay(0.99)
        .augment(everything().plain_epochs(2))
}

/// One net with the recipe's settings, and one for each single setting that can differ; all with the same seed.
fn nets(model: &Model) -> Vec<Replica> {
    let first = Replica::new(model, 4);
    let changed = |change: &dyn Fn(&mut Replica)| {
        let mut net = first.clone();
        change(&mut net);
        net
    };
    let mut nets = vec![
        first.clone(),
        changed(&|net| net.learning_rate = LearningRate::Cosine { peak: 0.03, end: 0.2 }),
        changed(&|net| net.learning_rate = LearningRate::Constant { rate: 0.01 }),
        changed(&|net| net.weight_decay = 0.0),
        changed(&|net| net.weight_decay = 0.3),
        changed(&|net| net.dropout = vec![0.0, 0.3]),
        changed(&|net| net.dropout = vec![0.2, 0.0]),
        changed(&|net| net.dropout = vec![0.0, 0.0]),
        changed(&|net| net.label_smoothing = 0.0),
        changed(&|net| net.label_smoothing = 0.3),
        changed(&|net| net.augment = Augment::default()),
        changed(&|net| net.augment.shift_pixels = 0.5),
        changed(&|net| net.augment.shear = 0.4),
        changed(&|net| net.augment.plain_epochs = 3),
        changed(&|net| net.augment.fill = Fill::Reflect),
        changed(&|net| (net.augment.mixup, net.augment.cutmix) = (0.0, 0.0)),
        changed(&|net| net.clip_norm = 0.05),
        changed(&|net| net.clip_norm = 0.5),
        changed(&|net| net.seed = 9),
    ];
    // Each change of the images alone switched off.
    nets.extend(
        (0..Augment::STRENGTHS.len())
            .filter(|&at| first.augment.strengths()[at] > 0.0)
            .map(|at| changed(&|net| *net.augment.strengths_mut()[at] = 0.0)),
    );
    nets
}

/// A net's complete state after some steps, and their metrics.
type Outcome = (Vec<u32>, [Metrics; 2]);

fn outcomes(engine: &mut dyn Engine, setup: &Setup<'_>) -> Vec<Outcome> {
    for (replica, net) in setup.replicas.iter().enumerate() {
        let weights = setup.model.init(net.seed);
        engine.write(Vector::Weights, replica, &weights).unwrap();
        engine.write(Vector::Average, replica, &weights).unwrap();
    }
    let trained = engine.train(STEPS).unwrap();
    let tested = engine.evaluate(true).unwrap();
    let memory = setup.model.train.optimizer.memory().iter().map(|name| Vector::Memory(name));
    let vectors: Vec<_> = [Vector::Weights, Vector::Average].into_iter().chain(memory).collect();
    let mut bits = |replica| {
        let tensors = vectors.iter().flat_map(|&vector| engine.read(vector, replica).unwrap());
        let bits: Vec<u32> = tensors.flat_map(|tensor| tensor.data).map(f32::to_bits).collect();
        assert!(bits.iter().all(|&word| f32::from_bits(word).is_finite()));
        bits
    };
    (0..setup.replicas.len()).map(|replica| (bits(replica), [trained[replica], tested[replica]])).collect()
}

/// Compares the nets trained side by side with each alone; `run` makes an engine and trains.
fn check(name: &str, model: &Model, optimizer: Optimizer, run: impl Fn(&Setup<'_>) -> Vec<Outcome>) {
    let images = Draw::new(3).images(17, model.input.into(), model.class_count());
    let mut model = model.clone();
    model.train = training(optimizer);
    let model = &model;
    let nets = nets(model);
    let with = |replicas: &[Replica]| {
        run(&Setup {
            model,
            replicas,
            shuffle: true,
            normalization: &Draw::new(4).normalization(model.input.channels),
            training: Some(&images),
            test: &images,
        })
    };
    let all = with(&nets);
    for (number, net) in nets.iter().enumerate() {
        let alone = &with(std::slice::from_ref(net))[0];
        let different = alone.0.iter().zip(&all[number].0).filter(|(a, b)| a != b).count();
        assert_eq!(different, 0, "{name}: values of net {number} of {}: {net:?}", alone.0.len());
        assert_eq!(alone.1, all[number].1, "{name}: sums of net {number}: {net:?}");
    }
    let unlike: BTreeSet<&[u32]> = all.iter().map(|(bits, _)| &bits[..]).collect();
    assert_eq!(unlike.len(), nets.len(), "{name}: a setting changed nothing");
}

/// The model with a linear layer, and with a head that is fused with the loss.
fn models() -> [Model; 2] {
    let (from, to) = WITH_HEAD;
    assert!(MODEL.contains(from));
    [MODEL.to_owned(), MODEL.replace(from, to)].map(|text| Model::parse(&text, "sweep").unwrap())
}

#[test]
fn on_the_processor_a_net_does_not_depend_on_those_beside_it() {
    let [model, _] = models();
    for optimizer in [SGD, ADAM, ADAMW] {
        check("cpu", &model, optimizer, |setup| {
            outcomes(&mut CpuEngine::new(setup, Some(2)).unwrap(), setup)
        });
    }
}

#[test]
fn on_a_gpu_a_net_does_not_depend_on_those_beside_it() {
    if gpu().is_none() {
        return;
    }
    let [model, with_head] = models();
    for (model, optimizer, options) in [
        (&model, SGD, GpuOptions::DEFAULT),
        (&model, ADAM, GpuOptions::DEFAULT),
        (&model, ADAMW, GpuOptions::FUSED),
        (&with_head, SGD, GpuOptions::FUSED),
    ] {
        check(&format!("{options:?}"), model, optimizer, |setup| {
            outcomes(&mut GpuEngine::new(gpu().unwrap(), setup, options).unwrap(), setup)
        });
    }
}

/// The recipe recorded for a net is the one it is trained with.
#[test]
fn a_nets_model_carries_its_settings() {
    let model = &mut models()[0];
    model.train = training(ADAM);
    let model = &*model;
    for net in nets(model) {
        let own = net.model(model).unwrap();
        let again = Model::parse(&own.to_toml(), "again").unwrap();
        assert_eq!(Replica::new(&again, net.seed), net);
        assert_eq!(
            (again.train.epochs, again.train.average_decay),
            (model.train.epochs, model.train.average_decay)
        );
    }
    let wrong = |change: &dyn Fn(&mut Replica)| {
        let mut net = Replica::new(model, 0);
        change(&mut net);
        net.model(model).unwrap_err().to_string()
    };
    assert_eq!(wrong(&|net| net.dropout.clear()), "0 dropout rates for the 2 dropout layers of sweep");
    assert!(wrong(&|net| net.dropout[1] = 1.0).contains("dropout2"));
    assert!(wrong(&|net| net.label_smoothing = 1.0).contains("label_smoothing"));
    assert!(
        wrong(&|net| net.learning_rate = LearningRate::Constant { rate: f32::NAN }).contains("learning_rate")
    );
}
