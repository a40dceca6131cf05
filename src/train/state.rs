//! The complete state of a run in `checkpoint.safetensors`, to go on from as if nothing had happened.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Row, Settings};
use crate::checkpoint::RUN_FORMAT;
use crate::checkpoint::file::{Metadata, TensorFile, Wanted, encode, sha256};
use crate::config::TrainConfig;
use crate::engine::{Engine, Metrics, Vector};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::tensor::Tensor;

/// Name of the file in a run's folder.
pub(super) const FILE: &str = "checkpoint.safetensors";
const VERSION: &str = "2";
/// The header has a row for each epoch and net, so it grows with the run; beyond this the safetensors crate reads none.
const MAX_HEADER: u64 = 100_000_000;

/// A run as it was saved.
#[derive(Debug)]
pub struct RunState {
    /// The network and its recipe.
    pub model: Model,
    /// What the run was started with.
    pub settings: Settings,
    pub(super) progress: Progress,
    /// The vectors of each replica, in the order of [`vectors`].
    pub(super) replicas: Vec<Vec<Vec<Tensor>>>,
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Steps taken.
    pub(super) step: u32,
    /// One row an epoch and replica.
    pub(super) rows: Vec<Row>,
    /// Sums over the steps of the epoch that is not finished, one for each replica.
    pub(super) partial: Vec<Partial>,
    /// Seconds spent in that epoch.
    pub(super) partial_seconds: f64,
    /// Nets of a sweep whose weights are no longer numbers. They stay out, and the file has zeros for them.
    pub(super) diverged: Vec<bool>,
    /// SHA-256 of the images and labels: a run goes on with the same data or not at all.
    pub(super) data_sha256: String,
}

/// [`Metrics`], exactly: JSON readers may round an `f64`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Partial {
    loss_sum_bits: u64,
    correct: usize,
    images: usize,
}

impl From<Metrics> for Partial {
    fn from(metrics: Metrics) -> Self {
        Self { loss_sum_bits: metrics.loss_sum.to_bits(), correct: metrics.correct, images: metrics.images }
    }
}

impl From<Partial> for Metrics {
    fn from(partial: Partial) -> Self {
        Self {
            loss_sum: f64::from_bits(partial.loss_sum_bits),
            correct: partial.correct,
            images: partial.images,
        }
    }
}

/// What an engine must be given back to go on, with the names that the tensors get in the file.
fn vectors(train: &TrainConfig) -> Vec<(&'static str, Vector)> {
    let mut all = vec![("weights", Vector::Weights)];
    if train.average_decay > 0.0 {
        all.push(("average", Vector::Average));
    }
    all.extend(train.optimizer.memory().iter().map(|&name| (name, Vector::Memory(name))));
    all
}

/// Names and shapes of a vector's tensors, as [`Engine::read`] gives them.
fn tensors_of(model: &Model, vector: Vector) -> Vec<Wanted> {
    let all = model.params().into_iter();
    all.filter(|param| param.param.trained || !matches!(vector, Vector::Memory(_)))
        .map(|param| (param.name, param.param.shape))
        .collect()
}

/// The file of a run.
pub(super) fn save(
    engine: &mut (dyn Engine + '_),
    model: &Model,
    settings: &Settings,
    progress: &Progress,
) -> Result<Vec<u8>> {
    let vectors = vectors(&model.train);
    let mut read = Vec::new();
    for &(_, vector) in &vectors {
        read.push(engine.read_all(vector)?.into_iter());
    }
    let mut tensors = Vec::new();
    for (replica, net) in settings.replicas.iter().enumerate() {
        for ((vector_name, _), replicas) in vectors.iter().zip(&mut read) {
            for mut tensor in replicas.next().expect("every replica was read") {
                if progress.diverged[replica] {
                    tensor.data.fill(0.0);
                }
                let name = format!("{replica}.{vector_name}.{}", tensor.name);
                if !tensor.data.iter().all(|value| value.is_finite()) {
                    return Err(super::diverged(model, net, &name));
                }
                tensors.push(Tensor { name, ..tensor });
            }
        }
    }
    let json = |value: serde_json::Result<String>| value.expect("plain values are JSON");
    let metadata = [
        ("format", RUN_FORMAT.to_owned()),
        ("version", VERSION.to_owned()),
        ("model", model.to_toml()),
        ("settings", json(serde_json::to_string(settings))),
        ("progress", json(serde_json::to_string(progress))),
        ("weights_sha256", sha256(&tensors)),
    ];
    let metadata: Metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Ok(encode(&tensors, &metadata))
}

impl RunState {
    /// Name of the file in a run's folder.
    pub const FILE: &str = FILE;

    /// Reads the state of the run in `folder`.
    ///
    /// # Errors
    /// A folder without one, and files that are damaged or come from elsewhere.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        if !path.exists() {
            let message = format!(
                "--resume {}: there is no {FILE} in it; a run writes it after its first epoch",
                folder.display()
            );
            return Err(Error::Usage(message));
        }
        let bad = |message: String| Error::checkpoint(&path, message);
        let file = TensorFile::read(&path, MAX_HEADER, u64::MAX)?;
        let get = |key: &str| {
            let value = file.metadata.get(key);
            value.ok_or_else(|| bad(format!("this is not the state of a run: its metadata has no `{key}`")))
        };
        if get("format")? != RUN_FORMAT || get("version")? != VERSION {
            let message = format!("this is not the state of a run in version {VERSION} of {RUN_FORMAT}");
            return Err(bad(message));
        }
        let model = Model::parse(get("model")?, "model").map_err(|error| bad(error.to_string()))?;
        let damaged = |error: serde_json::Error| bad(format!("damaged metadata: {error}"));
        let settings: Settings = serde_json::from_str(get("settings")?).map_err(damaged)?;
        let progress: Progress = serde_json::from_str(get("progress")?).map_err(damaged)?;
        if settings.replicas.is_empty()
            || [progress.partial.len(), progress.diverged.len()] != [settings.replicas.len(); 2]
        {
            return Err(bad("damaged metadata: nets and sums do not fit together".into()));
        }
        let vectors = vectors(&model.train);
        let mut wanted = Vec::new();
        for replica in 0..settings.replicas.len() {
            for &(vector_name, vector) in &vectors {
                let named = tensors_of(&model, vector).into_iter();
                wanted.extend(named.map(|(name, shape)| (format!("{replica}.{vector_name}.{name}"), shape)));
            }
        }
        let mut tensors = file.tensors(&wanted)?.into_iter();
        let replicas = (0..settings.replicas.len())
            .map(|_| {
                let vector = |&(_, vector): &(&str, Vector)| {
                    let names = tensors_of(&model, vector).into_iter();
                    names.zip(&mut tensors).map(|((name, _), tensor)| Tensor { name, ..tensor }).collect()
                };
                vectors.iter().map(vector).collect()
            })
            .collect();
        Ok(Self { model, settings, progress, replicas })
    }

    /// Gives an engine everything back.
    pub(super) fn restore(&self, engine: &mut (dyn Engine + '_)) -> Result<()> {
        for (replica, saved) in self.replicas.iter().enumerate() {
            for ((_, vector), tensors) in vectors(&self.model.train).into_iter().zip(saved) {
                engine.write(vector, replica, tensors)?;
            }
        }
        engine.set_step(self.progress.step)
    }
}
