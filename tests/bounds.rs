//! The error bounds of layers, by hand: a bound that is too large would pass every comparison.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use common::parse;
use shadernet::layers::Context;
use shadernet::tensor::{Array, Arrays, FLUSH, gamma};

fn context(training: bool) -> Context {
    Context { training, seed: 11, step: 3, layer: 4, first_image: 0 }
}

fn column(values: &[f64]) -> Array {
    Array::exact(&[values.len(), 1, 1, 1], values.to_vec())
}

fn vector(values: &[f64]) -> Array {
    Array::exact(&[values.len()], values.to_vec())
}

/// Differences of close numbers leave nine correct digits of these bounds; the smallest term is a millionth of them.
#[track_caller]
fn assert_bounds(array: &Array, want: &[f64]) {
    assert_eq!(array.bound.len(), want.len());
    for (got, want) in array.bound.iter().zip(want) {
        assert!((got - want).abs() <= 1e-9 * want, "{:?}, not {want:e}", array.bound);
    }
}

#[test]
fn sums_have_their_bounds() {
    // Output 0.5 + 2·3 − 5·7: three terms of magnitude 41.5.
    let arrays = || {
        Arrays::from([
            ("input", Array::exact(&[1, 2, 1, 1], vec![3.0, 7.0])),
            ("weight", Array::exact(&[1, 2, 1, 1], vec![2.0, -5.0])),
            ("bias", vector(&[0.5])),
            ("grad_output", column(&[-4.0])),
        ])
    };
    let layer = parse("conv2d", "out_channels = 1\nkernel = 1").unwrap();
    assert_bounds(&layer.forward(&arrays(), &context(true))["output"], &[gamma(5) * 41.5]);
    let made = layer.backward(&arrays(), &context(true));
    assert_bounds(&made["grad_input"], &[gamma(3) * 8.0, gamma(3) * 20.0]);
    assert_bounds(&made["grad_weight"], &[gamma(3) * 12.0, gamma(3) * 28.0]);
    assert_bounds(&made["grad_bias"], &[gamma(3) * 4.0]);

    let input = || Array::exact(&[1, 1, 1, 4], vec![3.0, -7.0, 0.0, 0.0]);
    let mut arrays = Arrays::from([("input", input()), ("grad_output", input())]);
    let layer = parse("global_avg_pool2d", "").unwrap();
    assert_bounds(&layer.forward(&arrays, &context(true))["output"], &[gamma(6) * 2.5]);
    arrays.insert("grad_output", column(&[-6.0]));
    assert_bounds(&layer.backward(&arrays, &context(true))["grad_input"], &[gamma(3) * 1.5; 4]);
}

#[test]
fn one_product_has_the_bound_of_one_rounding() {
    let input = || Array::exact(&[1, 1, 1, 3], vec![-3.0, 0.0, 5.0]);
    let arrays = Arrays::from([("input", input())]);
    let output = |kind, keys| parse(kind, keys).unwrap().forward(&arrays, &context(true))["output"].clone();
    let bound = output("leaky_relu", "negative_slope = 0.5").bound;
    // A zero may still be a flushed product; multiplying by 0 or 1 is exact.
    assert_eq!(bound, [gamma(1) * 1.5 + FLUSH, FLUSH, 0.0]);
    assert_eq!(output("relu", "").bound, [0.0; 3]);
    let dropped = output("dropout", "rate = 0.5");
    assert_eq!(dropped.bound[1], FLUSH);
    for (value, bound) in dropped.data.iter().zip(dropped.bound) {
        assert_eq!(bound, gamma(1) * value.abs() + FLUSH);
    }
}

const FUNCTIONS: [&str; 10] =
    ["gelu", "hard_sigmoid", "hard_swish", "leaky_relu", "prelu", "relu", "relu6", "sigmoid", "silu", "tanh"];

/// An activation's output for each number, and its gradient for an upstream gradient of 1.
fn activated(kind: &str, x: &[f64]) -> [Array; 2] {
    let layer = parse(kind, "").unwrap();
    let mut arrays = Arrays::from([("input", column(x)), ("weight", vector(&[0.25]))]);
    let made = layer.forward(&arrays, &context(true));
    arrays.insert("output", Array::exact(&[x.len(), 1, 1, 1], made["output"].data.clone()));
    arrays.insert("grad_output", column(&vec![1.0; x.len()]));
    [made["output"].clone(), layer.backward(&arrays, &context(true))["grad_input"].clone()]
}

