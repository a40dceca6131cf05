//! How a dataset is loaded.

use std::fmt;
use std::path::Path;

use super::layout::{self, Layout, Source};
use super::numbered::Numbered;
use super::{Dataset, HoldOut, Images, Known, Preparation, Survey, pictures};
use crate::error::Result;
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
        match Form::of(&source, &mut warnings)? {
            Form::Pictures(layout) => pictures::load(self, layout, input, warnings),
            Form::Numbered(files) => files.load(warnings),
        }
    }

    /// As [`Dataset::hold_out`].
    ///
    /// # Errors
    /// Those of [`Dataset::hold_out`].
    pub fn hold_out(&self, dir: &Path, input: Shape, which: impl Into<HoldOut>) -> Result<Dataset> {
        let (source, mut warnings) = layout::find(dir)?;
        match Form::of(&source, &mut warnings)? {
            Form::Pictures(layout) => {
                let all = pictures::load_train(self, layout, input, warnings)?;
                // Always the same images, whatever the seed, so that tuned runs can be compared.
                let (train, test) = all.images.hold_out(which)?;
                Ok(Dataset {
                    train,
                    test,
                    classes: all.classes,
                    named: true,
                    pictures: true,
                    prepare: Preparation::Picture,
                    twelve_bit: all.twelve_bit,
                    sketch: Some(all.sketch),
                    warnings: all.warnings,
                })
            }
            Form::Numbered(files) => files.hold_out(which, warnings),
        }
    }

    /// Loads the test part alone, for a network that knows classes: the images, and what is odd about them. Folders of
    /// pictures are classes by their names; where they are in no parts, all pictures are judged, unless the network was
    /// trained on them. Classes of files that have names are found by them, numbers by their value; labels without a name
    /// that are no class's number are places among the classes, unless those are named by folders.
    ///
    /// # Errors
    /// As [`Dataset::load`], and folders or labels that are no class.
    pub fn load_test(&self, dir: &Path, input: Shape, known: &Known<'_>) -> Result<(Images, Vec<String>)> {
        let (source, mut warnings) = layout::find(dir)?;
        match Form::of(&source, &mut warnings)? {
            Form::Pictures(layout) => pictures::load_test(self, layout, input, known, warnings),
            Form::Numbered(files) => {
                let images = files.load_test(known.classes, known.named_by_folders, &mut warnings)?;
                Ok((images, warnings))
            }
        }
    }

    /// As [`survey`](super::survey).
    ///
    /// # Errors
    /// Those of [`survey`](super::survey).
    pub fn survey(&self, dir: &Path) -> Result<Survey> {
        let (source, mut warnings) = layout::find(dir)?;
        match Form::of(&source, &mut warnings)? {
            Form::Pictures(layout) => pictures::survey(self, layout, warnings),
            Form::Numbered(files) => files.survey(warnings),
        }
    }
}

/// A dataset's form, and where it is.
enum Form<'a> {
    /// Folders of pictures.
    Pictures(&'a Layout),
    /// Files in which classes are numbers.
    Numbered(Numbered<'a>),
}

impl<'a> Form<'a> {
    fn of(source: &'a Source, warnings: &mut Vec<String>) -> Result<Self> {
        Ok(match source {
            Source::Pictures(layout) => Self::Pictures(layout),
            Source::Idx(dir) => Self::Numbered(Numbered::in_idx_files(dir, warnings)?),
            Source::Cifar(dir) => Self::Numbered(Numbered::in_cifar_files(dir)?),
        })
    }
}

impl fmt::Debug for Loader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { progress, cache } = self;
        f.debug_struct("Loader").field("progress", &progress.is_some()).field("cache", cache).finish()
    }
}
