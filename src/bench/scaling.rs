//! How the cost of a step grows: one quantity at a time is varied, all others are fixed.

use serde::Serialize;

use super::{Measurement, Options, measure};
use crate::config::ModelConfig;
use crate::cpu;
use crate::error::{Error, Result};
use crate::model::Model;
#[cfg(feature = "report")]
use crate::plot::{Line, Panel, Scale, svg};
use crate::tensor::Shape;

/// The varied quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Images per step.
    BatchSize,
    /// Channels of all layers but the last, as a multiple of the model's.
    Channels,
    /// Rows and columns of the input.
    ImageSize,
    /// Nets trained side by side.
    Replicas,
    /// Threads of the CPU engine.
    Threads,
}

impl Quantity {
    const ALL: [Self; 5] = [Self::BatchSize, Self::Channels, Self::ImageSize, Self::Replicas, Self::Threads];

    /// Human-readable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::BatchSize => "batch size",
            Self::Channels => "channels ×",
            Self::ImageSize => "image size",
            Self::Replicas => "replicas",
            Self::Threads => "threads",
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct ScalingPoint {
    /// The varied quantity.
    pub quantity: Quantity,
    /// Its value here.
    pub value: usize,
    /// The measurement.
    pub report: Option<Measurement>,
    /// Why there is none: the model does not fit such images, or the device lacks the memory.
    pub why_not: Option<String>,
}

/// The points to measure for a model: batch size 32 to 1,024, channels ×1 to ×4, images of the model's size to four
/// times that, 1 to 16 replicas, and on the CPU engine 1, 2, 4, ... threads up to the number of processors.
fn points(model: &Model, threads: bool) -> Vec<(Quantity, usize)> {
    let side = model.input.height.max(model.input.width);
    let most = if threads { cpu::default_threads() } else { 0 };
    let doubled = |first: usize, last: usize| {
        std::iter::successors(Some(first), |value| Some(2 * value)).take_while(move |&value| value <= last)
    };
    let values = |quantity| -> Vec<usize> {
        match quantity {
            Quantity::BatchSize => doubled(32, 1024).collect(),
            Quantity::Channels => doubled(1, 4).collect(),
            Quantity::ImageSize => doubled(side, 4 * side).collect(),
            Quantity::Replicas => doubled(1, 16).collect(),
            Quantity::Threads => doubled(1, most).collect(),
        }
    };
    Quantity::ALL
        .into_iter()
        .flat_map(|quantity| values(quantity).into_iter().map(move |value| (quantity, value)))
        .collect()
}

/// Measures a model's training at every point; `watch` gets each as it is measured.
///
/// # Errors
/// Those of [`measure`], at the first point. A later point that does not fit the device records why, and the others
/// continue.
pub fn scaling(
    model: &Model,
    options: &Options<'_>,
    watch: &mut dyn FnMut(&ScalingPoint),
) -> Result<Vec<ScalingPoint>> {
    let on_cpu = !options.device()?.is_gpu();
    let mut measured = Vec::new();
    for (quantity, value) in points(model, on_cpu) {
        let mut varied = options.clone();
        let mut config = model.config();
        match quantity {
            Quantity::BatchSize => config.train.batch_size = value,
            Quantity::Channels => scale_channels(&mut config, value),
            Quantity::ImageSize => scale_image(&mut config, value),
            Quantity::Replicas => varied.replicas = value,
            Quantity::Threads => varied.threads = Some(value),
        }
        let report = Model::new(config).and_then(|model| measure(&model, &varied));
        let point = match report {
            Ok(report) => ScalingPoint { quantity, value, report: Some(report), why_not: None },
            Err(error)
                if !measured.is_empty()
                    && matches!(error.kind(), Error::Config { .. } | Error::Device(_)) =>
            {
                ScalingPoint { quantity, value, report: None, why_not: Some(error.to_string()) }
            }
            Err(error) => return Err(error),
        };
        watch(&point);
        measured.push(point);
    }
    Ok(measured)
}

/// Multiplies channels and groups of every convolution and the features of every linear layer, except in the layer
/// that outputs the classes.
fn scale_channels(config: &mut ModelConfig, factor: usize) {
    const WIDTHS: [&str; 2] = ["out_channels", "out_features"];
    let layers = &mut config.layers;
    let last = layers.iter().rposition(|layer| WIDTHS.iter().any(|key| layer.keys.contains_key(*key)));
    for (index, layer) in layers.iter_mut().enumerate() {
        // The last layer's groups must still divide its classes.
        let keys = if Some(index) == last { &[][..] } else { &["out_channels", "out_features", "groups"] };
        for key in keys {
            if let Some(toml::Value::Integer(value)) = layer.keys.get_mut(*key)
                && (*key != "groups" || *value > 1)
            {
                *value *= factor as i64;
            }
        }
    }
}

/// Makes the longer side of the input `side` pixels.
fn scale_image(config: &mut ModelConfig, side: usize) {
    let Shape { channels, height, width } = config.input;
    let scaled = |extent: usize| extent * side / height.max(width);
    config.input = Shape::new(channels, scaled(height), scaled(width));
}

/// Time and arithmetic of each point relative to the first of its quantity, as an SVG.
#[cfg(feature = "report")]
pub fn chart(points: &[ScalingPoint]) -> String {
    let panel = |quantity: Quantity| {
        let all = points.iter().filter(|point| point.quantity == quantity);
        let measured: Vec<(f64, &Measurement)> =
            all.filter_map(|point| Some((point.value as f64, point.report.as_ref()?))).collect();
        let (_, base) = *measured.first()?;
        let line = |name: &str, faint, of: fn(&Measurement) -> f64| Line {
            name: name.into(),
            points: measured.iter().map(|(value, report)| [*value, of(report) / of(base)]).collect(),
            faint,
        };
        Some(Panel {
            title: quantity.name().into(),
            x: (quantity.name().into(), Scale::Log2),
            y: ("÷ the first".into(), Scale::Log2),
            lines: vec![
                line("time of a step", false, |report| report.step.milliseconds),
                line("its multiplications and additions", true, |report| report.step.gflop),
            ],
        })
    };
    let panels: Vec<Panel> = Quantity::ALL.into_iter().filter_map(panel).collect();
    svg(&panels, 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &str = r#"
        name = "scaled"
        input = [1, 12, 8]
        layers = [
          { type = "conv2d", out_channels = 4, kernel = 3 },
          { type = "conv2d", out_channels = 4, kernel = 3, groups = 4 },
          { type = "conv2d", out_channels = 3, kernel = 1 },
          { type = "global_avg_pool2d" },
        ]
        "#;

    fn edited_model(edit: impl Fn(&mut ModelConfig)) -> Model {
        let mut config = Model::parse(MODEL, "scaled").unwrap().config();
        edit(&mut config);
        Model::new(config).unwrap()
    }

    #[test]
    fn channels_grow_but_classes_do_not() {
        let model = edited_model(|config| scale_channels(config, 4));
        let outputs: Vec<usize> = model.layers.iter().map(|layer| layer.output.channels).collect();
        assert_eq!(outputs, [16, 16, 3, 3]);
        // The depthwise layer still is one: nine weights and a bias per channel.
        assert_eq!(model.layers[1].parameter_count(), 16 * 10);
    }

    #[test]
    fn images_grow() {
        let model = edited_model(|config| scale_image(config, 24));
        assert_eq!(model.input, Shape::new(1, 24, 16));
    }

    #[test]
    fn each_quantity_begins_where_the_model_is() {
        let model = Model::parse(MODEL, "scaled").unwrap();
        let all = points(&model, false);
        let of = |quantity| -> Vec<usize> {
            all.iter().filter(|point| point.0 == quantity).map(|point| point.1).collect()
        };
        assert_eq!(of(Quantity::BatchSize), [32, 64, 128, 256, 512, 1024]);
        assert_eq!(of(Quantity::Channels), [1, 2, 4]);
        assert_eq!(of(Quantity::ImageSize), [12, 24, 48]);
        assert_eq!(of(Quantity::Replicas), [1, 2, 4, 8, 16]);
        assert!(of(Quantity::Threads).is_empty());
        assert!(points(&model, true).contains(&(Quantity::Threads, 1)));
    }
}
