//! The results of a suite as Markdown with charts: made from the rows alone, however much of the suite is done.

use std::fmt::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::run::chosen;
use super::statistics::{Difference, median};
use super::suite::{Arm, Group, Phase, Select, Suite};
use super::table::{Row, Rows};
use crate::config::Criterion;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::plot::{Line, Panel, Scale, Strip, strips, svg};
use crate::train::Spread;

/// A report: its text and its charts, by file name.
#[derive(Debug)]
pub struct Report {
    /// Markdown.
    pub text: String,
    /// SVG files next to it.
    pub charts: Vec<(String, String)>,
}

impl Report {
    /// Writes `report.md` and its charts into `folder`, which is created if missing, and returns the text's path.
    ///
    /// # Errors
    /// I/O errors; each file is written completely or not at all.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        std::fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
        for (name, chart) in &self.charts {
            write_atomically(&folder.join(name), chart.as_bytes())?;
        }
        let path = folder.join("report.md");
        write_atomically(&path, self.text.as_bytes())?;
        Ok(path)
    }
}

/// An arm with its runs on the test set.
struct Tested<'a> {
    arm: &'a Arm,
    change: &'a str,
    rows: Vec<&'a Row>,
}

impl Tested<'_> {
    fn finals(&self) -> Vec<f64> {
        self.rows.iter().map(|row| row.final_accuracy).collect()
    }
}

/// Writes the report.
pub fn report(suite: &Suite, rows: &Rows) -> Report {
    let mut made = Report { text: String::new(), charts: Vec::new() };
    let text = &mut made.text;
    let Suite { name, target, groups } = suite;
    line(text, &format!("# Experiments: {name}\n"));
    line(
        text,
        "Accuracy on the test set in percent after the LAST epoch; mean ± sample standard deviation over the seeds, of which \
         none is left out. Figures of the best epoch are chosen by looking at the test set and stand apart. Differences are to \
         the first arm of a table, with 95 % confidence intervals after Welch.",
    );
    if suite.arms().any(|(_, arm)| arm.candidates.len() > 1) {
        line(
            text,
            "\nWhere an arm has several candidates, its recipe was chosen on images held out of the training set; the test \
             set's files are not opened for that.",
        );
    }
    let mut devices: Vec<&str> = rows.iter().map(|row| row.device.as_str()).collect();
    devices.sort_unstable();
    devices.dedup();
    line(text, &format!("\n{} runs so far, on: {}.", rows.iter().count(), devices.join("; ")));
    let old = rows.iter().filter(|row| row.is_old()).count();
    if old > 0 {
        let message = "of them were made by a shadernet that did not yet record data, hold-out and rules in each row; they are \
                       taken to be of the same.";
        line(text, &format!("\n{old} {message}"));
    }
    if !rows.conflicts().is_empty() {
        let message = "runs have several rows with different results, of which the first counts:";
        line(text, &format!("\n{} {message} {}.", rows.conflicts().len(), rows.conflicts().join("; ")));
    }
    if rows.foreign() > 0 {
        let message =
            "more rows are of other data, another hold-out or other rules; they are not in this report.";
        line(text, &format!("\n{} {message}", rows.foreign()));
    }
    for group in groups {
        line(text, &format!("\n## {}: {}\n", group.name, group.question));
        let tested: Vec<Tested<'_>> = group.arms.iter().map(|arm| tested(group, arm, rows)).collect();
        line(text, &format!("Seeds {}.\n", written_seeds(group.test.range())));
        table(text, suite, &tested);
        selection(text, group, rows);
        if tested.iter().all(|tested| tested.rows.is_empty()) {
            continue;
        }
        for (kind, chart) in [("accuracy", spread_chart(&tested, *target)), ("curves", curves(&tested))] {
            let file = format!("{}-{kind}.svg", group.name);
            line(text, &format!("\n![{kind} of {}]({file})", group.name));
            made.charts.push((file, chart));
        }
    }
    if let Some(chart) = parameters(suite, rows) {
        line(
            &mut made.text,
            "\n## Accuracy against parameters\n\n![accuracy against parameters](parameters.svg)",
        );
        made.charts.push(("parameters.svg".into(), chart));
    }
    made
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a string takes all");
}

