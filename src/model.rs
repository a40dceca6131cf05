//! A checked network: named layers with resolved shapes and parameters. Its `Display` is the layer table.

use std::sync::Arc;

use crate::config::{ClassWeights, LayerConfig, MAX_NAME, ModelConfig, TrainConfig, shortened};
use crate::error::{Error, Result};
use crate::layers::{Layer, LayerKind, Op, Param};
use crate::tensor::Shape;

mod builder;
mod graph;
mod init;
mod table;
mod training;

pub use builder::ModelBuilder;
pub use graph::{Reader, Source};
#[cfg(any(feature = "export", feature = "report"))]
pub(crate) use table::thousands;

/// A network whose shapes fit together: a graph whose layers are listed so that each only reads earlier ones.
#[derive(Debug, Clone)]
pub struct Model {
    /// Name of the model.
    pub name: String,
    /// Shape of one input image.
    pub input: Shape,
    /// Names of the classes, if the model file has them.
    pub classes: Option<Vec<String>>,
    /// The layers, first to last; at least one.
    pub layers: Vec<NamedLayer>,
    /// How to train it, from the model file.
    pub train: TrainConfig,
}

/// A layer within a network.
#[derive(Debug, Clone)]
pub struct NamedLayer {
    /// Name: `conv1`.
    pub name: String,
    /// Registry entry.
    pub kind: &'static LayerKind,
    /// The layer itself.
    pub layer: Arc<dyn Layer>,
    /// What it computes.
    pub op: Op,
    /// What it reads, in order.
    pub sources: Vec<Source>,
    /// The layers that read its output, in order; none reads the last layer's.
    pub readers: Vec<Reader>,
    /// True if the gradient of its output is needed: it or something that it reads is trained.
    pub needs_grad: bool,
    /// Shapes of what it reads.
    pub inputs: Vec<Shape>,
    /// Shape of its output.
    pub output: Shape,
    /// The parameters and running statistics that it uses.
    pub params: Vec<Param>,
    /// Index of the earlier layer that owns these trained parameters, if they are not its own. Running statistics
    /// always are.
    pub weights_of: Option<usize>,
    /// True if its parameters stay what they are, and it computes as in an evaluation.
    pub frozen: bool,
    /// Factor on the learning rate of its parameters.
    pub rate: f32,
}

/// A parameter or running statistic of the whole model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelParam {
    /// Name as in a PyTorch `state_dict`: `conv1.weight`.
    pub name: String,
    /// Index of its layer.
    pub layer: usize,
    /// The layer's own description, in which nothing of a frozen layer is trained.
    pub param: Param,
}

/// No network of the supported kind needs more, and every buffer size then fits in 32 bits.
const MAX_PARAMETERS: usize = 50_000_000;
const MAX_ACTIVATION: usize = 16_000_000;