/// The bounds include the difference between the kernels' formulas and the functions: a wrong coefficient would show here.
#[test]
fn formulas_of_activations_are_close_to_the_functions() {
    let x: Vec<f64> = (-4000..=4000).map(|i| f64::from((f64::from(i) * 0.005) as f32)).collect();
    for kind in FUNCTIONS {
        let [output, gradient] = activated(kind, &x);
        let (mut forward, mut backward) = (0.0f64, 0.0f64);
        for (index, x) in x.iter().enumerate() {
            // exp's error, and a few units in the last place.
            let allowed = 2f64.powi(-23) * (10.0 + 2.0 * x.abs());
            forward = forward.max(output.bound[index] / (allowed * x.abs().max(0.5)));
            backward = backward.max(gradient.bound[index] / allowed);
        }
        println!("{kind}: {forward:.2} forward, {backward:.2} backward");
        assert!(forward < 1.0 && backward < 1.0, "{kind}: {forward} {backward}");
    }
}

#[test]
fn activations_of_large_numbers_are_finite_and_known() {
    let x = [1e4, -1e4, 1e30, -1e30];
    for kind in FUNCTIONS {
        let arrays = activated(kind, &x);
        for (index, x) in x.iter().enumerate() {
            for array in &arrays {
                let (value, bound) = (array.data[index], array.bound[index]);
                assert!(
                    value.is_finite() && bound <= 1e-5 * value.abs() + 1e-6,
                    "{kind}({x}): {value} {bound}"
                );
            }
        }
    }
}

const NORM: &str = "eps = 0.5\nmomentum = 0.25";

/// A channel of three values, 3, 7 and 11: mean 7, biased variance 32/3, unbiased 16.
#[test]
fn batch_norm_in_training_has_its_bounds() {
    let weight = -1.5f64;
    let arrays = Arrays::from([
        ("input", column(&[3.0, 7.0, 11.0])),
        ("weight", vector(&[weight])),
        ("bias", vector(&[10.0])),
        ("running_mean", vector(&[-3.0])),
        ("running_var", vector(&[5.0])),
    ]);
    let made = parse("batch_norm2d", NORM).unwrap().forward(&arrays, &context(true));
    let var = 32.0 / 3.0;
    // Nine roundings: three terms plus six; magnitude 21/3 and the first value.
    let mean_bound = gamma(9) * (7.0 + 3.0);
    // Squares relative to the first value, 0 + 16 + 64.
    let var_bound = 3.0 * gamma(10) * 80.0 / 3.0;
    let inv_std = 1.0 / (var + 0.5f64).sqrt();
    let largest = 1.0 / (var - var_bound + 0.5).sqrt();
    let inv_std_bound = (largest - inv_std) + gamma(8) * largest;
    assert_bounds(&made["mean"], &[mean_bound]);
    assert_bounds(&made["inv_std"], &[inv_std_bound]);
    let output = |centred: f64, size: f64| {
        let statistics = inv_std * mean_bound + centred * inv_std_bound + mean_bound * inv_std_bound;
        1.5 * statistics + gamma(6) * (size * inv_std * 1.5 + 10.0)
    };
    assert_bounds(&made["output"], &[output(4.0, 10.0), output(0.0, 14.0), output(4.0, 18.0)]);
    assert_eq!(made["running_mean"].data, [0.75 * -3.0 + 0.25 * 7.0]);
    assert_bounds(&made["running_mean"], &[0.25 * mean_bound + gamma(5) * (2.25 + 1.75)]);
    assert!((made["running_var"].data[0] - (0.75 * 5.0 + 0.25 * 16.0)).abs() < 1e-12);
    assert_bounds(&made["running_var"], &[0.25 * var_bound * 1.5 + gamma(5) * (3.75 + 4.0)]);
}

