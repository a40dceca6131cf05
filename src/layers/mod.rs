//! The layers. Each is two files: `src/layers/<kind>.rs` and `shaders/<kind>.wgsl`, plus one `mod` line and one line in
//! [`LAYERS`]. CONTRIBUTING.md walks through adding one. A program can also add its own layers: [`register`].

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use serde::Serialize;

use crate::config::shortest_floats as keys_of;
use crate::tensor::{Arrays, Shape};

mod activation;
mod adaptive_avg_pool2d;
pub(crate) mod add;
mod avg_pool2d;
mod batch_norm2d;
mod concat;
mod conv2d;
mod dropout;
mod flatten;
mod global_avg_pool2d;
mod group_norm;
mod kind;
mod linear;
mod max_pool2d;
mod moments;
mod multiply;
mod sides;
pub mod window;

pub use activation::Activation;
pub(crate) use activation::{TAIL, TANH_NEAR_0};
pub use kind::{LayerKind, register, register_unchecked};

/// The built-in layers.
pub const LAYERS: &[LayerKind] = &[
    adaptive_avg_pool2d::KIND,
    add::KIND,
    avg_pool2d::KIND,
    batch_norm2d::KIND,
    concat::KIND,
    conv2d::KIND,
    dropout::KIND,
    flatten::KIND,
    activation::GELU,
    global_avg_pool2d::KIND,
    group_norm::KIND,
    activation::HARD_SIGMOID,
    activation::HARD_SWISH,
    activation::LEAKY_RELU,
    linear::KIND,
    max_pool2d::KIND,
    multiply::KIND,
    activation::PRELU,
    activation::RELU,
    activation::RELU6,
    activation::SIGMOID,
    activation::SILU,
    activation::TANH,
];

/// A parameter or running statistic of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// Name within the layer, as in PyTorch: `weight`.
    pub name: &'static str,
    /// Extent of each axis.
    pub shape: Vec<usize>,
    /// Where its initial values come from.
    pub init: Init,
    /// False for running statistics, which optimizers don't touch.
    pub trained: bool,
    /// True where weight decay applies: weights of convolution and linear layers.
    pub decays: bool,
    /// The smallest value that makes sense: 0 for variances, −∞ for most.
    pub min: f32,
}

impl Param {
    /// Number of values.
    pub fn size(&self) -> usize {
        self.shape.iter().fold(1, |size, &extent| size.saturating_mul(extent))
    }
}

/// Initial values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All elements equal.
    Constant(f32),
    /// A weight whose outputs sum this many inputs; the training settings choose the distribution.
    Weight {
        /// Inputs per output.
        fan_in: usize,
    },
    /// A bias of a layer whose outputs sum this many inputs.
    Bias {
        /// Inputs per output.
        fan_in: usize,
    },
}

/// One of the three passes through a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Forward with batch statistics and dropout.
    Train,
    /// Forward with running statistics and without dropout.
    Eval,
    /// From the gradient of the output to the gradients of input and parameters.
    Backward,
}

/// What the reference implementation of a layer needs to know besides its arrays.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// True for [`Pass::Train`], but not of a frozen layer.
    pub training: bool,
    /// Seed of the run.
    pub seed: u32,
    /// Steps taken before this one.
    pub step: u32,
    /// Index of the layer in the model.
    pub layer: u32,
    /// Position in the batch of the arrays' first image.
    pub first_image: usize,
}

/// A kernel launch as a layer describes it. The planner binds the shader's variables to tensors by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// Shader file, without `.wgsl`.
    pub shader: &'static str,
    /// Entry point.
    pub entry_point: &'static str,
    /// Override constants.
    pub constants: BTreeMap<&'static str, f64>,
    /// Invocations needed for one replica. The planner divides by the workgroup size; the replica is z.
    pub invocations: usize,
    /// Position of the layer's input to which the variables `input` and `grad_input` refer.
    pub source: usize,
}

impl Launch {
    /// A launch of `entry_point` of `shader` over `invocations`.
    pub fn new(
        shader: &'static str,
        entry_point: &'static str,
        invocations: usize,
        constants: impl IntoIterator<Item = (&'static str, f64)>,
    ) -> Self {
        Self { shader, entry_point, constants: constants.into_iter().collect(), invocations, source: 0 }
    }

    /// The launch for another of the layer's inputs.
    pub fn of_source(self, source: usize) -> Self {
        Self { source, ..self }
    }
}

macro_rules! numbered {
    ($prefix:literal: $($number:literal)*) => { [$(concat!($prefix, $number)),*] };
}

/// Maximum number of values that a layer can read.
pub const MOST_INPUTS: usize = 16;
const INPUTS: [&str; MOST_INPUTS] = numbered!("input": 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
const GRAD_INPUTS: [&str; MOST_INPUTS] = numbered!("grad_input": 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);

/// Name of the input at a position in a layer that reads `count` of them.
pub fn input_name(count: usize, position: usize) -> &'static str {
    if count == 1 { "input" } else { INPUTS[position] }
}

/// Name of the gradient of such an input.
pub fn grad_input_name(count: usize, position: usize) -> &'static str {
    if count == 1 { "grad_input" } else { GRAD_INPUTS[position] }
}

