//! `shadernet export`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use shadernet::checkpoint::Checkpoint;
use shadernet::dataset::Images;
use shadernet::device::Device;
use shadernet::error::{Error, Result};
use shadernet::eval;
use shadernet::export;
use shadernet::export::onnx::Graph;
use shadernet::files;
use shadernet::train::TrainingData;

use super::{Output, load_trained, output};

const EXAMPLES: &str = "\
Examples:
  shadernet export runs/seed-1/model.safetensors --html page.html      # a page to draw on
  shadernet export runs/seed-1/model.safetensors --html page.html --train-here     # and to train on
  shadernet export runs/seed-1/model.safetensors --onnx net.onnx --verify
  shadernet export runs/seed-1/model.safetensors --pytorch net.py";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExportArgs {
    /// Trained model (.safetensors)
    model: PathBuf,
    #[command(flatten)]
    formats: Formats,
    /// In the ONNX graph, fold batch normalisations into the neighbouring weights
    #[arg(long, requires = "onnx")]
    fold_batch_norm: bool,
    /// Run the written ONNX graph on the test images of a dataset and compare its answers with the network's
    #[arg(long, requires = "onnx")]
    verify: bool,
    /// On the page, let people train the network from scratch on 4,000 images, which are stored in the page
    #[arg(long, requires = "html")]
    train_here: bool,
    /// Dataset folder for --verify and --train-here: IDX files, or one folder of pictures per class
    #[arg(long, value_name = "DIR", default_value = "data/mnist")]
    data: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

/// What to write; several at once, if you like.
#[derive(Args)]
#[group(required = true, multiple = true)]
struct Formats {
    /// Web page that classifies what people draw or open, in any browser: one file, no server
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// ONNX graph from pixels (0 to 1) to logits and probabilities, for a batch of any size
    #[arg(long, value_name = "FILE.onnx")]
    onnx: Option<PathBuf>,
    /// PyTorch module that loads the model file
    #[arg(long, value_name = "FILE.py")]
    pytorch: Option<PathBuf>,
}

/// Writes a trained network in other formats.
pub(crate) fn run(args: &ExportArgs, output: &mut Output) -> Result<ExitCode> {
    let Formats { html, onnx, pytorch } = &args.formats;
    // Of several files none is written if one is in the way or cannot be made.
    let outputs: Vec<_> = [html, onnx, pytorch].into_iter().flatten().map(PathBuf::as_path).collect();
    let reads_data = args.verify || args.train_here;
    let inputs: Vec<_> =
        [args.model.as_path()].into_iter().chain(reads_data.then_some(args.data.as_path())).collect();
    files::check_outputs(&outputs, &inputs, args.force)?;
    let checkpoint = load_trained(&args.model)?;
    let page = html.as_ref().map(|_| page(&checkpoint, args)).transpose()?;
    let graph = onnx.as_ref().map(|_| export::to_onnx(&checkpoint, args.fold_batch_norm)).transpose()?;
    let module = pytorch.as_ref().map(|_| export::to_pytorch(&checkpoint)).transpose()?;
    let images = args.verify.then(|| test_images(&checkpoint, &args.data)).transpose()?;
    if let Some((path, page)) = html.as_ref().zip(page) {
        files::write_atomically(path, page.as_bytes())?;
        let size = page.len().div_ceil(1000);
        output.line(format_args!("{}: {size} kB, opens in any browser", path.display()));
    }
    if let Some((path, graph)) = onnx.as_ref().zip(graph) {
        files::write_atomically(path, &graph)?;
        output.line(format_args!("{}: pixels (0 to 1) -> logits, probabilities", path.display()));
    }
    if let Some((path, module)) = pytorch.as_ref().zip(module) {
        files::write_atomically(path, module.as_bytes())?;
        let model = args.model.display();
        output.line(format_args!("{}: `load({:?})` returns the network", path.display(), model.to_string()));
    }
    match onnx.as_ref().zip(images) {
        Some((path, images)) => verify(path, &checkpoint, &images, output),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn page(checkpoint: &Checkpoint, args: &ExportArgs) -> Result<String> {
    if !args.train_here {
        return export::html(checkpoint);
    }
    let data = TrainingData::load(&args.data, checkpoint.model.input)?;
    data.warnings.iter().for_each(|warning| output::warning(warning));
    data.check(&checkpoint.model)?;
    data.check_classes(checkpoint)?;
    export::html_to_train(checkpoint, &data.train, &data.test)
}

fn test_images(checkpoint: &Checkpoint, data: &Path) -> Result<Arc<Images>> {
    let (images, warnings) = eval::load_test_images(data, checkpoint)?;
    warnings.iter().for_each(|warning| output::warning(warning));
    Ok(images)
}

/// Images that the written graph computes at a time: as numbers they take many times their bytes.
const PIECE: usize = 1000;
/// A difference of the logits beyond this part of the largest is more than rounding.
const TOLERANCE: f64 = 1e-5;

/// Reads the written graph back and holds it against the CPU engine. Fails if an answer differs.
fn verify(
    path: &Path,
    checkpoint: &Checkpoint,
    images: &Arc<Images>,
    output: &mut Output,
) -> Result<ExitCode> {
    let bad = |message: String| Error::data(path, message);
    let wanted = eval::logits(checkpoint, images, &Device::cpu())?;
    let graph = Graph::read(&std::fs::read(path).map_err(Error::io("read", path))?).map_err(bad)?;
    let classes = checkpoint.model.class_count();
    let (mut same, mut difference, mut largest) = (0, 0f64, 0f64);
    let pieces = images.pixels.chunks(PIECE * checkpoint.model.input.len());
    for (pixels, wanted) in pieces.zip(wanted.chunks(PIECE * classes)) {
        let pixels: Vec<f32> = pixels.iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
        let logits = graph.run(&pixels, "logits").map_err(bad)?;
        if !logits.iter().all(|logit| logit.is_finite()) {
            return Err(bad("some logits of the graph are not finite".into()));
        }
        let wanted: Vec<f64> = wanted.iter().map(|&logit| logit.into()).collect();
        let answer = |row: &[f64]| {
            (0..classes).fold(0, |best, class| if row[class] > row[best] { class } else { best })
        };
        let rows = logits.chunks(classes).zip(wanted.chunks(classes));
        same += rows.filter(|(a, b)| answer(a) == answer(b)).count();
        difference = logits.iter().zip(&wanted).fold(difference, |most, (a, b)| most.max((a - b).abs()));
        largest = wanted.iter().fold(largest, |most, logit| most.max(logit.abs()));
    }
    output.line(format_args!(
        "verified: {same} of {} answers agree, largest difference between logits {difference:.1e} (largest logit \
         {largest:.1})",
        images.count
    ));
    let fits = same == images.count && difference <= TOLERANCE * largest;
    Ok(if fits { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
