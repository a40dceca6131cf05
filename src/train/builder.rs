//! From what a run is to be to a run: new, or resumed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::judged;
use super::state::{Partial, Progress};
use super::{
    DeviceSpan, Kept, MAX_ROWS, MAX_STEPS, Run, RunFolder, RunState, SAVE_EVERY, Settings, Tested,
    TrainingData, rules,
};
use crate::checkpoint::InitialWeights;
use crate::device::{Device, Opened};
use crate::engine::{Setup, Vector};
use crate::error::{Error, Result};
use crate::model::{Model, NamedLayer};
use crate::replica::Replica;
use crate::tensor::Tensor;

/// A run to be. What is not set has the default of its method.
#[derive(Debug, Clone)]
#[must_use = "`start` starts the run"]
pub struct RunBuilder {
    model: Arc<Model>,
    data: Arc<TrainingData>,
    device: Option<Device>,
    replicas: Vec<Replica>,
    shuffle: bool,
    initial_weights: Option<InitialWeights>,
    folder: Option<PathBuf>,
    save_every: Duration,
}

impl RunBuilder {
    pub(super) fn new(model: Arc<Model>, data: Arc<TrainingData>) -> Self {
        let replicas = vec![Replica::new(&model, 0)];
        let (device, initial_weights, folder) = (None, None, None);
        Self { model, data, device, replicas, shuffle: true, initial_weights, folder, save_every: SAVE_EVERY }
    }

    /// Where to compute. Default: the faster of [`Device::auto`] and the CPU engine, by [`faster_device`].
    pub fn device(self, device: Device) -> Self {
        Self { device: Some(device), ..self }
    }

    /// Seed of all random numbers. Default: 0.
    pub fn seed(self, seed: u32) -> Self {
        self.seeds([seed])
    }

    /// Trains a net for each of these seeds, side by side.
    pub fn seeds(self, seeds: impl IntoIterator<Item = u32>) -> Self {
        let replicas = Replica::of_seeds(&self.model, seeds);
        Self { replicas, ..self }
    }

    /// Trains these nets side by side: any list of seeds and settings, such as those of a [`Sweep`](super::Sweep). Nets of
    /// one seed must differ in [`Replica::point`], so that each has a file of its own.
    pub fn replicas(self, replicas: Vec<Replica>) -> Self {
        Self { replicas, ..self }
    }

    /// Whether training images are drawn in random order. Default: true.
    pub fn shuffle(self, shuffle: bool) -> Self {
        Self { shuffle, ..self }
    }

    /// Starts all nets from these weights: a tensor for each of [`Model::params`], or what
    /// [`read_initial_weights`](crate::checkpoint::read_initial_weights) found in a file. Default: random ones.
    pub fn initial_weights(self, weights: impl Into<InitialWeights>) -> Self {
        Self { initial_weights: Some(weights.into()), ..self }
    }

    /// A new or empty folder for the results. Default: `runs/<model>-<n>`.
    pub fn folder(self, folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()), ..self }
    }

    /// Longest time between two states on the disk within long epochs. Default: 60 seconds.
    pub fn save_every(self, time: Duration) -> Self {
        Self { save_every: time, ..self }
    }

    /// Starts the run. Its folder is made last, so a run that cannot start leaves nothing behind.
    ///
    /// # Errors
    /// A folder that is in use or not empty; data, replicas or initial weights that do not fit the model; a device that
    /// cannot be opened or has too little memory.
    pub fn start(self) -> Result<Run> {
        let Self { model, data, device, replicas, shuffle, initial_weights, folder, save_every } = self;
        if let Some(folder) = &folder {
            Run::check_folder(folder)?;
        }
        if let Some(weights) = &initial_weights {
            check_weights(&model, &weights.tensors)?;
        }
        let device = match device {
            Some(device) => device,
            None => faster_device(Device::auto(), &model, &data, &replicas, shuffle)?,
        };
        let settings = Settings { replicas, shuffle, data: source(&data), hold_out: data.held_out };
        let mut ready = Ready::new(&model, &settings, &data, &device)?;
        let engine = &mut ready.opened.engine;
        for (replica, net) in settings.replicas.iter().enumerate() {
            let weights = match &initial_weights {
                Some(weights) => weights.of_seed(&model, net.seed),
                None => model.init(net.seed),
            };
            engine.write(Vector::Weights, replica, &weights)?;
            if model.train.average_decay > 0.0 {
                engine.write(Vector::Average, replica, &weights)?;
            }
        }
        let progress = Progress {
            step: 0,
            rows: Vec::new(),
            partial: vec![Partial::default(); settings.replicas.len()],
            partial_seconds: 0.0,
            diverged: vec![false; settings.replicas.len()],
            data_sha256: data.sha256(),
            classes: data.classes.clone(),
            rules: rules(model.input.channels),
            devices: vec![DeviceSpan { from_step: 0, device: device.arithmetic() }],
            comparison: device.comparison().cloned(),
            extensions: Vec::new(),
            kept: Vec::new(),
        };
        let folder = RunFolder::create(folder.as_deref(), &model.name)?;
        let run = ready.run(Parts { model, settings, data, folder, progress, device: &device, saved: None });
        Ok(Run { save_every, ..run })
    }
}

