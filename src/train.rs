//! Training: epochs, schedules, metrics, and the folder of a run. How a step is computed is the engine's affair.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize};

use crate::device::{Device, Opened};
use crate::engine::{Metrics, Setup, Vector};
use crate::error::{Error, Result};
use crate::gpu::GpuOptions;
use crate::model::Model;
use crate::replica::Replica;
use crate::tensor::Tensor;

mod epochs;
mod folder;
mod images;
mod results;
mod settings;
mod state;
mod summary;
mod sweep;

pub use epochs::Ending;
use folder::RunFolder;
pub use images::TrainingData;
pub use settings::Settings;
pub use state::RunState;
use state::{Partial, Progress};
pub use summary::{DeviceSpan, PointSummary, ReplicaSummary, Spread, Summary};
pub use sweep::{MOST_NETS, Sweep};

/// Number of the rules by which a model, a recipe, data and a seed become weights, for images of so many channels. It grows
/// whenever these four give other weights than before on purpose (`tests/determinism.rs` notices), so that results of both are
/// not mixed. By rules 2 each channel has its own mean and deviation; by rules 1, one normalised them all.
pub const fn rules(channels: usize) -> u32 {
    if channels == 1 { 1 } else { 2 }
}

/// Figures of one net after one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Seed of the net.
    pub seed: u32,
    /// Epoch, counted from 1.
    pub epoch: usize,
    /// Steps taken since the start of the run.
    pub step: u32,
    /// Learning rate of the last of them.
    pub learning_rate: f32,
    /// Mean loss over the epoch's training steps; NaN, as all figures of the net, once its weights are no longer numbers.
    #[serde(deserialize_with = "number_or_nan")]
    pub train_loss: f64,
    /// Right answers during the epoch's training steps, in percent.
    #[serde(deserialize_with = "number_or_nan")]
    pub train_accuracy: f64,
    /// Mean loss on the test images after the epoch.
    #[serde(deserialize_with = "number_or_nan")]
    pub test_loss: f64,
    /// Right answers there, in percent.
    #[serde(deserialize_with = "number_or_nan")]
    pub test_accuracy: f64,
    /// Number of right answers there.
    pub test_correct: usize,
    /// Seconds of the epoch.
    pub seconds: f64,
    /// Seconds of its training steps alone.
    pub train_seconds: f64,
}

/// JSON has no NaN and writes null.
fn number_or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Someone who wants to see how a run goes, and may stop it.
pub trait Watch {
    /// Asked several times a second, and at least between two steps: `Break` ends the run after the steps that are under
    /// way, with its state saved.
    fn go_on(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Called after every few steps: steps taken in this epoch, steps of an epoch, sums of each net over the epoch so far.
    fn steps(&mut self, _epoch: usize, _done: usize, _of: usize, _sums: &[Metrics]) {}

    /// Called after every epoch with a row for each net.
    fn epoch(&mut self, _rows: &[Row]) {}
}

/// Nobody watches.
impl Watch for () {}

/// A run in progress.
///
/// # Examples
/// Twenty steps on MNIST; `examples/train.rs` is a whole training.
///
/// ```
/// use std::path::PathBuf;
///
/// use shadernet::checkpoint::Checkpoint;
/// use shadernet::device::Device;
/// use shadernet::gpu::GpuOptions;
/// use shadernet::model::Model;
/// use shadernet::replica::Replica;
/// use shadernet::train::{Run, Settings, TrainingData};
///
/// let text = std::fs::read_to_string("data/models/small-1k.toml")?;
/// let model = Model::parse(&text, "small-1k.toml")?;
/// let folder = PathBuf::from("data/mnist");
/// let data = TrainingData::load(&folder, model.input, 0)?;
/// let replicas = vec![Replica::new(&model, &model.train, 0)];
/// let settings = Settings { replicas, shuffle: true, data: folder, hold_out: 0 };
/// let device = Device::cpu(None);
/// # let temporary = tempfile::tempdir()?;
/// # let out = temporary.path().join("run");
/// let mut run = Run::start(&model, &settings, &data, &device, GpuOptions::DEFAULT, None, Some(&out))?;
/// run.train(Some(20), &mut ())?;
/// let summary = run.finish()?;
/// assert_eq!(summary.steps, 20);
/// assert_eq!(Checkpoint::load(out.join("model.safetensors"))?.test_accuracy, summary.final_test_accuracy);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Run<'a> {
    model: &'a Model,
    settings: &'a Settings,
    data: &'a TrainingData,
    device: String,
    opened: Opened<'a>,
    folder: Arc<RunFolder>,
    /// Of every step, for each net.
    learning_rates: Vec<Vec<f32>>,
    steps_per_epoch: u32,
    progress: Progress,
    /// Longest time between two states on the disk.
    save_every: Duration,
    /// When the state was last written, and which step it has.
    saved: (Instant, Option<u32>),
    /// The nets as they were last tested.
    tested: Option<Tested>,
    /// When models and summary were last written.
    results_written: Option<Written>,
    /// Steps that take about [`REPORT_SECONDS`].
    pace: u32,
}

