//! From a drawing or a picture to an answer.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::Checkpoint;
use crate::dataset::Images;
use crate::dataset::bitmap::{Bitmap, Raster};
use crate::dataset::picture::{self, Decoded};
use crate::dataset::resize::stretch;
use crate::device::{Device, Opened};
use crate::error::{Error, Result};
use crate::eval;

mod many;
pub mod prepare;

pub use many::{Found, Prepared, pictures_in, prepare_files};

/// A trained network on a device, opened once to answer many times.
///
/// # Examples
/// ```
/// use shadernet::{Checkpoint, Classifier, Device};
///
/// let mut classifier = Classifier::new(Checkpoint::seed()?, &Device::cpu())?;
/// let answer = classifier.classify_file("data/digits/7_bar.png")?;
/// assert_eq!(classifier.name_of(&answer), "7");
/// let answer = classifier.classify_bytes(&std::fs::read("data/digits/3_red.png")?)?;
/// assert_eq!(classifier.name_of(&answer), "3");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Classifier {
    checkpoint: Checkpoint,
    opened: Opened,
    /// Images that fit at once.
    room: usize,
}

/// Images that a device classifies at once: this many, or fewer if they are large.
const MOST_IMAGES: usize = 256;
const MOST_BYTES: usize = 16 << 20;

impl Classifier {
    /// Opens a trained network on a device.
    ///
    /// # Errors
    /// A device that cannot be opened or has too little memory.
    pub fn new(checkpoint: Checkpoint, device: &Device) -> Result<Self> {
        let input = checkpoint.model.input;
        let room = (MOST_BYTES / input.len()).clamp(1, MOST_IMAGES);
        let black = Images::new(input, vec![0; room * input.len()], vec![0; room])?;
        let opened = eval::open(&checkpoint, &Arc::new(black), device)?;
        Ok(Self { checkpoint, opened, room })
    }

    /// Reads a trained network from a file, and opens it on a device.
    ///
    /// # Errors
    /// Those of [`Checkpoint::load`] and [`Classifier::new`].
    pub fn open(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        Self::new(Checkpoint::load(path)?, device)
    }

    /// The network.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Name of the most probable class of an answer.
    ///
    /// # Panics
    /// For the answer of a classifier with more classes.
    pub fn name_of(&self, answer: &Answer) -> &str {
        &self.checkpoint.classes[answer.class]
    }

    /// Classifies a picture file.
    ///
    /// # Errors
    /// Those of [`Picture::open`] and [`Classifier::classify`].
    pub fn classify_file(&mut self, path: impl AsRef<Path>) -> Result<Answer> {
        self.classify(Picture::open(path)?)
    }

    /// Classifies what a picture file holds.
    ///
    /// # Errors
    /// Those of [`Picture::read`] and [`Classifier::classify`].
    pub fn classify_bytes(&mut self, bytes: &[u8]) -> Result<Answer> {
        self.classify(Picture::read(bytes, "the picture")?)
    }

    /// Classifies a picture.
    ///
    /// # Errors
    /// Those of [`Picture::input`] and [`Classifier::classify_inputs`].
    pub fn classify(&mut self, picture: Picture) -> Result<Answer> {
        let input = picture.input(&self.checkpoint)?;
        Ok(self.classify_inputs(&[input])?.swap_remove(0))
    }

    /// Classifies images as the network takes them, `[channels][height][width]` each, 0 for the background:
    /// [`Picture::input`] makes them from pictures.
    ///
    /// # Errors
    /// Images of another size, an answer that is not a finite number, and a failing device.
    pub fn classify_inputs(&mut self, images: &[Vec<u8>]) -> Result<Vec<Answer>> {
        let logits = self.logits(images)?;
        let temperature = self.checkpoint.temperature.unwrap_or(1.0);
        let logits = logits.chunks(self.checkpoint.model.class_count());
        Ok(logits.map(|logits| answer(logits, temperature)).collect())
    }

