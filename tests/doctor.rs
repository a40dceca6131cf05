//! `doctor` accepts a correct adapter, and rejects every shader mutant that changes the results.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::collections::BTreeMap;
use std::sync::Mutex;

use common::mutants::{self, Mutant};
use rayon::prelude::*;
use shadernet::doctor::{Depth, Examination, SelfCheck, examine, self_check};
use shadernet::error::Remedy;
use shadernet::gpu::GpuOptions;
use shadernet::layers::Grain;
use shadernet::model::Model;
use shadernet::shader;

/// No two sizes are equal, so that no mutant is equivalent by accident.
const MODEL: &str = r#"
    name = "small"
    input = [3, 15, 13]
    layers = [
        { type = "conv2d", out_channels = 6, kernel = 3, padding = 1 },
        { type = "relu" },
        { type = "batch_norm2d" },
        { type = "max_pool2d", kernel = 3, stride = 2, padding = 1 },
        { type = "dropout", rate = 0.2 },
        { type = "conv2d", out_channels = 10, kernel = 3, stride = 2, padding = 1, groups = 2 },
        { type = "leaky_relu", negative_slope = 0.2 },
        { type = "avg_pool2d", kernel = 2, stride = 1, padding = 1 },
        { type = "conv2d", out_channels = 4, kernel = 2, bias = false },
        { type = "global_avg_pool2d" },
    ]
    [train]
    average_decay = 0.9
    label_smoothing = 0.1
    optimizer = OPTIMIZER
    augment = AUGMENT
"#;
/// The other layers, likewise.
const ALL_LAYERS: &str = include_str!("all_layers.toml");
/// The same for the fused kernels.
const FUSED_MODEL: &str = r#"
    name = "fused"
    input = [3, 15, 13]
    layers = [
        { type = "conv2d", out_channels = 6, kernel = 3, padding = 1 },
        { type = "relu" },
        { type = "batch_norm2d" },
        { type = "conv2d", out_channels = 9, kernel = 3 },
        { type = "batch_norm2d", eps = 1e-3, momentum = 0.3 },
        { type = "leaky_relu", negative_slope = 0.2 },
        { type = "conv2d", out_channels = 7, kernel = 4 },
        { type = "relu" },
        { type = "max_pool2d", kernel = 2 },
        { type = "dropout", rate = 0.2 },
        { type = "conv2d", out_channels = 5, kernel = 2, padding = 1, bias = false },
        { type = "leaky_relu", negative_slope = 0.3 },
        { type = "conv2d", out_channels = 4, kernel = 1 },
        { type = "global_avg_pool2d" },
    ]
    [train]
    average_decay = 0.9
    label_smoothing = 0.1
    optimizer = OPTIMIZER
    augment = AUGMENT
"#;
const FEW_CHANGES: &str =
    "{ rotate_degrees = 15.0, shift_pixels = 1.5, scale = 0.2, shear = 0.1, plain_epochs = 2 }";
/// Every change of images. Their kernels take seconds to compile, so only what is about them has them all.
const ALL_CHANGES: &str = r#"{ rotate_degrees = 15.0, shift_pixels = 1.5, scale = 0.2, shear = 0.1, flip_horizontal = 0.5,
    flip_vertical = 0.5, pad_crop = 1, crop = 0.4, crop_aspect = 0.3, elastic = 1.5, elastic_smoothness = 4.0, brightness = 0.4,
    contrast = 0.4, saturation = 0.5, hue = 0.3, erase = 0.5, mixup = 0.5, cutmix = 1.0, fill = "reflect", plain_epochs = 2 }"#;
const ADAM: &str = r#"{ type = "adam", weight_decay = 0.01 }"#;
const SGD: &str = r#"{ type = "sgd", momentum = 0.9, nesterov = true, weight_decay = 0.01 }"#;

fn parse(text: &str, optimizer: &str, augment: &str) -> Model {
    Model::parse(&text.replace("OPTIMIZER", optimizer).replace("AUGMENT", augment), "small").unwrap()
}

