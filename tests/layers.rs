//! Properties of a layer that comparisons of values don't show, by hand: what a model file may omit and must not say,
//! and how many invocations its launches need.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use common::parse;
use shadernet::layers::{Context, Grain, Init, LAYERS, Layer, Param, Pass, PlanContext};
use shadernet::rng::{self, Stream};
use shadernet::tensor::{Array, Arrays, Shape};

fn context(training: bool) -> Context {
    Context { training, seed: 11, step: 3, layer: 4, first_image: 0 }
}

fn vector(values: &[f64]) -> Array {
    Array::exact(&[values.len()], values.to_vec())
}

#[test]
fn what_pytorch_has_no_module_for_is_a_plain_function() {
    for kind in LAYERS {
        let functions = ["add", "concat", "global_avg_pool2d", "multiply"];
        assert_eq!(kind.functional, functions.contains(&kind.name));
        assert_eq!(format!("{kind:?}"), kind.name);
    }
}

#[test]
fn defaults_are_spelled_out() {
    let cases = [
        ("adaptive_avg_pool2d", "output = 2", "output = 2"),
        ("adaptive_avg_pool2d", "output = [2, 3]", "output = [2, 3]"),
        ("avg_pool2d", "kernel = [3, 3]", "kernel = 3\npadding = 0"),
        ("avg_pool2d", "kernel = [3, 2]", "kernel = [3, 2]\npadding = 0"),
        ("avg_pool2d", "kernel = 3\nstride = 2\npadding = 1", "kernel = 3\nstride = 2\npadding = 1"),
        ("batch_norm2d", "", "eps = 1e-5\nmomentum = 0.1"),
        (
            "conv2d",
            "out_channels = 4\nkernel = 3",
            "out_channels = 4\nkernel = 3\nstride = 1\npadding = 0\ngroups = 1\nbias = true",
        ),
        (
            "conv2d",
            "out_channels = 4\nkernel = [3, 3]\npadding = [2, 2, 2, 2]\ndilation = [1, 1]\nbias = false",
            "out_channels = 4\nkernel = 3\nstride = 1\npadding = 2\ngroups = 1\nbias = false",
        ),
        (
            "conv2d",
            "out_channels = 4\nkernel = [3, 1]\npadding = \"same\"\ndilation = 2",
            "out_channels = 4\nkernel = [3, 1]\nstride = 1\npadding = \"same\"\ndilation = 2\ngroups = 1\nbias = true",
        ),
        (
            "conv2d",
            "out_channels = 4\nkernel = 3\npadding = [1, 1, 0, 0]\ndilation = [2, 1]",
            "out_channels = 4\nkernel = 3\nstride = 1\npadding = [1, 1, 0, 0]\ndilation = [2, 1]\ngroups = 1\nbias = true",
        ),
        ("dropout", "rate = 0.25", "rate = 0.25"),
        ("flatten", "", ""),
        ("global_avg_pool2d", "", ""),
        ("group_norm", "groups = 4", "groups = 4\neps = 1e-5"),
        ("leaky_relu", "", "negative_slope = 0.01"),
        ("linear", "out_features = 4", "out_features = 4\nbias = true"),
        ("prelu", "", "init = 0.25"),
        ("prelu", "num_parameters = 1\ninit = 0.1", "num_parameters = 1\ninit = 0.1"),
        ("relu6", "", ""),
        ("max_pool2d", "kernel = 3", "kernel = 3\npadding = 0"),
        ("relu", "", ""),
    ];
    for (kind, keys, want) in cases {
        let want: toml::Table = toml::from_str(want).unwrap();
        assert_eq!(parse(kind, keys).unwrap().keys(), want, "{kind}");
    }
}

