//! Datasets in files whose labels are numbers: IDX and CIFAR. What becomes of the numbers: classes, which have names.

use std::path::Path;

use super::about::{About, FILE};
use super::{Dataset, HoldOut, Images, Part, Preparation, Sketch, Survey, cifar, class_named, entries, idx};
use crate::error::{Error, Result, shown};
use crate::tensor::Shape;

/// Such a dataset in a folder.
pub(super) struct Numbered<'a> {
    dir: &'a Path,
    is_cifar: bool,
    about: About,
}

impl<'a> Numbered<'a> {
    /// A folder of IDX files, with what is known of them.
    pub(super) fn in_idx_files(dir: &'a Path, warnings: &mut Vec<String>) -> Result<Self> {
        let about = match About::read(dir)? {
            Some(about) => about,
            None => {
                let known = idx::known(dir)?;
                if known.transpose {
                    warnings.push(format!(
                        "{}: EMNIST's files hold every image transposed, so the images were turned upright (files \
                         without emnist in their names are left as they are; `transpose` in dataset.toml decides)",
                        dir.display()
                    ));
                }
                known
            }
        };
        Ok(Self { dir, is_cifar: false, about })
    }

    /// A folder of CIFAR's files.
    pub(super) fn in_cifar_files(dir: &'a Path) -> Result<Self> {
        let about = About::read(dir)?.map_or_else(|| cifar::about(dir), Ok)?;
        Ok(Self { dir, is_cifar: true, about })
    }

    /// The images of a part as they are to be seen, with the labels of the files.
    pub(super) fn images(&self, part: Part) -> Result<Images> {
        if self.is_cifar {
            return cifar::read(self.dir, part);
        }
        let mut images = Images::from_idx(self.dir, part)?;
        if self.about.transpose {
            images.transpose();
        }
        Ok(images)
    }

    /// The training part with places of classes as labels, and its classes.
    fn train(&self, warnings: &mut Vec<String>) -> Result<(Images, Classes)> {
        let mut images = self.images(Part::Train)?;
        let classes =
            Classes::of(&self.about, &images.labels).map_err(|message| Error::data(self.dir, message))?;
        if self.about.first_label.is_none() && classes.first > 0 {
            warnings.push(format!(
                "{}: the labels begin at {}, so that is the first of {} classes",
                self.dir.display(),
                classes.first,
                classes.names.len()
            ));
        }
        images.labels.iter_mut().for_each(|label| *label -= classes.first);
        warnings.extend(images.unseen_labels(self.dir, &classes.names));
        Ok((images, classes))
    }

    pub(super) fn load(&self, mut warnings: Vec<String>) -> Result<Dataset> {
        let (train, classes) = self.train(&mut warnings)?;
        let mut test = self.images(Part::Test)?;
        if (train.height, train.width) != (test.height, test.width) {
            let message = format!(
                "training images are {}x{}, but test images are {}x{}; they must have the same size",
                train.height, train.width, test.height, test.width
            );
            return Err(Error::data(self.dir, message));
        }
        for (i, label) in test.labels.iter_mut().enumerate() {
            *label = classes.place(*label).ok_or_else(|| {
                let message = format!(
                    "label {label} of image {i} is not a class of the training set, whose labels are {} to {}",
                    classes.first,
                    classes.last()
                );
                let file = if self.is_cifar { Ok(self.dir.to_owned()) } else { idx::labels(self.dir, Part::Test) };
                file.map_or_else(|error| error, |file| Error::data(file, message))
            })?;
        }
        Ok(self.dataset(train, test, classes, warnings))
    }

    pub(super) fn hold_out(&self, which: impl Into<HoldOut>, mut warnings: Vec<String>) -> Result<Dataset> {
        let (all, classes) = self.train(&mut warnings)?;
        // Always the same images, whatever the seed, so that tuned runs can be compared.
        let (train, test) = all.hold_out(which)?;
        Ok(self.dataset(train, test, classes, warnings))
    }

