//! What is in a folder of a dataset, sorted by what it is.

use std::fs::{self, FileType};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::error::{self, Error, Result};
use crate::files;

/// Folders that systems and programs make beside the user's own.
const JUNK: [&str; 22] = [
    "__macosx",
    "network trash folder",
    "temporary items",
    "thevolumesettingsfolder",
    "@eadir",
    "@tmp",
    "@synoeastream",
    "@synoresource",
    "@sharesnap",
    "@recycle",
    "@recently-snapshot",
    "#recycle",
    "#snapshot",
    "~snapshot",
    "$recycle.bin",
    "recycler",
    "$extend",
    "system volume information",
    "msocache",
    "lost+found",
    "lost.dir",
    "__pycache__",
];
/// Files of a training, an experiment or what they leave.
const RESULTS: [&str; 5] =
    ["summary.json", "checkpoint.safetensors", "model.safetensors", "metrics.csv", "runs.csv"];
/// Those of them that no class has beside its pictures.
const WEIGHTS: [&str; 2] = ["checkpoint.safetensors", "model.safetensors"];
/// Folders that trainings and experiments make; perhaps still empty.
const RESULT_FOLDERS: [&str; 2] = ["runs", "experiments"];

/// A link that leads to itself; the standard library has no stable name for it.
const ELOOP: i32 = if cfg!(any(target_os = "linux", target_os = "android")) { 40 } else { 62 };

/// Extensions of the pictures that are read.
const EXTENSIONS: [&str; 10] = ["png", "jpg", "jpeg", "jpe", "jfif", "webp", "gif", "bmp", "tif", "tiff"];
/// Extensions of pictures that must be converted.
const FOREIGN: [&str; 15] = [
    "heic", "heif", "avif", "svg", "jxl", "jp2", "ppm", "pgm", "pbm", "dng", "cr2", "cr3", "nef", "arw",
    "psd",
];

/// The contents of a folder, each list sorted by name, without names that start with a dot: those belong to programs.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    /// Folders, and links to folders.
    pub(crate) folders: Vec<PathBuf>,
    /// Regular files, and links to them.
    pub(crate) files: Vec<PathBuf>,
    /// What cannot be read, with what it is: a pipe, a broken link.
    pub(crate) odd: Vec<(PathBuf, &'static str)>,
    /// Folders of systems and programs.
    pub(super) junk: Vec<PathBuf>,
}

impl Entries {
    /// Lists a folder.
    ///
    /// # Errors
    /// What the system refuses.
    pub(crate) fn of(dir: &Path) -> Result<Self> {
        let mut found = Self::default();
        for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
            let entry = entry.map_err(Error::io("read", dir))?;
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().to_lowercase());
            if name.starts_with('.') || ["thumbs.db", "desktop.ini"].contains(&&*name) {
                continue;
            }
            if is_junk(&name, &path) {
                found.junk.push(path);
                continue;
            }
            let kind =
                entry.file_type().and_then(|kind| target(&path, kind)).map_err(Error::io("read", &path))?;
            match kind {
                None => found.odd.push((path, "a broken link")),
                Some(kind) if kind.is_dir() => found.folders.push(path),
                Some(kind) if kind.is_file() => found.files.push(path),
                Some(kind) => found.odd.push((path, files::name_of_kind(kind))),
            }
        }
        found.folders.sort_unstable();
        found.files.sort_unstable();
        found.odd.sort_unstable();
        found.junk.sort_unstable();
        Ok(found)
    }

    /// The files that may be pictures which are read.
    pub(crate) fn pictures(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.iter().filter(|file| EXTENSIONS.contains(&&*extension(file)))
    }

    /// The files that are not.
    pub(crate) fn others(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.iter().filter(|file| !EXTENSIONS.contains(&&*extension(file)))
    }

    /// The extensions of the pictures that are not read, with the number of each.
    pub(super) fn foreign(&self) -> Vec<(usize, String)> {
        let mut counts: Vec<(usize, String)> = Vec::new();
        for extension in self.files.iter().map(|file| extension(file)) {
            if let Some((count, _)) = counts.iter_mut().find(|(_, known)| *known == extension) {
                *count += 1;
            } else if FOREIGN.contains(&&*extension) {
                counts.push((1, extension));
            }
        }
        counts
    }

    /// True if there are pictures, whether they can be read or not.
    pub(super) fn has_pictures(&self) -> bool {
        self.pictures().next().is_some() || !self.foreign().is_empty()
    }

    /// True if there are pictures that a class could consist of: drawings of charts are none.
    pub(super) fn has_photographs(&self) -> bool {
        self.pictures().next().is_some() || self.foreign().iter().any(|(_, extension)| extension != "svg")
    }
}

