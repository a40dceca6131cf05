//! The floors of CONTRIBUTING.md: a file imports only from lower floors, and siblings on floor 4 never from each other.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::{Path, PathBuf};

/// Modules by floor, from the ground up.
const FLOORS: &[&[&str]] = &[
    &[
        "error",
        "tensor",
        "rng",
        "config",
        "files",
        "lock",
        "memory",
        "threads",
        "plot",
        "normalization",
        "state",
    ],
    &["layers", "losses", "optimizers", "schedule", "shader"],
    &["model"],
    &["batch", "dataset", "checkpoint", "plan", "engine", "reference", "replica", "inference"],
    &["gpu", "cpu"],
    &[
        "device",
        "doctor",
        "bench",
        "eval",
        "train",
        "classify",
        "experiments",
        "export",
        "int8",
        "report",
        "download",
    ],
];

fn floor(module: &str) -> usize {
    FLOORS.iter().position(|modules| modules.contains(&module)).unwrap_or_else(|| {
        panic!("src/{module}: give it a floor in tests/architecture.rs and CONTRIBUTING.md")
    })
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every library file with the module that it belongs to and its text.
fn sources() -> Vec<(String, PathBuf, String)> {
    let src = root().join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut sources = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&src).unwrap();
        let first = relative.iter().next().unwrap().to_str().unwrap();
        let module = first.trim_end_matches(".rs").to_owned();
        if module != "lib" {
            let text = fs::read_to_string(&file).unwrap();
            sources.push((module, relative.to_owned(), text));
        }
    }
    sources
}

/// Modules named as `crate::module`, also within `use crate::{...}`.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        // Only the whole word counts: not `my_crate::`.
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        let name = |text: &str| -> String {
            text.trim_start()
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '_' || c.is_ascii_digit())
                .collect()
        };
        match rest.strip_prefix('{') {
            Some(list) => found.extend(list[..list.find('}').unwrap()].split(',').map(name)),
            None => found.push(name(rest)),
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

/// Every import that goes up or sideways across floor 4.
fn violations(module: &str, file: &Path, text: &str) -> Vec<String> {
    let own = floor(module);
    let wrong = |target: &String| {
        let other = floor(target);
        target != module && (other > own || (own == 4 && other == 4))
    };
    imports(text)
        .into_iter()
        .filter(wrong)
        .map(|target| format!("{} imports {target}", file.display()))
        .collect()
}

#[test]
fn files_import_only_from_lower_floors() {
    let sources = sources();
    assert!(sources.len() > 40, "only {} files were found", sources.len());
    let wrong: Vec<_> =
        sources.iter().flat_map(|(module, file, text)| violations(module, file, text)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_wrong_import_would_be_found() {
    let file = Path::new("x.rs");
    assert_eq!(violations("layers", file, "use crate::{error::Error, plan::Plan};").len(), 1);
    assert_eq!(violations("cpu", file, "let gpu = crate::gpu::Adapters::find();").len(), 1);
    assert_eq!(violations("plan", file, "use crate::model::Model;").len(), 0);
}

#[test]
fn wgpu_and_naga_stay_in_their_places() {
    for (module, file, text) in sources() {
        let names =
            |name: &str| text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(name));
        assert!(module == "gpu" || !names("wgpu::"), "{} names wgpu", file.display());
        assert!(module == "shader" || !names("naga::"), "{} names naga", file.display());
    }
}

#[test]
fn files_can_be_read_in_one_sitting() {
    let mut files = Vec::new();
    ["src", "cli/src"].iter().for_each(|folder| rust_files(&root().join(folder), &mut files));
    for file in files {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= 500, "{} has {lines} lines, more than 500", file.display());
    }
}

#[test]
fn every_public_module_is_in_the_tour() {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let tour: String = text.lines().filter(|line| line.starts_with("//!")).collect();
    let modules = text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let missing: Vec<_> = modules
        .filter(|module| {
            !tour.contains(&format!("[`{module}`]")) && !tour.contains(&format!("[`mod@{module}`]"))
        })
        .collect();
    assert!(missing.is_empty(), "src/lib.rs says nothing about {missing:?}");
}

#[test]
fn examples_fit_on_a_page() {
    let mut files = Vec::new();
    rust_files(&root().join("examples"), &mut files);
    assert!(files.len() >= 10);
    // Those two print what tests read.
    files.retain(|file| !file.to_string_lossy().ends_with("_json.rs"));
    for file in files {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        let most = if file.ends_with("train_from_memory.rs") { 40 } else { 60 };
        assert!(lines <= most, "{} has {lines} lines, more than {most}", file.display());
    }
}

/// The string literals of a file, without its test module.
fn literals(text: &str) -> Vec<String> {
    let mut rest = text.split("#[cfg(test)]\nmod ").next().unwrap();
    let mut found = Vec::new();
    while let Some(at) = rest.find(['/', '"', '\'']) {
        let (before, from) = rest.split_at(at);
        let hashes = before.len() - before.trim_end_matches('#').len();
        let is_raw = before[..before.len() - hashes].ends_with('r');
        let end = if from.starts_with("//") {
            from.find('\n').unwrap_or(from.len())
        } else if let (Some(inner), true) = (from.strip_prefix('"'), is_raw) {
            let close = format!("\"{}", "#".repeat(hashes));
            1 + inner.find(&close).unwrap()
        } else if let Some(inner) = from.strip_prefix('"') {
            let mut escaped = false;
            let is_end = |c: char| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            };
            1 + inner.find(is_end).unwrap()
        } else if from.starts_with("'\"'") || from.starts_with("'\\") {
            // A character; any other quote begins one that needs no care, or a lifetime.
            2
        } else {
            0
        };
        if from.starts_with('"') {
            found.push(from[1..end].to_owned());
        }
        rest = &from[(end + 1).min(from.len())..];
    }
    found
}

