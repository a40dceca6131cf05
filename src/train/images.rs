//! The images of a run: a dataset, or a part of it for tuning.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::checkpoint::Checkpoint;
use crate::config::check_classes;
use crate::dataset::{Dataset, HoldOut, Images, Loader, Preparation, Sketch, class_named, same_name};
use crate::error::{Error, Remedy, Result};
use crate::eval::check_images;
use crate::files::hex;
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
    /// True if the classes have names, false if they are numbers.
    pub named: bool,
    /// True if pictures are stretched to the input as these images were; false if they become drawings like MNIST's.
    pub pictures: bool,
    /// True if these are bright on black, so that pictures on light ground are inverted.
    pub on_black: bool,
    /// True for pictures whose 16 bits hold values of 12: the network will read others like them.
    pub twelve_bit: bool,
    /// By what the network will know the training pictures again.
    pub sketch: Option<Sketch>,
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
        Self::load_by(&Loader::new(), folder, input)
    }

    /// As [`TrainingData::load`], as `loader` says.
    ///
    /// # Errors
    /// Those of [`Dataset::load`].
    pub fn load_by(loader: &Loader<'_>, folder: impl AsRef<Path>, input: Shape) -> Result<Self> {
        let folder = folder.as_ref();
        Ok(Self::new(loader.load(folder, input)?, folder, HoldOut::NONE))
    }

    /// Loads the training part of a dataset, of which some images take the place of the test set, which is not even read: for
    /// tuning, and for recipes that decide by them ([`TrainConfig::early_stop`](crate::TrainConfig::early_stop)).
    ///
    /// # Errors
    /// Those of [`Dataset::hold_out`].
    pub fn load_held_out(folder: impl AsRef<Path>, input: Shape, which: impl Into<HoldOut>) -> Result<Self> {
        Self::load_held_out_by(&Loader::new(), folder, input, which)
    }

    /// As [`TrainingData::load_held_out`], as `loader` says.
    ///
    /// # Errors
    /// Those of [`Dataset::hold_out`].
    pub fn load_held_out_by(
        loader: &Loader<'_>,
        folder: impl AsRef<Path>,
        input: Shape,
        which: impl Into<HoldOut>,
    ) -> Result<Self> {
        let (folder, which) = (folder.as_ref(), which.into());
        Ok(Self::new(loader.hold_out(folder, input, which)?, folder, which))
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
        let Dataset { train, test, classes, named, prepare, twelve_bit, sketch, warnings, .. } = dataset;
        let normalization = train.normalization();
        let (train, test, folder) = (Arc::new(train), Arc::new(test), Some(folder.to_owned()));
        let (pictures, on_black) = (prepare != Preparation::Digit, prepare == Preparation::PictureOnBlack);
        Self {
            train,
            test,
            classes,
            named,
            pictures,
            on_black,
            twelve_bit,
            sketch,
            warnings,
            normalization,
            folder,
            held_out,
        }
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
        let data = Self {
            train,
            test,
            classes,
            named: true,
            pictures: true,
            on_black: false,
            twelve_bit: false,
            // No folder is the one that these come from.
            sketch: Some(Sketch::default()),
            warnings: Vec::new(),
            normalization,
            folder: None,
            held_out: HoldOut::NONE,
        };
        data.check_parts()?;
        Ok(data)
    }

    /// Gives the classes the names and places that a run of before gave them, which began when classes of files were labels
    /// from 0 on and had no names; nothing happens for other classes.
    pub(super) fn named_as(&mut self, before: &[String]) {
        let were_labels = before.iter().enumerate().all(|(label, name)| *name == label.to_string());
        let Some(unused) = before.len().checked_sub(self.classes.len()) else { return };
        if before == self.classes || !were_labels || self.folder.is_none() {
            return;
        }
        for part in [&mut self.train, &mut self.test] {
            Arc::make_mut(part).labels.iter_mut().for_each(|label| *label += unused as u8);
        }
        (self.named, self.pictures, self.on_black) = (false, false, false);
        self.classes = before.to_vec();
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
            let what = match &self.classes[..] {
                [first, .., last] if !self.named => {
                    format!("the labels are {first} to {last}, so there are {found} classes")
                }
                _ => format!("there are {found} classes"),
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
        let differ = |names: &Vec<String>| {
            !names.iter().zip(&self.classes).all(|(wanted, found)| same_name(wanted, found))
        };
        if let Some(names) = model.classes.as_ref().filter(|names| self.named && differ(names)) {
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
        let by_name = self.named || checkpoint.trained.pictures;
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
        hex(&hash.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_before_keep_their_classes() {
        let data = || {
            let images = Images::new([1, 1, 1], vec![7; 4], vec![0, 1, 2, 1]).unwrap();
            let mut data = TrainingData::from_images(images.clone(), images, ["a", "b", "c"]).unwrap();
            data.folder = Some("x".into());
            data
        };
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        for (before, labels) in [
            (names(&["0", "1", "2"]), [0, 1, 2, 1]),
            // EMNIST's letters, whose labels begin at 1.
            (names(&["0", "1", "2", "3"]), [1, 2, 3, 2]),
        ] {
            let mut data = data();
            data.named_as(&before);
            assert_eq!((&data.train.labels[..], &data.test.labels[..]), (&labels[..], &labels[..]));
            assert!(data.classes == before && !data.named && !data.pictures);
        }
        for other in [names(&["a", "b", "d"]), names(&["0", "1"]), names(&["1", "2", "3"])] {
            let mut data = data();
            data.named_as(&other);
            assert_eq!(
                (&data.train.labels[..], &data.classes[..]),
                (&[0, 1, 2, 1][..], &names(&["a", "b", "c"])[..])
            );
        }
    }
}