impl Model {
    /// Resolves shapes and names, or says which layer does not fit and why.
    pub fn new(config: ModelConfig) -> Result<Self> {
        let fail =
            |line: Option<usize>, message: String| Error::Config { path: config.path.clone(), line, message };
        if config.input.is_empty() {
            return Err(fail(None, format!("input = {}: every extent must be at least 1", config.input)));
        }
        if config.input.len() > MAX_ACTIVATION {
            let message = format!(
                "input = {} is too large: an image can have at most {MAX_ACTIVATION} values, channels x height x width",
                config.input
            );
            return Err(fail(None, message));
        }
        let mut layers: Vec<NamedLayer> = Vec::new();
        let mut names = graph::Names::new(&config);
        let freeze = &config.train.freeze;
        let in_train = |message: String| fail(None, format!("[train]: {message}"));
        let is_frozen = training::frozen(freeze, &names).map_err(in_train)?;
        let mut parameters = 0usize;
        for (index, entry) in config.layers.iter().enumerate() {
            let name = &names.all[index];
            let Some(kind) = LayerKind::find(&entry.kind) else {
                return Err(fail(entry.line, LayerKind::missing(&entry.kind)));
            };
            let fail = |message: String| fail(entry.line, format!("layer `{}`: {message}", shortened(name)));
            let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if !(1..=MAX_NAME).contains(&name.len()) || !name.chars().all(is_plain) {
                return Err(fail(format!("a name is made of 1 to {MAX_NAME} letters, digits and '_'")));
            }
            if name == "loss" || name == "input" {
                return Err(fail("the names input and loss are reserved; choose another".into()));
            }
            if let Some(first) = names.known.insert(name.clone(), index) {
                return Err(fail(graph::taken(&config, first)));
            }
            let mut keys = entry.keys.clone();
            let mut layer = kind.parse(keys.clone());
            let mut rate = None;
            // The key of every layer that has no such key of its own, as dropout has.
            if layer.as_ref().is_err_and(|message| message.contains("no key `rate`")) {
                rate = training::take_rate(&mut keys).map_err(fail)?;
                layer = kind.parse(keys);
            }
            let layer =
                layer.map_err(|message| fail(graph::misspelt(&entry.keys, &message).unwrap_or(message)))?;
            let sources = names.sources(&config, index).map_err(fail)?;
            let wanted = layer.input_count();
            if !wanted.contains(&sources.len()) {
                return Err(fail(graph::arity(kind, &wanted, sources.len())));
            }
            let shape = |source: &Source| match *source {
                Source::Image => config.input,
                Source::Layer(layer) => layers[layer].output,
            };
            let inputs: Vec<Shape> = sources.iter().map(shape).collect();
            let output = layer.output_shape(&inputs).map_err(fail)?;
            if output.len() > MAX_ACTIVATION {
                return Err(fail(format!(
                    "the output {output} is too large: it can have at most {MAX_ACTIVATION} values"
                )));
            }
            let params = layer.params(&inputs);
            let owner = |owner: &String| {
                let found = names.earlier(index, "weights_of", owner).map_err(fail)?;
                graph::find_owner((found, &layers[found]), owner, kind, &params).map_err(fail)
            };
            let weights_of = entry.weights_of.as_ref().map(owner).transpose()?;
            let frozen = is_frozen[weights_of.unwrap_or(index)];
            if rate.is_some() {
                let owner = weights_of.map(|owner| names.all[owner].as_str());
                training::check_rate(&params, owner, frozen).map_err(fail)?;
            }
            let own = params.iter().filter(|param| weights_of.is_none() || !param.trained);
            parameters = own.map(Param::size).fold(parameters, usize::saturating_add);
            if parameters > MAX_PARAMETERS {
                return Err(fail(format!("the net has more than {MAX_PARAMETERS} parameters")));
            }
            let mut needs_grad = !frozen && params.iter().any(|param| param.trained);
            for (position, source) in sources.iter().enumerate() {
                if let Source::Layer(layer) = *source {
                    layers[layer].readers.push(Reader { layer: index, position });
                    needs_grad |= layers[layer].needs_grad;
                }
            }
            let (op, name, readers) = (layer.op(&inputs), name.clone(), Vec::new());
            layers.push(NamedLayer {
                name,
                kind,
                layer,
                op,
                sources,
                readers,
                needs_grad,
                inputs,
                output,
                params,
                weights_of,
                frozen,
                rate: rate.unwrap_or(1.0),
            });
        }
        training::check_frozen(freeze, &layers).map_err(in_train)?;
        let mut all_but_last = layers.iter().zip(&config.layers).take(layers.len().max(1) - 1);
        if let Some((unread, entry)) = all_but_last.find(|(layer, _)| layer.readers.is_empty()) {
            let message = format!(
                "layer `{}`: no layer reads its output: name it in a later layer's from, or remove it",
                unread.name
            );
            return Err(fail(entry.line, message));
        }
        let Some(last) = layers.last() else {
            return Err(fail(None, "layers is empty: a net needs at least one layer".into()));
        };
        if last.output.height * last.output.width != 1 {
            let line = config.layers.last().and_then(|layer| layer.line);
            let message = format!(
                "the net ends with {}; it must end with one value per class: add a global_avg_pool2d, or a flatten and a linear layer",
                last.output
            );
            return Err(fail(line, message));
        }
        let classes = last.output.channels;
        if !(2..=256).contains(&classes) {
            return Err(fail(
                config.layers.last().and_then(|layer| layer.line),
                format!("the net ends with {classes} values; there can be 2 to 256 classes"),
            ));
        }
        if let Some(names) = config.classes.as_ref().filter(|names| names.len() != classes) {
            let message =
                format!("classes has {} names, but the net ends with {classes} values", names.len());
            return Err(fail(None, message));
        }
        let fits = config.train.augment.check_fits(config.input.channels);
        fits.map_err(|message| fail(None, format!("[train]: {message}")))?;
        if let Some(ClassWeights::Each(weights)) = &config.train.class_weights
            && weights.len() != classes
        {
            let message = format!(
                "[train]: class_weights has {} numbers, but the net ends with {classes} values, one for each class",
                weights.len()
            );
            return Err(fail(None, message));
        }
        Ok(Self {
            name: config.name,
            input: config.input,
            classes: config.classes,
            layers,
            train: config.train,
        })
    }

