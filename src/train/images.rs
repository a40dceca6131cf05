//! The images of a run: a dataset, or a part of it for tuning.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::checkpoint::{Checkpoint, file};
use crate::config::check_classes;
use crate::dataset::{Dataset, HoldOut, Images, class_named};
use crate::error::{Error, Remedy, Result};
use crate::eval::check_images;
use crate::model::Model;
use crate::normalization::Normalization;
use crate::tensor::Shape;

/// The images of a run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TrainingData {
    /// For training.
    pub train: Arc<Images>,
    /// For testing: the test set, or what was held out of the training set.
    pub test: Arc<Images>,
    /// A name for each class.
    pub classes: Vec<String>,
    /// True for pictures, which were stretched to the size of the input.
    pub pictures: bool,
    /// What is unusual about the data, one line each.
    pub warnings: Vec<String>,
    /// Mean and standard deviation of the training pixels/255, for each channel.
    pub normalization: Normalization,
    /// Folder that the images came from; `None` for images made in memory.
    pub folder: Option<PathBuf>,
    /// The training images that were held out and take the place of the test set; none if there is a real one.
    pub held_out: HoldOut,
}

impl TrainingData {
    /// Loads a dataset; pictures are stretched to `input`, the input of the model.
    ///
    /// # Errors
    /// Those of [`Dataset::load`].
    pub fn load(folder: impl AsRef<Path>, input: Shape) -> Result<Self> {
        let folder = folder.as_ref();
        Ok(Self::new(Dataset::load(folder, input)?, folder, HoldOut::NONE))
    }

    /// Loads the training part of a dataset, of which some images take the place of the test set, which is not even read: for
    /// tuning, and for recipes that decide by them ([`TrainConfig::early_stop`](crate::TrainConfig::early_stop)).
    ///
    /// # Errors
    /// Those of [`Dataset::hold_out`].
    pub fn load_held_out(folder: impl AsRef<Path>, input: Shape, which: impl Into<HoldOut>) -> Result<Self> {
        let (folder, which) = (folder.as_ref(), which.into());
        Ok(Self::new(Dataset::hold_out(folder, input, which)?, folder, which))
    }

    /// Holds out images of the training part, which take the place of the test part.
    ///
    /// # Errors
    /// When no image would be left.
    pub fn hold_out(self, which: impl Into<HoldOut>) -> Result<Self> {
        let held_out = which.into();
        let (train, test) = self.train.hold_out(held_out)?;
        let normalization = train.normalization();
        Ok(Self { train: Arc::new(train), test: Arc::new(test), normalization, held_out, ..self })
    }

    fn new(dataset: Dataset, folder: &Path, held_out: HoldOut) -> Self {
        let Dataset { train, test, classes, pictures, warnings } = dataset;
        let normalization = train.normalization();
        let (train, test, folder) = (Arc::new(train), Arc::new(test), Some(folder.to_owned()));
        Self { train, test, classes, pictures, warnings, normalization, folder, held_out }
    }

