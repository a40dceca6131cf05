//! Training: epochs, schedules, metrics, and the folder of a run. How a step is computed is the engine's affair.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Deserializer, Serialize};

use crate::checkpoint::{Checkpoint, Trained};
use crate::device::{Device, Opened};
use crate::engine::{Metrics, Setup, Vector};
use crate::error::{Error, Result};
use crate::gpu::GpuOptions;
use crate::model::Model;
use crate::replica::Replica;
use crate::tensor::Tensor;

mod folder;
mod images;
mod settings;
mod state;
mod summary;
mod sweep;

use folder::RunFolder;
pub use images::TrainingData;
pub use settings::Settings;
pub use state::RunState;
use state::{Partial, Progress};
use summary::round;
pub use summary::{PointSummary, ReplicaSummary, Spread, Summary};
pub use sweep::{MOST_NETS, Sweep};

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

/// Someone who wants to see how a run goes.
pub trait Watch {
    /// Called after every few steps: steps taken in this epoch, steps of an epoch, sums of each net over the epoch so far.
    fn steps(&mut self, _epoch: usize, _done: usize, _of: usize, _sums: &[Metrics]) {}

    /// Called after every epoch with a row for each net.
    fn epoch(&mut self, _rows: &[Row]) {}
}

/// No one.
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
    folder: RunFolder,
    /// Of every step, for each net.
    learning_rates: Vec<Vec<f32>>,
    steps_per_epoch: u32,
    progress: Progress,
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
/// How often a watcher hears of a run.
const REPORT_SECONDS: f64 = 0.2;

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
        mean: data.mean,
        std: data.std,
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
    let opened = device.open(&setup, options)?;
    let learning_rates = settings.replicas.iter().map(|net| setup.learning_rates(net)).collect();
    Ok((opened, learning_rates, steps_per_epoch as u32))
}