fn model(optimizer: &str) -> Model {
    parse(MODEL, optimizer, FEW_CHANGES)
}

fn all_layers() -> Model {
    Model::parse(ALL_LAYERS, "all layers").unwrap()
}

fn fused_model(optimizer: &str) -> Model {
    parse(FUSED_MODEL, optimizer, FEW_CHANGES)
}

const UNFUSED: GpuOptions = GpuOptions::DEFAULT;

fn report(optimizer: &str, depth: Depth, options: GpuOptions) -> Option<Examination> {
    let adapter = common::adapter()?;
    Some(examine(&model(optimizer), &adapter, depth, options).unwrap())
}

#[test]
fn a_right_adapter_is_well() {
    for (optimizer, depth) in [(ADAM, Depth::Full), (SGD, Depth::Quick)] {
        let Some(report) = report(optimizer, depth, UNFUSED) else { return };
        assert!(report.is_well(), "{report:?}");
        let row = |launch: &str| report.launches.iter().find(|row| row.launch == launch).unwrap();
        for launch in
            ["batch.begin", "batch.gather", "conv1.sum_weight_parts", "optimizer.update", "average.update"]
        {
            assert!(row(launch).elements > 0, "{launch} was not examined");
        }
        for launch in ["dropout1.forward", "batch_norm1.forward_eval", "loss.forward_eval", "loss.metrics"] {
            assert!(row(launch).elements > 0, "{launch} was not examined");
        }
        assert_eq!(row("conv2.weight_parts").seen_in.as_deref(), Some("conv2.sum_weight_parts"));
        for row in &report.launches {
            assert!(row.elements > 0 || row.seen_in.is_some(), "{row:?}");
        }
    }
    let Some(adapter) = common::adapter() else { return };
    for (text, options) in [(MODEL, UNFUSED), (FUSED_MODEL, GpuOptions::FUSED)] {
        let report = examine(&parse(text, SGD, ALL_CHANGES), &adapter, Depth::Full, options).unwrap();
        assert!(report.is_well(), "{report:?}");
    }
    let report = examine(&all_layers(), &adapter, Depth::Full, UNFUSED).unwrap();
    assert!(report.is_well(), "{report:?}");
    let row = |launch: &str| report.launches.iter().find(|row| row.launch == launch).unwrap();
    for launch in ["sum.accumulate", "concat1.forward", "gated.backward_input", "gated.grad_output.sum"] {
        assert!(row(launch).elements > 0, "{launch} was not examined");
    }
}

/// The short training has its own rates, at which this net's weights soon become NaN, in the reference, too.
#[test]
fn a_net_that_diverges_is_not_the_adapter_s_fault() {
    let text = r#"
        name = "steep"
        input = [1, 12, 12]
        layers = [
            { type = "add", from = ["input", "input", "input"] },
            { type = "conv2d", out_channels = 6, kernel = 5, padding = "same", name = "a" },
            { type = "add", from = ["a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a"], name = "b" },
            { type = "add", from = ["b", "b", "b", "b", "b", "b", "b", "b", "b", "b", "b", "b"] },
            { type = "flatten" },
            { type = "linear", out_features = 10 },
        ]"#;
    let Some(adapter) = common::adapter() else { return };
    let model = Model::parse(text, "steep").unwrap();
    let report = examine(&model, &adapter, Depth::Full, UNFUSED).unwrap();
    assert!(report.is_well(), "{:?} {:?}", report.wrong_kernel, report.training);
}

#[test]
fn fused_kernels_are_examined() {
    let Some(adapter) = common::adapter() else { return };
    let report = examine(&fused_model(SGD), &adapter, Depth::Full, GpuOptions::FUSED).unwrap();
    assert!(report.is_well(), "{report:?}");
    let names: Vec<&str> = report.launches.iter().map(|row| row.launch.as_str()).collect();
    assert_eq!(
        names,
        [
            "batch.prepare",
            "conv1.forward",
            "conv2.forward",
            "conv3.forward",
            "conv4.forward",
            "loss.forward",
            "conv4.backward",
            "conv3.backward",
            "conv2.backward",
            "conv1.backward_weight",
            "optimizer.update_averaged",
            "conv1.forward_eval",
            "conv2.forward_eval",
            "conv3.forward_eval",
            "conv4.forward_eval",
            "loss.forward_eval"
        ]
    );
    assert!(report.launches.iter().all(|row| row.elements > 0), "{report:?}");
}

