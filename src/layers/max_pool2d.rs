//! Maximum over windows. Kernels: `shaders/max_pool2d.wgsl`.

use serde::{Deserialize, Serialize};

use super::sides::Sides;
use super::window::Pool;
use super::*;
use crate::tensor::{Array, Sum};

pub(super) const KIND: LayerKind = LayerKind::new::<MaxPool2d>("max_pool2d", "MaxPool2d", "max_pool");

/// `{ type = "max_pool2d", kernel = 2, stride = 2, padding = 0 }`; without `stride` the windows are adjacent. `kernel`
/// may be `[height, width]`. Padding never wins.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MaxPool2d {
    kernel: Sides,
    #[serde(skip_serializing_if = "Option::is_none")]
    stride: Option<usize>,
    #[serde(default)]
    padding: usize,
}

impl MaxPool2d {
    fn pool(&self, input: Shape) -> Result<Pool, String> {
        Pool::new(input, self.kernel, self.stride, self.padding)
    }

    fn sizes(&self, array: &Array) -> (usize, Pool) {
        let [n, c, h, w] = array.nchw();
        (n * c, self.pool(Shape::new(c, h, w)).expect("a checked layer"))
    }
}

/// For each output (flat index), the flat index of the winning input, the first maximum in row-major order; and of
/// those that may win instead within the errors of the input.
fn for_each_winner(maps: usize, pool: &Pool, input: &Array, mut found: impl FnMut(usize, usize, &[usize])) {
    let (input, bound) = (&input.data, &input.bound);
    let (map_in, map_out) = (pool.input.height * pool.input.width, pool.output.height * pool.output.width);
    for map in 0..maps {
        for at in 0..map_out {
            let mut winner = None;
            for tap in pool.taps(at / pool.output.width, at % pool.output.width) {
                let candidate = map * map_in + tap;
                if winner.is_none_or(|winner: usize| input[candidate] > input[winner]) {
                    winner = Some(candidate);
                }
            }
            let winner: usize = winner.expect("every window holds an input");
            let candidates =
                pool.taps(at / pool.output.width, at % pool.output.width).map(|tap| map * map_in + tap);
            // Equal values come from equal inputs, and stay equal under any rounding.
            let rivals: Vec<usize> = candidates
                .filter(|&at| input[at] != input[winner])
                .filter(|&at| input[winner] - input[at] <= bound[at] + bound[winner])
                .collect();
            found(map * map_out + at, winner, &rivals);
        }
    }
}

impl Layer for MaxPool2d {
    fn keys(&self) -> toml::Table {
        keys_of(self)
    }

    fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(self.pool(inputs[0])?.output)
    }

    fn forward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        let input = &arrays["input"];
        let (maps, pool) = self.sizes(input);
        let Shape { channels, height, width } = pool.output;
        let mut output = Array::zeros(&[input.shape[0], channels, height, width]);
        for_each_winner(maps, &pool, input, |at, winner, rivals| {
            let candidates = || rivals.iter().chain([&winner]);
            output.data[at] = input.data[winner];
            output.bound[at] = candidates().map(|&candidate| input.bound[candidate]).fold(0.0, f64::max);
        });
        Arrays::from([("output", output)])
    }

    fn backward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        let (input, grad_output) = (&arrays["input"], &arrays["grad_output"]);
        let (maps, pool) = self.sizes(input);
        let mut sums = vec![Sum::default(); input.data.len()];
        for_each_winner(maps, &pool, input, |at, winner, rivals| {
            let (upstream, error) = (grad_output.data[at], grad_output.bound[at]);
            sums[winner].add_bounded(upstream, error);
            for &rival in rivals {
                sums[rival].carried += upstream.abs() + error;
                sums[winner].carried += upstream.abs() + error;
            }
        });
        let mut grad_input = Array::zeros(&input.shape);
        for (index, sum) in sums.into_iter().enumerate() {
            grad_input.set(index, sum);
        }
        Arrays::from([("grad_input", grad_input)])
    }

    fn launches(&self, pass: Pass, context: &PlanContext) -> Vec<Launch> {
        let pool = self.pool(context.inputs[0]).expect("a checked layer");
        let (entry_point, shape) = match pass {
            Pass::Backward => ("backward_input", pool.input),
            _ => ("forward", pool.output),
        };
        let constants = pool.constants().into_iter().chain([("QUADS", context.quads as f64)]);
        vec![Launch::new("max_pool2d", entry_point, context.quads * shape.len(), constants)]
    }

    fn op(&self, inputs: &[Shape]) -> Op {
        Op::MaxPool2d(self.pool(inputs[0]).expect("a checked layer"))
    }
}