/// The weights are no longer numbers.
fn diverged(model: &Model, net: &Replica, what: &str) -> Error {
    let Replica { seed, point, .. } = net;
    let (which, cure) = match point.is_empty() {
        true => (format!("seed {seed}"), "lower learning_rate in [train]"),
        false => (format!("{point}, seed {seed}"), "leave it out, or lower its learning rate"),
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
        };
        let folder = RunFolder::create(out, &model.name)?;
        let device = device.name();
        Ok(Self { model, settings, data, device, opened, folder, learning_rates, steps_per_epoch, progress })
    }

    /// Goes on with a saved run in its folder.
    ///
    /// # Errors
    /// Other data than the run began with.
    pub fn resume(
        state: &'a RunState,
        data: &'a TrainingData,
        device: &Device,
        options: GpuOptions,
        folder: &Path,
    ) -> Result<Self> {
        let (model, settings) = (&state.model, &state.settings);
        if data.sha256() != state.progress.data_sha256 {
            return Err(Error::data(
                &data.dir,
                "these are not the images that the run in this folder began with",
            ));
        }
        let (mut opened, learning_rates, steps_per_epoch) = open(model, settings, data, device, options)?;
        if state.progress.step as usize > learning_rates[0].len() {
            return Err(Error::checkpoint(folder, "damaged metadata: more steps taken than the run has"));
        }
        state.restore(&mut *opened.engine)?;
        let mut progress = state.progress.clone();
        // A row of an epoch that was stopped midway is made again when the epoch is over.
        progress.rows.retain(|row| row.step % steps_per_epoch == 0);
        let folder = RunFolder::existing(folder)?;
        let device = device.name();
        Ok(Self { model, settings, data, device, opened, folder, learning_rates, steps_per_epoch, progress })
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

    /// True if tests and the saved model use the moving averages.
    fn averaged(&self) -> bool {
        self.model.train.average_decay > 0.0
    }

    /// Trains until `max_steps` steps were taken in all, or to the end. Saves the state after every epoch.
    ///
    /// # Errors
    /// What the device or the disk refuses, and weights that are no longer finite; in a sweep only if no net's are.
    pub fn train(&mut self, max_steps: Option<u32>, watch: &mut dyn Watch) -> Result<()> {
        let last = self.learning_rates[0].len() as u32;
        let end = max_steps.unwrap_or(last).min(last);
        while self.progress.step < end {
            let epoch_end = (self.progress.step / self.steps_per_epoch + 1) * self.steps_per_epoch;
            self.train_until(epoch_end.min(end), watch)?;
            self.finish_epoch(watch)?;
        }
        let has_row = |row: &Row| row.step == self.progress.step;
        if self.progress.step > 0 && !self.progress.rows.last().is_some_and(has_row) {
            // Stopped midway before, and again asked to stop there.
            let averaged = self.averaged();
            self.opened.engine.start_evaluation(averaged)?;
            self.finish_epoch(watch)?;
        }
        Ok(())
    }

    /// Trains to the step `stop` of the current epoch, and starts the evaluation behind it.
    fn train_until(&mut self, stop: u32, watch: &mut dyn Watch) -> Result<()> {
        let averaged = self.averaged();
        let Self { opened, progress, steps_per_epoch, .. } = self;
        let epoch = progress.step / *steps_per_epoch;
        let mut ahead = VecDeque::new();
        let (mut started, mut steps) = (progress.step, 4);
        let mut last = Instant::now();
        while progress.step < stop {
            // While the host looks at some steps, the device has the next ones.
            while started < stop && ahead.len() < 2 {
                let now = steps.min(stop - started);
                opened.engine.start_training(now as usize)?;
                ahead.push_back(now);
                started += now;
                if started == stop {
                    opened.engine.start_evaluation(averaged)?;
                }
            }
            let sums = opened.engine.collect()?;
            let collected = ahead.pop_front().expect("steps were started");
            let seconds = last.elapsed().as_secs_f64();
            last = Instant::now();
            for (partial, sum) in progress.partial.iter_mut().zip(sums) {
                let mut total = Metrics::from(*partial);
                total.add(sum);
                *partial = total.into();
            }
            progress.step += collected;
            progress.partial_seconds += seconds;
            let wanted = REPORT_SECONDS / (seconds / f64::from(collected)).max(1e-6);
            steps = (wanted as u32).clamp(1, 100_000);
            let sums: Vec<Metrics> = progress.partial.iter().map(|&partial| partial.into()).collect();
            let done = progress.step - epoch * *steps_per_epoch;
            watch.steps(epoch as usize + 1, done as usize, *steps_per_epoch as usize, &sums);
        }
        Ok(())
    }

    /// Collects the evaluation that was started, and writes the state and the metrics.
    fn finish_epoch(&mut self, watch: &mut dyn Watch) -> Result<()> {
        let start = Instant::now();
        let tests = self.opened.engine.collect()?;
        let progress = &mut self.progress;
        let seconds = progress.partial_seconds + start.elapsed().as_secs_f64();
        let first = progress.rows.len();
        for (replica, ((net, &partial), test)) in
            self.settings.replicas.iter().zip(&progress.partial).zip(tests).enumerate()
        {
            let train = Metrics::from(partial);
            let out = &mut progress.diverged[replica];
            *out |= !(train.loss().is_finite() && test.loss().is_finite());
            // To find out which values do not train is what a sweep is for.
            if *out && net.point.is_empty() {
                return Err(diverged(self.model, net, "the loss"));
            }
            let figure = |value: f64| if *out { f64::NAN } else { round(value) };
            progress.rows.push(Row {
                seed: net.seed,
                epoch: progress.step.div_ceil(self.steps_per_epoch) as usize,
                step: progress.step,
                learning_rate: self.learning_rates[replica][progress.step as usize - 1],
                train_loss: figure(train.loss()),
                train_accuracy: figure(train.accuracy()),
                test_loss: figure(test.loss()),
                test_accuracy: figure(test.accuracy()),
                test_correct: test.correct,
                seconds: round(seconds),
                train_seconds: round(progress.partial_seconds),
            });
        }
        if progress.diverged.iter().all(|&out| out) {
            return Err(diverged(self.model, &self.settings.replicas[0], "the loss of every net"));
        }
        if progress.step.is_multiple_of(self.steps_per_epoch) {
            progress.partial.fill(Partial::default());
            progress.partial_seconds = 0.0;
        }
        let state = state::save(&mut *self.opened.engine, self.model, self.settings, progress)?;
        self.folder.write(state::FILE, &state)?;
        self.folder.write("metrics.csv", self.csv().as_bytes())?;
        watch.epoch(&self.progress.rows[first..]);
        Ok(())
    }

    fn csv(&self) -> String {
        let several = self.settings.has_several();
        let keys = self.settings.swept_keys();
        // The column learning_rate is that of the step, whether it is swept or not.
        let mut text: String = keys.iter().map(|key| format!("sweep.{key},")).collect();
        text += if several { "seed," } else { "" };
        text += "epoch,step,learning_rate,train_loss,train_accuracy,test_loss,test_accuracy,seconds\n";
        for (row, net) in self.progress.rows.iter().zip(self.settings.replicas.iter().cycle()) {
            for key in &keys {
                text += &net.point.0.get(*key).map_or_else(String::new, f32::to_string);
                text += ",";
            }
            if several {
                text += &format!("{},", row.seed);
            }
            let Row {
                epoch, step, learning_rate, train_loss, train_accuracy, test_loss, test_accuracy, ..
            } = row;
            text += &format!("{epoch},{step},{learning_rate},{train_loss},{train_accuracy},{test_loss},");
            text += &format!("{test_accuracy},{:.3}\n", row.seconds);
        }
        text
    }

    /// Writes the models and the summary.
    ///
    /// # Panics
    /// Before the first step.
    pub fn finish(&mut self) -> Result<Summary> {
        let vector = if self.averaged() { Vector::Average } else { Vector::Weights };
        let mut replicas = Vec::new();
        let nets = self.settings.replicas.len();
        let weights = self.opened.engine.read_all(vector)?;
        for (replica, (net, weights)) in self.settings.replicas.iter().zip(weights).enumerate() {
            let rows = || self.progress.rows.iter().skip(replica).step_by(nets);
            let last = rows().next_back().expect("a step was taken");
            let (best, best_epoch) = summary::best(rows().map(|row| (row.epoch, row.test_accuracy)));
            let mut summary = ReplicaSummary {
                net: net.clone(),
                file: None,
                final_test_accuracy: last.test_accuracy,
                final_test_loss: last.test_loss,
                best_test_accuracy: best,
                best_epoch,
                weights_sha256: None,
            };
            if self.progress.diverged[replica] {
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
                shadernet: env!("CARGO_PKG_VERSION").into(),
            };
            let checkpoint = Checkpoint {
                model: net.model(self.model, &self.model.train)?,
                weights,
                mean: self.data.mean,
                std: self.data.std,
                classes: self.model.classes.clone().unwrap_or_else(|| self.data.classes.clone()),
                trained,
                test_accuracy: last.test_accuracy,
                test_loss: last.test_loss,
                warnings: Vec::new(),
            };
            let file = self.settings.model_file(net);
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
}
