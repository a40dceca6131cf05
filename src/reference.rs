//! The whole network in `f64`, using the layers' reference implementations: it defines a training step, slowly and
//! plainly. Tests and `doctor` compare both engines with it. Tensors have the same names as in a plan.

use std::collections::BTreeMap;

use crate::config::Optimizer;
use crate::engine::Vector;
use crate::layers::{Context, add, grad_input_name, input_name};
use crate::losses::cross_entropy::{Target, weighted_cross_entropy};
use crate::model::{Model, ModelParam};
use crate::optimizers::{Step, average, clip};
use crate::tensor::{Array, Arrays, Sum, Tensor};

/// Every array of a step by its name in the plan: `conv1.output`, `conv1.grad_weight`, `loss`, `loss.grad_logits`, ...
///
/// An array's `bound` covers its own layer, given the layer's inputs; errors of earlier layers are not included.
pub type Named = BTreeMap<String, Array>;

/// What a step depends on besides weights, images and targets.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// Seed of the run.
    pub seed: u32,
    /// Steps taken before this one.
    pub step: u32,
    /// Learning rate of this step.
    pub learning_rate: f64,
}

/// A network in `f64`: weights, running statistics, optimizer memory and moving averages.
///
/// # Examples
/// ```
/// # let text = "name = \"tiny\"\ninput = [1, 28, 28]\nlayers = [{ type = \"conv2d\", out_channels = 10, kernel = 5, stride = 4 }, { type = \"global_avg_pool2d\" }]";
/// use shadernet::model::Model;
/// use shadernet::reference::{At, Reference};
/// use shadernet::tensor::Array;
///
/// let model = Model::parse(text, "tiny.toml")?;
/// let mut net = Reference::new(&model, &model.init(0));
/// let image = Array::exact(&[1, 1, 28, 28], vec![0.5; 784]);
/// let step = |net: &mut Reference<'_>, step| {
///     let at = At { seed: 0, step, learning_rate: 0.01 };
///     net.step(image.clone(), &[3], at)["loss"].data[0]
/// };
/// let losses = [step(&mut net, 0), step(&mut net, 1)];
/// assert!(losses[1] < losses[0]);
/// # Ok::<(), shadernet::error::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Reference<'a> {
    model: &'a Model,
    decays_all: bool,
    class_weights: Vec<f32>,
    params: Vec<ModelParam>,
    /// For each layer, the indices of the parameters that it uses.
    indices: Vec<Vec<usize>>,
    weights: Vec<Array>,
    average: Vec<Array>,
    /// One vector per memory and parameter, empty for running statistics.
    memory: BTreeMap<&'static str, Vec<Array>>,
}

impl<'a> Reference<'a> {
    /// A network that starts from `weights`, in the order of [`Model::params`].
    pub fn new(model: &'a Model, weights: &[Tensor]) -> Self {
        let params = model.params();
        assert_eq!(params.len(), weights.len(), "one tensor for each parameter");
        let exact =
            |(param, tensor): (&ModelParam, &Tensor)| Array::from_f32(&param.param.shape, &tensor.data);
        let weights: Vec<_> = params.iter().zip(weights).map(exact).collect();
        let zeros: Vec<_> = weights.iter().map(|array| Array::zeros(&array.shape)).collect();
        let memory = model.train.optimizer.memory().iter();
        Self {
            model,
            decays_all: false,
            class_weights: Vec::new(),
            indices: model.param_indices(),
            params,
            average: weights.clone(),
            weights,
            memory: memory.map(|&name| (name, zeros.clone())).collect(),
        }
    }

    /// Applies weight decay to every parameter, as a PyTorch optimizer without parameter groups does.
    pub fn decaying_all(mut self) -> Self {
        self.decays_all = true;
        self
    }

    /// Weighs the classes in the loss: [`Setup::class_weights`](crate::engine::Setup::class_weights). Without it, all count the
    /// same, whatever the recipe says, since weights may depend on the training images.
    pub fn weighing(self, class_weights: Vec<f32>) -> Self {
        Self { class_weights, ..self }
    }

