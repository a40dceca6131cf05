//! `SHA256SUMS` beside the files of a dataset.

use std::fs::File;
use std::io::{ErrorKind, Seek};
use std::path::Path;

use crate::error::{Error, Result};
use crate::files;

const MAX_SUMS: u64 = 1 << 20;

/// Compares a file with `SHA256SUMS` beside it, where that lists it; leaves the file at its start.
pub(super) fn verify(path: &Path, file: &mut File) -> Result<()> {
    let sums_path = path.with_file_name("SHA256SUMS");
    if sums_path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Ok(());
    }
    let Some(sums) = files::read_at_most(&sums_path, MAX_SUMS)? else {
        return Err(Error::data(sums_path, "larger than 1 MiB, so this is not a list of checksums"));
    };
    let sums = String::from_utf8_lossy(&sums);
    let sums = sums.trim_start_matches('\u{feff}');
    // A line is the hash, a space, a space or '*', the name.
    let named = |name: &str| {
        let name = name.strip_prefix([' ', '*']).unwrap_or(name);
        path.file_name() == Some(name.strip_prefix("./").unwrap_or(name).as_ref())
    };
    let mut entries = sums.lines().filter_map(|line| line.split_once(' '));
    let Some((expected, _)) = entries.find(|(_, name)| named(name)) else {
        return Ok(());
    };
    let found =
        files::sha256(file).and_then(|hash| file.rewind().map(|()| hash)).map_err(Error::io("read", path))?;
    if !found.eq_ignore_ascii_case(expected) {
        let message = format!(
            "damaged: its SHA-256 is {found}, but {} says {expected}; fetch the file again",
            sums_path.display()
        );
        return Err(Error::data(path, message));
    }
    Ok(())
}
