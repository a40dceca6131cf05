//! `shadernet rate`: a learning rate to start from.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use shadernet::config::LearningRate;
use shadernet::error::Result;
use shadernet::files;
use shadernet::model::Model;
use shadernet::train::{RangeStep, RangeTest, TrainingData, range_test};

use super::{DeviceArgs, Output, loading, output, read_model};

const EXAMPLES: &str = "\
Examples:
  shadernet rate model.toml --data photos                 # prints a suggestion
  shadernet rate model.toml --data photos --out rate.svg  # and draws the loss over the rates";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RateArgs {
    /// Model description (.toml) [default: the built-in seed network]
    model: Option<PathBuf>,
    /// Dataset folder: IDX files, or one folder of pictures per class [default: data/mnist]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs<false>,
    /// Seed of the random numbers
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u32,
    /// Draw the loss over the rates in this file
    #[arg(long, value_name = "FILE.svg")]
    out: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long, requires = "out")]
    force: bool,
    /// Print the steps and the suggestion as JSON
    #[arg(long)]
    json: bool,
}

/// Tries the rates.
pub(crate) fn run(args: &RateArgs, out: &mut Output) -> Result<ExitCode> {
    let folder = args.data.as_deref().unwrap_or(Path::new("data/mnist"));
    if let Some(path) = &args.out {
        let inputs: Vec<&Path> = args.model.as_deref().into_iter().chain([folder]).collect();
        files::check_outputs(&[path], &inputs, args.force)?;
    }
    let model = read_model(args.model.as_deref())?;
    let data = loading::with(args.json, |loader| TrainingData::load_by(loader, folder, model.input))?;
    data.warnings.iter().for_each(|warning| output::warning(warning));
    let device = args.device.choose()?;
    let test = range_test(&model, &data, &device, args.seed)?;
    if let Some(path) = &args.out {
        files::write_atomically(path, test.chart(&format!("Rates of {}", model.name)).as_bytes())?;
    }
    if args.json {
        let step =
            |step: &RangeStep| json!({ "rate": step.rate, "loss": step.loss, "smoothed": step.smoothed });
        let steps: Vec<_> = test.steps.iter().map(step).collect();
        // As it is printed elsewhere, not as the nearest double has it.
        let suggestion = test.suggestion.and_then(|rate| rate.to_string().parse::<f64>().ok());
        let text = json!({ "suggestion": suggestion, "steps": steps });
        out.line(format_args!("{}", serde_json::to_string_pretty(&text).expect("plain values are JSON")));
        return Ok(ExitCode::SUCCESS);
    }
    for line in lines(&model, &test) {
        out.line(format_args!("{line}"));
    }
    if let Some(path) = &args.out {
        out.line(format_args!("{}: the loss over the rates", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(model: &Model, test: &RangeTest) -> Vec<String> {
    let count = test.steps.len();
    let (first, last) = (&test.steps[0], &test.steps[count - 1]);
    let tried = format!("{count} steps with rates from {:.1e} to {:.1e}", first.rate, last.rate);
    let Some(rate) = test.suggestion else {
        return vec![format!("{tried}: the loss never fell by a tenth, so no rate can be suggested")];
    };
    let lowest = test.steps.iter().map(|step| step.smoothed).fold(f64::INFINITY, f64::min);
    let key = match model.train.learning_rate {
        LearningRate::Constant { .. } | LearningRate::Step { .. } => "rate",
        LearningRate::Exponential { .. } => "start",
        LearningRate::Cosine { .. } | LearningRate::OneCycle { .. } => "peak",
    };
    vec![
        format!("{tried}: the smoothed loss fell from {:.3} to {lowest:.3}", first.smoothed),
        format!("suggestion: {key} = {rate} in learning_rate, for batches of {}", model.train.batch_size),
    ]
}
