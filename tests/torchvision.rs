//! Changes of training images against torchvision's transforms, on the fixture of `tests/fixtures/augment.py`.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use safetensors::SafeTensors;
use serde_json::Value;
use shadernet::batch::{BatchSettings, Change, Changes, Elastic, Region, Sample};
use shadernet::config::Fill;
use shadernet::dataset::Images;
use shadernet::normalization::Normalization;
use shadernet::tensor::Shape;

/// `key` of what was asked for, as a list of numbers.
fn list(asked: &Value, key: &str) -> Option<Vec<f64>> {
    Some(asked.get(key)?.as_array()?.iter().map(|value| value.as_f64().unwrap()).collect())
}

fn change(asked: &Value) -> Change {
    let numbers = |key: &str, none: &[f32]| -> Vec<f32> {
        list(asked, key)
            .map_or(none.to_vec(), |numbers| numbers.into_iter().map(|number| number as f32).collect())
    };
    let erased = list(asked, "erased").map_or(Region::default(), |sides| {
        let [top, left, bottom, right] = [0, 1, 2, 3].map(|side| sides[side] as u32);
        Region { left, top, right, bottom }
    });
    Change {
        transform: numbers("transform", &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]).try_into().unwrap(),
        elastic: Elastic::default(),
        colour: numbers("colour", &[1.0, 1.0, 1.0, 0.0]).try_into().unwrap(),
        erased,
    }
}

/// torchvision rounds to whole numbers after each step, so two of 255 are allowed; and its mean grey is rounded down.
#[test]
fn torchvision_makes_the_same_images() {
    let bytes = std::fs::read("tests/fixtures/augment.safetensors").unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let image = file.tensor("image").unwrap();
    let [channels, height, width] = image.shape().try_into().unwrap();
    let images = Images::new([channels, height, width], image.data().to_vec(), vec![0]).unwrap();
    let cases = header.metadata().as_ref().unwrap();
    assert_eq!(cases.len(), 19);
    for (case, asked) in cases {
        let asked: Value = serde_json::from_str(asked).unwrap();
        let fill = match asked.get("fill").and_then(Value::as_str) {
            Some("edge") => Fill::Edge,
            Some("reflect") => Fill::Reflect,
            _ => Fill::default(),
        };
        let mean = list(&asked, "mean").unwrap_or(vec![0.0; channels]);
        let batches = BatchSettings {
            batch_size: 1,
            image_count: 1,
            image: Shape::new(channels, height, width),
            epochs: 1,
            shuffle: false,
            changes: Changes { any: true, elastic: true, colour: true, mix: true },
            // Pixels as they are, less the mean.
            normalization: Normalization {
                mean: mean.iter().map(|mean| *mean as f32 / 255.0).collect(),
                std: vec![1.0 / 255.0; channels],
            },
            class_weights: Vec::new(),
        };
        let sample = Sample { change: Some(change(&asked)), fill, ..Sample::plain(0) };
        let seen = batches.reference(&images, sample).data;
        let wanted = file.tensor(case).unwrap();
        let part = list(&asked, "compare").unwrap_or(vec![0.0, 0.0, height as f64, width as f64]);
        let (mut compared, mut changed, mut largest) = (0, 0, 0.0f64);
        for (at, (&want, value)) in wanted.data().iter().zip(seen).enumerate() {
            let [channel, row, column] = [at / (height * width), at / width % height, at % width];
            let inside = |place: usize, from: usize| (part[from]..part[from + 2]).contains(&(place as f64));
            if inside(row, 0) && inside(column, 1) {
                compared += 1;
                changed += usize::from(want != image.data()[at]);
                largest = largest.max((value + mean[channel] - f64::from(want)).abs());
            }
        }
        println!("{case}: {compared} values, {changed} of them changed, at most {largest:.2} of 255 off");
        assert!(largest <= 2.0, "{case}: {largest} of 255 off");
        assert!(changed > compared / 10, "{case} changes only {changed} of {compared} values");
    }
}
