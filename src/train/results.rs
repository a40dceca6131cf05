//! What a run leaves in its folder for others: `metrics.csv`, the models, and `summary.json`.

use std::time::Instant;

use super::summary::{self, ReplicaSummary, Summary};
use super::{EpochMetrics, Run, Tested, Written};
use crate::checkpoint::{Checkpoint, Trained};
use crate::error::{Error, Result};
use crate::eval;
use crate::tensor::Tensor;

const METRICS: &str = "metrics.csv";

impl Run {
    /// Writes the table of metrics, if it is not there already.
    pub(super) fn write_metrics(&mut self) -> Result<()> {
        let text = self.csv();
        let is_there = std::fs::read(self.folder.path().join(METRICS)).is_ok_and(|old| old == text);
        // Before the first test there is nothing to tell.
        if is_there || self.progress.rows.is_empty() { Ok(()) } else { self.folder.write(METRICS, &text) }
    }

    fn csv(&self) -> Vec<u8> {
        let several = self.settings.has_several();
        let keys = self.settings.swept_keys();
        let mut writer = csv::Writer::from_writer(Vec::new());
        let mut line = |fields: Vec<String>| writer.write_record(fields).expect("memory takes all");
        // The column learning_rate is that of the step, whether it is swept or not.
        let columns = "epoch,step,learning_rate,train_loss,train_accuracy,test_loss,test_accuracy,seconds";
        let swept = keys.iter().map(|key| format!("sweep.{key}"));
        let seed = several.then(|| "seed".to_owned());
        line(swept.chain(seed).chain(columns.split(',').map(str::to_owned)).collect());
        for (row, net) in self.progress.rows.iter().zip(self.settings.replicas.iter().cycle()) {
            let point = |key: &&str| net.point.0.get(*key).map_or_else(String::new, f32::to_string);
            let seed = several.then(|| row.seed.to_string());
            let EpochMetrics {
                epoch,
                step,
                learning_rate,
                train_loss,
                train_accuracy,
                test_loss,
                test_accuracy,
                ..
            } = row;
            let figures = [
                epoch.to_string(),
                step.to_string(),
                learning_rate.to_string(),
                train_loss.to_string(),
                train_accuracy.to_string(),
                test_loss.to_string(),
                test_accuracy.to_string(),
                format!("{:.3}", row.seconds),
            ];
            line(keys.iter().map(point).chain(seed).chain(figures).collect());
        }
        writer.into_inner().expect("memory takes all")
    }

    /// Writes the models and the summary, as of the last test.
    ///
    /// # Errors
    /// Before the first test there are no results; afterwards, what the disk refuses.
    pub fn finish(&mut self) -> Result<Summary> {
        let start = Instant::now();
        let tested = self.tested.as_ref().ok_or_else(|| {
            Error::Usage(match self.progress.rows.last() {
                None => "the run has no results yet: no epoch was trained and tested".into(),
                Some(row) => format!(
                    "no epoch was trained and tested since the run was resumed; its results up to epoch {} are in {}",
                    row.epoch,
                    self.folder.path().display()
                ),
            })
        })?;
        let summary = self.write_results(tested)?;
        self.results_written = Some(Written { at: Instant::now(), took: start.elapsed(), step: tested.step });
        Ok(summary)
    }

    /// At an early end, writes models and summary of the last test, if they are not there. Returns the epoch that they are
    /// of.
    pub(super) fn write_last_epoch(&mut self) -> Result<Option<usize>> {
        let Some(step) = self.tested.as_ref().map(|tested| tested.step) else { return Ok(None) };
        if self.results_written.is_none_or(|last| last.step != step) {
            self.finish()?;
        }
        Ok(Some(step.div_ceil(self.steps_per_epoch) as usize))
    }

    /// The weights of a net after this step, which are its result.
    fn result<'a>(&'a self, replica: usize, tested: &'a Tested, step: u32) -> &'a [Tensor] {
        match self.kept.get(replica).filter(|kept| kept.step == step) {
            Some(kept) => &kept.weights,
            None => &tested.weights[replica],
        }
    }

    /// Writes a model file for each net with the weights that are its result, and the summary.
    fn write_results(&self, tested: &Tested) -> Result<Summary> {
        self.folder.check()?;
        let mut replicas = Vec::new();
        let nets = self.settings.replicas.len();
        for (replica, net) in self.settings.replicas.iter().enumerate() {
            let rows = || self.progress.rows.iter().skip(replica).step_by(nets);
            let verdict = self.verdict(replica).expect("the net was tested");
            let last = verdict.kept;
            let (best, best_epoch) = summary::best(rows().map(|row| (row.epoch, row.test_accuracy)));
            let mut summary = ReplicaSummary {
                net: net.clone(),
                file: None,
                final_test_accuracy: last.test_accuracy,
                final_test_loss: last.test_loss,
                best_test_accuracy: best,
                best_epoch,
                kept_epoch: self.model.train.judges().map(|_| last.epoch),
                stopped_epoch: verdict.stopped,
                weights_sha256: None,
            };
            let file = self.settings.model_file(net);
            if tested.diverged[replica] {
                // Of a net that is out of a sweep, no earlier epoch counts.
                let _ = std::fs::remove_file(self.folder.path().join(file));
                replicas.push(summary);
                continue;
            }
            let trained = Trained {
                epochs: last.epoch,
                steps: last.step,
                batch_size: self.model.train.batch_size,
                seed: net.seed,
                device: self.device.clone(),
                images: self.data.train.count,
                pictures: self.data.pictures,
                twelve_bit: self.data.twelve_bit,
                sketch: self.data.sketch.clone(),
                on_black: self.data.on_black,
                shadernet: env!("CARGO_PKG_VERSION").into(),
            };
            let mut checkpoint = Checkpoint {
                model: net.model(&self.model)?,
                weights: self.result(replica, tested, last.step).to_vec(),
                normalization: self.data.normalization.clone(),
                classes: self.model.classes.clone().unwrap_or_else(|| self.data.classes.clone()),
                trained,
                test_accuracy: last.test_accuracy,
                test_loss: last.test_loss,
                temperature: None,
                warnings: Vec::new(),
            };
            checkpoint.temperature = self.temperature(&checkpoint);
            checkpoint.save(&self.folder.path().join(&file))?;
            summary.weights_sha256 = Some(checkpoint.weights_sha256());
            summary.file = Some(file);
            replicas.push(summary);
        }
        let summary = self.summary(replicas);
        let mut json = serde_json::to_string_pretty(&summary).expect("plain values are JSON");
        json.push('\n');
        self.folder.write("summary.json", json.as_bytes())?;
        Ok(summary)
    }

    /// The temperature of a net, if there are images to fit it on that it neither learnt from nor is judged by in the end.
    fn temperature(&self, checkpoint: &Checkpoint) -> Option<f32> {
        if self.settings.hold_out.is_none() {
            return None;
        }
        // A model that could not be calibrated is still better than none.
        let logits = eval::logits(checkpoint, &self.data.test, &self.place).ok()?;
        eval::fit_temperature(&logits, &self.data.test.labels, checkpoint.model.class_count())
    }
}
