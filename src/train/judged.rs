//! What the held-out images decide about each net: whether it has stopped, and which epoch's weights are its result. Both
//! follow from the rows alone, so a resumed run decides as one that was never stopped.

use super::{EpochMetrics, Run, TrainingData};
use crate::config::{Keep, TrainConfig};
use crate::engine::Vector;
use crate::error::{Error, Remedy, Result};
use crate::model::Model;
use crate::tensor::Tensor;

/// The decision about a net.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Verdict {
    /// The row of the epoch whose weights are its result.
    pub(super) kept: EpochMetrics,
    /// The epoch after which nothing had got better for too long.
    pub(super) stopped: Option<usize>,
}

impl Verdict {
    /// From the rows of one net, in order; none without rows. Epochs that were cut short decide nothing.
    pub(super) fn of<'a>(
        rows: impl Iterator<Item = &'a EpochMetrics>,
        train: &TrainConfig,
        steps_per_epoch: u32,
    ) -> Option<Self> {
        let judged = train.judges();
        let mut last = None;
        let mut best: Option<(&EpochMetrics, (f64, f64))> = None;
        for row in rows {
            last = Some(row);
            let decides = row.step.is_multiple_of(steps_per_epoch) && row.test_loss.is_finite();
            let Some((_, by)) = judged.filter(|_| decides) else { continue };
            let score = by.score(row.test_accuracy, row.test_loss);
            let (best_so_far, _) = *best.get_or_insert((row, score));
            if best.is_some_and(|(_, before)| score > before) {
                best = Some((row, score));
            } else if train
                .early_stop
                .is_some_and(|stop| row.epoch - best_so_far.epoch >= stop.patience as usize)
            {
                let kept = if train.keep == Keep::Best { best_so_far } else { row };
                return Some(Self { kept: *kept, stopped: Some(row.epoch) });
            }
        }
        let best = best.filter(|_| train.keep == Keep::Best).map(|(row, _)| row);
        Some(Self { kept: *best.or(last)?, stopped: None })
    }
}

/// Fails if a recipe decides by held-out images and there are none: the test images must not decide anything.
pub(super) fn check(model: &Model, data: &TrainingData) -> Result<()> {
    let Some((key, _)) = model.train.judges().filter(|_| data.held_out.is_none()) else { return Ok(()) };
    let message = format!(
        "{} has {key} in [train], which decides by images that are held out of the training set, never by test images; \
         there are none",
        model.name
    );
    Err(Error::Usage(message).with(Remedy::HoldOut))
}

/// The weights of a net after the epoch that is its result so far.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    /// The step after that epoch; 0 while there is none.
    pub(super) step: u32,
    pub(super) weights: Vec<Tensor>,
}

impl Run {
    /// The decision about a net so far; none before the first test.
    pub(super) fn verdict(&self, replica: usize) -> Option<Verdict> {
        let nets = self.settings.replicas.len();
        let rows = self.progress.rows.iter().skip(replica).step_by(nets);
        Verdict::of(rows, &self.model.train, self.steps_per_epoch)
    }

    /// The nets that have stopped early.
    pub(super) fn stopped(&self) -> Vec<bool> {
        let is_stopped = |replica| self.verdict(replica).is_some_and(|verdict| verdict.stopped.is_some());
        (0..self.settings.replicas.len()).map(is_stopped).collect()
    }

    /// True if nothing is left to train, since every net has stopped early or is out.
    pub(super) fn all_stopped(&self) -> bool {
        if self.model.train.early_stop.is_none() {
            return false;
        }
        let stopped = self.stopped();
        stopped.contains(&true)
            && stopped.iter().zip(&self.progress.diverged).all(|(&stopped, &out)| stopped || out)
    }

