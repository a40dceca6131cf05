//! The images of a run: a data set, or a part of it for tuning.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::checkpoint::{Checkpoint, file};
use crate::dataset::{Dataset, Images, class_named};
use crate::error::{Error, Result};
use crate::eval::check_images;
use crate::files;
use crate::model::Model;
use crate::normalization::Normalization;
use crate::tensor::Shape;

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
    /// True for pictures, which were stretched to the size of the input.
    pub pictures: bool,
    /// What is odd about the data, a line each.
    pub warnings: Vec<String>,
    /// Mean and deviation of the training pixels.
    pub normalization: Normalization,
}

impl TrainingData {
    /// Loads a data set; pictures are stretched to `input`, the input of the model. With `hold_out` above 0, so many
    /// training images take the place of the test set, which is then not even read: for tuning.
    pub fn load(dir: &Path, input: Shape, hold_out: usize) -> Result<Self> {
        let Dataset { train, test, classes, pictures, warnings } = match hold_out {
            0 => Dataset::load(dir, input)?,
            _ => Dataset::hold_out(dir, input, hold_out)?,
        };
        let normalization = train.normalization();
        let dir = dir.to_owned();
        Ok(Self { dir, train, test, classes, pictures, warnings, normalization })
    }

    /// Fails if a model takes other images, answers with another number of classes, or has other names for them than the
    /// folders of pictures.
    pub fn check(&self, model: &Model) -> Result<()> {
        check_images(&self.train, &self.dir, model)?;
        let (found, wanted) = (self.classes.len(), model.class_count());
        if found != wanted {
            let what = match self.pictures {
                true => format!("there are {found} folders of pictures, so {found} classes"),
                false => format!("the labels are 0 to {}, so there are {found} classes", found - 1),
            };
            let message = format!(
                "{what}; the model {} ends with {wanted} values: change its last layers, or let `shadernet new --data \
                 {}` write a model that fits",
                model.name,
                files::quoted(&self.dir)
            );
            return Err(Error::data(&self.dir, message));
        }
        if let Some(names) = model.classes.as_ref().filter(|&names| self.pictures && *names != self.classes) {
            let message = format!(
                "the folders are {:?}, the model {} has classes = {names:?}: they must be the same, sorted; without \
                 that line the folders give the names",
                self.classes, model.name
            );
            return Err(Error::data(&self.dir, message));
        }
        Ok(())
    }

    /// Fails if the classes are not those of a trained network, in the same order: pages that train it anew have its names.
    pub fn check_classes(&self, checkpoint: &Checkpoint) -> Result<()> {
        let names = &checkpoint.classes;
        let by_name = self.pictures || checkpoint.trained.pictures;
        let same = |(place, name): (usize, &String)| class_named(name, names) == Some(place);
        if !by_name || self.classes.iter().enumerate().all(same) {
            return Ok(());
        }
        let message = format!(
            "the classes are {:?}, those of the network {names:?}: they must be the same, in the same order",
            self.classes
        );
        Err(Error::data(&self.dir, message))
    }

    /// SHA-256 of sizes, pixels and labels of both parts, in lower-case hexadecimal digits.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for part in [&self.train, &self.test] {
            hash.update(format!("{} {} {} {}\n", part.count, part.channels, part.height, part.width));
            hash.update(&part.pixels);
            hash.update(&part.labels);
        }
        file::hex(&hash.finalize())
    }
}
