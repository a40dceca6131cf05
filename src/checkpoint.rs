//! Trained models as safetensors files: tensors named as in a PyTorch `state_dict`, the rest in the metadata.

use std::path::Path;

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;
use crate::model::Model;
use crate::tensor::Tensor;

pub(crate) mod file;

use file::{MAX_HEADER, Metadata, TensorFile, Wanted};

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
#[derive(Debug)]
pub struct Checkpoint {
    /// The network.
    pub model: Model,
    /// Its parameters and running statistics, in the order of [`Model::params`].
    pub weights: Vec<Tensor>,
    /// Mean of pixels/255 that becomes 0.
    pub mean: f32,
    /// Deviation of pixels/255 that becomes 1.
    pub std: f32,
    /// A name for each class.
    pub classes: Vec<String>,
    /// How it was trained.
    pub trained: Trained,
    /// Right answers on the test set in percent.
    pub test_accuracy: f64,
    /// Mean loss on the test set.
    pub test_loss: f64,
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
    /// Version of shadernet.
    pub shadernet: String,
}

/// Names our model files; anything else in this place is another program's.
const FORMAT: &str = "shadernet";
const VERSION: &str = "1";
/// Names the files that runs go on from, which are easily mistaken for model files.
pub(crate) const RUN_FORMAT: &str = "shadernet-run";

/// Names and shapes of a model's tensors.
fn wanted(model: &Model) -> Vec<Wanted> {
    let params = model.params().into_iter();
    params.map(|param| (param.name, param.param.shape)).collect()
}

/// PyTorch counts batches in its batch norm layers; we do not need the number.
fn is_batch_counter(name: &str, dtype: Dtype) -> bool {
    dtype == Dtype::I64 && name.ends_with(".num_batches_tracked")
}

impl Checkpoint {
    /// Reads a model file.
    ///
    /// # Errors
    /// Files that are no safetensors, come from elsewhere, are damaged or do not fit their own model.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_file(&TensorFile::read(path, MAX_HEADER)?, path)
    }

    /// The trained seed network that comes with shadernet.
    pub fn seed() -> Result<Self> {
        let bytes = include_bytes!("../data/models/seed.safetensors");
        let path = Path::new("the built-in seed.safetensors");
        Self::from_file(&TensorFile::parse(bytes.to_vec(), path, MAX_HEADER)?, path)
    }

    fn from_file(file: &TensorFile, path: &Path) -> Result<Self> {
        let bad = |message: String| Error::checkpoint(path, message);
        match file.metadata.get("format").map(String::as_str) {
            Some(FORMAT) => {}
            Some(RUN_FORMAT) => {
                return Err(bad(
                    "this is the state of a run; the model is model.safetensors beside it".into()
                ));
            }
            _ => {
                return Err(bad(
                    "this file holds tensors, but not the model, normalisation and classes that shadernet's files \
                     carry (a PyTorch state_dict?); `shadernet train MODEL.toml --init FILE` starts from such weights"
                        .into(),
                ));
            }
        }
        let get = |key: &str| {
            let value = file.metadata.get(key);
            value.ok_or_else(|| bad(format!("`{key}` is missing in the metadata")))
        };
        let number = |key: &str| -> Result<f64> {
            let text = get(key)?;
            let value = text.parse().ok().filter(|value: &f64| value.is_finite());
            value.ok_or_else(|| bad(format!("{key} = {text:?} in the metadata is no number")))
        };
        let version = get("version")?;
        if version != VERSION {
            return Err(bad(format!(
                "version {version} of the format; this shadernet reads version {VERSION}"
            )));
        }
        let (mean, std) = (number("mean")? as f32, number("std")? as f32);
        if std <= 0.0 {
            return Err(bad(format!("std = {std} in the metadata must be above 0")));
        }
        let model = Model::parse(get("model")?, "model").map_err(|error| bad(error.to_string()))?;
        let classes: Vec<String> = serde_json::from_str(get("classes")?)
            .map_err(|error| bad(format!("classes in the metadata: {error}")))?;
        if classes.len() != model.class_count() {
            let message =
                format!("{} class names in the metadata for {} classes", classes.len(), model.class_count());
            return Err(bad(message));
        }
        let trained = serde_json::from_str(get("trained")?)
            .map_err(|error| bad(format!("trained in the metadata: {error}")))?;
        Ok(Self {
            weights: file.tensors(&wanted(&model), |_, _| false)?,
            model,
            mean,
            std,
            classes,
            trained,
            test_accuracy: number("test_accuracy")?,
            test_loss: number("test_loss")?,
        })
    }

    /// Writes the model file, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        let json = |value: serde_json::Result<String>| value.expect("plain values are JSON");
        let metadata = [
            ("format", FORMAT.to_owned()),
            ("version", VERSION.to_owned()),
            ("model", self.model.to_toml()),
            ("mean", self.mean.to_string()),
            ("std", self.std.to_string()),
            ("classes", json(serde_json::to_string(&self.classes))),
            ("trained", json(serde_json::to_string(&self.trained))),
            ("test_accuracy", self.test_accuracy.to_string()),
            ("test_loss", self.test_loss.to_string()),
            ("weights_sha256", self.weights_sha256()),
        ];
        let metadata: Metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        files::write_atomically(path, &file::encode(&self.weights, &metadata))
    }

    /// SHA-256 of the weights: over names, shapes and little-endian values, in order.
    pub fn weights_sha256(&self) -> String {
        file::sha256(&self.weights)
    }
}

