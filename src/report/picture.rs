//! Small pictures embedded in the page: images of a dataset, and arrays of either sign.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::html::escape;
use crate::dataset::Images;
use crate::dataset::bitmap::Raster;
use crate::dataset::resize::resize;

/// Larger pictures are made smaller.
const MOST_SIDE: usize = 64;
/// Pixels between tiles.
const GAP: usize = 2;
/// Maximum number of tiles shown.
pub(super) const MOST_TILES: usize = 64;

/// An `<img>` with the picture in it, shown with pixels `zoom` wide.
fn img(picture: &Raster<u8>, alt: &str, zoom: usize) -> String {
    let (width, height) = (picture.width * zoom, picture.height * zoom);
    let (alt, data) = (escape(alt), STANDARD.encode(png(picture)));
    format!("<img src=\"data:image/png;base64,{data}\" width={width} height={height} alt=\"{alt}\">")
}

/// A picture as a PNG file.
pub(super) fn png(picture: &Raster<u8>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width as u32, picture.height as u32);
    encoder.set_color(match picture.channels {
        1 => png::ColorType::Grayscale,
        2 => png::ColorType::GrayscaleAlpha,
        3 => png::ColorType::Rgb,
        _ => png::ColorType::Rgba,
    });
    encoder.set_compression(png::Compression::Fast);
    encoder.set_filter(png::Filter::Adaptive);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&picture.samples));
    written.expect("memory takes all");
    bytes
}

/// One image of a dataset, about `side` pixels high.
pub(super) fn of_image(images: &Images, index: usize, alt: &str, side: usize) -> String {
    let [channels, height, width] = [images.channels, images.height, images.width];
    let size = height * width;
    let pixels = &images.pixels[index * channels * size..][..channels * size];
    let picture = if channels == 3 {
        let interleaved = (0..size).flat_map(|at| [0, 1, 2].map(|channel| pixels[channel * size + at]));
        Raster { width, height, channels, samples: interleaved.collect() }
    } else {
        Raster { width, height, channels: 1, samples: pixels[..size].to_vec() }
    };
    let picture = shrunk(picture, MOST_SIDE.max(side));
    img(&picture, alt, (side / picture.height.max(1)).max(1))
}

/// One image of a dataset in grey, with a value for each pixel over it: blue for positive ones, orange for negative, the
/// largest of all at full strength. As large as [`of_image`].
pub(super) fn of_map(images: &Images, index: usize, values: &[f64], alt: &str, side: usize) -> String {
    const STRONGEST: f64 = 0.8;
    let [channels, height, width] = [images.channels, images.height, images.width];
    let size = height * width;
    let pixels = &images.pixels[index * channels * size..][..channels * size];
    let largest = values.iter().fold(0.0, |most: f64, value| most.max(value.abs())).max(f64::MIN_POSITIVE);
    let of_pixel = |at: usize| {
        let sum: f64 = (0..channels).map(|channel| f64::from(pixels[channel * size + at])).sum();
        let (grey, value) = (sum / channels as f64, values[at] / largest);
        let [r, g, b, _] = colour(value.signum());
        let share = STRONGEST * value.abs();
        [r, g, b].map(|full| (grey + share * (f64::from(full) - grey)).round() as u8)
    };
    let samples = (0..size).flat_map(of_pixel).collect();
    let picture = shrunk(Raster { width, height, channels: 3, samples }, MOST_SIDE.max(side));
    img(&picture, alt, (side / picture.height.max(1)).max(1))
}

/// A picture with no side longer than `most`, in the same proportions.
fn shrunk(picture: Raster<u8>, most: usize) -> Raster<u8> {
    let longest = picture.width.max(picture.height);
    if longest <= most {
        return picture;
    }
    let scale = most as f64 / longest as f64;
    let [width, height] =
        [picture.width, picture.height].map(|side| (side as f64 * scale).round().max(1.0) as usize);
    resize(&picture, width, height)
}

