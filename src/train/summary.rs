//! What a run reached: `summary.json`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{EpochMetrics, Run, number_or_nan};
use crate::dataset::HoldOut;
use crate::device::Comparison;
use crate::error::{Error, Result};
use crate::files::read_at_most;
use crate::replica::{Point, Replica};

/// No summary comes near this.
const MOST_BYTES: u64 = 256 << 20;

/// The results of a run. With several replicas, figures are means over them, without those that diverged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Summary {
    /// Name of the model.
    pub model: String,
    /// Number of its trained parameters.
    pub parameters: usize,
    /// Epochs of the recipe.
    pub epochs: usize,
    /// Steps taken.
    pub steps: u32,
    /// True if all epochs were trained, or all nets stopped early by their recipe; a step to stop at ends a run before that.
    pub complete: bool,
    /// Images of one step.
    pub batch_size: usize,
    /// Seed of the random numbers, of a run with one net.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u32>,
    /// Seeds of the nets, of a run with several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seeds: Option<Vec<u32>>,
    /// Where it was trained.
    pub device: String,
    /// Where each part of it was computed, if it went on on a device that rounds in another way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceSpan>,
    /// What was measured to choose the device, if anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
    /// When the end of the run was moved, if it was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<Extension>,
    /// Folder of the dataset.
    pub data: String,
    /// SHA-256 of its images, [`TrainingData::sha256`](super::TrainingData::sha256); older runs have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_sha256: Option<String>,
    /// Training images that were held out and take the place of the test set; 0: the test set is the test set.
    pub hold_out: HoldOut,
    /// Training images.
    pub train_images: usize,
    /// Test images, or held-out images.
    pub test_images: usize,
    /// Right answers on the test images after the last epoch, or the one that was kept, in percent.
    pub final_test_accuracy: f64,
    /// Mean loss there.
    pub final_test_loss: f64,
    /// The best epoch's accuracy, in percent.
    pub best_test_accuracy: f64,
    /// The first epoch that had it.
    pub best_epoch: usize,
    /// The epoch whose weights were saved, of a run with one net whose recipe decides by held-out images; what is called final
    /// here is of this epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_epoch: Option<usize>,
    /// The epoch after which it stopped early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_epoch: Option<usize>,
    /// Right answers during the last epoch of training, in percent.
    pub train_accuracy: f64,
    /// Mean loss during the last epoch of training.
    pub train_loss: f64,
    /// Seconds for all epochs with their evaluations.
    pub seconds: f64,
    /// Mean seconds of an epoch with its evaluation.
    pub seconds_per_epoch: f64,
    /// Mean seconds of an epoch's training steps alone.
    pub train_seconds_per_epoch: f64,
    /// Spread of the final test accuracies of several nets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
    /// SHA-256 of the weights, of a run with one net.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights_sha256: Option<String>,
    /// Each point of a sweep.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<PointSummary>,
    /// Each net of a run with several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<ReplicaSummary>,
    /// Version of shadernet.
    pub shadernet: String,
    /// Folder of the run.
    #[serde(skip)]
    pub folder: PathBuf,
    /// Number of test images that were answered right in the end; a mean for several nets.
    #[serde(skip)]
    pub final_test_correct: f64,
}

/// Where a part of a run was computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpan {
    /// The first step that was not computed elsewhere, counted from 0.
    pub from_step: u32,
    /// The device, as far as it decides about rounding.
    pub device: String,
}

/// A moved end of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// Steps that had been taken.
    pub at_step: u32,
    /// Epochs that the run was to have until then.
    pub epochs_before: usize,
}

/// One net of a run with several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReplicaSummary {
    /// Its seed and settings.
    #[serde(flatten)]
    pub net: Replica,
    /// Its file in the run's folder; none if it diverged.
    pub file: Option<String>,
    /// Right answers on the test images after the last epoch, or the one that was kept, in percent; NaN if it diverged.
    #[serde(deserialize_with = "number_or_nan")]
    pub final_test_accuracy: f64,
    /// Mean loss there.
    #[serde(deserialize_with = "number_or_nan")]
    pub final_test_loss: f64,
    /// Its best epoch's accuracy, in percent.
    #[serde(deserialize_with = "number_or_nan")]
    pub best_test_accuracy: f64,
    /// The first epoch that had it.
    pub best_epoch: usize,
    /// The epoch whose weights were saved, if its recipe decides by held-out images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_epoch: Option<usize>,
    /// The epoch after which it stopped early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_epoch: Option<usize>,
    /// SHA-256 of its weights.
    pub weights_sha256: Option<String>,
}

/// The nets of one point of a sweep, which differ in their seeds alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PointSummary {
    /// The point.
    pub point: Point,
    /// How many of them diverged; they do not count in what follows.
    pub diverged: usize,
    /// Mean loss on the test images after the last epoch; NaN if all of them diverged.
    #[serde(deserialize_with = "number_or_nan")]
    pub final_test_loss: f64,
    /// Spread of the accuracies there, in percent.
    pub spread: Option<Spread>,
}

/// Mean, deviation and range of a few numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Sample standard deviation; 0 for one number.
    pub deviation: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Of at least one number.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        let n = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self {
            mean: round(mean),
            deviation: round((squares / (n - 1.0).max(1.0)).sqrt()),
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

impl Summary {
    /// Reads `summary.json` in the folder of a run.
    ///
    /// # Errors
    /// A file that is missing, damaged or from another version.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("summary.json");
        let bytes = read_at_most(&path, MOST_BYTES)?
            .ok_or_else(|| Error::data(&path, format!("the file has more than {MOST_BYTES} bytes")))?;
        serde_json::from_slice(&bytes).map_err(|error| {
            let message = format!("damaged, or from another version of shadernet (line {})", error.line());
            Error::data(&path, message)
        })
    }
}