/// Where a text names an option or a command of the program.
fn names_command_line(text: &str) -> bool {
    const COMMANDS: [&str; 14] = [
        "train",
        "eval",
        "classify",
        "export",
        "new",
        "data",
        "summary",
        "devices",
        "doctor",
        "bench",
        "experiments",
        "report",
        "completions",
        "man",
    ];
    let word = |text: &str| -> String { text.chars().take_while(|c| c.is_ascii_lowercase()).collect() };
    // A custom property of CSS has one letter here.
    let option = text.match_indices("--").any(|(at, _)| word(&text[at + 2..]).len() > 1);
    let command = text
        .match_indices("shadernet ")
        .any(|(at, prefix)| COMMANDS.contains(&&*word(&text[at + prefix.len()..])));
    option || command
}

/// A program of somebody else has other options: what would help is a `Remedy`, and the words are the program's.
#[test]
fn the_library_does_not_name_the_command_line() {
    // It marks files, and is no message.
    const MARK: &str = "<meta name=generator content=\\\"shadernet report\\\">";
    let mut count = 0;
    for (_, file, text) in sources() {
        for literal in literals(&text) {
            count += 1;
            let named = names_command_line(&literal) && literal != MARK;
            assert!(!named, "{}: {literal:?} names the command line", file.display());
        }
    }
    assert!(count > 1000, "only {count} literals were found");
}

#[test]
fn a_command_in_a_message_would_be_found() {
    let text = "// \"--a\"\nlet (a, b) = ('\"', 'x'); f(\"say \\\"--force\\\"\", r#\"run `shadernet train` \"now\" \"#, '\\'');\n\
                #[cfg(test)]\nmod tests { \"--out\" }";
    let found = literals(text);
    assert_eq!(found, ["say \\\"--force\\\"", "run `shadernet train` \"now\" "]);
    assert!(found.iter().all(|literal| names_command_line(literal)));
    assert!(!names_command_line("<i style=\"--w:{}%\"> by shadernet {version}"));
}
