//! Negative controls: a test that passes broken code is worthless, so here things are broken on purpose.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use common::nets::random_weights;
use common::{Draw, gpu};
use shadernet::config::{Augment, Optimizer, TrainConfig};
use shadernet::doctor::{Table, check_step};
use shadernet::engine::{Engine, Setup, Vector};
use shadernet::gpu::{GpuEngine, GpuOptions};
use shadernet::model::Model;
use shadernet::replica::Replica;
use shadernet::shader;
use shadernet::tensor::Array;

#[test]
fn a_value_outside_its_bound_is_found() {
    let mut want = Array::from_f32(&[2, 1, 2, 3], &Draw::new(1).normals(12));
    want.bound.fill(1e-6);
    let right = want.to_f32();
    let check = |got: &[f32]| Table::default().check("kind", "net 1, conv1.output", got, &want);
    assert_eq!(check(&right), Ok(()));
    for index in 0..12 {
        for wrong in [right[index] + 3e-6, right[index] - 3e-6, -right[index], 0.0, f32::NAN, f32::INFINITY] {
            let mut got = right.clone();
            got[index] = wrong;
            assert!(check(&got).is_err(), "{wrong} for element {index}");
        }
    }
    let mut got = right.clone();
    got[10] = 9.0;
    let message = check(&got).unwrap_err();
    assert!(message.starts_with("net 1, conv1.output at [1, 0, 1, 1]: got 9e0, expected "), "{message}");
    assert!(check(&right[..11]).is_err(), "a missing element");
}

const NET: &str = r#"
    name = "net"
    input = [2, 12, 11]
    layers = [
        { type = "conv2d", out_channels = 6, kernel = 3, padding = 1 },
        { type = "batch_norm2d" },
        { type = "relu" },
        { type = "max_pool2d", kernel = 3, stride = 2, padding = 1 },
        { type = "dropout", rate = 0.2 },
        { type = "conv2d", name = "linear_part", out_channels = 5, kernel = 3 },
        { type = "leaky_relu", name = "active" },
        { type = "global_avg_pool2d", name = "gate" },
        { type = "multiply", name = "gated", from = ["gate", "active"] },
        { type = "add", name = "sum", from = ["gated", "active", "linear_part"] },
        { type = "concat", from = ["sum", "active"] },
        { type = "group_norm", groups = 5 },
        { type = "avg_pool2d", kernel = 2 },
        { type = "flatten" },
        { type = "linear", out_features = 5 },
    ]"#;

/// One step of [`NET`], compared as in `gpu_layers.rs`, with a line of a shader changed.
fn step_with(
    batch_size: usize,
    optimizer: Optimizer,
    replace: Option<(&'static str, &'static str)>,
) -> Option<Result<(), String>> {
    let gpu = gpu()?;
    let mut model = Model::parse(NET, "net").unwrap();
    model.train = TrainConfig::default()
        .batch_size(batch_size)
        .optimizer(optimizer)
        .average_decay(0.9)
        .augment(Augment::default().rotate_degrees(15.0).shift_pixels(1.5));
    let images = Draw::new(5).images(200, model.input.into(), model.class_count());
    let setup = Setup {
        model: &model,
        replicas: &Replica::of_seeds(&model, [6, 7]),
        shuffle: true,
        normalization: &Draw::new(2).normalization(model.input.channels),
        training: Some(&images),
        test: &images,
    };
    let options = GpuOptions { reuse: false, checked: true, replace, ..GpuOptions::DEFAULT };
    let mut engine = match GpuEngine::new(gpu, &setup, options) {
        Ok(engine) => engine,
        Err(error) => panic!("the changed shader must compile: {error}"),
    };
    for replica in 0..2 {
        engine.write(Vector::Weights, replica, &random_weights(&model, replica as u32)).unwrap();
        engine.write(Vector::Average, replica, &random_weights(&model, 9)).unwrap();
    }
    // The last step of an epoch, whose batch is short: 4 of 7 or 70 of 130 images.
    engine.set_step(200 / batch_size as u32).unwrap();
    Some(check_step(&mut engine, &setup, "net", &mut Table::default()))
}

