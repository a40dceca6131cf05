//! What the user sees of a training.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use shadernet::device::Device;
use shadernet::doctor::SelfCheck;
use shadernet::engine::Metrics;
use shadernet::error::Result;
use shadernet::layers::Op;
use shadernet::model::{Model, NamedLayer};
use shadernet::replica::Replica;
use shadernet::train::{EpochMetrics, Run, Spread, Summary, TrainingData, Watch};

use super::epoch_line::{EpochLine, rate};
use super::kept;
use super::recipe::recipe;
use crate::Output;

/// [`TrainingData::sha256`] of MNIST with its test set.
const MNIST_SHA256: &str = "739ad38b4edf92105d76f939a7c1b42514e1341526c930bdf91ce4d4f0f5096b";

/// Prints a run as it goes.
pub(super) struct Printer {
    output: Output,
    bar: Option<ProgressBar>,
    quiet: bool,
    epochs: usize,
    test: &'static str,
    /// The data are those of the course assignment, as a whole.
    assignment: bool,
}

impl Printer {
    /// Lines to `output`, and a progress bar if standard error is a terminal.
    pub(super) fn new(output: Output) -> Self {
        Self { output, bar: None, quiet: false, epochs: 0, test: "test", assignment: false }
    }

    /// Nothing at all.
    pub(super) fn quiet() -> Self {
        Self { quiet: true, ..Self::new(Output::nothing()) }
    }

    /// What is trained, on what, and where.
    pub(super) fn start(
        &mut self,
        device: &Device,
        model: &Model,
        replicas: &[Replica],
        shuffle: bool,
        data: &TrainingData,
    ) {
        self.epochs = model.train.epochs;
        self.assignment = data.sha256() == MNIST_SHA256;
        let out = &mut self.output;
        out.line(format_args!("device: {device}\n\n{model}\n"));
        let (train, test) = (data.train.count, data.test.count);
        let test = if !data.held_out.is_none() {
            self.test = "held-out";
            format!("{test} held-out images to evaluate on (the test set is not used)")
        } else {
            format!("{test} test images")
        };
        out.line(format_args!(
            "data:   {}: {train} training images, {test}, {} classes, pixels normalised by {}",
            data.folder.as_deref().unwrap_or(Path::new("memory")).display(),
            data.classes.len(),
            data.normalization
        ));
        let seeds: BTreeSet<u32> = replicas.iter().map(|net| net.seed).collect();
        let seeds: Vec<_> = seeds.iter().map(u32::to_string).collect();
        let shuffle = if shuffle { "" } else { ", not shuffled" };
        out.line(format_args!("recipe: {}{shuffle}, seed {}", recipe(&model.train), seeds.join(", ")));
        let keys: BTreeSet<_> =
            replicas.iter().flat_map(|net| net.point.0.keys().map(String::as_str)).collect();
        let keys: Vec<_> = keys.into_iter().collect();
        if !keys.is_empty() {
            let nets = replicas.len();
            out.line(format_args!(
                "sweep:  {nets} nets side by side, with different values of {}",
                keys.join(", ")
            ));
        }
    }

    /// That the GPU computes right.
    pub(super) fn checked(&mut self, check: SelfCheck) {
        let when = match check {
            SelfCheck::Passed(seconds) => format!("in {seconds:.1} s"),
            SelfCheck::Remembered => "earlier".into(),
        };
        self.output.line(format_args!("check:  every kernel agrees with the reference (checked {when})"));
    }

    /// The new end of a run that goes on to another than before.
    pub(super) fn extended(&mut self, run: &Run, epochs_before: usize) {
        let last = run.steps_per_epoch() * self.epochs as u32 - 1;
        let rates = [run.step(), last].map(|step| run.learning_rate(0, step).map(rate).unwrap_or_default());
        self.output.line(format_args!(
            "end:    epoch {} instead of {epochs_before}; from here on the learning rates are those of a run of {0} \
             epochs, {} next and {} last",
            self.epochs, rates[0], rates[1]
        ));
    }

    /// Where the results go, and what was done before.
    pub(super) fn ready(&mut self, run: &Run) {
        if let Some((planned, alone)) = run.memory() {
            let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            self.output.line(format_args!(
                "memory: {:.1} MiB of working memory; {:.1} MiB without sharing",
                mebibytes(planned),
                mebibytes(alone)
            ));
        }
        self.output.line(format_args!("folder: {}\n", run.folder().display()));
        let nets = run.rows().iter().filter(|row| row.epoch == 1).count().max(1);
        for rows in run.rows().chunks(nets) {
            self.epoch_line(rows);
        }
        if run.is_complete() {
            self.output.line(format_args!("this run is finished; there is nothing left to train"));
        } else if run.step() > 0 {
            self.output.line(format_args!("resuming after step {}", run.step()));
        }
    }

