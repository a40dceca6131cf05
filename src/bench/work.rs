//! The amount of work in a training step: operations and bytes, from the model and its plan.
//!
//! Operations are the multiplications and additions of convolutions and linear layers, which are 1x1 convolutions.
//! The forward pass takes two per output value and weight that it uses; the gradient of the input takes as many, the
//! gradient of the weights as many again. The first trained layer computes no gradient of its input. Everything else
//! is not counted: it is little, and devices overlap it.

use std::collections::BTreeMap;

use crate::batch::BatchSettings;
use crate::cpu::Activity;
use crate::engine::Setup;
use crate::model::{Model, NamedLayer};
use crate::plan::{METRICS_RING, ParamLayout, Plan, PlannedLaunch, TensorPlan};

/// The work of a launch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Work {
    /// Multiplications and additions.
    pub(super) flops: f64,
    /// Minimum bytes of memory that it reads and writes.
    pub(super) bytes: f64,
}

/// True if a layer has to compute the gradient of its input: something below is trained.
fn goes_on(model: &Model, index: usize) -> bool {
    model.layers[index].sources.iter().any(|&source| model.needs_grad(source))
}

/// Operations of a training step of one net on `images` images.
pub(super) fn step_flops(model: &Model, images: usize) -> f64 {
    let of_layer = |(index, layer): (usize, &NamedLayer)| {
        let passes = if goes_on(model, index) { 3.0 } else { 2.0 };
        passes * layer.forward_flops()
    };
    images as f64 * model.layers.iter().enumerate().map(of_layer).sum::<f64>()
}

/// The work of every launch of a training plan, in order.
pub(super) fn of_launches(model: &Model, plan: &Plan, batches: &BatchSettings) -> Vec<Work> {
    let of_launch = |launch| {
        let owner = owner(model, launch);
        let images = (plan.batch_size * plan.replicas) as f64;
        Work {
            flops: owner.map_or(0.0, |index| images * flops(model, index, launch)),
            bytes: bytes(model, plan, batches, launch, owner),
        }
    };
    plan.launches.iter().map(of_launch).collect()
}

/// The work of an activity of the CPU engine in a step of all nets. `layer_of` gives an operation's layer.
pub(super) fn of_activity(
    setup: &Setup<'_>,
    batches: &BatchSettings,
    activity: Activity,
    layer_of: impl Fn(usize) -> usize,
) -> Work {
    let (model, nets) = (setup.model, setup.replicas.len() as f64);
    let images = batches.batch_size as f64 * nets;
    let parameters = model.parameter_count() as f64 * nets;
    let layer = |op| &model.layers[layer_of(op)];
    let inputs = |op| layer(op).inputs.iter().map(|shape| shape.len() as f64).sum::<f64>();
    let values =
        |op| images * (inputs(op) + layer(op).output.len() as f64) + nets * layer(op).trained_len() as f64;
    let classes = model.class_count() as f64;
    let (passes_of, values) = match activity {
        // Bytes become values.
        Activity::Gather => (None, images * model.input.len() as f64 * 1.25),
        Activity::Loss => (None, images * 2.0 * classes),
        Activity::Optimizer => {
            let (memory, parts) = (model.train.optimizer.memory().len(), batches.batch_size.div_ceil(16));
            let averages = if model.train.average_decay > 0.0 { 2 } else { 0 };
            (None, parameters * (parts + 2 * (1 + memory) + averages) as f64)
        }
        Activity::Statistics(op) => (None, images * inputs(op)),
        Activity::Forward(op) | Activity::BackwardWeight(op) | Activity::BackwardInput(op) => {
            (Some(op), values(op))
        }
    };
    Work { flops: passes_of.map_or(0.0, |op| images * layer(op).forward_flops()), bytes: 4.0 * values }
}

/// The layer that a launch computes: by its label, or the linear layer for a head, which is planned with the loss.
fn owner(model: &Model, launch: &PlannedLaunch) -> Option<usize> {
    if launch.shader == "head" {
        return model.layers.iter().rposition(|layer| layer.forward_flops() > 0.0);
    }
    let (name, _) = launch.label.rsplit_once('.')?;
    model.layers.iter().position(|layer| layer.name == name)
}

/// Operations of a launch for one image.
fn flops(model: &Model, index: usize, launch: &PlannedLaunch) -> f64 {
    let layer = &model.layers[index];
    let back = if goes_on(model, index) { 2.0 } else { 1.0 };
    let passes = match launch.entry_point.as_str() {
        // Forward and all the way back.
        "forward" if launch.shader == "head" => 1.0 + back,
        "forward" | "backward_input" | "backward_weight" | "weight_parts" => 1.0,
        "backward" => back,
        _ => 0.0,
    };
    passes * layer.forward_flops()
}

