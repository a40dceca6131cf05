//! How the layers are connected: what each reads, which layers read it, and walks through all of them.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use crate::config::{LayerConfig, ModelConfig, nearest, shortened, unknown};
use crate::layers::{LayerKind, Param};
use crate::tensor::Shape;

use super::{Model, NamedLayer};

/// Where a layer's input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The image.
    Image,
    /// The output of the layer with this index, which is an earlier one.
    Layer(usize),
}

/// A layer that reads a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reader {
    /// Index of the layer.
    pub layer: usize,
    /// Position of the value among the layer's inputs.
    pub position: usize,
}

/// The name of the image in `from`.
const IMAGE: &str = "input";

/// The names of a model's layers, and the indices of those parsed so far.
pub(super) struct Names {
    pub(super) all: Vec<String>,
    pub(super) known: HashMap<String, usize>,
}

impl Names {
    /// The names as given, or numbered by kind.
    pub(super) fn new(config: &ModelConfig) -> Self {
        let mut counts = HashMap::new();
        let name = |layer: &LayerConfig| {
            let stem = LayerKind::find(&layer.kind).map_or(layer.kind.as_str(), |kind| kind.stem);
            let count: &mut usize = counts.entry(stem.to_owned()).or_default();
            *count += 1;
            layer.name.clone().unwrap_or_else(|| format!("{stem}{count}"))
        };
        Self { all: config.layers.iter().map(name).collect(), known: HashMap::new() }
    }

    /// What the layer with this index reads: the names in `from`, else the previous layer.
    pub(super) fn sources(&self, config: &ModelConfig, index: usize) -> Result<Vec<Source>, String> {
        let find = |wanted: &String| match wanted.as_str() {
            IMAGE => Ok(Source::Image),
            _ => self.earlier(index, "from", wanted).map(Source::Layer),
        };
        match &config.layers[index].from {
            Some(named) => named.iter().map(find).collect(),
            None => Ok(vec![before(index)]),
        }
    }

    /// Index of the layer `wanted`, named by `key` of the layer with this index, which it must precede.
    pub(super) fn earlier(&self, index: usize, key: &str, wanted: &str) -> Result<usize, String> {
        if let Some(&found) = self.known.get(wanted).filter(|&&found| found < index) {
            return Ok(found);
        }
        let shown = format!("{key} = {:?}", shortened(wanted));
        if self.all[index] == *wanted {
            return Err(format!("{shown}: that is this layer itself; name an earlier one"));
        }
        let (before, later) = self.all.split_at(index);
        if later.iter().any(|name| name == wanted) {
            return Err(format!("{shown}: that layer comes later; move it before this one"));
        }
        let image = (key == "from").then_some(IMAGE);
        let known: Vec<&str> = image.into_iter().chain(before.iter().map(String::as_str)).collect();
        Err(unknown("earlier layer", &format!("{:?} for {key}", shortened(wanted)), wanted, &known))
    }
}

/// The default input of a layer.
fn before(index: usize) -> Source {
    index.checked_sub(1).map_or(Source::Image, Source::Layer)
}

impl NamedLayer {
    /// The arguments of `from`, unless the layer reads just the previous one.
    pub(crate) fn from(&self, index: usize, layers: &[Self]) -> Option<Vec<String>> {
        let name = |source: &Source| match *source {
            Source::Image => IMAGE.to_owned(),
            Source::Layer(layer) => layers[layer].name.clone(),
        };
        (self.sources != [before(index)]).then(|| self.sources.iter().map(name).collect())
    }
}

impl Model {
    /// Shape of a value.
    pub fn shape(&self, source: Source) -> Shape {
        match source {
            Source::Image => self.input,
            Source::Layer(layer) => self.layers[layer].output,
        }
    }

    /// True if the gradient of a value is needed: something trained contributes to it.
    pub fn needs_grad(&self, source: Source) -> bool {
        matches!(source, Source::Layer(layer) if self.layers[layer].needs_grad)
    }

    /// True if a layer reads only the one before it and is that one's only reader.
    pub fn is_chained(&self, layer: usize) -> bool {
        let single = |before: usize| self.layers[before].readers.len() == 1;
        self.layers[layer].sources == [before(layer)] && layer.checked_sub(1).is_none_or(single)
    }