    /// Reads and checks a model description; `path` is only for messages.
    ///
    /// # Examples
    /// ```
    /// use shadernet::model::Model;
    ///
    /// let text = r#"
    ///     name = "tiny"
    ///     input = [1, 28, 28]
    ///     layers = [
    ///       { type = "conv2d", out_channels = 8, kernel = 3, stride = 2 },
    ///       { type = "relu" },
    ///       { type = "conv2d", out_channels = 10, kernel = 3 },
    ///       { type = "global_avg_pool2d" },
    ///     ]
    /// "#;
    /// let model = Model::parse(text, "tiny.toml")?;
    /// assert_eq!(model.parameter_count(), 8 * 9 + 8 + 10 * 8 * 9 + 10);
    /// assert_eq!(model.layers[0].output.to_string(), "[8, 13, 13]");
    /// println!("{model}"); // the layer table
    /// # Ok::<(), shadernet::error::Error>(())
    /// ```
    pub fn parse(text: &str, path: &str) -> Result<Self> {
        Self::new(ModelConfig::parse(text, path)?)
            .map_err(|error| crate::config::with_train_line(error, text))
    }

    /// The network of 9,954 parameters that comes with shadernet, with its recipe, for images of MNIST.
    pub fn seed() -> Self {
        let text = include_str!("../data/models/seed.toml");
        Self::parse(text, "the built-in seed.toml").expect("the tests read it")
    }

    /// Number of classes.
    pub fn class_count(&self) -> usize {
        self.layers.last().expect("a checked model").output.channels
    }

