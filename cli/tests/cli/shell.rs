//! Completions and manual pages, as packagers use them.

use super::*;

/// The commands that `--help` lists.
fn commands() -> Vec<String> {
    let help = ok(Path::new(ROOT), &["--help"]).stdout;
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let names = list.lines().take_while(|line| !line.is_empty());
    let names: Vec<String> = names
        .filter(|line| !line.starts_with("    "))
        .map(|line| line.split_whitespace().next().unwrap().into())
        .collect();
    assert!(names.len() > 14 && names.contains(&"train".into()), "{help}");
    names.into_iter().filter(|name| name != "help").collect()
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = ok(Path::new(ROOT), &["completions", shell]).stdout;
        for name in commands() {
            assert!(script.contains(&name), "{shell}: {name}");
        }
        assert!(script.contains("hold-out"), "{shell}");
    }
}

#[test]
fn a_shell_that_is_not_known() {
    let done = run(Path::new(ROOT), &["completions", "tcsh"]);
    assert_eq!((done.code, done.stdout.as_str()), (2, ""));
    assert!(done.stderr.contains("invalid value 'tcsh'") && done.stderr.contains("bash"), "{}", done.stderr);
}

/// What bash itself offers, where it is installed.
#[cfg(unix)]
#[test]
fn bash_completes() {
    let dir = workplace();
    fs::write(dir.path().join("c.bash"), ok(dir.path(), &["completions", "bash"]).stdout).unwrap();
    let ask = |words: &str, index: usize| {
        let script = format!(
            "source c.bash; COMP_WORDS=({words}); COMP_CWORD={index}; _shadernet shadernet \"${{COMP_WORDS[{index}]}}\" x; \
             echo \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash").current_dir(dir.path()).args(["-c", &script]).output().ok()?;
        Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    };
    let Some(first) = ask("shadernet cl", 1) else { return };
    assert_eq!(first, "classify");
    assert_eq!(ask("shadernet train --hold", 2).unwrap(), "--hold-out");
    assert_eq!(ask("shadernet data kmn", 2).unwrap(), "kmnist");
}

#[test]
fn every_command_has_a_page() {
    let dir = workplace();
    let said = ok(dir.path(), &["man", "--out", "share/man1"]).stdout;
    let folder = dir.path().join("share/man1");
    let mut wanted: BTreeSet<PathBuf> =
        commands().iter().map(|name| folder.join(format!("shadernet-{name}.1"))).collect();
    wanted.insert(folder.join("shadernet.1"));
    assert_eq!(listing(&folder), wanted);
    assert_eq!(said.lines().count(), wanted.len());
    let page = fs::read_to_string(folder.join("shadernet.1")).unwrap();
    assert_eq!(ok(dir.path(), &["man"]).stdout, page.trim_end().to_owned() + "\n");
    let train = fs::read_to_string(folder.join("shadernet-train.1")).unwrap();
    for words in
        [".TH shadernet-train 1", ".SH OPTIONS", ".SH EXAMPLES", "\nshadernet train ", "shadernet(1)"]
    {
        assert!(train.contains(words), "{words:?} is not in {train}");
    }
    // A newer version's pages replace the old ones.
    ok(dir.path(), &["man", "--out", "share/man1"]);
    assert_eq!(run(dir.path(), &["man", "--out", "tiny.toml/x"]).code, 1);
}
