//! A range test of learning rates (Smith 2017): a short training whose rate rises from step to step, until the loss explodes.

use std::sync::Arc;

use crate::config::{LearningRate, TrainConfig};
use crate::device::Device;
use crate::engine::{Setup, Vector};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::replica::Replica;

use super::TrainingData;

/// Range of the rates, the same for all optimizers: where it ends early, the rest is never tried.
const RANGE: (f32, f32) = (1e-6, 10.0);
/// Steps of a whole test, and the least of them that tell anything.
const STEPS: usize = 280;
/// The smoothed loss is a moving average with this decay, corrected for its start.
const DECAY: f64 = 0.95;
/// It has exploded once it is this many times the smallest so far.
const EXPLODED: f64 = 4.0;
/// Steps to either side over which losses are averaged to find where they fall.
const AROUND: usize = 10;

/// What a range test found.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RangeTest {
    /// The steps, in order, up to the one in which the loss exploded.
    pub steps: Vec<RangeStep>,
    /// A peak for a schedule that rises and falls, or the rate of one that stays: the geometric mean of the rate at which the loss
    /// fell fastest and the one at which the smoothed loss was smallest. None if the loss never fell by a tenth.
    pub suggestion: Option<f32>,
}

/// A step of a range test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RangeStep {
    /// Its learning rate.
    pub rate: f32,
    /// Mean loss of its images, before it.
    pub loss: f64,
    /// The moving average of the losses so far.
    pub smoothed: f64,
}

/// Trains a net with this seed for some hundred steps, with the recipe of the model but for the learning rate, which rises from
/// 0.000001 to 10 by equal factors. It ends when the loss explodes. Nothing is written, and no test images are looked at.
///
/// # Errors
/// Data that do not fit the model, and what the device refuses.
///
/// # Examples
/// ```
/// use shadernet::train::range_test;
/// use shadernet::{Device, Images, Model, TrainConfig, TrainingData};
///
/// let labels: Vec<u8> = [0, 1].repeat(100);
/// let pixels = labels.iter().flat_map(|label| [label * 200 + 20; 64]).collect();
/// let images = Images::new([1, 8, 8], pixels, labels)?;
/// let data = TrainingData::from_images(images.clone(), images, ["dark", "bright"])?;
/// let model = Model::builder("light", [1, 8, 8]).conv2d(4, 3).relu().conv2d(2, 3).global_avg_pool2d();
/// let test = range_test(&model.train(TrainConfig::default().batch_size(20)).build()?, &data, &Device::cpu(), 0)?;
/// assert!(test.suggestion.is_some_and(|rate| rate > 1e-3 && rate < 10.0));
/// # Ok::<(), shadernet::Error>(())
/// ```
pub fn range_test(model: &Model, data: &TrainingData, device: &Device, seed: u32) -> Result<RangeTest> {
    data.check(model)?;
    let mut config = model.config();
    // No more than all steps take: the rates are laid out for whole epochs.
    let most = STEPS * model.train.batch_size;
    let images = match data.train.count > most {
        true => Arc::new(data.train.split(most, seed)?.1),
        false => Arc::clone(&data.train),
    };
    let steps_per_epoch = images.count.div_ceil(model.train.batch_size);
    let epochs = STEPS.div_ceil(steps_per_epoch);
    let end = RANGE.0 * (RANGE.1 / RANGE.0).powf((epochs * steps_per_epoch - 1) as f32 / (STEPS - 1) as f32);
    config.train = TrainConfig {
        epochs,
        warmup: 0.0,
        learning_rate: LearningRate::Constant { rate: RANGE.0 },
        ..config.train
    };
    let model = Model::new(config)?;
    let mut net = Replica::new(&model, seed);
    net.learning_rate = LearningRate::Exponential { start: RANGE.0, end };
    let setup = Setup {
        model: &model,
        replicas: std::slice::from_ref(&net),
        shuffle: true,
        normalization: &data.normalization,
        training: Some(&images),
        test: &data.test,
    };
    let rates = setup.learning_rates(&net);
    let mut engine = device.open(&setup)?.engine;
    engine.write(Vector::Weights, 0, &model.init(seed))?;
    let mut found: Vec<RangeStep> = Vec::new();
    let (mut average, mut weight) = (0.0, 0.0);
    let mut smallest = f64::INFINITY;
    for &rate in &rates[..STEPS] {
        let loss = engine.train(1)?[0].loss();
        if !loss.is_finite() {
            break;
        }
        average = DECAY * average + (1.0 - DECAY) * loss;
        weight = DECAY * weight + (1.0 - DECAY);
        let smoothed = average / weight;
        found.push(RangeStep { rate, loss, smoothed });
        smallest = smallest.min(smoothed);
        if smoothed > EXPLODED * smallest {
            break;
        }
    }
    if found.is_empty() {
        let message = "the loss is no finite number with the first weights, before any step".into();
        return Err(Error::Diverged { model: model.name.clone(), message });
    }
    let suggestion = suggestion(&found);
    Ok(RangeTest { steps: found, suggestion })
}

