//! A plan is plain data: every tensor with its place in memory, and the kernel launches of one step in order. It
//! depends on batch size and replicas, but not on a device. The GPU engine records it; golden tests compare its
//! printed form.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::batch::{BatchSettings, CHANGE_WORDS};
use crate::layers::{Grain, Launch, Param, Pass, PlanContext};
use crate::losses::cross_entropy;
use crate::model::Model;
use crate::optimizers::{average, clip};
use crate::replica::Replica;
use crate::shader;
use crate::state::{self, StepWords};

mod contents;
mod display;
mod draft;
mod fuse;
mod groups;
mod layout;
mod memory;
mod values;

pub use contents::{AVERAGES, Contents, WEIGHTS, image_buffers};
use draft::{Draft, Wires};
use fuse::Fusion;
use groups::FusionGroup;
pub use layout::{Entry, ParamLayout};
use values::{Values, backward_launches};

/// One step, as data.
///
/// # Examples
/// ```
/// # let text = "name = \"tiny\"\ninput = [1, 28, 28]\nlayers = [{ type = \"conv2d\", out_channels = 10, kernel = 5, stride = 4 }, { type = \"global_avg_pool2d\" }]";
/// use shadernet::model::Model;
/// use shadernet::plan::{Plan, PlanOptions};
/// use shadernet::replica::Replica;
///
/// let model = Model::parse(text, "tiny.toml")?;
/// # let batch = shadernet::batch::BatchSettings {
/// #     batch_size: 64, image_count: 60_000, image: model.input, epochs: 19, shuffle: true,
/// #     changes: shadernet::batch::Changes::NONE,
/// #     normalization: shadernet::normalization::Normalization::uniform(1, 0.1307, 0.3081),
/// #     class_weights: Vec::new(),
/// # };
/// let nets = [Replica::new(&model, 0)];
/// let plan = Plan::training(&model, &nets, &batch, PlanOptions::default());
/// let conv = plan.launches.iter().find(|launch| launch.label == "conv1.forward").unwrap();
/// assert_eq!((conv.shader.as_str(), conv.entry_point.as_str()), ("conv2d", "forward"));
/// let (shared, alone) = plan.pooled_bytes();
/// assert!(shared < alone);
/// # Ok::<(), shadernet::error::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Images per step.
    pub batch_size: usize,
    /// Nets trained side by side.
    pub replicas: usize,
    /// Every tensor that a launch binds.
    pub tensors: Vec<TensorPlan>,
    /// Bytes of each slot of pooled memory.
    pub slots: Vec<u64>,
    /// Every buffer that outlives a step, and what it holds before the first one.
    pub buffers: BTreeMap<String, Contents>,
    /// The launches, in order.
    pub launches: Vec<PlannedLaunch>,
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
    /// In a buffer of this name that outlives the step ([`Plan::buffers`]), at a byte offset.
    Kept {
        /// Name of the buffer: `params`, `images`, ...
        buffer: String,
        /// Offset in bytes.
        offset: u64,
    },
}

/// One kernel launch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedLaunch {
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
    /// Workgroups along x, y, z; z is the replica, or 1 if a launch updates all replicas.
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

/// Planning options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanOptions {
    /// Let tensors that are never alive together share memory.
    pub reuse: bool,
    /// Compute adjacent layers in one launch where there is a kernel for it.
    pub fuse: bool,
    /// How finely to split the work.
    pub grain: Grain,
}

impl Default for PlanOptions {
    /// Each layer alone, shared memory, for a device with few lanes.
    fn default() -> Self {
        Self { reuse: true, fuse: false, grain: Grain::Coarse }
    }
}

/// Entries of the ring of metrics.
pub const METRICS_RING: usize = 1024;

impl Plan {
    /// One training step of `nets`, side by side: batch, forward, loss, backward, optimizer, average. The launches know of
    /// dropout and augmentation only whether `model` and `batch` have any: the strengths are settings of each net, which the
    /// kernels read from `state`.
    ///
    /// # Panics
    /// Where the batch normalises another number of channels than the model takes.
    pub fn training(model: &Model, nets: &[Replica], batch: &BatchSettings, options: PlanOptions) -> Self {
        let train = &model.train;
        let mut planner = Planner::new(model, nets, batch, options, WEIGHTS);
        if train.average_decay > 0.0 {
            AVERAGES.iter().for_each(|name| planner.draft.contents(name, Contents::Given));
        }
        planner.batch(batch, "train");
        planner.forward(Pass::Train, train.average_decay);
        planner.loss(batch, true);
        planner.backward();
        planner.update(nets, batch);
        planner.draft.finish(batch.batch_size)
    }

