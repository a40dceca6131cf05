//! Steps in whole numbers, and the arithmetic that they share: as `int8::fixed` and `int8::Numbers` compute.

use super::float::formula;
use super::step::{Helper, Place, Terms, Writer, Zero};
use super::text::{product, sum};
use crate::int8::fixed::Multiplier;
use crate::int8::{Compute, NORM_BITS, Quantized};

impl Helper {
    pub(super) fn needs_math(self) -> bool {
        matches!(self, Self::Function(_))
    }

    /// Its text, unless it comes from the library.
    pub(super) fn text(self) -> Option<String> {
        Some(match self {
            Self::Limit => LIMIT.into(),
            Self::Enlarge => ENLARGE.into(),
            Self::Rescale => RESCALE.into(),
            Self::Root => ROOT.into(),
            Self::Function(name) => {
                format!("static float {name}(float x)\n{{\n    return {};\n}}", formula(name)?)
            }
        })
    }
}

const LIMIT: &str = "\
static int32_t limit(int32_t x, int32_t low, int32_t high)
{
    return x < low ? low : x > high ? high : x;
}";

const ENLARGE: &str = "\
/* x * 2^shift, or the limit of what fits. */
static int32_t enlarge(int32_t x, int32_t shift)
{
    const int32_t most = INT32_MAX >> shift;
    return limit(x, -most, most) * ((int32_t)1 << shift);
}";

const RESCALE: &str = "\
typedef char shifting_must_keep_the_sign[(-1 >> 1) == -1 ? 1 : -1];

/* x * multiplier / 2^31 / 2^shift, each quotient rounded to the nearest number, halves upwards and then away from 0: as
   TensorFlow Lite's reference kernels do it. */
static int32_t rescale(int32_t x, int32_t multiplier, int32_t shift)
{
    const int64_t product = (int64_t)x * multiplier;
    const int64_t nudge = product >= 0 ? 1073741824 : -1073741823;
    const int32_t high = (int32_t)((product + nudge) / 2147483648);
    const int32_t mask = (int32_t)(((uint32_t)1 << shift) - 1);
    const int32_t threshold = (mask >> 1) + (high < 0);
    return (high >> shift) + ((high & mask) > threshold);
}";

const ROOT: &str = "\
/* The square root, rounded down. */
static int64_t root(uint64_t x)
{
    uint64_t found = 0;
    for (uint64_t bit = (uint64_t)1 << 62; bit != 0; bit >>= 2) {
        if (x >= found + bit) {
            x -= found + bit;
            found = (found >> 1) + bit;
        } else {
            found >>= 1;
        }
    }
    return (int64_t)found;
}";