    fn dataset(&self, train: Images, test: Images, classes: Classes, warnings: Vec<String>) -> Dataset {
        let (classes, named) = (classes.names, self.about.classes.is_some());
        let prepare = self.about.prepare;
        // No folder of pictures has these images.
        let sketch = (prepare != Preparation::Digit).then(Sketch::default);
        let (pictures, twelve_bit) = (false, false);
        Dataset { train, test, classes, named, pictures, prepare, twelve_bit, sketch, warnings }
    }

    /// The test part, labelled by places among `classes`, which are those of a network.
    pub(super) fn load_test(
        &self,
        classes: &[String],
        named_by_folders: bool,
        warnings: &mut Vec<String>,
    ) -> Result<Images> {
        let mut images = self.images(Part::Test)?;
        let bad = |message: String| Error::data(self.dir, message);
        let places: Vec<Option<usize>> = match &self.about.classes {
            Some(names) => {
                let first = usize::from(self.first_label()?);
                let by_name: Vec<_> = names.iter().map(|name| class_named(name, classes)).collect();
                let is_number = |name: &String| name.bytes().all(|byte| byte.is_ascii_digit());
                if by_name.iter().all(Option::is_some) {
                    let of = |label: usize| *by_name.get(label.checked_sub(first)?)?;
                    (0..256).map(of).collect()
                } else if classes.iter().all(is_number) && !names.iter().any(is_number) {
                    warnings.push(format!(
                        "{}: the classes of the model are numbers, so each label is taken for the class of its number: \
                         {}",
                        self.dir.display(),
                        some(names.iter().enumerate().map(|(at, name)| format!("{} for {name}", at + first)))
                    ));
                    self.by_number(classes)
                } else {
                    let unknown = names.iter().zip(by_name).filter(|(_, place)| place.is_none());
                    return Err(bad(format!(
                        "these are not the classes of the model: it has none called {}; its classes are {}",
                        some(unknown.map(|(name, _)| name.clone())),
                        some(classes.iter().cloned())
                    )));
                }
            }
            None => {
                let by_number = self.by_number(classes);
                let has_all = images.labels.iter().all(|&label| by_number[usize::from(label)].is_some());
                if named_by_folders || has_all {
                    by_number
                } else {
                    // The names of a model file stand for the labels in their order.
                    let first = usize::from(self.first_label()?);
                    let place =
                        |label: usize| label.checked_sub(first).filter(|&place| place < classes.len());
                    (0..256).map(place).collect()
                }
            }
        };
        for label in &mut images.labels {
            let Some(place) = places[usize::from(*label)] else {
                return Err(bad(format!(
                    "the label {label} is not a class of the model, whose classes are {}; a file {} with `classes = \
                     [...]` names labels",
                    some(classes.iter().cloned()),
                    self.dir.join(FILE).display()
                )));
            };
            *label = place as u8;
        }
        Ok(images)
    }

    /// For each label, the class that is called so.
    fn by_number(&self, classes: &[String]) -> Vec<Option<usize>> {
        (0..=u8::MAX).map(|label| class_named(&label.to_string(), classes)).collect()
    }

    /// The smallest label in the training part, if there is one.
    fn first_label(&self) -> Result<u8> {
        if let Some(first) = self.about.first_label {
            return Ok(first);
        }
        let labels = idx::labels(self.dir, Part::Train).and_then(|path| idx::read::<1>(&path));
        Ok(labels.map_or(0, |(_, labels)| labels.into_iter().min().unwrap_or(0)))
    }

    pub(super) fn survey(&self, mut warnings: Vec<String>) -> Result<Survey> {
        let (images, classes) = self.train(&mut warnings)?;
        let shape = Shape::new(images.channels, images.height, images.width);
        let (count, classes) = (images.count, classes.names);
        Ok(Survey { images: shape, count, classes, pictures: false, warnings })
    }
}

fn some(names: impl Iterator<Item = String>) -> String {
    let names: Vec<_> = names.map(|name| shown(&name).into_owned()).collect();
    entries::some(names.into_iter())
}

/// The classes of a training part.
struct Classes {
    names: Vec<String>,
    /// The label of the first.
    first: u8,
}

