//! The binary files of CIFAR-10 and CIFAR-100: a label or two and 32x32 pixels in three colours, over and over.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::about::{About, Preparation};
use super::entries::{Entries, name_of};
use super::{FileNames, Images, Part, buffer, sums};
use crate::config::check_classes;
use crate::error::{Error, Result};
use crate::{files, memory};

const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;
/// CIFAR-100's largest file has 50,000 images.
const MOST_BYTES: u64 = 1 << 30;
const MOST_TEXT: u64 = 1 << 16;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Ten classes: a label before each image.
    Ten,
    /// A hundred: a label of a group of classes, which is not used, and one of a class.
    Hundred,
}

impl Kind {
    fn of(dir: &Path) -> Self {
        if dir.join("train.bin").exists() || dir.join("test.bin").exists() {
            Self::Hundred
        } else {
            Self::Ten
        }
    }

    fn labels(self) -> usize {
        match self {
            Self::Ten => 1,
            Self::Hundred => 2,
        }
    }

    fn classes(self) -> u8 {
        match self {
            Self::Ten => 10,
            Self::Hundred => 100,
        }
    }

    /// The file with the names of the classes, a line each.
    fn names_file(self) -> &'static str {
        match self {
            Self::Ten => "batches.meta.txt",
            Self::Hundred => "fine_label_names.txt",
        }
    }

    fn files(self, part: Part) -> Vec<String> {
        match (self, part) {
            (Self::Ten, Part::Train) => (1..=5).map(|number| format!("data_batch_{number}.bin")).collect(),
            (Self::Ten, Part::Test) => vec!["test_batch.bin".into()],
            (Self::Hundred, Part::Train) => vec!["train.bin".into()],
            (Self::Hundred, Part::Test) => vec!["test.bin".into()],
        }
    }
}

/// True if there are such files, with the list of names that tells them from others.
pub(super) fn are_in(entries: &Entries) -> bool {
    let names: Vec<_> = entries.files.iter().map(|file| name_of(file)).collect();
    let has = |name: &str| names.iter().any(|other| other == name);
    has("batches.meta.txt") && (has("data_batch_1.bin") || has("test_batch.bin"))
        || has("fine_label_names.txt") && (has("train.bin") || has("test.bin"))
}

/// What to do about the files of the version that Python alone reads.
pub(super) fn for_python(entries: &Entries) -> Option<String> {
    let has = |name: &str| entries.files.iter().any(|file| name_of(file) == name);
    let (ten, hundred) =
        (has("batches.meta") && has("data_batch_1"), has("meta") && has("train") && has("test"));
    (ten || hundred).then(|| {
        "these are CIFAR's files for Python (pickles); the binary version is read, cifar-10-binary.tar.gz or \
         cifar-100-binary.tar.gz"
            .into()
    })
}

/// The names of the classes, and how pictures become like the images.
pub(super) fn about(dir: &Path) -> Result<About> {
    let kind = Kind::of(dir);
    let path = dir.join(kind.names_file());
    let fail = |message: String| Error::data(&path, message);
    let text = files::read_at_most(&path, MOST_TEXT)?
        .ok_or_else(|| fail("this file is too large for a list of names".into()))?;
    let text = String::from_utf8_lossy(&text);
    let names: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if names.len() != usize::from(kind.classes()) {
        let message =
            format!("{} names; expected one on a line for each of {} classes", names.len(), kind.classes());
        return Err(fail(message));
    }
    check_classes(&names).map_err(fail)?;
    Ok(About {
        classes: Some(names),
        first_label: Some(0),
        prepare: Preparation::Picture,
        ..About::default()
    })
}

/// The images of a part.
pub(super) fn read(dir: &Path, part: Part) -> Result<Images> {
    let kind = Kind::of(dir);
    let record = kind.labels() + PIXELS;
    let paths: Vec<PathBuf> = kind.files(part).iter().map(|name| dir.join(name)).collect();
    let (pixels, labels, files) = (Vec::new(), Vec::new(), FileNames::default());
    let mut images = Images { count: 0, channels: 3, height: SIDE, width: SIDE, pixels, labels, files };
    for path in &paths {
        let bad = |message: String| Error::data(path, message);
        let mut file = files::open(path)?;
        let size = file.metadata().map_err(Error::io("read", path))?.len();
        if size > MOST_BYTES {
            return Err(bad(format!("this file has {size} bytes; CIFAR's have at most {MOST_BYTES}")));
        }
        memory::check(2 * size, &path.display().to_string(), "fewer images need less")?;
        sums::verify(path, &mut file)?;
        let mut bytes = buffer(size as usize).map_err(bad)?;
        file.read_to_end(&mut bytes).map_err(Error::io("read", path))?;
        if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
            let message = format!(
                "{} bytes; expected a multiple of {record}: {} and 32x32 pixels in three colours for each image",
                bytes.len(),
                if kind == Kind::Ten { "a label" } else { "two labels" }
            );
            return Err(bad(message));
        }
        let count = bytes.len() / record;
        let mut pixels = buffer(images.pixels.len() + count * PIXELS).map_err(bad)?;
        pixels.append(&mut images.pixels);
        for (number, image) in bytes.chunks_exact(record).enumerate() {
            let label = image[kind.labels() - 1];
            if label >= kind.classes() {
                let message =
                    format!("image {number} has the label {label}; expected 0 to {}", kind.classes() - 1);
                return Err(bad(message));
            }
            images.labels.push(label);
            pixels.extend_from_slice(&image[kind.labels()..]);
        }
        (images.pixels, images.count) = (pixels, images.count + count);
    }
    Ok(images)
}
