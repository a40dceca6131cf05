//! Random small networks that together cover every kind of layer and every option.

use shadernet::layers::LayerKind;
use shadernet::model::Model;
use shadernet::tensor::{Shape, Tensor};

use super::Draw;

/// Layers of a network's body. Net number i starts with the i-th that fits, so that none is missed by chance.
const BODY: &[&str] = &[
    r#"{ type = "conv2d", out_channels = 6, kernel = 3 }"#,
    r#"{ type = "conv2d", out_channels = 5, kernel = 3, padding = 1, stride = 2 }"#,
    r#"{ type = "conv2d", out_channels = GROUPS, kernel = 3, padding = 1, groups = CHANNELS }"#,
    r#"{ type = "conv2d", out_channels = 6, kernel = 3, groups = HALF, bias = false }"#,
    r#"{ type = "conv2d", out_channels = 7, kernel = 1, bias = false }"#,
    r#"{ type = "conv2d", out_channels = 4, kernel = 5, padding = 2 }"#,
    r#"{ type = "conv2d", out_channels = 3, kernel = 2, stride = 3 }"#,
    r#"{ type = "conv2d", out_channels = 11, kernel = 2, padding = 1 }"#,
    r#"{ type = "conv2d", out_channels = 3, kernel = 4, padding = 1, bias = false }"#,
    r#"{ type = "conv2d", out_channels = 5, kernel = 7, padding = 6, stride = 2 }"#,
    r#"{ type = "conv2d", out_channels = 2, kernel = 5, padding = 4, stride = 4 }"#,
    r#"{ type = "relu" }"#,
    r#"{ type = "leaky_relu", negative_slope = 0.2 }"#,
    r#"{ type = "batch_norm2d" }"#,
    r#"{ type = "batch_norm2d", eps = 1e-3, momentum = 0.3 }"#,
    r#"{ type = "max_pool2d", kernel = 2 }"#,
    r#"{ type = "max_pool2d", kernel = 3, stride = 2, padding = 1 }"#,
    r#"{ type = "max_pool2d", kernel = 3, stride = 1 }"#,
    r#"{ type = "avg_pool2d", kernel = 2 }"#,
    r#"{ type = "avg_pool2d", kernel = 3, stride = 2, padding = 1 }"#,
    r#"{ type = "avg_pool2d", kernel = 2, stride = 3 }"#,
    r#"{ type = "dropout", rate = 0.3 }"#,
];

/// Network number `number`. `side` is the largest height and width of its input.
pub(crate) fn random_model(number: u32, side: usize) -> Model {
    let mut draw = Draw::new(1000 + number);
    let mut shape = Shape::new(1 + draw.below(4), side - draw.below(side / 2), side - draw.below(side / 2));
    let input = shape;
    let classes = 2 + draw.below(10);
    let mut lines: Vec<String> = Vec::new();
    // A trained layer at the bottom, so that all gradients are wanted; in one net of five there is none.
    if number % 5 != 4 {
        add(BODY[draw.below(8)], &mut shape, &mut lines);
    }
    add(BODY[number as usize % BODY.len()], &mut shape, &mut lines);
    for _ in 0..1 + draw.below(4) {
        add(BODY[draw.below(BODY.len())], &mut shape, &mut lines);
    }
    let linear = format!(r#"{{ type = "linear", out_features = {classes} }}"#);
    let end = match draw.below(4) {
        0 => vec![
            format!(r#"{{ type = "conv2d", out_channels = {classes}, kernel = 1 }}"#),
            r#"{ type = "global_avg_pool2d" }"#.to_owned(),
        ],
        1 => vec![
            r#"{ type = "flatten" }"#.to_owned(),
            r#"{ type = "linear", out_features = 9, bias = false }"#.to_owned(),
            r#"{ type = "relu" }"#.to_owned(),
            linear,
        ],
        2 => vec![r#"{ type = "flatten" }"#.to_owned(), linear],
        _ => vec![r#"{ type = "global_avg_pool2d" }"#.to_owned(), linear],
    };
    lines.extend(end);
    let text = format!("name = \"net{number}\"\ninput = {input}\nlayers = [\n{},\n]", lines.join(",\n"));
    Model::parse(&text, "random net").unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Adds the layer if it fits.
fn add(line: &str, shape: &mut Shape, lines: &mut Vec<String>) {
    let channels = shape.channels;
    let half = if channels.is_multiple_of(2) && channels <= 6 { 2 } else { 1 };
    let line = line
        .replace("CHANNELS", &channels.to_string())
        .replace("GROUPS", &(2 * channels).to_string())
        .replace("HALF", &half.to_string());
    // Statistics of fewer values say little about the kernels and much about cancellation.
    if line.contains("batch_norm2d") && shape.height * shape.width < 4 {
        return;
    }
    let mut table: toml::Table = toml::from_str(&format!("layer = {line}")).unwrap();
    let Some(toml::Value::Table(mut keys)) = table.remove("layer") else {
        panic!("{line}");
    };
    let kind = keys.remove("type").unwrap();
    let layer = LayerKind::find(kind.as_str().unwrap()).unwrap().parse(keys).unwrap();
    if let Ok(output) = layer.output_shape(*shape) {
        *shape = output;
        lines.push(line);
    }
}

/// Parameters and running statistics that are all different from their defaults.
pub(crate) fn random_weights(model: &Model, seed: u32) -> Vec<Tensor> {
    let mut draw = Draw::new(7000 + seed);
    let mut tensors = model.init(seed);
    for (tensor, param) in tensors.iter_mut().zip(model.params()) {
        for value in &mut tensor.data {
            *value += match param.param.name {
                "running_var" => 0.2 * draw.normal().abs(),
                _ => 0.2 * draw.normal(),
            };
        }
    }
    tensors
}
