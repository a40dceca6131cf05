//! Exponential moving average of weights and running statistics. Kernel: `shaders/average.wgsl`.
//!
//! average = d·average + (1 − d)·value with d = min(decay, (1 + t) / (10 + t)), so the first steps don't dominate for
//! ever (the warm-up of TensorFlow's `ExponentialMovingAverage`).

use super::{Array, Bounded, Launch, exact, put};

/// The decay in step `step`.
pub fn decay(decay: f32, step: u32) -> f32 {
    let t = step as f32;
    decay.min((1.0 + t) / (10.0 + t))
}

/// Reference: the new average.
pub fn update(average: &Array, values: &Array, decay_limit: f32, step: u32) -> Array {
    let d = f64::from(decay(decay_limit, step));
    let mut new = average.clone();
    for i in 0..new.data.len() {
        // average + (1 − d)·(value − average): the difference of two close numbers loses nothing.
        put(&mut new, i, Bounded::sum(&[(d, exact(average.data[i])), (1.0 - d, exact(values.data[i]))]));
        // In the warm-up d is a quotient, which WGSL allows 2.5 units in the last place, and 1 − d does not reduce that.
        new.bound[i] += crate::tensor::gamma(6) * (average.data[i].abs() + values.data[i].abs());
    }
    new
}

/// The launch that updates `elements` averages of the vector that the shader knows as `values`.
pub fn launch(decay: f32, elements: usize) -> Launch {
    Launch::new("average", "update", elements, [("ELEMENTS", elements as f64), ("DECAY", f64::from(decay))])
}
