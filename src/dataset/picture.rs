//! Pictures in PNG and JPEG files: what is read of them, and what is said of those that are not.

use std::io::Read;
use std::path::Path;

use super::bitmap::Bitmap;
use super::decode::{Decoder, Format, Refusal};
use super::exif::Orientation;
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

/// Decodes a PNG or JPEG file within the limits, upright as its EXIF data say.
///
/// # Errors
/// Files that are missing, neither PNG nor JPEG, damaged or too large.
pub(crate) fn decode(path: &Path) -> Result<Bitmap> {
    Ok(decode_file_within(path, &Budget::of_what_is_free())?.0)
}

/// The same with a share of the memory, to be kept until the picture is small.
pub(crate) fn decode_file_within<'a>(path: &Path, budget: &'a Budget) -> Result<(Bitmap, Share<'a>)> {
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

/// Decodes what a PNG or JPEG file holds; errors name it `path`.
///
/// # Errors
/// As [`decode_within`].
pub(crate) fn decode_bytes(bytes: &[u8], path: &Path) -> Result<Bitmap> {
    Ok(decode_within(bytes, path, &Budget::of_what_is_free())?.0)
}

/// The same with a share of the memory, to be kept until the picture is small.
///
/// # Errors
/// [`Error::Data`] about the content, and [`Error::Device`] where it does not fit into memory.
pub(super) fn decode_within<'a>(
    bytes: &[u8],
    path: &Path,
    budget: &'a Budget,
) -> Result<(Bitmap, Share<'a>)> {
    let bad = |message: String| Error::data(path, message);
    let format = Format::of(bytes).ok_or_else(|| bad(what_else(bytes)))?;
    let check = match format {
        Format::Jpeg => jpeg::check,
        Format::Png => check_png,
    };
    // What our check lets pass is whole.
    let refused = |refusal| match (refusal, check(bytes), format) {
        (Refusal::TooLarge, ..) => {
            bad(format!("too large: at most {MAX_SIDE}x{MAX_SIDE} pixels and {MAX_MIB} MiB are supported"))
        }
        (Refusal::Unreadable, Err(reason), _) => bad(reason.into()),
        (Refusal::Unreadable, Ok(()), Format::Jpeg) => bad(jpeg::RARE.into()),
        (Refusal::Unreadable, Ok(()), Format::Png) => bad(PNG_CORRUPT.into()),
    };
    let decoder = Decoder::new(bytes, format, (MAX_MIB << 20) as usize).map_err(refused)?;
    let (width, height) = (decoder.width, decoder.height);
    let mib = decoder.bytes().div_ceil(1 << 20);
    if width > MAX_SIDE || height > MAX_SIDE || mib > MAX_MIB {
        return Err(bad(format!(
            "too large: {width}x{height} pixels, {mib} MiB decoded; \
             at most {MAX_SIDE}x{MAX_SIDE} and {MAX_MIB} MiB are supported"
        )));
    }
    let what = format!("{}: decoding {width}x{height} pixels", path.display());
    let share = budget.take(memory_of(&decoder, format), &what, "a smaller picture needs less")?;
    check(bytes).map_err(|reason| bad(reason.into()))?;
    Ok((decoder.decode().map_err(refused)?, share))
}

/// What the decoders and a line of a resized picture take beside the pixels.
const WORKSPACE: u64 = 4 << 20;

/// The most bytes that a picture takes at a time, from decoding it to resizing it.
fn memory_of(decoder: &Decoder, format: Format) -> u64 {
    let (decoded, pixels) = (decoder.bytes(), decoder.pixels());
    let decoding = match format {
        // A progressive one keeps its coefficients, of two bytes each; in CMYK these are four for three channels.
        Format::Jpeg => 3 * decoded + 2 * pixels,
        Format::Png if decoder.orientation == Orientation::UPRIGHT => decoded,
        Format::Png => 2 * decoded,
    };
    // Drawings are measured in RGBA, and networks get no more channels than that.
    decoding.max(decoded + 4 * pixels) + WORKSPACE
}

