//! Fetches well-known datasets from public mirrors. A file gets its name only once its SHA-256 is right.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::Agent;
use ureq::http::StatusCode;

use crate::dataset::ABOUT_FILE;
use crate::error::{Error, Remedy, Result};
use crate::files;

mod archive;
mod sets;

pub use sets::DATA_SETS;

/// A dataset on a server.
#[derive(Debug, Clone, Copy)]
pub struct DataSet<'a> {
    /// Name on the command line.
    pub name: &'a str,
    /// Title, authors and licence.
    pub about: &'a str,
    /// Common prefix of its files' URLs, up to the last slash.
    pub mirror: &'a str,
    /// Its files.
    pub files: &'a [RemoteFile<'a>],
    /// If there is one file, an archive: the files to take out of it, by their names without folders.
    pub members: &'a [&'a str],
    /// What `dataset.toml` is to say of it; nothing if its files tell all.
    pub description: &'a str,
}

/// A file on a server.
#[derive(Debug, Clone, Copy)]
pub struct RemoteFile<'a> {
    /// Name, on the server and locally.
    pub name: &'a str,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the content, in lower-case hexadecimal digits.
    pub sha256: &'a str,
}

/// How often a file is requested if the connection breaks.
const ATTEMPTS: u32 = 4;
/// Longest time to wait for a silent server.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a file could not be fetched.
enum Failure {
    /// The connection broke: another request may get the rest.
    Broken(String),
    /// It would fail again.
    Final(Error),
}

/// Fetches the files of a dataset into `folder`, which is created; files that are already there and correct are kept.
/// SHA256SUMS goes next to them and is checked by the loader. Of an archive its members stay. `mirror` replaces the dataset's own; `force` replaces
/// files that are not the dataset's. `watch` is told about each file and how many of its bytes are there.
///
/// Data received before a connection broke or the process ended is kept in `<name>.part`, and the next call resumes
/// from there. If two calls fetch a file into one folder at the same time, the second fails.
///
/// # Errors
/// Different files with these names, servers that cannot be reached or lack the files, unexpected content, another
/// process doing the same, and disk errors.
///
/// # Examples
/// ```no_run
/// use shadernet::download::{DATA_SETS, fetch};
///
/// let set = DATA_SETS.iter().find(|set| set.name == "fashion-mnist").unwrap();
/// fetch(set, None, "data/fashion-mnist".as_ref(), false, &mut |file, done| {
///     println!("{}: {done} of {} bytes", file.name, file.size);
/// })?;
/// # Ok::<(), shadernet::error::Error>(())
/// ```
pub fn fetch(
    set: &DataSet<'_>,
    mirror: Option<&str>,
    folder: &Path,
    force: bool,
    watch: &mut dyn FnMut(&RemoteFile<'_>, u64),
) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
    files::check_writable(folder)?;
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_per_read(Some(PATIENCE))
        .user_agent(concat!("shadernet/", env!("CARGO_PKG_VERSION")))
        .build()
        .into();
    let sums = folder.join(SUMS);
    if archive::is_unpacked(set, folder, force)? {
        set.files.iter().for_each(|file| watch(file, file.size));
    } else {
        for file in missing(set, folder, force, watch)? {
            let url = format!("{}/{}", mirror.unwrap_or(set.mirror).trim_end_matches('/'), file.name);
            fetch_file(&agent, &url, file, folder, watch)?;
        }
        archive::unpack(set, folder)?;
        let files: Vec<_> = set.files.iter().map(|file| (file.sha256.to_owned(), file.name)).collect();
        write_sums(&files, &sums)?;
        archive::remove(set, folder)?;
    }
    // What somebody has written there stays.
    let about = folder.join(ABOUT_FILE);
    if !set.description.is_empty() && about.symlink_metadata().is_err() {
        files::write_atomically(&about, set.description.as_bytes())?;
    }
    Ok(())
}

/// Name of the list of checksums.
const SUMS: &str = "SHA256SUMS";
/// No such list is larger.
const MAX_SUMS: u64 = 1 << 20;

/// The list of checksums in a folder; nothing if there is none.
fn read_sums(path: &Path) -> Result<String> {
    let old = match path.exists() {
        true => files::read_at_most(path, MAX_SUMS)?.unwrap_or_default(),
        false => Vec::new(),
    };
    Ok(String::from_utf8_lossy(&old).into_owned())
}

