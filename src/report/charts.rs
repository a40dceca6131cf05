//! Curves over the epochs.

use super::record::{Figures, Record};
use crate::plot::{Line, Panel, Scale, chart};

/// Size of a chart in pixels: hardly reduced on a phone.
const SIZE: (u32, u32) = (400, 290);
/// More individual lines than this cannot be told apart.
pub(super) const MOST_LINES: usize = 6;

/// A per-epoch figure that makes a curve.
#[derive(Clone, Copy)]
pub(super) struct Quantity {
    title: &'static str,
    unit: &'static str,
    scale: Scale,
    pub(super) test: fn(&Figures) -> f64,
    /// The same during training, if available.
    train: Option<fn(&Figures) -> f64>,
}

pub(super) const ACCURACY: Quantity = Quantity {
    title: "accuracy",
    unit: "%",
    scale: Scale::Linear,
    test: |row| row.test_accuracy,
    train: Some(|row| row.train_accuracy),
};
pub(super) const WRONG: Quantity = Quantity {
    title: "wrong answers",
    unit: "%, logarithmic",
    scale: Scale::Log2,
    test: |row| 100.0 - row.test_accuracy,
    train: Some(|row| 100.0 - row.train_accuracy),
};
pub(super) const LOSS: Quantity = Quantity {
    title: "loss",
    unit: "logarithmic",
    scale: Scale::Log2,
    test: |row| row.test_loss,
    train: Some(|row| row.train_loss),
};
pub(super) const LEARNING_RATE: Quantity = Quantity {
    title: "learning rate at the end of the epoch",
    unit: "",
    scale: Scale::Linear,
    test: |row| row.learning_rate,
    train: None,
};
pub(super) const SECONDS: Quantity = Quantity {
    title: "seconds per epoch",
    unit: "s, including evaluation",
    scale: Scale::Linear,
    test: |row| row.seconds,
    train: None,
};

impl Quantity {
    /// One point per epoch; `of` makes a value from an epoch's nets.
    fn line(self, record: &Record, name: String, of: impl Fn(&[Figures]) -> f64) -> Line {
        let points = record.epochs.iter().map(|nets| [nets[0].epoch as f64, of(nets)]);
        let drawable = |value: f64| value.is_finite() && (self.scale == Scale::Linear || value > 0.0);
        Line { name, points: points.filter(|point| drawable(point[1])).collect(), faint: false }
    }

    /// A line per net if there are few, else their spread; with the training figures if there is a single net.
    fn lines(self, record: &Record) -> Vec<Line> {
        let nets = record.nets();
        if nets == 1 {
            let train = self
                .train
                .map(|train| self.line(record, "training".into(), |nets: &[Figures]| train(&nets[0])));
            let test = self.line(record, record.judged_on().into(), |nets| (self.test)(&nets[0]));
            return [test].into_iter().chain(train).collect();
        }
        if nets <= MOST_LINES {
            let line = |net| self.line(record, record.net_name(net), move |nets| (self.test)(&nets[net]));
            return (0..nets).map(line).collect();
        }
        let finite = move |nets: &[Figures]| -> Vec<f64> {
            nets.iter().map(self.test).filter(|value| value.is_finite()).collect()
        };
        vec![
            self.line(record, format!("mean of {nets} nets"), move |nets| mean(&finite(nets))),
            self.line(record, "largest".into(), move |nets| {
                finite(nets).into_iter().fold(f64::NAN, f64::max)
            }),
            self.line(record, "smallest".into(), move |nets| {
                finite(nets).into_iter().fold(f64::NAN, f64::min)
            }),
        ]
    }

    /// The chart of one run, on its evaluation images and, for a single net, in training.
    pub(super) fn of_run(self, record: &Record) -> String {
        self.draw(self.title.into(), self.lines(record))
    }

    /// The chart of the first net's figures alone: for what all nets have in common.
    pub(super) fn of_all(self, record: &Record) -> String {
        self.draw(self.title.into(), vec![self.line(record, String::new(), |nets| (self.test)(&nets[0]))])
    }

    /// The chart of several runs with these names: one line each, of the mean of its nets.
    pub(super) fn of_runs(self, records: &[Record], names: &[String], judged_on: &str) -> String {
        let value = move |nets: &[Figures]| {
            mean(&nets.iter().map(self.test).filter(|value| value.is_finite()).collect::<Vec<_>>())
        };
        let line = |(record, name): (&Record, &String)| self.line(record, name.clone(), value);
        let lines = records.iter().zip(names).map(line).collect();
        self.draw(format!("{judged_on} {}", self.title).trim().into(), lines)
    }

    fn draw(self, title: String, lines: Vec<Line>) -> String {
        let x = ("epoch".to_owned(), Scale::Whole);
        chart(&Panel { title, x, y: (self.unit.into(), self.scale), lines }, SIZE)
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// A word-sized curve: values between the smallest and the largest of `range`.
pub(super) fn sparkline(values: &[f64], range: [f64; 2]) -> String {
    let [low, high] = range;
    let (width, height) = (90.0, 20.0);
    let point = |(index, value): (usize, &f64)| {
        let x = 2.0 + width * index as f64 / values.len().saturating_sub(1).max(1) as f64;
        let y = 2.0 + height * (high - value) / (high - low).max(1e-9);
        format!("{x:.1},{y:.1}")
    };
    let points: Vec<_> =
        values.iter().enumerate().filter(|(_, value)| value.is_finite()).map(point).collect();
    format!("<svg class=spark viewBox=\"0 0 94 24\"><polyline points=\"{}\"/></svg>", points.join(" "))
}
