//! shadernet trains small convolutional image classifiers on any GPU with WGSL compute shaders, and on the processor.
//!
//! From what the user wrote to a trained network, each stage knows only what it must:
//!
//! | stage | module | knows |
//! |---|---|---|
//! | [`config::ModelConfig`] | [`config`] | the keys of a model file |
//! | [`model::Model`] | [`model`], [`layers`] | shapes and parameters; prints the layer table |
//! | [`dataset::Dataset`] | [`dataset`], [`download`] | labelled images, from files or from servers |
//! | [`plan::Plan`] | [`plan`], [`batch`], [`losses`], [`optimizers`] | the tensors and kernel launches of a step, as data |
//! | [`engine::Engine`] | [`gpu`], [`cpu`], [`replica`] | a device, and the nets on it |
//! | [`train::Run`] | [`train`], [`schedule`] | epochs, metrics, the run folder |
//! | [`checkpoint::Checkpoint`] | [`checkpoint`], [`eval`], [`classify`], [`export`] | trained weights and what is done with them |
//! | [`report::of_run`] | [`report`] | the folder of a run, as a page to read |
//!
//! Which digit is in a picture? [`train::Run`] shows how to train, `examples/` has whole programs.
//!
//! ```
//! use shadernet::checkpoint::Checkpoint;
//! use shadernet::classify::{classify, read};
//! use shadernet::device::Device;
//!
//! let checkpoint = Checkpoint::seed()?;
//! let image = read("data/digits/3_red.png".as_ref(), &checkpoint)?;
//! let answers = classify(&checkpoint, &[image], &Device::choose("auto", None)?)?;
//! assert_eq!(checkpoint.classes[answers[0].class], "3");
//! # Ok::<(), shadernet::error::Error>(())
//! ```
//!
//! [`mod@reference`] is a training step in plain `f64` Rust: the meaning of everything else, with which both engines are
//! compared. [`rng`] is the one source of randomness, [`shader`] all that is known of the WGSL files.

pub mod batch;
#[cfg(feature = "gpu")]
pub mod bench;
pub mod checkpoint;
pub mod classify;
pub mod config;
pub mod cpu;
pub mod dataset;
pub mod device;
#[cfg(feature = "gpu")]
pub mod doctor;
#[cfg(feature = "download")]
pub mod download;
pub mod engine;
pub mod error;
pub mod eval;
#[cfg(feature = "experiments")]
pub mod experiments;
pub mod export;
pub mod files;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod layers;
mod lock;
pub mod losses;
mod memory;
pub mod model;
pub mod normalization;
pub mod optimizers;
#[cfg(feature = "gpu")]
pub mod plan;
#[cfg(feature = "report")]
pub mod plot;
pub mod reference;
pub mod replica;
#[cfg(feature = "report")]
pub mod report;
pub mod rng;
pub mod schedule;
#[cfg(feature = "gpu")]
pub mod shader;
pub mod state;
pub mod tensor;
pub(crate) mod threads;
pub mod train;

/// The crate whose tables hold a layer's keys, for layers of one's own.
pub use toml;

pub use checkpoint::Checkpoint;
pub use classify::Classifier;
pub use config::TrainConfig;
pub use dataset::Images;
pub use device::Device;
pub use error::{Error, Result};
pub use model::Model;
pub use train::{Run, TrainingData};