/// Every tensor that a launch binds counts once if it is read and once if it is written, however often the kernel
/// returns to a value: caches serve that.
fn bytes(
    model: &Model,
    plan: &Plan,
    batches: &BatchSettings,
    launch: &PlannedLaunch,
    owner: Option<usize>,
) -> f64 {
    let mut uses: BTreeMap<usize, [bool; 2]> = BTreeMap::new();
    for bound in &launch.bindings {
        let [read, written] = uses.entry(bound.tensor).or_default();
        *read |= bound.read;
        *written |= bound.written;
    }
    let bytes = |(tensor, [read, written]): (usize, [bool; 2])| {
        let times = f64::from(u8::from(read) + u8::from(written));
        times * touched(model, plan, batches, &plan.tensors[tensor], owner)
    };
    uses.into_iter().map(bytes).sum()
}

/// Bytes of a tensor that a launch touches. Some are bound whole but used in part: of the dataset, a batch; of
/// buffers with the parameters of all layers, the launch's own; of those with an entry per step, one entry.
fn touched(
    model: &Model,
    plan: &Plan,
    batches: &BatchSettings,
    tensor: &TensorPlan,
    owner: Option<usize>,
) -> f64 {
    let part = match tensor.name.as_str() {
        "images" | "labels" => (plan.batch_size * plan.replicas) as f64 / batches.image_count as f64,
        "packed" | "grads" => owner.map_or(1.0, |index| {
            // In the gradients, each layer that shares parameters has its own rows.
            let rows = if tensor.name == "grads" { ParamLayout::new(model, 1).grad_rows(1) } else { 1 };
            model.layers[index].trained_len() as f64 / (rows * model.parameter_count()).max(1) as f64
        }),
        // Bound, but read only if images are changed.
        "changes" if !batches.changes.any => 0.0,
        "metrics_ring" => 1.0 / METRICS_RING as f64,
        "learning_rates" => 4.0 * plan.replicas as f64 / tensor.bytes as f64,
        _ => 1.0,
    };
    part * tensor.bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalization::Normalization;
    use crate::plan::PlanOptions;
    use crate::replica::Replica;

    const MODEL: &str = r#"
        name = "counted"
        input = [2, 10, 9]
        layers = [
          { type = "conv2d", out_channels = 4, kernel = 3 },
          { type = "relu" },
          { type = "batch_norm2d" },
          { type = "conv2d", out_channels = 8, kernel = 3, groups = 2, bias = false },
          { type = "conv2d", out_channels = 5, kernel = [3, 2], padding = [1, 1, 1, 0] },
          { type = "flatten" },
          { type = "linear", out_features = 3 },
        ]
        [train]
        optimizer = { type = "sgd", momentum = 0.9 }
        "#;
    const IMAGES: usize = 8;

    fn planned(fuse: bool, replicas: u32) -> (Model, Plan, Vec<Work>) {
        let model = Model::parse(MODEL, "counted").unwrap();
        let batches = BatchSettings {
            batch_size: IMAGES,
            image_count: 80,
            image: model.input,
            epochs: 1,
            shuffle: true,
            changes: Default::default(),
            normalization: Normalization::uniform(2, 0.0, 1.0),
            class_weights: Vec::new(),
        };
        let nets = Replica::of_seeds(&model, 0..replicas);
        let options = PlanOptions { fuse, ..PlanOptions::default() };
        let plan = Plan::training(&model, &nets, &batches, options);
        let work = of_launches(&model, &plan, &batches);
        (model, plan, work)
    }

    #[test]
    fn operations_are_those_counted_by_hand() {
        let (model, ..) = planned(false, 1);
        let first = 2 * (4 * 8 * 7) * (2 * 9);
        let second = 2 * (8 * 6 * 5) * (2 * 9);
        let third = 2 * (5 * 6 * 5) * (8 * 6);
        let linear = 2 * 3 * (5 * 6 * 5);
        let step = 2 * first + 3 * (second + third + linear);
        assert_eq!(step_flops(&model, IMAGES), (IMAGES * step) as f64);
    }

    #[test]
    fn the_launches_have_all_operations_of_the_step() {
        for (fuse, replicas) in [(false, 1), (true, 1), (true, 3)] {
            let (model, plan, work) = planned(fuse, replicas);
            let sum: f64 = work.iter().map(|work| work.flops).sum();
            assert_eq!(sum, f64::from(replicas) * step_flops(&model, IMAGES), "{plan}");
        }
    }

    #[test]
    fn bytes_are_what_a_launch_needs() {
        let (_, plan, work) = planned(false, 1);
        let bytes = |label: &str| {
            let index = plan.launches.iter().position(|launch| launch.label == label);
            work[index.unwrap()].bytes as usize
        };
        // Reads and writes a value for each of conv1's outputs.
        assert_eq!(bytes("relu1.forward"), 2 * 4 * IMAGES * (4 * 8 * 7));
        // Reads and writes parameters and velocities, reads gradients and owners, state and the step's learning rate.
        let vector = plan.tensor("params").unwrap().bytes as usize;
        let state = plan.tensor("state").unwrap().bytes as usize;
        assert_eq!(bytes("optimizer.update"), 6 * vector + state + 4, "{plan}");
        // Reads the bytes of a batch, an index and a label per image; writes floats.
        let gathered = bytes("batch.gather");
        let needed = IMAGES * (180 + 4 * 180 + 8);
        assert!((needed..=needed + state + 64).contains(&gathered), "{gathered} for {needed}");
    }
}
