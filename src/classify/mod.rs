//! From a drawing or a picture to an answer.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::checkpoint::Checkpoint;
use crate::dataset::bitmap::Bitmap;
use crate::dataset::resize::stretch;
use crate::dataset::{Images, picture};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::eval;

pub mod prepare;

/// What a network says of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The most probable class.
    pub class: usize,
    /// Probability of every class.
    pub probabilities: Vec<f32>,
}

/// A decoded picture.
#[derive(Debug)]
pub struct Picture {
    image: Bitmap,
    name: PathBuf,
}

impl Picture {
    /// Reads a PNG or JPEG file.
    ///
    /// # Errors
    /// Files that are missing, neither PNG nor JPEG, damaged or too large.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { image: picture::decode(path)?, name: path.to_owned() })
    }

    /// Reads what a PNG or JPEG file holds from elsewhere, such as standard input; errors call it `name`.
    ///
    /// # Errors
    /// As [`Picture::open`].
    pub fn read(stream: impl Read, name: &str) -> Result<Self> {
        let name = PathBuf::from(name);
        let bytes = picture::read_stream(stream, &name)?;
        Ok(Self { image: picture::decode_bytes(&bytes, &name)?, name })
    }

    /// What is odd about it and may make the answer of `checkpoint` wrong. A drawing's contrast does not matter.
    pub fn warning(&self, checkpoint: &Checkpoint) -> Option<String> {
        self.image.faint().filter(|_| takes_pictures(checkpoint)).map(|most| {
            format!(
                "{}: nearly black, since its values fill only 0 to {most} of 16 bits; stretch them to all of it, such as by \
                 `mogrify -auto-level`",
                self.name.display()
            )
        })
    }

    /// The image that `checkpoint` sees of it, `[channels][height][width]`: stretched to the input, if it was trained on
    /// pictures or takes colours, else as MNIST would have made it, see [`prepare::prepare`].
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
                "the model {} takes {} channels; classify has models of 1 (grey) or 3 (RGB)",
                checkpoint.model.name, input.channels
            );
            return Err(Error::Usage(message));
        }
        Ok(stretch(&self.image.flatten(input.channels), input))
    }
}

/// Reads a picture file as `checkpoint` wants its images.
///
/// # Errors
/// As [`Picture::open`] and [`Picture::input`].
pub fn read(path: &Path, checkpoint: &Checkpoint) -> Result<Vec<u8>> {
    Picture::open(path)?.input(checkpoint)
}

/// True for models that see pictures as they are, and not drawings made like MNIST's.
pub fn takes_pictures(checkpoint: &Checkpoint) -> bool {
    checkpoint.trained.pictures || checkpoint.model.input.channels != 1
}

/// Classifies images that [`read`] made for the model's input, `[channels][height][width]` each.
///
/// # Errors
/// Images of another size, and a failing device.
///
/// # Examples
/// ```
/// use shadernet::checkpoint::Checkpoint;
/// use shadernet::classify::{classify, read};
/// use shadernet::device::Device;
///
/// let checkpoint = Checkpoint::seed()?;
/// let image = read("data/digits/7_bar.png".as_ref(), &checkpoint)?;
/// let answers = classify(&checkpoint, &[image], &Device::cpu(None))?;
/// assert_eq!(checkpoint.classes[answers[0].class], "7");
/// # Ok::<(), shadernet::error::Error>(())
/// ```
pub fn classify(checkpoint: &Checkpoint, images: &[Vec<u8>], device: &Device) -> Result<Vec<Answer>> {
    let input = checkpoint.model.input;
    if images.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(image) = images.iter().find(|image| image.len() != input.len()) {
        let message = format!("an image has {} values, the model takes {}", image.len(), input.len());
        return Err(Error::Usage(message));
    }
    let images = Images {
        count: images.len(),
        channels: input.channels,
        height: input.height,
        width: input.width,
        pixels: images.concat(),
        labels: vec![0; images.len()],
    };
    let logits = eval::logits(checkpoint, &images, device)?;
    Ok(logits.chunks(checkpoint.model.class_count()).map(answer).collect())
}

/// Softmax of one image's logits.
fn answer(logits: &[f32]) -> Answer {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // Without the largest, exp would overflow.
    let powers: Vec<f64> = logits.iter().map(|&logit| f64::from(logit - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    Answer {
        class: logits.iter().position(|&logit| logit == largest).unwrap_or(0),
        probabilities: powers.iter().map(|power| (power / sum) as f32).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_of_known_logits() {
        let Answer { class, probabilities } = answer(&[1000.0, 1000.0 + 3f32.ln(), -1000.0]);
        assert_eq!(class, 1);
        for (got, want) in probabilities.iter().zip([0.25, 0.75, 0.0]) {
            assert!((got - want).abs() < 1e-4, "{probabilities:?}");
        }
    }
}
