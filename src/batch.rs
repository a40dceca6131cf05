//! Which images a step sees and how each is changed: the same arithmetic as `shaders/batch.wgsl`, in Rust.

use crate::config::Augment;
use crate::layers::Launch;
use crate::normalization::Normalization;
use crate::replica::Replica;
use crate::rng::{self, Permutation, Stream};
use crate::tensor::{Array, Shape, gamma};

/// How batches are drawn from a dataset.
///
/// # Examples
/// ```
/// use shadernet::batch::BatchSettings;
/// use shadernet::normalization::Normalization;
/// use shadernet::tensor::Shape;
///
/// let image = Shape::new(1, 28, 28);
/// let batches = BatchSettings {
///     batch_size: 64, image_count: 1000, image, epochs: 19, shuffle: true, augment: false,
///     normalization: Normalization::uniform(1, 0.1307, 0.3081),
///     class_weights: Vec::new(),
/// };
/// assert_eq!(batches.steps_per_epoch(), 16);
/// assert_eq!(batches.images_of(15), 1000 - 15 * 64);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct BatchSettings {
    /// Images of a step; the last step of an epoch may have fewer.
    pub batch_size: usize,
    /// Images of the dataset.
    pub image_count: usize,
    /// Shape of an image.
    pub image: Shape,
    /// Epochs of the run.
    pub epochs: usize,
    /// Draw in random order, another one each epoch.
    pub shuffle: bool,
    /// True if any net changes these images at random.
    pub augment: bool,
    /// What becomes of the pixels of each channel.
    pub normalization: Normalization,
    /// What each class counts in the training loss; empty if all count the same.
    pub class_weights: Vec<f32>,
}

/// One image of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Index in the dataset.
    pub index: u32,
    /// Source coordinates (a·x + b·y + c, d·x + e·y + f) of output pixel (x, y); `None` if the image stays as it is.
    pub transform: Option<[f32; 6]>,
}

