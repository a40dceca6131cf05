//! Plans of training steps, as text: of the seed network, and of a net with every kind of layer and option. Changes
//! should be noticed and intended: `SHADERNET_BLESS=1 cargo test --release --test plan_golden` rewrites them.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;

use shadernet::batch::{BatchSettings, Changes};
use shadernet::config::LearningRate;
use shadernet::layers::Grain;
use shadernet::model::Model;
use shadernet::normalization::Normalization;
use shadernet::plan::{Contents, ParamLayout, Place, Plan, PlanOptions};
use shadernet::replica::Replica;
use shadernet::state::{self, StepWords};

const SEED: &str = include_str!("../data/models/seed.toml");

/// Every extent and option has a different size, so that no two products are equal by chance. The first layer with
/// parameters is the second in the net: its input's gradient is not needed.
const ALL_LAYERS: &str = r#"
    name = "all_layers"
    input = [3, 41, 29]
    layers = [
      { type = "avg_pool2d", kernel = 2 },
      { type = "conv2d", out_channels = 6, kernel = 3, stride = 2, padding = 1, groups = 3, bias = false },
      { type = "leaky_relu", negative_slope = 0.25 },
      { type = "batch_norm2d", eps = 0.5, momentum = 0.75 },
      { type = "avg_pool2d", kernel = 3, stride = 2, padding = 1 },
      { type = "dropout", rate = 0.5 },
      # 3 strides and a kernel: 17 values, one more than a row holds.
      { type = "conv2d", out_channels = 40, kernel = 5, stride = 4, padding = 4, groups = 2 },
      { type = "relu" },
      # 16 values: just a row.
      { type = "conv2d", out_channels = 12, kernel = 4, stride = 4, padding = 3 },
      { type = "max_pool2d", kernel = 2, stride = 1, padding = 1 },
      { type = "flatten" },
      { type = "linear", out_features = 11, bias = false },
      { type = "linear", out_features = 5 },
    ]
    [train]
    optimizer = { type = "adamw" }
    label_smoothing = 0.125
    average_decay = 0.5
    "#;

fn batch(model: &Model, batch_size: usize) -> BatchSettings {
    BatchSettings {
        batch_size,
        image_count: 60_000,
        image: model.input,
        epochs: model.train.epochs,
        shuffle: true,
        changes: Changes::of(&[Replica::new(model, 0)]),
        normalization: Normalization::uniform(model.input.channels, 0.1307, 0.3081),
        class_weights: Vec::new(),
    }
}

fn nets(model: &Model, count: u32) -> Vec<Replica> {
    Replica::of_seeds(model, 0..count)
}

fn planned(text: &str, batch_size: usize, replicas: u32, options: PlanOptions) -> Plan {
    let model = Model::parse(text, "test").unwrap();
    Plan::training(&model, &nets(&model, replicas), &batch(&model, batch_size), options)
}

fn training(text: &str, batch_size: usize, replicas: u32, reuse: bool) -> Plan {
    planned(text, batch_size, replicas, PlanOptions { reuse, ..PlanOptions::default() })
}

fn fused(text: &str, batch_size: usize, replicas: u32, reuse: bool) -> Plan {
    planned(text, batch_size, replicas, PlanOptions { reuse, fuse: true, ..PlanOptions::default() })
}

fn fine(text: &str, fuse: bool) -> Plan {
    planned(text, 128, 1, PlanOptions { fuse, grain: Grain::Fine, ..PlanOptions::default() })
}

fn evaluation(text: &str, batch_size: usize, averaged: bool) -> Plan {
    let model = Model::parse(text, "test").unwrap();
    let nets = nets(&model, 3);
    Plan::evaluation(&model, &nets, &batch(&model, batch_size), averaged, "test", PlanOptions::default())
}

/// Where each value of `packed` comes from: place in the parameters, distance to the next net's.
fn sources(plan: &Plan) -> Vec<[u32; 2]> {
    let Contents::Words(sources) = &plan.buffers["sources"] else { panic!("{:?}", plan.buffers["sources"]) };
    sources.chunks(2).map(|pair| pair.try_into().unwrap()).collect()
}

