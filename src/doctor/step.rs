//! One training step on a device, every tensor that a kernel writes compared with the reference from the device's own
//! inputs of that kernel.

use std::collections::BTreeMap;

use crate::engine::{Engine, Metrics, Setup, Vector};
use crate::error::Error;
use crate::gpu::GpuEngine;
use crate::layers::Context;
use crate::losses::cross_entropy::cross_entropy;
use crate::model::NamedLayer;
use crate::optimizers::{self, average};
use crate::plan::Plan;
use crate::shader;
use crate::tensor::{Array, Arrays, Tensor, gamma};

use super::compare::Table;

/// A NaN, so that whatever reads what nobody wrote shows.
const POISON: u32 = 0x7fc0_0bad;

/// Takes one training step and compares every tensor that it wrote with the reference, which is given the device's own
/// inputs of each kernel. The engine must have been made without sharing of memory, for a `setup` with training images.
///
/// # Errors
/// Names the first element outside its bound, a write behind a buffer, or what the device refused. `name` comes first.
pub fn check_step(
    engine: &mut GpuEngine,
    setup: &Setup<'_>,
    name: &str,
    table: &mut Table,
) -> Result<(), String> {
    let step = engine.step();
    let memories = setup.train.optimizer.memory();
    let text = |error: Error| error.to_string();
    let read = |engine: &mut GpuEngine| -> Result<Vec<State>, String> {
        let mut vector = |vector, replica| engine.read(vector, replica).map_err(text);
        let mut state = |replica| -> Result<State, String> {
            Ok(State {
                weights: vector(Vector::Weights, replica)?,
                average: if setup.train.average_decay > 0.0 {
                    vector(Vector::Average, replica)?
                } else {
                    Vec::new()
                },
                memory: memories
                    .iter()
                    .map(|name| vector(Vector::Memory(name), replica))
                    .collect::<Result<_, _>>()?,
            })
        };
        (0..setup.seeds.len()).map(&mut state).collect()
    };
    let before = read(engine)?;
    engine.poison(POISON);
    let metrics = engine.train(1).map_err(text)?;
    let broken = engine.broken_guards().map_err(text)?;
    if !broken.is_empty() {
        return Err(format!("{name}: something was written behind {broken:?}"));
    }
    let after = read(engine)?;
    let plan = engine.training_plan().expect("an engine that trains").clone();
    let mut tensors = BTreeMap::new();
    for tensor in &plan.tensors {
        let words = engine.read_tensor(&tensor.name).map_err(text)?;
        tensors.insert(tensor.name.clone(), words.expect("a tensor of the plan"));
    }
    let check = StepCheck {
        setup,
        plan: &plan,
        tensors,
        step,
        valid: setup.train_batches().expect("an engine that trains").images_of(step),
        quads: plan.batch_size.div_ceil(4),
    };
    if check.tensors["state"][..3] != [step + 1, step, check.valid as u32] {
        return Err(format!("{name}: state = {:?}", check.tensors["state"]));
    }
    for replica in 0..setup.seeds.len() {
        let place = format!("{name}, replica {replica}");
        check.batch(replica, &place, table)?;
        for (index, layer) in setup.model.layers.iter().enumerate() {
            check.layer(index, layer, replica, &before[replica].weights, &place, table)?;
        }
        check.loss(replica, metrics[replica], &place, table)?;
        check.update(replica, &before[replica], &after[replica], &place, table)?;
    }
    Ok(())
}

/// What an engine holds of one replica.
struct State {
    weights: Vec<Tensor>,
    average: Vec<Tensor>,
    memory: Vec<Vec<Tensor>>,
}

struct StepCheck<'a> {
    setup: &'a Setup<'a>,
    plan: &'a Plan,
    tensors: BTreeMap<String, Vec<u32>>,
    step: u32,
    valid: usize,
    quads: usize,
}

/// Tensors of one owner by shader variable, and whether a launch writes them.
type Bindings = BTreeMap<String, (String, bool)>;

