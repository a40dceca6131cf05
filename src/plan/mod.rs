//! A plan is plain data: every tensor with its place in memory, and the kernel launches of one step in order. It knows
//! batch size and replicas, and no device. The GPU engine records it; printed, it is what a golden test holds.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::batch::BatchSettings;
use crate::config::TrainConfig;
use crate::layers::{Launch, Pass, PlanContext};
use crate::losses::cross_entropy;
use crate::model::Model;
use crate::optimizers::average;
use crate::shader;

mod layout;
mod memory;

pub use layout::ParamLayout;

/// What one step does, as data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Images of a step.
    pub batch_size: usize,
    /// Nets that are trained side by side.
    pub replicas: usize,
    /// Every tensor that a launch binds.
    pub tensors: Vec<TensorPlan>,
    /// Bytes of each slot of pooled memory.
    pub slots: Vec<u64>,
    /// The launches, in order.
    pub dispatches: Vec<Dispatch>,
}

/// A tensor and its place in memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TensorPlan {
    /// `conv1.output`, `conv1.weight`, `state`, ...
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Where it lives.
    pub place: Place,
}

/// Where a tensor lives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Place {
    /// In pooled memory, in the slot with this number: only between its first and its last use in a step.
    Slot(usize),
    /// In a buffer of this name that outlives the step, at a byte offset.
    Kept {
        /// Name of the buffer: `params`, `images`, ...
        buffer: String,
        /// Offset in bytes.
        offset: u64,
    },
}

/// One kernel launch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dispatch {
    /// `conv1.forward`.
    pub label: String,
    /// Shader file, without `.wgsl`.
    pub shader: String,
    /// Entry point.
    pub entry_point: String,
    /// Override constants.
    pub constants: BTreeMap<String, f64>,
    /// Tensors by binding number.
    pub bindings: Vec<Bound>,
    /// Workgroups along x, y, z; z is the replica, or 1 where a launch updates all replicas.
    pub workgroups: [u32; 3],
}

/// A tensor bound to a shader's variable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// `@binding` number.
    pub index: u32,
    /// Index into [`Plan::tensors`].
    pub tensor: usize,
    /// True if the variable is declared `read_write`.
    pub writable: bool,
    /// True if the kernel reads it.
    pub read: bool,
    /// True if the kernel writes it.
    pub written: bool,
}

/// Options of planning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanOptions {
    /// Nets side by side.
    pub replicas: usize,
    /// Let tensors that are never alive together share memory.
    pub reuse: bool,
}

/// WebGPU's limit on workgroups along one axis.
const MAX_WORKGROUPS: usize = 65_535;
/// Entries of the ring of metrics, as `shaders/cross_entropy.wgsl` has it.
pub const METRICS_RING: usize = 1024;

impl Plan {
    /// One training step: batch, forward, loss, backward, optimizer, average.
    pub fn training(model: &Model, batch: &BatchSettings, train: &TrainConfig, options: PlanOptions) -> Self {
        let mut planner = Planner::new(model, batch, options, "params", "running");
        let quads = batch.batch_size.div_ceil(4);
        planner.batch(batch, "train");
        planner.forward(Pass::Train);
        for launch in
            cross_entropy::launches(quads, model.class_count(), batch.batch_size, train.label_smoothing, true)
        {
            planner.launch("loss", &launch);
        }
        planner.backward();
        planner.keep("learning_rates", train.epochs * batch.steps_per_epoch());
        let layout = ParamLayout::new(model, options.replicas);
        let optimizer = &train.optimizer;
        planner.keep("params", layout.trained_len());
        planner.keep("grads", layout.trained_len());
        for memory in optimizer.memory() {
            planner.keep(memory, layout.trained_len());
        }
        planner.keep("weight_decay", layout.trained_len());
        planner.launch_once("optimizer", &optimizer.launch(layout.trained_len()));
        if train.average_decay > 0.0 {
            for (average, values, len) in [
                ("average_params", "params", layout.trained_len()),
                ("average_running", "running", layout.running_len()),
            ] {
                if len > 0 {
                    planner.keep(average, len);
                    planner.keep(values, len);
                    planner.alias("average.average", average);
                    planner.alias("average.values", values);
                    planner.launch_once("average", &average::launch(train.average_decay, len));
                }
            }
        }
        planner.finish(batch.batch_size)
    }

