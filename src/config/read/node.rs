//! Plain values as serde reads them, recording the path to each for error messages.

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Expected, IntoDeserializer, Unexpected, Visitor};
use toml::{Table, Value};

use super::{FROM_ONE, Problem, Step, advice, shown, words};

/// A value as serde reads it.
pub(super) struct Node(pub(super) Value);

impl<'de> de::Deserializer<'de> for Node {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.0 {
            Value::String(text) => visitor.visit_string(text),
            Value::Integer(number) => visitor.visit_i64(number),
            Value::Float(number) => visitor.visit_f64(number),
            Value::Boolean(value) => visitor.visit_bool(value),
            Value::Datetime(_) => Err(de::Error::invalid_type(Unexpected::Other("date"), &visitor)),
            Value::Array(items) => {
                let (len, wanted) = (items.len(), words(&(&visitor as &dyn Expected).to_string()));
                // Serde would take the items as the values of the keys.
                if wanted.starts_with("a table") {
                    return Err(Problem::must_be(&wanted, "a list"));
                }
                let mut items = Items(items.into_iter().enumerate());
                let made = visitor.visit_seq(&mut items)?;
                match items.0.len() {
                    0 => Ok(made),
                    _ => Err(Problem::must_be(&wanted, &format!("a list of {len}"))),
                }
            }
            Value::Table(table) => visitor.visit_map(Entries { rest: table.into_iter(), next: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match &self.0 {
            Value::String(name) => {
                let name: StrDeserializer<'_, Problem> = name.as_str().into_deserializer();
                visitor.visit_enum(name)
            }
            other => {
                let names: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
                Err(Problem::must_be(&names.join(" or "), &shown(unexpected(other))))
            }
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::String(text) => Unexpected::Str(text),
        Value::Integer(number) => Unexpected::Signed(*number),
        Value::Float(number) => Unexpected::Float(*number),
        Value::Boolean(value) => Unexpected::Bool(*value),
        Value::Datetime(_) => Unexpected::Other("date"),
        Value::Array(_) => Unexpected::Seq,
        Value::Table(_) => Unexpected::Map,
    }
}

struct Items(std::iter::Enumerate<std::vec::IntoIter<Value>>);

impl<'de> de::SeqAccess<'de> for &mut Items {
    type Error = Problem;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Problem> {
        let Some((index, item)) = self.0.next() else { return Ok(None) };
        seed.deserialize(Node(item)).map(Some).map_err(|problem| problem.below(Step::Item(index)))
    }
}

struct Entries {
    rest: <Table as IntoIterator>::IntoIter,
    next: Option<(String, Value)>,
}

impl<'de> de::MapAccess<'de> for Entries {
    type Error = Problem;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Problem> {
        self.next = self.rest.next();
        let Some((key, _)) = &self.next else { return Ok(None) };
        let name: StrDeserializer<'_, Problem> = key.as_str().into_deserializer();
        seed.deserialize(name).map(Some).map_err(|problem| Problem { key: Some(key.clone()), ..problem })
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Problem> {
        let (key, value) = self.next.take().expect("a key comes before its value");
        let hint = advice(&key, &value);
        seed.deserialize(Node(value)).map_err(|mut problem| {
            if FROM_ONE.contains(&&*key) {
                problem.message = problem.message.replacen("of at least 0", "of at least 1", 1);
            }
            if let Some(hint) = hint.filter(|_| problem.at.is_empty()) {
                problem.message += &format!(": {hint}");
            }
            problem.below(Step::Key(key))
        })
    }
}
