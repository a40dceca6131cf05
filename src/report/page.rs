//! The page of one run.

use std::path::Path;

use super::answers::Answers;
use super::charts::{ACCURACY, LEARNING_RATE, LOSS, MOST_LINES, SECONDS, WRONG, sparkline};
use super::confusion;
use super::html::{charts, escape, key_figure, note, page, section, table};
use super::network;
use super::occlusion::Map;
use super::record::Record;
use super::settings::recipe;
use super::worst;
use crate::checkpoint::Checkpoint;
use crate::dataset::Images;
use crate::model::thousands;
use crate::plot::{Strip, strips};
use crate::train::{Spread, Summary};

/// A run, one of its nets, and that net's answers.
pub(super) struct Shown<'a> {
    pub(super) record: &'a Record,
    /// The index of the net.
    pub(super) index: usize,
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) images: &'a Images,
    pub(super) answers: &'a Answers,
    /// Of the worst images, as many as there are.
    pub(super) maps: &'a [Map],
}

/// Writes the page.
pub(super) fn of_run(shown: &Shown<'_>) -> String {
    let Shown { record, index, checkpoint, images, .. } = *shown;
    let summary = &record.summary;
    let mut body = overview(record) + &curves(record);
    if record.nets() > 1 || !summary.replicas.is_empty() {
        body += &nets(record);
        let why = match (summary.points.is_empty(), record.nets()) {
            (_, 1) => "the only one",
            (true, _) => "the first that trained",
            (false, _) => {
                "the first of the point with the highest mean accuracy, chosen by looking at these images"
            }
        };
        let name = escape(record.net_name(index));
        body += &format!("<p class=which>From here on: the net <b>{name}</b>, {why}.</p>\n");
    }
    body += &confusion::confusion(shown);
    body += &confusion::classes(shown);
    body += &worst::section_of(shown);
    body += &network::filters(checkpoint).unwrap_or_default();
    body += &network::feature_maps(checkpoint, images, record.judged_on());
    body += &time(record);
    body += &network::layers(&checkpoint.model);
    body += &recipe(record, checkpoint);
    let Summary { model, parameters, epochs, .. } = summary;
    let data = Path::new(&summary.data)
        .file_name()
        .map_or_else(String::new, |name| format!(" on {}", escape(name.display())));
    let epochs = match record.epochs.last().filter(|_| !summary.complete) {
        None => format!("{epochs} epochs"),
        Some(last) => {
            let steps = summary.train_images.div_ceil(summary.batch_size.max(1)).max(1);
            let whole = (summary.steps as usize).is_multiple_of(steps);
            let place = if whole { "after" } else { "in" };
            format!("stopped {place} epoch {} of {epochs}, at step {}", last[0].epoch, summary.steps)
        }
    };
    let subtitle = format!("{}, {} parameters, {epochs}{data}", escape(model), thousands(*parameters));
    page(&record.name(), &subtitle, &body)
}

/// 99.5 → `99.50 %`.
pub(super) fn percent(value: f64) -> String {
    format!("{value:.2} %")
}

fn overview(record: &Record) -> String {
    let summary = &record.summary;
    let (on, nets) = (record.judged_on(), record.nets());
    let of = if nets > 1 { format!(", mean of {nets} nets") } else { String::new() };
    let Summary { final_test_accuracy, final_test_loss, best_test_accuracy, best_epoch, .. } = summary;
    let right = if nets > 1 {
        String::new()
    } else {
        let right = (final_test_accuracy / 100.0 * summary.test_images as f64).round() as usize;
        format!(" ({} of {})", thousands(right), thousands(summary.test_images))
    };
    let after = after(record);
    let mut figures =
        key_figure(&percent(*final_test_accuracy), &format!("{on} accuracy {after}{right}{of}"));
    if let Some(Spread { deviation, min, max, .. }) = summary.spread.filter(|_| nets > 1) {
        figures += &key_figure(
            &format!("± {deviation:.2}"),
            &format!("sample deviation of the nets, from {min:.2} to {max:.2} %"),
        );
    }
    figures += &key_figure(&format!("{final_test_loss:.4}"), &format!("{on} loss {after}{of}"));
    figures += &key_figure(
        &percent(*best_test_accuracy),
        &format!("in the best epoch, {best_epoch}, chosen by looking at the {on} images{of}"),
    );
    let trained = if summary.kept_epoch.is_some() { "that epoch" } else { "last epoch" };
    figures += &key_figure(&percent(summary.train_accuracy), &format!("training accuracy, {trained}{of}"));
    figures +=
        &key_figure(&format!("{:.1} s", summary.seconds), &format!("for all epochs, on {}", summary.device));
    let stopped = stopped(record).map_or_else(String::new, |text| note(&text));
    format!("<div class=keys>\n{figures}</div>\n{stopped}")
}

/// Which epoch's weights are the result.
fn after(record: &Record) -> String {
    let Summary { kept_epoch, replicas, .. } = &record.summary;
    match kept_epoch {
        Some(epoch) => format!("after epoch {epoch}, whose weights were kept"),
        None if replicas.iter().any(|net| net.kept_epoch.is_some()) => "after the epoch that was kept".into(),
        None => "after the last epoch".into(),
    }
}

