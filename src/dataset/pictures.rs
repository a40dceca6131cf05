//! Reads a folder of pictures for each class as labelled images of the size that a network takes.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::bitmap::is_faint;
use super::entries::{count_of, shown, some};
use super::folders::{Class, all_classes, classes, keep};
use super::layout::Layout;
use super::loader::Loader;
use super::reading::{self, File, Order, Range, Seen, holds_twelve_bits};
use super::sketch::Sketch;
use super::{Dataset, FileNames, Images, Known, Part, Preparation, Survey, class_named, picture};
use crate::error::{self, Error, Result};
use crate::memory::Budget;
use crate::tensor::Shape;
use crate::threads::on_all_processors;

/// The largest class may have this many times the images of the smallest without a warning.
const MAX_IMBALANCE: usize = 3;
/// Pictures that are looked at to propose a network.
const SAMPLE: usize = 500;
/// With fewer of the files that a network remembers, a folder is another one.
const SAME_FOLDER: f64 = 0.5;

/// The training part of a dataset.
pub(super) struct Training {
    pub(super) images: Images,
    pub(super) classes: Vec<String>,
    pub(super) twelve_bit: bool,
    pub(super) sketch: Sketch,
    pub(super) warnings: Vec<String>,
}

/// Both parts. Test images whose class training does not have, and classes that are not tested, are refused.
pub(super) fn load(
    loader: &Loader<'_>,
    layout: &Layout,
    input: Shape,
    mut warnings: Vec<String>,
) -> Result<Dataset> {
    let dir = &layout.root;
    check_input(dir, input)?;
    let train = classes(layout, Part::Train, &mut warnings)?;
    let test = classes(layout, Part::Test, &mut warnings)?;
    let names = names_of(&train);
    let [train_part, test_part] = [(&layout.train, "train"), (&layout.test, "test")]
        .map(|(part, name)| part.as_ref().map_or(name.to_owned(), |part| shown(part, dir)));
    if let Some(class) = test.iter().find(|class| class_named(&class.name, &names).is_none()) {
        let message = format!(
            "{test_part} has the class {:?}, but {train_part} does not, so it cannot be learnt",
            class.name
        );
        return Err(Error::data(dir, message));
    }
    let tested = names_of(&test);
    if let Some(name) = names.iter().find(|name| class_named(name, &tested).is_none()) {
        let message = format!(
            "{train_part} has the class {name:?}, but {test_part} does not; add test images there, or move the whole \
             folder {test_part} elsewhere, so that a sixth of each class is kept for testing"
        );
        return Err(Error::data(dir, message));
    }
    let read = read(loader, dir, [&train, &test], &names, input, Range::ByValues, &mut warnings)?;
    let [first, second] = read.parts;
    warnings.extend(imbalance(dir, &first.images, &names));
    warnings.extend(duplicates(dir, &first, &second));
    Ok(Dataset {
        train: first.images,
        test: second.images,
        classes: names,
        named: true,
        pictures: true,
        prepare: Preparation::Picture,
        twelve_bit: read.twelve_bit,
        sketch: Some(Sketch::of(&train)),
        warnings: once(warnings),
    })
}

/// The training part alone. The folder `test` is not read.
pub(super) fn load_train(
    loader: &Loader<'_>,
    layout: &Layout,
    input: Shape,
    mut warnings: Vec<String>,
) -> Result<Training> {
    let dir = &layout.root;
    check_input(dir, input)?;
    let train = classes(layout, Part::Train, &mut warnings)?;
    let names = names_of(&train);
    let read = read(loader, dir, [&train, &[]], &names, input, Range::ByValues, &mut warnings)?;
    let [Half { images, .. }, _] = read.parts;
    warnings.extend(imbalance(dir, &images, &names));
    let (twelve_bit, sketch) = (read.twelve_bit, Sketch::of(&train));
    Ok(Training { images, classes: names, twelve_bit, sketch, warnings: once(warnings) })
}

