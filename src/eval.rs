//! Judging a trained network.

use std::path::Path;
use std::sync::Arc;

mod calibration;
mod confusion;

pub(crate) use calibration::softmax;
pub use calibration::{calibration_error, fit_temperature};
pub(crate) use confusion::answer;
pub use confusion::{Averages, Confusion, Mistaken, Scores};

use crate::checkpoint::{Checkpoint, Trained};
use crate::dataset::{Images, Known, Loader, Sketch};
use crate::device::{Device, Opened};
use crate::engine::{Engine, Metrics, Setup, Vector};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::replica::Replica;
use crate::tensor::{Shape, Tensor};
use crate::train::TrainingData;

/// Loads the test part of the dataset in `dir`, if it fits the model: images of its size, and no label or folder that is not
/// one of its classes; with what is odd about them, a line each. Classes are compared by name, and numbers by value.
pub fn load_test_images(dir: &Path, checkpoint: &Checkpoint) -> Result<(Arc<Images>, Vec<String>)> {
    load_test_images_by(&Loader::new(), dir, checkpoint)
}

/// As [`load_test_images`], as `loader` says.
pub fn load_test_images_by(
    loader: &Loader<'_>,
    dir: &Path,
    checkpoint: &Checkpoint,
) -> Result<(Arc<Images>, Vec<String>)> {
    let Checkpoint { model, classes, trained, .. } = checkpoint;
    // No folder of pictures has the images of IDX files.
    let none = Sketch::default();
    let known = Known {
        classes,
        named_by_folders: trained.pictures,
        twelve_bit: trained.twelve_bit,
        sketch: trained.sketch.as_ref().or((!trained.pictures).then_some(&none)),
    };
    let (images, warnings) = loader.load_test(dir, model.input, &known)?;
    check_images(&images, dir, &checkpoint.model)?;
    check_labels(&images, dir, &checkpoint.model)?;
    Ok((Arc::new(images), warnings))
}

/// Sums of the losses and right answers over labelled images.
///
/// # Examples
/// ```
/// use shadernet::checkpoint::Checkpoint;
/// use shadernet::device::Device;
/// use shadernet::eval::{evaluate, load_test_images};
///
/// let checkpoint = Checkpoint::seed()?;
/// let (images, _) = load_test_images("data/mnist".as_ref(), &checkpoint)?;
/// let metrics = evaluate(&checkpoint, &images, &Device::cpu())?;
/// assert!(metrics.images == 10_000 && metrics.accuracy() > 99.4);
/// # Ok::<(), shadernet::error::Error>(())
/// ```
pub fn evaluate(checkpoint: &Checkpoint, images: &Arc<Images>, device: &Device) -> Result<Metrics> {
    with_engine(checkpoint, images, device, |engine| metrics(checkpoint, engine))
}

/// Logits of images, `[images, classes]`; their labels do not matter.
///
/// # Errors
/// [`Error::NotFinite`] where one is NaN or infinite, and a failing device.
pub fn logits(checkpoint: &Checkpoint, images: &Arc<Images>, device: &Device) -> Result<Vec<f32>> {
    with_engine(checkpoint, images, device, |engine| finite_logits(checkpoint, engine))
}

/// What a network's answers to labelled images are worth.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Verdict {
    /// Sums of the losses and right answers.
    pub metrics: Metrics,
    /// How often each class got each answer.
    pub confusion: Confusion,
    /// [`calibration_error`] of the logits as they are.
    pub calibration_error: f64,
    /// The same at the network's own temperature, if it has one.
    pub calibrated_error: Option<f64>,
    /// Logits of the images, `[images, classes]`.
    pub logits: Vec<f32>,
}

/// All that can be said of a network's answers to labelled images.
///
/// # Errors
/// [`Error::NotFinite`] where a logit is NaN or infinite, and a failing device.
///
/// # Examples
/// ```
/// use std::sync::Arc;
///
/// use shadernet::dataset::{Images, Part};
/// use shadernet::{Checkpoint, Device, eval};
///
/// let images = Images::load("data/mnist".as_ref(), Part::Test)?.split(1000, 0)?.1;
/// let verdict = eval::judge(&Checkpoint::seed()?, &Arc::new(images), &Device::cpu())?;
/// assert!(verdict.metrics.accuracy() > 98.0 && verdict.confusion.scores(7).f1 > 0.95);
/// # Ok::<(), shadernet::Error>(())
/// ```
pub fn judge(checkpoint: &Checkpoint, images: &Arc<Images>, device: &Device) -> Result<Verdict> {
    Ok(Verdict::of(checkpoint, images, logits(checkpoint, images, device)?))
}

impl Verdict {
    pub(crate) fn of(checkpoint: &Checkpoint, images: &Images, logits: Vec<f32>) -> Self {
        let (labels, classes) = (&images.labels, checkpoint.model.class_count());
        let confusion = Confusion::of(labels, &logits, classes);
        let losses = logits.chunks(classes).zip(labels).map(|(logits, &label)| loss(logits, label));
        let metrics =
            Metrics { loss_sum: losses.sum(), correct: confusion.correct(), images: confusion.images() };
        let error = |temperature| calibration_error(&logits, labels, classes, temperature);
        let (calibration_error, calibrated_error) = (error(1.0), checkpoint.temperature.map(error));
        Self { metrics, confusion, calibration_error, calibrated_error, logits }
    }

