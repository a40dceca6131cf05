//! `shadernet export`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use shadernet::checkpoint::{Checkpoint, trained_file};
use shadernet::dataset::Images;
use shadernet::device::Device;
use shadernet::error::{Error, Result};
use shadernet::eval;
use shadernet::export::onnx::Graph;
use shadernet::export::{self, CSource};
use shadernet::files;
use shadernet::int8::Quantized;

use super::{Output, loading, open, output};

const EXAMPLES: &str = "\
Examples:
  shadernet export runs/seed-1 --html page.html      # a page to draw on
  shadernet export runs/seed-1 --html page.html --train-here     # and to train on
  shadernet export runs/seed-1 --onnx net.onnx --verify
  shadernet export runs/seed-1 --pytorch net.py
  shadernet export runs/seed-1 --c net.c --int8      # for a microcontroller
  shadernet export weights.safetensors --model runs/seed-1 --trained back.safetensors     # weights that PyTorch has trained";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExportArgs {
    /// Trained model (.safetensors), or the folder of a run
    #[arg(value_name = "RUN|FILE")]
    file: PathBuf,
    /// For weights alone, such as a PyTorch `state_dict`: the model description (.toml) of their network, or a run with the
    /// same network; they are judged on the test images of the dataset
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    #[command(flatten)]
    formats: Formats,
    /// In the ONNX graph, fold batch normalisations into the neighbouring weights
    #[arg(long, requires = "onnx")]
    fold_batch_norm: bool,
    /// Run the written ONNX graph on the test images of a dataset and compare its answers with the network's; with --int8, with those
    /// of the network in whole numbers
    #[arg(long, requires = "onnx")]
    verify: bool,
    /// On the page, let people train the network from scratch on 4,000 images, which are stored in the page
    #[arg(long, requires = "html")]
    train_here: bool,
    /// Dataset folder for --verify, --train-here, --int8 and --model: IDX files, or one folder of pictures per class [default: that
    /// of the run, else data/mnist]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// In C and in the ONNX graph, compute in whole numbers of 8 bits; their ranges come from training images
    #[arg(long, conflicts_with = "fold_batch_norm")]
    int8: bool,
    /// Beside the C file, write its declarations: net.h for net.c
    #[arg(long, requires = "c")]
    header: bool,
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
    /// C99 file for a microcontroller, whose functions and macros begin with the file's name; in `float` it may need `libm`
    #[arg(long, value_name = "FILE.c")]
    c: Option<PathBuf>,
    /// PyTorch module that loads the model file
    #[arg(long, value_name = "FILE.py")]
    pytorch: Option<PathBuf>,
    /// Trained model of shadernet, for `eval`, `classify` and `export` without --model
    #[arg(long, value_name = "FILE.safetensors")]
    trained: Option<PathBuf>,
}

