//! `shadernet train`: from arguments to a run.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use shadernet::checkpoint::read_weights;
use shadernet::config::Augment;
use shadernet::device::{Device, cache_folder};
use shadernet::doctor::self_check;
use shadernet::error::{Error, Result};
use shadernet::files;
use shadernet::gpu::GpuOptions;
use shadernet::model::Model;
use shadernet::replica::Replica;
use shadernet::report::{self as page, Source};
use shadernet::train::{Run, RunState, Settings, Summary, Sweep, TrainingData};

use super::{DeviceArgs, Output, Switch, output};

mod report;

use report::Report;

const EXAMPLES: &str = "\
Examples:
  shadernet train                              # the built-in network on data/mnist; results in runs/seed-1
  shadernet train model.toml --data photos     # your network, your images
  shadernet train --device cpu --epochs 3      # fewer epochs, on the processor
  shadernet train --replicas 5                 # five seeds side by side
  shadernet train --hold-out 5000 --sweep learning_rate=0.05,0.1    # which rate is better?
  shadernet train --resume runs/seed-1         # go on with a run that was stopped";

/// What belongs to the recipe of a run is optional here: a run that goes on has it already.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TrainArgs {
    /// Model description (.toml) [default: the built-in seed network]
    model: Option<PathBuf>,
    /// Folder with IDX files, or with a folder of pictures for each class [default: data/mnist]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs<false>,
    /// Seed of all random numbers [default: 0]
    #[arg(long, value_name = "S")]
    seed: Option<u32>,
    /// Train so many nets side by side, with the seeds S, S+1, ...; in a sweep so many of each [default: 1]
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..=256))]
    replicas: Option<u32>,
    #[arg(long, value_name = "KEY=V1,V2,...", help = sweep_help())]
    sweep: Vec<String>,
    /// Times through the training set [default: the model's]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Images of one step [default: the model's]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Stop after so many steps in all; `--resume` goes on from there
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_steps: Option<u32>,
    /// Start from these weights: a trained model, or a PyTorch `state_dict` saved as safetensors
    #[arg(long, value_name = "FILE.safetensors")]
    init: Option<PathBuf>,
    /// Change training images at random [default: on, as the model says]
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    augment: Option<Switch>,
    /// Draw training images in random order [default: on]
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    shuffle: Option<Switch>,
    /// Folder for the results [default: runs/<model>-<n>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run in this folder, as if it had not been stopped
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = [
            "model", "seed", "replicas", "sweep", "epochs", "batch_size", "init", "augment", "shuffle", "out", "hold_out"
        ]
    )]
    resume: Option<PathBuf>,
    /// Do not touch the test set; judge on so many random images held out of the training set: for tuning
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    hold_out: Option<u32>,
    /// On a GPU, give every tensor its own memory
    #[arg(long)]
    no_reuse: bool,
    /// On a GPU, compute neighbouring layers in one launch; measure first which way is faster with `bench`
    #[arg(long)]
    fusion: bool,
    /// Do not write report.html
    #[arg(long)]
    no_report: bool,
    /// Print only the result
    #[arg(long)]
    quiet: bool,
    /// Print only summary.json, to standard output
    #[arg(long)]
    json: bool,
}

fn sweep_help() -> String {
    format!(
        "Train a net for each of these values of a setting, side by side; given several times, one for each combination. \
         Settings: {}",
        Sweep::keys()
    )
}

