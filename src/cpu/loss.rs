//! Log-softmax and negative log-likelihood of a block. Formula: `shaders/cross_entropy.wgsl`.

use super::kernels::LANES;
use crate::losses::cross_entropy::Target;

/// Sum of the losses and number of hits over the images that have a target. With `gradient` = (`grad_logits`, images
/// of the whole batch) also the gradient of the mean; lanes without a target get 0. `logits` and `grad_logits` are
/// [classes, 16].
pub(super) fn measure(
    logits: &[f32],
    targets: &[Target],
    smoothing: f32,
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
        let share = |class| shares(target, class) * (1.0 - smoothing) + spread;
        loss_sum += row().enumerate().map(|(class, z)| share(class) * (log_total - (z - max))).sum::<f32>();
        correct += usize::from(best == usize::from(target.class));
        softmax[lane] = (max, total);
    }
    if let Some((grad_logits, images)) = gradient {
        grad_logits.fill(0.0);
        let scale = 1.0 / images as f32;
        for (class, (grads, row)) in grad_logits.chunks_mut(LANES).zip(logits.chunks(LANES)).enumerate() {
            for (lane, &target) in targets.iter().enumerate() {
                let (max, total) = softmax[lane];
                let q = shares(target, class) * (1.0 - smoothing) + spread;
                grads[lane] = ((row[lane] - max).exp() / total - q) * scale;
            }
        }
    }
    (loss_sum, correct)
}

/// Share of a class in a target.
#[inline(always)]
fn shares(target: Target, class: usize) -> f32 {
    let [own, other] = target.shares();
    let of = |wanted: u8, share: f32| if class == usize::from(wanted) { share } else { 0.0 };
    of(target.class, own) + of(target.other, other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::cross_entropy::cross_entropy;
    use crate::tensor::Array;

    #[test]
    fn agrees_with_the_reference() {
        for smoothing in [0.0, 0.1] {
            let value = |i: usize| ((i * 7919 % 101) as f32 - 50.0) * 0.07;
            let logits: Vec<f32> = (0..5 * LANES).map(value).collect();
            let mixed = |i: u32| Target { class: (i % 5) as u8, other: (i % 3) as u8, weight: 3000 * i };
            let targets: Vec<Target> = (0..11).map(mixed).collect();
            let mut grad = vec![f32::NAN; logits.len()];
            let (loss, _) = measure(&logits, &targets, smoothing, Some((&mut grad, 11)));
            let rows = (0..11 * 5).map(|i| f64::from(logits[i % 5 * LANES + i / 5])).collect();
            let made = cross_entropy(&Array::exact(&[11, 5], rows), &targets, smoothing);
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
