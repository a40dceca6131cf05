//! The device's peak rates, against which `bench` compares its times. Kernels: `shaders/ceilings.wgsl`.

use std::time::Instant;

use super::device::Gpu;
use super::program::{Buffers, GpuOptions, Pipelines, RecordedPlan};
use crate::error::Result;
use crate::layers::Launch;
use crate::plan::Plan;

/// The highest rates measured on a device.
#[derive(Debug, Clone, Copy)]
pub struct MeasuredCeilings {
    /// Multiplications and additions per second, in `f32`, equally many of each.
    pub flops_per_second: f64,
    /// Bytes read and written per second, in a copy larger than most caches.
    pub bytes_per_second: f64,
    /// Seconds per launch that does next to nothing but has to wait for the previous one.
    pub launch_seconds: f64,
}

/// Workgroup size, as in the shader.
const WORKGROUP: usize = 64;
/// Iterations of eight multiply-adds in eight chains. Some drivers end an invocation's loops after 65,535 iterations.
const ROUNDS: usize = 256;
const FLOPS_OF_INVOCATION: usize = 2 * 8 * 8 * ROUNDS;
/// Bytes to copy.
const COPIED: usize = 64 << 20;
/// A run should be long enough to make the host's share small. Twice that is still short enough for a display.
const RUN_SECONDS: f64 = 0.02;
/// Runs larger than the first by more than this are not tried.
const MOST_DOUBLINGS: u32 = 18;
/// The fastest of this many runs counts.
const REPEATS: usize = 5;

impl MeasuredCeilings {
    /// The plans to run: multiply-adds with the smallest number of workgroups, the copy, the launch.
    pub fn plans() -> [Plan; 3] {
        [multiply_add(1), copy(COPIED), add_one()]
    }

    /// Measures a device, in less than a second on most.
    ///
    /// # Errors
    /// Out of memory, or a lost device.
    pub fn measure(gpu: &Gpu) -> Result<Self> {
        let [first, copied, launched] = Self::plans();
        let plans = [&first, &copied, &launched];
        let buffers = Buffers::new(gpu, &plans)?;
        let pipelines = Pipelines::new(gpu, &plans, GpuOptions::DEFAULT);
        let program = |plan: &Plan| RecordedPlan::new(gpu, plan, &buffers, &pipelines);

        // More workgroups, not more launches: one launch that fills a small device doesn't fill a large one.
        let mut flops_per_second = 0.0;
        for doubling in 0..MOST_DOUBLINGS {
            let plan = multiply_add(1 << doubling);
            let seconds = fastest(gpu, &program(&plan)?, 1)?;
            let workgroups: usize = plan.launches[0].workgroups.iter().map(|&count| count as usize).product();
            flops_per_second = (workgroups * WORKGROUP * FLOPS_OF_INVOCATION) as f64 / seconds;
            if seconds >= RUN_SECONDS {
                break;
            }
        }
        Ok(Self {
            flops_per_second,
            bytes_per_second: 2.0 * COPIED as f64 / seconds_each(gpu, &program(&copied)?)?,
            launch_seconds: seconds_each(gpu, &program(&launched)?)?,
        })
    }
}

fn launch(entry_point: &'static str, invocations: usize) -> Launch {
    let constants = [("ELEMENTS", (COPIED / 16) as f64), ("ROUNDS", ROUNDS as f64)];
    Launch::new("ceilings", entry_point, invocations, constants)
}

/// `scale` times the smallest amount of work.
fn multiply_add(scale: usize) -> Plan {
    let invocations = 16 * WORKGROUP * scale;
    let tensors = [("factors", 2), ("sums", WORKGROUP)];
    Plan::of_launches(1, "ceilings", &[launch("multiply_add", invocations)], &tensors)
}

fn copy(bytes: usize) -> Plan {
    let tensors = [("original", bytes / 4), ("duplicate", bytes / 4)];
    Plan::of_launches(1, "ceilings", &[launch("copy", bytes / 16)], &tensors)
}

fn add_one() -> Plan {
    Plan::of_launches(1, "ceilings", &[launch("add_one", WORKGROUP)], &[("count", WORKGROUP)])
}

/// Seconds per run of a program by the host's clock, with enough runs in one submission to last long enough.
fn seconds_each(gpu: &Gpu, program: &RecordedPlan) -> Result<f64> {
    let mut times = 1;
    loop {
        let seconds = fastest(gpu, program, times)?;
        if seconds >= RUN_SECONDS || times == 1 << MOST_DOUBLINGS {
            return Ok(seconds / times as f64);
        }
        times *= 2;
    }
}

fn fastest(gpu: &Gpu, program: &RecordedPlan, times: usize) -> Result<f64> {
    let mut fastest = f64::INFINITY;
    for _ in 0..REPEATS {
        // In training, the host records ahead of the device, so encoding is not part of the device's time.
        let commands = program.encode(gpu, times);
        let start = Instant::now();
        gpu.wait(gpu.queue.submit([commands]))?;
        fastest = fastest.min(start.elapsed().as_secs_f64());
        if fastest < RUN_SECONDS / 2.0 {
            // Too short to use.
            break;
        }
    }
    Ok(fastest)
}
