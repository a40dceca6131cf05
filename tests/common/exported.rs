//! Networks on which the exports are tried.

use shadernet::checkpoint::{Checkpoint, Trained};
use shadernet::model::Model;

use super::Draw;
use super::nets::{random_weights, some_cases};

/// Batch normalisations before and after convolutions, with groups and padding, and where nothing can absorb them.
pub(crate) const FOLDS: &str = r#"
    name = "folds"
    input = [2, 12, 11]
    layers = [
      { type = "batch_norm2d" },
      { type = "conv2d", name = "shared", out_channels = 4, kernel = 3, groups = 2 },
      { type = "batch_norm2d" },
      { type = "leaky_relu", negative_slope = 0.3 },
      { type = "batch_norm2d", name = "padded" },
      { type = "conv2d", out_channels = 6, kernel = 3, padding = 1, stride = 2, bias = false },
      { type = "relu" },
      { type = "batch_norm2d" },
      { type = "conv2d", out_channels = 2, kernel = 1, groups = 2, bias = false },
      { type = "conv2d", weights_of = "shared", out_channels = 4, kernel = 3, groups = 2 },
      { type = "batch_norm2d", name = "pooled" },
      { type = "max_pool2d", kernel = 2, padding = 1 },
      { type = "prelu", name = "slopes" },
      { type = "relu6" },
      { type = "sigmoid" },
      { type = "prelu", weights_of = "slopes" },
      { type = "tanh" },
      { type = "silu" },
      { type = "prelu", num_parameters = 1 },
      { type = "gelu" },
      { type = "hard_sigmoid" },
      { type = "hard_swish" },
      { type = "flatten" },
      { type = "linear", out_features = 3, bias = false },
    ]
    "#;

/// A network with random weights.
pub(crate) fn checkpoint(text: &str, path: &str) -> Checkpoint {
    let model = Model::parse(text, path).unwrap();
    let weights = random_weights(&model, 7);
    let classes = (0..model.class_count()).map(|class| format!("class \"{class}\"")).collect();
    let trained = Trained {
        epochs: 1,
        steps: 1,
        batch_size: 1,
        seed: 0,
        device: "none".into(),
        images: 1,
        twelve_bit: false,
        sketch: None,
        shadernet: "0".into(),
        pictures: false,
        on_black: false,
    };
    Checkpoint {
        normalization: Draw::new(11).normalization(model.input.channels),
        model,
        weights,
        classes,
        trained,
        test_accuracy: 0.0,
        test_loss: 0.0,
        temperature: None,
        warnings: Vec::new(),
    }
}

/// A network with every layer.
pub(crate) const ALL_LAYERS: &str = include_str!("../all_layers.toml");

/// Names and texts of networks: those in data/models, some that exports find hard, and 200 random ones.
pub(crate) fn models() -> Vec<(String, String)> {
    let files = std::fs::read_dir("data/models").unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    let read =
        |path: std::path::PathBuf| (path.display().to_string(), std::fs::read_to_string(path).unwrap());
    let mut models: Vec<_> = files.map(read).collect();
    let branches = include_str!("../export/branches.toml");
    models.extend(
        [("folds", FOLDS), ("all layers", ALL_LAYERS), ("branches", branches)]
            .map(|(path, text)| (path.into(), text.into())),
    );
    let random = some_cases(200).into_iter().enumerate();
    models.extend(random.map(|(number, case)| (format!("random {number}"), case.model().to_toml())));
    models
}