impl Classes {
    /// Those that are named, or one for each number from the smallest label to the largest.
    fn of(about: &About, labels: &[u8]) -> Result<Self, String> {
        let least = labels.iter().copied().min().unwrap_or(0);
        let most = labels.iter().copied().max().unwrap_or(0);
        let first = about.first_label.unwrap_or(least);
        let names = match &about.classes {
            Some(names) => names.clone(),
            None => (first..=most.max(first)).map(|label| label.to_string()).collect(),
        };
        let classes = Self { names, first };
        match [least, most].into_iter().find(|&label| classes.place(label).is_none()) {
            None => Ok(classes),
            Some(label) => Err(format!(
                "there are images with the label {label}, but the {} classes have the labels {first} to {}",
                classes.names.len(),
                classes.last()
            )),
        }
    }

    fn last(&self) -> usize {
        usize::from(self.first) + self.names.len() - 1
    }

    fn place(&self, label: u8) -> Option<u8> {
        label.checked_sub(self.first).filter(|&place| usize::from(place) < self.names.len())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::super::{Known, Loader, survey};
    use super::*;

    /// Images of 1x2 pixels with these labels in IDX files whose names begin with `prefix`.
    fn folder(prefix: &str, train: &[u8], test: &[u8]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let header = |dims: &[usize]| -> Vec<u8> {
            let sizes = dims.iter().flat_map(|&dim| (dim as u32).to_be_bytes());
            [0, 0, 8, dims.len() as u8].into_iter().chain(sizes).collect()
        };
        for (part, labels) in [("train", train), ("test", test)] {
            let path = |kind: &str| dir.path().join(format!("{prefix}{part}-{kind}-ubyte"));
            let pixels: Vec<u8> = labels.iter().flat_map(|&label| [label, 200]).collect();
            fs::write(path("images-idx3"), [header(&[labels.len(), 1, 2]), pixels].concat()).unwrap();
            fs::write(path("labels-idx1"), [header(&[labels.len()]), labels.to_vec()].concat()).unwrap();
        }
        dir
    }

    fn load(dir: &Path) -> Dataset {
        Dataset::load(dir, Shape::new(1, 1, 2)).unwrap()
    }

    fn known(classes: &[String], named_by_folders: bool) -> Known<'_> {
        Known { classes, named_by_folders, twelve_bit: false, sketch: None }
    }

    /// The labels of the test part for a network with these classes, and what is said.
    fn judged(dir: &Path, classes: &[&str], by_folders: bool) -> Result<(Vec<u8>, String), String> {
        let classes: Vec<String> = classes.iter().map(|&name| name.into()).collect();
        let loaded = Loader::new().load_test(dir, Shape::new(1, 1, 2), &known(&classes, by_folders));
        loaded.map(|(images, said)| (images.labels, said.join("\n"))).map_err(|error| error.to_string())
    }

    #[test]
    fn labels_that_begin_later_name_as_many_classes_as_there_are() {
        let dir = folder("", &[3, 1, 2, 3], &[2, 1]);
        let data = load(dir.path());
        assert_eq!((&data.classes[..], data.named), (&["1".into(), "2".into(), "3".into()][..], false));
        assert_eq!((&data.train.labels[..], &data.test.labels[..]), (&[2, 0, 1, 2][..], &[1, 0][..]));
        assert!(data.warnings[0].ends_with("the labels begin at 1, so that is the first of 3 classes"));
        assert_eq!(survey(dir.path()).unwrap().classes, data.classes);
        assert_eq!(Dataset::hold_out(dir.path(), Shape::new(1, 1, 2), 1).unwrap().classes, data.classes);
        // Networks of before had a class for 0; a model file may have names of its own.
        assert_eq!(judged(dir.path(), &["0", "1", "2", "3"], false).unwrap().0, [2, 1]);
        assert_eq!(judged(dir.path(), &["1", "2", "3"], false).unwrap().0, [1, 0]);
        assert_eq!(judged(dir.path(), &["a", "b", "c"], false).unwrap().0, [1, 0]);
        assert!(
            judged(dir.path(), &["a"], false)
                .unwrap_err()
                .contains("the label 2 is not a class of the model")
        );
        // A label that training does not have.
        let dir = folder("", &[1, 2], &[0, 1]);
        let message = Dataset::load(dir.path(), Shape::new(1, 1, 2)).unwrap_err().to_string();
        let words = "label 0 of image 0 is not a class of the training set, whose labels are 1 to 2";
        assert!(message.contains("test-labels-idx1-ubyte") && message.ends_with(words), "{message}");
    }