/// The test images, labelled by the place of their class among those that a network knows, and warnings. All pictures are test
/// images where no folder says otherwise, unless they are those that the network was trained on.
pub(super) fn load_test(
    loader: &Loader<'_>,
    layout: &Layout,
    input: Shape,
    known: &Known<'_>,
    mut warnings: Vec<String>,
) -> Result<(Images, Vec<String>)> {
    let (dir, names) = (&layout.root, known.classes);
    check_input(dir, input)?;
    let test = match layout.is_flat() {
        true => flat_test(layout, known, &mut warnings)?,
        false => classes(layout, Part::Test, &mut warnings)?,
    };
    if let Some(class) = test.iter().find(|class| class_named(&class.name, names).is_none()) {
        let message = format!(
            "{:?} is not a class of the model; its classes are {}",
            class.name,
            some(names.iter().map(|name| error::shown(name).into_owned()))
        );
        return Err(Error::data(dir, message));
    }
    let range = if known.twelve_bit { Range::Twelve } else { Range::Sixteen };
    let [Half { images, .. }, _] = read(loader, dir, [&test, &[]], names, input, range, &mut warnings)?.parts;
    Ok((images, once(warnings)))
}

/// What is judged of folders of classes that are not in parts.
fn flat_test(layout: &Layout, known: &Known<'_>, warnings: &mut Vec<String>) -> Result<Vec<Class>> {
    let dir = layout.root.display();
    let Some(sketch) = known.sketch else {
        warnings.push(format!(
            "{dir}: only the sixth of each class that a training keeps for testing is judged, since the model is of an older \
             shadernet and does not say which pictures it was trained on"
        ));
        return classes(layout, Part::Test, warnings);
    };
    let all = all_classes(layout, warnings)?;
    if sketch.share(&all) < SAME_FOLDER {
        let count: usize = all.iter().map(|class| class.files.len()).sum();
        warnings.push(format!(
            "{dir}: all {count} pictures are judged, since the model was not trained on this folder"
        ));
        return Ok(all);
    }
    let mut test = all;
    keep(&layout.root, &mut test, Part::Test)?;
    if sketch.share(&test) > 0.0 {
        warnings.push(format!(
            "{dir}: the model was trained on all pictures of this folder, so the accuracy says nothing about others"
        ));
    }
    Ok(test)
}

fn names_of(classes: &[Class]) -> Vec<String> {
    classes.iter().map(|class| class.name.clone()).collect()
}

/// Each warning once: where one folder holds both parts, it is listed twice.
fn once(mut warnings: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    warnings.retain(|warning| seen.insert(warning.clone()));
    warnings
}

/// Fails if no picture can become an input.
#[cfg(feature = "pictures")]
fn check_input(dir: &Path, input: Shape) -> Result<()> {
    if [1, 3].contains(&input.channels) {
        return Ok(());
    }
    let message =
        format!("pictures have 1 channel (grey) or 3 (RGB), but the model takes {}", input.channels);
    Err(Error::data(dir, message).with(error::Remedy::FitModel(dir.to_owned())))
}

/// Fails, since no picture can be read.
#[cfg(not(feature = "pictures"))]
fn check_input(dir: &Path, _: Shape) -> Result<()> {
    Err(Error::data(dir, format!("here are folders of pictures, but {}", super::NO_PICTURES)))
}

/// What was read: two parts, and whether their pictures of 16 bits hold 12.
struct Read {
    parts: [Half; 2],
    twelve_bit: bool,
}

/// The images of a part, and what the pixels of each are known by.
struct Half {
    images: Images,
    prints: Vec<[u64; 2]>,
}

