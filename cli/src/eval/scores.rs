//! A verdict as text: the scores of each class, the confusion matrix, and how far probabilities can be believed.

use serde_json::{Value, json};
use shadernet::checkpoint::Checkpoint;
use shadernet::eval::{Confusion, Verdict};

use unicode_width::UnicodeWidthStr;

use crate::Output;
use crate::output::column_within;

/// Columns of the names of classes in a table.
const NAME_COLUMNS: usize = 20;
/// Names no longer than this stand above the columns of a matrix; longer ones are numbered.
const HEAD_COLUMNS: usize = 4;
/// Lines of the list of confusions.
const MOST_CONFUSIONS: usize = 10;

/// Prints everything, within the terminal's columns.
pub(super) fn print(verdict: &Verdict, checkpoint: &Checkpoint, output: &mut Output) {
    let columns = output.columns();
    for line in lines(verdict, checkpoint, columns) {
        output.line(format_args!("{line}"));
    }
}

fn lines(verdict: &Verdict, checkpoint: &Checkpoint, columns: usize) -> Vec<String> {
    let (confusion, classes) = (&verdict.confusion, &checkpoint.classes[..]);
    let mut lines = vec![String::new()];
    lines.extend(scores(confusion, classes));
    lines.push(String::new());
    let matrix = matrix(confusion, classes);
    match matrix.iter().all(|line| line.width() <= columns) {
        true => lines.extend(matrix),
        false => lines.extend(confusions(confusion, classes)),
    }
    lines.push(String::new());
    lines.extend(calibration(verdict, checkpoint.temperature));
    lines
}

/// A line for each class, and one for their means.
fn scores(confusion: &Confusion, classes: &[String]) -> Vec<String> {
    let heads = ["class", "mean"];
    let names = column_within(heads.into_iter().chain(classes.iter().map(String::as_str)), NAME_COLUMNS);
    let percent =
        |share: Option<f64>| share.map_or("–".to_owned(), |share| format!("{:.2}", 100.0 * share));
    let row = |name: &str, [images, precision, recall, f1]: [String; 4]| {
        format!("{name} {images:>7} {precision:>10} {recall:>7} {f1:>7}")
    };
    let mut lines = vec![row(&names[0], ["images", "precision", "recall", "F1"].map(String::from))];
    for (class, name) in names[2..].iter().enumerate() {
        let scores = confusion.scores(class);
        let shares = [scores.precision, scores.recall, Some(scores.f1)].map(percent);
        let [precision, recall, f1] = shares;
        lines.push(row(name, [scores.images.to_string(), precision, recall, f1]));
    }
    let means = confusion.averages();
    let [precision, recall, f1] = [means.precision, means.recall, means.f1].map(|mean| percent(Some(mean)));
    lines.push(row(&names[1], [confusion.images().to_string(), precision, recall, f1]));
    lines
}

/// The matrix; where names are too long for its columns, these have the numbers that stand before the names in its rows.
fn matrix(confusion: &Confusion, classes: &[String]) -> Vec<String> {
    let names = column_within(classes.iter().map(String::as_str), NAME_COLUMNS);
    // Cells are padded by characters.
    let fits = |name: &str| name.width() <= HEAD_COLUMNS && name.width() == name.chars().count();
    let short = names.iter().all(|name| fits(name.trim_end()));
    let digits = classes.len().to_string().len();
    let heads: Vec<String> = match short {
        true => names.iter().map(|name| name.trim_end().to_owned()).collect(),
        false => (1..=classes.len()).map(|number| number.to_string()).collect(),
    };
    let rows = match short {
        true => names,
        false => names.iter().enumerate().map(|(at, name)| format!("{:>digits$} {name}", at + 1)).collect(),
    };
    let rows = column_within(std::iter::once("").chain(rows.iter().map(|row| row.trim_end())), 40);
    // Counts of 0 are dots: what is wrong is to be seen.
    let cell = |count: &usize| if *count == 0 { "·".to_owned() } else { count.to_string() };
    let counts: Vec<Vec<String>> =
        confusion.counts().iter().map(|row| row.iter().map(cell).collect()).collect();
    let width = |cell: &String| cell.chars().count();
    let widest = counts.iter().flatten().chain(&heads).map(width).max().unwrap_or(1);
    let line = |name: &String, cells: &[String]| {
        let cells: String = cells.iter().map(|cell| format!(" {cell:>widest$}")).collect();
        format!("{name}{cells}")
    };
    let mut lines = vec!["Images of each row's class with each column's answer:".to_owned()];
    lines.push(line(&rows[0], &heads));
    lines.extend(rows[1..].iter().zip(&counts).map(|(name, cells)| line(name, cells)));
    lines
}

