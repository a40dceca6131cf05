//! How long each launch takes, by the device's clock.

use super::device::Gpu;
use super::program::RecordedPlan;
use crate::error::Result;

/// Maximum number of timestamps in one query set (WebGPU's limit is 4096).
const MOST_LAUNCHES: usize = 2048;

/// Seconds of each launch of a program in one run, or `None` where the device has no clock.
///
/// Each launch is a separate pass, which costs slightly more than the same launches in one pass: compare relative times.
pub(super) fn seconds(gpu: &Gpu, program: &RecordedPlan) -> Result<Option<Vec<f64>>> {
    let launches = program.launches();
    if !gpu.has_clock() || launches.len() > MOST_LAUNCHES {
        return Ok(None);
    }
    let count = 2 * launches.len() as u32;
    let queries = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
        label: Some("launch times"),
        ty: wgpu::QueryType::Timestamp,
        count,
    });
    let bytes = 8 * u64::from(count);
    let resolved = gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("launch times"),
        size: bytes,
        usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    });
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    for (index, launch) in launches.iter().enumerate() {
        let first = 2 * index as u32;
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: None,
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: &queries,
                beginning_of_pass_write_index: Some(first),
                end_of_pass_write_index: Some(first + 1),
            }),
        });
        launch.record(&mut pass);
    }
    encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
    let submission = gpu.queue.submit([encoder.finish()]);
    gpu.wait(submission)?;
    let words = gpu.read(&resolved, 0, bytes)?;
    let ticks = |at: usize| u64::from(words[2 * at]) | u64::from(words[2 * at + 1]) << 32;
    let period = f64::from(gpu.queue.get_timestamp_period()) * 1e-9;
    let elapsed = |index: usize| ticks(2 * index + 1).saturating_sub(ticks(2 * index)) as f64 * period;
    Ok(Some((0..launches.len()).map(elapsed).collect()))
}
