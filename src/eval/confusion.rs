//! Answers counted by label: the confusion matrix, and what follows from it for each class.

use std::cmp::Reverse;

/// How often images of each class got each answer.
///
/// # Examples
/// ```
/// use shadernet::eval::Confusion;
///
/// // Two classes, four images: the label of each, and its logits.
/// let confusion = Confusion::of(&[0, 0, 0, 1], &[2.0, 1.0, 5.0, 0.0, 0.0, 3.0, 0.0, 1.0], 2);
/// assert_eq!(confusion.counts(), [[2, 1], [0, 1]]);
/// let scores = confusion.scores(0);
/// assert_eq!((scores.precision, scores.recall, scores.f1), (Some(1.0), Some(2.0 / 3.0), 0.8));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    /// `[label][answer]`.
    counts: Vec<Vec<usize>>,
}

/// How well a class is recognised.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Scores {
    /// Its images.
    pub images: usize,
    /// Those among them that were recognised.
    pub correct: usize,
    /// All images that were taken for it.
    pub answers: usize,
    /// Which share of the answers is right; none if it was never the answer.
    pub precision: Option<f64>,
    /// Which share of its images is recognised; none if it has no images.
    pub recall: Option<f64>,
    /// Harmonic mean of both: twice the correct ones among its images and answers together; 0 where one of them is unknown.
    pub f1: f64,
}

/// Means over classes that count alike, however many images they have.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Averages {
    /// Of the precisions.
    pub precision: f64,
    /// Of the recalls.
    pub recall: f64,
    /// Of the F1 scores.
    pub f1: f64,
}

/// Images of a class that were taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mistaken {
    /// How many.
    pub images: usize,
    /// Their class.
    pub label: usize,
    /// The answer.
    pub answer: usize,
}

/// The class with the largest logit: the first of equal ones.
pub(crate) fn answer(logits: &[f32]) -> usize {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&logit| logit == largest).unwrap_or(0)
}

impl Confusion {
    /// From the labels of images and their logits `[images, classes]`.
    ///
    /// # Panics
    /// If a label is none of the classes.
    pub fn of(labels: &[u8], logits: &[f32], classes: usize) -> Self {
        let mut counts = vec![vec![0; classes]; classes];
        for (&label, logits) in labels.iter().zip(logits.chunks(classes.max(1))) {
            counts[usize::from(label)][answer(logits)] += 1;
        }
        Self { counts }
    }

    /// `[label][answer]`.
    pub fn counts(&self) -> &[Vec<usize>] {
        &self.counts
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.counts.len()
    }

    /// Number of images.
    pub fn images(&self) -> usize {
        self.counts.iter().flatten().sum()
    }

    /// Number of right answers.
    pub fn correct(&self) -> usize {
        self.counts.iter().enumerate().map(|(label, row)| row[label]).sum()
    }

    /// How well a class is recognised.
    ///
    /// # Panics
    /// If there is no such class.
    pub fn scores(&self, class: usize) -> Scores {
        let images = self.counts[class].iter().sum();
        let answers = self.counts.iter().map(|row| row[class]).sum();
        let correct = self.counts[class][class];
        let share = |of: usize| (of > 0).then(|| correct as f64 / of as f64);
        let f1 = 2.0 * correct as f64 / ((images + answers) as f64).max(1.0);
        Scores { images, correct, answers, precision: share(answers), recall: share(images), f1 }
    }

    /// Means over the classes that have images or are an answer. What is unknown of one counts as 0, as in scikit-learn.
    pub fn averages(&self) -> Averages {
        let scores = (0..self.classes()).map(|class| self.scores(class));
        let scores: Vec<Scores> = scores.filter(|scores| scores.images + scores.answers > 0).collect();
        let mean = |value: fn(&Scores) -> f64| -> f64 {
            scores.iter().map(value).sum::<f64>() / scores.len().max(1) as f64
        };
        Averages {
            precision: mean(|scores| scores.precision.unwrap_or(0.0)),
            recall: mean(|scores| scores.recall.unwrap_or(0.0)),
            f1: mean(|scores| scores.f1),
        }
    }