#[test]
fn batch_norm_in_evaluation_has_its_bounds() {
    let arrays = |weight, bias| {
        Arrays::from([
            ("input", column(&[3.0, -7.0])),
            ("weight", vector(&[weight])),
            ("bias", vector(&[bias])),
            ("running_mean", vector(&[-5.0])),
            ("running_var", vector(&[3.5])),
        ])
    };
    let layer = parse("batch_norm2d", NORM).unwrap();
    let made = layer.forward(&arrays(-1.5, 10.0), &context(false));
    // inv_std = 1/√4, with eight roundings.
    assert!((made["output"].data[0] - (8.0 * 0.5 * -1.5 + 10.0)).abs() < 1e-12);
    let output =
        |centred: f64, size: f64| 1.5 * centred * gamma(8) * 0.5 + gamma(6) * (size * 0.5 * 1.5 + 10.0);
    assert_bounds(&made["output"], &[output(8.0, 8.0), output(2.0, 12.0)]);
    assert_eq!(made.len(), 1);
    let made = layer.forward(&arrays(0.0, 0.0), &context(false));
    assert_eq!(made["output"].bound, [FLUSH; 2]);
    // A variance no larger than its own error: the bound must not be NaN.
    let mut arrays = arrays(1.0, 0.0);
    arrays.insert("input", column(&[1e6, 1e6 + 1e-3]));
    let made = layer.forward(&arrays, &context(true));
    assert!(made["output"].bound.iter().all(|bound| bound.is_finite() && *bound > 0.0));
}

/// Σ(x − mean)·(x + mean) is the same sum, but not in floating point.
#[test]
fn the_variance_survives_a_mean_that_dwarfs_it() {
    let values = [0.25, 1.0, 3.5];
    let mut arrays = Arrays::from([("input", column(&values.map(|value| value + 1e13)))]);
    for name in ["weight", "bias", "running_mean", "running_var"] {
        arrays.insert(name, vector(&[1.0]));
    }
    let made = parse("batch_norm2d", NORM).unwrap().forward(&arrays, &context(true));
    let mean = values.iter().sum::<f64>() / 3.0;
    let var = values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / 3.0;
    let inv_std = 1.0 / (var + 0.5).sqrt();
    assert!((made["inv_std"].data[0] - inv_std).abs() < 1e-3, "{:?}, not {inv_std}", made["inv_std"].data);
}

/// Given a mean of 2 and a deviation of 2, x̂ = 0.5 and 2.5, as exact inputs.
#[test]
fn batch_norm_backward_has_its_bounds() {
    let arrays = |weight| {
        Arrays::from([
            ("input", column(&[3.0, 7.0])),
            ("weight", vector(&[weight])),
            ("mean", vector(&[2.0])),
            ("inv_std", vector(&[0.5])),
            ("grad_output", column(&[5.0, -3.0])),
        ])
    };
    let layer = parse("batch_norm2d", NORM).unwrap();
    let made = layer.backward(&arrays(-1.5), &context(true));
    // Σg = 2, Σ|g| = 8; Σg·x̂ = 2.5 − 7.5 = −5, Σ|g·x̂| = 10, plus x̂'s own error.
    let x_hat = [gamma(3) * (3.0 + 2.0) * 0.5, gamma(3) * (7.0 + 2.0) * 0.5];
    let bias = gamma(4) * 8.0;
    let weight = gamma(4) * 10.0 + 5.0 * x_hat[0] + 3.0 * x_hat[1];
    assert_bounds(&made["grad_bias"], &[bias]);
    assert_bounds(&made["grad_weight"], &[weight]);
    // g − Σg/2 − x̂·Σg·x̂/2
    assert_eq!(made["grad_input"].data, [-0.75 * (5.0 - 1.0 + 1.25), -0.75 * (-3.0 - 1.0 + 6.25)]);
    let input = |normalised: f64, x_hat: f64, magnitude: f64| {
        let carried = (bias + normalised * weight + x_hat * (5.0 + weight)) / 2.0;
        0.75 * (carried + gamma(8) * magnitude)
    };
    let want = [input(0.5, x_hat[0], 5.0 + 1.0 + 1.25), input(2.5, x_hat[1], 3.0 + 1.0 + 6.25)];
    assert_bounds(&made["grad_input"], &want);
    assert_eq!(layer.backward(&arrays(0.0), &context(true))["grad_input"].bound, [FLUSH; 2]);
}

