//! Model and training descriptions as users write them: TOML keys and their ranges, no arithmetic.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::tensor::Shape;

mod augment;
mod read;
mod setters;

pub use augment::{Augment, Fill};

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

/// Location of the key that a message of [`TrainConfig::check`] begins with.
fn train_key(message: &str) -> Vec<Step> {
    let key = message.split(' ').next().unwrap_or_default();
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
    /// Distribution of the initial weights.
    pub init: WeightInit,
    /// Fraction of the target that is spread over all classes, 0 to 1.
    pub label_smoothing: f32,
    /// Decay per step of the exponential moving average of weights and running statistics, which is then evaluated
    /// and saved; 0 switches it off.
    pub average_decay: f32,
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
            init: WeightInit::Pytorch,
            label_smoothing: 0.0,
            average_decay: 0.0,
            augment: Augment::default(),
        }
    }
}

impl TrainConfig {
    /// Checks ranges.
    pub fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: f32, low: f32, high: f32| {
            if value >= low && value <= high {
                Ok(())
            } else {
                Err(format!("{name} = {value} must be from {low} to {high}"))
            }
        };
        if !(1..=100_000).contains(&self.epochs) {
            return Err(format!("epochs = {} must be from 1 to 100000", self.epochs));
        }
        if !(1..=65_536).contains(&self.batch_size) {
            return Err(format!("batch_size = {} must be from 1 to 65536", self.batch_size));
        }
        within("label_smoothing", self.label_smoothing, 0.0, 0.9)?;
        within("average_decay", self.average_decay, 0.0, 0.99999)?;
        self.augment.check()?;
        match self.optimizer {
            Optimizer::Sgd { momentum, nesterov, weight_decay } => {
                within("momentum", momentum, 0.0, 0.99999)?;
                within("weight_decay", weight_decay, 0.0, 1.0)?;
                if nesterov && momentum == 0.0 {
                    return Err("nesterov needs a momentum above 0".into());
                }
            }
            Optimizer::Adam { beta1, beta2, eps, weight_decay }
            | Optimizer::Adamw { beta1, beta2, eps, weight_decay } => {
                within("beta1", beta1, 0.0, 0.99999)?;
                within("beta2", beta2, 0.0, 0.99999)?;
                within("eps", eps, 1e-12, 1.0)?;
                within("weight_decay", weight_decay, 0.0, 1.0)?;
            }
        }
        match self.learning_rate {
            LearningRate::Constant { rate } => within("learning_rate.rate", rate, 1e-9, 100.0),
            LearningRate::Step { rate, every_epochs, factor } => {
                within("learning_rate.rate", rate, 1e-9, 100.0)?;
                within("learning_rate.every_epochs", every_epochs as f32, 1.0, 100_000.0)?;
                within("learning_rate.factor", factor, 1e-6, 1.0)
            }
            LearningRate::Cosine { peak, end } => {
                within("learning_rate.peak", peak, 1e-9, 100.0)?;
                within("learning_rate.end", end, 0.0, 1.0)
            }
            LearningRate::OneCycle { peak, warmup, start, end } => {
                within("learning_rate.peak", peak, 1e-9, 100.0)?;
                within("learning_rate.warmup", warmup, 0.0, 1.0)?;
                within("learning_rate.start", start, 0.0, 1.0)?;
                within("learning_rate.end", end, 0.0, 1.0)
            }
        }
    }
}

/// The update rule and its constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Optimizer {
    /// Stochastic gradient descent with momentum as in PyTorch; weight decay is added to the gradient.
    Sgd {
        /// Fraction of the last update that is kept.
        #[serde(default)]
        momentum: f32,
        /// Nesterov momentum.
        #[serde(default)]
        nesterov: bool,
        /// L2 penalty on convolution and linear weights.
        #[serde(default)]
        weight_decay: f32,
    },
    /// Adam (Kingma and Ba 2015); weight decay is added to the gradient.
    Adam {
        /// Decay of the first moment.
        #[serde(default = "beta1")]
        beta1: f32,
        /// Decay of the second moment.
        #[serde(default = "beta2")]
        beta2: f32,
        /// Added to the square root of the second moment.
        #[serde(default = "adam_eps")]
        eps: f32,
        /// L2 penalty on convolution and linear weights.
        #[serde(default)]
        weight_decay: f32,
    },
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    Adamw {
        /// Decay of the first moment.
        #[serde(default = "beta1")]
        beta1: f32,
        /// Decay of the second moment.
        #[serde(default = "beta2")]
        beta2: f32,
        /// Added to the square root of the second moment.
        #[serde(default = "adam_eps")]
        eps: f32,
        /// Fraction of convolution and linear weights that is lost per unit of learning rate.
        #[serde(default = "adamw_decay")]
        weight_decay: f32,
    },
}

fn beta1() -> f32 {
    0.9
}

fn beta2() -> f32 {
    0.999
}

fn adam_eps() -> f32 {
    1e-8
}

fn adamw_decay() -> f32 {
    0.01
}

impl Default for Optimizer {
    fn default() -> Self {
        Self::Sgd { momentum: 0.9, nesterov: true, weight_decay: 0.0 }
    }
}

/// Learning rate over the steps of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "schedule", rename_all = "snake_case", deny_unknown_fields)]
pub enum LearningRate {
    /// Constant.
    Constant {
        /// The rate.
        rate: f32,
    },
    /// Multiplied by `factor` every `every_epochs` epochs.
    Step {
        /// Initial rate.
        rate: f32,
        /// Epochs between changes.
        every_epochs: usize,
        /// Multiplier, at most 1.
        factor: f32,
    },
    /// Half a cosine from `peak` down to `end` · `peak`.
    Cosine {
        /// Initial rate.
        peak: f32,
        /// Final rate as a fraction of the peak.
        #[serde(default)]
        end: f32,
    },
    /// A linear rise to `peak` over the first `warmup` of the run, then half a cosine down (after Smith 2018).
    OneCycle {
        /// The highest rate.
        peak: f32,
        /// Fraction of the run with a rising rate.
        #[serde(default = "warmup")]
        warmup: f32,
        /// Initial rate as a fraction of the peak.
        #[serde(default = "cycle_start")]
        start: f32,
        /// Final rate as a fraction of the peak.
        #[serde(default = "cycle_end")]
        end: f32,
    },
}

fn warmup() -> f32 {
    0.2
}

fn cycle_start() -> f32 {
    0.04
}

fn cycle_end() -> f32 {
    1e-4
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
            _ => {}
        }
    }
    let mut table = toml::Table::try_from(config).expect("configurations are plain values");
    table.iter_mut().for_each(|(_, value)| shorten(value));
    table
}
