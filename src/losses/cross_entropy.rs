//! Log-softmax and negative log-likelihood combined, with label smoothing (Szegedy et al. 2016). Kernels:
//! `shaders/cross_entropy.wgsl`.

use crate::layers::Launch;
use crate::tensor::{Array, Arrays, FLUSH, gamma};

/// What an image should be answered: its class, or a mixture of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Target {
    /// The class, which counts as the right answer.
    pub class: u8,
    /// The class of what is mixed in.
    pub other: u8,
    /// Its share in 1/65536, at most half.
    pub weight: u32,
}

impl From<u8> for Target {
    fn from(class: u8) -> Self {
        Self { class, other: 0, weight: 0 }
    }
}

impl Target {
    /// The class and the other, each with its share.
    pub fn parts(self) -> [(usize, f32); 2] {
        let other = self.weight as f32 * (1.0 / 65536.0);
        [(self.class.into(), 1.0 - other), (self.other.into(), other)]
    }

    /// As a word of the tensor `targets`.
    pub fn word(self) -> u32 {
        u32::from(self.class) | u32::from(self.other) << 8 | self.weight << 16
    }

    /// From a word of the tensor `targets`.
    pub fn from_word(word: u32) -> Self {
        Self { class: word as u8, other: (word >> 8) as u8, weight: word >> 16 }
    }
}

/// Loss of a batch: reads `logits` `[N, C]` (trailing axes of one are fine); makes `loss` `[N]`, one value per image,
/// and `grad_logits`, the gradient of the mean over the batch.
///
/// With q = (1 − s) · target + s/C, where the target is one-hot or a mixture of two that are: loss = −Σ q·log p and grad = (p − q) / N, where p = softmax(logits).
///
/// # Examples
/// ```
/// use shadernet::losses::cross_entropy::cross_entropy;
/// use shadernet::tensor::Array;
///
/// let made = cross_entropy(&Array::zeros(&[1, 4]), &[2], 0.0);
/// assert_eq!(made["loss"].data, [4f64.ln()]);
/// assert_eq!(made["grad_logits"].data, [0.25, 0.25, -0.75, 0.25]);
/// ```
pub fn cross_entropy<T: Into<Target> + Copy>(logits: &Array, targets: &[T], smoothing: f32) -> Arrays {
    weighted_cross_entropy(logits, targets, smoothing, &[])
}

/// The same where each class counts differently, or not if `weights` is empty, as PyTorch's `CrossEntropyLoss(weight=...)`: the
/// loss of the batch is Σ −w·q·log p over all images and classes, divided by the sum of the weights of the images' targets,
/// which label smoothing does not change; that of a mixture is the sum of its classes' by their shares. `loss` has the share of
/// each image, scaled so that their mean is that of the batch, and `grad_logits` is the gradient of this mean.
///
/// # Examples
/// ```
/// use shadernet::losses::cross_entropy::weighted_cross_entropy;
/// use shadernet::tensor::Array;
///
/// // The first of two images counts three times as much as the second.
/// let logits = Array::exact(&[2, 2], vec![0.0, 0.0, 0.0, 0.0]);
/// let made = weighted_cross_entropy(&logits, &[0, 1], 0.0, &[3.0, 1.0]);
/// assert_eq!(made["loss"].data, [1.5 * 2f64.ln(), 0.5 * 2f64.ln()]);
/// assert_eq!(made["grad_logits"].data, [-0.375, 0.375, 0.125, -0.125]);
/// ```
pub fn weighted_cross_entropy<T: Into<Target> + Copy>(
    logits: &Array,
    targets: &[T],
    smoothing: f32,
    weights: &[f32],
) -> Arrays {
    let n = logits.shape[0];
    let weight = |class: usize| weights.get(class).map_or(1.0, |&weight| f64::from(weight));
    let total_weight: f64 = targets
        .iter()
        .take(n)
        .map(|&target| {
            target.into().parts().map(|(class, share)| weight(class) * f64::from(share)).iter().sum::<f64>()
        })
        .sum();
    let share = if weights.is_empty() { 1.0 } else { n as f64 / total_weight };
    // Of the sum and the quotient; none without weights.
    let share_error = if weights.is_empty() { 0.0 } else { gamma(n + 8) };
    let classes = logits.data.len() / n;
    let smoothing = f64::from(smoothing);
    let mut loss = Array::zeros(&[n]);
    let mut grad_logits = Array::zeros(&logits.shape);
    for (image, &target) in targets.iter().enumerate().take(n) {
        let target: Target = target.into();
        let row = &logits.data[image * classes..][..classes];
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exps: Vec<f64> = row.iter().map(|z| (z - max).exp()).collect();
        let total: f64 = exps.iter().sum();
        let log_total = total.ln();
        // WGSL allows exp(x) 3 + 2|x| units in the last place, log 3 units or 2⁻²¹, and x = z − max is itself rounded.
        // Beyond a million, exp is 0; infinite logits would overflow the count.
        let exp_error = |z: f64| gamma(8 + 6 * (z - max).abs().ceil().min(1e6) as usize);
        let total_error: f64 =
            row.iter().zip(&exps).map(|(&z, e)| exp_error(z) * e).sum::<f64>() / total + gamma(classes);
        let log_error = total_error + gamma(6) * log_total.abs() + 1.0 / 2_097_152.0;
        let weighed = |class: usize| {
            let share = |(of, share): (usize, f32)| if of == class { f64::from(share) } else { 0.0 };
            let wanted: f64 = target.parts().map(share).iter().sum();
            weight(class) * ((1.0 - smoothing) * wanted + smoothing / classes as f64)
        };
        let all: f64 = if weights.is_empty() { 1.0 } else { (0..classes).map(weighed).sum() };
        let all_error = if weights.is_empty() { 0.0 } else { gamma(classes + 12) };
        for (class, &z) in row.iter().enumerate() {
            let q = weighed(class);
            let term = q * (log_total - (z - max)) * share;
            loss.data[image] += term;
            // q itself takes ten roundings: WGSL allows its division 2.5 units in the last place.
            let error = log_error + gamma(classes + 14) * (log_total.abs() + (z - max).abs());
            loss.bound[image] += q * share * error + share_error * term.abs();
            let p = exps[class] / total;
            let at = image * classes + class;
            grad_logits.data[at] = (all * p - q) * share / n as f64;
            let p_error = p * (exp_error(z) + total_error + gamma(6));
            let error = all * p_error + (gamma(18) + share_error + all_error) * (all * p + q);
            grad_logits.bound[at] = error * share / n as f64 + FLUSH;
        }
    }
    Arrays::from([("loss", loss), ("grad_logits", grad_logits)])
}

