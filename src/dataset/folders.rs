//! A folder of pictures for each class: which files are there, and which of them are for learning and which for judging.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Part, idx};
use crate::error::{Error, Result};

/// One picture in so many is for judging, where there is no folder `test`.
const TEST_SHARE: u64 = 6;
const MAX_CLASSES: usize = 256;
const EXTENSIONS: [&str; 3] = ["png", "jpg", "jpeg"];

/// The pictures of a class.
#[derive(Debug)]
pub(super) struct Class {
    /// Name of its folder.
    pub(super) name: String,
    /// Its files, sorted by name.
    pub(super) files: Vec<PathBuf>,
}

/// True if `dir` has folders of pictures, and none of the files of a data set in IDX format.
pub(super) fn fits(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    let (mut folders, mut idx_files) = (false, false);
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        folders |= !name.starts_with('.') && entry.path().is_dir();
        idx_files |= idx::is_named_like(&name);
    }
    folders && !idx_files
}

/// The classes of one part of the data set in `dir`, sorted by name, each with at least one picture.
///
/// `dir/train/<class>` and `dir/test/<class>` are the parts. Without the folder `test`, the pictures of `dir/train/<class>`
/// or `dir/<class>` are split: see [`split`].
///
/// # Errors
/// Folders that cannot be read, classes without pictures, one class only or more than 256.
pub(super) fn classes(dir: &Path, part: Part, warnings: &mut Vec<String>) -> Result<Vec<Class>> {
    // A folder with pictures of its own is a class, even if trains are in it.
    let parts =
        ["train", "test"].map(|name| dir.join(name)).map(|folder| has_folders(&folder).then_some(folder));
    if parts.iter().any(Option::is_some) {
        let others: Vec<_> = folders(dir)?
            .into_iter()
            .filter(|folder| !parts.iter().flatten().any(|part| part == folder))
            .collect();
        if !others.is_empty() {
            warnings.push(format!(
                "{}: beside train and test, {} not read: {}",
                dir.display(),
                if others.len() == 1 { "one folder is" } else { "folders are" },
                some(others.iter().map(|folder| name_of(folder)))
            ));
        }
    }
    let (folder, share) = match (parts, part) {
        ([Some(train), Some(_)], Part::Train) => (train, None),
        ([_, Some(test)], Part::Test) => (test, None),
        ([None, Some(_)], Part::Train) => {
            let message = "there is a folder test, but no folder train with a folder for each class";
            return Err(Error::data(dir, message));
        }
        ([Some(train), None], _) => (train, Some(part)),
        ([None, None], _) => (dir.to_owned(), Some(part)),
    };
    let mut classes = list(&folder, warnings)?;
    if classes.iter().all(|class| class.files.is_empty()) {
        let message = format!("there is no picture (.png, .jpg, .jpeg) in its {} folders", classes.len());
        return Err(Error::data(&folder, message));
    }
    if let Some(class) = classes.iter().find(|class| class.files.is_empty()) {
        let message = "this class has no picture (.png, .jpg, .jpeg): add some, or remove the folder";
        return Err(Error::data(folder.join(&class.name), message));
    }
    if part == Part::Train && classes.len() < 2 {
        let message = format!(
            "{:?} is the only class; there must be a folder for each of two or more",
            classes[0].name
        );
        return Err(Error::data(&folder, message));
    }
    if classes.len() > MAX_CLASSES {
        let message = format!("there are {} classes; at most {MAX_CLASSES} fit", classes.len());
        return Err(Error::data(&folder, message));
    }
    if let Some(part) = share {
        for class in &mut classes {
            class.files = split(&folder, class, part)?;
        }
    }
    Ok(classes)
}

/// A sixth of a class for judging, the rest for learning, at least one picture each. Which ones, a hash of `class/file`
/// says: the same on every machine, and hardly another sixth when pictures are added.
fn split(folder: &Path, class: &Class, part: Part) -> Result<Vec<PathBuf>> {
    if class.files.len() < 2 {
        let message = "this class has one picture; without a folder test there must be two or more, to learn and to judge";
        return Err(Error::data(folder.join(&class.name), message));
    }
    let hash = |file: &Path| {
        let hash = Sha256::digest(format!("{}/{}", class.name, name_of(file)));
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

/// The folders in `folder` with the pictures in each.
fn list(folder: &Path, warnings: &mut Vec<String>) -> Result<Vec<Class>> {
    let mut ignored = Vec::new();
    let mut classes = Vec::new();
    for path in folders(folder)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(Error::data(&path, "the name of a class must be valid Unicode"));
        };
        let mut files = Vec::new();
        for entry in fs::read_dir(&path).map_err(Error::io("read", &path))? {
            let file = entry.map_err(Error::io("read", &path))?.path();
            let extension = file.extension().map(|extension| extension.to_string_lossy().to_lowercase());
            if name_of(&file).starts_with('.') {
            } else if extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
                && !file.is_dir()
            {
                files.push(file);
            } else {
                ignored.push(file);
            }
        }
        files.sort_unstable();
        classes.push(Class { name: name.to_owned(), files });
    }
    ignored.sort_unstable();
    if !ignored.is_empty() {
        warnings.push(format!(
            "{}: {} ignored, since only .png, .jpg and .jpeg files are read: {}",
            folder.display(),
            if ignored.len() == 1 {
                "one file or folder is".into()
            } else {
                format!("{} files or folders are", ignored.len())
            },
            some(ignored.iter().map(|file| shown(file, folder)))
        ));
    }
    Ok(classes)
}

/// The folders in `dir`, sorted; those with a leading dot belong to programs.
fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let path = entry.map_err(Error::io("read", dir))?.path();
        if path.is_dir() && !name_of(&path).starts_with('.') {
            folders.insert(path);
        }
    }
    Ok(folders.into_iter().collect())
}

fn has_folders(dir: &Path) -> bool {
    folders(dir).is_ok_and(|folders| !folders.is_empty())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A path as a message about `dir` names it.
pub(super) fn shown(path: &Path, dir: &Path) -> String {
    path.strip_prefix(dir).unwrap_or(path).display().to_string()
}

/// The first few of a list, and how many more there are.
pub(super) fn some(items: impl ExactSizeIterator<Item = String>) -> String {
    const FEW: usize = 3;
    let more = items.len().saturating_sub(FEW);
    let mut items: Vec<_> = items.take(FEW).collect();
    if more > 0 {
        items.push(format!("and {more} more"));
    }
    items.join(", ")
}

#[cfg(test)]
mod tests {
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
