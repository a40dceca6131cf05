//! Reads a folder of pictures for each class as labelled images of the size that a network takes.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::bitmap::Raster;
use super::entries::{count_of, shown, some};
use super::folders::{Class, classes};
use super::layout::Layout;
use super::resize::stretch;
use super::{Dataset, FileNames, Images, MAX_BYTES, Part, Survey, buffer, class_named, picture};
use crate::error::{self, Error, Remedy, Result};
use crate::memory::{self, Budget};
use crate::tensor::Shape;
use crate::threads::on_all_processors;

/// The largest class may have this many times the images of the smallest without a warning.
const MAX_IMBALANCE: usize = 3;
/// Pictures that are looked at to propose a network.
const SAMPLE: usize = 500;

/// Both parts. Test images whose class training does not have, and classes that are not tested, are refused.
pub(super) fn load(layout: &Layout, input: Shape, mut warnings: Vec<String>) -> Result<Dataset> {
    let dir = &layout.root;
    check_channels(dir, input)?;
    let train = classes(layout, Part::Train, &mut warnings)?;
    let test = classes(layout, Part::Test, &mut warnings)?;
    let names: Vec<String> = train.iter().map(|class| class.name.clone()).collect();
    let [train_part, test_part] = [(&layout.train, "train"), (&layout.test, "test")]
        .map(|(part, name)| part.as_ref().map_or(name.to_owned(), |part| shown(part, dir)));
    if let Some(class) = test.iter().find(|class| class_named(&class.name, &names).is_none()) {
        let message = format!(
            "{test_part} has the class {:?}, but {train_part} does not, so it cannot be learnt",
            class.name
        );
        return Err(Error::data(dir, message));
    }
    let tested: Vec<String> = test.iter().map(|class| class.name.clone()).collect();
    if let Some(name) = names.iter().find(|name| class_named(name, &tested).is_none()) {
        let message = format!(
            "{train_part} has the class {name:?}, but {test_part} does not; add test images there, or move the whole \
             folder {test_part} elsewhere, so that a sixth of each class is kept for testing"
        );
        return Err(Error::data(dir, message));
    }
    let train = read(dir, &train, &names, input, &mut warnings)?;
    let test = read(dir, &test, &names, input, &mut warnings)?;
    warnings.extend(imbalance(dir, &train.images, &names));
    warnings.extend(duplicates(dir, &train, &test));
    Ok(Dataset {
        train: train.images,
        test: test.images,
        classes: names,
        pictures: true,
        warnings: once(warnings),
    })
}

/// The training images, the names of the classes, and warnings. The folder `test` is not read.
pub(super) fn load_train(
    layout: &Layout,
    input: Shape,
    mut warnings: Vec<String>,
) -> Result<(Images, Vec<String>, Vec<String>)> {
    let dir = &layout.root;
    check_channels(dir, input)?;
    let train = classes(layout, Part::Train, &mut warnings)?;
    let names: Vec<String> = train.iter().map(|class| class.name.clone()).collect();
    let images = read(dir, &train, &names, input, &mut warnings)?.images;
    warnings.extend(imbalance(dir, &images, &names));
    Ok((images, names, once(warnings)))
}

/// The test images, labelled by the place of their class in `names`, and warnings.
pub(super) fn load_test(
    layout: &Layout,
    input: Shape,
    names: &[String],
    mut warnings: Vec<String>,
) -> Result<(Images, Vec<String>)> {
    let dir = &layout.root;
    check_channels(dir, input)?;
    let test = classes(layout, Part::Test, &mut warnings)?;
    if let Some(class) = test.iter().find(|class| class_named(&class.name, names).is_none()) {
        let message = format!(
            "{:?} is not a class of the model; its classes are {}",
            class.name,
            some(names.iter().map(|name| error::shown(name).into_owned()))
        );
        return Err(Error::data(dir, message));
    }
    let images = read(dir, &test, names, input, &mut warnings)?.images;
    Ok((images, once(warnings)))
}

/// Each warning once: where one folder holds both parts, it is listed twice.
fn once(mut warnings: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    warnings.retain(|warning| seen.insert(warning.clone()));
    warnings
}

