//! Recipes written in Rust: `TrainConfig::default().epochs(3)`.

use super::{
    Augment, Fill, LearningRate, Optimizer, TrainConfig, WeightInit, cycle_end, cycle_start, warmup,
};

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

setters!(TrainConfig {
    epochs: usize,
    batch_size: usize,
    optimizer: Optimizer,
    learning_rate: LearningRate,
    init: WeightInit,
    label_smoothing: f32,
    average_decay: f32,
    augment: Augment,
});

setters!(Augment {
    rotate_degrees: f32,
    shift_pixels: f32,
    scale: f32,
    shear: f32,
    flip_horizontal: f32,
    flip_vertical: f32,
    pad_crop: f32,
    crop: f32,
    crop_aspect: f32,
    elastic: f32,
    elastic_smoothness: f32,
    brightness: f32,
    contrast: f32,
    saturation: f32,
    hue: f32,
    erase: f32,
    erase_area: f32,
    mixup: f32,
    cutmix: f32,
    fill: Fill,
    plain_epochs: u32,
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
