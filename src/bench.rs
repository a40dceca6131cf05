//! How fast a model trains on a device, compared with what the device could do. Accuracy is not measured.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::cpu::{self, CpuEngine};
use crate::dataset::{FileNames, Images};
use crate::device::{Device, open_gpu};
use crate::engine::{Engine, Setup};
use crate::error::Result;
use crate::gpu::{self, GpuEngine, GpuOptions};
use crate::model::Model;
use crate::normalization::Normalization;
use crate::replica::Replica;
use crate::rng;
use crate::train::TrainingData;

mod operations;
mod scaling;
mod work;

pub use operations::OperationTime;
#[cfg(feature = "report")]
pub use scaling::chart;
pub use scaling::{Quantity, ScalingPoint, scaling};

/// What to measure besides the model, whose own batch size is used.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// As given to `--device`.
    pub device: &'a str,
    /// Threads of the CPU engine; `None` uses one per processor.
    pub threads: Option<usize>,
    /// Nets trained side by side.
    pub replicas: usize,
    /// Steps per repeat, at most [`MOST_STEPS`]; `None` takes as many as fit half a second.
    pub steps: Option<usize>,
    /// How a GPU runs it.
    pub gpu: GpuOptions,
    /// Dataset to train on; images are generated if there is none, or none that fits the model.
    pub data: &'a Path,
}

impl Options<'_> {
    fn device(&self) -> Result<Device> {
        let device = Device::named(self.device)?.with_options(self.gpu);
        Ok(match self.threads {
            Some(threads) => device.threads(threads),
            None => device,
        })
    }
}

/// Results of a measurement.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Measurement {
    /// Version of shadernet.
    pub version: &'static str,
    /// The device and why it was chosen.
    pub device: String,
    /// Name of the model.
    pub model: String,
    /// Its trained parameters.
    pub parameters: usize,
    /// Images per step, for each net.
    pub batch_size: usize,
    /// Nets trained side by side.
    pub replicas: usize,
    /// Training images.
    pub images: usize,
    /// True if the images are generated.
    pub generated: bool,
    /// From the choice of the device to the end of the first step.
    pub start_up: StartUp,
    /// A step in the middle of training.
    pub step: Step,
    /// The plan of a training step on a GPU; `None` on the CPU engine, which has no plan.
    pub plan: Option<Planned>,
    /// The device's peak rates.
    pub ceilings: Ceilings,
    /// The shortest step that the ceilings allow.
    pub bound: Bound,
    /// Where a step's time goes; `None` on a GPU without a clock.
    pub operations: Option<Vec<OperationTime>>,
}

/// Seconds until the first step was done.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct StartUp {
    /// Total, starting with the images in memory.
    pub seconds: f64,
    /// Looking for adapters; 0 on the CPU engine.
    pub find_seconds: f64,
    /// Opening the adapter; `None` on the CPU engine.
    pub open_seconds: Option<f64>,
    /// Compiling all kernels of training and evaluation; `None` on the CPU engine.
    pub pipelines_seconds: Option<f64>,
    /// Handing dataset and settings to the driver; `None` on the CPU engine.
    pub upload_seconds: Option<f64>,
    /// The first step. On a GPU it waits for the rest of the upload.
    pub first_step_seconds: f64,
}

/// A step after warm-up.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Step {
    /// Repeats that were timed.
    pub repeats: usize,
    /// Steps in each.
    pub steps: usize,
    /// Milliseconds per step, all nets together: the median of the repeats.
    pub milliseconds: f64,
    /// The same in the fastest repeat.
    pub fastest_milliseconds: f64,
    /// The same in the slowest.
    pub slowest_milliseconds: f64,
    /// Training images per second, counting the images of each net.
    pub images_per_second: f64,
    /// Seconds per epoch, training steps only.
    pub epoch_seconds: f64,
    /// 10⁹ multiplications and additions in a step's convolutions and linear layers.
    pub gflop: f64,
    /// The same per second.
    pub gflop_per_second: f64,
}

/// The plan of a step on a GPU.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Planned {
    /// Launches per step.
    pub launches: usize,
    /// Bytes of working memory.
    pub memory_bytes: u64,
    /// What they would be without sharing.
    pub unshared_bytes: u64,
    /// Minimum bytes that the launches read and write.
    pub traffic_bytes: f64,
}

