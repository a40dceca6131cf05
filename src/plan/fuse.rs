//! The fused plan: launches for the blocks of a model. Each shader documents what its kernels bind and compute.

use std::collections::BTreeMap;

use super::ParamLayout;
use super::draft::Draft;
use super::groups::{Before, FusedConv, FusionGroup, Head, blocks};
use super::values::Values;
use crate::batch::BatchSettings;
use crate::layers::window::Conv;
use crate::layers::{Activation, Grain, Launch, Op};
use crate::model::Model;
use crate::shader;
use crate::state;

/// Workgroup size of every fused kernel.
const WORKGROUP: usize = 64;
/// Maximum number of parts that a batch is split into.
const MOST_PARTS: usize = 64;
/// Channels that an invocation of the fused convolution makes.
const FORWARD_CHANNELS: usize = 8;
/// For devices with many lanes: pixels of a part per invocation that works on a tile of the weight gradient, as far
/// as a workgroup suffices.
const GRAD_PIXELS: usize = 8;
/// A value of `packed` that belongs to no parameter: see shaders/batch.wgsl.
const NOTHING: u32 = u32::MAX;
/// Loading a gradient through a batch normalisation costs three times as much as loading it alone. Above this many
/// values per image, storing it first pays off. (The batch size plays no part, so `doctor` examines the kernels used
/// in training.)
const MOST_ON_LOAD: usize = 4096;

/// A model split into blocks, and the locations of everything that the fused kernels share.
pub(super) struct Fusion<'a> {
    model: &'a Model,
    layout: ParamLayout,
    replicas: usize,
    grain: Grain,
    quads: usize,
    parts: usize,
    pub(super) blocks: Vec<FusionGroup>,
    packing: Packing,
    /// First vec2 of a batch normalisation's sums, by layer.
    sums: BTreeMap<usize, usize>,
    sums_len: usize,
}

/// The layout of `packed`, one replica.
#[derive(Default)]
struct Packing {
    /// First vec4 of a parameter, by the layer that owns it and what is read from there.
    starts: BTreeMap<(usize, &'static str), usize>,
    /// Where each value of one replica comes from: its place in the parameters of the first replica, and the distance to the
    /// next one's.
    sources: Vec<[u32; 2]>,
}

impl Packing {
    fn add(&mut self, layer: usize, name: &'static str, values: impl IntoIterator<Item = [u32; 2]>) {
        if self.starts.contains_key(&(layer, name)) {
            return; // Already packed for another layer that shares it.
        }
        self.starts.insert((layer, name), self.sources.len() / 4);
        self.sources.extend(values);
        self.sources.resize(self.sources.len().next_multiple_of(4), [NOTHING, 0]);
    }
}

type Constants = BTreeMap<&'static str, f64>;

const BACKWARD: &str = "fused_conv2d_backward";

/// A launch of `groups` workgroups with those of the constants that its shader declares.
fn launch(
    shader: &'static str,
    entry_point: &'static str,
    mut constants: Constants,
    groups: usize,
) -> Launch {
    let known: Vec<&str> = shader::find(shader).overrides().map(|(name, _)| name).collect();
    constants.retain(|name, _| known.contains(name));
    Launch { shader, entry_point, constants, invocations: groups * WORKGROUP, source: 0 }
}

/// Number of image quads in a part of a batch of `quads`.
fn part_quads(quads: usize) -> usize {
    quads.div_ceil(MOST_PARTS)
}

impl<'a> Fusion<'a> {
    pub(super) fn new(model: &'a Model, batch_size: usize, replicas: usize, grain: Grain) -> Self {
        let quads = batch_size.div_ceil(4);
        let mut fusion = Self {
            model,
            layout: ParamLayout::new(model, replicas),
            replicas,
            grain,
            quads,
            parts: quads.div_ceil(part_quads(quads)),
            blocks: blocks(model, part_quads(quads)),
            packing: Packing::default(),
            sums: BTreeMap::new(),
            sums_len: 0,
        };
        for block in fusion.blocks.clone() {
            match block {
                FusionGroup::Layer(_) => {}
                FusionGroup::Conv(fused) => fusion.place_conv(&fused),
                FusionGroup::Head(head) => {
                    for name in ["weight", "bias"] {
                        let values = fusion.param(head.linear, name).unwrap_or_default();
                        fusion.packing.add(fusion.owner(head.linear), name, values);
                    }
                }
            }
        }
        fusion
    }

    /// True if there is anything to fuse.
    pub(super) fn fuses(&self) -> bool {
        self.blocks.iter().any(|block| !matches!(block, FusionGroup::Layer(_)))
    }

    /// Rows of `grads`.
    pub(super) fn parts(&self) -> usize {
        self.parts
    }

