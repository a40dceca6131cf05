//! How far probabilities can be believed, and a temperature that makes them more honest.
//!
//! Guo et al., "On Calibration of Modern Neural Networks", 2017: all logits divided by one number, chosen so that images that
//! were not learnt from have the smallest loss. The order of the classes stays, and with it every answer.

/// Bins of the expected calibration error, as in the paper.
const BINS: usize = 15;
/// Temperatures beyond these are no calibration.
const RANGE: [f64; 2] = [0.05, 20.0];

/// The temperature at which the mean loss of images is smallest, from their logits `[images, classes]` and labels, to four
/// digits. They must be neither images that the network learnt from nor those that it is judged on. `None` if there is no
/// such temperature from 1/20 to 20: if all answers are right, say, the loss falls without end as the temperature does.
///
/// # Examples
/// ```
/// use shadernet::eval::fit_temperature;
///
/// // Three of four answers are right, so their probability should be 3/4: e^(ln 3) : 1.
/// let logits = [4.0, 0.0, 4.0, 0.0, 4.0, 0.0, 4.0, 0.0];
/// let temperature = fit_temperature(&logits, &[0, 0, 0, 1], 2).unwrap();
/// assert!((temperature - 4.0 / 3f32.ln()).abs() < 1e-3);
/// assert_eq!(fit_temperature(&logits, &[0, 0, 0, 0], 2), None);
/// ```
pub fn fit_temperature(logits: &[f32], labels: &[u8], classes: usize) -> Option<f32> {
    let [hottest, coldest] = RANGE.map(|temperature| slopes(logits, labels, classes, 1.0 / temperature));
    // The loss is convex in 1/temperature, so its slope changes sign once, or not at all.
    let is_finite = hottest.0.is_finite() && coldest.0.is_finite();
    if !(is_finite && coldest.0 < 0.0 && hottest.0 > 0.0) {
        return None;
    }
    let [mut high, mut low] = RANGE.map(|temperature| 1.0 / temperature);
    let mut inverse: f64 = 1.0;
    for _ in 0..100 {
        let (slope, curvature) = slopes(logits, labels, classes, inverse);
        if slope > 0.0 {
            high = inverse;
        } else {
            low = inverse;
        }
        // Newton's step, or half of what is left if that leads out of it.
        let newton = inverse - slope / curvature;
        let next = if low < newton && newton < high { newton } else { (low + high) / 2.0 };
        let moved = (next - inverse).abs();
        inverse = next;
        if moved < 1e-9 * inverse {
            break;
        }
    }
    let temperature = 1.0 / inverse;
    let unit = 10f64.powf(temperature.log10().floor() - 3.0);
    Some(((temperature / unit).round() * unit) as f32)
}

/// First and second derivative of the summed loss in 1/temperature.
fn slopes(logits: &[f32], labels: &[u8], classes: usize, inverse: f64) -> (f64, f64) {
    let (mut first, mut second) = (0.0, 0.0);
    for (logits, &label) in logits.chunks(classes).zip(labels) {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (mut sum, mut mean, mut square) = (0.0, 0.0, 0.0);
        for &logit in logits {
            let logit = f64::from(logit) - f64::from(largest);
            let power = (inverse * logit).exp();
            (sum, mean, square) = (sum + power, mean + power * logit, square + power * logit * logit);
        }
        (mean, square) = (mean / sum, square / sum);
        first += mean - (f64::from(logits[usize::from(label)]) - f64::from(largest));
        second += square - mean * mean;
    }
    (first, second)
}

/// Softmax of an image's logits at a temperature.
pub(crate) fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // Without the largest, exp would overflow.
    let powers = logits.iter().map(|&logit| ((f64::from(logit) - f64::from(largest)) / temperature).exp());
    let mut powers: Vec<f64> = powers.collect();
    let sum: f64 = powers.iter().sum();
    powers.iter_mut().for_each(|power| *power /= sum);
    powers
}

