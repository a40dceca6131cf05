//! What the random networks must cover.

use std::collections::BTreeSet;

use shadernet::config::Augment;
use shadernet::layers::Op;

use super::Case;

impl Case {
    /// Kinds of layers and options in use.
    pub(super) fn parts(&self) -> BTreeSet<String> {
        let mut parts = BTreeSet::new();
        for layer in self.model().layers {
            let kind = layer.kind.name;
            parts.insert(kind.to_owned());
            parts.extend(layer.layer.keys().iter().map(|(key, value)| format!("{kind}.{key} = {value}")));
            let groups = layer.layer.keys().get("groups").and_then(toml::Value::as_integer);
            if groups.is_some_and(|groups| groups > 2 && groups as usize == layer.inputs[0].channels) {
                parts.insert(format!("{kind}, depthwise"));
            }
            if let Op::Conv2d(conv) = layer.op {
                let [top, bottom, left, right] = conv.padding;
                let across = conv.axes()[1];
                let mut has = |what: &str, has: bool| parts.extend(has.then(|| format!("conv2d, {what}")));
                has("not square", conv.kernel[0] != conv.kernel[1]);
                has("dilated", conv.dilation != [1, 1]);
                has(
                    "dilated by more than the stride divides",
                    conv.dilation.iter().any(|d| d % conv.stride > 0),
                );
                has("uneven above and below", top != bottom);
                has("uneven left and right", left != right);
                // Wider than the shader's row.
                has("of wide reach", across.kernel > 1 && across.reach() > 13);
            }
            if layer.frozen {
                let place = if layer.needs_grad { "frozen above others" } else { "frozen at the start" };
                parts.insert(format!("{kind}, {place}"));
            }
            if layer.rate != 1.0 {
                parts.insert("rate of a layer".to_owned());
            }
            if layer.weights_of.is_some() {
                parts.insert(format!("{kind}, shared"));
            }
        }
        let optimizer = format!("{:?}", self.train.optimizer);
        parts.insert(optimizer.split(' ').next().unwrap().to_owned());
        let mut switch = |name: &str, on| parts.insert(format!("{name}: {on}"));
        switch("nesterov", optimizer.contains("nesterov: true"));
        switch("average", self.train.average_decay > 0.0);
        switch("label smoothing", self.train.label_smoothing > 0.0);
        switch("class weights", self.train.class_weights.is_some());
        switch("clipped", self.train.clip_norm > 0.0);
        switch("augment", !self.train.augment.is_none());
        let strengths = Augment::STRENGTHS.iter().zip(self.train.augment.strengths());
        parts.extend(
            strengths.filter(|(_, strength)| *strength > 0.0).map(|(key, _)| format!("augment.{key}")),
        );
        parts.insert(format!("fill = {}", self.train.augment.fill));
        let mut switch = |name: &str, on| parts.insert(format!("{name}: {on}"));
        switch("replicas", self.replicas > 1);
        switch("shuffle", self.shuffle);
        switch("batch of whole quads", self.train.batch_size.is_multiple_of(4));
        switch("odd height", !self.input[1].is_multiple_of(2));
        switch("square", self.input[1] == self.input[2]);
        parts
    }
}

/// Options that the networks must cover, besides every kind of layer.
pub(super) const EVERY_PART: &[&str] = &[
    "Adam",
    "Adamw",
    "Sgd",
    "augment: false",
    "augment: true",
    "augment.brightness",
    "augment.contrast",
    "augment.crop",
    "augment.crop_aspect",
    "augment.cutmix",
    "augment.elastic",
    "augment.erase",
    "augment.flip_horizontal",
    "augment.flip_vertical",
    "augment.hue",
    "augment.mixup",
    "augment.pad_crop",
    "augment.saturation",
    "fill = 0",
    "fill = 200",
    "fill = edge",
    "fill = mean",
    "fill = reflect",
    "average: false",
    "average: true",
    "class weights: false",
    "class weights: true",
    "clipped: false",
    "clipped: true",
    "label smoothing: false",
    "label smoothing: true",
    "nesterov: true",
    "replicas: false",
    "replicas: true",
    "shuffle: false",
    "shuffle: true",
    "batch of whole quads: false",
    "batch of whole quads: true",
    "odd height: false",
    "odd height: true",
    "square: false",
    "avg_pool2d.padding = 0",
    "avg_pool2d.padding = 1",
    "avg_pool2d.stride = 1",
    "avg_pool2d.stride = 2",
    "avg_pool2d.stride = 3",
    "batch_norm2d.momentum = 0.1",
    "batch_norm2d.momentum = 0.3",
    "batch_norm2d, frozen above others",
    "batch_norm2d, frozen at the start",
    "batch_norm2d, shared",
    "conv2d, frozen above others",
    "conv2d, frozen at the start",
    "conv2d, depthwise",
    "conv2d, dilated",
    "conv2d, dilated by more than the stride divides",
    "conv2d, not square",
    "conv2d, of wide reach",
    "conv2d, shared",
    "conv2d, uneven above and below",
    "conv2d, uneven left and right",
    "conv2d.groups = 1",
    "conv2d.groups = 2",
    "conv2d.bias = false",
    "conv2d.bias = true",
    "conv2d.kernel = 1",
    "conv2d.kernel = 2",
    "conv2d.kernel = 3",
    "conv2d.kernel = 4",
    "conv2d.kernel = 5",
    "conv2d.kernel = 6",
    "conv2d.kernel = 7",
    "conv2d.padding = 0",
    "conv2d.padding = 1",
    "conv2d.padding = 2",
    "conv2d.padding = \"same\"",
    "conv2d.stride = 1",
    "conv2d.stride = 2",
    "conv2d.stride = 3",
    "conv2d.stride = 4",
    "group_norm.groups = 1",
    "group_norm.groups = 2",
    "group_norm.groups = 3",
    "group_norm, frozen above others",
    "group_norm, shared",
    "linear.bias = false",
    "linear.bias = true",
    "max_pool2d.padding = 0",
    "max_pool2d.padding = 1",
    "max_pool2d.stride = 1",
    "max_pool2d.stride = 2",
    "max_pool2d.stride = 3",
    "prelu.num_parameters = 1",
    "prelu, frozen above others",
    "prelu, shared",
    "rate of a layer",
];
