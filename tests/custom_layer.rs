//! A layer registered by a program works like the built-in ones: that of `examples/custom_layer`.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
#[path = "../examples/custom_layer/squared_relu.rs"]
mod example;

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Once};

use common::{Draw, gpu};
use example::{SquaredRelu, WGSL};
use serde::{Deserialize, Serialize};
use shadernet::checkpoint::{Checkpoint, Trained};
use shadernet::cpu::CpuEngine;
use shadernet::device::Device;
use shadernet::doctor::{Depth, examine};
use shadernet::engine::{Engine, Setup, Vector};
use shadernet::export;
use shadernet::gpu::{GpuEngine, GpuOptions};
use shadernet::layers::{self, Context, Launch, Layer, LayerKind, Op, Param, Pass, PlanContext};
use shadernet::model::Model;
use shadernet::normalization::Normalization;
use shadernet::replica::Replica;
use shadernet::tensor::{Arrays, Shape, Tensor};
use shadernet::toml;

/// The same layer with a kernel that forgets a factor.
#[derive(Debug, Serialize, Deserialize)]
struct Wrong {}

impl Layer for Wrong {
    fn keys(&self) -> toml::Table {
        toml::Table::new()
    }

    fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }

    fn forward(&self, arrays: &Arrays, context: &Context) -> Arrays {
        SquaredRelu {}.forward(arrays, context)
    }

    fn backward(&self, arrays: &Arrays, context: &Context) -> Arrays {
        SquaredRelu {}.backward(arrays, context)
    }

    fn launches(&self, pass: Pass, context: &PlanContext) -> Vec<Launch> {
        let mut launches = SquaredRelu {}.launches(pass, context);
        launches.iter_mut().for_each(|launch| launch.shader = "wrong");
        launches
    }
}

/// A built-in layer under another name, which may or may not say what it computes.
#[derive(Debug, Serialize, Deserialize)]
struct Twin {
    of: String,
    opaque: bool,
    #[serde(default)]
    keys: toml::Table,
}

impl Twin {
    fn layer(&self) -> Arc<dyn Layer> {
        LayerKind::find(&self.of).unwrap().parse(self.keys.clone()).unwrap()
    }
}

impl Layer for Twin {
    fn keys(&self) -> toml::Table {
        toml::Table::try_from(self).unwrap()
    }

    fn input_count(&self) -> RangeInclusive<usize> {
        self.layer().input_count()
    }

    fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        self.layer().output_shape(inputs)
    }

    fn params(&self, inputs: &[Shape]) -> Vec<Param> {
        self.layer().params(inputs)
    }

    fn op(&self, inputs: &[Shape]) -> Op {
        if self.opaque { Op::Opaque } else { self.layer().op(inputs) }
    }

    fn forward(&self, arrays: &Arrays, context: &Context) -> Arrays {
        if let Some(input) = arrays.get("input") {
            let [_, channels, height, width] = input.nchw();
            for param in self.params(&[Shape::new(channels, height, width)]) {
                assert_eq!(arrays[param.name].shape, param.shape, "{}", param.name);
            }
        }
        self.layer().forward(arrays, context)
    }

    fn backward(&self, arrays: &Arrays, context: &Context) -> Arrays {
        self.layer().backward(arrays, context)
    }

    fn launches(&self, pass: Pass, context: &PlanContext) -> Vec<Launch> {
        self.layer().launches(pass, context)
    }

    fn saved(&self, context: &PlanContext) -> Vec<(&'static str, usize)> {
        self.layer().saved(context)
    }
}

/// A network with this layer between a convolution and a batch normalisation.
fn model(layer: &str) -> Model {
    model_of(&[
        r#"type = "conv2d", out_channels = 4, kernel = 3"#,
        layer,
        r#"type = "batch_norm2d""#,
        r#"type = "flatten""#,
    ])
}

/// A network of these layers and a linear one, with all custom layers registered.
fn model_of(layers: &[&str]) -> Model {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        example::register().unwrap();
        let forgetful = WGSL.replace("2.0 * positive", "positive");
        layers::register(LayerKind::new::<Wrong>("wrong", "Wrong", "wrong"), &forgetful).unwrap();
        layers::register(LayerKind::new::<Twin>("twin", "Twin", "twin"), "").unwrap();
    });
    let layers: String = layers.iter().map(|layer| format!("{{ {layer} }},\n")).collect();
    let text = format!(
        r#"
        name = "small"
        input = [1, 6, 6]
        layers = [
          {layers}
          {{ type = "linear", out_features = 3 }},
        ]
        [train]
        epochs = 4
        batch_size = 5
        learning_rate = {{ schedule = "constant", rate = 0.01 }}
        "#
    );
    Model::parse(&text, "small.toml").unwrap()
}