/// The first tiles of an array [tiles, height, width], side by side: zero is white, positive values blue, negative
/// ones orange, with the largest of all at full strength.
pub(super) fn of_tiles(values: &[f64], [tiles, height, width]: [usize; 3], alt: &str) -> String {
    let largest = values.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
    // Every how many-th value is shown.
    let every = height.max(width).div_ceil(MOST_SIDE);
    let (h, w) = (height.div_ceil(every), width.div_ceil(every));
    // Enlarged here and not by the page, so that the lines between tiles are always thin.
    let zoom = (56 / w.max(h)).clamp(1, 14);
    let tiles = tiles.min(MOST_TILES);
    let columns = tiles.min(if w <= 8 { 16 } else { 8 });
    let (right, down) = (w * zoom + GAP, h * zoom + GAP);
    let (all_right, all_down) = (columns * right - GAP, tiles.div_ceil(columns) * down - GAP);
    let mut pixels = vec![[128, 128, 128, 160]; all_right * all_down];
    for (tile, values) in values.chunks(height * width).take(tiles).enumerate() {
        let (left, top) = (tile % columns * right, tile / columns * down);
        for (y, x) in (0..h * zoom).flat_map(|y| (0..w * zoom).map(move |x| (y, x))) {
            let value = values[every * (y / zoom * width + x / zoom)];
            pixels[(top + y) * all_right + left + x] = colour(value / largest);
        }
    }
    let picture =
        Raster { width: all_right, height: all_down, channels: 4, samples: pixels.into_flattened() };
    img(&picture, alt, 1)
}

