//! Decoded pictures on disk, so that the next start need not decode them again.
//!
//! A file is named after everything that its content depends on: the listing of the picture files with their sizes and times,
//! and what was made of them. So a changed dataset has another name, and the old file is removed as the oldest some day.

use std::fs::{self, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::reading::{Order, Part, Seen};
use crate::files::{self, hex};
use crate::threads::on_all_processors;

/// Fewer pictures are decoded before anybody notices.
const MIN_PICTURES: usize = 100;
/// What the folder may hold, and one set.
const MOST_BYTES: u64 = 2 << 30;
const MOST_OF_ONE: usize = 1 << 30;
/// A file that was changed so shortly before it was listed may be changed again without another time: some file systems count
/// in steps of two seconds.
const SETTLED: Duration = Duration::from_secs(2);
/// Another version may decode or resize in another way.
const VERSION: &str = concat!("pictures 1 ", env!("CARGO_PKG_VERSION"));
const EXTENSION: &str = "pictures";
/// Bytes that are hashed at a time, each on its own processor.
const PIECE: usize = 4 << 20;
const DIGEST: usize = 32;

/// The place of a set.
pub(super) struct Cache {
    folder: PathBuf,
    name: String,
}

impl Cache {
    /// The place of what `order` asks for. `None` where files cannot be listed, are few, or may be changing.
    pub(super) fn of(folder: &Path, order: &Order<'_>) -> Option<Self> {
        let count: usize = order.parts.iter().map(|files| files.len()).sum();
        if count < MIN_PICTURES || count.checked_mul(order.input.len())? > MOST_OF_ONE {
            return None;
        }
        let now = SystemTime::now();
        let mut key = Sha256::new();
        let root = fs::canonicalize(order.dir).ok()?;
        key.update(format!("{VERSION}\n{}\n{:?}\n", order.input, order.range));
        key.update(root.as_os_str().as_encoded_bytes());
        for files in order.parts {
            key.update(format!("\n{}\n", files.len()));
            let listed =
                on_all_processors(|| files.par_iter().map(|file| fs::metadata(&file.path).ok()).collect());
            let listed: Vec<Option<Metadata>> = listed;
            for (file, metadata) in files.iter().zip(listed) {
                let metadata = metadata?;
                let changed = metadata.modified().ok()?;
                if changed > now.checked_sub(SETTLED)? {
                    return None;
                }
                let name = file.path.strip_prefix(order.dir).unwrap_or(&file.path);
                key.update(name.as_os_str().as_encoded_bytes());
                let since = changed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                key.update(format!("\n{} {} {}\n", metadata.len(), since.as_nanos(), identity(&metadata)));
            }
        }
        let name = hex(&key.finalize());
        Some(Self { folder: folder.to_owned(), name })
    }

    fn path(&self) -> PathBuf {
        self.folder.join(&self.name).with_extension(EXTENSION)
    }

    /// What was kept, if it is there and whole.
    pub(super) fn read(&self, order: &Order<'_>, bytes: [usize; 2]) -> Option<[Part; 2]> {
        let file = files::open(&self.path()).ok()?;
        let mut reader = &file;
        let mut head = [0; DIGEST + 8];
        reader.read_exact(&mut head).ok()?;
        let (digest, length) = head.split_at(DIGEST);
        let length = u64::from_le_bytes(*length.first_chunk()?);
        // The length decides how much is allocated.
        if file.metadata().ok()?.len() != (head.len() + bytes[0] + bytes[1]) as u64 + length {
            return None;
        }
        let mut list = vec![0; usize::try_from(length).ok()?];
        let [mut first, mut second] = [order.room(bytes[0]).ok()?, order.room(bytes[1]).ok()?];
        for part in [&mut list, &mut first, &mut second] {
            reader.read_exact(part).ok()?;
        }
        if digest_of([&list, &first, &second]) != digest {
            return None;
        }
        let mut seen: Vec<Seen> = serde_json::from_slice(&list).ok()?;
        if seen.len() != order.parts[0].len() + order.parts[1].len() {
            return None;
        }
        // The least recently used are removed first.
        let _ = file.set_modified(SystemTime::now());
        let later = seen.split_off(order.parts[0].len());
        Some([Part { pixels: first, seen }, Part { pixels: second, seen: later }])
    }

    /// Keeps a set. Losing it only costs time at the next start, so failures are ignored.
    pub(super) fn write(&self, parts: &[Part; 2]) {
        let [first, second] = parts;
        let seen: Vec<&Seen> = first.seen.iter().chain(&second.seen).collect();
        let list = serde_json::to_vec(&seen).expect("plain values are JSON");
        let digest = digest_of([&list, &first.pixels, &second.pixels]);
        let length = (list.len() as u64).to_le_bytes();
        if fs::create_dir_all(&self.folder).is_ok() {
            let pieces = [&digest[..], &length, &list, &first.pixels, &second.pixels];
            let _ = files::write_pieces_atomically(&self.path(), &pieces);
            prune(&self.folder, MOST_BYTES);
        }
    }
}

/// Tells apart files of the same size and time, where the system does.
#[cfg(unix)]
fn identity(metadata: &Metadata) -> String {
    use std::os::unix::fs::MetadataExt;
    format!("{} {} {}", metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn identity(metadata: &Metadata) -> String {
    format!("{:?}", metadata.created().ok())
}

/// A hash of the hashes of all pieces.
fn digest_of(parts: [&[u8]; 3]) -> [u8; DIGEST] {
    let mut whole = Sha256::new();
    for part in parts {
        let pieces: Vec<_> = on_all_processors(|| part.par_chunks(PIECE).map(Sha256::digest).collect());
        pieces.iter().for_each(|piece| whole.update(piece));
    }
    whole.finalize().into()
}

/// Removes the least recently used sets until the rest is small enough.
fn prune(folder: &Path, most: u64) {
    let Ok(entries) = folder.read_dir() else { return };
    let is_ours = |path: &PathBuf| path.extension().is_some_and(|extension| extension == EXTENSION);
    let listed = entries.flatten().map(|entry| entry.path()).filter(is_ours);
    let dated = listed.filter_map(|path| {
        let metadata = fs::symlink_metadata(&path).ok().filter(Metadata::is_file)?;
        Some((metadata.modified().ok()?, metadata.len(), path))
    });
    let mut sets: Vec<_> = dated.collect();
    sets.sort_unstable();
    let mut left = most;
    for (_, size, path) in sets.into_iter().rev() {
        match left.checked_sub(size) {
            Some(rest) => left = rest,
            None => {
                left = 0;
                let _ = fs::remove_file(path);
            }
        }
    }
}

#[cfg(feature = "pictures")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::loader::Loader;
    use crate::dataset::reading::{File as Picture, Range};
    use crate::tensor::Shape;

    fn set_age(path: &Path, seconds: u64) {
        let then = SystemTime::now() - Duration::from_secs(seconds);
        fs::File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
    }

    /// Pictures that were written long ago, the last of which is damaged.
    fn pictures(folder: &Path) -> Vec<Picture> {
        let picture = |index: usize| {
            let path = folder.join(format!("{index}.png"));
            image::GrayImage::from_pixel(3, 3, image::Luma([index as u8])).save(&path).unwrap();
            if index == MIN_PICTURES {
                fs::write(&path, "<html>").unwrap();
            }
            set_age(&path, 100);
            Picture { path, label: 0 }
        };
        (0..=MIN_PICTURES).map(picture).collect()
    }

    #[test]
    fn what_was_kept_is_taken_if_it_is_whole() {
        let [dir, kept] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let files = pictures(dir.path());
        let (first, second) = files.split_at(60);
        let (input, range) = (Shape::new(1, 2, 2), Range::ByValues);
        let order = Order { dir: dir.path(), parts: [first, second], input, range };
        let loader = Loader::new().cache(kept.path());
        let answer = |order: &Order<'_>, loader: &Loader<'_>| {
            let [a, b] = order.carry_out(loader).unwrap();
            (a.pixels, a.seen, b.pixels, b.seen)
        };
        let wanted = answer(&order, &Loader::new());
        assert!(
            wanted.0[4..8] == [1; 4] && matches!(&wanted.3[..], [.., Seen::Bad(why)] if why.contains("HTML"))
        );
        assert_eq!(answer(&order, &loader), wanted);
        let cache = Cache::of(kept.path(), &order).unwrap();
        let bytes = [first.len() * 4, second.len() * 4];
        assert!(cache.read(&order, bytes).is_some() && cache.read(&order, [4, 4]).is_none());

        let whole = fs::read(cache.path()).unwrap();
        for place in (0..whole.len()).step_by(11) {
            let mut damaged = whole.clone();
            damaged[place] ^= 4;
            fs::write(cache.path(), damaged).unwrap();
            assert!(cache.read(&order, bytes).is_none(), "byte {place}");
            fs::write(cache.path(), &whole[..place]).unwrap();
            assert!(cache.read(&order, bytes).is_none(), "cut at {place}");
        }
        // It is mended, and from then on taken for what the files hold.
        assert_eq!(answer(&order, &loader), wanted);
        let [mut a, b] = order.carry_out(&Loader::new()).unwrap();
        a.pixels[0] = 77;
        cache.write(&[a, b]);
        assert_eq!(answer(&order, &loader).0[0], 77);
        // Anything else that matters has a place of its own.
        let other = Order { input: Shape::new(1, 4, 1), ..order };
        assert_eq!(answer(&other, &loader), answer(&other, &Loader::new()));
        let other = Order { range: Range::Sixteen, ..order };
        assert_eq!(answer(&other, &loader).0[0], 0);
        image::GrayImage::from_pixel(3, 3, image::Luma([9])).save(&files[0].path).unwrap();
        set_age(&files[0].path, 99);
        assert_eq!(answer(&order, &loader).0[0], 9);
        assert_eq!(kept.path().read_dir().unwrap().count(), 4);
        // What was changed just now may be changed again; few pictures are not worth it.
        set_age(&files[0].path, 0);
        assert!(Cache::of(kept.path(), &order).is_none());
        set_age(&files[0].path, 99);
        assert!(Cache::of(kept.path(), &Order { parts: [first, &[]], ..order }).is_none());
    }

    #[test]
    fn the_oldest_sets_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        for (name, size, age) in
            [("a.pictures", 30, 50), ("b.pictures", 40, 10), ("c.pictures", 40, 20), ("notes.txt", 500, 90)]
        {
            fs::write(dir.path().join(name), vec![0; size]).unwrap();
            set_age(&dir.path().join(name), age);
        }
        prune(dir.path(), 90);
        let mut names: Vec<_> =
            dir.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["b.pictures", "c.pictures", "notes.txt"]);
    }
}