    /// Takes the progress bar away.
    pub(super) fn stopped(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// The result, the targets and the files.
    pub(super) fn finish(&mut self, summary: &Summary, model: &Model) -> Result<()> {
        let out = &mut self.output;
        out.line(format_args!("\n{}\n", result(summary)));
        if let Some(line) = kept::line(summary, model) {
            out.line(format_args!("{line}\n"));
        }
        if !summary.replicas.is_empty() {
            let widest =
                summary.replicas.iter().map(|net| net.net.point.to_string().len()).max().unwrap_or(0);
            out.line(format_args!(
                "{:<widest$}{:>10} {:>16} {:>12} {:>16} {:>11}  weights' SHA-256",
                "", "seed", "last accuracy", "last loss", "best accuracy", "best epoch"
            ));
            for net in &summary.replicas {
                let (point, seed) = (net.net.point.to_string(), net.net.seed);
                let Some(sha256) = &net.weights_sha256 else {
                    out.line(format_args!("{point:<widest$}{seed:>10}  diverged"));
                    continue;
                };
                out.line(format_args!(
                    "{point:<widest$}{seed:>10} {:>14.2} % {:>12.4} {:>14.2} % {:>11}  {}",
                    net.final_test_accuracy,
                    net.final_test_loss,
                    net.best_test_accuracy,
                    net.best_epoch,
                    short(sha256)
                ));
            }
            out.line(format_args!(""));
        }
        if summary.points.len() < summary.replicas.len() {
            let widest = summary.points.iter().map(|point| point.point.to_string().len()).max().unwrap_or(0);
            for point in &summary.points {
                let name = point.point.to_string();
                let reached = point.spread.map(|spread| {
                    format!("accuracy {}, loss {:.4}", spread_text(&spread), point.final_test_loss)
                });
                let diverged = (point.diverged > 0).then(|| format!("{} diverged", point.diverged));
                let text: Vec<_> = reached.into_iter().chain(diverged).collect();
                out.line(format_args!("{name:<widest$}  {}", text.join(", ")));
            }
        }
        // A sweep is for choosing, not for reaching them.
        if summary.points.is_empty() && self.assignment {
            for line in targets(summary, model) {
                out.line(format_args!("{line}"));
            }
        }
        if let Some(hash) = &summary.weights_sha256 {
            out.line(format_args!("\nweights: SHA-256 {}... (in full in summary.json)", short(hash)));
        }
        let folder = summary.folder.display();
        let (seconds, each) = (summary.seconds, summary.seconds_per_epoch);
        out.line(format_args!("\n{seconds:.1} s, {each:.2} s per epoch. In {folder}:"));
        let models = match (summary.points.is_empty(), summary.replicas.is_empty()) {
            (true, true) => "model.safetensors",
            (true, false) => "model-seed<S>.safetensors",
            (false, _) => "model-<settings>-seed<S>.safetensors",
        };
        out.line(format_args!(
            "  {models}, metrics.csv, summary.json, checkpoint.safetensors (for --resume)"
        ));
        out.finish()
    }

    /// Where the report of the run is.
    pub(super) fn page(&mut self, path: &Path) -> Result<()> {
        self.output.line(format_args!(
            "  {} (open it in a browser)",
            path.file_name().unwrap_or_default().display()
        ));
        self.output.finish()
    }

    fn epoch_line(&mut self, rows: &[EpochMetrics]) {
        let stopped = rows.iter().filter(|row| row.stopped).count();
        let trained: Vec<&EpochMetrics> = rows.iter().filter(|row| row.test_loss.is_finite()).collect();
        let Some(first) = trained.first() else { return };
        let mean = |value: fn(&EpochMetrics) -> f64| {
            trained.iter().map(|row| value(row)).sum::<f64>() / trained.len() as f64
        };
        let spread = (rows.len() > 1).then(|| Spread::of(trained.iter().map(|row| row.test_accuracy)));
        let line = EpochLine {
            epoch: first.epoch,
            epochs: self.epochs,
            test: self.test,
            train_loss: mean(|row| row.train_loss),
            train_accuracy: mean(|row| row.train_accuracy),
            test_loss: mean(|row| row.test_loss),
            test_accuracy: mean(|row| row.test_accuracy),
            spread,
            rate: trained
                .iter()
                .all(|row| row.learning_rate == first.learning_rate)
                .then_some(first.learning_rate),
            nets: rows.len(),
            diverged: rows.len() - trained.len() - stopped,
            stopped,
            seconds: first.seconds,
        };
        self.output.line(format_args!("{}", line.within(self.output.columns())));
    }
}

impl Watch for Printer {
    fn steps(&mut self, epoch: usize, done: usize, of: usize, sums: &[Metrics]) {
        if self.quiet {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let template = "{prefix} {bar:30} {pos}/{len}  {msg}  {eta} left";
            // It hides itself where standard error is no terminal.
            let bar = ProgressBar::new(of as u64).with_prefix(format!("epoch {epoch}/{}", self.epochs));
            ProgressStyle::with_template(template).map_or(bar.clone(), |style| bar.with_style(style))
        });
        let mut all = Metrics::default();
        sums.iter().filter(|sum| sum.loss_sum.is_finite()).for_each(|&sum| all.add(sum));
        bar.set_message(format!("loss {:.4}  accuracy {:.2} %", all.loss(), all.accuracy()));
        bar.set_position(done as u64);
    }

