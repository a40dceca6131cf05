//! What a device made in a step, by the names that the reference uses, and which launch made it.

use std::ops::Range;

use super::StepCheck;
use crate::layers::Op;
use crate::plan::{Entry, PlannedLaunch};
use crate::tensor::{Array, Sum};

impl StepCheck<'_> {
    /// The launch that makes a tensor; the last, if several write to it.
    pub(super) fn maker(&self, tensor: &str) -> &str {
        let writes = |launch: &&PlannedLaunch| {
            launch.bindings.iter().any(|b| b.written && self.plan.tensors[b.tensor].name == tensor)
        };
        let launch = self.plan.launches.iter().rev().find(writes);
        &launch.unwrap_or_else(|| panic!("no launch makes {tensor}")).label
    }

    /// The launch that a constant tells where to write: fused kernels write several small tensors into shared buffers.
    pub(super) fn maker_by_constant(&self, entry_points: &[&str], constants: &[(&str, usize)]) -> &str {
        let fits = |launch: &&PlannedLaunch| {
            let has = |&(name, value): &(&str, usize)| launch.constants.get(name) == Some(&(value as f64));
            entry_points.contains(&launch.entry_point.as_str()) && constants.iter().all(has)
        };
        let launch = self.plan.launches.iter().rev().find(fits);
        &launch.unwrap_or_else(|| panic!("no launch has {constants:?}")).label
    }

    /// Tensors that a layer makes besides its output and the gradient of its input: statistics, and the gradients of
    /// parameters. Returns the launch that makes it, and the values with their bounds; `None` if the plan makes no
    /// such thing.
    pub(super) fn small(
        &self,
        replica: usize,
        index: usize,
        variable: &str,
        shape: &[usize],
    ) -> Option<(&str, Array)> {
        let layer = &self.setup.model.layers[index];
        let tensor = format!("{}.{variable}", layer.name);
        if let Some(name) = variable.strip_prefix("grad_") {
            if !self.training || layer.frozen {
                return None;
            }
            let entry = self.entry(index, name);
            let first = self.layout.first_grad_row(index, self.parts());
            let array = self.gradient(replica, entry, first..first + self.parts(), shape);
            let start = first * self.layout.trained_len() + entry.offset;
            if self.tensors.contains_key(&tensor) {
                return Some((self.maker(&tensor), array));
            }
            let backward = ["backward", "backward_weight", "forward"];
            let launch =
                match (layer.op, name) {
                    (Op::BatchNorm2d { .. }, "weight") => self
                        .maker_by_constant(&backward[..1], &[("IN_NORMALISE", 1), ("GRAD_IN_SCALE", start)]),
                    (Op::BatchNorm2d { .. }, _) => self
                        .maker_by_constant(&backward[..1], &[("IN_NORMALISE", 1), ("GRAD_IN_SHIFT", start)]),
                    (_, "weight") => self.maker_by_constant(&backward, &[("GRAD_WEIGHT", start)]),
                    _ => self.maker_by_constant(&backward, &[("HAS_BIAS", 1), ("GRAD_BIAS", start)]),
                };
            return Some((launch, array));
        }
        if self.tensors.contains_key(&tensor) {
            return Some((self.maker(&tensor), Array::from_f32(shape, &self.floats(&tensor, replica))));
        }
        let statistics = format!("{}.statistics", layer.name);
        self.tensors.get(&statistics)?;
        let entry = self.entry(index, "running_mean");
        let launch =
            self.maker_by_constant(&["forward"], &[("IN_NORMALISE", 1), ("IN_RUNNING_MEAN", entry.offset)]);
        let channels = layer.output.channels;
        let pairs = &self.floats(&statistics, replica);
        let values: Vec<f32> = match variable {
            "mean" => (0..channels).map(|c| pairs[2 * c]).collect(),
            "inv_std" => (0..channels).map(|c| pairs[2 * c + 1]).collect(),
            _ => {
                let entry = self.entry(index, variable);
                let words = &self.tensors["running"][entry.offset + replica * channels..][..channels];
                words.iter().map(|&word| f32::from_bits(word)).collect()
            }
        };
        Some((launch, Array::from_f32(shape, &values)))
    }

    /// The sum of some rows of a replica's gradients of a parameter.
    pub(super) fn gradient(
        &self,
        replica: usize,
        entry: &Entry,
        rows: Range<usize>,
        shape: &[usize],
    ) -> Array {
        let len = entry.len / self.setup.replicas.len();
        let start = entry.offset + replica * len;
        let words = &self.tensors["grads"];
        let mut array = Array::zeros(shape);
        for element in 0..len {
            let mut sum = Sum::default();
            for row in rows.clone() {
                sum.add(f32::from_bits(words[row * self.layout.trained_len() + start + element]).into());
            }
            // A device that adds up the rows rounds; a single row is exact.
            array.data[element] = sum.value;
            array.bound[element] = if rows.len() > 1 { sum.bound() } else { 0.0 };
        }
        array
    }

    /// Where a parameter that a layer uses is.
    fn entry(&self, layer: usize, name: &str) -> &Entry {
        self.layout.entry(layer, name).expect("a parameter of the layer")
    }

    /// Rows of `grads` that a layer's launches write; the number is the same for each use of a shared parameter.
    pub(super) fn parts(&self) -> usize {
        let rows = self.tensors["grads"].len() / self.layout.trained_len();
        rows / self.layout.grad_rows(1)
    }

    /// The part of a tensor [replica, ...] that belongs to a replica.
    pub(super) fn part(&self, tensor: &str, replica: usize) -> &[u32] {
        let words = &self.tensors[tensor];
        let len = words.len() / self.setup.replicas.len();
        &words[replica * len..][..len]
    }

    pub(super) fn floats(&self, tensor: &str, replica: usize) -> Vec<f32> {
        self.part(tensor, replica).iter().map(|&word| f32::from_bits(word)).collect()
    }

    /// Values [image, ...] of a tensor [quad, ..., 4 images]: those of the batch, and those of the lanes past it.
    pub(super) fn split(&self, tensor: &str, replica: usize) -> (Vec<f32>, Vec<f32>) {
        let values = self.floats(tensor, replica);
        let size = values.len() / (4 * self.quads());
        let at = |n: usize, element: usize| values[(n / 4 * size + element) * 4 + n % 4];
        let pick = |images: Range<usize>| {
            images.flat_map(|n| (0..size).map(move |element| (n, element))).map(|(n, e)| at(n, e)).collect()
        };
        (pick(0..self.valid()), pick(self.valid()..4 * self.quads()))
    }

    pub(super) fn array(&self, tensor: &str, replica: usize, shape: [usize; 3]) -> Array {
        let shape = [&[self.valid()], &shape[..]].concat();
        Array::from_f32(&shape, &self.split(tensor, replica).0)
    }
}
