//! `shadernet augment`: a look at the images before a training.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use shadernet::error::Result;
use shadernet::files;
use shadernet::report::contact_sheet;
use shadernet::train::TrainingData;

use super::{Output, loading, output, read_model};

const EXAMPLES: &str = "\
Examples:
  shadernet augment model.toml --data photos                  # writes augment.png
  shadernet augment model.toml --data photos --images 20 --epochs 5 --out sheet.png";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct AugmentArgs {
    /// Model description (.toml) with `augment` in [train] [default: the built-in seed network]
    model: Option<PathBuf>,
    /// Dataset folder: IDX files, or one folder of pictures per class [default: data/mnist]
    #[arg(long, value_name = "DIR", default_value = "data/mnist", hide_default_value = true)]
    data: PathBuf,
    /// Picture to write: a row for each image, which comes first
    #[arg(long, value_name = "FILE.png", default_value = "augment.png")]
    out: PathBuf,
    /// Number of images, of each class in turn
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    images: u16,
    /// Number of epochs in which each is shown
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    epochs: u16,
    /// Seed of the random numbers
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u32,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

/// Writes the sheet.
pub(crate) fn run(args: &AugmentArgs, out: &mut Output) -> Result<ExitCode> {
    let inputs: Vec<&Path> = args.model.iter().chain([&args.data]).map(PathBuf::as_path).collect();
    files::check_outputs(&[&args.out], &inputs, args.force)?;
    let model = read_model(args.model.as_deref())?;
    let data = loading::with(false, |loader| TrainingData::load_by(loader, &args.data, model.input))?;
    data.warnings.iter().for_each(|warning| output::warning(warning));
    let size = [args.images.into(), args.epochs.into()];
    files::write_atomically(&args.out, &contact_sheet(&model, &data, args.seed, size)?)?;
    out.line(format_args!(
        "{}: {} images, and what a network with seed {} sees of each in {} epochs",
        args.out.display(),
        usize::from(args.images).min(data.train.count),
        args.seed,
        args.epochs
    ));
    Ok(ExitCode::SUCCESS)
}
