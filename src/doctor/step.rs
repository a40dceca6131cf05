//! One step on a device, with every tensor that a kernel writes compared with the reference, computed from the
//! device's own inputs to that kernel.

use std::collections::BTreeMap;

use crate::batch::BatchSettings;
use crate::dataset::Images;
use crate::engine::{Engine, Metrics, Setup, Vector};
use crate::error::Error;
use crate::gpu::GpuEngine;
use crate::layers::{Context, add, grad_input_name, input_name};
use crate::losses::cross_entropy::{Target, weighted_cross_entropy};
use crate::model::Model;
use crate::optimizers::{self, average, clip};
use crate::plan::{ParamLayout, Plan};
use crate::tensor::{Array, Arrays, Sum, Tensor};

use super::compare::Table;
use super::state::State;

mod batch;
mod made;

/// A NaN, to expose reads of values that were never written.
const POISON: u32 = 0x7fc0_0bad;

/// Takes one training step and compares every tensor that it wrote with the reference, which gets the device's own
/// inputs to each kernel. The engine must have been made without memory sharing, for a `setup` with training images.
///
/// # Errors
/// Names the first element outside its bound, a write past the end of a buffer, or an error from the device. `name`
/// comes first.
pub fn check_step(
    engine: &mut GpuEngine,
    setup: &Setup<'_>,
    name: &str,
    table: &mut Table,
) -> Result<(), String> {
    let step = engine.step();
    let before = State::read_all(engine, setup).map_err(text)?;
    engine.poison(POISON);
    let metrics = engine.train(1).map_err(text)?;
    let after = State::read_all(engine, setup).map_err(text)?;
    let plan = engine.training_plan().expect("an engine that trains").clone();
    let tensors = read_all(name, engine, &plan, |engine, name| engine.read_tensor(name))?;
    let check = StepCheck {
        setup,
        plan: &plan,
        tensors,
        step,
        batches: setup.train_batches().expect("an engine that trains"),
        images: setup.training.expect("an engine that trains"),
        training: true,
        layout: ParamLayout::new(setup.model, setup.replicas.len()),
        models: models(setup)?,
    };
    check.run(name, table, |replica, place, table| {
        check.pass(replica, &before[replica].weights, metrics[replica], place, table);
        check.update(replica, &before[replica], &after[replica], place, table);
    })
}

/// The same for an evaluation step, with the moving averages if `averaged`. Only the first batch of the test images
/// is compared, so there should be only one.
///
/// # Errors
/// Those of [`check_step`].
pub fn check_evaluation(
    engine: &mut GpuEngine,
    setup: &Setup<'_>,
    averaged: bool,
    name: &str,
    table: &mut Table,
) -> Result<(), String> {
    let batches = setup.eval_batches();
    assert_eq!(batches.steps_per_epoch(), 1, "one batch of test images");
    engine.poison(POISON);
    let metrics = engine.evaluate(averaged).map_err(text)?;
    let plan = engine.evaluation_plan(averaged).clone();
    let read = |engine: &GpuEngine, name: &str| engine.read_evaluation_tensor(averaged, name);
    let tensors = read_all(name, engine, &plan, read)?;
    let vector = if averaged { Vector::Average } else { Vector::Weights };
    let weights: Vec<_> = (0..setup.replicas.len())
        .map(|replica| engine.read(vector, replica).map_err(text))
        .collect::<Result<_, _>>()?;
    let layout = ParamLayout::new(setup.model, setup.replicas.len());
    let images = setup.test;
    let models = models(setup)?;
    let check =
        StepCheck { setup, plan: &plan, tensors, step: 0, batches, images, training: false, layout, models };
    check.run(name, table, |replica, place, table| {
        check.pass(replica, &weights[replica], metrics[replica], place, table);
    })
}

fn text(error: Error) -> String {
    error.to_string()
}

/// The model of each replica, with its own settings.
fn models(setup: &Setup<'_>) -> Result<Vec<Model>, String> {
    setup.replicas.iter().map(|net| net.model(setup.model).map_err(text)).collect()
}

/// Every tensor of a plan, after checking the guard words of the buffers.
fn read_all(
    name: &str,
    engine: &GpuEngine,
    plan: &Plan,
    read: impl Fn(&GpuEngine, &str) -> crate::error::Result<Option<Vec<u32>>>,
) -> Result<BTreeMap<String, Vec<u32>>, String> {
    let broken = engine.broken_guards().map_err(text)?;
    if !broken.is_empty() {
        return Err(format!("{name}: something was written behind {broken:?}"));
    }
    let mut words = BTreeMap::new();
    for tensor in &plan.tensors {
        let read = read(engine, &tensor.name).map_err(text)?;
        words.insert(tensor.name.clone(), read.expect("a tensor of the plan"));
    }
    Ok(words)
}

