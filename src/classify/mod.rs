//! From a drawing to an answer.
pub mod prepare;
