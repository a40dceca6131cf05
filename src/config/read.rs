//! From TOML to a configuration. Errors use TOML's terms, with key and line: whatever types serde reads into, none of
//! its own wording reaches a user, since all its errors are made here ([`Problem`]).

use std::fmt;
use std::num::IntErrorKind;

use serde::de::{self, DeserializeOwned, Expected, Unexpected};
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};
use toml_parser::lexer::TokenKind;

use crate::error::{Error, Result};

mod node;

use node::Node;

/// A syntactically valid TOML text.
pub(crate) struct Document<'t> {
    path: &'t str,
    root: Spanned<DeTable<'t>>,
    /// Offset of each line's end.
    line_ends: Vec<usize>,
}

impl<'t> Document<'t> {
    /// Parses the syntax; `path` is for messages.
    pub(crate) fn parse(text: &'t str, path: &'t str) -> Result<Self> {
        if text.len() > MAX_TEXT {
            let message = format!("this text is too large: a description has at most {MAX_TEXT} bytes");
            return Err(Error::Config { path: path.to_owned(), line: None, message });
        }
        let line_ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
        if let Err((offset, message)) = check_depth(text) {
            let line = Some(line_of(&line_ends, offset));
            return Err(Error::Config { path: path.to_owned(), line, message });
        }
        let root = DeTable::parse(text).map_err(|error| Error::Config {
            path: path.to_owned(),
            line: error.span().map(|span| line_of(&line_ends, span.start)),
            message: error
                .span()
                .and_then(|span| unquoted(text, span.start))
                .unwrap_or_else(|| error.message().to_owned()),
        })?;
        Ok(Self { path, root, line_ends })
    }

    /// The document as a value of type `T`.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T> {
        let table = table(self.root.get_ref()).and_then(from_table);
        table.map_err(|problem| self.blamed::<T>(problem)).map_err(|problem| {
            let key = problem.key.clone().map(Step::Key);
            self.fail(&problem.at.iter().cloned().chain(key).collect::<Vec<_>>(), problem.to_string())
        })
    }

    /// The problem with the key that causes it. To find a table's tag, serde buffers the whole table and loses the
    /// path to a value: the key is the one without which the problem changes.
    fn blamed<T: DeserializeOwned>(&self, mut problem: Problem) -> Problem {
        const MOST_KEYS: usize = 20;
        let text = problem.to_string();
        let Ok(root) = table(self.root.get_ref()) else { return problem };
        let Some(tagged) = table_at(&mut root.clone(), &problem.at).map(|table| table.clone()) else {
            return problem;
        };
        if !problem.message.starts_with("must be ") || !TAGS.iter().any(|tag| tagged.contains_key(*tag)) {
            return problem;
        }
        let mut values = tagged.iter().filter(|(key, _)| !TAGS.contains(&key.as_str())).take(MOST_KEYS);
        let blamed = values.find(|(key, _)| {
            let mut rest = root.clone();
            table_at(&mut rest, &problem.at).and_then(|table| table.remove(*key));
            from_table::<T>(rest).err().is_none_or(|other| other.to_string() != text)
        });
        if let Some((key, value)) = blamed {
            problem.message.extend(advice(key, value).map(|hint| format!(": {hint}")));
            problem.at.push(Step::Key(key.clone()));
        }
        problem
    }

    /// An error about the value at `at`.
    pub(crate) fn fail(&self, at: &[Step], message: String) -> Error {
        Error::Config { path: self.path.to_owned(), line: Some(self.line(at)), message }
    }

    /// Line of the value at `at`, or of the innermost value around it, counted from 1.
    pub(crate) fn line(&self, at: &[Step]) -> usize {
        let mut found: Option<&Spanned<DeValue<'_>>> = None;
        for step in at {
            let next = match (step, found.map(Spanned::get_ref)) {
                (Step::Key(key), None) => self.root.get_ref().get(key.as_str()),
                (Step::Key(key), Some(DeValue::Table(table))) => table.get(key.as_str()),
                (Step::Item(index), Some(DeValue::Array(items))) => items.get(*index),
                _ => None,
            };
            if next.is_none() {
                break;
            }
            found = next;
        }
        found.map_or(1, |value| line_of(&self.line_ends, value.span().start))
    }
}