/// Two groups of two channels, of one pixel each: 3 and 7 have mean 5 and variance 4, 1 and 1 have 1 and 0. With eps = 0.5,
/// the deviations are √4.5 and √0.5.
#[test]
fn group_norm_has_its_bounds() {
    let (weight, bias) = ([2.0, -1.5, 0.5, 1.0], [10.0, 0.0, -1.0, 0.25]);
    let upstream = [5.0, -3.0, 1.0, 2.0];
    let mut arrays = Arrays::from([
        ("input", Array::exact(&[1, 4, 1, 1], vec![3.0, 7.0, 1.0, 1.0])),
        ("weight", vector(&weight)),
        ("bias", vector(&bias)),
    ]);
    let layer = parse("group_norm", "groups = 2\neps = 0.5").unwrap();
    let output = layer.forward(&arrays, &context(true)).remove("output").unwrap();
    arrays.insert("grad_output", Array::exact(&[1, 4, 1, 1], upstream.to_vec()));
    let made = layer.backward(&arrays, &context(true));

    // Two terms plus six or seven roundings; magnitude (3 + 7)/2 and the first value; squares relative to it 0 and 16.
    let mean = gamma(8) * (5.0 + 3.0);
    let inv_std = 1.0 / 4.5f64.sqrt();
    let largest = 1.0 / (4.0 - 3.0 * gamma(9) * 8.0 + 0.5).sqrt();
    let inv_std_bound = largest - inv_std + gamma(8) * largest;
    let most = inv_std + inv_std_bound;
    let x_hat = [-2.0 * inv_std, 2.0 * inv_std];
    let of_x_hat = |x: f64| most * mean + 2.0 * inv_std_bound + gamma(3) * (x + 5.0 + mean) * most;
    let x_hat_bound = [of_x_hat(3.0), of_x_hat(7.0)];
    for i in 0..2 {
        let want = x_hat[i] * weight[i] + bias[i];
        assert!((output.data[i] - want).abs() < 1e-12, "{}, not {want}", output.data[i]);
        let size = (2.0 * inv_std + x_hat_bound[i]) * weight[i].abs() + bias[i].abs();
        let want = weight[i].abs() * x_hat_bound[i] + gamma(3) * size;
        assert!((output.bound[i] - want).abs() <= 1e-9 * want, "{:e}, not {want:e}", output.bound[i]);
    }
    // Equal values give just the bias.
    assert_eq!(output.data[2..], bias[2..]);

    let carried = [5.0 * x_hat_bound[0], 3.0 * x_hat_bound[1]];
    for i in 0..2 {
        assert_eq!(made["grad_bias"].data[i], upstream[i]);
        let size = (upstream[i] * x_hat[i]).abs();
        let want = gamma(3) * (size + carried[i]) + carried[i];
        let got = made["grad_weight"].bound[i];
        assert!((got - want).abs() <= 1e-9 * want, "{got:e}, not {want:e}");
    }
    // w·g is 10 and 4.5; Σ w·g = 14.5 and Σ w·g·x̂ = 5.5 · -2/√4.5.
    let sum = gamma(4) * 14.5;
    let products = 14.5 * 2.0 * inv_std;
    let of_products = 2.0 * carried[0] + 1.5 * carried[1];
    let product = gamma(4) * (products + of_products) + of_products;
    let mean_product = 5.5 * x_hat[0] / 2.0;
    for (i, scaled) in [10.0, 4.5].into_iter().enumerate() {
        let rest = scaled - 7.25 - x_hat[i] * mean_product;
        let got = made["grad_input"].data[i];
        assert!((got - inv_std * rest).abs() < 1e-12, "{got}, not {}", inv_std * rest);
        let x_hat_most = 2.0 * inv_std + x_hat_bound[i];
        let carried = sum / 2.0 + x_hat_most * product / 2.0 + x_hat_bound[i] * mean_product.abs();
        let size = scaled + 7.25 + sum / 2.0 + x_hat_most * (mean_product.abs() + product / 2.0);
        let want = most * (carried + gamma(11) * size) + inv_std_bound * rest.abs();
        let got = made["grad_input"].bound[i];
        assert!((got - want).abs() <= 1e-9 * want, "{got:e}, not {want:e}");
    }
}
