//! What a run is started with: its nets, its data, and what they are called.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::MOST_NETS;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::replica::Replica;

/// What a run is started with, besides the model and its recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The nets, trained side by side: any list of seeds and settings. Those of one seed must differ in
    /// [`Replica::point`], so that each has a file of its own.
    pub replicas: Vec<Replica>,
    /// Draw training images in random order.
    pub shuffle: bool,
    /// Folder of the data set.
    pub data: PathBuf,
    /// Training images to hold out as a stand-in for the test set; 0: none.
    pub hold_out: usize,
}

impl Settings {
    /// True if nets must be told apart: there are several, or one that has its place in a sweep.
    pub fn has_several(&self) -> bool {
        self.replicas.len() > 1 || !self.swept_keys().is_empty()
    }

    /// Settings in which nets are told apart besides their seeds.
    pub fn swept_keys(&self) -> BTreeSet<&str> {
        self.replicas.iter().flat_map(|net| net.point.0.keys().map(String::as_str)).collect()
    }

    /// Name of a net's file in the run's folder.
    pub fn model_file(&self, net: &Replica) -> String {
        if !self.has_several() {
            return "model.safetensors".into();
        }
        let values: String = net.point.0.iter().map(|(key, value)| format!("-{key}={value}")).collect();
        format!("model{values}-seed{}.safetensors", net.seed)
    }

    /// Fails if there is no net, two that have the same name, or one whose settings do not fit the model.
    pub(super) fn check(&self, model: &Model) -> Result<()> {
        let mut names = BTreeSet::new();
        for net in &self.replicas {
            net.model(model, &model.train)?;
            if !names.insert(self.model_file(net)) {
                let message = format!("two nets of seed {}: they must differ in `point`", net.seed);
                return Err(Error::Usage(message));
            }
        }
        if names.is_empty() || names.len() > MOST_NETS {
            let message = format!("{} nets; 1 to {MOST_NETS} are trained side by side", names.len());
            return Err(Error::Usage(message));
        }
        Ok(())
    }
}
