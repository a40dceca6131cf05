//! A run's files in its folder: `summary.json`, `metrics.csv`, and its trained nets.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Remedy, Result};
use crate::files::read_at_most;
use crate::train::Summary;

/// No table of metrics comes near this.
const MOST_BYTES: u64 = 256 << 20;

/// Figures of one net after one epoch: a line of `metrics.csv`.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Figures {
    pub(super) epoch: usize,
    step: u32,
    pub(super) learning_rate: f64,
    pub(super) train_loss: f64,
    pub(super) train_accuracy: f64,
    pub(super) test_loss: f64,
    pub(super) test_accuracy: f64,
    pub(super) seconds: f64,
}

/// The contents of a run's folder.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) folder: PathBuf,
    pub(super) summary: Summary,
    /// The figures of each net, per epoch.
    pub(super) epochs: Vec<Vec<Figures>>,
}

/// One of a run's nets.
#[derive(Debug)]
pub(super) struct NetRecord {
    /// Its index among them.
    pub(super) index: usize,
    /// Its file in the run's folder.
    file: String,
    weights_sha256: Option<String>,
}

impl Record {
    /// Reads the figures of a run.
    ///
    /// # Errors
    /// A folder that is not a finished run's, with what is missing, and damaged files.
    pub(super) fn load(folder: &Path) -> Result<Self> {
        require(folder, &["summary.json", "metrics.csv"])?;
        let summary = Summary::load(folder)?;
        let path = folder.join("metrics.csv");
        let table = read_at_most(&path, MOST_BYTES)?
            .ok_or_else(|| Error::data(&path, format!("the file has more than {MOST_BYTES} bytes")))?;
        let damaged = |why: String| Error::data(&path, format!("damaged: {why}"));
        let mut rows: Vec<Figures> = csv::Reader::from_reader(&table[..])
            .deserialize()
            .collect::<Result<_, _>>()
            .map_err(|error| {
                let line = error.position().map_or(String::new(), |at| format!("line {} ", at.line()));
                damaged(format!("{line}does not have the figures of an epoch"))
            })?;
        // A killed run may have got further than its last summary and models, which the page describes.
        rows.retain(|row| row.step <= summary.steps);
        let nets = summary.replicas.len().max(1);
        if rows.is_empty() || !rows.len().is_multiple_of(nets) {
            return Err(damaged(format!("{} rows for {nets} nets", rows.len())));
        }
        if let Some(rows) = rows.chunks(nets).find(|rows| rows.iter().any(|row| row.epoch != rows[0].epoch)) {
            return Err(damaged(format!("epoch {} does not have one row for each net", rows[0].epoch)));
        }
        let epochs = rows.chunks(nets).map(<[_]>::to_vec).collect();
        Ok(Self { folder: folder.to_owned(), summary, epochs })
    }

    /// Name of the folder.
    pub(super) fn name(&self) -> String {
        let path = self.folder.canonicalize().unwrap_or_else(|_| self.folder.clone());
        path.file_name().map_or_else(|| path.display().to_string(), |name| name.display().to_string())
    }

    /// What the run was evaluated on.
    pub(super) fn judged_on(&self) -> &'static str {
        if self.summary.hold_out.is_none() { "test" } else { "held-out" }
    }

    /// Number of its nets.
    pub(super) fn nets(&self) -> usize {
        self.epochs[0].len()
    }

    /// Name of a net: its seed, preceded by its point in a sweep.
    pub(super) fn net_name(&self, index: usize) -> String {
        match self.summary.replicas.get(index) {
            None => format!("seed {}", self.summary.seed.unwrap_or(0)),
            Some(net) if net.net.point.is_empty() => format!("seed {}", net.net.seed),
            Some(net) => format!("{}, seed {}", net.net.point, net.net.seed),
        }
    }

    /// The net whose details are shown: the only one, or the first that trained; in a sweep, the first of the best point.
    pub(super) fn shown(&self) -> Result<NetRecord> {
        let Summary { replicas, points, weights_sha256, .. } = &self.summary;
        if replicas.is_empty() {
            let (file, weights_sha256) = ("model.safetensors".into(), weights_sha256.clone());
            return Ok(NetRecord { index: 0, file, weights_sha256 });
        }
        let means = points.iter().filter_map(|point| Some((&point.point, point.spread?.mean)));
        let best = means.reduce(|a, b| if b.1 > a.1 { b } else { a });
        let nets = replicas.iter().enumerate();
        let mut fitting = nets.filter(|(_, net)| best.is_none_or(|(point, _)| net.net.point == *point));
        let found = fitting.find_map(|(index, net)| {
            let (file, weights_sha256) = (net.file.clone()?, net.weights_sha256.clone());
            Some(NetRecord { index, file, weights_sha256 })
        });
        found.ok_or_else(|| {
            Error::data(self.folder.join("summary.json"), "damaged: it names no file of a trained net")
        })
    }

    /// Reads a net, and makes sure that it is the one in the summary.
    pub(super) fn checkpoint(&self, net: &NetRecord) -> Result<Checkpoint> {
        require(&self.folder, &[&net.file])?;
        let path = self.folder.join(&net.file);
        let checkpoint = Checkpoint::load(&path)?;
        if net.weights_sha256.as_ref().is_some_and(|hash| *hash != checkpoint.weights_sha256()) {
            let message = "these are not the weights that summary.json describes; if the run was interrupted at that \
                           moment, resuming it writes both again";
            return Err(Error::checkpoint(path, message).with(Remedy::Resume(self.folder.clone())));
        }
        Ok(checkpoint)
    }
}

/// Fails if a folder is not that of a finished run.
fn require(folder: &Path, names: &[&str]) -> Result<()> {
    if !folder.exists() {
        return Err(Error::data(folder, "there is no such folder"));
    }
    if !folder.is_dir() {
        return Err(Error::data(folder, "this is a file; give the folder of a run, such as runs/seed-1"));
    }
    let missing: Vec<_> = names.iter().filter(|name| !folder.join(name).is_file()).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let remedy = match folder.join("checkpoint.safetensors").is_file() {
        true => Remedy::Resume(folder.to_owned()),
        false => Remedy::Train,
    };
    let message =
        format!("this is not the folder of a run with results: there is no {}", missing.join(" and no "));
    Err(Error::data(folder, message).with(remedy))
}
