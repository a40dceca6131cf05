//! Rectifier. It has no shader of its own: it is the leaky rectifier with slope 0.

use serde::{Deserialize, Serialize};

use super::leaky_relu::LeakyRelu;
use super::*;

pub(super) const KIND: LayerKind = LayerKind::new::<Relu>("relu", "ReLU", "relu");

const LEAKY: LeakyRelu = LeakyRelu { negative_slope: 0.0 };

/// `{ type = "relu" }`: output = max(input, 0); the derivative at 0 is 0.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Relu {}

impl Layer for Relu {
    fn keys(&self) -> toml::Table {
        keys_of(self)
    }

    fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }

    fn forward(&self, arrays: &Arrays, context: &Context) -> Arrays {
        LEAKY.forward(arrays, context)
    }

    fn backward(&self, arrays: &Arrays, context: &Context) -> Arrays {
        LEAKY.backward(arrays, context)
    }

    fn launches(&self, pass: Pass, context: &PlanContext) -> Vec<Launch> {
        LEAKY.launches(pass, context)
    }

    fn op(&self, inputs: &[Shape]) -> Op {
        LEAKY.op(inputs)
    }
}
