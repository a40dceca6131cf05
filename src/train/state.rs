//! The complete state of a run in `checkpoint.safetensors`, to go on from as if nothing had happened.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::folder::RunFolder;
use super::{DeviceSpan, EpochMetrics, Extension, Kept, Settings, TrainingData};
use crate::checkpoint::RUN_FORMAT;
use crate::checkpoint::file::{Metadata, TensorFile, Wanted, encode, sha256};
use crate::config::TrainConfig;
use crate::dataset::{HoldOut, Images, Loader};
use crate::device::Comparison;
use crate::engine::{Engine, Metrics, Vector};
use crate::error::{Error, Remedy, Result};
use crate::model::Model;
use crate::normalization::Normalization;
use crate::replica::Replica;
use crate::tensor::Tensor;

/// Name of the file in a run's folder.
pub(super) const FILE: &str = "checkpoint.safetensors";
const VERSION: &str = "3";
/// Versions that are still read: what they lack has a default, and they have no checksum of everything.
const OLD_VERSIONS: [&str; 1] = ["2"];
/// The header has a row for each epoch and net, so it grows with the run; beyond this the safetensors crate reads none.
const MAX_HEADER: u64 = 100_000_000;

/// A run as it was saved, in its folder, which belongs to this process until the state is dropped.
#[derive(Debug)]
pub struct RunState {
    /// The network and its recipe.
    pub model: Arc<Model>,
    pub(super) settings: Settings,
    /// True for a state of an older shadernet, which has no checksum of the whole file: damage may go unnoticed.
    pub is_old: bool,
    pub(super) folder: RunFolder,
    pub(super) progress: Progress,
    /// The vectors of each replica, in the order of [`vectors`].
    pub(super) replicas: Vec<Vec<Vec<Tensor>>>,
    /// The weights of [`Progress::kept`], for each net.
    pub(super) kept: Vec<Vec<Tensor>>,
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Steps taken.
    pub(super) step: u32,
    /// One row an epoch and replica.
    pub(super) rows: Vec<EpochMetrics>,
    /// Sums over the steps of the epoch that is not finished, one for each replica.
    pub(super) partial: Vec<Partial>,
    /// Seconds spent in that epoch.
    pub(super) partial_seconds: f64,
    /// Nets whose weights are no longer numbers. They stay out, and the file has zeros for them.
    pub(super) diverged: Vec<bool>,
    /// SHA-256 of the images and labels: a run goes on with the same data or not at all.
    pub(super) data_sha256: String,
    /// Names of the classes; empty in states of version 2.
    #[serde(default)]
    pub(super) classes: Vec<String>,
    /// [`rules`](super::rules) of the build that began the run.
    #[serde(default = "first_rules")]
    pub(super) rules: u32,
    /// The devices so far; empty in states of version 2.
    #[serde(default)]
    pub(super) devices: Vec<DeviceSpan>,
    /// What was measured to choose the first of them, if anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) comparison: Option<Comparison>,
    /// When the end of the run was moved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) extensions: Vec<Extension>,
    /// The step after which each net's weights were best so far; empty if nothing decides about that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) kept: Vec<u32>,
}

