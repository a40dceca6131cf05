//! Which layers share a launch: the model cut into blocks.

use crate::layers::Tuned;
use crate::layers::window::Conv;
use crate::model::Model;

/// Layers that are computed together. Layers go by their index in the model.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Block {
    /// One layer by its own launches.
    Layer(usize),
    /// A convolution with what stands before and behind it.
    Conv(FusedConv),
    /// The end of the network, with the loss.
    Head(Head),
}

/// A convolution of stride 1 without groups: `shaders/fused_conv2d.wgsl`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FusedConv {
    pub(super) conv: usize,
    pub(super) before: Before,
    /// The rectifier right behind it.
    pub(super) relu: Option<usize>,
    /// The batch normalisation behind that, if whoever reads the output normalises it.
    pub(super) norm: Option<usize>,
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
    /// The first of its layers.
    pub(super) first: usize,
    /// The linear layer or 1x1 convolution.
    pub(super) linear: usize,
    /// Values of a map that are averaged.
    pub(super) pixels: usize,
}

/// As the shaders have it.
const MOST_CHANNELS: usize = 256;
const MOST_HEAD_CHANNELS: usize = 512;
const MOST_CLASSES: usize = 256;
/// Some drivers end an invocation's loops after 65,535 rounds in all, and an invocation of the weight gradient goes through
/// so many pixels.
const MOST_PIXELS: usize = 16_384;

/// Cuts a model into blocks; `part_quads` is how many quads of images a part of the batch has.
pub(super) fn blocks(model: &Model, part_quads: usize) -> Vec<Block> {
    let tuned: Vec<Tuned> = model.layers.iter().map(|layer| layer.layer.tuned(layer.input)).collect();
    let mut blocks: Vec<Block> = Vec::new();
    let mut at = 0;
    while at < tuned.len() {
        // Layers that a convolution may apply on loading, and the convolution.
        let (before, conv) = chain(&tuned, at);
        let producer = match blocks.last() {
            Some(Block::Conv(producer)) => Some(producer.clone()),
            _ => None,
        };
        // A normalisation needs the sums that only a fused convolution right before it makes.
        let fits = before.norm.is_none() || producer.is_some();
        let fused = conv.filter(|&conv| fits && head(model, &tuned, conv).is_none());
        if let Some(conv) = fused.filter(|&conv| is_fusable(&tuned[conv], part_quads)) {
            if let Some(Block::Conv(producer)) = blocks.last_mut() {
                producer.norm = before.norm;
            }
            let relu = (conv + 1 < tuned.len() && matches!(tuned[conv + 1], Tuned::LeakyRelu { .. }))
                .then_some(conv + 1);
            blocks.push(Block::Conv(FusedConv { conv, before, relu, norm: None }));
            at = relu.unwrap_or(conv) + 1;
        } else if let Some(head) = head(model, &tuned, at) {
            blocks.push(Block::Head(head));
            at = tuned.len();
        } else {
            blocks.push(Block::Layer(at));
            at += 1;
        }
    }
    blocks
}

/// The layers from `at` on that can be applied on loading, and what comes behind them if it is a convolution.
fn chain(tuned: &[Tuned], mut at: usize) -> (Before, Option<usize>) {
    let mut before = Before::default();
    let mut next = |fits: fn(&Tuned) -> bool| {
        let found = tuned.get(at).is_some_and(fits).then_some(at);
        at += usize::from(found.is_some());
        found
    };
    before.norm = next(|tuned| matches!(tuned, Tuned::BatchNorm2d { .. }));
    before.relu = next(|tuned| matches!(tuned, Tuned::LeakyRelu { .. }));
    before.pool = next(|tuned| match tuned {
        // Windows that touch and cover everything, so that each input has one window.
        Tuned::MaxPool2d(pool) => {
            let covers = [pool.output.height * pool.kernel[0], pool.output.width * pool.kernel[1]];
            pool.kernel == pool.stride && pool.padding == 0 && covers == [pool.input.height, pool.input.width]
        }
        _ => false,
    });
    before.dropout = next(|tuned| matches!(tuned, Tuned::Dropout { .. }));
    (before, next(|tuned| matches!(tuned, Tuned::Conv2d(_))))
}

fn is_fusable(tuned: &Tuned, part_quads: usize) -> bool {
    let Tuned::Conv2d(conv) = tuned else { return false };
    let Conv { input, output, stride, groups, .. } = *conv;
    let small = input.channels.max(output.channels) <= MOST_CHANNELS;
    (stride, groups) == (1, 1) && small && part_quads * output.height * output.width <= MOST_PIXELS
}

/// The head that starts at layer `at` and ends with the network.
fn head(model: &Model, tuned: &[Tuned], at: usize) -> Option<Head> {
    let computes = |layer: &usize| tuned[*layer] != Tuned::Reshape;
    let layers: Vec<usize> = (at..tuned.len()).filter(computes).collect();
    let whole = |layer: usize| matches!(tuned[layer], Tuned::AvgPool2d(pool) if pool.output.height * pool.output.width == 1 && pool.padding == 0 && pool.kernel == [pool.input.height, pool.input.width]);
    let linear = |layer: usize| matches!(tuned[layer], Tuned::Conv2d(conv) if conv.kernel == 1 && conv.stride == 1 && conv.groups == 1);
    let area = |layer: usize| model.layers[layer].input.height * model.layers[layer].input.width;
    let (linear, pixels) = match layers[..] {
        [layer] if linear(layer) && area(layer) == 1 => (layer, 1),
        [layer, pool] if linear(layer) && whole(pool) => (layer, area(layer)),
        [pool, layer] if whole(pool) && linear(layer) => (layer, area(pool)),
        _ => return None,
    };
    let Tuned::Conv2d(conv) = tuned[linear] else { return None };
    let fits = conv.input.channels <= MOST_HEAD_CHANNELS && conv.output.channels <= MOST_CLASSES;
    fits.then_some(Head { first: at, linear, pixels })
}
