//! Activations: elementwise functions. Formulas and kernels: `shaders/activation.wgsl`.

use std::f64::consts::{FRAC_1_SQRT_2, PI};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::config::from_table;
use crate::tensor::{Array, Rounded, Sum};

/// An elementwise function.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "function", rename_all = "snake_case")]
pub enum Activation {
    /// max(x, 0) + slope · min(x, 0).
    LeakyRelu {
        /// Slope of the negative side.
        slope: f32,
    },
    /// The same with a trained slope: `weight`, one per channel or one for all (He et al. 2015).
    Prelu,
    /// min(max(x, 0), 6).
    Relu6,
    /// σ(x) = 1 / (1 + exp(−x)).
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
    /// x · σ(x), also known as swish (Elfwing, Uchibe and Doya 2017).
    Silu,
    /// x · Φ(x), Φ being the standard normal CDF (Hendrycks and Gimpel 2016).
    Gelu,
    /// min(max(x + 3, 0), 6) / 6.
    HardSigmoid,
    /// x · min(max(x + 3, 0), 6) / 6 (Howard et al. 2019).
    HardSwish,
}

pub(super) const GELU: LayerKind = kind("gelu", "GELU", |keys| layer(keys, |NoKeys {}| Activation::Gelu));
pub(super) const HARD_SIGMOID: LayerKind =
    kind("hard_sigmoid", "Hardsigmoid", |keys| layer(keys, |NoKeys {}| Activation::HardSigmoid));
pub(super) const HARD_SWISH: LayerKind =
    kind("hard_swish", "Hardswish", |keys| layer(keys, |NoKeys {}| Activation::HardSwish));
pub(super) const LEAKY_RELU: LayerKind = kind("leaky_relu", "LeakyReLU", |keys| {
    layer(keys, |keys: &LeakyKeys| Activation::LeakyRelu { slope: keys.negative_slope })
});
pub(super) const PRELU: LayerKind =
    kind("prelu", "PReLU", |keys| layer(keys, |_: &PreluKeys| Activation::Prelu));
pub(super) const RELU: LayerKind =
    kind("relu", "ReLU", |keys| layer(keys, |NoKeys {}| Activation::LeakyRelu { slope: 0.0 }));
/// The first one is `relu6_1`: `relu61` is the sixty-first relu.
pub(super) const RELU6: LayerKind =
    LayerKind::parsed("relu6", "ReLU6", "relu6_", |keys| layer(keys, |NoKeys {}| Activation::Relu6));
pub(super) const SIGMOID: LayerKind =
    kind("sigmoid", "Sigmoid", |keys| layer(keys, |NoKeys {}| Activation::Sigmoid));
pub(super) const SILU: LayerKind = kind("silu", "SiLU", |keys| layer(keys, |NoKeys {}| Activation::Silu));
pub(super) const TANH: LayerKind = kind("tanh", "Tanh", |keys| layer(keys, |NoKeys {}| Activation::Tanh));

type Parsed = Result<Arc<dyn Layer>, String>;

const fn kind(name: &'static str, title: &'static str, parse: fn(toml::Table) -> Parsed) -> LayerKind {
    LayerKind::parsed(name, title, name, parse)
}

fn layer<K: Keys + 'static>(keys: toml::Table, function: fn(&K) -> Activation) -> Parsed {
    let keys: K = from_table(keys).map_err(|problem| problem.to_string())?;
    Ok(Arc::new(Pointwise { function: function(&keys), keys }))
}

/// An activation's keys in the model file.
trait Keys: fmt::Debug + Send + Sync + Serialize + DeserializeOwned {
    /// Why these keys don't fit, if they don't.
    fn check(&self, _input: Shape) -> Result<(), String> {
        Ok(())
    }

    /// Number and initial value of the trained slopes.
    fn slopes(&self, _input: Shape) -> Option<(usize, f32)> {
        None
    }
}

/// `{ type = "relu" }` and most others, which have no keys.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoKeys {}

impl Keys for NoKeys {}

/// `{ type = "leaky_relu", negative_slope = 0.01 }`
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeakyKeys {
    #[serde(default = "default_slope")]
    negative_slope: f32,
}

fn default_slope() -> f32 {
    0.01
}