/// Mutants to try per shader: enough to cover every rule in every entry point.
const OF_EACH: usize = 10;
/// For the shaders that do many things.
const OF_LARGE: usize = 18;

/// What to try a mutant on: a model that uses its kernel, and whether fused.
fn subject(mutant: &Mutant) -> (Model, GpuOptions) {
    let fused = ["fused_conv2d", "fused_conv2d_backward", "head"].contains(&mutant.shader)
        || ["prepare", "packed_value", "update_averaged"].contains(&mutant.function.as_str());
    let optimizer = if mutant.shader == "sgd" { SGD } else { ADAM };
    // What only some recipes use.
    let settings = match (mutant.shader, mutant.function.as_str()) {
        ("clip", _) => "[train]\nclip_norm = 0.05",
        (_, "weigh" | "weighed" | "weights_of") => "[train]\nclass_weights = [0.5, 3.0, 1.0, 0.25]",
        (_, "backward_input_frozen") => "[train]\nfreeze = [\"batch_norm1\"]",
        _ => "[train]",
    };
    let (model, fusion) = match mutant.shader {
        "batch" if fused => (parse(FUSED_MODEL, ADAM, ALL_CHANGES), GpuOptions::FUSED),
        "batch" => (parse(MODEL, ADAM, ALL_CHANGES), UNFUSED),
        _ if fused => (fused_model(optimizer), GpuOptions::FUSED),
        "adam" | "average" | "avg_pool2d" | "batch_norm2d" | "clip" | "conv2d" | "cross_entropy"
        | "dropout" | "max_pool2d" | "sgd" => (model(optimizer), UNFUSED),
        _ => (all_layers(), UNFUSED),
    };
    (Model::parse(&model.to_toml().replace("[train]", settings), "small").unwrap(), fusion)
}

