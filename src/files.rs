//! Files that are there whole or not at all, and never instead of one that the user has there.

use std::borrow::Cow;
use std::fs::{File, FileType};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::error::{Error, Result};

mod made;

pub(crate) use made::MadeFolders;

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

/// Fails if one of `outputs` cannot be written, before any work was done for it: because it is one of the `inputs` or belongs
/// to a folder of data among them, because two outputs are one file, because a folder, a device or a pipe is in the way, or
/// without `force` anything at all, because it is read-only, or because the folder around it is missing or read-only.
///
/// # Errors
/// [`Error::Usage`], which says what would help, and [`Error::Io`].
pub fn check_outputs(outputs: &[&Path], inputs: &[&Path], force: bool) -> Result<()> {
    let mut identities = Vec::new();
    for &path in outputs {
        let refused = |why: &str| Err(Error::Usage(format!("{}: {why}", path.display())));
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
        } else if inputs.iter().any(|input| is_part_of(&target, input)) {
            return refused("this file is read as an input and is not replaced; name another");
        }
        // Also a link that leads nowhere is something that the user has there.
        if !force && path.symlink_metadata().is_ok() {
            let message = format!("{} exists: --force replaces it, another name keeps it", path.display());
            return Err(Error::Usage(message));
        }
        if found.is_some_and(|found| found.permissions().readonly()) {
            return refused("this file is read-only; make it writable, or name another");
        }
        let identity = identity_of(&target).map_err(Error::io("write", path))?;
        if identities.contains(&identity) {
            return refused("this file is named twice; every output takes a file of its own");
        }
        identities.push(identity);
        temporary_in(folder_of(&target)).map(drop).map_err(Error::io("write", path))?;
    }
    Ok(())
}

/// Endings of what shadernet writes. Among the pictures of a data set there are none of these.
const WRITTEN: [&str; 8] = ["csv", "html", "json", "onnx", "py", "safetensors", "svg", "toml"];

/// True if `path` is the file `input` by whatever name, or a file of the data set in the folder `input`.
fn is_part_of(path: &Path, input: &Path) -> bool {
    if input.is_dir() {
        let written = path.extension().is_some_and(|ending| WRITTEN.iter().any(|own| ending == *own));
        let inside = path.canonicalize().and_then(|path| Ok(path.starts_with(input.canonicalize()?)));
        return !written && inside.unwrap_or(false);
    }
    path.is_file() && input.is_file() && same_file::is_same_file(path, input).unwrap_or(false)
}

/// What two names of one file have in common, even if there is no file yet.
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

/// Writes a file under a temporary name beside its place, waits for the disk and renames it: whoever looks, whenever
/// the power fails, sees the old file or the new one. Where a link leads to the file, the link stays, and so do the
/// permissions of a file that is replaced; further hard links keep the old content.
///
/// # Errors
/// What the system refuses; the old file is then untouched.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        let target = target_of(path)?;
        remove_leftovers(folder_of(&target));
        let mut tries = 0;
        loop {
            match replace(&target, bytes) {
                // Another process took our file for a leftover in the moment before it was locked.
                Err(error)
                    if error.kind() == ErrorKind::NotFound && tries < 9 && folder_of(&target).is_dir() =>
                {
                    tries += 1;
                }
                done => return done,
            }
        }
    };
    write().map_err(Error::io("write", path))
}

fn replace(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = folder_of(target);
    let mut file = temporary_in(folder)?;
    // First, so that what is private is so at every moment.
    if let Ok(old) = target.metadata() {
        file.as_file().set_permissions(old.permissions())?;
    }
    // By the file itself: errors of the wrapper name it.
    file.as_file_mut().write_all(bytes)?;
    file.as_file().sync_all()?;
    // Before the file is replaced, so that it stays if this fails. A folder may be writable and not readable.
    #[cfg(unix)]
    let folder = match File::open(folder) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
        folder => Some(folder?),
    };
    file.persist(target)?;
    // A rename lasts once its folder is on the disk; only Unix lets us ask for that, and there not every file system.
    #[cfg(unix)]
    match folder.map(|folder| folder.sync_all()) {
        Some(Err(error)) if ![ErrorKind::InvalidInput, ErrorKind::Unsupported].contains(&error.kind()) => {
            return Err(error);
        }
        _ => {}
    }
    Ok(())
}