/// What a link leads to; `None` if nowhere.
fn target(path: &Path, kind: FileType) -> io::Result<Option<FileType>> {
    if !kind.is_symlink() {
        return Ok(Some(kind));
    }
    match fs::metadata(path) {
        Ok(target) => Ok(Some(target.file_type())),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) if error.raw_os_error() == Some(ELOOP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// True for a folder, by its name in lower case, that a system makes.
fn is_junk(name: &str, path: &Path) -> bool {
    let numbered = name.strip_prefix("found.").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
    // This may well be a class, too; Windows keeps lists there.
    let recycled =
        || name == "recycled" && ["INFO2", "desktop.ini"].iter().any(|list| path.join(list).is_file());
    JUNK.contains(&name) || numbered || recycled()
}

/// True for a folder of a training or an experiment of ours, or one that has such folders, as far down as they go.
///
/// Weights, or two files of results, make a folder ours whatever pictures are beside them, and so does any result below a
/// folder that is named as we name it. Elsewhere pictures count: a class may have a table, and a dataset may have been
/// trained in its own folder.
pub(super) fn holds_results(folder: &Path, entries: &Entries) -> bool {
    const LEVELS: usize = 2;
    fn any(entries: &Entries, depth: usize, test: fn(&Entries) -> bool) -> bool {
        let inner = |folder: &PathBuf| Entries::of(folder).is_ok_and(|inner| any(&inner, depth - 1, test));
        test(entries) || depth > 0 && entries.folders.iter().any(inner)
    }
    fn results(entries: &Entries) -> impl Iterator<Item = &&'static str> {
        RESULTS.iter().filter(|name| entries.files.iter().any(|file| name_of(file) == **name))
    }
    let own: Vec<_> = results(entries).collect();
    let has_result = |entries: &Entries| results(entries).next().is_some();
    let is_run = own.len() > 1 || own.iter().any(|name| WEIGHTS.contains(name));
    if is_run && (entries.has_photographs() || picture_folders(entries).count() == 1) {
        return true;
    }
    let named = RESULT_FOLDERS.contains(&&*name_of(folder));
    let holds_some = any(entries, LEVELS, has_result);
    named && holds_some || (named || holds_some) && !any(entries, LEVELS, Entries::has_photographs)
}

/// The folders inside that have pictures of their own.
pub(super) fn picture_folders(entries: &Entries) -> impl Iterator<Item = &PathBuf> {
    entries.folders.iter().filter(|folder| Entries::of(folder).is_ok_and(|inner| inner.has_pictures()))
}

/// What follows the last dot of a name, in lower case.
pub(crate) fn extension(file: &Path) -> String {
    file.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

/// The last part of a path.
pub(super) fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A path as a message about `dir` names it, on one line.
pub(super) fn shown(path: &Path, dir: &Path) -> String {
    error::shown(&path.strip_prefix(dir).unwrap_or(path).to_string_lossy()).into_owned()
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

/// "one picture is", "3 pictures are".
pub(super) fn count_of(count: usize, what: &str) -> String {
    if count == 1 { format!("one {what} is") } else { format!("{count} {what}s are") }
}