/// Trains.
pub(crate) fn run(args: &TrainArgs, output: &mut Output) -> Result<ExitCode> {
    let report = if args.quiet {
        Report::quiet()
    } else if args.json {
        Report::new(Output::stderr())
    } else {
        Report::new(Output::stdout())
    };
    match &args.resume {
        Some(folder) => resume(args, folder, report, output)?,
        None => start(args, report, output)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A new run.
fn start(args: &TrainArgs, mut report: Report, output: &mut Output) -> Result<()> {
    let model = model(args)?;
    let settings = settings(args, &model)?;
    if let Some(out) = &args.out {
        Run::check_out(out)?;
    }
    let init = args.init.as_deref().map(|path| read_weights(path, &model)).transpose()?;
    let data = TrainingData::load(&settings.data, model.input, settings.hold_out)?;
    data.check(&model)?;
    data.warnings.iter().for_each(|warning| output::warning(warning));
    model.warnings(Some(data.train.count)).iter().for_each(|warning| output::warning(warning));
    let device = args.device.choose()?;
    report.start(&device, &model, &settings, &data);
    check_adapter(&device, &model, &settings, gpu_options(args), &mut report)?;
    let mut run = Run::start(
        &model,
        &settings,
        &data,
        &device,
        gpu_options(args),
        init.as_deref(),
        args.out.as_deref(),
    )?;
    finish(args, &mut run, &data, &model, report, output)
}

/// A run that goes on.
fn resume(args: &TrainArgs, folder: &Path, mut report: Report, output: &mut Output) -> Result<()> {
    let state = RunState::load(folder)?;
    let dir = args.data.as_deref().unwrap_or(&state.settings.data);
    let data = TrainingData::load(dir, state.model.input, state.settings.hold_out)?;
    data.check(&state.model)?;
    data.warnings.iter().for_each(|warning| output::warning(warning));
    let device = args.device.choose()?;
    report.start(&device, &state.model, &state.settings, &data);
    check_adapter(&device, &state.model, &state.settings, gpu_options(args), &mut report)?;
    let mut run = Run::resume(&state, &data, &device, gpu_options(args), folder)?;
    finish(args, &mut run, &data, &state.model, report, output)
}

fn gpu_options(args: &TrainArgs) -> GpuOptions {
    GpuOptions { fuse: args.fusion, reuse: !args.no_reuse, ..GpuOptions::DEFAULT }
}

/// No training on a GPU that computes wrongly.
fn check_adapter(
    device: &Device,
    model: &Model,
    settings: &Settings,
    options: GpuOptions,
    report: &mut Report,
) -> Result<()> {
    let Some((adapters, index)) = device.adapter() else { return Ok(()) };
    // With all the kernels that any of the nets has.
    let model = Replica::strongest(&settings.replicas).model(model, &model.train)?;
    let cache = cache_folder("self-check");
    report.checked(self_check(&model, adapters, index, cache.as_deref(), options)?);
    Ok(())
}

fn finish(
    args: &TrainArgs,
    run: &mut Run<'_>,
    data: &TrainingData,
    model: &Model,
    mut report: Report,
    output: &mut Output,
) -> Result<()> {
    report.ready(run);
    run.train(args.max_steps, &mut report)?;
    let summary = run.finish()?;
    report.finish(&summary, model)?;
    if !args.no_report {
        // Whatever happens here, the run is saved.
        match write_page(args, &summary, data) {
            Ok(path) => report.page(&path)?,
            Err(error) => output::warning(&format_args!("no report was written: {error}")),
        }
    }
    if args.json {
        let text = serde_json::to_string_pretty(&summary).expect("plain values are JSON");
        output.line(format_args!("{text}"));
    } else if args.quiet {
        output.line(format_args!("{}", report::result(&summary)));
    }
    Ok(())
}

/// Writes the report of a run into its folder. The nets are judged on the processor, which is ready at once.
fn write_page(args: &TrainArgs, summary: &Summary, data: &TrainingData) -> Result<PathBuf> {
    let path = summary.folder.join(page::FILE);
    page::check_free(&path, Some(&summary.folder), false)?;
    let device = Device::cpu(args.device.threads.map(usize::from));
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

fn settings(args: &TrainArgs, model: &Model) -> Result<Settings> {
    let (seed, replicas) = (args.seed.unwrap_or(0), args.replicas.unwrap_or(1));
    let Some(last) = seed.checked_add(replicas - 1) else {
        let message = format!("--seed {seed} --replicas {replicas}: seeds end at {}", u32::MAX);
        return Err(Error::Usage(message));
    };
    let data = args.data.as_deref().unwrap_or(Path::new("data/mnist"));
    Ok(Settings {
        replicas: Sweep::parse(&args.sweep)?.replicas(model, &(seed..=last).collect::<Vec<_>>())?,
        shuffle: args.shuffle != Some(Switch::Off),
        // So that the run can go on from another working directory.
        data: std::path::absolute(data).unwrap_or_else(|_| data.to_owned()),
        hold_out: args.hold_out.unwrap_or(0) as usize,
    })
}
