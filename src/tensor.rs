//! Shapes, and the two kinds of host arrays: named `f32` tensors (for training, saving and exchange) and `f64` arrays
//! with an error bound (for the reference implementation).

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Div, Mul, Neg, Sub};

use serde::{Deserialize, Serialize};

/// Shape of one image's activation: channels, height, width.
///
/// # Examples
/// ```
/// use shadernet::tensor::Shape;
///
/// let shape = Shape::new(3, 32, 24);
/// assert_eq!((shape.len(), shape.to_string()), (2304, "[3, 32, 24]".into()));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "[usize; 3]", into = "[usize; 3]")]
pub struct Shape {
    /// Feature maps.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Shape {
    /// `channels` x `height` x `width`.
    pub fn new(channels: usize, height: usize, width: usize) -> Self {
        Self { channels, height, width }
    }

    /// Number of values per image. Saturates on overflow, which puts it beyond every limit.
    pub fn len(&self) -> usize {
        self.channels.saturating_mul(self.height).saturating_mul(self.width)
    }

    /// Values per feature map.
    pub fn area(&self) -> usize {
        self.height.saturating_mul(self.width)
    }

    /// True if there are no values (never the case in a checked model).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<[usize; 3]> for Shape {
    fn from([channels, height, width]: [usize; 3]) -> Self {
        Self { channels, height, width }
    }
}

impl From<Shape> for [usize; 3] {
    fn from(shape: Shape) -> Self {
        [shape.channels, shape.height, shape.width]
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}, {}]", self.channels, self.height, self.width)
    }
}

/// A named `f32` tensor, row-major: a parameter, a running statistic, logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Name as in a PyTorch `state_dict`: `conv1.weight`.
    pub name: String,
    /// Extent of each axis.
    pub shape: Vec<usize>,
    /// The values.
    pub data: Vec<f32>,
}

/// Unit roundoff of `f32`: half the distance from 1 to the next value.
pub const UNIT_ROUNDOFF: f64 = 1.0 / 16_777_216.0;

/// Higham's `γ_n = n·u / (1 − n·u)`: the relative error bound of n roundings in `f32`, in any order
/// (Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1).
pub fn gamma(roundings: usize) -> f64 {
    let nu = roundings as f64 * UNIT_ROUNDOFF;
    nu / (1.0 - nu)
}

/// Smallest positive normal `f32`. Devices may flush anything below to zero, so every bound allows for that.
pub const FLUSH: f64 = f32::MIN_POSITIVE as f64;

/// An `f64` array of the reference implementation, with the largest error that a correct `f32` implementation can make.
///
/// # Examples
/// ```
/// use shadernet::tensor::{Array, Sum};
///
/// let mut sum = Sum::default();
/// [0.5, -0.25].into_iter().for_each(|term| sum.add(term));
/// let mut array = Array::zeros(&[1]);
/// array.set(0, sum);
/// assert_eq!(array.data, [0.25]);
/// assert!(array.bound[0] > 0.0 && array.bound[0] < 1e-6);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Extent of each axis.
    pub shape: Vec<usize>,
    /// The values, row-major.
    pub data: Vec<f64>,
    /// For each value, the bound on |f32 result − value| if the `f32` implementation is given the same inputs, sums
    /// in any order and may or may not fuse multiply and add. Zero for given inputs and for exact operations. If an
    /// input has a bound itself, its error is propagated: fused kernels don't store their intermediate values.
    pub bound: Vec<f64>,
}

impl Array {
    /// Zeros.
    pub fn zeros(shape: &[usize]) -> Self {
        let len = shape.iter().product();
        Self { shape: shape.to_vec(), data: vec![0.0; len], bound: vec![0.0; len] }
    }

    /// Given values, treated as exact.
    pub fn exact(shape: &[usize], data: Vec<f64>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "{shape:?}");
        Self { shape: shape.to_vec(), bound: vec![0.0; data.len()], data }
    }

    /// Given `f32` values, treated as exact.
    pub fn from_f32(shape: &[usize], data: &[f32]) -> Self {
        Self::exact(shape, data.iter().map(|&v| f64::from(v)).collect())
    }

    /// The values rounded to `f32`.
    pub fn to_f32(&self) -> Vec<f32> {
        self.data.iter().map(|&v| v as f32).collect()
    }

    /// Extents of a four-dimensional array [N, C, H, W].
    pub fn nchw(&self) -> [usize; 4] {
        self.shape.as_slice().try_into().expect("a [N, C, H, W] array")
    }

    /// Sets one element to the value and bound of a sum.
    pub fn set(&mut self, index: usize, sum: Sum) {
        self.data[index] = sum.value;
        self.bound[index] = sum.bound();
    }
}

/// A sum of products that also tracks Σ|a·b|: |f32 result − value| ≤ γ(terms + 2) · Σ|a·b|.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum {
    /// The value in `f64`.
    pub value: f64,
    /// Sum of the absolute terms.
    pub magnitude: f64,
    /// Number of terms.
    pub terms: usize,
    /// Contribution of errors in the terms themselves.
    pub carried: f64,
}