/// Writes a trained network in other formats.
pub(crate) fn run(args: &ExportArgs, output: &mut Output) -> Result<ExitCode> {
    let Formats { html, onnx, c, pytorch, trained } = &args.formats;
    if args.int8 && c.is_none() && onnx.is_none() {
        return Err(Error::Usage("--int8 is for --c and --onnx".into()));
    }
    let header = c.as_ref().filter(|_| args.header).map(|path| path.with_extension("h"));
    // Of several files none is written if one is in the way or cannot be made.
    let outputs = [html, onnx, c, &header, pytorch, trained];
    let outputs: Vec<_> = outputs.into_iter().flatten().map(PathBuf::as_path).collect();
    let file = trained_file(&args.file)?;
    let reads_data = args.verify || args.train_here || args.int8 || args.model.is_some();
    let data =
        reads_data.then(|| open::data(args.data.as_deref(), &file, args.model.as_deref())).transpose()?;
    let model = args.model.as_deref().map(trained_file).transpose()?;
    let inputs: Vec<&Path> =
        [Some(&*file), model.as_deref(), data.as_deref()].into_iter().flatten().collect();
    files::check_outputs(&outputs, &inputs, args.force)?;
    let checkpoint = match &args.model {
        None => open::trained(&file)?,
        Some(model) => open::weights(&file, model, data.as_deref(), &Device::cpu())?,
    };
    let page_data = data.as_deref().filter(|_| args.train_here);
    let page = html.as_ref().map(|_| page(&checkpoint, page_data)).transpose()?;
    let training = data.as_deref().filter(|_| args.int8);
    let whole = training.map(|data| open::in_whole_numbers(&checkpoint, data)).transpose()?;
    let graph = onnx.as_ref().map(|_| match &whole {
        Some(net) => Ok(export::to_onnx_int8(&checkpoint, net)),
        None => export::to_onnx(&checkpoint, args.fold_batch_norm),
    });
    let graph = graph.transpose()?;
    let source = c.as_ref().map(|path| c_source(&checkpoint, path, whole.as_ref())).transpose()?;
    let module = pytorch.as_ref().map(|_| export::to_pytorch(&checkpoint)).transpose()?;
    let images = data.as_deref().filter(|_| args.verify);
    let images = images.map(|data| test_images(&checkpoint, data)).transpose()?;
    if let Some((path, page)) = html.as_ref().zip(page) {
        files::write_atomically(path, page.as_bytes())?;
        let size = page.len().div_ceil(1000);
        output.line(format_args!("{}: {size} kB, opens in any browser", path.display()));
    }
    if let Some((path, graph)) = onnx.as_ref().zip(graph) {
        files::write_atomically(path, &graph)?;
        output.line(format_args!("{}: pixels (0 to 1) -> logits, probabilities", path.display()));
    }
    if let Some((path, source)) = c.as_ref().zip(source) {
        files::write_atomically(path, source.source.as_bytes())?;
        output.line(format_args!("{}: C99, {}", path.display(), source.size));
        if let Some(path) = &header {
            files::write_atomically(path, source.header.as_bytes())?;
            output.line(format_args!("{}: its declarations", path.display()));
        }
    }
    if let Some((path, module)) = pytorch.as_ref().zip(module) {
        files::write_atomically(path, module.as_bytes())?;
        let weights = trained.as_ref().unwrap_or(&file).display().to_string();
        output.line(format_args!("{}: `load({weights:?})` returns the network", path.display()));
    }
    if let Some(path) = trained {
        checkpoint.save(path)?;
        output.line(format_args!(
            "{}: trained model, {:.2} % correct on its test images",
            path.display(),
            checkpoint.test_accuracy
        ));
    }
    match onnx.as_ref().zip(images) {
        Some((path, images)) => verify(path, &checkpoint, whole.as_ref(), &images, output),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// The network as C, whose names begin with that of its file.
fn c_source(checkpoint: &Checkpoint, path: &Path, whole: Option<&Quantized>) -> Result<CSource> {
    let prefix = path.file_stem().unwrap_or_default().to_string_lossy();
    match whole {
        Some(net) => export::to_c_int8(checkpoint, net, &prefix),
        None => export::to_c(checkpoint, &prefix),
    }
    .map_err(|error| match error {
        Error::Usage(message) => Error::Usage(format!("{}: {message}", path.display())),
        error => error,
    })
}

/// The page, with the images of a dataset if people are to train on it.
fn page(checkpoint: &Checkpoint, data: Option<&Path>) -> Result<String> {
    let Some(data) = data else { return export::html(checkpoint) };
    let data = open::training_data(checkpoint, data)?;
    export::html_to_train(checkpoint, &data.train, &data.test)
}

fn test_images(checkpoint: &Checkpoint, data: &Path) -> Result<Arc<Images>> {
    let (images, warnings) =
        loading::with(false, |loader| eval::load_test_images_by(loader, data, checkpoint))?;
    warnings.iter().for_each(|warning| output::warning(warning));
    Ok(images)
}

/// Images that the written graph computes at a time: as numbers they take many times their bytes.
const PIECE: usize = 1000;
/// A difference of the logits beyond this part of the largest is more than rounding.
const TOLERANCE: f64 = 1e-5;
/// The same in whole numbers, where a value is rounded in each layer.
const TOLERANCE_INT8: f64 = 0.2;

/// In whole numbers, one answer of so many may differ: graphs round elsewhere.
const OTHER_ANSWERS: usize = 1000;

/// Reads the written graph back and holds it against the CPU engine, or against the network in whole numbers. Fails if an answer
/// differs; in whole numbers, if more than one of [`OTHER_ANSWERS`] do.
fn verify(
    path: &Path,
    checkpoint: &Checkpoint,
    whole: Option<&Quantized>,
    images: &Arc<Images>,
    output: &mut Output,
) -> Result<ExitCode> {
    let bad = |message: String| Error::data(path, message);
    let wanted = match whole {
        Some(net) => net.judge(checkpoint, images)?.logits,
        None => eval::logits(checkpoint, images, &Device::cpu())?,
    };
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
    let fits = match whole {
        Some(_) => {
            images.count - same <= (images.count / OTHER_ANSWERS).max(1)
                && difference <= TOLERANCE_INT8 * largest
        }
        None => same == images.count && difference <= TOLERANCE * largest,
    };
    Ok(if fits { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