/// Each rejected value, next to the nearest accepted one.
#[test]
fn limits_are_where_they_should_be() {
    let cases = [
        ("avg_pool2d", "kernel = 0\nstride = 1", Some("kernel = 0 must be from 1 to 65536")),
        ("avg_pool2d", "kernel = 2\nstride = 0", Some("stride = 0 must be from 1 to 65536")),
        ("avg_pool2d", "kernel = 2\nstride = 65537", Some("from 1 to 65536")),
        ("avg_pool2d", "kernel = 2\nstride = 65536", None),
        ("avg_pool2d", "kernel = 65537\npadding = 32768", Some("from 1 to 65536")),
        ("max_pool2d", "kernel = 65536\npadding = 9223372036854775807", Some("more than half")),
        ("conv2d", "out_channels = 2\nkernel = 1\nstride = 9223372036854775807", Some("from 1 to 65536")),
        ("max_pool2d", "kernel = 3\npadding = 2", Some("more than half of kernel 3")),
        ("max_pool2d", "kernel = 4\npadding = 2", None),
        (
            "avg_pool2d",
            "kernel = [2, 15]",
            Some("kernel [2, 15] does not fit input [4, 13, 14] with padding 0"),
        ),
        ("avg_pool2d", "kernel = [2, 14]", None),
        ("avg_pool2d", "kernel = [0, 2]", Some("kernel = 0 must be from 1 to 65536")),
        ("max_pool2d", "kernel = [4, 3]\npadding = 2", Some("padding 2 is more than half of kernel [4, 3]")),
        ("max_pool2d", "kernel = [3, 4]\npadding = 1", None),
        ("adaptive_avg_pool2d", "output = [13, 7]", None),
        (
            "adaptive_avg_pool2d",
            "output = [13, 4]",
            Some("output = [13, 4] must divide the input's height and width, [13, 14]"),
        ),
        (
            "adaptive_avg_pool2d",
            "output = 2",
            Some("output = [2, 2] must divide the input's height and width, [13, 14]"),
        ),
        ("adaptive_avg_pool2d", "output = 0", Some("output = [0, 0] must divide")),
        ("group_norm", "groups = 0", Some("groups = 0 must divide the 4 input channels")),
        ("group_norm", "groups = 3", Some("groups = 3 must divide the 4 input channels")),
        ("group_norm", "groups = 8", Some("groups = 8 must divide the 4 input channels")),
        ("group_norm", "groups = 4", None),
        ("group_norm", "groups = 1\neps = 1.0", Some("below 1")),
        ("group_norm", "groups = 1\neps = 0.0", Some("above 0")),
        ("batch_norm2d", "eps = 1.0", Some("below 1")),
        ("batch_norm2d", "eps = 0.0", Some("above 0")),
        ("batch_norm2d", "eps = 0.99", None),
        ("batch_norm2d", "momentum = 1.0", None),
        ("conv2d", "out_channels = 2\nkernel = [13, 14]", None),
        (
            "conv2d",
            "out_channels = 2\nkernel = [14, 1]",
            Some("kernel [14, 1] does not fit input [4, 13, 14]"),
        ),
        ("conv2d", "out_channels = 2\nkernel = [1, 65537]", Some("kernel = 65537 must be from 1 to 65536")),
        ("conv2d", "out_channels = 2\nkernel = 65536\npadding = \"same\"", None),
        (
            "conv2d",
            "out_channels = 2\nkernel = 4\npadding = 4",
            Some("padding 4 must be smaller than kernel 4"),
        ),
        ("conv2d", "out_channels = 2\nkernel = 4\npadding = 3", None),
        (
            "conv2d",
            "out_channels = 2\nkernel = [3, 2]\npadding = [2, 0, 0, 2]",
            Some("padding [2, 0, 0, 2] must be smaller than kernel [3, 2], on each side"),
        ),
        ("conv2d", "out_channels = 2\nkernel = [3, 2]\npadding = [2, 0, 0, 1]", None),
        (
            "conv2d",
            "out_channels = 2\nkernel = 3\npadding = 5\ndilation = 2",
            Some("padding 5 must be smaller than kernel 3 with dilation 2, 5 pixels"),
        ),
        ("conv2d", "out_channels = 2\nkernel = 3\npadding = 4\ndilation = 2", None),
        (
            "conv2d",
            "out_channels = 2\nkernel = 1\npadding = 9223372036854775807",
            Some("smaller than kernel 1"),
        ),
        (
            "conv2d",
            "out_channels = 2\nkernel = 2\ndilation = 0",
            Some("dilation = 0 must be from 1 to 65536"),
        ),
        ("conv2d", "out_channels = 2\nkernel = 2\ndilation = [1, 65537]", Some("from 1 to 65536")),
        ("conv2d", "out_channels = 2\nkernel = 2\ndilation = 65535\npadding = \"same\"", None),
        (
            "conv2d",
            "out_channels = 2\nkernel = 2\ndilation = 65536\npadding = \"same\"",
            Some("kernel 2 with dilation 65536 spans 65537 pixels; at most 65536 are allowed"),
        ),
        ("conv2d", "out_channels = 0\nkernel = 1", Some("at least 1")),
        ("conv2d", "out_channels = 2\nkernel = 0", Some("kernel = 0 must be from 1 to 65536")),
        ("conv2d", "out_channels = 2\nkernel = [1, 0]", Some("kernel = 0 must be from 1 to 65536")),
        ("conv2d", "out_channels = 2\nkernel = 1\nstride = 0", Some("stride = 0 must be from 1 to 65536")),
        ("conv2d", "out_channels = 2\nkernel = 1\ngroups = 0", Some("at least 1")),
        ("conv2d", "out_channels = 3\nkernel = 1\ngroups = 2", Some("must divide")),
        ("conv2d", "out_channels = 3\nkernel = 1\ngroups = 3", Some("must divide")),
    ];
    for (kind, keys, want) in cases {
        match (parse(kind, keys).unwrap().output_shape(&[Shape::new(4, 13, 14)]), want) {
            (Ok(_), None) => {}
            (Err(got), Some(want)) => assert!(got.contains(want), "{kind} with {keys}: {got}"),
            (got, want) => panic!("{kind} with {keys}: {got:?}, not {want:?}"),
        }
    }
    let no_list = "kernel must be a whole number of at least 1, or [height, width], not a list of ";
    let no_padding =
        "padding must be a whole number of at least 0, [top, bottom, left, right] or \"same\", not ";
    for (keys, want) in [
        ("kernel = [3, 3, 3]", format!("{no_list}3")),
        ("kernel = [3]", format!("{no_list}1")),
        ("kernel = [3, \"3\"]", "kernel[1] must be a whole number of at least 1, not \"3\"".into()),
        ("kernel = 3\npadding = [1, 1]", format!("{no_padding}a list of 2")),
        ("kernel = 3\npadding = \"SAME\"", format!("{no_padding}\"SAME\": write \"same\", in lower case")),
        ("kernel = 3\npadding = 0.5", format!("{no_padding}0.5")),
        ("kernel = 3\npadding = -1", format!("{no_padding}-1")),
        (
            "kernel = 3\ndilation = \"same\"",
            "dilation must be a whole number of at least 1, or [height, width], not \"same\"".into(),
        ),
    ] {
        assert_eq!(parse("conv2d", &format!("out_channels = 2\n{keys}")).unwrap_err(), want);
    }
    for (kind, keys, want) in [
        ("leaky_relu", "negative_slope = 1.0", Some("at least 0 and below 1")),
        ("leaky_relu", "negative_slope = 0.0", None),
        (
            "prelu",
            "num_parameters = 3",
            Some("num_parameters = 3 must be 1 (one slope for all) or 4 (one for each channel)"),
        ),
        ("prelu", "num_parameters = 4", None),
        ("prelu", "init = inf", Some("init = inf must be a finite number")),
        ("prelu", "init = -2.0", None),
    ] {
        let got = parse(kind, keys).unwrap().output_shape(&[Shape::new(4, 13, 14)]);
        let refused = got.err().unwrap_or_default();
        assert_eq!(refused.is_empty(), want.is_none(), "{kind} with {keys}: {refused}");
        assert!(refused.contains(want.unwrap_or_default()), "{kind} with {keys}: {refused}");
    }
    let linear = parse("linear", "out_features = 2").unwrap();
    assert!(linear.output_shape(&[Shape::new(4, 3, 3)]).unwrap_err().contains("more than one pixel"));
}

