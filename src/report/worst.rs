//! The images that a net gets most wrong: which they are, what it says of them, and where it looks.

use super::answers::Answer;
use super::html::{bar, escape, note, section};
use super::occlusion::Map;
use super::page::Shown;
use super::picture::{of_image, of_map};

/// Height of a picture on the page.
const SIDE: usize = 56;

/// The images with the highest loss; the first of them with maps.
pub(super) fn section_of(shown: &Shown<'_>) -> String {
    let answers = &shown.answers.worst;
    let figures: String = answers
        .iter()
        .enumerate()
        .map(|(place, answer)| figure(shown, answer, shown.maps.get(place)))
        .collect();
    let place = match shown.images.files.is_empty() {
        true => "its place in the set, counted from 0",
        false => "its file in the folder of the dataset",
    };
    let mut text = format!(
        "The {} {} images with the highest loss: label → answer, the most probable classes and the label’s own probability \
         (blue), and {place}.",
        answers.len(),
        shown.record.judged_on()
    );
    text += &match shown.maps.len() {
        0 => " Maps of where the network looks are left out: it is too large for them, or they could not be computed.".to_owned(),
        maps => {
            let of = if maps == answers.len() { String::new() } else { format!(", of the first {maps},") };
            format!(
                " The second picture{of} shows where the answer comes from: where a cover makes it less probable (blue) \
                 and more probable (orange), each picture by its own scale."
            )
        }
    };
    section("Worst images", &(note(&text) + &format!("<div class=worst>\n{figures}</div>\n")))
}

fn figure(shown: &Shown<'_>, answer: &Answer, map: Option<&Map>) -> String {
    let names = &shown.checkpoint.classes;
    let Answer { image, label, class, loss, probabilities } = answer;
    let alt = format!("image {image}, label {}, answer {}", names[*label], names[*class]);
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
    // The three most probable classes, and the label.
    let listed = order.iter().enumerate().filter(|&(place, index)| place < 3 || index == label);
    let line = |(_, &index): (usize, &usize)| {
        let kind = if index == *label { "hit" } else { "miss" };
        let share = probabilities[index];
        format!("<li>{} {}<span>{:.1} %</span></li>", escape(&names[index]), bar(share, kind), 100.0 * share)
    };
    let lines: String = listed.map(line).collect();
    let verdict = if label == class { "right" } else { "wrong" };
    let place = shown.images.files.get(*image).map_or_else(|| format!("#{image}"), escape);
    let map = map.map_or_else(String::new, |map| {
        of_map(shown.images, *image, map, &format!("where the answer {} comes from", names[*class]), SIDE)
    });
    format!(
        "<figure><div>{}{map}</div><figcaption><b>{}</b> → <b class={verdict}>{}</b>\n<ol>{lines}</ol><small>{place}, loss {loss:.2}</small></figcaption></figure>\n",
        of_image(shown.images, *image, &alt, SIDE),
        escape(&names[*label]),
        escape(&names[*class])
    )
}
