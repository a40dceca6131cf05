//! Where in a folder the dataset is: as IDX files, as a folder of pictures for each class, perhaps in parts, perhaps a
//! level or two further down, as archives unpack.

use std::path::{Path, PathBuf};

use super::entries::{Entries, holds_results, name_of, picture_folders, shown, some};
use super::folders::loose;
use super::format::READ;
use super::{cifar, idx};
use crate::error::{Error, Result};

/// Folders further down in which a dataset is looked for.
const MAX_DEPTH: usize = 3;
/// With more folders than this, nobody would say which one is meant.
const MAX_WAYS: usize = 32;

/// A dataset's place and form.
#[derive(Debug)]
pub(super) enum Source {
    /// IDX files in this folder.
    Idx(PathBuf),
    /// CIFAR's binary files in this folder.
    Cifar(PathBuf),
    /// Folders of pictures.
    Pictures(Layout),
}

/// The folders of a dataset of pictures.
#[derive(Debug)]
pub(super) struct Layout {
    /// The folder of the dataset.
    pub(super) root: PathBuf,
    /// The part for learning, if it has a folder of its own.
    pub(super) train: Option<PathBuf>,
    /// The part for judging.
    pub(super) test: Option<PathBuf>,
}

impl Layout {
    /// True for folders of classes that are not in parts.
    pub(super) fn is_flat(&self) -> bool {
        self.train.is_none() && self.test.is_none()
    }
}

/// A folder in the one that is looked at.
struct Inner {
    path: PathBuf,
    entries: Entries,
}

/// Finds the dataset in `dir`, with what is worth saying about the way there.
///
/// # Errors
/// A folder in which there is none, or several.
pub(super) fn find(dir: &Path) -> Result<(Source, Vec<String>)> {
    if dir.is_file() {
        return Err(Error::data(dir, "this is a file; give the folder that it is in"));
    }
    let mut notes = Vec::new();
    if !dir.exists() {
        return Ok((Source::Idx(dir.to_owned()), notes));
    }
    let entries = Entries::of(dir)?;
    if let Some(source) = look(dir, &entries, MAX_DEPTH, &mut notes)? {
        if source.root() != dir {
            notes.insert(0, format!("{}: the dataset is in {}", dir.display(), shown(source.root(), dir)));
        } else if let Source::Pictures(layout) = &source
            && layout.is_flat()
        {
            notes.extend(other_parts(dir));
        }
        return Ok((source, notes));
    }
    let pictures =
        entries.pictures().count() + entries.foreign().iter().map(|(count, _)| count).sum::<usize>();
    if pictures > 0 {
        let above = std::path::absolute(dir).ok();
        let above = above.as_deref().and_then(Path::parent).unwrap_or(Path::new(".."));
        let message = format!(
            "there are {pictures} pictures here, but no folder for each class; if this is the folder of one class, \
             give its parent folder, {}",
            above.display()
        );
        return Err(Error::data(dir, message));
    }
    let message = format!("there are no pictures ({READ}) in its {} folders", entries.folders.len());
    if let Some(message) = cifar::for_python(&entries) {
        return Err(Error::data(dir, message));
    }
    if entries.folders.is_empty() && entries.odd.is_empty() {
        // What is missing, the reader of IDX files says.
        return Ok((Source::Idx(dir.to_owned()), notes));
    }
    let left_out = loose(dir, &Entries { files: Vec::new(), ..entries });
    let message = left_out.into_iter().fold(message, |all, more| format!("{all}; {more}"));
    Err(Error::data(dir, message))
}

/// A line about the folders beside `dir`, if it is itself a part of a dataset.
fn other_parts(dir: &Path) -> Option<String> {
    let here = std::path::absolute(dir).ok()?;
    let above = here.parent().filter(|_| part_of(&here).is_some())?;
    let entries = Entries::of(above).ok()?;
    let is_part = |folder: &&PathBuf| {
        let entries = Entries::of(folder);
        **folder != here
            && part_of(folder).is_some()
            && entries
                .is_ok_and(|entries| !entries.has_pictures() && picture_folders(&entries).next().is_some())
    };
    let others: Vec<_> = entries.folders.iter().filter(is_part).map(|folder| name_of(folder)).collect();
    (!others.is_empty()).then(|| {
        format!(
            "{}: this is one part of the dataset in {}; the rest of it is not read: {}",
            dir.display(),
            above.display(),
            some(others.into_iter())
        )
    })
}

