//! What the files of a dataset do not say: the names of its classes, whether its images lie on their side, and how pictures
//! become like them. It stands in `dataset.toml` beside them, or is known of well-known sets.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::{Document, check_classes};
use crate::error::{Error, Result};
use crate::files;

/// How a picture becomes an image like those that a network was trained on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preparation {
    /// As MNIST's digits were made: bright ink on black, sized and centred.
    #[default]
    Digit,
    /// Stretched to the input as it is.
    Picture,
    /// Stretched to the input; what stands on light ground is inverted, since the images are bright on black.
    PictureOnBlack,
}

/// What is known of a dataset besides its images and labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct About {
    /// Title, for people.
    pub(super) name: Option<String>,
    /// Names of the classes, in the order of their labels.
    pub(super) classes: Option<Vec<String>>,
    /// The label of the first class; without it the smallest in the training part.
    pub(super) first_label: Option<u8>,
    /// True if rows and columns of the images are exchanged, as in the files of EMNIST.
    pub(super) transpose: bool,
    /// How pictures become like the images.
    pub(super) prepare: Preparation,
}

/// Name of the file that says so, beside a dataset's files.
pub(crate) const FILE: &str = "dataset.toml";
const MOST_BYTES: u64 = 1 << 20;

impl About {
    /// What `dataset.toml` in a folder says, if there is one.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        let place = path.display().to_string();
        let fail = |message: String| Error::Config { path: place.clone(), line: None, message };
        let bytes = files::read_at_most(&path, MOST_BYTES)?
            .ok_or_else(|| fail("this file is too large for the description of a dataset".into()))?;
        let text = String::from_utf8(bytes).map_err(|_| fail("this is not a UTF-8 text file".into()))?;
        let about: Self = Document::parse(&text, &place)?.read()?;
        if let Some(names) = &about.classes {
            check_classes(names).map_err(fail)?;
            if names.len() < 2 || names.len() + usize::from(about.first_label.unwrap_or(0)) > 256 {
                return Err(fail(format!(
                    "classes has {} names; labels are at most 255, so there can be 2 to 256 classes",
                    names.len()
                )));
            }
        }
        Ok(Some(about))
    }

    /// What is known of the dataset with these files of images and labels.
    pub(super) fn known(images: &str, label_file: &[u8], labels: &[u8]) -> Self {
        if let Some(split) = emnist_split(images) {
            return Self {
                classes: emnist_classes(split),
                first_label: Some(u8::from(split == "letters")),
                transpose: true,
                ..Self::default()
            };
        }
        let hashes = [label_file, labels].map(|bytes| files::hex(&Sha256::digest(bytes)));
        let known =
            KNOWN.iter().find(|known| known.labels.iter().any(|label| hashes.contains(&(*label).to_owned())));
        known.map_or_else(Self::default, |known| Self {
            classes: Some(names(known.classes)),
            first_label: Some(0),
            prepare: Preparation::PictureOnBlack,
            ..Self::default()
        })
    }
}

/// A dataset that is recognised by its labels.
struct Known {
    classes: &'static [&'static str],
    /// SHA-256 of the labels in its files, a byte each, or of the files as they are published.
    labels: &'static [&'static str],
}

const KNOWN: &[Known] = &[
    Known {
        // Fashion-MNIST.
        classes: FASHION,
        labels: &[
            "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
            "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
        ],
    },
    Known {
        // KMNIST.
        classes: KMNIST,
        labels: &[
            "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        ],
    },
];

const FASHION: &[&str] = &[
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

/// The syllables of its hiragana.
const KMNIST: &[&str] = &["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"];

/// The split of EMNIST that a file belongs to, by its name: `emnist-letters-train-images-idx3-ubyte`.
fn emnist_split(file: &str) -> Option<&'static str> {
    let file = file.to_lowercase();
    let (_, rest) = file.split_once("emnist")?;
    let splits = ["byclass", "bymerge", "balanced", "letters", "digits", "mnist"];
    Some(
        splits.into_iter().find(|split| rest.trim_start_matches(['-', '_']).starts_with(split)).unwrap_or(""),
    )
}

/// Names of a split's classes. Where one stands for both cases of a letter, it has the name of the capital.
fn emnist_classes(split: &str) -> Option<Vec<String>> {
    let digits = '0'..='9';
    let capitals = 'A'..='Z';
    let classes: Vec<char> = match split {
        "byclass" => digits.chain(capitals).chain('a'..='z').collect(),
        // Small letters that do not look like their capitals.
        "bymerge" | "balanced" => digits.chain(capitals).chain("abdefghnqrt".chars()).collect(),
        "letters" => capitals.collect(),
        "digits" | "mnist" => digits.collect(),
        _ => return None,
    };
    Some(classes.into_iter().map(String::from).collect())
}

fn names(classes: &[&str]) -> Vec<String> {
    classes.iter().map(|&name| name.to_owned()).collect()
}
