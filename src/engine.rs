//! What an engine is made from and what it can do: the border between training and devices.

use std::ops::Range;
use std::sync::Arc;

use crate::batch::{BatchSettings, Changes};
use crate::dataset::Images;
use crate::error::Result;
use crate::model::Model;
use crate::normalization::Normalization;
use crate::replica::Replica;
use crate::tensor::{Shape, Tensor};

/// What an engine is made from.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// The network, with what all nets have in common of its recipe.
    pub model: &'a Model,
    /// The nets that are trained side by side; at least one. Their settings stand in for those of the model's recipe.
    pub replicas: &'a [Replica],
    /// Draw training images in random order.
    pub shuffle: bool,
    /// What becomes of the pixels: an entry for each channel of the images.
    pub normalization: &'a Normalization,
    /// Training images; `None` for an engine that only evaluates.
    pub training: Option<&'a Arc<Images>>,
    /// Images to evaluate on.
    pub test: &'a Arc<Images>,
}

/// Most images of one step of evaluation.
const EVAL_BATCH: usize = 256;

impl Setup<'_> {
    /// How training batches are drawn.
    pub fn train_batches(&self) -> Option<BatchSettings> {
        let training = self.training?;
        Some(BatchSettings {
            batch_size: self.model.train.batch_size.min(training.count),
            image_count: training.count,
            image: Shape::new(training.channels, training.height, training.width),
            epochs: self.model.train.epochs,
            shuffle: self.shuffle,
            changes: Changes::of(self.replicas),
            normalization: self.normalization.clone(),
            class_weights: self.class_weights(),
        })
    }

    /// What each class counts in the training loss; empty if all count the same.
    pub fn class_weights(&self) -> Vec<f32> {
        match (&self.model.train.class_weights, self.training) {
            (Some(weights), Some(images)) => weights.of(&images.labels, self.model.class_count()),
            _ => Vec::new(),
        }
    }

    /// How test images are gone through: in order, unchanged.
    ///
    /// # Panics
    /// If the normalization is for another number of channels.
    pub fn eval_batches(&self) -> BatchSettings {
        let test = self.test;
        assert_eq!(self.normalization.channels(), test.channels, "channels that are normalised");
        // No more than a step of training has: the memory of many nets is then bounded by their training.
        let most = self.train_batches().map_or(EVAL_BATCH, |training| training.batch_size.min(EVAL_BATCH));
        BatchSettings {
            batch_size: most.min(test.count),
            image_count: test.count,
            image: Shape::new(test.channels, test.height, test.width),
            epochs: self.model.train.epochs,
            shuffle: false,
            changes: Changes::NONE,
            normalization: self.normalization.clone(),
            // An evaluation does not weigh, but it shares `state` with the training.
            class_weights: self.class_weights(),
        }
    }

    /// The learning rate of every step of the run of a net; none for an engine that only evaluates.
    pub fn learning_rates(&self, net: &Replica) -> Vec<f32> {
        self.train_batches().map_or(Vec::new(), |batches| batches.learning_rates(net))
    }
}

/// Sums over images.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Metrics {
    /// Sum of the losses.
    pub loss_sum: f64,
    /// Images whose largest logit is the right class.
    pub correct: usize,
    /// Images.
    pub images: usize,
}

impl Metrics {
    /// Mean loss of an image.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.images.max(1) as f64
    }

    /// Share of right answers in percent.
    pub fn accuracy(&self) -> f64 {
        100.0 * self.correct as f64 / self.images.max(1) as f64
    }

    /// Adds another sum.
    pub fn add(&mut self, other: Self) {
        self.loss_sum += other.loss_sum;
        self.correct += other.correct;
        self.images += other.images;
    }
}

/// One of the vectors that an engine holds for each net.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vector {
    /// Parameters and running statistics.
    Weights,
    /// Their moving averages.
    Average,
    /// What the optimizer remembers, under this name: trained parameters only.
    Memory(&'static str),
}