#[test]
fn parameters_have_their_shapes_and_first_values() {
    let param = |name, shape: &[usize], init, trained, decays| {
        let shape = shape.to_vec();
        let min = if name == "running_var" { 0.0 } else { f32::NEG_INFINITY };
        Param { name, shape, init, trained, decays, min }
    };
    fn params(kind: &str, keys: &str, input: [usize; 3]) -> Vec<Param> {
        parse(kind, keys).unwrap().params(&[Shape::from(input)])
    }
    // An output in a group sums 4/2 channels of 3x3.
    let conv = "out_channels = 6\nkernel = 3\ngroups = 2";
    let weight = param("weight", &[6, 2, 3, 3], Init::Weight { fan_in: 18 }, true, true);
    let bias = param("bias", &[6], Init::Bias { fan_in: 18 }, true, false);
    assert_eq!(params("conv2d", conv, [4, 5, 6]), [weight.clone(), bias]);
    assert_eq!(params("conv2d", &format!("{conv}\nbias = false"), [4, 5, 6]), [weight]);
    let weight = param("weight", &[6, 4], Init::Weight { fan_in: 4 }, true, true);
    let bias = param("bias", &[6], Init::Bias { fan_in: 4 }, true, false);
    assert_eq!(params("linear", "out_features = 6", [4, 1, 1]), [weight, bias]);
    let want = [
        param("weight", &[4], Init::Constant(1.0), true, false),
        param("bias", &[4], Init::Constant(0.0), true, false),
        param("running_mean", &[4], Init::Constant(0.0), false, false),
        param("running_var", &[4], Init::Constant(1.0), false, false),
    ];
    assert_eq!(params("batch_norm2d", "", [4, 5, 6]), want);
    assert_eq!(params("group_norm", "groups = 2", [4, 5, 6]), want[..2]);
    let slopes = |number: usize, first| param("weight", &[number], Init::Constant(first), true, false);
    assert_eq!(params("prelu", "", [4, 5, 6]), [slopes(4, 0.25)]);
    assert_eq!(params("prelu", "num_parameters = 1\ninit = 0.5", [4, 5, 6]), [slopes(1, 0.5)]);
}

