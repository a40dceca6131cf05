//! Mean over windows sized to make an output of a given size. It has no shader of its own: it is average pooling with
//! adjacent windows.

use serde::{Deserialize, Serialize};

use super::sides::Sides;
use super::window::Pool;
use super::*;

pub(super) const KIND: LayerKind =
    LayerKind::new::<AdaptiveAvgPool2d>("adaptive_avg_pool2d", "AdaptiveAvgPool2d", "adaptive_avg_pool");

/// `{ type = "adaptive_avg_pool2d", output = 4 }`, or `output = [height, width]`, which must divide the input's size:
/// others would need windows of different sizes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AdaptiveAvgPool2d {
    output: Sides,
}

impl AdaptiveAvgPool2d {
    fn pool(&self, input: Shape) -> Pool {
        Pool::adaptive(input, self.output.0)
    }
}

impl Layer for AdaptiveAvgPool2d {
    fn keys(&self) -> toml::Table {
        keys_of(self)
    }

    fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let ([height, width], input) = (self.output.0, inputs[0]);
        let fits = |size: usize, input: usize| size > 0 && input.is_multiple_of(size);
        if fits(height, input.height) && fits(width, input.width) {
            return Ok(Shape::new(input.channels, height, width));
        }
        let Shape { height: rows, width: columns, .. } = input;
        Err(format!(
            "output = [{height}, {width}] must divide the input's height and width, [{rows}, {columns}]"
        ))
    }

    fn forward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        avg_pool2d::forward(&self.pool(avg_pool2d::input_shape(arrays)), arrays)
    }

    fn backward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        avg_pool2d::backward(&self.pool(avg_pool2d::input_shape(arrays)), arrays)
    }

    fn launches(&self, pass: Pass, context: &PlanContext) -> Vec<Launch> {
        avg_pool2d::launches(&self.pool(context.inputs[0]), pass, context)
    }

    fn op(&self, inputs: &[Shape]) -> Op {
        Op::AvgPool2d(self.pool(inputs[0]))
    }
}
