//! Networks in whole numbers: weights and activations of 8 bits, sums of 32.
//!
//! A real number x is stored as q with x = scale · (q − zero). Weights have one scale for each channel of the output and no
//! zero, activations one scale and one zero for each tensor, as in TensorFlow Lite (Jacob et al. 2018). Ranges of the
//! activations come from training images. [`Quantized::logits`] computes exactly the integers that the exported C computes.

use rayon::prelude::*;

use crate::checkpoint::Checkpoint;
use crate::dataset::Images;
use crate::error::{Error, Result};
use crate::eval::{self, Verdict};
use crate::inference::Program;
use crate::layers::window::{Conv, Pool};
use crate::model::Model;
use crate::normalization::Normalization;
use crate::rng::{self, Permutation, Stream};
use crate::tensor::{Shape, Tensor};
use crate::threads::on_all_processors;

mod convert;
pub(crate) mod fixed;
mod ranges;
mod run;

use fixed::Multiplier;

/// How many training images the ranges are taken from, at most.
pub const RANGE_IMAGES: usize = 1000;

/// A trained network in whole numbers.
#[derive(Debug)]
pub struct Quantized {
    pub(crate) program: Program,
    /// The numbers of each step of the program.
    pub(crate) steps: Vec<Numbers>,
}

/// What a step computes with.
#[derive(Debug)]
pub(crate) struct Numbers {
    pub(crate) compute: Compute,
    /// Of what it makes.
    pub(crate) scale: f64,
    pub(crate) zero: i32,
    /// Smallest and largest value of each channel.
    pub(crate) limits: Vec<[i32; 2]>,
}

#[derive(Debug)]
pub(crate) enum Compute {
    Conv {
        sizes: Conv,
        weight: Vec<i8>,
        bias: Vec<i32>,
        multipliers: Vec<Multiplier>,
        /// Zeros of the input: one for each channel of the image, or a single one.
        zeros: Vec<i32>,
    },
    /// What becomes of each value, from −128 on.
    Table(Vec<i8>),
    /// Factors of the values from 0 on, and of those below it for each channel.
    Prelu {
        zero: i32,
        positive: Multiplier,
        negative: Vec<Multiplier>,
    },
    GroupNorm {
        groups: usize,
        /// eps · n² in units of the variance.
        eps: i64,
        multipliers: Vec<Multiplier>,
        bias: Vec<i32>,
    },
    MaxPool(Pool),
    AvgPool {
        pool: Pool,
        zero: i32,
        multiplier: Multiplier,
    },
    Add {
        /// Zero and factor of each input.
        inputs: Vec<(i32, Multiplier)>,
        /// By how many bits the inputs are shifted to the left before all else.
        shift: u8,
        multiplier: Multiplier,
    },
    Concat(Vec<(i32, Multiplier)>),
    Multiply {
        zeros: [i32; 2],
        multiplier: Multiplier,
    },
}

/// Values have 8 bits, those of the last step, the logits, 16.
pub(crate) const BITS: [i32; 2] = [-128, 127];
pub(crate) const LOGIT_BITS: [i32; 2] = [-32_767, 32_767];
/// Bits after the point of normalised values in a group normalisation.
pub(crate) const NORM_BITS: u32 = 16;

impl Quantized {
    /// Converts a trained network. Ranges of its activations come from at most [`RANGE_IMAGES`] of `images`, which must be
    /// training images: those of the test set would make its accuracy there look better than it is.
    ///
    /// # Errors
    /// A layer that has no form in whole numbers, sums that may overflow 32 bits, and images of another shape.
    ///
    /// # Examples
    /// ```
    /// use shadernet::dataset::{Images, Part};
    /// use shadernet::int8::Quantized;
    /// use shadernet::Checkpoint;
    ///
    /// let folder = std::path::Path::new("data/mnist");
    /// let net = Quantized::new(&Checkpoint::seed()?, &Images::load(folder, Part::Train)?)?;
    /// let test = Images::load(folder, Part::Test)?.split(500, 0)?.1;
    /// let logits = net.logits(&test)?;
    /// assert_eq!(logits.len(), 500 * 10);
    /// # Ok::<(), shadernet::Error>(())
    /// ```
    pub fn new(checkpoint: &Checkpoint, images: &Images) -> Result<Self> {
        let Checkpoint { model, weights, normalization, .. } = checkpoint;
        check_shape(model.input, images)?;
        Self::of(model, weights, normalization, images)
    }

    pub(crate) fn of(
        model: &Model,
        weights: &[Tensor],
        normalization: &Normalization,
        images: &Images,
    ) -> Result<Self> {
        let program = Program::new(model, weights, normalization, "the form in whole numbers")?;
        let chosen = Permutation::new(images.count as u32, rng::key(0, Stream::Split), 0);
        let size = model.input.len();
        let image = |at: usize| {
            let image = chosen.get(at as u32) as usize;
            &images.pixels[image * size..][..size]
        };
        let images: Vec<&[u8]> = (0..images.count.min(RANGE_IMAGES)).map(image).collect();
        let ranges = ranges::of(&program, &images);
        convert::convert(program, &ranges)
    }

    /// Logits of images, `[images, classes]`, in units of [`Quantized::logit_scale`].
    ///
    /// # Errors
    /// Images of another shape.
    pub fn logits(&self, images: &Images) -> Result<Vec<i16>> {
        let input = self.program.input;
        check_shape(input, images)?;
        let images = images.pixels.par_chunks(input.len());
        let logits: Vec<Vec<i16>> =
            on_all_processors(|| Ok(images.map(|pixels| self.run(pixels)).collect()))?;
        Ok(logits.concat())
    }

    /// All that can be said of its answers to labelled images, with logits in the units of the network from which it was made:
    /// `checkpoint`.
    ///
    /// # Errors
    /// Images that do not fit the network.
    pub fn judge(&self, checkpoint: &Checkpoint, images: &Images) -> Result<Verdict> {
        eval::check(checkpoint, images)?;
        let scale = self.logit_scale();
        let logits = self.logits(images)?.into_iter().map(|logit| (scale * f64::from(logit)) as f32);
        Ok(Verdict::of(checkpoint, images, logits.collect()))
    }

    /// What a logit of 1 stands for.
    pub fn logit_scale(&self) -> f64 {
        self.steps.last().expect("a network has a step").scale
    }
}

fn check_shape(input: Shape, images: &Images) -> Result<()> {
    if images.shape() == input {
        return Ok(());
    }
    Err(Error::Usage(format!("images of {} do not fit a network for {input}", images.shape())))
}
