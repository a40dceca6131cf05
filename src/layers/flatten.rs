//! Flattening: the same values as one column of channels. No kernel: the output shares the input's memory.

use serde::{Deserialize, Serialize};

use super::*;

pub(super) const KIND: LayerKind = LayerKind::new::<Flatten>("flatten", "Flatten", "flatten");

/// `{ type = "flatten" }`: [C, H, W] → [C·H·W, 1, 1], in PyTorch's order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Flatten {}

impl Layer for Flatten {
    fn keys(&self) -> toml::Table {
        keys_of(self)
    }

    fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(Shape::new(inputs[0].len(), 1, 1))
    }

    fn forward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        let mut output = arrays["input"].clone();
        let [n, c, h, w] = output.nchw();
        output.shape = vec![n, c * h * w, 1, 1];
        Arrays::from([("output", output)])
    }

    fn backward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        let mut grad_input = arrays["grad_output"].clone();
        grad_input.shape.clone_from(&arrays["input"].shape);
        Arrays::from([("grad_input", grad_input)])
    }

    fn launches(&self, _: Pass, _: &PlanContext) -> Vec<Launch> {
        Vec::new()
    }

    fn op(&self, _: &[Shape]) -> Op {
        Op::Reshape
    }
}
