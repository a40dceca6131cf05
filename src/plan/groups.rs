//! Which layers share a launch: the model split into groups.

use crate::layers::window::Conv;
use crate::layers::{Activation, Op};
use crate::model::Model;

/// Layers that are computed together, identified by index in the model.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FusionGroup {
    /// One layer with its own launches.
    Layer(usize),
    /// A convolution with the layers before and after it.
    Conv(FusedConv),
    /// The end of the network, with the loss.
    Head(Head),
}

/// A convolution with a square kernel, evenly padded, with stride 1, no groups and no dilation:
/// `shaders/fused_conv2d.wgsl`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FusedConv {
    pub(super) conv: usize,
    pub(super) before: Before,
    /// The rectifier right after it.
    pub(super) relu: Option<usize>,
    /// The batch normalisation after that, if the reader of the output applies it.
    pub(super) norm: Option<usize>,
}

impl FusedConv {
    /// Its first layer, whose input it loads.
    pub(super) fn first(&self) -> usize {
        self.before.layers().next().unwrap_or(self.conv)
    }

    /// The layer whose output it computes.
    pub(super) fn last(&self) -> usize {
        self.relu.unwrap_or(self.conv)
    }
}

/// What is applied, in this order, when an input is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Before {
    pub(super) norm: Option<usize>,
    pub(super) relu: Option<usize>,
    pub(super) pool: Option<usize>,
    pub(super) dropout: Option<usize>,
}

impl Before {
    /// The layers, in order.
    pub(super) fn layers(&self) -> impl Iterator<Item = usize> {
        [self.norm, self.relu, self.pool, self.dropout].into_iter().flatten()
    }
}

/// The mean over a map and a linear layer, in either order, or a linear layer alone: `shaders/head.wgsl`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Head {
    /// Its first layer.
    pub(super) first: usize,
    /// The linear layer or 1x1 convolution.
    pub(super) linear: usize,
    /// Values per map that are averaged.
    pub(super) pixels: usize,
}

/// As in the shaders.
const MOST_CHANNELS: usize = 256;
const MOST_HEAD_CHANNELS: usize = 512;
const MOST_CLASSES: usize = 256;
const MOST_KERNEL: usize = 13;
/// Some drivers end an invocation's loops after 65,535 iterations in total, and an invocation of the weight gradient
/// loops over this many pixels.
const MOST_PIXELS: usize = 16_384;

/// Splits a model into blocks; `part_quads` is the number of image quads in a part of the batch.
pub(super) fn blocks(model: &Model, part_quads: usize) -> Vec<FusionGroup> {
    let ops: Vec<Op> = model.layers.iter().map(|layer| layer.op).collect();
    let mut blocks: Vec<FusionGroup> = Vec::new();
    let mut at = 0;
    while at < ops.len() {
        // Layers that a convolution can apply on loading, and the convolution.
        let (before, conv) = chain(model, &ops, at);
        let producer = match blocks.last() {
            Some(FusionGroup::Conv(producer)) => Some(producer.clone()),
            _ => None,
        };
        // A normalisation needs sums that only a fused convolution right before it computes.
        let fits = before.norm.is_none() || producer.is_some() && model.is_chained(at);
        let is_frozen = |layer: usize| model.layers[layer].frozen;
        let fits = fits && !before.norm.is_some_and(is_frozen) && !conv.is_some_and(is_frozen);
        let fused = conv.filter(|&conv| fits && head(model, &ops, conv).is_none());
        if let Some(conv) = fused.filter(|&conv| is_fusable(&ops[conv], part_quads)) {
            if let Some(FusionGroup::Conv(producer)) = blocks.last_mut() {
                producer.norm = before.norm;
            }
            let rectifies = |layer: &usize| {
                matches!(ops.get(*layer), Some(Op::Activation(Activation::LeakyRelu { .. })))
                    && model.is_chained(*layer)
            };
            let relu = Some(conv + 1).filter(rectifies);
            blocks.push(FusionGroup::Conv(FusedConv { conv, before, relu, norm: None }));
            at = relu.unwrap_or(conv) + 1;
        } else if let Some(head) = head(model, &ops, at) {
            blocks.push(FusionGroup::Head(head));
            at = ops.len();
        } else {
            blocks.push(FusionGroup::Layer(at));
            at += 1;
        }
    }
    blocks
}

