//! What was measured to choose between two devices.

use serde::{Deserialize, Serialize};

/// What a training step takes on the first real GPU and on the CPU engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Comparison {
    /// Name of the GPU.
    pub gpu: String,
    /// Milliseconds per step, all nets together.
    pub gpu_milliseconds: f64,
    /// Name of the CPU engine, with its threads.
    pub cpu: String,
    /// Milliseconds per step, all nets together.
    pub cpu_milliseconds: f64,
}

impl Comparison {
    /// True if the GPU is at least as fast.
    pub fn gpu_is_faster(&self) -> bool {
        self.gpu_milliseconds <= self.cpu_milliseconds
    }
}
