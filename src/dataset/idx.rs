//! Finding and reading IDX files: a short header, then unsigned bytes; perhaps gzipped, perhaps listed in `SHA256SUMS`.

use std::io::{BufReader, ErrorKind, Read, Seek};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::about::About;
use super::entries::{Entries, name_of, shown};
use super::{LFS_POINTER, MAX_BYTES, Part, buffer, sums};
use crate::error::{Error, Remedy, Result};
use crate::files;
use crate::memory;

const MAX_COUNT: usize = 1 << 24;
/// No file of labels is larger.
const MAX_LABELS: u64 = MAX_COUNT as u64 + 8;
const MAX_SIDE: usize = 4096;
/// Reserved at most before the first byte arrives; holds all of MNIST.
const FIRST_RESERVE: usize = 1 << 26;

/// True for the name of an IDX file, as far as a name can tell.
fn is_named_like(name: &str) -> bool {
    name.strip_suffix(".gz").unwrap_or(name).ends_with("-ubyte")
}

/// What is known of the dataset in a folder by its files, of which one part may be missing.
pub(super) fn known(dir: &Path) -> Result<About> {
    for part in [Part::Train, Part::Test] {
        // What is wrong with a part is said when it is read.
        let (Ok(images), Ok(path)) = (find(dir, part, "images", 3), labels(dir, part)) else { continue };
        let (Ok(Some(packed)), Ok((_, labels))) = (files::read_at_most(&path, MAX_LABELS), read::<1>(&path))
        else {
            continue;
        };
        return Ok(About::known(&name_of(&images), &packed, &labels));
    }
    Ok(About::default())
}

/// The file of labels of a part.
pub(super) fn labels(dir: &Path, part: Part) -> Result<PathBuf> {
    find(dir, part, "labels", 1)
}

/// True if there are IDX files, perhaps each in a folder of its own name, as some programs unpack them.
pub(super) fn are_in(entries: &Entries) -> bool {
    let odd = entries.odd.iter().map(|(path, _)| path);
    entries.files.iter().chain(odd).any(|file| is_named_like(&name_of(file)))
        || entries.folders.iter().any(|folder| {
            is_named_like(&name_of(folder)) && !inside(folder, is_named_like).unwrap_or_default().is_empty()
        })
}

/// The files in `folder` whose names fit.
fn inside(folder: &Path, fits: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    Ok(Entries::of(folder)?.files.into_iter().filter(|file| fits(&name_of(file))).collect())
}

/// The one file in `dir` that ends in `train-images-idx3-ubyte` or the like, with any prefix and perhaps `.gz`; or the one
/// in a folder of such a name.
pub(super) fn find(dir: &Path, part: Part, kind: &str, dims: usize) -> Result<PathBuf> {
    let parts: &[&str] = match part {
        Part::Train => &["train"],
        Part::Test => &["t10k", "test"],
    };
    let fits = |name: &str| {
        let stem = name.strip_suffix(".gz").unwrap_or(name);
        let stem = stem.strip_suffix(&format!("idx{dims}-ubyte"));
        let stem = stem.and_then(|s| s.strip_suffix(['-', '.']));
        stem.is_some_and(|s| parts.iter().any(|p| s.ends_with(&format!("{p}-{kind}"))))
    };
    if !dir.exists() {
        return Err(Error::data(dir, "there is no such folder").with(Remedy::Dataset));
    }
    let Entries { folders, mut files, odd, .. } = Entries::of(dir)?;
    // What is no file is found, too: opening it says what it is.
    files.extend(odd.into_iter().map(|(path, _)| path));
    files.retain(|file| fits(&name_of(file)));
    if files.is_empty() {
        for folder in folders.iter().filter(|folder| fits(&name_of(folder))) {
            files.extend(inside(folder, fits)?);
        }
    }
    files.sort_unstable();
    // Some downloaders leave the archive beside its contents: "x" sorts before "x.gz".
    files.dedup_by(|b, a| b.to_str().and_then(|b| b.strip_suffix(".gz")) == a.to_str());
    match &files[..] {
        [file] => Ok(file.clone()),
        [] => {
            let message = format!(
                "no file *{}-{kind}-idx{dims}-ubyte or *{0}-{kind}.idx{dims}-ubyte, with or without .gz, and \
                 no folder of pictures for each class",
                parts.join("|")
            );
            Err(Error::data(dir, message).with(Remedy::Dataset))
        }
        _ => {
            let names: Vec<_> = files.iter().map(|file| shown(file, dir)).collect();
            Err(Error::data(
                dir,
                format!("several files match: {}; keep one dataset per folder", names.join(" and ")),
            ))
        }
    }
}

