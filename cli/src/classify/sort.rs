//! Pictures sorted into folders by their answers. Nothing that exists is ever replaced.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use shadernet::error::{Error, Result, shown};

use super::answers::{UNSURE, count};

/// Puts a link to each picture, or a copy, into the folder of its class.
pub(super) struct Sorter {
    dir: PathBuf,
    copy: bool,
    /// The folder of each class, and at the end that of `unsure`.
    folders: Vec<String>,
    sorted: usize,
    /// Pictures that were there already.
    known: usize,
}

impl Sorter {
    pub(super) fn new(dir: &Path, copy: bool, classes: &[String]) -> Self {
        Self { dir: dir.to_owned(), copy, folders: folders(classes), sorted: 0, known: 0 }
    }

    /// Sorts a picture in; no class is `unsure`.
    ///
    /// # Errors
    /// What the system refuses.
    pub(super) fn sort(&mut self, file: &Path, class: Option<usize>) -> Result<()> {
        let folder = self.dir.join(&self.folders[class.unwrap_or(self.folders.len() - 1)]);
        fs::create_dir_all(&folder).map_err(Error::io("make the folder", &folder))?;
        // The whole path, since a link is read from where it lies.
        let source = file.canonicalize().map_err(Error::io("read", file))?;
        for number in 1.. {
            let target = folder.join(numbered(file, number));
            let made = if self.copy { copy(&source, &target) } else { link(&source, &target) };
            match made {
                Ok(()) => {
                    self.sorted += 1;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    if self.is_same(&source, &target).map_err(Error::io("read", &target))? {
                        self.known += 1;
                        break;
                    }
                }
                Err(error) => {
                    return Err(Error::io(if self.copy { "write" } else { "link" }, &target)(error));
                }
            }
        }
        Ok(())
    }

    /// True if what is there is this picture: what leads to it or, of copies, has its content.
    fn is_same(&self, source: &Path, target: &Path) -> io::Result<bool> {
        match target.canonicalize() {
            Ok(path) if path == source => Ok(true),
            Ok(path) if self.copy && path.is_file() => same_content(source, &path),
            Ok(_) => Ok(false),
            // A link that leads nowhere takes a name as well.
            Err(_) => Ok(false),
        }
    }
}

/// What was done.
impl fmt::Display for Sorter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.copy { "copied" } else { "linked" };
        write!(f, "{} {what} into {}", count(self.sorted, "picture"), shown(&self.dir.to_string_lossy()))?;
        if self.known > 0 {
            write!(
                f,
                "; {} there already",
                if self.known == 1 { "1 was".into() } else { format!("{} were", self.known) }
            )?;
        }
        Ok(())
    }
}

/// `cat.jpg`, then `cat-2.jpg`.
fn numbered(file: &Path, number: usize) -> PathBuf {
    let name = Path::new(file.file_name().unwrap_or(file.as_os_str()));
    if number == 1 {
        return name.to_owned();
    }
    let mut numbered = name.file_stem().unwrap_or_default().to_owned();
    numbered.push(format!("-{number}"));
    if let Some(extension) = name.extension() {
        numbered.push(".");
        numbered.push(extension);
    }
    numbered.into()
}

#[cfg(unix)]
fn link(source: &Path, target: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(source, target)
}

#[cfg(windows)]
fn link(source: &Path, target: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(source, target)
}

#[cfg(not(any(unix, windows)))]
fn link(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::Error::new(ErrorKind::Unsupported, "this system has no links; use --copy"))
}

/// Copies into a new file, whole or not at all, with the time of the old one.
fn copy(source: &Path, target: &Path) -> io::Result<()> {
    let mut from = File::open(source)?;
    let mut to = OpenOptions::new().write(true).create_new(true).open(target)?;
    let copied = io::copy(&mut from, &mut to);
    if let Ok(time) = from.metadata().and_then(|data| data.modified()) {
        // A file system without times is no reason to fail.
        let _ = to.set_modified(time);
    }
    drop(to);
    copied.map(drop).inspect_err(|_| _ = fs::remove_file(target))
}