/// A device's measured peak rates.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ceilings {
    /// 10⁹ multiplications and additions per second.
    pub gflop_per_second: f64,
    /// 10⁹ bytes read and written per second; `None` on the CPU engine, which has no plan to count traffic by.
    pub gb_per_second: Option<f64>,
    /// Microseconds per launch that only waits for the previous one; `None` on the CPU engine.
    pub launch_microseconds: Option<f64>,
}

/// The shortest step that the ceilings allow: the longer of arithmetic and memory traffic, plus the launches.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Bound {
    /// Milliseconds of the arithmetic.
    pub arithmetic_milliseconds: f64,
    /// Milliseconds of the memory traffic; 0 on the CPU engine.
    pub memory_milliseconds: f64,
    /// Milliseconds of the launches; 0 on the CPU engine.
    pub launch_milliseconds: f64,
    /// Milliseconds in total.
    pub milliseconds: f64,
    /// The fraction reached: this bound over the measured time.
    pub reached: f64,
}

/// Maximum number of steps per repeat.
pub const MOST_STEPS: usize = 65_536;
const REPEATS: usize = 5;
/// Duration of a repeat if the number of steps isn't given.
const REPEAT_SECONDS: f64 = 0.5;
const WARM_UP_SECONDS: f64 = 0.25;
/// Generated images: as many as in MNIST, or as many as fit this many bytes.
const MADE_IMAGES: usize = 60_000;
const MADE_BYTES: usize = 64 << 20;
const SEED: u32 = 1;

/// Measures the training of `model` on a device.
///
/// # Errors
/// A device that is missing, cannot be opened or fails; a dataset that cannot be read.
///
/// # Examples
/// ```no_run
/// use std::path::Path;
///
/// use shadernet::bench::{Options, measure};
/// use shadernet::checkpoint::Checkpoint;
/// use shadernet::gpu::GpuOptions;
///
/// let data = Path::new("data/mnist");
/// let options = Options { device: "auto", threads: None, replicas: 1, steps: None, gpu: GpuOptions::DEFAULT, data };
/// let report = measure(&Checkpoint::seed()?.model, &options)?;
/// println!("{:.2} ms a step on {}", report.step.milliseconds, report.device);
/// # Ok::<(), shadernet::error::Error>(())
/// ```
pub fn measure(model: &Model, options: &Options<'_>) -> Result<Measurement> {
    let data = Data::new(model, options.data)?;
    // The learning rate of every step of a repeat; every repeat starts at the first.
    let steps_per_epoch = data.train.count.div_ceil(model.train.batch_size.min(data.train.count));
    let mut model = model.clone();
    model.train.epochs = MOST_STEPS.div_ceil(steps_per_epoch);
    let model = &model;
    let replicas = Replica::of_seeds(model, (SEED..).take(options.replicas));
    let setup = Setup {
        model,
        replicas: &replicas,
        shuffle: true,
        normalization: &data.normalization,
        training: Some(&data.train),
        test: &data.test,
    };
    let start = Instant::now();
    let device = options.device()?;
    let found = Found { device, seconds: start.elapsed().as_secs_f64(), start };
    let measured = match found.device.adapter() {
        None => on_cpu(&found, &setup, options)?,
        Some(adapter) => on_gpu(&found, || open_gpu(adapter), &setup, options)?,
    };
    let flop = options.replicas as f64 * work::step_flops(model, measured.batch_size);
    let Measured { start_up, ceilings, plan, operations, batch_size, .. } = measured;
    let step = measured.times.step(batch_size * options.replicas, steps_per_epoch, flop);
    let bound = Bound::new(&step, plan.as_ref(), ceilings);
    Ok(Measurement {
        version: env!("CARGO_PKG_VERSION"),
        device: found.device.to_string(),
        model: model.name.clone(),
        parameters: model.parameter_count(),
        batch_size,
        replicas: options.replicas,
        images: data.train.count,
        generated: data.generated,
        start_up,
        step,
        plan,
        ceilings,
        bound,
        operations,
    })
}

/// A device, when it was found and how many seconds that took.
struct Found {
    device: Device,
    start: Instant,
    seconds: f64,
}

