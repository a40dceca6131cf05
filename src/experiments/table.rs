//! One row per run, in CSV files: everything that the report is made from, and how a suite knows what is done.

use std::collections::{HashMap, hash_map};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::suite::Phase;
use crate::error::{Error, Result};
use crate::files::{self, MadeFolders, write_atomically};
use crate::lock::Lock;
use crate::train::{TrainingData, rules};

/// What determines the result of a run, besides its recipe and its seed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// SHA-256 of the images and labels that it was trained and evaluated on: [`TrainingData::sha256`].
    pub data_sha256: String,
    /// Training images held out for evaluation.
    pub hold_out: usize,
    /// [`rules`] of the build.
    pub rules: u32,
}

impl Origin {
    /// For runs of this build on these images.
    pub fn of(data: &TrainingData, hold_out: usize) -> Self {
        Self { data_sha256: data.sha256(), hold_out, rules: rules(data.train.channels) }
    }
}

/// A finished run.
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
    /// Mean loss after the last epoch.
    pub final_loss: f64,
    /// Accuracy in percent in the best epoch, chosen by this accuracy.
    pub best_accuracy: f64,
    /// That epoch.
    pub best_epoch: usize,
    /// Accuracy in percent on the training images during the last epoch.
    pub train_accuracy: f64,
    /// Seconds of the run; for nets trained side by side, their share.
    pub seconds: f64,
    /// Where it was trained.
    pub device: String,
    /// SHA-256 of the weights.
    pub weights_sha256: String,
    /// Version of shadernet.
    pub version: String,
    /// [`Origin::data_sha256`]; rows from before [`rules`] had a number have none of these three.
    #[serde(default)]
    pub data_sha256: Option<String>,
    /// [`Origin::hold_out`].
    #[serde(default)]
    pub hold_out: Option<usize>,
    /// [`Origin::rules`].
    #[serde(default)]
    pub rules: Option<u32>,
    /// Hash of the model with its recipe.
    pub fingerprint: String,
    /// Accuracy after each epoch, separated by spaces.
    pub accuracies: String,
}

impl Row {
    /// Where it comes from, if it says so.
    pub fn origin(&self) -> Option<Origin> {
        let (data_sha256, hold_out, rules) = (self.data_sha256.clone()?, self.hold_out?, self.rules?);
        Some(Origin { data_sha256, hold_out, rules })
    }

    /// True if it doesn't say where it comes from, like rows from before [`rules`] had a number.
    pub fn is_old(&self) -> bool {
        self.data_sha256.is_none() && self.hold_out.is_none() && self.rules.is_none()
    }

    /// True if nothing in it contradicts this origin.
    pub fn may_be_of(&self, origin: &Origin) -> bool {
        self.data_sha256.as_ref().is_none_or(|hash| *hash == origin.data_sha256)
            && self.hold_out.is_none_or(|count| count == origin.hold_out)
            && self.rules.is_none_or(|rules| rules == origin.rules)
    }

    /// Rejects impossible values.
    fn check(&self) -> Result<(), String> {
        let percent = [
            ("final_accuracy", self.final_accuracy),
            ("best_accuracy", self.best_accuracy),
            ("train_accuracy", self.train_accuracy),
        ];
        for (name, value) in percent {
            if !(0.0..=100.0).contains(&value) {
                return Err(format!("{name} = {value} must be from 0 to 100"));
            }
        }
        // A run that diverged has an infinite loss.
        if self.final_loss.is_nan() || self.final_loss < 0.0 {
            return Err(format!("final_loss = {} must be 0 or more", self.final_loss));
        }
        if !(0.0..=1e12).contains(&self.seconds) {
            return Err(format!("seconds = {} must be from 0 to 1e12", self.seconds));
        }
        let curve: Vec<&str> = self.accuracies.split_whitespace().collect();
        let fits = |text: &&str| text.parse().is_ok_and(|value: f64| (0.0..=100.0).contains(&value));
        if let Some(bad) = curve.iter().find(|text| !fits(text)) {
            return Err(format!("accuracies: {bad:?} is not an accuracy from 0 to 100"));
        }
        if curve.len() != self.epochs {
            return Err(format!("accuracies has {} numbers for {} epochs", curve.len(), self.epochs));
        }
        Ok(())
    }

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
    own: Vec<Entry>,
    others: Vec<Entry>,
    conflicts: Vec<String>,
    /// Keeps other processes from writing our file.
    lock: Option<Lock>,
    /// The folder, if it was created for the rows; dropped after the lock, which would be in it.
    _made: MadeFolders,
}

/// A row of a file.
#[derive(Debug)]
struct Entry {
    row: Row,
    counts: Counts,
}

/// Whether a row counts as a result. It stays in its file in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counts {
    Yes,
    /// It is of other data, another hold-out or other rules.
    Foreign,
    /// An earlier row is of the same run.
    Double,
}

