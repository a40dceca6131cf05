//! `shadernet data`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser};
use indicatif::{ProgressBar, ProgressStyle};
use shadernet::download::{DATA_SETS, RemoteFile, fetch};
use shadernet::error::Result;
use shadernet::files::quoted;

use super::Output;
use super::stop::Stop;

const EXAMPLES: &str = "\
Examples:
  shadernet data mnist                         # handwritten digits, into data/mnist, the default of `train`
  shadernet data fashion-mnist --out fashion   # then: shadernet train --data fashion
  shadernet data emnist-letters                # a part of EMNIST, whose archive has 562 MB
  shadernet data cifar-10                      # then: shadernet new --data data/cifar-10";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DataArgs {
    /// Dataset to download
    #[arg(value_parser = PossibleValuesParser::new(names()))]
    name: String,
    /// Folder to download into [default: data/<name>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace different files of the same names
    #[arg(long)]
    force: bool,
    /// Download from URL/<file> instead of the public mirror
    #[arg(long, value_name = "URL", hide = true)]
    mirror: Option<String>,
}

/// The split of EMNIST that is meant where none is named: digits and letters, equally many of each.
const EMNIST: &str = "emnist-balanced";

fn names() -> impl Iterator<Item = PossibleValue> {
    DATA_SETS.iter().map(|set| {
        let name = PossibleValue::new(set.name);
        if set.name == EMNIST { name.alias("emnist") } else { name }
    })
}

/// Fetches a dataset.
pub(crate) fn run(args: &DataArgs, output: &mut Output) -> Result<ExitCode> {
    let name = if args.name == "emnist" { EMNIST } else { &*args.name };
    let set = DATA_SETS.iter().find(|set| set.name == name).expect("clap knows the names");
    let folder = args.out.clone().unwrap_or_else(|| Path::new("data").join(set.name));
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes}  {eta} left");
    // It hides itself where standard error is no terminal.
    let bar = ProgressBar::new(0).with_style(style.expect("a valid template"));
    let mut watch = |file: &RemoteFile<'_>, done: u64| {
        bar.set_message(file.name.to_owned());
        bar.set_length(file.size);
        bar.set_position(done);
    };
    let stop = Stop::catch()?;
    stop.end_at_once("stopped; the same command continues from here", Some(bar.clone()));
    let fetched = fetch(set, args.mirror.as_deref(), &folder, args.force, &mut watch);
    bar.finish_and_clear();
    fetched?;
    output.line(format_args!("{}: {}", folder.display(), set.about));
    match set.members.len() {
        0 => output.line(format_args!("{} files, all with the expected SHA-256", set.files.len())),
        members => {
            let archive = set.files[0].name;
            output.line(format_args!("{members} files of {archive}, which had the expected SHA-256"));
        }
    }
    output.line(format_args!("to train on it: shadernet train --data {}", quoted(&folder)));
    Ok(ExitCode::SUCCESS)
}
