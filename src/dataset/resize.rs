//! Pictures in other sizes.

use super::bitmap::Raster;
use crate::tensor::Shape;

/// The pixels `[channels][height][width]` of a flattened picture, resized to an input. One of the right size stays as it is.
pub(crate) fn stretch(picture: &Raster<u8>, input: Shape) -> Vec<u8> {
    let resized;
    let picture = if (picture.width, picture.height) == (input.width, input.height) {
        picture
    } else {
        resized = resize(picture, input.width, input.height);
        &resized
    };
    let plane = |channel| picture.samples.iter().skip(channel).step_by(input.channels).copied();
    (0..input.channels).flat_map(plane).collect()
}

/// A picture of 1 or 3 channels in another size, by a triangle filter as wide as the reduction (bilinear where it grows).
///
/// Columns are filtered first, in f32 and in the order of the rows, as the `image` crate does it; one line at a time, so that
/// no more than that is kept.
pub(crate) fn resize(picture: &Raster<u8>, width: usize, height: usize) -> Raster<u8> {
    let columns = windows(picture.width, width);
    let mut samples = Vec::with_capacity(width * height * picture.channels);
    let mut line = vec![0.0; picture.width * picture.channels];
    for Window { first, weights } in windows(picture.height, height) {
        line.fill(0.0);
        let rows = picture.samples.chunks_exact(line.len()).skip(first);
        for (row, weight) in rows.zip(weights) {
            for (sum, &sample) in line.iter_mut().zip(row) {
                *sum += f32::from(sample) * weight;
            }
        }
        match picture.channels {
            1 => filter_line::<1>(&line, &columns, &mut samples),
            _ => filter_line::<3>(&line, &columns, &mut samples),
        }
    }
    Raster { width, height, channels: picture.channels, samples }
}

fn filter_line<const CHANNELS: usize>(line: &[f32], columns: &[Window], samples: &mut Vec<u8>) {
    let pixels = line.as_chunks::<CHANNELS>().0;
    for Window { first, weights } in columns {
        let mut sums = [0.0; CHANNELS];
        for (pixel, weight) in pixels[*first..].iter().zip(weights) {
            for (sum, value) in sums.iter_mut().zip(pixel) {
                *sum += value * weight;
            }
        }
        samples.extend(sums.map(|sum: f32| sum.round() as u8));
    }
}

/// What becomes one pixel of a line.
struct Window {
    first: usize,
    /// Of that pixel and the following ones; their sum is 1.
    weights: Vec<f32>,
}

/// The windows of a line of `from` pixels that becomes `to` pixels long.
fn windows(from: usize, to: usize) -> Vec<Window> {
    let ratio = from as f32 / to as f32;
    let reach = ratio.max(1.0);
    let window = |index: usize| {
        let centre = (index as f32 + 0.5) * ratio;
        // A float becomes the nearest integer that there is, here 0 for negative ones.
        let first = ((centre - reach).floor() as usize).min(from - 1);
        let end = ((centre + reach).ceil() as usize).clamp(first + 1, from);
        // From the centre of one pixel to that of another.
        let distance = |pixel: usize| (pixel as f32 - (centre - 0.5)) / reach;
        let mut weights: Vec<f32> =
            (first..end).map(|pixel| (1.0 - distance(pixel).abs()).max(0.0)).collect();
        let sum: f32 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
        Window { first, weights }
    };
    (0..to).map(window).collect()
}

#[cfg(test)]
mod tests {
    use image::imageops::FilterType;
    use image::{DynamicImage, GrayImage, RgbImage};

    use super::*;

    fn noise(width: usize, height: usize, channels: usize) -> Raster<u8> {
        let sample = |at: usize| (crate::rng::pcg4d([at as u32, width as u32, 0, 0])[0] >> 24) as u8;
        let samples = (0..width * height * channels).map(sample).collect();
        Raster { width, height, channels, samples }
    }

    fn reference(picture: &Raster<u8>, width: usize, height: usize) -> Vec<u8> {
        let (w, h) = (picture.width as u32, picture.height as u32);
        let samples = picture.samples.clone();
        let picture: DynamicImage = if picture.channels == 1 {
            GrayImage::from_raw(w, h, samples).unwrap().into()
        } else {
            RgbImage::from_raw(w, h, samples).unwrap().into()
        };
        picture.resize_exact(width as u32, height as u32, FilterType::Triangle).into_bytes()
    }

    #[test]
    fn sizes_of_all_kinds_are_those_of_the_reference() {
        let sides = [1, 2, 3, 5, 7, 28, 31, 64, 97];
        for channels in [1, 3] {
            for from in [(1, 1), (1, 60), (60, 1), (2, 3), (28, 28), (97, 61), (150, 333), (401, 5)] {
                let picture = noise(from.0, from.1, channels);
                for (width, height) in sides.into_iter().flat_map(|w| sides.map(|h| (w, h))) {
                    let resized = resize(&picture, width, height);
                    assert_eq!((resized.width, resized.height, resized.channels), (width, height, channels));
                    let want = reference(&picture, width, height);
                    assert_eq!(resized.samples, want, "{from:?} to {width}x{height}, {channels} channels");
                }
            }
        }
        let large = noise(2000, 1501, 3);
        assert_eq!(resize(&large, 224, 223).samples, reference(&large, 224, 223));
        assert_eq!(resize(&noise(3, 2, 1), 700, 1100).samples, reference(&noise(3, 2, 1), 700, 1100));
    }

    #[test]
    fn an_input_has_planes() {
        let picture = noise(50, 40, 3);
        let want = reference(&picture, 7, 9);
        let planes = stretch(&picture, Shape::new(3, 9, 7));
        for (at, pixel) in want.chunks(3).enumerate() {
            assert_eq!([0, 1, 2].map(|channel| planes[channel * 63 + at]), pixel);
        }
        // One of the right size stays as it is.
        let grey = noise(50, 40, 1);
        assert_eq!(stretch(&grey, Shape::new(1, 40, 50)), grey.samples);
        assert!(stretch(&grey, Shape::new(1, 0, 50)).is_empty());
    }
}