/// Reads the weights of `model` from any safetensors file that has its tensors, such as a saved PyTorch `state_dict`.
///
/// # Errors
/// The first tensor that is missing, has another shape or type or is not finite, or that the model does not have.
///
/// # Examples
/// ```
/// use shadernet::checkpoint::{Checkpoint, read_weights};
///
/// let model = Checkpoint::seed()?.model;
/// let weights = read_weights("data/models/seed.safetensors".as_ref(), &model)?;
/// assert_eq!((weights[0].name.as_str(), &weights[0].shape[..]), ("conv1.weight", &[8, 1, 3, 3][..]));
/// # Ok::<(), shadernet::error::Error>(())
/// ```
pub fn read_weights(path: &Path, model: &Model) -> Result<Vec<Tensor>> {
    let file = TensorFile::read(path, MAX_HEADER)?;
    if file.metadata.get("format").map(String::as_str) == Some(RUN_FORMAT) {
        let message =
            "this is the state of a run: `--resume` goes on with it, `--init` wants a model.safetensors";
        return Err(Error::checkpoint(path, message));
    }
    file.tensors(&wanted(model), is_batch_counter)
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
        let saved = Checkpoint { mean: 0.1, std: 0.3, test_accuracy: 99.43, ..seed };
        saved.save(&path).unwrap();
        let loaded = Checkpoint::load(&path).unwrap();
        assert_eq!(loaded.model.to_toml(), saved.model.to_toml());
        assert_eq!((&loaded.weights, loaded.mean, loaded.std), (&saved.weights, 0.1, 0.3));
        assert_eq!((&loaded.classes, &loaded.trained), (&saved.classes, &saved.trained));
        assert_eq!((loaded.test_accuracy, loaded.test_loss), (99.43, saved.test_loss));
        assert_eq!(read_weights(&path, &saved.model).unwrap(), saved.weights);
        // The same content is the same file.
        let bytes = std::fs::read(&path).unwrap();
        loaded.save(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn a_file_that_does_not_fit_is_refused_with_the_reason() {
        let seed = Checkpoint::seed().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        seed.save(&path).unwrap();
        let good = TensorFile::read(&path, MAX_HEADER).unwrap().metadata;
        let refused = |tensors: &[Tensor], change: &dyn Fn(&mut Metadata)| {
            let mut metadata = good.clone();
            change(&mut metadata);
            std::fs::write(&path, file::encode(tensors, &metadata)).unwrap();
            let message = Checkpoint::load(&path).unwrap_err().to_string();
            assert!(message.starts_with(&path.display().to_string()), "{message}");
            message
        };
        for (key, value, words) in [
            ("version", "2", "version 2 of the format"),
            ("mean", "x", "mean = \"x\" in the metadata is no number"),
            ("std", "0", "std = 0 in the metadata must be above 0"),
            ("test_loss", "inf", "test_loss = \"inf\""),
            ("model", "name = 7", "model:1: "),
            ("classes", "[\"one\"]", "1 class names in the metadata for 10 classes"),
            ("classes", "[", "classes in the metadata"),
            ("trained", "{}", "trained in the metadata: missing field"),
            ("format", "other", "`shadernet train MODEL.toml --init FILE`"),
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
        assert!(message.contains("conv1.bias: missing; the model wants [8] here"), "{message}");
        let message = change(&|weights| weights[0].shape = vec![8, 9]);
        assert!(
            message.contains("conv1.weight: the file has [8, 9], the model wants [8, 1, 3, 3]"),
            "{message}"
        );
        let message = change(&|weights| weights[0].data[5] = f32::INFINITY);
        assert!(message.contains("conv1.weight: value 5 is inf"), "{message}");
        let extra = Tensor { name: "conv9.bias".into(), shape: vec![1], data: vec![0.0] };
        let message = change(&|weights| weights.push(extra.clone()));
        assert!(message.contains("conv9.bias: the file has [1], the model has no such tensor"), "{message}");
    }
}
