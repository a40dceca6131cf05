//! Arithmetic of whole numbers, as the reference kernels of TensorFlow Lite do it: a number is multiplied by a fraction with
//! 31 bits, rounded, and shifted, rounded again (Jacob et al. 2018, "Quantization and Training of Neural Networks for
//! Efficient Integer-Arithmetic-Only Inference", section 2.2).

/// A real factor: value / 2³¹ · 2^shift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Multiplier {
    /// Of a size from 2³⁰ to 2³¹, or 0.
    pub(crate) value: i32,
    /// To the left where it is positive.
    pub(crate) shift: i8,
}

impl Multiplier {
    /// The nearest one.
    pub(crate) fn new(factor: f64) -> Self {
        let (fraction, mut shift) = libm::frexp(factor);
        let mut value = (fraction * 2f64.powi(31)).round() as i64;
        if value.abs() == 1 << 31 {
            value /= 2;
            shift += 1;
        }
        // Whatever it multiplies has at most 31 bits.
        if value == 0 || shift < -31 {
            return Self { value: 0, shift: 0 };
        }
        Self { value: value as i32, shift: shift.min(30) as i8 }
    }

    /// The real factor.
    pub(crate) fn factor(self) -> f64 {
        f64::from(self.value) * f64::from(self.shift).exp2() / (1u64 << 31) as f64
    }

    /// `x` times the factor. Where it is shifted to the left, `x` is first limited to what then fits.
    pub(crate) fn times(self, x: i32) -> i32 {
        let left = self.shift.max(0);
        let most = i32::MAX >> left;
        let x = x.clamp(-most, most) << left;
        rounding_shift(rounding_high(x, self.value), -self.shift.min(0))
    }
}

/// x · value / 2³¹, halves upwards, as gemmlowp's `SaturatingRoundingDoublingHighMul` and Arm's SQRDMULH have them. Neither is
/// −2³¹.
fn rounding_high(x: i32, value: i32) -> i32 {
    let product = i64::from(x) * i64::from(value);
    let nudge = if product >= 0 { 1 << 30 } else { 1 - (1 << 30) };
    ((product + nudge) / (1 << 31)) as i32
}

/// x / 2^right, halves away from 0, as gemmlowp's `RoundingDivideByPOT`.
fn rounding_shift(x: i32, right: i8) -> i32 {
    let mask = ((1i64 << right) - 1) as i32;
    let threshold = (mask >> 1) + i32::from(x < 0);
    (x >> right) + i32::from(x & mask > threshold)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By gemmlowp's definitions, worked out by hand.
    #[test]
    fn roundings_are_those_of_tensorflow_lite() {
        let half = Multiplier::new(0.5);
        assert_eq!(half, Multiplier { value: 1 << 30, shift: 0 });
        assert_eq!([5, -5, 4, -4, 0].map(|x| half.times(x)), [3, -2, 2, -2, 0]);
        let quarter = Multiplier::new(0.25);
        assert_eq!(quarter, Multiplier { value: 1 << 30, shift: -1 });
        // Rounded twice, first upwards, then away from 0: 2.5 is 3, and 1.5 is 2; −2.5 is −2, and −1 stays.
        assert_eq!([5, -5, 6, -6, 1, -1].map(|x| quarter.times(x)), [2, -1, 2, -2, 1, 0]);
        let one = Multiplier::new(1.0);
        assert_eq!([i32::MAX / 2, -77, 1].map(|x| one.times(x)), [i32::MAX / 2, -77, 1]);
        let negative = Multiplier::new(-3.0);
        assert_eq!([7, -7].map(|x| negative.times(x)), [-21, 21]);
        // Too large for 32 bits: the limit.
        assert_eq!(Multiplier::new(1024.0).times(1 << 30), Multiplier::new(1024.0).times(i32::MAX >> 11));
        assert_eq!(Multiplier::new(0.0).times(99), 0);
        assert_eq!(Multiplier::new(1e-12).times(i32::MAX), 0);
    }

    #[test]
    fn a_product_is_right_to_one() {
        for factor in [0.3, 0.001, 1.7, 12.0, -0.02] {
            for x in [1, -1, 1000, -12_345, 1_000_000] {
                let wanted = factor * f64::from(x);
                assert!((f64::from(Multiplier::new(factor).times(x)) - wanted).abs() <= 1.0, "{factor} {x}");
            }
        }
    }
}
