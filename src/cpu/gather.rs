//! Fills blocks with images: chosen, augmented and normalised with the arithmetic of `shaders/batch.wgsl`.

use super::block::Block;
use super::kernels::LANES;
use super::picture::Picture;
use crate::batch::{BatchSettings, Sample, mean_grey};
use crate::dataset::Images;
use crate::state::NetSettings;

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
    pub(super) fn fill(&self, net: &NetSettings, step: u32, images: usize, block: &mut Block) {
        block.valid = LANES.min(images - block.first_image);
        for lane in 0..LANES {
            let sample = self.batches.sample(net, step, block.first_image + lane);
            block.targets[lane] = sample.target(&self.images.labels);
            self.place(&sample, lane, block.images_mut());
        }
    }

    /// The images from `start` on, unchanged. Lanes past the last one repeat it.
    pub(super) fn fill_in_order(&self, start: usize, block: &mut Block) {
        block.valid = LANES.min(self.images.count - start);
        for lane in 0..LANES {
            let index = (start + lane).min(self.images.count - 1);
            block.targets[lane] = self.images.labels[index].into();
            self.place(&Sample::plain(index as u32), lane, block.images_mut());
        }
    }

    fn place(&self, sample: &Sample, lane: usize, block: &mut [f32]) {
        let map = self.batches.image.area();
        let Some(change) = &sample.change else {
            let channels =
                self.pixels(sample.index).chunks_exact(map).zip(block.chunks_exact_mut(map * LANES));
            for ((pixels, block), levels) in channels.zip(&self.levels) {
                for (lanes, &pixel) in block.chunks_exact_mut(LANES).zip(pixels) {
                    lanes[lane] = levels[usize::from(pixel)];
                }
            }
            return;
        };
        let seen = |index, change| {
            let pixels = self.pixels(index);
            let mean = || {
                if self.batches.changes.colour { mean_grey(pixels, self.batches.image.channels) } else { 0 }
            };
            let picture = Picture { pixels, shape: self.batches.image, fill: sample.fill, mean_grey: mean() };
            picture.changed(change, &self.batches.normalization)
        };
        let mut values = seen(sample.index, change);
        if let Some(mixture) = &sample.mixture
            && mixture.weight > 0
        {
            super::picture::mix(
                &mut values,
                &seen(mixture.index, &mixture.change),
                mixture,
                self.batches.image,
            );
        }
        let channels = values.chunks_exact(map).zip(block.chunks_exact_mut(map * LANES));
        for ((values, block), (scale, offset)) in channels.zip(self.batches.normalization.affine()) {
            for (lanes, value) in block.chunks_exact_mut(LANES).zip(values) {
                lanes[lane] = value * scale + offset;
            }
        }
    }

    fn pixels(&self, index: u32) -> &[u8] {
        let size = self.batches.image.len();
        &self.images.pixels[index as usize * size..][..size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Changes;
    use crate::config::{Augment, Fill};
    use crate::model::Model;
    use crate::normalization::Normalization;
    use crate::replica::Replica;
    use crate::rng;

    /// Each kind of change alone and all together, on images of one, two and three channels.
    #[test]
    fn a_lane_holds_what_the_reference_sees() {
        let none = Augment::default;
        let turned = none().rotate_degrees(20.0).shift_pixels(1.0);
        let all = turned
            .scale(0.2)
            .shear(0.1)
            .flip_horizontal(0.5)
            .flip_vertical(0.5)
            .pad_crop(1.0)
            .crop(0.4)
            .crop_aspect(0.3)
            .elastic(0.7)
            .elastic_smoothness(3.0)
            .brightness(0.4)
            .contrast(0.4)
            .saturation(0.4)
            .hue(0.2)
            .erase(0.5)
            .mixup(0.4)
            .cutmix(1.0);
        let mut mixtures = 0;
        for (channels, augment) in [
            (3, none()),
            (3, turned),
            (1, turned.fill(Fill::Reflect)),
            (3, turned.fill(Fill::Edge)),
            (3, turned.fill(Fill::Mean)),
            (3, turned.fill(Fill::Value(200.0))),
            (3, none().flip_horizontal(0.5).flip_vertical(0.5)),
            (3, none().pad_crop(2.0)),
            (3, none().crop(0.6).crop_aspect(0.5)),
            (3, none().elastic(1.5).elastic_smoothness(3.0)),
            (3, none().brightness(0.7)),
            (3, none().contrast(0.7)),
            (2, none().brightness(0.7).contrast(0.5)),
            (1, none().brightness(0.7).contrast(0.5)),
            (3, none().saturation(1.0)),
            (3, none().hue(0.5)),
            (3, none().erase(0.8).erase_area(0.5)),
            (3, none().mixup(1.0)),
            (1, none().cutmix(1.0)),
            (3, all),
            (3, all.fill(Fill::Reflect)),
        ] {
            let text = format!(
                "name = \"x\"\ninput = [{channels}, 5, 4]\nlayers = [{{ type = \"flatten\" }}, {{ type = \"linear\", \
                 out_features = 2 }}]"
            );
            let model = Model::parse(&text, "x").unwrap();
            let mut net = Replica::new(&model, 1);
            net.augment = augment;
            let count = 32;
            let size = model.input.len();
            let pixels = (0..count * size).map(|at| rng::words(1, 0, 0, at as u32)[0] as u8).collect();
            let labels = (0..count).map(|image| (image % 2) as u8).collect();
            let images = Images::new([channels, 5, 4], pixels, labels).unwrap();
            let batches = BatchSettings {
                batch_size: count,
                image_count: count,
                image: model.input,
                epochs: 1,
                shuffle: true,
                changes: Changes::of(&[net.clone()]),
                normalization: Normalization {
                    mean: [0.5, 0.25, 0.125][..channels].to_vec(),
                    std: [0.25, 0.5, 1.0][..channels].to_vec(),
                },
                class_weights: Vec::new(),
            };
            let (settings, _) = net.settings(&model, 1);
            let gather = Gather::new(&batches, &images);
            let mut block = vec![0.0; size * LANES];
            for n in 0..count {
                let (sample, lane) = (batches.sample(&settings, 0, n), n % LANES);
                assert_eq!(sample.change.is_some(), !augment.is_none());
                mixtures += usize::from(sample.mixture.is_some());
                gather.place(&sample, lane, &mut block);
                let wanted = batches.reference(&images, sample);
                for (at, (want, bound)) in wanted.data.iter().zip(&wanted.bound).enumerate() {
                    let error = (f64::from(block[at * LANES + lane]) - want).abs();
                    assert!(
                        error <= *bound && *bound < 0.01,
                        "{augment:?}: image {n}, value {at}: off by {error}, allowed {bound}"
                    );
                }
            }
        }
        assert!(mixtures > 60);
    }
}
