//! One of the nets that are trained side by side: its seed, and the settings in which it may differ from the others.
//!
//! Everything that shapes a step is common to all: layers, update rule with its momentum, batch size, epochs, average. A
//! replica's weights are those of the single run with its seed and settings, bit for bit on the same device.
//!
//! `RunBuilder::replicas` takes any list of them:
//!
//! ```
//! use shadernet::model::Model;
//! use shadernet::replica::Replica;
//!
//! # fn main() -> shadernet::error::Result<()> {
//! # let text = "name = \"x\"\ninput = [1, 2, 2]\nlayers = [{ type = \"flatten\" }, { type = \"dropout\", rate = 0.1 }, { type = \"linear\", out_features = 2 }]";
//! let model = Model::parse(text, "x.toml")?;
//! // Four nets of seeds 0 to 3; the last two without dropout.
//! let mut nets = Replica::of_seeds(&model, 0..4);
//! for net in &mut nets[2..] {
//!     net.dropout.fill(0.0);
//!     net.point.0.insert("dropout".into(), 0.0);
//! }
//! // The recipe that the file of the last one carries.
//! assert!(nets[3].model(&model)?.to_toml().contains("rate = 0.0"));
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::batch::mixture;
use crate::config::{Augment, Fill, LearningRate, TrainConfig, is_off};
use crate::error::{Error, Result};
use crate::model::{Model, NamedLayer};
use crate::rng::{self, Stream};
use crate::state::{LayerSettings, NetSettings, QUANTILES};

/// A net's seed and settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replica {
    /// Seed of all its random numbers.
    pub seed: u32,
    /// Learning rate over the steps.
    pub learning_rate: LearningRate,
    /// Share of the run over which it rises to its schedule.
    #[serde(default, skip_serializing_if = "is_off")]
    pub warmup: f32,
    /// Weight decay, for the parameters that decay.
    pub weight_decay: f32,
    /// Rate of each dropout layer, first to last.
    pub dropout: Vec<f32>,
    /// Share of the target that is spread over all classes.
    pub label_smoothing: f32,
    /// Largest norm of its gradient; 0: no limit.
    #[serde(default, skip_serializing_if = "is_off")]
    pub clip_norm: f32,
    /// Largest random changes of its training images.
    pub augment: Augment,
    /// What tells it from others of its seed: it names the net's file, and a run reports nets that agree in it together.
    /// Nothing is computed from it.
    #[serde(default, skip_serializing_if = "Point::is_empty")]
    pub point: Point,
}

/// A point of a sweep: values of settings, by name. `Display` is `dropout=0.1 learning_rate=0.2`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Point(pub BTreeMap<String, f32>);

impl Point {
    /// True where nothing is swept.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values: Vec<_> = self.0.iter().map(|(key, value)| format!("{key}={value}")).collect();
        f.write_str(&values.join(" "))
    }
}

impl Replica {
    /// A net with the model's own recipe.
    pub fn new(model: &Model, seed: u32) -> Self {
        let train = &model.train;
        Self {
            seed,
            learning_rate: train.learning_rate,
            warmup: train.warmup,
            weight_decay: train.optimizer.weight_decay(),
            dropout: model.dropout_rates().map(|(_, rate)| rate).collect(),
            label_smoothing: train.label_smoothing,
            clip_norm: train.clip_norm,
            augment: train.augment,
            point: Point::default(),
        }
    }

    /// Nets that differ in nothing but their seeds.
    pub fn of_seeds(model: &Model, seeds: impl IntoIterator<Item = u32>) -> Vec<Self> {
        seeds.into_iter().map(|seed| Self::new(model, seed)).collect()
    }

    /// For each setting the largest of any replica, under the first one's seed and schedule: whatever is switched on in one
    /// of them is switched on in it, so its plan has every kernel that theirs has.
    ///
    /// # Panics
    /// Without a replica.
    pub fn strongest(replicas: &[Self]) -> Self {
        let mut strongest = replicas.first().expect("at least one net").clone();
        let raise = |most: &mut f32, value: f32| *most = most.max(value);
        for other in replicas {
            raise(&mut strongest.weight_decay, other.weight_decay);
            raise(&mut strongest.label_smoothing, other.label_smoothing);
            raise(&mut strongest.clip_norm, other.clip_norm);
            strongest.dropout.iter_mut().zip(&other.dropout).for_each(|(most, &rate)| raise(most, rate));
            let strengths = strongest.augment.strengths_mut().into_iter();
            strengths.zip(other.augment.strengths()).for_each(|(most, strength)| raise(most, strength));
        }
        strongest
    }

