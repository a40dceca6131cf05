//! Mean over windows. Kernels: `shaders/avg_pool2d.wgsl`.

use serde::{Deserialize, Serialize};

use super::sides::Sides;
use super::window::Pool;
use super::*;
use crate::tensor::{Array, Sum};

pub(super) const KIND: LayerKind = LayerKind::new::<AvgPool2d>("avg_pool2d", "AvgPool2d", "avg_pool");

/// `{ type = "avg_pool2d", kernel = 2, stride = 2, padding = 0 }`; without `stride` the windows are adjacent.
/// `kernel` may be `[height, width]`. Padding counts as zeros in the mean (PyTorch's `count_include_pad`).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AvgPool2d {
    kernel: Sides,
    #[serde(skip_serializing_if = "Option::is_none")]
    stride: Option<usize>,
    #[serde(default)]
    padding: usize,
}

impl AvgPool2d {
    fn pool(&self, input: Shape) -> Result<Pool, String> {
        Pool::new(input, self.kernel, self.stride, self.padding)
    }
}

/// Calls `term(output, input)` with the flat indices of every value under every window.
fn for_each_term(maps: usize, pool: &Pool, mut term: impl FnMut(usize, usize)) {
    let (map_in, map_out) = (pool.input.height * pool.input.width, pool.output.height * pool.output.width);
    for map in 0..maps {
        for at in 0..map_out {
            for tap in pool.taps(at / pool.output.width, at % pool.output.width) {
                term(map * map_out + at, map * map_in + tap);
            }
        }
    }
}

pub(super) fn forward(pool: &Pool, arrays: &Arrays) -> Arrays {
    let input = &arrays["input"];
    let [n, c, ..] = input.nchw();
    let share = 1.0 / (pool.kernel[0] * pool.kernel[1]) as f64;
    let mut sums = vec![Sum::default(); n * pool.output.len()];
    // A fused head takes the mean before the linear layer, whose bound then applies to each value of the mean.
    let terms = (pool.kernel[0] * pool.kernel[1] + 2) as f64;
    for_each_term(n * c, pool, |at, from| {
        sums[at].add_bounded(share * input.data[from], terms * share * input.bound[from]);
    });
    let mut output = Array::zeros(&[n, c, pool.output.height, pool.output.width]);
    for (index, sum) in sums.into_iter().enumerate() {
        output.set(index, sum);
    }
    Arrays::from([("output", output)])
}

pub(super) fn backward(pool: &Pool, arrays: &Arrays) -> Arrays {
    let (input, grad_output) = (&arrays["input"], &arrays["grad_output"]);
    let [n, c, ..] = input.nchw();
    let share = 1.0 / (pool.kernel[0] * pool.kernel[1]) as f64;
    let mut sums = vec![Sum::default(); input.data.len()];
    for_each_term(n * c, pool, |at, from| {
        sums[from].add_bounded(share * grad_output.data[at], share * grad_output.bound[at]);
    });
    let mut grad_input = Array::zeros(&input.shape);
    for (index, sum) in sums.into_iter().enumerate() {
        grad_input.set(index, sum);
    }
    Arrays::from([("grad_input", grad_input)])
}

pub(super) fn launches(pool: &Pool, pass: Pass, context: &PlanContext) -> Vec<Launch> {
    let (entry_point, shape) = match pass {
        Pass::Backward => ("backward_input", pool.input),
        _ => ("forward", pool.output),
    };
    let constants = pool.constants().into_iter().chain([("QUADS", context.quads as f64)]);
    vec![Launch::new("avg_pool2d", entry_point, context.quads * shape.len(), constants)]
}

pub(super) fn input_shape(arrays: &Arrays) -> Shape {
    let [_, c, h, w] = arrays["input"].nchw();
    Shape::new(c, h, w)
}

impl Layer for AvgPool2d {
    fn keys(&self) -> toml::Table {
        keys_of(self)
    }

    fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(self.pool(inputs[0])?.output)
    }

    fn forward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        forward(&self.pool(input_shape(arrays)).expect("a checked layer"), arrays)
    }

    fn backward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        backward(&self.pool(input_shape(arrays)).expect("a checked layer"), arrays)
    }

    fn launches(&self, pass: Pass, context: &PlanContext) -> Vec<Launch> {
        launches(&self.pool(context.inputs[0]).expect("a checked layer"), pass, context)
    }

    fn op(&self, inputs: &[Shape]) -> Op {
        Op::AvgPool2d(self.pool(inputs[0]).expect("a checked layer"))
    }
}