const SGD: Optimizer = Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay: 0.01 };
const ADAM: Optimizer = Optimizer::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };

/// Shader, a piece of its text, and what breaks it.
const MUTANTS: &[(&str, &str, &str)] = &[
    ("activation", "select(NEGATIVE_SLOPE * upstream", "select(-NEGATIVE_SLOPE * upstream"),
    ("add", "output[at] += input[at]", "output[at] = input[at]"),
    ("concat", "= input[quad * PART + index % PART]", "= input[quad * PART]"),
    ("multiply", "sum += grad_output[at] * second(at)", "sum = grad_output[at] * second(at)"),
    // Which of several equal values wins.
    ("max_pool2d", "value > best.value", "value >= best.value"),
    ("avg_pool2d", "max(row + 1u, KERNEL_HEIGHT)", "max(row, KERNEL_HEIGHT)"),
    // The lanes past a short batch count.
    ("batch_norm2d", "(input[start + x] - shift) * mask", "(input[start + x] - shift)"),
    ("batch_norm2d", "centred * mask", "centred"),
    ("batch_norm2d", "count / max(count - 1.0, 1.0)", "1.0"),
    // The sums of one invocation, or of one group, don't count.
    ("group_norm", "half > 0u", "half > 1u"),
    ("group_norm", "squares += sums[2u * other + 1u]", "squares += sums[2u * other]"),
    ("group_norm", "max(tree[64] / COUNT - from_first * from_first", "max(tree[64] / COUNT"),
    ("group_norm", "- normalised * mean_product", "+ normalised * mean_product"),
    ("cross_entropy", "mask / f32(state[STEP_IMAGES])", "mask / f32(BATCH_SIZE)"),
    // The backward pass draws another mask than the forward pass.
    ("dropout", "index / IMAGE_ELEMENTS, state[THIS_STEP], key", "index / IMAGE_ELEMENTS, state[0], key"),
    ("conv2d", "column < IN_WIDTH + PADDING", "column <= IN_WIDTH + PADDING"),
    ("conv2d", "if (HAS_BIAS && first_column == 0u)", "if (HAS_BIAS && first_column == 1u)"),
    ("batch", "round < 4u", "round < 3u"),
    ("batch", "* (1.0 - fx) + pixel", "* (1.0 + fx) + pixel"),
    ("sgd", "rate_and_decay.y * param", "0.99 * rate_and_decay.y * param"),
    ("adam", "result *= 2.0 - result", "result *= 2.0"),
    ("average", "(1.0 + steps)", "(2.0 + steps)"),
];

#[test]
fn every_broken_shader_is_found() {
    for optimizer in [SGD, ADAM] {
        match step_with(7, optimizer, None) {
            None => return,
            Some(result) => assert_eq!(result, Ok(()), "nothing is broken yet"),
        }
    }
    for &(name, from, to) in MUTANTS {
        let source = shader::find(name).source;
        assert!(source.contains(from), "{name}.wgsl no longer has `{from}`");
        let broken: &'static str = source.replacen(from, to, 1).leak();
        let optimizer = if name == "adam" { ADAM } else { SGD };
        let result = step_with(7, optimizer, Some((name, broken))).unwrap();
        let message = result.expect_err(&format!("{name}.wgsl with `{to}` passes"));
        println!("{name:<14} {to:<50} {message:.90}");
    }
}

/// Without barriers an invocation reads values that another has not yet written. A device that runs a whole workgroup
/// in lockstep may get away with it, so only a software adapter, which doesn't, must be caught.
#[test]
fn missing_barriers_are_found() {
    for name in ["batch_norm2d", "cross_entropy"] {
        let source = shader::find(name).source;
        assert!(source.contains("workgroupBarrier();"), "{name}.wgsl has no barrier");
        let broken: &'static str = source.replace("workgroupBarrier();", "").leak();
        // Enough images for several subgroups to work on one sum.
        let Some(result) = step_with(130, SGD, Some((name, broken))) else { return };
        let must = gpu().is_some_and(|gpu| gpu.info.is_software());
        println!("{name} without barriers: {result:.90?}");
        assert!(result.is_err() || !must, "{name}.wgsl without barriers passes");
    }
}
