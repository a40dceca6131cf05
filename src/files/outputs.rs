//! Where a command may write: never over its inputs, and never over a user's files without being asked to.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::{folder_of, name_of_kind, target_of, temporary_in};
use crate::error::{Error, Remedy, Result};

/// Fails if no file can be written at `path`: [`check_outputs`] for a file that is made without reading others.
///
/// # Errors
/// [`Error::Usage`], which says what would help, and [`Error::Io`].
///
/// # Examples
/// ```
/// # use shadernet::files::{check_free, write_atomically};
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("model.toml");
/// check_free(&path, false)?;
/// write_atomically(&path, b"name = \"tiny\"\n")?;
/// assert!(check_free(&path, false).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn check_free(path: &Path, force: bool) -> Result<()> {
    check_outputs(&[path], &[], force)
}

/// Fails, before any work is done, if one of `outputs` cannot be written: because it is one of the `inputs` or
/// belongs to a dataset folder among them, because two outputs are the same file, because a folder, a device or a
/// pipe (or, without `force`, anything) is in the way, because it is read-only, or because its folder is missing or
/// read-only.
///
/// # Errors
/// [`Error::Usage`], which says what would help, and [`Error::Io`].
pub fn check_outputs(outputs: &[&Path], inputs: &[&Path], force: bool) -> Result<()> {
    let mut identities = Vec::new();
    for &path in outputs {
        let refused = |why: &str| Err(Error::Usage(format!("{}: {why}", path.display())));
        if path.as_os_str() == "-" {
            return refused("the output must go to a file; name one, such as ./-");
        }
        let target = target_of(path).map_err(Error::io("write", path))?;
        let found = match path.metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            found => Some(found.map_err(Error::io("write", path))?),
        };
        let kind = found.as_ref().map(|found| found.file_type());
        if kind.is_some_and(|kind| kind.is_dir()) || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return refused("this is a folder; name a file");
        } else if let Some(kind) = kind.filter(|kind| !kind.is_file()) {
            return refused(&format!("this is {}; name a file", name_of_kind(kind)));
        } else if found.is_some() && inputs.iter().any(|input| is_part_of(path, &target, input)) {
            return refused("this file is an input and is not replaced; name another");
        }
        // A dangling link also belongs to the user.
        if !force && path.symlink_metadata().is_ok() {
            return Err(Error::Usage(format!("{} exists", path.display())).with(Remedy::Replace));
        }
        if found.is_some_and(|found| found.permissions().readonly()) {
            return refused("this file is read-only; make it writable, or name another");
        }
        let folder = folder_of(&target);
        if !folder.exists() {
            let message = format!("there is no folder {}", folder.display());
            return Err(Error::io("write", path)(io::Error::new(ErrorKind::NotFound, message)));
        }
        let identity = identity_of(&target).map_err(Error::io("write", path))?;
        if identities.contains(&identity) {
            return refused("this file is named twice; each output needs its own file");
        }
        identities.push(identity);
        temporary_in(folder).map(drop).map_err(Error::io("write", path))?;
    }
    Ok(())
}

/// Extensions of files that shadernet writes. No picture in a dataset has one of these.
const WRITTEN: [&str; 8] = ["csv", "html", "json", "onnx", "py", "safetensors", "svg", "toml"];

/// Folder levels in a dataset: some to its location, one of parts, one of classes.
const LEVELS: usize = 6;
/// A dataset has fewer folders; this bounds the search through other contents.
const MAX_FOLDERS: usize = 10_000;

/// True if the file `path`, which leads to `target`, is the file `input` by whatever name, or a file of the dataset
/// in the folder `input`: by its name, or because a link there leads to it or to its folder.
fn is_part_of(path: &Path, target: &Path, input: &Path) -> bool {
    if !input.is_dir() {
        return input.is_file() && same_file::is_same_file(target, input).unwrap_or(false);
    }
    let as_named =
        folder_of(path).canonicalize().map(|folder| folder.join(path.file_name().unwrap_or_default()));
    let (Ok(as_named), Ok(target), Ok(root)) = (as_named, target.canonicalize(), input.canonicalize()) else {
        return false;
    };
    let is_inside = |path: &Path| !is_written(path) && path.starts_with(&root);
    is_inside(&as_named) || is_inside(&target) || leads_to(root.clone(), &target)
}

fn is_written(path: &Path) -> bool {
    path.extension().is_some_and(|ending| WRITTEN.iter().any(|own| ending == *own))
}

/// True if a link below the folder `root` leads to the file `target`, or to a folder that contains it.
fn leads_to(root: PathBuf, target: &Path) -> bool {
    let mut seen = HashSet::from([root.clone()]);
    let mut level = vec![root];
    for _ in 0..LEVELS {
        let mut next = Vec::new();
        for entry in level.iter().filter_map(|folder| folder.read_dir().ok()).flatten().flatten() {
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            let found = match is_link {
                true => entry.path().canonicalize().ok(),
                false => entry.file_type().is_ok_and(|kind| kind.is_dir()).then(|| entry.path()),
            };
            let Some(found) = found else { continue };
            if found.is_dir() {
                if target.parent() == Some(&found) && !is_written(target) {
                    return true;
                }
                if seen.len() < MAX_FOLDERS && seen.insert(found.clone()) {
                    next.push(found);
                }
            } else if found == target && !is_written(&entry.path()) {
                return true;
            }
        }
        level = next;
    }
    false
}

