//! From a drawing to an answer.

use crate::checkpoint::Checkpoint;
use crate::dataset::Images;
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

/// Classifies images that [`prepare::prepare`] made for the model's input, `[height][width]` each.
///
/// # Errors
/// A model that takes coloured images, images of another size, and a failing device.
pub fn classify(checkpoint: &Checkpoint, images: &[Vec<u8>], device: &Device) -> Result<Vec<Answer>> {
    let input = checkpoint.model.input;
    if input.channels != 1 {
        let message = format!(
            "the model {} takes {} channels; classify has one-channel models",
            checkpoint.model.name, input.channels
        );
        return Err(Error::Usage(message));
    }
    if images.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(image) = images.iter().find(|image| image.len() != input.len()) {
        let message = format!("an image has {} pixels, the model takes {}", image.len(), input.len());
        return Err(Error::Usage(message));
    }
    let images = Images {
        count: images.len(),
        channels: 1,
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
