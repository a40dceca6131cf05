//! The images of a run: a data set, or a part of it for tuning.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::checkpoint::file;
use crate::dataset::{Dataset, Images, Part};
use crate::error::{Error, Result};
use crate::eval::check_images;
use crate::model::Model;

/// The images of a run.
#[derive(Debug)]
pub struct TrainingData {
    pub(super) dir: PathBuf,
    /// For learning.
    pub train: Images,
    /// For judging: the test set, or what was held out of the training set.
    pub test: Images,
    /// A name for each class.
    pub classes: Vec<String>,
    /// Mean of the training pixels/255.
    pub mean: f32,
    /// Deviation of the training pixels/255.
    pub std: f32,
}

impl TrainingData {
    /// Loads a data set. With `hold_out` above 0, so many training images take the place of the test set, which is then
    /// not even read: for tuning.
    pub fn load(dir: &Path, hold_out: usize) -> Result<Self> {
        let Dataset { train, test, classes } = if hold_out == 0 {
            Dataset::load(dir)?
        } else {
            let all = Images::load(dir, Part::Train)?;
            let last = all.labels.iter().copied().max().unwrap_or(0);
            // Always the same images, whatever the seed, so that tuned runs can be compared.
            let (train, test) = all.split(hold_out, 0)?;
            let classes = (0..=last).map(|class| class.to_string()).collect();
            Dataset { train, test, classes }
        };
        let (mean, std) = train.mean_std();
        let dir = dir.to_owned();
        Ok(Self { dir, train, test, classes, mean, std })
    }

    /// Fails if a model takes other images or answers with another number of classes.
    pub fn check(&self, model: &Model) -> Result<()> {
        check_images(&self.train, &self.dir, model)?;
        let (found, wanted) = (self.classes.len(), model.class_count());
        if found != wanted {
            let message = format!(
                "the labels are 0 to {}, so there are {found} classes; the model {} ends with {wanted} values: change \
                 its last layers",
                found - 1,
                model.name
            );
            return Err(Error::data(&self.dir, message));
        }
        Ok(())
    }

    pub(super) fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for part in [&self.train, &self.test] {
            hash.update(format!("{} {} {} {}\n", part.count, part.channels, part.height, part.width));
            hash.update(&part.pixels);
            hash.update(&part.labels);
        }
        file::hex(&hash.finalize())
    }
}
