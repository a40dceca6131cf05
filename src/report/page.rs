//! The page of one run.

use std::path::Path;

use super::answers::{Answer, Answers};
use super::charts::{ACCURACY, LEARNING_RATE, LOSS, MOST_LINES, SECONDS, WRONG, sparkline};
use super::html::{bar, charts, escape, key_figure, note, page, section, table};
use super::network;
use super::picture::of_image;
use super::record::Record;
use super::settings::recipe;
use crate::checkpoint::Checkpoint;
use crate::dataset::Images;
use crate::model::thousands;
use crate::plot::{Strip, strips};
use crate::train::{Spread, Summary};

/// With more classes than this, no matrix is drawn.
const MOST_IN_MATRIX: usize = 30;
const MOST_CONFUSIONS: usize = 10;

/// A run, one of its nets, and that net's answers.
pub(super) struct Shown<'a> {
    pub(super) record: &'a Record,
    /// The index of the net.
    pub(super) index: usize,
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) images: &'a Images,
    pub(super) answers: &'a Answers,
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
    body += &confusion(shown);
    body += &classes(shown);
    body += &worst(shown);
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
    let mut figures =
        key_figure(&percent(*final_test_accuracy), &format!("{on} accuracy after the last epoch{right}{of}"));
    if let Some(Spread { deviation, min, max, .. }) = summary.spread.filter(|_| nets > 1) {
        figures += &key_figure(
            &format!("± {deviation:.2}"),
            &format!("sample deviation of the nets, from {min:.2} to {max:.2} %"),
        );
    }
    figures += &key_figure(&format!("{final_test_loss:.4}"), &format!("{on} loss after the last epoch{of}"));
    figures += &key_figure(
        &percent(*best_test_accuracy),
        &format!("in the best epoch, {best_epoch}, chosen by looking at the {on} images{of}"),
    );
    figures += &key_figure(&percent(summary.train_accuracy), &format!("training accuracy, last epoch{of}"));
    figures +=
        &key_figure(&format!("{:.1} s", summary.seconds), &format!("for all epochs, on {}", summary.device));
    format!("<div class=keys>\n{figures}</div>\n")
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
    let heads = ["net", "accuracy", "last epoch", "loss", "best epoch (which)", "weights’ SHA-256"];
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
    let chart = strips(&spread, &format!("{on} accuracy after the last epoch, %"), None);
    let body = format!("<figure class=wide>{chart}</figure>\n")
        + &note("A dot for each net, a bar at the mean. Best epochs are chosen by looking at these images.")
        + &table(&heads, &rows, 2);
    section("Nets", &body)
}

fn confusion(shown: &Shown<'_>) -> String {
    let (answers, names) = (shown.answers, &shown.checkpoint.classes);
    let (right, all) = (answers.correct(), answers.images());
    let recorded = shown.checkpoint.test_accuracy;
    let found = 100.0 * right as f64 / all.max(1) as f64;
    let mut body = note(&format!(
        "{} of {} correct, computed for this report from the saved weights.",
        thousands(right),
        thousands(all)
    ));
    // Devices round differently: an image or two may change sides, no more.
    if (found - recorded).abs() * all as f64 > 200.0 {
        body += &format!(
            "<p class=warn>During training it was {}: either these are not the images of the run, or the weights \
             compute differently here.</p>\n",
            percent(recorded)
        );
    }
    body += "<div class=beside>\n";
    if names.len() <= MOST_IN_MATRIX {
        body += &matrix(&answers.confusion, names);
    } else {
        body += &note(&format!(
            "A matrix of {} classes is too large to show; these are its largest cells.",
            names.len()
        ));
    }
    let confusions = answers.confusions();
    let row = |&(count, label, class): &(usize, usize, usize)| {
        vec![escape(&names[label]), escape(&names[class]), count.to_string()]
    };
    if !confusions.is_empty() {
        let rows: Vec<_> = confusions.iter().take(MOST_CONFUSIONS).map(row).collect();
        let table = table(&["label", "answer", "images"], &rows, 2);
        body += &format!("<div><h3>Most frequent confusions</h3>\n{table}</div>\n");
    }
    body += "</div>\n";
    section("Confusion matrix", &body)
}