fn check_channels(dir: &Path, input: Shape) -> Result<()> {
    if [1, 3].contains(&input.channels) {
        return Ok(());
    }
    let message =
        format!("pictures have 1 channel (grey) or 3 (RGB), but the model takes {}", input.channels);
    Err(Error::data(dir, message).with(Remedy::FitModel(dir.to_owned())))
}

/// A file that was read: a hash of its decoded pixels, or why it is no picture.
enum Seen {
    Good { hash: [u8; 32], faint: bool },
    Bad(String),
}

/// Images, and for each its file and a hash of the decoded pixels.
struct Read {
    images: Images,
    files: Vec<PathBuf>,
    hashes: Vec<[u8; 32]>,
}

/// Reads the pictures on all processors; those that cannot be read are left out with a warning.
fn read(
    dir: &Path,
    classes: &[Class],
    names: &[String],
    input: Shape,
    warnings: &mut Vec<String>,
) -> Result<Read> {
    let label = |name: &str| class_named(name, names).expect("classes were compared");
    let mut files: Vec<(&PathBuf, u8)> = Vec::new();
    for class in classes {
        let label = label(&class.name) as u8;
        files.extend(class.files.iter().map(|file| (file, label)));
    }
    let (count, size) = (files.len(), input.len());
    let bytes = count as u64 * size as u64;
    if bytes > MAX_BYTES {
        let message = format!(
            "{count} pictures of {input} (channels, height, width) take {bytes} bytes, but at most {MAX_BYTES} are \
             supported; a model with a smaller input needs less"
        );
        return Err(Error::data(dir, message));
    }
    let what = format!("{}: {count} pictures of {input}", dir.display());
    memory::check(bytes, &what, "a model with a smaller input needs less")?;
    let mut pixels = buffer(bytes as usize).map_err(|message| Error::data(dir, message))?;
    pixels.resize(bytes as usize, 0);
    let read: Vec<Result<Seen>> = on_all_processors(|| {
        let budget = Budget::of_what_is_free();
        let one = |((file, _), pixels): (&(&PathBuf, u8), &mut [u8])| -> Result<Seen> {
            // What the system refuses ends the work; only what is in the file may be at fault.
            let bytes = picture::read_file(file)?;
            let (picture, _share) = match picture::decode_within(&bytes, file, &budget) {
                Ok(picture) => picture,
                Err(error @ Error::Data { .. }) => return Ok(Seen::Bad(error.to_string())),
                Err(error) => return Err(error),
            };
            let faint = picture.faint().is_some();
            let flat = picture.flatten(input.channels);
            pixels.copy_from_slice(&stretch(&flat, input));
            Ok(Seen::Good { hash: hash(&flat), faint })
        };
        files.par_iter().zip(pixels.par_chunks_exact_mut(size)).map(one).collect()
    });
    let mut kept = Read {
        images: Images {
            count: 0,
            channels: input.channels,
            height: input.height,
            width: input.width,
            pixels: Vec::new(),
            labels: Vec::new(),
            files: FileNames::default(),
        },
        files: Vec::new(),
        hashes: Vec::new(),
    };
    let mut failures = Vec::new();
    let mut faint_files = Vec::new();
    for (index, ((file, label), seen)) in files.iter().zip(read).enumerate() {
        match seen? {
            Seen::Good { hash, faint } => {
                pixels.copy_within(index * size..(index + 1) * size, kept.files.len() * size);
                kept.images.labels.push(*label);
                kept.images.files.push(&shown(file, dir));
                kept.files.push((*file).clone());
                kept.hashes.push(hash);
                faint_files.extend(faint.then(|| shown(file, dir)));
            }
            Seen::Bad(reason) => failures.push(reason),
        }
    }
    kept.images.count = kept.files.len();
    pixels.truncate(kept.images.count * size);
    kept.images.pixels = pixels;
    if let Some(class) =
        classes.iter().find(|class| !kept.images.labels.contains(&(label(&class.name) as u8)))
    {
        let message =
            format!("none of the {} pictures of the class {:?} can be read", class.files.len(), class.name);
        return Err(Error::data(dir, message));
    }
    if !failures.is_empty() {
        let count = count_of(failures.len(), "picture");
        let failures = some(failures.into_iter());
        warnings.push(format!("{}: {count} skipped, since unreadable: {failures}", dir.display()));
    }
    if !faint_files.is_empty() {
        warnings.push(format!(
            "{}: {} nearly black, since their values use only part of 16 bits; stretch them to the full range, for \
             example with `mogrify -auto-level`: {}",
            dir.display(),
            count_of(faint_files.len(), "picture"),
            some(faint_files.into_iter())
        ));
    }
    Ok(kept)
}

