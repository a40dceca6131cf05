//! The weights that a training begins with.

use super::{Model, ModelParam};
use crate::config::WeightInit;
use crate::layers::Init;
use crate::rng::{self, Stream};
use crate::tensor::Tensor;

impl Model {
    /// Initial parameters for a seed, in the order of [`Model::params`].
    pub fn init(&self, seed: u32) -> Vec<Tensor> {
        let key = rng::key(seed, Stream::Init);
        let tensor = |(index, ModelParam { name, param, .. }): (usize, ModelParam)| {
            let len = param.size();
            let uniform = |fan_in: usize| {
                let limit = 1.0 / (fan_in as f64).sqrt();
                let value =
                    |i| (f64::from(rng::signed(rng::words(key, 0, index as u32, i)[0])) * limit) as f32;
                (0..len as u32).map(value).collect()
            };
            let data = match (param.init, self.train.init) {
                (Init::Constant(value), _) => vec![value; len],
                (Init::Weight { fan_in } | Init::Bias { fan_in }, WeightInit::Pytorch) => uniform(fan_in),
                (Init::Bias { .. }, WeightInit::Kaiming) => vec![0.0; len],
                (Init::Weight { fan_in }, WeightInit::Kaiming) => {
                    let deviation = (2.0 / fan_in as f64).sqrt();
                    let value = |i| (normal(rng::words(key, 0, index as u32, i)) * deviation) as f32;
                    (0..len as u32).map(value).collect()
                }
            };
            Tensor { name, shape: param.shape, data }
        };
        self.params().into_iter().enumerate().map(tensor).collect()
    }
}

/// A standard normal number from two of four random words (Box and Muller 1958).
fn normal(words: [u32; 4]) -> f64 {
    let radius = (-2.0 * (1.0 - f64::from(rng::unit(words[0]))).ln()).sqrt();
    radius * (2.0 * std::f64::consts::PI * f64::from(rng::unit(words[1]))).cos()
}
