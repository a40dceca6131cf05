//! Mean of each whole feature map. It has no shader of its own: it is average pooling with the whole map as the window.

use serde::{Deserialize, Serialize};

use super::window::Pool;
use super::*;

pub(super) const KIND: LayerKind =
    LayerKind::new::<GlobalAvgPool2d>("global_avg_pool2d", "GlobalAvgPool2d", "global_avg_pool").functional();

/// `{ type = "global_avg_pool2d" }`: [C, H, W] → [C, 1, 1].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GlobalAvgPool2d {}

fn pool(arrays: &Arrays) -> Pool {
    Pool::global(avg_pool2d::input_shape(arrays))
}

impl Layer for GlobalAvgPool2d {
    fn keys(&self) -> toml::Table {
        keys_of(self)
    }

    fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(Shape::new(inputs[0].channels, 1, 1))
    }

    fn forward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        avg_pool2d::forward(&pool(arrays), arrays)
    }

    fn backward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        avg_pool2d::backward(&pool(arrays), arrays)
    }

    fn launches(&self, pass: Pass, context: &PlanContext) -> Vec<Launch> {
        avg_pool2d::launches(&Pool::global(context.inputs[0]), pass, context)
    }

    fn op(&self, inputs: &[Shape]) -> Op {
        Op::AvgPool2d(Pool::global(inputs[0]))
    }
}