    /// `model` with this net's settings: what a single run of this net would have.
    ///
    /// # Errors
    /// A setting outside its range, and another number of dropout rates than the model has such layers.
    pub fn model(&self, model: &Model) -> Result<Model> {
        let layers: Vec<usize> = model.dropout_rates().map(|(layer, _)| layer).collect();
        if layers.len() != self.dropout.len() {
            return Err(Error::Usage(format!(
                "{} dropout rates for the {} dropout layers of {}",
                self.dropout.len(),
                layers.len(),
                model.name
            )));
        }
        let train = TrainConfig {
            optimizer: model.train.optimizer.with_weight_decay(self.weight_decay),
            learning_rate: self.learning_rate,
            warmup: self.warmup,
            label_smoothing: self.label_smoothing,
            clip_norm: self.clip_norm,
            augment: self.augment,
            ..model.train.clone()
        };
        train.check().map_err(Error::Usage)?;
        let mut config = model.config();
        for (layer, &rate) in layers.into_iter().zip(&self.dropout) {
            config.layers[layer].keys.insert("rate".into(), f64::from(rate).into());
        }
        config.train = train;
        Model::new(config)
    }

    /// The net's settings in the tensor `state` in a run of `epochs`, and those of each layer.
    pub fn settings(&self, model: &Model, epochs: usize) -> (NetSettings, Vec<LayerSettings>) {
        let Augment { mixup, cutmix, fill, .. } = self.augment;
        let augment = &self.augment;
        let (fill_kind, fill_value) = match fill {
            Fill::Value(value) => (0, value),
            Fill::Mean => (1, 0.0),
            Fill::Edge => (2, 0.0),
            Fill::Reflect => (3, 0.0),
        };
        let quantiles = |of: fn(f32) -> [u32; QUANTILES], alpha: f32| {
            if alpha > 0.0 { of(alpha) } else { [0; QUANTILES] }
        };
        let net = NetSettings {
            shuffle_key: rng::key(self.seed, Stream::Shuffle),
            augment_key: rng::key(self.seed, Stream::Augment),
            label_smoothing: self.label_smoothing,
            rotate: augment.rotate_degrees.to_radians(),
            shift: augment.shift_pixels,
            scale: augment.scale,
            shear: augment.shear,
            flip_horizontal: rng::drop_threshold(augment.flip_horizontal),
            flip_vertical: rng::drop_threshold(augment.flip_vertical),
            pad: augment.pad_crop as u32,
            crop: augment.crop,
            aspect: libm::log2f(1.0 + augment.crop_aspect),
            elastic: augment.elastic,
            points: 1.0 / augment.elastic_smoothness,
            brightness: augment.brightness,
            contrast: augment.contrast,
            saturation: augment.saturation,
            hue: augment.hue,
            erase: rng::drop_threshold(augment.erase),
            erase_side: (augment.erase_area.sqrt() * 65536.0) as u32,
            mix_kind: u32::from(mixup > 0.0) + 2 * u32::from(cutmix > 0.0),
            mix_weights: quantiles(mixture::mix_weights, mixup),
            mix_sides: quantiles(mixture::mix_sides, cutmix),
            fill_kind,
            fill_value,
            weight_decay: self.weight_decay,
            plain_from: self.augment.plain_from(epochs),
            total_weight: 0.0,
            clip_norm: self.clip_norm,
            clip_factor: 1.0,
        };
        let own = |layer: &NamedLayer| LayerSettings { rate: layer.rate, ..Default::default() };
        let mut layers: Vec<_> = model.layers.iter().map(own).collect();
        for ((layer, _), &rate) in model.dropout_rates().zip(&self.dropout) {
            layers[layer] = LayerSettings {
                dropout_key: rng::key(self.seed, Stream::Dropout(layer as u32)),
                dropout_threshold: rng::drop_threshold(rate),
                dropout_scale: 1.0 / (1.0 - rate),
                ..layers[layer]
            };
        }
        (net, layers)
    }
}
