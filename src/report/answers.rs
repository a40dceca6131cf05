//! A network's answers: from logits to confusions and the images that it gets most wrong.

use crate::eval::{self, Confusion};

/// Maximum number of images shown.
const WORST: usize = 50;

/// A network's answers to labelled images.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answers {
    pub(super) confusion: Confusion,
    /// Logits of all images, `[images, classes]`.
    pub(super) logits: Vec<f32>,
    /// Mean loss.
    pub(super) loss: f64,
    /// The images with the largest losses, largest first.
    pub(super) worst: Vec<Answer>,
}

/// The answer to one image.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    /// Its index in the set.
    pub(super) image: usize,
    pub(super) label: usize,
    /// The most probable class.
    pub(super) class: usize,
    /// −ln of the label's probability.
    pub(super) loss: f64,
    /// The probability of every class.
    pub(super) probabilities: Vec<f64>,
}

impl Answer {
    /// The answer to an image with these logits.
    fn new(image: usize, label: u8, logits: &[f32]) -> Self {
        Self {
            image,
            label: label.into(),
            class: eval::answer(logits),
            loss: eval::loss(logits, label),
            probabilities: eval::softmax(logits, 1.0),
        }
    }
}

impl Answers {
    /// From logits `[images, classes]`; labels are classes.
    pub(super) fn new(logits: Vec<f32>, labels: &[u8], classes: usize) -> Self {
        let (mut worst, mut loss) = (Vec::with_capacity(2 * WORST), 0.0);
        let keep_worst = |answers: &mut Vec<Answer>| {
            answers.sort_by(|a, b| b.loss.total_cmp(&a.loss));
            answers.truncate(WORST);
        };
        for (image, (row, &label)) in logits.chunks(classes).zip(labels).enumerate() {
            let answer = Answer::new(image, label, row);
            loss += answer.loss;
            worst.push(answer);
            // The probabilities of all images would take many times the memory of the images.
            if worst.len() == 2 * WORST {
                keep_worst(&mut worst);
            }
        }
        keep_worst(&mut worst);
        let confusion = Confusion::of(labels, &logits, classes);
        Self { confusion, logits, loss: loss / labels.len() as f64, worst }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_to_known_logits() {
        // Probabilities of the label: 1/2, e⁻¹⁰⁰⁰ with a huge logit, 1/3, 3/4.
        let three = 3f32.ln();
        let logits = [0.0, 0.0, -9e9, 1000.0, 0.0, 0.0, 1.0, 1.0, 1.0, three, 0.0, -9e9];
        let answers = Answers::new(logits.into(), &[1, 2, 0, 0], 3);
        assert_eq!(answers.confusion.counts(), [[2, 0, 0], [1, 0, 0], [1, 0, 0]]);
        assert_eq!((answers.confusion.correct(), answers.confusion.images()), (2, 4));
        let mean = (1000.0 + 3f64.ln() + 2f64.ln() + (4.0f64 / 3.0).ln()) / 4.0;
        assert!((answers.loss - mean).abs() < 1e-6, "{}", answers.loss);
        assert_eq!(answers.worst.iter().map(|answer| answer.image).collect::<Vec<_>>(), [1, 2, 0, 3]);
        for (answer, want) in answers.worst.iter().zip([1000.0, 3f64.ln(), 2f64.ln(), (4.0f64 / 3.0).ln()]) {
            assert!((answer.loss - want).abs() < 1e-6, "{answer:?}");
            assert!((answer.probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
        assert!((answers.worst[3].probabilities[0] - 0.75).abs() < 1e-7);
    }

    #[test]
    fn no_more_images_than_fit() {
        let answers = Answers::new(vec![0.0; 2 * 370], &[1; 370], 2);
        // For equal losses, the first ones.
        assert!(answers.worst.iter().map(|answer| answer.image).eq(0..WORST));
    }
}
