//! Keys that take one number for all sides of a window, or a list with one number per side.

use std::fmt;

use serde::de::{self, Deserializer, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::window::Axis;

/// `3`, or `[height, width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sides(pub(super) [usize; 2]);

impl Sides {
    /// True if it is 1 in both directions.
    pub(super) fn is_one(&self) -> bool {
        self.0 == [1, 1]
    }
}

impl Default for Sides {
    fn default() -> Self {
        Self([1, 1])
    }
}

/// `1`, `[top, bottom, left, right]`, or `"same"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Padding {
    /// Zeros on each side.
    Each([usize; 4]),
    /// As many as make the output as large as the input divided by the stride, rounded up. If odd, the extra one goes
    /// below and to the right: TensorFlow's `SAME`, <https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2>.
    Same,
}

impl Default for Padding {
    fn default() -> Self {
        Self::Each([0; 4])
    }
}

impl Padding {
    /// The window, padded along axis `at`.
    pub(super) fn around(self, at: usize, axis: Axis) -> Axis {
        let padding = match self {
            Self::Each(sides) => [sides[2 * at], sides[2 * at + 1]],
            Self::Same => {
                let last = (axis.input.div_ceil(axis.stride) - 1) * axis.stride;
                let total = (last + axis.reach()).saturating_sub(axis.input);
                [total / 2, total - total / 2]
            }
        };
        Axis { padding, ..axis }
    }
}

/// Reads a number or a list of `N`; `None` means `word`, where there is one.
struct OneOrEach<const N: usize> {
    wanted: &'static str,
    word: Option<&'static str>,
}

impl<'de, const N: usize> Visitor<'de> for OneOrEach<N> {
    type Value = Option<[usize; N]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.wanted)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        let fits = usize::try_from(number).map(|number| Some([number; N]));
        fits.map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        if self.word == Some(text) { Ok(None) } else { Err(E::invalid_value(Unexpected::Str(text), &self)) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut sides = [0; N];
        for (index, side) in sides.iter_mut().enumerate() {
            let item = items.next_element()?;
            *side = item.ok_or_else(|| de::Error::invalid_length(index, &self))?;
        }
        Ok(Some(sides))
    }
}

impl<'de> Deserialize<'de> for Sides {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let visitor = OneOrEach { wanted: "a whole number of at least 1, or [height, width]", word: None };
        Ok(from.deserialize_any(visitor)?.map_or_else(Self::default, Self))
    }
}

impl<'de> Deserialize<'de> for Padding {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let wanted = "a whole number of at least 0, [top, bottom, left, right] or \"same\"";
        let visitor = OneOrEach { wanted, word: Some("same") };
        Ok(from.deserialize_any(visitor)?.map_or(Self::Same, Self::Each))
    }
}

/// The number, if all sides have the same.
fn one(sides: &[usize]) -> Option<usize> {
    sides.iter().all(|side| *side == sides[0]).then_some(sides[0])
}

fn serialize<S: Serializer>(sides: &[usize], to: S) -> Result<S::Ok, S::Error> {
    match one(sides) {
        Some(side) => side.serialize(to),
        None => sides.serialize(to),
    }
}

fn display(sides: &[usize], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match one(sides) {
        Some(side) => write!(f, "{side}"),
        None => write!(f, "{sides:?}"),
    }
}

impl Serialize for Sides {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        serialize(&self.0, to)
    }
}

impl Serialize for Padding {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Each(sides) => serialize(sides, to),
            Self::Same => to.serialize_str("same"),
        }
    }
}

impl fmt::Display for Sides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display(&self.0, f)
    }
}

impl fmt::Display for Padding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Each(sides) => display(sides, f),
            Self::Same => f.write_str("\"same\""),
        }
    }
}
