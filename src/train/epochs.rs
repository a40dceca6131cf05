//! The loop over steps and epochs: when to train, to test, to save, and to stop.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Instant;

use super::state::Partial;
use super::summary::round;
use super::{EpochMetrics, Progress, REPORT_SECONDS, Run, RunState, Tested, Watch, diverged, state};
use crate::engine::Metrics;
use crate::error::{Error, Result};

/// How [`Run::train`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All steps that were asked for were taken.
    Done,
    /// The watcher stopped the run. Its state is saved, unless it is before its first step.
    Stopped,
}

/// Models and summary are written again once this many times as long as that took has passed: at most a hundredth of the time.
const RESULTS_SHARE: u32 = 100;

impl Run {
    /// True if tests and the saved model use the moving averages.
    pub(super) fn averaged(&self) -> bool {
        self.model.train.average_decay > 0.0
    }

    /// Trains to the end, or until `watch` stops it. The state is saved after every epoch, at a stop, and from time to time
    /// within long epochs ([`RunBuilder::save_every`](super::RunBuilder::save_every)); models and summary after the first
    /// epoch, then as often as costs nothing, and at a stop. Of several nets those whose weights are no longer finite stay
    /// out, and the others go on.
    ///
    /// # Errors
    /// What the device or the disk refuses, and if no net's weights are finite any more. The models in the folder are then
    /// those of the last epoch.
    pub fn train(&mut self, watch: &mut dyn Watch) -> Result<Ending> {
        self.train_to_step(u32::MAX, watch)
    }

    /// Trains until `step` steps were taken since the start of the run, and tests there; otherwise as [`Run::train`].
    ///
    /// # Errors
    /// Those of [`Run::train`].
    pub fn train_to_step(&mut self, step: u32, watch: &mut dyn Watch) -> Result<Ending> {
        let done = self.train_to(step, watch);
        if matches!(done, Ok(Ending::Done)) {
            return done;
        }
        match (done, self.write_last_epoch()) {
            (Err(Error::Diverged { model, message }), Ok(Some(epoch))) => {
                let message = format!("{message}; the saved weights are those after epoch {epoch}");
                Err(Error::Diverged { model, message })
            }
            (Ok(Ending::Stopped), Err(error)) => Err(error),
            // What went wrong first is the news.
            (done, _) => done,
        }
    }

    fn train_to(&mut self, end: u32, watch: &mut dyn Watch) -> Result<Ending> {
        let end = end.min(self.learning_rates[0].len() as u32);
        loop {
            let step = self.progress.step;
            let is_tested = self.progress.rows.last().is_some_and(|row| row.step == step);
            let flow = if step > 0 && !is_tested && (step.is_multiple_of(self.steps_per_epoch) || step >= end)
            {
                self.finish_epoch(watch)?
            } else if step >= end || self.all_stopped() {
                return Ok(Ending::Done);
            } else {
                let epoch_end = (step / self.steps_per_epoch + 1) * self.steps_per_epoch;
                self.train_until(epoch_end.min(end), watch)?
            };
            if flow.is_break() {
                let step = self.progress.step;
                if step > 0 && self.saved.1 != Some(step) {
                    self.save()?;
                }
                return Ok(Ending::Stopped);
            }
        }
    }

    /// Trains to the step `stop` of the current epoch, unless `watch` breaks it off.
    fn train_until(&mut self, stop: u32, watch: &mut dyn Watch) -> Result<ControlFlow<()>> {
        let epoch = self.progress.step / self.steps_per_epoch;
        let mut ahead = VecDeque::new();
        let mut started = self.progress.step;
        let mut flow = ControlFlow::Continue(());
        let mut last = Instant::now();
        loop {
            if flow.is_continue() {
                flow = watch.go_on();
            }
            // At least one step lies between two states, however often they are asked for.
            let is_new = self.saved.1 != Some(self.progress.step);
            let is_due = is_new && started > 0 && self.saved.0.elapsed() >= self.save_every;
            // While the host looks at some steps, the device has the next ones; but no more than one that takes long.
            let most = if self.pace > 1 { 2 } else { 1 };
            while flow.is_continue() && !is_due && started < stop && ahead.len() < most {
                let now = self.pace.min(stop - started);
                self.opened.engine.start_training(now as usize)?;
                ahead.push_back(now);
                started += now;
            }
            let Some(collected) = ahead.pop_front() else {
                if flow.is_break() || started == stop {
                    return Ok(flow);
                }
                self.save()?;
                last = Instant::now();
                continue;
            };
            let sums = self.opened.engine.collect()?;
            let seconds = last.elapsed().as_secs_f64();
            last = Instant::now();
            self.pace = pace(collected, seconds);
            let progress = &mut self.progress;
            for (partial, sum) in progress.partial.iter_mut().zip(sums) {
                let mut total = Metrics::from(*partial);
                total.add(sum);
                *partial = total.into();
            }
            progress.step += collected;
            progress.partial_seconds += seconds;
            let sums: Vec<Metrics> = progress.partial.iter().map(|&partial| partial.into()).collect();
            let done = progress.step - epoch * self.steps_per_epoch;
            watch.steps(epoch as usize + 1, done as usize, self.steps_per_epoch as usize, &sums);
        }
    }

