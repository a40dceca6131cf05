//! Many pictures: those in a folder, read on all processors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::Picture;
use crate::checkpoint::Checkpoint;
use crate::dataset::entries::{Entries, extension};
use crate::dataset::picture;
use crate::error::{Error, Result};
use crate::memory::Budget;
use crate::threads::on_all_processors;

/// The pictures in a folder and in the folders inside it, and what else is there.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Found {
    /// Files with the names of pictures that are read, folder by folder, sorted by name.
    pub pictures: Vec<PathBuf>,
    /// How many files there are with other names, by their extension in lower case, which may be empty. What is neither a
    /// file nor a folder counts as well, and a link to a folder, which is not followed.
    pub others: BTreeMap<String, usize>,
    /// Folders inside that cannot be read.
    pub errors: Vec<Error>,
}

/// Looks for pictures in a folder and in the folders inside it, but not in `without`. Names that start with a dot, and
/// folders that systems and programs make, are passed over.
///
/// # Errors
/// A folder that is missing or cannot be read; those inside it that cannot be read are in [`Found::errors`].
///
/// # Examples
/// ```
/// let found = shadernet::classify::pictures_in("data/digits".as_ref(), None)?;
/// assert!(found.pictures.len() == 20 && found.others["py"] == 1);
/// # Ok::<(), shadernet::Error>(())
/// ```
pub fn pictures_in(folder: &Path, without: Option<&Path>) -> Result<Found> {
    let without = without.and_then(|path| path.canonicalize().ok());
    let mut found = Found::default();
    // As a stack, so that no depth of folders is too deep.
    let mut folders = vec![folder.to_owned()];
    while let Some(path) = folders.pop() {
        let entries = match Entries::of(&path) {
            Ok(entries) => entries,
            Err(error) if path == folder => return Err(error),
            Err(error) => {
                found.errors.push(error);
                continue;
            }
        };
        found.pictures.extend(entries.pictures().cloned());
        let (links, inner): (Vec<_>, Vec<_>) =
            entries.folders.iter().cloned().partition(|path| path.is_symlink());
        for other in entries.others().chain(entries.odd.iter().map(|(path, _)| path)).chain(&links) {
            *found.others.entry(extension(other)).or_default() += 1;
        }
        let is_wanted = |path: &PathBuf| without.is_none() || path.canonicalize().ok() != without;
        folders.extend(inner.into_iter().filter(is_wanted).rev());
    }
    Ok(found)
}

/// A picture as a network takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prepared {
    /// [`Picture::input`].
    pub input: Vec<u8>,
    /// [`Picture::warning`].
    pub warning: Option<String>,
}

impl Prepared {
    /// Prepares a picture for a network.
    ///
    /// # Errors
    /// Those of [`Picture::input`].
    pub fn new(picture: Picture, checkpoint: &Checkpoint) -> Result<Self> {
        let warning = picture.warning(checkpoint);
        Ok(Self { input: picture.input(checkpoint)?, warning })
    }
}

/// Reads pictures on all processors and prepares them for a network: for each file what becomes of it, or why it is no
/// picture.
///
/// # Examples
/// ```
/// use shadernet::classify::{pictures_in, prepare_files};
/// use shadernet::{Checkpoint, Classifier, Device};
///
/// let seed = Checkpoint::seed()?;
/// let files = pictures_in("data/digits".as_ref(), None)?.pictures;
/// let inputs = prepare_files(&files, &seed).into_iter().map(|read| read.map(|read| read.input));
/// let inputs = inputs.collect::<shadernet::Result<Vec<_>>>()?;
/// let answers = Classifier::new(seed, &Device::cpu())?.classify_inputs(&inputs)?;
/// assert_eq!(answers.len(), files.len());
/// # Ok::<(), shadernet::Error>(())
/// ```
pub fn prepare_files(files: &[PathBuf], checkpoint: &Checkpoint) -> Vec<Result<Prepared>> {
    let budget = Budget::of_what_is_free();
    let one = |path: &PathBuf| {
        // The share is kept until the picture is small.
        let (decoded, _share) = picture::decode_file_within(path, &budget)?;
        Prepared::new(Picture::new(decoded, path.clone()), checkpoint)
    };
    match files {
        [file] => vec![one(file)],
        files => on_all_processors(|| files.par_iter().map(one).collect()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(dir: &Path, found: &[PathBuf]) -> Vec<String> {
        found.iter().map(|path| path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn folders_are_searched_whole_and_what_is_no_picture_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        for name in
            ["b.png", "a.JPG", "z/2.jpeg", "z/deep/er/1.png", "y/1.png", "notes.txt", "z/x.heic", "z/README"]
        {
            fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
            fs::write(dir.join(name), "").unwrap();
        }
        for hidden in [".cache", "@eaDir", "sorted"] {
            fs::create_dir(dir.join(hidden)).unwrap();
            fs::write(dir.join(hidden).join("1.png"), "").unwrap();
        }
        let found = pictures_in(dir, Some(&dir.join("z/../sorted"))).unwrap();
        let want = ["a.JPG", "b.png", "y/1.png", "z/2.jpeg", "z/deep/er/1.png"];
        assert_eq!(names(dir, &found.pictures), want);
        let others = [("", 1), ("heic", 1), ("txt", 1)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(found.others, others.into());
        assert_eq!(pictures_in(dir, None).unwrap().pictures.len(), want.len() + 1);
        assert!(pictures_in(&dir.join("none"), None).is_err());
        assert!(pictures_in(&dir.join("b.png"), None).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_a_picture_is_one_and_a_link_to_a_folder_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::write(dir.join("1.png"), "").unwrap();
        for (from, to) in [("1.png", "2.png"), (".", "loop"), ("nowhere", "3.png")] {
            std::os::unix::fs::symlink(from, dir.join(to)).unwrap();
        }
        let found = pictures_in(dir, None).unwrap();
        assert_eq!(names(dir, &found.pictures), ["1.png", "2.png"]);
        assert_eq!(found.others, [(String::new(), 1), ("png".to_owned(), 1)].into());
    }

    #[test]
    #[cfg(feature = "pictures")]
    fn every_file_has_its_picture_or_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let seed = Checkpoint::seed().unwrap();
        let digit = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/digits/7_bar.png");
        fs::write(dir.path().join("bad.png"), "<html>").unwrap();
        let files = [dir.path().join("bad.png"), digit.clone(), dir.path().join("none.png"), digit.clone()];
        let read = prepare_files(&files, &seed);
        let alone = Picture::open(&digit).unwrap().input(&seed).unwrap();
        for place in [1, 3] {
            assert_eq!(read[place].as_ref().unwrap().input, alone);
        }
        assert!(read[0].as_ref().unwrap_err().to_string().contains("an HTML page"));
        assert!(matches!(&read[2], Err(Error::Io { .. })));
        assert_eq!(prepare_files(&files[1..2], &seed)[0].as_ref().unwrap().input, alone);
    }
}
