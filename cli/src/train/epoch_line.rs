//! What is said of an epoch, in as many columns as there are.

use shadernet::train::Spread;

/// What is said of an epoch.
pub(super) struct EpochLine {
    pub(super) epoch: usize,
    pub(super) epochs: usize,
    pub(super) test: &'static str,
    pub(super) train_loss: f64,
    pub(super) train_accuracy: f64,
    pub(super) test_loss: f64,
    pub(super) test_accuracy: f64,
    /// Of several nets.
    pub(super) spread: Option<Spread>,
    /// If all nets have the same.
    pub(super) rate: Option<f32>,
    pub(super) nets: usize,
    pub(super) diverged: usize,
    pub(super) stopped: usize,
    pub(super) seconds: f64,
}

impl EpochLine {
    /// The line with as much as fits.
    pub(super) fn within(&self, columns: usize) -> String {
        let lines = (0..=Self::PARTS).map(|left_out| self.without(left_out));
        let mut lines = lines.skip_while(|line| line.chars().count() > columns);
        lines.next().unwrap_or_else(|| self.without(Self::PARTS))
    }

    /// Parts that can be left out, from the one that is missed least.
    const PARTS: usize = 6;

    fn without(&self, left_out: usize) -> String {
        let has = |part: usize| part >= left_out;
        let width = self.epochs.to_string().len();
        let mut parts = vec![format!("epoch {:>width$}/{}", self.epoch, self.epochs)];
        if has(4) {
            let accuracy = if has(2) { format!(" {:.1}%", self.train_accuracy) } else { String::new() };
            parts.push(format!("train loss {:.4}{accuracy}", self.train_loss));
        }
        let accuracy = match &self.spread {
            Some(spread) if has(1) => {
                format!(
                    "{:.2} ± {:.2}% ({:.2} to {:.2})",
                    spread.mean, spread.deviation, spread.min, spread.max
                )
            }
            Some(spread) => format!("{:.2} ± {:.2}%", spread.mean, spread.deviation),
            None => format!("{:.2}%", self.test_accuracy),
        };
        let loss = if has(5) { format!(" loss {:.4}", self.test_loss) } else { String::new() };
        parts.push(format!("{}{loss} {accuracy}", self.test));
        parts.extend(self.rate.filter(|_| has(0)).map(|value| format!("lr {}", rate(value))));
        for (count, what) in [(self.diverged, "diverged"), (self.stopped, "stopped")] {
            if count > 0 {
                parts.push(format!("{count} of {} {what}", self.nets));
            }
        }
        if has(3) {
            parts.push(format!("{:.1} s", self.seconds));
        }
        parts.join("  ")
    }
}

/// Four significant digits.
pub(super) fn rate(rate: f32) -> String {
    if rate >= 0.001 { format!("{rate:.4}") } else { format!("{rate:.1e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(epochs: usize, spread: Option<Spread>) -> EpochLine {
        EpochLine {
            epoch: epochs,
            epochs,
            test: "test",
            train_loss: 0.234_51,
            train_accuracy: 92.344,
            test_loss: 0.054_32,
            test_accuracy: 98.336,
            spread,
            rate: Some(0.123_4),
            nets: 1,
            diverged: 0,
            stopped: 0,
            seconds: 12.34,
        }
    }

    #[test]
    fn lines_fit_the_terminal_and_lose_the_least_important_first() {
        let short = line(19, None);
        for (columns, wanted) in [
            (200, "epoch 19/19  train loss 0.2345 92.3%  test loss 0.0543 98.34%  lr 0.1234  12.3 s"),
            (80, "epoch 19/19  train loss 0.2345 92.3%  test loss 0.0543 98.34%  lr 0.1234  12.3 s"),
            (79, "epoch 19/19  train loss 0.2345 92.3%  test loss 0.0543 98.34%  12.3 s"),
            (68, "epoch 19/19  train loss 0.2345  test loss 0.0543 98.34%  12.3 s"),
            (60, "epoch 19/19  train loss 0.2345  test loss 0.0543 98.34%"),
            (40, "epoch 19/19  test loss 0.0543 98.34%"),
            (30, "epoch 19/19  test 98.34%"),
            (10, "epoch 19/19  test 98.34%"),
        ] {
            assert_eq!(short.within(columns), wanted);
        }
        let spread = Spread::of([98.0, 98.5, 99.0]);
        let several = EpochLine {
            test: "held-out",
            train_loss: 12.3,
            test_loss: 12.3,
            nets: 5,
            diverged: 2,
            seconds: 1234.5,
            ..line(1000, Some(spread))
        };
        let widths = [80, 60].map(|columns| several.within(columns).chars().count());
        assert!(widths[0] <= 80 && widths[1] <= 60, "{widths:?}");
        assert!(several.within(80).contains("98.50 ± 0.50%"), "{}", several.within(80));
        assert!(several.within(200).contains("(98.00 to 99.00)  lr 0.1234  2 of 5 diverged  1234.5 s"));
    }
}
