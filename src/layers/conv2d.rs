//! 2-D convolution. Formula and kernels: `shaders/conv2d.wgsl`.

use serde::{Deserialize, Serialize};

use super::sides::{Padding, Sides};
use super::window::{Axis, Conv, MAX_WINDOW, check_extent};
use super::*;
use crate::tensor::{Array, Sum};

pub(super) const KIND: LayerKind = LayerKind::new::<Conv2d>("conv2d", "Conv2d", "conv");

/// `{ type = "conv2d", out_channels = 8, kernel = 3, stride = 1, padding = 0, dilation = 1, groups = 1, bias = true }`;
/// `kernel` and `dilation` may be `[height, width]`, `padding` `[top, bottom, left, right]` or `"same"`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Conv2d {
    out_channels: usize,
    kernel: Sides,
    #[serde(default = "one")]
    stride: usize,
    #[serde(default)]
    padding: Padding,
    // Left out where it is 1, so that older model files keep their text.
    #[serde(default, skip_serializing_if = "Sides::is_one")]
    dilation: Sides,
    #[serde(default = "one")]
    groups: usize,
    #[serde(default = "yes")]
    bias: bool,
}

impl Conv2d {
    /// A linear layer: a convolution of a 1x1 map with a 1x1 kernel.
    pub(super) fn linear(out_features: usize, bias: bool) -> Self {
        let (kernel, dilation, padding) = (Sides([1, 1]), Sides::default(), Padding::default());
        Self { out_channels: out_features, kernel, stride: 1, padding, dilation, groups: 1, bias }
    }

    /// The convolution for an input of this shape, or why there is none.
    fn of(&self, input: Shape) -> Result<Conv, String> {
        let Self { out_channels, kernel, stride, padding, dilation, groups, .. } = *self;
        if out_channels == 0 || groups == 0 {
            return Err("out_channels and groups must be at least 1".into());
        }
        check_extent("stride", stride)?;
        if !input.channels.is_multiple_of(groups) || !out_channels.is_multiple_of(groups) {
            return Err(format!(
                "groups = {groups} must divide the {} input channels and the {out_channels} output channels",
                input.channels
            ));
        }
        let window = if dilation.is_one() {
            format!("kernel {kernel}")
        } else {
            format!("kernel {kernel} with dilation {dilation}")
        };
        let axis = |at: usize, input_size| {
            let (kernel, dilation) = (kernel.0[at], dilation.0[at]);
            check_extent("kernel", kernel)?;
            check_extent("dilation", dilation)?;
            let axis = Axis { input: input_size, kernel, stride, dilation, padding: [0; 2] };
            let reach = axis.reach();
            if reach > MAX_WINDOW {
                return Err(format!("{window} spans {reach} pixels; at most {MAX_WINDOW} are allowed"));
            }
            let axis = padding.around(at, axis);
            if axis.padding.iter().any(|&side| side >= reach) {
                let pixels = if reach == kernel { String::new() } else { format!(", {reach} pixels") };
                return Err(format!("padding {padding} must be smaller than {window}{pixels}, on each side"));
            }
            let misfit = || format!("{window} does not fit input {input} with padding {padding}");
            Ok((axis.padding, axis.output().ok_or_else(misfit)?))
        };
        let (([top, bottom], height), ([left, right], width)) =
            (axis(0, input.height)?, axis(1, input.width)?);
        Ok(Conv {
            input,
            output: Shape::new(out_channels, height, width),
            kernel: kernel.0,
            stride,
            padding: [top, bottom, left, right],
            dilation: dilation.0,
            groups,
        })
    }

    fn sizes(&self, input: Shape) -> Conv {
        self.of(input).expect("a checked layer")
    }
}

