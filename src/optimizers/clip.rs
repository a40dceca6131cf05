//! Shortens the gradient of all parameters together to a largest norm, as PyTorch's `clip_grad_norm_`. Kernels:
//! `shaders/clip.wgsl`.

use super::{Array, Bounded, Launch};
use crate::tensor::{FLUSH, gamma};

/// Invocations of a workgroup, and parameters for each of them: a sum's order depends on the net alone.
const WORKGROUP: usize = 64;
const EACH: usize = 16;

/// Reference: shortens the gradients of all trained parameters of a net in place; 0 is no limit.
///
/// # Examples
/// ```
/// use shadernet::optimizers::clip;
/// use shadernet::tensor::Array;
///
/// let mut grads = [Array::exact(&[1], vec![3.0]), Array::exact(&[1], vec![4.0])];
/// clip::clip(&mut grads, 1.0);
/// assert!((grads[0].data[0] - 0.6).abs() < 1e-6 && (grads[1].data[0] - 0.8).abs() < 1e-6);
/// ```
pub fn clip(grads: &mut [Array], limit: f32) {
    if limit == 0.0 {
        return;
    }
    let factor = factor(grads, f64::from(limit));
    for grad in grads {
        for (value, bound) in grad.data.iter_mut().zip(&mut grad.bound) {
            let product = *value * factor.value;
            let carried = factor.value * *bound + (value.abs() + *bound) * factor.bound;
            (*value, *bound) = (product, carried + gamma(2) * product.abs() + FLUSH);
        }
    }
}

/// What the gradients are multiplied by.
fn factor(grads: &[Array], limit: f64) -> Bounded {
    let elements = || grads.iter().flat_map(|grad| grad.data.iter().zip(&grad.bound));
    let sum: f64 = elements().map(|(g, _)| g * g).sum();
    let count = elements().count();
    let carried: f64 = elements().map(|(g, error)| 2.0 * g.abs() * error + error * error).sum();
    // A product and a sum in any order; squares may be flushed to 0.
    let error = carried + gamma(count + 2) * sum + count as f64 * FLUSH;
    let of = |sum: f64| limit / (sum.max(0.0).sqrt() + 1e-6);
    let (value, largest) = (of(sum), of(sum - error));
    // A square root and a division, each of which WGSL allows 2.5 units in the last place or more, and a sum.
    let bound = largest - value + gamma(16) * largest;
    if value - bound >= 1.0 {
        Bounded { value: 1.0, bound: 0.0 }
    } else {
        Bounded { value: value.min(1.0), bound }
    }
}

/// Workgroups that sum up the squares of so many parameters.
pub(crate) fn groups(trained: usize) -> usize {
    trained.div_ceil(WORKGROUP * EACH).max(1)
}

/// The launches, for nets of `trained` parameters each, whose gradients are sums over `parts` rows of `elements`.
pub fn launches(elements: usize, parts: usize, trained: usize) -> [Launch; 2] {
    let groups = groups(trained);
    let constants = [
        ("ELEMENTS", elements as f64),
        ("PARTS", parts as f64),
        ("TRAINED", trained as f64),
        ("GROUPS", groups as f64),
    ];
    [("squares", groups * WORKGROUP), ("factor", WORKGROUP)]
        .map(|(entry_point, invocations)| Launch::new("clip", entry_point, invocations, constants))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_gradients_stay_as_they_are() {
        let mut grads = [Array::exact(&[2], vec![0.3, -0.4])];
        clip(&mut grads, 0.6);
        assert_eq!(grads[0].data, [0.3, -0.4]);
        clip(&mut grads, 0.0);
        assert_eq!(grads[0].data, [0.3, -0.4]);
        clip(&mut grads, 0.05);
        let norm = grads[0].data.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!((norm - 0.05).abs() < 1e-6, "{norm}");
    }
}
