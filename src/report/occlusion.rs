//! Where a network looks: what becomes of its answer when a part of the image is covered.
//!
//! Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2014. It takes forward passes only, so it works
//! for every network and device.

use crate::checkpoint::Checkpoint;
use crate::classify::Classifier;
use crate::dataset::Images;
use crate::device::Device;
use crate::eval;
use crate::model::NamedLayer;
use crate::tensor::Shape;

/// Places of the cover along each side.
const PLACES: usize = 8;
/// The cover is this part of a side.
const COVER: usize = 4;
/// All maps of a report together take a second or two for so many operations.
const MOST_FLOPS: f64 = 4e10;

/// For each pixel of an image, how much covering it takes from the answer: its log-odds, in the mean over the covers that
/// the pixel lies under. Negative where the covered part speaks against the answer.
pub(super) type Map = Vec<f64>;

/// How many images can have maps in a reasonable time, of this many.
fn count(checkpoint: &Checkpoint, images: usize) -> usize {
    let flops: f64 = checkpoint.model.layers.iter().map(NamedLayer::forward_flops).sum();
    let of_image = flops * (PLACES * PLACES) as f64;
    images.min((MOST_FLOPS / of_image.max(1.0)) as usize)
}

/// Maps of the first of these images (index, answer), as many as there is time for.
pub(super) fn maps(
    checkpoint: &Checkpoint,
    images: &Images,
    shown: impl ExactSizeIterator<Item = (usize, usize)>,
    device: &Device,
) -> Vec<Map> {
    let count = count(checkpoint, shown.len());
    if count == 0 {
        return Vec::new();
    }
    // A report without maps is better than none.
    let Ok(mut classifier) = Classifier::new(checkpoint.clone(), device) else { return Vec::new() };
    shown.take(count).map_while(|(image, answer)| map(&mut classifier, images, image, answer)).collect()
}

fn map(classifier: &mut Classifier, images: &Images, image: usize, answer: usize) -> Option<Map> {
    let shape = images.shape();
    let size = shape.len();
    let pixels = &images.pixels[image * size..][..size];
    let paper: Vec<u8> = classifier
        .checkpoint()
        .normalization
        .mean
        .iter()
        .map(|mean| (255.0 * mean).round().clamp(0.0, 255.0) as u8)
        .collect();
    let covers = covers(shape);
    let mut all = vec![pixels.to_vec()];
    all.extend(covers.iter().map(|cover| {
        let mut covered = pixels.to_vec();
        cover
            .pixels(shape)
            .for_each(|(channel, at)| covered[channel * shape.height * shape.width + at] = paper[channel]);
        covered
    }));
    let logits = classifier.logits(&all).ok()?;
    let odds: Vec<f64> =
        logits.chunks(logits.len() / all.len()).map(|logits| log_odds(logits, answer)).collect();
    let mut sums = vec![0.0; shape.height * shape.width];
    let mut counts = vec![0.0; sums.len()];
    for (cover, after) in covers.iter().zip(&odds[1..]) {
        for (_, at) in cover.pixels(shape).filter(|&(channel, _)| channel == 0) {
            sums[at] += odds[0] - after;
            counts[at] += 1.0;
        }
    }
    Some(sums.iter().zip(&counts).map(|(sum, count)| sum / f64::max(*count, 1.0)).collect())
}

/// The logarithm of an answer's odds: of its probability to that of all others.
fn log_odds(logits: &[f32], answer: usize) -> f64 {
    // Further than this, f64 has no difference from certainty.
    const LEAST: f64 = 1e-300;
    let probabilities = eval::softmax(logits, 1.0);
    let others: f64 =
        probabilities.iter().enumerate().filter(|&(class, _)| class != answer).map(|(_, p)| p).sum();
    probabilities[answer].max(LEAST).ln() - others.max(LEAST).ln()
}

/// A covered part of an image.
struct Cover {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
}

