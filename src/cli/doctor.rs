//! `shadernet doctor`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use shadernet::doctor::{Report, examine};
use shadernet::error::{Error, Result};
use shadernet::gpu::{Adapters, GpuOptions};

use super::{Output, load_model};

#[derive(Args)]
pub(crate) struct DoctorArgs {
    /// Model description (.toml) or trained model (.safetensors) [default: the built-in seed network]
    model: Option<PathBuf>,
    /// A part of an adapter's name [default: the first, software or not]
    #[arg(long)]
    device: Option<String>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Examines an adapter; exit code 1 if anything is off.
pub(crate) fn run(args: &DoctorArgs, output: &mut Output) -> Result<ExitCode> {
    let model = load_model(args.model.as_deref())?;
    let adapters = Adapters::find();
    let index = match &args.device {
        Some(name) => adapters.named(name)?,
        None if adapters.reports().next().is_some() => 0,
        None => return Err(Error::Device(format!("there is nothing to examine: {}", adapters.listing()))),
    };
    let report = examine(&model, &adapters, index, GpuOptions::DEFAULT)?;
    if args.json {
        let json = serde_json::to_string_pretty(&report).expect("a report is plain values");
        output.line(format_args!("{json}"));
    } else {
        print(&report, output);
    }
    Ok(if report.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &Report, output: &mut Output) {
    let Report { adapter, model, dispatches, kernels, seconds, .. } = report;
    output
        .line(format_args!("{adapter}\nmodel {model}: {dispatches} launches a training step\n\n{kernels}\n"));
    match &report.wrong_kernel {
        None => output.line(format_args!("every element is within its proved bound")),
        Some(what) => output.line(format_args!("WRONG: {what}")),
    }
    let same = if report.deterministic { "same bits" } else { "WRONG: different bits" };
    output.line(format_args!("20 steps twice: {same}"));
    let difference = report.largest_loss_difference;
    output.line(format_args!("20 steps against the reference: loss within {difference:.1e} of its value"));
    let verdict = if report.is_well() {
        "this adapter computes right"
    } else {
        "do not train on this adapter: `--device cpu` needs none. Please report it with `doctor --json`"
    };
    output.line(format_args!("\n{verdict} ({seconds:.1} s)"));
}