/// When models and summary were written, how long it took, and of which step they are.
#[derive(Debug, Clone, Copy)]
struct Written {
    at: Instant,
    took: Duration,
    step: u32,
}

/// Weights that were tested, with what is known of that time.
#[derive(Debug)]
struct Tested {
    step: u32,
    weights: Vec<Vec<Tensor>>,
    diverged: Vec<bool>,
}

impl std::fmt::Debug for Run<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run")
            .field("folder", &self.folder)
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}

/// Engines keep a learning rate for each step of the run and net, in one GPU buffer of at most 128 MiB.
const MAX_STEPS: usize = 30_000_000;
/// The state has a row for each epoch and net in its header, which safetensors limits to 100 MB.
const MAX_ROWS: usize = 200_000;
/// How often a watcher hears of a run.
const REPORT_SECONDS: f64 = 0.2;
/// State is written at the end of each epoch, and this often within long ones.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// An engine for a run, with the learning rate of every step of each net, and the steps of an epoch.
fn open<'a>(
    model: &'a Model,
    settings: &'a Settings,
    data: &'a TrainingData,
    device: &Device,
    options: GpuOptions,
) -> Result<(Opened<'a>, Vec<Vec<f32>>, u32)> {
    data.check(model)?;
    // The files of the run carry each net's model as text: better to hear now than in the end that it does not come back.
    settings.check(model)?;
    let setup = Setup {
        model,
        train: &model.train,
        replicas: &settings.replicas,
        shuffle: settings.shuffle,
        normalization: &data.normalization,
        training: Some(&data.train),
        test: &data.test,
    };
    let steps_per_epoch = setup.train_batches().map_or(1, |batches| batches.steps_per_epoch());
    let (epochs, steps) = (model.train.epochs, model.train.epochs.saturating_mul(steps_per_epoch));
    let (nets, most) = (settings.replicas.len(), MAX_STEPS / settings.replicas.len());
    if steps > most {
        let message = format!(
            "{epochs} epochs of {steps_per_epoch} steps are {steps} steps; at most {most} fit for {nets} nets"
        );
        return Err(Error::Usage(message));
    }
    if epochs.saturating_mul(nets) > MAX_ROWS {
        let message =
            format!("{epochs} epochs of {nets} nets: at most {} epochs fit for so many", MAX_ROWS / nets);
        return Err(Error::Usage(message));
    }
    let opened = device.open(&setup, options)?;
    let learning_rates = settings.replicas.iter().map(|net| setup.learning_rates(net)).collect();
    Ok((opened, learning_rates, steps_per_epoch as u32))
}

/// No net's weights are numbers any more.
fn diverged(model: &Model, nets: &[Replica], what: &str) -> Error {
    let (which, cure) = match nets {
        [Replica { seed, point, .. }] if point.is_empty() => {
            (format!("seed {seed}"), "lower learning_rate in [train]")
        }
        [Replica { seed, point, .. }] => {
            (format!("{point}, seed {seed}"), "leave it out, or lower its learning rate")
        }
        nets => (format!("all {} nets", nets.len()), "lower their learning rates"),
    };
    let message = format!("training diverged ({which}): {what} is no longer finite; {cure}");
    Error::Diverged { model: model.name.clone(), message }
}