/// The layers from `at` on that can be applied on loading, and what follows them if it is a convolution. Each is the
/// only reader of the one before.
fn chain(model: &Model, ops: &[Op], first: usize) -> (Before, Option<usize>) {
    let mut before = Before::default();
    let mut at = first;
    let mut next = |fits: fn(&Op) -> bool| {
        let found = ops.get(at).is_some_and(|op| fits(op) && (at == first || model.is_chained(at)));
        let found = found.then_some(at);
        at += usize::from(found.is_some());
        found
    };
    before.norm = next(|op| matches!(op, Op::BatchNorm2d { .. }));
    before.relu = next(|op| matches!(op, Op::Activation(Activation::LeakyRelu { .. })));
    before.pool = next(|op| match op {
        // Adjacent windows that cover the whole map, so each input is in exactly one window.
        Op::MaxPool2d(pool) => {
            let covers = [pool.output.height * pool.kernel[0], pool.output.width * pool.kernel[1]];
            pool.kernel == pool.stride && pool.padding == 0 && covers == [pool.input.height, pool.input.width]
        }
        _ => false,
    });
    before.dropout = next(|op| matches!(op, Op::Dropout { .. }));
    (before, next(|op| matches!(op, Op::Conv2d(_))))
}

fn is_fusable(op: &Op, part_quads: usize) -> bool {
    let Op::Conv2d(conv) = op else { return false };
    let Conv { input, output, stride, groups, .. } = *conv;
    let square = conv.square().is_some_and(|[kernel, _]| kernel <= MOST_KERNEL);
    let small = input.channels.max(output.channels) <= MOST_CHANNELS;
    square && (stride, groups) == (1, 1) && small && part_quads * output.height * output.width <= MOST_PIXELS
}

