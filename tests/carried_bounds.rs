//! Errors of a layer's inputs are propagated to its outputs: fused kernels store nothing in between. The errors here
//! are so large that roundings are negligible.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;

use shadernet::config::Optimizer;
use shadernet::layers::{Context, Layer, LayerKind};
use shadernet::optimizers::Step;
use shadernet::rng;
use shadernet::tensor::{Array, Arrays, Shape};

const CONTEXT: Context = Context { training: true, seed: 11, step: 3, layer: 4, first_image: 0 };

fn layer(kind: &str, keys: &str) -> Arc<dyn Layer> {
    LayerKind::find(kind).unwrap().parse(toml::from_str(keys).unwrap()).unwrap()
}

/// Random values, each with its own error around `error`.
fn random(shape: &[usize], seed: u32, error: f64) -> Array {
    let len = shape.iter().product();
    let word = |stream: u32, i: usize| f64::from(rng::signed(rng::words(seed, stream, 0, i as u32)[0]));
    let mut array = Array::exact(shape, (0..len).map(|i| word(0, i)).collect());
    array.bound = (0..len).map(|i| error * (1.5 + word(1, i))).collect();
    array
}

/// The bound of each element of `made` must be Σ |∂made/∂input| · error · factor over all inputs, where `made` is linear in each
/// input.
fn assert_carried(what: &str, given: &Arrays, inputs: &[&str], factor: f64, make: impl Fn(&Arrays) -> Array) {
    let made = make(given);
    let mut want = vec![0.0; made.data.len()];
    for &input in inputs {
        for index in 0..given[input].data.len() {
            let mut shifted = given.clone();
            shifted.get_mut(input).unwrap().data[index] += 1.0;
            let error = given[input].bound[index];
            let slopes = make(&shifted).data;
            for ((want, slope), value) in want.iter_mut().zip(slopes).zip(&made.data) {
                *want += (slope - value).abs() * error * factor;
            }
        }
    }
    assert!(want.iter().any(|&want| want > 0.0), "{what}");
    for (index, (got, want)) in made.bound.iter().zip(&want).enumerate() {
        assert!((got - want).abs() <= 1e-3 * want + 1e-5, "{what}[{index}]: {got:e}, not {want:e}");
    }
}

/// The layer's forward or backward pass, and one of its results.
fn pass(layer: &dyn Layer, given: &Arrays, name: &str) -> Array {
    let made =
        if name == "output" { layer.forward(given, &CONTEXT) } else { layer.backward(given, &CONTEXT) };
    made[name].clone()
}

#[test]
fn linear_layers_carry_errors_by_their_slopes() {
    for (kind, keys, factor) in [
        ("conv2d", "out_channels = 4\nkernel = 3\npadding = 1\ngroups = 2\nstride = 2", 1.0),
        (
            "conv2d",
            "out_channels = 4\nkernel = [2, 3]\npadding = [1, 0, 0, 2]\ndilation = [2, 1]\nstride = 2",
            1.0,
        ),
        ("linear", "out_features = 3", 1.0),
        // The mean in a fused head comes before the layer whose errors these are.
        ("avg_pool2d", "kernel = 2", 6.0),
        ("adaptive_avg_pool2d", "output = [2, 1]", 14.0),
        ("dropout", "rate = 0.3", 1.0),
        ("flatten", "", 1.0),
    ] {
        let layer = layer(kind, keys);
        let shape = if kind == "linear" { [3, 7, 1, 1] } else { [2, 2, 4, 6] };
        let input = Shape::new(shape[1], shape[2], shape[3]);
        let output = layer.output_shape(&[input]).unwrap();
        let mut given = Arrays::from([("input", random(&shape, 1, 1e-2))]);
        for param in layer.params(&[input]) {
            given.insert(param.name, random(&param.shape, 2, 0.0));
        }
        assert_carried(&format!("{kind} output"), &given, &["input"], factor, |given| {
            pass(&*layer, given, "output")
        });
        let upstream = [shape[0], output.channels, output.height, output.width];
        given.insert("grad_output", random(&upstream, 3, 1e-2));
        let back = |name: &'static str, inputs: &[&str]| {
            assert_carried(&format!("{kind} {name}"), &given, inputs, 1.0, |given| {
                pass(&*layer, given, name)
            });
        };
        back("grad_input", &["grad_output"]);
        if given.contains_key("weight") {
            // To first order in both; their product is within the tolerance.
            let mut small = given.clone();
            for name in ["input", "grad_output"] {
                small.get_mut(name).unwrap().bound.iter_mut().for_each(|bound| *bound *= 1e-2);
            }
            assert_carried(kind, &small, &["input", "grad_output"], 1.0, |given| {
                pass(&*layer, given, "grad_weight")
            });
            back("grad_bias", &["grad_output"]);
        }
    }
}

