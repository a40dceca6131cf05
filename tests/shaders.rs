//! Checks of the shaders that need no device: no dead code, all within WebGPU's default limits, all translate to the
//! languages of Vulkan, Metal, DX12 and OpenGL with the constants of real plans.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use naga::back::glsl;
use naga::valid::{Capabilities, ValidationFlags, Validator};
use shadernet::batch::{BatchSettings, Changes};
use shadernet::gpu::MeasuredCeilings;
use shadernet::layers::Grain;
use shadernet::model::Model;
use shadernet::normalization::Normalization;
use shadernet::plan::{Plan, PlanOptions, PlannedLaunch};
use shadernet::replica::Replica;
use shadernet::shader;

/// Every layer, and with the shipped models every loss and optimizer.
const ALL_LAYERS: &str = include_str!("all_layers.toml");

/// What has kernels of its own.
const ALL_SETTINGS: &str = r#"[train]
class_weights = "balanced"
clip_norm = 1.0
freeze = ["batch_norm1"]"#;

/// [`ALL_LAYERS`] and every shipped model, by file name.
fn models() -> BTreeMap<String, Model> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/models");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let models = files.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    let shipped = models.map(|path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let model = Model::parse(&std::fs::read_to_string(&path).unwrap(), &name).unwrap();
        (name, model)
    });
    let mut models: BTreeMap<_, _> = shipped.collect();
    assert!(models.contains_key("seed.toml"), "{:?}", models.keys());
    models.insert("all layers".into(), Model::parse(ALL_LAYERS, "all layers").unwrap());
    let with_all_settings = ALL_LAYERS.replace("[train]", ALL_SETTINGS);
    models.insert("all settings".into(), Model::parse(&with_all_settings, "all settings").unwrap());
    models
}

fn plans() -> Vec<Plan> {
    let mut plans = Vec::new();
    for model in models().values() {
        for (batch_size, replicas, fuse, grain) in [
            (7, 1, true, Grain::Fine),
            (128, 3, true, Grain::Coarse),
            (7, 1, false, Grain::Coarse),
            (128, 3, false, Grain::Fine),
        ] {
            let batch = BatchSettings {
                batch_size,
                image_count: 1000,
                image: model.input,
                epochs: 1,
                shuffle: true,
                changes: Changes::of(&[Replica::new(model, 0)]),
                normalization: Normalization::uniform(model.input.channels, 0.5, 0.25),
                class_weights: model
                    .train
                    .class_weights
                    .as_ref()
                    .map_or_else(Vec::new, |weights| weights.of(&[], model.class_count())),
            };
            let nets = Replica::of_seeds(model, 0..replicas);
            let options = PlanOptions { reuse: true, fuse, grain };
            plans.push(Plan::training(model, &nets, &batch, options));
            plans.push(Plan::evaluation(model, &nets, &batch, false, "test", options));
        }
    }
    // Not part of any network: only `bench` runs them.
    plans.extend(MeasuredCeilings::plans());
    plans
}

fn launches(plans: &[Plan]) -> impl Iterator<Item = &PlannedLaunch> {
    plans.iter().flat_map(|plan| &plan.launches)
}

#[test]
fn every_file_and_every_entry_point_is_used() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let known: BTreeSet<String> = shader::all().iter().map(|shader| shader.name.to_owned()).collect();
    assert_eq!(files, known);

    let plans = plans();
    let used: BTreeSet<(&str, &str)> =
        launches(&plans).map(|launch| (launch.shader.as_str(), launch.entry_point.as_str())).collect();
    for shader in shader::all() {
        for entry_point in shader.entry_points() {
            assert!(used.contains(&(shader.name, entry_point)), "{}.{entry_point} is dead", shader.name);
        }
    }
}

#[test]
fn webgpu_default_limits_hold() {
    for shader in shader::all() {
        for entry_point in shader.entry_points() {
            let name = format!("{}.{entry_point}", shader.name);
            assert!(shader.bindings(entry_point).len() <= 8, "{name}: more than 8 storage buffers");
            let [x, y, z] = shader.workgroup_size(entry_point);
            assert!(x * y * z <= 256 && x <= 256 && y <= 256 && z <= 64, "{name}: {x}x{y}x{z} invocations");
        }
        let module = naga::front::wgsl::parse_str(shader.source).unwrap();
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).unwrap();
        let workgroup =
            module.global_variables.iter().filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup);
        let bytes: u32 = workgroup.map(|(_, variable)| layouter[variable.ty].size).sum();
        assert!(bytes <= 16_384, "{}: {bytes} bytes of workgroup memory", shader.name);
        let bindings: Vec<_> =
            module.global_variables.iter().filter_map(|(_, variable)| variable.binding).collect();
        let unique: BTreeSet<_> = bindings.iter().map(|binding| (binding.group, binding.binding)).collect();
        assert_eq!(unique.len(), bindings.len(), "{}: a binding number is used twice", shader.name);
    }
    for launch in launches(&plans()) {
        assert!(launch.workgroups.iter().all(|&count| (1..=65_535).contains(&count)), "{}", launch.label);
    }
}