    /// Every parameter and running statistic, in layer order; shared ones are listed once, with their owner.
    pub fn params(&self) -> Vec<ModelParam> {
        let mut all = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            for param in layer.own_params() {
                let name = format!("{}.{}", layer.name, param.name);
                let trained = param.trained && !layer.frozen;
                all.push(ModelParam { name, layer: index, param: Param { trained, ..param.clone() } });
            }
        }
        all
    }

    /// For each layer, where each of [`NamedLayer::params`] is in [`Model::params`].
    pub fn param_indices(&self) -> Vec<Vec<usize>> {
        let mut end = 0;
        let start = |layer: &NamedLayer| {
            let start = end;
            end += layer.own_params().count();
            start
        };
        let starts: Vec<usize> = self.layers.iter().map(start).collect();
        let of_layer = |(index, layer): (usize, &NamedLayer)| {
            let find = |param: &Param| {
                let owner = layer.weights_of.filter(|_| param.trained).unwrap_or(index);
                let at = self.layers[owner].own_params().position(|own| own.name == param.name);
                starts[owner] + at.expect("a checked model")
            };
            layer.params.iter().map(find).collect()
        };
        self.layers.iter().enumerate().map(of_layer).collect()
    }

    /// Index and rate of each dropout layer.
    pub fn dropout_rates(&self) -> impl Iterator<Item = (usize, f32)> {
        self.layers.iter().enumerate().filter_map(|(index, layer)| match layer.op {
            Op::Dropout { rate } => Some((index, rate)),
            _ => None,
        })
    }

    /// Number of parameters, frozen ones too; running statistics do not count.
    pub fn parameter_count(&self) -> usize {
        self.layers.iter().map(NamedLayer::parameter_count).sum()
    }

    /// Warnings about training it with its recipe, one per line; `images` is the size of the training set, if known.
    pub fn warnings(&self, images: Option<usize>) -> Vec<String> {
        let batch_size = images.map_or(self.train.batch_size, |images| self.train.batch_size.min(images));
        let last = images.map_or(batch_size, |images| (images.max(1) - 1) % batch_size.max(1) + 1);
        let warning = |layer: &NamedLayer| {
            if matches!(layer.op, Op::GroupNorm { groups, .. } if groups == layer.output.len()) {
                let name = &layer.name;
                return Some(format!(
                    "layer `{name}` has a single value in each group; it normalises to 0, and nothing is learnt \
                     through it: choose fewer groups"
                ));
            }
            let Op::BatchNorm2d { .. } = layer.op else { return None };
            let pixels = layer.output.height * layer.output.width;
            let which = match (batch_size * pixels, last * pixels) {
                (1, _) => "has a single value of each channel",
                (_, 1) => {
                    "has a single value of each channel in the last step of an epoch, whose batch is one image"
                }
                _ => return None,
            };
            let name = &layer.name;
            Some(format!(
                "layer `{name}` {which}; it normalises to 0, and nothing is learnt through it: choose another batch \
                 size"
            ))
        };
        let nothing = "the net has no parameters, so training does not change it".to_owned();
        let nothing = (self.parameter_count() == 0).then_some(nothing);
        nothing.into_iter().chain(self.layers.iter().filter_map(warning)).collect()
    }

    /// The description from which it can be rebuilt, possibly changed; every layer has its name and all its keys.
    pub fn config(&self) -> ModelConfig {
        let layer = |(index, layer): (usize, &NamedLayer)| LayerConfig {
            line: None,
            kind: layer.kind.name.into(),
            name: Some(layer.name.clone()),
            from: layer.from(index, &self.layers),
            weights_of: layer.weights_of.map(|owner| self.layers[owner].name.clone()),
            keys: layer.keys(),
        };
        ModelConfig {
            path: self.name.clone(),
            name: self.name.clone(),
            input: self.input,
            classes: self.classes.clone(),
            layers: self.layers.iter().enumerate().map(layer).collect(),
            train: self.train.clone(),
        }
    }

    /// The model as a model file, with defaults spelled out, as embedded in trained weights.
    pub fn to_toml(&self) -> String {
        use std::fmt::Write;
        let mut text = format!("name = {:?}\ninput = {}\n", self.name, self.input);
        if let Some(classes) = &self.classes {
            let names: Vec<_> =
                classes.iter().map(|name| toml::Value::from(name.as_str()).to_string()).collect();
            let _ = writeln!(text, "classes = [{}]", names.join(", "));
        }
        text.push_str("layers = [\n");
        for (index, layer) in self.layers.iter().enumerate() {
            let mut keys = vec![
                ("type".to_owned(), layer.kind.name.into()),
                ("name".to_owned(), layer.name.as_str().into()),
            ];
            match layer.from(index, &self.layers).as_deref() {
                None => {}
                Some([one]) => keys.push(("from".to_owned(), one.as_str().into())),
                Some(several) => keys.push(("from".to_owned(), several.to_vec().into())),
            }
            if let Some(owner) = layer.weights_of {
                keys.push(("weights_of".to_owned(), self.layers[owner].name.as_str().into()));
            }
            keys.extend(layer.keys());
            let keys: Vec<_> =
                keys.iter().map(|(key, value): &(String, toml::Value)| format!("{key} = {value}")).collect();
            let _ = writeln!(text, "  {{ {} }},", keys.join(", "));
        }
        let train = crate::config::shortest_floats(&self.train);
        let _ = write!(text, "]\n\n{}", toml::Table::from_iter([("train".to_owned(), train.into())]));
        text
    }
}