/// Keys whose value determines the other keys of a table.
const TAGS: [&str; 2] = ["type", "schedule"];

fn table_at<'t>(table: &'t mut Table, at: &[Step]) -> Option<&'t mut Table> {
    let [Step::Key(key), rest @ ..] = at else { return at.is_empty().then_some(table) };
    let mut found = table.get_mut(key)?;
    for step in rest {
        found = match step {
            Step::Key(key) => found.get_mut(key)?,
            Step::Item(index) => found.get_mut(*index)?,
        };
    }
    found.as_table_mut()
}

/// What to write instead of the word at `offset`, if it is used as a value.
fn unquoted(text: &str, offset: usize) -> Option<String> {
    let mut before = TokenKind::Newline;
    for token in toml_parser::Source::new(text).lex() {
        let word = text.get(token.span().start()..token.span().end())?;
        if token.span().end() > offset || token.span().end() == offset && token.kind() == TokenKind::Atom {
            let is_value =
                matches!(before, TokenKind::Equals | TokenKind::Comma | TokenKind::LeftSquareBracket);
            let is_word =
                token.kind() == TokenKind::Atom && word.starts_with(|c: char| c.is_alphabetic() || c == '_');
            let lower = word.to_lowercase();
            return (is_value && is_word).then(|| match &*lower {
                "true" | "false" => format!("write {lower}, in lower case"),
                _ => format!("{0} is not a value; text needs quotes: \"{0}\"", shortened(word)),
            });
        } else if token.kind() != TokenKind::Whitespace {
            before = token.kind();
        }
    }
    None
}

fn line_of(line_ends: &[usize], offset: usize) -> usize {
    line_ends.partition_point(|&end| end < offset) + 1
}

/// Largest text that is read: parsing takes some fifty times as much memory. What a program writes with all defaults
/// spelled out is longer than what a user writes.
pub(crate) const MAX_TEXT: usize = 8 << 20;
/// No description needs deeper nesting of lists and tables.
const MAX_DEPTH: usize = 64;

/// Fails where brackets don't match or are nested too deeply, and at keys with too many parts: the parser handles
/// them recursively, and its own limit doesn't apply once it recovers from errors.
fn check_depth(text: &str) -> Result<(), (usize, String)> {
    let mut open = Vec::new();
    let mut dots = 0;
    for token in toml_parser::Source::new(text).lex() {
        dots = match token.kind() {
            TokenKind::Dot => dots + 1,
            TokenKind::Equals | TokenKind::Comma | TokenKind::Newline => 0,
            _ => dots,
        };
        if dots > MAX_DEPTH {
            let message = format!("keys are nested more than {MAX_DEPTH} deep");
            return Err((token.span().start(), message));
        }
        let fits = match token.kind() {
            kind @ (TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket) => {
                open.push(kind);
                open.len() <= MAX_DEPTH
            }
            TokenKind::RightSquareBracket => open.pop() == Some(TokenKind::LeftSquareBracket),
            TokenKind::RightCurlyBracket => open.pop() == Some(TokenKind::LeftCurlyBracket),
            _ => true,
        };
        if !fits {
            let message = match open.len() {
                depth if depth > MAX_DEPTH => format!("brackets are nested more than {MAX_DEPTH} deep"),
                _ => "this bracket has no opening bracket".into(),
            };
            return Err((token.span().start(), message));
        }
    }
    Ok(())
}

/// Reads a table as a value of type `T`.
pub(crate) fn from_table<T: DeserializeOwned>(table: Table) -> Result<T, Problem> {
    T::deserialize(Node(Value::Table(table)))
}

/// A step in the path to a value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Key(String),
    Item(usize),
}

/// An invalid value.
#[derive(Debug)]
pub(crate) struct Problem {
    /// From the root to the value.
    at: Vec<Step>,
    /// Continues the name of the value: "must be ..." or ": ...".
    message: String,
    /// The key within the value to which it refers, to find its line.
    key: Option<String>,
}