/// The dataset in `dir` or in the only folder of it that has one.
fn look(dir: &Path, entries: &Entries, depth: usize, notes: &mut Vec<String>) -> Result<Option<Source>> {
    if idx::are_in(entries) {
        return Ok(Some(Source::Idx(dir.to_owned())));
    }
    if cifar::are_in(entries) {
        return Ok(Some(Source::Cifar(dir.to_owned())));
    }
    let mut folders = Vec::new();
    for path in &entries.folders {
        let inner = Inner { entries: Entries::of(path)?, path: path.clone() };
        if !holds_results(path, &inner.entries) {
            folders.push(inner);
        }
    }
    if let Some(layout) = parts(dir, entries, &folders, notes)? {
        return Ok(Some(Source::Pictures(layout)));
    }
    let classes: Vec<_> = folders.iter().filter(|folder| folder.entries.has_pictures()).collect();
    if !classes.is_empty() {
        if classes.iter().all(|class| part_of(&class.path).is_some()) {
            let names = some(classes.iter().map(|class| name_of(&class.path)));
            let message = format!(
                "the pictures in {names} are not sorted; each class needs a folder there, such as {}/cat",
                name_of(&classes[0].path)
            );
            return Err(Error::data(dir, message));
        }
        return Ok(Some(Source::Pictures(Layout { root: dir.to_owned(), train: None, test: None })));
    }
    if depth == 0 {
        return Ok(None);
    }
    if folders.len() > MAX_WAYS {
        let message = format!(
            "none of its {} folders has pictures of its own, and that many are not searched further; give the folder \
             of the dataset",
            folders.len()
        );
        return Err(Error::data(dir, message));
    }
    let mut ways = Vec::new();
    let mut astray = None;
    for folder in &folders {
        let mut inner = Vec::new();
        match look(&folder.path, &folder.entries, depth - 1, &mut inner) {
            Ok(Some(source)) => ways.push((source, inner)),
            Ok(None) => {}
            // Unsorted pictures are no way, but a folder that cannot be read may be the way.
            Err(error @ Error::Data { .. }) => astray = astray.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    if ways.len() > 1 {
        let names = ways.iter().map(|(source, _)| shown(source.root(), dir));
        let message = format!("there are datasets in {}; give one of these folders", some(names));
        return Err(Error::data(dir, message));
    }
    match (ways.pop(), astray) {
        (Some((source, inner)), _) => {
            notes.extend(inner);
            Ok(Some(source))
        }
        (None, Some(error)) => Err(error),
        (None, None) => Ok(None),
    }
}

impl Source {
    fn root(&self) -> &Path {
        match self {
            Self::Idx(root) | Self::Cifar(root) => root,
            Self::Pictures(layout) => &layout.root,
        }
    }
}

/// What a folder is for, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Train,
    Test,
    Validation,
}

fn part_of(folder: &Path) -> Option<Role> {
    let name = name_of(folder).to_lowercase();
    match name.trim_end_matches("set").trim_end_matches(['_', '-', ' ']) {
        "train" | "training" => Some(Role::Train),
        "test" | "testing" => Some(Role::Test),
        "val" | "valid" | "validation" => Some(Role::Validation),
        _ => None,
    }
}

/// The parts of a dataset in `dir`, if it has such folders.
fn parts(
    dir: &Path,
    entries: &Entries,
    folders: &[Inner],
    notes: &mut Vec<String>,
) -> Result<Option<Layout>> {
    // A folder with pictures of its own is a class, even if trains are in it; unless it has folders of pictures, too, and
    // nothing beside it looks like a class.
    let beside_classes = folders.iter().any(|f| part_of(&f.path).is_none() && f.entries.has_pictures());
    let role = |folder: &Inner| {
        let is_part = match folder.entries.has_pictures() {
            false => !folder.entries.folders.is_empty(),
            true => !beside_classes && picture_folders(&folder.entries).take(2).count() == 2,
        };
        part_of(&folder.path).filter(|_| is_part)
    };
    let the = |wanted: Role| -> Result<Option<PathBuf>> {
        let found: Vec<_> = folders.iter().filter(|&folder| role(folder) == Some(wanted)).collect();
        match found[..] {
            [] => Ok(None),
            [one] => Ok(Some(one.path.clone())),
            [first, second, ..] => {
                let [first, second] = [first, second].map(|folder| name_of(&folder.path));
                Err(Error::data(
                    dir,
                    format!(
                        "{first} and {second} are the same part of the dataset; keep one of \
                     them"
                    ),
                ))
            }
        }
    };
    let (train, test, validation) = (the(Role::Train)?, the(Role::Test)?, the(Role::Validation)?);
    if train.is_none() && test.is_none() && validation.is_none() {
        return Ok(None);
    }
    let (test, unread) = match (test, validation) {
        (None, Some(validation)) => {
            let name = name_of(&validation);
            notes.push(format!("{}: there is no folder `test`, so {name} is used instead", dir.display()));
            (Some(validation), None)
        }
        (test, validation) => (test, validation),
    };
    let others = folders.iter().filter(|&folder| role(folder).is_none()).map(|folder| &folder.path);
    let others: Vec<_> = others.chain(&unread).collect();
    if !others.is_empty() {
        notes.push(format!(
            "{}: {} not part of the dataset and not read: {}",
            dir.display(),
            if others.len() == 1 { "one folder is" } else { "some folders are" },
            some(others.iter().map(|folder| shown(folder, dir)))
        ));
    }
    notes.extend(loose(dir, entries));
    Ok(Some(Layout { root: dir.to_owned(), train, test }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Empty files of these names: only names matter here.
    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        dir
    }

    /// Root, training and test part as they were found, and what was said.
    fn found(names: &[&str]) -> Result<([String; 3], String), String> {
        let dir = folder(names);
        let (source, notes) = find(dir.path()).map_err(|error| error.to_string())?;
        let shown = |path: &Path| shown(path, dir.path());
        let notes = notes.join("\n");
        Ok(match source {
            Source::Idx(root) => ([shown(&root), "idx".into(), "idx".into()], notes),
            Source::Cifar(root) => ([shown(&root), "cifar".into(), "cifar".into()], notes),
            Source::Pictures(Layout { root, train, test }) => {
                let [train, test] = [train, test].map(|part| part.map_or("-".into(), |part| shown(&part)));
                ([shown(&root), train, test], notes)
            }
        })
    }

    fn assert_found(names: &[&str], wanted: [&str; 3], words: &[&str]) {
        let (places, notes) = found(names).unwrap();
        assert_eq!(places, wanted, "{names:?}");
        assert_eq!(words.is_empty(), notes.is_empty(), "{names:?}: {notes}");
        for word in words {
            assert!(notes.contains(word), "{names:?}: {word:?} is not in {notes}");
        }
    }

    #[test]
    fn parts_have_many_names() {
        for [train, test] in [
            ["train", "test"],
            ["Train", "TEST"],
            ["training", "testing"],
            ["training_set", "test_set"],
            ["trainset", "Test-Set"],
        ] {
            let names =
                [train, test].map(|part| [format!("{part}/a/1.png"), format!("{part}/b/1.jpg")]).concat();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            assert_found(&names, ["", train, test], &[]);
        }
        for val in ["val", "Valid", "validation"] {
            let names = ["train/a/1.png", "train/b/1.png"].map(str::to_owned);
            let names = [&names[..], &[format!("{val}/a/1.png"), format!("{val}/b/1.png")]].concat();
            let mut names: Vec<_> = names.iter().map(String::as_str).collect();
            assert_found(
                &names,
                ["", "train", val],
                &[&format!("no folder `test`, so {val} is used instead")],
            );
            names.extend(["test/a/1.png", "test/b/1.png"]);
            assert_found(
                &names,
                ["", "train", "test"],
                &[&format!("one folder is not part of the dataset and not read: {val}")],
            );
        }
        let message = found(&["train/a/1.png", "Training/a/1.png"]).unwrap_err();
        assert!(message.contains("Training and train are the same part"), "{message}");
        // With pictures of its own it is a class, and a folder of pictures that are not sorted is no dataset.
        assert_found(&["ring/1.png", "train/1.png", "train/thumbs/1.png"], ["", "-", "-"], &[]);
        assert_found(&["ring/1.png", "train/1.png", "train/a/1.png", "train/b/1.png"], ["", "-", "-"], &[]);
        assert_found(
            &["test/a/1.png", "train/1.png", "train/a/1.png", "train/b/1.png"],
            ["", "train", "test"],
            &[],
        );
        let message = found(&["train/cat.1.jpg", "test/2.jpg"]).unwrap_err();
        assert!(message.contains("the pictures in test, train are not sorted"), "{message}");
    }

    #[test]
    fn other_levels_are_found_or_named() {
        let whole = ["all/set/a/1.png", "all/set/b/1.png", "all/set/metrics.csv", "all/runs/x/summary.json"];
        assert_found(&whole, ["all/set", "-", "-"], &["the dataset is in all/set"]);
        let up = ["data/set/a/1.png", "data/set/b/1.png", "__MACOSX/data/._1.png", "runs/x/summary.json"];
        assert_found(&up, ["data/set", "-", "-"], &["the dataset is in data/set"]);
        assert_found(
            &["MNIST/raw/train-images-idx3-ubyte"],
            ["MNIST/raw", "idx", "idx"],
            &["is in MNIST/raw"],
        );
        let message = found(&["A/raw/train-images-idx3-ubyte", "B/train/a/1.png"]).unwrap_err();
        assert!(message.contains("there are datasets in A/raw, B; give one"), "{message}");
        let many: Vec<_> = (0..40).map(|index| format!("{index}/train/a/1.png")).collect();
        let message = found(&many.iter().map(String::as_str).collect::<Vec<_>>()).unwrap_err();
        assert!(
            message.contains("none of its 40 folders has pictures of its own, and that many"),
            "{message}"
        );
        let message = found(&["all/train/1.png", "all/test/1.png"]).unwrap_err();
        assert!(message.contains("the pictures in test, train are not sorted"), "{message}");
        // A part of a dataset is taken as it is, and the others are named.
        let dir = folder(&["set/train/a/1.png", "set/train/b/1.png", "set/Val/a/1.png", "set/other/1.png"]);
        let (_, notes) = find(&dir.path().join("set/train")).unwrap();
        assert!(notes.len() == 1 && notes[0].ends_with("set; the rest of it is not read: Val"), "{notes:?}");
        let dir = folder(&["ring/1.png", "ring/2.heic", "bar/1.png"]);
        let message = find(&dir.path().join("ring")).unwrap_err().to_string();
        assert!(message.contains("there are 2 pictures here, but no folder for each class"), "{message}");
        assert!(message.ends_with(&dir.path().display().to_string()), "{message}");
        let message = find(&dir.path().join("ring/1.png")).unwrap_err().to_string();
        assert!(message.contains("this is a file; give the folder"), "{message}");
    }

    #[test]
    fn what_lies_beside_the_classes_is_told_apart() {
        let names =
            ["a/1.png", "b/1.png", "runs/b-1/summary.json", "best/checkpoint.safetensors", "Thumbs.db"];
        let dir = folder(&names);
        fs::create_dir(dir.path().join("experiments")).unwrap();
        let mut warnings = Vec::new();
        let classes = |warnings: &mut Vec<String>| {
            let (source, mut notes) = find(dir.path()).unwrap();
            let Source::Pictures(layout) = source else { panic!("no pictures") };
            warnings.append(&mut notes);
            crate::dataset::folders::classes(&layout, crate::dataset::Part::Train, warnings)
        };
        fs::write(dir.path().join("a/2.png"), "").unwrap();
        fs::write(dir.path().join("b/2.png"), "").unwrap();
        let names: Vec<_> = classes(&mut warnings).unwrap().into_iter().map(|class| class.name).collect();
        assert_eq!((names, &warnings[..]), (vec!["a".to_owned(), "b".to_owned()], &[][..]));

        for junk in
            ["__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "#recycle"]
        {
            fs::create_dir(dir.path().join(junk)).unwrap();
        }
        fs::write(dir.path().join("loose.jpg"), "").unwrap();
        assert_eq!(classes(&mut warnings).unwrap().len(), 2);
        let said = warnings.join("\n");
        for words in
            ["one picture is outside the folders of the classes and not read: loose.jpg", "and 3 more"]
        {
            assert!(said.contains(words), "{said}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("nowhere", dir.path().join("cat")).unwrap();
            std::os::unix::fs::symlink("itself", dir.path().join("a/itself")).unwrap();
            std::os::unix::fs::symlink("/dev/zero", dir.path().join("b/zero.png")).unwrap();
            warnings.clear();
            assert_eq!(classes(&mut warnings).unwrap().len(), 2);
            let said = warnings.join("\n");
            for words in ["cat (a broken link)", "a/itself (a broken link", "b/zero.png (a device)"] {
                assert!(said.contains(words), "{words}: {said}");
            }
        }
        // Results beside charts and pictures.
        for name in [
            "runs/b-1/plot.png",
            "runs/scaling.svg",
            "experiments/s/x.svg",
            "best/summary.json",
            "best/1.png",
        ] {
            fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
            fs::write(dir.path().join(name), "").unwrap();
        }
        warnings.clear();
        assert_eq!(classes(&mut warnings).unwrap().len(), 2);
        assert!(
            warnings.join("\n").contains("not classes, since they hold the results of training: best"),
            "{warnings:?}"
        );
        for junk in ["RECYCLER", "FOUND.001", "@tmp", "#snapshot", "Temporary Items", "Recycled"] {
            fs::create_dir(dir.path().join(junk)).unwrap();
            for picture in ["1.png", "2.png"] {
                fs::write(dir.path().join(junk).join(picture), "").unwrap();
            }
        }
        // Without Windows' lists it is a class of somebody who sorts waste.
        assert_eq!(classes(&mut warnings).unwrap().len(), 3);
        fs::write(dir.path().join("Recycled/INFO2"), "").unwrap();
        assert_eq!(classes(&mut warnings).unwrap().len(), 2);
        // What a class has besides its pictures does not make it ours, and runs with a picture are somebody's class.
        fs::write(dir.path().join("a/metrics.csv"), "").unwrap();
        assert_eq!(classes(&mut warnings).unwrap().len(), 2);
        fs::write(dir.path().join("experiments/1.heic"), "").unwrap();
        let message = classes(&mut warnings).unwrap_err().to_string();
        assert!(
            message.contains(
                "experiments: this class has no pictures (PNG, JPEG, WebP, GIF, BMP or TIFF), but 1 .heic: convert"
            )
        );
    }
}
