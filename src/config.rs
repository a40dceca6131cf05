//! Model and training descriptions as users write them: TOML keys and their ranges, no arithmetic.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::tensor::Shape;

mod augment;
mod class_weights;
mod judging;
mod optimizing;
mod read;
mod setters;

pub(crate) use augment::is_off;
pub use augment::{Augment, Fill};
pub use class_weights::ClassWeights;
pub use judging::{Criterion, EarlyStop, Keep};
use optimizing::within;
pub use optimizing::{LearningRate, Optimizer};

#[cfg(feature = "experiments")]
pub(crate) use read::MAX_TEXT;
use read::Step;
pub(crate) use read::{Document, from_table, nearest, shortened, unknown};

/// A model file: `data/models/seed.toml` is one.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    /// Where the text came from, for messages.
    pub path: String,
    /// Name of the model, also used for run folders.
    pub name: String,
    /// Shape of one input image.
    pub input: Shape,
    /// Names of the classes; without them the dataset's are used.
    pub classes: Option<Vec<String>>,
    /// The layers, first to last.
    pub layers: Vec<LayerConfig>,
    /// How to train.
    pub train: TrainConfig,
}

/// One line of `layers`.
#[derive(Debug, Clone)]
pub struct LayerConfig {
    /// Line in the model file, counted from 1, if it came from one.
    pub line: Option<usize>,
    /// Kind: `conv2d`, `relu`, ...
    pub kind: String,
    /// Name, if the user gave one.
    pub name: Option<String>,
    /// Names of the earlier layers that it reads, or `input` for the image; without it, the previous layer.
    pub from: Option<Vec<String>>,
    /// Name of the earlier layer whose trained parameters it uses, if it has none of its own.
    pub weights_of: Option<String>,
    /// The other keys, for the layer to read.
    pub keys: toml::Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    input: Shape,
    classes: Option<Vec<String>>,
    layers: Vec<toml::Table>,
    #[serde(default)]
    train: TrainConfig,
}

const FROM: &str =
    "from must be the name of an earlier layer or a list of such names: \"relu1\" or [\"norm2\", \"relu1\"]";

/// Maximum length of a name: they become names of files and folders.
pub(crate) const MAX_NAME: usize = 100;

impl ModelConfig {
    /// Reads a model description; `path` is only for messages.
    ///
    /// # Examples
    /// ```
    /// use shadernet::config::ModelConfig;
    ///
    /// let text = "name = \"x\"\ninput = [1, 8, 8]\nlayers = [{ type = \"flatten\" }, { type = \"linear\", out_features = 3 }]";
    /// let config = ModelConfig::parse(text, "x.toml")?;
    /// assert_eq!(config.layers[1].kind, "linear");
    /// assert_eq!(config.train.epochs, 19); // the default
    /// let error = ModelConfig::parse("name = 3", "x.toml").unwrap_err();
    /// assert!(error.to_string().starts_with("x.toml:1: "));
    /// # Ok::<(), shadernet::error::Error>(())
    /// ```
    pub fn parse(text: &str, path: &str) -> Result<Self> {
        let document = Document::parse(text, path)?;
        let file: File = document.read()?;
        let at = |key: &str| vec![Step::Key(key.into())];
        let mut layers = Vec::new();
        for (index, mut keys) in file.layers.into_iter().enumerate() {
            let here = [Step::Key("layers".into()), Step::Item(index)];
            let mut take = |key: &str| match keys.remove(key) {
                None => Ok(None),
                Some(toml::Value::String(text)) => Ok(Some(text)),
                Some(_) => Err(document.fail(&here, format!("{key} must be text in quotes"))),
            };
            let kind = take("type")?.ok_or_else(|| {
                document.fail(&here, "a layer needs a type, such as type = \"conv2d\"".into())
            })?;
            let (name, weights_of) = (take("name")?, take("weights_of")?);
            let from = match keys.remove("from") {
                None => None,
                Some(toml::Value::String(name)) => Some(vec![name]),
                Some(toml::Value::Array(names)) => {
                    let names: Option<_> = names.iter().map(|name| Some(name.as_str()?.into())).collect();
                    Some(names.ok_or_else(|| document.fail(&here, FROM.into()))?)
                }
                Some(_) => return Err(document.fail(&here, FROM.into())),
            };
            let line = Some(document.line(&here));
            layers.push(LayerConfig { line, kind, name, from, weights_of, keys });
        }
        file.train
            .check()
            .map_err(|message| document.fail(&train_key(&message), format!("[train]: {message}")))?;
        check_name(&file.name).map_err(|message| document.fail(&at("name"), message))?;
        if let Some(classes) = &file.classes {
            check_classes(classes).map_err(|message| document.fail(&at("classes"), message))?;
        }
        Ok(Self {
            path: path.to_owned(),
            name: file.name,
            input: file.input,
            classes: file.classes,
            layers,
            train: file.train,
        })
    }
}

