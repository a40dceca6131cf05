//! Recipes written in Rust: `TrainConfig::default().epochs(3)`.

use super::optimizing::{cycle_end, cycle_start, warmup};
use super::{Augment, ClassWeights, EarlyStop, Keep, LearningRate, Optimizer, TrainConfig, WeightInit};

macro_rules! setters {
    ($name:ident { $($field:ident: $kind:ty),* $(,)? }) => {
        impl $name {
            $(
                #[doc = concat!("The same with another [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
                #[must_use]
                pub fn $field(self, $field: $kind) -> Self {
                    Self { $field, ..self }
                }
            )*
        }
    };
}

pub(super) use setters;

setters!(TrainConfig {
    epochs: usize,
    batch_size: usize,
    optimizer: Optimizer,
    learning_rate: LearningRate,
    warmup: f32,
    init: WeightInit,
    label_smoothing: f32,
    class_weights: Option<ClassWeights>,
    average_decay: f32,
    clip_norm: f32,
    freeze: Vec<String>,
    early_stop: Option<EarlyStop>,
    keep: Keep,
    augment: Augment,
});

impl LearningRate {
    /// One cycle with this peak, and the defaults of model files.
    pub fn one_cycle(peak: f32) -> Self {
        Self::OneCycle { peak, warmup: warmup(), start: cycle_start(), end: cycle_end() }
    }
}

impl Optimizer {
    /// Stochastic gradient descent with Nesterov momentum of 0.9 and this weight decay.
    pub fn sgd(weight_decay: f32) -> Self {
        Self::Sgd { momentum: 0.9, nesterov: true, weight_decay }
    }
}
