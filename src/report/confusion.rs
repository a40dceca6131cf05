//! What the answers are worth: the confusion matrix, and the scores of each class.

use super::html::{bar, escape, note, section, table};
use super::matrix;
use super::page::{Shown, percent};
use crate::eval::{Scores, calibration_error};
use crate::model::thousands;

const MOST_CONFUSIONS: usize = 10;

/// The matrix and its largest cells.
pub(super) fn confusion(shown: &Shown<'_>) -> String {
    let (confusion, names) = (&shown.answers.confusion, &shown.checkpoint.classes);
    let (right, all) = (confusion.correct(), confusion.images());
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
    body += &format!("<div class=beside>\n{}", matrix::drawing(confusion, names));
    let mistaken = confusion.mistaken();
    if !mistaken.is_empty() {
        let rows = mistaken.iter().take(MOST_CONFUSIONS).map(|cell| {
            vec![escape(&names[cell.label]), escape(&names[cell.answer]), cell.images.to_string()]
        });
        let table = table(&["label", "answer", "images"], &rows.collect::<Vec<_>>(), 2);
        body += &format!("<div><h3>Most frequent confusions</h3>\n{table}</div>\n");
    }
    section("Confusion matrix", &(body + "</div>\n"))
}

/// The scores of each class.
pub(super) fn classes(shown: &Shown<'_>) -> String {
    let (names, confusion) = (&shown.checkpoint.classes, &shown.answers.confusion);
    let share = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{:.2}", 100.0 * value));
    let row = |(class, name): (usize, &String)| {
        let scores @ Scores { images, correct, .. } = confusion.scores(class);
        let [precision, recall, f1] = [scores.precision, scores.recall, Some(scores.f1)].map(share);
        let wrong = (images - correct).to_string();
        vec![escape(name), images.to_string(), wrong, precision, recall, f1, bar(scores.f1, "hit")]
    };
    let mut rows: Vec<_> = names.iter().enumerate().map(row).collect();
    let means = confusion.averages();
    let [precision, recall, f1] = [means.precision, means.recall, means.f1].map(|mean| share(Some(mean)));
    let (all, wrong) = (confusion.images(), confusion.images() - confusion.correct());
    let last = ["<b>mean</b>".to_owned(), all.to_string(), wrong.to_string(), precision, recall, f1];
    rows.push(last.into_iter().chain([bar(means.f1, "hit")]).collect());
    let heads = ["class", "images", "wrong", "precision", "recall", "F1", ""];
    let table = table(&heads, &rows, 1).replacen("<table>", "<table class=classes>", 1);
    let text = "In percent. Precision: how many of the images with this answer have this label. Recall: how many of the \
                images with this label have this answer. F1: their harmonic mean. In the mean all classes count alike.";
    section("Each class", &(note(text) + &table + &calibration(shown)))
}

/// How far the probabilities can be believed.
fn calibration(shown: &Shown<'_>) -> String {
    let (answers, checkpoint) = (shown.answers, shown.checkpoint);
    let error = |temperature| {
        100.0
            * calibration_error(&answers.logits, &shown.images.labels, checkpoint.classes.len(), temperature)
    };
    let mut text = format!(
        "Expected calibration error, by how much the probability of an answer differs from how often such answers are \
         right: {:.2} %",
        error(1.0)
    );
    if let Some(temperature) = checkpoint.temperature {
        text += &format!(
            "; {:.2} % at the model’s temperature, {temperature}, which was fitted on these same images, so it flatters",
            error(temperature)
        );
    }
    note(&(text + "."))
}