struct StepCheck<'a> {
    setup: &'a Setup<'a>,
    plan: &'a Plan,
    tensors: BTreeMap<String, Vec<u32>>,
    step: u32,
    batches: BatchSettings,
    images: &'a Images,
    training: bool,
    layout: ParamLayout,
    /// One per replica.
    models: Vec<Model>,
}

impl StepCheck<'_> {
    /// Compares each replica, and adds the results to `table`.
    fn run(
        &self,
        name: &str,
        table: &mut Table,
        replica: impl Fn(usize, &str, &mut Table),
    ) -> Result<(), String> {
        let mut found = Table::default();
        for number in 0..self.setup.replicas.len() {
            replica(number, &format!("{name}, replica {number}"), &mut found);
        }
        found.complete(self.plan);
        let wrong = found.first_wrong().map(str::to_owned);
        table.merge(found);
        wrong.map_or(Ok(()), Err)
    }

    /// Images of this step.
    fn valid(&self) -> usize {
        self.batches.images_of(self.step)
    }

    fn quads(&self) -> usize {
        self.plan.batch_size.div_ceil(4)
    }

    /// Batch, layers and loss, forward and, in training, backward.
    fn pass(&self, replica: usize, weights: &[Tensor], metrics: Metrics, place: &str, table: &mut Table) {
        self.batch(replica, place, table);
        let model = &self.models[replica];
        let image = self.array("input", replica, model.input.into());
        let mut layers = Vec::new();
        let indices = model.param_indices();
        let mut outputs = model.walk(&image, |index, inputs| {
            let layer = &model.layers[index];
            let mut arrays = Arrays::new();
            for (position, &input) in inputs.iter().enumerate() {
                arrays.insert(input_name(inputs.len(), position), input.clone());
            }
            for (param, &at) in layer.params.iter().zip(&indices[index]) {
                arrays.insert(param.name, Array::from_f32(&weights[at].shape, &weights[at].data));
            }
            let context = self.context(replica, index);
            let mut wanted = layer.layer.forward(&arrays, &context);
            let output = wanted.remove("output").expect("a layer has an output");
            if self.tensors.contains_key(&format!("{}.statistics", layer.name)) {
                loosen_statistics(&mut wanted, &arrays["input"]);
            }
            // Later layers start from what the device made, and so does an output that depends on it.
            let made = self.compare(replica, index, wanted, place, table);
            let output = if made.is_empty() {
                output
            } else {
                let mut given = arrays.clone();
                given.extend(
                    made.iter()
                        .map(|(&name, array)| (name, array.clone()))
                        .filter(|(name, _)| !name.starts_with("running")),
                );
                layer.layer.forward(&given, &context).remove("output").expect("as above")
            };
            arrays.extend(made);
            arrays.extend(self.compare(replica, index, Arrays::from([("output", output)]), place, table));
            let output = arrays["output"].clone();
            layers.push(arrays);
            output
        });
        let logits = outputs.pop().expect("a checked model");
        let Some(mut grad_logits) = self.loss(replica, &logits, metrics, place, table) else { return };
        grad_logits.shape.clone_from(&logits.shape);
        // Both walks write to the table, one after the other.
        let table = std::cell::RefCell::new(table);
        let sum = |index: usize, parts: Vec<Array>| {
            let wanted = Arrays::from([("grad_output", add::sum(parts.iter()))]);
            let mut made = self.compare(replica, index, wanted, place, &mut table.borrow_mut());
            made.remove("grad_output").expect("what is compared comes back")
        };
        model.walk_back(grad_logits, sum, |index, grad_output| {
            let (layer, arrays) = (&model.layers[index], &mut layers[index]);
            let inputs = layer.sources.len();
            arrays.insert("grad_output", grad_output);
            let wanted = layer.layer.backward(arrays, &self.context(replica, index));
            let mut made = self.compare(replica, index, wanted, place, &mut table.borrow_mut());
            let gradient = |position| made.remove(grad_input_name(inputs, position));
            (0..inputs).map(gradient).map(|grad| grad.expect("a gradient of each input")).collect()
        });
    }

    fn context(&self, replica: usize, layer: usize) -> Context {
        let seed = self.setup.replicas[replica].seed;
        let training = self.training && !self.setup.model.layers[layer].frozen;
        Context { training, seed, step: self.step, layer: layer as u32, first_image: 0 }
    }

    /// Compares what a layer makes; returns the device's tensors, or the reference's if the plan has none: for a
    /// reshape, or a gradient that isn't needed.
    fn compare(
        &self,
        replica: usize,
        index: usize,
        wanted: Arrays,
        place: &str,
        table: &mut Table,
    ) -> Arrays {
        let layer = &self.setup.model.layers[index];
        let mut made = Arrays::new();
        for (variable, want) in wanted {
            let tensor = format!("{}.{variable}", layer.name);
            let (kind, place) = (format!("{}.{variable}", layer.kind.name), format!("{place}, {tensor}"));
            let is_value =
                variable == "output" || variable == "grad_output" || variable.starts_with("grad_input");
            if !is_value {
                let Some((launch, array)) = self.small(replica, index, variable, &want.shape) else {
                    continue;
                };
                table.check_launch(launch, &kind, &place, &array.to_f32(), &loosened(&want, &array));
                made.insert(variable, array);
                continue;
            }
            if !self.tensors.contains_key(&tensor) {
                made.insert(variable, want);
                continue;
            }
            let launch = self.maker(&tensor);
            let (got, behind) = self.split(&tensor, replica);
            table.check_launch(launch, &kind, &place, &got, &want);
            let harmless = |value: &f32| value.is_finite() && (variable == "output" || *value == 0.0);
            if !behind.iter().all(harmless) {
                table.wrong(launch, format!("{place}: the lanes behind the batch hold {behind:?}"));
            }
            made.insert(variable, Array::from_f32(&want.shape, &got));
        }
        made
    }

    /// Compares loss, hits, metrics and state; returns the device's gradient of the logits, in training.
    fn loss(
        &self,
        replica: usize,
        logits: &Array,
        metrics: Metrics,
        place: &str,
        table: &mut Table,
    ) -> Option<Array> {
        let classes = self.setup.model.class_count();
        let targets: Vec<_> =
            self.part("targets", replica).iter().map(|&target| Target::from_word(target)).collect();
        let smoothing = if self.training { self.setup.replicas[replica].label_smoothing } else { 0.0 };
        let weights = if self.training { &self.batches.class_weights[..] } else { &[] };
        let want = weighted_cross_entropy(logits, &targets, smoothing, weights);
        let mut grad_logits = None;
        for (name, tensor) in [("loss", "loss"), ("grad_logits", "loss.grad_logits")] {
            if !self.tensors.contains_key(tensor) {
                continue;
            }
            let launch = self.maker(tensor);
            let place = format!("{place}, {name}");
            let (got, behind) = self.split(tensor, replica);
            table.check_launch(launch, &format!("cross_entropy.{name}"), &place, &got, &want[name]);
            if behind.iter().any(|&value| value != 0.0) {
                table.wrong(launch, format!("{place}: the lanes behind the batch hold {behind:?}"));
            }
            grad_logits = (name == "grad_logits").then(|| Array::from_f32(&want[name].shape, &got));
        }
        // A fused head doesn't store the gradient, and its sums of losses are compared below.
        let has_losses = self.tensors.contains_key("loss");
        if self.training && !self.tensors.contains_key("loss.grad_logits") {
            grad_logits = Some(want["grad_logits"].clone());
        }
        let hit = |image: usize| {
            let row = &logits.data[image * classes..][..classes];
            let best = (1..classes).fold(0, |best, class| if row[class] > row[best] { class } else { best });
            f32::from(u8::from(best == usize::from(targets[image].class)))
        };
        let hits: Vec<f32> = (0..self.valid()).map(hit).collect();
        if has_losses {
            let (correct, behind) = self.split("correct", replica);
            if correct != hits || behind.iter().any(|&value| value != 0.0) {
                let message = format!("{place}, correct: {correct:?} {behind:?}, not {hits:?}");
                table.wrong(self.maker("correct"), message);
            }
        }
        let launch = self.maker("metrics_ring");
        let mut sum = Sum::default();
        if has_losses {
            self.split("loss", replica).0.into_iter().for_each(|loss| sum.add(loss.into()));
        } else {
            want["loss"]
                .data
                .iter()
                .zip(&want["loss"].bound)
                .for_each(|(&loss, &error)| sum.add_bounded(loss, error));
        }
        let want = Array { shape: vec![1], data: vec![sum.value], bound: vec![sum.bound()] };
        let got = [metrics.loss_sum as f32];
        table.check_launch(launch, "cross_entropy.metrics", &format!("{place}, sum of losses"), &got, &want);
        let wanted = (hits.iter().sum::<f32>() as usize, self.valid());
        if (metrics.correct, metrics.images) != wanted {
            table.wrong(launch, format!("{place}: metrics {metrics:?}, not (correct, images) {wanted:?}"));
        }
        let state =
            ["next_step", "this_step", "step_images"].map(|word| self.tensors[&format!("state.{word}")][0]);
        if state != [self.step + 1, self.step, self.valid() as u32] {
            let message = format!("{place}: next step, step, images = {state:?} after step {}", self.step);
            table.wrong(launch, message);
        }
        grad_logits
    }

    fn update(&self, replica: usize, before: &State, after: &State, place: &str, table: &mut Table) {
        let train = &self.models[replica].train;
        let rates = self.setup.learning_rates(&self.setup.replicas[replica]);
        let rate = rates[self.step as usize];
        let array = |tensor: &Tensor| Array::from_f32(&tensor.shape, &tensor.data);
        let rule = train.optimizer.launch(1, 1, 1, 0.0, false, false).shader;
        let entries = self.layout.entries().iter();
        let gradients = entries.zip(&before.weights).filter(|(entry, _)| entry.param.param.trained);
        let mut gradients: Vec<Array> = gradients
            .map(|(entry, weight)| self.gradient(replica, entry, 0..self.parts() * entry.uses, &weight.shape))
            .collect();
        clip::clip(&mut gradients, train.clip_norm);
        let mut trained = 0;
        for (index, entry) in self.layout.entries().iter().enumerate() {
            let param = &entry.param;
            let place = format!("{place}, {}", param.name);
            let (old, new) = (&before.weights[index], &after.weights[index]);
            if train.average_decay > 0.0 {
                let launch =
                    self.maker(if param.param.trained { "average_params" } else { "average_running" });
                let old = array(&before.average[index]);
                let want = average::update(&old, &array(new), train.average_decay, self.step);
                table.check_launch(launch, "average.average", &place, &after.average[index].data, &want);
            }
            if !param.param.trained {
                continue;
            }
            let decay = if param.param.decays { train.optimizer.weight_decay() } else { 0.0 };
            let mut arrays = Arrays::from([
                ("params", array(old)),
                ("grads", gradients[trained].clone()),
                ("weight_decay", Array::from_f32(&old.shape, &vec![decay; old.data.len()])),
            ]);
            for (name, memory) in train.optimizer.memory().iter().zip(&before.memory) {
                arrays.insert(name, array(&memory[trained]));
            }
            let learning_rate = f64::from(rate * self.setup.model.layers[param.layer].rate);
            let step = optimizers::Step { step: self.step, learning_rate };
            let want = train.optimizer.update(&arrays, step);
            let launch = self.maker("params");
            table.check_launch(launch, &format!("{rule}.params"), &place, &new.data, &want["params"]);
            for (name, memory) in train.optimizer.memory().iter().zip(&after.memory) {
                let kind = format!("{rule}.{name}");
                table.check_launch(launch, &kind, &place, &memory[trained].data, &want[name]);
            }
            trained += 1;
        }
    }
}