    /// Parameters and running statistics, in the order of [`Model::params`].
    pub fn weights(&self) -> &[Array] {
        &self.weights
    }

    /// Mutable parameters and running statistics.
    pub fn weights_mut(&mut self) -> &mut [Array] {
        &mut self.weights
    }

    /// Takes a vector from an engine; `tensors` are as returned by [`Engine::read`](crate::engine::Engine::read).
    pub fn write(&mut self, vector: Vector, tensors: &[Tensor]) {
        let (arrays, trained_only) = match vector {
            Vector::Weights => (&mut self.weights, false),
            Vector::Average => (&mut self.average, false),
            Vector::Memory(name) => (self.memory.get_mut(name).expect("a memory of the optimizer"), true),
        };
        let wanted = self.params.iter().zip(arrays).filter(|(param, _)| param.param.trained || !trained_only);
        for ((param, array), tensor) in wanted.zip(tensors) {
            *array = Array::from_f32(&param.param.shape, &tensor.data);
        }
    }

    /// Their moving averages, which are only updated if `average_decay` is above 0.
    pub fn average(&self) -> &[Array] {
        &self.average
    }

    /// A memory of the optimizer, one array per parameter; zeros for running statistics.
    pub fn memory(&self, name: &str) -> &[Array] {
        &self.memory[name]
    }

    /// Logits of `input` [N, C, H, W] with running statistics and without dropout.
    pub fn logits(&self, input: Array) -> Array {
        let at = At { seed: 0, step: 0, learning_rate: 0.0 };
        self.forward(&input, at, false).1
    }

    /// The output of each layer for `input` [N, C, H, W], with running statistics and without dropout.
    pub fn outputs(&self, input: Array) -> Vec<Array> {
        let at = At { seed: 0, step: 0, learning_rate: 0.0 };
        let (layers, _) = self.forward(&input, at, false);
        layers.into_iter().map(|mut arrays| arrays.remove("output").expect("every layer has one")).collect()
    }

    /// Forward, loss and backward, without changing anything: every array that a training step makes. Where layers
    /// share parameters, each layer's gradients are only its share.
    pub fn gradients(&self, input: Array, targets: &[impl Into<Target> + Copy], at: At) -> Named {
        let (mut layers, logits) = self.forward(&input, at, true);
        let smoothing = self.model.train.label_smoothing;
        let loss = weighted_cross_entropy(&logits, targets, smoothing, &self.class_weights);
        let mut upstream = loss["grad_logits"].clone();
        upstream.shape.clone_from(&logits.shape);
        let sum = |_, parts: Vec<Array>| add::sum(parts.iter());
        self.model.walk_back(upstream, sum, |index, grad_output| {
            let (layer, arrays) = (&self.model.layers[index], &mut layers[index]);
            arrays.insert("grad_output", grad_output);
            let made = layer.layer.backward(arrays, &self.context(at, index, true));
            arrays.extend(made);
            let inputs = layer.sources.len();
            (0..inputs).map(|position| arrays[grad_input_name(inputs, position)].clone()).collect()
        });
        let mut named = Named::from([("input".into(), input)]);
        for (layer, arrays) in self.model.layers.iter().zip(layers) {
            for (name, array) in arrays {
                named.insert(format!("{}.{name}", layer.name), array);
            }
        }
        for (name, array) in loss {
            let name = if name == "loss" { name.into() } else { format!("loss.{name}") };
            named.insert(name, array);
        }
        named
    }

