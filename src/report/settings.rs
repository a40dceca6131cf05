//! Settings of runs, as names and values.

use std::collections::BTreeMap;

use super::html::{escape, section, table};
use super::record::Record;
use crate::checkpoint::Checkpoint;
use crate::config::shortest_floats;
use crate::dataset::HoldOut;
use crate::error::Result;
use crate::model::Model;

/// Values by the keys of a model file, such as `train.optimizer.momentum`.
pub(super) type Settings = BTreeMap<String, String>;

fn flatten(place: &str, value: &toml::Value, found: &mut Settings) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let dot = if place.is_empty() { "" } else { "." };
                flatten(&format!("{place}{dot}{key}"), value, found);
            }
        }
        toml::Value::String(text) => drop(found.insert(place.into(), text.clone())),
        other => drop(found.insert(place.into(), other.to_string())),
    }
}

/// The recipe: the keys of `[train]`.
fn training(model: &Model) -> Settings {
    let mut found = Settings::new();
    flatten("", &shortest_floats(&model.train).into(), &mut found);
    found
}

/// Everything that a run was started with, and the layers by name. Where its nets differ, a key has several values.
pub(super) fn all(record: &Record, checkpoint: &Checkpoint) -> Result<Settings> {
    let (summary, model) = (&record.summary, &checkpoint.model);
    let mut found = if summary.replicas.is_empty() { of_model(model) } else { Settings::new() };
    for net in &summary.replicas {
        for (key, value) in of_model(&net.net.model(model)?) {
            let values = found.entry(key).or_default();
            if !values.split(", ").any(|known| known == value) {
                *values = if values.is_empty() { value } else { format!("{values}, {value}") };
            }
        }
    }
    let kinds: Vec<_> = model.layers.iter().map(|layer| layer.kind.name).collect();
    for (key, value) in [
        ("model", summary.model.clone()),
        ("layers", kinds.join(", ")),
        ("parameters", summary.parameters.to_string()),
        ("data", summary.data.clone()),
        ("hold_out", summary.hold_out.to_string()),
        ("training images", summary.train_images.to_string()),
        ("evaluation images", summary.test_images.to_string()),
        ("seed", seeds(record)),
        ("device", summary.device.clone()),
        ("shadernet", summary.shadernet.clone()),
    ] {
        found.insert(key.into(), value);
    }
    Ok(found)
}

/// The recipe, and the keys of each layer.
fn of_model(model: &Model) -> Settings {
    let mut found = training(model);
    for layer in &model.layers {
        flatten(&layer.name, &layer.keys().into(), &mut found);
    }
    found
}

/// The seeds of a run's nets.
pub(super) fn seeds(record: &Record) -> String {
    let mut seeds: Vec<u32> = record.summary.seeds.clone().unwrap_or_default();
    seeds.extend(record.summary.seed);
    seeds.sort_unstable();
    seeds.dedup();
    match seeds[..] {
        [first, .., last] if seeds.len() > 2 && (last - first) as usize + 1 == seeds.len() => {
            format!("{first} to {last}")
        }
        _ => seeds.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// How a net was trained, and where it comes from.
pub(super) fn recipe(record: &Record, checkpoint: &Checkpoint) -> String {
    let summary = &record.summary;
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |key: &str, value: String| rows.push(vec![escape(key), escape(value)]);
    for (key, value) in training(&checkpoint.model) {
        row(&key, value);
    }
    let recipe = table(&["setting", "value"], &rows, 2);
    rows = Vec::new();
    let mut row = |key: &str, value: String| rows.push(vec![escape(key), escape(value)]);
    row("seed of this net", checkpoint.trained.seed.to_string());
    row("device", summary.device.clone());
    row("dataset", summary.data.clone());
    row("training images", summary.train_images.to_string());
    let held_out = match summary.hold_out {
        HoldOut::NONE => "test set".to_owned(),
        HoldOut::Count(_) => "held out of the training set; the test set was not used".to_owned(),
        HoldOut::Share(share) => {
            format!("held out of the training set ({share} of each class); the test set was not used")
        }
    };
    row("evaluation images", format!("{}, {held_out}", summary.test_images));
    row("pixels / 255 normalised by", checkpoint.normalization.to_string());
    row("steps", format!("{} of {} images", summary.steps, summary.batch_size));
    row("shadernet", summary.shadernet.clone());
    rows.push(vec!["weights’ SHA-256".into(), format!("<code>{}</code>", checkpoint.weights_sha256())]);
    let origin = table(&["", ""], &rows, 2).replace("<thead><tr><th></th><th></th></tr>\n</thead>\n", "");
    section("Recipe", &format!("<div class=pair>\n{recipe}{origin}</div>\n"))
}