/// The mask is a function of seed, layer, step, image and element, as in `shaders/dropout.wgsl`.
#[test]
fn dropout_draws_the_words_it_should() {
    let shape = [7, 2, 5, 3];
    let arrays = Arrays::from([("input", Array::exact(&shape, vec![3.0; 210]))]);
    let layer = parse("dropout", "rate = 0.25").unwrap();
    let context = Context { first_image: 6, ..context(true) };
    let output = &layer.forward(&arrays, &context)["output"];
    for (index, &value) in output.data.iter().enumerate() {
        let (image, element) = (6 + index / 30, index % 30);
        let words = rng::words(rng::key(11, Stream::Dropout(4)), 3, image as u32 / 4, element as u32);
        let kept = words[image % 4] >= rng::drop_threshold(0.25);
        assert_eq!(value, if kept { 3.0 * f64::from(1.0f32 / 0.75) } else { 0.0 }, "{index}");
    }
    let eval = Context { training: false, ..context };
    assert_eq!(layer.forward(&arrays, &eval)["output"], arrays["input"]);
}

/// Invocations of each launch of a pass, by entry point.
fn launches(
    kind: &str,
    keys: &str,
    input: [usize; 3],
    quads: usize,
    pass: Pass,
) -> Vec<(&'static str, usize)> {
    let layer = parse(kind, keys).unwrap();
    let launches = layer.launches(pass, &plan_context(&*layer, input, quads));
    launches.into_iter().map(|launch| (launch.entry_point, launch.invocations)).collect()
}

fn plan_context(layer: &dyn Layer, input: [usize; 3], quads: usize) -> PlanContext {
    let input = Shape::from(input);
    let inputs = vec![input];
    PlanContext {
        frozen: false,
        output: layer.output_shape(&inputs).unwrap(),
        inputs,
        quads,
        layer: 0,
        grain: Grain::Coarse,
    }
}

fn saved(kind: &str, keys: &str, input: [usize; 3], quads: usize) -> Vec<(&'static str, usize)> {
    let layer = parse(kind, keys).unwrap();
    layer.saved(&plan_context(&*layer, input, quads))
}

#[test]
fn convolutions_launch_as_much_as_there_is() {
    // Output [40, 3, 2] in strips of one pixel, 5 tiles of channels in each of 2 groups.
    let keys = "out_channels = 40\nkernel = 5\nstride = 4\npadding = 4\ngroups = 2";
    let input = [6, 5, 4];
    assert_eq!(launches("conv2d", keys, input, 14, Pass::Train), [("forward", 2 * 3 * 14 * 10)]);
    // 75 weights per output in 9 tiles, 20 outputs per group in 3; each of 14·3 rows is a part.
    let backward = launches("conv2d", keys, input, 14, Pass::Backward);
    let want = [
        ("weight_parts", 14 * 3 * (9 * 3 * 2)),
        ("sum_weight_parts", 40 * 75),
        ("sum_bias_parts", 40),
        ("backward_input", 5 * 14 * 2),
    ];
    assert_eq!(backward, want);
    assert_eq!(saved("conv2d", keys, input, 14), [("parts", 14 * 3 * (40 * 75 + 40))]);
    // 500 rows are 125 parts of 4 rows, but the 50 rows of an image are 13.
    let keys = "out_channels = 6\nkernel = 3\npadding = 1\nbias = false";
    let input = [5, 50, 30];
    assert_eq!(launches("conv2d", keys, input, 10, Pass::Eval), [("forward", 8 * 50 * 10 * 2)]);
    let backward = launches("conv2d", keys, input, 10, Pass::Backward);
    let want = [("weight_parts", 130 * 5), ("sum_weight_parts", 6 * 45), ("backward_input", 8 * 50 * 10 * 2)];
    assert_eq!(backward, want);
    assert_eq!(saved("conv2d", keys, input, 10), [("parts", 130 * (6 * 45 + 6))]);
}