/// The file that is meant by a path: links are followed, to one that leads nowhere, too.
fn target_of(path: &Path) -> io::Result<PathBuf> {
    let mut target = path.to_owned();
    for _ in 0..40 {
        match target.read_link() {
            Ok(link) => target = folder_of(&target).join(link),
            Err(_) => return Ok(target),
        }
    }
    Err(io::Error::other("too many links lead from one to another"))
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Fails if no file can be made in `folder`: better now than after an hour of training.
pub(crate) fn check_writable(folder: &Path) -> Result<()> {
    temporary_in(folder).map(drop).map_err(Error::io("write into", folder))
}

/// What the names of temporary files begin with.
pub(crate) const PREFIX: &str = ".shadernet-";
/// Letters and digits behind it, chosen at random.
const RANDOM: usize = 6;

/// A file that vanishes if it is not renamed, locked for as long as this process has it open.
fn temporary_in(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).rand_bytes(RANDOM);
    // Temporary files are private; results are for everyone whom the user's umask admits.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder.tempfile_in(folder).map_err(|error| {
        // The system's own reason, without the temporary name, of which the user knows nothing.
        let text = error.to_string();
        let reason = text.split_once(" at path ").map_or(&*text, |(reason, _)| reason);
        io::Error::new(error.kind(), reason)
    })?;
    // Where there are no locks, nobody can take it for a leftover either.
    let _ = file.as_file().try_lock();
    Ok(file)
}

/// Removes temporary files that processes which died have left in `folder`: those that nobody has locked.
pub(crate) fn remove_leftovers(folder: &Path) {
    let Ok(entries) = folder.read_dir() else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let random = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let is_ours =
            |random: &str| random.len() == RANDOM && random.bytes().all(|b| b.is_ascii_alphanumeric());
        if !random.is_some_and(is_ours) || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let unlocked = File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
        if unlocked {
            // Another process may be faster.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// A word as a POSIX shell reads it: in quotes, where it needs them. A path that begins like an option gets `./` before it.
pub fn quoted(word: &str) -> Cow<'_, str> {
    if word.starts_with('-') {
        return quoted(&format!("./{word}")).into_owned().into();
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''")).into()
}

/// Opens a file to read. A pipe would wait for somebody who writes, and a device may never end: only a regular file, or a
/// link to one, is opened.
///
/// # Errors
/// [`Error::Io`] for what is missing or refused, and for what is no regular file.
pub(crate) fn open(path: &Path) -> Result<File> {
    let open = || -> io::Result<File> {
        let kind = std::fs::metadata(path)?.file_type();
        if !kind.is_file() {
            let message = format!("this is {}, not a regular file", name_of_kind(kind));
            return Err(io::Error::new(ErrorKind::InvalidInput, message));
        }
        File::open(path)
    };
    open().map_err(Error::io("read", path))
}

/// What something in a folder is, if it is no regular file.
pub(crate) fn name_of_kind(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a pipe";
        } else if kind.is_socket() {
            return "a socket";
        } else if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
    }
    if kind.is_dir() { "a folder" } else { "something else" }
}

