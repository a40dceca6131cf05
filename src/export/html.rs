//! A page that runs the network in a browser: one file with plan, shaders and weights, and the hand-written runtime
//! of `src/export/web`, which runs the plan with WebGPU.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::batch::{BatchSettings, Changes};
use crate::checkpoint::Checkpoint;
use crate::classify::takes_pictures;
use crate::dataset::Images;
use crate::error::{Error, Result};
use crate::layers::Op;
use crate::model::{Model, Source};
use crate::plan::{AVERAGES, ParamLayout, Plan, PlanOptions, WEIGHTS};
use crate::replica::Replica;
use crate::shader;
use crate::tensor::Tensor;

mod training;

macro_rules! texts {
    ($folder:literal: $($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!($folder, "/", $name)))),*]
    };
}

macro_rules! pictures {
    ($($digit:literal: $name:literal),* $(,)?) => {
        &[$(($digit, include_bytes!(concat!("../../data/digits/", $name, ".png")))),*]
    };
}

const PAGE: &str = include_str!("web/page.html");

/// Replacements for `{{name}}` in the page.
const PARTS: &[(&str, &str)] = texts![
    "web": "page.css", "prepare.js", "picture.js", "fallback.js", "runtime.js", "board.js", "open.js", "page.js",
    "training.html", "training.js", "panel.js",
];

/// Those needed only by a page with training.
const TO_TRAIN: &[&str] = &["training.html", "training.js", "panel.js"];

/// Drawn digits to try, for networks that know digits.
const EXAMPLES: &[(&str, &[u8])] = pictures![
    "0": "0_pencil",
    "1": "1_ballpoint",
    "2": "2_loop",
    "3": "3_red",
    "4": "4_brush",
    "5": "5_palette",
    "6": "6_faint",
    "7": "7_bar",
    "8": "8_tiny",
    "9": "9_note",
];

/// The page for a network that takes images of one or three channels.
///
/// # Errors
/// A network with another number of channels, or with an opaque layer ([`Op::Opaque`]): the page has a second, plain
/// implementation of every other operation, against which it checks the browser's graphics.
///
/// # Examples
/// ```
/// use shadernet::checkpoint::Checkpoint;
///
/// let page = shadernet::export::html(&Checkpoint::seed()?)?;
/// assert!(page.starts_with("<!doctype html>"));
/// # Ok::<(), shadernet::error::Error>(())
/// ```
pub fn html(checkpoint: &Checkpoint) -> Result<String> {
    page(checkpoint, None)
}

/// The same page, on which the network can also be retrained from random weights, with its own recipe, on up to 4,000
/// training images embedded in the page, and tested on up to 1,000 test images; fewer if they are large.
///
/// # Errors
/// Those of [`html`].
///
/// # Panics
/// If the images do not match the network's input, or there are none.
pub fn html_to_train(checkpoint: &Checkpoint, train: &Images, test: &Images) -> Result<String> {
    page(checkpoint, Some((train, test)))
}

fn page(checkpoint: &Checkpoint, images: Option<(&Images, &Images)>) -> Result<String> {
    let input = checkpoint.model.input;
    if ![1, 3].contains(&input.channels) {
        let message = format!(
            "the model {} takes {} channels; a page can only use models with 1 (grey) or 3 (RGB)",
            checkpoint.model.name, input.channels
        );
        return Err(Error::Usage(message));
    }
    if let Some(layer) = checkpoint.model.layers.iter().find(|layer| layer.op == Op::Opaque) {
        let message = format!("layer `{}`: the page does not support {}", layer.name, layer.kind.name);
        return Err(Error::Usage(message));
    }
    // In a script element, only `<` can end the text or change how it is parsed.
    let model = description(checkpoint, images).to_string().replace('<', "\\u003c");
    let mut page = String::new();
    let mut rest = PAGE;
    while let Some((before, (name, after))) =
        rest.split_once("{{").and_then(|(before, after)| Some((before, after.split_once("}}")?)))
    {
        let part =
            PARTS.iter().find(|(part, _)| *part == name).map_or(model.as_str(), |(_, text)| text.trim_end());
        let left_out = images.is_none() && TO_TRAIN.contains(&name);
        page.extend([before, if left_out { "" } else { part }]);
        rest = after;
    }
    Ok(page + rest)
}