impl BatchSettings {
    /// Steps of an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.image_count.div_ceil(self.batch_size)
    }

    /// Images of the batch of `step`, which counts from the start of the run.
    pub fn images_of(&self, step: u32) -> usize {
        let start = step as usize % self.steps_per_epoch() * self.batch_size;
        self.batch_size.min(self.image_count - start)
    }

    /// The learning rate of a net in every step of the run.
    pub fn learning_rates(&self, net: &Replica) -> Vec<f32> {
        let steps = self.steps_per_epoch();
        net.learning_rate.rates_after_warmup(net.warmup, self.epochs * steps, steps)
    }

    /// Image `n` of a net's batch of `step`. Behind the last image of the batch it is any image, as on the GPU.
    pub fn sample(&self, net: &Replica, step: u32, n: usize) -> Sample {
        let steps = self.steps_per_epoch() as u32;
        let (epoch, start) = (step / steps, step % steps * self.batch_size as u32);
        let count = self.image_count as u32;
        let position = (start + n as u32) % count;
        let index = if self.shuffle {
            Permutation::new(count, rng::key(net.seed, Stream::Shuffle), epoch).get(position)
        } else {
            position
        };
        let changes = self.augment && !net.augment.is_none() && epoch < net.augment.plain_from(self.epochs);
        let transform = changes.then(|| self.transform(net.seed, &net.augment, epoch, index));
        Sample { index, transform }
    }

    fn transform(&self, seed: u32, augment: &Augment, epoch: u32, index: u32) -> [f32; 6] {
        let key = rng::key(seed, Stream::Augment);
        let random = rng::words(key, epoch, 0, index).map(rng::signed);
        let more = rng::words(key, epoch, 1, index).map(rng::signed);
        let angle = augment.rotate_degrees.to_radians() * random[0];
        let square = angle * angle;
        // Taylor series: exact to f32 up to 45°, and the same on every device.
        let sine = angle * (1.0 + square * (-1.0 / 6.0 + square * (1.0 / 120.0 - square * (1.0 / 5040.0))));
        let cosine = 1.0
            + square * (-0.5 + square * (1.0 / 24.0 + square * (-1.0 / 720.0 + square * (1.0 / 40320.0))));
        let shrink = 1.0 / (1.0 + augment.scale * random[3]);
        let shear = augment.shear * more[0];
        let centre_x = (self.image.width - 1) as f32 * 0.5;
        let centre_y = (self.image.height - 1) as f32 * 0.5;
        let from_x = centre_x + augment.shift_pixels * random[1];
        let from_y = centre_y + augment.shift_pixels * random[2];
        let (a, b) = (cosine * shrink, (sine + shear * cosine) * shrink);
        let (d, e) = (-sine * shrink, (cosine - shear * sine) * shrink);
        [a, b, centre_x - (a * from_x + b * from_y), d, e, centre_y - (d * from_x + e * from_y)]
    }

    /// Reference for what the network sees of a sample: [1, C, H, W], from the image's bytes [C, H, W].
    pub fn reference(&self, pixels: &[u8], sample: Sample) -> Array {
        let Shape { channels, height, width } = self.image;
        let mut made = Array::zeros(&[1, channels, height, width]);
        for (c, (scale, offset)) in self.normalization.affine().enumerate() {
            let (scale, offset) = (f64::from(scale), f64::from(offset));
            let pixel = |y: i64, x: i64| -> f64 {
                let inside = (0..height as i64).contains(&y) && (0..width as i64).contains(&x);
                if inside { f64::from(pixels[(c * height + y as usize) * width + x as usize]) } else { 0.0 }
            };
            for y in 0..height {
                for x in 0..width {
                    let (value, error) = match sample.transform {
                        None => (pixel(y as i64, x as i64), 0.0),
                        Some(t) => {
                            let t = t.map(f64::from);
                            let (x, y) = (x as f64, y as f64);
                            let source = [t[0] * x + t[1] * y + t[2], t[3] * x + t[4] * y + t[5]];
                            let place = source.map(f64::floor);
                            let [fx, fy] = [source[0] - place[0], source[1] - place[1]];
                            let (column, row) = (place[0] as i64, place[1] as i64);
                            let upper = pixel(row, column) * (1.0 - fx) + pixel(row, column + 1) * fx;
                            let lower = pixel(row + 1, column) * (1.0 - fx) + pixel(row + 1, column + 1) * fx;
                            // Interpolation is continuous with slope at most 255 a pixel, so a rounded coordinate costs
                            // at most 255 times its own error.
                            let size =
                                |k: usize| (t[k] * x).abs() + (t[k + 1] * y).abs() + t[k + 2].abs() + 1.0;
                            let error = 255.0 * gamma(5) * (size(0) + size(3)) + gamma(8) * 255.0;
                            (upper * (1.0 - fy) + lower * fy, error)
                        }
                    };
                    let at = (c * height + y) * width + x;
                    made.data[at] = value * scale + offset;
                    made.bound[at] = error * scale + gamma(3) * ((value * scale).abs() + offset.abs());
                }
            }
        }
        made
    }

    /// The launches that choose and gather a batch.
    pub fn launches(&self) -> Vec<Launch> {
        let quads = self.batch_size.div_ceil(4);
        vec![self.launch("begin", quads * 4), self.launch("gather", quads * self.image.len())]
    }

    /// A launch of an entry point of `batch.wgsl`.
    pub(crate) fn launch(&self, entry_point: &'static str, invocations: usize) -> Launch {
        let quads = self.batch_size.div_ceil(4);
        let constants = [
            ("BATCH_SIZE", self.batch_size as f64),
            ("QUADS", quads as f64),
            ("CHANNELS", self.image.channels as f64),
            ("HEIGHT", self.image.height as f64),
            ("WIDTH", self.image.width as f64),
            ("IMAGE_COUNT", self.image_count as f64),
            ("STEPS_PER_EPOCH", self.steps_per_epoch() as f64),
            ("SHUFFLE", f64::from(u8::from(self.shuffle))),
            ("HALF_BITS", f64::from(Permutation::half_bits(self.image_count as u32))),
            ("AUGMENT", f64::from(u8::from(self.augment))),
            // Parameters to pack: of the fused plan alone.
            ("PACKED", 0.0),
        ];
        Launch::new("batch", entry_point, invocations, constants)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    /// (pixel / 255 − mean) / std with a mean and a deviation for each channel, and what is moved in is byte 0.
    #[test]
    fn channels_are_normalised_by_their_own_mean_and_deviation() {
        let batches = BatchSettings {
            batch_size: 1,
            image_count: 1,
            image: Shape::new(2, 1, 2),
            epochs: 1,
            shuffle: false,
            augment: true,
            normalization: Normalization { mean: vec![0.5, 0.25], std: vec![0.5, 2.0] },
            class_weights: Vec::new(),
        };
        let seen = |transform| {
            let made = batches.reference(&[255, 0, 51, 255], Sample { index: 0, transform });
            assert!(made.bound.iter().all(|&bound| bound < 1e-3), "{:?}", made.bound);
            made.data.iter().map(|value| (value * 1e4).round() / 1e4).collect::<Vec<_>>()
        };
        assert_eq!(seen(None), [1.0, -1.0, -0.025, 0.375]);
        // From one column to the right.
        assert_eq!(seen(Some([1.0, 0.0, 1.0, 0.0, 1.0, 0.0])), [-1.0, -1.0, 0.375, -0.125]);
    }

    #[test]
    fn the_last_epochs_see_plain_images() {
        let model = Model::parse(include_str!("../data/models/seed.toml"), "seed.toml").unwrap();
        let changed = |plain_epochs, epochs| {
            let mut net = Replica::new(&model, 0);
            net.augment.plain_epochs = plain_epochs;
            // Three steps an epoch; the first and the last of each.
            let batches = BatchSettings {
                batch_size: 4,
                image_count: 10,
                image: model.input,
                epochs,
                shuffle: true,
                augment: true,
                normalization: Normalization::uniform(1, 0.5, 0.5),
                class_weights: Vec::new(),
            };
            let of = |step| batches.sample(&net, step, 1).transform.is_some();
            (0..epochs as u32).map(|epoch| [of(3 * epoch), of(3 * epoch + 2)]).collect::<Vec<_>>()
        };
        let (yes, no) = ([true; 2], [false; 2]);
        assert_eq!(changed(0, 4), [yes; 4]);
        assert_eq!(changed(1, 4), [yes, yes, yes, no]);
        assert_eq!(changed(3, 4), [yes, no, no, no]);
        assert_eq!(changed(9, 4), [no; 4]);
    }
}