/// Text of each function that is not an entry point, by name.
fn functions(source: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (at, _) in source.match_indices("\nfn ") {
        let text = &source[at + 1..];
        let end = text.find("\n}\n").unwrap() + 2;
        let is_entry_point =
            source[..at].ends_with(')') && source[..at].lines().next_back().unwrap().starts_with('@');
        if !is_entry_point {
            let name = text[3..].split('(').next().unwrap();
            found.insert(name.to_owned(), text[..end].to_owned());
        }
    }
    found
}

/// Shaders are complete files, so small functions are repeated; the copies must not diverge.
#[test]
fn functions_of_one_name_are_one_function() {
    let mut texts: BTreeMap<String, (&str, String)> = BTreeMap::new();
    for (file, source) in shader::SOURCES.iter().chain(shader::MEASURING) {
        for (name, text) in functions(source) {
            let (first, known) = texts.entry(name.clone()).or_insert_with(|| (file, text.clone()));
            assert_eq!(*known, text, "{name} in {file}.wgsl differs from {first}.wgsl");
        }
    }
    assert!(texts.contains_key("linear_index") && texts.contains_key("pcg4d"));
}

/// A launch's module with its constants substituted, as every backend gets it.
fn specialised(launch: &PlannedLaunch) -> (naga::Module, naga::valid::ModuleInfo) {
    let source = shader::find(&launch.shader).source;
    let module = naga::front::wgsl::parse_str(source).unwrap();
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::empty());
    let info = validator.validate(&module).unwrap();
    let constants = launch.constants.clone().into_iter().collect();
    let entry_point = Some((naga::ShaderStage::Compute, launch.entry_point.as_str()));
    let (module, info) =
        naga::back::pipeline_constants::process_overrides(&module, &info, entry_point, &constants)
            .unwrap_or_else(|error| panic!("{}: {error}", launch.label));
    (module.into_owned(), info.into_owned())
}

/// GLSL ES 3.1, the oldest version with compute shaders, with the plan's binding numbers.
fn translated_to_glsl(
    launch: &PlannedLaunch,
    module: &naga::Module,
    info: &naga::valid::ModuleInfo,
) -> String {
    let bindings = launch.bindings.iter().map(|bound| {
        let index = u8::try_from(bound.index).unwrap();
        (naga::ResourceBinding { group: 0, binding: bound.index }, index)
    });
    let options = glsl::Options {
        version: glsl::Version::new_gles(310),
        writer_flags: glsl::WriterFlags::empty(),
        binding_map: bindings.collect(),
        // As in the engine: every kernel writes workgroup memory before it reads it.
        zero_initialize_workgroup_memory: false,
    };
    let pipeline = glsl::PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: launch.entry_point.clone(),
        multiview: None,
    };
    let mut text = String::new();
    glsl::Writer::new(&mut text, module, info, &options, &pipeline, Default::default())
        .and_then(|mut writer| writer.write())
        .unwrap_or_else(|error| panic!("{}: GLSL: {error}", launch.label));
    text
}

#[test]
fn every_pipeline_translates_to_spirv_msl_hlsl_and_glsl() {
    let mut done = BTreeSet::new();
    for launch in launches(&plans()) {
        if !done.insert((
            launch.shader.clone(),
            launch.entry_point.clone(),
            format!("{:?}", launch.constants),
        )) {
            continue;
        }
        let label = &launch.label;
        let (module, info) = specialised(launch);
        naga::back::spv::write_vec(&module, &info, &Default::default(), None)
            .unwrap_or_else(|error| panic!("{label}: SPIR-V: {error}"));
        let msl = naga::back::msl::Options { fake_missing_bindings: true, ..Default::default() };
        naga::back::msl::write_string(&module, &info, &msl, &Default::default())
            .unwrap_or_else(|error| panic!("{label}: MSL: {error}"));
        let mut text = String::new();
        let hlsl = naga::back::hlsl::Options { fake_missing_bindings: true, ..Default::default() };
        let pipeline = naga::back::hlsl::PipelineOptions::default();
        naga::back::hlsl::Writer::new(&mut text, &hlsl, &pipeline)
            .write(&module, &info, None)
            .unwrap_or_else(|error| panic!("{label}: HLSL: {error}"));
        let glsl = translated_to_glsl(launch, &module, &info);
        // Every buffer has the binding that the plan gives it, under OpenGL's own numbers.
        for bound in &launch.bindings {
            let place = format!("binding = {}) ", bound.index);
            assert!(glsl.contains(&place), "{label}: GLSL has no {place}:\n{glsl}");
        }
    }
    println!("{} pipelines of {} models in four languages", done.len(), models().len());
    assert!(done.len() > 60, "only {} pipelines", done.len());
}

#[test]
fn a_forgotten_or_misspelt_constant_is_loud() {
    let plans = plans();
    let mut launch = launches(&plans).find(|launch| launch.label == "relu1.forward").unwrap().clone();
    launch.constants.remove("QUADS");
    let wrong = std::panic::catch_unwind(|| specialised(&launch));
    assert!(wrong.is_err(), "a pipeline without QUADS was accepted");
}
