//! Exports compute what the network computes: for random networks and every model in data/models, folded or not, the
//! written graph gives the CPU engine's logits. tests/export compares with PyTorch and onnxruntime.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::collections::BTreeSet;

use common::Draw;
use common::exported::{ALL_LAYERS, FOLDS, checkpoint, models};
use rayon::prelude::*;
use shadernet::checkpoint::Checkpoint;
use shadernet::device::Device;
use shadernet::eval;
use shadernet::export::onnx::{Graph, to_onnx, to_onnx_int8};
use shadernet::export::{html, to_pytorch};
use shadernet::int8::Quantized;
use shadernet::layers::LAYERS;
use shadernet::normalization::Normalization;

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

/// Graphs round halves and products elsewhere, so values differ by a unit of 8 bits here and there: of all networks together few
/// logits differ, and in none does it add up.
#[test]
fn a_graph_of_whole_numbers_gives_the_logits_in_whole_numbers() {
    let mut errors: Vec<(f64, String)> = models()
        .into_par_iter()
        .map(|(path, text)| {
            let checkpoint = checkpoint(&text, &path);
            let input = checkpoint.model.input;
            let shape = [input.channels, input.height, input.width];
            let images = Draw::new(3).images(3, shape, checkpoint.model.class_count());
            let net = Quantized::new(&checkpoint, &images).unwrap();
            let wanted = net.logits(&images).unwrap();
            let pixels: Vec<f32> = images.pixels.iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
            let graph = Graph::read(&to_onnx_int8(&checkpoint, &net)).unwrap();
            let logits =
                graph.run(&pixels, "logits").unwrap_or_else(|error| panic!("{path}: {error}\n{text}"));
            assert_eq!(logits.len(), wanted.len(), "{path}");
            let real = wanted.iter().map(|&logit| net.logit_scale() * f64::from(logit));
            let error = logits.iter().zip(real.clone()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            let largest = real.fold(0.0, |most: f64, logit| most.max(logit.abs()));
            (if largest > 0.0 { error / largest } else { error }, path)
        })
        .collect();
    errors.sort_by(|a, b| a.0.total_cmp(&b.0));
    let at = |share: usize| errors[errors.len() * share / 100].0;
    let [middle, most] = [at(50), at(98)];
    println!(
        "largest difference as a part of the largest logit: middle {middle:.1e}, 98 % {most:.1e}, {:?}",
        errors.last()
    );
    assert!(
        errors.len() >= 200
            && middle < 0.001
            && most < 0.04
            && at(99) < 0.1
            && errors.last().unwrap().0 < 0.2
    );
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
