//! Fills blocks with images: chosen, augmented and normalised with the arithmetic of `shaders/batch.wgsl`.

use super::block::Block;
use super::kernels::LANES;
use crate::batch::{BatchSettings, Sample};
use crate::dataset::Images;
use crate::replica::Replica;
use crate::tensor::Shape;

/// Draws batches from a dataset.
pub(super) struct Gather<'a> {
    batches: &'a BatchSettings,
    images: &'a Images,
    /// Normalised value of each byte, for each channel.
    levels: Vec<[f32; 256]>,
}

impl<'a> Gather<'a> {
    pub(super) fn new(batches: &'a BatchSettings, images: &'a Images) -> Self {
        let of_channel = |(scale, offset)| std::array::from_fn(|byte| byte as f32 * scale + offset);
        Self { batches, images, levels: batches.normalization.affine().map(of_channel).collect() }
    }

    pub(super) fn batches(&self) -> &BatchSettings {
        self.batches
    }

    /// The block's images of a net's training step `step`, whose batch has `images` images.
    pub(super) fn fill(&self, net: &Replica, step: u32, images: usize, block: &mut Block) {
        block.valid = LANES.min(images - block.first_image);
        for lane in 0..LANES {
            let sample = self.batches.sample(net, step, block.first_image + lane);
            block.targets[lane] = self.images.labels[sample.index as usize];
            self.place(sample, lane, block.images_mut());
        }
    }

    /// The images from `start` on, unchanged. Lanes past the last one repeat it.
    pub(super) fn fill_in_order(&self, start: usize, block: &mut Block) {
        block.valid = LANES.min(self.images.count - start);
        for lane in 0..LANES {
            let index = (start + lane).min(self.images.count - 1);
            block.targets[lane] = self.images.labels[index];
            self.place(Sample { index: index as u32, transform: None }, lane, block.images_mut());
        }
    }

    fn place(&self, sample: Sample, lane: usize, block: &mut [f32]) {
        let Shape { channels, height, width } = self.batches.image;
        let map = height * width;
        let pixels = &self.images.pixels[sample.index as usize * channels * map..][..channels * map];
        let Some(transform) = sample.transform else {
            let channels = pixels.chunks_exact(map).zip(block.chunks_exact_mut(map * LANES));
            for ((pixels, block), levels) in channels.zip(&self.levels) {
                for (lanes, &pixel) in block.chunks_exact_mut(LANES).zip(pixels) {
                    lanes[lane] = levels[usize::from(pixel)];
                }
            }
            return;
        };
        let channels = pixels.chunks_exact(map).zip(block.chunks_exact_mut(map * LANES));
        for ((channel, block), (scale, offset)) in channels.zip(self.batches.normalization.affine()) {
            let pixel = |y: i32, x: i32| -> f32 {
                // Negative numbers become large ones.
                if (y as usize) < height && (x as usize) < width {
                    f32::from(channel[y as usize * width + x as usize])
                } else {
                    0.0
                }
            };
            let [a, b, c, d, e, f] = transform;
            for (y, row) in block.chunks_exact_mut(width * LANES).enumerate() {
                for (x, lanes) in row.chunks_exact_mut(LANES).enumerate() {
                    let (x, y) = (x as f32, y as f32);
                    let (source_x, source_y) = (a * x + b * y + c, d * x + e * y + f);
                    let (column, row) = (floor(source_x), floor(source_y));
                    let (fx, fy) = (source_x - column as f32, source_y - row as f32);
                    let upper = pixel(row, column) * (1.0 - fx) + pixel(row, column + 1) * fx;
                    let lower = pixel(row + 1, column) * (1.0 - fx) + pixel(row + 1, column + 1) * fx;
                    lanes[lane] = (upper * (1.0 - fy) + lower * fy) * scale + offset;
                }
            }
        }
    }
}

/// The largest integer not above `x`. `f32::floor` is a function call on processors that lack SSE 4.1.
fn floor(x: f32) -> i32 {
    let whole = x as i32;
    whole - i32::from(whole as f32 > x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Augment;
    use crate::model::Model;
    use crate::normalization::Normalization;
    use crate::rng;

    #[test]
    fn a_lane_holds_what_the_reference_sees() {
        let text = "name = \"x\"\ninput = [3, 5, 4]\nlayers = [{ type = \"flatten\" }, { type = \"linear\", out_features = 2 }]";
        let model = Model::parse(text, "x").unwrap();
        let mut net = Replica::new(&model, 1);
        net.augment = Augment { rotate_degrees: 20.0, shift_pixels: 1.0, ..Augment::default() };
        let size = model.input.len();
        let pixels: Vec<u8> = (0..4 * size).map(|at| rng::words(1, 0, 0, at as u32)[0] as u8).collect();
        let images = Images::new([3, 5, 4], pixels, vec![0; 4]).unwrap();
        for augment in [false, true] {
            let batches = BatchSettings {
                batch_size: 4,
                image_count: 4,
                image: model.input,
                epochs: 1,
                shuffle: true,
                augment,
                normalization: Normalization { mean: vec![0.5, 0.25, 0.125], std: vec![0.25, 0.5, 1.0] },
                class_weights: Vec::new(),
            };
            let gather = Gather::new(&batches, &images);
            let mut block = vec![0.0; size * LANES];
            for lane in 0..4 {
                let sample = batches.sample(&net, 0, lane);
                assert_eq!(sample.transform.is_some(), augment);
                gather.place(sample, lane, &mut block);
                let wanted =
                    batches.reference(&images.pixels[sample.index as usize * size..][..size], sample);
                for (at, (want, bound)) in wanted.data.iter().zip(&wanted.bound).enumerate() {
                    let error = (f64::from(block[at * LANES + lane]) - want).abs();
                    assert!(error <= *bound, "lane {lane}, value {at}: off by {error}, allowed {bound}");
                }
            }
        }
    }
}
