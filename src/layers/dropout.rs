//! Dropout. Kernels: `shaders/dropout.wgsl`.

use serde::{Deserialize, Serialize};

use super::*;
use crate::rng::{self, Stream};
use crate::state;
use crate::tensor::{Array, FLUSH, gamma};

pub(super) const KIND: LayerKind = LayerKind::new::<Dropout>("dropout", "Dropout", "dropout");

/// `{ type = "dropout", rate = 0.05 }`: in training each value is zeroed with probability `rate`, else divided by 1 −
/// rate.
///
/// The mask is a function of (seed, layer, step, image, element), recomputed and never stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dropout {
    rate: f32,
}

impl Dropout {
    fn apply(&self, values: &Array, context: &Context) -> Array {
        let mut result = values.clone();
        if !context.training {
            return result;
        }
        let [_, c, h, w] = values.nchw();
        let key = rng::key(context.seed, Stream::Dropout(context.layer));
        let threshold = rng::drop_threshold(self.rate);
        let scale = f64::from(1.0 / (1.0 - self.rate));
        for (index, value) in result.data.iter_mut().enumerate() {
            let (image, element) = (context.first_image + index / (c * h * w), index % (c * h * w));
            let words = rng::words(key, context.step, image as u32 / 4, element as u32);
            let factor = if words[image % 4] >= threshold { scale } else { 0.0 };
            *value *= factor;
            result.bound[index] = factor * result.bound[index] + gamma(1) * value.abs() + FLUSH;
        }
        result
    }
}

impl Layer for Dropout {
    fn keys(&self) -> toml::Table {
        keys_of(self)
    }

    fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        if !(0.0..1.0).contains(&self.rate) {
            return Err(format!("rate = {} must be at least 0 and below 1", self.rate));
        }
        Ok(inputs[0])
    }

    fn forward(&self, arrays: &Arrays, context: &Context) -> Arrays {
        Arrays::from([("output", self.apply(&arrays["input"], context))])
    }

    fn backward(&self, arrays: &Arrays, context: &Context) -> Arrays {
        Arrays::from([("grad_input", self.apply(&arrays["grad_output"], context))])
    }

    fn launches(&self, pass: Pass, context: &PlanContext) -> Vec<Launch> {
        let entry_point = match pass {
            Pass::Train => "forward",
            Pass::Eval => "forward_eval",
            Pass::Backward => "backward_input",
        };
        let elements = context.quads * context.output.len();
        let constants = [("ELEMENTS", elements as f64), ("IMAGE_ELEMENTS", context.output.len() as f64)];
        let constants = constants.into_iter().chain(state::layer_constants(context.layer as usize));
        vec![Launch::new("dropout", entry_point, elements, constants)]
    }

    fn op(&self, _: &[Shape]) -> Op {
        Op::Dropout { rate: self.rate }
    }
}