fn matrix(confusion: &[Vec<usize>], names: &[String]) -> String {
    let wrong = |label: usize, class: usize| if label == class { 0 } else { confusion[label][class] };
    let classes = 0..names.len();
    let most =
        classes.clone().flat_map(|l| classes.clone().map(move |c| wrong(l, c))).max().unwrap_or(0).max(1);
    let long = if names.iter().any(|name| name.chars().count() > 4) { " class=long" } else { "" };
    let heads: String =
        names.iter().map(|name| format!("<th{long}><span>{}</span></th>", escape(name))).collect();
    let cell = |label: usize, class: usize| {
        let count = confusion[label][class];
        match (count, label == class) {
            (0, false) => "<td></td>".to_owned(),
            (_, true) => format!("<td class=hit>{count}</td>"),
            // The square root makes small counts visible.
            _ => format!(
                "<td class=miss style=\"--a:{:.0}%\">{count}</td>",
                15.0 + 65.0 * (count as f64 / most as f64).sqrt()
            ),
        }
    };
    let row = |label: usize| {
        let cells: String = classes.clone().map(|class| cell(label, class)).collect();
        format!("<tr><th>{}</th>{cells}</tr>\n", escape(&names[label]))
    };
    let rows: String = classes.clone().map(row).collect();
    format!(
        "<div class=scroll><table class=matrix>\n<thead><tr><th class=axes>label ↓ answer →</th>{heads}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    )
}

fn classes(shown: &Shown<'_>) -> String {
    let (names, confusion) = (&shown.checkpoint.classes, &shown.answers.confusion);
    let wrong = |label: usize| {
        let all: usize = confusion[label].iter().sum();
        (all - confusion[label][label]) as f64 / all.max(1) as f64
    };
    let most = (0..names.len()).map(wrong).fold(0.0, f64::max).max(1e-9);
    let row = |(label, counts): (usize, &Vec<usize>)| {
        let (right, all) = (counts[label], counts.iter().sum::<usize>());
        let answered: usize = confusion.iter().map(|row| row[label]).sum();
        let share =
            |of: usize| if of == 0 { "–".into() } else { percent(100.0 * right as f64 / of as f64) };
        let wrong = bar(wrong(label) / most, "miss");
        vec![
            escape(&names[label]),
            share(all),
            all.to_string(),
            (all - right).to_string(),
            wrong,
            share(answered),
        ]
    };
    let rows: Vec<_> = confusion.iter().enumerate().map(row).collect();
    let heads = ["class", "accuracy", "images", "wrong", "share of wrong", "right among its answers"];
    section("Accuracy of each class", &table(&heads, &rows, 1))
}

fn worst(shown: &Shown<'_>) -> String {
    let names = &shown.checkpoint.classes;
    let figure = |answer: &Answer| {
        let Answer { image, label, class, loss, probabilities } = answer;
        let alt = format!("image {image}, label {}, answer {}", names[*label], names[*class]);
        let mut order: Vec<usize> = (0..probabilities.len()).collect();
        order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        // The three most probable classes, and the label.
        let listed = order.iter().enumerate().filter(|&(place, index)| place < 3 || index == label);
        let line = |(_, &index): (usize, &usize)| {
            let kind = if index == *label { "hit" } else { "miss" };
            let share = probabilities[index];
            format!(
                "<li>{} {}<span>{:.1} %</span></li>",
                escape(&names[index]),
                bar(share, kind),
                100.0 * share
            )
        };
        let lines: String = listed.map(line).collect();
        let verdict = if label == class { "right" } else { "wrong" };
        format!(
            "<figure>{}<figcaption><b>{}</b> → <b class={verdict}>{}</b>\n<ol>{lines}</ol><small>#{image}, loss {loss:.2}</small></figcaption></figure>\n",
            of_image(shown.images, *image, &alt, 56),
            escape(&names[*label]),
            escape(&names[*class])
        )
    };
    let figures: String = shown.answers.worst.iter().map(figure).collect();
    let count = shown.answers.worst.len();
    let text = format!(
        "The {count} {} images with the highest loss: label → answer, the most probable classes and the label’s own probability (blue), \
         and the image’s place in the set, counted from 0.",
        shown.record.judged_on()
    );
    section("Worst images", &(note(&text) + &format!("<div class=worst>\n{figures}</div>\n")))
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
