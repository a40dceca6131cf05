//! The reference against PyTorch, on the fixtures of `tests/fixtures/pytorch.py`. Both compute in f64.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use shadernet::config::Optimizer;
use shadernet::layers::{Context, LayerKind};
use shadernet::losses::cross_entropy::{cross_entropy, weighted_cross_entropy};
use shadernet::model::Model;
use shadernet::optimizers::clip;
use shadernet::reference::{At, Reference};
use shadernet::tensor::{Array, Arrays, Shape, Tensor};

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new("tests/fixtures").join(name)).unwrap()
}

/// A tensor's shape and its values of any type, as f64.
fn values(file: &SafeTensors<'_>, name: &str) -> (Vec<usize>, Vec<f64>) {
    let tensor = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let bytes = tensor.data();
    let data = match tensor.dtype() {
        Dtype::F64 => bytes.chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
        Dtype::F32 => bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
        Dtype::I64 => bytes.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
        Dtype::U8 => bytes.iter().map(|&byte| byte.into()).collect(),
        other => panic!("{name} is {other:?}"),
    };
    (tensor.shape().to_vec(), data)
}

/// Largest difference, relative to the tensor's largest value; infinite for a NaN.
fn difference(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(1e-30f64, |largest, value| largest.max(value.abs()));
    let differences = got.iter().zip(want).map(|(got, want)| (got - want).abs() / scale);
    differences.fold(0.0, |largest, d| {
        if d <= largest {
            largest
        } else if d.is_nan() {
            f64::INFINITY
        } else {
            d
        }
    })
}

#[track_caller]
fn assert_close(what: &str, got: &[f64], want: &[f64], tolerance: f64) -> f64 {
    let difference = difference(got, want);
    assert!(difference <= tolerance, "{what}: off by {difference:e} of the largest value");
    difference
}

fn keys(text: &str) -> toml::Table {
    let mut table: toml::Table = toml::from_str(&format!("keys = {text}")).unwrap();
    let Some(toml::Value::Table(keys)) = table.remove("keys") else {
        panic!("{text}");
    };
    keys
}