    /// Logits of images, `[images, classes]`; otherwise as [`Classifier::classify_inputs`].
    pub(crate) fn logits(&mut self, images: &[Vec<u8>]) -> Result<Vec<f32>> {
        let input = self.checkpoint.model.input;
        if let Some(image) = images.iter().find(|image| image.len() != input.len()) {
            let message =
                format!("the image has {} values, but the model takes {}", image.len(), input.len());
            return Err(Error::Usage(message));
        }
        let mut all = Vec::with_capacity(images.len() * self.checkpoint.model.class_count());
        for images in images.chunks(self.room) {
            let images = Images::new(input, images.concat(), vec![0; images.len()])?;
            let logits = self.opened.engine.classify(&images)?;
            eval::check_finite(&self.checkpoint, &logits)?;
            all.extend(logits);
        }
        Ok(all)
    }
}

/// What a network says of an image.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Answer {
    /// The most probable class.
    pub class: usize,
    /// Probability of every class, at the temperature of the network's file ([`Checkpoint::temperature`]).
    pub probabilities: Vec<f32>,
}

impl Answer {
    /// Probability of the most probable class.
    pub fn probability(&self) -> f32 {
        self.probabilities[self.class]
    }

    /// The `count` most probable classes, or all if there are fewer, beginning with [`Answer::class`].
    pub fn top(&self, count: usize) -> Vec<usize> {
        let mut classes: Vec<usize> = (0..self.probabilities.len()).collect();
        classes.sort_by(|&a, &b| self.probabilities[b].total_cmp(&self.probabilities[a]));
        classes.truncate(count);
        classes
    }
}

/// A decoded picture.
#[derive(Debug)]
pub struct Picture {
    image: Bitmap,
    has_more: bool,
    name: PathBuf,
}

impl Picture {
    /// Reads a picture file: PNG, JPEG, WebP, GIF, BMP or TIFF. Of several frames or pages the first is taken.
    ///
    /// # Errors
    /// Files that are missing, of another kind, damaged or too large.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Ok(Self::new(picture::decode(path)?, path.to_owned()))
    }

    /// Reads what a picture file holds from elsewhere, such as standard input; errors call it `name`.
    ///
    /// # Errors
    /// As [`Picture::open`].
    pub fn read(stream: impl Read, name: &str) -> Result<Self> {
        let name = PathBuf::from(name);
        let bytes = picture::read_stream(stream, &name)?;
        Ok(Self::new(picture::decode_bytes(&bytes, &name)?, name))
    }

    fn new(Decoded { bitmap, has_more }: Decoded, name: PathBuf) -> Self {
        Self { image: bitmap, has_more, name }
    }

    /// Takes pixels from memory, `[height][width][channels]` from the upper left, with 1 (grey), 2 (grey and alpha), 3 (RGB)
    /// or 4 channels (RGB and alpha).
    ///
    /// # Errors
    /// Sides of 0 or more than 8192 pixels, another number of channels, or samples that are not as many as all that says.
    pub fn from_pixels(width: usize, height: usize, channels: usize, samples: Vec<u8>) -> Result<Self> {
        let sides = 1..=picture::MAX_SIDE;
        if !(sides.contains(&width) && sides.contains(&height) && (1..=4).contains(&channels)) {
            let message = format!(
                "{width}x{height} pixels of {channels} channels; expected sides of 1 to {} and 1 to 4 channels",
                sides.end()
            );
            return Err(Error::Usage(message));
        }
        if samples.len() != width * height * channels {
            let (found, wanted) = (samples.len(), width * height * channels);
            let message =
                format!("{width}x{height} pixels of {channels} channels are {wanted} bytes, not {found}");
            return Err(Error::Usage(message));
        }
        let image = Bitmap::Eight(Raster { width, height, channels, samples });
        Ok(Self { image, has_more: false, name: PathBuf::from("the pixels") })
    }

    /// What is unusual about it and may make the answer of `checkpoint` wrong. A drawing's contrast does not matter.
    pub fn warning(&self, checkpoint: &Checkpoint) -> Option<String> {
        let is_read_darkly = takes_pictures(checkpoint) && !checkpoint.trained.twelve_bit;
        let faint = self.image.faint().filter(|_| is_read_darkly).map(|most| {
            format!(
                "nearly black, since its values use only 0 to {most} of 16 bits; stretch them to the full range, for \
                 example with `mogrify -auto-level`"
            )
        });
        let more = self.has_more.then(|| "only the first of its frames or pages is read".to_owned());
        let all: Vec<_> = faint.into_iter().chain(more).collect();
        (!all.is_empty()).then(|| format!("{}: {}", self.name.display(), all.join("; ")))
    }

    /// The image that `checkpoint` sees of it, `[channels][height][width]`: stretched to the input, if it was trained on
    /// pictures or takes colours, and inverted, if those were bright on black and this is not; else as MNIST would have made
    /// it, see [`prepare::prepare`].
    ///
    /// # Errors
    /// Drawings without ink, and a model that takes neither grey nor RGB images.
    pub fn input(self, checkpoint: &Checkpoint) -> Result<Vec<u8>> {
        let input = checkpoint.model.input;
        if !takes_pictures(checkpoint) {
            return prepare::prepare_decoded(self.image, &self.name, input.height, input.width);
        }
        if ![1, 3].contains(&input.channels) {
            let message = format!(
                "the model {} takes {} channels; pictures can be classified by models with 1 (grey) or 3 (RGB)",
                checkpoint.model.name, input.channels
            );
            return Err(Error::Usage(message));
        }
        let image = if checkpoint.trained.twelve_bit { self.image.widened() } else { self.image };
        let mut pixels = stretch(&image.flatten(input.channels), input);
        if checkpoint.trained.on_black && prepare::is_on_light(&pixels, input) {
            pixels.iter_mut().for_each(|value| *value = 255 - *value);
        }
        Ok(pixels)
    }
}