/// What the two kinds of engine have in common.
struct Measured {
    batch_size: usize,
    start_up: StartUp,
    times: Times,
    plan: Option<Planned>,
    ceilings: Ceilings,
    operations: Option<Vec<OperationTime>>,
}

fn on_cpu(found: &Found, setup: &Setup<'_>, options: &Options<'_>) -> Result<Measured> {
    let mut engine = CpuEngine::new(setup, Some(found.device.cpu_threads()))?;
    let first_step_seconds = first_step(&mut engine, setup)?;
    let start_up = StartUp {
        seconds: found.start.elapsed().as_secs_f64(),
        find_seconds: found.seconds,
        open_seconds: None,
        pipelines_seconds: None,
        upload_seconds: None,
        first_step_seconds,
    };
    let times = Times::measure(&mut engine, options.steps)?;
    let batches = setup.train_batches().expect("there are training images");
    engine.set_step(0)?;
    let operations = Some(operations::of_engine(&mut engine, setup, &batches, times.steps));
    let ceilings = Ceilings {
        gflop_per_second: cpu::flops_per_second(found.device.cpu_threads())? / 1e9,
        gb_per_second: None,
        launch_microseconds: None,
    };
    let batch_size = batches.batch_size;
    Ok(Measured { batch_size, start_up, times, plan: None, ceilings, operations })
}

fn on_gpu(
    found: &Found,
    open: impl FnOnce() -> Result<gpu::Gpu>,
    setup: &Setup<'_>,
    options: &Options<'_>,
) -> Result<Measured> {
    let start = Instant::now();
    let gpu = open()?;
    let open_seconds = start.elapsed().as_secs_f64();
    let mut engine = GpuEngine::new(gpu, setup, options.gpu)?;
    let first_step_seconds = first_step(&mut engine, setup)?;
    let start_up = StartUp {
        seconds: found.start.elapsed().as_secs_f64(),
        find_seconds: found.seconds,
        open_seconds: Some(open_seconds),
        pipelines_seconds: Some(engine.preparation().pipelines_seconds),
        upload_seconds: Some(engine.preparation().upload_seconds),
        first_step_seconds,
    };
    let times = Times::measure(&mut engine, options.steps)?;
    let launch_seconds = launch_seconds(&mut engine)?;
    let ceilings = gpu::MeasuredCeilings::measure(engine.gpu())?;
    let batches = setup.train_batches().expect("there are training images");
    let plan = engine.training_plan().expect("there are training images");
    let work = work::of_launches(setup.model, plan, &batches);
    let (memory_bytes, unshared_bytes) = plan.pooled_bytes();
    let planned = Planned {
        launches: plan.launches.len(),
        memory_bytes,
        unshared_bytes,
        traffic_bytes: work.iter().map(|work| work.bytes).sum(),
    };
    let operations = launch_seconds.map(|seconds| operations::of_plan(plan, &work, seconds));
    let ceilings = Ceilings {
        gflop_per_second: ceilings.flops_per_second / 1e9,
        gb_per_second: Some(ceilings.bytes_per_second / 1e9),
        launch_microseconds: Some(1e6 * ceilings.launch_seconds),
    };
    Ok(Measured { batch_size: plan.batch_size, start_up, times, plan: Some(planned), ceilings, operations })
}

/// a ÷ b; 0 if a coarse clock measured no time.
fn quotient(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}

fn first_step(engine: &mut dyn Engine, setup: &Setup<'_>) -> Result<f64> {
    engine.write_initial_weights(setup)?;
    seconds(engine, 1)
}

/// Seconds for the first `steps` steps.
fn seconds(engine: &mut dyn Engine, steps: usize) -> Result<f64> {
    engine.set_step(0)?;
    let start = Instant::now();
    engine.train(steps)?;
    Ok(start.elapsed().as_secs_f64())
}