    #[test]
    fn a_description_names_classes_and_says_how_images_lie() {
        let dir = folder("", &[1, 2], &[2]);
        let describe = |text: &str| fs::write(dir.path().join("dataset.toml"), text).unwrap();
        describe(
            "name = \"x\"\nclasses = [\"shoe\", \"hat\"]\nfirst_label = 1\ntranspose = true\nprepare = \"picture_on_black\"\n",
        );
        let data = load(dir.path());
        assert_eq!((&data.classes[..], data.named), (&["shoe".into(), "hat".into()][..], true));
        assert_eq!((data.train.height, data.train.width, data.prepare), (2, 1, Preparation::PictureOnBlack));
        assert_eq!((&data.train.labels[..], data.warnings.len()), (&[0, 1][..], 0));

        assert_eq!(judged(dir.path(), &["hat", "coat", "shoe"], true).unwrap().0, [0]);
        let (labels, said) = judged(dir.path(), &["1", "2"], false).unwrap();
        assert!(labels == [1] && said.ends_with("class of its number: 1 for shoe, 2 for hat"), "{said}");
        for (classes, words) in [
            (&["hat", "scarf"][..], "it has none called shoe; its classes are hat, scarf"),
            (&["0"], "the label 2 is not a class of the model, whose classes are 0"),
        ] {
            let message = judged(dir.path(), classes, false).unwrap_err();
            assert!(message.contains(words), "{message}");
        }
        // The first label is the least of the training set.
        describe("classes = [\"shoe\", \"hat\"]\n");
        assert_eq!(judged(dir.path(), &["shoe", "hat"], true).unwrap().0, [1]);
        for (text, words) in [
            ("clases = []", "dataset.toml:1: "),
            ("classes = [\"a\", \"a\"]", "\"a\" appears twice"),
            ("classes = [\"a\"]", "classes has 1 names"),
            (
                "classes = [\"a\", \"b\"]\nfirst_label = 0",
                "there are images with the label 2, but the 2 classes have the labels 0 to 1",
            ),
            ("classes = [\"a\", \"b\"]\nfirst_label = 255", "2 names; labels are at most 255"),
            ("prepare = \"fast\"", "prepare"),
        ] {
            describe(text);
            let message = Dataset::load(dir.path(), Shape::new(1, 1, 2)).unwrap_err().to_string();
            assert!(message.contains(words), "{text}: {message}");
        }
    }

    #[test]
    fn splits_of_emnist_are_known_by_their_names() {
        let letters = folder("emnist-letters-", &[1, 26], &[2]);
        let data = load(letters.path());
        assert_eq!((data.classes.len(), &*data.classes[1], data.test.labels[0]), (26, "B", 1));
        assert!(data.named && data.prepare == Preparation::Digit && data.train.height == 2);
        let balanced = load(folder("emnist-balanced-", &[0, 46], &[46]).path());
        assert_eq!((balanced.classes.len(), &*balanced.classes[46]), (47, "t"));
        assert_eq!(load(folder("emnist-byclass-", &[0, 61], &[1]).path()).classes[61], "z");
        // A network of digits has no letters.
        let digits: Vec<String> = (0..10).map(|digit| digit.to_string()).collect();
        let digits: Vec<&str> = digits.iter().map(String::as_str).collect();
        let dir = folder("emnist-balanced-", &[0, 46], &[1]);
        assert!(judged(dir.path(), &digits, false).unwrap_err().contains("it has none called A, B, "));
        let dir = folder("emnist-digits-", &[0, 9], &[1]);
        assert_eq!(judged(dir.path(), &digits, false).unwrap().0, [1]);
    }