fn assert_golden(file: &str, plan: &Plan) {
    let text = plan.to_string();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    if std::env::var_os("SHADERNET_BLESS").is_some() {
        fs::create_dir_all(golden.parent().unwrap()).unwrap();
        fs::write(&golden, &text).unwrap();
    }
    let want = fs::read_to_string(&golden).unwrap();
    let difference = text.lines().zip(want.lines()).position(|(got, want)| got != want);
    if let Some(line) = difference {
        let (got, want) = (text.lines().nth(line).unwrap(), want.lines().nth(line).unwrap());
        panic!("{file}, line {}:\n  now    {got}\n  golden {want}", line + 1);
    }
    assert_eq!(text.lines().count(), want.lines().count(), "{file}");
}

#[test]
fn the_fused_and_the_fine_plans_are_the_golden_ones() {
    let plan = fused(SEED, 128, 1, true);
    assert!(plan.launches.len() <= 16, "{} launches a step", plan.launches.len());
    assert_golden("seed_fused.txt", &plan);
    assert_golden("seed_fine.txt", &fine(SEED, false));
    assert_golden("seed_fused_fine.txt", &fine(SEED, true));
    // Layers without a fused kernel keep their own.
    assert_golden("all_layers_fused.txt", &fused(ALL_LAYERS, 6, 3, false));
}

/// Small pieces need more space for partial sums, which a layer with many weights can't spare.
#[test]
fn the_parts_of_a_large_layer_stay_few() {
    let wide = |channels: usize, grain| {
        let layers = format!(
            "{{ type = \"conv2d\", out_channels = {channels}, kernel = 3 }}, {{ type = \"global_avg_pool2d\" }}"
        );
        let text = format!("name = \"wide\"\ninput = [{channels}, 30, 30]\nlayers = [{layers}]");
        let options = PlanOptions { grain, ..PlanOptions::default() };
        let plan = planned(&text, 128, 1, options);
        plan.tensor("conv1.parts").unwrap().bytes
    };
    assert_eq!(wide(128, Grain::Fine), wide(128, Grain::Coarse));
    assert!(wide(8, Grain::Fine) > 4 * wide(8, Grain::Coarse));
}

/// Weights of fused convolutions are packed for both directions, everything else that fused kernels read once.
#[test]
fn every_parameter_is_packed() {
    let model = Model::parse(SEED, "seed").unwrap();
    let plan = fused(SEED, 128, 3, true);
    let packed = plan.tensor("packed").unwrap().bytes as usize;
    let sources = sources(&plan);
    assert_eq!(4 * 3 * sources.len(), packed);
    let layout = ParamLayout::new(&model, 3);
    for entry in layout.entries().iter().filter(|entry| entry.param.param.trained) {
        let len = entry.len / 3;
        let twice = entry.param.name.starts_with("conv") && entry.param.name != "conv7.weight";
        let want = if twice && entry.param.param.name == "weight" { 2 } else { 1 };
        for value in 0..len {
            let source = [(entry.offset + value) as u32, len as u32];
            let count = sources.iter().filter(|&&other| other == source).count();
            assert_eq!(count, want, "{}[{value}]", entry.param.name);
        }
    }
    assert!(!evaluation(SEED, 4, false).buffers.contains_key("sources"), "nothing is fused");
}

#[test]
fn the_seed_networks_plan_is_the_golden_one() {
    let plan = training(SEED, 128, 1, true);
    assert_golden("seed.txt", &plan);

    // Plain data: it survives serialization.
    let json = serde_json::to_string(&plan).unwrap();
    assert!(serde_json::from_str::<Plan>(&json).unwrap() == plan, "the plan changed on its way through JSON");
}

#[test]
fn the_plans_of_a_net_of_all_layers_are_the_golden_ones() {
    // 54 images are 14 quads, the last half full, and enough for a convolution to sum several rows per part.
    assert_golden("all_layers.txt", &training(ALL_LAYERS, 54, 3, true));
    assert_golden("all_layers_eval.txt", &evaluation(ALL_LAYERS, 54, true));
}

