//! Activations; the formulas are those of `shaders/activation.wgsl`.

use super::{dispatch, vectors, vectors_mut};
use crate::layers::{Activation, TAIL, TANH_NEAR_0};
use pulp::{Arch, Simd};

/// Applies `function` in place, to blocks of any shape. Only a prelu has a `weight`: one slope per channel of
/// `[channels, ..., 16]`, or one for all.
pub(crate) fn activation(arch: Arch, function: Activation, weight: &[f32], values: &mut [f32]) {
    if function == Activation::Prelu {
        let plane = values.len() / weight.len();
        for (&slope, values) in weight.iter().zip(values.chunks_exact_mut(plane)) {
            let function = Activation::LeakyRelu { slope };
            dispatch!(arch, forward(function: Activation, values: &'a mut [f32]));
        }
    } else {
        dispatch!(arch, forward(function: Activation, values: &'a mut [f32]));
    }
}

#[inline(always)]
fn forward<S: Simd>(simd: S, function: Activation, values: &mut [f32]) {
    let splat = |value: f32| simd.splat_f32s(value);
    match function {
        Activation::LeakyRelu { slope } => {
            each::<S>(
                values,
                #[inline(always)]
                |x| simd.mul_f32s(x, factor(simd, slope, x)),
            );
        }
        Activation::Prelu => unreachable!("its channels are leaky rectifiers"),
        Activation::Relu6 => each::<S>(
            values,
            #[inline(always)]
            |x| clamp(simd, x, 0.0, 6.0),
        ),
        Activation::Sigmoid => each::<S>(
            values,
            #[inline(always)]
            |x| sigmoid(simd, x),
        ),
        Activation::Tanh => each::<S>(
            values,
            #[inline(always)]
            |x| tanh(simd, x),
        ),
        Activation::Silu => each::<S>(
            values,
            #[inline(always)]
            |x| simd.mul_f32s(x, sigmoid(simd, x)),
        ),
        Activation::Gelu => each::<S>(
            values,
            #[inline(always)]
            |x| {
                let size = simd.min_f32s(simd.abs_f32s(x), splat(14.0));
                let tail = normal_tail(simd, size, gauss(simd, size));
                simd.sub_f32s(simd.max_f32s(x, splat(0.0)), simd.mul_f32s(size, tail))
            },
        ),
        Activation::HardSigmoid => each::<S>(
            values,
            #[inline(always)]
            |x| hard_sigmoid(simd, x),
        ),
        Activation::HardSwish => each::<S>(
            values,
            #[inline(always)]
            |x| simd.mul_f32s(x, hard_sigmoid(simd, x)),
        ),
    }
}

/// Turns the gradient of the output into that of the input, in place: multiplies it by the derivative, taken `from`
/// the input if [`Activation::reads_input`], else from the output. Slices of equal length, blocks of any shape;
/// `weight` as in [`activation`].
pub(crate) fn activation_grad(
    arch: Arch,
    function: Activation,
    weight: &[f32],
    from: &[f32],
    grad: &mut [f32],
) {
    assert_eq!(from.len(), grad.len());
    if function == Activation::Prelu {
        let plane = from.len() / weight.len();
        for ((&slope, from), grad) in
            weight.iter().zip(from.chunks_exact(plane)).zip(grad.chunks_exact_mut(plane))
        {
            let function = Activation::LeakyRelu { slope };
            dispatch!(arch, backward(function: Activation, from: &'a [f32], grad: &'a mut [f32]));
        }
    } else {
        dispatch!(arch, backward(function: Activation, from: &'a [f32], grad: &'a mut [f32]));
    }
}

#[inline(always)]
fn backward<S: Simd>(simd: S, function: Activation, from: &[f32], grad: &mut [f32]) {
    let splat = |value: f32| simd.splat_f32s(value);
    let one = splat(1.0);
    match function {
        Activation::LeakyRelu { slope } => {
            each_grad::<S>(
                from,
                grad,
                #[inline(always)]
                |y, dy| simd.mul_f32s(dy, factor(simd, slope, y)),
            );
        }
        Activation::Prelu => unreachable!("its channels are leaky rectifiers"),
        Activation::Relu6 => {
            each_grad::<S>(
                from,
                grad,
                #[inline(always)]
                |y, dy| simd.mul_f32s(dy, if_between(simd, y, [0.0, 6.0], one)),
            );
        }
        Activation::Sigmoid => {
            each_grad::<S>(
                from,
                grad,
                #[inline(always)]
                |y, dy| simd.mul_f32s(simd.mul_f32s(simd.sub_f32s(one, y), y), dy),
            );
        }
        Activation::Tanh => each_grad::<S>(
            from,
            grad,
            #[inline(always)]
            |y, dy| simd.mul_f32s(simd.mul_f32s(simd.sub_f32s(one, y), simd.add_f32s(one, y)), dy),
        ),
        Activation::Silu => each_grad::<S>(
            from,
            grad,
            #[inline(always)]
            |x, dy| {
                let power = exp(simd, simd.neg_f32s(simd.abs_f32s(x)));
                let inverse = simd.div_f32s(one, simd.add_f32s(one, power));
                let share = simd.mul_f32s(power, inverse);
                let positive = simd.greater_than_or_equal_f32s(x, splat(0.0));
                let sigmoid = simd.select_f32s(positive, inverse, share);
                simd.mul_f32s(simd.mul_add_e_f32s(x, simd.mul_f32s(share, inverse), sigmoid), dy)
            },
        ),
        Activation::Gelu => each_grad::<S>(
            from,
            grad,
            #[inline(always)]
            |x, dy| {
                let inner = clamp(simd, x, -14.0, 14.0);
                let bell = gauss(simd, inner);
                let tail = normal_tail(simd, simd.abs_f32s(inner), bell);
                let positive = simd.greater_than_or_equal_f32s(x, splat(0.0));
                let normal = simd.select_f32s(positive, simd.sub_f32s(one, tail), tail);
                let density = simd.mul_f32s(splat(0.398_942_3), bell);
                simd.mul_f32s(simd.mul_add_e_f32s(inner, density, normal), dy)
            },
        ),
        Activation::HardSigmoid => each_grad::<S>(
            from,
            grad,
            #[inline(always)]
            |x, dy| simd.mul_f32s(dy, if_between(simd, x, [-3.0, 3.0], splat(1.0 / 6.0))),
        ),
        Activation::HardSwish => each_grad::<S>(
            from,
            grad,
            #[inline(always)]
            |x, dy| {
                let slope = simd.mul_add_e_f32s(x, splat(1.0 / 3.0), splat(0.5));
                let above = simd.greater_than_or_equal_f32s(x, splat(3.0));
                let inside = if_between(simd, x, [-3.0, 3.0], slope);
                simd.mul_f32s(dy, simd.select_f32s(above, one, inside))
            },
        ),
    }
}

/// The gradient of a prelu's slopes: `grad_weight[c]` = Σ grad · min(input, 0) over the values that slope c
/// multiplies. `input` and `grad` are `[channels, ..., 16]`, with `grad` 0 in the lanes past the batch; one slope per
/// channel or one for all.
pub(crate) fn prelu_grad_weight(arch: Arch, input: &[f32], grad: &[f32], grad_weight: &mut [f32]) {
    assert_eq!(input.len(), grad.len());
    dispatch!(arch, negative_sums(input: &'a [f32], grad: &'a [f32], grad_weight: &'a mut [f32]));
}

#[inline(always)]
fn negative_sums<S: Simd>(simd: S, input: &[f32], grad: &[f32], grad_weight: &mut [f32]) {
    let plane = input.len() / grad_weight.len();
    let planes = input.chunks_exact(plane).zip(grad.chunks_exact(plane));
    for (total, (input, grad)) in grad_weight.iter_mut().zip(planes) {
        let mut sum = simd.splat_f32s(0.0);
        for (&x, &dy) in vectors::<S>(input).iter().zip(vectors::<S>(grad)) {
            sum = simd.mul_add_e_f32s(dy, simd.min_f32s(x, simd.splat_f32s(0.0)), sum);
        }
        *total = simd.reduce_sum_f32s(sum);
    }
}

#[inline(always)]
fn each<S: Simd>(values: &mut [f32], function: impl Fn(S::f32s) -> S::f32s) {
    for x in vectors_mut::<S>(values) {
        *x = function(*x);
    }
}

#[inline(always)]
fn each_grad<S: Simd>(from: &[f32], grad: &mut [f32], function: impl Fn(S::f32s, S::f32s) -> S::f32s) {
    for (dy, &at) in vectors_mut::<S>(grad).iter_mut().zip(vectors::<S>(from)) {
        *dy = function(at, *dy);
    }
}

/// 1 where `x` is positive, else `slope`. Selecting between the old value and another, rather than between factors,
/// would become a masked store, which is slow.
#[inline(always)]
pub(super) fn factor<S: Simd>(simd: S, slope: f32, x: S::f32s) -> S::f32s {
    let positive = simd.greater_than_f32s(x, simd.splat_f32s(0.0));
    simd.select_f32s(positive, simd.splat_f32s(1.0), simd.splat_f32s(slope))
}

/// `value` where `x` is between the bounds, else 0.
#[inline(always)]
fn if_between<S: Simd>(simd: S, x: S::f32s, [low, high]: [f32; 2], value: S::f32s) -> S::f32s {
    let zero = simd.splat_f32s(0.0);
    let below = simd.less_than_f32s(x, simd.splat_f32s(high));
    let above = simd.greater_than_f32s(x, simd.splat_f32s(low));
    simd.select_f32s(above, simd.select_f32s(below, value, zero), zero)
}

#[inline(always)]
fn clamp<S: Simd>(simd: S, x: S::f32s, low: f32, high: f32) -> S::f32s {
    simd.min_f32s(simd.max_f32s(x, simd.splat_f32s(low)), simd.splat_f32s(high))
}

#[inline(always)]
fn hard_sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let inside = clamp(simd, simd.add_f32s(x, simd.splat_f32s(3.0)), 0.0, 6.0);
    simd.mul_f32s(inside, simd.splat_f32s(1.0 / 6.0))
}

#[inline(always)]
fn sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    let power = exp(simd, simd.neg_f32s(simd.abs_f32s(x)));
    let positive = simd.greater_than_or_equal_f32s(x, simd.splat_f32s(0.0));
    simd.div_f32s(simd.select_f32s(positive, one, power), simd.add_f32s(one, power))
}

#[inline(always)]
fn tanh<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    let size = simd.min_f32s(simd.abs_f32s(x), simd.splat_f32s(20.0));
    let square = simd.mul_f32s(size, size);
    let cubic = simd.mul_f32s(square, horner(simd, &TANH_NEAR_0, square));
    let near = simd.mul_add_e_f32s(size, cubic, size);
    let power = exp(simd, simd.mul_f32s(simd.splat_f32s(-2.0), size));
    let far = simd.div_f32s(simd.sub_f32s(one, power), simd.add_f32s(one, power));
    let result = simd.select_f32s(simd.less_than_f32s(size, simd.splat_f32s(0.625)), near, far);
    let positive = simd.greater_than_or_equal_f32s(x, simd.splat_f32s(0.0));
    simd.select_f32s(positive, result, simd.neg_f32s(result))
}

/// exp(−size²/2)
#[inline(always)]
fn gauss<S: Simd>(simd: S, size: S::f32s) -> S::f32s {
    exp(simd, simd.mul_f32s(simd.splat_f32s(-0.5), simd.mul_f32s(size, size)))
}

/// Φ(−size) from exp(−size²/2).
#[inline(always)]
fn normal_tail<S: Simd>(simd: S, size: S::f32s, bell: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    let inverse = simd.div_f32s(one, simd.mul_add_e_f32s(simd.splat_f32s(0.27), size, one));
    let place = simd.mul_add_e_f32s(simd.splat_f32s(-2.0), inverse, one);
    simd.mul_f32s(bell, simd.mul_f32s(inverse, horner(simd, &TAIL, place)))
}

/// The polynomial with these coefficients, highest power first.
#[inline(always)]
fn horner<S: Simd>(simd: S, coefficients: &[f32], x: S::f32s) -> S::f32s {
    let mut sum = simd.splat_f32s(coefficients[0]);
    for &coefficient in &coefficients[1..] {
        sum = simd.mul_add_e_f32s(sum, x, simd.splat_f32s(coefficient));
    }
    sum
}

/// Highest power first, from Cephes' `expf`: (exp(x) − 1 − x)/x² for |x| up to ln 2 / 2.
const EXP: [f32; 6] = [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1];

/// exp of a non-positive number, as 2ⁿ · exp(rest). Accurate to two units in the last place; below the normal
/// numbers, to less than the smallest of them.
#[inline(always)]
fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let splat = |value: f32| simd.splat_f32s(value);
    // Adding this to a number rounds it to an integer in the lowest bits. −88 is the n = −127 that gives zero.
    const TO_INTEGER: f32 = 12_582_912.0;
    let x = simd.max_f32s(x, splat(-88.0));
    let shifted = simd.mul_add_e_f32s(x, splat(std::f32::consts::LOG2_E), splat(TO_INTEGER));
    let n = simd.sub_f32s(shifted, splat(TO_INTEGER));
    // ln 2 in two parts, the first with few enough bits for an exact product with n.
    let rest = simd.mul_add_e_f32s(n, splat(-0.693_359_4), x);
    let rest = simd.mul_add_e_f32s(n, splat(2.121_944_4e-4), rest);
    let square = simd.mul_f32s(rest, rest);
    let sum = simd.mul_add_e_f32s(horner(simd, &EXP, rest), square, rest);
    let exponent = simd.add_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(127));
    let power = simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(exponent, simd.splat_u32s(23)));
    simd.mul_f32s(simd.add_f32s(sum, splat(1.0)), power)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::kernels::testing::{archs, random};
    use crate::layers::{Context, LayerKind, Op};
    use crate::tensor::{Array, Arrays, Shape};

    /// From -20 to 20 with the kinks, and far beyond.
    fn inputs() -> Vec<f32> {
        let mut x: Vec<f32> = (-2000..=2000).map(|i| i as f32 * 0.01).collect();
        x.extend([3.0f32.next_down(), -3.0f32.next_up(), 6.0f32.next_down(), 1e-30, -1e-30, 1e-42]);
        x.extend([100.0, 1e4, 1e9, 1e30, f32::MAX].into_iter().flat_map(|size| [size, -size]));
        x.resize(x.len().next_multiple_of(6 * 16), 0.0);
        x
    }

    /// The largest error as a fraction of its bound.
    #[track_caller]
    fn check(got: &[f32], want: &Array, what: &str) -> f64 {
        let mut worst = 0.0f64;
        for (i, got) in got.iter().enumerate() {
            let (error, bound) = ((f64::from(*got) - want.data[i]).abs(), want.bound[i]);
            assert!(
                error <= bound,
                "{what} {i}: {got:e}, not {:e}, error {error:e} > {bound:e}",
                want.data[i]
            );
            worst = worst.max(if bound > 0.0 { error / bound } else { 0.0 });
        }
        worst
    }

    /// The polynomials exist in three languages; a wrong digit in one of them would be an error that no bound covers.
    #[test]
    fn shader_and_page_have_the_same_polynomials() {
        let coefficients = |text: &str, from: &str, to: &str| -> Vec<f32> {
            let (_, text) = text.split_once(from).unwrap();
            let (text, _) = text.split_once(to).unwrap();
            let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c)));
            let mut found = Vec::new();
            let mut sign = 1.0;
            for word in words {
                if let Ok(number) = word.parse::<f32>() {
                    found.push(sign * number);
                }
                sign = if word == "-" { -1.0 } else { 1.0 };
            }
            found
        };
        let shader = include_str!("../../../shaders/activation.wgsl");
        let page = include_str!("../../export/web/fallback.js");
        assert_eq!(coefficients(shader, "let square = size * size;", "let near"), TANH_NEAR_0);
        assert_eq!(coefficients(shader, "let place = 1.0 - 2.0 * inverse;", "return"), TAIL);
        assert_eq!(coefficients(page, "const polynomial = [", "]"), TAIL);
    }

    #[test]
    fn every_function_is_within_the_reference_s_bound() {
        let x = inputs();
        let dy = random(2, x.len());
        let shape = [1, 3, 2, x.len() / 6];
        let shapes = [Shape::new(3, 2, x.len() / 6)];
        let context = Context { training: true, seed: 0, step: 0, layer: 0, first_image: 0 };
        let mut functions = 0;
        let cases = LayerKind::all().into_iter().map(|kind| (kind, ""));
        let kind = |name| LayerKind::find(name).unwrap();
        let options = [("leaky_relu", "negative_slope = 0.5"), ("prelu", "num_parameters = 1")];
        for (kind, keys) in cases.chain(options.map(|(name, keys)| (kind(name), keys))) {
            let Ok(layer) = kind.parse(toml::from_str(keys).unwrap()) else { continue };
            let Op::Activation(function) = layer.op(&shapes) else { continue };
            functions += 1;
            let slopes = layer.params(&shapes).first().map_or(0, |param| param.size());
            let weight = &[0.5, -0.25, -1.0][..slopes];
            let mut given = Arrays::from([("input", Array::from_f32(&shape, &x))]);
            given.insert("weight", Array::from_f32(&[slopes], weight));
            let want = layer.forward(&given, &context).remove("output").unwrap();
            for arch in archs() {
                let mut y = x.clone();
                activation(arch, function, weight, &mut y);
                let forward = check(&y, &want, kind.name);
                // The gradient is that of the kernel's own output.
                given.insert("output", Array::from_f32(&shape, &y));
                given.insert("grad_output", Array::from_f32(&shape, &dy));
                let made = layer.backward(&given, &context);
                let mut dx = dy.clone();
                activation_grad(
                    arch,
                    function,
                    weight,
                    if function.reads_input() { &x } else { &y },
                    &mut dx,
                );
                let backward = check(&dx, &made["grad_input"], kind.name);
                println!("{}: {forward:.2} forward, {backward:.2} backward", kind.name);
                if let Some(want) = made.get("grad_weight") {
                    let mut grad_weight = vec![f32::NAN; slopes];
                    prelu_grad_weight(arch, &x, &dy, &mut grad_weight);
                    check(&grad_weight, want, "grad_weight");
                }
            }
        }
        assert_eq!(functions, 12);
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for arch in archs() {
            let x: Vec<f32> = (0..16 * 6000).map(|i| i as f32 * -0.001).collect();
            let mut y = x.clone();
            let values = &mut y[..];
            dispatch!(arch, exps(values: &'a mut [f32]));
            for (x, y) in x.iter().zip(y) {
                let want = f64::from(*x).exp();
                let unit = want * 2f64.powi(-23);
                let error = (f64::from(y) - want).abs();
                assert!(error <= 2.0 * unit + f64::from(f32::MIN_POSITIVE), "exp({x}) = {y}, not {want}");
            }
        }
    }

    #[inline(always)]
    fn exps<S: Simd>(simd: S, values: &mut [f32]) {
        each::<S>(
            values,
            #[inline(always)]
            |x| exp(simd, x),
        );
    }

    #[test]
    fn rectifiers_are_exact() {
        let mut x = random(1, 5 * 16);
        x[3] = 0.0;
        let dy = random(2, x.len());
        for arch in archs() {
            for slope in [0.0, 0.01, 0.5] {
                let (mut y, mut dx) = (x.clone(), dy.clone());
                let function = Activation::LeakyRelu { slope };
                activation(arch, function, &[], &mut y);
                activation_grad(arch, function, &[], &y, &mut dx);
                for i in 0..x.len() {
                    let factor = if x[i] > 0.0 { 1.0 } else { slope };
                    assert_eq!((y[i], dx[i]), (factor * x[i], factor * dy[i]));
                }
            }
        }
    }
}