    /// Every record has its label as the value of all pixels but the first.
    fn cifar(dir: &Path, file: &str, labels: &[u8], hundred: bool) {
        let image = |&label: &u8| {
            let mut record = vec![label; 3073 + usize::from(hundred)];
            record[0] = if hundred { 99 } else { label };
            record[1 + usize::from(hundred)] = 7;
            record
        };
        fs::write(dir.join(file), labels.iter().flat_map(image).collect::<Vec<u8>>()).unwrap();
    }

    #[test]
    fn cifars_binary_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join("cifar-10-batches-bin");
        fs::create_dir(&path).unwrap();
        let names =
            ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
        fs::write(path.join("batches.meta.txt"), names.join("\n") + "\n\n").unwrap();
        for batch in 1..=5 {
            cifar(&path, &format!("data_batch_{batch}.bin"), &[batch, 9, 0], false);
        }
        cifar(&path, "test_batch.bin", &[3, 8], false);
        let data = Dataset::load(dir.path(), Shape::new(3, 32, 32)).unwrap();
        assert_eq!((data.train.count, data.train.shape()), (15, Shape::new(3, 32, 32)));
        assert_eq!(data.train.labels, [1, 9, 0, 2, 9, 0, 3, 9, 0, 4, 9, 0, 5, 9, 0]);
        assert_eq!((data.train.pixels[3072], data.train.pixels[3073]), (7, 9), "the second image");
        assert_eq!((&data.classes[..], data.prepare), (&names.map(str::to_owned)[..], Preparation::Picture));
        assert!(judged_colours(dir.path(), &["ship", "cat", "frog"]).unwrap_err().contains("airplane"));
        let mut turned = names;
        turned.reverse();
        assert_eq!(judged_colours(dir.path(), &turned).unwrap(), [6, 1]);

        let fails = |words: &str| {
            let message = Dataset::load(dir.path(), Shape::new(3, 32, 32)).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        };
        fs::write(path.join("SHA256SUMS"), "00  data_batch_2.bin\n").unwrap();
        fails("data_batch_2.bin: damaged: its SHA-256 is ");
        fs::remove_file(path.join("SHA256SUMS")).unwrap();
        cifar(&path, "data_batch_4.bin", &[10], false);
        fails("data_batch_4.bin: image 0 has the label 10; expected 0 to 9");
        fs::write(path.join("data_batch_4.bin"), [0; 3074]).unwrap();
        fails("3074 bytes; expected a multiple of 3073: a label and 32x32 pixels");
        fs::remove_file(path.join("data_batch_4.bin")).unwrap();
        fails("data_batch_4.bin");
        fs::write(path.join("batches.meta.txt"), "a\nb").unwrap();
        fails("batches.meta.txt: 2 names; expected one on a line for each of 10 classes");

        // A hundred classes: of two labels the second.
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..100).map(|class| format!("class {class}")).collect();
        fs::write(dir.path().join("fine_label_names.txt"), names.join("\n")).unwrap();
        cifar(dir.path(), "train.bin", &[42, 99], true);
        cifar(dir.path(), "test.bin", &[42], true);
        let data = Dataset::load(dir.path(), Shape::new(3, 32, 32)).unwrap();
        assert_eq!((&data.train.labels[..], data.classes[42].as_str()), (&[42, 99][..], "class 42"));
        assert_eq!(data.train.pixels[..2], [7, 42]);

        // The version for Python.
        let dir = tempfile::tempdir().unwrap();
        for name in ["batches.meta", "data_batch_1", "test_batch"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let message = Dataset::load(dir.path(), Shape::new(3, 32, 32)).unwrap_err().to_string();
        assert!(message.contains("files for Python (pickles); the binary version is read"), "{message}");
    }

    fn judged_colours(dir: &Path, classes: &[&str]) -> Result<Vec<u8>, String> {
        let classes: Vec<String> = classes.iter().map(|&name| name.into()).collect();
        let loaded = Loader::new().load_test(dir, Shape::new(3, 32, 32), &known(&classes, true));
        loaded.map(|(images, _)| images.labels).map_err(|error| error.to_string())
    }
}