    /// True if every batch normalisation is fused; the running statistics and their average then are, too. Frozen parameters lie
    /// beside them, and no fused kernel averages those.
    pub(super) fn averages_running(&self) -> bool {
        if self.model.layers.iter().any(|layer| layer.frozen) {
            return false;
        }
        let norms = self.model.layers.iter().enumerate();
        let mut norms = norms.filter(|(_, layer)| layer.params.iter().any(|param| !param.trained));
        norms.all(|(index, _)| self.sums.contains_key(&index))
    }

    /// Sources of a parameter's values, in order.
    fn param(&self, layer: usize, name: &str) -> Option<Vec<[u32; 2]>> {
        let entry = self.layout.entry(layer, name)?;
        let len = (entry.len / self.replicas) as u32;
        Some((0..len).map(|index| [entry.offset as u32 + index, len]).collect())
    }

    /// First value of a parameter in its vector; 0 if there is none.
    fn offset(&self, layer: usize, name: &str) -> usize {
        self.layout.entry(layer, name).map_or(0, |entry| entry.offset)
    }

    /// First value of a gradient in `grads`; 0 if there is none.
    fn grad(&self, layer: usize, name: &str) -> f64 {
        let entry = self.layout.entry(layer, name);
        let row = || self.layout.first_grad_row(layer, self.parts);
        entry.map_or(0, |entry| row() * self.layout.trained_len() + entry.offset) as f64
    }

    /// The layer whose trained parameters a layer uses.
    fn owner(&self, layer: usize) -> usize {
        self.model.layers.get(layer).and_then(|layer| layer.weights_of).unwrap_or(layer)
    }

    fn conv(&self, layer: usize) -> Conv {
        match self.op(layer) {
            Op::Conv2d(conv) => conv,
            other => panic!("{} is {other:?}", self.model.layers[layer].name),
        }
    }

    fn op(&self, layer: usize) -> Op {
        self.model.layers[layer].op
    }

    fn name(&self, layer: usize) -> &str {
        &self.model.layers[layer].name
    }

    fn place_conv(&mut self, fused: &FusedConv) {
        let conv = self.conv(fused.conv);
        let (inputs, outputs, taps) = (conv.input.channels, conv.output.channels, conv.taps());
        let weight = self.param(fused.conv, "weight").expect("a convolution has weights");
        // [c, i, j, o] and [o, i, j, c], with the last axis padded to whole vec4s.
        let packed = |outer: usize, inner: usize, of: &dyn Fn(usize, usize) -> usize| {
            let mut values = Vec::new();
            for at in 0..outer * taps * inner.next_multiple_of(4) {
                let (last, rest) = (at % inner.next_multiple_of(4), at / inner.next_multiple_of(4));
                let (first, tap) = (rest / taps, rest % taps);
                values.push(if last < inner { weight[of(first, last) * taps + tap] } else { [NOTHING, 0] });
            }
            values
        };
        let forward = packed(inputs, outputs, &|c, o| o * inputs + c);
        let backward = packed(outputs, inputs, &|o, c| o * inputs + c);
        let owner = self.owner(fused.conv);
        self.packing.add(owner, "forward", forward);
        self.packing.add(owner, "backward", backward);
        let bias = self.param(fused.conv, "bias").unwrap_or_default();
        self.packing.add(owner, "bias", bias);
        if let Some(norm) = fused.norm {
            for name in ["weight", "bias"] {
                let values = self.param(norm, name).expect("a batch normalisation has both");
                self.packing.add(self.owner(norm), name, values);
            }
            self.sums.insert(norm, self.sums_len);
            self.sums_len += (self.parts + 1) * self.replicas * outputs;
        }
    }

    fn packed_at(&self, layer: usize, name: &'static str) -> f64 {
        self.packing.starts.get(&(self.owner(layer), name)).copied().unwrap_or(0) as f64
    }

    /// Tensors that the fused kernels share.
    pub(super) fn tensors(&self, draft: &mut Draft) {
        let sources = self.packing.sources.iter().flatten().copied();
        draft.keep_words("sources", sources.collect());
        draft.pool("packed", self.replicas * self.packing.sources.len());
        draft.keep("sums", 2 * self.sums_len.max(1));
        draft.keep("grads", self.layout.grad_rows(self.parts) * self.layout.trained_len());
        for (&layer, &start) in &self.sums {
            let len = self.model.layers[layer].output.channels * self.replicas;
            let name = format!("{}.statistics", self.name(layer));
            let view = draft.keep_view(&name, "sums", 2 * (start + self.parts * len), 2 * len);
            draft.pin(view);
        }
        draft.keep("average_running", self.layout.running_len().max(1));
    }

    /// True if the network ends with a fused head.
    pub(super) fn has_head(&self) -> bool {
        matches!(self.blocks.last(), Some(FusionGroup::Head(_)))
    }

