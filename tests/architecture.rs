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
    &["batch", "dataset", "checkpoint", "plan", "engine", "reference", "replica"],
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