impl RunState {
    /// Resumes the run in its folder, with the same bits as if it had not been stopped if the device computes as the one
    /// before.
    ///
    /// # Errors
    /// Other data than the run began with; a device that cannot be opened or has too little memory.
    pub fn resume(self, data: impl Into<Arc<TrainingData>>, device: &Device) -> Result<Run> {
        let data = data.into();
        self.check_data(&data)?;
        let (model, mut settings) = (Arc::clone(&self.model), self.settings.clone());
        // The images may have moved.
        settings.data = source(&data);
        let mut ready = Ready::new(&model, &settings, &data, device)?;
        if self.progress.step as usize > ready.learning_rates[0].len() {
            return Err(Error::checkpoint(
                self.folder.path(),
                "damaged metadata: more steps taken than the run has",
            ));
        }
        self.restore(&mut *ready.opened.engine)?;
        let mut progress = self.progress.clone();
        let here = DeviceSpan { from_step: progress.step, device: device.arithmetic() };
        if progress.devices.last().is_none_or(|last| last.device != here.device) {
            progress.devices.push(here);
        }
        let tested = progress.rows.last().is_some_and(|row| row.step == progress.step).then(|| Tested {
            step: progress.step,
            weights: self.vectors(Run::vector_to_save(&model)),
            diverged: progress.diverged.clone(),
        });
        let kept =
            progress.kept.iter().zip(self.kept).map(|(&step, weights)| Kept { step, weights }).collect();
        let (saved, folder) = (Some(progress.step), self.folder);
        let mut run = ready.run(Parts { model, settings, data, folder, progress, device, saved });
        (run.tested, run.kept) = (tested, kept);
        // The run may have been killed between writing its state and this.
        run.write_metrics()?;
        Ok(run)
    }
}

impl Run {
    /// Sets the longest time between two states on the disk within long epochs, as [`RunBuilder::save_every`].
    pub fn save_every(&mut self, time: Duration) {
        self.save_every = time;
    }

    /// Fails if `folder` cannot be the folder of a new run: to be asked before any work.
    ///
    /// # Errors
    /// A folder that is in use, or that is not empty.
    pub fn check_folder(folder: &Path) -> Result<()> {
        super::folder::check_free(folder)
    }
}

/// If `device` is a GPU, the CPU engine in its place where that trains these nets faster: a few steps on each decide, and
/// the result is remembered in the user's cache.
///
/// # Errors
/// Data that do not fit the model.
pub fn faster_device(
    device: Device,
    model: &Model,
    data: &TrainingData,
    replicas: &[Replica],
    shuffle: bool,
) -> Result<Device> {
    check_model(model)?;
    data.check(model)?;
    #[cfg(feature = "gpu")]
    let device = {
        let cache = crate::device::cache_folder("devices");
        device.or_faster_cpu(&setup(model, data, replicas, shuffle), cache.as_deref())
    };
    #[cfg(not(feature = "gpu"))]
    let _ = (replicas, shuffle);
    Ok(device)
}

fn setup<'a>(model: &'a Model, data: &'a TrainingData, replicas: &'a [Replica], shuffle: bool) -> Setup<'a> {
    Setup {
        model,
        replicas,
        shuffle,
        normalization: &data.normalization,
        training: Some(&data.train),
        test: &data.test,
    }
}

