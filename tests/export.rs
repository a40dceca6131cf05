//! Exports compute what the network computes: for random networks and every model in data/models, folded or not, the
//! written graph gives the CPU engine's logits. tests/export compares with PyTorch and onnxruntime.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::collections::BTreeSet;

use common::Draw;
use common::nets::{random_weights, some_cases};
use shadernet::checkpoint::{Checkpoint, Trained};
use shadernet::device::Device;
use shadernet::eval;
use shadernet::export::onnx::{Graph, to_onnx};
use shadernet::export::{html, to_pytorch};
use shadernet::layers::LAYERS;
use shadernet::model::Model;
use shadernet::normalization::Normalization;

/// Batch normalisations before and after convolutions, with groups and padding, and where nothing can absorb them.
const FOLDS: &str = r#"
    name = "folds"
    input = [2, 12, 11]
    layers = [
      { type = "batch_norm2d" },
      { type = "conv2d", name = "shared", out_channels = 4, kernel = 3, groups = 2 },
      { type = "batch_norm2d" },
      { type = "leaky_relu", negative_slope = 0.3 },
      { type = "batch_norm2d", name = "padded" },
      { type = "conv2d", out_channels = 6, kernel = 3, padding = 1, stride = 2, bias = false },
      { type = "relu" },
      { type = "batch_norm2d" },
      { type = "conv2d", out_channels = 2, kernel = 1, groups = 2, bias = false },
      { type = "conv2d", weights_of = "shared", out_channels = 4, kernel = 3, groups = 2 },
      { type = "batch_norm2d", name = "pooled" },
      { type = "max_pool2d", kernel = 2, padding = 1 },
      { type = "prelu", name = "slopes" },
      { type = "relu6" },
      { type = "sigmoid" },
      { type = "prelu", weights_of = "slopes" },
      { type = "tanh" },
      { type = "silu" },
      { type = "prelu", num_parameters = 1 },
      { type = "gelu" },
      { type = "hard_sigmoid" },
      { type = "hard_swish" },
      { type = "flatten" },
      { type = "linear", out_features = 3, bias = false },
    ]
    "#;

fn checkpoint(text: &str, path: &str) -> Checkpoint {
    let model = Model::parse(text, path).unwrap();
    let weights = random_weights(&model, 7);
    let classes = (0..model.class_count()).map(|class| format!("class \"{class}\"")).collect();
    let trained = Trained {
        epochs: 1,
        steps: 1,
        batch_size: 1,
        seed: 0,
        device: "none".into(),
        images: 1,
        twelve_bit: false,
        sketch: None,
        shadernet: "0".into(),
        pictures: false,
        on_black: false,
    };
    Checkpoint {
        normalization: Draw::new(11).normalization(model.input.channels),
        model,
        weights,
        classes,
        trained,
        test_accuracy: 0.0,
        test_loss: 0.0,
        temperature: None,
        warnings: Vec::new(),
    }
}

/// A network with every layer.
const ALL_LAYERS: &str = include_str!("all_layers.toml");

fn models() -> Vec<(String, String)> {
    let files = std::fs::read_dir("data/models").unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    let read =
        |path: std::path::PathBuf| (path.display().to_string(), std::fs::read_to_string(path).unwrap());
    let mut models: Vec<_> = files.map(read).collect();
    let branches = include_str!("export/branches.toml");
    models.extend(
        [("folds", FOLDS), ("all layers", ALL_LAYERS), ("branches", branches)]
            .map(|(path, text)| (path.into(), text.into())),
    );
    let random = some_cases(200).into_iter().enumerate();
    models.extend(random.map(|(number, case)| (format!("random {number}"), case.model().to_toml())));
    models
}

#[test]
fn a_written_graph_gives_the_logits() {
    for (path, text) in models() {
        // Half of them are calibrated.
        let temperature = path.len().is_multiple_of(2).then_some(1.7);
        let checkpoint = Checkpoint { temperature, ..checkpoint(&text, &path) };
        let input = checkpoint.model.input;
        let shape = [input.channels, input.height, input.width];
        let images = Draw::new(3).images(5, shape, checkpoint.model.class_count());
        let wanted = eval::logits(&checkpoint, &images, &Device::cpu().threads(1)).unwrap();
        let pixels: Vec<f32> = images.pixels.iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
        let largest = wanted.iter().fold(0f32, |largest, logit| largest.max(logit.abs()));
        for fold in [false, true] {
            let graph = Graph::read(&to_onnx(&checkpoint, fold).unwrap()).unwrap();
            let logits = graph.run(&pixels, "logits").unwrap();
            assert_eq!(logits.len(), wanted.len(), "{path}");
            for (got, &want) in logits.iter().zip(&wanted) {
                let error = (got - f64::from(want)).abs();
                assert!(error <= 2e-5 * f64::from(largest), "{path}, folded {fold}: {got}, wanted {want}");
            }
            let probabilities = graph.run(&pixels, "probabilities").unwrap();
            for (row, logits) in probabilities.chunks(wanted.len() / 5).zip(logits.chunks(wanted.len() / 5)) {
                assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{path}");
                let ratio = row[0].ln() - row[1].ln();
                let wanted = (logits[0] - logits[1]) / f64::from(temperature.unwrap_or(1.0));
                assert!((ratio - wanted).abs() < 1e-6 || row[0].min(row[1]) < 1e-300, "{path}");
            }
        }
    }
}

