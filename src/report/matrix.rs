//! The confusion matrix as a drawing: it is as wide as there is room, and whole on a phone and on paper.

use std::fmt::Write;

use super::html::escape;
use crate::eval::Confusion;

/// With more classes than this, cells have a colour but no number.
const MOST_WITH_NUMBERS: usize = 40;
/// Letters of a name; more are cut.
const MOST_LETTERS: usize = 14;
/// Shades of the wrong answers.
const SHADES: usize = 6;

/// Sizes in the drawing's own units.
struct Sizes {
    cell: f64,
    /// Height of the letters of names.
    name: f64,
    /// Height of the digits in cells.
    number: f64,
    /// Room for names on the left, and above.
    left: f64,
    top: f64,
}

impl Sizes {
    fn of(confusion: &Confusion, names: &[String]) -> Self {
        let classes = names.len();
        let (cell, name): (f64, f64) = if classes <= MOST_WITH_NUMBERS { (24.0, 11.0) } else { (10.0, 8.5) };
        let largest = confusion.counts().iter().flatten().max().copied().unwrap_or(0);
        let digits = largest.to_string().len() as f64;
        let letters = names.iter().map(|name| name.chars().count()).max().unwrap_or(1) as f64;
        // A letter is about 0.6 times as wide as high.
        let room = 0.62 * name * letters + 8.0;
        let top = if letters <= 2.0 { name + 8.0 } else { room };
        Self {
            cell,
            name,
            number: (0.9 * cell / (0.6 * digits)).min(11.0),
            left: room.max(50.0),
            top: top.max(24.0),
        }
    }
}

/// Draws the matrix: a row for each label, a column for each answer.
pub(super) fn drawing(confusion: &Confusion, names: &[String]) -> String {
    let short: Vec<String> = names.iter().map(|name| cut(name)).collect();
    let Sizes { cell, name, number, left, top } = Sizes::of(confusion, &short);
    let (classes, counts) = (names.len(), confusion.counts());
    let side = cell * classes as f64;
    let (width, height) = (left + side + 1.0, top + side + 1.0);
    let at = |class: usize| cell * class as f64;
    let mut svg = String::new();
    let mut draw = |text: std::fmt::Arguments<'_>| svg.write_fmt(text).expect("a string takes all");
    // A drawing of few classes need not fill the page.
    draw(format_args!(
        "<figure class=matrix style=\"--w:{:.0}px\"><svg viewBox=\"0 0 {width:.1} {height:.1}\" role=img aria-label=\"Confusion matrix of {classes} classes\">",
        1.6 * width
    ));
    // Cells of one shade are one shape: of a hundred classes there are thousands.
    let mut shapes = vec![String::new(); SHADES + 1];
    let most = confusion.mistaken().first().map_or(1, |cell| cell.images);
    for (label, row) in counts.iter().enumerate() {
        for (answer, &count) in row.iter().enumerate() {
            let shade = match count {
                _ if label == answer => 0,
                0 => continue,
                // The square root makes small counts visible.
                _ => ((count as f64 / most as f64).sqrt() * SHADES as f64).ceil().clamp(1.0, SHADES as f64)
                    as usize,
            };
            write!(shapes[shade], "M{} {}h{cell}v{cell}h-{cell}z", left + at(answer), top + at(label))
                .expect("a string takes all");
        }
    }
    for (shade, shape) in shapes.iter().enumerate().filter(|(_, shape)| !shape.is_empty()) {
        let (kind, strength) = match shade {
            0 => ("hit", 0.28),
            shade => ("miss", 0.15 + 0.65 * shade as f64 / SHADES as f64),
        };
        draw(format_args!("<path class={kind} fill-opacity=\"{strength:.2}\" d=\"{shape}\"/>"));
    }
    draw(format_args!("<path class=lines d=\""));
    for line in 0..=classes {
        let at = at(line);
        draw(format_args!("M{} {top}v{side}M{left} {}h{side}", left + at, top + at));
    }
    draw(format_args!("\"/><g class=names font-size=\"{name}\">"));
    draw(format_args!(
        "<text font-size=\"8\" x=\"2\" y=\"{:.1}\">label ↓</text><text font-size=\"8\" x=\"2\" y=\"{:.1}\">answer →</text>",
        top - 4.0,
        top - 14.0
    ));
    for (class, (text, whole)) in short.iter().zip(names).enumerate() {
        let middle = at(class) + cell / 2.0;
        let title = if text == whole { String::new() } else { format!("<title>{}</title>", escape(whole)) };
        let text = escape(text);
        let (x, y) = (left - 4.0, top + middle + 0.35 * name);
        draw(format_args!("<text class=end x=\"{x:.1}\" y=\"{y:.1}\">{text}{title}</text>"));
        let (x, y) = (left + middle, top - 5.0);
        match short.iter().all(|name| name.chars().count() <= 2) {
            true => draw(format_args!("<text class=middle x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>")),
            false => {
                let x = x + 0.35 * name;
                draw(format_args!(
                    "<text transform=\"translate({x:.1} {y:.1}) rotate(-90)\">{text}{title}</text>"
                ));
            }
        }
    }
    draw(format_args!("</g>"));
    if classes <= MOST_WITH_NUMBERS {
        draw(format_args!("<g class=counts font-size=\"{number:.1}\">"));
        for (label, row) in counts.iter().enumerate() {
            for (answer, &count) in
                row.iter().enumerate().filter(|&(answer, &count)| count > 0 || answer == label)
            {
                let (x, y) = (left + at(answer) + cell / 2.0, top + at(label) + cell / 2.0 + 0.35 * number);
                let [of, to] = [label, answer].map(|class| escape(&names[class]));
                draw(format_args!(
                    "<text x=\"{x:.1}\" y=\"{y:.1}\">{count}<title>{of} → {to}</title></text>"
                ));
            }
        }
        draw(format_args!("</g>"));
    }
    draw(format_args!("</svg></figure>\n"));
    svg
}

