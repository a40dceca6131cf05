//! `shadernet eval`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use shadernet::checkpoint::save_tensors;
use shadernet::error::Result;
use shadernet::tensor::Tensor;
use shadernet::{eval, files};

use super::{DeviceArgs, Output, load_trained, output};

#[derive(Args)]
pub(crate) struct EvalArgs {
    /// Trained model (.safetensors)
    file: PathBuf,
    /// Dataset folder: IDX files, or one folder of pictures per class
    #[arg(long, value_name = "DIR", default_value = "data/mnist")]
    data: PathBuf,
    #[command(flatten)]
    device: DeviceArgs<false>,
    /// Also write the logits of all test images, as a tensor `logits` of shape [images, classes]
    #[arg(long, value_name = "OUT.safetensors")]
    logits: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long, requires = "logits")]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Judges a trained network.
pub(crate) fn run(args: &EvalArgs, output: &mut Output) -> Result<ExitCode> {
    let outputs: Vec<_> = args.logits.iter().map(PathBuf::as_path).collect();
    files::check_outputs(&outputs, &[&args.file, &args.data], args.force)?;
    let checkpoint = load_trained(&args.file)?;
    let (images, warnings) = eval::load_test_images(&args.data, &checkpoint)?;
    warnings.iter().for_each(|warning| output::warning(warning));
    let device = args.device.choose()?;
    if !args.json {
        output.line(format_args!("device: {device}"));
    }
    let metrics = match &args.logits {
        None => eval::evaluate(&checkpoint, &images, &device)?,
        Some(path) => {
            let (metrics, data) = eval::evaluate_with_logits(&checkpoint, &images, &device)?;
            let shape = vec![images.count, checkpoint.model.class_count()];
            save_tensors(path, &[Tensor { name: "logits".into(), shape, data }])?;
            metrics
        }
    };
    let (accuracy, loss) = (metrics.accuracy(), metrics.loss());
    let (correct, total) = (metrics.correct, metrics.images);
    if args.json {
        let result = json!({ "accuracy": accuracy, "correct": correct, "total": total, "loss": loss });
        output.line(format_args!("{result}"));
    } else {
        output.line(format_args!(
            "Test set: average loss {loss:.4}, accuracy {correct}/{total} ({accuracy:.2}%)"
        ));
        if let Some(path) = &args.logits {
            output.line(format_args!("logits: {}", path.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}