const PNG_CUT: &str = "damaged PNG: it ends early";
const PNG_CORRUPT: &str = "damaged PNG: its data are corrupt";

/// Fails if a PNG has no last chunk: its decoder is content with the pixels, but a file that was cut off is none to trust. And
/// if a chunk's checksum does not fit, but for those that decoders may ignore.
fn check_png(bytes: &[u8]) -> Result<(), &'static str> {
    let mut rest = bytes.get(8..).unwrap_or_default();
    loop {
        let (length, chunk) = rest.split_first_chunk().ok_or(PNG_CUT)?;
        let length = u32::from_be_bytes(*length) as usize;
        // The kind is not counted.
        let (chunk, end) =
            length.checked_add(4).and_then(|size| chunk.split_at_checked(size)).ok_or(PNG_CUT)?;
        let (checksum, next) = end.split_first_chunk().ok_or(PNG_CUT)?;
        let mut found = flate2::Crc::new();
        found.update(chunk);
        if chunk[0].is_ascii_uppercase() && found.sum() != u32::from_be_bytes(*checksum) {
            return Err("damaged PNG: a checksum in it does not match");
        }
        if chunk.starts_with(b"IEND") {
            return Ok(());
        }
        rest = next;
    }
}

/// What a file is that is neither PNG nor JPEG, and what would help.
fn what_else(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "the file is empty; expected a PNG or JPEG image".into();
    }
    if super::is_lfs_pointer(bytes) {
        return super::LFS_POINTER.into();
    }
    let brand = bytes.get(8..12);
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(512)]).trim_start().to_ascii_lowercase();
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    let format = match brand {
        Some(b"WEBP") if starts(b"RIFF") => "a WebP image",
        Some(brand) if bytes[4..8] == *b"ftyp" => match brand {
            b"avif" | b"avis" => "an AVIF image",
            b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => "a HEIC image",
            _ => "a video",
        },
        _ if starts(b"GIF8") => "a GIF image",
        _ if starts(b"BM") => "a BMP image",
        _ if starts(b"II*\0") || starts(b"MM\0*") => "a TIFF image",
        _ if starts(b"\xff\x0a") || starts(b"\0\0\0\x0cJXL ") => "a JPEG XL image",
        _ if starts(b"\0\0\0\x0cjP  ") => "a JPEG 2000 image",
        _ if starts(b"\0\0\x01\0") => "an icon (ICO)",
        _ if starts(b"8BPS") => "a Photoshop image",
        _ if starts(b"%PDF") => "a PDF document",
        _ if text.contains("<svg") => "an SVG drawing",
        _ if text.starts_with("<!doctype html") || text.starts_with("<html") => {
            return "this is an HTML page, perhaps from a failed download; expected a PNG or JPEG image"
                .into();
        }
        _ if matches!(bytes, [b'P', b'1'..=b'7', b' ' | b'\n' | b'\r', ..]) => "a PNM image",
        _ => return "this is not an image; expected a PNG or JPEG image".into(),
    };
    format!("this is {format}, whatever its name says; convert it to PNG or JPEG")
}

#[cfg(test)]
mod tests {
    use super::super::resize::stretch;
    use super::*;
    use crate::tensor::Shape;
    use image::{DynamicImage, GrayAlphaImage, GrayImage, Luma, LumaA, Rgb, RgbImage};

    fn read(path: &Path, input: Shape) -> Result<Vec<u8>> {
        Ok(stretch(&decode(path)?.flatten(input.channels), input))
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
        assert_eq!(decode(&path).unwrap().size(), (32, 16));
        // An EXIF segment behind the start of the file: orientation 6, a camera held upright.
        let exif =
            b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        std::fs::write(&path, [&bytes[..2], exif, &bytes[2..]].concat()).unwrap();
        let upright = decode(&path).unwrap();
        assert_eq!(upright.size(), (16, 32));
        let pixels = stretch(&upright.flatten(1), Shape::new(1, 32, 16));
        assert!(pixels[0] < 50 && pixels[31 * 16] > 200, "{} {}", pixels[0], pixels[31 * 16]);
    }
}