impl ModelConfig {
    /// What [`ModelConfig::parse`] checks besides the text, for a description that was not parsed.
    pub(crate) fn check(&self) -> Result<()> {
        let classes = self.classes.as_ref().map_or(Ok(()), |names| check_classes(names));
        let checked = check_name(&self.name).and(classes).and_then(|()| self.train.check());
        checked.map_err(|message| Error::Config { path: self.path.clone(), line: None, message })
    }
}

/// A model's name becomes part of names of files and folders.
fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if (1..=MAX_NAME).contains(&name.len()) && name.chars().all(is_plain) {
        return Ok(());
    }
    Err(format!("name: use 1 to {MAX_NAME} letters, digits, '-', '_' and '.', nothing else"))
}

/// An error about a key of `[train]` that only a model could find, with its line in the text.
pub(crate) fn with_train_line(error: Error, text: &str) -> Error {
    let Error::Config { path, line: None, message } = error else { return error };
    let about = message.strip_prefix("[train]: ").and_then(|about| {
        let document = Document::parse(text, &path).ok()?;
        Some(document.line(&train_key(about)))
    });
    Error::Config { path, line: about, message }
}

/// Location of the key that a message of [`TrainConfig::check`] begins with.
fn train_key(message: &str) -> Vec<Step> {
    let key = message.split([' ', ':']).next().unwrap_or_default();
    std::iter::once("train").chain(key.split('.')).map(|key| Step::Key(key.into())).collect()
}

/// Class names must be distinct and printable.
pub(crate) fn check_classes(names: &[String]) -> Result<(), String> {
    let mut seen = std::collections::BTreeSet::new();
    for (index, name) in names.iter().enumerate() {
        if name.trim().is_empty() || name.chars().count() > MAX_NAME || name.contains(char::is_control) {
            return Err(format!(
                "classes: name {} must have 1 to {MAX_NAME} printable characters",
                index + 1
            ));
        }
        if !seen.insert(name) {
            return Err(format!("classes: {name:?} appears twice; each class needs a unique name"));
        }
    }
    Ok(())
}