/// Fails if a model was changed after it was built so that its layers no longer fit.
fn check_model(model: &Model) -> Result<()> {
    let config = model.config();
    config.check()?;
    let again = Model::new(config)?;
    let fits = |(old, new): (&NamedLayer, &NamedLayer)| {
        (&old.inputs, old.output, old.frozen) == (&new.inputs, new.output, new.frozen)
    };
    if model.layers.len() == again.layers.len() && model.layers.iter().zip(&again.layers).all(fits) {
        return Ok(());
    }
    let message = format!(
        "the model {} was changed after it was built; change its `config` and build it again",
        model.name
    );
    Err(Error::Usage(message))
}

/// Fails if these are not tensors of the model's names and shapes, in its order.
fn check_weights(model: &Model, weights: &[Tensor]) -> Result<()> {
    let params = model.params();
    let fits = params.len() == weights.len()
        && params.iter().zip(weights).all(|(param, tensor)| {
            (&param.name, &param.param.shape) == (&tensor.name, &tensor.shape)
                && tensor.data.len() == param.param.size()
                && tensor.data.iter().all(|value| value.is_finite())
        });
    if fits {
        return Ok(());
    }
    let message =
        format!("the initial weights are not the {} tensors of {}, all finite", params.len(), model.name);
    Err(Error::Usage(message))
}

/// Folder of the dataset, so that the run can be resumed from another working directory; empty for images in memory.
fn source(data: &TrainingData) -> PathBuf {
    let folder = data.folder.clone().unwrap_or_default();
    std::path::absolute(&folder).unwrap_or(folder)
}

/// An engine for a run, with the learning rate of every step of each net, and the steps of an epoch.
struct Ready {
    opened: Opened,
    learning_rates: Vec<Vec<f32>>,
    steps_per_epoch: u32,
}

/// What a run has besides.
struct Parts<'a> {
    model: Arc<Model>,
    settings: Settings,
    data: Arc<TrainingData>,
    folder: RunFolder,
    progress: Progress,
    device: &'a Device,
    /// The step of the state that is on the disk.
    saved: Option<u32>,
}

impl Ready {
    fn new(model: &Model, settings: &Settings, data: &TrainingData, device: &Device) -> Result<Self> {
        check_model(model)?;
        data.check(model)?;
        judged::check(model, data)?;
        // The run's files hold each net's model as text: better to find out now than at the end that it cannot be read back.
        settings.check(model)?;
        let setup = setup(model, data, &settings.replicas, settings.shuffle);
        let steps_per_epoch = setup.train_batches().map_or(1, |batches| batches.steps_per_epoch());
        let (epochs, steps) = (model.train.epochs, model.train.epochs.saturating_mul(steps_per_epoch));
        let (nets, most) = (settings.replicas.len(), MAX_STEPS / settings.replicas.len());
        if steps > most {
            let message = format!(
                "{epochs} epochs of {steps_per_epoch} steps are {steps} steps; at most {most} are possible for {nets} \
                 nets"
            );
            return Err(Error::Usage(message));
        }
        if epochs.saturating_mul(nets) > MAX_ROWS {
            let message =
                format!("{epochs} epochs of {nets} nets: at most {} epochs are possible", MAX_ROWS / nets);
            return Err(Error::Usage(message));
        }
        let opened = device.open(&setup)?;
        let learning_rates = settings.replicas.iter().map(|net| setup.learning_rates(net)).collect();
        Ok(Self { opened, learning_rates, steps_per_epoch: steps_per_epoch as u32 })
    }

    fn run(self, parts: Parts<'_>) -> Run {
        let Self { opened, learning_rates, steps_per_epoch } = self;
        let Parts { model, settings, data, folder, progress, device, saved } = parts;
        Run {
            model,
            settings,
            data,
            device: device.name(),
            place: device.clone(),
            opened,
            folder,
            learning_rates,
            steps_per_epoch,
            progress,
            save_every: SAVE_EVERY,
            saved: (Instant::now(), saved),
            tested: None,
            kept: Vec::new(),
            results_written: None,
            pace: 1,
        }
    }
}