/// A name that fits beside the matrix.
fn cut(name: &str) -> String {
    if name.chars().count() <= MOST_LETTERS {
        return name.to_owned();
    }
    name.chars().take(MOST_LETTERS - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(classes: usize, name: impl Fn(usize) -> String) -> String {
        let labels: Vec<u8> = (0..4 * classes).map(|image| (image % classes) as u8).collect();
        // Every fourth image has the answer of class 0.
        let answer = |image: usize| if image.is_multiple_of(4) { 0 } else { image % classes };
        let one_hot =
            |image: usize| (0..classes).map(move |class| f32::from(u8::from(class == answer(image))));
        let logits: Vec<f32> = (0..4 * classes).flat_map(one_hot).collect();
        drawing(&Confusion::of(&labels, &logits, classes), &(0..classes).map(name).collect::<Vec<_>>())
    }

    #[test]
    fn every_number_of_classes_is_whole_in_its_frame() {
        for classes in [2, 10, 26, 40, 41, 100, 256] {
            for letters in [1, 2, 9, 50] {
                let svg = drawn(classes, |class| {
                    "abcdefghij".repeat(letters)[..letters].to_owned() + &class.to_string()
                });
                let numbers = |text: &str| -> Vec<f64> {
                    text.split([' ', ',', '"']).filter_map(|word| word.parse().ok()).collect()
                };
                let frame = numbers(&svg[svg.find("viewBox=\"").unwrap() + 9..][..40]);
                let (width, height) = (frame[2], frame[3]);
                // The lowest line begins where the last row ends.
                let lines = &svg[svg.find("class=lines").unwrap()..];
                let lines = &lines[..lines.find("/>").unwrap()];
                for moved in lines.split('M').skip(1) {
                    let start: Vec<f64> = moved
                        .split(['v', 'h'])
                        .next()
                        .unwrap()
                        .split(' ')
                        .map(|word| word.parse().unwrap())
                        .collect();
                    assert!(start[0] <= width && start[1] <= height, "{moved} in {frame:?}");
                }
                for place in svg.split("<text").skip(1).filter(|text| text.starts_with(" class=end")) {
                    let place = numbers(place);
                    assert!(place[0] > 0.0 && place[1] < height);
                }
                assert_eq!(svg.contains("class=counts"), classes <= MOST_WITH_NUMBERS);
                assert!(svg.len() < 200_000, "{}", svg.len());
            }
        }
    }

    #[test]
    fn names_are_only_names() {
        let svg = drawn(3, |class| format!("<script>{class}"));
        assert!(!svg.contains("<script") && svg.contains("&lt;script&gt;1"), "{svg}");
        assert!(
            drawn(3, |class| format!("a very long name {class}"))
                .contains("a very long n…<title>a very long name 1</title>")
        );
    }
}
