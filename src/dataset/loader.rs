//! How a dataset is loaded.

use std::fmt;
use std::path::Path;

use super::layout::{self, Source};
use super::{Dataset, HoldOut, Images, Known, Part, Survey, idx, pictures};
use crate::error::{Error, Result};
use crate::tensor::Shape;

/// Hears how many pictures are done, of how many; from several threads at once.
pub type Progress<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// How a dataset is loaded: who hears how far it is, and where decoded pictures are kept for the next time. By default nobody,
/// and nowhere.
///
/// # Examples
/// ```
/// use shadernet::dataset::Loader;
/// use shadernet::tensor::Shape;
///
/// let show = |done: usize, of: usize| eprintln!("{done} of {of}");
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// let loader = Loader::new().progress(&show).cache(folder);
/// let data = loader.load("data/mnist".as_ref(), Shape::new(1, 28, 28))?; // IDX files need neither
/// assert_eq!(data.train.count, 60_000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Default)]
pub struct Loader<'a> {
    pub(super) progress: Option<Progress<'a>>,
    pub(super) cache: Option<&'a Path>,
}

impl<'a> Loader<'a> {
    /// One that reads everything anew, silently.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls `progress` after each picture.
    pub fn progress(self, progress: Progress<'a>) -> Self {
        Self { progress: Some(progress), ..self }
    }

    /// Keeps pictures in `folder` as the network takes them, and takes them from there the next time, if no file has changed
    /// since. What is damaged there is read anew. The oldest sets are removed when the folder holds more than 2 GiB.
    pub fn cache(self, folder: &'a Path) -> Self {
        Self { cache: Some(folder), ..self }
    }
}

impl Loader<'_> {
    /// As [`Dataset::load`].
    ///
    /// # Errors
    /// Those of [`Dataset::load`].
    pub fn load(&self, dir: &Path, input: Shape) -> Result<Dataset> {
        let (source, mut warnings) = layout::find(dir)?;
        let dir = match &source {
            Source::Pictures(layout) => return pictures::load(self, layout, input, warnings),
            Source::Idx(dir) => dir,
        };
        let train = Images::read(dir, Part::Train, &mut warnings)?;
        let test = Images::read(dir, Part::Test, &mut warnings)?;
        if (train.height, train.width) != (test.height, test.width) {
            let message = format!(
                "training images are {}x{}, but test images are {}x{}; they must have the same size",
                train.height, train.width, test.height, test.width
            );
            return Err(Error::data(dir, message));
        }
        let last = train.labels.iter().copied().max().unwrap_or(0);
        if let Some(i) = test.labels.iter().position(|&label| label > last) {
            let message = format!(
                "label {} of image {i} is not a class of the training set, whose labels end at {last}",
                test.labels[i]
            );
            return Err(Error::data(idx::find(dir, Part::Test, "labels", 1)?, message));
        }
        warnings.extend(train.unseen_labels(dir));
        let classes = train.class_names();
        Ok(Dataset { train, test, classes, pictures: false, twelve_bit: false, sketch: None, warnings })
    }

    /// As [`Dataset::hold_out`].
    ///
    /// # Errors
    /// Those of [`Dataset::hold_out`].
    pub fn hold_out(&self, dir: &Path, input: Shape, which: impl Into<HoldOut>) -> Result<Dataset> {
        let (source, mut warnings) = layout::find(dir)?;
        let (all, classes, sketch, twelve_bit, warnings) = match &source {
            Source::Pictures(layout) => {
                let train = pictures::load_train(self, layout, input, warnings)?;
                (train.images, train.classes, Some(train.sketch), train.twelve_bit, train.warnings)
            }
            Source::Idx(dir) => {
                let all = Images::read(dir, Part::Train, &mut warnings)?;
                warnings.extend(all.unseen_labels(dir));
                let classes = all.class_names();
                (all, classes, None, false, warnings)
            }
        };
        let (train, test) = all.hold_out(which)?;
        Ok(Dataset { train, test, classes, pictures: sketch.is_some(), twelve_bit, sketch, warnings })
    }

    /// Loads the test part alone, for a network that knows classes: the images, and what is odd about them. Folders of
    /// pictures are classes by their names; where they are in no parts, all pictures are judged, unless the network was
    /// trained on them. The labels of IDX files are numbers: of classes that are named by folders they name the one of this
    /// value, of others they are the place among the classes.
    ///
    /// # Errors
    /// As [`Dataset::load`], and folders or labels that are no class.
    pub fn load_test(&self, dir: &Path, input: Shape, known: &Known<'_>) -> Result<(Images, Vec<String>)> {
        let (source, mut warnings) = layout::find(dir)?;
        match &source {
            Source::Pictures(layout) => pictures::load_test(self, layout, input, known, warnings),
            Source::Idx(dir) => {
                let mut images = Images::read(dir, Part::Test, &mut warnings)?;
                if known.named_by_folders {
                    images.name_labels(dir, known.classes)?;
                }
                Ok((images, warnings))
            }
        }
    }

    /// As [`survey`].
    ///
    /// # Errors
    /// Those of [`survey`].
    pub fn survey(&self, dir: &Path) -> Result<Survey> {
        let (source, mut warnings) = layout::find(dir)?;
        let dir = match &source {
            Source::Pictures(layout) => return pictures::survey(self, layout, warnings),
            Source::Idx(dir) => dir,
        };
        let images = Images::read(dir, Part::Train, &mut warnings)?;
        warnings.extend(images.unseen_labels(dir));
        let shape = Shape::new(images.channels, images.height, images.width);
        let (count, classes) = (images.count, images.class_names());
        Ok(Survey { images: shape, count, classes, pictures: false, warnings })
    }
}

impl fmt::Debug for Loader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { progress, cache } = self;
        f.debug_struct("Loader").field("progress", &progress.is_some()).field("cache", cache).finish()
    }
}
