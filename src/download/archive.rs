//! Archives: the files that are taken out of them.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::Path;

use flate2::bufread::GzDecoder;
use flate2::read::DeflateDecoder;
use rawzip::CompressionMethod;
use sha2::{Digest, Sha256};

use super::{DataSet, SUMS, read_sums, write_sums};
use crate::error::{Error, Remedy, Result};
use crate::files::{self, hex};

/// No member is larger.
const MAX_MEMBER: u64 = 1 << 30;

/// True if the members of the dataset's archive are all there, as they were unpacked.
///
/// # Errors
/// Other files of these names, which only `force` replaces.
pub(super) fn is_unpacked(set: &DataSet<'_>, folder: &Path, force: bool) -> Result<bool> {
    if set.members.is_empty() {
        return Ok(false);
    }
    let sums = read_sums(&folder.join(SUMS))?;
    let listed = |name: &str| {
        let line = sums.lines().find(|line| line.split_whitespace().nth(1) == Some(name))?;
        line.split_whitespace().next()
    };
    let mut is_unpacked = set.files.iter().all(|file| listed(file.name) == Some(file.sha256));
    for name in set.members {
        let path = folder.join(name);
        let is_there = path.symlink_metadata().is_ok();
        let is_ours = is_there && {
            let found = files::sha256(&mut files::open(&path)?).map_err(Error::io("read", &path))?;
            listed(name) == Some(found.as_str())
        };
        if is_there && !is_ours && !force {
            let message = format!("this file exists, but is not from {}", set.name);
            return Err(Error::data(path, message).with(Remedy::ReplaceDownload));
        }
        is_unpacked &= is_ours;
    }
    Ok(is_unpacked)
}

/// Takes the members out of the dataset's archive, if it is one, and lists their hashes.
///
/// # Errors
/// An archive that cannot be read or lacks a member, and disk errors.
pub(super) fn unpack(set: &DataSet<'_>, folder: &Path) -> Result<()> {
    let mut taken = Vec::new();
    if set.members.is_empty() {
        return Ok(());
    }
    for file in set.files {
        let path = folder.join(file.name);
        let io = |error| Error::io("read", &path)(error);
        let archive = File::open(&path).map_err(io)?;
        let mut take = |name: &str, member: &mut dyn Read| -> Result<()> {
            // Folders in an archive say nothing, and lead nowhere.
            let name = name.rsplit('/').next().unwrap_or_default();
            let Some(&wanted) = set.members.iter().find(|member| **member == name) else { return Ok(()) };
            let mut bytes = Vec::new();
            member.take(MAX_MEMBER).read_to_end(&mut bytes).map_err(io)?;
            // Listed first: if the process ends here, the next one knows the file as its own.
            write_sums(&[(hex(&Sha256::digest(&bytes)), wanted)], &folder.join(SUMS))?;
            files::write_atomically(&folder.join(wanted), &bytes)?;
            taken.push(wanted);
            Ok(())
        };
        if file.name.ends_with(".zip") {
            members_of_zip(&path, archive, &mut take)?;
        } else {
            let archive = BufReader::with_capacity(1 << 16, archive);
            let mut archive = tar::Archive::new(GzDecoder::new(archive));
            for member in archive.entries().map_err(io)? {
                let mut member = member.map_err(io)?;
                let name = member.path().map_err(io)?.to_string_lossy().into_owned();
                take(&name, &mut member)?;
            }
        }
    }
    if let Some(name) = set.members.iter().find(|name| !taken.contains(name)) {
        let message = format!("the archive of {} has no file {name}", set.name);
        return Err(Error::data(folder, message));
    }
    Ok(())
}

/// Hands out the files of a ZIP archive, which must have the length and the checksum that it says.
fn members_of_zip(
    path: &Path,
    archive: File,
    take: &mut dyn FnMut(&str, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let broken = |error: rawzip::Error| Error::data(path, format!("damaged ZIP archive: {error}"));
    let mut buffer = vec![0; rawzip::RECOMMENDED_BUFFER_SIZE];
    let archive = rawzip::ZipArchive::from_file(archive, &mut buffer).map_err(broken)?;
    let mut members = Vec::new();
    let mut entries = archive.entries(&mut buffer);
    while let Some(entry) = entries.next_entry().map_err(broken)? {
        let name = String::from_utf8_lossy(entry.file_path().as_ref()).into_owned();
        members.push((name, entry.wayfinder(), entry.compression_method()));
    }
    for (name, place, method) in members {
        let entry = archive.get_entry(place).map_err(broken)?;
        let packed = entry.reader();
        match method {
            CompressionMethod::STORE => take(&name, &mut entry.verifying_reader(packed))?,
            CompressionMethod::DEFLATE => {
                take(&name, &mut entry.verifying_reader(DeflateDecoder::new(packed)))?;
            }
            // No wanted file of the known archives.
            _ => {}
        }
    }
    Ok(())
}

/// Removes the archive, whose members are there.
pub(super) fn remove(set: &DataSet<'_>, folder: &Path) -> Result<()> {
    for file in set.files.iter().filter(|_| !set.members.is_empty()) {
        let path = folder.join(file.name);
        fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    }
    Ok(())
}