impl Writer<'_> {
    pub(super) fn whole_conv(&mut self, net: &Quantized, at: usize) -> Terms {
        let step = &net.program.steps[at];
        let Compute::Conv { sizes, weight, bias, zeros, .. } = &net.steps[at].compute else {
            unreachable!("it is one")
        };
        let (taps, group_in, group_out) = (sizes.taps(), sizes.group_in(), sizes.group_out());
        let zero_of = |out: usize, tap: usize| {
            zeros[if zeros.len() == 1 { 0 } else { out / group_out * group_in + tap / taps }]
        };
        // Without padding each sum has all taps, so that the zeros can be subtracted beforehand.
        let is_whole = sizes.padding == [0; 4];
        let filters = weight.chunks(sizes.filter()).zip(bias).enumerate();
        let biases = filters.map(|(out, (filter, &bias))| {
            let shift = |(tap, &weight): (usize, &i8)| i32::from(weight) * zero_of(out, tap);
            if is_whole { bias - filter.iter().enumerate().map(shift).sum::<i32>() } else { bias }
        });
        let bias = self.constants.array("int32_t", 4, self.name("bias", step), biases);
        let weight = self.constants.array("int8_t", 1, self.name("weight", step), weight);
        let zero = match &zeros[..] {
            _ if is_whole => Zero::None,
            [0] => Zero::None,
            [zero] => Zero::One(zero.to_string()),
            _ => Zero::Each(self.constants.array("int16_t", 2, self.name("zero", step), zeros)),
        };
        Terms { kind: "int32_t", bias, weight, zero, cast: "" }
    }

    /// The text of a number times a factor.
    fn rescaled(&mut self, value: &str, factor: Multiplier) -> String {
        self.need(Helper::Rescale);
        let Multiplier { value: multiplier, shift } = factor;
        if shift <= 0 {
            return format!("rescale({value}, {multiplier}, {})", -shift);
        }
        self.need(Helper::Enlarge);
        format!("rescale(enlarge({value}, {shift}), {multiplier}, 0)")
    }

    /// The same with a factor for each channel.
    fn rescaled_each(
        &mut self,
        at: usize,
        of: &str,
        value: &str,
        factors: &[Multiplier],
        c: &str,
        net: &Quantized,
    ) -> String {
        if factors.iter().all(|factor| *factor == factors[0]) {
            return self.rescaled(value, factors[0]);
        }
        self.need(Helper::Rescale);
        let step = &net.program.steps[at];
        let name = |part: &str| format!("{of}{part}_{}", step.name);
        let multipliers = factors.iter().map(|factor| factor.value);
        let multiplier = self.constants.array("int32_t", 4, name("multiplier"), multipliers);
        let right =
            self.shifts(name("shift"), factors.iter().map(|factor| -factor.shift.min(0)).collect(), c);
        if factors.iter().all(|factor| factor.shift <= 0) {
            return format!("rescale({value}, {multiplier}[{c}], {right})");
        }
        self.need(Helper::Enlarge);
        let left = self.shifts(name("left"), factors.iter().map(|factor| factor.shift.max(0)).collect(), c);
        format!("rescale(enlarge({value}, {left}), {multiplier}[{c}], {right})")
    }

    fn shifts(&mut self, name: String, shifts: Vec<i8>, c: &str) -> String {
        if shifts.iter().all(|shift| *shift == shifts[0]) {
            return shifts[0].to_string();
        }
        format!("{}[{c}]", self.constants.array("int8_t", 1, name, shifts))
    }

    /// Writes a rescaled number of channel `c` to its place: limited, with the zero added.
    fn limited(&mut self, net: &Quantized, at: usize, value: &str, c: &str, place: &str) {
        self.need(Helper::Limit);
        let (step, numbers) = (&net.program.steps[at], &net.steps[at]);
        let mut end = |end: usize, name: &str| {
            let limits: Vec<i32> = numbers.limits.iter().map(|limits| limits[end] - numbers.zero).collect();
            if limits.iter().all(|limit| *limit == limits[0]) {
                return limits[0].to_string();
            }
            format!("{}[{c}]", self.constants.array("int16_t", 2, self.name(name, step), limits))
        };
        let (low, high) = (end(0, "low"), end(1, "high"));
        let kind = if at + 1 == net.steps.len() { "int16_t" } else { "int8_t" };
        let limited = format!("limit({value}, {low}, {high})");
        let moved = match numbers.zero {
            0 => limited,
            zero if zero < 0 => format!("({limited} - {})", -zero),
            zero => format!("({limited} + {zero})"),
        };
        self.functions.line(format_args!("{place} = ({kind}){moved};"));
    }

    pub(super) fn whole_finish(&mut self, net: &Quantized, at: usize, value: &str, c: &str, place: &str) {
        let Compute::Conv { multipliers, .. } = &net.steps[at].compute else { unreachable!("it is one") };
        let scaled = self.rescaled_each(at, "", value, multipliers, c, net);
        self.limited(net, at, &scaled, c, place);
    }

    pub(super) fn whole_pointwise(
        &mut self,
        net: &Quantized,
        at: usize,
        values: &[String],
        c: &str,
        place: &str,
    ) {
        let step = &net.program.steps[at];
        match &net.steps[at].compute {
            Compute::Table(table) => {
                let table = self.constants.array("int8_t", 1, self.name("table", step), table);
                self.functions.line(format_args!("{place} = {table}[{} + 128];", values[0]));
            }
            Compute::Prelu { zero, positive, negative } => {
                self.functions.line(format_args!("const int32_t value = {};", less(&values[0], *zero)));
                let positive = self.rescaled("value", *positive);
                let negative = self.rescaled_each(at, "negative_", "value", negative, c, net);
                self.functions
                    .line(format_args!("const int32_t scaled = value >= 0 ? {positive} : {negative};"));
                self.limited(net, at, "scaled", c, place);
            }
            Compute::Add { inputs, shift, multiplier } => {
                for (position, (value, (zero, factor))) in values.iter().zip(inputs).enumerate() {
                    let begin = if position == 0 { "int32_t sum =" } else { "sum +=" };
                    let value = format!("(int32_t)({}) * {}", less(value, *zero), 1i32 << shift);
                    let term = self.rescaled(&value, *factor);
                    self.functions.line(format_args!("{begin} {term};"));
                }
                let scaled = self.rescaled("sum", *multiplier);
                self.limited(net, at, &scaled, c, place);
            }
            Compute::Multiply { zeros, multiplier } => {
                let value =
                    format!("(int32_t)({}) * ({})", less(&values[0], zeros[0]), less(&values[1], zeros[1]));
                let scaled = self.rescaled(&value, *multiplier);
                self.limited(net, at, &scaled, c, place);
            }
            _ => unreachable!("it has loops of its own"),
        }
    }

    pub(super) fn whole_average_term(&mut self, net: &Quantized, at: usize, value: &str) {
        let Compute::AvgPool { zero, .. } = &net.steps[at].compute else { unreachable!("it is one") };
        self.functions.line(format_args!("sum += {};", less(value, *zero)));
    }

    pub(super) fn whole_average_end(&mut self, net: &Quantized, at: usize, c: &str, place: &str) {
        let Compute::AvgPool { multiplier, .. } = &net.steps[at].compute else { unreachable!("it is one") };
        let scaled = self.rescaled("sum", *multiplier);
        self.limited(net, at, &scaled, c, place);
    }

    pub(super) fn whole_copy(
        &mut self,
        net: &Quantized,
        at: usize,
        position: usize,
        value: &str,
        c: &str,
        place: &str,
    ) {
        let Compute::Concat(inputs) = &net.steps[at].compute else { unreachable!("it is one") };
        let (zero, factor) = inputs[position];
        let scaled = self.rescaled(&less(value, zero), factor);
        self.limited(net, at, &scaled, c, place);
    }

    pub(super) fn whole_group_norm(
        &mut self,
        net: &Quantized,
        at: usize,
        groups: usize,
        input: &Place,
        output: &Place,
    ) {
        let Compute::GroupNorm { eps, multipliers, bias, .. } = &net.steps[at].compute else {
            unreachable!("it is one")
        };
        let step = &net.program.steps[at];
        let (shape, channels) = (step.output, step.output.channels / groups);
        let count = shape.len() / groups;
        self.need(Helper::Root);
        self.need(Helper::Limit);
        let g = self.functions.each("g", groups);
        let outer = self.functions.depth();
        self.functions.line("int64_t sum = 0, squares = 0;");
        let [c, y, x] = self.all_values(channels, shape);
        let channel = sum(&product(&g, channels), &c);
        self.functions.line(format_args!("const int32_t q = {};", input.at(&channel, &y, &x)));
        self.functions.line("sum += q;");
        self.functions.line("squares += q * q;");
        self.functions.end_to(outer);
        self.functions.line(format_args!(
            "int64_t deviation = root((uint64_t)({count} * squares - sum * sum + {eps}));"
        ));
        self.functions.line("if (deviation == 0)");
        self.functions.line("    deviation = 1;");
        let [c, y, x] = self.all_values(channels, shape);
        let channel = sum(&product(&g, channels), &c);
        let value = input.at(&channel, &y, &x);
        self.functions.line(format_args!(
            "const int64_t scaled = ((int64_t){count} * {value} - sum) * {};",
            1u32 << NORM_BITS
        ));
        self.functions.line("const int64_t half = scaled < 0 ? -(deviation / 2) : deviation / 2;");
        self.functions.line("const int32_t normalised = (int32_t)((scaled + half) / deviation);");
        let scaled = self.rescaled_each(at, "", "normalised", multipliers, &channel, net);
        let bias = self.constants.array("int32_t", 4, self.name("bias", step), bias);
        // Neither can reach the limits of 32 bits.
        let value = format!("limit({scaled}, -1000000000, 1000000000) + {bias}[{channel}]");
        self.limited(net, at, &value, &channel, &output.at(&channel, &y, &x));
    }
}

