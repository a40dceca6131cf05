//! Update rules. The reference works in `f64` on flat vectors; the shaders update all parameters in one launch.

use crate::config::Optimizer;
use crate::layers::Launch;
use crate::state;
use crate::tensor::{Array, Arrays, gamma};

mod adam;
pub mod average;
pub mod clip;
mod sgd;

/// Inputs of an optimizer step other than arrays.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Steps taken before this one.
    pub step: u32,
    /// Learning rate of this step.
    pub learning_rate: f64,
}

impl Optimizer {
    /// Names of the vectors that the rule keeps from step to step; all start at zero.
    pub fn memory(&self) -> &'static [&'static str] {
        match self {
            Self::Sgd { .. } => &["velocity"],
            Self::Adam { .. } | Self::Adamw { .. } => &["first_moment", "second_moment"],
        }
    }

    /// Weight decay of the parameters it applies to.
    pub fn weight_decay(&self) -> f32 {
        match *self {
            Self::Sgd { weight_decay, .. }
            | Self::Adam { weight_decay, .. }
            | Self::Adamw { weight_decay, .. } => weight_decay,
        }
    }

    /// The same rule with a different weight decay.
    #[must_use]
    pub fn with_weight_decay(mut self, decay: f32) -> Self {
        match &mut self {
            Self::Sgd { weight_decay, .. }
            | Self::Adam { weight_decay, .. }
            | Self::Adamw { weight_decay, .. } => *weight_decay = decay,
        }
        self
    }

    /// Reference: reads `params`, `grads`, `weight_decay` (one value per element) and the memory; makes the new
    /// `params` and memory.
    ///
    /// # Examples
    /// ```
    /// use shadernet::config::Optimizer;
    /// use shadernet::optimizers::Step;
    /// use shadernet::tensor::{Array, Arrays};
    ///
    /// let sgd = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    /// let one = |value| Array::exact(&[1], vec![value]);
    /// let arrays = [("params", 1.0), ("grads", 0.5), ("weight_decay", 0.0), ("velocity", 0.0)];
    /// let arrays: Arrays = arrays.into_iter().map(|(name, value)| (name, one(value))).collect();
    /// let made = sgd.update(&arrays, Step { step: 0, learning_rate: 0.5 });
    /// assert_eq!(made["params"].data, [0.75]);
    /// ```
    pub fn update(&self, arrays: &Arrays, step: Step) -> Arrays {
        match *self {
            Self::Sgd { momentum, nesterov, .. } => sgd::update(f64::from(momentum), nesterov, arrays, step),
            Self::Adam { beta1, beta2, eps, .. } => adam::update([beta1, beta2, eps], false, arrays, step),
            Self::Adamw { beta1, beta2, eps, .. } => adam::update([beta1, beta2, eps], true, arrays, step),
        }
    }

    /// The launch that updates `elements` parameters by gradients that are summed over `parts` rows, and their moving
    /// average if `average_decay` is above 0, in a run of `steps` steps. `clips` says whether a factor of [`clip`] applies,
    /// `has_rates` whether a layer has a factor on its learning rate.
    pub fn launch(
        &self,
        elements: usize,
        parts: usize,
        steps: usize,
        average_decay: f32,
        clips: bool,
        has_rates: bool,
    ) -> Launch {
        let (shader, mut constants) = match *self {
            Self::Sgd { momentum, nesterov, .. } => ("sgd", sgd::constants(momentum, nesterov)),
            Self::Adam { beta1, beta2, eps, .. } => ("adam", adam::constants([beta1, beta2, eps], false)),
            Self::Adamw { beta1, beta2, eps, .. } => ("adam", adam::constants([beta1, beta2, eps], true)),
        };
        constants.extend([
            ("ELEMENTS", elements as f64),
            ("PARTS", parts as f64),
            ("STEPS", steps as f64),
            ("AVERAGE_DECAY", f64::from(average_decay)),
            ("CLIP", f64::from(u8::from(clips))),
            ("RATES", f64::from(u8::from(has_rates))),
        ]);
        constants.extend(state::rate_constants());
        let entry_point = if average_decay > 0.0 { "update_averaged" } else { "update" };
        Launch::new(shader, entry_point, elements, constants)
    }
}

/// A value and the bound on its `f32` error, combined to first order.
#[derive(Debug, Clone, Copy)]
struct Bounded {
    value: f64,
    bound: f64,
}

impl Bounded {
    /// Σ factor·value, each factor rounded once and the sum in any order.
    fn sum(terms: &[(f64, Self)]) -> Self {
        let value = terms.iter().map(|(factor, term)| factor * term.value).sum();
        let magnitude: f64 = terms.iter().map(|(factor, term)| (factor * term.value).abs()).sum();
        let carried: f64 = terms.iter().map(|(factor, term)| factor.abs() * term.bound).sum();
        Self { value, bound: carried + gamma(terms.len() + 3) * magnitude }
    }
}

fn exact(value: f64) -> Bounded {
    Bounded { value, bound: 0.0 }
}

/// An element with its bound.
fn given(array: &Array, index: usize) -> Bounded {
    Bounded { value: array.data[index], bound: array.bound[index] }
}

fn put(array: &mut Array, index: usize, result: Bounded) {
    (array.data[index], array.bound[index]) = (result.value, result.bound + crate::tensor::FLUSH);
}