/// Reads an IDX file of unsigned bytes with `N` dimensions: (dimensions, values).
pub(super) fn read<const N: usize>(path: &Path) -> Result<([usize; N], Vec<u8>)> {
    let bad = |message: String| Error::data(path, message);
    let mut file = files::open(path)?;
    sums::verify(path, &mut file)?;
    let mut start = Vec::new();
    file.by_ref()
        .take(2)
        .read_to_end(&mut start)
        .and_then(|_| file.rewind())
        .map_err(Error::io("read", path))?;
    let file = BufReader::with_capacity(1 << 16, file);
    let mut reader: Box<dyn Read> =
        if start == [0x1f, 0x8b] { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };

    let mut header = Vec::new();
    fill(&mut reader, path, 4, &mut header)?;
    check_magic::<N>(&header).map_err(bad)?;
    let header_size = 4 + 4 * N;
    fill(&mut reader, path, 4 * N, &mut header)?;
    if header.len() < header_size {
        let found = header.len();
        return Err(bad(format!("ends early: the header needs {header_size} bytes, found {found}")));
    }
    let mut dims = [0usize; N];
    for (dim, bytes) in dims.iter_mut().zip(header[4..].as_chunks().0) {
        *dim = u32::from_be_bytes(*bytes) as usize;
    }
    let size = body_size(&dims).map_err(bad)?;
    memory::check(size as u64, &path.display().to_string(), "fewer or smaller images need less")?;

    let mut body = buffer(size.min(FIRST_RESERVE)).map_err(bad)?;
    fill(&mut reader, path, size, &mut body)?;
    let total = header_size + size;
    if body.len() < size {
        let found = header_size + body.len();
        return Err(bad(format!("ends early: the header declares {total} bytes, found {found}")));
    }
    // Reading past the end also makes the decoder compare the checksum of a gzip file.
    match reader.read(&mut [0]) {
        Ok(0) => Ok((dims, body)),
        Ok(_) => Err(bad(format!("longer than the {total} bytes that its header declares"))),
        Err(e) => Err(bad(format!("damaged at the end: {e}"))),
    }
}

/// Appends up to `limit` bytes; fewer when the file ends early.
fn fill(reader: &mut impl Read, path: &Path, limit: usize, out: &mut Vec<u8>) -> Result<()> {
    match reader.take(limit as u64).read_to_end(out) {
        Ok(_) => Ok(()),
        // How the decoder reports a gzip file that was cut off; callers compare lengths.
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(()),
        Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData) => {
            Err(Error::data(path, format!("damaged gzip data: {e}")))
        }
        Err(e) => Err(Error::io("read", path)(e)),
    }
}

/// Says what a file is when its first bytes are not those of an IDX file with `N` dimensions.
fn check_magic<const N: usize>(magic: &[u8]) -> Result<(), String> {
    let name = |dims| match dims {
        1 => "an IDX labels file".to_owned(),
        3 => "an IDX images file".to_owned(),
        n => format!("an IDX file with {n} dimensions"),
    };
    let found = match *magic {
        [0, 0, 8, dims] if usize::from(dims) == N => return Ok(()),
        [0, 0, 8, dims] => name(usize::from(dims)),
        [0, 0, kind @ 9..=14, _] => {
            format!("an IDX file of element type {kind:#04x} instead of bytes")
        }
        [b'v', b'e', b'r', b's'] => return Err(LFS_POINTER.into()),
        [b'P', b'K', 3, 4] => "a ZIP archive, which must be unpacked".to_owned(),
        [b'<', ..] => "an HTML or XML page, perhaps a failed download".to_owned(),
        [] => "empty".to_owned(),
        _ => format!("not an IDX file (it starts with the bytes {magic:02x?})"),
    };
    Err(format!("this is {found}; expected {}", name(N)))
}

/// The number of values after the header, refused before anything of that size is allocated.
fn body_size(dims: &[usize]) -> Result<usize, String> {
    let shape: Vec<_> = dims.iter().map(usize::to_string).collect();
    let promise = format!("its header declares {} (count first)", shape.join(" x "));
    if dims[0] == 0 {
        return Err(format!("{promise}: there must be at least one image"));
    }
    if dims[0] > MAX_COUNT {
        return Err(format!("{promise}: at most {MAX_COUNT} images are supported"));
    }
    if dims[1..].iter().any(|side| !(1..=MAX_SIDE).contains(side)) {
        return Err(format!("{promise}: sides must be 1 to {MAX_SIDE}"));
    }
    // At most 2^24 x 2^12 x 2^12: no overflow.
    let size: u64 = dims.iter().map(|&dim| dim as u64).product();
    if size > MAX_BYTES {
        return Err(format!("{promise}: that is {size} bytes, but at most {MAX_BYTES} are supported"));
    }
    Ok(size as usize)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    struct Failing(ErrorKind);

    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::new(self.0, "no luck"))
        }
    }

    #[test]
    fn failures_to_read_are_told_apart() {
        let fill = |kind| fill(&mut Failing(kind), Path::new("x"), 4, &mut Vec::new());
        assert!(fill(ErrorKind::UnexpectedEof).is_ok());
        for kind in [ErrorKind::InvalidInput, ErrorKind::InvalidData] {
            assert!(fill(kind).unwrap_err().to_string().contains("damaged gzip data: no luck"));
        }
        let message = fill(ErrorKind::PermissionDenied).unwrap_err().to_string();
        assert!(message.contains("no luck") && !message.contains("gzip"), "{message}");
    }
}