/// True for models that see pictures as they are, and not drawings made like MNIST's.
pub fn takes_pictures(checkpoint: &Checkpoint) -> bool {
    checkpoint.trained.pictures || checkpoint.model.input.channels != 1
}

/// Softmax of one image's logits at a temperature.
fn answer(logits: &[f32], temperature: f32) -> Answer {
    let probabilities = eval::softmax(logits, temperature.into());
    Answer {
        class: eval::answer(logits),
        probabilities: probabilities.into_iter().map(|probability| probability as f32).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shoes on white paper for a network that knows them on black.
    #[test]
    fn light_ground_becomes_black_where_the_network_knows_no_other() {
        let seen = |ink: u8, paper: u8, on_black: bool| {
            let seed = Checkpoint::seed().unwrap();
            let trained = crate::checkpoint::Trained { pictures: true, on_black, ..seed.trained.clone() };
            let pixels = (0..28 * 28).map(|at| if at == 14 * 28 + 14 { ink } else { paper }).collect();
            let picture = Picture::from_pixels(28, 28, 1, pixels).unwrap();
            let input = picture.input(&Checkpoint { trained, ..seed }).unwrap();
            [input[14 * 28 + 14], input[0]]
        };
        assert_eq!(seen(30, 250, true), [225, 5]);
        assert_eq!(seen(30, 250, false), [30, 250]);
        assert_eq!(seen(200, 10, true), [200, 10]);
    }

    #[test]
    fn probabilities_of_known_logits() {
        let Answer { class, probabilities } = answer(&[1000.0, 1000.0 + 3f32.ln(), -1000.0], 1.0);
        assert_eq!(class, 1);
        for (got, want) in probabilities.iter().zip([0.25, 0.75, 0.0]) {
            assert!((got - want).abs() < 1e-4, "{probabilities:?}");
        }
    }

    #[test]
    fn the_most_probable_classes_in_their_order() {
        let answer = answer(&[0.0, 2.0, 1.0, 2.0], 1.0);
        // Of equal ones the first, as in `class`.
        assert_eq!((answer.class, answer.top(3)), (1, vec![1, 3, 2]));
        assert_eq!(answer.top(9), [1, 3, 2, 0]);
        assert_eq!(answer.probability(), answer.probabilities[1]);
    }
}