#[test]
fn every_mutant_that_changes_results_is_refused() {
    let Some(adapter) = common::adapter() else { return };
    let right: Mutex<BTreeMap<String, String>> = Mutex::default();
    let mutants: Vec<Mutant> = shader::SOURCES
        .iter()
        .flat_map(|&(name, source)| {
            let is_large = name.starts_with("fused_conv2d") || name == "batch";
            let count = if is_large { OF_LARGE } else { OF_EACH };
            mutants::some(mutants::of(name, source), count)
        })
        .collect();
    let outcomes: Vec<(&Mutant, Outcome)> = mutants
        .par_iter()
        .map(|mutant| {
            let (model, unchanged) = subject(mutant);
            // With wgpu's checks, like the baseline: without them, a compiler may give a zero another sign. In small
            // pieces, so that all code that combines several invocations' values is used.
            let unchanged = GpuOptions { checked: true, grain: Some(Grain::Fine), ..unchanged };
            let options = GpuOptions { replace: Some((mutant.shader, mutant.source)), ..unchanged };
            let examined = |depth| examine(&model, &adapter, depth, options);
            let outcome = match examined(Depth::Quick) {
                Err(_) => Outcome::Unviable,
                Ok(quick) if !quick.is_well() => Outcome::Refused(Depth::Quick),
                Ok(_) => {
                    let full = examined(Depth::Full).unwrap();
                    let mut right = right.lock().unwrap();
                    let right = right.entry(model.to_toml()).or_insert_with(|| {
                        examine(&model, &adapter, Depth::Full, unchanged).unwrap().tensors
                    });
                    match (full.is_well(), full.tensors == *right) {
                        (false, _) => Outcome::Refused(Depth::Full),
                        (true, true) => Outcome::Same,
                        (true, false) => Outcome::Missed,
                    }
                }
            };
            (mutant, outcome)
        })
        .collect();
    let of = |wanted: Outcome| outcomes.iter().filter(|(_, outcome)| *outcome == wanted).count();
    for (mutant, outcome) in &outcomes {
        println!("{outcome:?}: {mutant}");
    }
    let (quick, full) = (of(Outcome::Refused(Depth::Quick)), of(Outcome::Refused(Depth::Full)));
    println!(
        "{} mutants: {} do not start, {} change no bit, {quick} refused by the quick check, {full} more by the full one, \
         {} missed",
        outcomes.len(),
        of(Outcome::Unviable),
        of(Outcome::Same),
        of(Outcome::Missed)
    );
    assert_eq!(of(Outcome::Missed), 0);
    assert!(quick + full >= 60, "only {} mutants change results", quick + full);
    for (shader, _) in shader::SOURCES {
        let refused = |(mutant, outcome): &(&Mutant, Outcome)| {
            mutant.shader == *shader && matches!(outcome, Outcome::Refused(_))
        };
        assert!(outcomes.iter().any(refused), "no mutant of {shader}.wgsl changes results");
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Refused(Depth),
    /// It removes a buffer, so no pipeline fits the plan.
    Unviable,
    /// All bits are equal.
    Same,
    Missed,
}

#[test]
fn a_broken_kernel_is_named() {
    for (name, line, broken, launch) in [
        ("batch", "epoch >= setting", "epoch > setting", "batch.begin"),
        ("adam", "BETA1 * first_moment", "0.999 * BETA1 * first_moment", "optimizer.update"),
        ("max_pool2d", "value > best.value", "value >= best.value", "max_pool1.backward_input"),
        ("batch_norm2d", "inverseSqrt(batch_var + EPS)", "inverseSqrt(batch_var)", "batch_norm1.statistics"),
    ] {
        let source = shader::find(name).source;
        assert!(source.contains(line), "{name}.wgsl has no {line}");
        let text: &'static str = Box::leak(source.replace(line, broken).into_boxed_str());
        let options = GpuOptions { replace: Some((name, text)), ..UNFUSED };
        let Some(report) = report(ADAM, Depth::Quick, options) else { return };
        // Results after a wrong kernel may be wrong, too; they come later.
        let wrong = report.launches.iter().find(|row| row.wrong.is_some());
        assert!(!report.is_well(), "{name} is well");
        assert_eq!(wrong.unwrap().launch, launch);
    }
}

#[test]
fn a_self_check_is_remembered_until_something_changes() {
    let Some(adapter) = common::adapter() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("self-check");
    let check = |model: &Model, options| self_check(model, &adapter, Some(&cache), options);
    assert!(matches!(check(&model(SGD), GpuOptions::DEFAULT), Ok(SelfCheck::Passed(_))));
    assert_eq!(check(&model(SGD), GpuOptions::DEFAULT).unwrap(), SelfCheck::Remembered);
    assert!(matches!(check(&model(ADAM), GpuOptions::DEFAULT), Ok(SelfCheck::Passed(_))), "another model");
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 2);

    let source = shader::find("conv2d").source;
    let broken: &'static str =
        source.replacen("sums[p * CHANNELS + t] += ", "sums[p * CHANNELS + t] -= ", 1).leak();
    let options = GpuOptions { replace: Some(("conv2d", broken)), ..UNFUSED };
    std::fs::remove_dir_all(&cache).unwrap();
    let error = check(&model(SGD), options).unwrap_err();
    assert!(error.to_string().contains("conv1.forward (conv2d.wgsl)"), "{error}");
    assert_eq!(error.remedy(), Some(&Remedy::ReportGpu));
    assert!(!cache.exists(), "a wrong adapter was remembered");
    // A cache that cannot be written is not a failure.
    std::fs::write(&cache, "a file where the folder should be").unwrap();
    assert!(matches!(check(&model(SGD), GpuOptions::DEFAULT), Ok(SelfCheck::Passed(_))));
}
