//! How much memory an engine needs, computed before it allocates anything.

use super::kernels::{LANES, is_matrix};
use super::program::{Kernel, Program};
use crate::engine::Setup;
use crate::error::{Error, Result};
use crate::memory;

/// Bytes that an engine needs. Sums saturate at `u64::MAX`, which no machine has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    /// Each net's vectors and learning rates.
    pub(super) net: u64,
    pub(super) nets: u64,
    /// A copy of all the nets' vectors, and the file made from it: what saving a run needs.
    pub(super) saving: u64,
    /// Sixteen images on their way through a net.
    pub(super) block: u64,
    pub(super) blocks: u64,
    /// What each thread needs.
    pub(super) thread: u64,
    pub(super) threads: u64,
}

impl Need {
    /// With `blocks` blocks on `threads` threads.
    pub(super) fn of(setup: &Setup<'_>, program: &Program, blocks: usize, threads: usize) -> Self {
        let training = setup.training.is_some();
        let params = sum(setup.model.params().iter().map(|param| param.param.size()));
        // The parameters and their averages are always allocated.
        let vectors = 2 + setup.model.train.optimizer.memory().len() as u64;
        let vectors = floats(params).saturating_mul(vectors);
        let steps = setup.train_batches().map_or(0, |batches| batches.steps_per_epoch());
        // Both the engine and the run have the learning rates.
        let rates = floats(steps as u64).saturating_mul(setup.model.train.epochs as u64).saturating_mul(2);
        let nets = setup.replicas.len() as u64;
        let copies = if training { 2 } else { 0 };
        // The weights that are kept, their copy and their part of the file.
        let kept = if training && setup.model.train.judges().is_some() { 3 } else { 0 };
        let kept = floats(params).saturating_mul(kept);
        Self {
            net: vectors.saturating_add(rates),
            nets,
            saving: vectors.saturating_mul(copies).saturating_add(kept).saturating_mul(nets),
            block: block(program, training),
            blocks: blocks as u64,
            thread: thread(program, training, blocks as u64),
            threads: threads as u64,
        }
    }

    /// Everything but the blocks.
    fn fixed(&self) -> u64 {
        let nets = self.net.saturating_mul(self.nets);
        nets.saturating_add(self.saving).saturating_add(self.thread.saturating_mul(self.threads))
    }

    /// Everything.
    pub(super) fn total(&self) -> u64 {
        self.fixed().saturating_add(self.block.saturating_mul(self.blocks))
    }

    /// Fails if there is less memory than needed, and says what fits.
    pub(super) fn check(&self, setup: &Setup<'_>) -> Result<()> {
        let Some(free) = memory::shortage(self.total()) else { return Ok(()) };
        let lanes = LANES as u64;
        let fitting = free.saturating_sub(self.fixed()) / self.block.max(1);
        let (what, cure) = match setup.train_batches() {
            Some(batches) => {
                let nets = if self.nets == 1 { String::new() } else { format!(" of {} nets", self.nets) };
                let what = format!("training{nets} in batches of {}", batches.batch_size);
                let cure = match fitting {
                    0 if self.nets > 1 => {
                        "fewer nets or smaller layers would help, a smaller batch would not".into()
                    }
                    0 => format!("not even batches of {lanes} fit; the network needs smaller layers"),
                    // A block has all its memory, however few images it has.
                    _ => format!("a batch size of {} fits", fitting.saturating_mul(lanes)),
                };
                (what, cure)
            }
            None => {
                let one = Self { blocks: 1, threads: 1, ..*self }.total();
                let cure = match one <= free && self.threads > 1 {
                    true => "fewer threads need less, and one thread the least".into(),
                    false => "the network needs smaller layers".to_owned(),
                };
                ("the network".to_owned(), cure)
            }
        };
        Err(Error::Device(memory::message(self.total(), free, &format!("CPU engine: {what}"), &cure)))
    }
}

fn sum(values: impl Iterator<Item = usize>) -> u64 {
    values.fold(0, |sum, value| sum.saturating_add(value as u64))
}

fn floats(values: u64) -> u64 {
    values.saturating_mul(4)
}

/// As allocated by `Block::new`.
fn block(program: &Program, training: bool) -> u64 {
    let lanes = LANES as u64;
    let activations = floats(sum(program.buffers.iter().copied())).saturating_mul(lanes);
    let channels = sum(program.batch_norms.iter().map(|&(channels, _)| channels));
    let gradients = match training {
        true => floats(sum(program.slots.iter().copied()))
            .saturating_mul(lanes)
            .saturating_add(floats(program.grad_len() as u64)),
        false => 0,
    };
    // Two sums in f64 and a shift.
    activations.saturating_add(gradients).saturating_add(channels.saturating_mul(20))
}

/// A convolution's padded input and reordered weights, a linear layer's turned input, and the arrays of a layer without a tuned kernel.
fn thread(program: &Program, training: bool, blocks: u64) -> u64 {
    let padded = |kernel: &Kernel| match kernel {
        Kernel::Conv2d(conv) if conv.padding != [0; 4] => {
            let [height, width] = conv.axes().map(|axis| axis.input + axis.padding.iter().sum::<usize>());
            floats(sum([conv.input.channels * height * width * LANES].into_iter()))
        }
        // The input with its axes exchanged, for the gradient of the weights.
        Kernel::Conv2d(conv) if is_matrix(conv) => floats(sum([conv.input.channels * LANES].into_iter())),
        _ => 0,
    };
    let weights = |kernel: &Kernel| match kernel {
        // Its weights are read in place.
        Kernel::Conv2d(conv) if is_matrix(conv) => 0,
        Kernel::Conv2d(conv) => floats(sum([conv.output.channels * conv.filter()].into_iter())),
        _ => 0,
    };
    let reference = |kernel: &Kernel| match kernel {
        // Values and bounds in f64: inputs and outputs, forward and backward, and what the layer sums up.
        Kernel::Fallback(layer) => {
            let arrays = if training { 6 } else { 2 };
            let values = layer.inputs.iter().chain([&layer.output]).map(|shape| shape.len());
            let blocks = if training && layer.sees_batch() { blocks } else { 1 };
            sum(values).saturating_mul(16 * LANES as u64 * arrays).saturating_mul(blocks)
        }
        _ => 0,
    };
    let most =
        |bytes: &dyn Fn(&Kernel) -> u64| program.ops.iter().map(|op| bytes(&op.kernel)).max().unwrap_or(0);
    // Forward and backward each have a padded input.
    let padded = most(&padded).saturating_mul(if training { 2 } else { 1 });
    padded.saturating_add(most(&weights)).saturating_add(most(&reference))
}