    /// Which classes are taken for which others, the most frequent first.
    pub fn mistaken(&self) -> Vec<Mistaken> {
        let cells = self.counts.iter().enumerate().flat_map(|(label, row)| {
            row.iter().enumerate().map(move |(answer, &images)| Mistaken { images, label, answer })
        });
        let mut wrong: Vec<_> = cells.filter(|cell| cell.images > 0 && cell.label != cell.answer).collect();
        wrong.sort_by_key(|cell| Reverse(cell.images));
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    /// Labels and one-hot logits.
    fn confusion(pairs: &[(u8, usize)], classes: usize) -> Confusion {
        let labels: Vec<u8> = pairs.iter().map(|&(label, _)| label).collect();
        let logits: Vec<f32> = pairs
            .iter()
            .flat_map(|&(_, answer)| (0..classes).map(move |class| f32::from(u8::from(class == answer))))
            .collect();
        Confusion::of(&labels, &logits, classes)
    }

    /// `precision_recall_fscore_support(labels, answers, average="macro", zero_division=0)` of scikit-learn 1.9.1.
    #[test]
    fn scores_are_those_of_scikit_learn() {
        let labels = [0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 0, 1, 2, 2, 2, 4];
        let answers = [0, 0, 1, 2, 1, 1, 0, 2, 2, 0, 0, 1, 2, 0, 2, 2];
        let pairs: Vec<(u8, usize)> = labels.into_iter().zip(answers).collect();
        // Class 5 has neither images nor answers, and does not count.
        let confusion = confusion(&pairs, 6);
        let want = [(0.5, 0.6, 0.545_454_55), (0.75, 0.75, 0.75), (2.0 / 3.0, 0.8, 0.727_272_73)];
        for (class, (precision, recall, f1)) in want.into_iter().enumerate() {
            let scores = confusion.scores(class);
            assert!((scores.precision.unwrap() - precision).abs() < 1e-8, "{scores:?}");
            assert!((scores.recall.unwrap() - recall).abs() < 1e-8, "{scores:?}");
            assert!((scores.f1 - f1).abs() < 1e-8, "{scores:?}");
        }
        assert_eq!([3, 4, 5].map(|class| confusion.scores(class).precision), [None; 3]);
        assert_eq!([3, 4, 5].map(|class| confusion.scores(class).recall), [Some(0.0), Some(0.0), None]);
        let Averages { precision, recall, f1 } = confusion.averages();
        assert!((precision - 0.383_333_333_333_333_3).abs() < 1e-12, "{precision}");
        assert!((recall - 0.43).abs() < 1e-12, "{recall}");
        assert!((f1 - 0.404_545_454_545_454_5).abs() < 1e-12, "{f1}");
    }

    #[test]
    fn scores_are_those_counted_one_by_one() {
        for classes in [2, 3, 7, 40] {
            let word = |at: u32| rng::pcg4d([at, classes as u32, 0, 0])[0] as usize;
            // The last class is never an answer.
            let pairs: Vec<(u8, usize)> = (0..300)
                .map(|at| ((word(2 * at) % classes) as u8, word(2 * at + 1) % (classes - 1)))
                .collect();
            let confusion = confusion(&pairs, classes);
            let (mut sums, mut counted) = ([0.0; 3], 0.0);
            for class in 0..classes {
                let is = |&&(label, answer): &&(u8, usize)| [usize::from(label) == class, answer == class];
                let hits = pairs.iter().filter(|pair| is(pair) == [true, true]).count() as f64;
                let missed = pairs.iter().filter(|pair| is(pair) == [true, false]).count() as f64;
                let false_alarms = pairs.iter().filter(|pair| is(pair) == [false, true]).count() as f64;
                let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
                let (precision, recall) = (ratio(hits, hits + false_alarms), ratio(hits, hits + missed));
                let f1 = ratio(2.0 * precision * recall, precision + recall);
                let scores = confusion.scores(class);
                assert_eq!(scores.precision.is_none(), hits + false_alarms == 0.0);
                for (got, want) in [
                    (scores.precision.unwrap_or(0.0), precision),
                    (scores.recall.unwrap_or(0.0), recall),
                    (scores.f1, f1),
                ] {
                    assert!((got - want).abs() < 1e-12, "{scores:?}");
                }
                if hits + missed + false_alarms > 0.0 {
                    sums.iter_mut().zip([precision, recall, f1]).for_each(|(sum, value)| *sum += value);
                    counted += 1.0;
                }
            }
            let Averages { precision, recall, f1 } = confusion.averages();
            for (got, sum) in [precision, recall, f1].into_iter().zip(sums) {
                assert!((got - sum / counted).abs() < 1e-12);
            }
            assert_eq!(confusion.images(), 300);
            let wrong = pairs.iter().filter(|&&(label, answer)| usize::from(label) != answer).count();
            assert_eq!(confusion.correct() + wrong, 300);
            let mistaken = confusion.mistaken();
            assert_eq!(mistaken.iter().map(|cell| cell.images).sum::<usize>(), wrong);
            assert!(mistaken.is_sorted_by(|a, b| a.images >= b.images));
        }
    }
}