/// Seconds of every launch of a step, or `None` without a clock: medians over several steps.
fn launch_seconds(engine: &mut GpuEngine) -> Result<Option<Vec<f64>>> {
    engine.set_step(0)?;
    let mut steps = Vec::new();
    for _ in 0..REPEATS {
        let Some(step) = engine.profile()? else { return Ok(None) };
        steps.push(step);
    }
    let launches = 0..steps[0].len();
    Ok(Some(launches.map(|launch| median(steps.iter().map(|step| step[launch]))).collect()))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Seconds per step, for each repeat.
struct Times {
    steps: usize,
    repeats: [f64; REPEATS],
}

impl Times {
    /// Warms up, then times the repeats.
    fn measure(engine: &mut dyn Engine, steps: Option<usize>) -> Result<Self> {
        let mut warm_up = 1;
        let mut last = seconds(engine, warm_up)?;
        while last < WARM_UP_SECONDS && warm_up < MOST_STEPS {
            warm_up *= 2;
            last = seconds(engine, warm_up)?;
        }
        let enough = (REPEAT_SECONDS / last * warm_up as f64).ceil() as usize;
        let steps = steps.unwrap_or(enough).clamp(1, MOST_STEPS);
        let mut repeats = [0.0; REPEATS];
        for repeat in &mut repeats {
            *repeat = seconds(engine, steps)? / steps as f64;
        }
        Ok(Self { steps, repeats })
    }

    fn step(&self, images: usize, steps_per_epoch: usize, flop: f64) -> Step {
        let seconds = median(self.repeats.iter().copied());
        Step {
            repeats: REPEATS,
            steps: self.steps,
            milliseconds: 1e3 * seconds,
            fastest_milliseconds: 1e3 * self.repeats.iter().copied().fold(f64::INFINITY, f64::min),
            slowest_milliseconds: 1e3 * self.repeats.iter().copied().fold(0.0, f64::max),
            images_per_second: images as f64 / seconds,
            epoch_seconds: seconds * steps_per_epoch as f64,
            gflop: flop / 1e9,
            gflop_per_second: flop / 1e9 / seconds,
        }
    }
}

impl Bound {
    fn new(step: &Step, plan: Option<&Planned>, ceilings: Ceilings) -> Self {
        let bytes = plan.map_or(0.0, |plan| plan.traffic_bytes);
        let launches = plan.map_or(0, |plan| plan.launches) as f64;
        let arithmetic_milliseconds = 1e3 * step.gflop / ceilings.gflop_per_second;
        let memory_milliseconds = ceilings.gb_per_second.map_or(0.0, |rate| bytes / 1e6 / rate);
        let launch_milliseconds = launches * ceilings.launch_microseconds.unwrap_or(0.0) / 1e3;
        let milliseconds = arithmetic_milliseconds.max(memory_milliseconds) + launch_milliseconds;
        Self {
            arithmetic_milliseconds,
            memory_milliseconds,
            launch_milliseconds,
            milliseconds,
            reached: milliseconds / step.milliseconds,
        }
    }
}

/// Images to train on. Their content doesn't affect the time.
struct Data {
    train: Arc<Images>,
    test: Arc<Images>,
    normalization: Normalization,
    generated: bool,
}

impl Data {
    /// The dataset in `dir`, or generated images of the model's shape if it is missing or doesn't fit.
    fn new(model: &Model, dir: &Path) -> Result<Self> {
        if dir.is_dir() {
            let data = TrainingData::load(dir, model.input)?;
            if data.check(model).is_ok() {
                let TrainingData { train, test, normalization, .. } = data;
                return Ok(Self { train, test, normalization, generated: false });
            }
        }
        let train = made_up(model, MADE_IMAGES.min(MADE_BYTES / model.input.len()).max(1));
        let normalization = train.normalization();
        Ok(Self { train: train.into(), test: made_up(model, 1).into(), normalization, generated: true })
    }
}

fn made_up(model: &Model, count: usize) -> Images {
    let words = |group: u32, at: usize| rng::words(SEED, 0, group, at as u32);
    let len = count * model.input.len();
    let bytes = (0..len.div_ceil(16)).flat_map(|at| words(0, at)).flat_map(u32::to_le_bytes);
    let class = |at: usize| (words(1, at)[0] as usize % model.class_count()) as u8;
    Images {
        count,
        channels: model.input.channels,
        height: model.input.height,
        width: model.input.width,
        pixels: bytes.take(len).collect(),
        labels: (0..count).map(class).collect(),
        files: FileNames::default(),
    }
}