impl StepCheck<'_> {
    fn bindings(&self, owner: &str) -> Bindings {
        let mut found = Bindings::new();
        for dispatch in &self.plan.dispatches {
            if dispatch.label.split('.').next() != Some(owner) {
                continue;
            }
            let variables = shader::find(&dispatch.shader).bindings(&dispatch.entry_point);
            for (variable, bound) in variables.iter().zip(&dispatch.bindings) {
                let tensor = &self.plan.tensors[bound.tensor].name;
                let entry = found.entry(variable.variable.clone()).or_default();
                *entry = (tensor.clone(), entry.1 || bound.written);
            }
        }
        found
    }

    /// The part of a tensor [replica, ...] that belongs to a replica.
    fn part(&self, tensor: &str, replica: usize) -> &[u32] {
        let words = &self.tensors[tensor];
        let len = words.len() / self.setup.seeds.len();
        &words[replica * len..][..len]
    }

    fn floats(&self, tensor: &str, replica: usize) -> Vec<f32> {
        self.part(tensor, replica).iter().map(|&word| f32::from_bits(word)).collect()
    }

    /// Values [image, ...] of a tensor [quad, ..., 4 images]: those of the batch, and those of the lanes behind it.
    fn images(&self, tensor: &str, replica: usize) -> (Vec<f32>, Vec<f32>) {
        let values = self.floats(tensor, replica);
        let size = values.len() / (4 * self.quads);
        let at = |n: usize, element: usize| values[(n / 4 * size + element) * 4 + n % 4];
        let pick = |images: std::ops::Range<usize>| {
            images.flat_map(|n| (0..size).map(move |element| (n, element))).map(|(n, e)| at(n, e)).collect()
        };
        (pick(0..self.valid), pick(self.valid..4 * self.quads))
    }

    fn array(&self, tensor: &str, replica: usize, shape: [usize; 3]) -> Array {
        let shape = [&[self.valid], &shape[..]].concat();
        Array::from_f32(&shape, &self.images(tensor, replica).0)
    }

    fn layer(
        &self,
        index: usize,
        layer: &NamedLayer,
        replica: usize,
        weights: &[Tensor],
        place: &str,
        table: &mut Table,
    ) -> Result<(), String> {
        let bindings = self.bindings(&layer.name);
        let Some((input, _)) = bindings.get("input") else {
            return Ok(()); // no kernel
        };
        let mut arrays = Arrays::from([("input", self.array(input, replica, layer.input.into()))]);
        for (param, tensor) in self.setup.model.params().iter().zip(weights) {
            if param.layer == index {
                arrays.insert(param.param.name, Array::from_f32(&tensor.shape, &tensor.data));
            }
        }
        let context = Context {
            training: true,
            seed: self.setup.seeds[replica],
            step: self.step,
            layer: index as u32,
            first_image: 0,
        };
        let mut wanted = layer.layer.forward(&arrays, &context);
        // The backward pass starts from what the device's own forward pass saved.
        for (&variable, array) in &wanted {
            let tensor = &bindings[variable].0;
            let given = match variable {
                "output" => self.array(tensor, replica, layer.output.into()),
                _ => Array::from_f32(&array.shape, &self.floats(tensor, replica)),
            };
            arrays.insert(variable, given);
        }
        if let Some((grad_output, _)) = bindings.get("grad_output") {
            arrays.insert("grad_output", self.array(grad_output, replica, layer.output.into()));
            wanted.extend(layer.layer.backward(&arrays, &context));
        }
        for (variable, (tensor, _)) in bindings.iter().filter(|(_, (_, written))| *written) {
            let kind = format!("{}.{variable}", layer.kind.name);
            let place = format!("{place}, {tensor}");
            let Some(want) = wanted.get(variable.as_str()) else {
                // Intermediate sums: their readers are compared. NaNs would show there.
                assert!(!variable.starts_with("grad_w") && !variable.ends_with("put"), "{place}");
                continue;
            };
            if !["output", "grad_input"].contains(&variable.as_str()) {
                table.check(&kind, &place, &self.floats(tensor, replica), want)?;
                continue;
            }
            let (images, behind) = self.images(tensor, replica);
            table.check(&kind, &place, &images, want)?;
            let harmless = |value: &f32| value.is_finite() && (variable == "output" || *value == 0.0);
            if !behind.iter().all(harmless) {
                return Err(format!("{place}: the lanes behind the batch hold {behind:?}"));
            }
        }
        Ok(())
    }

    fn loss(&self, replica: usize, metrics: Metrics, place: &str, table: &mut Table) -> Result<(), String> {
        let bindings = self.bindings("loss");
        let classes = self.setup.model.class_count();
        let logits = self.array(&bindings["logits"].0, replica, [classes, 1, 1]);
        let targets: Vec<u8> = self.part("targets", replica).iter().map(|&target| target as u8).collect();
        let want = cross_entropy(&logits, &targets, self.setup.train.label_smoothing);
        for name in ["loss", "grad_logits"] {
            let (images, behind) = self.images(&bindings[name].0, replica);
            table.check(
                &format!("cross_entropy.{name}"),
                &format!("{place}, {name}"),
                &images,
                &want[name],
            )?;
            if behind.iter().any(|&value| value != 0.0) {
                return Err(format!("{place}, {name}: the lanes behind the batch hold {behind:?}"));
            }
        }
        let hit = |image: usize| {
            let row = &logits.data[image * classes..][..classes];
            let best = (1..classes).fold(0, |best, class| if row[class] > row[best] { class } else { best });
            f32::from(u8::from(best == usize::from(targets[image])))
        };
        let hits: Vec<f32> = (0..self.valid).map(hit).collect();
        let (correct, behind) = self.images("correct", replica);
        if correct != hits || behind.iter().any(|&value| value != 0.0) {
            return Err(format!("{place}, correct: {correct:?} {behind:?}, not {hits:?}"));
        }
        let losses = self.images("loss", replica).0;
        let sum: f64 = losses.iter().copied().map(f64::from).sum();
        let total = Metrics {
            loss_sum: metrics.loss_sum,
            correct: hits.iter().sum::<f32>() as usize,
            images: self.valid,
        };
        if metrics != total || (metrics.loss_sum - sum).abs() > gamma(self.valid) * sum.abs() {
            return Err(format!("{place}: metrics {metrics:?}, not {total:?} with sum {sum}"));
        }
        Ok(())
    }

    fn batch(&self, replica: usize, place: &str, table: &mut Table) -> Result<(), String> {
        let batches = self.setup.train_batches().expect("an engine that trains");
        let training = self.setup.training.expect("an engine that trains");
        let [indices, targets] = ["indices", "targets"].map(|name| self.part(name, replica));
        let size = self.setup.model.input.len();
        let (input, behind) = self.images("input", replica);
        if !behind.iter().all(|value| value.is_finite()) {
            return Err(format!("{place}, input: the lanes behind the batch hold {behind:?}"));
        }
        for n in 0..4 * self.quads {
            let mut sample = batches.sample(self.setup.seeds[replica], self.step, n);
            let target = u32::from(training.labels[sample.index as usize]);
            if (indices[n], targets[n]) != (sample.index, target) {
                let got = (indices[n], targets[n]);
                return Err(format!("{place}, image {n}: (index, target) {got:?}, not {sample:?}, {target}"));
            }
            let place = format!("{place}, image {n}");
            if let Some(transform) = &mut sample.transform {
                let got = &self.floats("transforms", replica)[6 * n..][..6];
                table.check("batch.transforms", &place, got, &bounded_transform(transform, size))?;
                // What is sampled depends on the device's own rounding of the transform.
                transform.copy_from_slice(got);
            }
            if n < self.valid {
                let pixels = &training.pixels[sample.index as usize * size..][..size];
                let want = batches.reference(pixels, sample);
                table.check("batch.input", &place, &input[n * size..][..size], &want)?;
            }
        }
        Ok(())
    }

    fn update(
        &self,
        replica: usize,
        before: &State,
        after: &State,
        place: &str,
        table: &mut Table,
    ) -> Result<(), String> {
        let train = self.setup.train;
        let step = optimizers::Step {
            step: self.step,
            learning_rate: f64::from(self.setup.learning_rates()[self.step as usize]),
        };
        let array = |tensor: &Tensor| Array::from_f32(&tensor.shape, &tensor.data);
        let rule = train.optimizer.launch(1).shader;
        let mut trained = 0;
        for (index, param) in self.setup.model.params().iter().enumerate() {
            let place = format!("{place}, {}", param.name);
            let (old, new) = (&before.weights[index], &after.weights[index]);
            if train.average_decay > 0.0 {
                let old = array(&before.average[index]);
                let want = average::update(&old, &array(new), train.average_decay, self.step);
                table.check("average.average", &place, &after.average[index].data, &want)?;
            }
            if !param.param.trained {
                continue;
            }
            let layer = &self.setup.model.layers[param.layer].name;
            let grad = format!("{layer}.grad_{}", param.param.name);
            let decay = if param.param.decays { train.optimizer.weight_decay() } else { 0.0 };
            let mut arrays = Arrays::from([
                ("params", array(old)),
                ("grads", Array::from_f32(&old.shape, &self.floats(&grad, replica))),
                ("weight_decay", Array::from_f32(&old.shape, &vec![decay; old.data.len()])),
            ]);
            for (name, memory) in train.optimizer.memory().iter().zip(&before.memory) {
                arrays.insert(name, array(&memory[trained]));
            }
            let want = train.optimizer.update(&arrays, step);
            table.check(&format!("{rule}.params"), &place, &new.data, &want["params"])?;
            for (name, memory) in train.optimizer.memory().iter().zip(&after.memory) {
                table.check(&format!("{rule}.{name}"), &place, &memory[trained].data, &want[name])?;
            }
            trained += 1;
        }
        Ok(())
    }
}

/// A transform with the bound on what two devices can make of the same random words: some twenty roundings of sines of
/// angles below 45° and of numbers up to the image's size.
fn bounded_transform(transform: &[f32; 6], size: usize) -> Array {
    let mut array = Array::from_f32(&[6], transform);
    for (index, bound) in array.bound.iter_mut().enumerate() {
        *bound = gamma(24) * if index % 3 == 2 { 4.0 * size as f64 } else { 2.0 };
    }
    array
}
