//! Pieces of C: indented lines, arrays of constants, index expressions.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

/// Lines of code. Each `{` at the end of a line indents those that follow, each `}` at the beginning of one ends that.
#[derive(Debug, Default)]
pub(super) struct Code {
    pub(super) text: String,
    depth: usize,
}

impl Code {
    pub(super) fn line(&mut self, line: impl Display) {
        let line = line.to_string();
        if line.starts_with('}') {
            self.depth -= 1;
        }
        match line.is_empty() {
            true => self.text.push('\n'),
            false => writeln!(self.text, "{:1$}{line}", "", 4 * self.depth).expect("a String takes all"),
        }
        if line.ends_with('{') {
            self.depth += 1;
        }
    }

    /// Begins a loop, if there is more than one round; then `variable` must not be named.
    pub(super) fn each(&mut self, variable: &str, count: usize) -> String {
        if count == 1 {
            return "0".into();
        }
        self.line(format_args!("for (int32_t {variable} = 0; {variable} < {count}; {variable}++) {{"));
        variable.into()
    }

    /// Ends all blocks but the outer `depth`.
    pub(super) fn end_to(&mut self, depth: usize) {
        while self.depth > depth {
            self.line("}");
        }
    }

    pub(super) fn depth(&self) -> usize {
        self.depth
    }
}

/// Arrays of constants. Those with the same contents exist once.
#[derive(Debug, Default)]
pub(super) struct Constants {
    pub(super) text: String,
    /// Size of all of them.
    pub(super) bytes: usize,
    names: BTreeMap<String, String>,
}

impl Constants {
    /// The name of an array with these values, of `bytes` each.
    pub(super) fn array<T: Display>(
        &mut self,
        kind: &str,
        bytes: usize,
        name: String,
        values: impl IntoIterator<Item = T>,
    ) -> String {
        let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
        let contents = format!("{kind} {}", values.join(","));
        if let Some(known) = self.names.get(&contents) {
            return known.clone();
        }
        self.bytes += bytes * values.len();
        writeln!(self.text, "static const {kind} {name}[{}] = {{", values.len()).expect("a String takes all");
        let mut line = String::new();
        for value in &values {
            if line.len() + value.len() + 2 > 116 {
                writeln!(self.text, "   {line}").expect("a String takes all");
                line.clear();
            }
            write!(line, " {value},").expect("a String takes all");
        }
        writeln!(self.text, "   {line}\n}};").expect("a String takes all");
        self.names.insert(contents, name.clone());
        name
    }
}

/// a + b
pub(super) fn sum(a: &str, b: &str) -> String {
    match (a, b) {
        ("0", other) | (other, "0") => other.into(),
        _ => format!("{a} + {b}"),
    }
}

/// a · factor
pub(super) fn product(a: &str, factor: usize) -> String {
    match factor {
        _ if a == "0" => a.into(),
        1 => a.into(),
        _ if a.contains(' ') => format!("({a}) * {factor}"),
        _ => format!("{a} * {factor}"),
    }
}

/// A number as `float` reads it.
pub(super) fn float(value: f32) -> String {
    format!("{value:?}f")
}

/// A C string. What is not plain ASCII becomes octal, and `?` is escaped, since two of them can begin a trigraph.
pub(super) fn string(text: &str) -> String {
    let escaped = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'?' => format!("\\{}", char::from(byte)),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\{byte:03o}"),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_c_strings() {
        assert_eq!(string("a\"b\\c"), r#""a\"b\\c""#);
        assert_eq!(string("what??="), r#""what\?\?=""#);
        assert_eq!(string("é1\n"), r#""\303\2511\012""#);
    }

    #[test]
    fn the_same_numbers_are_written_once() {
        let mut constants = Constants::default();
        assert_eq!(constants.array("int8_t", 1, "a".into(), [1, 2]), "a");
        assert_eq!(constants.array("int8_t", 1, "b".into(), [1, 2]), "a");
        assert_eq!(constants.array("int32_t", 4, "c".into(), [1, 2]), "c");
        assert_eq!(constants.bytes, 10);
    }
}
