//! Training: epochs, schedules, metrics, and the folder of a run. How a step is computed is the engine's affair.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize};

use crate::device::{Device, Opened};
use crate::engine::Metrics;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::replica::Replica;
use crate::tensor::Tensor;

mod builder;
mod epochs;
#[cfg(feature = "tensorboard")]
mod events;
mod folder;
mod images;
mod judged;
mod range;
mod results;
mod settings;
mod state;
mod summary;
mod sweep;

pub use builder::{RunBuilder, faster_device};
pub use epochs::Ending;
#[cfg(feature = "tensorboard")]
pub use events::Events;
use folder::RunFolder;
pub use images::TrainingData;
use judged::Kept;
pub use range::{RangeStep, RangeTest, range_test};
pub(crate) use settings::Settings;
use state::Progress;
pub use state::RunState;
pub use summary::{DeviceSpan, Extension, PointSummary, ReplicaSummary, Spread, Summary};
pub use sweep::{MOST_NETS, Sweep};

/// Number of the rules by which a model, a recipe, data and a seed become weights, for images with this many channels. It grows
/// whenever these four give other weights than before on purpose (`cli/tests/determinism.rs` notices), so that results of both are
/// not mixed. By rules 2 each channel has its own mean and deviation; by rules 1, one normalised them all.
pub const fn rules(channels: usize) -> u32 {
    if channels == 1 { 1 } else { 2 }
}

/// Figures of one net after one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EpochMetrics {
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
    /// True if the net had stopped early before this epoch, which only others needed: its figures are NaN.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stopped: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// JSON has no NaN and writes null.
fn number_or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Follows a run, and may stop it. A closure that takes the rows of each epoch is one.
pub trait Watch {
    /// Asked several times a second, and at least between two steps: `Break` ends the run after the steps that are under
    /// way, with its state saved.
    fn go_on(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Called after every few steps: steps taken in this epoch, steps of an epoch, sums of each net over the epoch so far.
    fn steps(&mut self, _epoch: usize, _done: usize, _of: usize, _sums: &[Metrics]) {}

    /// Called after every epoch with a row for each net; `Break` ends the run, with its state saved.
    fn epoch(&mut self, _rows: &[EpochMetrics]) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Watches nothing.
impl Watch for () {}

/// Called after every epoch, as [`Watch::epoch`].
impl<F: FnMut(&[EpochMetrics]) -> ControlFlow<()>> Watch for F {
    fn epoch(&mut self, rows: &[EpochMetrics]) -> ControlFlow<()> {
        self(rows)
    }
}

/// A run in progress. It owns all it needs, and may move to another thread.
///
/// # Examples
/// Twenty steps on MNIST; `examples/train.rs` is a whole training.
///
/// ```
/// use shadernet::{Checkpoint, Device, Model, Run, TrainingData};
///
/// let text = std::fs::read_to_string("data/models/small-1k.toml")?;
/// let model = Model::parse(&text, "small-1k.toml")?;
/// let data = TrainingData::load("data/mnist", model.input)?;
/// # let temporary = tempfile::tempdir()?;
/// # let out = temporary.path().join("run");
/// let mut run = Run::builder(model, data).device(Device::cpu()).seed(3).folder(&out).start()?;
/// run.train_to_step(20, &mut ())?;
/// let summary = run.finish()?;
/// assert_eq!(summary.steps, 20);
/// assert_eq!(Checkpoint::load(out.join("model.safetensors"))?.test_accuracy, summary.final_test_accuracy);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Run {
    model: Arc<Model>,
    settings: Settings,
    data: Arc<TrainingData>,
    device: String,
    /// The same, to open once more.
    place: Device,
    opened: Opened,
    folder: RunFolder,
    /// Of every step, for each net.
    learning_rates: Vec<Vec<f32>>,
    steps_per_epoch: u32,
    progress: Progress,
    /// Longest time between two states on the disk.
    save_every: Duration,
    /// When the state was last written, and its step.
    saved: (Instant, Option<u32>),
    /// The nets as they were last tested.
    tested: Option<Tested>,
    /// Each net after the epoch that is its result so far, if held-out images decide about that; else empty.
    kept: Vec<Kept>,
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

impl std::fmt::Debug for Run {
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

impl Run {
    /// A run to be: how it is trained, on what, and where it is written.
    pub fn builder(model: impl Into<Arc<Model>>, data: impl Into<Arc<TrainingData>>) -> RunBuilder {
        RunBuilder::new(model.into(), data.into())
    }

    /// The devices on which the run has been computed, whose results differ in rounding, and the step from which on each was
    /// used; several if it went on on another kind than before.
    pub fn devices(&self) -> &[DeviceSpan] {
        &self.progress.devices
    }

    /// The learning rate of a step, counted from 0, of the net at this place; none after the last.
    pub fn learning_rate(&self, net: usize, step: u32) -> Option<f32> {
        self.learning_rates.get(net)?.get(step as usize).copied()
    }

    /// The step of the state that is on the disk, from which the run can go on; none before the first was written, and after
    /// somebody took the folder away.
    pub fn saved_step(&self) -> Option<u32> {
        self.saved.1.filter(|_| self.folder.is_ours())
    }

    /// True if every epoch of the recipe was trained and tested, or all nets stopped early.
    pub fn is_complete(&self) -> bool {
        let last = self.progress.rows.last().map_or(0, |row| row.step);
        last as usize == self.learning_rates[0].len() || self.all_stopped()
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
    pub fn rows(&self) -> &[EpochMetrics] {
        &self.progress.rows
    }
}
