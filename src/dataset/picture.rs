//! Picture files: what is read of them, and what is said of those that are not.

use std::io::Read;
use std::path::Path;

use super::bitmap::Bitmap;
#[cfg(feature = "pictures")]
use super::decode::{Decoder, Refusal, check};
use super::format::{Format, what_else};
#[cfg(feature = "pictures")]
use super::jpeg;
use crate::error::{Error, Remedy, Result};
use crate::files;
use crate::memory::{Budget, Share};

pub(crate) const MAX_SIDE: usize = 8192;
const MAX_MIB: u64 = 256;

/// Reads a whole picture file; what the system refuses is no damage.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>> {
    files::read_at_most(path, MAX_MIB << 20)?.ok_or_else(|| too_long(path))
}

/// Reads a picture from something that need not be a file, such as standard input.
pub(crate) fn read_stream(stream: impl Read, name: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take((MAX_MIB << 20) + 1).read_to_end(&mut bytes).map_err(Error::io("read", name))?;
    if bytes.len() as u64 > MAX_MIB << 20 { Err(too_long(name)) } else { Ok(bytes) }
}

fn too_long(path: &Path) -> Error {
    Error::data(path, format!("too large: at most {MAX_MIB} MiB are supported"))
}

/// A decoded picture.
#[derive(Debug)]
pub(crate) struct Decoded {
    /// Upright, as its file says.
    pub(crate) bitmap: Bitmap,
    /// True if the file has more pictures, which are not read: the frames of an animation, the pages of a document.
    pub(crate) has_more: bool,
}

/// Decodes a picture file within the limits, upright as its EXIF data say.
///
/// # Errors
/// Files that are missing, of no kind that is read, damaged or too large.
pub(crate) fn decode(path: &Path) -> Result<Decoded> {
    Ok(decode_file_within(path, &Budget::of_what_is_free())?.0)
}

/// The same with a share of the memory, to be kept until the picture is small.
pub(crate) fn decode_file_within<'a>(path: &Path, budget: &'a Budget) -> Result<(Decoded, Share<'a>)> {
    let kind = std::fs::metadata(path).map_err(Error::io("read", path))?.file_type();
    if kind.is_dir() {
        let message = "this is a folder; give the pictures in it, such as *.png";
        return Err(Error::data(path, message));
    } else if !kind.is_file() {
        let message = format!("this is {}, not a regular file", files::name_of_kind(kind));
        return Err(Error::data(path, message).with(Remedy::Stream));
    }
    decode_within(&read_file(path)?, path, budget)
}

/// Decodes what a picture file holds; errors name it `path`.
///
/// # Errors
/// As [`decode_within`].
pub(crate) fn decode_bytes(bytes: &[u8], path: &Path) -> Result<Decoded> {
    Ok(decode_within(bytes, path, &Budget::of_what_is_free())?.0)
}

/// The same with a share of the memory, to be kept until the picture is small.
///
/// # Errors
/// [`Error::Data`] about the content, and [`Error::Device`] where it does not fit into memory.
#[cfg(feature = "pictures")]
pub(super) fn decode_within<'a>(
    bytes: &[u8],
    path: &Path,
    budget: &'a Budget,
) -> Result<(Decoded, Share<'a>)> {
    let bad = |message: String| Error::data(path, message);
    let format = Format::of(bytes).ok_or_else(|| bad(what_else(bytes)))?;
    // What our check lets pass is whole.
    let refused = |refusal| match (refusal, check(bytes, format)) {
        (Refusal::TooLarge, _) => {
            bad(format!("too large: at most {MAX_SIDE}x{MAX_SIDE} pixels and {MAX_MIB} MiB are supported"))
        }
        (Refusal::Damaged(reason), _) => bad(reason.into()),
        (Refusal::Rare(reason), Ok(())) => bad(format!("{reason}; convert it to PNG or JPEG")),
        (_, Err(reason)) => bad(reason.into()),
        (Refusal::Unreadable, Ok(())) if format == Format::Jpeg => bad(jpeg::RARE.into()),
        (Refusal::Unreadable, Ok(())) => bad(format!("damaged {}: its data are corrupt", format.name())),
    };
    let decoder = Decoder::new(bytes, format, (MAX_MIB << 20) as usize).map_err(refused)?;
    let (width, height) = (decoder.header.width, decoder.header.height);
    let mib = decoder.header.bytes().div_ceil(1 << 20);
    if width > MAX_SIDE || height > MAX_SIDE || mib > MAX_MIB {
        return Err(bad(format!(
            "too large: {width}x{height} pixels, {mib} MiB decoded; \
             at most {MAX_SIDE}x{MAX_SIDE} and {MAX_MIB} MiB are supported"
        )));
    }
    let what = format!("{}: decoding {width}x{height} pixels", path.display());
    let share = budget.take(decoder.header.memory(), &what, "a smaller picture needs less")?;
    check(bytes, format).map_err(|reason| bad(reason.into()))?;
    let has_more = decoder.header.has_more;
    Ok((Decoded { bitmap: decoder.decode().map_err(refused)?, has_more }, share))
}

/// Says that this build cannot: none of the decoders is in it.
#[cfg(not(feature = "pictures"))]
pub(super) fn decode_within<'a>(bytes: &[u8], path: &Path, _: &'a Budget) -> Result<(Decoded, Share<'a>)> {
    let message = match Format::of(bytes) {
        Some(format) => format!("this is a {} image, but {}", format.name(), super::NO_PICTURES),
        None => what_else(bytes),
    };
    Err(Error::data(path, message))
}

#[cfg(feature = "pictures")]
#[cfg(test)]
mod tests {
    use super::super::resize::stretch;
    use super::*;
    use crate::tensor::Shape;
    use image::{DynamicImage, GrayAlphaImage, GrayImage, Luma, LumaA, Rgb, RgbImage};