    /// One training step. In the result, running statistics are the new ones, parameters those before the update.
    pub fn step(&mut self, input: Array, targets: &[impl Into<Target> + Copy], at: At) -> Named {
        let named = self.gradients(input, targets, at);
        let trained = (0..self.params.len()).filter(|&index| self.params[index].param.trained);
        let mut gradients: Vec<_> = trained.map(|index| self.gradient_of(&named, index)).collect();
        clip::clip(&mut gradients, self.model.train.clip_norm);
        let mut gradients = gradients.into_iter();
        for index in 0..self.params.len() {
            let ModelParam { name, param, .. } = &self.params[index];
            if param.trained {
                let decays = param.decays || self.decays_all;
                let gradient = gradients.next().expect("one for each trained parameter");
                self.update(index, &gradient, decays, at);
            } else {
                self.weights[index] = exact(&named[name]);
            }
        }
        if self.model.train.average_decay > 0.0 {
            for (old, new) in self.average.iter_mut().zip(&self.weights) {
                *old = exact(&average::update(old, new, self.model.train.average_decay, at.step));
            }
        }
        named
    }

    /// The gradient of the trained parameter with this index in [`Model::params`], from the result of
    /// [`Reference::gradients`]: the sum over the layers that use it.
    pub fn gradient_of(&self, named: &Named, index: usize) -> Array {
        let param = &self.params[index].param;
        let uses = self.indices.iter().zip(&self.model.layers).filter(|(used, _)| used.contains(&index));
        let parts: Vec<_> =
            uses.map(|(_, layer)| &named[&format!("{}.grad_{}", layer.name, param.name)]).collect();
        if let [only] = parts[..] {
            return only.clone();
        }
        let mut total = Array::zeros(&param.shape);
        for element in 0..param.size() {
            let mut sum = Sum::default();
            parts.iter().for_each(|part| sum.add_bounded(part.data[element], part.bound[element]));
            total.set(element, sum);
        }
        total
    }

    fn update(&mut self, index: usize, grad: &Array, decays: bool, at: At) {
        let optimizer: &Optimizer = &self.model.train.optimizer;
        let decay = if decays { f64::from(optimizer.weight_decay()) } else { 0.0 };
        let weight = &self.weights[index];
        let mut arrays = Arrays::from([
            ("params", weight.clone()),
            ("grads", grad.clone()),
            ("weight_decay", Array::exact(&weight.shape, vec![decay; weight.data.len()])),
        ]);
        for (&name, memory) in &self.memory {
            arrays.insert(name, memory[index].clone());
        }
        let learning_rate = match self.model.layers[self.params[index].layer].rate {
            1.0 => at.learning_rate,
            // Rounded as devices do, since the rule takes it as it is.
            factor => f64::from(at.learning_rate as f32 * factor),
        };
        let step = Step { step: at.step, learning_rate };
        let made = optimizer.update(&arrays, step);
        self.weights[index] = exact(&made["params"]);
        for (name, memory) in &mut self.memory {
            memory[index] = exact(&made[name]);
        }
    }

    fn context(&self, at: At, layer: usize, training: bool) -> Context {
        let training = training && !self.model.layers[layer].frozen;
        Context { training, seed: at.seed, step: at.step, layer: layer as u32, first_image: 0 }
    }

    /// Each layer's inputs and results, and the output of the last layer.
    fn forward(&self, image: &Array, at: At, training: bool) -> (Vec<Arrays>, Array) {
        let mut layers = Vec::new();
        let mut outputs = self.model.walk(image, |index, inputs| {
            let mut arrays = Arrays::new();
            for (position, &input) in inputs.iter().enumerate() {
                arrays.insert(input_name(inputs.len(), position), input.clone());
            }
            for &param in &self.indices[index] {
                arrays.insert(self.params[param].param.name, self.weights[param].clone());
            }
            let made = self.model.layers[index].layer.forward(&arrays, &self.context(at, index, training));
            arrays.extend(made);
            let output = exact(&arrays["output"]);
            layers.push(arrays);
            output
        });
        (layers, outputs.pop().expect("a checked model"))
    }
}

/// The same values, treated as exact.
fn exact(array: &Array) -> Array {
    Array::exact(&array.shape, array.data.clone())
}
