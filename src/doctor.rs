//! Does this adapter compute correctly? Runs every kernel of a model's training on it and compares with the reference.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::config::{Fill, LearningRate, TrainConfig};
use crate::dataset::{FileNames, Images};
use crate::engine::{Engine, Metrics, Setup, Vector};
use crate::error::Result;
use crate::files::hex;
use crate::gpu::{Adapter, AdapterInfo, AdapterLimits, GpuEngine, GpuOptions};
use crate::model::Model;
use crate::normalization::Normalization;
use crate::reference::{At, Reference};
use crate::replica::Replica;
use crate::rng;
use crate::tensor::{Array, Tensor};

mod compare;
mod self_check;
mod state;
mod step;

pub use compare::{LaunchRow, Table};
pub(crate) use self_check::fingerprint;
pub use self_check::{SelfCheck, self_check};
use state::State;
pub use step::{check_evaluation, check_step};

/// How thorough an examination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Every kernel once, on a small batch; twice if the recipe only augments in some epochs.
    Quick,
    /// Every kernel twice, on batches that fill several subgroups; 20 steps run twice; 20 steps against the reference.
    Full,
}

/// Findings about an adapter.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Examination {
    /// Version of shadernet.
    pub version: &'static str,
    /// The adapter, with backend and driver.
    pub adapter: AdapterInfo,
    /// The adapter's limits, and what shadernet requests.
    pub limits: AdapterLimits,
    /// The model whose kernels were run.
    pub model: String,
    /// Every launch of a training step, then of an evaluation step.
    pub launches: Vec<LaunchRow>,
    /// The first error found in a kernel.
    pub wrong_kernel: Option<String>,
    /// SHA-256 of every tensor of a training step and an evaluation step: equal for adapters that round alike.
    pub tensors: String,
    /// Results of the whole training; `None` in a quick examination.
    pub training: Option<TrainingReport>,
    /// Seconds of the examination.
    pub seconds: f64,
}

/// Results of 20 consecutive steps.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct TrainingReport {
    /// True if the same steps gave the same bits twice.
    pub deterministic: bool,
    /// Largest relative difference of the loss from the reference, which restarts from the device's state every four
    /// steps.
    pub largest_loss_difference: f64,
}

/// From this reference loss on, the short training says nothing about a device.
const DIVERGED: f64 = 1e3;
/// Rounding errors grow along a trajectory, fastest where they move a value across the kink of a ReLU or maximum, and
/// faster in deeper nets: a few steps of correct kernels stay far below this, one wrong gradient does not.
const LOSS_TOLERANCE: f64 = 0.01;
const STEPS: u32 = 20;
/// The reference takes this many steps, then restarts from the device's state.
const TOGETHER: u32 = 4;
const SEED: u32 = 1;

impl Examination {
    /// True if no error was found.
    pub fn is_well(&self) -> bool {
        let training_is_well = |training: TrainingReport| {
            training.deterministic && training.largest_loss_difference <= LOSS_TOLERANCE
        };
        self.wrong_kernel.is_none() && self.training.is_none_or(training_is_well)
    }
}

/// Random images with a dark background, so that pooling windows contain ties.
fn images(model: &Model, count: usize) -> Images {
    let word = |i: usize| rng::words(SEED, 0, 0, i as u32)[0];
    let len = count * model.input.len();
    Images {
        count,
        channels: model.input.channels,
        height: model.input.height,
        width: model.input.width,
        pixels: (0..len).map(|i| (word(i) >> 24).saturating_sub(90) as u8).collect(),
        labels: (0..count).map(|i| (word(len + i) as usize % model.class_count()) as u8).collect(),
        files: FileNames::default(),
    }
}

/// Initial weights with every value moved away from its default, so that no parameter is tested at 0 or 1. The first
/// output channel of each convolution is almost constant, so that a batch normalisation's eps matters.
fn weights(model: &Model, seed: u32) -> Vec<Tensor> {
    let mut tensors = model.init(seed);
    for (index, tensor) in tensors.iter_mut().enumerate() {
        for (at, value) in tensor.data.iter_mut().enumerate() {
            *value += 0.1 * rng::unit(rng::words(seed, 1, index as u32, at as u32)[0]);
        }
        if let [_, rest @ ..] = &tensor.shape[..]
            && rest.len() == 3
        {
            let channel = rest.iter().product();
            tensor.data[..channel].iter_mut().for_each(|value| *value *= 1e-3);
        }
    }
    tensors
}

