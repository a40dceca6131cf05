//! Trained models as safetensors files: tensors named as in a PyTorch `state_dict`, the rest in the metadata.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::dataset::Sketch;
use crate::error::{Error, Remedy, Result, shown};
use crate::files;
use crate::model::Model;
use crate::normalization::Normalization;
use crate::tensor::Tensor;

mod check;
pub(crate) mod file;
mod foreign;
mod normalization;
mod temperature;
mod weights;

pub use foreign::trained_file;
pub use weights::{InitialWeights, read_initial_weights, read_weights};

use file::{MAX_FILE, MAX_HEADER, Metadata, TensorFile, Wanted};

/// A trained network with everything that using it takes.
///
/// # Examples
/// ```
/// use shadernet::checkpoint::Checkpoint;
///
/// let seed = Checkpoint::seed()?; // the network that is built in
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("copy.safetensors");
/// seed.save(&path)?;
/// let copy = Checkpoint::load(&path)?;
/// assert_eq!((copy.model.name.as_str(), copy.classes.len()), ("seed", 10));
/// assert_eq!(copy.weights, seed.weights);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The network.
    pub model: Model,
    /// Its parameters and running statistics, in the order of [`Model::params`].
    pub weights: Vec<Tensor>,
    /// What becomes of the pixels of each channel.
    pub normalization: Normalization,
    /// A name for each class.
    pub classes: Vec<String>,
    /// How it was trained.
    pub trained: Trained,
    /// Right answers on the test set in percent.
    pub test_accuracy: f64,
    /// Mean loss on the test set.
    pub test_loss: f64,
    /// What logits are divided by before they become probabilities, fitted on images that were held out
    /// (`eval::fit_temperature`); none: they stay as they are.
    pub temperature: Option<f32>,
    /// What is odd about the file that it was read from, a line each.
    pub warnings: Vec<String>,
}

/// How a network was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// Times through the training set.
    pub epochs: usize,
    /// Training steps.
    pub steps: u32,
    /// Images of one step.
    pub batch_size: usize,
    /// Seed of all its random numbers.
    pub seed: u32,
    /// Where.
    pub device: String,
    /// Training images.
    pub images: usize,
    /// True if they were pictures, stretched to the input as they are: so must be whatever else the network sees.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pictures: bool,
    /// True if those images were bright on black, so that what stands on light ground must be inverted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_black: bool,
    /// True if their 16 bits held values of 12: so do those of whatever else the network sees.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub twelve_bit: bool,
    /// By what the pictures are known again. Older files have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sketch: Option<Sketch>,
    /// Version of shadernet.
    pub shadernet: String,
}

/// Names our model files; anything else in this place is another program's.
const FORMAT: &str = "shadernet";
const VERSION: &str = "2";
/// Of files that have a list for `mean` and one for `std`: channels whose values differ.
const CHANNELS_VERSION: &str = "3";
/// Its files have a digest of the weights alone.
const OLD_VERSION: &str = "1";
/// Names the files that runs go on from, which are easily mistaken for model files.
pub(crate) const RUN_FORMAT: &str = "shadernet-run";

/// Names and shapes of a model's tensors.
fn wanted(model: &Model) -> Vec<Wanted> {
    let params = model.params().into_iter();
    params.map(|param| (param.name, param.param.shape)).collect()
}

