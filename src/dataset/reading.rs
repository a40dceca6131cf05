//! Reads picture files on all processors as pixels of the size that a network takes.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::bitmap::Bitmap;
use super::cache::Cache;
use super::loader::Loader;
use super::resize::stretch;
use super::{MAX_BYTES, buffer, picture};
use crate::error::{Error, Result};
use crate::memory::{self, Budget};
use crate::tensor::Shape;
use crate::threads::on_all_processors;

/// Below this are the values of 12 bits.
pub(super) const TWELVE_BITS: u16 = 1 << 12;

/// A picture file and the place of its class.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) label: u8,
}

/// What pictures of 16 bits hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Range {
    /// Values of 12 bits, if none of all these pictures has a larger one.
    ByValues,
    /// Values of 12 bits, where a picture has no larger one.
    Twelve,
    /// Values of 16 bits.
    Sixteen,
}

/// What was found in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Seen {
    /// A picture.
    Good {
        /// Of its pixels before they were resized: other pixels hardly have the same.
        print: [u64; 2],
        /// The largest value of one of 16 bits.
        most: Option<u16>,
        /// True if it is the first of several in the file.
        has_more: bool,
    },
    /// Why there is none.
    Bad(String),
}

/// The files of one part with what was found in each.
pub(super) struct Part {
    /// As many for each file, be it good or bad.
    pub(super) pixels: Vec<u8>,
    pub(super) seen: Vec<Seen>,
}

/// What is to be read: the files of two parts, of which one may be empty.
#[derive(Clone, Copy)]
pub(super) struct Order<'a> {
    pub(super) dir: &'a Path,
    pub(super) parts: [&'a [File]; 2],
    pub(super) input: Shape,
    pub(super) range: Range,
}

impl Order<'_> {
    /// Reads all files, or takes what was kept of them.
    pub(super) fn carry_out(&self, loader: &Loader<'_>) -> Result<[Part; 2]> {
        let bytes = self.bytes()?;
        let cache = loader.cache.and_then(|folder| Cache::of(folder, self));
        if let Some(parts) = cache.as_ref().and_then(|cache| cache.read(self, bytes)) {
            return Ok(parts);
        }
        let parts = self.read(loader, bytes)?;
        if let Some(cache) = cache {
            cache.write(&parts);
        }
        Ok(parts)
    }

    /// Bytes of the pixels of each part, if there may be so many.
    fn bytes(&self) -> Result<[usize; 2]> {
        let (dir, input) = (self.dir, self.input);
        let bytes = self.parts.map(|files| files.len() as u64 * input.len() as u64);
        for (files, bytes) in self.parts.iter().zip(bytes) {
            if bytes > MAX_BYTES {
                let message = format!(
                    "{} pictures of {input} (channels, height, width) take {bytes} bytes, but at most {MAX_BYTES} are \
                     supported; a model with a smaller input needs less",
                    files.len()
                );
                return Err(Error::data(dir, message));
            }
        }
        let count: usize = self.parts.iter().map(|files| files.len()).sum();
        let what = format!("{}: {count} pictures of {input}", dir.display());
        memory::check(bytes.iter().sum(), &what, "a model with a smaller input needs less")?;
        Ok(bytes.map(|bytes| bytes as usize))
    }

    /// Room for the pixels of a part.
    pub(super) fn room(&self, bytes: usize) -> Result<Vec<u8>> {
        let mut pixels = buffer(bytes).map_err(|message| Error::data(self.dir, message))?;
        pixels.resize(bytes, 0);
        Ok(pixels)
    }

    fn read(&self, loader: &Loader<'_>, bytes: [usize; 2]) -> Result<[Part; 2]> {
        let [mut first, mut second] = [self.room(bytes[0])?, self.room(bytes[1])?];
        let size = self.input.len();
        let files: Vec<&File> = self.parts.iter().flat_map(|part| part.iter()).collect();
        let (done, count) = (AtomicUsize::new(0), files.len());
        let mut seen: Vec<Seen> = on_all_processors(|| {
            let budget = Budget::of_what_is_free();
            let one = |(file, pixels): (&&File, &mut [u8])| {
                let seen = self.look(file, pixels, self.range != Range::Sixteen, &budget);
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                if let Some(progress) = loader.progress {
                    progress(done, count);
                }
                seen
            };
            let pixels = first.par_chunks_exact_mut(size).chain(second.par_chunks_exact_mut(size));
            files.par_iter().zip(pixels).map(one).collect::<Result<_>>()
        })?;
        if self.range == Range::ByValues && !holds_twelve_bits(&seen) {
            // Some may be dark, and were taken for pictures of 12 bits.
            on_all_processors(|| -> Result<()> {
                let budget = Budget::of_what_is_free();
                let pixels = first.par_chunks_exact_mut(size).chain(second.par_chunks_exact_mut(size));
                let all = files.par_iter().zip(pixels).zip(seen.par_iter_mut());
                all.filter(|(_, seen)| is_widened(seen)).try_for_each(|((file, pixels), seen)| {
                    *seen = self.look(file, pixels, false, &budget)?;
                    Ok(())
                })
            })?;
        }
        let later = seen.split_off(self.parts[0].len());
        Ok([Part { pixels: first, seen }, Part { pixels: second, seen: later }])
    }

    /// Reads one file. What the system refuses ends the work; only what is in the file may be at fault.
    fn look(&self, file: &File, pixels: &mut [u8], widen: bool, budget: &Budget) -> Result<Seen> {
        let bytes = picture::read_file(&file.path)?;
        let (picture, _share) = match picture::decode_within(&bytes, &file.path, budget) {
            Ok(picture) => picture,
            Err(Error::Data { message, .. }) => return Ok(Seen::Bad(message)),
            Err(error) => return Err(error),
        };
        let most = picture.bitmap.most();
        let bitmap = if widen { picture.bitmap.widened() } else { picture.bitmap };
        Ok(Seen::Good { print: self.fill(pixels, bitmap), most, has_more: picture.has_more })
    }

    /// Brings a picture to the size of the input, and tells what it is known by.
    fn fill(&self, pixels: &mut [u8], bitmap: Bitmap) -> [u64; 2] {
        let flat = bitmap.flatten(self.input.channels);
        pixels.copy_from_slice(&stretch(&flat, self.input));
        // A hash of every pixel would take as long as decoding. Pictures that are the same when they are small and have the same
        // checksum are the same.
        let mut sum = flate2::Crc::new();
        sum.update(&flat.samples);
        let size = [flat.width.to_le_bytes(), flat.height.to_le_bytes()].concat();
        let hash =
            Sha256::new().chain_update(size).chain_update(sum.sum().to_le_bytes()).chain_update(pixels);
        let hash = hash.finalize();
        [0, 8].map(|at| u64::from_le_bytes(*hash[at..].first_chunk().expect("a hash has 32 bytes")))
    }
}

/// True if there are pictures of 16 bits, and all their values are of 12.
pub(super) fn holds_twelve_bits<'a>(seen: impl IntoIterator<Item = &'a Seen>) -> bool {
    let most = |seen: &Seen| match seen {
        Seen::Good { most, .. } => *most,
        Seen::Bad(_) => None,
    };
    // A black picture says nothing.
    seen.into_iter().filter_map(most).max().is_some_and(|most| (1..TWELVE_BITS).contains(&most))
}

fn is_widened(seen: &Seen) -> bool {
    matches!(seen, Seen::Good { most: Some(1..TWELVE_BITS), .. })
}
