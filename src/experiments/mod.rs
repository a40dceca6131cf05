//! Suites of experiments: arms and seeds, run until all are done, and a report with the uncertainty of every figure.
//!
//! If an arm has several candidate recipes, one is chosen on images held out of the training set, and only then
//! trained with fresh seeds and tested. All results are rows of CSV files; to merge the work of several machines,
//! read their files together.

mod report;
mod run;
mod statistics;
mod suite;
mod table;

pub use crate::config::Criterion;
pub use report::{Report, report};
pub use run::{Job, Options, Watcher, carry_out, choose_rows, chosen};
pub use statistics::{Difference, median};
pub use suite::{Arm, Group, Phase, Recipe, Seeds, Select, Suite};
pub use table::{Origin, Row, Rows};
