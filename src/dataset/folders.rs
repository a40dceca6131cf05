//! A folder of pictures for each class: which files are there, and which of them are for learning and which for judging.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Part;
use super::entries::{Entries, count_of, holds_results, name_of, shown, some};
use super::format::READ;
use super::layout::Layout;
use super::names::{normal, same_name};
use crate::error::{Error, Result};

/// One picture in this many is for testing, where there is no folder `test`.
const TEST_SHARE: u64 = 6;
const MAX_CLASSES: usize = 256;

/// The pictures of a class.
#[derive(Debug)]
pub(super) struct Class {
    /// Name of its folder.
    pub(super) name: String,
    /// Its files, sorted by name.
    pub(super) files: Vec<PathBuf>,
}

/// The classes of one part of a dataset, sorted by name, each with at least one picture.
///
/// Without a folder for judging, the pictures of each class are split: see [`split`].
///
/// # Errors
/// Folders that cannot be read, classes without pictures, one class only or more than 256.
pub(super) fn classes(layout: &Layout, part: Part, warnings: &mut Vec<String>) -> Result<Vec<Class>> {
    let (folder, share) = match (&layout.train, &layout.test, part) {
        (Some(train), Some(_), Part::Train) => (train, None),
        (_, Some(test), Part::Test) => (test, None),
        (None, Some(test), Part::Train) => {
            let message = format!(
                "there is a folder {}, but no folder `train` with a folder for each class",
                name_of(test)
            );
            return Err(Error::data(&layout.root, message));
        }
        (Some(train), None, _) => (train, Some(part)),
        (None, None, _) => (&layout.root, Some(part)),
    };
    let mut classes = listed(folder, part, warnings)?;
    if let Some(part) = share {
        keep(folder, &mut classes, part)?;
    }
    Ok(classes)
}

/// All pictures of a dataset that has no parts.
pub(super) fn all_classes(layout: &Layout, warnings: &mut Vec<String>) -> Result<Vec<Class>> {
    listed(&layout.root, Part::Test, warnings)
}

/// Keeps of each class what is for this part.
pub(super) fn keep(folder: &Path, classes: &mut [Class], part: Part) -> Result<()> {
    for class in classes {
        class.files = split(folder, class, part)?;
    }
    Ok(())
}

/// The classes in a folder, if they are as many as there can be.
fn listed(folder: &Path, part: Part, warnings: &mut Vec<String>) -> Result<Vec<Class>> {
    let classes = list(folder, warnings)?;
    if part == Part::Train && classes.len() < 2 {
        let message = format!(
            "{:?} is the only class; at least two are needed, each with its own folder",
            classes[0].name
        );
        return Err(Error::data(folder, message));
    }
    if classes.len() > MAX_CLASSES {
        let message = format!("there are {} classes; at most {MAX_CLASSES} are supported", classes.len());
        return Err(Error::data(folder, message));
    }
    for (index, class) in classes.iter().enumerate() {
        if let Some(twin) = classes[..index].iter().find(|twin| same_name(&twin.name, &class.name)) {
            let message = format!(
                "two folders have the name {:?}, which Unicode can write in two ways; put their pictures into one",
                twin.name
            );
            return Err(Error::data(folder, message));
        }
    }
    Ok(classes)
}

/// A sixth of a class for judging, the rest for learning, at least one picture each. Which ones, a hash of `class/file`
/// says: the same on every machine, and hardly another sixth when pictures are added.
fn split(folder: &Path, class: &Class, part: Part) -> Result<Vec<PathBuf>> {
    if class.files.len() < 2 {
        let message = "this class has only one picture; without a folder `test` it needs at least two, for training \
                       and for testing";
        return Err(Error::data(folder.join(&class.name), message));
    }
    let hash = |file: &Path| {
        let hash = Sha256::digest(format!("{}/{}", normal(&class.name), normal(&name_of(file))));
        u64::from_be_bytes(*hash.first_chunk().expect("a hash has 32 bytes"))
    };
    let mut files: Vec<_> = class.files.iter().map(|file| (hash(file), file)).collect();
    files.sort_unstable();
    let tests = files.partition_point(|&(hash, _)| hash < u64::MAX / TEST_SHARE).clamp(1, files.len() - 1);
    let chosen = if part == Part::Test { &files[..tests] } else { &files[tests..] };
    let mut chosen: Vec<_> = chosen.iter().map(|&(_, file)| file.clone()).collect();
    chosen.sort_unstable();
    Ok(chosen)
}

