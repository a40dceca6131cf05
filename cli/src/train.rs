//! `shadernet train`: from arguments to a run.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use shadernet::checkpoint::read_initial_weights;
use shadernet::config::Augment;
use shadernet::dataset::HoldOut;
use shadernet::device::{Device, cache_folder};
use shadernet::doctor::self_check;
use shadernet::engine::Metrics;
use shadernet::error::{Error, Result};
use shadernet::files;
use shadernet::gpu::GpuOptions;
use shadernet::model::Model;
use shadernet::replica::Replica;
use shadernet::report::{self as page, Source};
use shadernet::train::{
    Ending, EpochMetrics, Events, Run, RunState, Summary, Sweep, TrainingData, Watch, faster_device, rules,
};

use super::remedy::with_remedy;
use super::stop::Stop;
use super::{DeviceArgs, Output, Switch, loading, output};

mod epoch_line;
mod kept;
mod printer;
mod recipe;

use printer::Printer;

const EXAMPLES: &str = "\
Examples:
  shadernet train                              # the built-in network on data/mnist; results in runs/seed-1
  shadernet train model.toml --data photos     # your network, your images
  shadernet train --device cpu --epochs 3      # fewer epochs, on the processor
  shadernet train --replicas 5                 # five seeds side by side
  shadernet train --hold-out 5000 --sweep learning_rate=0.05,0.1    # which rate is better?
  shadernet train --resume runs/seed-1         # resume a run that was stopped
  shadernet train --resume runs/seed-1 --epochs 30     # train a finished run further, to 30 epochs in all";

/// What belongs to the recipe of a run is optional here: a run that goes on has it already.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TrainArgs {
    /// Model description (.toml) [default: the built-in seed network]
    model: Option<PathBuf>,
    /// Dataset folder: IDX files, or one folder of pictures per class [default: data/mnist]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs<false>,
    /// Seed of the random numbers [default: 0]
    #[arg(long, value_name = "S")]
    seed: Option<u32>,
    /// Number of networks to train side by side, with seeds S, S+1, ...; in a sweep, per combination [default: 1]
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..=256))]
    replicas: Option<u32>,
    #[arg(long, value_name = "KEY=V1,V2,...", help = sweep_help())]
    sweep: Vec<String>,
    /// Number of passes over the training set, with --resume those before included [default: the model's]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Images per step [default: the model's]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Stop after this many steps in all; `--resume` continues from there
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_steps: Option<u32>,
    /// Start from these weights: a run, a trained model, or a PyTorch `state_dict` saved as safetensors; a last layer for
    /// another number of classes is drawn anew
    #[arg(long, value_name = "RUN|FILE.safetensors")]
    init: Option<PathBuf>,
    /// Augment the training images at random [default: on, as the model specifies]
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    augment: Option<Switch>,
    /// Shuffle the training images [default: on]
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    shuffle: Option<Switch>,
    /// Folder for the results [default: runs/<model>-<n>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Resume the run in this folder, as if it had not been stopped; with --epochs, end it after another number of epochs
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// Interval in seconds at which the state is also saved during long epochs
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    save_every: u32,
    /// Evaluate on images held out of the training set instead of the test set, which stays unused: N random ones, or a
    /// share of each class, such as 0.1; for tuning, and for `early_stop` and `keep` in [train]
    #[arg(long, value_name = "N|SHARE")]
    hold_out: Option<HoldOut>,
    /// Give every tensor its own memory (GPU only)
    #[arg(long)]
    no_reuse: bool,
    /// Compute neighbouring layers in one kernel launch (GPU only); check with `bench` whether that is faster
    #[arg(long)]
    fusion: bool,
    /// Also write event files, whose curves TensorBoard shows: `tensorboard --logdir runs`
    #[arg(long)]
    tensorboard: bool,
    /// Do not write report.html
    #[arg(long)]
    no_report: bool,
    /// Print only the result
    #[arg(long)]
    quiet: bool,
    /// Print only the contents of summary.json, to standard output
    #[arg(long)]
    json: bool,
}

fn sweep_help() -> String {
    format!(
        "Train one network for each of these values of a setting, side by side; if given several times, one for each \
         combination. Settings: {}",
        Sweep::keys()
    )
}