#[test]
fn the_product_of_two_errors_counts() {
    let layer = layer("linear", "out_features = 1\nbias = false");
    let mut given = Arrays::from([("input", Array::exact(&[1, 1, 1, 1], vec![0.0]))]);
    given.insert("weight", Array::exact(&[1, 1, 1, 1], vec![1.0]));
    given.insert("grad_output", Array::exact(&[1, 1, 1, 1], vec![0.0]));
    for (name, bound) in [("input", 0.5), ("grad_output", 0.25)] {
        given.get_mut(name).unwrap().bound[0] = bound;
    }
    let bound = pass(&*layer, &given, "grad_weight").bound[0];
    assert!((bound - 0.125).abs() < 1e-6, "{bound}");
}

fn with_bounds(shape: &[usize], data: &[f64], bound: &[f64]) -> Array {
    Array { shape: shape.to_vec(), data: data.to_vec(), bound: bound.to_vec() }
}

#[track_caller]
fn assert_bounds(array: &Array, want: &[f64]) {
    assert_eq!(array.bound.len(), want.len());
    let close = |(got, want): (&f64, &f64)| (got - want).abs() <= 1e-5 * (1.0 + want);
    assert!(array.bound.iter().zip(want).all(close), "{:?}, not {want:?}", array.bound);
}

#[test]
fn near_its_kink_a_rectifier_may_take_either_slope() {
    let layer = layer("leaky_relu", "negative_slope = 0.25");
    let shape = [1, 1, 1, 5];
    // Far above, far below, near the kink on both sides, at its very edge. No slope is above 1, so the output error
    // is no larger.
    let sign = with_bounds(&shape, &[2.0, -2.0, 0.1, -0.1, 0.5], &[0.5; 5]);
    let output = pass(&*layer, &Arrays::from([("input", sign.clone())]), "output");
    assert_bounds(&output, &[0.5; 5]);
    let upstream = with_bounds(&shape, &[4.0; 5], &[0.125; 5]);
    let given = Arrays::from([("input", sign.clone()), ("output", sign), ("grad_output", upstream)]);
    let gradient = pass(&*layer, &given, "grad_input");
    assert_bounds(&gradient, &[0.125, 0.125, 3.125, 3.125, 3.125]);
    // An exact value is on a definite side, even at 0.
    let exact = Array::exact(&[1, 1, 1, 1], vec![0.0]);
    let given =
        Arrays::from([("output", exact.clone()), ("grad_output", Array::exact(&[1, 1, 1, 1], vec![4.0]))]);
    assert_bounds(&pass(&*layer, &given, "grad_input"), &[0.0]);
}