/// How finely work is cut up for the lanes of a device. Results agree but for rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Grain {
    /// Large pieces: each loaded value is used for many sums. For few lanes: a software GPU.
    #[default]
    Coarse,
    /// Many small pieces, to keep thousands of lanes busy and hide load latency.
    Fine,
}

/// What a layer needs to know to describe its launches.
#[derive(Debug, Clone)]
pub struct PlanContext {
    /// Shapes of the values the layer reads.
    pub inputs: Vec<Shape>,
    /// Shape of the layer's output.
    pub output: Shape,
    /// Images per batch, divided by four and rounded up: activations are `vec4`s of four images.
    pub quads: usize,
    /// Index of the layer in the model.
    pub layer: u32,
    /// How finely to cut up the work.
    pub grain: Grain,
    /// True if its parameters are frozen: it then computes as in [`Pass::Eval`], and [`Pass::Backward`] is that of this.
    pub frozen: bool,
}

/// What a layer computes, as data: the CPU engine, the exports and the reports use it, never the layer's name.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Op {
    /// A two-dimensional convolution with `weight` and optional `bias`; fully connected where the weight is a matrix.
    Conv2d(window::Conv),
    /// An elementwise function.
    Activation(Activation),
    /// Batch normalisation with `weight`, `bias`, `running_mean` and `running_var`.
    BatchNorm2d {
        /// Added to the variance.
        eps: f32,
        /// Weight of the newest batch in the running statistics.
        momentum: f32,
    },
    /// Normalisation of each image and group of channels by its own statistics, with `weight` and `bias`.
    GroupNorm {
        /// Number of groups, each of equally many channels.
        groups: usize,
        /// Added to the variance.
        eps: f32,
    },
    /// Maximum over windows.
    MaxPool2d(window::Pool),
    /// Mean over windows.
    AvgPool2d(window::Pool),
    /// Dropout.
    Dropout {
        /// Probability of a zero.
        rate: f32,
    },
    /// The sum of all inputs.
    Add,
    /// The channels of all inputs, in order.
    Concat,
    /// The product of two inputs, one of which may have a single value per channel.
    Multiply,
    /// The same values in another shape.
    Reshape,
    /// None of these: the CPU engine falls back on the reference implementation, and the exports reject it.
    Opaque,
}

/// A layer of a network: shape rule, parameters, reference implementation, GPU launches, in this order.
///
/// The reference implementation works in `f64` on [N, C, H, W] arrays and defines the layer; both engines are
/// compared with it. Arrays have the names of the shader's variables: `input`, `output`, `grad_output`, `grad_input`,
/// the parameters, `grad_` + the trained parameters, and whatever the layer saves for its backward pass. A layer that
/// reads several values calls them `input1`, `input2`, ... and their gradients `grad_input1`, ...
///
/// # Examples
/// ```
/// use shadernet::layers::{Context, LayerKind};
/// use shadernet::tensor::{Array, Arrays, Shape};
///
/// let relu = LayerKind::find("relu").unwrap().parse(toml::Table::new()).unwrap();
/// assert_eq!(relu.output_shape(&[Shape::new(8, 26, 26)]), Ok(Shape::new(8, 26, 26)));
/// let context = Context { training: true, seed: 0, step: 0, layer: 0, first_image: 0 };
/// let input = Array::from_f32(&[1, 1, 1, 2], &[-1.0, 2.0]);
/// let made = relu.forward(&Arrays::from([("input", input)]), &context);
/// assert_eq!(made["output"].data, [0.0, 2.0]);
/// ```
pub trait Layer: fmt::Debug + Send + Sync {
    /// The layer's keys as in a model file, defaults included.
    fn keys(&self) -> toml::Table;

    /// How many values the layer reads.
    fn input_count(&self) -> RangeInclusive<usize> {
        1..=1
    }

    /// The output shape for one image whose values have the shapes `inputs`, or why there is none.
    fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String>;

    /// Parameters and running statistics.
    fn params(&self, _inputs: &[Shape]) -> Vec<Param> {
        Vec::new()
    }

    /// What the layer computes. Name an operation only if it describes the parameters and results exactly.
    fn op(&self, _inputs: &[Shape]) -> Op {
        Op::Opaque
    }

    /// Reads `input`, parameters and running statistics; makes `output`, new running statistics, and saved arrays.
    fn forward(&self, arrays: &Arrays, context: &Context) -> Arrays;

    /// Reads what forward read and made, and `grad_output`; makes `grad_input` and the parameters' gradients.
    fn backward(&self, arrays: &Arrays, context: &Context) -> Arrays;

    /// Launches of one pass. In the backward pass, an entry point whose name begins with `backward_input` makes the
    /// gradient of the launch's source ([`Launch::source`]) and nothing else; the planner omits it if nothing trained
    /// contributes to the source. An empty list for a forward pass means that the output is the input in another
    /// shape. An empty list for the backward pass means that the gradient of each input is that of the output.
    fn launches(&self, pass: Pass, context: &PlanContext) -> Vec<Launch>;

    /// Tensors that the forward launches save or need as scratch space: name and `f32` values per replica.
    fn saved(&self, _context: &PlanContext) -> Vec<(&'static str, usize)> {
        Vec::new()
    }
}

/// Serde default for options that are on unless switched off.
fn yes() -> bool {
    true
}

/// Serde default for counts that start at one.
fn one() -> usize {
    1
}
