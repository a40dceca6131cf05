//! Images of one size in memory.

use std::path::Path;

use super::numbered::Numbered;
use super::{FileNames, Part, buffer, entries, idx};
use crate::error::{Error, Result};
use crate::normalization::Normalization;
use crate::rng::{self, Permutation, Stream};
use crate::tensor::Shape;

/// Images of one size with one label each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// Number of images.
    pub count: usize,
    /// Values per pixel: 1 for IDX files, 3 for colours.
    pub channels: usize,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// `[count][channels][height][width]`, 0 is background.
    pub pixels: Vec<u8>,
    /// `[count]`, the class of each image.
    pub labels: Vec<u8>,
    /// The file of each, seen from the folder of the dataset; none for images that are not files of their own.
    pub files: FileNames,
}

impl Images {
    /// Images of the shape [channels, height, width] from their pixels, `[count][channels][height][width]`, and a label for
    /// each.
    ///
    /// # Errors
    /// Pixels that are not a whole number of images, another number of labels, and no images at all.
    pub fn new(shape: impl Into<Shape>, pixels: Vec<u8>, labels: Vec<u8>) -> Result<Self> {
        let shape = shape.into();
        let Shape { channels, height, width } = shape;
        let files = FileNames::default();
        let images = Self { count: labels.len(), channels, height, width, pixels, labels, files };
        images.check().map_err(|message| Error::Usage(format!("images of {shape}: {message}")))?;
        Ok(images)
    }

    /// [channels, height, width].
    pub fn shape(&self) -> Shape {
        Shape::new(self.channels, self.height, self.width)
    }

    /// Fails if there are no images, or if pixels and labels are not as many as the sizes say.
    pub(crate) fn check(&self) -> Result<(), String> {
        let size = self.shape().len();
        if self.count == 0 || size == 0 {
            return Err("there must be at least one image, of at least one value".into());
        }
        if self.labels.len() != self.count {
            return Err(format!("{} labels for {} images", self.labels.len(), self.count));
        }
        if self.count.checked_mul(size) != Some(self.pixels.len()) {
            let found = self.pixels.len();
            return Err(format!(
                "{} images need {} values each, but there are {found} values",
                self.count, size
            ));
        }
        Ok(())
    }

    /// Loads one part of the dataset of IDX files in `dir`; files that `dir/SHA256SUMS` lists are verified against it. The
    /// images of EMNIST, which its files store transposed, are turned upright.
    ///
    /// # Errors
    /// Files that are missing, ambiguous, damaged, not IDX, of the wrong length or that do not fit together.
    pub fn load(dir: &Path, part: Part) -> Result<Self> {
        Numbered::in_idx_files(dir, &mut Vec::new())?.images(part)
    }

    /// The contents of IDX files, as they are.
    pub(super) fn from_idx(dir: &Path, part: Part) -> Result<Self> {
        let images = idx::find(dir, part, "images", 3)?;
        let labels = idx::labels(dir, part)?;
        let ([count, height, width], pixels) = idx::read(&images)?;
        let ([label_count], values) = idx::read(&labels)?;
        if label_count != count {
            let message = format!("{label_count} labels, but {} holds {count} images", images.display());
            return Err(Error::data(labels, message));
        }
        let files = FileNames::default();
        Ok(Self { count, channels: 1, height, width, pixels, labels: values, files })
    }

    /// Exchanges rows and columns.
    pub(super) fn transpose(&mut self) {
        let (height, width) = (self.height, self.width);
        let mut turned = vec![0; height * width];
        for image in self.pixels.chunks_exact_mut(height * width) {
            for (place, value) in turned.iter_mut().enumerate() {
                *value = image[place % height * width + place / height];
            }
            image.copy_from_slice(&turned);
        }
        (self.height, self.width) = (width, height);
    }

    /// A warning about classes that no image has.
    pub(super) fn unseen_labels(&self, dir: &Path, names: &[String]) -> Option<String> {
        let mut seen = [false; 256];
        self.labels.iter().for_each(|&label| seen[usize::from(label)] = true);
        let unseen: Vec<_> =
            names.iter().zip(seen).filter(|(_, seen)| !seen).map(|(name, _)| name.clone()).collect();
        let (s, them) = if unseen.len() == 1 { ("", "this class") } else { ("s", "these classes") };
        (!unseen.is_empty()).then(|| {
            format!(
                "{}: no training image has the label{s} {} (the last label is {}), so nothing is learnt about {them}",
                dir.display(),
                entries::some(unseen.into_iter()),
                names.last().map_or("", String::as_str)
            )
        })
    }

    /// Splits off `held_out` images chosen by `seed`: (the rest, the held-out images), each in the old order.
    ///
    /// # Errors
    /// When no image would be left.
    pub fn split(&self, held_out: usize, seed: u32) -> Result<(Self, Self)> {
        if held_out >= self.count {
            return Err(Error::Usage(format!(
                "cannot hold out {held_out} of {} images: at least one must remain",
                self.count
            )));
        }
        let order = Permutation::new(self.count as u32, rng::key(seed, Stream::Split), 0);
        let mut chosen = vec![false; self.count];
        for i in 0..held_out {
            chosen[order.get(i as u32) as usize] = true;
        }
        self.part_by(&chosen)
    }

