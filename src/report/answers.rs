//! A network's answers: from logits to confusions and the images that it gets most wrong.

/// Maximum number of images shown.
const WORST: usize = 50;

/// A network's answers to labelled images.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answers {
    /// How often images of a label got an answer: `[label][answer]`.
    pub(super) confusion: Vec<Vec<usize>>,
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
    /// Softmax of an image's logits.
    fn new(image: usize, label: usize, logits: &[f32]) -> Self {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // Without subtracting the largest, exp would overflow.
        let shifted: Vec<f64> = logits.iter().map(|&logit| f64::from(logit) - f64::from(largest)).collect();
        let sum: f64 = shifted.iter().map(|logit| logit.exp()).sum();
        Self {
            image,
            label,
            class: logits.iter().position(|&logit| logit == largest).unwrap_or(0),
            loss: sum.ln() - shifted[label],
            probabilities: shifted.iter().map(|logit| logit.exp() / sum).collect(),
        }
    }
}

impl Answers {
    /// From logits `[images, classes]`; labels are classes.
    pub(super) fn new(logits: &[f32], labels: &[u8], classes: usize) -> Self {
        let mut confusion = vec![vec![0; classes]; classes];
        let (mut worst, mut loss) = (Vec::with_capacity(2 * WORST), 0.0);
        let keep_worst = |answers: &mut Vec<Answer>| {
            answers.sort_by(|a, b| b.loss.total_cmp(&a.loss));
            answers.truncate(WORST);
        };
        for (image, (row, &label)) in logits.chunks(classes).zip(labels).enumerate() {
            let answer = Answer::new(image, label.into(), row);
            confusion[answer.label][answer.class] += 1;
            loss += answer.loss;
            worst.push(answer);
            // The probabilities of all images would take many times the memory of the images.
            if worst.len() == 2 * WORST {
                keep_worst(&mut worst);
            }
        }
        keep_worst(&mut worst);
        Self { confusion, loss: loss / labels.len() as f64, worst }
    }

    /// Number of correct answers.
    pub(super) fn correct(&self) -> usize {
        self.confusion.iter().enumerate().map(|(label, row)| row[label]).sum()
    }

    /// Number of images.
    pub(super) fn images(&self) -> usize {
        self.confusion.iter().flatten().sum()
    }

    /// Wrong answers by label and class, most frequent first: (times, label, class).
    pub(super) fn confusions(&self) -> Vec<(usize, usize, usize)> {
        let cells = self.confusion.iter().enumerate().flat_map(|(label, row)| {
            row.iter().enumerate().map(move |(class, &count)| (count, label, class))
        });
        let mut wrong: Vec<_> = cells.filter(|&(count, label, class)| count > 0 && label != class).collect();
        wrong.sort_by_key(|&(count, ..)| std::cmp::Reverse(count));
        wrong
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
        let answers = Answers::new(&logits, &[1, 2, 0, 0], 3);
        assert_eq!(answers.confusion, [[2, 0, 0], [1, 0, 0], [1, 0, 0]]);
        assert_eq!((answers.correct(), answers.images()), (2, 4));
        let mean = (1000.0 + 3f64.ln() + 2f64.ln() + (4.0f64 / 3.0).ln()) / 4.0;
        assert!((answers.loss - mean).abs() < 1e-6, "{}", answers.loss);
        assert_eq!(answers.confusions(), [(1, 1, 0), (1, 2, 0)]);
        assert_eq!(answers.worst.iter().map(|answer| answer.image).collect::<Vec<_>>(), [1, 2, 0, 3]);
        for (answer, want) in answers.worst.iter().zip([1000.0, 3f64.ln(), 2f64.ln(), (4.0f64 / 3.0).ln()]) {
            assert!((answer.loss - want).abs() < 1e-6, "{answer:?}");
            assert!((answer.probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
        assert!((answers.worst[3].probabilities[0] - 0.75).abs() < 1e-7);
    }

    #[test]
    fn no_more_images_than_fit() {
        let answers = Answers::new(&[0.0; 2 * 370], &[1; 370], 2);
        // For equal losses, the first ones.
        assert!(answers.worst.iter().map(|answer| answer.image).eq(0..WORST));
    }
}