/// A value less its zero.
fn less(value: &str, zero: i32) -> String {
    match zero {
        0 => value.into(),
        _ if zero < 0 => format!("{value} + {}", -zero),
        _ => format!("{value} - {zero}"),
    }
}

#[cfg(all(test, not(windows)))]
mod tests {
    use std::fmt::Write as _;
    use std::process::Command;

    use super::*;

    /// Halves, for one, are too seldom in networks.
    #[test]
    fn the_text_of_the_arithmetic_computes_what_int8_does() {
        let values =
            [0, 1, -1, 2, -2, 3, -3, 5, -5, 6, -6, 77, -77, 1 << 30, -(1 << 30), i32::MAX, -i32::MAX];
        let factors = [1 << 30, -(1 << 30), 3 << 29, i32::MAX, 1_518_500_250];
        let (mut calls, mut wanted) = (String::new(), String::new());
        for (value, shift) in
            factors.iter().flat_map(|&value| [-31, -3, -2, -1, 0, 1, 4, 30].map(|shift| (value, shift)))
        {
            for x in values {
                let (left, right) = (shift.max(0), (-shift).max(0));
                let from = if left > 0 { format!("enlarge({x}, {left})") } else { x.to_string() };
                writeln!(calls, "    printf(\"%ld\\n\", (long)rescale({from}, {value}, {right}));").unwrap();
                writeln!(wanted, "{}", Multiplier { value, shift: shift as i8 }.times(x)).unwrap();
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let [source, program] = ["a.c", "a"].map(|name| folder.path().join(name));
        let text = format!(
            "#include <stdint.h>\n#include <stdio.h>\n{LIMIT}\n{ENLARGE}\n{RESCALE}\nint main(void)\n{{\n{calls}    return 0;\n}}\n"
        );
        std::fs::write(&source, text).unwrap();
        assert!(Command::new("cc").arg("-o").args([&program, &source]).status().unwrap().success());
        let made = Command::new(&program).output().unwrap().stdout;
        assert_eq!(String::from_utf8(made).unwrap(), wanted);
    }
}
