//! shadernet trains small convolutional image classifiers on any GPU with WGSL compute shaders, and on the processor.
//!
//! # Use
//!
//! What a program needs first is at the root: [`Model`], [`TrainingData`], [`Run`], [`Device`], [`Classifier`].
//!
//! ```
//! use shadernet::{Classifier, Device, Images, Model, Run, TrainConfig, TrainingData};
//!
//! // 600 images of one channel and 8x8 pixels in memory: dark ones of class 0, bright ones of class 1.
//! let labels: Vec<u8> = [0, 1].repeat(300);
//! let pixels = labels.iter().flat_map(|label| [label * 200 + 20; 64]).collect();
//! let (train, test) = Images::new([1, 8, 8], pixels, labels)?.split(100, 0)?;
//! let data = TrainingData::from_images(train, test, ["dark", "bright"])?;
//!
//! let recipe = TrainConfig::default().epochs(2).batch_size(32);
//! let model = Model::builder("light", [1, 8, 8]).conv2d(4, 3).relu().conv2d(2, 3).global_avg_pool2d();
//! # let temporary = tempfile::tempdir()?;
//! # let folder = temporary.path().join("light");
//! let run = Run::builder(model.train(recipe).build()?, data).device(Device::cpu()).folder(&folder);
//! let mut run = run.start()?;
//! run.train(&mut ())?;
//! assert_eq!(run.finish()?.final_test_accuracy, 100.0);
//!
//! let mut classifier = Classifier::open(folder.join("model.safetensors"), &Device::cpu())?;
//! let answer = classifier.classify_inputs(&[vec![230; 64]])?.remove(0);
//! assert_eq!(classifier.name_of(&answer), "bright");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/` has complete programs: training from memory, stopping and resuming, sweeps, fine-tuning, a layer of one's own.
//!
//! # Features
//!
//! | feature | what it brings |
//! |---|---|
//! | `gpu` | training and evaluation on GPUs; [`plan`], [`shader`], [`doctor`] and [`mod@bench`] |
//! | `download` | [`download`]: fetching well-known datasets |
//! | `report` | [`report`] and [`plot`]: runs as pages with charts |
//! | `experiments` | [`experiments`]: suites of many runs; needs `report` |
//! | `export` | [`export`]: ONNX, PyTorch and C, and with `gpu` the page; [`int8`] |
//! | `tensorboard` | [`train::Events`]: the curves of a run for TensorBoard |
//! | `pictures` | reading picture files: PNG, JPEG, WebP, GIF, BMP and TIFF |
//!
//! All are on by default. Without them there are the CPU engine, training, evaluation and classification, of IDX files and
//! images in memory.
//!
//! # Tour
//!
//! From a model file to a trained network, each stage knows only what it must:
//!
//! | stage | module | knows |
//! |---|---|---|
//! | [`config::ModelConfig`] | [`config`] | the keys of a model file |
//! | [`model::Model`] | [`model`], [`layers`] | shapes and parameters; prints the layer table |
//! | [`dataset::Dataset`] | [`dataset`], [`download`], [`normalization`] | labelled images, from files or from servers |
//! | [`plan::Plan`] | [`plan`], [`batch`], [`losses`], [`optimizers`], [`state`] | the tensors and kernel launches of a step, as data |
//! | [`engine::Engine`] | [`engine`], [`gpu`], [`cpu`], [`device`], [`replica`] | a device, and the networks on it |
//! | [`train::Run`] | [`train`], [`schedule`] | epochs, metrics, the folder of the run |
//! | [`checkpoint::Checkpoint`] | [`checkpoint`], [`eval`], [`classify`], [`export`], [`int8`] | trained weights and what is done with them |
//! | [`report::of_run`] | [`report`], [`plot`], [`experiments`] | one run or many, as pages to read |
//!
//! [`mod@reference`] is a training step in plain `f64` Rust: it defines everything else, and both engines are compared with it;
//! [`doctor`] does that on a user's GPU, [`mod@bench`] measures it. [`rng`] is the only source of randomness, [`shader`] knows the
//! WGSL files, [`tensor`] has shapes and arrays, [`files`] writes whole files or none, and [`error`] has what can go wrong.

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
#[cfg(feature = "export")]
pub mod export;
pub mod files;
#[cfg(feature = "gpu")]
pub mod gpu;
#[cfg(feature = "export")]
mod inference;
#[cfg(feature = "export")]
pub mod int8;
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
pub use classify::{Answer, Classifier, Picture};
pub use config::{Augment, LearningRate, Optimizer, TrainConfig};
pub use dataset::{HoldOut, Images};
pub use device::Device;
pub use error::{Error, Result};
pub use model::Model;
pub use train::{Ending, EpochMetrics, Run, RunState, Sweep, TrainingData, Watch};