/// Trains.
pub(crate) fn run(args: &TrainArgs, output: &mut Output) -> Result<ExitCode> {
    let report = if args.quiet {
        Printer::quiet()
    } else if args.json {
        Printer::new(Output::stderr())
    } else {
        Printer::new(Output::stdout())
    };
    match &args.resume {
        Some(folder) => resume(args, folder, report, output),
        None => start(args, report, output),
    }
}

/// Fails if an argument of a new run is given for one that goes on.
fn check_resume(args: &TrainArgs, folder: &Path) -> Result<()> {
    let given = [
        ("a model", args.model.is_some()),
        ("--seed", args.seed.is_some()),
        ("--replicas", args.replicas.is_some()),
        ("--sweep", !args.sweep.is_empty()),
        ("--batch-size", args.batch_size.is_some()),
        ("--init", args.init.is_some()),
        ("--augment", args.augment.is_some()),
        ("--shuffle", args.shuffle.is_some()),
        ("--out", args.out.is_some()),
        ("--hold-out", args.hold_out.is_some()),
    ];
    let Some((name, _)) = given.into_iter().find(|&(_, is_given)| is_given) else { return Ok(()) };
    let message = format!(
        "--resume uses the recipe that the run was started with, so it cannot be combined with {name}; to train its \
         network further with another recipe, start a new run with --init {}",
        files::quoted(folder)
    );
    Err(Error::Usage(message))
}

/// A new run.
fn start(args: &TrainArgs, mut report: Printer, output: &mut Output) -> Result<ExitCode> {
    let model = Arc::new(model(args)?);
    let replicas = replicas(args, &model)?;
    let shuffle = args.shuffle != Some(Switch::Off);
    let init = args.init.as_deref().map(|path| read_initial_weights(path, &model)).transpose()?;
    let notes = init.iter().flat_map(|weights| &weights.notes);
    notes.for_each(|note| output::warning(&format_args!("--init: {note}")));
    if let Some(out) = &args.out {
        Run::check_folder(out).map_err(|error| match error.kind() {
            Error::Usage(_) => Error::Usage(format!("--out {}", with_remedy(&error))),
            _ => error,
        })?;
    }
    let data = args.data.as_deref().unwrap_or(Path::new("data/mnist"));
    let data = load(args, data, &model)?;
    data.check(&model)?;
    let mut device = args.device.choose()?.with_options(gpu_options(args));
    if args.device.is_auto() {
        device = faster_device(device, &model, &data, &replicas, shuffle)?;
    }
    warn(&model, &data, &device);
    report.start(&device, &model, &replicas, shuffle, &data);
    check_adapter(&device, &model, &replicas, &mut report)?;
    let stop = Stop::catch()?;
    let mut run = Run::builder(Arc::clone(&model), Arc::clone(&data)).device(device).replicas(replicas);
    run = run.shuffle(shuffle);
    if let Some(weights) = init {
        run = run.initial_weights(weights);
    }
    if let Some(out) = &args.out {
        run = run.folder(out);
    }
    finish(args, run.start()?, &data, &model, stop, report, output)
}

