//! Small pictures embedded in the page: images of a dataset, and arrays of either sign.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::imageops::FilterType;
use image::{DynamicImage, GrayImage, ImageFormat, RgbImage, Rgba, RgbaImage};

use super::html::escape;
use crate::dataset::Images;

/// Larger pictures are reduced.
const MOST_SIDE: u32 = 64;
/// Pixels between tiles.
const GAP: usize = 2;
/// Maximum number of tiles shown.
pub(super) const MOST_TILES: usize = 64;

/// An embedded `<img>`, shown with pixels `zoom` wide.
fn img(picture: &DynamicImage, alt: &str, zoom: u32) -> String {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).expect("memory takes all");
    let (width, height) = (picture.width() * zoom, picture.height() * zoom);
    let (alt, data) = (escape(alt), STANDARD.encode(bytes.get_ref()));
    format!("<img src=\"data:image/png;base64,{data}\" width={width} height={height} alt=\"{alt}\">")
}

/// One image of a dataset, about `side` pixels high.
pub(super) fn of_image(images: &Images, index: usize, alt: &str, side: u32) -> String {
    let [channels, height, width] = [images.channels, images.height, images.width];
    let size = height * width;
    let pixels = &images.pixels[index * channels * size..][..channels * size];
    let (w, h) = (width as u32, height as u32);
    let picture: DynamicImage = if channels == 3 {
        let interleaved = (0..size).flat_map(|at| [0, 1, 2].map(|channel| pixels[channel * size + at]));
        RgbImage::from_raw(w, h, interleaved.collect()).expect("of this size").into()
    } else {
        GrayImage::from_raw(w, h, pixels[..size].to_vec()).expect("of this size").into()
    };
    let most = MOST_SIDE.max(side);
    let picture = if w.max(h) > most { picture.resize(most, most, FilterType::Triangle) } else { picture };
    img(&picture, alt, (side / picture.height().max(1)).max(1))
}

/// The first tiles of an array [tiles, height, width], side by side: zero is white, positive values blue, negative
/// ones orange, with the largest of all at full strength.
pub(super) fn of_tiles(values: &[f64], [tiles, height, width]: [usize; 3], alt: &str) -> String {
    let largest = values.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
    // Only every `every`-th value is shown.
    let every = height.max(width).div_ceil(MOST_SIDE as usize);
    let (h, w) = (height.div_ceil(every), width.div_ceil(every));
    // Enlarged here and not by the page, so that the lines between tiles are always thin.
    let zoom = (56 / w.max(h)).clamp(1, 14);
    let tiles = tiles.min(MOST_TILES);
    let columns = tiles.min(if w <= 8 { 16 } else { 8 });
    let (right, down) = (w * zoom + GAP, h * zoom + GAP);
    let (all_right, all_down) = (columns * right - GAP, tiles.div_ceil(columns) * down - GAP);
    let mut picture = RgbaImage::from_pixel(all_right as u32, all_down as u32, Rgba([128, 128, 128, 160]));
    for (tile, values) in values.chunks(height * width).take(tiles).enumerate() {
        let (left, top) = (tile % columns * right, tile / columns * down);
        for (y, x) in (0..h * zoom).flat_map(|y| (0..w * zoom).map(move |x| (y, x))) {
            let value = values[every * (y / zoom * width + x / zoom)];
            picture.put_pixel((left + x) as u32, (top + y) as u32, colour(value / largest));
        }
    }
    img(&picture.into(), alt, 1)
}

/// Colour of a value from −1 to 1; NaN is allowed.
fn colour(value: f64) -> Rgba<u8> {
    let strongest = if value < 0.0 { [200.0, 80.0, 0.0] } else { [0.0, 85.0, 150.0] };
    let share = if value.is_finite() { value.abs() } else { 0.0 };
    let [r, g, b] = strongest.map(|strong| (255.0 + share * (strong - 255.0)).round() as u8);
    Rgba([r, g, b, 255])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_and_sizes_have_their_colours() {
        assert_eq!(colour(0.0).0, [255, 255, 255, 255]);
        assert_eq!(colour(1.0).0, [0, 85, 150, 255]);
        assert_eq!(colour(-1.0).0, [200, 80, 0, 255]);
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
    fn images_of_three_channels_are_coloured() {
        let images = Images {
            count: 2,
            channels: 3,
            height: 1,
            width: 2,
            pixels: (0..12).collect(),
            labels: vec![0, 0],
        };
        let text = of_image(&images, 1, "", 56);
        let want: DynamicImage = RgbImage::from_raw(2, 1, vec![6, 8, 10, 7, 9, 11]).unwrap().into();
        assert_eq!(text, img(&want, "", 56));
    }
}