/// Where a training ended because nothing got better.
fn stopped(record: &Record) -> Option<String> {
    let Summary { stopped_epoch, replicas, epochs, .. } = &record.summary;
    let early = replicas.iter().filter_map(|net| net.stopped_epoch);
    match stopped_epoch {
        Some(epoch) => Some(format!(
            "Stopped early after epoch {epoch} of {epochs}: nothing got better on the held-out images for as long as the \
             recipe has patience."
        )),
        None if early.clone().count() == 0 => None,
        None => Some(format!(
            "{} of {} nets stopped early, after epochs {}: nothing got better on the held-out images for as long as the \
             recipe has patience.",
            early.clone().count(),
            replicas.len(),
            early.map(|epoch| epoch.to_string()).collect::<Vec<_>>().join(", ")
        )),
    }
}

fn curves(record: &Record) -> String {
    let drawn = [ACCURACY, WRONG, LOSS].map(|quantity| quantity.of_run(record));
    // Swept rates differ between nets.
    let swept = record.summary.points.iter().any(|point| point.point.0.contains_key("learning_rate"));
    let rate = if swept { LEARNING_RATE.of_run(record) } else { LEARNING_RATE.of_all(record) };
    let [accuracy, wrong, loss] = drawn;
    let mut body = charts(&[accuracy, loss, wrong, rate]);
    if record.nets() == 1 {
        body += &note(
            "Training figures are means over the epoch's steps, while the weights change, with augmentation and \
             dropout.",
        );
    } else if record.nets() > MOST_LINES {
        body += &note(
            "Largest, mean and smallest value of the nets in each epoch; each net's own curve is in the next table.",
        );
    }
    section("Curves", &body)
}

/// Each net, and their spread.
fn nets(record: &Record) -> String {
    let Summary { replicas, points, .. } = &record.summary;
    let accuracies = |net: usize| record.epochs.iter().map(move |nets| nets[net].test_accuracy);
    let all = || (0..record.nets()).flat_map(accuracies).filter(|value| value.is_finite());
    let range = [all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max)];
    let row = |(index, net): (usize, &crate::train::ReplicaSummary)| {
        let name = escape(record.net_name(index));
        let Some(hash) = &net.weights_sha256 else {
            return vec![name, "diverged".into(), String::new(), String::new(), String::new(), String::new()];
        };
        vec![
            name,
            sparkline(&accuracies(index).collect::<Vec<_>>(), range),
            percent(net.final_test_accuracy),
            format!("{:.4}", net.final_test_loss),
            format!("{} ({})", percent(net.best_test_accuracy), net.best_epoch),
            format!("<code>{}</code>", escape(hash.get(..16).unwrap_or(hash))),
        ]
    };
    let final_head =
        if replicas.iter().any(|net| net.kept_epoch.is_some()) { "kept epoch" } else { "last epoch" };
    let heads = ["net", "accuracy", final_head, "loss", "best epoch (which)", "weights’ SHA-256"];
    let rows: Vec<_> = replicas.iter().enumerate().map(row).collect();
    let finals = |keep: &dyn Fn(usize) -> bool| -> Vec<f64> {
        let nets = replicas.iter().enumerate().filter(|&(index, _)| keep(index));
        nets.map(|(_, net)| net.final_test_accuracy).filter(|value| value.is_finite()).collect()
    };
    let spread: Vec<Strip> = if points.is_empty() {
        vec![Strip { name: "all seeds".into(), values: finals(&|_| true) }]
    } else {
        let of = |point: &crate::train::PointSummary| Strip {
            name: point.point.to_string(),
            values: finals(&|index| replicas[index].net.point == point.point),
        };
        points.iter().map(of).collect()
    };
    let on = record.judged_on();
    let chart = strips(&spread, &format!("{on} accuracy {}, %", after(record)), None);
    let body = format!("<figure class=wide>{chart}</figure>\n")
        + &note("A dot for each net, a bar at the mean. Best epochs are chosen by looking at these images.")
        + &table(&heads, &rows, 2);
    section("Nets", &body)
}

fn time(record: &Record) -> String {
    let Summary { seconds_per_epoch: all, train_seconds_per_epoch: train, device, .. } = &record.summary;
    let row = |what: &str, seconds: f64| {
        vec![what.to_owned(), format!("{seconds:.2}"), format!("{:.1} %", 100.0 * seconds / all.max(1e-9))]
    };
    let evaluation = (all - train).max(0.0);
    let rows = [row("training steps", *train), row("evaluation", evaluation), row("both", *all)];
    let text = format!(
        "On {}. The next table shows how much each layer has to compute; on a GPU, a benchmark of the model times \
         every launch.",
        escape(device)
    );
    let parts =
        charts(&[SECONDS.of_all(record)]) + &table(&["phase", "seconds per epoch", "share"], &rows, 1);
    section("Time", &(note(&text) + &format!("<div class=pair>\n{parts}</div>\n")))
}