impl Cover {
    /// Channel, and place in its plane, of each value below it.
    fn pixels(&self, shape: Shape) -> impl Iterator<Item = (usize, usize)> + '_ {
        let rows = self.top..self.top + self.height;
        (0..shape.channels).flat_map(move |channel| {
            rows.clone().flat_map(move |y| {
                (self.left..self.left + self.width).map(move |x| (channel, y * shape.width + x))
            })
        })
    }
}

/// All covers of an image: of a quarter of its sides, at evenly spaced places from edge to edge.
fn covers(shape: Shape) -> Vec<Cover> {
    let places = |side: usize| -> (usize, Vec<usize>) {
        let cover = side.div_ceil(COVER);
        let free = side - cover;
        let count = PLACES.min(free + 1);
        let place = |index: usize| if count == 1 { 0 } else { (index * free) / (count - 1) };
        (cover, (0..count).map(place).collect())
    };
    let (height, tops) = places(shape.height);
    let (width, lefts) = places(shape.width);
    tops.iter().flat_map(|&top| lefts.iter().map(move |&left| Cover { top, left, height, width })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::normalization::Normalization;

    #[test]
    fn covers_reach_every_pixel_and_no_further() {
        for (height, width) in [(28, 28), (1, 1), (2, 5), (3, 96), (49, 10)] {
            let shape = Shape::new(2, height, width);
            let mut times = vec![0; shape.len()];
            let covers = covers(shape);
            assert!(covers.len() <= PLACES * PLACES);
            for cover in &covers {
                cover.pixels(shape).for_each(|(channel, at)| times[channel * height * width + at] += 1);
            }
            assert!(times.iter().all(|&times| times > 0), "{height}x{width}: {times:?}");
        }
    }

    #[test]
    fn odds_of_known_logits() {
        assert!((log_odds(&[3f32.ln(), 0.0, 0.0], 0) - 1.5f64.ln()).abs() < 1e-6);
        assert!(log_odds(&[500.0, 0.0], 0).is_finite() && log_odds(&[500.0, 0.0], 1).is_finite());
    }

    /// A net whose second class grows with the brightness of the lower right quarter alone.
    #[test]
    fn the_map_is_where_the_answer_comes_from() {
        let text = "name = \"x\"\ninput = [1, 8, 8]\nlayers = [{ type = \"flatten\" }, { type = \"linear\", out_features = 2 }]";
        let model = Model::parse(text, "x.toml").unwrap();
        let mut weights = model.init(0);
        weights.iter_mut().for_each(|tensor| tensor.data.fill(0.0));
        let corner = |at: usize| at / 8 >= 4 && at % 8 >= 4;
        (0..64).filter(|&at| corner(at)).for_each(|at| weights[0].data[64 + at] = 1.0);
        let (normalization, classes) =
            (Normalization::uniform(1, 0.0, 1.0), ["a", "b"].map(String::from).into());
        let checkpoint = Checkpoint { model, weights, normalization, classes, ..Checkpoint::seed().unwrap() };
        let images = Images::new([1, 8, 8], vec![255; 128], vec![0, 1]).unwrap();
        let maps = maps(&checkpoint, &images, [(1, 1), (0, 0)].into_iter(), &Device::cpu());
        assert_eq!(maps.len(), 2);
        let (inside, outside): (Vec<usize>, Vec<usize>) = (0..64).partition(|&at| corner(at));
        let mean =
            |places: &[usize], map: &Map| places.iter().map(|&at| map[at]).sum::<f64>() / places.len() as f64;
        assert!(mean(&inside, &maps[0]) > 3.0 * mean(&outside, &maps[0]), "{:?}", maps[0]);
        // Far from the corner nothing changes, and what is for one class is against the other.
        assert!(maps[0][0].abs() < 1e-9 && maps[0][63] > 1.0);
        assert!(maps[0].iter().zip(&maps[1]).all(|(a, b)| (a + b).abs() < 1e-9));
    }
}
