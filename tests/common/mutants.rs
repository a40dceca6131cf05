//! One-line mutants of a shader: what a careless edit or a faulty driver might make of it.

use std::collections::BTreeMap;
use std::fmt;

use naga::valid::{Capabilities, ValidationFlags, Validator};

/// A shader with one line changed.
#[derive(Debug, Clone)]
pub(crate) struct Mutant {
    pub(crate) shader: &'static str,
    pub(crate) source: &'static str,
    /// The function that contains the line.
    pub(crate) function: String,
    rule: &'static str,
    number: usize,
    line: String,
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.wgsl:{} ({}): {}", self.shader, self.number, self.rule, self.line.trim())
    }
}

/// Replacements; every match in a line is a separate mutant.
const RULES: &[(&str, &str, &str)] = &[
    ("dropped barrier", "workgroupBarrier();", ""),
    ("off by one", " + 1u", ""),
    ("off by one", " - 1u", ""),
    ("off by one", " < ", " <= "),
    ("off by one", " >= ", " > "),
    ("off by one", " = 0u; ", " = 1u; "),
    ("sign", " - ", " + "),
    ("sign", " += ", " -= "),
    ("sign", " = -", " = "),
    ("sign", "1.0 - ", "1.0 + "),
    ("missing scale", " * SHARE", ""),
    ("missing scale", " * scale", ""),
    ("missing scale", " * bitcast<f32>(state[PIXEL_SCALE + channel])", ""),
    ("another channel", "PIXEL_SCALE + channel", "PIXEL_SCALE"),
    ("another channel", "PIXEL_OFFSET + channel", "PIXEL_OFFSET"),
    ("missing scale", " * mask", ""),
    ("missing scale", " * share", ""),
    ("missing scale", " * inv_std[c]", ""),
    ("missing scale", " * weight[c]", ""),
    ("missing scale", "weight[c] * ", ""),
    ("missing scale", " * shrink", ""),
    ("missing scale", " / count", ""),
    ("missing scale", "NEGATIVE_SLOPE * ", ""),
    ("missing scale", "MOMENTUM * ", ""),
    ("missing scale", " * grad", ""),
    ("missing scale", " * param", ""),
    ("missing scale", "step_size * ", ""),
    ("missing scale", "rate_and_decay.x * ", ""),
    ("another replica", "setting(replica, ", "setting(0u, "),
    ("another replica", "owners[index] / 2u", "0u"),
    ("missing scale", "BETA1 * ", ""),
    ("missing scale", "BETA2 * ", ""),
    ("missing scale", "(1.0 - decay) * ", ""),
    ("missing scale", "(1.0 - MOMENTUM) * ", ""),
    ("missing scale", " * upstream", ""),
    ("missing scale", " * tap", ""),
    ("swapped stride", "IN_WIDTH", "IN_HEIGHT"),
    ("swapped stride", "OUT_WIDTH", "OUT_HEIGHT"),
    ("swapped stride", "IN_HEIGHT", "IN_WIDTH"),
    ("swapped stride", "* WIDTH", "* HEIGHT"),
    ("swapped stride", "/ WIDTH", "/ HEIGHT"),
    ("swapped stride", "* CHANNELS", "* QUADS"),
    ("swapped stride", " % STRIDE", " % KERNEL_WIDTH"),
    ("swapped stride", "* KERNEL", "* STRIDE"),
    ("swapped stride", "* KERNEL_HEIGHT", "* STRIDE"),
    ("swapped stride", "* KERNEL_WIDTH", "* STRIDE"),
    ("swapped stride", "* STRIDE", "* KERNEL"),
    ("swapped stride", "* STRIDE", "* KERNEL_WIDTH"),
    ("swapped stride", "* CLASSES", "* QUADS"),
    ("swapped stride", "IMAGE_ELEMENTS", "ELEMENTS"),
    ("missing term", " + EPS", ""),
    ("missing term", " + IN_EPS", ""),
    ("missing scale", " * norm.y", ""),
    ("missing scale", " * norm.x", ""),
    ("missing scale", " * tap.x", ""),
    ("missing scale", "IN_SLOPE * ", ""),
    ("missing scale", "OUT_SLOPE * ", ""),
    ("swapped stride", "* RAW_WIDTH", "* RAW_HEIGHT"),
    ("swapped stride", "* POOL", "* KERNEL"),
    ("swapped stride", "* OUT_CHANNELS", "* IN_CHANNELS"),
    ("swapped stride", "* PIXELS", "* CHANNELS"),
    ("swapped stride", "* CHANNELS + ", "* CLASSES + "),
    ("another value", "state[THIS_STEP]", "state[0]"),
    ("another value", "min(", "max("),
    ("another value", "floor(", "ceil("),
    ("another value", " > ", " >= "),
    ("another value", ".x", ".y"),
];

/// Every mutant that is valid WGSL. Changes that might never terminate are left out: the walk of the shuffle, and the
/// end of loops that count down.
pub(crate) fn of(shader: &'static str, source: &'static str) -> Vec<Mutant> {
    let mut found = Vec::new();
    let (mut function, mut start) = (String::new(), 0);
    for (number, line) in source.lines().enumerate() {
        let end = start + line.len();
        if let Some(rest) = line.strip_prefix("fn ") {
            function = rest.split('(').next().unwrap().to_owned();
        }
        let code = line.split("//").next().unwrap();
        if line.starts_with("    ") && !function.is_empty() && function != "shuffled" {
            for &(rule, from, to) in RULES {
                if from == " > " && code.contains("for (") {
                    continue;
                }
                for (at, _) in code.match_indices(from) {
                    let at = start + at;
                    let text = [&source[..at], to, &source[at + from.len()..]].concat();
                    if is_valid(&text) {
                        let line = text.lines().nth(number).unwrap().to_owned();
                        let function = function.clone();
                        found.push(Mutant {
                            shader,
                            source: text.leak(),
                            function,
                            rule,
                            number: number + 1,
                            line,
                        });
                    }
                }
            }
        }
        start = end + 1;
    }
    found
}

/// At most `count` of them, taking the rules in turn and spread over the file.
pub(crate) fn some(mutants: Vec<Mutant>, count: usize) -> Vec<Mutant> {
    let mut by_rule: BTreeMap<&str, Vec<Mutant>> = BTreeMap::new();
    for mutant in mutants {
        by_rule.entry(mutant.rule).or_default().push(mutant);
    }
    let mut picked = Vec::new();
    let mut round = 0;
    while picked.len() < count && by_rule.values().any(|left| !left.is_empty()) {
        for left in by_rule.values_mut().filter(|left| !left.is_empty()) {
            // Alternates between the front and the middle.
            let at = if round % 2 == 0 { 0 } else { left.len() / 2 };
            picked.push(left.remove(at));
        }
        round += 1;
    }
    picked.truncate(count);
    picked
}

fn is_valid(source: &str) -> bool {
    naga::front::wgsl::parse_str(source).is_ok_and(|module| {
        Validator::new(ValidationFlags::all(), Capabilities::empty()).validate(&module).is_ok()
    })
}