/// Calls `term(output, weight, input)` with the flat indices of every product of the convolution of `n` images.
fn for_each_product(n: usize, conv: &Conv, mut term: impl FnMut(usize, usize, usize)) {
    let (input, output) = (conv.input, conv.output);
    let (group_in, group_out) = (conv.group_in(), conv.group_out());
    let ([rows, columns], [height, width]) = (conv.axes(), conv.kernel);
    for n in 0..n {
        for o in 0..output.channels {
            for y in 0..output.height {
                for x in 0..output.width {
                    let at_output = ((n * output.channels + o) * output.height + y) * output.width + x;
                    for c in 0..group_in {
                        let channel = o / group_out * group_in + c;
                        for i in 0..height {
                            for j in 0..width {
                                let (row, column) = (rows.input_index(y, i), columns.input_index(x, j));
                                if let (Some(row), Some(column)) = (row, column) {
                                    let at_weight = ((o * group_in + c) * height + i) * width + j;
                                    let at_input = ((n * input.channels + channel) * input.height + row)
                                        * input.width
                                        + column;
                                    term(at_output, at_weight, at_input);
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn finish(shape: &[usize], sums: Vec<Sum>) -> Array {
    let mut array = Array::zeros(shape);
    for (index, sum) in sums.into_iter().enumerate() {
        array.set(index, sum);
    }
    array
}

/// Row values that an invocation holds, as in the shader.
const ROW: usize = 16;

/// What an invocation makes, in terms of the shader's constants.
struct Tiles {
    channels: usize,
    strip: usize,
    grad_channels: usize,
    /// Largest number of parts of the batch that sum the weight gradient separately.
    most_parts: usize,
    sum_lanes: usize,
}

/// Taps in a tile of the weight gradient, as in the shader.
const GRAD_COLUMNS: usize = 9;
/// Parts that a layer may have whatever its size. More need more space for sums, which only small layers can spare.
const FEW_PARTS: usize = 128;
/// Enough invocations of `weight_parts` for any device.
const ENOUGH: usize = 65_536;

impl Tiles {
    /// Measured on lavapipe and on a large GPU: docs/tried.md.
    fn of(grain: Grain) -> Self {
        match grain {
            Grain::Coarse => {
                Self { channels: 4, strip: 4, grad_channels: 8, most_parts: FEW_PARTS, sum_lanes: 1 }
            }
            Grain::Fine => Self { channels: 2, strip: 2, grad_channels: 2, most_parts: 1024, sum_lanes: 64 },
        }
    }

    /// Tiles of the weight gradient.
    fn grad_tiles(&self, conv: &Conv) -> usize {
        let channel_tiles = conv.group_out().div_ceil(self.grad_channels);
        conv.filter().div_ceil(GRAD_COLUMNS) * channel_tiles * conv.groups
    }

    /// Rows of the output that one invocation of `weight_parts` sums.
    fn part_rows(&self, conv: &Conv, quads: usize) -> usize {
        let parts = (ENOUGH / self.grad_tiles(conv)).clamp(FEW_PARTS, self.most_parts);
        (quads * conv.output.height).div_ceil(parts).min(conv.output.height)
    }
}

impl Layer for Conv2d {
    fn keys(&self) -> toml::Table {
        keys_of(self)
    }

    fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(self.of(inputs[0])?.output)
    }

    fn params(&self, inputs: &[Shape]) -> Vec<Param> {
        let group_in = inputs[0].channels / self.groups;
        let Sides([height, width]) = self.kernel;
        let fan_in = [group_in, height, width].into_iter().fold(1, usize::saturating_mul);
        let weight = Param {
            name: "weight",
            shape: vec![self.out_channels, group_in, height, width],
            init: Init::Weight { fan_in },
            trained: true,
            decays: true,
            min: f32::NEG_INFINITY,
        };
        let bias = Param {
            name: "bias",
            shape: vec![self.out_channels],
            init: Init::Bias { fan_in },
            trained: true,
            decays: false,
            min: f32::NEG_INFINITY,
        };
        if self.bias { vec![weight, bias] } else { vec![weight] }
    }

    fn forward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        let (input, weight) = (&arrays["input"], &arrays["weight"]);
        let [n, c, h, w] = input.nchw();
        let conv = self.sizes(Shape::new(c, h, w));
        let output = conv.output;
        let mut sums = vec![Sum::default(); n * output.len()];
        if let Some(bias) = arrays.get("bias") {
            for (index, sum) in sums.iter_mut().enumerate() {
                sum.add(bias.data[index / (output.height * output.width) % output.channels]);
            }
        }
        for_each_product(n, &conv, |at_output, at_weight, at_input| {
            let weight = weight.data[at_weight];
            sums[at_output].add_bounded(weight * input.data[at_input], weight.abs() * input.bound[at_input]);
        });
        let shape = [n, output.channels, output.height, output.width];
        Arrays::from([("output", finish(&shape, sums))])
    }

    fn backward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        let (input, weight, grad_output) = (&arrays["input"], &arrays["weight"], &arrays["grad_output"]);
        let [n, c, h, w] = input.nchw();
        let conv = self.sizes(Shape::new(c, h, w));
        let mut grad_input = vec![Sum::default(); input.data.len()];
        let mut grad_weight = vec![Sum::default(); weight.data.len()];
        for_each_product(n, &conv, |at_output, at_weight, at_input| {
            let (upstream, error) = (grad_output.data[at_output], grad_output.bound[at_output]);
            let (weight, x) = (weight.data[at_weight], input.data[at_input]);
            grad_input[at_input].add_bounded(weight * upstream, weight.abs() * error);
            let carried = x.abs() * error + input.bound[at_input] * (upstream.abs() + error);
            grad_weight[at_weight].add_bounded(x * upstream, carried);
        });
        let mut made = Arrays::from([
            ("grad_input", finish(&input.shape, grad_input)),
            ("grad_weight", finish(&weight.shape, grad_weight)),
        ]);
        if self.bias {
            let mut grad_bias = vec![Sum::default(); self.out_channels];
            let map = conv.output.height * conv.output.width;
            for (index, (&upstream, &error)) in grad_output.data.iter().zip(&grad_output.bound).enumerate() {
                grad_bias[index / map % self.out_channels].add_bounded(upstream, error);
            }
            made.insert("grad_bias", finish(&[self.out_channels], grad_bias));
        }
        made
    }

    fn launches(&self, pass: Pass, context: &PlanContext) -> Vec<Launch> {
        let conv = self.sizes(context.inputs[0]);
        let (input, output) = (conv.input, conv.output);
        let tiles = Tiles::of(context.grain);
        let part_rows = tiles.part_rows(&conv, context.quads);
        // All taps of a row at once, if the values under them and their strip fit; otherwise one by one.
        let [_, columns] = conv.axes();
        let taps = if tiles.strip - 1 + columns.reach() <= ROW { columns.kernel } else { 1 };
        let reach = Axis { kernel: taps, ..columns }.reach();
        let strip = if (tiles.strip - 1) * conv.stride + reach <= ROW { tiles.strip } else { 1 };
        let [top, _, left, _] = conv.padding;
        let constants = || {
            [
                ("QUADS", context.quads),
                ("IN_CHANNELS", input.channels),
                ("IN_HEIGHT", input.height),
                ("IN_WIDTH", input.width),
                ("OUT_CHANNELS", output.channels),
                ("OUT_HEIGHT", output.height),
                ("OUT_WIDTH", output.width),
                ("KERNEL_HEIGHT", conv.kernel[0]),
                ("KERNEL_WIDTH", conv.kernel[1]),
                ("STRIDE", conv.stride),
                ("PADDING_TOP", top),
                ("PADDING_LEFT", left),
                ("DILATION_HEIGHT", conv.dilation[0]),
                ("DILATION_WIDTH", conv.dilation[1]),
                ("GROUPS", conv.groups),
                ("HAS_BIAS", usize::from(self.bias)),
                ("CHANNELS", tiles.channels),
                ("STRIP", strip),
                ("TAPS", taps),
                ("BACKWARD_STRIP", tiles.strip),
                ("GRAD_CHANNELS", tiles.grad_channels),
                ("SUM_LANES", tiles.sum_lanes),
                ("PART_ROWS", part_rows),
            ]
            .map(|(name, value)| (name, value as f64))
        };
        let launch = |entry_point, invocations| Launch::new("conv2d", entry_point, invocations, constants());
        // Strips of pixels times tiles of channels.
        let strips = |shape: Shape, strip: usize| {
            let channel_tiles = (shape.channels / conv.groups).div_ceil(tiles.channels) * conv.groups;
            shape.width.div_ceil(strip) * shape.height * context.quads * channel_tiles
        };
        if pass != Pass::Backward {
            return vec![launch("forward", strips(output, strip))];
        }
        let parts = context.quads * output.height.div_ceil(part_rows);
        let mut launches = vec![
            launch("weight_parts", parts * tiles.grad_tiles(&conv)),
            launch("sum_weight_parts", output.channels * conv.filter() * tiles.sum_lanes),
        ];
        if self.bias {
            launches.push(launch("sum_bias_parts", output.channels * tiles.sum_lanes));
        }
        launches.push(launch("backward_input", strips(input, tiles.strip)));
        launches
    }

    fn saved(&self, context: &PlanContext) -> Vec<(&'static str, usize)> {
        let conv = self.sizes(context.inputs[0]);
        let weights: usize = self.params(&context.inputs)[0].shape.iter().product();
        let row_parts = conv.output.height.div_ceil(Tiles::of(context.grain).part_rows(&conv, context.quads));

        vec![("parts", context.quads * row_parts * (weights + self.out_channels))]
    }

    fn op(&self, inputs: &[Shape]) -> Op {
        Op::Conv2d(self.sizes(inputs[0]))
    }
}