impl Checkpoint {
    /// Reads a model file, or the only one in the folder of a run.
    ///
    /// # Errors
    /// Files that are no safetensors, come from elsewhere, are damaged or do not fit their own model, and folders with no
    /// trained model or several.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_file(&TensorFile::read(path.as_ref(), MAX_HEADER, MAX_FILE)?)
    }

    /// The trained seed network that comes with shadernet.
    pub fn seed() -> Result<Self> {
        let bytes = include_bytes!("../data/models/seed.safetensors");
        let path = Path::new("the built-in seed.safetensors");
        Self::from_file(&TensorFile::parse(bytes.to_vec(), path, MAX_HEADER)?)
    }

    fn from_file(file: &TensorFile) -> Result<Self> {
        let path = &*file.path;
        let bad = |message: String| Error::checkpoint(path, message);
        match file.metadata.get("format").map(String::as_str) {
            Some(FORMAT) => {}
            Some(RUN_FORMAT) => return Err(state_of_a_run(path)),
            _ => {
                let message = "this file holds only tensors, without the model, normalisation and classes that \
                               shadernet saves with them (is it a PyTorch state_dict?)";
                return Err(bad(message.into()).with(Remedy::InitialWeights));
            }
        }
        let get = |key: &str| {
            let value = file.metadata.get(key);
            value.ok_or_else(|| bad(format!("`{key}` is missing from the metadata")))
        };
        let number = |key: &str| -> Result<f64> {
            let text = get(key)?;
            let value = text.parse().ok().filter(|value: &f64| value.is_finite());
            value.ok_or_else(|| bad(format!("{key} = {text:?} in the metadata is not a number")))
        };
        let version = get("version")?;
        if ![CHANNELS_VERSION, VERSION, OLD_VERSION].contains(&version.as_str()) {
            return Err(bad(format!(
                "format version {} is not supported; this shadernet reads versions up to {CHANNELS_VERSION}",
                shown(version)
            )));
        }
        let warnings = (!file.is_sealed()).then(|| {
            format!(
                "{}: written by an older shadernet, without a checksum of its description, so damage to the class \
                 names, mean, deviation or layers would go unnoticed",
                shown(&path.to_string_lossy())
            )
        });
        let test_accuracy = number("test_accuracy")?;
        if !(0.0..=100.0).contains(&test_accuracy) {
            return Err(bad(format!("test_accuracy = {test_accuracy} in the metadata is not a percentage")));
        }
        let model = Model::parse(get("model")?, "model").map_err(|error| bad(error.to_string()))?;
        let normalization =
            normalization::read(&file.metadata, version, model.input.channels).map_err(bad)?;
        let classes: Vec<String> = serde_json::from_str(get("classes")?)
            .map_err(|_| bad("classes in the metadata is not a list of names".into()))?;
        if classes.len() != model.class_count() {
            let message =
                format!("{} class names in the metadata for {} classes", classes.len(), model.class_count());
            return Err(bad(message));
        }
        check::class_names(&classes).map_err(bad)?;
        let trained = serde_json::from_str(get("trained")?)
            .map_err(|_| bad("trained in the metadata does not say how the model was trained".into()))?;
        let weights = file.tensors(&wanted(&model))?;
        check::range(&weights, &model).map_err(bad)?;
        Ok(Self {
            weights,
            model,
            normalization,
            classes,
            trained,
            test_accuracy,
            test_loss: number("test_loss")?,
            temperature: temperature::read(&file.metadata).map_err(bad)?,
            warnings: warnings.into_iter().collect(),
        })
    }

    /// Writes the model file, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        let json = |value: serde_json::Result<String>| value.expect("plain values are JSON");
        let metadata = [
            ("format", FORMAT.to_owned()),
            ("model", self.model.to_toml()),
            ("classes", json(serde_json::to_string(&self.classes))),
            ("trained", json(serde_json::to_string(&self.trained))),
            ("test_accuracy", self.test_accuracy.to_string()),
            ("test_loss", self.test_loss.to_string()),
            ("weights_sha256", self.weights_sha256()),
        ];
        let metadata = metadata.into_iter().chain(normalization::written(&self.normalization));
        let metadata = metadata.chain(temperature::written(self.temperature));
        let metadata: Metadata = metadata.map(|(key, value)| (key.to_owned(), value)).collect();
        files::write_atomically(path, &file::encode(&self.weights, &metadata))
    }

    /// SHA-256 of the weights: over names, shapes and little-endian values, in order.
    pub fn weights_sha256(&self) -> String {
        file::sha256(&self.weights)
    }
}

/// Says what a file is that runs go on from, and where the model is, if there is one.
fn state_of_a_run(path: &Path) -> Error {
    let folder = path.parent().unwrap_or(Path::new(""));
    let model = folder.join("model.safetensors");
    if model.is_file() {
        let message =
            format!("this is the state of a run; its trained model is {}", shown(&model.to_string_lossy()));
        Error::checkpoint(path, message)
    } else {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let message = "this is the state of a run, and there is no model.safetensors next to it";
        Error::checkpoint(path, message).with(Remedy::Resume(folder.to_owned()))
    }
}

