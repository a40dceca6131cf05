//! Leaky rectifier. Kernels: `shaders/leaky_relu.wgsl`.

use serde::{Deserialize, Serialize};

use super::*;
use crate::tensor::{Array, FLUSH, gamma};

pub(super) const KIND: LayerKind = LayerKind::new::<LeakyRelu>("leaky_relu", "LeakyReLU", "leaky_relu");

/// `{ type = "leaky_relu", negative_slope = 0.01 }`: `output = max(input, 0) + negative_slope · min(input, 0)`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LeakyRelu {
    #[serde(default = "default_slope")]
    pub(super) negative_slope: f32,
}

fn default_slope() -> f32 {
    0.01
}

impl LeakyRelu {
    /// The slope by which an input of this sign is multiplied; PyTorch counts 0 as negative.
    fn slope(&self, value: f64) -> f64 {
        if value > 0.0 { 1.0 } else { f64::from(self.negative_slope) }
    }

    fn scaled(&self, by_sign_of: &Array, values: &Array) -> Array {
        let mut result = values.clone();
        for (index, (value, bound)) in result.data.iter_mut().zip(&mut result.bound).enumerate() {
            let (sign, error) = (by_sign_of.data[index], by_sign_of.bound[index]);
            let slope = self.slope(sign);
            // So close to the kink that it may be on its other side.
            if error > 0.0 && sign.abs() <= error {
                *bound += value.abs() * (1.0 - f64::from(self.negative_slope));
            }
            *value *= slope;
            if slope != 0.0 && slope != 1.0 {
                *bound += gamma(1) * value.abs() + FLUSH;
            }
        }
        result
    }
}

impl Layer for LeakyRelu {
    fn keys(&self) -> toml::Table {
        keys_of(self)
    }

    fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        if !(0.0..1.0).contains(&self.negative_slope) {
            return Err(format!("negative_slope = {} must be at least 0 and below 1", self.negative_slope));
        }
        Ok(inputs[0])
    }

    fn forward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        let input = &arrays["input"];
        Arrays::from([("output", self.scaled(input, input))])
    }

    fn backward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        // The output has the input's sign, so the input need not be kept.
        Arrays::from([("grad_input", self.scaled(&arrays["output"], &arrays["grad_output"]))])
    }

    fn launches(&self, pass: Pass, context: &PlanContext) -> Vec<Launch> {
        let entry_point = if pass == Pass::Backward { "backward_input" } else { "forward" };
        let elements = context.quads * context.output.len();
        let constants = [("ELEMENTS", elements as f64), ("NEGATIVE_SLOPE", f64::from(self.negative_slope))];
        vec![Launch::new("leaky_relu", entry_point, elements, constants)]
    }

    fn op(&self, _: &[Shape]) -> Op {
        Op::Activation(Activation::LeakyRelu { slope: self.negative_slope })
    }
}