    /// One step of evaluation of `nets`. `averaged` takes the moving averages in place of the weights.
    ///
    /// # Panics
    /// As [`Plan::training`].
    pub fn evaluation(
        model: &Model,
        nets: &[Replica],
        batch: &BatchSettings,
        averaged: bool,
        part: &str,
        options: PlanOptions,
    ) -> Self {
        let weights = if averaged { AVERAGES } else { WEIGHTS };
        let mut planner = Planner::new(model, nets, batch, options, weights);
        planner.batch(batch, part);
        planner.forward(Pass::Eval, 0.0);
        planner.loss(batch, false);
        planner.draft.finish(batch.batch_size)
    }

    /// Some launches alone, on tensors named after the shaders' variables, each with the given number of 32-bit
    /// words. No two share memory. `owner` is for the labels.
    ///
    /// # Panics
    /// If a launch uses a variable for which there is no tensor.
    pub fn of_launches(
        batch_size: usize,
        owner: &str,
        launches: &[Launch],
        tensors: &[(&str, usize)],
    ) -> Self {
        let mut draft = Draft::new(PlanOptions { reuse: false, ..PlanOptions::default() }, 1, [0; 3]);
        let mut wires = Wires::default();
        for (name, words) in tensors {
            wires.set(name, draft.pool(name, *words));
        }
        launches.iter().for_each(|launch| draft.launch(owner, launch, &wires.with_bias()));
        draft.finish(batch_size)
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorPlan> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The tensor that holds the logits, as named in the loss kernel.
    ///
    /// # Panics
    /// If the plan launches no loss, as in [`Plan::of_launches`].
    pub fn logits(&self) -> &TensorPlan {
        let bound = self.launches.iter().rev().find_map(|launch| {
            let bindings = shader::find(&launch.shader).bindings(&launch.entry_point);
            let at = bindings.iter().position(|binding| binding.variable == "logits")?;
            Some(launch.bindings[at].tensor)
        });
        &self.tensors[bound.expect("a plan has a loss")]
    }

    /// Bytes of pooled memory, and what it would be without sharing.
    pub fn pooled_bytes(&self) -> (u64, u64) {
        let alone = self.tensors.iter().filter(|tensor| matches!(tensor.place, Place::Slot(_)));
        (self.slots.iter().sum(), alone.map(|tensor| tensor.bytes).sum())
    }
}

/// The plan of a model under construction.
struct Planner<'a> {
    model: &'a Model,
    quads: usize,
    grain: Grain,
    replicas: usize,
    fusion: Option<Fusion<'a>>,
    draft: Draft,
    values: Values,
}

/// What a layer needs to know to describe its launches.
fn context(model: &Model, index: usize, quads: usize, grain: Grain) -> PlanContext {
    let layer = &model.layers[index];
    let (layer_index, frozen) = (index as u32, layer.frozen);
    PlanContext {
        inputs: layer.inputs.clone(),
        output: layer.output,
        quads,
        layer: layer_index,
        grain,
        frozen,
    }
}