/// Reads the pictures of two parts; those that cannot be read are left out with a warning.
fn read(
    loader: &Loader<'_>,
    dir: &Path,
    parts: [&[Class]; 2],
    names: &[String],
    input: Shape,
    range: Range,
    warnings: &mut Vec<String>,
) -> Result<Read> {
    let files = parts.map(|classes| files_of(classes, names));
    let order = Order { dir, parts: [&files[0], &files[1]], input, range };
    let done = order.carry_out(loader)?;
    let twelve_bit = match range {
        Range::ByValues => holds_twelve_bits(done.iter().flat_map(|part| &part.seen)),
        Range::Twelve => true,
        Range::Sixteen => false,
    };
    let mut odd = Odd::default();
    let [first, second] = done;
    let [first, second] = [(first, &files[0]), (second, &files[1])]
        .map(|(part, files)| odd.sort_out(dir, part, files, input, twelve_bit));
    for (half, classes) in [&first, &second].into_iter().zip(parts) {
        let label = |class: &&Class| class_named(&class.name, names).map(|label| label as u8);
        let unread = |class: &&Class| label(class).is_some_and(|label| !half.images.labels.contains(&label));
        if let Some(class) = classes.iter().find(unread) {
            let message = format!(
                "none of the {} pictures of the class {:?} can be read",
                class.files.len(),
                class.name
            );
            return Err(Error::data(dir, message));
        }
    }
    warnings.extend(odd.warnings(dir, twelve_bit && range == Range::ByValues));
    Ok(Read { parts: [first, second], twelve_bit })
}

fn files_of(classes: &[Class], names: &[String]) -> Vec<File> {
    let labelled = classes.iter().flat_map(|class| {
        let label = class_named(&class.name, names).expect("classes were compared") as u8;
        class.files.iter().map(move |path| File { path: path.clone(), label })
    });
    labelled.collect()
}

/// What is worth saying about files.
#[derive(Default)]
struct Odd {
    unreadable: Vec<String>,
    faint: Vec<String>,
    twelve_bit: usize,
    first_of_several: Vec<String>,
}

impl Odd {
    /// The images of the files that could be read.
    fn sort_out(
        &mut self,
        dir: &Path,
        part: reading::Part,
        files: &[File],
        input: Shape,
        twelve_bit: bool,
    ) -> Half {
        let Shape { channels, height, width } = input;
        let (size, mut pixels) = (input.len(), part.pixels);
        let (mut labels, mut prints) = (Vec::new(), Vec::new());
        let mut names = FileNames::default();
        for (index, (file, seen)) in files.iter().zip(part.seen).enumerate() {
            let name = || shown(&file.path, dir);
            match seen {
                Seen::Good { print, most, has_more } => {
                    pixels.copy_within(index * size..(index + 1) * size, prints.len() * size);
                    labels.push(file.label);
                    names.push(&name());
                    prints.push(print);
                    let is_widened = twelve_bit && most.is_some_and(|most| most < reading::TWELVE_BITS);
                    self.twelve_bit += usize::from(is_widened);
                    self.faint.extend((!is_widened && most.is_some_and(is_faint)).then(name));
                    self.first_of_several.extend(has_more.then(name));
                }
                Seen::Bad(reason) => self.unreadable.push(format!("{}: {reason}", name())),
            }
        }
        pixels.truncate(prints.len() * size);
        let images = Images { count: prints.len(), channels, height, width, pixels, labels, files: names };
        Half { images, prints }
    }

    /// A line for each kind.
    fn warnings(self, dir: &Path, found_twelve_bits: bool) -> Vec<String> {
        let dir = dir.display();
        let mut warnings = Vec::new();
        let mut say = |names: Vec<String>, what: &str| {
            if !names.is_empty() {
                let count = count_of(names.len(), "picture");
                warnings.push(format!("{dir}: {count} {what}: {}", some(names.into_iter())));
            }
        };
        say(self.unreadable, "skipped, since unreadable");
        say(
            self.first_of_several,
            "the first of several in an animation or document, and the others are not read",
        );
        say(
            self.faint,
            "nearly black, since their values use only part of 16 bits; stretch them to the full range, for example with \
             `mogrify -auto-level`",
        );
        if found_twelve_bits {
            warnings.push(format!(
                "{dir}: {} taken as of 12 bits, since no value in the files of 16 bits is above 4095",
                count_of(self.twelve_bit, "picture")
            ));
        }
        warnings
    }
}

