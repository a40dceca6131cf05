//! Losses. Only one so far, for classifiers.

pub mod cross_entropy;