/// `1000 to 1009`.
fn written_seeds(seeds: Range<u32>) -> String {
    format!("{} to {}", seeds.start, seeds.end - 1)
}

fn tested<'a>(group: &Group, arm: &'a Arm, rows: &'a Rows) -> Tested<'a> {
    let recipe = chosen(group, arm, rows);
    let seeds = group.test.range();
    let found = recipe.into_iter().flat_map(|recipe| {
        seeds.clone().filter_map(|seed| rows.find(Phase::Test, &recipe.fingerprint, seed))
    });
    Tested { arm, change: recipe.map_or("", |recipe| &recipe.change), rows: found.collect() }
}

fn table(text: &mut String, suite: &Suite, tested: &[Tested<'_>]) {
    let target = suite.target;
    line(
        text,
        &format!(
            "| arm | parameters | seeds | last epoch | min | max | ≥ {target} | difference to the first | training images | best epoch \
             (chosen on the test set) | epochs to {target}, median | s a run |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
        ),
    );
    let base = tested[0].finals();
    for (index, arm) in tested.iter().enumerate() {
        let name = if arm.change.is_empty() {
            arm.arm.name.clone()
        } else {
            format!("{} ({})", arm.arm.name, arm.change)
        };
        let finals = arm.finals();
        if finals.is_empty() {
            line(text, &format!("| {name} | | 0 | | | | | | | | | |"));
            continue;
        }
        let of = |value: fn(&Row) -> f64| arm.rows.iter().map(|row| value(row)).collect::<Vec<f64>>();
        let spread = Spread::of(finals.iter().copied());
        let difference = match Difference::of(&finals, &base) {
            Some(difference) if index > 0 && difference.half_width.is_finite() => written(difference),
            _ => String::new(),
        };
        let reached: Vec<f64> =
            arm.rows.iter().filter_map(|row| row.epochs_to(target)).map(|epoch| epoch as f64).collect();
        let diverged = arm.rows.iter().filter(|row| row.epochs == 0).count();
        let note = if diverged == 0 { String::new() } else { format!(", {diverged} diverged") };
        line(
            text,
            &format!(
                "| {name} | {} | {}{note} | **{:.3}** ± {:.3} | {:.2} | {:.2} | {} of {} | {difference} | {:.2} | {:.3} | {} | {:.0} |",
                arm.rows[0].parameters,
                finals.len(),
                spread.mean,
                spread.deviation,
                spread.min,
                spread.max,
                finals.iter().filter(|&&accuracy| accuracy >= target).count(),
                finals.len(),
                Spread::of(of(|row| row.train_accuracy)).mean,
                Spread::of(of(|row| row.best_accuracy)).mean,
                epochs(&reached, finals.len()),
                median(&of(|row| row.seconds)).unwrap_or(0.0),
            ),
        );
    }
}

/// `+0.05 ± 0.02 *`: the star means that 0 is outside.
fn written(difference: Difference) -> String {
    let star = if difference.is_clear() { " *" } else { "" };
    format!("{:+.3} ± {:.3}{star}", difference.mean, difference.half_width)
}

/// Median of those that reached the target, and how many did.
fn epochs(reached: &[f64], of: usize) -> String {
    match median(reached) {
        Some(median) => format!("{median} ({} of {of})", reached.len()),
        None => format!("none of {of}"),
    }
}

/// How the recipes for a group's arms were chosen.
fn selection(text: &mut String, group: &Group, rows: &Rows) {
    let choosing: Vec<&Arm> = group.arms.iter().filter(|arm| arm.candidates.len() > 1).collect();
    if choosing.is_empty() {
        return;
    }
    let Select { hold_out, by, .. } = group.select;
    let by = match by {
        Criterion::Accuracy => "mean accuracy",
        Criterion::Loss => "mean loss",
    };
    let seeds = written_seeds(group.select.range());
    line(
        text,
        &format!(
            "\nChosen by the {by} of seeds {seeds} on {hold_out} held-out images:\n\n\
             | arm | candidate | held-out accuracy | loss | |\n|---|---|---|---|---|"
        ),
    );
    for arm in choosing {
        let winner = chosen(group, arm, rows).map(|recipe| &recipe.fingerprint);
        for recipe in &arm.candidates {
            let seeds = group.select.range();
            let found: Vec<&Row> =
                seeds.filter_map(|seed| rows.find(Phase::Select, &recipe.fingerprint, seed)).collect();
            let figures = if found.is_empty() {
                "| |".into()
            } else {
                let accuracy = Spread::of(found.iter().map(|row| row.final_accuracy));
                let loss = Spread::of(found.iter().map(|row| row.final_loss));
                format!("{:.3} ± {:.3} | {:.4}", accuracy.mean, accuracy.deviation, loss.mean)
            };
            let mark = if Some(&recipe.fingerprint) == winner { "chosen" } else { "" };
            line(text, &format!("| {} | {} | {figures} | {mark} |", arm.name, recipe.change));
        }
    }
}

fn spread_chart(tested: &[Tested<'_>], target: f64) -> String {
    let rows: Vec<Strip> = tested
        .iter()
        .map(|arm| Strip {
            name: arm.arm.name.clone(),
            // Diverged runs would hide the differences between all others.
            values: arm.rows.iter().filter(|row| row.epochs > 0).map(|row| row.final_accuracy).collect(),
        })
        .collect();
    strips(&rows, "test accuracy after the last epoch, %", Some(target))
}

/// Mean accuracy after each epoch, without the first few, which would flatten the rest.
fn curves(tested: &[Tested<'_>]) -> String {
    let lines = tested.iter().map(|arm| {
        let curves: Vec<Vec<f64>> =
            arm.rows.iter().filter(|row| row.epochs > 0).map(|row| row.curve()).collect();
        let epochs = curves.iter().map(Vec::len).min().unwrap_or(0);
        let first = epochs / 4;
        let mean = |epoch: usize| curves.iter().map(|curve| curve[epoch]).sum::<f64>() / curves.len() as f64;
        let points = (first..epochs).map(|epoch| [(epoch + 1) as f64, mean(epoch)]).collect();
        Line { name: arm.arm.name.clone(), points, faint: false }
    });
    let panel = Panel {
        title: "learning curves, mean over seeds".into(),
        x: ("epoch".into(), Scale::Linear),
        y: ("test accuracy, %".into(), Scale::Linear),
        lines: lines.collect(),
    };
    svg(&[panel], 1)
}

/// Mean accuracy of every arm's runs that did not diverge, against its parameters; `None` until two sizes of network
/// are tested.
fn parameters(suite: &Suite, rows: &Rows) -> Option<String> {
    let mut points: Vec<[f64; 2]> = Vec::new();
    for (group, arm) in suite.arms() {
        let mut tested = tested(group, arm, rows);
        tested.rows.retain(|row| row.epochs > 0);
        if let Some(row) = tested.rows.first() {
            points.push([row.parameters as f64, Spread::of(tested.finals()).mean]);
        }
    }
    points.sort_by(|a, b| a[0].total_cmp(&b[0]));
    if points.first()?[0] == points.last()?[0] {
        return None;
    }
    // The best arm of each size.
    let mut best: Vec<[f64; 2]> = Vec::new();
    for point in &points {
        match best.last_mut() {
            Some(last) if last[0] == point[0] => last[1] = last[1].max(point[1]),
            _ => best.push(*point),
        }
    }
    let panel = Panel {
        title: "mean of the best arm of each size".into(),
        x: ("parameters".into(), Scale::Log2),
        y: ("test accuracy after the last epoch, %".into(), Scale::Linear),
        lines: vec![Line { name: "best arm".into(), points: best, faint: false }],
    };
    Some(svg(&[panel], 1))
}