/// A device with a network on it.
///
/// A step is a function of (weights, seed, step number) alone, so engines can be stopped, saved and restored anywhere.
///
/// Work is started, then collected, so that a device has the next steps while the host looks at the sums of the last ones.
/// Only [`Engine::start_training`] and [`Engine::start_evaluation`] may be called while anything waits to be collected.
///
/// # Examples
/// ```
/// # let text = "name = \"tiny\"\ninput = [1, 28, 28]\nlayers = [{ type = \"conv2d\", out_channels = 10, kernel = 5, stride = 4 }, { type = \"global_avg_pool2d\" }]";
/// use std::sync::Arc;
///
/// use shadernet::model::Model;
/// use shadernet::dataset::Images;
/// use shadernet::device::Device;
/// use shadernet::engine::{Setup, Vector};
/// use shadernet::normalization::Normalization;
/// use shadernet::replica::Replica;
///
/// let model = Model::parse(text, "tiny.toml")?;
/// # let pixels = (0..40 * 784).map(|at| if at % 10 == at / 784 % 10 { 255 } else { 0 }).collect();
/// # let labels = (0..40).map(|image| image % 10).collect();
/// let images = Arc::new(Images::new([1, 28, 28], pixels, labels)?);
/// let setup = Setup {
///     model: &model,
///     replicas: &[Replica::new(&model, 0)],
///     shuffle: true,
///     normalization: &Normalization::uniform(1, 0.1, 0.3),
///     training: Some(&images),
///     test: &images,
/// };
/// let mut engine = Device::cpu().open(&setup)?.engine;
/// engine.write(Vector::Weights, 0, &model.init(0))?;
/// let before = engine.evaluate(false)?[0];
/// engine.train(5)?;
/// let after = engine.evaluate(false)?[0];
/// assert!(after.loss() < before.loss());
/// # Ok::<(), shadernet::error::Error>(())
/// ```
pub trait Engine: Send {
    /// Starts `steps` training steps. They may be taken now, in the background, or when they are collected.
    fn start_training(&mut self, steps: usize) -> Result<()>;

    /// Number of steps that an evaluation has, none of which takes longer than a training step.
    fn evaluation_steps(&self) -> usize;

    /// Starts some steps of an evaluation: their share of the test images, in order, with the moving averages if `averaged`
    /// and if there are any.
    fn start_evaluation(&mut self, averaged: bool, steps: Range<usize>) -> Result<()>;

    /// Waits for the end of what was started first; returns each replica's sums over it.
    ///
    /// # Panics
    /// If nothing was started that is not collected yet.
    fn collect(&mut self) -> Result<Vec<Metrics>>;

    /// Takes `steps` training steps; returns each replica's sums over them.
    fn train(&mut self, steps: usize) -> Result<Vec<Metrics>> {
        self.start_training(steps)?;
        self.collect()
    }

    /// Gives each net the weights that its seed begins with, and the same to its averages.
    fn write_initial_weights(&mut self, setup: &Setup<'_>) -> Result<()> {
        for (replica, net) in setup.replicas.iter().enumerate() {
            let weights = setup.model.init(net.seed);
            self.write(Vector::Weights, replica, &weights)?;
            if setup.model.train.average_decay > 0.0 {
                self.write(Vector::Average, replica, &weights)?;
            }
        }
        Ok(())
    }

    /// Goes through the test images; returns each replica's sums.
    fn evaluate(&mut self, averaged: bool) -> Result<Vec<Metrics>> {
        self.start_evaluation(averaged, 0..self.evaluation_steps())?;
        self.collect()
    }

    /// Logits [images, classes] of the test images for the first replica.
    fn logits(&mut self, averaged: bool) -> Result<Vec<f32>>;

    /// Logits [images, classes] of other images of the same shape, at most as many as the test images, for the first
    /// replica. An engine that has classified others evaluates no more.
    fn classify(&mut self, images: &Images) -> Result<Vec<f32>>;

    /// Reads a vector of every replica, as tensors in the order of [`Model::params`].
    fn read_all(&mut self, vector: Vector) -> Result<Vec<Vec<Tensor>>>;

    /// Reads a vector of one replica.
    fn read(&mut self, vector: Vector, replica: usize) -> Result<Vec<Tensor>> {
        Ok(self.read_all(vector)?.swap_remove(replica))
    }

    /// Writes a vector of a replica; `tensors` are as [`Engine::read`] gives them.
    fn write(&mut self, vector: Vector, replica: usize, tensors: &[Tensor]) -> Result<()>;

    /// Steps taken since the start of the run.
    fn step(&self) -> u32;

    /// Pretends that this many steps were taken: for a run that goes on.
    fn set_step(&mut self, step: u32) -> Result<()>;
}
