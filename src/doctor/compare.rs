//! The only comparison: every element within its proven bound, no extra tolerance.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::plan::Plan;
use crate::tensor::Array;

/// Comparison results: for each kind of tensor, and for each launch of a plan.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Table {
    kinds: BTreeMap<String, Row>,
    launches: Vec<LaunchRow>,
}

#[derive(Debug, Default, Clone, Copy, Serialize)]
struct Row {
    elements: usize,
    largest_error_of_bound: f64,
}

impl Row {
    fn add(&mut self, other: Self) {
        self.elements += other.elements;
        self.largest_error_of_bound = self.largest_error_of_bound.max(other.largest_error_of_bound);
    }
}

/// Results for one launch.
#[derive(Debug, Clone, Serialize)]
pub struct LaunchRow {
    /// `conv1.forward`.
    pub launch: String,
    /// `conv2d.wgsl`.
    pub shader: String,
    /// Elements compared.
    pub elements: usize,
    /// Largest error as a fraction of the proven bound.
    pub largest_error_of_bound: f64,
    /// The launch in which this one's results are checked, if it only makes intermediate sums.
    pub seen_in: Option<String>,
    /// The first error.
    pub wrong: Option<String>,
}

impl Table {
    /// Compares a tensor of a kind such as `conv2d.output`.
    ///
    /// # Errors
    /// Names the first element of `got` that is farther from `want` than its bound; `place` says whose tensor it is.
    pub fn check(&mut self, kind: &str, place: &str, got: &[f32], want: &Array) -> Result<(), String> {
        let row = compare(place, got, want)?;
        self.kinds.entry(kind.to_owned()).or_default().add(row);
        Ok(())
    }

    /// The same for a tensor that `launch` made; an error is kept in the launch's row.
    pub(super) fn check_launch(&mut self, launch: &str, kind: &str, place: &str, got: &[f32], want: &Array) {
        match compare(place, got, want) {
            Ok(row) => {
                self.kinds.entry(kind.to_owned()).or_default().add(row);
                let known = self.launch(launch);
                known.elements += row.elements;
                known.largest_error_of_bound = known.largest_error_of_bound.max(row.largest_error_of_bound);
            }
            Err(message) => self.wrong(launch, message),
        }
    }

    /// Counts values of `launch` that have to be exact, and are.
    pub(super) fn exact(&mut self, launch: &str, elements: usize) {
        self.launch(launch).elements += elements;
    }

    /// Records an error in the results of `launch`.
    pub(super) fn wrong(&mut self, launch: &str, message: String) {
        self.launch(launch).wrong.get_or_insert(message);
    }

    fn launch(&mut self, launch: &str) -> &mut LaunchRow {
        let index = self.launches.iter().position(|row| row.launch == launch).unwrap_or_else(|| {
            self.launches.push(LaunchRow {
                launch: launch.to_owned(),
                shader: String::new(),
                elements: 0,
                largest_error_of_bound: 0.0,
                seen_in: None,
                wrong: None,
            });
            self.launches.len() - 1
        });
        &mut self.launches[index]
    }

    /// Sorts the launches in `plan` order. One that only makes intermediate sums is checked through the launch that
    /// reads them; a launch without any comparison is an error.
    pub(super) fn complete(&mut self, plan: &Plan) {
        for (time, launch) in plan.launches.iter().enumerate() {
            let row = self.launch(&launch.label);
            row.shader = format!("{}.wgsl", launch.shader);
            if row.elements > 0 || row.wrong.is_some() {
                continue;
            }
            let made: Vec<usize> = launch.bindings.iter().filter(|b| b.written).map(|b| b.tensor).collect();
            let reads = |later: &&crate::plan::PlannedLaunch| {
                later.bindings.iter().any(|bound| bound.read && made.contains(&bound.tensor))
            };
            let seen_in = plan.launches[time + 1..].iter().find(reads).map(|later| later.label.clone());
            let row = self.launch(&launch.label);
            match seen_in {
                Some(reader) => row.seen_in = Some(reader),
                None => row.wrong = Some(format!("{}: nothing that it writes was compared", launch.label)),
            }
        }
        let place = |label: &str| plan.launches.iter().position(|launch| launch.label == label);
        self.launches.sort_by_key(|row| place(&row.launch));
    }

    /// Adds the rows of another table.
    pub(super) fn merge(&mut self, other: Self) {
        for (kind, row) in other.kinds {
            self.kinds.entry(kind).or_default().add(row);
        }
        for row in other.launches {
            let known = self.launch(&row.launch);
            known.shader = row.shader;
            known.elements += row.elements;
            known.largest_error_of_bound = known.largest_error_of_bound.max(row.largest_error_of_bound);
            known.seen_in = row.seen_in;
            known.wrong = known.wrong.take().or(row.wrong);
        }
    }

    /// The launches, in order.
    pub fn launches(&self) -> &[LaunchRow] {
        &self.launches
    }

    /// The first error in any launch.
    pub fn first_wrong(&self) -> Option<&str> {
        self.launches.iter().find_map(|row| row.wrong.as_deref())
    }

    /// Largest error as a fraction of the bound, over everything.
    pub fn largest(&self) -> f64 {
        self.kinds.values().map(|row| row.largest_error_of_bound).fold(0.0, f64::max)
    }

    /// True if a tensor of this kind was compared.
    pub fn has(&self, kind: &str) -> bool {
        self.kinds.contains_key(kind)
    }
}

/// One row per kind of tensor.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<32} {:>10}  largest error / bound", "tensor", "elements")?;
        for (kind, row) in &self.kinds {
            write!(f, "\n{kind:<32} {:>10}  {:.3}", row.elements, row.largest_error_of_bound)?;
        }
        Ok(())
    }
}

fn compare(place: &str, got: &[f32], want: &Array) -> Result<Row, String> {
    if got.len() != want.data.len() {
        return Err(format!("{place}: {} values, not {}", got.len(), want.data.len()));
    }
    let mut row = Row { elements: got.len(), largest_error_of_bound: 0.0 };
    for (index, &value) in got.iter().enumerate() {
        let error = (f64::from(value) - want.data[index]).abs();
        let bound = want.bound[index];
        // A NaN must fail, too.
        if error > bound || error.is_nan() {
            return Err(format!(
                "{place} at {:?}: got {value:e}, expected {:e}; the error is {error:e}, the bound {bound:e}",
                coordinates(index, &want.shape),
                want.data[index],
            ));
        }
        if error > 0.0 {
            row.largest_error_of_bound = row.largest_error_of_bound.max(error / bound);
        }
    }
    Ok(row)
}

fn coordinates(mut index: usize, shape: &[usize]) -> Vec<usize> {
    let mut at = vec![0; shape.len()];
    for (axis, extent) in shape.iter().enumerate().rev() {
        at[axis] = index % extent;
        index /= extent;
    }
    at
}