/// Of −1 to 1; what is no number, too.
fn colour(value: f64) -> [u8; 4] {
    let strongest = if value < 0.0 { [200.0, 80.0, 0.0] } else { [0.0, 85.0, 150.0] };
    let share = if value.is_finite() { value.abs() } else { 0.0 };
    let [r, g, b] = strongest.map(|strong| (255.0 + share * (strong - 255.0)).round() as u8);
    [r, g, b, 255]
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, RgbImage, RgbaImage};

    use super::*;

    #[test]
    fn signs_and_sizes_have_their_colours() {
        assert_eq!(colour(0.0), [255, 255, 255, 255]);
        assert_eq!(colour(1.0), [0, 85, 150, 255]);
        assert_eq!(colour(-1.0), [200, 80, 0, 255]);
        assert_eq!(colour(f64::NAN), colour(0.0));
    }

    #[test]
    fn tiles_stand_side_by_side_and_large_ones_shrink() {
        let size = |[tiles, height, width]: [usize; 3]| {
            let text = of_tiles(&vec![1.0; tiles * height * width], [tiles, height, width], "<x>");
            assert!(text.contains("alt=\"&lt;x&gt;\""), "{text}");
            let number = |key: &str| -> u32 {
                let rest = &text[text.find(key).unwrap() + key.len()..];
                rest[..rest.find(' ').unwrap()].parse().unwrap()
            };
            (number("width="), number("height="))
        };
        assert_eq!(size([10, 26, 26]), (8 * 54 - 2, 2 * 54 - 2));
        assert_eq!(size([3, 3, 3]), (3 * 44 - 2, 42));
        assert_eq!(size([1, 200, 100]), (25, 50));
        assert_eq!(size([100, 60, 60]), (8 * 62 - 2, 8 * 62 - 2));
    }

    #[test]
    fn a_map_colours_the_image_where_it_has_values() {
        let grey = Images::new([1, 1, 4], vec![0, 100, 200, 50], vec![0]).unwrap();
        let text = of_map(&grey, 0, &[0.0, 2.0, -1.0, 0.0], "", 1);
        let data = text.split("base64,").nth(1).unwrap().split('"').next().unwrap();
        let picture = image::load_from_memory(&STANDARD.decode(data).unwrap()).unwrap().to_rgb8();
        let mixed = |grey: f64, share: f64, sign: f64| {
            let [r, g, b, _] = colour(sign);
            [r, g, b].map(|full| (grey + share * (f64::from(full) - grey)).round() as u8)
        };
        let pixels: Vec<[u8; 3]> = picture.pixels().map(|pixel| pixel.0).collect();
        assert_eq!(pixels, [[0; 3], mixed(100.0, 0.8, 1.0), mixed(200.0, 0.4, -1.0), [50; 3]]);
        assert!(!of_map(&grey, 0, &[0.0; 4], "", 1).is_empty());
    }

    #[test]
    fn tiles_have_the_colours_of_their_values() {
        let text = of_tiles(&[1.0, 0.0, -2.0, 0.0], [2, 1, 2], "");
        let data = text.split("base64,").nth(1).unwrap().split('"').next().unwrap();
        let picture = image::load_from_memory(&STANDARD.decode(data).unwrap()).unwrap().to_rgba8();
        // Two tiles of 2x1 values, 14 pixels wide each, and a line between them.
        assert_eq!(picture.dimensions(), (58, 14));
        let pixel = |x, y| picture.get_pixel(x, y).0;
        assert_eq!(pixel(0, 0), colour(0.5));
        assert_eq!(pixel(13, 13), colour(0.5));
        assert_eq!([14, 27].map(|x| pixel(x, 5)), [colour(0.0); 2]);
        assert_eq!([28, 29].map(|x| pixel(x, 5)), [[128, 128, 128, 160]; 2]);
        assert_eq!(pixel(30, 0), colour(-1.0));
        assert_eq!(pixel(57, 13), colour(0.0));
    }

    /// The bytes of an `<img>`'s PNG as the `image` crate writes them, and its size on the page.
    fn reference(picture: &DynamicImage, zoom: u32) -> String {
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        let (width, height) = (picture.width() * zoom, picture.height() * zoom);
        let data = STANDARD.encode(bytes.get_ref());
        format!("<img src=\"data:image/png;base64,{data}\" width={width} height={height} alt=\"\">")
    }

    /// Smooth ones, of which compression makes something.
    fn images([channels, height, width]: [usize; 3]) -> Images {
        let sample = |at: usize| (at / width * 3 + at % width * 2) as u8;
        let pixels = (0..2 * channels * height * width).map(sample).collect();
        Images { count: 2, channels, height, width, pixels, labels: vec![0, 0], files: Default::default() }
    }

    #[test]
    fn images_are_those_of_the_reference() {
        let text = of_image(&images([3, 1, 2]), 1, "", 56);
        let pixels: Vec<u8> = images([3, 1, 2]).pixels[6..].to_vec();
        let interleaved = [0, 2, 4, 1, 3, 5].map(|at| pixels[at]).to_vec();
        assert_eq!(text, reference(&RgbImage::from_raw(2, 1, interleaved).unwrap().into(), 56));
        let pixels = images([1, 40, 56]).pixels;
        let rgba = Raster { width: 28, height: 40, channels: 4, samples: pixels.clone() };
        assert_eq!(img(&rgba, "", 2), reference(&RgbaImage::from_raw(28, 40, pixels).unwrap().into(), 2));
        // Large ones shrink to 64 pixels, or what is asked for.
        for (height, width) in [(100, 90), (300, 7), (1, 200), (64, 64), (113, 20)] {
            for side in [56, 112] {
                let images = images([1, height, width]);
                let pixels = images.pixels[height * width..].to_vec();
                let picture: DynamicImage =
                    image::GrayImage::from_raw(width as u32, height as u32, pixels).unwrap().into();
                let most = side.max(64);
                let picture = if height.max(width) > most {
                    picture.resize(most as u32, most as u32, image::imageops::FilterType::Triangle)
                } else {
                    picture
                };
                let zoom = (side as u32 / picture.height()).max(1);
                assert_eq!(of_image(&images, 1, "", side), reference(&picture, zoom), "{width}x{height}");
            }
        }
    }
}