impl Entry {
    fn new(row: Row) -> Self {
        Self { row, counts: Counts::Yes }
    }
}

impl Rows {
    /// Reserves `own_file` in `folder` for new rows, and reads every `*.csv` there. Creates the folder.
    ///
    /// # Errors
    /// [`Error::Busy`] while another process writes `own_file`, and as [`Rows::read`].
    pub fn open(folder: &Path, own_file: &str) -> Result<Self> {
        let mut made = MadeFolders::default();
        made.make(folder)?;
        let lock = Lock::take(folder, &format!("{own_file}.lock"))?;
        Ok(Self { lock: Some(lock), _made: made, ..Self::read(folder, own_file)? })
    }

    /// Reads every `*.csv` in `folder`, of which `own_file` is one. A missing folder has no rows.
    ///
    /// # Errors
    /// A file that is not a table of runs: with its line.
    pub fn read(folder: &Path, own_file: &str) -> Result<Self> {
        let mut rows = Self {
            own_file: folder.join(own_file),
            own: Vec::new(),
            others: Vec::new(),
            conflicts: Vec::new(),
            lock: None,
            _made: MadeFolders::default(),
        };
        rows.read_files(folder, |_| true)?;
        Ok(rows)
    }

    /// Rereads the files of others, which may have written more meanwhile.
    ///
    /// # Errors
    /// Those of [`Rows::read`].
    pub(super) fn read_others(&mut self) -> Result<()> {
        self.others.clear();
        let (folder, own) = (files::folder_of(&self.own_file).to_owned(), self.own_file.clone());
        self.read_files(&folder, |path| path != own)
    }

    fn read_files(&mut self, folder: &Path, is_wanted: impl Fn(&Path) -> bool) -> Result<()> {
        let mut files: Vec<PathBuf> = match std::fs::read_dir(folder) {
            Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("open", folder)(error)),
        };
        files.retain(|path| is_wanted(path));
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
            for (index, row) in found.iter().enumerate() {
                // The header is the first line; no field of ours has a line break.
                row.check().map_err(|message| Error::Config {
                    path: path.display().to_string(),
                    line: Some(index + 2),
                    message,
                })?;
            }
            let entries = if path == self.own_file { &mut self.own } else { &mut self.others };
            entries.extend(found.into_iter().map(Entry::new));
        }
        Ok(())
    }

    /// Excludes rows that don't satisfy `is_wanted`, and all but the first of several rows of one run.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(&Row) -> bool) {
        let mut seen: HashMap<(Phase, String, u32), String> = HashMap::new();
        self.conflicts.clear();
        for Entry { row, counts } in self.own.iter_mut().chain(&mut self.others) {
            if *counts == Counts::Foreign || !is_wanted(row) {
                *counts = Counts::Foreign;
                continue;
            }
            *counts = Counts::Yes;
            match seen.entry((row.phase, row.fingerprint.clone(), row.seed)) {
                hash_map::Entry::Vacant(place) => drop(place.insert(row.weights_sha256.clone())),
                hash_map::Entry::Occupied(first) => {
                    *counts = Counts::Double;
                    if *first.get() != row.weights_sha256 {
                        self.conflicts.push(format!("{} {:?}, seed {}", row.phase.name(), row.arm, row.seed));
                    }
                }
            }
        }
    }

    /// Runs that have rows with different weights; the first row counts.
    pub fn conflicts(&self) -> &[String] {
        &self.conflicts
    }

    /// Number of rows in the files that are of other data, another hold-out or other rules, and don't count.
    pub fn foreign(&self) -> usize {
        self.others.iter().chain(&self.own).filter(|entry| entry.counts == Counts::Foreign).count()
    }

    /// Every row that counts.
    pub fn iter(&self) -> impl Iterator<Item = &Row> {
        let rows = self.own.iter().chain(&self.others);
        rows.filter(|entry| entry.counts == Counts::Yes).map(|entry| &entry.row)
    }

    /// The row of a run, whichever arm it was run for.
    pub fn find(&self, phase: Phase, fingerprint: &str, seed: u32) -> Option<&Row> {
        self.iter().find(|row| row.phase == phase && row.fingerprint == fingerprint && row.seed == seed)
    }

    /// Adds rows and writes the file: completely, under another name first.
    pub fn add(&mut self, rows: impl IntoIterator<Item = Row>) -> Result<()> {
        if self.lock.as_ref().is_some_and(|lock| !lock.is_held()) {
            let message =
                "its folder was removed, moved or replaced in the meantime; nothing more is written to it";
            return Err(Error::data(&self.own_file, message));
        }
        self.own.extend(rows.into_iter().map(Entry::new));
        let mut writer = csv::Writer::from_writer(Vec::new());
        for entry in &self.own {
            writer.serialize(&entry.row).expect("a row is plain values");
        }
        write_atomically(&self.own_file, &writer.into_inner().expect("memory takes all"))
    }
}
