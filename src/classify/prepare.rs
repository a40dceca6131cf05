//! Turns a picture of a handwritten digit into what MNIST would have made of it.
//!
//! As described on the page of MNIST: the ink fits a box of 20x20, its centre of mass sits at the centre of 28x28.

mod ink;

use std::path::Path;

use crate::dataset::bitmap::{Bitmap, Raster};
use crate::dataset::picture::decode;
use crate::error::{Error, Result};
use crate::tensor::Shape;
use ink::Ink;

/// A picture whose values differ less than this from its background, of 255, is blank.
const MIN_CONTRAST: u8 = 32;

/// Reads a picture file as one grey image, `[height][width]`, bright ink on black, sized and centred as MNIST is.
///
/// Any picture fits: any size up to 8192x8192, colours, depth and transparency, dark on light or light on dark. A grey
/// picture of exactly `height` x `width` with a black border is taken for a finished one and returned unchanged.
///
/// # Errors
/// Files that are missing, of no kind that is read, damaged or too large, and pictures without ink.
///
/// # Examples
/// ```
/// use shadernet::classify::prepare::{ascii, prepare};
///
/// let image = prepare("data/digits/7_bar.png".as_ref(), 28, 28)?;
/// assert_eq!(image.len(), 28 * 28);
/// println!("{}", ascii(&image, 28, 28));
/// # Ok::<(), shadernet::error::Error>(())
/// ```
pub fn prepare(path: &Path, height: usize, width: usize) -> Result<Vec<u8>> {
    prepare_decoded(decode(path)?.bitmap, path, height, width)
}

/// Prepares a picture that is decoded already; errors name it `path`.
pub(super) fn prepare_decoded(picture: Bitmap, path: &Path, height: usize, width: usize) -> Result<Vec<u8>> {
    let hint = picture.faint().map_or(String::new(), |most| {
        format!("; its values use only 0 to {most} of 16 bits: stretch them to the full range")
    });
    let picture = picture.into_rgba();
    let paper = background(&picture);
    let mut ink = Ink::new(&picture, paper);
    let contrast = ink.values.iter().copied().max().unwrap_or(0);
    if contrast < MIN_CONTRAST {
        let message = format!(
            "no ink found: nothing differs from the background by at least {MIN_CONTRAST} of 255 levels (the largest \
             difference is {contrast}); expected a clear drawing on an even background{hint}"
        );
        return Err(Error::data(path, message));
    }
    let finished = |p: &[u8; 4]| p[0] == p[1] && p[1] == p[2] && p[3] == 255;
    if (ink.height, ink.width) == (height, width)
        && paper.iter().all(|&v| v < 16)
        && picture.pixels().iter().all(finished)
    {
        return Ok(picture.pixels::<4>().iter().map(|p| p[0]).collect());
    }
    drop(picture);
    ink.stretch();
    Ok(ink.place(height, width))
}

/// The colour of the paper: the median of the border or, where that is transparent, what contrasts with the ink.
fn background(picture: &Raster<u8>) -> [u8; 3] {
    let (right, bottom) = (picture.width - 1, picture.height - 1);
    let pixels = picture.pixels::<4>();
    let rows = (0..=right).flat_map(|x| [(x, 0), (x, bottom)]);
    let columns = (0..=bottom).flat_map(|y| [(0, y), (right, y)]);
    let border: Vec<_> = rows.chain(columns).map(|(x, y)| pixels[y * picture.width + x]).collect();
    let opaque = border.iter().filter(|p| p[3] >= 128);
    if opaque.clone().count() * 2 > border.len() {
        return [0, 1, 2].map(|channel| {
            let mut values: Vec<u8> = opaque.clone().map(|p| p[channel]).collect();
            values.sort_unstable();
            values[values.len() / 2]
        });
    }
    let (mut light, mut weight) = (0, 0);
    for &[r, g, b, alpha] in pixels {
        light += (u64::from(r) + u64::from(g) + u64::from(b)) * u64::from(alpha);
        weight += 3 * 255 * u64::from(alpha);
    }
    [if 2 * light < weight { 255 } else { 0 }; 3]
}