    /// One step of evaluation. `averaged` takes the moving averages in place of the weights.
    pub fn evaluation(
        model: &Model,
        batch: &BatchSettings,
        averaged: bool,
        part: &str,
        options: PlanOptions,
    ) -> Self {
        let (params, running) =
            if averaged { ("average_params", "average_running") } else { ("params", "running") };
        let mut planner = Planner::new(model, batch, options, params, running);
        planner.batch(batch, part);
        planner.forward(Pass::Eval);
        let quads = batch.batch_size.div_ceil(4);
        for launch in cross_entropy::launches(quads, model.class_count(), batch.batch_size, 0.0, false) {
            planner.launch("loss", &launch);
        }
        planner.finish(batch.batch_size)
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorPlan> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Bytes of pooled memory, and what it would be if no tensor shared its place.
    pub fn pooled_bytes(&self) -> (u64, u64) {
        let alone = self.tensors.iter().filter(|tensor| matches!(tensor.place, Place::Slot(_)));
        (self.slots.iter().sum(), alone.map(|tensor| tensor.bytes).sum())
    }
}

/// A plan in the making.
struct Planner<'a> {
    model: &'a Model,
    quads: usize,
    options: PlanOptions,
    tensors: Vec<TensorPlan>,
    by_name: BTreeMap<String, usize>,
    dispatches: Vec<Dispatch>,
}

impl<'a> Planner<'a> {
    fn new(
        model: &'a Model,
        batch: &BatchSettings,
        options: PlanOptions,
        params: &str,
        running: &str,
    ) -> Self {
        let quads = batch.batch_size.div_ceil(4);
        let mut planner = Self {
            model,
            quads,
            options,
            tensors: Vec::new(),
            by_name: BTreeMap::new(),
            dispatches: Vec::new(),
        };
        let image_floats = 4 * quads * options.replicas;
        planner.keep("state", 4);
        planner.keep("seeds", options.replicas);
        planner.keep("metrics_ring", 2 * METRICS_RING * options.replicas);
        planner.pool("input", image_floats * model.input.len());
        for name in ["indices", "targets", "loss", "correct"] {
            planner.pool(name, image_floats);
        }
        planner.pool("transforms", 6 * image_floats);
        planner.pool("loss.grad_logits", image_floats * model.class_count());
        let mut input = "input".to_owned();
        for (index, layer) in model.layers.iter().enumerate() {
            let context = planner.context(index);
            let (output, grad_input) =
                (format!("{}.output", layer.name), format!("{}.grad_input", layer.name));
            planner.alias(&format!("{}.input", layer.name), &input);
            if layer.layer.launches(Pass::Train, &context).is_empty() {
                // A change of shape alone.
                planner.alias(&output, &input);
            } else {
                planner.pool(&output, image_floats * layer.output.len());
                planner.pool(&grad_input, image_floats * layer.input.len());
                for (name, len) in layer.layer.saved(&context) {
                    planner.pool(&format!("{}.{name}", layer.name), len * options.replicas);
                }
            }
            input = output;
        }
        planner.alias("loss.logits", &input);
        // A change of shape passes the gradient of its output on as that of its input.
        let mut upstream = "loss.grad_logits".to_owned();
        for layer in model.layers.iter().rev() {
            planner.alias(&format!("{}.grad_output", layer.name), &upstream);
            let grad_input = format!("{}.grad_input", layer.name);
            if planner.by_name.contains_key(&grad_input) {
                upstream = grad_input;
            } else {
                planner.alias(&grad_input, &upstream);
            }
        }
        let layout = ParamLayout::new(model, options.replicas);
        for entry in layout.entries() {
            let buffer = if entry.param.param.trained { params } else { running };
            planner.keep_view(&entry.param.name, buffer, entry.offset, entry.len);
            if entry.param.param.trained {
                let grad =
                    format!("{}.grad_{}", model.layers[entry.param.layer].name, entry.param.param.name);
                planner.keep_view(&grad, "grads", entry.offset, entry.len);
            }
        }
        planner
    }

    fn add(&mut self, name: &str, floats: usize, place: Place) {
        if !self.by_name.contains_key(name) {
            self.by_name.insert(name.to_owned(), self.tensors.len());
            self.tensors.push(TensorPlan { name: name.to_owned(), bytes: 4 * floats as u64, place });
        }
    }

    fn pool(&mut self, name: &str, floats: usize) {
        self.add(name, floats, Place::Slot(usize::MAX));
    }

    fn keep(&mut self, name: &str, floats: usize) {
        self.keep_view(name, name, 0, floats);
    }

    fn keep_view(&mut self, name: &str, buffer: &str, offset: usize, floats: usize) {
        self.add(name, floats, Place::Kept { buffer: buffer.to_owned(), offset: 4 * offset as u64 });
    }

    fn alias(&mut self, name: &str, existing: &str) {
        let index = self.by_name[existing];
        self.by_name.insert(name.to_owned(), index);
    }

    fn context(&self, index: usize) -> PlanContext {
        let layer = &self.model.layers[index];
        PlanContext { input: layer.input, output: layer.output, quads: self.quads, layer: index as u32 }
    }

    fn batch(&mut self, batch: &BatchSettings, part: &str) {
        let image_bytes = batch.image_count * batch.image.len();
        self.keep_view("images", &format!("{part}.images"), 0, image_bytes.div_ceil(4));
        self.keep_view("labels", &format!("{part}.labels"), 0, batch.image_count);
        for launch in batch.launches() {
            self.launch("batch", &launch);
        }
    }

