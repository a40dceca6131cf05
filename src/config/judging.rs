//! What a recipe decides by the images that are held out: when to stop, and which epoch's weights to keep.

use serde::{Deserialize, Serialize};

/// The figure by which nets or epochs are compared. Ties are broken by the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Criterion {
    /// The accuracy.
    #[default]
    Accuracy,
    /// The cross-entropy: on a few thousand images it is less noisy, but it can't compare recipes that differ in label
    /// smoothing.
    Loss,
}

impl Criterion {
    /// What is larger for better figures; compare it by `>`. Figures that are no numbers are never better.
    pub fn score(self, accuracy: f64, loss: f64) -> (f64, f64) {
        match self {
            Self::Accuracy => (accuracy, -loss),
            Self::Loss => (-loss, accuracy),
        }
    }
}

/// Ends a training once nothing gets better: `early_stop = { patience = 5, on = "loss" }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EarlyStop {
    /// It ends when this many epochs in a row were no better than the best one before them.
    pub patience: u32,
    /// What must get better, on the held-out images.
    #[serde(default = "loss")]
    pub on: Criterion,
}

fn loss() -> Criterion {
    Criterion::Loss
}

impl EarlyStop {
    /// Ends a training when this many epochs in a row were no better by the loss.
    pub fn after(patience: u32) -> Self {
        Self { patience, on: loss() }
    }
}

/// Whose weights are the result of a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Those after the last epoch.
    #[default]
    Last,
    /// Those after the epoch that was best on the held-out images, the first of equals: by what
    /// [`early_stop`](super::TrainConfig::early_stop) names, or else by the accuracy.
    Best,
}

impl Keep {
    pub(super) fn is_last(&self) -> bool {
        *self == Self::Last
    }
}
