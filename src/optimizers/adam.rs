//! Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019), as in PyTorch. Kernel: `shaders/adam.wgsl`.
//!
//! m = β₁·m + (1 − β₁)·g;  s = β₂·s + (1 − β₂)·g²;  p = p − rate · (m / (1 − β₁ᵗ)) / (√(s / (1 − β₂ᵗ)) + eps)
//! Adam adds decay·p to the gradient; AdamW multiplies p by 1 − rate·decay first.

use super::{Arrays, Bounded, Step, exact, given, put};
use crate::tensor::gamma;

pub(super) fn update([beta1, beta2, eps]: [f32; 3], decoupled: bool, arrays: &Arrays, step: Step) -> Arrays {
    let [beta1, beta2, eps] = [beta1, beta2, eps].map(f64::from);
    let [mut params, mut first, mut second] =
        ["params", "first_moment", "second_moment"].map(|name| arrays[name].clone());
    let time = step.step + 1;
    let [correction1, correction2] = [beta1, beta2].map(|beta| 1.0 - beta.powf(f64::from(time)));
    // Repeated squaring: each bit of the time adds at most five roundings, and no error grows, as nothing cancels.
    let corrections = 2.0 * gamma(5 * (32 - time.leading_zeros() as usize));
    for i in 0..params.data.len() {
        let (p, decay) = (exact(params.data[i]), arrays["weight_decay"].data[i]);
        let grad = given(&arrays["grads"], i);
        let (p, grad) = if decoupled {
            (Bounded::sum(&[(1.0, p), (-step.learning_rate * decay, p)]), grad)
        } else {
            (p, Bounded::sum(&[(1.0, grad), (decay, p)]))
        };
        let m = Bounded::sum(&[(beta1, exact(first.data[i])), (1.0 - beta1, grad)]);
        let squared = Bounded {
            value: grad.value * grad.value,
            bound: 2.0 * grad.value.abs() * grad.bound + grad.bound * grad.bound,
        };
        let s = Bounded::sum(&[(beta2, exact(second.data[i])), (1.0 - beta2, squared)]);
        let root = (s.value / correction2).sqrt() + eps;
        let smallest = ((s.value - s.bound).max(0.0) / correction2).sqrt() + eps;
        let change = step.learning_rate * (m.value / correction1) / root;
        // To first order in the numerator's error, and exactly in the denominator's.
        let largest = step.learning_rate * ((m.value.abs() + m.bound) / correction1) / smallest;
        let change = Bounded {
            value: change,
            // Three divisions and a square root, each of which WGSL allows 2.5 units in the last place or more (five
            // roundings; a root is two such operations), and the products and sums between them.
            bound: largest - change.abs() + (corrections + gamma(28)) * largest,
        };
        let moved = Bounded::sum(&[(1.0, p), (-1.0, change)]);
        put(&mut first, i, m);
        put(&mut second, i, s);
        put(&mut params, i, moved);
    }
    Arrays::from([("params", params), ("first_moment", first), ("second_moment", second)])
}

pub(super) fn constants([beta1, beta2, eps]: [f32; 3], decoupled: bool) -> Vec<(&'static str, f64)> {
    vec![
        ("BETA1", f64::from(beta1)),
        ("BETA2", f64::from(beta2)),
        ("EPS", f64::from(eps)),
        ("DECOUPLED", f64::from(u8::from(decoupled))),
    ]
}
