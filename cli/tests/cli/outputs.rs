//! Output files never replace a command's inputs, and never anything at all without being asked to.

use super::*;

/// A folder with a dataset, a trained model and a picture that fits it.
fn trained() -> tempfile::TempDir {
    let dir = workplace();
    ok(dir.path(), &train(&["--epochs", "1", "--out", "x", "--no-report", "--quiet"]));
    dir
}

/// Every file below `dir` with its content.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = listing(dir).into_iter().filter(|path| path.is_file());
    files.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

const MODEL: &str = "x/model.safetensors";

#[test]
fn nothing_that_is_read_is_replaced() {
    let dir = trained();
    fs::write(dir.path().join("thesis.txt"), "mine").unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    let before = contents(dir.path());
    let eval = ["eval", MODEL, "--data", "data", "--device", "cpu", "--logits"];
    let verify = ["export", MODEL, "--data", "data", "--verify", "--onnx"];
    let mut cases: Vec<(Vec<&str>, &str)> = vec![
        ([&eval[..], &["thesis.txt"]].concat(), "thesis.txt exists; use `--force` to replace it"),
        ([&eval[..], &["d"]].concat(), "this is a folder; name a file"),
        (
            ["bench", "tiny.toml", "--scaling", "thesis.txt"].to_vec(),
            "thesis.txt exists; use `--force` to replace it",
        ),
        (["bench", "tiny.toml", "--scaling", "tiny.toml", "--force"].to_vec(), "this file is an input"),
        (["export", MODEL, "--html", "new", "--onnx", "new"].to_vec(), "new: this file is named twice"),
        (["export", MODEL, "--html", "new", "--pytorch", "d/../new"].to_vec(), "this file is named twice"),
    ];
    for command in [&eval[..], &verify, &["export", MODEL, "--pytorch"], &["export", MODEL, "--html"]] {
        for input in [MODEL, "./x/../x/model.safetensors"] {
            cases.push(([command, &[input, "--force"]].concat(), "this file is an input"));
        }
        if command.contains(&"--data") {
            cases.push(([command, &[TEST_IMAGES, "--force"]].concat(), "this file is an input"));
        }
        if cfg!(unix) {
            cases.push((
                [command, &["/dev/null", "--force"]].concat(),
                "/dev/null: this is a device; name a file",
            ));
        }
    }
    cases.push((["report", "x", "--out", TEST_IMAGES, "--force"].to_vec(), "this file is an input"));
    cases.push((["report", "x", "--out", "-"].to_vec(), "the output must go to a file"));
    for (args, words) in cases {
        let done = run(dir.path(), &args);
        assert_eq!(done.code, 2, "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains(words), "{args:?}: {}", done.stderr);
        assert!(contents(dir.path()) == before, "{args:?} changed files");
    }
    // Done if asked for.
    ok(dir.path(), &[&eval[..], &["thesis.txt", "--force"]].concat());
    let first = fs::read(dir.path().join("thesis.txt")).unwrap();
    ok(dir.path(), &[&eval[..], &["new.safetensors"]].concat());
    assert!(first != b"mine" && fs::read(dir.path().join("new.safetensors")).unwrap() == first);
}

#[test]
fn manual_pages_replace_files_alone() {
    let dir = workplace();
    fs::create_dir_all(dir.path().join("man/shadernet-train.1")).unwrap();
    let done = run(dir.path(), &["man", "--out", "man"]);
    assert!(done.code == 2 && done.stderr.contains("shadernet-train.1: this is a folder"), "{}", done.stderr);
    assert_eq!(listing(&dir.path().join("man")).len(), 1);
    #[cfg(unix)]
    {
        fs::create_dir(dir.path().join("links")).unwrap();
        std::os::unix::fs::symlink("../tiny.toml", dir.path().join("links/shadernet.1")).unwrap();
        let done = run(dir.path(), &["man", "--out", "links"]);
        assert!(done.code == 2 && done.stderr.contains("shadernet.1: this is a link"), "{}", done.stderr);
        assert_eq!(fs::read_to_string(dir.path().join("tiny.toml")).unwrap(), TINY);
    }
}

/// Writes `tiny.toml`'s network with all its tensors set to `value`.
fn with_weights(dir: &Path, name: &str, value: f32, classes: [&str; 3]) {
    let model = Model::parse(TINY, "tiny.toml").unwrap();
    let mut weights = model.init(0);
    weights
        .iter_mut()
        .filter(|tensor| tensor.name.ends_with("conv1.weight"))
        .for_each(|tensor| tensor.data.fill(value));
    let classes = classes.map(String::from).into();
    let normalization = Normalization::uniform(1, 0.0, 0.1);
    let checkpoint = Checkpoint { model, weights, classes, normalization, ..Checkpoint::seed().unwrap() };
    checkpoint.save(&dir.join(name)).unwrap();
}

#[test]
fn there_is_no_answer_without_finite_logits() {
    let dir = workplace();
    with_weights(dir.path(), "good.safetensors", 0.1, ["a", "b", "c"]);
    with_weights(dir.path(), "bad.safetensors", 3e38, ["a", "b", "c"]);
    let picture = format!("{ROOT}/data/digits/7_bar.png");
    for (args, code) in [
        (&["classify", &picture, "--model"][..], 1),
        (&["classify", &picture, "--json", "--model"], 1),
        (&["eval", "--data", "data", "--device", "cpu"], 1),
        (&["eval", "--data", "data", "--device", "cpu", "--json", "--logits", "l"], 1),
        (&["export", "--data", "data", "--onnx", "n.onnx", "--verify", "--force"], 1),
    ] {
        ok(dir.path(), &[args, &["good.safetensors"]].concat());
        let _ = fs::remove_file(dir.path().join("l"));
        let done = run(dir.path(), &[args, &["bad.safetensors"]].concat());
        assert_eq!(done.code, code, "{args:?}: {}", done.stdout);
        assert!(
            done.stderr.contains("so there is no answer; with these weights"),
            "{args:?}: {}",
            done.stderr
        );
        assert!(
            !dir.path().join("l").exists() && !done.stdout.contains("accuracy"),
            "{args:?}: {}",
            done.stdout
        );
    }
}

#[test]
fn commands_can_be_pasted_and_names_stay_on_one_line() {
    let dir = workplace();
    // As saved by Windows editors, and names from elsewhere.
    let utf16: Vec<u8> = TINY.encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(dir.path().join("utf16.toml"), [&[0xff, 0xfe], &utf16[..]].concat()).unwrap();
    let done = run(dir.path(), &["summary", "utf16.toml"]);
    assert!(done.code == 2 && done.stderr.contains("saved as UTF-8"), "{}", done.stderr);
    with_weights(dir.path(), "x.safetensors", 0.1, ["a\tb\n", "b", "c"]);
    for class in ["ring", "bar"] {
        fs::create_dir_all(dir.path().join("p\u{1b}").join(class)).unwrap();
        for name in ["1.png", "2.png"] {
            let pixels = image::GrayImage::from_fn(8, 8, |x, y| image::Luma([(x * y) as u8 * 5]));
            pixels.save(dir.path().join("p\u{1b}").join(class).join(name)).unwrap();
        }
    }
    let done = run(dir.path(), &["eval", "x.safetensors", "--data", "p\u{1b}"]);
    assert!(
        done.stderr.contains(r#"is not a class of the model; its classes are a\tb\n, b, c"#),
        "{}",
        done.stderr
    );
    let done = ok(dir.path(), &["new", "--data", "p\u{1b}"]);
    assert!(done.stdout.contains("2 classes: bar, ring"), "{}", done.stdout);
    assert!(done.stdout.contains(r"shadernet train model.toml --data $'p\033'"), "{}", done.stdout);
}

#[test]
fn files_in_the_place_of_others_are_named() {
    let dir = trained();
    let done = run(dir.path(), &["train", MODEL, "--data", "data"]);
    assert!(done.code == 2 && done.stderr.contains("this is a file of weights"), "{}", done.stderr);
    assert!(done.stderr.contains("--init"), "{}", done.stderr);
    let done = run(dir.path(), &["eval", "data"]);
    assert!(done.stderr.contains("data: this folder has no trained model in it"), "{}", done.stderr);
    let done = run(dir.path(), &["eval", "x/checkpoint.safetensors"]);
    assert!(done.stderr.contains("its trained model is x/model.safetensors"), "{}", done.stderr);
    fs::remove_file(dir.path().join(MODEL)).unwrap();
    let done = run(dir.path(), &["eval", "x/checkpoint.safetensors"]);
    assert!(done.stderr.contains("resume it with `shadernet train --resume x`"), "{}", done.stderr);
}
