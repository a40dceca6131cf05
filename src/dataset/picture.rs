//! Pictures in PNG and JPEG files, and how one becomes the input of a network.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, Rgba};

use crate::error::{Error, Result};
use crate::tensor::Shape;

const MAX_SIDE: u32 = 8192;
const MAX_MIB: u64 = 256;

/// Reads a picture as the input of a network, `[channels][height][width]`: grey for one channel, RGB for three, stretched
/// to the input's size as a whole.
///
/// # Errors
/// What [`decode`] refuses.
pub(crate) fn read(path: &Path, input: Shape) -> Result<Vec<u8>> {
    Ok(stretch(&flatten(decode(path)?, input.channels), input))
}

/// Decodes a PNG or JPEG file within the limits, upright as its EXIF data say.
///
/// # Errors
/// Files that are missing, neither PNG nor JPEG, damaged or too large.
pub(crate) fn decode(path: &Path) -> Result<DynamicImage> {
    let bad = |message: String| Error::data(path, message);
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut start = Vec::new();
    file.by_ref()
        .take(16)
        .read_to_end(&mut start)
        .and_then(|_| file.rewind())
        .map_err(Error::io("read", path))?;
    let (format, name) = match image::guess_format(&start) {
        Ok(format @ ImageFormat::Png) => (format, "PNG"),
        Ok(format @ ImageFormat::Jpeg) => (format, "JPEG"),
        Ok(other) => {
            let message = format!("this is a {other:?} image; only PNG and JPEG fit, please convert it");
            return Err(bad(message));
        }
        Err(_) if start.is_empty() => {
            return Err(bad("the file is empty; a PNG or JPEG image fits".into()));
        }
        Err(_) => return Err(bad("this is no image; a PNG or JPEG image fits".into())),
    };
    let damaged = |e: image::ImageError| bad(format!("damaged {name}: {e}"));
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_MIB << 20);
    let mut reader = ImageReader::with_format(BufReader::new(file), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    let mib = decoder.total_bytes().div_ceil(1 << 20);
    if width > MAX_SIDE || height > MAX_SIDE || mib > MAX_MIB {
        return Err(bad(format!(
            "too large: {width}x{height} pixels, {mib} MiB decoded; \
             at most {MAX_SIDE}x{MAX_SIDE} and {MAX_MIB} MiB fit"
        )));
    }
    let orientation = decoder.orientation().map_err(damaged)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

/// A picture of 8 bits in as many channels as a network takes, 1 or 3; what is transparent is laid on white.
pub(super) fn flatten(picture: DynamicImage, channels: usize) -> DynamicImage {
    let opaque = if picture.color().has_alpha() {
        let mut picture = picture.into_rgba8();
        for Rgba([colours @ .., alpha]) in picture.pixels_mut() {
            let alpha = u32::from(*alpha);
            for colour in colours {
                *colour = ((u32::from(*colour) * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
            }
        }
        DynamicImage::from(picture)
    } else {
        picture
    };
    if channels == 1 { opaque.into_luma8().into() } else { opaque.into_rgb8().into() }
}

/// The pixels `[channels][height][width]` of a flattened picture, resized by a triangle filter as wide as the reduction
/// (bilinear where the picture grows). One of the right size stays as it is.
pub(super) fn stretch(picture: &DynamicImage, input: Shape) -> Vec<u8> {
    let (width, height) = (input.width as u32, input.height as u32);
    let resized;
    let picture = if (picture.width(), picture.height()) == (width, height) {
        picture
    } else {
        resized = picture.resize_exact(width, height, FilterType::Triangle);
        &resized
    };
    let bytes = picture.as_bytes();
    let plane = |channel| bytes.iter().skip(channel).step_by(input.channels).copied();
    (0..input.channels).flat_map(plane).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayAlphaImage, GrayImage, Luma, LumaA, Rgb, RgbImage};

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
    fn a_jpeg_is_turned_upright() {
        let halves = GrayImage::from_fn(32, 16, |x, _| Luma([if x < 16 { 0 } else { 255 }]));
        let (_dir, path) = saved(halves, "x.jpg");
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(decode(&path).unwrap().width(), 32);
        // An EXIF segment behind the start of the file: orientation 6, a camera held upright.
        let exif =
            b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        std::fs::write(&path, [&bytes[..2], exif, &bytes[2..]].concat()).unwrap();
        let upright = decode(&path).unwrap();
        assert_eq!((upright.width(), upright.height()), (16, 32));
        let pixels = stretch(&flatten(upright, 1), Shape::new(1, 32, 16));
        assert!(pixels[0] < 50 && pixels[31 * 16] > 200, "{} {}", pixels[0], pixels[31 * 16]);
    }
}