/// Two nets, to expose a kernel that confuses their settings. The first has the model's recipe, the second different
/// values for everything that the recipe uses: unused features are not part of the kernels. Of the seven epochs the
/// last ones are without augmentation, two for the first net.
fn replicas(model: &Model) -> [Replica; 2] {
    let mut first = Replica::new(model, SEED);
    first.augment.plain_epochs = first.augment.plain_epochs.min(2);
    let mut augment = first.augment;
    augment.strengths_mut().into_iter().for_each(|strength| *strength *= 0.6);
    // Whole pixels, and the least that these may be if they are not 0.
    augment.pad_crop = augment.pad_crop.ceil();
    for alpha in [&mut augment.mixup, &mut augment.cutmix].into_iter().filter(|alpha| **alpha > 0.0) {
        *alpha = alpha.max(0.01);
    }
    augment.elastic_smoothness = 0.5 * augment.elastic_smoothness + 0.5;
    augment.erase_area = 0.6 * augment.erase_area + 0.01;
    augment.fill = if augment.fill == Fill::Edge { Fill::Mean } else { Fill::Edge };
    augment.plain_epochs *= 2;
    let second = Replica {
        seed: SEED + 2,
        learning_rate: LearningRate::Cosine { peak: 0.02, end: 0.1 },
        weight_decay: 0.5 * first.weight_decay + 0.01,
        dropout: first.dropout.iter().map(|rate| 0.6 * rate).collect(),
        label_smoothing: 0.5 * first.label_smoothing + 0.03,
        clip_norm: 0.5 * first.clip_norm,
        augment,
        ..first.clone()
    };
    [first, second]
}

/// A mean and a deviation for each channel, unlike its neighbours', so that a kernel that takes theirs shows.
fn normalization(channels: usize) -> Normalization {
    let of = |first: f32, step: f32, steps: usize| {
        (0..channels).map(|at| first + step * (at % steps) as f32).collect()
    };
    Normalization { mean: of(0.3, -0.05, 4), std: of(0.4, 0.05, 3) }
}

/// Writes the weights, and random optimizer memory: up to `memory`, of all magnitudes.
fn start(engine: &mut GpuEngine, setup: &Setup<'_>, weights: &[Vec<Tensor>], memory: f32) -> Result<()> {
    engine.set_step(0)?;
    for (replica, weights) in weights.iter().enumerate() {
        engine.write(Vector::Weights, replica, weights)?;
        if setup.model.train.average_decay > 0.0 {
            engine.write(Vector::Average, replica, weights)?;
        }
        for name in setup.model.train.optimizer.memory() {
            let mut tensors = engine.read(Vector::Memory(name), replica)?;
            for (index, tensor) in tensors.iter_mut().enumerate() {
                for (at, value) in tensor.data.iter_mut().enumerate() {
                    let word = rng::words(setup.replicas[replica].seed, 2, index as u32, at as u32)[0];
                    *value = memory * rng::unit(word).powi(8);
                }
            }
            engine.write(Vector::Memory(name), replica, &tensors)?;
        }
    }
    Ok(())
}

/// Examines an adapter with the kernels of `model`'s training; `options` are [`GpuOptions::DEFAULT`] except in tests.
///
/// # Errors
/// An adapter that cannot be opened. Wrong results are not errors; they are in the report.
///
/// # Examples
/// ```no_run
/// use shadernet::checkpoint::Checkpoint;
/// use shadernet::doctor::{Depth, examine};
/// use shadernet::gpu::{Adapter, GpuOptions};
///
/// let model = Checkpoint::seed()?.model;
/// let report = examine(&model, &Adapter::all()[0], Depth::Full, GpuOptions::DEFAULT)?;
/// assert!(report.is_well(), "{:?}", report.wrong_kernel);
/// # Ok::<(), shadernet::error::Error>(())
/// ```
pub fn examine(model: &Model, adapter: &Adapter, depth: Depth, options: GpuOptions) -> Result<Examination> {
    let begin = Instant::now();
    // Three steps per epoch, the last with half a batch, and neither a whole number of quads. In a full examination a
    // batch fills more than one subgroup wherever a workgroup sums over images, to expose barriers that do nothing.
    let batch_size = if depth == Depth::Quick { 6 } else { 38 };
    let mut model = model.clone();
    model.train = TrainConfig {
        batch_size,
        epochs: STEPS.div_ceil(3) as usize,
        // A different rate in each step, to expose a wrong step number.
        learning_rate: LearningRate::Cosine { peak: 0.01, end: 0.0 },
        ..model.train
    };
    let model = &model;
    let images = Arc::new(images(model, 5 * batch_size / 2));
    // An evaluation is compared in a single batch.
    let test = Arc::new(Images {
        count: batch_size,
        pixels: images.pixels[..batch_size * model.input.len()].to_vec(),
        labels: images.labels[..batch_size].to_vec(),
        files: FileNames::default(),
        ..*images
    });
    let replicas = replicas(model);
    let normalization = normalization(model.input.channels);
    let setup = Setup {
        model,
        replicas: &replicas,
        shuffle: true,
        normalization: &normalization,
        training: Some(&images),
        test: &test,
    };
    let weights: Vec<_> = replicas.iter().map(|net| weights(model, net.seed)).collect();
    let mut engine = GpuEngine::new(adapter.open()?, &setup, GpuOptions { reuse: false, ..options })?;
    let mut table = Table::default();
    let mut wrong_kernel = None;
    start(&mut engine, &setup, &weights, 0.01)?;
    // Step 17 is in the sixth of seven epochs: one without augmentation, if the recipe has such epochs.
    let steps: &[u32] = match depth {
        Depth::Full => &[0, 17],
        Depth::Quick if replicas[0].augment.plain_epochs > 0 => &[2, 17],
        Depth::Quick => &[2],
    };
    for step in steps {
        engine.set_step(*step)?;
        let checked = check_step(&mut engine, &setup, &format!("step {step}"), &mut table);
        wrong_kernel = wrong_kernel.or(checked.err());
    }
    let averaged = model.train.average_decay > 0.0;
    let mut hash = Sha256::new();
    let mut add = |words: Option<Vec<u32>>| hash.update(bytemuck::cast_slice(&words.unwrap_or_default()));
    for tensor in engine.training_plan().map_or(&[][..], |plan| &plan.tensors) {
        add(engine.read_tensor(&tensor.name)?);
    }
    let checked = check_evaluation(&mut engine, &setup, averaged, "evaluation", &mut table);
    wrong_kernel = wrong_kernel.or(checked.err());
    for tensor in &engine.evaluation_plan(averaged).tensors {
        add(engine.read_evaluation_tensor(averaged, &tensor.name)?);
    }
    let tensors = hex(&hash.finalize());
    let training =
        (depth == Depth::Full).then(|| train_twice(&mut engine, &setup, &images, &weights)).transpose()?;
    Ok(Examination {
        version: env!("CARGO_PKG_VERSION"),
        adapter: adapter.info().clone(),
        limits: adapter.limits(),
        model: model.name.clone(),
        launches: table.launches().to_vec(),
        wrong_kernel,
        tensors,
        training,
        seconds: begin.elapsed().as_secs_f64(),
    })
}