impl Keys for LeakyKeys {
    fn check(&self, _: Shape) -> Result<(), String> {
        if !(0.0..1.0).contains(&self.negative_slope) {
            return Err(format!("negative_slope = {} must be at least 0 and below 1", self.negative_slope));
        }
        Ok(())
    }
}

/// `{ type = "prelu", init = 0.25 }` has one slope per channel; with `num_parameters = 1` a single one for all.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PreluKeys {
    #[serde(skip_serializing_if = "Option::is_none")]
    num_parameters: Option<usize>,
    #[serde(default = "default_init")]
    init: f32,
}

fn default_init() -> f32 {
    0.25
}

impl Keys for PreluKeys {
    fn check(&self, input: Shape) -> Result<(), String> {
        if !self.init.is_finite() {
            return Err(format!("init = {} must be a finite number", self.init));
        }
        match self.num_parameters {
            Some(number) if number != 1 && number != input.channels => Err(format!(
                "num_parameters = {number} must be 1 (one slope for all) or {} (one for each channel)",
                input.channels
            )),
            _ => Ok(()),
        }
    }

    fn slopes(&self, input: Shape) -> Option<(usize, f32)> {
        Some((self.num_parameters.unwrap_or(input.channels), self.init))
    }
}

/// A layer that applies a function elementwise.
#[derive(Debug)]
struct Pointwise<K> {
    function: Activation,
    keys: K,
}

impl Activation {
    /// True if the derivative is taken at the input; the others get it from the output, so the input need not be kept.
    pub(crate) fn reads_input(self) -> bool {
        match self {
            Self::LeakyRelu { .. } | Self::Relu6 | Self::Sigmoid | Self::Tanh => false,
            Self::Prelu | Self::Silu | Self::Gelu | Self::HardSigmoid | Self::HardSwish => true,
        }
    }

    /// Its value at `x`, with the default slope if that is a parameter: 0.
    #[cfg(feature = "export")]
    pub(crate) fn value(self, x: f64) -> f64 {
        let slope = if let Self::LeakyRelu { slope } = self { slope.into() } else { 0.0 };
        Curve { function: self, slope }.value(x)
    }