    /// The launch that makes a batch and packs the parameters.
    pub(super) fn prepare(&self, batch: &BatchSettings) -> Launch {
        let packed = self.packing.sources.len() / 4;
        let groups = self.quads + packed.div_ceil(WORKGROUP);
        let mut launch = batch.launch("prepare", groups * WORKGROUP);
        launch.constants.insert("PACKED", packed as f64);
        launch
    }

    /// Forward launches of a fused convolution.
    pub(super) fn forward(
        &self,
        fused: &FusedConv,
        average_decay: f32,
        training: bool,
        values: &Values,
        draft: &mut Draft,
    ) {
        let tiles = self.conv(fused.conv).output.channels.div_ceil(FORWARD_CHANNELS);
        let mut constants = self.constants(fused, training);
        constants
            .insert("AVERAGE_DECAY", f64::from(if self.averages_running() { average_decay } else { 0.0 }));
        let entry_point = if training { "forward" } else { "forward_eval" };
        let launch = launch("fused_conv2d", entry_point, constants, self.parts * tiles);
        draft.launch(self.name(fused.conv), &launch, &values.between(fused.first(), fused.last()));
    }

    /// Backward launches of a fused convolution; `to_input` if something below is trained.
    pub(super) fn backward(&self, fused: &FusedConv, to_input: bool, values: &Values, draft: &mut Draft) {
        // What is normalised on loading gets its gradient from the launch of the normalisation's producer; where the
        // output's readers normalise it, they pass on the gradient after the normalisation.
        let below = fused.before.layers().find(|layer| Some(*layer) != fused.before.norm);
        let above = fused.norm.unwrap_or(fused.last());
        let mut wires = values.between(below.unwrap_or(fused.conv), above);
        wires.set("input", values.input(fused.first()));
        wires.set("made", values.output(fused.last()));
        let conv = self.conv(fused.conv);
        let mut constants = self.constants(fused, true);
        if fused.norm.is_some() && to_input && conv.output.len() > MOST_ON_LOAD {
            let owner = fused.relu.or(fused.norm).expect("there is a normalisation");
            let grad_input = values.grad_input(owner);
            let mut owned = wires.clone();
            owned.set("grad_input", grad_input);
            let groups = self.quads * conv.output.channels;
            let launch = launch(BACKWARD, "backward_output", constants.clone(), groups);
            draft.launch(self.name(owner), &launch, &owned);
            wires.set("grad_output", grad_input);
            constants.insert("OUT_NORMALISE", 0.0);
            constants.insert("OUT_RECTIFY", 0.0);
        }
        let weight_tiles = self.parts * conv.filter().div_ceil(9) * conv.output.channels.div_ceil(8);
        let input_groups = if to_input { self.parts * conv.input.channels.div_ceil(4) } else { 0 };
        let pixels = part_quads(self.quads) * conv.output.height * conv.output.width;
        let lanes = match self.grain {
            Grain::Coarse => 1,
            Grain::Fine => pixels.div_ceil(GRAD_PIXELS).next_power_of_two().min(WORKGROUP),
        };
        constants.insert("GRAD_LANES", lanes as f64);
        constants.insert("INPUT_GROUPS", input_groups as f64);
        let entry_point = if to_input { "backward" } else { "backward_weight" };
        let groups = input_groups + (weight_tiles * lanes).div_ceil(WORKGROUP);
        draft.launch(self.name(fused.conv), &launch(BACKWARD, entry_point, constants, groups), &wires);
    }

    fn constants(&self, fused: &FusedConv, training: bool) -> Constants {
        let conv = self.conv(fused.conv);
        let [kernel, padding] = conv.square().expect("others are not fused");
        let has_bias = self.param(fused.conv, "bias").is_some();
        let mut constants: Constants = [
            ("QUADS", self.quads),
            ("REPLICAS", self.replicas),
            ("PARTS", self.parts),
            ("IN_CHANNELS", conv.input.channels),
            ("IN_HEIGHT", conv.input.height),
            ("IN_WIDTH", conv.input.width),
            ("OUT_CHANNELS", conv.output.channels),
            ("OUT_HEIGHT", conv.output.height),
            ("OUT_WIDTH", conv.output.width),
            ("KERNEL", kernel),
            ("PADDING", padding),
            ("PACKED", self.packing.sources.len() / 4),
            ("HAS_BIAS", usize::from(has_bias)),
            ("GRADS", self.layout.trained_len()),
            ("GRAD_LANES", 1),
            ("INPUT_GROUPS", 0),
        ]
        .map(|(name, value)| (name, value as f64))
        .into();
        constants.insert("AVERAGE_DECAY", 0.0);
        constants.insert("GRAD_WEIGHT", self.grad(fused.conv, "weight"));
        constants.insert("GRAD_BIAS", self.grad(fused.conv, "bias"));
        constants.insert("FORWARD_WEIGHT", self.packed_at(fused.conv, "forward"));
        constants.insert("BACKWARD_WEIGHT", self.packed_at(fused.conv, "backward"));
        constants.insert("BIAS", self.packed_at(fused.conv, "bias"));
        constants.extend(self.before(&fused.before, training));
        let slope = match fused.relu.map(|relu| self.op(relu)) {
            Some(Op::Activation(Activation::LeakyRelu { slope })) => f64::from(slope),
            _ => 0.0,
        };
        constants.insert("OUT_RECTIFY", f64::from(u8::from(fused.relu.is_some())));
        constants.insert("OUT_SLOPE", slope);
        let norm = fused.norm.unwrap_or(usize::MAX);
        constants.insert("OUT_NORMALISE", f64::from(u8::from(fused.norm.is_some())));
        constants.insert("OUT_SUMS", self.sums.get(&norm).copied().unwrap_or(0) as f64);
        constants.insert("OUT_SCALE", self.packed_at(norm, "weight"));
        constants.insert("GRAD_OUT_SCALE", self.grad(norm, "weight"));
        constants.insert("GRAD_OUT_SHIFT", self.grad(norm, "bias"));
        constants
    }

