//! `shadernet bench`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use shadernet::bench::{MOST_STEPS, Measurement, Options, Quantity, ScalingPoint, chart, measure, scaling};
use shadernet::error::{Error, Result};
use shadernet::files;
use shadernet::gpu::GpuOptions;
use shadernet::model::Model;

use super::output::column;
use super::{DeviceArgs, Output, load_model};

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Model description (.toml) or trained model (.safetensors) [default: the built-in seed network]
    model: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs<false>,
    /// Images per step [default: the model's]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Number of networks to train side by side
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    replicas: u32,
    /// Steps per repeat; the median of the repeats is reported [default: as many as take half a second]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MOST_STEPS as i64))]
    steps: Option<u32>,
    /// Compute neighbouring layers in one kernel launch (GPU only)
    #[arg(long)]
    fusion: bool,
    /// Measure how the cost of a step grows with batch size, channels, image size, replicas and threads: print a
    /// Markdown table and draw it in this file
    #[arg(long, value_name = "FILE.svg")]
    scaling: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long, requires = "scaling")]
    force: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Measures.
pub(crate) fn run(args: &BenchArgs, output: &mut Output) -> Result<ExitCode> {
    args.device.check()?;
    let mut model = load_model(args.model.as_deref())?;
    model.train.batch_size = args.batch_size.unwrap_or(model.train.batch_size);
    model.train.check().map_err(Error::Usage)?;
    let options = Options {
        device: &args.device.device,
        threads: args.device.threads.map(usize::from),
        replicas: args.replicas as usize,
        steps: args.steps.map(|steps| steps as usize),
        gpu: GpuOptions { fuse: args.fusion, ..GpuOptions::DEFAULT },
        data: Path::new("data/mnist"),
    };
    if let Some(path) = &args.scaling {
        // Better to hear now than after some minutes.
        let inputs: Vec<&Path> = args.model.as_deref().into_iter().chain([options.data]).collect();
        files::check_outputs(&[path], &inputs, args.force)?;
        return scale(&model, &options, path, args.json, output).map_err(|error| args.device.explain(error));
    }
    let report = measure(&model, &options).map_err(|error| args.device.explain(error))?;
    if args.json {
        let json = serde_json::to_string_pretty(&report).expect("a report is plain values");
        output.line(format_args!("{json}"));
    } else {
        print(&report, output);
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints each point as it is measured.
fn scale(
    model: &Model,
    options: &Options<'_>,
    path: &Path,
    json: bool,
    output: &mut Output,
) -> Result<ExitCode> {
    if !json {
        output.line(format_args!(
            "| | | ms per step | ÷ the first | operations ÷ the first | images/s | GFLOP/s | reached of the bound | \
             working memory, MiB |\n\
             |---|---|---|---|---|---|---|---|---|"
        ));
    }
    let mut first: Option<(Quantity, Measurement)> = None;
    let mut watch = |point: &ScalingPoint| {
        if json {
            return;
        }
        let Some(report) = &point.report else {
            let why_not = point.why_not.as_deref().unwrap_or_default();
            output.line(format_args!("| {} | {} | {why_not} |", point.quantity.name(), point.value));
            return;
        };
        let base = first.take().filter(|(quantity, _)| *quantity == point.quantity);
        let (_, base) = first.insert(base.unwrap_or_else(|| (point.quantity, report.clone())));
        let memory = report.plan.map(|plan| format!("{:.1}", plan.memory_bytes as f64 / f64::from(1 << 20)));
        output.line(format_args!(
            "| {} | {} | {:.2} | {:.2} | {:.2} | {:.0} | {:.1} | {:.0} % | {} |",
            point.quantity.name(),
            point.value,
            report.step.milliseconds,
            report.step.milliseconds / base.step.milliseconds,
            report.step.gflop / base.step.gflop,
            report.step.images_per_second,
            report.step.gflop_per_second,
            100.0 * report.bound.reached,
            memory.unwrap_or_default(),
        ));
    };
    let points = scaling(model, options, &mut watch)?;
    files::write_atomically(path, chart(&points).as_bytes())?;
    if json {
        let text = serde_json::to_string_pretty(&points).expect("a report is plain values");
        output.line(format_args!("{text}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn print(report: &Measurement, output: &mut Output) {
    let Measurement { model, parameters, batch_size, replicas, images, device, .. } = report;
    let from = if report.generated {
        "generated, since data/mnist has no suitable images"
    } else {
        "from data/mnist"
    };
    output.line(format_args!(
        "shadernet {} on {device}\n\
         model {model}: {parameters} parameters, batch size {batch_size}, replicas {replicas}\n\
         {images} images {from}\n",
        report.version
    ));
    let step = report.step;
    output.line(format_args!(
        "step      {:.3} ms: median of {} repeats of {} steps, {:.3} to {:.3}\n\
         speed     {:.0} images/s, {:.2} GFLOP/s ({:.4} GFLOP per step)\n\
         epoch     {:.2} s",
        step.milliseconds,
        step.repeats,
        step.steps,
        step.fastest_milliseconds,
        step.slowest_milliseconds,
        step.images_per_second,
        step.gflop_per_second,
        step.gflop,
        step.epoch_seconds,
    ));
    let start = report.start_up;
    let parts = [
        ("device found", Some(start.find_seconds)),
        ("opened", start.open_seconds),
        ("pipelines", start.pipelines_seconds),
        ("upload", start.upload_seconds),
        ("first step", Some(start.first_step_seconds)),
    ];
    let parts = parts.into_iter().filter_map(|(name, seconds)| Some(format!("{name} {:.3}", seconds?)));
    let parts = parts.collect::<Vec<_>>().join(", ");
    output.line(format_args!("start-up  {:.3} s: {parts}", start.seconds));
    if let Some(plan) = report.plan {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        output.line(format_args!(
            "plan      {} launches, {:.1} MiB of working memory, {:.1} MiB without sharing",
            plan.launches,
            mebibytes(plan.memory_bytes),
            mebibytes(plan.unshared_bytes)
        ));
    }
    let (ceilings, bound) = (report.ceilings, report.bound);
    let memory = ceilings.gb_per_second.map(|rate| format!(", {rate:.2} GB/s copied"));
    let launch = ceilings.launch_microseconds.map(|time| format!(", {time:.2} µs per launch"));
    output.line(format_args!(
        "ceilings  {:.2} GFLOP/s of multiply-adds{}{}",
        ceilings.gflop_per_second,
        memory.unwrap_or_default(),
        launch.unwrap_or_default()
    ));
    let of_what = match report.plan {
        None => "arithmetic alone".to_owned(),
        Some(_) => format!(
            "arithmetic {:.3} or memory {:.3}, plus launches {:.3}",
            bound.arithmetic_milliseconds, bound.memory_milliseconds, bound.launch_milliseconds
        ),
    };
    output.line(format_args!(
        "bound     {:.3} ms: {of_what}; the step reaches {:.1} % of this speed",
        bound.milliseconds,
        100.0 * bound.reached
    ));
    let Some(operations) = &report.operations else {
        return output.line(format_args!("\nthis device cannot time its launches"));
    };
    let title = if report.plan.is_some() { "launch" } else { "operation" };
    let names = operations.iter().map(|row| row.operation.as_str());
    let names = column([title].into_iter().chain(names).chain(["sum"]), false);
    output
        .line(format_args!("\n{}  {:>10}  {:>6}  {:>9}  {:>8}", names[0], "µs", "share", "GFLOP/s", "GB/s"));
    for (row, name) in operations.iter().zip(&names[1..]) {
        let arithmetic = match row.gflop_per_second {
            0.0 => String::new(),
            rate => format!("{rate:.2}"),
        };
        output.line(format_args!(
            "{name}  {:>10.1}  {:>4.1} %  {arithmetic:>9}  {:>8.2}",
            row.microseconds,
            100.0 * row.share,
            row.gb_per_second
        ));
    }
    let sum: f64 = operations.iter().map(|row| row.microseconds).sum();
    output.line(format_args!("{}  {sum:>10.1}", names[names.len() - 1]));
}