/// True if an image, `[channels][height][width]`, shows something on light ground: most of its border is rather white.
pub(super) fn is_on_light(pixels: &[u8], shape: Shape) -> bool {
    let Shape { height, width, .. } = shape;
    let is_border = |at: &usize| {
        let (y, x) = (at % (height * width) / width, at % width);
        y == 0 || x == 0 || y + 1 == height || x + 1 == width
    };
    let border = || (0..pixels.len()).filter(is_border);
    2 * border().filter(|&at| pixels[at] >= 128).count() > border().count()
}

/// A prepared image for a terminal: half-block characters, so that a line of text shows two rows of pixels.
pub fn ascii(pixels: &[u8], height: usize, width: usize) -> String {
    let ink = |y: usize, x: usize| y < height && pixels.get(y * width + x).is_some_and(|&v| v >= 96);
    let mut text = String::new();
    for y in (0..height).step_by(2) {
        text.extend((0..width).map(|x| match (ink(y, x), ink(y + 1, x)) {
            (false, false) => ' ',
            (true, false) => '▀',
            (false, true) => '▄',
            (true, true) => '█',
        }));
        text.push('\n');
    }
    text
}

#[cfg(feature = "pictures")]
#[cfg(test)]
mod tests {
    use super::*;
    use image::{DynamicImage, GrayImage, ImageBuffer, Luma, LumaA, Rgb, Rgba, RgbaImage};
    use std::{fs, path::PathBuf};

    /// A seven in a box of 50x80, drawn `zoom` times larger with its corner at `at`: ink from 0 to 1 at (x, y).
    fn seven(zoom: f32, at: (f32, f32)) -> impl Fn(u32, u32) -> f32 {
        let lines = [((4., 6.), (46., 4.)), ((46., 4.), (20., 76.))];
        move |x, y| {
            let (px, py) = ((x as f32 + 0.5 - at.0) / zoom, (y as f32 + 0.5 - at.1) / zoom);
            let distance = lines.map(|((ax, ay), (bx, by)): ((f32, f32), (f32, f32))| {
                let (dx, dy) = (bx - ax, by - ay);
                let t = ((px - ax) * dx + (py - ay) * dy) / (dx * dx + dy * dy);
                let t = t.clamp(0.0, 1.0);
                (px - ax - t * dx).hypot(py - ay - t * dy)
            });
            ((4.0 - distance[0].min(distance[1])) * zoom + 0.5).clamp(0.0, 1.0)
        }
    }

