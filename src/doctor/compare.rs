//! The one comparison: every element within its proved bound, nothing added.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::tensor::Array;

/// Largest error as a share of the bound, for each kind of tensor.
#[derive(Debug, Default, Clone, Serialize)]
#[serde(transparent)]
pub struct Table {
    kinds: BTreeMap<String, Row>,
}

#[derive(Debug, Default, Clone, Serialize)]
struct Row {
    elements: usize,
    largest_error_of_bound: f64,
}

impl Table {
    /// Compares a tensor of a kind such as `conv2d.output`.
    ///
    /// # Errors
    /// Names the first element of `got` that is farther from `want` than its bound; `place` says whose tensor it is.
    pub fn check(&mut self, kind: &str, place: &str, got: &[f32], want: &Array) -> Result<(), String> {
        if got.len() != want.data.len() {
            return Err(format!("{place}: {} values, not {}", got.len(), want.data.len()));
        }
        let row = self.kinds.entry(kind.to_owned()).or_default();
        row.elements += got.len();
        for (index, &value) in got.iter().enumerate() {
            let error = (f64::from(value) - want.data[index]).abs();
            let bound = want.bound[index];
            // A NaN must fail, too.
            if error > bound || error.is_nan() {
                return Err(format!(
                    "{place} at {:?}: got {value:e}, want {:e}, off by {error:e} with a bound of {bound:e}",
                    coordinates(index, &want.shape),
                    want.data[index],
                ));
            }
            if error > 0.0 {
                row.largest_error_of_bound = row.largest_error_of_bound.max(error / bound);
            }
        }
        Ok(())
    }

    /// Largest error as a share of the bound, over everything.
    pub fn largest(&self) -> f64 {
        self.kinds.values().map(|row| row.largest_error_of_bound).fold(0.0, f64::max)
    }

    /// True if a tensor of this kind was compared.
    pub fn has(&self, kind: &str) -> bool {
        self.kinds.contains_key(kind)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<32} {:>10}  largest error / bound", "tensor", "elements")?;
        for (kind, row) in &self.kinds {
            write!(f, "\n{kind:<32} {:>10}  {:.3}", row.elements, row.largest_error_of_bound)?;
        }
        Ok(())
    }
}

fn coordinates(mut index: usize, shape: &[usize]) -> Vec<usize> {
    let mut at = vec![0; shape.len()];
    for (axis, extent) in shape.iter().enumerate().rev() {
        at[axis] = index % extent;
        index /= extent;
    }
    at
}