/// How to train: the `[train]` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct TrainConfig {
    /// Passes through the training set.
    pub epochs: usize,
    /// Images per step.
    pub batch_size: usize,
    /// The update rule.
    pub optimizer: Optimizer,
    /// Learning rate over the steps.
    pub learning_rate: LearningRate,
    /// Share of the run over which the learning rate rises to that of its schedule; one cycle has a rise of its own.
    #[serde(skip_serializing_if = "is_off")]
    pub warmup: f32,
    /// Distribution of the initial weights.
    pub init: WeightInit,
    /// Fraction of the target that is spread over all classes, 0 to 1.
    pub label_smoothing: f32,
    /// What each class counts in the training loss; without it, all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<ClassWeights>,
    /// Decay per step of the exponential moving average of weights and running statistics, which is then evaluated
    /// and saved; 0 switches it off.
    pub average_decay: f32,
    /// The largest norm of the gradient of all parameters together, to which a longer one is shortened; 0: no limit.
    #[serde(skip_serializing_if = "is_off")]
    pub clip_norm: f32,
    /// Layers that keep the weights they begin with: names, or `"before NAME"` for all that are listed before a layer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<String>,
    /// When to stop before the last epoch; it needs held-out images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stop: Option<EarlyStop>,
    /// Whose weights are the result; the best epoch's need held-out images.
    #[serde(skip_serializing_if = "Keep::is_last")]
    pub keep: Keep,
    /// Random augmentation of the training images.
    pub augment: Augment,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 19,
            batch_size: 128,
            optimizer: Optimizer::default(),
            learning_rate: LearningRate::one_cycle(0.2),
            warmup: 0.0,
            init: WeightInit::Pytorch,
            label_smoothing: 0.0,
            class_weights: None,
            average_decay: 0.0,
            clip_norm: 0.0,
            freeze: Vec::new(),
            early_stop: None,
            keep: Keep::Last,
            augment: Augment::default(),
        }
    }
}

impl TrainConfig {
    /// The key of `[train]` that needs held-out images, if there is one, and by what it judges on them.
    pub fn judges(&self) -> Option<(&'static str, Criterion)> {
        match (self.early_stop, self.keep) {
            (Some(stop), _) => Some(("early_stop", stop.on)),
            (None, Keep::Best) => Some(("keep", Criterion::Accuracy)),
            (None, Keep::Last) => None,
        }
    }

    /// Checks ranges.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=100_000).contains(&self.epochs) {
            return Err(format!("epochs = {} must be from 1 to 100000", self.epochs));
        }
        if !(1..=65_536).contains(&self.batch_size) {
            return Err(format!("batch_size = {} must be from 1 to 65536", self.batch_size));
        }
        within("label_smoothing", self.label_smoothing, 0.0, 0.9)?;
        self.class_weights.as_ref().map_or(Ok(()), ClassWeights::check)?;
        within("average_decay", self.average_decay, 0.0, 0.99999)?;
        self.augment.check()?;
        if self.clip_norm != 0.0 {
            within("clip_norm", self.clip_norm, 1e-6, 1e6)?;
        }
        if self.early_stop.is_some_and(|stop| !(1..=100_000).contains(&stop.patience)) {
            return Err("early_stop.patience must be from 1 to 100000".into());
        }
        self.optimizer.check()?;
        within("warmup", self.warmup, 0.0, 1.0)?;
        if self.warmup > 0.0 && matches!(self.learning_rate, LearningRate::OneCycle { .. }) {
            return Err(
                "warmup: one_cycle has a warmup of its own; write it in learning_rate, or choose another schedule".into()
            );
        }
        self.learning_rate.check()
    }
}

/// Distribution of the initial weights of convolution and linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightInit {
    /// PyTorch's default: weights and biases uniform in ±1/√`fan_in`.
    Pytorch,
    /// Kaiming He's: weights normal with standard deviation √(2/`fan_in`), biases 0 (He et al. 2015).
    Kaiming,
}

/// A configuration as TOML keys. An `f32` of 0.1 is written as 0.1, not as the nearest `f64` of the nearest `f32`.
pub fn shortest_floats(config: &impl Serialize) -> toml::Table {
    fn shorten(value: &mut toml::Value) {
        match value {
            toml::Value::Float(float) => *float = (*float as f32).to_string().parse().unwrap_or(*float),
            toml::Value::Table(table) => table.iter_mut().for_each(|(_, value)| shorten(value)),
            toml::Value::Array(values) => values.iter_mut().for_each(shorten),
            _ => {}
        }
    }
    let mut table = toml::Table::try_from(config).expect("configurations are plain values");
    table.iter_mut().for_each(|(_, value)| shorten(value));
    table
}