/// The reference bounds statistics for sums relative to a channel's first value. A fused kernel sums each
/// invocation's share relative to its own first value, which may be any: the bounds grow like the sum of squared
/// differences, from that value to the farthest.
fn loosen_statistics(wanted: &mut Arrays, input: &Array) {
    let [n, channels, height, width] = input.nchw();
    let map = height * width;
    for c in 0..channels {
        let values = || (0..n).flat_map(|n| &input.data[(n * channels + c) * map..][..map]);
        let count = (n * map) as f64;
        let mean = values().sum::<f64>() / count;
        let around = |centre: f64| values().map(|value| (value - centre) * (value - centre)).sum::<f64>();
        let first = *values().next().expect("a batch has images");
        let farthest = values().map(|value| (value - mean).abs()).fold(0.0, f64::max);
        let squares = (around(mean) + count * farthest * farthest) / around(first).max(f64::MIN_POSITIVE);
        let size = values().map(|value| value.abs()).sum::<f64>() / count;
        let largest = values().map(|value| value.abs()).fold(0.0, f64::max);
        let sums = (size + 2.0 * largest) / (size + 2.0 * first.abs()).max(f64::MIN_POSITIVE);
        for array in wanted.values_mut() {
            array.bound[c] *= squares.max(sums).max(1.0);
        }
    }
}

/// `want` with the uncertainty of the device's own value added to its bounds.
fn loosened(want: &Array, got: &Array) -> Array {
    let mut loosened = want.clone();
    loosened.bound.iter_mut().zip(&got.bound).for_each(|(bound, error)| *bound += error);
    loosened
}