    /// Images in memory, with a name for each class. [`Images::split`] makes a test part where there is none.
    ///
    /// A [`Classifier`](crate::Classifier) stretches a picture to the input of the network, as it is. If the images are
    /// like those of MNIST (one channel, bright strokes in the middle of black), set [`pictures`](field@Self::pictures) to
    /// false: then it makes of a drawing what MNIST would have made.
    ///
    /// # Errors
    /// A part without images, or whose pixels or labels are not as many as its sizes say; parts of different sizes; a label
    /// without a class; fewer than two classes, more than 256, or names that are empty or there twice.
    ///
    /// # Examples
    /// ```
    /// use shadernet::{Images, TrainingData};
    ///
    /// // 60 images of one channel and 4x4 pixels: dark ones of class 0, bright ones of class 1.
    /// let labels: Vec<u8> = (0..60).map(|image| image % 2).collect();
    /// let pixels = labels.iter().flat_map(|label| [label * 200 + 20; 16]).collect();
    /// let (train, test) = Images::new([1, 4, 4], pixels, labels)?.split(10, 0)?;
    /// let data = TrainingData::from_images(train, test, ["dark", "bright"])?;
    /// assert_eq!((data.train.count, data.test.count), (50, 10));
    /// # Ok::<(), shadernet::Error>(())
    /// ```
    pub fn from_images(
        train: impl Into<Arc<Images>>,
        test: impl Into<Arc<Images>>,
        classes: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self> {
        let (train, test) = (train.into(), test.into());
        let classes: Vec<String> = classes.into_iter().map(Into::into).collect();
        check_classes(&classes).map_err(Error::Usage)?;
        if !(2..=256).contains(&classes.len()) {
            return Err(Error::Usage(format!("{} classes; there can be 2 to 256", classes.len())));
        }
        train.check().map_err(|message| Error::Usage(format!("training images: {message}")))?;
        let normalization = train.normalization();
        let (pictures, warnings, folder, held_out) = (true, Vec::new(), None, HoldOut::NONE);
        let data = Self { train, test, classes, pictures, warnings, normalization, folder, held_out };
        data.check_parts()?;
        Ok(data)
    }

    /// Fails if the two parts do not fit each other, the classes and the normalisation.
    fn check_parts(&self) -> Result<()> {
        for (part, images) in [("training", &self.train), ("test", &self.test)] {
            let fail = |message: String| Err(Error::Usage(format!("{part} images: {message}")));
            if let Err(message) = images.check() {
                return fail(message);
            }
            if images.shape() != self.train.shape() {
                let (found, wanted) = (images.shape(), self.train.shape());
                return fail(format!("they are {found}, but the training images are {wanted}"));
            }
            let count = self.classes.len();
            if let Some(at) = images.labels.iter().position(|&label| usize::from(label) >= count) {
                let label = images.labels[at];
                return fail(format!(
                    "image {at} has the label {label}, but there are only {count} classes, counted from 0"
                ));
            }
        }
        let Normalization { mean, std } = &self.normalization;
        if [mean.len(), std.len()] != [self.train.channels; 2] {
            let message = format!(
                "the normalisation has {} channels, the images have {}",
                mean.len(),
                self.train.channels
            );
            return Err(Error::Usage(message));
        }
        self.normalization
            .check()
            .map_err(|message| Error::Usage(format!("the normalisation cannot be {message}")))
    }

    /// Where errors say that the images are.
    pub(super) fn place(&self) -> &Path {
        self.folder.as_deref().unwrap_or(Path::new("the images in memory"))
    }

    /// Fails if a model takes other images, answers with another number of classes, or has other names for them than the
    /// folders of pictures.
    ///
    /// # Errors
    /// Also what [`TrainingData::from_images`] refuses, since all fields can be changed.
    pub fn check(&self, model: &Model) -> Result<()> {
        check_images(&self.train, self.place(), model)?;
        self.check_parts()?;
        let (found, wanted) = (self.classes.len(), model.class_count());
        if found != wanted {
            let what = match self.pictures {
                _ if self.folder.is_none() => format!("there are {found} classes"),
                true => format!("there are {found} folders of pictures, so {found} classes"),
                false => {
                    format!("the labels are 0 to {}, so there are {found} classes", found.saturating_sub(1))
                }
            };
            let message = format!(
                "{what}, but the model {} ends with {wanted} values; change its last layers",
                model.name
            );
            let error = Error::data(self.place(), message);
            return Err(match &self.folder {
                Some(folder) => error.with(Remedy::FitModel(folder.clone())),
                None => error,
            });
        }
        if let Some(names) = model.classes.as_ref().filter(|&names| self.pictures && *names != self.classes) {
            let message = format!(
                "the classes of the data are {:?}, but the model {} has classes = {names:?}; they must be the same, in the same \
                 order. A model without names takes those of the data",
                self.classes, model.name
            );
            return Err(Error::data(self.place(), message));
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
            "the classes are {:?}, but those of the network {names:?}; they must be the same, in the same order",
            self.classes
        );
        Err(Error::data(self.place(), message))
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