#[test]
fn other_layers_launch_as_much_as_there_is() {
    let input = [5, 7, 4];
    let rows = 3 * 5 * 7;
    let norm = |pass| launches("batch_norm2d", "", input, 3, pass);
    let train = [("row_sums", rows), ("statistics", 5 * 64), ("forward", rows * 4)];
    let backward = [("grad_row_sums", rows), ("grad_params", 5 * 64), ("backward_input", rows * 4)];
    assert_eq!(norm(Pass::Train), train);
    assert_eq!(norm(Pass::Eval), [("forward_eval", rows * 4)]);
    assert_eq!(norm(Pass::Backward), backward);
    let sizes =
        [("mean", 5), ("inv_std", 5), ("grad_means", 10), ("sums", 2 * rows), ("grad_sums", 2 * rows)];
    assert_eq!(saved("batch_norm2d", "", input, 3), sizes);
    let norm = |pass| launches("group_norm", "groups = 5", input, 3, pass);
    let maps = 3 * 5 * 64;
    assert_eq!(norm(Pass::Train), [("map_sums", maps), ("forward", maps)]);
    assert_eq!(norm(Pass::Eval), norm(Pass::Train));
    let backward = [("grad_map_sums", maps), ("grad_params", 5 * 64), ("backward_input", maps)];
    assert_eq!(norm(Pass::Backward), backward);
    let sizes = [("moments", 3 * 8), ("sums", 3 * 5 * 8), ("grad_sums", 3 * 5 * 8)];
    assert_eq!(saved("group_norm", "groups = 1", input, 3), sizes);
    // [kind, keys, output of one image, entry point of an evaluation]
    for (kind, keys, output, eval) in [
        ("avg_pool2d", "kernel = 2", 5 * 3 * 2, "forward"),
        ("adaptive_avg_pool2d", "output = [7, 2]", 5 * 7 * 2, "forward"),
        ("max_pool2d", "kernel = 2", 5 * 3 * 2, "forward"),
        ("global_avg_pool2d", "", 5, "forward"),
        ("relu", "", 140, "forward"),
        ("leaky_relu", "", 140, "forward"),
        ("tanh", "", 140, "forward"),
        ("dropout", "rate = 0.5", 140, "forward_eval"),
    ] {
        let of = |pass| launches(kind, keys, input, 3, pass);
        assert_eq!(of(Pass::Train), [("forward", 3 * output)], "{kind}");
        assert_eq!(of(Pass::Eval), [(eval, 3 * output)], "{kind}");
        assert_eq!(of(Pass::Backward), [("backward_input", 3 * 140)], "{kind}");
        assert_eq!(saved(kind, keys, input, 3), [], "{kind}");
        assert_eq!(parse(kind, keys).unwrap().params(&[Shape::from(input)]), [], "{kind}");
    }
}

#[test]
fn activations_launch_by_what_they_read() {
    for kind in ["gelu", "hard_sigmoid", "hard_swish", "silu"] {
        let backward = launches(kind, "", [5, 7, 4], 3, Pass::Backward);
        assert_eq!(backward, [("backward_input_by_input", 3 * 140)], "{kind}");
    }
    for (keys, slopes) in [("", 5), ("num_parameters = 1", 1)] {
        let of = |pass| launches("prelu", keys, [5, 7, 4], 3, pass);
        assert_eq!(of(Pass::Eval), [("forward_prelu", 3 * 140)]);
        let rows = 3 * 5 * 7;
        let want =
            [("weight_row_sums", rows), ("sum_weight_rows", 64 * slopes), ("backward_input_prelu", 4 * rows)];
        assert_eq!(of(Pass::Backward), want);
        assert_eq!(saved("prelu", keys, [5, 7, 4], 3), [("sums", rows)]);
    }
}

/// Small integers without a pattern.
fn numbers(shape: [usize; 4]) -> Array {
    let len = shape.iter().product::<usize>();
    Array::exact(&shape, (0..len as u32).map(|i| f64::from(rng::words(5, 0, 0, i)[0] % 19) - 9.0).collect())
}

