//! Mean and variance of the values that a layer normalises, and what is derived from them.

use crate::tensor::{FLUSH, Sum, gamma};

/// A value and the bound on its `f32` error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounded {
    pub(super) value: f64,
    pub(super) bound: f64,
}

impl Bounded {
    pub(super) fn exact(value: f64) -> Self {
        Self { value, bound: 0.0 }
    }

    /// Largest possible magnitude.
    pub(super) fn largest(self) -> f64 {
        self.value.abs() + self.bound
    }
}

/// Statistics that normalise a set of values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moments {
    pub(super) mean: Bounded,
    /// Biased: the mean of the squared deviations from the mean.
    pub(super) var: Bounded,
    /// 1/√(var + eps)
    pub(super) inv_std: Bounded,
    pub(super) count: usize,
}

impl Moments {
    /// The moments of `values`, of which there is at least one. The bounds hold for sums taken relative to zero or to
    /// the first value f (which the kernels do, against cancellation), in any order, with D = Σ d/m the mean of the m
    /// differences d = x − f:
    ///
    /// - mean = f + D. A difference is rounded once, its sum m − 1 times, and the division is accurate to 2.5 units
    ///   in the last place, five roundings: D is off by γ(m + 5) · Σ|d|/m, where Σ|d|/m ≤ Σ|x|/m + |f|; the last
    ///   addition rounds |mean|, which is at most Σ|x|/m.
    /// - var = Σ d²/m − D². A square has three roundings (two for its factor), so the first part is off by γ(m + 7) ·
    ///   A, A = Σ d²/m. Since (Σ|d|/m)² ≤ A, the square of D is off by (2γ(m + 5) + γ(1)) · A plus second-order
    ///   terms. The difference rounds var ≤ A. In total less than 3γ(m + 7) · A.
    /// - A difference, a square or a quotient may be flushed to zero, each an error of [`FLUSH`] in the mean of as
    ///   many.
    pub(super) fn of(values: impl Iterator<Item = f64> + Clone, eps: f64) -> Self {
        let first = values.clone().next().expect("something to normalise");
        let (mut sum, mut around_first) = (Sum::default(), 0.0);
        for x in values.clone() {
            sum.add(x);
            around_first += (x - first) * (x - first);
        }
        let count = sum.terms;
        let m = count as f64;
        let mean = sum.value / m;
        let var = values.map(|x| (x - mean) * (x - mean)).sum::<f64>() / m;
        let mean_bound = gamma(count + 6) * (sum.magnitude / m + first.abs()) + 2.0 * FLUSH;
        let var_bound = 3.0 * gamma(count + 7) * around_first / m + 4.0 * FLUSH;
        let var = Bounded { value: var, bound: var_bound };
        let mean = Bounded { value: mean, bound: mean_bound };
        Self { mean, var, inv_std: inv_std(var, eps), count }
    }
}

/// 1/√(var + eps). Eight roundings: sum, square root and division; WGSL allows each two units in the last place.
pub(super) fn inv_std(var: Bounded, eps: f64) -> Bounded {
    let value = 1.0 / (var.value + eps).sqrt();
    let largest = 1.0 / ((var.value - var.bound).max(0.0) + eps).sqrt();
    Bounded { value, bound: largest - value + gamma(8) * largest }
}