#[test]
fn layers_agree() {
    let bytes = fixture("layers.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let cases = metadata.metadata().clone().unwrap();
    let (mut worst, mut compared) = (0.0f64, 0);
    let mut kinds = std::collections::BTreeSet::new();
    for (case, text) in cases.iter().filter(|(case, _)| !case.starts_with("loss")) {
        let mut keys = keys(text);
        let kind = keys.remove("type").unwrap();
        kinds.insert(kind.as_str().unwrap().to_owned());
        let layer = LayerKind::find(kind.as_str().unwrap()).unwrap().parse(keys).unwrap();
        let (mut shape, data) = values(&file, &format!("{case}.input"));
        shape.resize(4, 1); // [N, features] is [N, features, 1, 1] here
        let input = Shape::new(shape[1], shape[2], shape[3]);
        let mut arrays = Arrays::from([("input", Array::exact(&shape, data))]);
        for param in layer.params(&[input]) {
            let (shape, data) = values(&file, &format!("{case}.{}", param.name));
            assert_eq!(shape, param.shape, "{case}.{}", param.name);
            arrays.insert(param.name, Array::exact(&shape, data));
        }
        let context =
            Context { training: !case.ends_with("_eval"), seed: 0, step: 0, layer: 0, first_image: 0 };
        let mut check = |name: &str, got: &Array| {
            let (_, want) = values(&file, &format!("{case}.{name}"));
            // In PyTorch, the 1/6 in its derivative is f32.
            let sixth = case == "hard_sigmoid" && name == "grad_input";
            let off =
                assert_close(&format!("{case}.{name}"), &got.data, &want, if sixth { 3e-8 } else { 1e-10 });
            worst = if sixth { worst } else { worst.max(off) };
            compared += 1;
        };
        let made = layer.forward(&arrays, &context);
        check("output", &made["output"]);
        if !context.training {
            continue;
        }
        for name in ["running_mean", "running_var"] {
            if let Some(array) = made.get(name) {
                check(&format!("new_{name}"), array);
            }
        }
        let output = layer.output_shape(&[input]).unwrap();
        arrays.extend(made);
        let (_, data) = values(&file, &format!("{case}.grad_output"));
        let shape = [shape[0], output.channels, output.height, output.width];
        arrays.insert("grad_output", Array::exact(&shape, data));
        for (name, array) in layer.backward(&arrays, &context) {
            check(name, &array);
        }
    }
    // Dropout is the only layer whose random words PyTorch does not share.
    assert_eq!(kinds.len(), shadernet::layers::LAYERS.len() - 4, "{kinds:?}");
    let of_layers = file.names().into_iter().filter(|name| {
        let (_, tensor) = name.split_once('.').unwrap();
        let made = ["output", "grad_input", "grad_weight", "grad_bias"].contains(&tensor);
        made || tensor.starts_with("new_")
    });
    assert_eq!(compared, of_layers.count(), "tensors of the fixture");
    println!("{compared} tensors of {} cases: at most {worst:.1e} off", cases.len() - 2);
}

#[test]
fn losses_agree() {
    let bytes = fixture("layers.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (case, smoothing) in [("loss", 0.0), ("loss_smoothed", 0.1)] {
        let (shape, logits) = values(&file, &format!("{case}.logits"));
        let targets: Vec<u8> = values(&file, &format!("{case}.targets")).1.iter().map(|&t| t as u8).collect();
        let made = cross_entropy(&Array::exact(&shape, logits), &targets, smoothing);
        let mean = made["loss"].data.iter().sum::<f64>() / targets.len() as f64;
        assert_close(case, &[mean], &values(&file, &format!("{case}.loss")).1, 1e-10);
        let want = values(&file, &format!("{case}.grad_logits")).1;
        assert_close(case, &made["grad_logits"].data, &want, 1e-10);
    }
}

#[test]
fn weighted_losses_agree() {
    let bytes = fixture("training.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (case, smoothing) in [("loss_weighted", 0.0), ("loss_weighted_smoothed", 0.1)] {
        let (shape, logits) = values(&file, &format!("{case}.logits"));
        let targets: Vec<u8> = values(&file, &format!("{case}.targets")).1.iter().map(|&t| t as u8).collect();
        let weights: Vec<f32> =
            values(&file, &format!("{case}.weight")).1.iter().map(|&w| w as f32).collect();
        let made = weighted_cross_entropy(&Array::exact(&shape, logits), &targets, smoothing, &weights);
        let mean = made["loss"].data.iter().sum::<f64>() / targets.len() as f64;
        assert_close(case, &[mean], &values(&file, &format!("{case}.loss")).1, 1e-10);
        let want = values(&file, &format!("{case}.grad_logits")).1;
        assert_close(case, &made["grad_logits"].data, &want, 1e-10);
    }
}

#[test]
fn clipped_gradients_agree() {
    let bytes = fixture("training.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let grads: Vec<Array> = (0..3)
        .map(|number| values(&file, &format!("clip.grad.{number}")))
        .map(|(shape, data)| Array::exact(&shape, data))
        .collect();
    for (number, limit) in [100.0, 5.0, 0.1].into_iter().enumerate() {
        let mut clipped = grads.clone();
        clip::clip(&mut clipped, limit);
        for (n, grad) in clipped.iter().enumerate() {
            let name = format!("clip.clipped.{number}.{n}");
            assert_close(&name, &grad.data, &values(&file, &name).1, 1e-12);
            assert_eq!(grad.data == grads[n].data, limit == 100.0);
        }
    }
}

const SEED_NET: &str = r#"
    name = "seed"
    input = [1, 28, 28]
    layers = [
        { type = "conv2d", out_channels = 8, kernel = 3 },
        { type = "relu" },
        { type = "batch_norm2d" },
        { type = "conv2d", out_channels = 16, kernel = 3 },
        { type = "relu" },
        { type = "batch_norm2d" },
        { type = "conv2d", out_channels = 8, kernel = 1 },
        { type = "max_pool2d", kernel = 2 },
        { type = "conv2d", out_channels = 16, kernel = 3 },
        { type = "relu" },
        { type = "batch_norm2d" },
        { type = "conv2d", out_channels = 16, kernel = 3 },
        { type = "relu" },
        { type = "batch_norm2d" },
        { type = "max_pool2d", kernel = 2 },
        { type = "conv2d", out_channels = 32, kernel = 3 },
        { type = "conv2d", out_channels = 10, kernel = 1 },
        { type = "global_avg_pool2d" },
    ]"#;

/// Weights with a prefix, in the model's order.
fn weights(file: &SafeTensors<'_>, model: &Model, prefix: &str) -> Vec<Tensor> {
    let tensor = |param: shadernet::model::ModelParam| {
        let (shape, data) = values(file, &format!("{prefix}{}", param.name));
        let name = param.name;
        let data = data.iter().map(|&value| value as f32).collect();
        Tensor { name, shape, data }
    };
    model.params().into_iter().map(tensor).collect()
}

/// Images [n, C, H, W] of u8 pixels, normalised as in the fixtures.
fn normalised(pixels: &[f64], n: usize) -> Array {
    let value = |&pixel: &f64| (pixel / 255.0 - 0.1307) / 0.3081;
    Array::exact(&[n, 1, 28, 28], pixels.iter().map(value).collect())
}

/// Ten steps of each optimizer. PyTorch held 0.9, 1e-2 or 1e-5 (eps of the batch norms) as f64; here they are f32, a
/// few 1e-8 off, which accounts for the whole difference.
#[test]
fn trajectories_agree() {
    let bytes = fixture("trajectories.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut model = Model::parse(SEED_NET, "seed net").unwrap();
    let (shape, pixels) = values(&file, "pixels");
    let (_, targets) = values(&file, "targets");
    let (steps, n) = (shape[0], shape[1]);
    let init = weights(&file, &model, "init.");
    let sgd = |nesterov, weight_decay| Optimizer::Sgd { momentum: 0.9, nesterov, weight_decay };
    let (beta1, beta2, eps) = (0.9, 0.999, 1e-8);
    let adam = Optimizer::Adam { beta1, beta2, eps, weight_decay: 0.0 };
    let adamw = Optimizer::Adamw { beta1, beta2, eps, weight_decay: 5e-2 };
    for (name, optimizer, learning_rate) in [
        ("sgd_momentum", sgd(false, 0.0), 0.05),
        ("sgd_nesterov", sgd(true, 1e-2), 0.05),
        ("adam", adam, 3e-3),
        ("adamw", adamw, 3e-3),
    ] {
        model.train.optimizer = optimizer;
        let mut reference = Reference::new(&model, &init).decaying_all();
        let mut losses = Vec::new();
        for step in 0..steps {
            let input = normalised(&pixels[step * n * 784..][..n * 784], n);
            let targets: Vec<u8> = targets[step * n..][..n].iter().map(|&target| target as u8).collect();
            let at = At { seed: 0, step: step as u32, learning_rate };
            let named = reference.step(input, &targets, at);
            losses.push(named["loss"].data.iter().sum::<f64>() / n as f64);
            if step == 0 {
                let logits = &named["global_avg_pool1.output"].data;
                assert_close("logits", logits, &values(&file, "logits").1, 1e-10);
                for param in model.params().iter().filter(|param| param.param.trained) {
                    let (layer, own) = param.name.split_once('.').unwrap();
                    let want = values(&file, &format!("grad.{}", param.name)).1;
                    let got = &named[&format!("{layer}.grad_{own}")].data;
                    // 1e-5 as f32 is 2.5e-13 off; a changed eps affects the logits 300-fold, gradients 600-fold.
                    assert_close(&param.name, got, &want, 1e-9);
                }
            }
        }
        let loss = assert_close(name, &losses, &values(&file, &format!("{name}.losses")).1, TRAJECTORY);
        let mut worst = (0.0, "");
        for (param, got) in model.params().iter().zip(reference.weights()) {
            let want = values(&file, &format!("{name}.final.{}", param.name)).1;
            let difference = difference(&got.data, &want);
            if difference > worst.0 {
                worst = (difference, param.param.name);
            }
            assert!(difference <= TRAJECTORY, "{name}: {} is off by {difference:e}", param.name);
        }
        println!("{name}: losses at most {loss:.1e} off, weights {:.1e} ({})", worst.0, worst.1);
    }
}

/// Five times the measured value.
const TRAJECTORY: f64 = 6e-7;

#[test]
fn logits_of_an_interchange_file_agree() {
    let [bytes, expected] = ["interchange.safetensors", "interchange_expected.safetensors"].map(fixture);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let expected = SafeTensors::deserialize(&expected).unwrap();
    let model = Model::parse(SEED_NET, "seed net").unwrap();
    let (shape, pixels) = values(&expected, "pixels");
    let reference = Reference::new(&model, &weights(&file, &model, ""));
    let logits = reference.logits(normalised(&pixels, shape[0]));
    assert_close("logits", &logits.data, &values(&expected, "logits").1, 1e-10);
}
