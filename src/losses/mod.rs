//! Losses. One so far: what a classifier needs.

pub mod cross_entropy;
