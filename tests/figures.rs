//! The documentation's figures: tables that stand in several places come from `docs/figures.toml`, what was measured by
//! experiments from their reports, and prose repeats none of them where that file does not say so.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::HashMap;
use std::path::Path;
use std::{env, fs};

use serde::Deserialize;
use shadernet::experiments::{Rows, Suite, report};

const FILES: [&str; 10] = [
    "README.md",
    "CHANGELOG.md",
    "benches/README.md",
    "data/models/README.md",
    "docs/experiments.md",
    "docs/export.md",
    "docs/guide.md",
    "docs/models.md",
    "docs/performance.md",
    "docs/results.md",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    figures: HashMap<String, String>,
    tables: HashMap<String, String>,
    prose: HashMap<String, Vec<String>>,
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn source() -> Source {
    toml::from_str(&read("docs/figures.toml")).unwrap()
}

/// A cell of an experiment's report.
fn cell(suite: &str, arm: &str, field: &str) -> String {
    let text = read(&format!("docs/experiments/{suite}/report.md"));
    let row = |line: &&str| {
        let rest = line.strip_prefix("| ").and_then(|line| line.strip_prefix(arm));
        // The tables of candidates have the same names, but fewer columns.
        rest.is_some_and(|rest| rest.starts_with(" |") || rest.starts_with(" ("))
            && line.matches(" |").count() > 10
    };
    let line = text.lines().find(row).unwrap_or_else(|| panic!("{suite}: no arm {arm:?}"));
    let cells: Vec<String> =
        line.split(" |").map(|cell| cell.trim_matches(['|', ' ']).replace("**", "")).collect();
    let (mean, deviation) = cells[3].split_once(" ± ").unwrap();
    match field {
        "parameters" => {
            let (rest, last) = cells[1].split_at(cells[1].len() - 3);
            if rest.is_empty() { last.into() } else { format!("{rest},{last}") }
        }
        "last" => cells[3].clone(),
        "mean" => mean.into(),
        "sd" => deviation.into(),
        "worst" => cells[4].clone(),
        "best" => cells[5].clone(),
        "above" => cells[6].clone(),
        "difference" => cells[7].trim_end_matches(" *").replace('-', "−"),
        "gap" => cells[7].trim_start_matches(['+', '-']).trim_end_matches(" *").into(),
        "train" => cells[8].clone(),
        other => panic!("{suite}, {arm}: no field {other:?}"),
    }
}

/// A template with its `{...}` filled in, for a file of this path.
fn fill(template: &str, figures: &HashMap<String, String>, path: &str) -> String {
    let mut parts = template.split('{');
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        let (name, rest) = part.split_once('}').unwrap_or_else(|| panic!("no }} behind {{{part}"));
        match &name.split(':').collect::<Vec<_>>()[..] {
            ["root"] => text += &"../".repeat(path.matches('/').count()),
            [suite, arm, field] => text += &cell(suite, arm, field),
            _ => text += figures.get(name).unwrap_or_else(|| panic!("{path}: no figure {name:?}")),
        }
        text += rest;
    }
    text
}

/// The file with its tables made anew, and without them.
fn with_tables(text: &str, path: &str, source: &Source) -> (String, String) {
    let mut parts = text.split("<!-- table: ");
    let mut prose = parts.next().unwrap().to_owned();
    let mut made = prose.clone();
    for part in parts {
        let (name, rest) = part.split_once(" -->").unwrap();
        let (_, rest) =
            rest.split_once("<!-- end -->").unwrap_or_else(|| panic!("{path}: {name} has no end"));
        let table = source.tables.get(name).unwrap_or_else(|| panic!("{path}: no table {name:?}"));
        let table = fill(table, &source.figures, path);
        made += &format!("<!-- table: {name} -->\n\n{}\n\n<!-- end -->{rest}", table.trim());
        prose += rest;
    }
    (made, prose)
}

/// The numbers of a text: digits with points and commas inside.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.' && c != ',')
        .map(|number| number.trim_matches(['.', ',']))
}

#[test]
fn tables_are_those_of_the_one_source() {
    let source = source();
    let mut unused: Vec<&String> = source.tables.keys().collect();
    for path in FILES {
        let text = read(path);
        unused.retain(|name| !text.contains(&format!("<!-- table: {name} -->")));
        let (made, _) = with_tables(&text, path, &source);
        if env::var_os("SHADERNET_BLESS").is_some() {
            fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(path), made).unwrap();
        } else {
            assert!(
                made == text,
                "{path} is not what docs/figures.toml says: SHADERNET_BLESS=1 cargo test --test figures"
            );
        }
    }
    assert!(unused.is_empty(), "in no file: {unused:?}");
}

#[test]
fn prose_repeats_only_what_is_listed_and_right() {
    let source = source();
    for path in FILES {
        let (_, prose) = with_tables(&read(path), path, &source);
        let mut prose = prose.split_whitespace().collect::<Vec<_>>().join(" ");
        for sentence in source.prose.get(path).into_iter().flatten() {
            let sentence = fill(sentence, &source.figures, path);
            assert!(prose.contains(&sentence), "{path} does not say {sentence:?}");
            prose = prose.replace(&sentence, "");
        }
        for (name, value) in &source.figures {
            // Among the raw measurements a short number can be there by chance.
            if path == "docs/performance.md" && value.len() < 5 {
                continue;
            }
            let found = prose.match_indices(value.as_str()).any(|(at, _)| {
                let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit() || c == '.');
                !digit(prose[..at].chars().next_back()) && !digit(prose[at + value.len()..].chars().next())
            });
            assert!(!found, "{path} repeats {name}, {value}: list the sentence in docs/figures.toml");
        }
        // Means of seeds have three decimals, and all of them come from the experiments.
        let is_mean =
            |number: &&str| number.len() == 6 && (number.starts_with("98.") || number.starts_with("99."));
        let stray: Vec<&str> = numbers(&prose).filter(is_mean).collect();
        assert!(
            stray.is_empty(),
            "{path}: {stray:?} come from nowhere; list the sentences in docs/figures.toml"
        );
    }
    assert!(source.prose.keys().all(|path| FILES.contains(&path.as_str())));
}

#[test]
fn reports_are_made_from_their_rows() {
    for name in ["small", "seed"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let suite = Suite::load(&root.join(format!("data/experiments/{name}.toml"))).unwrap();
        let rows = Rows::read(&root.join("docs/experiments").join(name), "runs.csv").unwrap();
        let (is, was) = (report(&suite, &rows).text, read(&format!("docs/experiments/{name}/report.md")));
        let differs = is.lines().zip(was.lines()).find(|(is, was)| is != was);
        assert!(is == was, "{name}: {differs:?}");
    }
}