/// Expected calibration error, from 0 to 1, of images with these logits `[images, classes]` and labels at a temperature: by how
/// much the probability of an answer differs from how often such answers are right, in the mean over images, which are sorted
/// into 15 bins by this probability.
///
/// # Examples
/// ```
/// use shadernet::eval::calibration_error;
///
/// // Half of the answers are right; the net gives them a probability of 1/2 and, half as warm, of 4/5.
/// let logits = [2f32.ln(), 0.0, 2f32.ln(), 0.0];
/// assert!((calibration_error(&logits, &[0, 1], 2, 1.0) - (2.0 / 3.0 - 0.5)).abs() < 1e-6);
/// assert!((calibration_error(&logits, &[0, 1], 2, 0.5) - (4.0 / 5.0 - 0.5)).abs() < 1e-6);
/// ```
pub fn calibration_error(logits: &[f32], labels: &[u8], classes: usize, temperature: f32) -> f64 {
    // Of each bin: the sum of the probabilities less that of the right answers.
    let mut bins = [0.0; BINS];
    for (logits, &label) in logits.chunks(classes).zip(labels) {
        let answer = super::confusion::answer(logits);
        let probability = softmax(logits, temperature.into())[answer];
        // A bin includes its upper limit.
        let bin = ((probability * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
        bins[bin] += probability - f64::from(u8::from(answer == usize::from(label)));
    }
    bins.iter().map(|bin| bin.abs()).sum::<f64>() / labels.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    /// Logits of `count` images, and labels drawn from their softmax at `temperature`.
    fn drawn(count: usize, classes: usize, temperature: f64) -> (Vec<f32>, Vec<u8>) {
        let number = |a: usize, b: usize| {
            f64::from(rng::pcg4d([a as u32, b as u32, classes as u32, 7])[0]) / f64::from(u32::MAX)
        };
        let logits: Vec<f32> = (0..count * classes).map(|at| (number(at, 0) * 12.0 - 6.0) as f32).collect();
        let label = |(image, logits): (usize, &[f32])| {
            let mut left = number(image, 1);
            let probabilities = softmax(logits, temperature);
            let drawn = probabilities.iter().position(|probability| {
                left -= probability;
                left < 0.0
            });
            drawn.unwrap_or(classes - 1) as u8
        };
        let labels = logits.chunks(classes).enumerate().map(label).collect();
        (logits, labels)
    }

    fn loss(logits: &[f32], labels: &[u8], classes: usize, temperature: f64) -> f64 {
        let losses = logits
            .chunks(classes)
            .zip(labels)
            .map(|(logits, &label)| -softmax(logits, temperature)[usize::from(label)].ln());
        losses.sum::<f64>() / labels.len() as f64
    }

    #[test]
    fn the_temperature_is_that_of_a_search_which_knows_no_slopes() {
        for (count, classes, temperature) in [(500, 10, 1.7), (300, 3, 0.6), (2000, 100, 1.0), (60, 2, 5.0)] {
            let (logits, labels) = drawn(count, classes, temperature);
            let fitted = fit_temperature(&logits, &labels, classes).unwrap();
            // Golden section on the loss itself.
            let ratio = (5f64.sqrt() - 1.0) / 2.0;
            let [mut low, mut high] = RANGE;
            while high - low > 1e-7 {
                let [a, b] = [high - ratio * (high - low), low + ratio * (high - low)];
                if loss(&logits, &labels, classes, a) < loss(&logits, &labels, classes, b) {
                    high = b;
                } else {
                    low = a;
                }
            }
            assert!((f64::from(fitted) / low - 1.0).abs() < 1e-3, "{fitted} against {low}");
            // Labels drawn at a temperature have it, but for chance.
            if count >= 500 {
                assert!((f64::from(fitted) / temperature - 1.0).abs() < 0.15, "{fitted} for {temperature}");
                let [before, after] =
                    [1.0, fitted].map(|it| calibration_error(&logits, &labels, classes, it));
                assert!(temperature == 1.0 || after < before / 2.0, "{before} to {after}");
            }
        }
    }

    #[test]
    fn where_no_temperature_is_best_there_is_none() {
        let sure = [[9.0, 0.0], [0.0, 9.0]].concat();
        // All right, all wrong, no images, no number, and logits without an opinion.
        for (logits, labels) in [
            (&sure[..], &[0, 1][..]),
            (&sure, &[1, 0]),
            (&[], &[]),
            (&[f32::NAN, 0.0], &[0]),
            (&[0.0, 0.0, 0.0, 0.0], &[0, 1]),
        ] {
            assert_eq!(fit_temperature(logits, labels, 2), None, "{logits:?} {labels:?}");
        }
    }

    /// Worked out by hand: answers with probabilities 0.55 (wrong), 0.65 (right) and 0.9 and 0.91 (right)
    /// lie in bins 9, 10 and 14.
    #[test]
    fn the_error_of_known_probabilities() {
        let logit = |probability: f64| [(probability / (1.0 - probability)).ln() as f32, 0.0];
        let logits = [logit(0.55), logit(0.65), logit(0.9), logit(0.91)].concat();
        let error = calibration_error(&logits, &[1, 0, 0, 0], 2, 1.0);
        let want = (0.55 + 0.35 + (0.1f64 + 0.09)) / 4.0;
        assert!((error - want).abs() < 1e-6, "{error}");
    }

    #[test]
    fn probabilities_of_known_logits() {
        let probabilities = softmax(&[1000.0, 1000.0 + 3f32.ln(), -1000.0], 1.0);
        for (got, want) in probabilities.iter().zip([0.25, 0.75, 0.0]) {
            assert!((got - want).abs() < 1e-4, "{probabilities:?}");
        }
        let warm = softmax(&[2.0, 0.0], 2.0);
        assert!((warm[0] - 1.0 / (1.0 + (-1f64).exp())).abs() < 1e-12);
    }
}
