//! How a kind of layer is named and made, and the kinds that a program registers.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use serde::de::DeserializeOwned;

use super::{LAYERS, Layer};
use crate::config::{from_table, shortened, unknown};
use crate::error::{Error, Result};

/// One entry of the registry: how a kind of layer is named and made.
#[derive(Clone, Copy)]
pub struct LayerKind {
    /// `type = "..."` in a model file; also the stem of the layer's files.
    pub name: &'static str,
    /// PyTorch's name: the layer table prints this.
    pub title: &'static str,
    /// Stem of automatic names: `conv` gives `conv1`, `conv2`, ...
    pub stem: &'static str,
    /// True for what PyTorch nets do with a plain function: torchsummary, and therefore the layer table, has no row
    /// for it.
    pub functional: bool,
    parse: fn(toml::Table) -> Result<Arc<dyn Layer>, String>,
}

/// What other libraries call layers, in lower case and without the dimensions, and what to write here.
const OTHER_NAMES: &[(&[&str], &str)] = &[
    (&["linear", "dense", "fc", "fullyconnected"], "write linear, after flatten"),
    (
        &["conv", "convolution", "depthwiseconv", "depthwiseconvolution"],
        "write conv2d (groups make it depthwise)",
    ),
    (
        &["separableconv"],
        "write two conv2d, the first with groups = its input channels, the second with kernel = 1",
    ),
    (&["maxpool", "maxpooling"], "write max_pool2d"),
    (&["avgpool", "averagepool", "avgpooling", "averagepooling", "meanpool"], "write avg_pool2d"),
    (&["globalavgpool", "globalaveragepool", "globalaveragepooling", "gap"], "write global_avg_pool2d"),
    (&["adaptiveavgpool", "adaptiveaveragepool", "adaptiveaveragepooling"], "write adaptive_avg_pool2d"),
    (&["batchnorm", "batchnormalization", "batchnormalisation", "bn"], "write batch_norm2d"),
    (&["groupnorm", "groupnormalization", "groupnormalisation", "gn"], "write group_norm"),
    (&["layernorm", "layernormalization", "layernormalisation"], "write group_norm with groups = 1"),
    (
        &["instancenorm", "instancenormalization", "instancenormalisation"],
        "write group_norm with as many groups as channels",
    ),
    (
        &["dropout", "spatialdropout", "alphadropout", "featurealphadropout"],
        "write dropout, which drops single values",
    ),
    (&["relu", "rectifier"], "write relu"),
    (&["leakyrelu", "lrelu"], "write leaky_relu"),
    (&["parametricrelu"], "write prelu"),
    (&["swish"], "write silu"),
    (&["hardswish", "hswish"], "write hard_swish"),
    (&["hardsigmoid", "hsigmoid"], "write hard_sigmoid"),
    (&["logistic"], "write sigmoid"),
    (&["elu", "selu", "celu", "mish", "softplus", "softsign"], "silu and gelu are the smooth rectifiers"),
    (&["hardtanh"], "write relu6 or tanh"),
    (
        &["activation"],
        "write the function as the type: relu, relu6, leaky_relu, prelu, sigmoid, tanh, silu, gelu, hard_sigmoid or hard_swish",
    ),
    (
        &["softmax", "logsoftmax", "crossentropy", "crossentropyloss"],
        "leave it out, since the loss takes the softmax itself",
    ),
    (&["flatten", "reshape", "view"], "write flatten"),
    (&["input", "inputlayer"], "leave it out and write input = [channels, height, width] above the layers"),
    (
        &["rescaling", "normalize", "normalization"],
        "leave it out, since pixels are normalised by the data's mean and deviation",
    ),
];

/// Kinds registered by the program.
static REGISTERED: RwLock<Vec<&'static LayerKind>> = RwLock::new(Vec::new());

/// Registers a kind of layer from outside this crate, with its kernels in `wgsl`. From then on, in this process,
/// model files and trained weights can name it, and both engines, `doctor` and the reports know it. Its launches use
/// the kind's name as the shader's name ([`Launch::shader`](super::Launch::shader)); CONTRIBUTING.md has the rules
/// for the text. On the CPU it runs its reference implementation, image by image.
///
/// Call it before the first model is read. `examples/custom_layer` has a whole layer.
///
/// # Errors
/// A name that is not made of lower-case letters, digits and `_`, or that a layer or shader already has; invalid
/// WGSL, with its line.
///
/// # Examples
/// ```
/// use shadernet::layers::{self, *};
/// use shadernet::tensor::{Arrays, Shape};
///
/// /// `{ type = "nothing" }`: like flatten, no kernel.
/// #[derive(Debug, serde::Serialize, serde::Deserialize)]
/// struct Nothing {}
///
/// impl Layer for Nothing {
///     fn keys(&self) -> toml::Table { toml::Table::new() }
///     fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> { Ok(inputs[0]) }
///     fn forward(&self, arrays: &Arrays, _: &Context) -> Arrays {
///         Arrays::from([("output", arrays["input"].clone())])
///     }
///     fn backward(&self, arrays: &Arrays, _: &Context) -> Arrays {
///         Arrays::from([("grad_input", arrays["grad_output"].clone())])
///     }
///     fn launches(&self, _: Pass, _: &PlanContext) -> Vec<Launch> { Vec::new() }
/// }
///
/// layers::register(LayerKind::new::<Nothing>("nothing", "Nothing", "nothing"), "")?;
/// assert!(LayerKind::find("nothing").is_some());
/// # Ok::<(), shadernet::error::Error>(())
/// ```
pub fn register(kind: LayerKind, wgsl: &str) -> Result<()> {
    add(kind, wgsl, false)
}