/// Whatever the true inputs are, within their errors, the results are within the bounds; and these are not much wider
/// than necessary.
#[test]
fn activations_carry_errors_by_their_steepest_slopes() {
    let functions =
        ["relu", "relu6", "prelu", "sigmoid", "tanh", "silu", "gelu", "hard_sigmoid", "hard_swish"];
    let (places, error) = (641, 0.3);
    let shape = [places, 1, 1, 1];
    let x: Vec<f64> = (0..places).map(|i| (i as f64 - 320.0) / 40.0).collect();
    let weight = Array::exact(&[1], vec![-0.5]);
    for kind in functions {
        let layer = layer(kind, "");
        let mut given = Arrays::from([("input", with_bounds(&shape, &x, &[error; 641]))]);
        given.insert("weight", weight.clone());
        let output = pass(&*layer, &given, "output");
        given.insert("output", output.clone());
        given.insert("grad_output", with_bounds(&shape, &[2.0; 641], &[0.1; 641]));
        let gradient = pass(&*layer, &given, "grad_input");
        let mut shares = [0.0f64; 2];
        for shift in [-1.0, -0.5, 0.5, 1.0].map(|part| part * error) {
            let mut moved = given.clone();
            moved.insert("input", Array::exact(&shape, x.iter().map(|x| x + shift).collect()));
            moved.insert("grad_output", Array::exact(&shape, vec![2.0 + shift.signum() * 0.1; places]));
            let other = pass(&*layer, &moved, "output");
            moved.insert("output", other.clone());
            let other_gradient = pass(&*layer, &moved, "grad_input");
            for (share, (made, other)) in
                shares.iter_mut().zip([(&output, &other), (&gradient, &other_gradient)])
            {
                for index in 0..places {
                    *share = share.max((made.data[index] - other.data[index]).abs() / made.bound[index]);
                }
            }
        }
        assert!(shares.iter().all(|&share| (0.4..=1.0 + 1e-6).contains(&share)), "{kind}: {shares:?}");
    }
}

#[test]
fn a_slope_s_gradient_carries_both_errors() {
    let layer = layer("prelu", "num_parameters = 1");
    let shape = [1, 1, 1, 4];
    let given = Arrays::from([
        ("input", with_bounds(&shape, &[2.0, -2.0, 0.1, -0.1], &[0.5; 4])),
        ("weight", Array::exact(&[1], vec![0.25])),
        ("grad_output", with_bounds(&shape, &[4.0; 4], &[0.125; 4])),
    ]);
    let made = pass(&*layer, &given, "grad_weight");
    assert_eq!(made.data, [-8.4]);
    // |g| · 0.5 + (|min(x, 0)| + 0.5) · 0.125 for all but the first.
    assert_bounds(&made, &[3.0 * 2.0 + (2.5 + 0.5 + 0.6) * 0.125]);
}