/// The head that starts at layer `at` and extends to the end of the network.
fn head(model: &Model, ops: &[Op], at: usize) -> Option<Head> {
    if !(at + 1..ops.len()).all(|layer| model.is_chained(layer)) {
        return None;
    }
    let computes = |layer: &usize| ops[*layer] != Op::Reshape;
    // A third one is enough to rule out a head.
    let layers: Vec<usize> = (at..ops.len()).filter(computes).take(3).collect();
    let whole = |layer: usize| matches!(ops[layer], Op::AvgPool2d(pool) if pool.output.height * pool.output.width == 1 && pool.padding == 0 && pool.kernel == [pool.input.height, pool.input.width]);
    let linear =
        |layer: usize| matches!(ops[layer], Op::Conv2d(conv) if conv.is_pointwise() && conv.groups == 1);
    let area = |layer: usize| model.layers[layer].inputs[0].height * model.layers[layer].inputs[0].width;
    let (linear, pixels) = match layers[..] {
        [layer] if linear(layer) && area(layer) == 1 => (layer, 1),
        [layer, pool] if linear(layer) && whole(pool) => (layer, area(layer)),
        [pool, layer] if whole(pool) && linear(layer) => (layer, area(pool)),
        _ => return None,
    };
    let Op::Conv2d(conv) = ops[linear] else { return None };
    if model.layers[linear].frozen {
        return None;
    }
    let fits = conv.input.channels <= MOST_HEAD_CHANNELS && conv.output.channels <= MOST_CLASSES;
    fits.then_some(Head { first: at, linear, pixels })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The blocks of a model with these layers, in words.
    fn cut(input: &str, layers: &[&str], part_quads: usize) -> Vec<String> {
        let layers: Vec<_> = layers.iter().map(|layer| format!("{{ type = {layer} }}")).collect();
        let text = format!("name = \"x\"\ninput = {input}\nlayers = [\n{}\n]", layers.join(",\n"));
        let model = Model::parse(&text, "x").unwrap();
        let name = |layer: usize| model.layers[layer].name.clone();
        let words = |block: FusionGroup| match block {
            FusionGroup::Layer(layer) => name(layer),
            FusionGroup::Conv(fused) => {
                let before: Vec<_> = fused.before.layers().map(name).collect();
                let behind: Vec<_> = [fused.relu, fused.norm].into_iter().flatten().map(name).collect();
                format!("[{}] {} [{}]", before.join(" "), name(fused.conv), behind.join(" "))
            }
            FusionGroup::Head(head) => {
                format!("head {} {} {}", name(head.first), name(head.linear), head.pixels)
            }
        };
        blocks(&model, part_quads).into_iter().map(words).collect()
    }

    const CONV: &str = r#""conv2d", out_channels = 4, kernel = 3"#;
    const LINEAR: &str = r#""linear", out_features = 3"#;
    const NORM: &str = r#""batch_norm2d""#;
    const RELU: &str = r#""relu""#;
    const POOL: &str = r#""max_pool2d", kernel = 2"#;
    const DROP: &str = r#""dropout", rate = 0.1"#;
    const GAP: &str = r#""global_avg_pool2d""#;
    const ONE: &str = r#""conv2d", out_channels = 3, kernel = 1"#;

    #[test]
    fn what_stands_around_a_convolution_goes_with_it() {
        let all = [CONV, RELU, NORM, CONV, NORM, RELU, POOL, DROP, CONV, ONE, GAP];
        let want = [
            "[] conv1 [relu1 batch_norm1]",
            "[batch_norm1] conv2 [batch_norm2]",
            "[batch_norm2 relu2 max_pool1 dropout1] conv3 []",
            "head conv4 conv4 36",
        ];
        assert_eq!(cut("[1, 20, 20]", &all, 1), want);
    }

    #[test]
    fn what_does_not_fit_keeps_its_launches() {
        // Frozen layers: their kernels make no gradients of parameters.
        let model = |freeze: &str| {
            let layers: Vec<_> =
                [CONV, NORM, CONV, ONE, GAP].iter().map(|layer| format!("{{ type = {layer} }}")).collect();
            let text = format!(
                "name = \"x\"\ninput = [1, 9, 9]\nlayers = [{}]\n[train]\nfreeze = [{freeze:?}]",
                layers.join(",\n")
            );
            let blocks = blocks(&Model::parse(&text, "x").unwrap(), 1);
            blocks.iter().map(|block| matches!(block, FusionGroup::Layer(_))).collect::<Vec<_>>()
        };
        assert_eq!(model("conv1"), [true, true, false, false]);
        assert_eq!(model("batch_norm1"), [false, true, false, false]);
        assert_eq!(model("conv2"), [false, true, true, false]);
        assert_eq!(model("conv3"), [false, false, true, true]);
        let stride = r#""conv2d", out_channels = 4, kernel = 3, stride = 2"#;
        let groups = r#""conv2d", out_channels = 4, kernel = 3, groups = 2"#;
        let flat = r#""conv2d", out_channels = 4, kernel = [3, 2]"#;
        let dilated = r#""conv2d", out_channels = 4, kernel = 3, dilation = 2"#;
        let uneven = r#""conv2d", out_channels = 4, kernel = 3, padding = [1, 1, 1, 0]"#;
        let large = r#""conv2d", out_channels = 4, kernel = 14, padding = 4"#;
        let many = r#""conv2d", out_channels = 257, kernel = 3"#;
        for conv in [stride, groups, flat, dilated, uneven, large, many] {
            let want = ["conv1", "batch_norm1", "head global_avg_pool1 linear1 ANY"];
            let got = cut("[2, 9, 9]", &[conv, NORM, GAP, LINEAR], 1);
            assert_eq!(got[..2], want[..2], "{conv}");
            assert!(got[2].starts_with("head global_avg_pool1 linear1"), "{got:?}");
        }
        let fused = cut("[2, 9, 9]", &[r#""conv2d", out_channels = 256, kernel = 3"#, NORM, GAP, LINEAR], 1);
        assert_eq!(fused[0], "[] conv1 []", "its normalisation has no convolution behind it");
        // Windows that overlap, leave a row out, or reach into padding; a mean.
        for pool in [
            r#""max_pool2d", kernel = 3, stride = 2"#,
            r#""max_pool2d", kernel = 3"#,
            r#""max_pool2d", kernel = 2, padding = 1"#,
            r#""avg_pool2d", kernel = 2"#,
        ] {
            let got = cut("[1, 12, 12]", &[CONV, NORM, pool, CONV, ONE, GAP], 1);
            assert_eq!(got[..2], ["[] conv1 []", "batch_norm1"], "{pool}");
            assert!(got[2].contains("pool1") && got[3] == "[] conv2 []", "{got:?}");
        }
        // A normalisation of something other than a fused convolution's output.
        let got = cut("[1, 12, 12]", &[NORM, CONV, POOL, NORM, CONV, ONE, GAP], 1);
        assert_eq!(got[..4], ["batch_norm1", "[] conv1 []", "max_pool1", "batch_norm2"]);
        // As many pixels as one invocation may loop over: 62 · 62 · 4 in a part of four quads; then more.
        assert_eq!(cut("[1, 64, 64]", &[CONV, ONE, GAP], 4)[0], "[] conv1 []");
        assert_eq!(cut("[1, 64, 64]", &[CONV, ONE, GAP], 5)[0], "conv1");
        assert_eq!(cut("[1, 66, 66]", &[CONV, ONE, GAP], 4)[0], "[] conv1 []", "64 · 64 · 4 = 16,384");
    }

    #[test]
    fn a_network_ends_with_a_head_if_it_ends_like_one() {
        let flatten = r#""flatten""#;
        for (input, layers, want) in [
            ("[4, 3, 5]", &[ONE, GAP][..], "head conv1 conv1 15"),
            ("[4, 3, 5]", &[GAP, LINEAR], "head global_avg_pool1 linear1 15"),
            ("[4, 3, 5]", &[GAP, flatten, LINEAR], "head global_avg_pool1 linear1 15"),
            ("[4, 3, 5]", &[flatten, LINEAR], "head flatten1 linear1 1"),
            ("[4, 1, 1]", &[ONE], "head conv1 conv1 1"),
            ("[512, 1, 1]", &[LINEAR], "head linear1 linear1 1"),
        ] {
            assert_eq!(cut(input, layers, 1), [want]);
        }
        let many = r#""linear", out_features = 256"#;
        assert_eq!(cut("[4, 1, 1]", &[many], 1), ["head linear1 linear1 1"]);
        // Too many channels; a larger kernel, a stride or groups; a partial mean.
        for (input, layers) in [
            ("[513, 1, 1]", &[LINEAR][..]),
            ("[4, 3, 5]", &[CONV, GAP]),
            ("[4, 3, 3]", &[CONV]),
            ("[3, 3, 5]", &[r#""conv2d", out_channels = 3, kernel = 1, groups = 3"#, GAP]),
            ("[3, 3, 5]", &[r#""conv2d", out_channels = 3, kernel = 1, stride = 2"#, GAP]),
            ("[3, 4, 4]", &[ONE, r#""avg_pool2d", kernel = 2"#, flatten]),
        ] {
            let got = cut(input, layers, 1);
            assert!(!got.concat().contains("head"), "{got:?}");
        }
    }
}