/// In place of a matrix that is too wide: its largest cells.
fn confusions(confusion: &Confusion, classes: &[String]) -> Vec<String> {
    let mistaken = confusion.mistaken();
    let shown = &mistaken[..mistaken.len().min(MOST_CONFUSIONS)];
    if shown.is_empty() {
        return vec!["No class was taken for another.".into()];
    }
    let of = |head: &'static str, class: fn(&shadernet::eval::Mistaken) -> usize| {
        let names = shown.iter().map(|cell| classes[class(cell)].as_str());
        column_within(std::iter::once(head).chain(names), NAME_COLUMNS)
    };
    let (labels, answers) = (of("label", |cell| cell.label), of("answer", |cell| cell.answer));
    let mut lines = vec![format!("{} {} {:>7}", labels[0], answers[0], "images")];
    for ((label, answer), cell) in labels[1..].iter().zip(&answers[1..]).zip(shown) {
        lines.push(format!("{label} {answer} {:>7}", cell.images));
    }
    if mistaken.len() > shown.len() {
        lines.push(format!("and {} other pairs of classes", mistaken.len() - shown.len()));
    }
    lines
}

fn calibration(verdict: &Verdict, temperature: Option<f32>) -> Vec<String> {
    let mut lines = vec![format!("Expected calibration error: {:.2} %", 100.0 * verdict.calibration_error)];
    if let (Some(temperature), Some(error)) = (temperature, verdict.calibrated_error) {
        lines.push(format!("  at the model's temperature, {temperature}: {:.2} %", 100.0 * error));
    }
    lines
}

/// Shares are in percent, as the accuracy is.
pub(super) fn as_json(verdict: &Verdict, checkpoint: &Checkpoint) -> Value {
    let confusion = &verdict.confusion;
    let class = |(class, name): (usize, &String)| {
        let scores = confusion.scores(class);
        json!({
            "class": name,
            "images": scores.images,
            "correct": scores.correct,
            "answers": scores.answers,
            "precision": scores.precision.map(|share| 100.0 * share),
            "recall": scores.recall.map(|share| 100.0 * share),
            "f1": 100.0 * scores.f1,
        })
    };
    let means = confusion.averages();
    let metrics = &verdict.metrics;
    let mut value = json!({
        "accuracy": metrics.accuracy(),
        "correct": metrics.correct,
        "total": metrics.images,
        "loss": metrics.loss(),
        "averages": {
            "precision": 100.0 * means.precision,
            "recall": 100.0 * means.recall,
            "f1": 100.0 * means.f1,
        },
        "classes": checkpoint.classes.iter().enumerate().map(class).collect::<Vec<_>>(),
        "confusion": confusion.counts(),
        "calibration_error": 100.0 * verdict.calibration_error,
    });
    if let (Some(temperature), Some(error)) = (checkpoint.temperature, verdict.calibrated_error) {
        value["temperature"] = json!(temperature);
        value["calibrated_error"] = json!(100.0 * error);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `count` images, of which every 10th has the answer of the class after its own.
    fn confusion(classes: usize, count: usize) -> Confusion {
        let labels: Vec<u8> = (0..count).map(|image| (image % classes) as u8).collect();
        let answer = |image: usize| (image + usize::from(image.is_multiple_of(10))) % classes;
        let one_hot =
            |image: usize| (0..classes).map(move |class| f32::from(u8::from(class == answer(image))));
        Confusion::of(&labels, &(0..count).flat_map(one_hot).collect::<Vec<_>>(), classes)
    }

    fn names(classes: usize, of: impl Fn(usize) -> String) -> Vec<String> {
        (0..classes).map(of).collect()
    }

    #[test]
    fn tables_fit_and_name_what_they_count() {
        let digits = matrix(&confusion(10, 1000), &names(10, |class| class.to_string()));
        assert_eq!(digits[1], "    0   1   2   3   4   5   6   7   8   9");
        assert_eq!(digits[2], format!("0   · 100{}", "   ·".repeat(8)));
        let many = matrix(&confusion(10, 20_000), &names(10, |class| class.to_string()));
        assert!(many.iter().all(|line| line.width() <= 60), "{many:?}");
        let long = names(10, |class| format!("a class with a long name, {class}"));
        let numbered = matrix(&confusion(10, 1000), &long);
        assert!(numbered[2].starts_with(" 1 a class with a long…") && numbered[1].ends_with("  9  10"));
        for (classes, long) in
            [(10, names(10, |class| class.to_string())), (200, names(200, |class| "字".repeat(class)))]
        {
            let all = [scores(&confusion(classes, 900), &long), confusions(&confusion(classes, 900), &long)];
            for line in all.iter().flatten() {
                assert!(line.width() <= 60, "{line}");
            }
        }
        let table = scores(&confusion(3, 30), &names(3, |class| "abc"[class..=class].into()));
        assert_eq!(
            table,
            [
                "class  images  precision  recall      F1",
                "a          10      90.00   90.00   90.00",
                "b          10      90.00   90.00   90.00",
                "c          10      90.00   90.00   90.00",
                "mean       30      90.00   90.00   90.00",
            ]
        );
    }

    #[test]
    fn a_class_that_nobody_sees_or_says_has_no_share() {
        let table = scores(&Confusion::of(&[0], &[0.0, 1.0, 0.0], 3), &names(3, |class| class.to_string()));
        assert_eq!(
            table[1..4],
            [
                "0           1          –    0.00    0.00",
                "1           0       0.00       –    0.00",
                "2           0          –       –    0.00",
            ]
        );
        assert_eq!(
            confusions(&Confusion::of(&[0], &[1.0, 0.0], 2), &names(2, |class| class.to_string())),
            ["No class was taken for another."]
        );
    }
}