/// Weights after 20 steps starting from those of seed 3, on the CPU engine, or on the GPU if there is one.
fn trained(model: &Model, on_cpu: bool) -> Option<Vec<Tensor>> {
    let images = Draw::new(7).images(32, model.input.into(), model.class_count());
    let setup = Setup {
        model,
        replicas: &[Replica::new(model, 3)],
        shuffle: true,
        normalization: &Normalization::uniform(model.input.channels, 0.5, 0.3),
        training: Some(&images),
        test: &images,
    };
    let train = |engine: &mut dyn Engine| {
        engine.write(Vector::Weights, 0, &model.init(3)).unwrap();
        engine.train(20).unwrap();
        engine.read(Vector::Weights, 0).unwrap()
    };
    Some(match on_cpu {
        true => train(&mut CpuEngine::new(&setup, None).unwrap()),
        false => train(&mut GpuEngine::new(gpu()?, &setup, GpuOptions::DEFAULT).unwrap()),
    })
}

/// Only layers without CPU kernels are slow on the CPU engine.
#[test]
fn the_cpu_engine_says_what_it_has_no_kernels_for() {
    let warning = |layer: &str| Device::cpu().warning(&model(layer));
    let slow = warning(r#"type = "squared_relu""#).unwrap();
    assert!(slow.contains("no kernels for `squared_relu1`, so"), "{slow}");
    for quick in [r#"type = "twin", of = "gelu", opaque = false"#, r#"type = "gelu""#] {
        assert_eq!(warning(quick), None);
    }
}

#[test]
fn both_engines_train_it_alike() {
    let model = model(r#"type = "squared_relu""#);
    let cpu = trained(&model, true).unwrap();
    let Some(gpu) = trained(&model, false) else { return };
    for ((first, cpu), gpu) in model.init(3).iter().zip(&cpu).zip(&gpu) {
        assert_ne!(first.data, cpu.data, "{} was not trained", cpu.name);
        for (a, b) in cpu.data.iter().zip(&gpu.data) {
            assert!((a - b).abs() < 1e-4 * (1.0 + a.abs()), "{}: {a} on the CPU, {b} on the GPU", cpu.name);
        }
    }
}

/// A layer that says what it computes uses the CPU engine's kernels and is in every export.
#[test]
fn an_operation_that_exists_needs_nothing_else() {
    let (own, renamed) =
        (model(r#"type = "batch_norm2d""#), model(r#"type = "twin", of = "batch_norm2d", opaque = false"#));
    let values = |model: &Model| -> Vec<Vec<f32>> {
        trained(model, true).unwrap().into_iter().map(|tensor| tensor.data).collect()
    };
    assert_eq!(values(&renamed), values(&own));
    let checkpoint = checkpoint(renamed);
    assert!(export::html(&checkpoint).is_ok());
    assert!(export::to_onnx(&checkpoint, true).is_ok());
    assert!(export::to_pytorch(&checkpoint).unwrap().contains("self.twin1 = nn.BatchNorm2d(4"));
}

/// Layers that don't say what they compute run their reference implementation on the CPU engine, with the same
/// results as tuned kernels: parameters in their shapes, running statistics over the whole batch of two blocks,
/// several inputs, values with several readers.
#[test]
fn opaque_layers_compute_what_tuned_kernels_do() {
    let net = |[conv, norm, product, sum]: [&str; 4]| {
        let layers = [
            format!(r#"name = "conv", {conv}"#),
            format!(r#"name = "norm", {norm}"#),
            r#"name = "active", type = "leaky_relu""#.to_owned(),
            r#"name = "gate", type = "global_avg_pool2d""#.to_owned(),
            // Both inputs have later readers, whose gradients are computed first.
            format!(r#"name = "product", from = ["norm", "active"], {product}"#),
            format!(r#"name = "gated", from = ["gate", "product"], {product}"#),
            format!(r#"name = "sum", from = ["active", "gated", "norm"], {sum}"#),
            r#"type = "flatten""#.to_owned(),
        ];
        let mut model = model_of(&layers.each_ref().map(String::as_str));
        (model.train.batch_size, model.train.epochs) = (20, 10);
        trained(&model, true).unwrap()
    };
    let tuned = net([
        r#"type = "conv2d", out_channels = 4, kernel = 3"#,
        r#"type = "batch_norm2d""#,
        r#"type = "multiply""#,
        r#"type = "add""#,
    ]);
    let twins = net([
        r#"type = "twin", of = "conv2d", opaque = true, keys = { out_channels = 4, kernel = 3 }"#,
        r#"type = "twin", of = "batch_norm2d", opaque = true"#,
        r#"type = "twin", of = "multiply", opaque = true"#,
        r#"type = "twin", of = "add", opaque = true"#,
    ]);
    assert_alike("joined", &tuned, &twins);
}

/// The same for layers with one input, after a convolution, where a single reader may work in place.
#[test]
fn every_kernel_of_the_cpu_engine_has_an_opaque_twin() {
    for (kind, keys) in [
        ("relu6", ""),
        ("leaky_relu", "negative_slope = 0.2"),
        ("prelu", ""),
        ("prelu", "num_parameters = 1"),
        ("sigmoid", ""),
        ("tanh", ""),
        ("silu", ""),
        ("gelu", ""),
        ("hard_sigmoid", ""),
        ("hard_swish", ""),
        ("group_norm", "groups = 2"),
        ("max_pool2d", "kernel = [2, 1]"),
        ("avg_pool2d", "kernel = [1, 2]"),
        ("adaptive_avg_pool2d", "output = 2"),
    ] {
        let comma = if keys.is_empty() { "" } else { ", " };
        // No normalisation after it, which would cancel the gradient of a bias.
        let conv = r#"type = "conv2d", out_channels = 4, kernel = 3"#;
        let net = |layer: &str| model_of(&[conv, layer, r#"type = "flatten""#]);
        let tuned = net(&format!("type = {kind:?}{comma}{keys}"));
        let twin = net(&format!("type = \"twin\", of = {kind:?}, opaque = true, keys = {{ {keys} }}"));
        assert_alike(kind, &trained(&tuned, true).unwrap(), &trained(&twin, true).unwrap());
    }
}

#[track_caller]
fn assert_alike(what: &str, tuned: &[Tensor], twins: &[Tensor]) {
    for (tuned, twin) in tuned.iter().zip(twins) {
        for (a, b) in tuned.data.iter().zip(&twin.data) {
            let close = (a - b).abs() < 1e-4 * (1.0 + a.abs());
            assert!(close, "{what}, {}: {a} tuned, {b} by the reference", tuned.name);
        }
    }
}

#[test]
fn doctor_judges_its_kernels() {
    let Some(adapter) = common::adapter() else { return };
    let examined = |kind| {
        examine(&model(&format!("type = {kind:?}")), &adapter, Depth::Quick, GpuOptions::DEFAULT).unwrap()
    };
    let right = examined("squared_relu");
    assert!(right.is_well(), "{:?}", right.wrong_kernel);
    let kernels: Vec<_> = right.launches.iter().filter(|row| row.shader == "squared_relu.wgsl").collect();
    assert!(kernels.len() >= 2 && kernels.iter().all(|row| row.elements > 0), "{kernels:?}");
    let wrong = examined("wrong").wrong_kernel.unwrap();
    assert!(wrong.contains("wrong1.grad_input"), "{wrong}");
}

fn checkpoint(model: Model) -> Checkpoint {
    let trained = Trained {
        epochs: 1,
        steps: 1,
        batch_size: 5,
        seed: 3,
        device: "test".into(),
        images: 32,
        pictures: false,
        twelve_bit: false,
        sketch: None,
        on_black: false,
        shadernet: "test".into(),
    };
    Checkpoint {
        weights: model.init(3),
        normalization: Normalization::uniform(model.input.channels, 0.5, 0.3),
        model,
        classes: ["a", "b", "c"].map(String::from).into(),
        trained,
        test_accuracy: 0.0,
        test_loss: 0.0,
        temperature: None,
        warnings: Vec::new(),
    }
}

#[test]
fn it_is_saved_and_read_and_other_programs_do_not_get_it() {
    let checkpoint = checkpoint(model(r#"type = "squared_relu""#));
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("custom_layer.safetensors");
    checkpoint.save(&file).unwrap();
    let read = Checkpoint::load(&file).unwrap();
    assert_eq!(read.model.to_toml(), checkpoint.model.to_toml());
    assert_eq!(read.model.layers[1].kind.name, "squared_relu");
    for message in [
        export::html(&read).unwrap_err(),
        export::to_onnx(&read, false).unwrap_err(),
        export::to_pytorch(&read).unwrap_err(),
    ] {
        let message = message.to_string();
        assert!(
            message.contains("layer `squared_relu1`") && message.contains("does not support"),
            "{message}"
        );
    }
}

#[test]
fn what_cannot_be_registered_is_refused() {
    let refused = |name: &'static str, stem: &'static str, wgsl: &str| {
        layers::register(LayerKind::new::<SquaredRelu>(name, "X", stem), wgsl).unwrap_err().to_string()
    };
    assert_eq!(refused("relu", "relu", WGSL), r#"the layer type "relu" exists already"#);
    assert_eq!(refused("batch", "batch", WGSL), "the shader batch.wgsl exists already");
    assert!(refused("Mine", "mine", WGSL).starts_with(r#"layer type "Mine": use lower-case"#));
    assert!(refused("mine", "", WGSL).starts_with(r#"layer type "": use lower-case"#));
    let unknown = refused("mine", "mine", &WGSL.replace("positive * positive", "positive * negative"));
    assert_eq!(unknown, "mine.wgsl:15: no definition in scope for identifier: `negative`");
    let mistyped = refused("mine", "mine", &WGSL.replace("max(input", "vec3(input"));
    assert!(mistyped.starts_with("mine.wgsl:1"), "{mistyped}");
    // Rejected registrations leave nothing behind.
    assert!(
        LayerKind::find("mine").is_none()
            && layers::register(LayerKind::new::<SquaredRelu>("mine", "X", "mine"), WGSL).is_ok()
    );
    assert_eq!(refused("mine", "mine", WGSL), r#"the layer type "mine" exists already"#);
    let message = Model::parse("name = \"x\"\ninput = [1, 2, 2]\nlayers = [{ type = \"other\" }]", "x.toml")
        .unwrap_err();
    assert!(message.to_string().contains("relu, ") && message.to_string().contains(", mine"), "{message}");
}
