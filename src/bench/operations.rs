//! Where a step's time goes: a row for each launch on a GPU, for each operation on the CPU engine.

use serde::Serialize;

use super::quotient;
use super::work::{self, Work};
use crate::batch::BatchSettings;
use crate::cpu::{Activity, CpuEngine};
use crate::engine::Setup;
use crate::plan::Plan;

/// What a step spends on an operation: on a GPU, the median of several steps by the device's clock; on the CPU engine,
/// the mean over many steps and over the threads.
#[derive(Debug, Clone, Serialize)]
pub struct OperationTime {
    /// `conv2.forward`, say; `waiting` for threads that wait for others at the borders of phases.
    pub operation: String,
    /// Microseconds.
    pub microseconds: f64,
    /// Its fraction of the sum over all operations.
    pub share: f64,
    /// 10⁹ multiplications and additions per second; on the CPU engine, of a thread while it computes this.
    pub gflop_per_second: f64,
    /// 10⁹ bytes read and written per second, counting the minimum needed; on the CPU engine, by a thread.
    pub gb_per_second: f64,
}

impl OperationTime {
    fn new(operation: String, seconds: f64, sum: f64, work: Work, busy: f64) -> Self {
        Self {
            operation,
            microseconds: 1e6 * seconds,
            share: quotient(seconds, sum),
            gflop_per_second: quotient(work.flops, busy) / 1e9,
            gb_per_second: quotient(work.bytes, busy) / 1e9,
        }
    }
}

/// The launches of a plan, with the seconds of each.
pub(super) fn of_plan(plan: &Plan, work: &[Work], seconds: Vec<f64>) -> Vec<OperationTime> {
    let sum: f64 = seconds.iter().sum();
    let rows = plan.launches.iter().zip(work).zip(seconds);
    rows.map(|((launch, work), seconds)| {
        OperationTime::new(launch.label.clone(), seconds, sum, *work, seconds)
    })
    .collect()
}

/// The operations of an engine's steps, of which `steps` are taken, and what is left of `step_seconds` as `waiting`.
pub(super) fn of_engine(
    engine: &mut CpuEngine,
    setup: &Setup<'_>,
    batches: &BatchSettings,
    steps: usize,
) -> Vec<OperationTime> {
    let start = std::time::Instant::now();
    let spent = engine.profile(steps);
    let all = start.elapsed().as_secs_f64() / steps as f64;
    let threads = engine.threads() as f64;
    let busy: f64 = spent.iter().map(|(_, seconds)| seconds).sum();
    let waiting = (all - busy / threads).max(0.0);
    let rows = spent.into_iter().filter(|&(_, seconds)| seconds > 0.0).map(|(activity, seconds)| {
        let layer = |op| setup.model.layers[engine.layer_of(op)].name.as_str();
        let name = match activity {
            Activity::Gather => "gather".to_owned(),
            Activity::Loss => "loss".to_owned(),
            Activity::Optimizer => "optimizer".to_owned(),
            Activity::Forward(op) => format!("{}.forward", layer(op)),
            Activity::Statistics(op) => format!("{}.statistics", layer(op)),
            Activity::BackwardWeight(op) => format!("{}.backward_weight", layer(op)),
            Activity::BackwardInput(op) => format!("{}.backward_input", layer(op)),
        };
        let work = work::of_activity(setup, batches, activity, |op| engine.layer_of(op));
        OperationTime::new(name, seconds / threads, all, work, seconds)
    });
    let waiting =
        OperationTime::new("waiting".to_owned(), waiting, all, Work { flops: 0.0, bytes: 0.0 }, 0.0);
    rows.chain([waiting]).collect()
}