/// An identity shared by all names of a file, even if it doesn't exist yet.
fn identity_of(target: &Path) -> io::Result<PathBuf> {
    let path = match target.canonicalize() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            folder_of(target).canonicalize()?.join(target.file_name().unwrap_or_default())
        }
        found => found?,
    };
    // Their file systems usually ignore case.
    let folds = cfg!(any(windows, target_os = "macos"));
    Ok(if folds { path.to_string_lossy().to_lowercase().into() } else { path })
}

#[cfg(test)]
mod tests {
    use super::super::PREFIX;
    use super::*;

    /// Why `outputs` cannot be written; checking leaves nothing in `dir`.
    fn why_not(dir: &Path, outputs: &[&Path], inputs: &[&Path], force: bool) -> Option<String> {
        let count = || std::fs::read_dir(dir).unwrap().count();
        let before = count();
        let message = check_outputs(outputs, inputs, force).err().map(|error| error.to_string());
        assert_eq!(count(), before);
        assert!(!message.as_ref().is_some_and(|message| message.contains(PREFIX)), "{message:?}");
        message
    }

    #[test]
    fn what_is_there_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let message = |path: &Path, force| why_not(dir.path(), &[path], &[], force);
        assert_eq!(message(&path, false), None);
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("nowhere", &path).unwrap();
            assert!(message(&path, false).unwrap().contains("x exists"));
            assert_eq!(message(&path, true), None);
            std::fs::remove_file(&path).unwrap();
            for force in [false, true] {
                let words = "/dev/null: this is a device; name a file";
                assert_eq!(message(Path::new("/dev/null"), force).unwrap(), words);
                // A link whose target isn't a path, as shells create them.
                #[cfg(target_os = "linux")]
                {
                    use std::os::fd::AsRawFd;
                    let (reader, _writer) = io::pipe().unwrap();
                    let pipe = format!("/dev/fd/{}", reader.as_raw_fd());
                    assert!(message(Path::new(&pipe), force).unwrap().contains("this is a pipe"));
                }
            }
        }
        std::fs::write(&path, "").unwrap();
        assert!(message(&path, false).unwrap().contains("x exists"));
        assert_eq!(message(&path, true), None);
        for force in [false, true] {
            for folder in [dir.path(), &dir.path().join(".."), &dir.path().join("new/")] {
                assert!(
                    message(folder, force).unwrap().contains("this is a folder; name a file"),
                    "{folder:?}"
                );
            }
        }
        for path in [path.join("below"), dir.path().join("x".repeat(300))] {
            assert!(message(&path, false).unwrap().starts_with("cannot write "));
        }
        let words = "no/file: there is no folder ";
        assert!(message(&dir.path().join("no/file"), false).unwrap().contains(words));
        assert!(message(Path::new("-"), true).unwrap().starts_with("-: the output must go to a file"));
        let mut permissions = path.metadata().unwrap().permissions();
        permissions.set_readonly(true);
        std::fs::set_permissions(&path, permissions).unwrap();
        assert!(message(&path, true).unwrap().contains("this file is read-only"));
    }

    #[test]
    fn inputs_are_not_replaced_and_every_output_has_a_place_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let [model, data, picture, page] = ["model", "data", "data/1.png", "data/page.html"].map(path);
        std::fs::create_dir(&data).unwrap();
        for file in [&model, &picture, &page] {
            std::fs::write(file, "").unwrap();
        }
        let message =
            |outputs: &[&Path]| why_not(dir.path(), outputs, &[&model, &data, &path("missing")], true);
        let mut same = vec![model.clone(), path("./model"), path("data/../model"), picture];
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("model", path("link")).unwrap();
            std::os::unix::fs::symlink("data/1.png", path("shortcut")).unwrap();
            std::fs::hard_link(&model, path("hard")).unwrap();
            same.extend(["link", "hard", "shortcut"].map(path));
        }
        for name in &same {
            assert!(message(&[name]).unwrap().contains("this file is an input"), "{name:?}");
        }
        assert_eq!(message(&[&page, &path("data/new.png"), &path("new")]), None);
        for (a, b) in [("new", "new"), ("new", "./new"), ("data/page.html", "data/../data/page.html")] {
            assert!(message(&[&path(a), &path(b)]).unwrap().contains("named twice"), "{a} {b}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn data_sets_of_links_are_not_replaced() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for folder in ["store/ring", "store/other", "links", "classes/train"] {
            std::fs::create_dir_all(path(folder)).unwrap();
        }
        for file in ["store/images", "store/ring/1.png", "store/ring/notes.csv", "store/other/2.png"] {
            std::fs::write(path(file), "").unwrap();
        }
        symlink("../store/images", path("links/images")).unwrap();
        symlink("../../store/ring", path("classes/train/ring")).unwrap();
        symlink("..", path("classes/train/loop")).unwrap();
        symlink("classes", path("data")).unwrap();
        let message =
            |output: &str, input: &str| why_not(dir.path(), &[&path(output)], &[&path(input)], true);
        for (output, input) in [
            ("links/images", "links"),
            ("store/images", "links"),
            ("store/ring/1.png", "classes"),
            ("store/ring/1.png", "data"),
            ("classes/train/ring/1.png", "classes"),
            ("data/train/ring/../ring/1.png", "classes"),
        ] {
            assert!(
                message(output, input).is_some_and(|why| why.contains("this file is an input")),
                "{output} {input}"
            );
        }
        for (output, input) in [("store/other/2.png", "classes"), ("store/ring/notes.csv", "classes")] {
            assert_eq!(message(output, input), None, "{output} {input}");
        }
    }
}