    fn read(path: &Path, input: Shape) -> Result<Vec<u8>> {
        Ok(stretch(&decode(path)?.bitmap.flatten(input.channels), input))
    }

    fn saved(picture: impl Into<DynamicImage>, name: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        picture.into().save(&path).unwrap();
        (dir, path)
    }

    #[test]
    fn colours_are_planes_and_grey_is_their_lightness() {
        let picture = RgbImage::from_fn(3, 2, |x, y| Rgb([10 * x as u8, 100 + y as u8, 200]));
        let (_dir, path) = saved(picture, "x.png");
        let planes = read(&path, Shape::new(3, 2, 3)).unwrap();
        assert_eq!(
            planes,
            [0, 10, 20, 0, 10, 20, 100, 100, 100, 101, 101, 101, 200, 200, 200, 200, 200, 200]
        );
        // Rec. 709: 0.2126 red, 0.7152 green, 0.0722 blue.
        let grey = read(&path, Shape::new(1, 2, 3)).unwrap();
        assert_eq!(grey, [86, 88, 90, 87, 89, 91]);
        let (_dir, path) = saved(GrayImage::from_pixel(2, 2, Luma([7])), "x.png");
        assert_eq!(read(&path, Shape::new(3, 2, 2)).unwrap(), [7; 12]);
    }

    #[test]
    fn a_reduction_averages_and_transparency_is_white() {
        let stripes = GrayImage::from_fn(40, 40, |x, _| Luma([if x % 2 == 0 { 0 } else { 200 }]));
        let (_dir, path) = saved(stripes, "x.png");
        let small = read(&path, Shape::new(1, 4, 4)).unwrap();
        assert!(small.iter().all(|value| value.abs_diff(100) <= 4), "{small:?}");
        let alpha = GrayAlphaImage::from_fn(3, 1, |x, _| LumaA([0, [0, 128, 255][x as usize]]));
        let (_dir, path) = saved(alpha, "x.png");
        assert_eq!(read(&path, Shape::new(1, 1, 3)).unwrap(), [255, 127, 0]);
    }

    #[test]
    fn a_png_that_is_cut_anywhere_is_refused() {
        let picture = GrayImage::from_fn(20, 9, |x, y| Luma([(x * 7 + y * y) as u8]));
        let (_dir, path) = saved(picture, "x.png");
        let bytes = std::fs::read(&path).unwrap();
        assert!(decode_bytes(&bytes, &path).is_ok());
        assert!(decode_bytes(&[&bytes[..], b"more"].concat(), &path).is_ok());
        for end in 0..bytes.len() {
            assert!(decode_bytes(&bytes[..end], &path).is_err(), "cut at {end} of {}", bytes.len());
        }
    }

    #[test]
    fn what_is_damaged_is_said_in_plain_words() {
        let picture = GrayImage::from_fn(20, 9, |x, y| Luma([(x * 7 + y * y) as u8]));
        let (_dir, path) = saved(picture, "x.png");
        let good = std::fs::read(&path).unwrap();
        let message = |bytes: &[u8]| decode_bytes(bytes, "x".as_ref()).unwrap_err().to_string();
        let at = good.windows(4).position(|window| window == b"IDAT").unwrap();
        let length = u32::from_be_bytes(*good[at - 4..].first_chunk().unwrap()) as usize;
        for place in [16, at + 8, at + 4 + length] {
            let mut bytes = good.clone();
            bytes[place] ^= 1;
            assert_eq!(message(&bytes), "x: damaged PNG: a checksum in it does not match", "byte {place}");
        }
        // Compressed data that are corrupt under a checksum that fits, and half of them.
        for (data, rest) in [(vec![7; length], length), (good[at + 4..at + 4 + length / 2].to_vec(), length)]
        {
            let chunk = [&b"IDAT"[..], &data].concat();
            let mut crc = flate2::Crc::new();
            crc.update(&chunk);
            let length = (data.len() as u32).to_be_bytes();
            let end = &good[at + 8 + rest..];
            let bytes = [&good[..at - 4], &length, &chunk, &crc.sum().to_be_bytes(), end].concat();
            assert_eq!(message(&bytes), "x: damaged PNG: its data are corrupt");
        }
    }

    #[test]
    fn a_rare_jpeg_is_not_called_damaged() {
        let (_dir, path) = saved(GrayImage::new(9, 9), "x.jpg");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(2).position(|marker| marker == b"\xff\xc0").unwrap();
        // Arithmetic coding.
        bytes[at + 1] = 0xc9;
        let message = decode_bytes(&bytes, "x".as_ref()).unwrap_err().to_string();
        assert!(message.starts_with("x: this rare kind of JPEG is not supported; convert it"), "{message}");
    }

    #[test]
    fn a_jpeg_is_turned_upright() {
        let halves = GrayImage::from_fn(32, 16, |x, _| Luma([if x < 16 { 0 } else { 255 }]));
        let (_dir, path) = saved(halves, "x.jpg");
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(decode(&path).unwrap().bitmap.size(), (32, 16));
        // An EXIF segment behind the start of the file: orientation 6, a camera held upright.
        let exif =
            b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        std::fs::write(&path, [&bytes[..2], exif, &bytes[2..]].concat()).unwrap();
        let upright = decode(&path).unwrap().bitmap;
        assert_eq!(upright.size(), (16, 32));
        let pixels = stretch(&upright.flatten(1), Shape::new(1, 32, 16));
        assert!(pixels[0] < 50 && pixels[31 * 16] > 200, "{} {}", pixels[0], pixels[31 * 16]);
    }
}
