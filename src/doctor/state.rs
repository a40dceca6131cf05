//! An engine's state of one net between steps.

use crate::config::Optimizer;
use crate::engine::{Engine, Setup, Vector};
use crate::error::Result;
use crate::gpu::GpuEngine;
use crate::reference::Reference;
use crate::tensor::Tensor;

#[derive(Debug)]
pub(super) struct State {
    pub(super) weights: Vec<Tensor>,
    /// Empty if there is no moving average.
    pub(super) average: Vec<Tensor>,
    /// One entry per memory of the optimizer.
    pub(super) memory: Vec<Vec<Tensor>>,
}

impl State {
    /// The states of all nets.
    pub(super) fn read_all(engine: &mut GpuEngine, setup: &Setup<'_>) -> Result<Vec<Self>> {
        (0..setup.replicas.len()).map(|replica| Self::read(engine, setup, replica)).collect()
    }

    fn read(engine: &mut GpuEngine, setup: &Setup<'_>, replica: usize) -> Result<Self> {
        let mut vector = |vector| engine.read(vector, replica);
        let memories = setup.model.train.optimizer.memory();
        let has_average = setup.model.train.average_decay > 0.0;
        Ok(Self {
            weights: vector(Vector::Weights)?,
            average: if has_average { vector(Vector::Average)? } else { Vec::new() },
            memory: memories.iter().map(|name| vector(Vector::Memory(name))).collect::<Result<_>>()?,
        })
    }

    /// Makes a reference continue from here.
    pub(super) fn give(&self, reference: &mut Reference<'_>, optimizer: Optimizer) {
        reference.write(Vector::Weights, &self.weights);
        for (name, memory) in optimizer.memory().iter().zip(&self.memory) {
            reference.write(Vector::Memory(name), memory);
        }
    }

    /// The bits of all values.
    pub(super) fn bits(&self) -> Vec<u32> {
        let tensors = self.weights.iter().chain(&self.average).chain(self.memory.iter().flatten());
        tensors.flat_map(|tensor| tensor.data.iter().map(|value| value.to_bits())).collect()
    }
}
