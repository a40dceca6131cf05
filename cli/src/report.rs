//! `shadernet report`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use shadernet::error::{Error, Result};
use shadernet::files;
use shadernet::report::{self, Source};

use super::{DeviceArgs, Output};

const EXAMPLES: &str = "\
Examples:
  shadernet report runs/seed-1                 # writes runs/seed-1/report.html again
  shadernet report runs/seed-1 runs/seed-2     # both side by side, in comparison.html";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ReportArgs {
    /// Folder of a finished run; several runs are compared
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Folder of the run's dataset, if it has moved
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// File to write [default: report.html in the run's folder; for several runs, comparison.html]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    device: DeviceArgs<true>,
}

/// Writes the page of a run or of several.
pub(crate) fn run(args: &ReportArgs, output: &mut Output) -> Result<ExitCode> {
    let (single, default) = match &args.runs[..] {
        [run] => (Some(run.as_path()), run.join(report::FILE)),
        _ => (None, "comparison.html".into()),
    };
    let path = args.out.as_ref().unwrap_or(&default);
    report::check_free(path, &args.runs, args.force)?;
    if let Some(data) = &args.data {
        files::check_outputs(&[path], &[data], true)?;
    }
    let text = match single {
        Some(run) => {
            let source = args.data.as_deref().map_or(Source::Recorded, Source::Folder);
            report::of_run(run, source, &args.device.choose()?)?
        }
        None if args.data.is_some() => {
            let message =
                "--data applies to a single run: several runs are compared by their records, without images";
            return Err(Error::Usage(message.into()));
        }
        None => report::of_runs(&args.runs)?,
    };
    files::write_atomically(path, text.as_bytes())?;
    output.line(format_args!("report: {}", path.display()));
    Ok(ExitCode::SUCCESS)
}