impl Problem {
    fn below(mut self, step: Step) -> Self {
        self.at.insert(0, step);
        self
    }

    fn must_be(wanted: &str, found: &str) -> Self {
        Self { at: Vec::new(), message: format!("must be {wanted}, not {found}"), key: None }
    }

    fn note(message: String) -> Self {
        Self { at: Vec::new(), message: format!(": {message}"), key: None }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.at.iter().enumerate() {
            match step {
                Step::Key(key) if index == 0 => write!(f, "{}", shortened(key))?,
                Step::Key(key) => write!(f, ".{}", shortened(key))?,
                Step::Item(item) => write!(f, "[{item}]")?,
            }
        }
        match (self.at.is_empty(), self.message.strip_prefix(": ")) {
            (true, Some(note)) => f.write_str(note),
            (true, None) => write!(f, "this {}", self.message),
            (false, Some(_)) => f.write_str(&self.message),
            (false, None) => write!(f, " {}", self.message),
        }
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::note(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::must_be(&words(&wanted.to_string()), &shown(found))
    }

    fn invalid_value(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::invalid_type(found, wanted)
    }

    fn invalid_length(len: usize, wanted: &dyn Expected) -> Self {
        Self::must_be(&words(&wanted.to_string()), &format!("a list of {len}"))
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        Self::note(unknown("name", &format!("{:?}", shortened(found)), found, known))
    }

    fn unknown_field(found: &str, known: &'static [&'static str]) -> Self {
        Self::note(unknown("key", &format!("`{}`", shortened(found)), found, known))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::note(format!("`{field}` is missing"))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::note(format!("`{field}` appears twice"))
    }
}

/// Maximum number of names listed in a message.
const MOST_LISTED: usize = 40;

/// The alternatives to something unknown.
pub(crate) fn unknown(what: &str, shown: &str, found: &str, known: &[&str]) -> String {
    if known.is_empty() {
        return format!("there is no {what} {shown}; none is allowed here");
    }
    let guess = nearest(found, known).map_or(String::new(), |name| format!(" (did you mean {name}?)"));
    // If there are many, the last: where layers are named, the intended one is usually close.
    let (others, listed) = known.split_at(known.len().saturating_sub(MOST_LISTED));
    let list = listed.join(", ");
    let there_are = match (known.len(), others.len()) {
        (1, _) => format!("there is only {list}"),
        (_, 0) => format!("there are {list}"),
        (_, others) => format!("there are {list} and {others} others"),
    };
    format!("there is no {what} {shown}{guess}; {there_are}")
}

/// The known name most similar to `found`, if any is similar.
pub(crate) fn nearest<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    let found = shortened(found).to_lowercase();
    let likeness = |name: &str| strsim::normalized_damerau_levenshtein(&found, name);
    let nearest = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(nearest) >= 0.5).then_some(nearest)
}

/// As much of a text as fits a message, with characters escaped that would disturb the terminal.
pub(crate) fn shortened(text: &str) -> String {
    const MOST: usize = 40;
    let mut short: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().nth(MOST).is_some() {
        short.push('…');
    }
    short
}

/// A value as written by the user, or its kind.
fn shown(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Signed(value) => value.to_string(),
        Unexpected::Unsigned(value) => value.to_string(),
        Unexpected::Float(value) => format!("{value:?}"),
        Unexpected::Str(text) => format!("\"{}\"", shortened(text)),
        Unexpected::Char(text) => format!("{text:?}"),
        Unexpected::Seq => "a list".into(),
        Unexpected::Map => "a table".into(),
        Unexpected::Other("date") => "a date".into(),
        _ => "this".into(),
    }
}

/// Keys of counts and sizes, for which 0 is as invalid as a negative number.
const FROM_ONE: [&str; 12] = [
    "input",
    "epochs",
    "batch_size",
    "every_epochs",
    "out_channels",
    "out_features",
    "kernel",
    "stride",
    "dilation",
    "groups",
    "num_parameters",
    "output",
];

