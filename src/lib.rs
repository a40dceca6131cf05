//! shadernet trains small convolutional image classifiers on any GPU with WGSL compute shaders.
pub mod batch;
pub mod classify;
pub mod config;
pub mod cpu;
pub mod dataset;
pub mod engine;
pub mod error;
pub mod gpu;
pub mod layers;
pub mod losses;
pub mod model;
pub mod optimizers;
pub mod plan;
pub mod rng;
pub mod schedule;
pub mod shader;
pub mod tensor;
