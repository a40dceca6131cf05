//! Fully connected layer. It has no shader of its own: it is a 1x1 convolution of a one-pixel map.

use serde::{Deserialize, Serialize};

use super::conv2d::Conv2d;
use super::*;

pub(super) const KIND: LayerKind = LayerKind::new::<Linear>("linear", "Linear", "linear");

/// `{ type = "linear", out_features = 10, bias = true }`: output = weight · input + bias, for a one-pixel input
/// (put a `flatten` before it). Weight is `[out_features, in_features]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Linear {
    out_features: usize,
    #[serde(default = "yes")]
    bias: bool,
}

impl Linear {
    fn convolution(&self) -> Conv2d {
        Conv2d::linear(self.out_features, self.bias)
    }

    /// The convolution expects [out, in, 1, 1].
    fn as_convolution(arrays: &Arrays) -> Arrays {
        let mut arrays = arrays.clone();
        let weight = arrays.get_mut("weight").expect("a linear layer has a weight");
        weight.shape.extend([1, 1]);
        arrays
    }
}

impl Layer for Linear {
    fn keys(&self) -> toml::Table {
        keys_of(self)
    }

    fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let input = inputs[0];
        if input.height * input.width != 1 {
            return Err(format!("the input {input} has more than one pixel: put a flatten layer before it"));
        }
        if self.out_features == 0 {
            return Err("out_features must be at least 1".into());
        }
        self.convolution().output_shape(inputs)
    }

    fn params(&self, inputs: &[Shape]) -> Vec<Param> {
        let mut params = self.convolution().params(inputs);
        params[0].shape.truncate(2);
        params
    }

    fn forward(&self, arrays: &Arrays, context: &Context) -> Arrays {
        self.convolution().forward(&Self::as_convolution(arrays), context)
    }

    fn backward(&self, arrays: &Arrays, context: &Context) -> Arrays {
        let mut made = self.convolution().backward(&Self::as_convolution(arrays), context);
        made.get_mut("grad_weight").expect("made by the convolution").shape.truncate(2);
        made
    }

    fn launches(&self, pass: Pass, context: &PlanContext) -> Vec<Launch> {
        self.convolution().launches(pass, context)
    }

    fn saved(&self, context: &PlanContext) -> Vec<(&'static str, usize)> {
        self.convolution().saved(context)
    }

    fn op(&self, inputs: &[Shape]) -> Op {
        self.convolution().op(inputs)
    }
}
