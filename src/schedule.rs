//! Learning rates: one value per step of a run.

use crate::config::LearningRate;

impl LearningRate {
    /// The rate of every step.
    ///
    /// # Examples
    /// ```
    /// use shadernet::config::LearningRate;
    ///
    /// let halved = LearningRate::Step { rate: 0.8, every_epochs: 1, factor: 0.5 };
    /// assert_eq!(halved.rates(4, 2), [0.8, 0.8, 0.4, 0.4]);
    /// ```
    pub fn rates(&self, steps: usize, steps_per_epoch: usize) -> Vec<f32> {
        (0..steps).map(|step| self.rate(step, steps, steps_per_epoch) as f32).collect()
    }

    /// The same with a rise to each rate of the schedule over the first `warmup` of the run: by (step + 1) / (warmup · steps).
    pub fn rates_after_warmup(&self, warmup: f32, steps: usize, steps_per_epoch: usize) -> Vec<f32> {
        let rising = f64::from(warmup) * steps as f64;
        let factor = |step: usize| ((step as f64 + 1.0) / rising).min(1.0);
        let rate = |step| match warmup {
            0.0 => self.rate(step, steps, steps_per_epoch),
            _ => self.rate(step, steps, steps_per_epoch) * factor(step),
        };
        (0..steps).map(|step| rate(step) as f32).collect()
    }

    fn rate(&self, step: usize, steps: usize, steps_per_epoch: usize) -> f64 {
        let half_cosine = |from: f64, to: f64, share: f64| {
            to + (from - to) * 0.5 * (1.0 + (std::f64::consts::PI * share).cos())
        };
        match *self {
            Self::Constant { rate } => f64::from(rate),
            Self::Exponential { start, end } => {
                let [start, end] = [start, end].map(f64::from);
                start * (end / start).powf(step as f64 / (steps as f64 - 1.0).max(1.0))
            }
            Self::Step { rate, every_epochs, factor } => {
                let changes = step / (steps_per_epoch * every_epochs).max(1);
                f64::from(rate) * f64::from(factor).powi(changes as i32)
            }
            Self::Cosine { peak, end } => {
                let peak = f64::from(peak);
                half_cosine(peak, peak * f64::from(end), step as f64 / steps as f64)
            }
            Self::OneCycle { peak, warmup, start, end } => {
                let [peak, start, end] = [peak, start * peak, end * peak].map(f64::from);
                let rising = f64::from(warmup) * steps as f64;
                let step = step as f64;
                if step < rising {
                    start + (peak - start) * step / rising
                } else {
                    half_cosine(peak, end, (step - rising) / (steps as f64 - rising).max(1.0))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;

    #[test]
    fn one_cycle_rises_then_falls() {
        let cycle = LearningRate::OneCycle { peak: 0.4, warmup: 0.2, start: 0.04, end: 1e-4 };
        let rates = cycle.rates(100, 10);
        assert_abs_diff_eq!(rates[0], 0.016, epsilon = 1e-7);
        assert_abs_diff_eq!(rates[20], 0.4, epsilon = 1e-7);
        assert!(rates[..20].windows(2).all(|w| w[0] < w[1]));
        assert!(rates[20..].windows(2).all(|w| w[0] > w[1]));
        assert!(rates[99] < 0.001, "{}", rates[99]);
    }

    #[test]
    fn step_changes_at_epoch_borders() {
        let rates = LearningRate::Step { rate: 1.0, every_epochs: 2, factor: 0.1 }.rates(6, 1);
        for (got, want) in rates.iter().zip([1.0, 1.0, 0.1, 0.1, 0.01, 0.01]) {
            assert_abs_diff_eq!(*got, want, epsilon = 1e-7);
        }
    }

    #[test]
    fn cosine_starts_at_the_peak_and_is_halfway_in_the_middle() {
        let rates = LearningRate::Cosine { peak: 0.2, end: 0.0 }.rates(10, 1);
        assert_abs_diff_eq!(rates[0], 0.2, epsilon = 1e-7);
        assert_abs_diff_eq!(rates[5], 0.1, epsilon = 1e-7);
    }

    #[test]
    fn a_warmup_rises_to_the_schedule() {
        let step = LearningRate::Step { rate: 0.8, every_epochs: 1, factor: 0.5 };
        // Of ten steps the first four: a quarter, a half, three quarters, all of it.
        let rates = step.rates_after_warmup(0.4, 10, 5);
        let want = [0.2, 0.4, 0.6, 0.8, 0.8, 0.4, 0.4, 0.4, 0.4, 0.4];
        rates.iter().zip(want).for_each(|(rate, want)| assert_abs_diff_eq!(*rate, want, epsilon = 1e-7));
        assert_eq!(step.rates_after_warmup(0.0, 10, 5), step.rates(10, 5));
        // Shorter than a step.
        assert_eq!(step.rates_after_warmup(0.01, 10, 5), step.rates(10, 5));
    }

    /// Every value worked out by hand: cos 60° = 1/2.
    #[test]
    fn every_step_has_the_rate_worked_out_by_hand() {
        let cases: &[(LearningRate, usize, usize, &[f32])] = &[
            (LearningRate::Constant { rate: 0.3 }, 3, 2, &[0.3, 0.3, 0.3]),
            // Two epochs of three steps.
            (
                LearningRate::Step { rate: 0.8, every_epochs: 2, factor: 0.5 },
                13,
                3,
                &[0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.2],
            ),
            (
                LearningRate::Exponential { start: 0.01, end: 1.0 },
                5,
                2,
                &[0.01, 0.031_622_776, 0.1, 0.316_227_76, 1.0],
            ),
            (LearningRate::Exponential { start: 0.5, end: 0.1 }, 1, 1, &[0.5]),
            // From 0.8 to a quarter of it: 0.2 + 0.3 (1 + cos 60°), 0.2 + 0.3 (1 + cos 120°).
            (LearningRate::Cosine { peak: 0.8, end: 0.25 }, 3, 1, &[0.8, 0.65, 0.35]),
            // 2.5 steps from 0.2 to 0.8, then 7.5 to 0.4.
            (
                LearningRate::OneCycle { peak: 0.8, warmup: 0.25, start: 0.25, end: 0.5 },
                10,
                1,
                &[
                    0.2,
                    0.44,
                    0.68,
                    0.795_629_5,
                    0.761_803_4,
                    0.7,
                    0.620_905_7,
                    0.538_196_6,
                    0.466_173_87,
                    0.417_290_9,
                ],
            ),
            // No warm-up: the first step is the peak, and 0 of 0 steps does not give a NaN.
            (
                LearningRate::OneCycle { peak: 0.8, warmup: 0.0, start: 0.25, end: 0.5 },
                3,
                1,
                &[0.8, 0.7, 0.5],
            ),
            // Only warm-up.
            (
                LearningRate::OneCycle { peak: 0.8, warmup: 1.0, start: 0.25, end: 0.5 },
                3,
                1,
                &[0.2, 0.4, 0.6],
            ),
        ];
        for (schedule, steps, steps_per_epoch, want) in cases {
            let rates = schedule.rates(*steps, *steps_per_epoch);
            assert_eq!(rates.len(), want.len());
            for (got, want) in rates.iter().zip(*want) {
                assert_abs_diff_eq!(*got, *want, epsilon = 1e-6);
            }
        }
    }
}
