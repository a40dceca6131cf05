//! Fetches well-known datasets from public mirrors. A file gets its name only once its SHA-256 is right.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::Agent;
use ureq::http::StatusCode;

use crate::error::{Error, Remedy, Result};
use crate::files;

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

const fn file(name: &'static str, size: u64, sha256: &'static str) -> RemoteFile<'static> {
    RemoteFile { name, size, sha256 }
}

/// The datasets that can be fetched. Sizes and hashes are those listed by TensorFlow Datasets.
pub const DATA_SETS: &[DataSet<'static>] = &[
    DataSet {
        name: "mnist",
        about: "MNIST (LeCun, Cortes, Burges), CC BY-SA 3.0",
        mirror: "https://ossci-datasets.s3.amazonaws.com/mnist",
        files: &[
            file(
                "train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            file(
                "train-labels-idx1-ubyte.gz",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            file(
                "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            file(
                "t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ],
    },
    DataSet {
        name: "fashion-mnist",
        about: "Fashion-MNIST (Xiao, Rasul, Vollgraf; Zalando), MIT",
        mirror: "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        files: &[
            file(
                "train-images-idx3-ubyte.gz",
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            file(
                "train-labels-idx1-ubyte.gz",
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            file(
                "t10k-images-idx3-ubyte.gz",
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            file(
                "t10k-labels-idx1-ubyte.gz",
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ],
    },
    DataSet {
        name: "kmnist",
        about: "KMNIST (CODH, adapted from the Kuzushiji Dataset of NIJL and others), CC BY-SA 4.0",
        mirror: "http://codh.rois.ac.jp/kmnist/dataset/kmnist",
        files: &[
            file(
                "train-images-idx3-ubyte.gz",
                18_165_135,
                "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            ),
            file(
                "train-labels-idx1-ubyte.gz",
                29_497,
                "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            ),
            file(
                "t10k-images-idx3-ubyte.gz",
                3_041_136,
                "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            ),
            file(
                "t10k-labels-idx1-ubyte.gz",
                5_120,
                "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
            ),
        ],
    },
];

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
/// SHA256SUMS goes next to them and is checked by the loader. `mirror` replaces the dataset's own; `force` replaces
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
    let missing = missing(set, folder, force, watch)?;
    for file in missing {
        let url = format!("{}/{}", mirror.unwrap_or(set.mirror).trim_end_matches('/'), file.name);
        fetch_file(&agent, &url, file, folder, watch)?;
    }
    write_sums(set, &folder.join("SHA256SUMS"))
}

/// Writes the sums of the files; existing sums of other files are kept.
fn write_sums(set: &DataSet<'_>, path: &Path) -> Result<()> {
    const MOST: u64 = 1 << 20;
    let old = match path.exists() {
        true => files::read_at_most(path, MOST)?.unwrap_or_default(),
        false => Vec::new(),
    };
    let old = String::from_utf8_lossy(&old);
    let is_about = |line: &str, name| {
        line.split_whitespace().last().is_some_and(|last| last.trim_start_matches('*') == name)
    };
    let others = old.lines().filter(|line| !set.files.iter().any(|file| is_about(line, file.name)));
    let mut sums: String = others.map(|line| format!("{line}\n")).collect();
    set.files.iter().for_each(|file| sums += &format!("{}  {}\n", file.sha256, file.name));
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
        if done == 0 && !piece.starts_with(&[0x1f]) {
            return Err(wrong(match piece.trim_ascii_start().first() {
                Some(b'<') => {
                    "this is an HTML or XML page, not a gzip file; does a proxy ask for a login?".into()
                }
                _ => {
                    format!(
                        "this is not a gzip file: it starts with the bytes {:02x?}",
                        &piece[..count.min(4)]
                    )
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
