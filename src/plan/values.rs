//! The tensors of a model's layers, by number: each value, and each reader's share of its gradient.

use std::collections::BTreeSet;

use super::draft::{Draft, Wires};
use crate::layers::{Launch, Pass, PlanContext, add, grad_input_name, input_name};
use crate::model::{Model, Source};
use crate::shader;
use crate::tensor::Shape;

/// The launches of a layer's backward pass that are wanted: no gradients of inputs below which nothing is trained and, of a frozen
/// layer, nothing that the others do not read.
pub(super) fn backward_launches(model: &Model, layer: usize, launches: Vec<Launch>) -> Vec<Launch> {
    let about = &model.layers[layer];
    let mut read = BTreeSet::new();
    let wanted = |launch: &Launch| -> bool {
        let bindings = shader::find(launch.shader).bindings(launch.entry_point);
        let is_wanted = match launch.entry_point.starts_with("backward_input") {
            true => model.needs_grad(about.sources[launch.source]),
            false if !about.frozen => true,
            false => bindings.iter().any(|binding| binding.written && read.contains(&binding.variable)),
        };
        let reads = bindings.into_iter().filter(|binding| is_wanted && binding.read);
        read.extend(reads.map(|binding| binding.variable));
        is_wanted
    };
    let mut launches: Vec<Launch> = launches.into_iter().rev().filter(wanted).collect();
    launches.reverse();
    launches
}

/// Tensors of every layer.
///
/// The gradient of a value with one reader is what that reader's kernel writes. With several readers, each writes its
/// share to its own tensor, and launches add them up before the backward pass reaches the value's producer, so
/// backward kernels can overwrite.
pub(super) struct Values {
    layers: Vec<LayerTensors>,
    /// The last layer's output.
    pub(super) logits: usize,
    pub(super) grad_logits: usize,
}

struct LayerTensors {
    inputs: Vec<usize>,
    output: usize,
    /// The gradient of its output.
    grad_output: usize,
    grad_inputs: Vec<usize>,
    /// Parameters, their gradients, and what it saves.
    own: Wires,
}

impl Values {
    /// Tensors for `images` images, whose initial values are in `image`; `context` is that of the layer with this index.
    pub(super) fn new(
        model: &Model,
        draft: &mut Draft,
        [image, grad_logits]: [usize; 2],
        images: usize,
        replicas: usize,
        context: impl Fn(usize) -> PlanContext,
    ) -> Self {
        let mut layers: Vec<LayerTensors> = Vec::new();
        for (index, layer) in model.layers.iter().enumerate() {
            let context = context(index);
            let read = |source: &Source| match *source {
                Source::Image => image,
                Source::Layer(layer) => layers[layer].output,
            };
            let inputs: Vec<usize> = layer.sources.iter().map(read).collect();
            let launches = |pass| layer.layer.launches(pass, &context);
            let is_view = launches(Pass::Train).is_empty();
            let output = match is_view {
                true => inputs[0],
                false => draft.pool(&format!("{}.output", layer.name), images * layer.output.len()),
            };
            let passes_on = launches(Pass::Backward).is_empty();
            let grad = |(position, shape): (usize, &Shape)| {
                let name = grad_input_name(inputs.len(), position);
                draft.pool(&format!("{}.{name}", layer.name), images * shape.len())
            };
            let grad_inputs = match passes_on {
                true => Vec::new(),
                false => layer.inputs.iter().enumerate().map(grad).collect(),
            };
            let saved = if is_view { Vec::new() } else { layer.layer.saved(&context) };
            let own =
                Wires::new(saved.into_iter().map(|(name, len)| {
                    (name, draft.pool(&format!("{}.{name}", layer.name), len * replicas))
                }));
            layers.push(LayerTensors { inputs, output, grad_output: grad_logits, grad_inputs, own });
        }
        for (index, layer) in model.layers.iter().enumerate().rev() {
            let grad_output = match layer.readers[..] {
                [] => grad_logits,
                [reader] => layers[reader.layer].grad_inputs[reader.position],
                _ => draft.pool(&format!("{}.grad_output", layer.name), images * layer.output.len()),
            };
            let tensors = &mut layers[index];
            tensors.grad_output = grad_output;
            // A layer without backward kernels passes the gradient on.
            tensors.grad_inputs.resize(tensors.inputs.len(), grad_output);
        }
        let logits = layers.last().map_or(image, |last| last.output);
        Self { layers, logits, grad_logits }
    }

    /// Assigns a tensor to a variable of a layer's kernels.
    pub(super) fn wire(&mut self, layer: usize, variable: &str, tensor: usize) {
        self.layers[layer].own.set(variable, tensor);
    }

    /// The tensors that a launch of a layer binds.
    pub(super) fn wires(&self, layer: usize, launch: &Launch) -> Wires {
        let LayerTensors { inputs, output, grad_output, grad_inputs, own } = &self.layers[layer];
        let mut wires = own.with_bias();
        let (input, grad_input) = (inputs[launch.source], grad_inputs[launch.source]);
        let ends = [
            ("output", *output),
            ("grad_output", *grad_output),
            ("input", input),
            ("grad_input", grad_input),
        ];
        ends.into_iter().for_each(|(variable, tensor)| wires.set(variable, tensor));
        for position in 0..inputs.len() {
            wires.set(input_name(inputs.len(), position), inputs[position]);
            wires.set(grad_input_name(inputs.len(), position), grad_inputs[position]);
        }
        wires
    }

    /// A layer's first input.
    pub(super) fn input(&self, layer: usize) -> usize {
        self.layers[layer].inputs[0]
    }

    /// Its gradient.
    pub(super) fn grad_input(&self, layer: usize) -> usize {
        self.layers[layer].grad_inputs[0]
    }

    /// A layer's output.
    pub(super) fn output(&self, layer: usize) -> usize {
        self.layers[layer].output
    }

    /// Inputs and outputs of layers that are computed together: the first one's input and its gradient, the last
    /// one's output and its gradient.
    pub(super) fn between(&self, first: usize, last: usize) -> Wires {
        Wires::new([
            ("input", self.input(first)),
            ("grad_input", self.grad_input(first)),
            ("output", self.output(last)),
            ("grad_output", self.layers[last].grad_output),
        ])
    }

    /// Adds up the shares of the gradient of a layer's output from its readers, if there are several.
    pub(super) fn sum_gradients(&self, model: &Model, layer: usize, quads: usize, draft: &mut Draft) {
        let about = &model.layers[layer];
        if about.readers.len() < 2 || !about.needs_grad {
            return;
        }
        let parts = about.readers.iter().map(|reader| self.layers[reader.layer].grad_inputs[reader.position]);
        let parts: Vec<usize> = parts.collect();
        for launch in add::launches(parts.len(), quads * about.output.len()) {
            let wires = Wires::new([
                ("input1", parts[0]),
                ("input2", parts[1]),
                ("input", parts[launch.source]),
                ("output", self.layers[layer].grad_output),
            ]);
            draft.launch(&format!("{}.grad_output", about.name), &launch, &wires);
        }
    }
}
