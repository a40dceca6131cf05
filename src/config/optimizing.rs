//! The update rule and its learning rates.

use serde::{Deserialize, Serialize};

/// Fails if the value of a key is outside its range.
pub(super) fn within(name: &str, value: f32, low: f32, high: f32) -> Result<(), String> {
    if value >= low && value <= high {
        Ok(())
    } else {
        Err(format!("{name} = {value} must be from {low} to {high}"))
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

impl Optimizer {
    /// Checks ranges.
    pub(super) fn check(&self) -> Result<(), String> {
        match *self {
            Self::Sgd { momentum, nesterov, weight_decay } => {
                within("momentum", momentum, 0.0, 0.99999)?;
                within("weight_decay", weight_decay, 0.0, 1.0)?;
                if nesterov && momentum == 0.0 {
                    return Err("nesterov needs a momentum above 0".into());
                }
            }
            Self::Adam { beta1, beta2, eps, weight_decay }
            | Self::Adamw { beta1, beta2, eps, weight_decay } => {
                within("beta1", beta1, 0.0, 0.99999)?;
                within("beta2", beta2, 0.0, 0.99999)?;
                within("eps", eps, 1e-12, 1.0)?;
                within("weight_decay", weight_decay, 0.0, 1.0)?;
            }
        }
        Ok(())
    }
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
    /// Multiplied by the same factor in each step, from `start` to `end`.
    Exponential {
        /// Initial rate.
        start: f32,
        /// Rate of the last step.
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

impl LearningRate {
    /// Checks ranges.
    pub(super) fn check(&self) -> Result<(), String> {
        match *self {
            Self::Exponential { start, end } => {
                within("learning_rate.start", start, 1e-9, 100.0)?;
                within("learning_rate.end", end, 1e-9, 100.0)
            }
            Self::Constant { rate } => within("learning_rate.rate", rate, 1e-9, 100.0),
            Self::Step { rate, every_epochs, factor } => {
                within("learning_rate.rate", rate, 1e-9, 100.0)?;
                within("learning_rate.every_epochs", every_epochs as f32, 1.0, 100_000.0)?;
                within("learning_rate.factor", factor, 1e-6, 1.0)
            }
            Self::Cosine { peak, end } => {
                within("learning_rate.peak", peak, 1e-9, 100.0)?;
                within("learning_rate.end", end, 0.0, 1.0)
            }
            Self::OneCycle { peak, warmup, start, end } => {
                within("learning_rate.peak", peak, 1e-9, 100.0)?;
                within("learning_rate.warmup", warmup, 0.0, 1.0)?;
                within("learning_rate.start", start, 0.0, 1.0)?;
                within("learning_rate.end", end, 0.0, 1.0)
            }
        }
    }
}

pub(super) fn warmup() -> f32 {
    0.2
}

pub(super) fn cycle_start() -> f32 {
    0.04
}

pub(super) fn cycle_end() -> f32 {
    1e-4
}