    /// Goes through the layers, first to last: `run` gets a layer's index and its inputs, and makes its output.
    /// Returns all outputs.
    pub(crate) fn walk<T>(&self, image: &T, mut run: impl FnMut(usize, &[&T]) -> T) -> Vec<T> {
        let mut outputs: Vec<T> = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let read = |source: &Source| match *source {
                Source::Image => image,
                Source::Layer(layer) => &outputs[layer],
            };
            let inputs: Vec<&T> = layer.sources.iter().map(read).collect();
            let output = run(index, &inputs);
            outputs.push(output);
        }
        outputs
    }

    /// Goes through the layers, last to first: `run` gets a layer's index and the gradient of its output, and makes
    /// those of its inputs. The gradient of a value with several readers is the `sum` of theirs, first to last.
    pub(crate) fn walk_back<T>(
        &self,
        grad_output: T,
        mut sum: impl FnMut(usize, Vec<T>) -> T,
        mut run: impl FnMut(usize, T) -> Vec<T>,
    ) {
        let mut grads: Vec<Vec<T>> = self.layers.iter().map(|_| Vec::new()).collect();
        grads.last_mut().expect("a checked model").push(grad_output);
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let mut parts = std::mem::take(&mut grads[index]);
            // They were collected from the last reader to the first.
            parts.reverse();
            let grad = if parts.len() == 1 { parts.remove(0) } else { sum(index, parts) };
            let made = run(index, grad);
            for (source, grad) in layer.sources.iter().zip(made).rev() {
                if let Source::Layer(layer) = *source {
                    grads[layer].push(grad);
                }
            }
        }
    }
}

/// Why a layer cannot have the name of the one with this index.
pub(super) fn taken(config: &ModelConfig, first: usize) -> String {
    let line = config.layers[first].line.map_or(String::new(), |line| format!(" in line {line}"));
    format!("layer {}{line} has this name already: choose another", first + 1)
}

/// Keys of every layer, whatever its type.
const KEYS: [&str; 4] = ["type", "name", "from", "weights_of"];

/// A better message for an unknown key of a layer if it resembles one that every layer has.
pub(super) fn misspelt(keys: &toml::Table, message: &str) -> Option<String> {
    let unknown = keys.keys().find(|key| message.starts_with(&format!("there is no key `{key}`")))?;
    let meant = nearest(unknown, &KEYS)?;
    Some(format!("there is no key `{unknown}` (did you mean {meant}?)"))
}

/// Why a layer cannot read `found` values.
pub(super) fn arity(kind: &LayerKind, wanted: &RangeInclusive<usize>, found: usize) -> String {
    let (least, most, name) = (*wanted.start(), *wanted.end(), kind.name);
    if most == 1 {
        return match found {
            0 => {
                format!("from is empty: name the input of {name}, or leave from out to read the layer before")
            }
            _ => format!("from has {found} names, but {name} takes one input"),
        };
    }
    let wanted = if least == most { format!("{least}") } else { format!("{least} to {most}") };
    format!(
        "{name} takes {wanted} inputs, not {found}: write from = [\"...\", \"...\"] with the layers' names"
    )
}

/// Index of the layer that owns the trained parameters of the one with this index and this `name`, if a layer of this
/// kind with these parameters can use them.
pub(super) fn find_owner(
    (index, owner): (usize, &NamedLayer),
    name: &str,
    kind: &LayerKind,
    params: &[Param],
) -> Result<usize, String> {
    fn trained(params: &[Param]) -> impl Iterator<Item = &Param> {
        params.iter().filter(|param| param.trained)
    }
    if trained(params).next().is_none() {
        return Err(format!(
            "weights_of = {:?}: layers of type {} have no weights",
            shortened(name),
            kind.name
        ));
    }
    let NamedLayer { kind: other, params: others, weights_of, .. } = owner;
    if other.name != kind.name {
        return Err(format!("weights_of = {name:?}: that is a {}, this is a {}", other.name, kind.name));
    }
    let shapes = |params| {
        let shapes: Vec<_> =
            trained(params).map(|Param { name, shape, .. }| format!("{name} {shape:?}")).collect();
        shapes.join(", ")
    };
    let (found, wanted) = (shapes(others), shapes(params));
    if found != wanted {
        return Err(format!("weights_of = {name:?}: that has {found}; this needs {wanted}"));
    }
    Ok(weights_of.unwrap_or(index))
}
