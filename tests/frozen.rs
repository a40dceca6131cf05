//! Frozen layers and layers with a learning rate of their own: on both engines they are what the words say, and a net whose
//! first layers are frozen goes no further back than it must.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use common::{Draw, gpu};
use shadernet::config::{LearningRate, Optimizer};
use shadernet::cpu::CpuEngine;
use shadernet::engine::{Engine, Setup, Vector};
use shadernet::gpu::{GpuEngine, GpuOptions};
use shadernet::model::Model;
use shadernet::plan::{Plan, PlanOptions};
use shadernet::replica::Replica;
use shadernet::tensor::Tensor;

const MODEL: &str = r#"
    name = "tuned"
    input = [2, 8, 8]
    layers = [
        { type = "conv2d", out_channels = 4, kernel = 3 },
        { type = "batch_norm2d" },
        { type = "relu" },
        { type = "conv2d", out_channels = 6, kernel = 3 },
        { type = "batch_norm2d" },
        { type = "relu" },
        { type = "flatten" },
        { type = "linear", out_features = 3 },
    ]
    [train]
    epochs = 2
    batch_size = 6
    average_decay = 0.9
"#;

fn model(change: &str, recipe: &str) -> Model {
    let (what, with) = change.split_once(" -> ").unwrap_or(("", ""));
    assert!(MODEL.contains(what));
    let text = format!("{}{recipe}", MODEL.replacen(what, with, usize::from(!what.is_empty())));
    Model::parse(&text, "tuned.toml").unwrap()
}

/// The weights before and after some steps, on one engine.
fn trained(model: &Model, engine: &str) -> Option<[Vec<Tensor>; 2]> {
    let images = Draw::new(3).images(15, model.input.into(), model.class_count());
    let setup = Setup {
        model,
        replicas: &[Replica::new(model, 4), Replica::new(model, 5)],
        shuffle: true,
        normalization: &Draw::new(4).normalization(2),
        training: Some(&images),
        test: &images,
    };
    let options = GpuOptions { checked: true, fuse: engine == "fused", ..GpuOptions::DEFAULT };
    let mut engine: Box<dyn Engine> = match engine {
        "cpu" => Box::new(CpuEngine::new(&setup, Some(2)).unwrap()),
        _ => Box::new(GpuEngine::new(gpu()?, &setup, options).unwrap()),
    };
    let mut draw = Draw::new(6);
    let mut before = model.init(4);
    for tensor in &mut before {
        // Not what a batch normalisation begins with.
        tensor.data.iter_mut().for_each(|value| *value += 0.2 * draw.normal().abs());
    }
    for replica in 0..2 {
        engine.write(Vector::Weights, replica, &before).unwrap();
        engine.write(Vector::Average, replica, &before).unwrap();
    }
    engine.train(5).unwrap();
    let after = engine.read(Vector::Weights, 1).unwrap();
    let average = engine.read(Vector::Average, 1).unwrap();
    for ((old, new), average) in before.iter().zip(&after).zip(&average) {
        assert_eq!(old.data == new.data, old.data == average.data, "{}", old.name);
    }
    Some([before, after])
}

fn on_every_engine(model: &Model, check: impl Fn(&str, &[Tensor], &[Tensor])) {
    for engine in ["cpu", "gpu", "fused"] {
        let Some([before, after]) = trained(model, engine) else { continue };
        check(engine, &before, &after);
    }
}