/// Writes tensors alone, such as logits, as a safetensors file.
pub fn save_tensors(path: &Path, tensors: &[Tensor]) -> Result<()> {
    files::write_atomically(path, &file::encode(tensors, &Metadata::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let seed = Checkpoint::seed().unwrap();
        let normalization = Normalization::uniform(1, 0.1, 0.3);
        let saved = Checkpoint { normalization, test_accuracy: 99.43, ..seed };
        saved.save(&path).unwrap();
        let loaded = Checkpoint::load(&path).unwrap();
        assert_eq!(loaded.model.to_toml(), saved.model.to_toml());
        assert_eq!((&loaded.weights, &loaded.normalization), (&saved.weights, &saved.normalization));
        assert_eq!((&loaded.classes, &loaded.trained), (&saved.classes, &saved.trained));
        assert_eq!((loaded.test_accuracy, loaded.test_loss), (99.43, saved.test_loss));
        assert_eq!(read_weights(&path, &saved.model).unwrap(), (saved.weights.clone(), Vec::new()));
        // The same content is the same file.
        let bytes = std::fs::read(&path).unwrap();
        loaded.save(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        // Files without a temperature are what they were before there was one.
        assert!(!bytes.windows(11).any(|window| window == b"temperature") && loaded.temperature.is_none());
        Checkpoint { temperature: Some(1.234), ..loaded }.save(&path).unwrap();
        assert_eq!(Checkpoint::load(&path).unwrap().temperature, Some(1.234));
    }

    #[test]
    fn a_file_that_does_not_fit_is_refused_with_the_reason() {
        let seed = Checkpoint::seed().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        seed.save(&path).unwrap();
        let good = TensorFile::read(&path, MAX_HEADER, MAX_FILE).unwrap().metadata;
        let refused = |tensors: &[Tensor], change: &dyn Fn(&mut Metadata)| {
            let mut metadata = good.clone();
            change(&mut metadata);
            std::fs::write(&path, file::encode(tensors, &metadata)).unwrap();
            let message = Checkpoint::load(&path).unwrap_err().to_string();
            assert!(message.starts_with(&path.display().to_string()), "{message}");
            message
        };
        for (key, value, words) in [
            ("version", "4", "format version 4 is not supported; this shadernet reads versions up to 3"),
            ("version", "3", "mean = \"0.1307\" in the metadata is not a list of numbers"),
            ("mean", "x", "mean = \"x\" in the metadata is not a number"),
            ("mean", "1e39", "mean = inf"),
            (
                "std",
                "0",
                "std = 0 in the metadata cannot normalise pixels; both must be finite, and std above 0",
            ),
            ("std", "1e39", "std = inf in the metadata cannot normalise pixels"),
            (
                "classes",
                r#"["0","1","2","3","4","0","6","7","8","9"]"#,
                r#"class name 6 in the metadata, "0", is empty or appears twice"#,
            ),
            (
                "classes",
                r#"["0","","2","3","4","5","6","7","8","9"]"#,
                "class name 2 in the metadata, \"\", is empty",
            ),
            ("test_accuracy", "1e39", "is not a percentage"),
            ("test_loss", "inf", "test_loss = \"inf\""),
            ("temperature", "0", "temperature = \"0\" in the metadata is not a number above 0"),
            ("temperature", "warm", "temperature = \"warm\" in the metadata is not a number above 0"),
            ("model", "name = 7", "model:1: "),
            ("classes", "[\"one\"]", "1 class names in the metadata for 10 classes"),
            ("classes", "[", "classes in the metadata is not a list of names"),
            ("trained", "{}", "trained in the metadata does not say how"),
            ("format", "other", "(is it a PyTorch state_dict?)"),
            ("weights_sha256", "0", "damaged: the tensors' SHA-256 is "),
        ] {
            let message = refused(&seed.weights, &|metadata| drop(metadata.insert(key.into(), value.into())));
            assert!(message.contains(words), "{message}");
        }
        let message = refused(&seed.weights, &|metadata| drop(metadata.remove("classes")));
        assert!(message.contains("`classes` is missing"), "{message}");

        let change = |change: &dyn Fn(&mut Vec<Tensor>)| {
            let mut weights = seed.weights.clone();
            change(&mut weights);
            refused(&weights, &|_| ())
        };
        let message = change(&|weights| drop(weights.remove(1)));
        assert!(message.contains("conv1.bias: missing; the model needs [8] here"), "{message}");
        let message = change(&|weights| weights[0].shape = vec![8, 9]);
        assert!(
            message.contains("conv1.weight: the file has [8, 9], but the model needs [8, 1, 3, 3]"),
            "{message}"
        );
        let message = change(&|weights| weights[0].data[5] = f32::INFINITY);
        assert!(message.contains("conv1.weight: value 5 is inf"), "{message}");
        let extra = Tensor { name: "conv9.bias".into(), shape: vec![1], data: vec![0.0] };
        let message = change(&|weights| weights.push(extra.clone()));
        assert!(
            message.contains("conv9.bias: the file has [1], but the model has no such tensor"),
            "{message}"
        );
    }

    /// A network of 84 parameters, in a file of a few kilobytes.
    pub(super) fn small() -> Checkpoint {
        let text = "name = \"small\"\ninput = [1, 6, 6]\nlayers = [\n  { type = \"conv2d\", out_channels = 4, kernel = 3 },\n  \
                    { type = \"conv2d\", out_channels = 2, kernel = 3 },\n  { type = \"global_avg_pool2d\" },\n]\n[train]\nepochs = 1\n\
                    batch_size = 4\noptimizer = { type = \"adam\" }\nlearning_rate = { schedule = \"constant\", rate = 0.1 }\n";
        let model = Model::parse(text, "small").unwrap();
        let classes = vec!["a".into(), "b".into()];
        Checkpoint { weights: model.init(1), model, classes, ..Checkpoint::seed().unwrap() }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let small = small();
        small.save(&path).unwrap();
        let good = std::fs::read(&path).unwrap();
        assert!(TensorFile::parse(good.clone(), &path, MAX_HEADER).unwrap().is_sealed());
        assert!(good.len() * 8 > 4000, "{}", good.len());
        for bit in 0..8 * good.len() {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let damaged = TensorFile::parse(bytes, &path, MAX_HEADER).is_err();
            assert!(damaged, "bit {} of byte {}", bit % 8, bit / 8);
        }
        // Bytes too few or too many.
        for bytes in [&good[..good.len() - 4], &[&good[..], b"    "].concat()] {
            assert!(TensorFile::parse(bytes.to_vec(), &path, MAX_HEADER).is_err());
        }
    }

    #[test]
    fn files_without_a_digest_are_read_with_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let small = small();
        small.save(&path).unwrap();
        assert!(Checkpoint::load(&path).unwrap().warnings.is_empty());
        // The same tensors under the header of an older version.
        let rewrite = |version: &str| {
            small.save(&path).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
            let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
            header["__metadata__"].as_object_mut().unwrap().remove("file_sha256").unwrap();
            header["__metadata__"]["version"] = version.into();
            let header = header.to_string();
            let bytes =
                [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[8 + length..]].concat();
            std::fs::write(&path, bytes).unwrap();
        };
        rewrite("1");
        let old = Checkpoint::load(&path).unwrap();
        assert_eq!(old.weights, small.weights);
        assert!(
            old.warnings[0].contains("x.safetensors: written by an older shadernet"),
            "{:?}",
            old.warnings
        );
        rewrite("2");
        let message = Checkpoint::load(&path).unwrap_err().to_string();
        assert!(message.contains("it has no SHA-256 of the whole file"), "{message}");
        assert!(read_weights(&path, &small.model).is_err());
    }

    #[test]
    fn what_is_no_safetensors_file_is_told_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
        for (name, bytes, words) in [
            ("a.safetensors", &lfs[..], "`git lfs pull`"),
            ("w.pth", b"PK\x03\x04\0\0", "PyTorch file; save it as safetensors: python -c 'import torch"),
            ("w.bin", b"\x80\x02}q\0.", "PyTorch file"),
            ("it's.pt", b"", "s.pt\", map_location="),
            ("w.npz", b"PK\x03\x04\0\0", "NumPy file"),
            ("w.h5", b"\x89HDF\r\n\x1a\n", "HDF5"),
            ("w.onnx", b"\x08\x08", "ONNX"),
            ("m.toml", b"name = 1", "a model description, without weights"),
            ("p", b"\x89PNG\r\n", "a picture"),
            ("x.safetensors", b"<!DOCTYPE html><html>", "a web page"),
            ("y.safetensors", b"text", "not a safetensors file"),
        ] {
            std::fs::write(path(name), bytes).unwrap();
            let message = Checkpoint::load(path(name)).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
        let message = Checkpoint::load(dir.path()).unwrap_err().to_string();
        assert!(message.contains("this folder has no trained model in it"), "{message}");
        let seed = Checkpoint::seed().unwrap();
        seed.save(&path("model-seed0.safetensors")).unwrap();
        assert_eq!(Checkpoint::load(dir.path()).unwrap().weights, seed.weights);
        seed.save(&path("model-seed1.safetensors")).unwrap();
        let message = Checkpoint::load(dir.path()).unwrap_err().to_string();
        let names = "this folder has 2 trained models; give one of them: model-seed0.safetensors, model-seed1.safetensors";
        assert!(message.ends_with(names), "{message}");
    }
}
