//! Is this adapter right? Every kernel that a model's training uses is run on it and compared with the reference.

use std::time::Instant;

use serde::Serialize;

use crate::config::{LearningRate, TrainConfig};
use crate::dataset::Images;
use crate::engine::{Engine, Setup, Vector};
use crate::error::Result;
use crate::gpu::{Adapters, GpuEngine, GpuOptions};
use crate::model::Model;
use crate::reference::{At, Reference};
use crate::rng;
use crate::tensor::{Array, Tensor};

mod compare;
mod step;

pub use compare::Table;
pub use step::check_step;

/// What was found about an adapter.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The adapter, with backend and driver.
    pub adapter: String,
    /// The model whose kernels were run.
    pub model: String,
    /// Kernel launches of a training step.
    pub dispatches: usize,
    /// Largest error of each kind of tensor as a share of its proved bound.
    pub kernels: Table,
    /// The first thing that was wrong with a kernel.
    pub wrong_kernel: Option<String>,
    /// True if the same steps gave the same bits twice.
    pub deterministic: bool,
    /// Largest relative difference of the loss from the reference's over 20 steps.
    pub largest_loss_difference: f64,
    /// Seconds of the examination.
    pub seconds: f64,
}

/// Rounding grows along a trajectory, fastest where it moves a value across a kink of a ReLU or a maximum: 20 steps of
/// right kernels stay far below this, one wrong gradient does not.
const LOSS_TOLERANCE: f64 = 0.01;
const STEPS: u32 = 20;
const SEED: u32 = 1;

impl Report {
    /// True if nothing is wrong.
    pub fn is_well(&self) -> bool {
        self.wrong_kernel.is_none() && self.deterministic && self.largest_loss_difference <= LOSS_TOLERANCE
    }
}

/// Random images with a dark background, so that windows hold ties.
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
    }
}

/// First weights with every value moved away from its default, so that no parameter is tested at 0 or 1.
fn weights(model: &Model) -> Vec<Tensor> {
    let mut tensors = model.init(SEED);
    for (index, tensor) in tensors.iter_mut().enumerate() {
        for (at, value) in tensor.data.iter_mut().enumerate() {
            *value += 0.1 * rng::unit(rng::words(SEED, 1, index as u32, at as u32)[0]);
        }
    }
    tensors
}

fn start(engine: &mut GpuEngine, setup: &Setup<'_>, weights: &[Tensor]) -> Result<()> {
    engine.set_step(0)?;
    engine.write(Vector::Weights, 0, weights)?;
    if setup.train.average_decay > 0.0 {
        engine.write(Vector::Average, 0, weights)?;
    }
    for name in setup.train.optimizer.memory() {
        let mut memory = engine.read(Vector::Memory(name), 0)?;
        memory.iter_mut().for_each(|tensor| tensor.data.fill(0.0));
        engine.write(Vector::Memory(name), 0, &memory)?;
    }
    Ok(())
}

/// Examines adapter `index` with the kernels of `model`'s training; `options` are [`GpuOptions::DEFAULT`] but in tests.
///
/// # Errors
/// An adapter that cannot be opened. Wrong results are no error; the report has them.
pub fn examine(model: &Model, adapters: &Adapters, index: usize, options: GpuOptions) -> Result<Report> {
    let begin = Instant::now();
    // Batches of 6, the last of an epoch 3: neither is a whole number of quads.
    let train = TrainConfig {
        batch_size: 6,
        epochs: STEPS as usize,
        learning_rate: LearningRate::Constant { rate: 0.01 },
        ..model.train.clone()
    };
    let images = images(model, 15);
    let setup = Setup {
        model,
        train: &train,
        seeds: &[SEED],
        shuffle: true,
        mean: 0.3,
        std: 0.4,
        training: Some(&images),
        test: &images,
    };
    let weights = weights(model);
    let mut engine = GpuEngine::new(adapters.open(index)?, &setup, false, options)?;
    let mut kernels = Table::default();
    let mut wrong_kernel = None;
    start(&mut engine, &setup, &weights)?;
    for step in [0, 2] {
        engine.set_step(step)?;
        wrong_kernel = wrong_kernel.or(check_step(&mut engine, &setup, "step", &mut kernels).err());
    }

    let run = |engine: &mut GpuEngine| -> Result<(Vec<f64>, Vec<Tensor>)> {
        start(engine, &setup, &weights)?;
        let mut losses = Vec::new();
        for _ in 0..STEPS {
            losses.push(engine.train(1)?[0].loss());
        }
        Ok((losses, engine.read(Vector::Weights, 0)?))
    };
    let (losses, last) = run(&mut engine)?;
    let again = run(&mut engine)?;
    let bits = |tensors: &[Tensor]| -> Vec<u32> {
        tensors.iter().flat_map(|tensor| tensor.data.iter().map(|value| value.to_bits())).collect()
    };
    let deterministic = bits(&last) == bits(&again.1);
    let wanted = reference_losses(&setup, &images, &weights);
    let differences = losses.iter().zip(&wanted).map(|(got, want)| ((got - want) / want).abs());
    // A NaN is as far away as can be.
    let largest =
        differences.fold(0.0, |largest: f64, d| if d.is_nan() { f64::INFINITY } else { largest.max(d) });
    Ok(Report {
        adapter: adapters.report(index).to_string(),
        model: model.name.clone(),
        dispatches: engine.training_plan().map_or(0, |plan| plan.dispatches.len()),
        kernels,
        wrong_kernel,
        deterministic,
        largest_loss_difference: largest,
        seconds: begin.elapsed().as_secs_f64(),
    })
}

/// Mean loss of each of the steps by the reference.
fn reference_losses(setup: &Setup<'_>, images: &Images, weights: &[Tensor]) -> Vec<f64> {
    let batches = setup.train_batches().expect("there are training images");
    let mut reference = Reference::new(setup.model, setup.train, weights);
    let rates = setup.learning_rates();
    let size = setup.model.input.len();
    (0..STEPS)
        .map(|step| {
            let samples: Vec<_> =
                (0..batches.images_of(step)).map(|n| batches.sample(SEED, step, n)).collect();
            let pixels = |index: u32| &images.pixels[index as usize * size..][..size];
            let input = samples.iter().flat_map(|&s| batches.reference(pixels(s.index), s).data).collect();
            let [channels, height, width]: [usize; 3] = setup.model.input.into();
            let input = Array::exact(&[samples.len(), channels, height, width], input);
            let targets: Vec<u8> = samples.iter().map(|s| images.labels[s.index as usize]).collect();
            let at = At { seed: SEED, step, learning_rate: f64::from(rates[step as usize]) };
            let loss = &reference.step(input, &targets, at)["loss"];
            loss.data.iter().sum::<f64>() / loss.data.len() as f64
        })
        .collect()
}