/// What serde expects, in TOML terms.
fn words(wanted: &str) -> String {
    let whole = |from: &str, to: &str| format!("a whole number from {from} to {to}");
    match wanted {
        "u8" => whole("0", "255"),
        "u16" => whole("0", "65535"),
        "u32" => whole("0", "4294967295"),
        "usize" | "u64" | "u128" => "a whole number of at least 0".into(),
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a string" | "a character" | "path string" | "a borrowed string" => "text in quotes".into(),
        "a sequence" => "a list".into(),
        _ => match wanted.strip_prefix("an array of length ") {
            Some(count) => format!("a list of {count} values"),
            // For a key that takes more than one kind of value.
            None if wanted.starts_with("a whole number") || wanted.starts_with('"') => wanted.into(),
            None if wanted == "variant identifier" || wanted.starts_with("enum ") => {
                "a name in quotes".into()
            }
            None if wanted == "a map" || wanted.contains("enum ") || wanted.contains("struct ") => {
                "a table, { key = value, ... }".into()
            }
            None => "another kind of value".into(),
        },
    }
}

/// What to write instead of common mistakes.
fn advice(key: &str, value: &Value) -> Option<String> {
    let number = || value.is_integer() || value.is_float();
    if value.is_table() {
        return None;
    }
    Some(match (key, value) {
        ("optimizer", Value::String(name)) => {
            format!("write optimizer = {{ type = \"{}\" }}", shortened(&name.to_lowercase()))
        }
        ("learning_rate", _) if number() => {
            format!("write learning_rate = {{ schedule = \"constant\", rate = {value} }}")
        }
        ("learning_rate", _) => "write learning_rate = { schedule = \"one_cycle\", peak = 0.2 }".into(),
        ("augment", _) => "write augment = { rotate_degrees = 10, shift_pixels = 2 }".into(),
        ("padding", Value::String(name)) if name == "same" => {
            "only convolutions support it; write a number, such as padding = 1 for kernel = 3".into()
        }
        ("padding", Value::String(name)) if name.eq_ignore_ascii_case("same") => {
            "write \"same\", in lower case".into()
        }
        ("padding", Value::String(name)) if name.eq_ignore_ascii_case("valid") => "write padding = 0".into(),
        ("stride", Value::Array(_)) => "write one number, which applies to both directions".into(),
        (_, Value::String(text)) if text.parse::<f64>().is_ok() || ["true", "false"].contains(&&**text) => {
            "write it without quotes".into()
        }
        _ => return None,
    })
}

/// A syntax tree as plain values. Numbers stay in TOML's range, which the parser doesn't check.
fn table(table: &DeTable<'_>) -> Result<Table, Problem> {
    let entry = |(key, item): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let key: &std::borrow::Cow<'_, str> = key.get_ref();
        let value = value(item.get_ref()).map_err(|problem| problem.below(Step::Key(key.to_string())))?;
        Ok((key.to_string(), value))
    };
    table.iter().map(entry).collect()
}

fn value(found: &DeValue<'_>) -> Result<Value, Problem> {
    let number = |shown: &str| Problem::must_be("a smaller number", &shortened(shown));
    let none = || Problem::note("this is not a number: digits are missing".into());
    Ok(match found {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(date) => Value::Datetime(*date),
        DeValue::Integer(digits) => {
            let parsed = i64::from_str_radix(digits.as_str(), digits.radix());
            Value::Integer(parsed.map_err(|error| match error.kind() {
                IntErrorKind::Empty | IntErrorKind::InvalidDigit => none(),
                _ => number(digits.as_str()),
            })?)
        }
        DeValue::Float(digits) => {
            let parsed = digits.as_str().parse::<f64>().map_err(|_| none())?;
            // Only `inf` gives infinity.
            let fits = |value: &f64| value.is_finite() || digits.as_str().contains(['n', 'N']);
            Value::Float(Some(parsed).filter(fits).ok_or_else(|| number(digits.as_str()))?)
        }
        DeValue::Array(items) => {
            let item = |(index, item): (usize, &Spanned<DeValue<'_>>)| {
                value(item.get_ref()).map_err(|problem| problem.below(Step::Item(index)))
            };
            Value::Array(items.iter().enumerate().map(item).collect::<Result<_, _>>()?)
        }
        DeValue::Table(found) => Value::Table(table(found)?),
    })
}
