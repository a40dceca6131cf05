//! What a model file says about the training of single layers: which are frozen, and the rates of others.

use super::NamedLayer;
use super::graph::Names;
use crate::config::{shortened, unknown};
use crate::layers::{Op, Param};

/// What the key `rate` of a layer may be.
const RATES: std::ops::RangeInclusive<f64> = 1e-6..=1e3;

/// For each layer, whether an entry of `freeze` names it.
pub(super) fn frozen(freeze: &[String], names: &Names) -> Result<Vec<bool>, String> {
    let mut frozen = vec![false; names.all.len()];
    for entry in freeze {
        let (before, name) = match entry.strip_prefix("before ") {
            Some(name) => (true, name.trim()),
            None => (false, entry.as_str()),
        };
        let Some(at) = names.all.iter().position(|other| other == name) else {
            let known: Vec<String> = names.all.iter().map(|name| shortened(name)).collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let shown = format!("{:?} to freeze", shortened(name));
            return Err(format!("freeze: {}", unknown("layer", &shown, name, &known)));
        };
        if before {
            frozen[..at].fill(true);
        } else {
            frozen[at] = true;
        }
    }
    Ok(frozen)
}

/// Fails if an entry of `freeze` freezes nothing, or all of them everything.
pub(super) fn check_frozen(freeze: &[String], layers: &[NamedLayer]) -> Result<(), String> {
    let is_trained = |layer: &NamedLayer| layer.params.iter().any(|param| param.trained);
    for entry in freeze {
        let fail = |why: String| Err(format!("freeze: {entry:?}: {why}"));
        let named = layers.iter().position(|layer| layer.name == *entry);
        if let Some(layer) = named.map(|at| &layers[at]) {
            if !is_trained(layer) {
                return fail(format!("{} has no parameters, so there is nothing to freeze", layer.name));
            }
            if let Some(owner) = layer.weights_of {
                let owner = &layers[owner].name;
                return fail(format!("{} uses the weights of {owner}; freeze that", layer.name));
            }
        } else {
            let end = layers.iter().position(|layer| entry.ends_with(&format!(" {}", layer.name)));
            if !layers[..end.unwrap_or(0)].iter().any(is_trained) {
                return fail("no layer before it has parameters, so there is nothing to freeze".into());
            }
        }
    }
    let keeps_statistics = |layer: &NamedLayer| layer.params.iter().any(|param| !param.trained);
    let unknown = |layer: &&NamedLayer| layer.frozen && layer.op == Op::Opaque;
    if let Some(layer) = layers.iter().filter(unknown).find(|layer| keeps_statistics(layer)) {
        return Err(format!(
            "freeze: {} has running statistics and computes something of its own, so it cannot be frozen",
            layer.name
        ));
    }
    if !freeze.is_empty() && layers.iter().all(|layer| layer.frozen || !is_trained(layer)) {
        return Err("freeze: all layers with parameters are frozen, so nothing is left to train".into());
    }
    Ok(())
}

/// Takes the key `rate`, the factor on the learning rate, from a layer's keys.
pub(super) fn take_rate(keys: &mut toml::Table) -> Result<Option<f32>, String> {
    let rate = match keys.remove("rate") {
        None => return Ok(None),
        Some(toml::Value::Float(rate)) => rate,
        Some(toml::Value::Integer(rate)) => rate as f64,
        Some(_) => return Err("rate must be a number, by which the learning rate is multiplied".into()),
    };
    if RATES.contains(&rate) {
        return Ok(Some(rate as f32));
    }
    let freeze = if rate == 0.0 { "; to keep a layer as it is, name it in freeze in [train]" } else { "" };
    Err(format!(
        "rate = {rate}: the factor on the learning rate must be from {} to {}{freeze}",
        RATES.start(),
        RATES.end()
    ))
}

/// Fails if a layer has no learning rate of its own.
pub(super) fn check_rate(params: &[Param], owner: Option<&str>, frozen: bool) -> Result<(), String> {
    if !params.iter().any(|param| param.trained) {
        return Err("rate is a factor on the learning rate of a layer's parameters, but it has none".into());
    }
    if let Some(owner) = owner {
        return Err(format!("rate: its weights are those of `{owner}`, whose rate applies"));
    }
    if frozen {
        return Err("rate: the layer is frozen, so it has no learning rate".into());
    }
    Ok(())
}

impl NamedLayer {
    /// Its keys in a model file besides those that concern its place.
    pub(crate) fn keys(&self) -> toml::Table {
        let mut keys = self.layer.keys();
        if self.rate != 1.0 {
            let shortest = self.rate.to_string().parse().unwrap_or(f64::from(self.rate));
            keys.insert("rate".into(), toml::Value::Float(shortest));
        }
        keys
    }
}