fn train_twice(
    engine: &mut GpuEngine,
    setup: &Setup<'_>,
    images: &Images,
    weights: &[Vec<Tensor>],
) -> Result<TrainingReport> {
    let mut run = || -> Result<(Vec<f64>, Vec<Vec<State>>)> {
        start(engine, setup, weights, 0.0)?;
        // The losses of all nets at every step; their states every few steps.
        let (mut losses, mut states) = (Vec::new(), Vec::new());
        for step in 0..STEPS {
            if step.is_multiple_of(TOGETHER) {
                states.push(State::read_all(engine, setup)?);
            }
            losses.extend(engine.train(1)?.iter().map(Metrics::loss));
        }
        states.push(State::read_all(engine, setup)?);
        Ok((losses, states))
    };
    let (losses, states) = run()?;
    let again = run()?;
    let bits = |states: &[Vec<State>]| states.iter().flatten().map(State::bits).collect::<Vec<_>>();
    let mut wanted = Vec::new();
    for (number, net) in setup.replicas.iter().enumerate() {
        let states: Vec<_> = states.iter().map(|nets| &nets[number]).collect();
        wanted.push(reference_losses(setup, net, images, &states)?);
    }
    let wanted = (0..STEPS as usize).flat_map(|step| wanted.iter().map(move |losses| losses[step]));
    // If the reference diverges that far too, the rate is too high for the net, and f32 may overflow where f64 does not.
    let told = losses.iter().zip(wanted).filter(|(_, want)| *want < DIVERGED);
    let differences = told.map(|(got, want)| ((got - want) / want).abs());
    // A NaN counts as infinitely far away.
    let largest =
        differences.fold(0.0, |largest: f64, d| if d.is_nan() { f64::INFINITY } else { largest.max(d) });
    Ok(TrainingReport { deterministic: bits(&states) == bits(&again.1), largest_loss_difference: largest })
}

/// Mean loss of a net in each step by the reference, which restarts from each of the states.
fn reference_losses(
    setup: &Setup<'_>,
    net: &Replica,
    images: &Images,
    states: &[&State],
) -> Result<Vec<f64>> {
    let batches = setup.train_batches().expect("there are training images");
    let model = net.model(setup.model)?;
    let mut reference = Reference::new(&model, &states[0].weights).weighing(batches.class_weights.clone());
    let rates = setup.learning_rates(net);
    let (settings, _) = net.settings(&model, model.train.epochs);
    let losses = (0..STEPS).map(|step| {
        if step.is_multiple_of(TOGETHER) {
            states[(step / TOGETHER) as usize].give(&mut reference, model.train.optimizer);
        }
        let samples: Vec<_> =
            (0..batches.images_of(step)).map(|n| batches.sample(&settings, step, n)).collect();
        let input = samples.iter().flat_map(|&sample| batches.reference(images, sample).data).collect();
        let [channels, height, width]: [usize; 3] = setup.model.input.into();
        let input = Array::exact(&[samples.len(), channels, height, width], input);
        let targets: Vec<_> = samples.iter().map(|sample| sample.target(&images.labels)).collect();
        let at = At { seed: net.seed, step, learning_rate: f64::from(rates[step as usize]) };
        let loss = &reference.step(input, &targets, at)["loss"];
        loss.data.iter().sum::<f64>() / loss.data.len() as f64
    });
    Ok(losses.collect())
}
