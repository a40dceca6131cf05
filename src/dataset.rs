//! Labelled images: from IDX files, the format of MNIST and its relatives, or from a folder of pictures for each class.

mod about;
pub(crate) mod bitmap;
mod cache;
mod cifar;
#[cfg(feature = "pictures")]
mod decode;
pub(crate) mod entries;
#[cfg(feature = "pictures")]
mod exif;
mod file_names;
mod folders;
mod format;
mod hold_out;
mod idx;
mod images;
#[cfg(feature = "pictures")]
mod jpeg;
mod layout;
mod loader;
mod names;
mod numbered;
pub(crate) mod picture;
mod pictures;
mod reading;
pub(crate) mod resize;
mod sketch;
mod sums;

use std::path::Path;

#[cfg(feature = "download")]
pub(crate) use about::FILE as ABOUT_FILE;
pub use about::Preparation;
pub use file_names::FileNames;
pub use hold_out::HoldOut;
pub use images::Images;
pub use loader::{Loader, Progress};
pub(crate) use names::{class_named, same_name};
pub use sketch::Sketch;

use crate::error::Result;
use crate::tensor::Shape;

/// Why no picture file is read.
#[cfg(not(feature = "pictures"))]
const NO_PICTURES: &str =
    "this program was built without the feature `pictures` of the crate shadernet, which reads picture files";

/// No images may take more memory.
const MAX_BYTES: u64 = 1 << 31;

/// Which half of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `train-images-...` or `train/<class>/`: for learning.
    Train,
    /// `t10k-images-...`, `test-images-...` or `test/<class>/`: for judging.
    Test,
}

/// A training and a test set with the same image size and classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// For learning.
    pub train: Images,
    /// For judging.
    pub test: Images,
    /// One name per class: those of the folders, sorted; those that a dataset in files is known to have; or its labels, from
    /// the smallest to the largest of the training part.
    pub classes: Vec<String>,
    /// True if the classes have names, false if they are numbers.
    pub named: bool,
    /// True for pictures, which were stretched to the size of the input.
    pub pictures: bool,
    /// How other pictures become like the images.
    pub prepare: Preparation,
    /// True for pictures whose 16 bits hold values of 12, by which they were read.
    pub twelve_bit: bool,
    /// By what a network knows the training pictures again: empty for numbered files of anything but digits, `None` for digits.
    pub sketch: Option<Sketch>,
    /// What is odd about the data, a line each.
    pub warnings: Vec<String>,
}

/// What a trained network knows about the pictures that it takes.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// A name for each class.
    pub classes: &'a [String],
    /// True if the names are those of folders.
    pub named_by_folders: bool,
    /// [`Dataset::twelve_bit`].
    pub twelve_bit: bool,
    /// [`Dataset::sketch`].
    pub sketch: Option<&'a Sketch>,
}

/// What a network must fit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Survey {
    /// Channels and median size of the training images.
    pub images: Shape,
    /// How many there are.
    pub count: usize,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// True for pictures, which may be stretched to any size.
    pub pictures: bool,
    /// What is odd about the data, a line each.
    pub warnings: Vec<String>,
}

impl Dataset {
    /// Loads both parts: from four IDX files, gzipped or not, or from a folder of pictures for each class, which are
    /// stretched to `input`: `dir/train/<class>/` and `dir/test/<class>/`, or classes in `dir` or `dir/train` alone, of
    /// which a sixth is for judging. A dataset further down in `dir` is found if it is the only one.
    ///
    /// # Errors
    /// What [`Images::load`] refuses, parts of different image sizes, and test labels that training never shows. Of
    /// pictures: classes that only one part has or that have no pictures, fewer than two classes, and too many images.
    ///
    /// # Examples
    /// ```
    /// use std::path::Path;
    ///
    /// use shadernet::dataset::Dataset;
    /// use shadernet::tensor::Shape;
    ///
    /// let data = Dataset::load(Path::new("data/mnist"), Shape::new(1, 28, 28))?;
    /// assert_eq!((data.train.count, data.test.count, data.classes.len()), (60_000, 10_000, 10));
    /// # Ok::<(), shadernet::error::Error>(())
    /// ```
    pub fn load(dir: &Path, input: Shape) -> Result<Self> {
        Loader::new().load(dir, input)
    }