    /// Constants of what is applied on loading.
    fn before(&self, before: &Before, training: bool) -> Constants {
        let norm = before.norm.unwrap_or(usize::MAX);
        let (eps, momentum) = match before.norm.map(|norm| self.op(norm)) {
            Some(Op::BatchNorm2d { eps, momentum }) => (f64::from(eps), f64::from(momentum)),
            _ => (1.0, 0.0),
        };
        let slope = match before.relu.map(|relu| self.op(relu)) {
            Some(Op::Activation(Activation::LeakyRelu { slope })) => f64::from(slope),
            _ => 0.0,
        };
        let pool = match before.pool.map(|pool| self.op(pool)) {
            Some(Op::MaxPool2d(pool)) => pool.kernel[0],
            _ => 1,
        };
        let rate = match before.dropout.map(|dropout| self.op(dropout)) {
            Some(Op::Dropout { rate }) => rate,
            _ => 0.0,
        };
        let flag = |set: bool| f64::from(u8::from(set));
        [
            ("IN_NORMALISE", flag(before.norm.is_some())),
            ("IN_SCALE", self.packed_at(norm, "weight")),
            ("IN_SHIFT", self.packed_at(norm, "bias")),
            ("IN_SUMS", self.sums.get(&norm).copied().unwrap_or(0) as f64),
            ("IN_EPS", eps),
            ("IN_MOMENTUM", momentum),
            ("IN_RUNNING_MEAN", self.offset(norm, "running_mean") as f64),
            ("IN_RUNNING_VAR", self.offset(norm, "running_var") as f64),
            ("IN_RECTIFY", flag(before.relu.is_some())),
            ("IN_SLOPE", slope),
            ("POOL", pool as f64),
            ("DROP", flag(training && rate > 0.0)),
            ("GRAD_IN_SCALE", self.grad(norm, "weight")),
            ("GRAD_IN_SHIFT", self.grad(norm, "bias")),
        ]
        .into_iter()
        .chain(state::layer_constants(before.dropout.unwrap_or(0)))
        .collect()
    }

    /// The launch of the head: loss, hits, logits and, in training, gradients.
    pub(super) fn head(
        &self,
        head: &Head,
        training: bool,
        weighted: bool,
        values: &Values,
        draft: &mut Draft,
    ) {
        let mut wires = values.between(head.first, head.first);
        wires.set("logits", values.logits);
        let conv = self.conv(head.linear);
        let constants = [
            ("QUADS", self.quads as f64),
            ("REPLICAS", self.replicas as f64),
            ("PARTS", self.parts as f64),
            ("CHANNELS", conv.input.channels as f64),
            ("PIXELS", head.pixels as f64),
            ("CLASSES", conv.output.channels as f64),
            ("HAS_BIAS", f64::from(u8::from(self.param(head.linear, "bias").is_some()))),
            ("PACKED", (self.packing.sources.len() / 4) as f64),
            ("WEIGHT", self.packed_at(head.linear, "weight")),
            ("BIAS", self.packed_at(head.linear, "bias")),
            ("GRADS", self.layout.trained_len() as f64),
            ("GRAD_WEIGHT", self.grad(head.linear, "weight")),
            ("GRAD_BIAS", self.grad(head.linear, "bias")),
            ("WEIGHTED", f64::from(u8::from(weighted))),
        ];
        let entry_point = if training { "forward" } else { "forward_eval" };
        draft.launch("loss", &Launch::new("head", entry_point, self.parts * WORKGROUP, constants), &wires);
    }
}
