//! The page that compares several runs.

use std::collections::BTreeSet;

use super::charts::{ACCURACY, LOSS, MOST_LINES, SECONDS, WRONG};
use super::html::{charts, escape, note, page, section, table};
use super::page::percent;
use super::record::Record;
use super::settings::{Settings, all};
use crate::error::{Error, Result};
use crate::model::thousands;

/// Fails if the curves of this many runs could not be told apart.
pub(super) fn check_count(runs: usize) -> Result<()> {
    if runs > MOST_LINES {
        let message = format!("{runs} runs: at most {MOST_LINES} can be told apart in one chart");
        return Err(Error::Usage(message));
    }
    Ok(())
}

/// Writes the page.
pub(super) fn of_runs(records: &[Record]) -> Result<String> {
    let names = names(records);
    let mut settings = Vec::new();
    for record in records {
        settings.push(all(record, &record.checkpoint(&record.shown()?)?)?);
    }
    let kinds: BTreeSet<&str> = records.iter().map(Record::judged_on).collect();
    let judged_on = if kinds.len() == 1 { records[0].judged_on() } else { "" };
    let several = records.iter().any(|record| record.nets() > 1);

    let drawn = [ACCURACY, LOSS, WRONG].map(|quantity| quantity.of_runs(records, &names, judged_on));
    let mut curves = charts(&[drawn.as_slice(), &[SECONDS.of_runs(records, &names, "")]].concat());
    if several {
        curves += &note("A run with several nets is drawn by their mean.");
    }
    if kinds.len() > 1 {
        curves += "<p class=warn>Some of these runs are evaluated on the test set, others on held-out images, so \
                   their figures are not from the same images.</p>\n";
    }
    let body =
        section("Curves", &curves) + &finals(records, &names, several) + &differences(&names, &settings);
    let escaped: Vec<_> = names.iter().map(escape).collect();
    Ok(page(&format!("{} runs compared", records.len()), &escaped.join(", "), &body))
}

/// The folders' names, or their whole paths where those are ambiguous.
fn names(records: &[Record]) -> Vec<String> {
    let short: Vec<String> = records.iter().map(Record::name).collect();
    if short.iter().collect::<BTreeSet<_>>().len() == short.len() {
        return short;
    }
    records.iter().map(|record| record.folder.display().to_string()).collect()
}

fn finals(records: &[Record], names: &[String], several: bool) -> String {
    let row = |(record, name): (&Record, &String)| {
        let summary = &record.summary;
        let mut row = vec![escape(name)];
        if several {
            row.push(record.nets().to_string());
        }
        row.extend([
            percent(summary.final_test_accuracy),
            format!("{:.4}", summary.final_test_loss),
            format!("{} ({})", percent(summary.best_test_accuracy), summary.best_epoch),
            percent(summary.train_accuracy),
            record.epochs.last().map_or(0, |nets| nets[0].epoch).to_string(),
            thousands(summary.parameters),
            format!("{:.2}", summary.seconds_per_epoch),
        ]);
        row
    };
    let mut heads = vec!["run"];
    if several {
        heads.push("nets (figures are means)");
    }
    heads.extend([
        "last epoch: accuracy",
        "last epoch: loss",
        "best epoch: accuracy (which)",
        "last epoch: training accuracy",
        "epochs",
        "parameters",
        "s per epoch",
    ]);
    let rows: Vec<_> = records.iter().zip(names).map(row).collect();
    let text = "Best epochs are chosen by looking at the images that the run is evaluated on. Runs with a single seed \
                also differ by chance; to compare recipes, run experiments with many seeds.";
    section("Final figures", &(table(&heads, &rows, 1) + &note(text)))
}

/// Settings that differ between runs.
fn differences(names: &[String], settings: &[Settings]) -> String {
    let keys: BTreeSet<&String> = settings.iter().flat_map(Settings::keys).collect();
    let values = |key: &String| -> Vec<Option<&String>> { settings.iter().map(|run| run.get(key)).collect() };
    let differing = keys.into_iter().filter(|key| values(key).iter().any(|value| *value != values(key)[0]));
    let cell = |value: Option<&String>| value.map_or_else(|| "–".to_owned(), escape);
    let row = |key: &String| {
        std::iter::once(escape(key)).chain(values(key).into_iter().map(cell)).collect::<Vec<_>>()
    };
    let rows: Vec<_> = differing.map(row).collect();
    let escaped: Vec<String> = names.iter().map(escape).collect();
    let heads: Vec<&str> = std::iter::once("setting").chain(escaped.iter().map(String::as_str)).collect();
    let body = if rows.is_empty() {
        note("None: these runs have the same settings.")
    } else {
        table(&heads, &rows, heads.len())
    };
    section("Settings that differ", &body)
}