    /// Remembers the weights of the nets whose result they are so far.
    pub(super) fn keep(&mut self, weights: &[Vec<Tensor>]) {
        let step = self.progress.step;
        if self.model.train.judges().is_none() || !step.is_multiple_of(self.steps_per_epoch) {
            return;
        }
        let nets = self.settings.replicas.len();
        self.kept.resize_with(nets, || Kept { step: 0, weights: weights[0].clone() });
        for (replica, new) in weights.iter().enumerate() {
            let is_kept = self.verdict(replica).is_some_and(|verdict| verdict.kept.step == step);
            if is_kept {
                self.kept[replica] = Kept { step, weights: new.clone() };
            }
        }
        self.progress.kept = self.kept.iter().map(|kept| kept.step).collect();
    }

    /// What the model files hold.
    pub(super) fn vector_to_save(model: &Model) -> Vector {
        if model.train.average_decay > 0.0 { Vector::Average } else { Vector::Weights }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Criterion, EarlyStop};

    /// Of ten steps an epoch.
    fn rows(figures: &[(f64, f64)]) -> Vec<EpochMetrics> {
        let row = |(index, &(accuracy, loss)): (usize, &(f64, f64))| EpochMetrics {
            seed: 0,
            epoch: index + 1,
            step: 10 * (index as u32 + 1),
            learning_rate: 0.1,
            train_loss: 1.0,
            train_accuracy: 50.0,
            test_loss: loss,
            test_accuracy: accuracy,
            test_correct: 0,
            seconds: 1.0,
            train_seconds: 1.0,
            stopped: false,
        };
        figures.iter().enumerate().map(row).collect()
    }

    fn verdict(
        rows: &[EpochMetrics],
        early_stop: Option<(u32, Criterion)>,
        keep: Keep,
    ) -> (usize, Option<usize>) {
        let early_stop = early_stop.map(|(patience, on)| EarlyStop { on, ..EarlyStop::after(patience) });
        let train = TrainConfig::default().early_stop(early_stop).keep(keep);
        let verdict = Verdict::of(rows.iter(), &train, 10).unwrap();
        (verdict.kept.epoch, verdict.stopped)
    }

    #[test]
    fn the_best_epoch_is_kept_and_patience_ends_the_training() {
        let (accuracy, loss) = (Criterion::Accuracy, Criterion::Loss);
        let (last, best) = (Keep::Last, Keep::Best);
        // By accuracy the third epoch is the best, by loss the second.
        let six = rows(&[(50.0, 3.0), (60.0, 1.0), (70.0, 2.0), (65.0, 2.5), (70.0, 2.0), (90.0, 0.5)]);
        for (early_stop, keep, want) in [
            (None, last, (6, None)),
            (None, best, (6, None)),
            (Some((2, accuracy)), last, (5, Some(5))),
            (Some((2, accuracy)), best, (3, Some(5))),
            (Some((2, loss)), last, (4, Some(4))),
            (Some((2, loss)), best, (2, Some(4))),
            (Some((3, accuracy)), best, (6, None)),
            (Some((4, loss)), best, (6, None)),
        ] {
            assert_eq!(verdict(&six, early_stop, keep), want, "{early_stop:?} {keep:?}");
        }
        assert_eq!(verdict(&six[..5], None, best), (3, None), "the first of equals");
        assert_eq!(verdict(&six[..4], Some((2, accuracy)), best), (3, None));
    }

    #[test]
    fn of_equal_accuracies_the_smaller_loss_is_better() {
        let rows = rows(&[(60.0, 1.0), (60.0, 0.9), (60.0, 0.95)]);
        assert_eq!(verdict(&rows, None, Keep::Best), (2, None));
        assert_eq!(verdict(&rows, Some((1, Criterion::Accuracy)), Keep::Best), (2, Some(3)));
    }

    #[test]
    fn what_is_no_number_or_no_whole_epoch_decides_nothing() {
        let mut rows = rows(&[(60.0, 1.0), (f64::NAN, f64::NAN), (99.0, 0.1)]);
        assert_eq!(verdict(&rows[..2], None, Keep::Best), (1, None));
        rows[2].step = 25;
        assert_eq!(verdict(&rows, None, Keep::Best), (1, None));
        assert_eq!(verdict(&rows, None, Keep::Last), (3, None));
        assert_eq!(verdict(&rows[2..], None, Keep::Best), (3, None), "there is nothing else yet");
    }
}
