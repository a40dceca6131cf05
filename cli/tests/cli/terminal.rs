//! What reaches the terminal: names from files only as text, and no result that was not written.

use super::*;

/// The built-in network with these names for its first classes.
fn named(dir: &Path, names: &[&str]) {
    let seed = Checkpoint::seed().unwrap();
    let mut classes = seed.classes.clone();
    classes.iter_mut().zip(names).for_each(|(class, name)| *class = (*name).into());
    Checkpoint { classes, ..seed }.save(&dir.join("named.safetensors")).unwrap();
}

#[test]
fn names_from_files_cannot_act() {
    let dir = workplace();
    let long = "x".repeat(70_000);
    named(
        dir.path(),
        &["\u{1b}]0;owned\u{7}\u{1b}[2J", "a\nerror: forged", "\u{202e}txt.exe", "\u{9b}31m\u{7f}", &long],
    );
    let picture = format!("{ROOT}/data/digits/7_bar.png");
    let odd = dir.path().join("odd\u{1b}[2J\n.png");
    if fs::copy(&picture, &odd).is_err() {
        return;
    }
    let odd = odd.to_str().unwrap();
    let acts = |text: &str| text.contains(|c: char| c.is_control() && c != '\n' || c == '\u{202e}');
    let done = ok(dir.path(), &["classify", "--model", "named.safetensors", odd]);
    assert!(!acts(&done.stdout), "{:?}", done.stdout);
    for words in [
        r"\u001b]0;owned\u0007\u001b[2J",
        r"a\nerror: forged",
        r"\u202etxt.exe",
        r"\u009b31m\u007f",
        "xxx…",
        r"odd\u001b[2J\n.png: 7",
    ] {
        assert!(done.stdout.contains(words), "{words} is not in {}", done.stdout);
    }
    assert!(done.stdout.lines().all(|line| line.len() < 300 || line.contains("odd")), "{}", done.stdout);
    // JSON stays JSON, and has the names as they are.
    let done = ok(dir.path(), &["classify", "--model", "named.safetensors", "--json", odd]);
    assert!(!acts(&done.stdout));
    assert_eq!(done.json()[0]["file"], odd);
    for args in [
        &["classify", "no\u{1b}[2J\nerror: forged"][..],
        &["eval", "\u{9b}2J.toml"],
        &["--\u{1b}[2J"],
        &["data", "\u{202e}"],
    ] {
        let done = run(dir.path(), args);
        assert!(done.code != 0 && !acts(&done.stderr), "{:?}", done.stderr);
        assert!(!done.stderr.contains("\nerror: forged"), "{:?}", done.stderr);
    }
    // Python has them as strings.
    ok(dir.path(), &["export", "named.safetensors", "--pytorch", "net.py"]);
    let module = fs::read_to_string(dir.path().join("net.py")).unwrap();
    assert!(!acts(&module) && module.contains(r#""a\nerror: forged","\u202etxt.exe""#), "names");
}

#[test]
fn a_file_without_a_digest_is_said_to_be_old() {
    let dir = workplace();
    let bytes = fs::read(format!("{ROOT}/data/models/seed.safetensors")).unwrap();
    let (header, tensors) = bytes[8..].split_at(u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    header["__metadata__"].as_object_mut().unwrap().remove("file_sha256").unwrap();
    header["__metadata__"]["version"] = "1".into();
    let header = header.to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), tensors].concat();
    fs::write(dir.path().join("old.safetensors"), bytes).unwrap();
    let picture = format!("{ROOT}/data/digits/7_bar.png");
    for args in [&["classify", &picture, "--model"][..], &["summary"], &["export", "--pytorch", "net.py"]] {
        let done = ok(dir.path(), &[args, &["old.safetensors"]].concat());
        assert!(
            done.stderr.contains("warning: old.safetensors: written by an older shadernet"),
            "{}",
            done.stderr
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_a_reader_that_goes_away_is_none() {
    let dir = workplace();
    for args in [
        &["--help"][..],
        &["--version"],
        &["help", "train"],
        &["eval", "--help"],
        &["summary"],
        &["completions", "bash"],
        &["man"],
        &["data", "--help"],
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = command(dir.path(), args).stdout(full).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(stderr.starts_with("error: cannot write standard output: "), "{args:?}: {stderr}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command(dir.path(), args).stdout(writer).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
    }
}

/// Mesa asks the desktop about devices, and says so where there is none.
#[test]
fn nothing_is_said_of_a_missing_desktop() {
    let dir = workplace();
    for value in [None, Some("relative")] {
        let mut command = command(dir.path(), &["devices"]);
        command.env_remove("XDG_RUNTIME_DIR").envs(value.map(|value| ("XDG_RUNTIME_DIR", value)));
        let output = command.output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}
