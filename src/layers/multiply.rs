//! Product of two values, or of a value and a per-channel gate. Kernels: `shaders/multiply.wgsl`.

use serde::{Deserialize, Serialize};

use super::*;
use crate::tensor::{Array, Sum};

pub(super) const KIND: LayerKind =
    LayerKind::new::<Multiply>("multiply", "Multiply", "multiply").functional();

/// `{ type = "multiply", from = ["sigmoid1", "norm2"] }`: output = input1 · input2, elementwise. One of them may be
/// [C, 1, 1]: it then multiplies whole maps, as in squeeze and excitation (Hu et al. 2018).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Multiply {}

/// The shape of the product.
fn product_shape(inputs: &[Shape]) -> Option<Shape> {
    let &[one, two] = inputs else { return None };
    let gates = |gate: Shape, other: Shape| gate == Shape::new(other.channels, 1, 1);
    match () {
        () if one == two || gates(two, one) => Some(one),
        () if gates(one, two) => Some(two),
        () => None,
    }
}

fn shape_of(array: &Array) -> Shape {
    let [_, c, h, w] = array.nchw();
    Shape::new(c, h, w)
}

/// Calls `term(output, input1, input2)` with the flat indices of every product.
fn for_each_product(one: &Array, two: &Array, mut term: impl FnMut(usize, usize, usize)) {
    let output = product_shape(&[shape_of(one), shape_of(two)]).expect("a checked layer");
    let map = output.height * output.width;
    let at = |array: &Array, index: usize| {
        if shape_of(array) == output { index } else { index / map }
    };
    for index in 0..one.nchw()[0] * output.len() {
        term(index, at(one, index), at(two, index));
    }
}

impl Layer for Multiply {
    fn keys(&self) -> toml::Table {
        keys_of(self)
    }

    fn input_count(&self) -> RangeInclusive<usize> {
        2..=2
    }

    fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        product_shape(inputs).ok_or_else(|| {
            format!(
                "inputs of one shape can be multiplied, or [C, H, W] by [C, 1, 1], not {} by {}",
                inputs[0], inputs[1]
            )
        })
    }

    fn op(&self, _: &[Shape]) -> Op {
        Op::Multiply
    }

    fn forward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        let (one, two) = (&arrays["input1"], &arrays["input2"]);
        let output = product_shape(&[shape_of(one), shape_of(two)]).expect("a checked layer");
        let mut made = Array::zeros(&[one.nchw()[0], output.channels, output.height, output.width]);
        for_each_product(one, two, |at, i, j| {
            let mut sum = Sum::default();
            let carried =
                one.data[i].abs() * two.bound[j] + one.bound[i] * (two.data[j].abs() + two.bound[j]);
            sum.add_bounded(one.data[i] * two.data[j], carried);
            made.set(at, sum);
        });
        Arrays::from([("output", made)])
    }

    fn backward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        let (one, two, upstream) = (&arrays["input1"], &arrays["input2"], &arrays["grad_output"]);
        let mut sums = [one, two].map(|input| vec![Sum::default(); input.data.len()]);
        for_each_product(one, two, |at, i, j| {
            let (grad, error) = (upstream.data[at], upstream.bound[at]);
            let add = |sum: &mut Sum, value: f64, bound: f64| {
                sum.add_bounded(grad * value, value.abs() * error + bound * (grad.abs() + error));
            };
            add(&mut sums[0][i], two.data[j], two.bound[j]);
            add(&mut sums[1][j], one.data[i], one.bound[i]);
        });
        let finish = |(input, sums): (&Array, Vec<Sum>)| {
            let mut grad = Array::zeros(&input.shape);
            sums.into_iter().enumerate().for_each(|(index, sum)| grad.set(index, sum));
            grad
        };
        let grads = [one, two].into_iter().zip(sums).map(finish);
        GRAD_INPUTS.into_iter().zip(grads).collect()
    }

    fn launches(&self, pass: Pass, context: &PlanContext) -> Vec<Launch> {
        let output = context.output;
        let shared = |source: usize| usize::from(context.inputs[source] != output);
        let launch = |entry_point, shape: Shape| {
            let constants = [
                ("ELEMENTS", context.quads * output.len()),
                ("MAP", output.height * output.width),
                ("GATE1", shared(0)),
                ("GATE2", shared(1)),
            ]
            .map(|(name, value)| (name, value as f64));
            Launch::new("multiply", entry_point, context.quads * shape.len(), constants)
        };
        if pass != Pass::Backward {
            return vec![launch("forward", output)];
        }
        let gradient = |source: usize| {
            let mut launch = launch("backward_input", context.inputs[source]).of_source(source);
            launch.constants.insert("SECOND", source as f64);
            launch
        };
        vec![gradient(0), gradient(1)]
    }
}