/// See [`RangeTest::suggestion`].
fn suggestion(steps: &[RangeStep]) -> Option<f32> {
    let first = steps.iter().take(10).map(|step| step.smoothed).fold(0.0, f64::max);
    let lowest = steps.iter().reduce(|a, b| if b.smoothed < a.smoothed { b } else { a })?;
    if lowest.smoothed > 0.9 * first {
        return None;
    }
    // The moving average lags behind by half of its length, so that its slope would be found too late.
    let mean = |index: usize| {
        let around = &steps[index.saturating_sub(AROUND)..steps.len().min(index + AROUND + 1)];
        around.iter().map(|step| step.loss).sum::<f64>() / around.len() as f64
    };
    let fall = |index: usize| {
        mean(index.saturating_sub(AROUND / 2)) - mean((index + AROUND / 2).min(steps.len() - 1))
    };
    let falling = (0..steps.len()).take_while(|&index| steps[index].rate < lowest.rate);
    let steepest = falling.map(|index| (index, fall(index))).reduce(|a, b| if b.1 > a.1 { b } else { a })?.0;
    let rate = (steps[steepest].rate * lowest.rate).sqrt();
    // Two digits: more would claim what no such test can tell.
    format!("{rate:.1e}").parse().ok()
}

#[cfg(feature = "report")]
impl RangeTest {
    /// The losses over the rates, as SVG text.
    pub fn chart(&self, title: &str) -> String {
        use crate::plot::{Line, Panel, Scale, svg};

        let line = |name: &str, value: fn(&RangeStep) -> f64, faint| {
            let points = self.steps.iter().map(|step| [f64::from(step.rate), value(step)]);
            Line { name: name.into(), points: points.filter(|point| point[1] > 0.0).collect(), faint }
        };
        let lines = vec![line("smoothed", |step| step.smoothed, false), line("loss", |step| step.loss, true)];
        let x = ("learning rate, logarithmic".to_owned(), Scale::Log2);
        svg(&[Panel { title: title.into(), x, y: ("loss, logarithmic".into(), Scale::Log2), lines }], 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suggestion_lies_between_the_steepest_fall_and_the_smallest_loss() {
        // An S-shaped fall, fastest at a rate of 0.1, to the bottom at 1.
        let losses: Vec<f64> = (0..280)
            .map(|index| {
                let decade = index as f64 / 40.0 - 6.0;
                2.3 - 2.0 / (1.0 + (-4.0 * (decade + 1.0)).exp()) + 4.0 * decade.max(0.0)
            })
            .collect();
        let step = |(index, &loss): (usize, &f64)| RangeStep {
            rate: 10f32.powf(index as f32 / 40.0 - 6.0),
            loss,
            smoothed: loss,
        };
        let test: Vec<_> = losses.iter().enumerate().map(step).collect();
        let found = suggestion(&test).unwrap();
        assert!((found / 0.1f32.sqrt() - 1.0).abs() < 0.06, "{found}");
        // A loss that hardly falls tells nothing.
        let flat: Vec<_> =
            test.iter().map(|step| RangeStep { smoothed: 2.3 + 0.05 * step.smoothed, ..*step }).collect();
        assert_eq!(suggestion(&flat), None);
    }
}