#[test]
fn what_is_frozen_stays_and_all_else_moves() {
    for (freeze, frozen) in [
        (r#"["conv1"]"#, &["conv1"][..]),
        (r#"["batch_norm1", "conv2"]"#, &["batch_norm1", "conv2"]),
        (r#"["before conv2"]"#, &["conv1", "batch_norm1"]),
        (r#"["before linear1"]"#, &["conv1", "batch_norm1", "conv2", "batch_norm2"]),
        (r#"["linear1", "batch_norm2"]"#, &["linear1", "batch_norm2"]),
    ] {
        let model = model("", &format!("freeze = {freeze}"));
        on_every_engine(&model, |engine, before, after| {
            for (old, new) in before.iter().zip(after) {
                let (layer, _) = old.name.split_once('.').unwrap();
                // Running statistics, too.
                assert_eq!(old.data == new.data, frozen.contains(&layer), "{freeze}, {engine}: {}", old.name);
            }
        });
    }
}

/// Of a net whose second half is trained, the frozen half is not gone back through, and no memory of the optimizer is kept.
#[test]
fn a_frozen_start_costs_no_backward_pass() {
    let batch = |model: &Model| shadernet::batch::BatchSettings {
        batch_size: 6,
        image_count: 15,
        image: model.input,
        epochs: 2,
        shuffle: true,
        changes: shadernet::batch::Changes::NONE,
        normalization: Draw::new(4).normalization(2),
        class_weights: Vec::new(),
    };
    let launches = |model: &Model, fuse| {
        let plan = Plan::training(
            model,
            &[Replica::new(model, 0)],
            &batch(model),
            PlanOptions { fuse, ..PlanOptions::default() },
        );
        let labels: Vec<_> = plan.launches.into_iter().map(|launch| launch.label).collect();
        let loss = labels.iter().rposition(|label| label.starts_with("loss.")).unwrap();
        labels[loss + 1..].to_vec()
    };
    let (all, half) = (model("", ""), model("", r#"freeze = ["before conv2"]"#));
    for fuse in [false, true] {
        assert!(launches(&all, fuse).iter().any(|label| label.starts_with("conv1")));
        let left = launches(&half, fuse);
        let first = ["conv1", "batch_norm1", "relu1"];
        assert!(!left.iter().any(|label| first.iter().any(|layer| label.starts_with(layer))), "{left:?}");
        assert!(!left.iter().any(|label| label.starts_with("conv2.backward_input")), "{left:?}");
        assert!(left.iter().any(|label| label.starts_with("conv2")), "{left:?}");
    }
    let trained = |model: &Model| model.params().iter().filter(|param| param.param.trained).count();
    assert_eq!((trained(&all), trained(&half)), (10, 6));
    assert_eq!(all.parameter_count(), half.parameter_count());
    let table = half.to_string();
    assert!(
        table.contains("Total params: 609\nTrainable params: 525\nNon-trainable params: 84\n"),
        "{table}"
    );
}

/// With plain gradient descent, one step of a layer is as long as its rate says.
#[test]
fn a_layer_moves_by_its_own_rate() {
    let recipe = |model: &mut Model| {
        model.train.optimizer = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
        model.train.learning_rate = LearningRate::Constant { rate: 0.0625 };
        model.train.average_decay = 0.0;
    };
    let linear = r#"{ type = "linear", out_features = 3 }"#;
    let mut plain = model("", "");
    let mut slow = model(&format!(r#"{linear} -> {}"#, linear.replace(" }", ", rate = 0.25 }")), "");
    recipe(&mut plain);
    recipe(&mut slow);
    assert_eq!((slow.layers[7].rate, slow.layers[3].rate), (0.25, 1.0));
    for engine in ["cpu", "gpu", "fused"] {
        let step = |model: &Model| {
            let images = Draw::new(3).images(6, model.input.into(), model.class_count());
            let setup = Setup {
                model,
                replicas: &[Replica::new(model, 4)],
                shuffle: false,
                normalization: &Draw::new(4).normalization(2),
                training: Some(&images),
                test: &images,
            };
            let options = GpuOptions { checked: true, fuse: engine == "fused", ..GpuOptions::DEFAULT };
            let mut made: Box<dyn Engine> = match engine {
                "cpu" => Box::new(CpuEngine::new(&setup, Some(1)).unwrap()),
                _ => Box::new(GpuEngine::new(gpu()?, &setup, options).unwrap()),
            };
            let before = model.init(4);
            made.write(Vector::Weights, 0, &before).unwrap();
            made.train(1).unwrap();
            let after = made.read(Vector::Weights, 0).unwrap();
            let moved = |(old, new): (&Tensor, &Tensor)| -> Vec<f32> {
                old.data.iter().zip(&new.data).map(|(old, new)| new - old).collect()
            };
            Some(before.iter().zip(&after).map(moved).collect::<Vec<_>>())
        };
        let (Some(whole), Some(part)) = (step(&plain), step(&slow)) else { continue };
        for ((param, whole), part) in plain.params().iter().zip(&whole).zip(&part) {
            let factor = if param.name.starts_with("linear1") { 0.25 } else { 1.0 };
            assert!(
                !param.param.trained || whole.iter().any(|&moved| moved != 0.0),
                "{engine}: {}",
                param.name
            );
            for (whole, part) in whole.iter().zip(part) {
                assert!((factor * whole - part).abs() <= 1e-7, "{engine}: {}: {whole} {part}", param.name);
            }
        }
    }
}

#[test]
fn model_text_says_what_is_frozen_and_slow() {
    let conv = r#"{ type = "conv2d", out_channels = 6, kernel = 3 }"#;
    let model =
        model(&format!("{conv} -> {}", conv.replace(" }", ", rate = 0.1 }")), r#"freeze = ["before conv2"]"#);
    let text = model.to_toml();
    assert!(text.contains("rate = 0.1") && text.contains(r#"freeze = ["before conv2"]"#), "{text}");
    let again = Model::parse(&text, "again").unwrap();
    assert_eq!((again.to_toml(), again.layers[3].rate), (text, 0.1));
    let frozen: Vec<_> =
        again.layers.iter().filter(|layer| layer.frozen).map(|layer| &layer.name[..]).collect();
    assert_eq!(frozen, ["conv1", "batch_norm1", "relu1"]);
    // Dropout's own rate is its own.
    let dropout = MODEL.replacen(
        "{ type = \"flatten\" }",
        "{ type = \"dropout\", rate = 0.25 }, { type = \"flatten\" }",
        1,
    );
    assert_eq!(Model::parse(&dropout, "x").unwrap().dropout_rates().collect::<Vec<_>>(), [(6, 0.25)]);
}

#[test]
fn what_cannot_be_frozen_or_have_a_rate_is_refused_with_the_reason() {
    let refused = |change: &str, recipe: &str| {
        let (what, with) = change.split_once(" -> ").unwrap_or(("", ""));
        let text = format!("{}{recipe}", MODEL.replacen(what, with, usize::from(!what.is_empty())));
        Model::parse(&text, "tuned.toml").unwrap_err().to_string()
    };
    let linear = r#"{ type = "linear", out_features = 3 } -> { type = "linear", out_features = 3, rate = "#;
    for (change, recipe, parts) in [
        (
            "",
            r#"freeze = ["conv3"]"#,
            &["freeze: there is no layer \"conv3\" to freeze", "conv1, batch_norm1"][..],
        ),
        ("", r#"freeze = ["before head"]"#, &["no layer \"head\" to freeze", "linear1"]),
        ("", r#"freeze = ["before conv1"]"#, &["no layer before it has parameters"]),
        ("", r#"freeze = ["relu1"]"#, &["\"relu1\": relu1 has no parameters"]),
        ("", r#"freeze = ["before linear1", "linear1"]"#, &["nothing is left to train"]),
        ("", "freeze = \"conv1\"", &["freeze must be a list"]),
        ("type = \"relu\" -> type = \"relu\", rate = 0.1", "", &["layer `relu1`", "but it has none"]),
        (&format!("{linear}0 }}"), "", &["rate = 0:", "from 0.000001 to 1000", "name it in freeze"]),
        (&format!("{linear}\"slow\" }}"), "", &["layer `linear1`", "rate must be a number"]),
        (&format!("{linear}2000 }}"), "", &["rate = 2000"]),
        (&format!("{linear}0.1 }}"), r#"freeze = ["linear1"]"#, &["layer `linear1`", "the layer is frozen"]),
    ] {
        let message = refused(change, recipe);
        assert!(parts.iter().all(|part| message.contains(part)), "{change} {recipe}: {message}");
    }
}