/// Writes the sums of files; existing sums of other files are kept.
fn write_sums(files: &[(String, &str)], path: &Path) -> Result<()> {
    let old = read_sums(path)?;
    let is_about = |line: &str, name: &str| {
        line.split_whitespace().last().is_some_and(|last| last.trim_start_matches('*') == name)
    };
    let others = old.lines().filter(|line| !files.iter().any(|(_, name)| is_about(line, name)));
    let mut sums: String = others.map(|line| format!("{line}\n")).collect();
    files.iter().for_each(|(sha256, name)| sums += &format!("{sha256}  {name}\n"));
    files::write_atomically(path, sums.as_bytes())
}

/// The files that must be fetched.
fn missing<'a>(
    set: &DataSet<'a>,
    folder: &Path,
    force: bool,
    watch: &mut dyn FnMut(&RemoteFile<'_>, u64),
) -> Result<Vec<&'a RemoteFile<'a>>> {
    let mut missing = Vec::new();
    for file in set.files {
        let path = folder.join(file.name);
        // A dangling link also belongs to the user.
        let is_there = path.symlink_metadata().is_ok();
        if path.exists()
            && files::sha256(&mut files::open(&path)?).map_err(Error::io("read", &path))? == file.sha256
        {
            watch(file, file.size);
            // Left over from an earlier attempt.
            if part_path(&path).exists() {
                Part::open(&path)?.remove()?;
            }
        } else if is_there && !force {
            let message = format!("this file exists, but is not from {}", set.name);
            return Err(Error::data(path, message).with(Remedy::ReplaceDownload));
        } else {
            missing.push(file);
        }
    }
    Ok(missing)
}

/// Fetches a file, requesting the rest if the connection breaks, and gives it its name.
fn fetch_file(
    agent: &Agent,
    url: &str,
    file: &RemoteFile<'_>,
    folder: &Path,
    watch: &mut dyn FnMut(&RemoteFile<'_>, u64),
) -> Result<()> {
    let mut part = Part::open(&folder.join(file.name))?;
    // An older part may be of another file, or damaged: worth a second try without it.
    let mut is_old = part.len()? > 0;
    let mut attempt = 1;
    loop {
        match request(agent, url, file, &mut part, watch) {
            Ok(()) => {
                let found = part.sha256()?;
                if found == file.sha256 {
                    return part.finish();
                }
                if !std::mem::take(&mut is_old) {
                    part.remove()?;
                    let wanted = file.sha256;
                    let message =
                        format!("this is not the expected file: its SHA-256 is {found}, not {wanted}");
                    return Err(Error::data(url, message));
                }
                part.truncate()?;
            }
            Err(Failure::Final(error)) => {
                // Nothing arrived: nothing is left.
                if part.len()? == 0 {
                    part.remove()?;
                }
                return Err(error);
            }
            Err(Failure::Broken(reason)) if attempt == ATTEMPTS => {
                if part.len()? == 0 {
                    part.remove()?;
                }
                let message = format!("{reason}, {ATTEMPTS} times; another attempt continues from here");
                return Err(Error::data(url, message));
            }
            Err(Failure::Broken(_)) => {
                std::thread::sleep(Duration::from_millis(250) * attempt);
                attempt += 1;
            }
        }
    }
}

/// A partly downloaded file: only we write to it while this exists.
struct Part {
    file: File,
    path: PathBuf,
    /// Its final name.
    whole: PathBuf,
}

fn part_path(whole: &Path) -> PathBuf {
    let mut name = whole.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    whole.with_file_name(name)
}

impl Part {
    /// The existing part, or an empty one.
    fn open(whole: &Path) -> Result<Self> {
        let path = part_path(whole);
        let refuse = |reason: String| Error::io("write", &path)(io::Error::other(reason));
        loop {
            // A pipe would wait for a reader, and a link may lead anywhere.
            if let Ok(found) = path.symlink_metadata()
                && !found.is_file()
            {
                let kind = found.file_type();
                let kind = if kind.is_symlink() { "a link" } else { files::name_of_kind(kind) };
                return Err(refuse(format!("this is {kind}, not part of a download; remove it")));
            }
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).open(&path);
            let file = file.map_err(Error::io("write", &path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let reason = "another process is downloading it into this folder; wait until it is done";
                    return Err(refuse(reason.into()).with(Remedy::OtherFolder));
                }
                // A file system without locks.
                Err(TryLockError::Error(_)) => {}
            }
            // The previous holder of the lock may have finished the file, which then has its name, or removed it.
            let same = |path: &Path| -> io::Result<bool> {
                Ok(same_file::Handle::from_path(path)? == same_file::Handle::from_file(file.try_clone()?)?)
            };
            if same(&path).unwrap_or(false) {
                return Ok(Self { file, path, whole: whole.to_owned() });
            }
        }
    }

    /// A disk error, under the name that the user knows.
    fn error(&self, error: io::Error) -> Error {
        let reason = format!("{error}; another attempt continues from here");
        Error::io("write", &self.whole)(io::Error::new(error.kind(), reason))
    }

    fn len(&self) -> Result<u64> {
        self.file.metadata().map(|about| about.len()).map_err(|error| self.error(error))
    }

    fn append(&mut self, piece: &[u8]) -> Result<()> {
        let written = self.file.seek(SeekFrom::End(0)).and_then(|_| self.file.write_all(piece));
        written.map_err(|error| self.error(error))
    }

    fn truncate(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(|error| self.error(error))
    }

    fn sha256(&mut self) -> Result<String> {
        let hash = self.file.rewind().and_then(|()| files::sha256(&mut self.file));
        hash.map_err(Error::io("read", &self.path))
    }

    fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).map_err(Error::io("remove", &self.path))
    }

    /// Gives it its name, once it is on disk.
    fn finish(self) -> Result<()> {
        let renamed = self.file.sync_all().and_then(|()| fs::rename(&self.path, &self.whole));
        renamed.map_err(|error| self.error(error))
    }
}

