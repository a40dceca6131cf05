//! One row for each run, in CSV files: all that the report is made from, and how a suite knows what is done.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::suite::Phase;
use crate::error::{Error, Result};
use crate::files::write_atomically;

/// A run that is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// On held-out images, or on the test set.
    pub phase: Phase,
    /// Group of the arm that it was run for; others may share it.
    pub group: String,
    /// That arm.
    pub arm: String,
    /// Which candidate of the arm, if it has several.
    pub change: String,
    /// Seed of the net.
    pub seed: u32,
    /// Trained parameters.
    pub parameters: usize,
    /// Epochs trained.
    pub epochs: usize,
    /// Accuracy in percent after the last epoch.
    pub final_accuracy: f64,
    /// Mean loss there.
    pub final_loss: f64,
    /// Accuracy in percent of the best epoch, chosen by looking at it.
    pub best_accuracy: f64,
    /// That epoch.
    pub best_epoch: usize,
    /// Accuracy in percent on the training images during the last epoch.
    pub train_accuracy: f64,
    /// Seconds of the run; of several side by side, their share.
    pub seconds: f64,
    /// Where it was trained.
    pub device: String,
    /// SHA-256 of the weights.
    pub weights_sha256: String,
    /// Version of shadernet.
    pub version: String,
    /// Hash of the model with its recipe.
    pub fingerprint: String,
    /// Accuracy after each epoch, separated by spaces.
    pub accuracies: String,
}

impl Row {
    /// Accuracy in percent after each epoch.
    pub fn curve(&self) -> Vec<f64> {
        self.accuracies.split_whitespace().filter_map(|text| text.parse().ok()).collect()
    }

    /// The first epoch at or above `target` percent.
    pub fn epochs_to(&self, target: f64) -> Option<usize> {
        Some(self.curve().iter().position(|&accuracy| accuracy >= target)? + 1)
    }
}

/// The rows of a suite: those of all its files, and the file that this process writes.
#[derive(Debug)]
pub struct Rows {
    own_file: PathBuf,
    own: Vec<Row>,
    others: Vec<Row>,
}

impl Rows {
    /// Reads every `*.csv` in `folder`; new rows go into `own_file` there. A folder that is not there has no rows.
    ///
    /// # Errors
    /// A file that is no table of runs: with its line.
    pub fn read(folder: &Path, own_file: &str) -> Result<Self> {
        let own_file = folder.join(own_file);
        let mut rows = Self { own_file, own: Vec::new(), others: Vec::new() };
        let mut files: Vec<PathBuf> = match std::fs::read_dir(folder) {
            Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(rows),
            Err(error) => return Err(Error::io("open", folder)(error)),
        };
        files.retain(|path| path.extension().is_some_and(|extension| extension == "csv"));
        files.sort();
        for path in files {
            let fail = |error: csv::Error| {
                let line = error.position().map(|position| position.line() as usize);
                let message = format!("not a table of runs: {error}");
                Error::Config { path: path.display().to_string(), line, message }
            };
            let found: Vec<Row> = csv::Reader::from_path(&path)
                .map_err(fail)?
                .deserialize()
                .collect::<Result<_, _>>()
                .map_err(fail)?;
            if path == rows.own_file { rows.own = found } else { rows.others.extend(found) }
        }
        Ok(rows)
    }

    /// Every row.
    pub fn iter(&self) -> impl Iterator<Item = &Row> {
        self.others.iter().chain(&self.own)
    }

    /// The row of a run, whichever arm it was run for.
    pub fn find(&self, phase: Phase, fingerprint: &str, seed: u32) -> Option<&Row> {
        self.iter().find(|row| row.phase == phase && row.fingerprint == fingerprint && row.seed == seed)
    }

    /// Adds rows and writes the file: whole, under another name first.
    pub fn add(&mut self, rows: impl IntoIterator<Item = Row>) -> Result<()> {
        self.own.extend(rows);
        let mut writer = csv::Writer::from_writer(Vec::new());
        for row in &self.own {
            writer.serialize(row).expect("a row is plain values");
        }
        write_atomically(&self.own_file, &writer.into_inner().expect("memory takes all"))
    }
}