/// As [`register`], but devices compile the WGSL without checks of indices and loops, as they do the shaders of this crate.
///
/// # Safety
/// In every launch that the layer describes, every index into a buffer or array is inside it, and every loop ends.
///
/// # Errors
/// Those of [`register`].
#[allow(unsafe_code, reason = "only whoever wrote the WGSL can promise what its checks would find")]
pub unsafe fn register_unchecked(kind: LayerKind, wgsl: &str) -> Result<()> {
    add(kind, wgsl, true)
}

#[cfg_attr(not(feature = "gpu"), allow(unused_variables, reason = "there is nothing that would compile it"))]
fn add(kind: LayerKind, wgsl: &str, is_trusted: bool) -> Result<()> {
    for name in [kind.name, kind.stem] {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if name.is_empty() || !name.chars().all(is_plain) {
            let message = format!("layer type {name:?}: use lower-case letters, digits and '_' only");
            return Err(Error::Usage(message));
        }
    }
    let mut registered = REGISTERED.write().unwrap_or_else(PoisonError::into_inner);
    if LAYERS.iter().chain(registered.iter().copied()).any(|other| other.name == kind.name) {
        return Err(Error::Usage(format!("the layer type {:?} exists already", kind.name)));
    }
    #[cfg(feature = "gpu")]
    crate::shader::register(kind.name, wgsl, is_trusted)?;
    registered.push(Box::leak(Box::new(kind)));
    Ok(())
}

impl LayerKind {
    /// A kind whose layers are deserialized from their keys by serde. Use `deny_unknown_fields` to make a wrong key
    /// an error.
    pub const fn new<L: Layer + DeserializeOwned + 'static>(
        name: &'static str,
        title: &'static str,
        stem: &'static str,
    ) -> Self {
        Self::parsed(name, title, stem, parse::<L>)
    }

    /// A kind whose layers are made by `parse`.
    pub(super) const fn parsed(
        name: &'static str,
        title: &'static str,
        stem: &'static str,
        parse: fn(toml::Table) -> Result<Arc<dyn Layer>, String>,
    ) -> Self {
        Self { name, title, stem, functional: false, parse }
    }

    pub(super) const fn functional(self) -> Self {
        Self { functional: true, ..self }
    }

    /// Makes the layer from its keys in the model file (without `type`, `name` and `weights_of`).
    pub fn parse(&self, keys: toml::Table) -> Result<Arc<dyn Layer>, String> {
        (self.parse)(keys)
    }

    /// The kind called `name`, built in or registered.
    pub fn find(name: &str) -> Option<&'static Self> {
        Self::all().into_iter().find(|kind| kind.name == name)
    }

    /// Why there is no kind called `name`, and what to write instead.
    pub(crate) fn missing(name: &str) -> String {
        let plain: String = name.to_lowercase().chars().filter(|c| c.is_ascii_alphanumeric()).collect();
        let stem = ["2d", "1d", "3d"].iter().find_map(|end| plain.strip_suffix(end)).unwrap_or(&plain);
        let meant = OTHER_NAMES.iter().find(|(names, _)| names.contains(&stem)).map(|(_, meant)| *meant);
        let known: Vec<_> = Self::all().iter().map(|kind| kind.name).collect();
        let mut message = unknown("layer type", &format!("\"{}\"", shortened(name)), name, &known);
        if let Some(meant) = meant {
            let names = known.join(", ");
            message = format!("there is no layer type \"{}\": {meant}; there are {names}", shortened(name));
        }
        message
    }

    /// Every kind: built-in ones, then registered ones.
    pub fn all() -> Vec<&'static Self> {
        let registered = REGISTERED.read().unwrap_or_else(PoisonError::into_inner);
        LAYERS.iter().chain(registered.iter().copied()).collect()
    }
}

impl fmt::Debug for LayerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

fn parse<L: Layer + DeserializeOwned + 'static>(keys: toml::Table) -> Result<Arc<dyn Layer>, String> {
    let layer: L = from_table(keys).map_err(|problem| problem.to_string())?;
    Ok(Arc::new(layer))
}