/// A warning if one class has many times the training images of another.
fn imbalance(dir: &Path, train: &Images, names: &[String]) -> Option<String> {
    let count = |class: usize| train.labels.iter().filter(|&&label| usize::from(label) == class).count();
    let counts: Vec<(usize, &String)> =
        names.iter().enumerate().map(|(class, name)| (count(class), name)).collect();
    let (most, largest) = counts.iter().max()?;
    let (least, smallest) = counts.iter().min()?;
    (*most > MAX_IMBALANCE * least).then(|| {
        format!(
            "{}: classes are of unequal size: {largest:?} has {most} training images, {smallest:?} only {least}; the \
             accuracy will say little about small classes",
            dir.display()
        )
    })
}

/// A warning if test images are among the training images.
fn duplicates(dir: &Path, train: &Half, test: &Half) -> Option<String> {
    let known: HashMap<_, _> = train.prints.iter().zip(0..).collect();
    let name = |half: &Half, image: usize| half.images.files.get(image).unwrap_or_default().to_owned();
    let same = |(print, image)| {
        known.get(print).map(|&twin| format!("{} = {}", name(test, image), name(train, twin)))
    };
    let twins: Vec<String> = test.prints.iter().zip(0..).filter_map(same).collect();
    let count = match twins.len() {
        0 => return None,
        1 => "one test image has".to_owned(),
        count => format!("{count} test images have"),
    };
    let twins = some(twins.into_iter());
    Some(format!(
        "{}: {count} the same pixels as a training image, so the accuracy is too optimistic: {twins}",
        dir.display()
    ))
}