impl NamedLayer {
    /// Multiplications and additions of the forward pass for one image, in convolutions and linear layers.
    pub fn forward_flops(&self) -> f64 {
        match self.op {
            Op::Conv2d(conv) => 2.0 * (conv.output.len() * conv.filter()) as f64,
            _ => 0.0,
        }
    }

    /// Those of [`NamedLayer::params`] that are the layer's own.
    fn own_params(&self) -> impl Iterator<Item = &Param> {
        self.params.iter().filter(|param| self.weights_of.is_none() || !param.trained)
    }

    /// Number of its own trained parameters: 0 if it uses another layer's.
    pub fn parameter_count(&self) -> usize {
        self.own_params().filter(|param| param.trained).map(Param::size).sum()
    }

    /// True if each output depends on every input with a separate weight.
    pub fn is_fully_connected(&self) -> bool {
        matches!(self.op, Op::Conv2d(_)) && self.params.first().is_some_and(|param| param.shape.len() == 2)
    }

    /// Number of trained parameters that it uses, its own or another layer's.
    pub fn trained_len(&self) -> usize {
        self.params.iter().filter(|param| param.trained).map(Param::size).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_a_net_with_branches_has_names() {
        let text = "name = \"x\"\ninput = [2, 4, 4]\nlayers = [{ type = \"conv2d\", out_channels = 2, kernel = 1, \
                    name = \"side\" }, { type = \"add\", from = [\"side\", \"input\"] }, { type = \"global_avg_pool2d\" }]";
        let table = Model::parse(text, "x.toml").unwrap().to_string();
        let rows: Vec<&str> = table.lines().collect();
        assert_eq!(rows[3], "side (Conv2d)                              [-1, 2, 4, 4]            6");
        assert_eq!(
            rows[4],
            "add1 (Add)                                 [-1, 2, 4, 4]            0  side, input"
        );
        assert!(!table.contains("plain function"), "{table}");
    }

    #[test]
    fn a_net_without_parameters_is_odd() {
        let text = "name = \"x\"\ninput = [2, 3, 3]\nlayers = [{ type = \"global_avg_pool2d\" }]";
        let warnings = Model::parse(text, "x.toml").unwrap().warnings(None);
        assert_eq!(warnings, ["the net has no parameters, so training does not change it"]);
    }

    #[test]
    fn group_normalisation_of_a_single_value_is_odd() {
        for (groups, side, warns) in [(4, 1, true), (2, 1, false), (4, 2, false)] {
            let text = format!(
                "name = \"x\"\ninput = [4, {side}, {side}]\nlayers = [{{ type = \"group_norm\", groups = {groups} }}, \
                 {{ type = \"global_avg_pool2d\" }}]"
            );
            let warnings = Model::parse(&text, "x.toml").unwrap().warnings(None);
            assert_eq!(warnings.len(), usize::from(warns), "{groups} {side}: {warnings:?}");
            assert!(warnings.iter().all(|warning| warning.contains("a single value in each group")));
        }
    }

    #[test]
    fn batch_normalisation_of_a_single_value_is_odd() {
        let model = |side: usize, batch_size: usize| {
            let text = format!(
                "name = \"x\"\ninput = [4, {side}, {side}]\nlayers = [{{ type = \"batch_norm2d\" }}, \
                 {{ type = \"global_avg_pool2d\" }}]\n[train]\nbatch_size = {batch_size}"
            );
            Model::parse(&text, "x.toml").unwrap()
        };
        for (side, batch_size, images, words) in [
            (1, 1, None, "layer `batch_norm1` has a single value of each channel; it"),
            (1, 1, Some(100), "has a single value of each channel; it"),
            (1, 16, Some(1), "has a single value of each channel; it"),
            (1, 16, Some(33), "in the last step of an epoch"),
        ] {
            let warnings = model(side, batch_size).warnings(images);
            assert!(warnings.len() == 1 && warnings[0].contains(words), "{words}: {warnings:?}");
        }
        for (side, batch_size, images) in [(2, 1, None), (1, 16, None), (1, 16, Some(32)), (2, 16, Some(33))]
        {
            assert_eq!(model(side, batch_size).warnings(images), Vec::<String>::new());
        }
    }
}