/// The folders in `folder` with the pictures in each, at least one.
fn list(folder: &Path, warnings: &mut Vec<String>) -> Result<Vec<Class>> {
    let entries = Entries::of(folder)?;
    warnings.extend(loose(folder, &entries));
    let mut ignored = Vec::new();
    let mut below = Vec::new();
    let mut odd = Vec::new();
    let mut classes = Vec::new();
    let mut empty = Vec::new();
    let mut results = Vec::new();
    for path in &entries.folders {
        let inner = Entries::of(path)?;
        if holds_results(path, &inner) {
            if inner.has_photographs() {
                results.push(path);
            }
            continue;
        }
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(Error::data(path, "the name of a class must be valid Unicode"));
        };
        let files: Vec<_> = inner.pictures().cloned().collect();
        if files.is_empty() {
            empty.push((path, why_empty(&inner)));
        }
        ignored.extend(inner.others().cloned());
        below.extend(inner.folders);
        odd.extend(inner.odd);
        classes.push(Class { name: name.to_owned(), files });
    }
    if classes.iter().all(|class| class.files.is_empty()) && empty.iter().all(|(_, why)| why.is_empty()) {
        let message = format!("there are no pictures ({READ}) in its {} folders", classes.len());
        return Err(Error::data(folder, message));
    }
    if let Some((path, why)) = empty.first() {
        let message = match why.as_str() {
            "" => format!("this class has no pictures ({READ}); add some, or move the folder elsewhere"),
            why => format!("this class has no pictures ({READ}), but {why}"),
        };
        return Err(Error::data(path, message));
    }
    if !ignored.is_empty() {
        ignored.sort_unstable();
        warnings.push(format!(
            "{}: {} ignored, since only {READ} files are read, by their endings: {}",
            folder.display(),
            count_of(ignored.len(), "file"),
            some(ignored.iter().map(|file| shown(file, folder)))
        ));
    }
    if !below.is_empty() {
        warnings.push(format!(
            "{}: {} not read, since pictures must lie directly in the folder of their class: {}",
            folder.display(),
            if below.len() == 1 { "one folder is" } else { "some folders are" },
            some(below.iter().map(|path| within_class(path, folder)))
        ));
    }
    if !results.is_empty() {
        warnings.push(format!(
            "{}: not classes, since they hold the results of training: {}",
            folder.display(),
            some(results.iter().map(|path| shown(path, folder)))
        ));
    }
    warnings.extend(left_out(folder, &odd));
    // In an order that does not depend on how a system stores their names.
    classes.sort_by(|a, b| normal(&a.name).cmp(&normal(&b.name)));
    Ok(classes)
}

/// A folder inside a class, with how many pictures are in it.
fn within_class(path: &Path, folder: &Path) -> String {
    let count = Entries::of(path).map_or(0, |inner| inner.pictures().count());
    let name = shown(path, folder);
    match count {
        0 => name,
        1 => format!("{name} (1 picture)"),
        _ => format!("{name} ({count} pictures)"),
    }
}

/// What a folder without pictures that can be read has in their place.
fn why_empty(entries: &Entries) -> String {
    let foreign = entries.foreign();
    if let Some((_, extension)) = foreign.first() {
        let counts: Vec<_> =
            foreign.iter().map(|(count, extension)| format!("{count} .{extension}")).collect();
        return format!(
            "{}: convert them, for example with `mogrify -format png *.{extension}` in this folder",
            counts.join(", ")
        );
    }
    if !entries.folders.is_empty() {
        return format!(
            "folders: {}; its pictures must be directly in the class's folder",
            some(entries.folders.iter().map(|folder| shown(folder, folder.parent().unwrap_or(folder))))
        );
    }
    if entries.odd.is_empty() { String::new() } else { odd_names(Path::new(""), &entries.odd) }
}

/// Warnings about what lies beside the folders in `folder`: pictures that are in no class, what cannot be read, and what
/// belongs to systems and programs.
pub(super) fn loose(folder: &Path, entries: &Entries) -> Vec<String> {
    let mut warnings = Vec::new();
    let loose: Vec<_> = entries.pictures().collect();
    if !loose.is_empty() {
        warnings.push(format!(
            "{}: {} outside the folders of the classes and not read: {}",
            folder.display(),
            count_of(loose.len(), "picture"),
            some(loose.iter().map(|file| shown(file, folder)))
        ));
    }
    warnings.extend(left_out(folder, &entries.odd));
    if !entries.junk.is_empty() {
        let names = some(entries.junk.iter().map(|junk| shown(junk, folder)));
        warnings.push(format!("{}: not read, since programs create such folders: {names}", folder.display()));
    }
    warnings
}

fn left_out(folder: &Path, odd: &[(PathBuf, &'static str)]) -> Option<String> {
    (!odd.is_empty()).then(|| {
        format!(
            "{}: skipped, since not a regular file or folder: {}",
            folder.display(),
            odd_names(folder, odd)
        )
    })
}

fn odd_names(folder: &Path, odd: &[(PathBuf, &'static str)]) -> String {
    some(odd.iter().map(|(path, what)| format!("{} ({what})", shown(path, folder))))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_sixth_of_each_class_is_for_judging_always_the_same() {
        let chosen = |count: usize, part| {
            let split = |name: &str| {
                let files = (0..count).map(|index| PathBuf::from(format!("x/{name}/{index}.png"))).collect();
                let class = Class { name: name.to_owned(), files };
                let files = split(Path::new("x"), &class, part).unwrap();
                files
                    .iter()
                    .map(|file| name_of(file).replace(".png", "").parse().unwrap())
                    .collect::<Vec<usize>>()
            };
            ["high", "low", "mid"].map(split)
        };
        // Worked out by another program.
        assert_eq!(chosen(12, Part::Test), [vec![4], vec![11, 2], vec![1, 3, 6]]);
        for (tests, rest) in chosen(3000, Part::Test).iter().zip(chosen(3000, Part::Train)) {
            let all: BTreeSet<_> = tests.iter().chain(&rest).collect();
            assert_eq!((all.len(), tests.len() + rest.len()), (3000, 3000));
            // Four deviations of a binomial distribution.
            assert!(tests.len().abs_diff(500) < 82, "{}", tests.len());
        }
        for (count, tests) in [(2, 1), (3, 1)] {
            assert!(chosen(count, Part::Test).iter().all(|files| files.len() == tests));
            assert!(chosen(count, Part::Train).iter().all(|files| files.len() == count - tests));
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let names = |count: usize| some((0..count).map(|index| index.to_string()));
        assert_eq!((names(3), names(5)), ("0, 1, 2".to_owned(), "0, 1, 2, and 2 more".to_owned()));
    }
}