/// A resumed run.
fn resume(args: &TrainArgs, folder: &Path, mut report: Printer, output: &mut Output) -> Result<ExitCode> {
    check_resume(args, folder)?;
    let fail = |error: Error| match error.kind() {
        Error::Usage(message) => Error::Usage(format!("--resume {message}")),
        _ => error,
    };
    let mut state = RunState::load(folder).map_err(fail)?;
    let epochs = state.model.train.epochs;
    if let Some(wanted) = args.epochs {
        let fail = |error| Error::Usage(format!("--epochs: {error}"));
        state.extend(wanted).map_err(fail)?;
    }
    if state.is_old {
        output::warning(&format_args!(
            "{}: the state was written by an older shadernet, without a checksum of the whole file, so damage may go \
             unnoticed",
            folder.display()
        ));
    }
    // Rules 1 are still known, for colours too.
    if ![1, rules(state.model.input.channels)].contains(&state.rules()) {
        output::warning(&format_args!(
            "the run was started by a shadernet with other training rules, so the result will not be that of an \
             uninterrupted run"
        ));
    }
    let dir = args.data.as_deref().unwrap_or(state.data_folder());
    if dir.as_os_str().is_empty() {
        let message =
            "the images of this run were made in memory; only the program that made them can resume it";
        return Err(Error::data(folder, message));
    }
    if args.data.is_none() && !dir.exists() {
        let message =
            "the run's dataset was in this folder, which no longer exists; use --data to say where it is now";
        return Err(Error::data(dir, message));
    }
    let model = Arc::clone(&state.model);
    let data = loading::with(args.quiet, |loader| state.load_data_by(loader, absolute(dir)))?;
    let data = Arc::new(data);
    state.check_data(&data)?;
    let before = state.device().filter(|_| args.device.is_auto()).and_then(Device::with_arithmetic);
    let device =
        before.map_or_else(|| args.device.choose(), |before| Ok(args.device.with_threads(before)))?;
    let device = device.with_options(gpu_options(args));
    warn(&model, &data, &device);
    report.start(&device, &model, state.replicas(), state.shuffles(), &data);
    check_adapter(&device, &model, state.replicas(), &mut report)?;
    let stop = Stop::catch()?;
    let run = state.resume(Arc::clone(&data), &device)?;
    if model.train.epochs != epochs {
        report.extended(&run, epochs);
    }
    if let [.., before, here] = run.devices()
        && here.from_step == run.step()
    {
        output::warning(&format_args!(
            "up to step {} the run was computed on {}; {} may round differently, so the result may differ from that \
             of an uninterrupted run (summary.json names both)",
            here.from_step, before.device, here.device
        ));
    }
    finish(args, run, &data, &model, stop, report, output)
}

/// So that errors and summaries name the folder wherever they are read.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The images of a new run.
fn load(args: &TrainArgs, folder: &Path, model: &Model) -> Result<Arc<TrainingData>> {
    let (folder, input) = (absolute(folder), model.input);
    let data = loading::with(args.quiet, |loader| match args.hold_out {
        None => TrainingData::load_by(loader, folder, input),
        Some(which) => TrainingData::load_held_out_by(loader, folder, input, which),
    })?;
    Ok(Arc::new(data))
}

fn warn(model: &Model, data: &TrainingData, device: &Device) {
    data.warnings.iter().for_each(|warning| output::warning(warning));
    model.warnings(Some(data.train.count)).iter().for_each(|warning| output::warning(warning));
    device.warning(model).iter().for_each(|warning| output::warning(warning));
}

fn gpu_options(args: &TrainArgs) -> GpuOptions {
    GpuOptions { fuse: args.fusion, reuse: !args.no_reuse, ..GpuOptions::DEFAULT }
}

/// No training on a GPU that computes wrongly.
fn check_adapter(device: &Device, model: &Model, replicas: &[Replica], report: &mut Printer) -> Result<()> {
    let Some(adapter) = device.adapter() else { return Ok(()) };
    // With all the kernels that any of the nets has.
    let model = Replica::strongest(replicas).model(model)?;
    let cache = cache_folder("self-check");
    report.checked(self_check(&model, adapter, cache.as_deref(), device.options())?);
    Ok(())
}