impl Sum {
    /// Adds one term.
    pub fn add(&mut self, term: f64) {
        self.value += term;
        self.magnitude += term.abs();
        self.terms += 1;
    }

    /// Adds one term that is only known to within `bound`.
    pub fn add_bounded(&mut self, term: f64, bound: f64) {
        self.add(term);
        self.carried += bound;
    }

    /// The error bound. Two more roundings than terms: one for the product, one for a final scaling.
    pub fn bound(&self) -> f64 {
        gamma(self.terms + 2) * (self.magnitude + self.carried) + self.carried + self.terms as f64 * FLUSH
    }
}

/// The result of an `f32` kernel and a bound on its error: running error analysis (Higham, section 3.3). Evaluating a
/// kernel's formula with these values proves its bound, using WGSL's accuracy of each operation, whether or not
/// products are fused with sums.
///
/// # Examples
/// ```
/// use shadernet::tensor::Rounded;
///
/// let one = Rounded::constant(1.0);
/// let sigmoid = one / (one + (-Rounded::given(2.0)).exp());
/// assert!((sigmoid.value - 0.8808).abs() < 1e-4 && sigmoid.bound < 2e-6);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rounded {
    /// The value in `f64`.
    pub value: f64,
    /// Bound on |`f32` result − value|.
    pub bound: f64,
}

impl Rounded {
    /// A given `f32` number, which a device may flush to zero.
    pub fn given(value: f64) -> Self {
        Self { value, bound: if value.abs() < FLUSH { value.abs() } else { 0.0 } }
    }

    /// A constant in a kernel, rounded to the nearest `f32`.
    pub fn constant(value: f64) -> Self {
        Self { value, bound: (f64::from(value as f32) - value).abs() }
    }

    /// The result of an operation: the propagated errors of its operands, then `roundings` roundings.
    fn after(value: f64, carried: f64, roundings: f64) -> Self {
        let nu = roundings * UNIT_ROUNDOFF;
        Self { value, bound: carried + nu / (1.0 - nu) * (value.abs() + carried) + FLUSH }
    }

    /// Its absolute value.
    pub fn abs(self) -> Self {
        Self { value: self.value.abs(), ..self }
    }

    /// The nearest value from `low` to `high`, which are exact in `f32`.
    pub fn clamp(self, low: f64, high: f64) -> Self {
        let at = |value: f64| value.clamp(low, high);
        let value = at(self.value);
        Self { value, bound: (at(self.value + self.bound) - value).max(value - at(self.value - self.bound)) }
    }

    /// The square root of a positive number: WGSL allows 1 / inverseSqrt(x), which has errors of 2 and 2.5 units in the last place.
    pub fn sqrt(self) -> Self {
        let value = self.value.sqrt();
        // The slope is largest at the low end.
        let carried = value - (self.value - self.bound).max(0.0).sqrt();
        Self::after(value, carried, 10.0)
    }

    /// 2 to this power, for which WGSL allows 3 + 2|x| units in the last place.
    pub fn exp2(self) -> Self {
        let value = self.value.exp2();
        let units = 3.0 + 2.0 * (self.value.abs() + self.bound);
        Self::after(value, value * (self.bound * std::f64::consts::LN_2).exp_m1(), 2.0 * units)
    }

    /// exp, for which WGSL allows 3 + 2|x| units in the last place.
    pub fn exp(self) -> Self {
        let value = self.value.exp();
        let units = 3.0 + 2.0 * (self.value.abs() + self.bound);
        Self::after(value, value * self.bound.exp_m1(), 2.0 * units)
    }
}

impl Neg for Rounded {
    type Output = Self;

    fn neg(self) -> Self {
        Self { value: -self.value, ..self }
    }
}

impl Add for Rounded {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::after(self.value + other.value, self.bound + other.bound, 1.0)
    }
}

impl Sub for Rounded {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl Mul for Rounded {
    type Output = Self;

    /// Exact if the left factor is just 0 or 1.
    fn mul(self, other: Self) -> Self {
        if self == Self::constant(0.0) {
            return self;
        }
        if self == Self::constant(1.0) {
            return other;
        }
        let ([a, b], [c, d]) = ([self.value, self.bound], [other.value, other.bound]);
        Self::after(a * c, a.abs() * d + c.abs() * b + b * d, 1.0)
    }
}

impl Div for Rounded {
    type Output = Self;

    /// WGSL allows 2.5 units in the last place. The divisor must certainly not be 0.
    fn div(self, other: Self) -> Self {
        let value = self.value / other.value;
        let carried = (self.bound + value.abs() * other.bound) / (other.value.abs() - other.bound);
        Self::after(value, carried, 5.0)
    }
}

/// Arrays by name: what a layer reads and what it makes.
pub type Arrays = BTreeMap<&'static str, Array>;
