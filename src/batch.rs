//! Which images a step sees and how each is changed: the same arithmetic as `shaders/batch.wgsl`, in Rust.

use crate::config::Fill;
use crate::dataset::Images;
use crate::layers::Launch;
use crate::losses::cross_entropy::Target;
use crate::normalization::Normalization;
use crate::replica::Replica;
use crate::rng::{self, Permutation};
use crate::state::NetSettings;
use crate::tensor::{Array, Rounded, Shape};

mod change;
pub(crate) mod mixture;
mod picture;

pub use change::{Change, Elastic, Region};
pub(crate) use picture::{GREY, mean_grey, reflected};

/// How batches are drawn from a dataset.
///
/// # Examples
/// ```
/// use shadernet::batch::{BatchSettings, Changes};
/// use shadernet::normalization::Normalization;
/// use shadernet::tensor::Shape;
///
/// let image = Shape::new(1, 28, 28);
/// let batches = BatchSettings {
///     batch_size: 64, image_count: 1000, image, epochs: 19, shuffle: true, changes: Changes::NONE,
///     normalization: Normalization::uniform(1, 0.1307, 0.3081),
///     class_weights: Vec::new(),
/// };
/// assert_eq!(batches.steps_per_epoch(), 16);
/// assert_eq!(batches.images_of(15), 1000 - 15 * 64);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct BatchSettings {
    /// Images of a step; the last step of an epoch may have fewer.
    pub batch_size: usize,
    /// Images of the dataset.
    pub image_count: usize,
    /// Shape of an image.
    pub image: Shape,
    /// Epochs of the run.
    pub epochs: usize,
    /// Draw in random order, another one each epoch.
    pub shuffle: bool,
    /// How any net changes these images at random.
    pub changes: Changes,
    /// What becomes of the pixels of each channel.
    pub normalization: Normalization,
    /// What each class counts in the training loss; empty if all count the same.
    pub class_weights: Vec<f32>,
}

/// What kernels must be able to do to the images; the strengths are settings of each net.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changes {
    /// Change them at all.
    pub any: bool,
    /// Distort them.
    pub elastic: bool,
    /// Change their colours.
    pub colour: bool,
    /// Mix them.
    pub mix: bool,
}

/// Words of an element of the tensor `changes`: of an image's own change, those of a [`Change`]; those of the image that is mixed
/// into it; that one's index, its weight and its region.
#[cfg(feature = "gpu")]
pub(crate) const CHANGE_WORDS: usize = 2 * Change::WORDS + 6;

impl Changes {
    /// Images stay as they are.
    pub const NONE: Self = Self { any: false, elastic: false, colour: false, mix: false };

    /// What any of these nets does.
    pub fn of(nets: &[Replica]) -> Self {
        nets.iter().fold(Self::NONE, |changes, Replica { augment, .. }| Self {
            any: changes.any || !augment.is_none(),
            elastic: changes.elastic || augment.elastic > 0.0,
            colour: changes.colour
                || [augment.brightness, augment.contrast, augment.saturation, augment.hue] != [0.0; 4],
            mix: changes.mix || [augment.mixup, augment.cutmix] != [0.0; 2],
        })
    }
}

/// One image of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample<T = f32> {
    /// Index in the dataset.
    pub index: u32,
    /// How it is changed; `None` if it stays as it is.
    pub change: Option<Change<T>>,
    /// What is mixed into it.
    pub mixture: Option<Mixture<T>>,
    /// What is moved in from outside.
    pub fill: Fill,
}

/// Another image, mixed into the first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mixture<T = f32> {
    /// Its index in the dataset.
    pub index: u32,
    /// How it is changed.
    pub change: Change<T>,
    /// Its share of the target in 1/65536, at most half; and of the pixels, unless there is a region.
    pub weight: u32,
    /// The pixels that come from it. Without any, all are blended.
    pub region: Option<Region>,
}

impl<T> Sample<T> {
    /// An image as it is.
    pub fn plain(index: u32) -> Self {
        Self { index, change: None, mixture: None, fill: Fill::Value(0.0) }
    }

    /// What the network should answer.
    pub fn target(&self, labels: &[u8]) -> Target {
        let class = labels[self.index as usize];
        match &self.mixture {
            Some(mixture) if mixture.weight > 0 => {
                Target { class, other: labels[mixture.index as usize], weight: mixture.weight }
            }
            _ => class.into(),
        }
    }
}

