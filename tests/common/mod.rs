//! Code shared by several tests: a source of random cases, an adapter, and the comparison of the GPU with the reference.
#![allow(dead_code, unused_imports, reason = "each test file uses its own part of this")]

use std::sync::Arc;

use shadernet::dataset::{FileNames, Images};
use shadernet::layers::{Context, Layer, LayerKind};
use shadernet::normalization::Normalization;
use shadernet::rng;
use shadernet::tensor::Array;

mod adapter;
pub(crate) mod exported;
pub(crate) mod mutants;
pub(crate) mod nets;

pub(crate) use adapter::{adapter, gpu};

/// A layer of this kind with these keys, as lines of TOML.
pub(crate) fn parse(kind: &str, keys: &str) -> Result<Arc<dyn Layer>, String> {
    LayerKind::find(kind).unwrap().parse(toml::from_str(keys).unwrap())
}

/// The layer that a line of a model file describes.
pub(crate) fn parse_layer(line: &str) -> Arc<dyn Layer> {
    let mut table: toml::Table = toml::from_str(&format!("layer = {line}")).unwrap();
    let Some(toml::Value::Table(mut keys)) = table.remove("layer") else {
        panic!("{line}");
    };
    let kind = keys.remove("type").unwrap();
    LayerKind::find(kind.as_str().unwrap()).unwrap().parse(keys).unwrap()
}

/// The context of a training step.
pub(crate) fn layer_context(layer: u32) -> Context {
    Context { training: true, seed: 11, step: 3, layer, first_image: 0 }
}

/// Pseudo-random numbers, the same in every run.
pub(crate) struct Draw {
    key: u32,
    count: u32,
}

impl Draw {
    pub(crate) fn new(seed: u32) -> Self {
        Self { key: rng::pcg4d([seed, 0x7e57, 0, 0])[0], count: 0 }
    }

    pub(crate) fn word(&mut self) -> u32 {
        self.count += 1;
        rng::words(self.key, 0, 0, self.count)[0]
    }

    /// An integer in 0..n.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.word() >> 8) as usize % n
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Roughly normal, with deviation 1, and exact in `f32`.
    pub(crate) fn normal(&mut self) -> f32 {
        let sum: f32 = (0..4).map(|_| rng::signed(self.word())).sum();
        sum * 0.75f32.sqrt()
    }

    pub(crate) fn normals(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.normal()).collect()
    }

    pub(crate) fn array(&mut self, shape: &[usize]) -> Array {
        Array::from_f32(shape, &self.normals(shape.iter().product()))
    }

    /// Another mean and deviation for each channel.
    pub(crate) fn normalization(&mut self, channels: usize) -> Normalization {
        let mut of =
            |from: f32, to: f32| (0..channels).map(|_| from + (to - from) * rng::unit(self.word())).collect();
        Normalization { mean: of(0.2, 0.7), std: of(0.25, 0.65) }
    }

    /// Images with a background of zeros, as in scans, so that pooling windows contain ties.
    pub(crate) fn images(
        &mut self,
        count: usize,
        [channels, height, width]: [usize; 3],
        classes: usize,
    ) -> Arc<Images> {
        let mut pixel = || self.word().to_be_bytes()[0].saturating_sub(90);
        let pixels = (0..count * channels * height * width).map(|_| pixel()).collect();
        let labels = (0..count).map(|_| self.below(classes) as u8).collect();
        Arc::new(Images { count, channels, height, width, pixels, labels, files: FileNames::default() })
    }
}
