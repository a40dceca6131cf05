//! Concatenation of channels. Kernels: `shaders/concat.wgsl`.

use serde::{Deserialize, Serialize};

use super::*;
use crate::tensor::Array;

pub(super) const KIND: LayerKind = LayerKind::new::<Concat>("concat", "Concat", "concat").functional();

/// `{ type = "concat", from = ["relu1", "relu2"] }`: the channels of all inputs, in order; heights and widths must agree.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Concat {}

/// Copies the values of channels `first..first + channels` of `all`, [N, C, H, W], to or from `part`, which has only
/// those.
fn copy(all: &mut Array, first: usize, part: &mut Array, to_part: bool) {
    let ([n, channels, h, w], own) = (all.nchw(), part.nchw()[1]);
    for image in 0..n {
        let (from, to) = ((image * channels + first) * h * w, image * own * h * w);
        let len = own * h * w;
        let pairs = [(&mut all.data, &mut part.data), (&mut all.bound, &mut part.bound)];
        for (all, part) in pairs {
            let (all, part) = (&mut all[from..from + len], &mut part[to..to + len]);
            if to_part {
                part.copy_from_slice(all);
            } else {
                all.copy_from_slice(part);
            }
        }
    }
}

impl Layer for Concat {
    fn keys(&self) -> toml::Table {
        keys_of(self)
    }

    fn input_count(&self) -> RangeInclusive<usize> {
        2..=MOST_INPUTS
    }

    fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let first = inputs[0];
        let fits = |other: &&Shape| (other.height, other.width) != (first.height, first.width);
        if let Some(other) = inputs.iter().find(fits) {
            return Err(format!("inputs of one height and width can be joined, not {first} and {other}"));
        }
        let channels = inputs.iter().map(|input| input.channels).fold(0, usize::saturating_add);
        Ok(Shape { channels, ..first })
    }

    fn op(&self, _: &[Shape]) -> Op {
        Op::Concat
    }

    fn forward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        let inputs: Vec<&Array> = INPUTS.iter().map_while(|name| arrays.get(name)).collect();
        let [n, _, h, w] = inputs[0].nchw();
        let channels = inputs.iter().map(|input| input.nchw()[1]).sum();
        let mut output = Array::zeros(&[n, channels, h, w]);
        let mut first = 0;
        for input in inputs {
            copy(&mut output, first, &mut input.clone(), false);
            first += input.nchw()[1];
        }
        Arrays::from([("output", output)])
    }

    fn backward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        let mut upstream = arrays["grad_output"].clone();
        let mut first = 0;
        let inputs = INPUTS.iter().map_while(|name| arrays.get(name));
        let part = |(input, name): (&Array, &'static str)| {
            let mut grad = Array::zeros(&input.shape);
            copy(&mut upstream, first, &mut grad, true);
            first += input.nchw()[1];
            (name, grad)
        };
        inputs.zip(GRAD_INPUTS).map(part).collect()
    }

    fn launches(&self, pass: Pass, context: &PlanContext) -> Vec<Launch> {
        let entry_point = if pass == Pass::Backward { "backward_input" } else { "forward" };
        let mut first = 0;
        let launch = |(source, input): (usize, &Shape)| {
            let constants = [
                ("QUADS", context.quads),
                ("PART", input.len()),
                ("WHOLE", context.output.len()),
                ("FIRST", first),
            ]
            .map(|(name, value)| (name, value as f64));
            first += input.len();
            Launch::new("concat", entry_point, context.quads * input.len(), constants).of_source(source)
        };
        context.inputs.iter().enumerate().map(launch).collect()
    }
}