impl<'a> Planner<'a> {
    fn new(
        model: &'a Model,
        nets: &[Replica],
        batch: &BatchSettings,
        options: PlanOptions,
        [params, running]: [&str; 2],
    ) -> Self {
        let (quads, replicas, grain) = (batch.batch_size.div_ceil(4), nets.len(), options.grain);
        let fusion = options.fuse.then(|| Fusion::new(model, batch.batch_size, replicas, grain));
        let fusion = fusion.filter(Fusion::fuses);
        let channels = model.input.channels;
        assert_eq!(batch.normalization.channels(), channels, "channels that are normalised");
        let weights = &batch.class_weights;
        let mut draft = Draft::new(options, replicas, [channels, weights.len(), model.layers.len()]);
        let images = 4 * quads * replicas;
        let settings: Vec<_> = nets.iter().map(|net| net.settings(model, batch.epochs)).collect();
        draft.keep_words(
            "state",
            state::words(StepWords::default(), &batch.normalization, weights, &settings),
        );
        for (name, word) in state::step_words() {
            let view = draft.keep_view(&format!("state.{name}"), "state", word, 1);
            draft.pin(view);
        }
        let ring_width = if fusion.as_ref().is_some_and(Fusion::has_head) { quads } else { 1 };
        draft.keep("metrics_ring", 2 * METRICS_RING * replicas * ring_width);
        let image = draft.pool("input", images * model.input.len());
        for name in ["indices", "targets", "loss", "correct"] {
            draft.pool(name, images);
        }
        draft.pool("changes", CHANGE_WORDS * images);
        let grad_logits = draft.pool("loss.grad_logits", images * model.class_count());
        let context = |index| context(model, index, quads, grain);
        let ends = [image, grad_logits];
        let mut values = Values::new(model, &mut draft, ends, images, replicas, context);
        let layout = ParamLayout::new(model, replicas);
        [params, running].iter().for_each(|name| draft.contents(name, Contents::Given));
        draft.keep_view("params", params, 0, layout.trained_len());
        // A fused convolution binds it even if nothing is normalised.
        draft.keep_view("running", running, 0, layout.running_len().max(1));
        if let Some(fusion) = &fusion {
            fusion.tensors(&mut draft);
        }
        let parts = fusion.as_ref().map_or(1, Fusion::parts);
        for (index, layer) in model.layers.iter().enumerate() {
            let first_row = layout.first_grad_row(index, parts);
            for Param { name, trained, .. } in &layer.params {
                let entry = layout.entry(index, name).expect("a parameter of the layer");
                let buffer = if entry.param.param.trained { params } else { running };
                let view = draft.keep_view(&entry.param.name, buffer, entry.offset, entry.len);
                values.wire(index, name, view);
                if *trained && layer.frozen {
                    // Where a kernel that is needed for its input's gradient writes it; nobody reads it.
                    let grad = format!("grad_{name}");
                    let unused = draft.pool(&format!("{}.unused_{grad}", layer.name), entry.len);
                    values.wire(index, &grad, unused);
                } else if *trained {
                    let grad = format!("grad_{name}");
                    let start = first_row * layout.trained_len() + entry.offset;
                    let view = draft.keep_view(&format!("{}.{grad}", layer.name), "grads", start, entry.len);
                    values.wire(index, &grad, view);
                }
            }
        }
        Self { model, quads, grain, replicas, fusion, draft, values }
    }

    /// Gradient rows that a launch writes.
    fn parts(&self) -> usize {
        self.fusion.as_ref().map_or(1, Fusion::parts)
    }

    fn launches(&self, pass: Pass, index: usize) -> Vec<Launch> {
        let context = context(self.model, index, self.quads, self.grain);
        self.model.layers[index].layer.launches(pass, &context)
    }

    fn batch(&mut self, batch: &BatchSettings, part: &str) {
        let image_bytes = batch.image_count * batch.image.len();
        for (name, words) in [("images", image_bytes.div_ceil(4)), ("labels", batch.image_count)] {
            let buffer = format!("{part}.{name}");
            self.draft.keep_view(name, &buffer, 0, words);
            self.draft.contents(&buffer, Contents::Given);
        }
        match &self.fusion {
            Some(fusion) => self.draft.launch("batch", &fusion.prepare(batch), &Wires::default()),
            None => batch
                .launches()
                .iter()
                .for_each(|launch| self.draft.launch("batch", launch, &Wires::default())),
        }
    }

    /// The model in blocks: one per layer if nothing is fused.
    fn blocks(&self) -> Vec<FusionGroup> {
        match &self.fusion {
            Some(fusion) => fusion.blocks.clone(),
            None => (0..self.model.layers.len()).map(FusionGroup::Layer).collect(),
        }
    }

    fn forward(&mut self, pass: Pass, average_decay: f32) {
        for block in self.blocks() {
            match (block, &self.fusion) {
                (FusionGroup::Layer(index), _) => {
                    let pass = if self.model.layers[index].frozen { Pass::Eval } else { pass };
                    for launch in self.launches(pass, index) {
                        let wires = self.values.wires(index, &launch);
                        self.draft.launch(&self.model.layers[index].name, &launch, &wires);
                    }
                }
                (FusionGroup::Conv(fused), Some(fusion)) => {
                    let training = pass == Pass::Train;
                    fusion.forward(&fused, average_decay, training, &self.values, &mut self.draft);
                }
                // Handled with the loss.
                (FusionGroup::Head(_), _) => {}
                (FusionGroup::Conv(_), None) => unreachable!("without fusion every block is a layer"),
            }
        }
    }