    /// Tests the nets, and writes the state and the metrics.
    fn finish_epoch(&mut self, watch: &mut dyn Watch) -> Result<ControlFlow<()>> {
        let start = Instant::now();
        let Some(tests) = self.test(watch)? else { return Ok(ControlFlow::Break(())) };
        let stopped = self.stopped();
        let progress = &mut self.progress;
        let seconds = progress.partial_seconds + start.elapsed().as_secs_f64();
        let figures = progress.partial.iter().zip(&tests);
        for ((out, stopped), (partial, test)) in progress.diverged.iter_mut().zip(&stopped).zip(figures) {
            let finite = Metrics::from(*partial).loss().is_finite() && test.loss().is_finite();
            *out |= !(*stopped || finite);
        }
        if progress.diverged.iter().all(|&out| out) {
            return Err(diverged(&self.model, &self.settings.replicas, "the loss"));
        }
        // The row of an epoch that was stopped midway is made again now that there is more of it.
        while progress.rows.pop_if(|row| !row.step.is_multiple_of(self.steps_per_epoch)).is_some() {}
        let first = progress.rows.len();
        for (replica, ((net, &partial), test)) in
            self.settings.replicas.iter().zip(&progress.partial).zip(tests).enumerate()
        {
            let train = Metrics::from(partial);
            let out = progress.diverged[replica] || stopped[replica];
            let figure = |value: f64| if out { f64::NAN } else { round(value) };
            progress.rows.push(EpochMetrics {
                seed: net.seed,
                epoch: progress.step.div_ceil(self.steps_per_epoch) as usize,
                step: progress.step,
                learning_rate: self.learning_rates[replica][progress.step as usize - 1],
                train_loss: figure(train.loss()),
                train_accuracy: figure(train.accuracy()),
                test_loss: figure(test.loss()),
                test_accuracy: figure(test.accuracy()),
                test_correct: test.correct,
                seconds: round(seconds),
                train_seconds: round(progress.partial_seconds),
                stopped: stopped[replica],
            });
        }
        if progress.step.is_multiple_of(self.steps_per_epoch) {
            progress.partial.fill(Partial::default());
            progress.partial_seconds = 0.0;
        }
        let weights = self.opened.engine.read_all(Self::vector_to_save(&self.model))?;
        self.keep(&weights);
        self.save()?;
        let Progress { step, ref diverged, .. } = self.progress;
        self.tested = Some(Tested { step, weights, diverged: diverged.clone() });
        if self.results_written.is_none_or(|last| last.at.elapsed() >= RESULTS_SHARE * last.took) {
            self.finish()?;
        }
        Ok(watch.epoch(&self.progress.rows[first..]))
    }

    /// Sums over the test images for each net; `None` if `watch` breaks it off.
    fn test(&mut self, watch: &mut dyn Watch) -> Result<Option<Vec<Metrics>>> {
        let averaged = self.averaged();
        let engine = &mut self.opened.engine;
        let (mut done, of, mut part) = (0, engine.evaluation_steps(), self.pace);
        let mut sums = vec![Metrics::default(); self.settings.replicas.len()];
        while done < of {
            if watch.go_on().is_break() {
                return Ok(None);
            }
            let start = Instant::now();
            let steps = done..of.min(done + part as usize);
            engine.start_evaluation(averaged, steps.clone())?;
            sums.iter_mut().zip(engine.collect()?).for_each(|(sum, part)| sum.add(part));
            part = pace(steps.len() as u32, start.elapsed().as_secs_f64());
            done = steps.end;
        }
        Ok(Some(sums))
    }

    /// Writes the state, from which the run goes on if it ends here, and the metrics.
    fn save(&mut self) -> Result<()> {
        let stopped = self.stopped();
        let Self { opened, model, settings, progress, kept, .. } = self;
        let state = state::save(&mut *opened.engine, (model, settings), progress, kept, &stopped)?;
        self.folder.write(RunState::FILE, &state)?;
        self.saved = (Instant::now(), Some(self.progress.step));
        self.write_metrics()
    }
}

/// How many steps take about [`REPORT_SECONDS`], if `steps` took `seconds`.
fn pace(steps: u32, seconds: f64) -> u32 {
    let wanted = REPORT_SECONDS / (seconds / f64::from(steps)).max(1e-6);
    (wanted as u32).clamp(1, 100_000)
}
