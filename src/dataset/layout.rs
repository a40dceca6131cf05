//! Where in a folder the data set is: as IDX files, as a folder of pictures for each class, perhaps in parts, perhaps a
//! level or two further down, as archives unpack.

use std::path::{Path, PathBuf};

use super::entries::{Entries, holds_results, name_of, shown, some};
use super::idx;
use crate::error::{Error, Result};

/// Folders further down in which a data set is looked for.
const MAX_DEPTH: usize = 3;
/// With more folders than this, nobody would say which one is meant.
const MAX_WAYS: usize = 32;

/// A data set's place and form.
#[derive(Debug)]
pub(super) enum Source {
    /// IDX files in this folder.
    Idx(PathBuf),
    /// Folders of pictures.
    Pictures(Layout),
}

/// The folders of a data set of pictures.
#[derive(Debug)]
pub(super) struct Layout {
    /// The folder of the data set.
    pub(super) root: PathBuf,
    /// The part for learning, if it has a folder of its own.
    pub(super) train: Option<PathBuf>,
    /// The part for judging.
    pub(super) test: Option<PathBuf>,
}

/// A folder in the one that is looked at.
struct Inner {
    path: PathBuf,
    entries: Entries,
}

/// Finds the data set in `dir`, with what is worth saying about the way there.
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
        return Ok((source, notes));
    }
    let pictures = entries.pictures().count() + entries.foreign().iter().map(|(count, _)| count).sum::<usize>();
    if pictures > 0 {
        let above = std::path::absolute(dir).ok();
        let above = above.as_deref().and_then(Path::parent).unwrap_or(Path::new(".."));
        let message = format!(
            "there are {pictures} pictures here, but no folder for each class; if this is the folder of one class, give the \
             one above, {}",
            above.display()
        );
        return Err(Error::data(dir, message));
    }
    if entries.folders.is_empty() {
        // What is missing, the reader of IDX files says.
        return Ok((Source::Idx(dir.to_owned()), notes));
    }
    let message = format!("there is no picture (.png, .jpg, .jpeg) in its {} folders", entries.folders.len());
    Err(Error::data(dir, message))
}

/// The data set in `dir` or in the only folder of it that has one.
fn look(dir: &Path, entries: &Entries, depth: usize, notes: &mut Vec<String>) -> Result<Option<Source>> {
    if idx::are_in(entries) {
        return Ok(Some(Source::Idx(dir.to_owned())));
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
                "the pictures in {names} are not sorted: each class must have a folder there, such as {}/cat",
                name_of(&classes[0].path)
            );
            return Err(Error::data(dir, message));
        }
        return Ok(Some(Source::Pictures(Layout { root: dir.to_owned(), train: None, test: None })));
    }
    if depth == 0 || folders.len() > MAX_WAYS {
        return Ok(None);
    }
    let mut ways = Vec::new();
    for folder in &folders {
        let mut inner = Vec::new();
        match look(&folder.path, &folder.entries, depth - 1, &mut inner) {
            Ok(Some(source)) => ways.push((source, inner)),
            // Unsorted pictures are no way, but a folder that cannot be read may be the way.
            Ok(None) | Err(Error::Data { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    if ways.len() > 1 {
        let names = ways.iter().map(|(source, _)| shown(source.root(), dir));
        let message = format!("there are data sets in {}: give one of these folders", some(names));
        return Err(Error::data(dir, message));
    }
    Ok(ways.pop().map(|(source, inner)| {
        if inner.is_empty() || !inner.iter().any(|note| note.contains("the data set is in")) {
            notes.push(format!("{}: the data set is in {}", dir.display(), shown(source.root(), dir)));
        }
        notes.extend(inner);
        source
    }))
}

impl Source {
    fn root(&self) -> &Path {
        match self {
            Self::Idx(root) => root,
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

/// The parts of a data set in `dir`, if it has such folders.
fn parts(dir: &Path, entries: &Entries, folders: &[Inner], notes: &mut Vec<String>) -> Result<Option<Layout>> {
    // A folder with pictures of its own is a class, even if trains are in it.
    let role = |folder: &Inner| {
        let is_part = !folder.entries.has_pictures() && !folder.entries.folders.is_empty();
        part_of(&folder.path).filter(|_| is_part)
    };
    let the = |wanted: Role| -> Result<Option<PathBuf>> {
        let found: Vec<_> = folders.iter().filter(|&folder| role(folder) == Some(wanted)).collect();
        match found[..] {
            [] => Ok(None),
            [one] => Ok(Some(one.path.clone())),
            [first, second, ..] => {
                let [first, second] = [first, second].map(|folder| name_of(&folder.path));
                Err(Error::data(dir, format!("{first} and {second} are the same part; keep one of them")))
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
            notes.push(format!("{}: there is no folder test; {name} takes its place", dir.display()));
            (Some(validation), None)
        }
        (test, validation) => (test, validation),
    };
    let others = folders.iter().filter(|&folder| role(folder).is_none()).map(|folder| &folder.path);
    let others: Vec<_> = others.chain(&unread).collect();
    if !others.is_empty() {
        notes.push(format!(
            "{}: beside the parts, {} not read: {}",
            dir.display(),
            if others.len() == 1 { "one folder is" } else { "folders are" },
            some(others.iter().map(|folder| shown(folder, dir)))
        ));
    }
    notes.extend(super::folders::loose(dir, entries));
    Ok(Some(Layout { root: dir.to_owned(), train, test }))
}
