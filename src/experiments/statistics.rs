//! Means with their uncertainty.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// A difference of two means with a 95 % confidence interval.
///
/// # Examples
/// ```
/// use shadernet::experiments::Difference;
///
/// let difference = Difference::of(&[99.5, 99.4, 99.6], &[98.9, 99.0, 99.1]).unwrap();
/// assert!((difference.mean - 0.5).abs() < 1e-9 && difference.is_clear());
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Mean of the first minus mean of the second.
    pub mean: f64,
    /// Half the width of the interval; infinite if a sample has no estimate of its spread.
    pub half_width: f64,
}

impl Difference {
    /// For two samples whose variances may differ (Welch 1947); `None` if one is empty.
    pub fn of(sample: &[f64], other: &[f64]) -> Option<Self> {
        if sample.is_empty() || other.is_empty() {
            return None;
        }
        let [one, two] = [sample, other].map(|values| {
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            // Squared standard error of the mean, and its degrees of freedom.
            (mean, squares / (n - 1.0) / n, n - 1.0)
        });
        let mean = one.0 - two.0;
        let error = one.1 + two.1;
        if one.2 < 1.0 || two.2 < 1.0 {
            return Some(Self { mean, half_width: f64::INFINITY });
        }
        if error == 0.0 {
            return Some(Self { mean, half_width: 0.0 });
        }
        // Satterthwaite's degrees of freedom.
        let freedom = error.powi(2) / (one.1.powi(2) / one.2 + two.1.powi(2) / two.2);
        let student = StudentsT::new(0.0, 1.0, freedom).expect("degrees of freedom are above 0");
        Some(Self { mean, half_width: student.inverse_cdf(0.975) * error.sqrt() })
    }

    /// True if 0 is outside the interval.
    pub fn is_clear(self) -> bool {
        self.mean.abs() > self.half_width
    }
}

/// The middle value, or the mean of the two middle ones; `None` if there are no values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[half]),
        _ => Some((sorted[half - 1] + sorted[half]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Welch's setting, by hand: means 2 and 6, variances 1 and 4, three values each.
    #[test]
    fn differences_of_known_samples() {
        let difference = Difference::of(&[5.0, 4.0, 9.0], &[1.0, 2.0, 3.0]).unwrap();
        assert_eq!(difference.mean, 4.0);
        // Squared errors 7/3 and 1/3; freedom (8/3)²/((7/3)²/2 + (1/3)²/2) = 2.56; t(0.975; 2.56) = 3.51542 by numerical integration.
        let wanted = 3.51542 * (8.0f64 / 3.0).sqrt();
        assert!((difference.half_width - wanted).abs() < 1e-4 * wanted, "{difference:?} {wanted}");
        assert!(!difference.is_clear());
        let clear = Difference::of(&[5.0, 5.1, 5.2], &[1.0, 1.1, 1.2]).unwrap();
        assert!(clear.is_clear());
        assert!(Difference::of(&[1.0], &[2.0, 3.0]).unwrap().half_width.is_infinite());
        assert_eq!(Difference::of(&[1.0, 1.0], &[1.0, 1.0]).unwrap().half_width, 0.0);
        assert_eq!(Difference::of(&[], &[1.0]), None);
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
