//! max(x, 0)², from Primer (So et al. 2021): its definition in f64, with how far a correct f32 kernel can be off, and launches.

use serde::{Deserialize, Serialize};
use shadernet::layers::{self, Context, Launch, Layer, LayerKind, Pass, PlanContext};
use shadernet::tensor::{Array, Arrays, FLUSH, Shape, gamma};
use shadernet::{Result, toml};

pub(crate) const WGSL: &str = include_str!("squared_relu.wgsl");
pub(crate) fn register() -> Result<()> {
    let kind = LayerKind::new::<SquaredRelu>("squared_relu", "SquaredReLU", "squared_relu");
    layers::register(kind, WGSL)
}

/// `{ type = "squared_relu" }`, without keys.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SquaredRelu {}

/// a·b, where both may be off by their bounds, and a correct kernel rounds `roundings` times.
fn product(a: &Array, b: &Array, roundings: usize) -> Array {
    let mut made = a.clone();
    for i in 0..made.data.len() {
        made.data[i] = a.data[i] * b.data[i];
        let carried = a.data[i].abs() * b.bound[i] + a.bound[i] * (b.data[i].abs() + b.bound[i]);
        made.bound[i] = carried + gamma(roundings) * made.data[i].abs() + FLUSH;
    }
    made
}

fn positive(mut input: Array) -> Array {
    input.data.iter_mut().for_each(|value| *value = value.max(0.0));
    input
}

impl Layer for SquaredRelu {
    fn keys(&self) -> toml::Table {
        toml::Table::new()
    }

    fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }

    fn forward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        let positive = positive(arrays["input"].clone());
        Arrays::from([("output", product(&positive, &positive, 1))])
    }

    fn backward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        let mut slope = positive(arrays["input"].clone());
        slope.data.iter_mut().chain(&mut slope.bound).for_each(|value| *value *= 2.0);
        Arrays::from([("grad_input", product(&slope, &arrays["grad_output"], 2))])
    }

    fn launches(&self, pass: Pass, context: &PlanContext) -> Vec<Launch> {
        let entry_point = if pass == Pass::Backward { "backward_input" } else { "forward" };
        let elements = context.quads * context.output.len();
        vec![Launch::new("squared_relu", entry_point, elements, [("ELEMENTS", elements as f64)])]
    }
}