    /// The images that are not chosen, and those that are.
    pub(super) fn part_by(&self, chosen: &[bool]) -> Result<(Self, Self)> {
        let size = self.channels * self.height * self.width;
        let part = |held: bool| -> Result<Self> {
            let count = chosen.iter().filter(|&&chosen| chosen == held).count();
            let mut pixels = buffer(count * size).map_err(Error::Usage)?;
            let mut labels = Vec::with_capacity(count);
            for i in (0..self.count).filter(|&i| chosen[i] == held) {
                pixels.extend_from_slice(&self.pixels[i * size..(i + 1) * size]);
                labels.push(self.labels[i]);
            }
            let files = self.files.of((0..self.count).filter(|&i| chosen[i] == held));
            Ok(Self { count, pixels, labels, files, ..*self })
        };
        Ok((part(false)?, part(true)?))
    }

    /// Mean and standard deviation of each channel's pixels / 255, to four decimals; a deviation is at least 0.001.
    pub fn normalization(&self) -> Normalization {
        let (mean, std) = self.counts().iter().map(mean_and_deviation).unzip();
        Normalization { mean, std }
    }

    /// Those of all pixels together, for every channel.
    pub(crate) fn common_normalization(&self) -> Normalization {
        let mut all = [0; 256];
        for counts in self.counts() {
            all.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        let (mean, std) = mean_and_deviation(&all);
        Normalization::uniform(self.channels, mean, std)
    }

    /// How many pixels of each channel have each value.
    fn counts(&self) -> Vec<[u64; 256]> {
        let mut counts = vec![[0; 256]; self.channels];
        for (map, pixels) in self.pixels.chunks((self.height * self.width).max(1)).enumerate() {
            let counts = &mut counts[map % self.channels];
            pixels.iter().for_each(|&pixel| counts[usize::from(pixel)] += 1);
        }
        counts
    }
}

/// Of pixels / 255, given how many there are of each value.
fn mean_and_deviation(counts: &[u64; 256]) -> (f32, f32) {
    let n = counts.iter().sum::<u64>().max(1) as f64;
    let moment = |power: i32| -> f64 {
        let terms = counts.iter().enumerate();
        terms.map(|(v, &c)| (v as f64 / 255.0).powi(power) * c as f64).sum::<f64>() / n
    };
    let mean = moment(1);
    let std = (moment(2) - mean * mean).max(0.0).sqrt();
    let round = |x: f64| ((x * 1e4).round() / 1e4) as f32;
    (round(mean), round(std).max(1e-3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_parts_the_images_without_loss() {
        let count = 100;
        let pixels = |label: u8| (0..12).map(move |k| label + 10 * k);
        let all = Images {
            count,
            channels: 3,
            height: 2,
            width: 2,
            pixels: (0..100).flat_map(pixels).collect(),
            labels: (0..100).collect(),
            files: (0..100).map(|image| image.to_string()).collect(),
        };
        let (rest, held) = all.split(30, 7).unwrap();
        assert_eq!((rest.count, held.count, held.width), (70, 30, 2));
        let mut labels = [&rest.labels[..], &held.labels].concat();
        labels.sort_unstable();
        assert_eq!(labels, all.labels);
        for part in [&rest, &held] {
            let pixels = part.labels.iter().copied().flat_map(pixels);
            assert_eq!(part.pixels, pixels.collect::<Vec<_>>());
            assert_eq!(part.files, part.labels.iter().map(u8::to_string).collect());
        }
        assert_eq!(all.split(30, 7).unwrap().1, held);
        assert_ne!(all.split(30, 8).unwrap().1.labels, held.labels);
        assert_eq!(all.split(0, 7).unwrap().0, all);
        assert!(all.split(100, 7).is_err());
    }

    #[test]
    fn mean_and_deviation_of_known_pixels() {
        let images = |pixels: Vec<u8>| Images {
            count: 1,
            channels: 1,
            height: 1,
            width: pixels.len(),
            pixels,
            labels: vec![0],
            files: FileNames::default(),
        };
        assert_eq!(images(vec![0, 255, 0, 255]).normalization(), Normalization::uniform(1, 0.5, 0.5));
        assert_eq!(images(vec![51; 5]).normalization(), Normalization::uniform(1, 0.2, 0.001));
    }

    /// Two images of two pixels in three channels, worked out by hand.
    #[test]
    fn each_channel_has_a_mean_and_a_deviation_of_its_own() {
        let images = Images {
            count: 2,
            channels: 3,
            height: 1,
            width: 2,
            pixels: [[0, 255], [51, 51], [0, 102], [0, 255], [51, 51], [204, 102]].concat(),
            labels: vec![0, 1],
            files: FileNames::default(),
        };
        // Of 0, 0.4, 0.8 and 0.4 the variance is 0.08.
        let each = Normalization { mean: vec![0.5, 0.2, 0.4], std: vec![0.5, 0.001, 0.2828] };
        assert_eq!(images.normalization(), each);
        // All twelve: 0.5, 0.2 and 0.4 are 0.3667 in the mean; of their squares, 0.5, 0.04 and 0.24, it is 0.26.
        assert_eq!(images.common_normalization(), Normalization::uniform(3, 0.3667, 0.3543));
    }
}
