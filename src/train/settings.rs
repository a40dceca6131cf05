//! What a run is started with: its nets, its data, and what they are called.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};

use super::MOST_NETS;
use crate::dataset::HoldOut;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::replica::Replica;

/// What a run is started with, besides the model and its recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// The nets, trained side by side: any list of seeds and settings. Those of one seed must differ in
    /// [`Replica::point`], so that each has a file of its own.
    pub(crate) replicas: Vec<Replica>,
    /// Draw training images in random order.
    pub(crate) shuffle: bool,
    /// Folder of the dataset.
    #[serde(serialize_with = "any_path")]
    pub(crate) data: PathBuf,
    /// Training images to hold out as a stand-in for the test set.
    pub(crate) hold_out: HoldOut,
}

/// What file systems allow, with room for the name of a temporary file.
const LONGEST_NAME: usize = 200;

/// A path that is no Unicode is written as well as it can be: who goes on names the folder again.
fn any_path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

impl Settings {
    /// True if nets must be told apart: there are several, or one that has its place in a sweep.
    pub(super) fn has_several(&self) -> bool {
        self.replicas.len() > 1 || !self.swept_keys().is_empty()
    }

    /// Settings in which nets are told apart besides their seeds.
    pub(super) fn swept_keys(&self) -> BTreeSet<&str> {
        self.replicas.iter().flat_map(|net| net.point.0.keys().map(String::as_str)).collect()
    }

    /// Name of a net's file in the run's folder.
    pub(super) fn model_file(&self, net: &Replica) -> String {
        if !self.has_several() {
            return "model.safetensors".into();
        }
        let values: String = net.point.0.iter().map(|(key, value)| format!("-{key}={value}")).collect();
        format!("model{values}-seed{}.safetensors", net.seed)
    }

    /// Fails if there is no net, two that have the same name, or one whose settings do not fit the model.
    pub(super) fn check(&self, model: &Model) -> Result<()> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if let Some(key) = self.swept_keys().into_iter().find(|key| !key.chars().all(is_plain)) {
            // They are parts of file names, and a saved run may come from anywhere.
            let message = format!("point: {key:?}: use letters, digits, '-', '_' and '.' only");
            return Err(Error::Usage(message));
        }
        let mut names = BTreeSet::new();
        for net in &self.replicas {
            net.model(model)?;
            if let Some((key, value)) = net.point.0.iter().find(|(_, value)| !value.is_finite()) {
                return Err(Error::Usage(format!("point: {key} = {value} is not a finite number")));
            }
            let name = self.model_file(net);
            if name.len() > LONGEST_NAME {
                return Err(Error::Usage(format!(
                    "point: the file name {name} is too long; use shorter keys"
                )));
            }
            if !names.insert(name) {
                let message = format!("two nets have the seed {}; they must differ in `point`", net.seed);
                return Err(Error::Usage(message));
            }
        }
        if names.is_empty() || names.len() > MOST_NETS {
            let message = format!("{} nets; 1 to {MOST_NETS} can be trained side by side", names.len());
            return Err(Error::Usage(message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nets_that_have_one_name_or_none_are_refused() {
        let model = Model::parse(include_str!("../../data/models/seed.toml"), "seed.toml").unwrap();
        let net = |seed, key: &str, value| {
            let mut net = Replica::new(&model, seed);
            net.point.0.extend((!key.is_empty()).then(|| (key.to_owned(), value)));
            net
        };
        let check = |replicas: &[Replica]| {
            let settings = Settings {
                replicas: replicas.to_vec(),
                shuffle: true,
                data: PathBuf::new(),
                hold_out: HoldOut::NONE,
            };
            settings.check(&model).map_err(|error| error.to_string())
        };
        assert_eq!(check(&[net(1, "", 0.0), net(2, "", 0.0), net(1, "a", 0.0), net(1, "a", 0.5)]), Ok(()));
        for (nets, words) in [
            (&[][..], "0 nets; 1 to 256"),
            (&[net(1, "", 0.0), net(1, "", 0.0)], "two nets have the seed 1"),
            (&[net(1, "a", 0.5), net(2, "a", 0.5), net(1, "a", 0.5)], "two nets have the seed 1"),
            (&[net(1, "/../a", 0.5)], "letters, digits"),
            (&(0..257).map(|seed| net(seed, "", 0.0)).collect::<Vec<_>>(), "257 nets; 1 to 256"),
        ] {
            let message = check(nets).unwrap_err();
            assert!(message.contains(words), "{words}: {message}");
        }
    }
}