    fn epoch(&mut self, rows: &[EpochMetrics]) -> ControlFlow<()> {
        self.stopped();
        self.epoch_line(rows);
        ControlFlow::Continue(())
    }
}

fn spread_text(spread: &Spread) -> String {
    format!("{:.2} ± {:.2} % ({:.2} to {:.2})", spread.mean, spread.deviation, spread.min, spread.max)
}

/// The last line of all.
pub(super) fn result(summary: &Summary) -> String {
    let set = if summary.hold_out.is_none() { "Test set" } else { "Held-out set" };
    let Summary { final_test_loss: loss, final_test_accuracy: accuracy, test_images, .. } = summary;
    let reached = summary.points.iter().filter_map(|point| Some((point, point.spread?)));
    let best = reached.reduce(|a, b| if b.1.mean > a.1.mean { b } else { a });
    if let Some((point, spread)) = best {
        let (points, spread) = (summary.points.len(), spread_text(&spread));
        let (point, loss) = (&point.point, point.final_test_loss);
        return format!("{set}, best of {points} points: {point}: average loss {loss:.4}, accuracy {spread}");
    }
    match &summary.spread {
        Some(spread) => {
            let nets = summary.replicas.len();
            format!("{set}, mean of {nets} seeds: average loss {loss:.4}, accuracy {}", spread_text(spread))
        }
        None => {
            let correct = summary.final_test_correct;
            format!("{set}: average loss {loss:.4}, accuracy {correct}/{test_images} ({accuracy:.2}%)")
        }
    }
}

/// As much of a hash as nobody mistakes for another.
fn short(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
}

/// The targets of the course assignment that the seed network comes from.
fn targets(summary: &Summary, model: &Model) -> Vec<String> {
    let layers = |is: fn(&NamedLayer) -> bool| model.layers.iter().filter(|layer| is(layer)).count();
    let of = |count: usize| match count {
        0 => "none".to_owned(),
        1 => "1 layer".to_owned(),
        _ => format!("{count} layers"),
    };
    let (parameters, epochs) = (summary.parameters, summary.epochs);
    // Every net has to reach it, not their mean.
    let accuracy = summary.spread.map_or(summary.final_test_accuracy, |spread| spread.min);
    let linear = layers(NamedLayer::is_fully_connected);
    let batch_norm = layers(|layer| matches!(layer.op, Op::BatchNorm2d { .. }));
    let dropout = layers(|layer| matches!(layer.op, Op::Dropout { .. }));
    let rows = [
        (
            "test accuracy after the last epoch ≥ 99.40 %",
            format!("{accuracy:.2} %"),
            accuracy >= 99.4 && summary.hold_out.is_none(),
        ),
        ("fewer than 20,000 parameters", parameters.to_string(), parameters < 20_000),
        ("fewer than 20 epochs", epochs.to_string(), epochs < 20),
        ("no fully connected layer", of(linear), linear == 0),
        ("batch normalisation is used", of(batch_norm), batch_norm > 0),
        ("dropout is used", of(dropout), dropout > 0),
    ];
    let line = |(target, reached, ok): &(&str, String, bool)| {
        format!("{target:<46} {reached:>12}  {}", if *ok { "ok" } else { "not reached" })
    };
    let head = format!("{:<46} {:>12}", "target of the assignment (MNIST)", "reached");
    std::iter::once(head).chain(rows.iter().map(line)).collect()
}
