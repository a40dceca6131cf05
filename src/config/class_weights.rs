//! What each class counts in the loss.

use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What each class counts in the training loss: `class_weights = "balanced"` or `[1.0, 2.5]`.
#[derive(Debug, Clone, PartialEq)]
pub enum ClassWeights {
    /// As if all classes had equally many training images: images / (classes · images of the class), as in scikit-learn. A
    /// class without images counts 1.
    Balanced,
    /// One for each class. Only their ratios matter.
    Each(Vec<f32>),
}

/// Range of a weight.
const RANGE: std::ops::RangeInclusive<f32> = 1e-6..=1e6;
const WANTED: &str = "\"balanced\" or a list of numbers, one for each class";

impl ClassWeights {
    /// The weight of each of `classes`, for training images with these labels.
    ///
    /// # Examples
    /// ```
    /// use shadernet::config::ClassWeights;
    ///
    /// assert_eq!(ClassWeights::Balanced.of(&[0, 0, 0, 1], 2), [4.0 / 6.0, 2.0]);
    /// ```
    pub fn of(&self, labels: &[u8], classes: usize) -> Vec<f32> {
        match self {
            Self::Each(weights) => weights.clone(),
            Self::Balanced => {
                let counts: Vec<usize> = (0..classes)
                    .map(|class| labels.iter().filter(|&&label| usize::from(label) == class).count())
                    .collect();
                let seen = counts.iter().filter(|&&count| count > 0).count();
                let weight = |&count: &usize| match count {
                    0 => 1.0,
                    _ => (labels.len() as f64 / (seen * count) as f64) as f32,
                };
                counts.iter().map(weight).collect()
            }
        }
    }

    /// Checks ranges.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self::Each(weights) = self else { return Ok(()) };
        match weights.iter().find(|weight| !RANGE.contains(weight)) {
            Some(weight) => Err(format!("class_weights has {weight}; each must be from 0.000001 to 1000000")),
            None => Ok(()),
        }
    }
}

impl Serialize for ClassWeights {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Balanced => serializer.serialize_str("balanced"),
            Self::Each(weights) => weights.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ClassWeights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = ClassWeights;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(WANTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ClassWeights, E> {
                match text {
                    "balanced" => Ok(ClassWeights::Balanced),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<ClassWeights, A::Error> {
                let mut weights = Vec::new();
                while let Some(weight) = items.next_element()? {
                    weights.push(weight);
                }
                Ok(ClassWeights::Each(weights))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balanced_weights_are_those_of_scikit_learn() {
        // compute_class_weight("balanced", classes=[0, 1, 2], y=[0, 0, 0, 1, 1, 2]).
        let weights = ClassWeights::Balanced.of(&[0, 0, 0, 1, 1, 2], 3);
        assert_eq!(weights, [6.0 / 9.0, 1.0, 2.0]);
        assert_eq!(ClassWeights::Balanced.of(&[0, 0, 2], 3), [0.75, 1.0, 1.5]);
        assert_eq!(ClassWeights::Each(vec![3.0, 1.0]).of(&[0], 2), [3.0, 1.0]);
    }
}
