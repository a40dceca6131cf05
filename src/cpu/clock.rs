//! Where the time of a step goes, for `bench`. A clock that does not run costs one comparison per operation.

use std::time::Instant;

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Activity {
    /// Fetches images, changes and normalises them.
    Gather,
    /// Loss, hits and the gradient of the logits.
    Loss,
    /// Adds up gradients, updates parameters and averages.
    Optimizer,
    /// Of the operation with this index.
    Forward(usize),
    /// Sums over the batch, for either direction.
    Statistics(usize),
    /// The gradient of parameters, except where it is computed together with that of the input.
    BackwardWeight(usize),
    /// The gradient of the input.
    BackwardInput(usize),
}

impl Activity {
    fn slot(self) -> usize {
        match self {
            Self::Gather => 0,
            Self::Loss => 1,
            Self::Optimizer => 2,
            Self::Forward(op) => 3 + 4 * op,
            Self::Statistics(op) => 4 + 4 * op,
            Self::BackwardWeight(op) => 5 + 4 * op,
            Self::BackwardInput(op) => 6 + 4 * op,
        }
    }
}

/// Measures how long its owner spends on each activity.
#[derive(Debug, Default)]
pub(super) struct Clock(Option<Running>);

#[derive(Debug)]
struct Running {
    since: Instant,
    /// Seconds by [`Activity::slot`].
    seconds: Vec<f64>,
}

impl Clock {
    /// The owner begins to work after waiting.
    pub(super) fn begin(&mut self) {
        if let Some(running) = &mut self.0 {
            running.since = Instant::now();
        }
    }

    /// All since the last call was this activity.
    pub(super) fn lap(&mut self, activity: Activity) {
        if let Some(running) = &mut self.0 {
            let now = Instant::now();
            running.seconds[activity.slot()] += (now - running.since).as_secs_f64();
            running.since = now;
        }
    }
}

/// Only `bench` reads clocks, which needs the feature.
#[cfg(any(test, feature = "gpu"))]
impl Clock {
    /// Starts from zero.
    pub(super) fn start(&mut self, ops: usize) {
        self.0 = Some(Running { since: Instant::now(), seconds: vec![0.0; 3 + 4 * ops] });
    }

    /// Stops; returns all activities with their seconds, or nothing if it did not run.
    pub(super) fn stop(&mut self) -> Vec<(Activity, f64)> {
        let Some(Running { seconds, .. }) = self.0.take() else { return Vec::new() };
        all((seconds.len() - 3) / 4).map(|activity| (activity, seconds[activity.slot()])).collect()
    }
}

/// All activities of a program with this many operations.
#[cfg(any(test, feature = "gpu"))]
fn all(ops: usize) -> impl Iterator<Item = Activity> {
    use Activity::{BackwardInput, BackwardWeight, Forward, Gather, Loss, Optimizer, Statistics};
    let of_op = |op| [Forward, Statistics, BackwardWeight, BackwardInput].map(|what| what(op));
    [Gather, Loss, Optimizer].into_iter().chain((0..ops).flat_map(of_op))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_activity_has_its_own_seconds() {
        let all: Vec<_> = all(3).collect();
        let mut slots: Vec<_> = all.iter().map(|activity| activity.slot()).collect();
        slots.sort_unstable();
        assert_eq!(slots, (0..15).collect::<Vec<_>>());

        let mut clock = Clock::default();
        clock.lap(Activity::Loss);
        assert!(clock.stop().is_empty());
        clock.start(3);
        std::thread::sleep(std::time::Duration::from_millis(20));
        clock.begin();
        std::thread::sleep(std::time::Duration::from_millis(5));
        clock.lap(Activity::Statistics(2));
        for (activity, seconds) in clock.stop() {
            match activity {
                Activity::Statistics(2) => assert!((0.005..10.0).contains(&seconds), "{seconds}"),
                _ => assert_eq!(seconds, 0.0, "{activity:?}"),
            }
        }
    }
}
