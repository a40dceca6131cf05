//! Runs any plan on given words: kernels alone, without a network around them.

use super::device::Gpu;
use super::program::{Buffers, GpuOptions, Pipelines, RecordedPlan};
use crate::error::{Error, Result};
use crate::plan::Plan;

/// A plan with its buffers and pipelines, ready to run.
#[derive(Debug)]
pub struct PlanRunner<'g> {
    gpu: &'g Gpu,
    plan: Plan,
    buffers: Buffers,
    program: RecordedPlan,
}

impl<'g> PlanRunner<'g> {
    /// Makes buffers and pipelines. Pooled memory is filled with `poison`, so that what a kernel forgets to write shows;
    /// all other memory holds what the plan says.
    ///
    /// # Errors
    /// Out of memory, or an error from the device.
    pub fn new(gpu: &'g Gpu, plan: Plan, poison: u32, options: GpuOptions) -> Result<Self> {
        let buffers = Buffers::new(gpu, &[&plan])?;
        buffers.fill(gpu, &[&plan]);
        buffers.poison(gpu, poison);
        let program = RecordedPlan::new(gpu, &plan, &buffers, &Pipelines::new(gpu, &[&plan], options))?;
        Ok(Self { gpu, plan, buffers, program })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Writes a tensor's words, from its start.
    ///
    /// # Errors
    /// A name that the plan doesn't have, or more words than the tensor holds.
    pub fn write(&self, tensor: &str, words: &[u32]) -> Result<()> {
        let place = self.buffers.place(&self.plan, tensor);
        let fits = place.filter(|&(.., bytes)| 4 * words.len() as u64 <= bytes);
        let (buffer, offset, _) = fits.ok_or_else(|| {
            Error::Usage(format!("the plan has no tensor `{tensor}` of at least {} words", words.len()))
        })?;
        self.gpu.queue.write_buffer(buffer, offset, bytemuck::cast_slice(words));
        self.gpu.check()
    }

    /// Runs the plan once.
    ///
    /// # Errors
    /// A lost or unresponsive device.
    pub fn run(&self) -> Result<()> {
        self.gpu.wait(self.program.submit(self.gpu, 1))
    }

    /// Reads a tensor as raw words; `None` if the plan has none by this name.
    ///
    /// # Errors
    /// A lost or unresponsive device.
    pub fn read(&self, tensor: &str) -> Result<Option<Vec<u32>>> {
        self.buffers.read(self.gpu, &self.plan, tensor)
    }

    /// Buffers that a kernel has written past the end of; empty if all is well.
    ///
    /// # Errors
    /// A lost or unresponsive device.
    pub fn broken_guards(&self) -> Result<Vec<String>> {
        self.buffers.broken_guards(self.gpu)
    }
}