fn at(array: &Array, [n, c, y, x]: [usize; 4]) -> f64 {
    let [_, channels, height, width] = array.nchw();
    array.data[((n * channels + c) * height + y) * width + x]
}

/// Differences of wrong but consistent indexing agree with its gradients; this test doesn't.
#[test]
fn a_convolution_is_its_definition() {
    let keys = "out_channels = 6\nkernel = 3\nstride = 2\npadding = 1\ngroups = 2\nbias = true";
    let (input, weight) = (numbers([3, 4, 7, 10]), numbers([6, 2, 3, 3]));
    let bias = vector(&[1.0, 20.0, 300.0, 4000.0, 50_000.0, 600_000.0]);
    let arrays = Arrays::from([("input", input.clone()), ("weight", weight.clone()), ("bias", bias)]);
    let output = &parse("conv2d", keys).unwrap().forward(&arrays, &context(true))["output"];
    assert_eq!(output.shape, [3, 6, 4, 5]);
    let mut want = Array::zeros(&output.shape);
    let mut cells = want.data.iter_mut();
    for n in 0..3 {
        for o in 0..6 {
            for y in 0..4 {
                for x in 0..5 {
                    let mut sum = arrays["bias"].data[o];
                    // Three outputs and two inputs per group.
                    for (c, channel) in [(0, o / 3 * 2), (1, o / 3 * 2 + 1)] {
                        for i in (0..3).filter(|i| (1..8).contains(&(2 * y + i))) {
                            for j in (0..3).filter(|j| (1..11).contains(&(2 * x + j))) {
                                let read = at(&input, [n, channel, 2 * y + i - 1, 2 * x + j - 1]);
                                sum += at(&weight, [o, c, i, j]) * read;
                            }
                        }
                    }
                    *cells.next().unwrap() = sum;
                }
            }
        }
    }
    assert_eq!(output.data, want.data);
}

/// The part of an array [N, C, H, W] that belongs to one image, to one channel, or to both.
fn part(array: &Array, image: Option<usize>, channel: Option<usize>) -> Array {
    let [n, c, h, w] = array.nchw();
    let images = image.map_or(0..n, |image| image..image + 1);
    let channels = channel.map_or(0..c, |channel| channel..channel + 1);
    let maps = images.clone().flat_map(|n| channels.clone().map(move |channel| n * c + channel));
    let data = maps.flat_map(|map| array.data[map * h * w..][..h * w].to_vec()).collect();
    Array::exact(&[images.len(), channels.len(), h, w], data)
}

/// Together with results by hand for a single map, this covers the rest.
#[test]
fn maps_that_should_not_see_each_other_do_not() {
    for (kind, keys) in [
        ("avg_pool2d", "kernel = 3\nstride = 2\npadding = 1"),
        ("max_pool2d", "kernel = 3\nstride = 2\npadding = 1"),
        ("adaptive_avg_pool2d", "output = [1, 4]"),
        ("global_avg_pool2d", ""),
        ("batch_norm2d", ""),
        ("group_norm", "groups = CHANNELS"),
    ] {
        let run = |input: Array, upstream: Option<Array>| {
            let channels = input.shape[1];
            let layer = parse(kind, &keys.replace("CHANNELS", &channels.to_string())).unwrap();
            let mut arrays = Arrays::from([("input", input)]);
            for param in layer.params(&[Shape::new(channels, 5, 8)]) {
                arrays.insert(param.name, vector(&vec![1.0; channels]));
            }
            let made = layer.forward(&arrays, &context(true));
            let output = made["output"].clone();
            arrays.extend(made);
            arrays.insert("grad_output", upstream.unwrap_or_else(|| numbers(output.nchw())));
            let grad_input = layer.backward(&arrays, &context(true))["grad_input"].clone();
            (output, arrays["grad_output"].clone(), grad_input)
        };
        let input = numbers([3, 4, 5, 8]);
        let (output, upstream, grad_input) = run(input.clone(), None);
        for (n, c) in (0..3).flat_map(|n| (0..4).map(move |c| (n, c))) {
            // The images of a batch share their statistics.
            let n = Some(n).filter(|_| kind != "batch_norm2d");
            let alone = run(part(&input, n, Some(c)), Some(part(&upstream, n, Some(c))));
            assert_eq!(part(&output, n, Some(c)).data, alone.0.data, "{kind}: {n:?}, {c}");
            assert_eq!(part(&grad_input, n, Some(c)).data, alone.2.data, "{kind}: {n:?}, {c}");
        }
    }
}
