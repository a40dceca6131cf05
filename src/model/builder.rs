//! A network written in Rust, layer by layer, as a model file has it.

use super::Model;
use crate::config::{LayerConfig, ModelConfig, TrainConfig};
use crate::error::{Error, Result};
use crate::tensor::Shape;

/// A network to be: [`Model::builder`] begins it, [`ModelBuilder::build`] checks it.
///
/// A method named after a layer adds it; one named after a key, such as [`stride`](Self::stride) or [`from`](Self::from), belongs
/// to the layer added last. Keys have the defaults that they have in a model file.
#[derive(Debug, Clone)]
#[must_use = "`build` makes the model"]
pub struct ModelBuilder {
    config: ModelConfig,
    /// The first key that cannot be set.
    problem: Option<String>,
}

impl Model {
    /// Begins a network with this name, for images of this shape: [channels, height, width].
    ///
    /// # Examples
    /// A residual block; `.train(...)` gives a recipe other than the default.
    ///
    /// ```
    /// use shadernet::{Model, TrainConfig};
    /// use shadernet::config::LearningRate;
    ///
    /// let model = Model::builder("tiny", [1, 28, 28])
    ///     .conv2d(8, 3).stride(2).relu().batch_norm2d().named("block")
    ///     .conv2d(8, 3).padding("same").relu().batch_norm2d()
    ///     .add(["batch_norm2", "block"])
    ///     .conv2d(10, 3).global_avg_pool2d()
    ///     .train(TrainConfig::default().epochs(3).learning_rate(LearningRate::one_cycle(0.2)))
    ///     .build()?;
    /// assert_eq!(model.parameter_count(), 80 + 16 + 584 + 16 + 730);
    /// # Ok::<(), shadernet::Error>(())
    /// ```
    pub fn builder(name: impl Into<String>, input: impl Into<Shape>) -> ModelBuilder {
        let name = name.into();
        let config = ModelConfig {
            path: format!("the model {name}"),
            name,
            input: input.into(),
            classes: None,
            layers: Vec::new(),
            train: TrainConfig::default(),
        };
        ModelBuilder { config, problem: None }
    }
}