    fn prepared(picture: impl Into<DynamicImage>) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.png");
        picture.into().save(&path).unwrap();
        prepare(&path, 28, 28).unwrap()
    }

    fn difference(a: &[u8], b: &[u8]) -> f32 {
        let sum: u32 = a.iter().zip(b).map(|(&a, &b)| u32::from(a.abs_diff(b))).sum();
        sum as f32 / a.len() as f32
    }

    fn assert_like_mnist(pixels: &[u8], name: &str) {
        let (mut mass, mut x_sum, mut y_sum) = (0.0, 0.0, 0.0);
        let (mut low, mut high) = ((28, 28), (0, 0));
        for (i, &v) in pixels.iter().enumerate() {
            let (x, y, v) = (i % 28, i / 28, f32::from(v));
            (mass, x_sum, y_sum) = (mass + v, x_sum + v * x as f32, y_sum + v * y as f32);
            if v > 30.0 {
                low = (low.0.min(x), low.1.min(y));
                high = (high.0.max(x), high.1.max(y));
            }
        }
        let centre = (x_sum / mass, y_sum / mass);
        let off = (centre.0 - 14.0).abs().max((centre.1 - 14.0).abs());
        assert!(off < 0.7, "{name}: centre of mass at {centre:?}");
        let side = (high.0 - low.0).max(high.1 - low.1) + 1;
        assert!((19..=21).contains(&side), "{name}: {low:?} to {high:?}");
        // The 1st and 99th percentile of MNIST are 25 and 205.
        let mass = mass / 255.0;
        assert!((25.0..205.0).contains(&mass), "{name}: ink {mass}");
        assert_eq!(pixels.iter().max(), Some(&255), "{name}");
    }

    #[test]
    fn the_same_drawing_in_any_form_gives_the_same_image() {
        let ink = seven(1.0, (30.0, 20.0));
        let mix = |from: u8, to: u8, t: f32| (f32::from(from) * (1.0 - t) + f32::from(to) * t) as u8;
        let gray = |from, to| GrayImage::from_fn(110, 120, |x, y| Luma([mix(from, to, ink(x, y))]));
        let base = prepared(gray(255, 0));
        assert_like_mnist(&base, "base");
        let check = |name: &str, limit: f32, picture: DynamicImage| {
            let pixels = prepared(picture);
            assert_like_mnist(&pixels, name);
            let difference = difference(&base, &pixels);
            assert!(difference <= limit, "{name}: differs by {difference}");
        };
        check("inverted", 0.1, gray(0, 255).into());
        check("faint", 0.5, gray(230, 150).into());
        let large = seven(10.0, (300.0, 200.0));
        let large = GrayImage::from_fn(1100, 1200, |x, y| Luma([mix(250, 9, large(x, y))]));
        check("large", 3.0, large.into());
        let small = seven(0.5, (3.0, 4.0));
        let small = GrayImage::from_fn(30, 50, |x, y| Luma([mix(250, 9, small(x, y))]));
        check("small", 4.0, small.into());
        let shifted = seven(1.0, (240.0, 7.0));
        let shifted = GrayImage::from_fn(300, 90, |x, y| Luma([mix(255, 0, shifted(x, y))]));
        check("shifted", 0.1, shifted.into());
        let colours = ([255u8, 230, 60], [30u8, 20, 160]);
        let colour = |x, y| [0, 1, 2].map(|c| mix(colours.0[c], colours.1[c], ink(x, y)));
        let colour = image::RgbImage::from_fn(110, 120, |x, y| Rgb(colour(x, y)));
        check("colour", 0.5, colour.into());
        for (name, level) in [("dark on transparent", 20), ("light on transparent", 240)] {
            let pixel = |x, y| LumaA([level, (ink(x, y) * 255.0) as u8]);
            check(name, 0.5, ImageBuffer::from_fn(110, 120, pixel).into());
        }
        let rgba = |x, y| Rgba([90, 0, 0, (ink(x, y) * 255.0) as u8]);
        check("red on transparent", 0.5, RgbaImage::from_fn(110, 120, rgba).into());
        let deep = |x, y| Luma([60_000 - (ink(x, y) * 50_000.0) as u16]);
        check("16 bit", 0.5, ImageBuffer::from_fn(110, 120, deep).into());
        let noise = |x: u32, y: u32| (crate::rng::pcg4d([x, y, 0, 0])[0] >> 28) as u8;
        let noisy = |x, y| Luma([mix(230, 20, ink(x, y)) + noise(x, y)]);
        check("noisy", 3.0, GrayImage::from_fn(110, 120, noisy).into());
    }

    #[test]
    fn a_hair_line_becomes_a_pen_stroke() {
        let ink = |x: u32, y: u32| (200..1000).contains(&y) && x == 300 + y / 4;
        let picture = GrayImage::from_fn(1200, 1200, |x, y| Luma([255 * u8::from(!ink(x, y))]));
        let pixels = prepared(picture);
        assert_like_mnist(&pixels, "hair line");
        let bright = pixels.iter().filter(|&&v| v >= 128).count();
        assert!((30..60).contains(&bright), "{bright} pixels for 20 rows");
    }

    #[test]
    fn the_drawn_digits_look_like_mnist() {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/digits");
        let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let pictures: Vec<_> = files.filter(|p| p.extension() == Some("png".as_ref())).collect();
        assert!(pictures.len() >= 20);
        for path in pictures {
            assert_like_mnist(&prepare(&path, 28, 28).unwrap(), &path.display().to_string());
        }
    }

    #[test]
    fn a_finished_image_stays_as_it_is() {
        let bright = |x, y| if x > 8 && y > 8 { (x * y) as u8 } else { 3 };
        let finished = GrayImage::from_fn(28, 20, |x, y| Luma([bright(x, y)]));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.png");
        finished.save(&path).unwrap();
        let kept: Vec<u8> = finished.pixels().map(|p| p[0]).collect();
        assert_eq!(prepare(&path, 20, 28).unwrap(), kept);
        assert_ne!(prepare(&path, 28, 20).unwrap(), kept);
        assert!(prepare(&path, 0, 28).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let png = |picture: DynamicImage| {
            let mut bytes = std::io::Cursor::new(Vec::new());
            picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
            bytes.into_inner()
        };
        let gray = |w, h, v| png(GrayImage::from_pixel(w, h, Luma([v])).into());
        let seven = seven(1.0, (9.0, 9.0));
        let good = GrayImage::from_fn(70, 95, |x, y| Luma([(seven(x, y) * 255.0) as u8]));
        let good = png(good.into());
        // The header of 8192 x 8192 pixels with four channels of 16 bits.
        let mut deep = b"\x89PNG\r\n\x1a\n".to_vec();
        for chunk in [&b"IHDR\0\0\x20\0\0\0\x20\0\x10\x06\0\0\0"[..], b"IDAT"] {
            let mut crc = flate2::Crc::new();
            crc.update(chunk);
            deep.extend((chunk.len() as u32 - 4).to_be_bytes());
            deep.extend(chunk);
            deep.extend(crc.sum().to_be_bytes());
        }
        let cases: [(&[u8], &str); 23] = [
            (&gray(40, 40, 255), "no ink found"),
            (&gray(28, 28, 0), "no ink found"),
            (&gray(1, 1, 7), "no ink found"),
            (&png(RgbaImage::new(9, 9).into()), "no ink found"),
            (b"", "the file is empty; expected a PNG, JPEG, WebP, GIF, BMP or TIFF image"),
            (b"hello", "not an image; expected a PNG, JPEG,"),
            (b"8BPS", "a Photoshop image, whatever its name says; convert it to PNG or JPEG"),
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image"),
            (b"\0\0\0\x18ftypavif\0\0\0\0", "an AVIF image"),
            (b"RIFF\x10\0\0\0WEBPVP8 ", "damaged WebP: it ends early"),
            (b"GIF89a", "damaged GIF: it ends early"),
            (b"BM\x10\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0", "damaged BMP: it ends early"),
            (b"II*\0\x08\0\0\0", "damaged TIFF"),
            (b"%PDF-1.7", "a PDF document"),
            (b"<?xml version=\"1.0\"?>\n<svg xmlns=\"\">", "an SVG drawing"),
            (b"\n<!DOCTYPE HTML><html>", "an HTML page, perhaps from a failed download"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                "`git lfs pull` fetches the file",
            ),
            (b"P5\n2 2\n255\n", "a PNM image"),
            (b"\xff\x0a\0\0", "a JPEG XL image"),
            (b"\xff\xd8\xff\xe0 JFIF", "damaged JPEG"),
            (&good[..good.len() / 2], "damaged PNG"),
            (&gray(9000, 1, 0), "too large: 9000x1 pixels, 1 MiB"),
            (&deep, "512 MiB decoded; at most 8192x8192 and 256 MiB"),
        ];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.png");
        for (bytes, expected) in cases {
            fs::write(&path, bytes).unwrap();
            let message = prepare(&path, 28, 28).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} for {expected:?}");
            assert!(message.contains("x.png"), "{message} names no file");
        }
        fs::remove_file(&path).unwrap();
        let message = prepare(&path, 28, 28).unwrap_err().to_string();
        assert!(message.starts_with("cannot read"), "{message}");
        let message = prepare(dir.path(), 28, 28).unwrap_err().to_string();
        assert!(message.contains("this is a folder; give the pictures in it"), "{message}");
    }

    #[test]
    fn text_shows_two_rows_per_line() {
        let pixels = [255, 0, 255, 0, 0, 255, 255, 0, 9, 200, 0, 0];
        assert_eq!(ascii(&pixels, 3, 4), "▀▄█ \n ▀  \n");
        assert_eq!(ascii(&pixels[..2], 3, 4), "▀   \n    \n");
    }
}