fn hash(flat: &Raster<u8>) -> [u8; 32] {
    let size = [flat.width.to_le_bytes(), flat.height.to_le_bytes()].concat();
    Sha256::new().chain_update(size).chain_update(&flat.samples).finalize().into()
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
fn duplicates(dir: &Path, train: &Read, test: &Read) -> Option<String> {
    let known: HashMap<_, _> = train.hashes.iter().zip(&train.files).collect();
    let same = |(hash, file): (_, &PathBuf)| {
        known.get(hash).map(|twin| format!("{} = {}", shown(file, dir), shown(twin, dir)))
    };
    let twins: Vec<String> = test.hashes.iter().zip(&test.files).filter_map(same).collect();
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
pub(super) fn survey(layout: &Layout, mut warnings: Vec<String>) -> Result<Survey> {
    let dir = &layout.root;
    let train = classes(layout, Part::Train, &mut warnings)?;
    let names = train.iter().map(|class| class.name.clone()).collect();
    let files: Vec<&PathBuf> = train.iter().flat_map(|class| &class.files).collect();
    let look = |budget: &Budget, file: &Path| -> Result<Option<(usize, usize, bool)>> {
        match picture::decode_within(&picture::read_file(file)?, file, budget) {
            Ok((picture, _share)) => {
                let (width, height) = picture.size();
                Ok(Some((height, width, picture.is_coloured())))
            }
            Err(Error::Data { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    };
    let sample = files.len().div_ceil(SAMPLE);
    let seen: Vec<Option<_>> = on_all_processors(|| {
        let budget = Budget::of_what_is_free();
        files.par_iter().step_by(sample).map(|file| look(&budget, file)).collect::<Result<_>>()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read_class(dir: &Path) -> Result<(usize, Vec<String>)> {
        let files = [dir.join("1.png"), dir.join("2.png")].to_vec();
        let class = Class { name: "a".into(), files };
        let mut warnings = Vec::new();
        let read = read(dir, &[class], &["a".to_owned()], Shape::new(1, 4, 4), &mut warnings)?;
        Ok((read.images.count, warnings))
    }

    #[test]
    fn what_the_system_refuses_is_no_bad_picture() {
        let dir = tempfile::tempdir().unwrap();
        image::GrayImage::new(4, 4).save(dir.path().join("1.png")).unwrap();
        let error = read_class(dir.path()).err().unwrap();
        assert!(matches!(&error, Error::Io { path, .. } if path.ends_with("2.png")), "{error}");
        std::fs::write(dir.path().join("2.png"), "<html>").unwrap();
        let (count, warnings) = read_class(dir.path()).unwrap();
        assert!(
            count == 1 && warnings[0].contains("one picture is skipped, since unreadable"),
            "{warnings:?}"
        );
    }

    #[test]
    fn pictures_that_use_a_part_of_their_bits_are_named() {
        let dir = tempfile::tempdir().unwrap();
        image::GrayImage::new(4, 4).save(dir.path().join("1.png")).unwrap();
        let deep = |most: u16| {
            let picture =
                image::ImageBuffer::from_fn(4, 4, |x, y| image::Luma([most / (1 + x as u16 * y as u16)]));
            image::DynamicImage::from(picture).save(dir.path().join("2.png")).unwrap();
            read_class(dir.path()).unwrap().1
        };
        let warnings = deep(4095);
        assert!(warnings[0].contains("nearly black") && warnings[0].ends_with(": 2.png"), "{warnings:?}");
        assert_eq!(deep(60_000), Vec::<String>::new());
    }
}