/// Reads a whole regular file, but no more than `limit` bytes; `None` if it is larger.
///
/// # Errors
/// [`Error::Io`], also for what is no regular file, and where memory is short.
pub fn read_at_most(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let file = open(path)?;
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // At once, and with an error instead of an end where memory is short.
        bytes.try_reserve_exact(file.metadata()?.len().min(limit) as usize)?;
        (&file).take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(Error::io("read", path))?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// SHA-256 of what a reader still has, in lower-case hexadecimal digits.
pub(crate) fn sha256(reader: &mut impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        match reader.read(&mut piece)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            count => hash.update(&piece[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write_atomically(&path, b"first").unwrap();
        write_atomically(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let plain = dir.path().join("plain");
            std::fs::write(&plain, "").unwrap();
            let mode = |path| std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode(&path), mode(&plain));
        }
        let message = write_atomically(&path.join("below"), b"").unwrap_err().to_string();
        assert!(message.starts_with("cannot write "), "{message}");
    }

    /// Why `outputs` cannot be written; nothing is left in `dir` by asking.
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
            assert!(message(&path, false).unwrap().contains("x exists: --force replaces it"));
            assert_eq!(message(&path, true), None);
            std::fs::remove_file(&path).unwrap();
            for force in [false, true] {
                let words = "/dev/null: this is a device; name a file";
                assert_eq!(message(Path::new("/dev/null"), force).unwrap(), words);
                // A link that leads to no name, as shells make them.
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
        assert!(message(&path, false).unwrap().contains("x exists: --force replaces it"));
        assert_eq!(message(&path, true), None);
        for force in [false, true] {
            for folder in [dir.path(), &dir.path().join(".."), &dir.path().join("new/")] {
                assert!(
                    message(folder, force).unwrap().contains("this is a folder; name a file"),
                    "{folder:?}"
                );
            }
        }
        for path in [path.join("below"), dir.path().join("no/file"), dir.path().join("x".repeat(300))] {
            assert!(message(&path, false).unwrap().starts_with("cannot write "));
        }
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
            assert!(message(&[name]).unwrap().contains("read as an input"), "{name:?}");
        }
        assert_eq!(message(&[&page, &path("data/new.png"), &path("new")]), None);
        for (a, b) in [("new", "new"), ("new", "./new"), ("data/page.html", "data/../data/page.html")] {
            assert!(message(&[&path(a), &path(b)]).unwrap().contains("named twice"), "{a} {b}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_and_permissions_of_a_replaced_file_stay() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("folder")).unwrap();
        std::fs::write(path("folder/file"), "old").unwrap();
        std::fs::set_permissions(path("folder/file"), PermissionsExt::from_mode(0o640)).unwrap();
        symlink("folder/file", path("link")).unwrap();
        symlink("link", path("link of a link")).unwrap();
        symlink("folder/new", path("dangling")).unwrap();
        write_atomically(&path("link of a link"), b"new").unwrap();
        write_atomically(&path("dangling"), b"new").unwrap();
        for name in ["link", "link of a link", "dangling"] {
            assert!(path(name).is_symlink(), "{name}");
            assert_eq!(std::fs::read(path(name)).unwrap(), b"new", "{name}");
        }
        assert_eq!(path("folder/file").metadata().unwrap().permissions().mode() & 0o777, 0o640);
        symlink("loop", path("loop")).unwrap();
        assert!(write_atomically(&path("loop"), b"").is_err());
    }

    #[test]
    fn what_dead_processes_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let names = || -> std::collections::BTreeSet<_> {
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        };
        // A writer that lives, and what is only named alike.
        let living = temporary_in(dir.path()).unwrap();
        for name in [".shadernet-notes.txt", ".shadernet.lock", "shadernet-abcdef"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::fs::create_dir(dir.path().join(".shadernet-folder")).unwrap();
        let mut wanted = names();
        std::fs::write(dir.path().join(".shadernet-a1B2c3"), "dead").unwrap();
        assert_ne!(names(), wanted);
        write_atomically(&dir.path().join("x"), b"").unwrap();
        wanted.insert("x".into());
        assert_eq!(names(), wanted);
        drop(living);
    }

    #[test]
    fn writers_beside_each_other_do_not_take_each_others_files() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let path = dir.path().join(format!("{}", writer / 2));
                scope.spawn(move || {
                    for _ in 0..50 {
                        write_atomically(&path, b"all").unwrap();
                        assert_eq!(std::fs::read(&path).unwrap(), b"all");
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn words_are_quoted_for_a_shell_where_they_need_it() {
        for (word, quotes) in [
            ("runs/seed-1", "runs/seed-1"),
            ("my pics", "'my pics'"),
            ("it's", r"'it'\''s'"),
            ("$(rm)", "'$(rm)'"),
            ("", "''"),
            ("~", "'~'"),
            ("-x", "./-x"),
            ("-- x", "'./-- x'"),
        ] {
            assert_eq!(quoted(word), quotes);
        }
    }

    #[test]
    fn large_files_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write_atomically(&path, &[7; 10]).unwrap();
        assert_eq!(read_at_most(&path, 10).unwrap(), Some(vec![7; 10]));
        assert_eq!(read_at_most(&path, 9).unwrap(), None);
        assert!(read_at_most(dir.path(), 9).is_err());
    }
}