    /// How many images have another answer in another verdict on the same images.
    pub fn other_answers(&self, other: &Self) -> usize {
        let classes = self.confusion.counts().len();
        let rows = self.logits.chunks(classes).zip(other.logits.chunks(classes));
        rows.filter(|(a, b)| answer(a) != answer(b)).count()
    }
}

/// Cross entropy of an image: −ln of its label's probability.
pub(crate) fn loss(logits: &[f32], label: u8) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    // Without the largest, exp would overflow.
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    sum.ln() - (f64::from(logits[usize::from(label)]) - largest)
}

/// A trained network from weights that another program has trained on the images of `data`: it has their normalisation and
/// class names, and what it reaches on the test images.
///
/// # Errors
/// Data that do not fit the model, and what [`evaluate`] refuses.
pub fn adopt(model: Model, weights: Vec<Tensor>, data: &TrainingData, device: &Device) -> Result<Checkpoint> {
    data.check(&model)?;
    let trained = Trained {
        epochs: 0,
        steps: 0,
        batch_size: model.train.batch_size,
        seed: 0,
        device: "another program".into(),
        images: data.train.count,
        pictures: data.pictures,
        twelve_bit: data.twelve_bit,
        sketch: data.sketch.clone(),
        on_black: data.on_black,
        shadernet: env!("CARGO_PKG_VERSION").into(),
    };
    let mut checkpoint = Checkpoint {
        weights,
        normalization: data.normalization.clone(),
        classes: model.classes.clone().unwrap_or_else(|| data.classes.clone()),
        model,
        trained,
        test_accuracy: 0.0,
        test_loss: 0.0,
        temperature: None,
        warnings: Vec::new(),
    };
    let metrics = evaluate(&checkpoint, &data.test, device)?;
    (checkpoint.test_accuracy, checkpoint.test_loss) = (metrics.accuracy(), metrics.loss());
    Ok(checkpoint)
}

fn metrics(checkpoint: &Checkpoint, engine: &mut dyn Engine) -> Result<Metrics> {
    let metrics = engine.evaluate(false)?[0];
    if metrics.loss_sum.is_finite() {
        return Ok(metrics);
    }
    Err(not_finite(checkpoint, format!("the loss of the test images is {}", metrics.loss())))
}

/// Logits that can be trusted as an answer.
fn finite_logits(checkpoint: &Checkpoint, engine: &mut dyn Engine) -> Result<Vec<f32>> {
    let logits = engine.logits(false)?;
    check_finite(checkpoint, &logits)?;
    Ok(logits)
}

/// Fails if a logit is NaN or infinite: the largest is then not the network's choice.
pub(crate) fn check_finite(checkpoint: &Checkpoint, logits: &[f32]) -> Result<()> {
    let Some(at) = logits.iter().position(|logit| !logit.is_finite()) else { return Ok(()) };
    let (image, class) = (at / checkpoint.model.class_count(), at % checkpoint.model.class_count());
    Err(not_finite(checkpoint, format!("logit {class} of image {image} is {}", logits[at])))
}

fn not_finite(checkpoint: &Checkpoint, what: String) -> Error {
    let message = format!(
        "{what}, so there is no answer; with these weights and {}, numbers grow beyond the range of f32",
        checkpoint.normalization
    );
    Error::NotFinite { model: checkpoint.model.name.clone(), message }
}

fn with_engine<T>(
    checkpoint: &Checkpoint,
    images: &Arc<Images>,
    device: &Device,
    work: impl FnOnce(&mut dyn Engine) -> Result<T>,
) -> Result<T> {
    check(checkpoint, images)?;
    work(&mut *open(checkpoint, images, device)?.engine)
}

/// Fails if the images do not fit the network, or if there are none.
pub(crate) fn check(checkpoint: &Checkpoint, images: &Images) -> Result<()> {
    let place = Path::new("the images");
    images.check().map_err(|message| Error::data(place, message))?;
    check_images(images, place, &checkpoint.model)?;
    check_labels(images, place, &checkpoint.model)
}

/// Fails if a label is no class of the model.
fn check_labels(images: &Images, dir: &Path, model: &Model) -> Result<()> {
    let last = images.labels.iter().copied().max().map_or(0, usize::from);
    let classes = model.class_count();
    if last < classes {
        return Ok(());
    }
    let message = format!(
        "the labels go up to {last}, but the model {} has {classes} classes, 0 to {}",
        model.name,
        classes - 1
    );
    Err(Error::data(dir, message))
}

/// An engine with a trained network that only evaluates.
pub(crate) fn open(checkpoint: &Checkpoint, images: &Arc<Images>, device: &Device) -> Result<Opened> {
    let setup = Setup {
        model: &checkpoint.model,
        replicas: &[Replica::new(&checkpoint.model, 0)],
        shuffle: false,
        normalization: &checkpoint.normalization,
        training: None,
        test: images,
    };
    let mut opened = device.open(&setup)?;
    opened.engine.write(Vector::Weights, 0, &checkpoint.weights)?;
    Ok(opened)
}

/// Fails if `model` takes other images than those of the dataset in `dir`.
pub(crate) fn check_images(images: &Images, dir: &Path, model: &Model) -> Result<()> {
    let found = Shape::new(images.channels, images.height, images.width);
    if found == model.input {
        return Ok(());
    }
    let message = format!(
        "the images are {found} (channels, height, width), but the model {} takes {}",
        model.name, model.input
    );
    Err(Error::data(dir, message))
}