/// What a plan says of its buffers before the first step: who carries it out goes by that alone.
#[test]
fn buffers_begin_with_what_the_steps_read() {
    let model = Model::parse(ALL_LAYERS, "test").unwrap();
    let mut nets = nets(&model, 3);
    nets[1].weight_decay = 0.25;
    nets[2].learning_rate = LearningRate::Constant { rate: 0.5 };
    let batch = batch(&model, 6000);
    let options = PlanOptions { fuse: true, ..PlanOptions::default() };
    let step = Plan::training(&model, &nets, &batch, options);
    let settings: Vec<_> = nets.iter().map(|net| net.settings(&model, batch.epochs)).collect();
    let state = Contents::Words(state::words(StepWords::default(), &batch.normalization, &[], &settings));
    assert_eq!(step.buffers["state"], state);
    let rates: Vec<f32> = nets.iter().flat_map(|net| batch.learning_rates(net)).collect();
    assert_eq!(rates[rates.len() - 1..], [0.5], "a rate for every step of every net");
    assert_eq!(rates.len(), 3 * 10 * model.train.epochs);
    let words = rates.into_iter().map(f32::to_bits).collect();
    assert_eq!(step.buffers["learning_rates"], Contents::Words(words));
    assert_eq!(step.buffers["owners"], Contents::Words(ParamLayout::new(&model, 3).owners()));
    for zero in ["first_moment", "second_moment", "grads", "metrics_ring", "sums"] {
        assert_eq!(step.buffers[zero], Contents::Zeros, "{zero}");
    }
    let given = |plan: &Plan| {
        let given = plan.buffers.iter().filter(|(_, contents)| **contents == Contents::Given);
        given.map(|(name, _)| name.clone()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(given(&step), "average_params average_running params running train.images train.labels");
    let mut plain = model.clone();
    plain.train.average_decay = 0.0;
    let step = Plan::training(&plain, &nets, &batch, options);
    assert_eq!(given(&step), "params running train.images train.labels");
    // An evaluation shares the state with the steps, and its buffer.
    let judged = Plan::evaluation(&model, &nets, &batch, false, "test", options);
    assert_eq!(judged.buffers["state"], state);
    assert_eq!(given(&judged), "params running test.images test.labels");
}

#[test]
fn an_evaluation_reads_the_weights_it_is_told_to() {
    let buffers = |averaged| {
        let plan = evaluation(ALL_LAYERS, 7, averaged);
        let buffer = |name: &str| match &plan.tensor(name).unwrap().place {
            Place::Kept { buffer, .. } => buffer.clone(),
            Place::Slot(slot) => panic!("{name} is in slot {slot}"),
        };
        [buffer("conv1.weight"), buffer("batch_norm1.running_var"), buffer("images")]
    };
    assert_eq!(buffers(false), ["params", "running", "test.images"]);
    assert_eq!(buffers(true), ["average_params", "average_running", "test.images"]);
}

/// Weights shared by three layers are one tensor, packed once, and each use has its own rows of gradients. The
/// optimizer sums all rows.
#[test]
fn each_use_of_shared_weights_has_gradients_of_its_own() {
    let text = r#"
        name = "shared"
        input = [4, 9, 9]
        layers = [
          { type = "conv2d", name = "own", out_channels = 4, kernel = 3 },
          { type = "conv2d", weights_of = "own", out_channels = 4, kernel = 3 },
          { type = "conv2d", weights_of = "own", out_channels = 4, kernel = 3 },
          { type = "conv2d", out_channels = 2, kernel = 1, bias = false },
          { type = "global_avg_pool2d" },
        ]"#;
    let model = Model::parse(text, "shared").unwrap();
    // For two nets: 288 weights and 8 biases, then the 16 weights of the head, each aligned to 64 values.
    let (row, bias) = (320 + 64 + 64, 320);
    for (parts, plan) in [(1, training(text, 8, 2, true)), (2, fused(text, 8, 2, true))] {
        assert_eq!(ParamLayout::new(&model, 2).trained_len(), row);
        assert_eq!(plan.tensor("grads").unwrap().bytes as usize, 4 * 3 * parts * row);
        let optimizer = plan.launches.iter().find(|launch| launch.label == "optimizer.update").unwrap();
        assert_eq!(optimizer.constants["PARTS"], (3 * parts) as f64);
        for (number, layer) in ["own", "conv2", "conv3"].iter().enumerate() {
            let first = number * parts * row;
            let mut launches = plan.launches.iter().filter(|launch| {
                launch.label.starts_with(layer) && launch.constants.contains_key("GRAD_WEIGHT")
            });
            if parts == 1 {
                let place = |name: &str| match &plan.tensor(&format!("{layer}.{name}")).unwrap().place {
                    Place::Kept { buffer, offset } => (buffer.clone(), *offset as usize / 4),
                    Place::Slot(slot) => panic!("{name} is in slot {slot}"),
                };
                assert_eq!(place("grad_weight"), ("grads".to_owned(), first));
                assert_eq!(place("grad_bias"), ("grads".to_owned(), first + bias));
            } else {
                let backward = launches.next().unwrap();
                assert_eq!(backward.constants["GRAD_WEIGHT"], first as f64, "{layer}");
                assert_eq!(backward.constants["GRAD_BIAS"], (first + bias) as f64, "{layer}");
            }
        }
        let weights = plan.tensors.iter().filter(|tensor| tensor.name.ends_with(".weight"));
        let names: Vec<_> = weights.map(|tensor| tensor.name.as_str()).collect();
        assert!(names.iter().all(|name| ["own.weight", "conv4.weight"].contains(name)), "{names:?}");
    }
    // 4 x 4 channels and 9 taps in either direction and the bias, padded to nothing; the head's weight and its lack of a bias.
    assert_eq!(sources(&fused(text, 8, 2, true)).len(), 2 * 144 + 4 + 8);
}

/// A net without running statistics has no average of them.
#[test]
fn an_average_is_planned_where_there_is_something_to_average() {
    let text = |decay| {
        let layers = r#"{ type = "flatten" }, { type = "linear", out_features = 2 }"#;
        format!("name = \"x\"\ninput = [1, 2, 2]\nlayers = [{layers}]\n[train]\naverage_decay = {decay}")
    };
    for (decay, averages) in [("0.5", 1), ("0.0", 0)] {
        let plan = training(&text(decay), 8, 1, true);
        let found = plan.launches.iter().filter(|launch| launch.label == "average.update").count();
        assert_eq!(found, averages, "average_decay = {decay}");
    }
}

/// First and last launch that binds each tensor.
fn lives(plan: &Plan) -> Vec<(usize, usize)> {
    let mut lives = vec![(usize::MAX, 0); plan.tensors.len()];
    for (time, launch) in plan.launches.iter().enumerate() {
        for bound in &launch.bindings {
            lives[bound.tensor] = (lives[bound.tensor].0.min(time), time);
        }
    }
    lives
}

#[test]
fn pooled_memory_is_shared_and_never_by_two_that_live() {
    for (text, batch_size, replicas) in [(SEED, 128, 1), (ALL_LAYERS, 7, 3)] {
        let shared = training(text, batch_size, replicas, true);
        let alone = training(text, batch_size, replicas, false);
        let sum: u64 = alone.slots.iter().sum();
        assert_eq!(alone.pooled_bytes(), (sum, sum));
        // Without reuse the pool is the sum of the tensors, each in a slot of exactly its size.
        let pooled = alone.tensors.iter().filter(|tensor| matches!(tensor.place, Place::Slot(_)));
        assert_eq!(pooled.map(|tensor| tensor.bytes).collect::<Vec<_>>().len(), alone.slots.len());
        assert_eq!(shared.pooled_bytes().1, sum);
        // The rest is what the backward launches need from the forward ones.
        assert!(shared.pooled_bytes().0 < sum * 2 / 3, "{:?}", shared.pooled_bytes());

        let lives = lives(&shared);
        let mut largest = vec![0; shared.slots.len()];
        for (a, tensor) in shared.tensors.iter().enumerate() {
            // The words about the step have names of their own for the host, and none for kernels.
            let used = lives[a].0 != usize::MAX || tensor.name.starts_with("state.");
            assert!(used, "{} is planned and not used", tensor.name);
            let Place::Slot(slot) = tensor.place else { continue };
            largest[slot] = tensor.bytes.max(largest[slot]);
            for (b, other) in shared.tensors.iter().enumerate().take(a) {
                let apart = lives[a].1 < lives[b].0 || lives[b].1 < lives[a].0;
                assert!(other.place != tensor.place || apart, "{} and {}", tensor.name, other.name);
            }
        }
        assert_eq!(largest, shared.slots, "a slot is as large as its largest tenant");
    }
}