    /// Loss, metrics and, in training, the gradient of the logits, or all of it in the fused head.
    fn loss(&mut self, batch: &BatchSettings, training: bool) {
        let (classes, weighted) = (self.model.class_count(), training && !batch.class_weights.is_empty());
        let mut launches =
            cross_entropy::launches(self.quads, classes, batch.batch_size, training, weighted).into_iter();
        if weighted && let Some(launch) = launches.next() {
            self.draft.launch("loss", &launch, &Wires::default());
        }
        if let (Some(FusionGroup::Head(head)), Some(fusion)) = (self.blocks().last(), &self.fusion) {
            fusion.head(head, training, weighted, &self.values, &mut self.draft);
            return;
        }
        let wires = Wires::new([("logits", self.values.logits), ("grad_logits", self.values.grad_logits)]);
        for launch in launches {
            self.draft.launch("loss", &launch, &wires);
        }
    }

    fn backward(&mut self) {
        let model = self.model;
        for block in self.blocks().into_iter().rev() {
            let last = match &block {
                FusionGroup::Layer(index) => *index,
                FusionGroup::Conv(fused) => fused.last(),
                // Handled with the loss.
                FusionGroup::Head(_) => continue,
            };
            if !model.layers[last].needs_grad {
                continue;
            }
            self.values.sum_gradients(model, last, self.quads, &mut self.draft);
            match (block, &self.fusion) {
                (FusionGroup::Conv(fused), Some(fusion)) => {
                    let to_input = model.needs_grad(model.layers[fused.conv].sources[0]);
                    fusion.backward(&fused, to_input, &self.values, &mut self.draft);
                }
                _ => {
                    for launch in backward_launches(model, last, self.launches(Pass::Backward, last)) {
                        let wires = self.values.wires(last, &launch);
                        self.draft.launch(&model.layers[last].name, &launch, &wires);
                    }
                }
            }
        }
    }

    /// Optimizer and moving averages.
    fn update(&mut self, nets: &[Replica], batch: &BatchSettings) {
        let train = &self.model.train;
        let layout = ParamLayout::new(self.model, self.replicas);
        let (trained, running) = (layout.trained_len(), layout.running_len());
        let rows = layout.grad_rows(self.parts());
        let draft = &mut self.draft;
        let rates: Vec<u32> =
            nets.iter().flat_map(|net| batch.learning_rates(net)).map(f32::to_bits).collect();
        let steps = rates.len() / nets.len();
        draft.keep_words("learning_rates", rates);
        draft.keep("grads", rows * trained);
        for memory in train.optimizer.memory() {
            draft.keep(memory, trained);
        }
        draft.keep_words("owners", layout.owners());
        let average_params = draft.keep("average_params", trained);
        // Fused, the optimizer averages the parameters, and the kernels that update the running statistics average them.
        let (fused_params, fused_running) = match &self.fusion {
            Some(fusion) => (true, fusion.averages_running()),
            None => (false, false),
        };
        let decay = if fused_params { train.average_decay } else { 0.0 };
        let has_rates = self.model.layers.iter().any(|layer| layer.rate != 1.0);
        let clips = nets.iter().any(|net| net.clip_norm > 0.0);
        if clips {
            let places = layout.places();
            draft.keep_words("places", places.iter().flatten().copied().collect());
            draft.pool("squares_sums", nets.len() * clip::groups(places.len()));
            for launch in clip::launches(trained, rows, places.len()) {
                draft.launch("clip", &launch, &Wires::default());
            }
        }
        let wires = Wires::new([("average", average_params)]);
        draft.launch_once(
            "optimizer",
            &train.optimizer.launch(trained, rows, steps, decay, clips, has_rates),
            &wires,
        );
        let alone = [
            ("average_params", "params", trained, fused_params),
            ("average_running", "running", running, fused_running),
        ];
        for (average, values, len, fused) in alone {
            if train.average_decay > 0.0 && len > 0 && !fused {
                let wires = [("average", draft.keep(average, len)), ("values", draft.keep(values, len))];
                draft.launch_once("average", &average::launch(train.average_decay, len), &Wires::new(wires));
            }
        }
    }
}
