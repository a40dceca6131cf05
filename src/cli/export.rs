//! `shadernet export`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use shadernet::checkpoint::Checkpoint;
use shadernet::error::{Error, Result};
use shadernet::export;

use super::Output;

#[derive(Args)]
pub(crate) struct ExportArgs {
    /// Trained model (.safetensors)
    model: PathBuf,
    #[command(flatten)]
    formats: Formats,
    /// Replace a file that exists
    #[arg(long)]
    force: bool,
}

/// What to write; several at once, if you like.
#[derive(Args)]
#[group(required = true, multiple = true)]
struct Formats {
    /// Page on which one draws an image and sees what the network says of it, in any browser: one file, no server
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
}

/// Writes a trained network in other formats.
pub(crate) fn run(args: &ExportArgs, output: &mut Output) -> Result<ExitCode> {
    if args.model.extension().is_some_and(|extension| extension == "toml") {
        let path = args.model.display();
        return Err(Error::Usage(format!(
            "{path} describes a network and holds no weights; train it first (`shadernet train {path}`), then export the \
             model.safetensors of the run"
        )));
    }
    let checkpoint = Checkpoint::load(&args.model)?;
    if let Some(path) = &args.formats.html {
        let page = export::html(&checkpoint)?;
        export::write(path, page.as_bytes(), args.force)?;
        let size = page.len().div_ceil(1000);
        output.line(format_args!("{}: {size} kB, opens in any browser", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}