fn same_content(a: &Path, b: &Path) -> io::Result<bool> {
    let (mut a, mut b) = (File::open(a)?, File::open(b)?);
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    a.read_to_end(&mut of_a)?;
    b.read_to_end(&mut of_b)?;
    Ok(of_a == of_b)
}

/// A folder's name for each class and for `unsure`, none like another, even where upper and lower case are the same.
fn folders(classes: &[String]) -> Vec<String> {
    let mut taken = HashSet::from([UNSURE.to_owned()]);
    let mut folder = |class: &String| {
        let safe = safe(class);
        let candidates = std::iter::once(safe.clone()).chain((2..).map(|number| format!("{safe}-{number}")));
        let mut free = candidates.filter(|name| taken.insert(name.to_lowercase()));
        free.next().expect("numbers do not end")
    };
    let mut folders: Vec<String> = classes.iter().map(&mut folder).collect();
    folders.push(UNSURE.into());
    folders
}

/// The name of a class as the name of a folder, on every system: it comes from a file, and must not lead anywhere else.
fn safe(class: &str) -> String {
    const MOST_BYTES: usize = 100;
    let letter = |c: char| match c {
        '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|' => '_',
        c if c.is_control() => '_',
        c => c,
    };
    let mut name: String = class.chars().map(letter).collect();
    while name.len() > MOST_BYTES {
        name.pop();
    }
    // Those that start with a dot are hidden or lead elsewhere; at the end Windows leaves dots and spaces out.
    if name.is_empty() || name.starts_with('.') {
        name.insert(0, '_');
    }
    if name.ends_with(['.', ' ']) {
        name.push('_');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_class_leads_out_of_its_folder_and_each_has_its_own() {
        let classes =
            ["cat", "../x", "..", "a/b", "a\\b", "Cat", "", "con.", "x\ny", "Unsure"].map(String::from);
        let want = [
            "cat",
            "_../x".replace('/', "_").as_str(),
            "_.._",
            "a_b",
            "a_b-2",
            "Cat-2",
            "_",
            "con._",
            "x_y",
            "Unsure-2",
            "unsure",
        ]
        .map(String::from);
        assert_eq!(folders(&classes), want);
        let long = ["字".repeat(9000), "字".repeat(9001)];
        let folders = folders(&long);
        assert!(folders.iter().all(|name| name.len() < 120) && folders[0] != folders[1]);
    }

    #[test]
    fn what_exists_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (folder, text) in [("a", "one"), ("b", "two")] {
            fs::create_dir(at(folder)).unwrap();
            fs::write(at(folder).join("x.tar.png"), text).unwrap();
        }
        let classes = ["cat".to_owned()];
        for (out, copies) in [("copies", true), ("links", false)] {
            fs::create_dir_all(at(out).join("cat")).unwrap();
            fs::write(at(out).join("cat/x.tar.png"), "mine").unwrap();
            for again in [false, true] {
                let mut sorter = Sorter::new(&at(out), copies, &classes);
                for folder in ["a", "b"] {
                    sorter.sort(&at(folder).join("x.tar.png"), Some(0)).unwrap();
                }
                sorter.sort(&at("a/x.tar.png"), None).unwrap();
                assert_eq!((sorter.sorted, sorter.known), if again { (0, 3) } else { (3, 0) });
            }
            let found = ["x.tar.png", "x.tar-2.png", "x.tar-3.png"]
                .map(|name| fs::read_to_string(at(out).join("cat").join(name)).unwrap());
            assert_eq!(found, ["mine", "one", "two"]);
            assert_eq!(fs::read_dir(at(out).join("cat")).unwrap().count(), 3);
            assert_eq!(fs::read_dir(at(out).join("unsure")).unwrap().count(), 1);
            assert_eq!(at(out).join("unsure/x.tar.png").is_symlink(), !copies);
        }
    }
}
