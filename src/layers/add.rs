//! Sum of values of the same shape. Kernels: `shaders/add.wgsl`.

use serde::{Deserialize, Serialize};

use super::*;
use crate::tensor::{Array, Sum};

pub(super) const KIND: LayerKind = LayerKind::new::<Add>("add", "Add", "add").functional();

/// `{ type = "add", from = ["norm2", "relu1"] }`: output = input1 + input2 + ..., all of the same shape.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {}

/// The sum of arrays of the same shape.
pub(crate) fn sum<'a>(parts: impl Iterator<Item = &'a Array> + Clone) -> Array {
    let first = parts.clone().next().expect("something is added up");
    let mut total = Array::zeros(&first.shape);
    for element in 0..total.data.len() {
        let mut sum = Sum::default();
        parts.clone().for_each(|part| sum.add_bounded(part.data[element], part.bound[element]));
        total.set(element, sum);
    }
    total
}

/// Launches that add up `inputs` values in order.
pub(crate) fn launches(inputs: usize, elements: usize) -> Vec<Launch> {
    let launch = |entry_point| Launch::new("add", entry_point, elements, [("ELEMENTS", elements as f64)]);
    let others = (2..inputs).map(|source| launch("accumulate").of_source(source));
    std::iter::once(launch("sum")).chain(others).collect()
}

impl Layer for Add {
    fn keys(&self) -> toml::Table {
        keys_of(self)
    }

    fn input_count(&self) -> RangeInclusive<usize> {
        2..=MOST_INPUTS
    }

    fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        match inputs.iter().find(|other| **other != inputs[0]) {
            Some(other) => Err(format!("inputs of one shape can be added, not {} and {other}", inputs[0])),
            None => Ok(inputs[0]),
        }
    }

    fn op(&self, _: &[Shape]) -> Op {
        Op::Add
    }

    fn forward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        Arrays::from([("output", sum(INPUTS.iter().map_while(|name| arrays.get(name))))])
    }

    fn backward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        let inputs = INPUTS.iter().take_while(|name| arrays.contains_key(**name));
        inputs.zip(GRAD_INPUTS).map(|(_, grad)| (grad, arrays["grad_output"].clone())).collect()
    }

    fn launches(&self, pass: Pass, context: &PlanContext) -> Vec<Launch> {
        match pass {
            Pass::Backward => Vec::new(),
            _ => launches(context.inputs.len(), context.quads * context.output.len()),
        }
    }
}