    /// Splits images off the training part, which take the place of the test part; that is not even read.
    ///
    /// # Errors
    /// As [`Dataset::load`], and when no image would be left.
    pub fn hold_out(dir: &Path, input: Shape, which: impl Into<HoldOut>) -> Result<Self> {
        Loader::new().hold_out(dir, input, which)
    }
}

/// An empty vector with room for this many bytes, if there is enough memory.
fn buffer(bytes: usize) -> Result<Vec<u8>, String> {
    let mut buffer = Vec::new();
    buffer
        .try_reserve_exact(bytes)
        .map_err(|_| format!("there is not enough memory for {bytes} bytes of images"))?;
    Ok(buffer)
}

/// What stands in a Git repository for a large file that was not fetched.
const LFS_POINTER: &str = "this is a Git LFS pointer, not the file itself; `git lfs pull` fetches the file";

fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(b"version https://git-lfs")
}

/// Looks at the training part of a dataset to find out which networks fit.
///
/// # Errors
/// As [`Dataset::hold_out`].
///
/// # Examples
/// ```
/// use shadernet::dataset::survey;
///
/// let found = survey("data/mnist".as_ref())?;
/// assert_eq!((found.count, found.images.to_string()), (60_000, "[1, 28, 28]".into()));
/// # Ok::<(), shadernet::error::Error>(())
/// ```
pub fn survey(dir: &Path) -> Result<Survey> {
    Loader::new().survey(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::{fs, io::Write};

    fn header(dims: &[u32]) -> Vec<u8> {
        let magic = [0, 0, 8, dims.len() as u8].into_iter();
        magic.chain(dims.iter().flat_map(|d| d.to_be_bytes())).collect()
    }

    fn idx(dims: &[u32], values: &[u8]) -> Vec<u8> {
        [&header(dims), values].concat()
    }

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn load(dir: &Path) -> Result<Dataset> {
        Dataset::load(dir, Shape::new(1, 28, 28))
    }

    const NAMES: [&str; 4] = [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ];

    /// A dataset of three training and two test images of 2x3 pixels.
    fn files() -> [Vec<u8>; 4] {
        let pixels: Vec<u8> = (0..18).collect();
        [idx(&[3, 2, 3], &pixels), idx(&[3], &[2, 0, 1]), idx(&[2, 2, 3], &pixels[..12]), idx(&[2], &[1, 2])]
    }

    fn folder(names: [&str; 4], files: &[Vec<u8>; 4]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in names.iter().zip(files) {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        dir
    }

    #[test]
    fn every_usual_naming_and_packing_loads_the_same() {
        let plain = load(folder(NAMES, &files()).path()).unwrap();
        assert_eq!(plain.classes, ["0", "1", "2"]);
        assert_eq!((plain.train.count, plain.test.count), (3, 2));
        assert_eq!((plain.train.height, plain.train.width), (2, 3));
        assert_eq!(plain.train.pixels, (0..18).collect::<Vec<u8>>());
        assert_eq!(plain.test.labels, [1, 2]);

        let packed = files().map(|bytes| gz(&bytes));
        let emnist = [
            "emnist-digits-train-images-idx3-ubyte.gz",
            "emnist-digits-train-labels-idx1-ubyte.gz",
            "emnist-digits-test-images-idx3-ubyte.gz",
            "emnist-digits-test-labels-idx1-ubyte.gz",
        ];
        let dotted = NAMES.map(|name| name.replace("-idx", ".idx"));
        let dotted = [0, 1, 2, 3].map(|i| dotted[i].as_str());
        for (names, files) in [(NAMES, &packed), (dotted, &files())] {
            assert_eq!(load(folder(names, files).path()).unwrap(), plain);
        }
        // A folder of its own for each, as some programs unpack them; beside the files such folders do not matter.
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in NAMES.iter().zip(&files()) {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join(name), bytes).unwrap();
        }
        assert_eq!(load(dir.path()).unwrap(), plain);
        for (name, bytes) in dotted.iter().zip(&files()) {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        assert_eq!(load(dir.path()).unwrap(), plain);
        // EMNIST's images are stored transposed.
        let upright = load(folder(emnist, &packed).path()).unwrap();
        assert_eq!((upright.train.height, upright.train.width), (3, 2));
        assert_eq!(upright.train.pixels[..7], [0, 3, 1, 4, 2, 5, 6]);
        assert_eq!(upright.test.labels, plain.test.labels);
        let turned = "transposed, so the images were turned upright";
        assert_eq!(upright.warnings.iter().filter(|warning| warning.contains(turned)).count(), 1);
        // The archive beside its contents is not ambiguous, nor a companion of macOS; a second dataset is.
        let dir = folder(NAMES, &files());
        fs::write(dir.path().join("._train-images-idx3-ubyte"), "").unwrap();
        fs::write(dir.path().join("train-images-idx3-ubyte.gz"), "").unwrap();
        assert_eq!(load(dir.path()).unwrap(), plain);
        fs::write(dir.path().join("x-train-images-idx3-ubyte"), "").unwrap();
        let message = load(dir.path()).unwrap_err().to_string();
        assert!(message.contains("keep one dataset"), "{message}");
    }

    #[test]
    fn bad_files_are_named_with_the_reason() {
        let [images, labels, test_images, _] = files();
        let packed = gz(&images);
        let damaged = [&packed[..packed.len() - 8], &[1; 8]].concat();
        let cases: &[(usize, &[u8], &str)] = &[
            (0, b"", "this is empty"),
            (0, b"<!DOCTYPE html>", "HTML"),
            (0, b"version https://git-lfs.github.com/spec/v1\n", "`git lfs pull` fetches the file"),
            (0, b"PK\x03\x04", "a ZIP archive"),
            (0, b"PNG?", "not an IDX file (it starts with"),
            (0, &[0, 0, 13, 3], "element type 0x0d"),
            (0, &labels, "this is an IDX labels file; expected an IDX im"),
            (3, &images, "this is an IDX images file; expected an IDX la"),
            (0, &images[..9], "the header needs 16 bytes, found 9"),
            (0, &images[..33], "declares 34 bytes, found 33"),
            (0, &gz(&images[..33]), "declares 34 bytes, found 33"),
            (0, &packed[..packed.len() - 12], "declares 34 bytes, found"),
            (0, &packed[..packed.len() - 1], "damaged at the end"),
            (0, &damaged, "damaged"),
            (0, &[0x1f, 0x8b, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9], "gzip"),
            (0, &[&images[..], &[0]].concat(), "longer than the 34"),
            (0, &gz(&[&images[..], &[0]].concat()), "longer than the 34"),
            (0, &[&packed[..], b"junk"].concat(), "damaged at the end"),
            (0, &idx(&[0, 2, 3], &[]), "at least one image"),
            (0, &idx(&[3, 0, 3], &[]), "sides must be 1 to 4096"),
            (0, &idx(&[3, 2, 4097], &[]), "sides must be 1 to 4096"),
            (0, &idx(&[1 << 25, 2, 3], &[]), "at most 16777216 images"),
            (0, &idx(&[1 << 24, 4096, 4096], &[]), "281474976710656 b"),
            (0, &idx(&[1 << 24, 8, 16], &[7]), "found 17"),
            (1, &idx(&[2], &[0, 1]), "2 labels, but"),
            (3, &idx(&[2], &[1, 7]), "label 7 of image 1"),
            (2, &idx(&[2, 3, 2], &test_images[16..]), "have the same size"),
        ];
        for (which, bytes, expected) in cases {
            let mut files = files();
            files[*which] = bytes.to_vec();
            let dir = folder(NAMES, &files);
            let message = load(dir.path()).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} for {expected:?}");
            let place = dir.path().display().to_string();
            assert!(message.starts_with(&place), "{message} says no place");
        }
        let dir = folder(NAMES, &files());
        fs::remove_file(dir.path().join(NAMES[2])).unwrap();
        let message = load(dir.path()).unwrap_err().to_string();
        assert!(message.contains("*t10k|test-images-idx3-ubyte"));
        assert!(Images::load(dir.path(), Part::Train).is_ok());
        assert!(load(Path::new("/no/such/folder")).is_err());
    }

    #[test]
    fn checksums_are_verified() {
        let dir = folder(NAMES, &files());
        let sums = |bytes: &[u8], name: &str| {
            use sha2::{Digest, Sha256};
            let hash = Sha256::digest(bytes);
            let hash: String = hash.iter().map(|b| format!("{b:02x}")).collect();
            let lines = format!("é\n\n00 é\n{hash} *{name}\nabc  other\n");
            fs::write(dir.path().join("SHA256SUMS"), lines).unwrap();
            load(dir.path()).map_err(|e| e.to_string())
        };
        assert!(sums(&files()[1], NAMES[1]).is_ok());
        // An editor's byte order mark is no part of the first checksum.
        fs::write(dir.path().join("SHA256SUMS"), format!("\u{feff}{:064} *{}\n", 0, NAMES[1])).unwrap();
        let message = load(dir.path()).unwrap_err().to_string();
        assert!(message.contains("says 0000"), "{message}");
        let message = sums(&files()[0], NAMES[1]).unwrap_err();
        assert!(message.contains(NAMES[1]) && message.contains("damaged: its SHA-256"));
        fs::write(dir.path().join("SHA256SUMS"), vec![b'x'; (1 << 20) + 1]).unwrap();
        let message = load(dir.path()).unwrap_err().to_string();
        assert!(message.contains("SHA256SUMS: larger than 1 MiB"), "{message}");
        // Sums that are there and cannot be read are no reason to trust the files.
        fs::remove_file(dir.path().join("SHA256SUMS")).unwrap();
        fs::create_dir(dir.path().join("SHA256SUMS")).unwrap();
        let message = load(dir.path()).unwrap_err().to_string();
        assert!(message.contains("SHA256SUMS"), "{message}");
    }

    #[test]
    fn labels_that_nobody_learns_are_named() {
        let mut files = files();
        files[1] = idx(&[3], &[3, 0, 3]);
        files[3] = idx(&[2], &[0, 3]);
        let dir = folder(NAMES, &files);
        let unseen = "no training image has the labels 1, 2 (the last label is 3), so nothing is learnt about these classes";
        for warnings in [load(dir.path()).unwrap().warnings, survey(dir.path()).unwrap().warnings] {
            assert!(warnings.len() == 1 && warnings[0].ends_with(unseen), "{warnings:?}");
        }
        assert_eq!(load(folder(NAMES, &self::files()).path()).unwrap().warnings, Vec::<String>::new());
    }

    #[test]
    fn classes_are_compared_by_name_and_numbers_by_value() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let sorted = names(&["0", "1", "10", "2"]);
        assert_eq!(
            ["2", "10", "02", "3", "x"].map(|name| class_named(name, &sorted)),
            [Some(3), Some(2), Some(3), None, None]
        );
        assert_eq!(class_named("1", &names(&["01", "001"])), None);
        assert_eq!(class_named("+1", &names(&["1"])), None);

        // Labels 1 and 2 of the test part.
        let dir = folder(NAMES, &files());
        let labels = |classes: &[&str], named_by_folders| {
            let classes = &names(classes);
            let known = Known { classes, named_by_folders, twelve_bit: false, sketch: None };
            let loaded = Loader::new().load_test(dir.path(), Shape::new(1, 2, 3), &known);
            loaded.map(|(images, _)| images.labels).map_err(|error| error.to_string())
        };
        assert_eq!(labels(&["0", "1", "10", "2"], true).unwrap(), [1, 3]);
        assert_eq!(labels(&["01", "02"], true).unwrap(), [0, 1]);
        // A model file's names are those of the labels in their order.
        assert_eq!(labels(&["shirt", "shoe", "hat"], false).unwrap(), [1, 2]);
        let message = labels(&["cat", "dog"], true).unwrap_err();
        assert!(
            message.contains("the label 1 is not a class of the model, whose classes are cat, dog; a file ")
        );
    }

    #[test]
    fn mnist_is_what_it_should_be() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mnist");
        let Dataset { train, test, classes, .. } = load(&dir).unwrap();
        assert_eq!((train.count, test.count, classes.len()), (60_000, 10_000, 10));
        assert_eq!((train.height, train.width, train.channels), (28, 28, 1));
        assert_eq!(train.labels[..5], [5, 0, 4, 1, 9]);
        assert_eq!(test.labels[..5], [7, 2, 1, 0, 4]);
        assert_eq!(train.normalization().to_string(), "mean 0.1307 and deviation 0.3081");
    }
}