/// Requests a file, or what is missing of `part`, and writes it there.
fn request(
    agent: &Agent,
    url: &str,
    file: &RemoteFile<'_>,
    part: &mut Part,
    watch: &mut dyn FnMut(&RemoteFile<'_>, u64),
) -> Result<(), Failure> {
    let wrong = |message: String| Failure::Final(Error::data(url, message));
    let mut done = part.len().map_err(Failure::Final)?;
    if done == file.size {
        return Ok(());
    }
    if done > file.size {
        part.truncate().map_err(Failure::Final)?;
        done = 0;
    }
    let mut request = agent.get(url);
    if done > 0 {
        request = request.header("Range", format!("bytes={done}-"));
    }
    let response = request.call().map_err(|error| match error {
        ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::Protocol(_) => {
            Failure::Broken(format!("the connection failed ({error})"))
        }
        other => wrong(format!("cannot download it: {other}")),
    })?;
    let range = response.headers().get("content-range").and_then(|range| range.to_str().ok());
    match response.status() {
        // Also from a server that doesn't support ranges and starts over.
        StatusCode::OK => part.truncate().map_err(Failure::Final)?,
        StatusCode::PARTIAL_CONTENT
            if range.is_some_and(|range| range.starts_with(&format!("bytes {done}-"))) => {}
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            part.truncate().map_err(Failure::Final)?;
            return Err(Failure::Broken("the server sent a different part than requested".into()));
        }
        status => return Err(wrong(format!("the server answered {status}"))),
    }
    receive(response.into_body().into_reader(), file, part, watch, &wrong)
}

/// Appends what a server sends to `part`.
fn receive(
    mut body: impl Read,
    file: &RemoteFile<'_>,
    part: &mut Part,
    watch: &mut dyn FnMut(&RemoteFile<'_>, u64),
    wrong: &dyn Fn(String) -> Failure,
) -> Result<(), Failure> {
    let mut done = part.len().map_err(Failure::Final)?;
    let mut piece = vec![0; 1 << 16];
    loop {
        let count = body.read(&mut piece).map_err(|error| {
            Failure::Broken(format!("the connection broke after {done} of {} bytes ({error})", file.size))
        })?;
        let piece = &piece[..count];
        if count == 0 {
            return match done {
                done if done < file.size => {
                    Err(Failure::Broken(format!("the connection ended after {done} of {} bytes", file.size)))
                }
                _ => Ok(()),
            };
        }
        let (kind, start): (_, &[u8]) =
            if file.name.ends_with(".zip") { ("ZIP archive", b"P") } else { ("gzip file", &[0x1f]) };
        if done == 0 && !piece.starts_with(start) {
            return Err(wrong(match piece.trim_ascii_start().first() {
                Some(b'<') => {
                    format!("this is an HTML or XML page, not a {kind}; does a proxy ask for a login?")
                }
                _ => {
                    format!("this is not a {kind}: it starts with the bytes {:02x?}", &piece[..count.min(4)])
                }
            }));
        }
        done += count as u64;
        if done > file.size {
            part.truncate().map_err(Failure::Final)?;
            return Err(wrong(format!(
                "this is not the expected file: it has more than {} bytes",
                file.size
            )));
        }
        part.append(piece).map_err(Failure::Final)?;
        watch(file, done);
    }
}