impl<'a> Run<'a> {
    /// Starts a run in `out`, or in `runs/<model>-<n>`. `init` are first weights for all nets, instead of random ones.
    /// The folder is made last, so a run that cannot start leaves nothing behind.
    pub fn start(
        model: &'a Model,
        settings: &'a Settings,
        data: &'a TrainingData,
        device: &Device,
        options: GpuOptions,
        init: Option<&[Tensor]>,
        out: Option<&Path>,
    ) -> Result<Self> {
        if let Some(out) = out {
            Self::check_out(out)?;
        }
        let (mut opened, learning_rates, steps_per_epoch) = open(model, settings, data, device, options)?;
        let engine = &mut opened.engine;
        for (replica, net) in settings.replicas.iter().enumerate() {
            let random;
            let weights = match init {
                Some(weights) => weights,
                None => {
                    random = model.init(net.seed);
                    &random
                }
            };
            engine.write(Vector::Weights, replica, weights)?;
            if model.train.average_decay > 0.0 {
                engine.write(Vector::Average, replica, weights)?;
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
            devices: vec![DeviceSpan { from_step: 0, device: device.arithmetic(options) }],
        };
        let folder = Arc::new(RunFolder::create(out, &model.name)?);
        let device = device.name();
        Ok(Self {
            model,
            settings,
            data,
            device,
            opened,
            folder,
            learning_rates,
            steps_per_epoch,
            progress,
            save_every: SAVE_EVERY,
            saved: (Instant::now(), None),
            tested: None,
            results_written: None,
            pace: 1,
        })
    }

    /// Goes on with a saved run in its folder, to the same bits if the device computes as the one before.
    ///
    /// # Errors
    /// Other data than the run began with.
    pub fn resume(
        state: &'a RunState,
        data: &'a TrainingData,
        device: &Device,
        options: GpuOptions,
    ) -> Result<Self> {
        let (model, settings) = (&state.model, &state.settings);
        state.check_data(data)?;
        let (mut opened, learning_rates, steps_per_epoch) = open(model, settings, data, device, options)?;
        if state.progress.step as usize > learning_rates[0].len() {
            return Err(Error::checkpoint(
                state.folder.path(),
                "damaged metadata: more steps taken than the run has",
            ));
        }
        state.restore(&mut *opened.engine)?;
        let mut progress = state.progress.clone();
        let here = DeviceSpan { from_step: progress.step, device: device.arithmetic(options) };
        if progress.devices.last().is_none_or(|last| last.device != here.device) {
            progress.devices.push(here);
        }
        let folder = Arc::clone(&state.folder);
        let device = device.name();
        let mut run = Self {
            model,
            settings,
            data,
            device,
            opened,
            folder,
            learning_rates,
            steps_per_epoch,
            saved: (Instant::now(), Some(progress.step)),
            progress,
            save_every: SAVE_EVERY,
            tested: None,
            results_written: None,
            pace: 1,
        };
        let Progress { step, rows, diverged, .. } = &run.progress;
        if rows.last().is_some_and(|row| row.step == *step) {
            let (weights, diverged) = (state.vectors(run.model_vector()), diverged.clone());
            run.tested = Some(Tested { step: *step, weights, diverged });
        }
        // The run may have been killed between writing its state and this.
        run.write_metrics()?;
        Ok(run)
    }

    /// Sets the longest time between two states on the disk, 60 seconds if it is not set. State is written at the end of
    /// each epoch in any case.
    pub fn save_every(&mut self, time: Duration) {
        self.save_every = time;
    }

    /// The devices on which the run has been computed, whose results differ in rounding, and the step from which on each was
    /// used; several if it went on on another kind than before.
    pub fn devices(&self) -> &[DeviceSpan] {
        &self.progress.devices
    }

    /// The step of the state that is on the disk, from which the run can go on; none before the first was written, and after
    /// somebody took the folder away.
    pub fn saved_step(&self) -> Option<u32> {
        self.saved.1.filter(|_| self.folder.is_ours())
    }

    /// True if every epoch of the recipe was trained and tested.
    pub fn is_complete(&self) -> bool {
        let last = self.progress.rows.last().map_or(0, |row| row.step);
        last as usize == self.learning_rates[0].len()
    }

    /// Fails if `out` cannot be the folder of a new run: to be asked before any work.
    pub fn check_out(out: &Path) -> Result<()> {
        folder::check_free(out)
    }

    /// On a GPU: bytes of shared working memory, and what it would be if no tensors shared their place.
    pub fn memory(&self) -> Option<(u64, u64)> {
        self.opened.memory
    }

    /// Steps of an epoch.
    pub fn steps_per_epoch(&self) -> u32 {
        self.steps_per_epoch
    }

    /// Steps taken since the start of the run.
    pub fn step(&self) -> u32 {
        self.progress.step
    }

    /// Folder of the run.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The rows so far: one for each epoch and net.
    pub fn rows(&self) -> &[Row] {
        &self.progress.rows
    }
}