macro_rules! layers {
    ($($(#[$doc:meta])* $kind:ident($($key:ident),*);)*) => {
        $($(#[$doc])*
        pub fn $kind(self, $($key: usize),*) -> Self {
            self.layer(stringify!($kind))$(.key(stringify!($key), whole($key)))*
        })*
    };
}

macro_rules! joins {
    ($($(#[$doc:meta])* $kind:ident;)*) => {
        $($(#[$doc])*
        pub fn $kind<N: Into<String>>(self, from: impl IntoIterator<Item = N>) -> Self {
            self.layer(stringify!($kind)).from(from)
        })*
    };
}

#[allow(clippy::should_implement_trait, reason = "a layer is called `add`, and this method after it")]
impl ModelBuilder {
    layers! {
        /// A convolution with square filters.
        conv2d(out_channels, kernel);
        /// A fully connected layer; [`flatten`](Self::flatten) comes before it.
        linear(out_features);
        /// Batch normalisation.
        batch_norm2d();
        /// Normalisation of each image over groups of channels.
        group_norm(groups);
        /// The largest value of square windows, side by side.
        max_pool2d(kernel);
        /// The mean of square windows, side by side.
        avg_pool2d(kernel);
        /// The mean of each feature map.
        global_avg_pool2d();
        /// The values in a row.
        flatten();
        /// max(x, 0).
        relu();
        /// x · sigmoid(x), also called swish.
        silu();
        /// x · Φ(x) with the normal distribution Φ.
        gelu();
        /// x · `relu6`(x + 3) / 6.
        hard_swish();
        /// 1 / (1 + exp(−x)).
        sigmoid();
        /// The hyperbolic tangent.
        tanh();
    }

    joins! {
        /// The sum of the outputs of these layers.
        add;
        /// The channels of the outputs of these layers, one after the other.
        concat;
        /// The product of the outputs of two layers, one of which may have a single value per channel.
        multiply;
    }

    /// Dropout at this rate.
    pub fn dropout(self, rate: f32) -> Self {
        self.layer("dropout").key("rate", short(rate))
    }

    /// A layer of any kind, built in or registered, by its name in model files.
    pub fn layer(mut self, kind: impl Into<String>) -> Self {
        let kind = kind.into();
        let (line, name, from, weights_of) = (None, None, None, None);
        self.config.layers.push(LayerConfig { line, kind, name, from, weights_of, keys: toml::Table::new() });
        self
    }

    /// Gives the last layer a key, as a model file has it.
    pub fn key(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        if ["type", "name", "from", "weights_of"].contains(&key) {
            let message = format!("{key} is not a key: `layer`, `named`, `from` and `weights_of` set these");
            self.problem = self.problem.or(Some(message));
            return self;
        }
        let (name, value) = (key.to_owned(), value.into());
        self.last(key, |layer| drop(layer.keys.insert(name, value)))
    }

    /// Stride of the last layer.
    pub fn stride(self, stride: usize) -> Self {
        self.key("stride", whole(stride))
    }

    /// Padding of the last layer: a number of pixels, `"same"`, or a list of four sides.
    pub fn padding(self, padding: impl Into<toml::Value>) -> Self {
        self.key("padding", padding)
    }

    /// Groups of the last layer.
    pub fn groups(self, groups: usize) -> Self {
        self.key("groups", whole(groups))
    }

    /// Name of the last layer, for others to refer to. Without one it is called by its kind and number: `conv1`.
    pub fn named(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.last("name", |layer| layer.name = Some(name))
    }

    /// What the last layer reads, by name, or `input` for the image; without it, the layer before.
    pub fn from<N: Into<String>>(self, from: impl IntoIterator<Item = N>) -> Self {
        let from = from.into_iter().map(Into::into).collect();
        self.last("from", |layer| layer.from = Some(from))
    }

    /// The earlier layer whose trained parameters the last layer uses.
    pub fn weights_of(self, owner: impl Into<String>) -> Self {
        let owner = owner.into();
        self.last("weights_of", |layer| layer.weights_of = Some(owner))
    }

    fn last(mut self, key: &str, set: impl FnOnce(&mut LayerConfig)) -> Self {
        match self.config.layers.last_mut() {
            Some(layer) => set(layer),
            None => {
                let message = || format!("{key} belongs to a layer, but there is none yet");
                self.problem = self.problem.or_else(|| Some(message()));
            }
        }
        self
    }

    /// Names of the classes; without them the dataset's are used.
    pub fn classes<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.config.classes = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// How to train it.
    pub fn train(mut self, train: TrainConfig) -> Self {
        self.config.train = train;
        self
    }

    /// The checked network.
    ///
    /// # Errors
    /// [`Error::Config`]: what a model file with these keys would be refused for.
    pub fn build(self) -> Result<Model> {
        if let Some(message) = self.problem {
            return Err(Error::Config { path: self.config.path, line: None, message });
        }
        self.config.check()?;
        Model::new(self.config)
    }
}

/// No count is larger than a model file can say.
fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The number as a model file would have it: 0.1, not the `f64` next to the `f32` next to it.
fn short(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_model_is_that_of_the_file() {
        let text = r#"
            name = "both"
            input = [3, 16, 16]
            classes = ["cat", "dog"]
            layers = [
              { type = "conv2d", out_channels = 8, kernel = 3, stride = 2, padding = "same", name = "stem" },
              { type = "silu" },
              { type = "group_norm", groups = 2 },
              { type = "conv2d", out_channels = 8, kernel = 3, padding = 1, groups = 8 },
              { type = "dropout", rate = 0.1 },
              { type = "add", from = ["dropout1", "stem"] },
              { type = "conv2d", out_channels = 8, kernel = 3, padding = 1, groups = 8, weights_of = "conv2" },
              { type = "prelu" },
              { type = "max_pool2d", kernel = 2 },
              { type = "flatten" },
              { type = "linear", out_features = 2 },
            ]
            [train]
            epochs = 4
            augment = { shift_pixels = 2.0 }
            "#;
        let train =
            TrainConfig::default().epochs(4).augment(crate::config::Augment::default().shift_pixels(2.0));
        let builder = Model::builder("both", [3, 16, 16]).classes(["cat", "dog"]).train(train);
        let builder = builder.conv2d(8, 3).stride(2).padding("same").named("stem").silu().group_norm(2);
        let builder = builder.conv2d(8, 3).padding(1).groups(8).dropout(0.1).add(["dropout1", "stem"]);
        let builder = builder.conv2d(8, 3).padding(1).groups(8).weights_of("conv2").layer("prelu");
        let built = builder.max_pool2d(2).flatten().linear(2).build().unwrap();
        assert_eq!(built.to_toml(), Model::parse(text, "both.toml").unwrap().to_toml());
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let start = || Model::builder("odd", [1, 8, 8]);
        let linear = || start().flatten().linear(2);
        for (builder, words) in [
            (start().stride(2).conv2d(2, 3), "the model odd: stride belongs to a layer"),
            (start().conv2d(2, 9).global_avg_pool2d(), "layer `conv1`: "),
            (start(), "a net needs at least one layer"),
            (start().layer("nothing_of_the_kind"), "nothing_of_the_kind"),
            (start().relu().key("size", 3), "there is no key `size`"),
            (linear().train(TrainConfig::default().epochs(0)), "epochs = 0 must be from 1"),
            (start().relu().key("type", "x"), "type is not a key"),
            (start().conv2d(usize::MAX, 3).global_avg_pool2d(), "layer `conv1`: "),
            (linear().classes(["a", "a"]), "\"a\" appears twice"),
            (Model::builder("a/b", [1, 8, 8]).flatten().linear(2), "name: use 1 to"),
        ] {
            let message = builder.build().unwrap_err().to_string();
            assert!(message.contains(words), "{words}: {message}");
        }
    }
}