/// The launches: where classes have weights `weigh` (their sum over the batch), `forward` (loss, hits and, in training, the
/// gradient, with the net's label smoothing), then `metrics` (their sums).
pub fn launches(
    quads: usize,
    classes: usize,
    batch_size: usize,
    training: bool,
    weighted: bool,
) -> Vec<Launch> {
    let launch = |entry_point, invocations| {
        let constants = [
            ("QUADS", quads as f64),
            ("CLASSES", classes as f64),
            ("BATCH_SIZE", batch_size as f64),
            ("WEIGHTED", f64::from(u8::from(weighted))),
        ];
        Launch::new("cross_entropy", entry_point, invocations, constants)
    };
    let forward = if training { "forward" } else { "forward_eval" };
    let weigh = weighted.then(|| launch("weigh", 64));
    weigh.into_iter().chain([launch(forward, quads), launch("metrics", 64)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_classes_by_hand() {
        // logits (0, ln 3): p = (1/4, 3/4). Target 0: loss = ln 4, gradient (p − q)/1 = (−3/4, 3/4).
        let logits = Array::exact(&[1, 2], vec![0.0, 3f64.ln()]);
        let made = cross_entropy(&logits, &[0], 0.0);
        assert!((made["loss"].data[0] - 4f64.ln()).abs() < 1e-12);
        assert!((made["grad_logits"].data[0] + 0.75).abs() < 1e-12);
        assert!((made["grad_logits"].data[1] - 0.75).abs() < 1e-12);
    }

    #[test]
    fn gradient_is_the_slope_of_the_mean_loss() {
        let logits: Vec<f64> = (0..15).map(|i| f64::from(i * 7 % 11) * 0.3 - 1.0).collect();
        let targets = [4, 0, 2];
        let mean = |logits: Vec<f64>| -> f64 {
            cross_entropy(&Array::exact(&[3, 5], logits), &targets, 0.1)["loss"].data.iter().sum::<f64>()
                / 3.0
        };
        let grad = &cross_entropy(&Array::exact(&[3, 5], logits.clone()), &targets, 0.1)["grad_logits"];
        for i in 0..15 {
            let shifted = |by: f64| {
                let mut logits = logits.clone();
                logits[i] += by;
                mean(logits)
            };
            let slope = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
            assert!((slope - grad.data[i]).abs() < 1e-9, "{slope} {}", grad.data[i]);
        }
    }

    #[test]
    fn huge_logits_stay_finite() {
        let made = cross_entropy(&Array::exact(&[1, 3], vec![1e4, -1e4, 0.0]), &[1], 0.0);
        assert_eq!(made["loss"].data[0], 2e4);
    }
}