#[test]
fn batch_normalisation_is_folded_where_it_can_be() {
    let count = |checkpoint: &Checkpoint, fold: bool| {
        let bytes = to_onnx(checkpoint, fold).unwrap();
        bytes.windows(18).filter(|text| *text == b"BatchNormalization").count()
    };
    let folds = checkpoint(FOLDS, "folds");
    assert_eq!(
        (count(&folds, false), count(&folds, true)),
        (5, 1),
        "one stands between a rectifier and added zeros"
    );
    let seed = checkpoint(&std::fs::read_to_string("data/models/seed.toml").unwrap(), "seed.toml");
    assert_eq!((count(&seed, false), count(&seed, true)), (4, 1), "one stands before a maximum");
}

#[test]
fn the_page_without_webgpu_knows_what_every_layer_computes() {
    let all = checkpoint(ALL_LAYERS, "all layers");
    let kinds: BTreeSet<&str> = all.model.layers.iter().map(|layer| layer.kind.name).collect();
    assert_eq!(kinds.len(), LAYERS.len());
    let page = html(&all).unwrap();
    for layer in &all.model.layers {
        let op = serde_json::to_value(layer.op).unwrap();
        for name in ["type", "function"].iter().filter_map(|key| op.get(key)) {
            let key = format!("\n  {}: ", name.as_str().unwrap());
            assert!(page.contains(&key), "{key} is not in fallback.js");
        }
    }
}

#[test]
fn files_that_are_no_graph_of_ours_are_refused() {
    assert!(Graph::read(b"<html>").unwrap_err().starts_with("not an ONNX file"));
    assert_eq!(Graph::read(b"").unwrap_err(), "the file has no graph");
    let mut bytes = to_onnx(&checkpoint(FOLDS, "folds"), false).unwrap();
    let at = bytes.windows(4).position(|text| text == b"Conv").unwrap();
    bytes[at] = b'K';
    let error = Graph::read(&bytes).unwrap().run(&[0.5; 264], "logits").unwrap_err();
    assert!(error.contains("Konv") && error.contains("not supported"), "{error}");
    let graph = Graph::read(&to_onnx(&checkpoint(FOLDS, "folds"), false).unwrap()).unwrap();
    assert_eq!(graph.run(&[0.5; 264], "labels").unwrap_err(), "there is no output labels");
}

/// ONNX's `Sub` and `Div` spread [1, C, 1, 1] over a batch; what they make of it, `a_written_graph_gives_the_logits` compares.
#[test]
fn a_module_normalises_each_channel() {
    let text = "name = \"x\"\ninput = [2, 3, 3]\nlayers = [{ type = \"flatten\" }, { type = \"linear\", out_features = 2 }]";
    let mut colours = checkpoint(text, "x");
    colours.normalization = Normalization { mean: vec![0.25, 0.5], std: vec![0.125, 1.0] };
    let module = to_pytorch(&colours).unwrap();
    assert!(module.contains("\nMEAN, STD = [0.25, 0.5], [0.125, 1.0]\n"), "{module}");
    assert!(module.contains("(pixels - pixels.new_tensor(MEAN).view(-1, 1, 1)) / "), "{module}");
}

#[test]
fn a_name_that_no_module_can_have() {
    for name in [
        "train",
        "None",
        "True",
        "lambda",
        "forward",
        "load_state_dict",
        "T_destination",
        "_modules",
        "__init__",
    ] {
        let text = FOLDS.replace("\"padded\"", &format!("\"{name}\""));
        let error = to_pytorch(&checkpoint(&text, "folds")).unwrap_err().to_string();
        assert!(error.contains(&format!("layer `{name}`: PyTorch does not allow")), "{error}");
    }
    for name in ["self", "match", "x", "nn", "conv_2"] {
        let text = FOLDS.replace("\"padded\"", &format!("\"{name}\""));
        assert!(to_pytorch(&checkpoint(&text, "folds")).unwrap().contains(&format!("self.{name} = nn.")));
    }
}
