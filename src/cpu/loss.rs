//! Log-softmax and negative log-likelihood of a block. Formula: `shaders/cross_entropy.wgsl`.

use super::kernels::LANES;
use crate::losses::cross_entropy::Target;

/// What classes count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights<'a> {
    /// Of each class.
    pub(super) of_classes: &'a [f32],
    /// Of the targets of the whole batch, together.
    pub(super) total: f32,
    /// Images of the whole batch.
    pub(super) images: usize,
}

/// Sum of the losses and number of hits over the images that have a target. With `gradient` = (`grad_logits`, images
/// of the whole batch) also the gradient of the mean; lanes without a target get 0. `logits` and `grad_logits` are
/// [classes, 16].
pub(super) fn measure(
    logits: &[f32],
    targets: &[Target],
    smoothing: f32,
    weights: Option<Weights<'_>>,
    gradient: Option<(&mut [f32], usize)>,
) -> (f32, usize) {
    let classes = logits.len() / LANES;
    let spread = smoothing / classes as f32;
    let (mut loss_sum, mut correct) = (0.0, 0);
    let mut softmax = [(0.0, 1.0); LANES];
    for (lane, &target) in targets.iter().enumerate() {
        let row = || logits.iter().skip(lane).step_by(LANES).copied();
        let (best, max) = row()
            .enumerate()
            .fold((0, f32::NEG_INFINITY), |best, (class, z)| if z > best.1 { (class, z) } else { best });
        let total: f32 = row().map(|z| (z - max).exp()).sum();
        let log_total = total.ln();
        let share = |class| share(target, class) * (1.0 - smoothing) + spread;
        loss_sum += match weights {
            None => row().enumerate().map(|(class, z)| share(class) * (log_total - (z - max))).sum::<f32>(),
            Some(Weights { of_classes, total, images }) => {
                let weighed = |(class, z)| of_classes[class] * share(class) * (log_total - (z - max));
                row().enumerate().map(weighed).sum::<f32>() * (images as f32 / total)
            }
        };
        correct += usize::from(best == usize::from(target.class));
        softmax[lane] = (max, total);
    }
    if let Some((grad_logits, images)) = gradient {
        grad_logits.fill(0.0);
        let scale = weights.map_or(1.0 / images as f32, |weights| 1.0 / weights.total);
        // Σ w·q of each image.
        let mut all = [1.0; LANES];
        if let Some(Weights { of_classes, .. }) = weights {
            let spread_over_all = spread * of_classes.iter().sum::<f32>();
            for (all, &target) in all.iter_mut().zip(targets) {
                *all = spread_over_all + (1.0 - smoothing) * weight_of(target, of_classes);
            }
        }
        for (class, (grads, row)) in grad_logits.chunks_mut(LANES).zip(logits.chunks(LANES)).enumerate() {
            let weight = weights.map_or(1.0, |weights| weights.of_classes[class]);
            for (lane, &target) in targets.iter().enumerate() {
                let (max, total) = softmax[lane];
                let q = share(target, class) * (1.0 - smoothing) + spread;
                grads[lane] = (all[lane] * ((row[lane] - max).exp() / total) - weight * q) * scale;
            }
        }
    }
    (loss_sum, correct)
}

/// Share of a class in a target.
#[inline(always)]
fn share(target: Target, class: usize) -> f32 {
    let [own, other] = target.parts().map(|(wanted, share)| if class == wanted { share } else { 0.0 });
    own + other
}

/// What a target counts where classes have weights.
pub(super) fn weight_of(target: Target, of_classes: &[f32]) -> f32 {
    let [own, other] = target.parts().map(|(class, share)| of_classes[class] * share);
    own + other
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::cross_entropy::weighted_cross_entropy;
    use crate::tensor::Array;

    #[test]
    fn agrees_with_the_reference() {
        let given = [0.5f32, 3.0, 0.25, 1.75, 0.8];
        for (smoothing, of_classes) in [(0.0, None), (0.1, None), (0.0, Some(&given)), (0.1, Some(&given))] {
            let value = |i: usize| ((i * 7919 % 101) as f32 - 50.0) * 0.07;
            let logits: Vec<f32> = (0..5 * LANES).map(value).collect();
            let mixed = |i: u32| Target { class: (i % 5) as u8, other: (i % 3) as u8, weight: 3000 * i };
            let targets: Vec<Target> = (0..11).map(mixed).collect();
            let mut grad = vec![f32::NAN; logits.len()];
            let weights = of_classes.map(|of_classes| {
                let total = targets.iter().map(|&target| weight_of(target, of_classes)).sum();
                Weights { of_classes, total, images: 11 }
            });
            let (loss, _) = measure(&logits, &targets, smoothing, weights, Some((&mut grad, 11)));
            let rows = (0..11 * 5).map(|i| f64::from(logits[i % 5 * LANES + i / 5])).collect();
            let given = of_classes.map_or(&[][..], |weights| weights);
            let made = weighted_cross_entropy(&Array::exact(&[11, 5], rows), &targets, smoothing, given);
            let want: f64 = made["loss"].data.iter().sum();
            assert!((f64::from(loss) - want).abs() < 1e-5 * want, "{loss} {want}");
            for i in 0..11 * 5 {
                let error = (f64::from(grad[i % 5 * LANES + i / 5]) - made["grad_logits"].data[i]).abs();
                assert!(error <= made["grad_logits"].bound[i], "{i}: {error}");
            }
            assert!(grad.chunks(LANES).all(|lanes| lanes[11..].iter().all(|&g| g == 0.0)));
        }
    }
}
