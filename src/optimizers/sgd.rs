//! Stochastic gradient descent with momentum, as in PyTorch (Sutskever et al. 2013). Kernel: `shaders/sgd.wgsl`.
//!
//! g = grad + decay·p;  v = momentum·v + g;  p = p − rate·(v, or g + momentum·v with Nesterov)

use super::{Arrays, Bounded, Step, exact, given, put};

pub(super) fn update(momentum: f64, nesterov: bool, arrays: &Arrays, step: Step) -> Arrays {
    let (mut params, mut velocity) = (arrays["params"].clone(), arrays["velocity"].clone());
    for i in 0..params.data.len() {
        let p = exact(params.data[i]);
        let decay = arrays["weight_decay"].data[i];
        let grad = Bounded::sum(&[(1.0, given(&arrays["grads"], i)), (decay, p)]);
        let v = Bounded::sum(&[(momentum, exact(velocity.data[i])), (1.0, grad)]);
        let rate = -step.learning_rate;
        let moved = if nesterov {
            Bounded::sum(&[(1.0, p), (rate, grad), (rate * momentum, v)])
        } else {
            Bounded::sum(&[(1.0, p), (rate, v)])
        };
        put(&mut velocity, i, v);
        put(&mut params, i, moved);
    }
    Arrays::from([("params", params), ("velocity", velocity)])
}

pub(super) fn constants(momentum: f32, nesterov: bool) -> Vec<(&'static str, f64)> {
    vec![("MOMENTUM", f64::from(momentum)), ("NESTEROV", f64::from(u8::from(nesterov)))]
}