/// Those by which runs were trained when states did not tell.
fn first_rules() -> u32 {
    1
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

/// What the tensors of [`Progress::kept`] are called, like a vector.
const KEPT: &str = "kept";

/// Names and shapes of a vector's tensors, as [`Engine::read`] gives them.
fn tensors_of(model: &Model, vector: Vector) -> Vec<Wanted> {
    let all = model.params().into_iter();
    all.filter(|param| param.param.trained || !matches!(vector, Vector::Memory(_)))
        .map(|param| (param.name, param.param.shape))
        .collect()
}

/// The file of a run. A net whose weights are no longer numbers is put down as diverged, unless it has stopped.
pub(super) fn save(
    engine: &mut (dyn Engine + '_),
    (model, settings): (&Model, &Settings),
    progress: &mut Progress,
    kept: &[Kept],
    stopped: &[bool],
) -> Result<Vec<u8>> {
    let vectors = vectors(&model.train);
    let mut read = Vec::new();
    for &(_, vector) in &vectors {
        read.push(engine.read_all(vector)?.into_iter());
    }
    let mut tensors = Vec::new();
    for replica in 0..settings.replicas.len() {
        let first = tensors.len();
        for ((vector_name, _), replicas) in vectors.iter().zip(&mut read) {
            for tensor in replicas.next().expect("every replica was read") {
                let name = format!("{replica}.{vector_name}.{}", tensor.name);
                tensors.push(Tensor { name, ..tensor });
            }
        }
        let of_net: &mut [Tensor] = &mut tensors[first..];
        let bad = of_net.iter().find(|tensor| !tensor.data.iter().all(|value| value.is_finite()));
        progress.diverged[replica] |= bad.is_some() && !stopped[replica];
        if let Some(bad) = bad.filter(|_| progress.diverged.iter().all(|&out| out)) {
            return Err(super::diverged(model, &settings.replicas, &bad.name));
        }
        if progress.diverged[replica] || bad.is_some() {
            of_net.iter_mut().for_each(|tensor| tensor.data.fill(0.0));
        }
    }
    for (replica, kept) in kept.iter().enumerate() {
        let named = |tensor: &Tensor| Tensor {
            name: format!("{replica}.{KEPT}.{}", tensor.name),
            shape: tensor.shape.clone(),
            data: if progress.diverged[replica] { vec![0.0; tensor.data.len()] } else { tensor.data.clone() },
        };
        tensors.extend(kept.weights.iter().map(named));
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

    /// Takes the folder of a run, and reads its state.
    ///
    /// # Errors
    /// A folder in which another process trains, one without a state, and files that are damaged or come from elsewhere.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        RunFolder::check_owner(folder)?;
        if !folder.join(FILE).exists() {
            let message = match folder.is_dir() {
                true => {
                    "there is no run to resume in it: no state has been saved yet, or this is another folder"
                }
                false => "there is no such folder",
            };
            return Err(Error::Usage(format!("{}: {message}", folder.display())));
        }
        Self::read(RunFolder::existing(folder)?)
    }

    /// Reads the state in a folder that this process has.
    pub(super) fn read(folder: RunFolder) -> Result<Self> {
        let path = folder.path().join(FILE);
        let bad = |message: String| Error::checkpoint(&path, message);
        let file = TensorFile::read(&path, MAX_HEADER, u64::MAX)?;
        let get = |key: &str| {
            let value = file.metadata.get(key);
            value.ok_or_else(|| bad(format!("this is not the state of a run: its metadata has no `{key}`")))
        };
        let version = get("version")?;
        let is_known = version == VERSION || OLD_VERSIONS.contains(&version.as_str());
        if get("format")? != RUN_FORMAT || !is_known {
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
            return Err(bad("damaged metadata: nets and sums do not match".into()));
        }
        if ![0, settings.replicas.len()].contains(&progress.kept.len()) {
            return Err(bad("damaged metadata: nets and kept weights do not match".into()));
        }
        let vectors = vectors(&model.train);
        let mut wanted = Vec::new();
        for replica in 0..settings.replicas.len() {
            for &(vector_name, vector) in &vectors {
                let named = tensors_of(&model, vector).into_iter();
                wanted.extend(named.map(|(name, shape)| (format!("{replica}.{vector_name}.{name}"), shape)));
            }
        }
        for replica in 0..progress.kept.len() {
            let named = tensors_of(&model, Vector::Weights).into_iter();
            wanted.extend(named.map(|(name, shape)| (format!("{replica}.{KEPT}.{name}"), shape)));
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
        let kept = (0..progress.kept.len())
            .map(|_| {
                let names = tensors_of(&model, Vector::Weights).into_iter();
                names.zip(&mut tensors).map(|((name, _), tensor)| Tensor { name, ..tensor }).collect()
            })
            .collect();
        let (model, is_old) = (Arc::new(model), !file.is_sealed());
        Ok(Self { model, settings, is_old, folder, progress, replicas, kept })
    }

    /// The images in a folder, normalised by the rules that the run began with.
    ///
    /// # Errors
    /// As [`TrainingData::load`]; whether they are the right ones, [`Self::check_data`] says.
    pub fn load_data(&self, dir: impl AsRef<Path>) -> Result<TrainingData> {
        self.load_data_by(&Loader::new(), dir)
    }

    /// As [`RunState::load_data`], as `loader` says.
    ///
    /// # Errors
    /// As [`TrainingData::load`].
    pub fn load_data_by(&self, loader: &Loader<'_>, dir: impl AsRef<Path>) -> Result<TrainingData> {
        let dir = dir.as_ref();
        let input = self.model.input;
        let mut data = match self.settings.hold_out {
            HoldOut::NONE => TrainingData::load_by(loader, dir, input)?,
            which => TrainingData::load_held_out_by(loader, dir, input, which)?,
        };
        data.normalization = self.normalization(&data.train);
        data.named_as(&self.progress.classes);
        Ok(data)
    }

    fn normalization(&self, train: &Images) -> Normalization {
        if self.rules() == 1 { train.common_normalization() } else { train.normalization() }
    }

    /// Fails if these are not the images and classes that the run began with, or if they are normalised otherwise.
    ///
    /// # Errors
    /// Says what differs.
    pub fn check_data(&self, data: &TrainingData) -> Result<()> {
        let Progress { data_sha256, classes, .. } = &self.progress;
        if !classes.is_empty() && *classes != data.classes {
            let message = format!(
                "the run in {} began with the classes {classes:?}, but these are {:?}",
                self.folder.path().display(),
                data.classes
            );
            let remedy = Remedy::StartFromRun(self.folder.path().to_owned());
            return Err(Error::data(data.place(), message).with(remedy));
        }
        if data.normalization != self.normalization(&data.train) {
            let message = format!(
                "the run in {} began with pixels normalised by {}, but these are normalised by {}; \
                 RunState::load_data gives the former",
                self.folder.path().display(),
                self.normalization(&data.train),
                data.normalization
            );
            return Err(Error::data(data.place(), message));
        }
        if data.sha256() != *data_sha256 {
            let message = format!(
                "these are not the images that the run in {} began with; it can only be resumed with those",
                self.folder.path().display()
            );
            let remedy = Remedy::StartFromRun(self.folder.path().to_owned());
            return Err(Error::data(data.place(), message).with(remedy));
        }
        Ok(())
    }

    /// Moves the end of the run: it then goes on as a run of `epochs` epochs would from this step on, with the learning
    /// rates of such a run. A finished run is so trained further. On the disk nothing changes before the run is resumed and
    /// saved.
    ///
    /// # Errors
    /// No more epochs than the run has already trained.
    pub fn extend(&mut self, epochs: usize) -> Result<()> {
        let before = self.model.train.epochs;
        if epochs == before {
            return Ok(());
        }
        let done = self.progress.rows.last().map_or(0, |row| row.epoch);
        if epochs <= done {
            let message = format!(
                "{}: {epochs} epochs, but the run has already trained {done}; give the number of epochs in all",
                self.folder.path().display()
            );
            return Err(Error::Usage(message));
        }
        let model = Arc::make_mut(&mut self.model);
        model.train.epochs = epochs;
        model.train.check().map_err(Error::Usage)?;
        self.progress.extensions.push(Extension { at_step: self.progress.step, epochs_before: before });
        Ok(())
    }

    /// The tensors of one vector, for each net.
    pub(super) fn vectors(&self, wanted: Vector) -> Vec<Vec<Tensor>> {
        let at = vectors(&self.model.train).iter().position(|&(_, vector)| vector == wanted);
        let at = at.expect("a vector that the recipe has");
        self.replicas.iter().map(|net| net[at].clone()).collect()
    }

    /// The folder that it is in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The nets that the run trains.
    pub fn replicas(&self) -> &[Replica] {
        &self.settings.replicas
    }

    /// What the last steps were computed on, as [`Device::arithmetic`](crate::device::Device::arithmetic) says it; states of
    /// version 2 do not say.
    pub fn device(&self) -> Option<&str> {
        self.progress.devices.last().map(|last| last.device.as_str())
    }

    /// True if the run draws its training images in random order.
    pub fn shuffles(&self) -> bool {
        self.settings.shuffle
    }

    /// The folder of the dataset that the run was started with; empty if its images were made in memory.
    pub fn data_folder(&self) -> &Path {
        &self.settings.data
    }

    /// Training images that the run holds out in place of a test set.
    pub fn held_out(&self) -> HoldOut {
        self.settings.hold_out
    }

    /// [`rules`](super::rules) of the build that began the run.
    pub fn rules(&self) -> u32 {
        self.progress.rules
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

#[cfg(all(test, feature = "pictures"))]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::device::Device;
    use crate::train::Run;

    const MODEL: &str = "name = \"x\"\ninput = [3, 4, 4]\n\
        layers = [{ type = \"flatten\" }, { type = \"linear\", out_features = 2 }]\n[train]\nepochs = 2\nbatch_size = 4\n";

    /// Before each channel had its own, one mean and deviation normalised all.
    #[test]
    fn a_run_of_colours_goes_on_by_the_rules_it_began_with() {
        let dir = tempfile::tempdir().unwrap();
        let pictures = dir.path().join("data");
        for (index, part) in (0..6u8).map(|index| (index, if index < 4 { "train" } else { "test" })) {
            for (class, name) in [(0, "a"), (1, "b")] {
                let pixel =
                    |x: u32, y: u32| Rgb([40 * index + 9 * x as u8, 100 * class, 200 + 10 * y as u8 + index]);
                let folder = pictures.join(part).join(name);
                std::fs::create_dir_all(&folder).unwrap();
                RgbImage::from_fn(4, 4, pixel).save(folder.join(format!("{index}.png"))).unwrap();
            }
        }
        let model = Arc::new(Model::parse(MODEL, "x").unwrap());
        let device = Device::cpu().threads(1);
        let each = TrainingData::load(&pictures, model.input).unwrap();
        let mut together = each.clone();
        together.normalization = together.train.common_normalization();
        let start = |out: &Path| {
            let run = Run::builder(Arc::clone(&model), together.clone()).device(device.clone());
            run.folder(out).start().unwrap()
        };
        let model_of = |mut run: Run, out: &Path| {
            run.train(&mut ()).unwrap();
            run.finish().unwrap();
            Checkpoint::load(out.join("model.safetensors")).unwrap()
        };
        let out = dir.path().join("whole");
        let uninterrupted = model_of(start(&out), &out);

        let out = dir.path().join("part");
        start(&out).train_to_step(3, &mut ()).unwrap();
        let mut state = RunState::load(&out).unwrap();
        assert_eq!(state.rules(), 2);
        state.check_data(&each).unwrap();
        state.progress.rules = 1;
        let message = state.check_data(&each).unwrap_err().to_string();
        assert!(message.contains("began with pixels normalised by mean "), "{message}");
        let data = state.load_data(&pictures).unwrap();
        let made = model_of(state.resume(data, &device).unwrap(), &out);
        assert_eq!(made.weights, uninterrupted.weights);
        assert_eq!(made.normalization, together.normalization);
    }
}
