//! `shadernet doctor`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use shadernet::doctor::{Depth, Examination, examine};
use shadernet::error::{Error, Result};
use shadernet::gpu::{Adapter, AdapterLimits, GpuOptions};

use super::output::column;
use super::{Output, load_model};

#[derive(Args)]
pub(crate) struct DoctorArgs {
    /// Model description (.toml) or trained model (.safetensors) [default: the built-in seed network]
    model: Option<PathBuf>,
    /// Part of an adapter's name [default: the first adapter, even a software one]
    #[arg(long)]
    device: Option<String>,
    /// Check the kernels that compute neighbouring layers in one launch, as used by `train --fusion`
    #[arg(long)]
    fusion: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Examines an adapter; exit code 1 if anything is off.
pub(crate) fn run(args: &DoctorArgs, output: &mut Output) -> Result<ExitCode> {
    let model = load_model(args.model.as_deref())?;
    let adapter = match &args.device {
        Some(name) => Adapter::named(name).map_err(|error| Error::Usage(format!("--device {error}")))?,
        None => Adapter::all().into_iter().next().ok_or_else(|| {
            Error::Device(format!("there is no adapter to check: {}", Adapter::listing(&[])))
        })?,
    };
    let options = if args.fusion { GpuOptions::FUSED } else { GpuOptions::DEFAULT };
    let report = examine(&model, &adapter, Depth::Full, options)?;
    if args.json {
        let json = serde_json::to_string_pretty(&report).expect("a report is plain values");
        output.line(format_args!("{json}"));
    } else {
        print(&report, output);
    }
    Ok(if report.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &Examination, output: &mut Output) {
    let AdapterLimits { storage_buffers, binding_bytes, buffer_bytes, .. } = report.limits;
    let AdapterLimits { workgroup_invocations, workgroup_bytes, workgroups, .. } = report.limits;
    let mebibytes = |bytes: u64| bytes >> 20;
    output.line(format_args!(
        "shadernet {} on {}\n\
         limits: {storage_buffers} storage buffers, {} MiB per binding, {} MiB per buffer, {workgroup_invocations} \
         invocations and {} KiB per workgroup, {workgroups} workgroups per dimension\n\n\
         model {}: {} launches\n",
        report.version,
        report.adapter,
        mebibytes(binding_bytes),
        mebibytes(buffer_bytes),
        workgroup_bytes >> 10,
        report.model,
        report.launches.len(),
    ));
    let names = report.launches.iter().map(|row| row.launch.as_str());
    let names = column(["kernel"].into_iter().chain(names), false);
    output.line(format_args!("{}  {:>9}  {:>13}  verdict", names[0], "elements", "error / bound"));
    for (row, launch) in report.launches.iter().zip(&names[1..]) {
        let elements = row.elements;
        match (&row.wrong, &row.seen_in) {
            (Some(_), _) => output.line(format_args!("{launch}  {:>9}  {:>13}  WRONG", "", "")),
            (None, Some(reader)) => {
                output.line(format_args!("{launch}  {:>9}  {:>13}  as {reader}", "", ""));
            }
            (None, None) => {
                let error = row.largest_error_of_bound;
                output.line(format_args!("{launch}  {elements:>9}  {error:>13.3}  correct"));
            }
        }
    }
    for what in report.launches.iter().filter_map(|row| row.wrong.as_ref()) {
        output.line(format_args!("\nWRONG: {what}"));
    }
    if let Some(training) = report.training {
        let same = if training.deterministic { "identical bits" } else { "WRONG: different bits" };
        let difference = training.largest_loss_difference;
        output.line(format_args!(
            "\n20 steps, run twice: {same}\n20 steps, compared with the reference four at a time: largest relative \
             difference of the loss {difference:.1e}"
        ));
    }
    let verdict = if report.is_well() {
        "this adapter computes correctly"
    } else {
        "do not train on this adapter; `--device cpu` works without a GPU. Please report the output of `shadernet \
         doctor --json`"
    };
    output.line(format_args!("\n{verdict} ({:.1} s)", report.seconds));
}
