//! Trained networks as users name them: a file, the folder of a run, or weights alone with a description of their network.

use std::path::{Path, PathBuf};

use shadernet::checkpoint::{Checkpoint, read_weights, trained_file};
use shadernet::device::Device;
use shadernet::error::{Error, Result};
use shadernet::eval;
use shadernet::files::quoted;
use shadernet::int8::Quantized;
use shadernet::train::{Summary, TrainingData};

use super::{loading, output};

/// The images that are used where nothing else is said.
const DEFAULT_DATA: &str = "data/mnist";

/// Reads a trained model, or the only one in the folder of a run, and prints what is odd about its file.
pub(crate) fn trained(path: &Path) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::load(path)?;
    checkpoint.warnings.iter().for_each(|warning| output::warning(warning));
    Ok(checkpoint)
}

/// Reads weights alone, which another program has trained: of the network in the model description `of`, with the
/// normalisation and the class names of the dataset in `data`; or of the one in the trained model or run `of`, with
/// everything that is known of that. They are judged on the test images of `data`, if there is such a folder.
pub(crate) fn weights(file: &Path, of: &Path, data: Option<&Path>, device: &Device) -> Result<Checkpoint> {
    if is_description(of) {
        let model = super::read_model(Some(of))?;
        let Some(dir) = data else { return Err(needs_data(of)) };
        let weights = read(file, &model)?;
        let data = loading::with(false, |loader| TrainingData::load_by(loader, dir, model.input))?;
        data.warnings.iter().for_each(|warning| output::warning(warning));
        return eval::adopt(model, weights, &data, device);
    }
    let mut checkpoint = trained(of)?;
    checkpoint.weights = read(file, &checkpoint.model)?;
    // It was fitted to the answers of the old weights.
    checkpoint.temperature = None;
    if let Some(dir) = data {
        let (images, _) = loading::with(false, |loader| eval::load_test_images_by(loader, dir, &checkpoint))?;
        let metrics = eval::evaluate(&checkpoint, &images, device)?;
        (checkpoint.test_accuracy, checkpoint.test_loss) = (metrics.accuracy(), metrics.loss());
    }
    Ok(checkpoint)
}

/// The dataset in `dir`, if it fits the network.
pub(crate) fn training_data(checkpoint: &Checkpoint, dir: &Path) -> Result<TrainingData> {
    let input = checkpoint.model.input;
    let data = loading::with(false, |loader| TrainingData::load_by(loader, dir, input))?;
    data.warnings.iter().for_each(|warning| output::warning(warning));
    data.check(&checkpoint.model)?;
    data.check_classes(checkpoint)?;
    Ok(data)
}

/// The network in whole numbers. Ranges come from the training images in `dir`.
pub(crate) fn in_whole_numbers(checkpoint: &Checkpoint, dir: &Path) -> Result<Quantized> {
    let data = training_data(checkpoint, dir).map_err(|error| match error.kind() {
        Error::Data { path, message } => Error::data(
            path,
            format!(
                "{message}; --int8 takes its ranges from training images: say with --data DIR where some are"
            ),
        ),
        _ => error,
    })?;
    Quantized::new(checkpoint, &data.train)
}

fn read(file: &Path, model: &shadernet::Model) -> Result<Vec<shadernet::tensor::Tensor>> {
    let (weights, notes) = read_weights(file, model)?;
    notes.iter().for_each(|note| output::warning(&format_args!("{}: {note}", file.display())));
    Ok(weights)
}

/// True for a model description; anything else is a trained model or a run.
pub(crate) fn is_description(path: &Path) -> bool {
    !(super::is_trained(path) || path.is_dir())
}

/// Guessed, they would give wrong answers without a sign.
fn needs_data(of: &Path) -> Error {
    Error::Usage(format!(
        "--model {} does not say how pixels are normalised and what the classes are called; use --data DIR to say on \
         which images the network was trained, or give a run with the same network as --model",
        quoted(of)
    ))
}

/// The dataset to use with the trained model `file`, or with the weights in it and their `model`: the one that was asked for;
/// else the one that the run was trained on, if it is in the folder of a run; else MNIST.
pub(crate) fn data(asked: Option<&Path>, file: &Path, model: Option<&Path>) -> Result<PathBuf> {
    if let Some(dir) = asked {
        return Ok(dir.to_owned());
    }
    if let Some(of) = model.filter(|of| is_description(of)) {
        return Err(needs_data(of));
    }
    let file = trained_file(model.unwrap_or(file))?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let summary = folder.join("summary.json");
    // Beside any other file, a summary says nothing of it.
    let is_of_run = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("model"));
    if !(is_of_run && summary.is_file()) {
        return Ok(DEFAULT_DATA.into());
    }
    let dir = PathBuf::from(Summary::load(folder)?.data);
    if dir.as_os_str().is_empty() {
        let message = "the images of this run were made in memory; use --data DIR to say which images to use";
        return Err(Error::data(folder, message));
    }
    if !dir.exists() {
        let message = "the run's dataset was in this folder, which no longer exists; use --data DIR to say where it is \
                       now";
        return Err(Error::data(dir, message));
    }
    Ok(dir)
}