#[test]
fn of_two_close_maxima_either_may_win() {
    let layer = layer("max_pool2d", "kernel = 2");
    let shape = [1, 1, 2, 4];
    // Left: 3 wins, 2.5 may, 2 may not. Right: two equal values, which stay equal, and one just out of reach.
    let input = with_bounds(
        &shape,
        &[3.0, 2.0, 5.0, 5.0, 2.5, 0.0, 4.0, 1.0],
        &[0.25, 0.5, 0.5, 0.75, 0.25, 0.25, 0.375, 0.25],
    );
    let mut given = Arrays::from([("input", input)]);
    let output = pass(&*layer, &given, "output");
    assert_eq!(output.data, [3.0, 5.0]);
    assert_bounds(&output, &[0.25, 0.5]);
    given.insert("grad_output", with_bounds(&[1, 1, 1, 2], &[-8.0, 16.0], &[0.5, 0.25]));
    let gradient = pass(&*layer, &given, "grad_input");
    assert_eq!(gradient.data, [-8.0, 0.0, 16.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    assert_bounds(&gradient, &[0.5 + 8.5, 0.0, 0.25, 0.0, 8.5, 0.0, 0.0, 0.0]);
}

#[test]
fn batch_norm_carries_the_error_of_the_gradient() {
    let layer = layer("batch_norm2d", "");
    let shape = [4, 1, 1, 1];
    let x = [1.0, -1.0, 3.0, -3.0];
    let (mean, inv_std, weight, error) = (0.0, 0.5, 2.0, 0.125);
    let one = |value: f64| Array::exact(&[1], vec![value]);
    let given = Arrays::from([
        ("input", Array::exact(&shape, x.to_vec())),
        ("weight", one(weight)),
        ("bias", one(0.0)),
        ("mean", one(mean)),
        ("inv_std", one(inv_std)),
        ("grad_output", with_bounds(&shape, &[1.0, 2.0, -1.0, 0.5], &[error; 4])),
    ]);
    assert_bounds(&pass(&*layer, &given, "grad_bias"), &[4.0 * error]);
    // Σ |x̂| = 0.5 · 8
    assert_bounds(&pass(&*layer, &given, "grad_weight"), &[4.0 * error]);
    let want = |x: f64| weight * inv_std * (error + (4.0 * error + (x * inv_std).abs() * 4.0 * error) / 4.0);
    assert_bounds(&pass(&*layer, &given, "grad_input"), &x.map(want));
}

#[test]
fn group_norm_carries_the_error_of_the_gradient() {
    let layer = layer("group_norm", "groups = 1\neps = 0.75");
    let (x, weight, error) = ([1.0, -1.0, 2.5, -2.5], [2.0, 2.0, -4.0, -4.0], 0.125);
    let variance = x.iter().map(|x| x * x).sum::<f64>() / 4.0;
    let inv_std = 1.0 / (variance + 0.75).sqrt();
    let given = Arrays::from([
        ("input", Array::exact(&[1, 4, 1, 1], x.to_vec())),
        ("weight", Array::exact(&[4], weight.to_vec())),
        ("bias", Array::exact(&[4], vec![0.0; 4])),
        ("grad_output", with_bounds(&[1, 4, 1, 1], &[1.0, 2.0, -1.0, 0.5], &[error; 4])),
    ]);
    assert_bounds(&pass(&*layer, &given, "grad_bias"), &[error; 4]);
    assert_bounds(&pass(&*layer, &given, "grad_weight"), &x.map(|x| error * (x * inv_std).abs()));
    let sum: f64 = weight.iter().map(|w| w.abs() * error).sum();
    let products: f64 = x.iter().zip(weight).map(|(x, w)| (w * x * inv_std).abs() * error).sum();
    let want: Vec<f64> = x
        .iter()
        .zip(weight)
        .map(|(x, w)| inv_std * (w.abs() * error + sum / 4.0 + (x * inv_std).abs() * products / 4.0))
        .collect();
    assert_bounds(&pass(&*layer, &given, "grad_input"), &want);
}

#[test]
fn given_statistics_are_what_the_output_is_made_from() {
    let layer = layer("batch_norm2d", "");
    let one = |value: f64| Array::exact(&[1], vec![value]);
    let mut given = Arrays::from([
        ("input", Array::exact(&[2, 1, 1, 1], vec![1.0, 5.0])),
        ("weight", one(2.0)),
        ("bias", one(10.0)),
        ("running_mean", one(0.0)),
        ("running_var", one(1.0)),
    ]);
    given.insert("mean", one(2.0));
    given.insert("inv_std", one(0.25));
    let made = layer.forward(&given, &CONTEXT);
    assert_eq!(made["output"].data, [9.5, 11.5]);
    assert_eq!(made["mean"].data, [3.0], "what the batch itself has");
}

#[test]
fn optimizers_carry_the_error_of_the_gradient() {
    let step = Step { step: 0, learning_rate: 0.5 };
    let given = |memory: &[&'static str]| {
        let mut arrays = Arrays::from([
            ("params", Array::exact(&[1], vec![1.0])),
            ("grads", with_bounds(&[1], &[2.0], &[0.01])),
            ("weight_decay", Array::exact(&[1], vec![0.0])),
        ]);
        arrays.extend(memory.iter().map(|&name| (name, Array::exact(&[1], vec![0.0]))));
        arrays
    };
    let sgd = Optimizer::Sgd { momentum: 0.5, nesterov: false, weight_decay: 0.0 };
    let made = sgd.update(&given(sgd.memory()), step);
    assert_bounds(&made["velocity"], &[0.01]);
    assert_bounds(&made["params"], &[0.005]);
    let adam = Optimizer::Adam { beta1: 0.5, beta2: 0.5, eps: 1e-8, weight_decay: 0.0 };
    let made = adam.update(&given(adam.memory()), step);
    assert_bounds(&made["first_moment"], &[0.005]);
    // (1 − β₂) · (2 · |g| · error + error²)
    assert_bounds(&made["second_moment"], &[0.5 * (0.04 + 0.0001)]);
}