/// Everything that the runtime needs, as `Model` in `web/runtime.js`.
fn description(checkpoint: &Checkpoint, images: Option<(&Images, &Images)>) -> Value {
    let Checkpoint { model, weights, normalization, classes, .. } = checkpoint;
    let batch = BatchSettings {
        batch_size: 1,
        image_count: 1,
        image: model.input,
        epochs: model.train.epochs,
        shuffle: false,
        changes: Changes::NONE,
        normalization: normalization.clone(),
        class_weights: Vec::new(),
    };
    let options = PlanOptions::default();
    // While the page trains, drawings go to the weights that a test would evaluate.
    let averaged = images.is_some() && training::is_averaged(checkpoint);
    let nets = [Replica::new(model, checkpoint.trained.seed)];
    let plan = Plan::evaluation(model, &nets, &batch, averaged, "drawing", options);
    let training = images.map(|(train, test)| training::description(checkpoint, train, test));
    let plans = training.iter().flat_map(|(plans, _)| plans).chain([&plan]);
    let names: BTreeSet<&str> =
        plans.flat_map(|plan| &plan.launches).map(|launch| launch.shader.as_str()).collect();
    let shaders: BTreeMap<&str, &str> =
        names.into_iter().map(|name| (name, shader::find(name).source)).collect();
    let layers: Vec<Value> = model
        .layers
        .iter()
        .map(|layer| {
            json!({
                "name": layer.name,
                "sources": layer.sources.iter().map(|source| match *source {
                    Source::Image => -1,
                    Source::Layer(layer) => layer as i64,
                }).collect::<Vec<_>>(),
                "op": layer.op,
                "weights_of": layer.weights_of.map(|owner| model.layers[owner].name.as_str()),
                "output": layer.output,
            })
        })
        .collect();
    let digits = classes.iter().map(String::as_str).eq(EXAMPLES.iter().map(|(digit, _)| *digit));
    let examples = EXAMPLES.iter().filter(|_| digits && (model.input.height, model.input.width) == (28, 28));
    let (scale, offset): (Vec<f32>, Vec<f32>) = normalization.affine().unzip();
    // What is trained on the page needs another.
    let temperature = checkpoint.temperature.filter(|_| images.is_none());
    json!({
        "name": model.name,
        "input": model.input,
        "pictures": takes_pictures(checkpoint),
        "on_black": checkpoint.trained.on_black,
        "classes": classes,
        "temperature": temperature.unwrap_or(1.0),
        "pixel_scale": scale,
        "pixel_offset": offset,
        "parameters": model.parameter_count(),
        "test_accuracy": checkpoint.test_accuracy,
        "layers": layers,
        "logits": plan.logits().name,
        "plan": plan,
        "shaders": shaders,
        "buffers": buffers_of(model, weights, if averaged { AVERAGES } else { WEIGHTS }),
        "training": training.map(|(_, training)| training),
        "examples": examples
            .map(|(name, png)| json!({ "name": name, "png": STANDARD.encode(png) }))
            .collect::<Vec<_>>(),
    })
}

/// Parameters and running statistics as buffers of these names hold them.
fn buffers_of(
    model: &Model,
    weights: &[Tensor],
    [params, running]: [&'static str; 2],
) -> BTreeMap<&'static str, String> {
    let mut buffers = BTreeMap::<&str, Vec<f32>>::new();
    for (entry, tensor) in ParamLayout::new(model, 1).entries().iter().zip(weights) {
        let buffer = buffers.entry(if entry.param.param.trained { params } else { running }).or_default();
        buffer.resize(entry.offset, 0.0);
        buffer.extend(&tensor.data);
    }
    buffers.into_iter().map(|(name, values)| (name, base64_of(&values))).collect()
}

/// Values as little-endian bytes, the format of browsers' arrays.
fn base64_of(values: &[f32]) -> String {
    STANDARD.encode(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Trained;
    use crate::model::Model;
    use crate::normalization::Normalization;

    /// The JSON text in a page.
    fn model_of(page: &str) -> &str {
        let (_, model) = page.split_once("id=\"model\">").unwrap();
        model.split_once("</script>").unwrap().0
    }

    #[test]
    fn every_part_is_in_the_page_and_none_can_end_its_element() {
        let page = html(&Checkpoint::seed().unwrap()).unwrap();
        assert!(!page.contains("{{page") && !page.contains("{{model"));
        for (name, text) in PARTS {
            assert_eq!(page.contains(text.trim_end()), !TO_TRAIN.contains(name), "{name}");
            assert!(
                !text.contains("</script") && !text.contains("</style") && !text.contains("<!--"),
                "{name}"
            );
        }
        assert!(!page.contains("http://") && !page.contains("https://"), "the page must need no network");
    }

    #[test]
    fn the_model_comes_through_whole() {
        let seed = Checkpoint::seed().unwrap();
        let names: Vec<String> =
            (0..9).map(|class| class.to_string()).chain(["</script><!--".into()]).collect();
        let page = html(&Checkpoint { classes: names.clone(), ..seed }).unwrap();
        let model: Value = serde_json::from_str(model_of(&page)).unwrap();
        assert_eq!(model["classes"], json!(names));
        assert_eq!(model["input"], json!([1, 28, 28]));
        assert_eq!(model["layers"][0]["op"]["kernel"], json!([3, 3]));
        assert_eq!(model["examples"], json!([]), "digits are no examples for other classes");
        let plan: Plan = serde_json::from_value(model["plan"].clone()).unwrap();
        assert_eq!((plan.batch_size, plan.replicas), (1, 1));
        for launch in &plan.launches {
            assert_eq!(model["shaders"][&launch.shader], shader::find(&launch.shader).source);
        }
        assert_eq!(plan.tensor(model["logits"].as_str().unwrap()).unwrap().bytes, 10 * 16);
    }

    #[test]
    fn pictures_are_prepared_as_the_model_wants_them_and_odd_channels_are_refused() {
        let page = |channels: usize, pictures: bool| {
            let seed = Checkpoint::seed().unwrap();
            let text = seed.model.to_toml().replace("input = [1,", &format!("input = [{channels},"));
            let model = Model::parse(&text, "model").unwrap();
            let normalization = Normalization::uniform(channels, 0.5, 0.25);
            let trained = Trained { pictures, ..seed.trained };
            html(&Checkpoint { model, trained, normalization, ..seed })
        };
        for (channels, trained, wanted) in [(1, false, false), (1, true, true), (3, false, true)] {
            let page = page(channels, trained).unwrap();
            let model: Value = serde_json::from_str(model_of(&page)).unwrap();
            assert_eq!(model["pictures"], wanted, "{channels} channels, trained on pictures: {trained}");
        }
        let message = page(2, false).unwrap_err().to_string();
        assert!(
            message.contains("takes 2 channels; a page can only use models with 1 (grey) or 3 (RGB)"),
            "{message}"
        );
    }
}