impl Run {
    pub(super) fn summary(&self, replicas: Vec<ReplicaSummary>) -> Summary {
        let nets = replicas.len();
        let rows = &self.progress.rows;
        let epochs = rows.len() / nets;
        let mean = |rows: &[EpochMetrics], value: fn(&EpochMetrics) -> f64| mean(rows.iter().map(value));
        let step = rows[rows.len() - 1].step;
        // Those of each net's result.
        let last = |net| match self.progress.diverged[net] {
            true => rows[rows.len() - nets + net],
            false => self.verdict(net).expect("every net was tested").kept,
        };
        let last = &(0..nets).map(last).collect::<Vec<_>>()[..];
        let means = rows.chunks(nets).map(|rows| (rows[0].epoch, mean(rows, |row| row.test_accuracy)));
        let (best_test_accuracy, best_epoch) = best(means);
        let seconds: f64 = rows.chunks(nets).map(|rows| rows[0].seconds).sum();
        let train_seconds: f64 = rows.chunks(nets).map(|rows| rows[0].train_seconds).sum();
        // The last epoch may have been cut short, its evaluation not.
        let epochs_trained = f64::from(step) / f64::from(self.steps_per_epoch);
        let train_seconds_per_epoch = train_seconds / epochs_trained;
        let seconds_per_epoch = train_seconds_per_epoch + (seconds - train_seconds) / epochs as f64;
        let several = self.settings.has_several();
        Summary {
            model: self.model.name.clone(),
            parameters: self.model.parameter_count(),
            epochs: self.model.train.epochs,
            steps: step,
            complete: self.is_complete(),
            batch_size: self.model.train.batch_size,
            seed: (!several).then_some(self.settings.replicas[0].seed),
            seeds: several.then(|| self.settings.replicas.iter().map(|net| net.seed).collect()),
            device: self.device.clone(),
            devices: match &self.progress.devices[..] {
                [] | [_] => Vec::new(),
                several => several.to_vec(),
            },
            comparison: self.progress.comparison.clone(),
            extensions: self.progress.extensions.clone(),
            data: self.settings.data.display().to_string(),
            data_sha256: Some(self.progress.data_sha256.clone()),
            hold_out: self.settings.hold_out,
            train_images: self.data.train.count,
            test_images: self.data.test.count,
            final_test_accuracy: round(mean(last, |row| row.test_accuracy)),
            final_test_loss: round(mean(last, |row| row.test_loss)),
            best_test_accuracy: round(best_test_accuracy),
            best_epoch,
            kept_epoch: replicas[0].kept_epoch.filter(|_| !several),
            stopped_epoch: replicas[0].stopped_epoch.filter(|_| !several),
            train_accuracy: round(mean(last, |row| row.train_accuracy)),
            train_loss: round(mean(last, |row| row.train_loss)),
            seconds: round(seconds),
            seconds_per_epoch: round(seconds_per_epoch),
            train_seconds_per_epoch: round(train_seconds_per_epoch),
            spread: several.then(|| Spread::of(finite(last.iter().map(|row| row.test_accuracy)))),
            points: if self.settings.swept_keys().is_empty() { Vec::new() } else { points(&replicas) },
            weights_sha256: replicas[0].weights_sha256.clone().filter(|_| !several),
            replicas: if several { replicas } else { Vec::new() },
            shadernet: env!("CARGO_PKG_VERSION").into(),
            folder: self.folder.path().to_owned(),
            final_test_correct: mean(last, |row| row.test_correct as f64),
        }
    }
}

/// Nets that agree in what was swept, in order.
fn points(replicas: &[ReplicaSummary]) -> Vec<PointSummary> {
    let nets_of_points = replicas.chunk_by(|a, b| a.net.point == b.net.point);
    let point = |nets: &[ReplicaSummary]| {
        let diverged = nets.iter().filter(|net| net.file.is_none()).count();
        let accuracies = finite(nets.iter().map(|net| net.final_test_accuracy));
        PointSummary {
            point: nets[0].net.point.clone(),
            diverged,
            final_test_loss: round(mean(nets.iter().map(|net| net.final_test_loss))),
            spread: (diverged < nets.len()).then(|| Spread::of(accuracies)),
        }
    };
    nets_of_points.map(point).collect()
}

fn finite(values: impl Iterator<Item = f64>) -> impl Iterator<Item = f64> {
    values.filter(|value| value.is_finite())
}

/// Mean of those that are numbers.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = finite(values).fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    sum / count
}

/// The largest accuracy and the first epoch that had it.
pub(super) fn best(epochs: impl Iterator<Item = (usize, f64)>) -> (f64, usize) {
    epochs.fold(
        (f64::NEG_INFINITY, 0),
        |best, (epoch, accuracy)| {
            if accuracy > best.0 { (accuracy, epoch) } else { best }
        },
    )
}

/// To six decimals: more is noise, and short decimals come back from JSON and CSV as the same number.
pub(super) fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_of_known_numbers() {
        let spread = Spread::of([1.0, 2.0, 6.0]);
        assert_eq!((spread.mean, spread.min, spread.max), (3.0, 1.0, 6.0));
        assert_eq!(spread.deviation, round(7f64.sqrt()));
        assert_eq!(Spread::of([5.0]).deviation, 0.0);
    }
}