    /// Its number in the shader.
    fn number(self) -> u8 {
        match self {
            Self::LeakyRelu { .. } | Self::Prelu => 0,
            Self::Relu6 => 1,
            Self::Sigmoid => 2,
            Self::Tanh => 3,
            Self::Silu => 4,
            Self::Gelu => 5,
            Self::HardSigmoid => 6,
            Self::HardSwish => 7,
        }
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The standard normal CDF.
fn normal(x: f64) -> f64 {
    0.5 * libm::erfc(-x * FRAC_1_SQRT_2)
}

/// A function, with the slope of the negative side if it is a rectifier. Derivatives are those at the input or, where
/// [`Activation::reads_input`] is false, at the input that has the given output.
///
/// A bound has two parts. The kernel's formula is evaluated on exact operands as the kernel does it: its error is the
/// difference from the function itself plus all roundings. The operands' errors are scaled by the largest slopes of both.
#[derive(Clone, Copy)]
struct Curve {
    function: Activation,
    slope: f64,
}

impl Curve {
    fn value(self, x: f64) -> f64 {
        match self.function {
            Activation::LeakyRelu { .. } | Activation::Prelu => x * if x > 0.0 { 1.0 } else { self.slope },
            Activation::Relu6 => x.clamp(0.0, 6.0),
            Activation::Sigmoid => sigmoid(x),
            Activation::Tanh => x.tanh(),
            Activation::Silu => x * sigmoid(x),
            Activation::Gelu => x * normal(x),
            Activation::HardSigmoid => (x + 3.0).clamp(0.0, 6.0) / 6.0,
            Activation::HardSwish => x * ((x + 3.0).clamp(0.0, 6.0) / 6.0),
        }
    }

    fn derivative(self, at: f64) -> f64 {
        let inside = |low: f64, high: f64| if at > low && at < high { 1.0 } else { 0.0 };
        match self.function {
            Activation::LeakyRelu { .. } | Activation::Prelu if at > 0.0 => 1.0,
            Activation::LeakyRelu { .. } | Activation::Prelu => self.slope,
            Activation::Relu6 => inside(0.0, 6.0),
            Activation::Sigmoid => at * (1.0 - at),
            Activation::Tanh => 1.0 - at * at,
            Activation::Silu => sigmoid(at) + at * sigmoid(at) * sigmoid(-at),
            Activation::Gelu => normal(at) + at * (-0.5 * at * at).exp() / (2.0 * PI).sqrt(),
            Activation::HardSigmoid => inside(-3.0, 3.0) / 6.0,
            Activation::HardSwish if at >= 3.0 => 1.0,
            Activation::HardSwish => inside(-3.0, 3.0) * (at / 3.0 + 0.5),
        }
    }

    /// The formula of `value` in the kernels.
    fn kernel(self, x: Rounded) -> Rounded {
        let [one, sixth] = [1.0, 1.0 / 6.0].map(Rounded::constant);
        match self.function {
            Activation::LeakyRelu { .. } | Activation::Prelu if x.value > 0.0 => x,
            Activation::LeakyRelu { .. } | Activation::Prelu => Rounded::constant(self.slope) * x,
            Activation::Relu6 => x.clamp(0.0, 6.0),
            Activation::Sigmoid => kernel_sigmoid(x),
            Activation::Tanh => {
                let size = x.abs().clamp(0.0, 20.0);
                let result = if size.value < 0.625 {
                    let square = size * size;
                    size + size * (square * horner(&TANH_NEAR_0, square))
                } else {
                    let power = (Rounded::constant(-2.0) * size).exp();
                    (one - power) / (one + power)
                };
                if x.value >= 0.0 { result } else { -result }
            }
            Activation::Silu => x * kernel_sigmoid(x),
            Activation::Gelu => {
                let size = x.abs().clamp(0.0, 14.0);
                x.clamp(0.0, f64::MAX) - size * normal_tail(size, gauss(size))
            }
            Activation::HardSigmoid => (x + Rounded::constant(3.0)).clamp(0.0, 6.0) * sixth,
            Activation::HardSwish => x * ((x + Rounded::constant(3.0)).clamp(0.0, 6.0) * sixth),
        }
    }

    /// The formula of `derivative` in the kernels.
    fn kernel_derivative(self, at: Rounded) -> Rounded {
        let [one, third, half] = [1.0, 1.0 / 3.0, 0.5].map(Rounded::constant);
        match self.function {
            Activation::Sigmoid => (one - at) * at,
            Activation::Tanh => (one - at) * (one + at),
            Activation::Silu => {
                let power = (-at.abs()).exp();
                let inverse = one / (one + power);
                let share = power * inverse;
                (if at.value >= 0.0 { inverse } else { share }) + at * (share * inverse)
            }
            Activation::Gelu => {
                let inner = at.clamp(-14.0, 14.0);
                let bell = gauss(inner);
                let tail = normal_tail(inner.abs(), bell);
                let density = Rounded::constant(1.0 / (2.0 * PI).sqrt()) * bell;
                (if at.value >= 0.0 { one - tail } else { tail }) + inner * density
            }
            Activation::HardSwish if at.value > -3.0 && at.value < 3.0 => at * third + half,
            // Constants.
            _ => Rounded::constant(self.derivative(at.value)),
        }
    }

    /// Largest slope anywhere.
    fn steepness(self) -> f64 {
        match self.function {
            Activation::LeakyRelu { .. } | Activation::Prelu => self.slope.abs().max(1.0),
            Activation::Relu6 | Activation::Tanh => 1.0,
            Activation::Sigmoid => 0.25,
            // At the roots of the second derivative: 1.0999 at x = 2.3994, 1.1290 at √2.
            Activation::Silu => 1.1,
            Activation::Gelu => 1.13,
            Activation::HardSigmoid => 1.0 / 6.0,
            Activation::HardSwish => 1.5,
        }
    }

    /// How far the derivative can be from that at `at`, which is only known to within `error`.
    fn change(self, at: f64, error: f64) -> f64 {
        let (curvature, kinks, jump): (f64, &[f64], f64) = match self.function {
            Activation::LeakyRelu { .. } | Activation::Prelu => (0.0, &[0.0], (1.0 - self.slope).abs()),
            Activation::Relu6 => (0.0, &[0.0, 6.0], 1.0),
            // By the output y: |1 − 2y| and |2y|.
            Activation::Sigmoid => (1.0, &[], 0.0),
            Activation::Tanh => (2.0, &[], 0.0),
            // Second derivatives, both largest at 0: 1/2 and 2/√(2π).
            Activation::Silu => (0.5, &[], 0.0),
            Activation::Gelu => (0.8, &[], 0.0),
            Activation::HardSigmoid => (0.0, &[-3.0, 3.0], 1.0 / 6.0),
            Activation::HardSwish => (1.0 / 3.0, &[-3.0, 3.0], 0.5),
        };
        // So close to the kink that it may be on the other side; an exact value is on a definite side.
        let crossed = kinks.iter().filter(|&&kink| error > 0.0 && (at - kink).abs() <= error);
        curvature * error + jump * crossed.count() as f64
    }
}

fn kernel_sigmoid(x: Rounded) -> Rounded {
    let one = Rounded::constant(1.0);
    let power = (-x.abs()).exp();
    (if x.value >= 0.0 { one } else { power }) / (one + power)
}

/// exp(−size²/2).
fn gauss(size: Rounded) -> Rounded {
    (Rounded::constant(-0.5) * (size * size)).exp()
}

/// Φ(−size) from exp(−size²/2).
fn normal_tail(size: Rounded, bell: Rounded) -> Rounded {
    let [one, two, scale] = [1.0, 2.0, 0.27].map(Rounded::constant);
    let inverse = one / (one + scale * size);
    bell * (inverse * horner(&TAIL, one - two * inverse))
}

/// The polynomial with these coefficients, highest power first.
fn horner(coefficients: &[f32], x: Rounded) -> Rounded {
    let exact = |&coefficient: &f32| Rounded::constant(coefficient.into());
    coefficients.iter().map(exact).reduce(|sum, next| sum * x + next).expect("a polynomial has coefficients")
}

/// (tanh(x)/x − 1)/x² of x² up to 0.625², from Cephes' `tanhf`, accurate to 1.3e-7.
pub(crate) const TANH_NEAR_0: [f32; 5] =
    [-5.704_988_7e-3, 2.063_908_8e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1];

/// Φ(−t) · exp(t²/2) / k of 1 − 2k, where k = 1/(1 + 0.27 t), for t up to 14: a minimax fit, relative error 4e-8.
pub(crate) const TAIL: [f32; 9] = [
    1.129_503_1e-4,
    8.276_694e-5,
    -1.096_798_5e-3,
    6.618_743_6e-4,
    9.051_707e-3,
    -3.914_169_6e-2,
    9.348_716e-2,
    -1.577_428_6e-1,
    2.023_050_8e-1,
];

impl<K: Keys> Pointwise<K> {
    /// The curve of each element of an array shaped like `like`.
    fn curves(&self, arrays: &Arrays, like: &Array) -> impl Fn(usize) -> Curve {
        let [_, channels, height, width] = like.nchw();
        let weight = arrays.get("weight").filter(|_| self.function == Activation::Prelu);
        let slopes = match (self.function, weight) {
            (Activation::LeakyRelu { slope }, _) => vec![slope.into()],
            (_, Some(weight)) => weight.data.clone(),
            _ => vec![0.0],
        };
        let function = self.function;
        move |index| Curve { function, slope: slopes[index / (height * width) % channels % slopes.len()] }
    }
}

impl<K: Keys> Layer for Pointwise<K> {
    fn keys(&self) -> toml::Table {
        keys_of(&self.keys)
    }

    fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        self.keys.check(inputs[0])?;
        Ok(inputs[0])
    }

    fn params(&self, inputs: &[Shape]) -> Vec<Param> {
        let param = |(number, init)| Param {
            name: "weight",
            shape: vec![number],
            init: Init::Constant(init),
            trained: true,
            decays: false,
            min: f32::NEG_INFINITY,
        };
        self.keys.slopes(inputs[0]).map(param).into_iter().collect()
    }

    fn op(&self, _: &[Shape]) -> Op {
        Op::Activation(self.function)
    }

    fn forward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        let input = &arrays["input"];
        let curve_of = self.curves(arrays, input);
        let mut output = input.clone();
        for (index, &x) in input.data.iter().enumerate() {
            let curve = curve_of(index);
            let (value, kernel) = (curve.value(x), curve.kernel(Rounded::given(x)));
            output.data[index] = value;
            output.bound[index] =
                (kernel.value - value).abs() + kernel.bound + curve.steepness() * input.bound[index];
        }
        Arrays::from([("output", output)])
    }