fn finish(
    args: &TrainArgs,
    mut run: Run,
    data: &TrainingData,
    model: &Model,
    stop: Stop,
    mut report: Printer,
    output: &mut Output,
) -> Result<ExitCode> {
    report.ready(&run);
    run.save_every(Duration::from_secs(args.save_every.into()));
    let events = if args.tensorboard { Some(Events::open(&run)?) } else { None };
    let mut watch = Stoppable { report: &mut report, stop: &stop, events };
    let go_on = |run: &Run| format!("shadernet train --resume {}", files::quoted(run.folder()));
    match run.train_to_step(args.max_steps.unwrap_or(u32::MAX), &mut watch) {
        Ok(Ending::Done) => {}
        Ok(Ending::Stopped) => {
            report.stopped();
            match run.saved_step() {
                Some(step) => output::note(&format_args!(
                    "stopped after step {step}; everything is saved. To resume: {}",
                    go_on(&run)
                )),
                None if run.step() == 0 => {
                    output::note(&"stopped before the first step; nothing is left of the run");
                }
                None => {
                    output::note(&"stopped; the folder of the run was removed, and nothing is left of it");
                }
            }
            return Ok(stop.code());
        }
        Err(error) => {
            report.stopped();
            if let (Some(step), false) = (run.saved_step(), matches!(error, Error::Diverged { .. })) {
                let command = go_on(&run);
                output::note(&format_args!(
                    "everything up to step {step} is saved; to resume from there: {command}"
                ));
            }
            return Err(error);
        }
    }
    let summary = run.finish()?;
    let folder = run.folder().to_owned();
    // From here on the folder is free for others.
    drop(run);
    report.finish(&summary, model)?;
    if args.json {
        let text = serde_json::to_string_pretty(&summary).expect("plain values are JSON");
        output.line(format_args!("{text}"));
    } else if args.quiet {
        output.line(format_args!("{}", printer::result(&summary)));
    }
    if !args.no_report {
        let command = format!("shadernet report {}", files::quoted(&folder));
        let line =
            format!("stopped; the run is finished and saved, but has no report; to write it: {command}");
        stop.end_at_once(&line, None);
        if stop.go_on().is_break() {
            output::note(&line);
            return Ok(stop.code());
        }
        // Whatever happens here, the run is saved.
        match write_page(args, &summary, data) {
            Ok(path) => report.page(&path)?,
            Err(error) => output::warning(&format_args!("no report was written: {error}")),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows a run, and stops it after a signal.
struct Stoppable<'a> {
    report: &'a mut Printer,
    stop: &'a Stop,
    events: Option<Events>,
}

impl Watch for Stoppable<'_> {
    fn go_on(&mut self) -> ControlFlow<()> {
        self.stop.go_on()
    }

    fn steps(&mut self, epoch: usize, done: usize, of: usize, sums: &[Metrics]) {
        self.report.steps(epoch, done, of, sums);
    }

    fn epoch(&mut self, rows: &[EpochMetrics]) -> ControlFlow<()> {
        // The run's own files have everything, so it goes on.
        if let Some(Err(error)) = self.events.as_mut().map(|events| events.epoch(rows)) {
            output::warning(&format_args!("{error}; TensorBoard gets no more figures of this run"));
            self.events = None;
        }
        self.report.epoch(rows)
    }
}

/// Writes the report of a run into its folder. The nets are judged on the processor, which is ready at once.
fn write_page(args: &TrainArgs, summary: &Summary, data: &TrainingData) -> Result<PathBuf> {
    let path = summary.folder.join(page::FILE);
    page::check_free(&path, std::slice::from_ref(&summary.folder), false)?;
    let device = match args.device.threads {
        Some(threads) => Device::cpu().threads(threads.into()),
        None => Device::cpu(),
    };
    let text = page::of_run(&summary.folder, Source::Images(&data.test), &device)?;
    files::write_atomically(&path, text.as_bytes())?;
    Ok(path)
}

/// The model with the recipe that the arguments make of its own.
fn model(args: &TrainArgs) -> Result<Model> {
    let mut model = super::read_model(args.model.as_deref())?;
    let train = &mut model.train;
    train.epochs = args.epochs.unwrap_or(train.epochs);
    train.batch_size = args.batch_size.unwrap_or(train.batch_size);
    if args.augment == Some(Switch::Off) {
        train.augment = Augment::default();
    }
    train.check().map_err(Error::Usage)?;
    Ok(model)
}

/// The nets that the arguments ask for.
fn replicas(args: &TrainArgs, model: &Model) -> Result<Vec<Replica>> {
    let (seed, replicas) = (args.seed.unwrap_or(0), args.replicas.unwrap_or(1));
    let Some(last) = seed.checked_add(replicas - 1) else {
        let message = format!("--seed {seed} --replicas {replicas}: the largest seed is {}", u32::MAX);
        return Err(Error::Usage(message));
    };
    let seeds: Vec<u32> = (seed..=last).collect();
    let fail = |error| Error::Usage(format!("--sweep {error}"));
    Sweep::parse(&args.sweep).and_then(|sweep| sweep.replicas(model, &seeds)).map_err(fail)
}