    fn forward(&mut self, pass: Pass) {
        for (index, layer) in self.model.layers.iter().enumerate() {
            let context = self.context(index);
            for launch in layer.layer.launches(pass, &context) {
                self.launch(&layer.name, &launch);
            }
        }
    }

    fn backward(&mut self) {
        // The gradient of an input is wanted only if something below is trained.
        let first_trained = self.model.layers.iter().position(|layer| layer.parameter_count() > 0);
        for (index, layer) in self.model.layers.iter().enumerate().rev() {
            let trained_below = first_trained.is_some_and(|first| index > first);
            for launch in layer.layer.launches(Pass::Backward, &self.context(index)) {
                if trained_below || launch.entry_point != "backward_input" {
                    self.launch(&layer.name, &launch);
                }
            }
        }
    }

    /// A launch for each replica.
    fn launch(&mut self, owner: &str, launch: &Launch) {
        self.launch_times(owner, launch, self.options.replicas);
    }

    /// A launch whose elements are those of all replicas.
    fn launch_once(&mut self, owner: &str, launch: &Launch) {
        self.launch_times(owner, launch, 1);
    }

    /// Joins a launch's variables to tensors: `owner.variable` if there is one, else the tensor called `variable`.
    fn launch_times(&mut self, owner: &str, launch: &Launch, replicas: usize) {
        let shader = shader::find(launch.shader);
        let bindings = shader.bindings(launch.entry_point).into_iter().map(|binding| {
            let own = format!("{owner}.{}", binding.variable);
            let weight = format!("{owner}.weight");
            // A convolution without bias binds its weight a second time; the shader does not read it.
            let last = if binding.variable == "bias" { &weight } else { &own };
            let tensor =
                [&own, &binding.variable, last].into_iter().find_map(|name| self.by_name.get(name)).copied();
            let tensor = tensor.unwrap_or_else(|| panic!("no tensor for {own} of {}.wgsl", launch.shader));
            let shader::Binding { index, writable, read, written, .. } = binding;
            Bound { index, tensor, writable, read, written }
        });
        let bindings = bindings.collect();
        let [size, ..] = shader.workgroup_size(launch.entry_point);
        let groups = launch.invocations.div_ceil(size as usize).max(1);
        let across = groups.min(MAX_WORKGROUPS);
        let workgroups = [across, groups.div_ceil(across), replicas].map(|count| count as u32);
        self.dispatches.push(Dispatch {
            label: format!("{owner}.{}", launch.entry_point),
            shader: launch.shader.to_owned(),
            entry_point: launch.entry_point.to_owned(),
            constants: launch.constants.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
            bindings,
            workgroups,
        });
    }

    /// Drops tensors that nothing uses and gives the others their places.
    fn finish(self, batch_size: usize) -> Plan {
        let Self { mut tensors, mut dispatches, options, .. } = self;
        let mut used = vec![false; tensors.len()];
        for bound in dispatches.iter().flat_map(|dispatch| &dispatch.bindings) {
            used[bound.tensor] = true;
        }
        let mut number = 0;
        let renumbered: Vec<usize> = used
            .iter()
            .map(|&used| {
                number += usize::from(used);
                number.wrapping_sub(1)
            })
            .collect();
        for bound in dispatches.iter_mut().flat_map(|dispatch| &mut dispatch.bindings) {
            bound.tensor = renumbered[bound.tensor];
        }
        let mut keep = used.iter();
        tensors.retain(|_| *keep.next().expect("one flag each tensor"));
        let slots = memory::assign(&mut tensors, &dispatches, options.reuse);
        Plan { batch_size, replicas: options.replicas, tensors, slots, dispatches }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pooled, alone) = self.pooled_bytes();
        writeln!(f, "batch size {}, replicas {}", self.batch_size, self.replicas)?;
        writeln!(
            f,
            "{} dispatches, {} slots, {pooled} bytes pooled of {alone}",
            self.dispatches.len(),
            self.slots.len()
        )?;
        for dispatch in &self.dispatches {
            let [x, y, z] = dispatch.workgroups;
            writeln!(f, "\n{} ({}.wgsl) {x}x{y}x{z}", dispatch.label, dispatch.shader)?;
            for bound in &dispatch.bindings {
                let tensor = &self.tensors[bound.tensor];
                let access = match (bound.read, bound.written) {
                    (true, true) => "<>",
                    (false, true) => "->",
                    _ => "<-",
                };
                let place = match &tensor.place {
                    Place::Slot(slot) => format!("slot {slot}"),
                    Place::Kept { buffer, offset } => format!("{buffer}+{offset}"),
                };
                writeln!(
                    f,
                    "  {:>2} {access} {} ({} bytes, {place})",
                    bound.index, tensor.name, tensor.bytes
                )?;
            }
            let constants: Vec<_> =
                dispatch.constants.iter().map(|(name, value)| format!("{name}={value}")).collect();
            writeln!(f, "  {}", constants.join(" "))?;
        }
        Ok(())
    }
}