    fn backward(&self, arrays: &Arrays, _: &Context) -> Arrays {
        let upstream = &arrays["grad_output"];
        let curve_of = self.curves(arrays, upstream);
        let from = &arrays[if self.function.reads_input() { "input" } else { "output" }];
        let mut grad_input = upstream.clone();
        for (index, (&at, &grad)) in from.data.iter().zip(&upstream.data).enumerate() {
            let (curve, given) = (curve_of(index), Rounded::given(at));
            let value = curve.derivative(at) * grad;
            let kernel = curve.kernel_derivative(given) * Rounded::given(grad);
            let change = curve.change(at, from.bound[index] + given.bound);
            grad_input.data[index] = value;
            grad_input.bound[index] = (kernel.value - value).abs()
                + kernel.bound
                + curve.steepness() * upstream.bound[index]
                + change * grad.abs();
        }
        let mut made = Arrays::from([("grad_input", grad_input)]);
        if let Some(weight) = arrays.get("weight").filter(|_| self.function == Activation::Prelu) {
            made.insert("grad_weight", grad_slopes(from, upstream, &weight.shape));
        }
        made
    }

    fn launches(&self, pass: Pass, context: &PlanContext) -> Vec<Launch> {
        let Shape { channels, height, width } = context.output;
        let rows = context.quads * channels * height;
        let elements = rows * width;
        let slopes = self.keys.slopes(context.output).map(|(slopes, _)| slopes);
        let negative_slope = match self.function {
            Activation::LeakyRelu { slope } => slope,
            _ => 0.0,
        };
        let launch = |entry_point, invocations| {
            let constants = [
                ("FUNCTION", self.function.number().into()),
                ("NEGATIVE_SLOPE", negative_slope.into()),
                ("SLOPES", slopes.unwrap_or(1) as f64),
                ("QUADS", context.quads as f64),
                ("CHANNELS", channels as f64),
                ("HEIGHT", height as f64),
                ("WIDTH", width as f64),
            ];
            Launch::new("activation", entry_point, invocations, constants)
        };
        match (pass, slopes) {
            (Pass::Train | Pass::Eval, None) => vec![launch("forward", elements)],
            (Pass::Train | Pass::Eval, Some(_)) => vec![launch("forward_prelu", elements)],
            (Pass::Backward, None) if self.function.reads_input() => {
                vec![launch("backward_input_by_input", elements)]
            }
            (Pass::Backward, None) => vec![launch("backward_input", elements)],
            (Pass::Backward, Some(slopes)) => vec![
                launch("weight_row_sums", rows),
                // One workgroup of 64 per slope.
                launch("sum_weight_rows", 64 * slopes),
                launch("backward_input_prelu", elements),
            ],
        }
    }

    fn saved(&self, context: &PlanContext) -> Vec<(&'static str, usize)> {
        let Shape { channels, height, .. } = context.output;
        let sums = self.keys.slopes(context.output).map(|_| ("sums", context.quads * channels * height));
        sums.into_iter().collect()
    }
}

/// The gradient of the slopes: Σ `grad_output` · min(input, 0) over what each slope multiplies.
fn grad_slopes(input: &Array, upstream: &Array, shape: &[usize]) -> Array {
    let [_, channels, height, width] = input.nchw();
    let mut sums = vec![Sum::default(); shape[0]];
    for (index, (&x, &grad)) in input.data.iter().zip(&upstream.data).enumerate() {
        let (error, grad_error) = (input.bound[index], upstream.bound[index]);
        // Multiplying by zero doesn't round.
        if x <= error {
            let negative = x.min(0.0);
            let carried = grad.abs() * error + (negative.abs() + error) * grad_error;
            sums[index / (height * width) % channels % shape[0]].add_bounded(grad * negative, carried);
        }
    }
    let mut made = Array::zeros(shape);
    sums.into_iter().enumerate().for_each(|(slope, sum)| made.set(slope, sum));
    made
}
