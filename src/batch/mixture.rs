//! How much of an image is another one: quantiles of a Beta distribution, as integers, so that all devices draw the same.

use crate::state::QUANTILES;

/// One as a weight or a side.
pub(crate) const ONE: u32 = 1 << 16;

/// Quantiles of 0, 1/16, ..., 1 of min(λ, 1 − λ) for λ drawn from Beta(α, α): the other image's weight.
fn weights(alpha: f64) -> [f64; QUANTILES] {
    // The density of x up to 1/2 is that of λ: x^(α − 1) · (1 − x)^(α − 1). With s = x^α it is (1 − x)^(α − 1) / α, which has
    // no pole, so Simpson's rule sums it.
    const CELLS: usize = 4096;
    let end = libm::pow(0.5, alpha);
    let x = |s: f64| libm::pow(s, 1.0 / alpha);
    let density = |s: f64| libm::pow(1.0 - x(s), alpha - 1.0);
    let width = end / CELLS as f64;
    let mut below = vec![0.0];
    for cell in 0..CELLS {
        let from = width * cell as f64;
        let area = density(from) + 4.0 * density(from + 0.5 * width) + density(from + width);
        below.push(below[cell] + area);
    }
    let total = below[CELLS];
    std::array::from_fn(|quantile| {
        let wanted = total * quantile as f64 / (QUANTILES - 1) as f64;
        let cell = below.partition_point(|&area| area < wanted).clamp(1, CELLS);
        let inside = (wanted - below[cell - 1]) / (below[cell] - below[cell - 1]);
        x(width * ((cell - 1) as f64 + inside)).min(0.5)
    })
}

/// [`weights`] in 1/65536.
pub(crate) fn mix_weights(alpha: f32) -> [u32; QUANTILES] {
    weights(alpha.into()).map(|weight| (weight * f64::from(ONE)) as u32)
}

/// Sides, as shares of an image's in 1/65536, of rectangles that have these shares of its area.
pub(crate) fn mix_sides(alpha: f32) -> [u32; QUANTILES] {
    weights(alpha.into()).map(|weight| (weight.sqrt() * f64::from(ONE)) as u32)
}

/// A value drawn by its quantiles, between which it is uniform.
pub(crate) fn drawn(quantiles: &[u32; QUANTILES], word: u32) -> u32 {
    let (bin, inside) = ((word >> 28) as usize, (word >> 12) & 0xffff);
    let (low, high) = (quantiles[bin], quantiles[bin + 1]);
    low + (((high - low) * inside) >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    #[test]
    fn quantiles_of_a_uniform_weight_are_evenly_spaced() {
        for (quantile, weight) in weights(1.0).into_iter().enumerate() {
            assert!((weight - quantile as f64 / 32.0).abs() < 1e-12, "{quantile}: {weight}");
        }
    }

    /// By their closed form for α = 2: x²(3 − 2x) is the distribution, half of it below 1/2.
    #[test]
    fn quantiles_of_a_parabola() {
        for (quantile, x) in weights(2.0).into_iter().enumerate() {
            let below = 2.0 * x * x * (3.0 - 2.0 * x);
            assert!((below - quantile as f64 / 16.0).abs() < 1e-7, "{quantile}: {below}");
        }
    }

    /// E[λ(1 − λ)] = α / (2(2α + 1)) for Beta(α, α).
    #[test]
    fn drawn_weights_have_the_moment_of_the_distribution() {
        for alpha in [0.1, 0.2, 0.4, 1.0, 4.0] {
            let quantiles = mix_weights(alpha);
            let draws = 40_000;
            let product = |element| {
                let weight = f64::from(drawn(&quantiles, rng::words(7, 0, 0, element)[0])) / f64::from(ONE);
                assert!(weight <= 0.5);
                weight * (1.0 - weight)
            };
            let mean = (0..draws).map(product).sum::<f64>() / f64::from(draws);
            let alpha = f64::from(alpha);
            let want = alpha / (2.0 * (2.0 * alpha + 1.0));
            // Chords of a convex curve are above it, most where it bends most: at small α.
            assert!((mean / want - 1.0).abs() < 0.06, "α = {alpha}: {mean}, not {want}");
        }
    }

    #[test]
    fn rectangles_have_the_drawn_areas() {
        for (side, weight) in mix_sides(0.7).into_iter().zip(mix_weights(0.7)) {
            let area = f64::from(side) * f64::from(side) / f64::from(ONE);
            assert!((area - f64::from(weight)).abs() < 3.0, "{area} {weight}");
        }
    }
}
