//! What a page needs to train its network itself: the plans of a training and a test step, some images, and the
//! initial weights.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::buffers_of;
use crate::checkpoint::Checkpoint;
use crate::dataset::{FileNames, Images};
use crate::engine::Setup;
use crate::plan::{AVERAGES, Contents, METRICS_RING, Plan, PlanOptions, WEIGHTS, image_buffers};
use crate::replica::Replica;
use crate::rng::{self, Permutation, Stream};

/// Maximum number of images in a page, four fifths of them for training, and of bytes in their pixels.
const MOST_IMAGES: usize = 5000;
const MOST_BYTES: usize = 8 << 20;

/// The plans, whose shaders the page needs, and everything else, as `Recipe` in `web/training.js`. The initial
/// weights are those of the checkpoint's seed.
pub(super) fn description(checkpoint: &Checkpoint, train: &Images, test: &Images) -> ([Plan; 2], Value) {
    let Checkpoint { model, normalization, trained, .. } = checkpoint;
    let most = (MOST_BYTES / model.input.len()).clamp(5, MOST_IMAGES);
    let (train, test) = (Arc::new(some(train, most * 4 / 5)), Arc::new(some(test, most / 5)));
    let nets = [Replica::new(model, trained.seed)];
    let setup =
        Setup { model, replicas: &nets, shuffle: true, normalization, training: Some(&train), test: &test };
    let batches = setup.train_batches().expect("there are training images");
    let test_batches = setup.eval_batches();
    let options = PlanOptions::default();
    let step = Plan::training(model, &nets, &batches, options);
    let judged = Plan::evaluation(model, &nets, &test_batches, is_averaged(checkpoint), "test", options);
    let images = [image_buffers("train", &train), image_buffers("test", &test)];
    let data: BTreeMap<String, String> =
        images.into_iter().flatten().map(|(buffer, bytes)| (buffer, zipped(&bytes))).collect();
    // The moving averages begin as what they are averages of.
    let given = |buffer: &&str| step.buffers.get(*buffer) == Some(&Contents::Given);
    let weights = buffers_of(model, &model.init(trained.seed), WEIGHTS);
    let first = weights.into_iter().map(|(buffer, values)| {
        let buffers = WEIGHTS.into_iter().zip(AVERAGES).filter(|(weights, _)| *weights == buffer);
        let buffers = buffers.flat_map(|(weights, averages)| [weights, averages]).filter(given);
        json!({ "buffers": buffers.collect::<Vec<_>>(), "values": values })
    });
    let first: Vec<Value> = first.collect();
    let described = json!({
        "plan": step,
        "test_plan": judged,
        "epochs": model.train.epochs,
        "steps_per_epoch": batches.steps_per_epoch(),
        "images": train.count,
        "test_images": test.count,
        "batch": batches.batch_size,
        "test_batch": test_batches.batch_size,
        "ring": METRICS_RING,
        "first": first,
        "data": data,
    });
    ([step, judged], described)
}

/// True if the moving average of the weights is evaluated and shown.
pub(super) fn is_averaged(checkpoint: &Checkpoint) -> bool {
    checkpoint.model.train.average_decay > 0.0
}

/// All images, or `most` of them drawn at random: a dataset may be sorted by class.
fn some(images: &Images, most: usize) -> Images {
    let size = images.pixels.len() / images.count;
    let order = Permutation::new(images.count as u32, rng::key(0, Stream::Shuffle), 0);
    let chosen: Vec<usize> = match images.count <= most {
        true => (0..images.count).collect(),
        false => (0..most as u32).map(|place| order.get(place) as usize).collect(),
    };
    Images {
        count: chosen.len(),
        pixels: chosen.iter().flat_map(|&image| &images.pixels[image * size..][..size]).copied().collect(),
        labels: chosen.iter().map(|&image| images.labels[image]).collect(),
        files: FileNames::default(),
        ..*images
    }
}

fn zipped(bytes: &[u8]) -> String {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    STANDARD.encode(written.expect("memory takes all that is written"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// One-pixel images, each identified by its value and class.
    fn images(count: u8) -> Images {
        let values: Vec<u8> = (0..count).collect();
        Images {
            count: count.into(),
            channels: 1,
            height: 1,
            width: 1,
            pixels: values.clone(),
            labels: values,
            files: FileNames::default(),
        }
    }

    #[test]
    fn few_images_stay_in_their_order_and_of_many_some_are_drawn() {
        assert_eq!(some(&images(9), 9), images(9));
        let drawn = some(&images(200), 40);
        assert_eq!((drawn.count, &drawn.pixels), (40, &drawn.labels));
        assert_eq!(drawn.labels.iter().collect::<BTreeSet<_>>().len(), 40);
        // Drawn from the whole set, though a dataset may be sorted.
        let late = drawn.labels.iter().filter(|&&label| label >= 100).count();
        assert!((10..=30).contains(&late), "{:?}", drawn.labels);
    }

    #[test]
    fn a_page_holds_so_many_images() {
        let checkpoint = Checkpoint::seed().unwrap();
        let size = checkpoint.model.input.len();
        let blank = |count: usize| Images {
            count,
            channels: 1,
            height: 28,
            width: 28,
            pixels: vec![0; count * size],
            labels: vec![0; count],
            files: FileNames::default(),
        };
        let counts = |train, test| {
            let (_, described) = description(&checkpoint, &blank(train), &blank(test));
            (described["images"].clone(), described["test_images"].clone())
        };
        assert_eq!(counts(6000, 2000), (4000.into(), 1000.into()));
        assert_eq!(counts(70, 5), (70.into(), 5.into()));
    }
}