impl BatchSettings {
    /// Steps of an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.image_count.div_ceil(self.batch_size)
    }

    /// Images of the batch of `step`, which counts from the start of the run.
    pub fn images_of(&self, step: u32) -> usize {
        let start = step as usize % self.steps_per_epoch() * self.batch_size;
        self.batch_size.min(self.image_count - start)
    }

    /// The learning rate of a net in every step of the run.
    pub fn learning_rates(&self, net: &Replica) -> Vec<f32> {
        let steps = self.steps_per_epoch();
        net.learning_rate.rates_after_warmup(net.warmup, self.epochs * steps, steps)
    }

    /// Image `n` of a net's batch of `step`. Behind the last image of the batch it is any image, as on the GPU.
    pub fn sample(&self, net: &NetSettings, step: u32, n: usize) -> Sample {
        self.drawn(net, step, n)
    }

    /// The same, with bounds of what a device may draw.
    pub fn sample_with_bounds(&self, net: &NetSettings, step: u32, n: usize) -> Sample<Rounded> {
        self.drawn(net, step, n)
    }

    fn drawn<T: change::Real>(&self, net: &NetSettings, step: u32, n: usize) -> Sample<T> {
        let steps = self.steps_per_epoch() as u32;
        let (epoch, start) = (step / steps, step % steps * self.batch_size as u32);
        let count = self.image_count as u32;
        let position = (start + n as u32) % count;
        let index = if self.shuffle {
            Permutation::new(count, net.shuffle_key, epoch).get(position)
        } else {
            position
        };
        if !self.changes.any || epoch >= net.plain_from {
            return Sample::plain(index);
        }
        Sample {
            index,
            change: Some(change::drawn(net, self.image, epoch, index)),
            mixture: self.mixed(net, epoch, index),
            fill: net.fill(),
        }
    }

    /// What is mixed into image `index` in an epoch.
    fn mixed<T: change::Real>(&self, net: &NetSettings, epoch: u32, index: u32) -> Option<Mixture<T>> {
        let words = rng::words(net.augment_key, epoch, 6, index);
        let region = match net.mix_kind {
            0 => return None,
            1 => None,
            2 => Some(()),
            _ => (rng::words(net.augment_key, epoch, 5, index)[2] < 1 << 31).then_some(()),
        };
        let region = region.map(|()| {
            let side = mixture::drawn(&net.mix_sides, words[1]);
            let size = [self.image.width, self.image.height].map(|whole| (whole as u32 * side) >> 16);
            Region::placed(size, self.image, [words[2], words[3]])
        });
        let weight = match region {
            None => mixture::drawn(&net.mix_weights, words[1]),
            Some(region) => region.area() * 256 / self.image.area() as u32 * 256,
        };
        let other = words[0] % self.image_count as u32;
        let change = change::drawn(net, self.image, epoch, other);
        Some(Mixture { index: other, change, weight, region })
    }

    /// Reference for what the network sees of a sample: [1, C, H, W].
    pub fn reference(&self, images: &Images, sample: Sample) -> Array {
        let change = sample.change.as_ref().map(Change::exact);
        let mixture = sample.mixture.map(|Mixture { index, change, weight, region }| Mixture {
            index,
            change: change.exact(),
            weight,
            region,
        });
        self.reference_with_bounds(
            images,
            &Sample { index: sample.index, change, mixture, fill: sample.fill },
        )
    }

    /// The same for numbers that were rounded.
    pub fn reference_with_bounds(&self, images: &Images, sample: &Sample<Rounded>) -> Array {
        let size = self.image.len();
        let pixels = |index: u32| &images.pixels[index as usize * size..][..size];
        let pictures =
            picture::Pictures { shape: self.image, normalization: &self.normalization, fill: sample.fill };
        let other = sample.mixture.as_ref().map(|mixture| (pixels(mixture.index), mixture));
        pictures.reference((pixels(sample.index), sample.change.as_ref()), other)
    }

    /// The launches that choose and gather a batch.
    pub fn launches(&self) -> Vec<Launch> {
        let quads = self.batch_size.div_ceil(4);
        vec![self.launch("begin", quads * 4), self.launch("gather", quads * self.image.len())]
    }

    /// A launch of an entry point of `batch.wgsl`.
    pub(crate) fn launch(&self, entry_point: &'static str, invocations: usize) -> Launch {
        let quads = self.batch_size.div_ceil(4);
        let constants = [
            ("BATCH_SIZE", self.batch_size as f64),
            ("QUADS", quads as f64),
            ("CHANNELS", self.image.channels as f64),
            ("HEIGHT", self.image.height as f64),
            ("WIDTH", self.image.width as f64),
            ("IMAGE_COUNT", self.image_count as f64),
            ("STEPS_PER_EPOCH", self.steps_per_epoch() as f64),
            ("SHUFFLE", f64::from(u8::from(self.shuffle))),
            ("HALF_BITS", f64::from(Permutation::half_bits(self.image_count as u32))),
            ("AUGMENT", f64::from(u8::from(self.changes.any))),
            ("ELASTIC", f64::from(u8::from(self.changes.elastic))),
            ("COLOUR", f64::from(u8::from(self.changes.colour))),
            ("MIX", f64::from(u8::from(self.changes.mix))),
            // Parameters to pack: of the fused plan alone.
            ("PACKED", 0.0),
        ];
        Launch::new("batch", entry_point, invocations, constants)
    }
}

#[cfg(test)]
mod tests;
