//! Shape rules, and each layer's results on numbers few enough to be worked out by hand.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use common::{layer_context, parse_layer};
use shadernet::model::Model;
use shadernet::tensor::{Array, Arrays, Shape};

#[test]
fn shapes_follow_the_rules() {
    let cases = [
        (r#"{ type = "conv2d", out_channels = 4, kernel = 3 }"#, [3, 5, 8], Ok([4, 3, 6])),
        (
            r#"{ type = "conv2d", out_channels = 4, kernel = 3, stride = 2, padding = 1 }"#,
            [3, 6, 7],
            Ok([4, 3, 4]),
        ),
        (r#"{ type = "conv2d", out_channels = 4, kernel = 5 }"#, [3, 5, 4], Err("kernel 5 does not fit")),
        (
            r#"{ type = "conv2d", out_channels = 4, kernel = 3, groups = 2 }"#,
            [3, 5, 8],
            Err("groups = 2 must divide"),
        ),
        (
            r#"{ type = "conv2d", out_channels = 3, kernel = 3, groups = 2 }"#,
            [4, 5, 8],
            Err("groups = 2 must divide"),
        ),
        (r#"{ type = "conv2d", out_channels = 0, kernel = 3 }"#, [3, 5, 8], Err("at least 1")),
        (
            r#"{ type = "conv2d", out_channels = 4, kernel = 3, stride = 0 }"#,
            [3, 5, 8],
            Err("stride = 0 must be from 1 to 65536"),
        ),
        (r#"{ type = "conv2d", out_channels = 4, kernel = 3, groups = 0 }"#, [3, 5, 8], Err("at least 1")),
        (
            r#"{ type = "conv2d", out_channels = 4, kernel = 2, padding = 2 }"#,
            [3, 5, 8],
            Err("must be smaller than kernel"),
        ),
        (r#"{ type = "conv2d", out_channels = 4, kernel = [2, 5] }"#, [3, 5, 8], Ok([4, 4, 4])),
        (r#"{ type = "conv2d", out_channels = 4, kernel = 3, dilation = [2, 3] }"#, [3, 5, 8], Ok([4, 1, 2])),
        (
            r#"{ type = "conv2d", out_channels = 4, kernel = 3, padding = [0, 2, 1, 0], stride = 2 }"#,
            [3, 5, 8],
            Ok([4, 3, 4]),
        ),
        (
            r#"{ type = "conv2d", out_channels = 4, kernel = [10, 4], padding = "same", stride = 3 }"#,
            [3, 5, 7],
            Ok([4, 2, 3]),
        ),
        (
            r#"{ type = "conv2d", out_channels = 4, kernel = [3, 2], dilation = [3, 1] }"#,
            [3, 5, 8],
            Err("kernel [3, 2] with dilation [3, 1] does not fit input [3, 5, 8] with padding 0"),
        ),
        (
            r#"{ type = "conv2d", out_channels = 4, kernel = [3, 9] }"#,
            [3, 5, 8],
            Err("kernel [3, 9] does not fit input [3, 5, 8] with padding 0"),
        ),
        (r#"{ type = "max_pool2d", kernel = 2 }"#, [3, 5, 8], Ok([3, 2, 4])),
        (r#"{ type = "max_pool2d", kernel = 3, stride = 2, padding = 1 }"#, [3, 5, 8], Ok([3, 3, 4])),
        (r#"{ type = "max_pool2d", kernel = 3, padding = 2 }"#, [3, 5, 8], Err("more than half of kernel")),
        (r#"{ type = "avg_pool2d", kernel = 0 }"#, [3, 5, 8], Err("kernel = 0 must be from 1 to 65536")),
        (r#"{ type = "avg_pool2d", kernel = 6 }"#, [3, 5, 8], Err("kernel 6 does not fit")),
        (r#"{ type = "avg_pool2d", kernel = 2, stride = 3 }"#, [3, 5, 8], Ok([3, 2, 3])),
        (r#"{ type = "avg_pool2d", kernel = [5, 2] }"#, [3, 5, 8], Ok([3, 1, 4])),
        (r#"{ type = "adaptive_avg_pool2d", output = [5, 2] }"#, [3, 5, 8], Ok([3, 5, 2])),
        (r#"{ type = "adaptive_avg_pool2d", output = 1 }"#, [3, 5, 8], Ok([3, 1, 1])),
        (r#"{ type = "group_norm", groups = 3 }"#, [3, 5, 8], Ok([3, 5, 8])),
        (r#"{ type = "global_avg_pool2d" }"#, [3, 5, 8], Ok([3, 1, 1])),
        (r#"{ type = "flatten" }"#, [3, 5, 8], Ok([120, 1, 1])),
        (r#"{ type = "linear", out_features = 7 }"#, [120, 1, 1], Ok([7, 1, 1])),
        (r#"{ type = "linear", out_features = 7 }"#, [3, 5, 8], Err("put a flatten layer before it")),
        (r#"{ type = "linear", out_features = 0 }"#, [3, 1, 1], Err("at least 1")),
        (r#"{ type = "relu" }"#, [3, 5, 8], Ok([3, 5, 8])),
        (r#"{ type = "leaky_relu", negative_slope = 1.0 }"#, [3, 5, 8], Err("below 1")),
        (r#"{ type = "dropout", rate = 1.0 }"#, [3, 5, 8], Err("below 1")),
        (r#"{ type = "dropout", rate = 0.5 }"#, [3, 5, 8], Ok([3, 5, 8])),
        (r#"{ type = "batch_norm2d", eps = 0.0 }"#, [3, 5, 8], Err("eps = 0 must be above 0")),
        (r#"{ type = "batch_norm2d", momentum = 1.5 }"#, [3, 5, 8], Err("must be from 0 to 1")),
    ];
    for (line, input, want) in cases {
        match (parse_layer(line).output_shape(&[Shape::from(input)]), want) {
            (Ok(got), Ok(want)) => assert_eq!(got, Shape::from(want), "{line}"),
            (Err(got), Err(want)) => assert!(got.contains(want), "{line}: {got}"),
            (got, want) => panic!("{line}: {got:?}, not {want:?}"),
        }
    }
}

#[test]
fn a_model_names_the_layer_and_line_that_do_not_fit() {
    let text = "name = \"x\"\ninput = [1, 4, 4]\nlayers = [\n  { type = \"relu\" },\n  { type = \"conv2d\", \
                out_channels = 2, kernel = 5 },\n]\n";
    let message = Model::parse(text, "x.toml").unwrap_err().to_string();
    assert_eq!(message, "x.toml:5: layer `conv1`: kernel 5 does not fit input [1, 4, 4] with padding 0");
}

/// Output of a layer, and its gradients for an upstream gradient, in training mode.
fn run(
    line: &str,
    input: ([usize; 4], &[f64]),
    params: &[(&'static str, &[f64])],
    upstream: &[f64],
) -> Arrays {
    let layer = parse_layer(line);
    let shape = Shape::new(input.0[1], input.0[2], input.0[3]);
    let mut arrays = Arrays::from([("input", Array::exact(&input.0, input.1.to_vec()))]);
    for param in layer.params(&[shape]) {
        let (_, values) = params.iter().find(|(name, _)| *name == param.name).expect(param.name);
        arrays.insert(param.name, Array::exact(&param.shape, values.to_vec()));
    }
    let made = layer.forward(&arrays, &layer_context(0));
    let output = made["output"].shape.clone();
    arrays.extend(made);
    arrays.insert("grad_output", Array::exact(&output, upstream.to_vec()));
    let gradients = layer.backward(&arrays, &layer_context(0));
    arrays.extend(gradients);
    arrays
}

#[track_caller]
fn assert_values(array: &Array, want: &[f64]) {
    assert_eq!(array.data.len(), want.len());
    for (got, want) in array.data.iter().zip(want) {
        assert!((got - want).abs() < 1e-12, "{:?}, not {want}", array.data);
    }
}

const NINE: &[f64] = &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];

#[test]
fn convolution_by_hand() {
    let weight: &[f64] = &[1.0, 10.0, 100.0, 1000.0];
    let line = r#"{ type = "conv2d", out_channels = 1, kernel = 2 }"#;
    let made =
        run(line, ([1, 1, 3, 3], NINE), &[("weight", weight), ("bias", &[0.5])], &[1.0, 0.0, 0.0, 2.0]);
    // 1·1 + 10·2 + 100·4 + 1000·5 + 0.5, and so on: not flipped.
    assert_values(&made["output"], &[5421.5, 6532.5, 8754.5, 9865.5]);
    assert_values(&made["grad_input"], &[1.0, 10.0, 0.0, 100.0, 1002.0, 20.0, 0.0, 200.0, 2000.0]);
    assert_values(&made["grad_weight"], &[11.0, 14.0, 20.0, 23.0]);
    assert_values(&made["grad_bias"], &[3.0]);
    // Stride 2 with padding 1 sees each value once, under a different tap.
    let line = r#"{ type = "conv2d", out_channels = 1, kernel = 2, stride = 2, padding = 1, bias = false }"#;
    let made = run(line, ([1, 1, 3, 3], NINE), &[("weight", weight)], &[1.0; 4]);
    assert_values(&made["output"], &[1000.0, 3200.0, 7040.0, 9865.0]);
    // A column of two taps, two rows apart, between a row of zeros above and none below: 0 + 10·4, 1·1 + 10·7.
    let line = r#"{ type = "conv2d", out_channels = 1, kernel = [2, 1], dilation = [2, 1], padding = [1, 0, 0, 0], bias = false }"#;
    let made = run(line, ([1, 1, 3, 3], NINE), &[("weight", &[1.0, 10.0])], &[0.0, 1.0, 0.0, 0.0, 0.0, 2.0]);
    assert_values(&made["output"], &[40.0, 50.0, 60.0, 71.0, 82.0, 93.0]);
    assert_values(&made["grad_input"], &[0.0, 0.0, 2.0, 0.0, 10.0, 0.0, 0.0, 0.0, 20.0]);
    assert_values(&made["grad_weight"], &[6.0, 23.0]);
    // "same" for an even kernel has its one row and column of zeros below and to the right; with stride 2, three rows and
    // columns make two of each.
    let line =
        r#"{ type = "conv2d", out_channels = 1, kernel = 2, padding = "same", stride = 2, bias = false }"#;
    let made = run(line, ([1, 1, 3, 3], NINE), &[("weight", weight)], &[1.0; 4]);
    assert_values(&made["output"], &[5421.0, 603.0, 87.0, 9.0]);
    // Two groups: the second output never sees the first input.
    let line = r#"{ type = "conv2d", out_channels = 2, kernel = 1, groups = 2, bias = false }"#;
    let made = run(line, ([1, 2, 1, 1], &[3.0, 5.0]), &[("weight", &[2.0, 7.0])], &[1.0, 10.0]);
    assert_values(&made["output"], &[6.0, 35.0]);
    assert_values(&made["grad_input"], &[2.0, 70.0]);
    assert_values(&made["grad_weight"], &[3.0, 50.0]);
}

#[test]
fn linear_by_hand() {
    let params: &[(&str, &[f64])] = &[("weight", &[1.0, 2.0, 3.0, 4.0]), ("bias", &[0.5, -0.5])];
    let made =
        run(r#"{ type = "linear", out_features = 2 }"#, ([1, 2, 1, 1], &[10.0, 1.0]), params, &[1.0, 2.0]);
    assert_values(&made["output"], &[12.5, 33.5]);
    assert_values(&made["grad_input"], &[7.0, 10.0]);
    assert_values(&made["grad_weight"], &[10.0, 1.0, 20.0, 2.0]);
    assert_values(&made["grad_bias"], &[1.0, 2.0]);
}

#[test]
fn rectifiers_by_hand() {
    let input: ([usize; 4], &[f64]) = ([1, 1, 1, 3], &[-2.0, 0.0, 3.0]);
    let made = run(r#"{ type = "relu" }"#, input, &[], &[5.0, 6.0, 7.0]);
    assert_values(&made["output"], &[0.0, 0.0, 3.0]);
    assert_values(&made["grad_input"], &[0.0, 0.0, 7.0]);
    let made = run(r#"{ type = "leaky_relu", negative_slope = 0.5 }"#, input, &[], &[5.0, 6.0, 7.0]);
    assert_values(&made["output"], &[-1.0, 0.0, 3.0]);
    assert_values(&made["grad_input"], &[2.5, 3.0, 7.0]);
}

#[test]
fn batch_norm_by_hand() {
    // Channel 0 holds 1 and 5: mean 3, biased variance 4, unbiased 8; with eps = 0.5 the deviation is √4.5.
    let params: &[(&str, &[f64])] =
        &[("weight", &[2.0]), ("bias", &[10.0]), ("running_mean", &[1.0]), ("running_var", &[2.0])];
    let line = r#"{ type = "batch_norm2d", eps = 0.5, momentum = 0.25 }"#;
    let made = run(line, ([2, 1, 1, 1], &[1.0, 5.0]), params, &[1.0, 0.0]);
    let deviation = 4.5f64.sqrt();
    assert_values(&made["output"], &[10.0 - 4.0 / deviation, 10.0 + 4.0 / deviation]);
    assert_values(&made["running_mean"], &[1.5]);
    assert_values(&made["running_var"], &[3.5]);
    assert_values(&made["grad_bias"], &[1.0]);
    assert_values(&made["grad_weight"], &[-2.0 / deviation]);
    // weight/σ · (g − 1/2 − x̂·Σg·x̂/2), with x̂² = 4/4.5
    let rest = 2.0 / deviation * (0.5 - 0.5 * 4.0 / 4.5);
    assert_values(&made["grad_input"], &[rest, -rest]);
}

#[test]
fn group_norm_by_hand() {
    // Two images; in the first, group 0 holds 1 and 5: mean 3, variance 4; with eps = 0.5 the deviation is √4.5.
    let params: &[(&str, &[f64])] = &[("weight", &[2.0, 3.0, 7.0, 8.0]), ("bias", &[10.0, 20.0, 30.0, 40.0])];
    let line = r#"{ type = "group_norm", groups = 2, eps = 0.5 }"#;
    let input: &[f64] = &[1.0, 5.0, 6.0, 6.0, 0.0, 0.0, -1.0, -1.0];
    let upstream: &[f64] = &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0];
    let made = run(line, ([2, 4, 1, 1], input), params, upstream);
    let x_hat = 2.0 / 4.5f64.sqrt();
    let want = [10.0 - 2.0 * x_hat, 20.0 + 3.0 * x_hat, 30.0, 40.0, 10.0, 20.0, 30.0, 40.0];
    assert_values(&made["output"], &want);
    assert_values(&made["grad_bias"], &[2.0, 0.0, 0.0, 0.0]);
    assert_values(&made["grad_weight"], &[-x_hat, 0.0, 0.0, 0.0]);
    // weight/σ · (g − 1/2 − x̂·Σg·x̂/2), with x̂² = 4/4.5; for equal values x̂ = 0 and σ = √0.5.
    let (rest, equal) = (2.0 / 4.5f64.sqrt() * (0.5 - 0.5 * 4.0 / 4.5), 2.0 / 0.5f64.sqrt() * 0.5);
    assert_values(&made["grad_input"], &[rest, -rest, 0.0, 0.0, equal, -equal, 0.0, 0.0]);
    // A group's only value is its own mean.
    let line = r#"{ type = "group_norm", groups = 4 }"#;
    let made = run(line, ([1, 4, 1, 1], &[5.0, -1.0, 0.0, 1e9]), params, &[1.0, 2.0, 3.0, 4.0]);
    assert_values(&made["output"], params[1].1);
    assert_values(&made["grad_weight"], &[0.0; 4]);
    assert_values(&made["grad_input"], &[0.0; 4]);
}

#[test]
fn pools_by_hand() {
    let input: ([usize; 4], &[f64]) = ([1, 1, 3, 3], &[1.0, 9.0, 3.0, 9.0, 5.0, 6.0, 7.0, 8.0, 2.0]);
    let made =
        run(r#"{ type = "max_pool2d", kernel = 2, stride = 1 }"#, input, &[], &[1.0, 10.0, 100.0, 1000.0]);
    assert_values(&made["output"], &[9.0, 9.0, 9.0, 8.0]);
    // Of two equal values, the first in row-major order wins.
    assert_values(&made["grad_input"], &[0.0, 11.0, 0.0, 100.0, 0.0, 0.0, 0.0, 1000.0, 0.0]);
    let made =
        run(r#"{ type = "avg_pool2d", kernel = 2, padding = 1 }"#, ([1, 1, 3, 3], NINE), &[], &[4.0; 4]);
    assert_values(&made["output"], &[0.25, 1.25, 2.75, 7.0]);
    assert_values(&made["grad_input"], &[1.0; 9]);
    let line = r#"{ type = "adaptive_avg_pool2d", output = [3, 1] }"#;
    let made = run(line, ([1, 1, 3, 3], NINE), &[], &[3.0, 6.0, 9.0]);
    assert_values(&made["output"], &[2.0, 5.0, 8.0]);
    assert_values(&made["grad_input"], &[1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0]);
    let line = r#"{ type = "avg_pool2d", kernel = [2, 3] }"#;
    let made = run(line, ([1, 1, 3, 3], NINE), &[], &[6.0]);
    assert_values(&made["output"], &[3.5]);
    assert_values(&made["grad_input"], &[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
    let made = run(r#"{ type = "global_avg_pool2d" }"#, ([1, 1, 3, 3], NINE), &[], &[18.0]);
    assert_values(&made["output"], &[5.0]);
    assert_values(&made["grad_input"], &[2.0; 9]);
}

#[test]
fn dropout_and_flatten_by_hand() {
    let ones = vec![1.0; 4000];
    let made = run(r#"{ type = "dropout", rate = 0.25 }"#, ([4, 10, 10, 10], &ones), &[], &ones);
    let scale = 4.0 / 3.0;
    let (kept, dropped): (Vec<f64>, Vec<f64>) = made["output"].data.iter().partition(|&&value| value > 0.0);
    // 1000 expected, deviation √(4000 · 1/4 · 3/4) = 27.
    assert!(dropped.len().abs_diff(1000) < 110, "{} dropped", dropped.len());
    assert!(kept.iter().all(|value| (value - scale).abs() < 1e-7));
    assert_eq!(made["output"].data, made["grad_input"].data, "one mask both ways");
    let made =
        run(r#"{ type = "flatten" }"#, ([1, 2, 1, 2], &[1.0, 2.0, 3.0, 4.0]), &[], &[5.0, 6.0, 7.0, 8.0]);
    assert_eq!(
        (&made["output"].shape[..], &made["output"].data[..]),
        (&[1, 4, 1, 1][..], &[1.0, 2.0, 3.0, 4.0][..])
    );
    assert_eq!(made["grad_input"].shape, [1, 2, 1, 2]);
    assert_values(&made["grad_input"], &[5.0, 6.0, 7.0, 8.0]);
}