/// Median size and channels of the training pictures.
pub(super) fn survey(loader: &Loader<'_>, layout: &Layout, mut warnings: Vec<String>) -> Result<Survey> {
    let dir = &layout.root;
    check_input(dir, Shape::new(3, 1, 1))?;
    let train = classes(layout, Part::Train, &mut warnings)?;
    let names = train.iter().map(|class| class.name.clone()).collect();
    let files: Vec<&PathBuf> = train.iter().flat_map(|class| &class.files).collect();
    let look = |budget: &Budget, file: &Path| -> Result<Option<(usize, usize, bool)>> {
        match picture::decode_within(&picture::read_file(file)?, file, budget) {
            Ok((picture, _share)) => {
                let (width, height) = picture.bitmap.size();
                Ok(Some((height, width, picture.bitmap.is_coloured())))
            }
            Err(Error::Data { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    };
    let sample = files.len().div_ceil(SAMPLE);
    let done = AtomicUsize::new(0);
    let seen: Vec<Option<_>> = on_all_processors(|| {
        let budget = Budget::of_what_is_free();
        let one = |file: &&PathBuf| {
            let seen = look(&budget, file);
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some(progress) = loader.progress {
                progress(done, files.len().div_ceil(sample));
            }
            seen
        };
        files.par_iter().step_by(sample).map(one).collect::<Result<_>>()
    })?;
    let seen: Vec<(usize, usize, bool)> = seen.into_iter().flatten().collect();
    if seen.is_empty() {
        return Err(Error::data(dir, "none of its pictures can be read"));
    }
    let median = |side: fn(&(usize, usize, bool)) -> usize| {
        let mut sides: Vec<usize> = seen.iter().map(side).collect();
        sides.sort_unstable();
        sides[sides.len() / 2]
    };
    let channels = if seen.iter().any(|&(.., colour)| colour) { 3 } else { 1 };
    let images = Shape::new(channels, median(|&(height, ..)| height), median(|&(_, width, _)| width));
    Ok(Survey { images, count: files.len(), classes: names, pictures: true, warnings: once(warnings) })
}

#[cfg(feature = "pictures")]
#[cfg(test)]
mod tests {
    use super::*;

    fn read_class(dir: &Path) -> Result<(Images, Vec<String>)> {
        let files = [dir.join("1.png"), dir.join("2.png")].to_vec();
        let class = Class { name: "a".into(), files };
        let (names, input) = (["a".to_owned()], Shape::new(1, 4, 4));
        let mut warnings = Vec::new();
        let parts = [&[class][..], &[]];
        let read = read(&Loader::new(), dir, parts, &names, input, Range::ByValues, &mut warnings)?;
        let [Half { images, .. }, _] = read.parts;
        Ok((images, warnings))
    }

    #[test]
    fn what_the_system_refuses_is_no_bad_picture() {
        let dir = tempfile::tempdir().unwrap();
        image::GrayImage::new(4, 4).save(dir.path().join("1.png")).unwrap();
        let error = read_class(dir.path()).err().unwrap();
        assert!(matches!(&error, Error::Io { path, .. } if path.ends_with("2.png")), "{error}");
        std::fs::write(dir.path().join("2.png"), "<html>").unwrap();
        let (images, warnings) = read_class(dir.path()).unwrap();
        assert!(
            images.count == 1 && warnings[0].contains("one picture is skipped, since unreadable"),
            "{warnings:?}"
        );
    }

    fn save_deep(path: PathBuf, most: u16) {
        let picture =
            image::ImageBuffer::from_fn(4, 4, |x, y| image::Luma([most / (1 + x as u16 * y as u16)]));
        image::DynamicImage::from(picture).save(path).unwrap();
    }

    #[test]
    fn pictures_that_use_a_part_of_their_bits_are_named() {
        let dir = tempfile::tempdir().unwrap();
        image::GrayImage::new(4, 4).save(dir.path().join("1.png")).unwrap();
        let deep = |most: u16| {
            save_deep(dir.path().join("2.png"), most);
            read_class(dir.path()).unwrap().1
        };
        let warnings = deep(9000);
        assert!(warnings[0].contains("nearly black") && warnings[0].ends_with(": 2.png"), "{warnings:?}");
        assert_eq!(deep(60_000), Vec::<String>::new());
    }

    #[test]
    fn values_of_12_bits_are_found_by_their_range() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second] = [1, 2].map(|name| dir.path().join(format!("{name}.png")));
        save_deep(first.clone(), 4095);
        save_deep(second.clone(), 2000);
        let (images, warnings) = read_class(dir.path()).unwrap();
        let words =
            "2 pictures are taken as of 12 bits, since no value in the files of 16 bits is above 4095";
        assert!(warnings.len() == 1 && warnings[0].ends_with(words), "{warnings:?}");
        assert_eq!((images.pixels[0], images.pixels[15]), (255, 25));
        // 2000 of 4095.
        assert_eq!(images.pixels[16], 125);
        // One picture of 16 bits, and all are; the others are dark.
        save_deep(first, 4096);
        let (images, warnings) = read_class(dir.path()).unwrap();
        assert!(warnings.len() == 1 && warnings[0].contains("2 pictures are nearly black"), "{warnings:?}");
        assert_eq!((images.pixels[0], images.pixels[16]), (16, 8));
        // Black ones and those of 8 bits do not matter.
        image::GrayImage::from_pixel(4, 4, image::Luma([200])).save(&second).unwrap();
        save_deep(dir.path().join("1.png"), 4000);
        let (images, warnings) = read_class(dir.path()).unwrap();
        assert!(warnings[0].contains("one picture is taken as of 12 bits"), "{warnings:?}");
        assert_eq!((images.pixels[0], images.pixels[16]), (249, 200));
        save_deep(second, 0);
        assert_eq!(read_class(dir.path()).unwrap().0.pixels[0], 249);
    }
}
