//! When memory or threads are short, a command says so, and what would fit, instead of crashing.

use super::*;

/// Runs with the shell's `limit`, such as `-v 1000000`.
fn limited(dir: &Path, limit: &str, args: &[&str]) -> Done {
    let script = format!("ulimit {limit}; exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_shadernet")])
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    Done {
        code: output.status.code().unwrap_or_else(|| panic!("{args:?}: {}", output.status)),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// These images need their memory as floats, which a limit of 1 GB can't hold.
fn wide(channels: usize) -> String {
    TINY.replace(
        "  { type = \"conv2d\", out_channels = 4, kernel = 3 },\n",
        &format!("  {{ type = \"conv2d\", out_channels = {channels}, kernel = 3, padding = 1 }},\n")
            .repeat(2),
    )
}

#[test]
fn what_does_not_fit_says_what_does() {
    let dir = workplace();
    let images = bars(3000, 3);
    fs::write(dir.path().join(IMAGES), images.0).unwrap();
    fs::write(dir.path().join(LABELS), idx(&[3000], &images.1)).unwrap();
    fs::write(dir.path().join("tiny.toml"), wide(512)).unwrap();
    let before = listing(dir.path());
    let done = limited(dir.path(), "-v 1000000", &train(&["--batch-size", "3000", "--threads", "2"]));
    assert_eq!(done.code, 1, "{}", done.stderr);
    let said = |words: &str| assert!(done.stderr.contains(words), "{words}: {}", done.stderr);
    said("error: CPU engine: training in batches of 3000 needs ");
    said("is free: a batch size of ");
    assert_eq!(listing(dir.path()), before);
    // And that is correct.
    let size = done.stderr.split("a batch size of ").nth(1).unwrap().split(' ').next().unwrap();
    let arguments = train(&["--batch-size", size, "--threads", "2", "--max-steps", "1", "--no-report"]);
    let done = limited(dir.path(), "-v 1000000", &arguments);
    assert_eq!(done.code, 0, "batch size {size}: {}", done.stderr);

    // Many nets, and a net that is too large by itself.
    fs::write(dir.path().join("tiny.toml"), wide(1024)).unwrap();
    let done = limited(dir.path(), "-v 1000000", &train(&["--replicas", "250", "--threads", "1"]));
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(
        done.stderr.contains("training of 250 nets") && done.stderr.contains("fewer nets"),
        "{}",
        done.stderr
    );
    ok(dir.path(), &train(&["--max-steps", "1", "--out", "run", "--no-report"]));
    let eval = ["eval", "run/model.safetensors", "--data", "data", "--device", "cpu", "--threads", "1"];
    let done = limited(dir.path(), "-v 260000", &eval);
    assert!(done.code == 1 && done.stderr.starts_with("error: "), "{} {}", done.code, done.stderr);
}

/// A thousand stacks don't fit the address space.
#[test]
fn threads_that_cannot_start_are_an_error() {
    let dir = workplace();
    let done = limited(dir.path(), "-v 1000000", &train(&["--threads", "1024"]));
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(done.stderr.contains("error: cannot start 1024 threads: "), "{}", done.stderr);
    assert!(!dir.path().join("runs").exists());
}

/// Wherever memory runs out, there is an answer or a short error.
#[test]
fn pictures_that_do_not_fit_are_an_error() {
    let dir = workplace();
    let side = 3000;
    let seven =
        |x: u32, y: u32| if x.abs_diff(side / 2) < 200 && y.abs_diff(side / 2) < 900 { 0 } else { 255 };
    let grey = image::GrayImage::from_fn(side, side, |x, y| image::Luma([seven(x, y)]));
    let grey = image::DynamicImage::from(grey);
    grey.to_rgb8().save(dir.path().join("rgb.png")).unwrap();
    grey.to_luma_alpha8().save(dir.path().join("alpha.png")).unwrap();
    for picture in ["rgb.png", "alpha.png"] {
        let mut codes = BTreeSet::new();
        for kib in [60_000, 80_000, 100_000, 120_000, 50_000] {
            let limit = format!("-v {kib}");
            let done =
                limited(dir.path(), &limit, &["classify", "--device", "cpu", "--threads", "1", picture]);
            codes.insert(done.code);
            // What the picture leaves may not do for the network.
            let words = [
                &format!("error: {picture}: decoding 3000x3000 pixels needs "),
                "error: CPU engine: the network needs ",
            ];
            let is_said = words.iter().any(|words| done.stderr.starts_with(words));
            assert!(done.code == 0 || is_said, "{kib}: {}", done.stderr);
            assert!(done.stderr.lines().count() <= 1, "{}", done.stderr);
        }
        assert_eq!(codes, BTreeSet::from([0, 1]), "{picture}");
    }
    // Several at a time, each of which fits alone.
    for class in ["a", "b"] {
        let folder = dir.path().join("pictures/train").join(class);
        fs::create_dir_all(&folder).unwrap();
        for index in 0..4 {
            fs::copy(dir.path().join("rgb.png"), folder.join(format!("{index}.png"))).unwrap();
        }
    }
    let new = ["new", "--data", "pictures"];
    let done = limited(dir.path(), "-v 60000", &new);
    assert!(done.code == 1 && done.stderr.contains("pixels needs"), "{}", done.stderr);
    // Every thread takes additional address space.
    let done = limited(dir.path(), "-v 330000; export RAYON_NUM_THREADS=2", &new);
    assert_eq!(done.code, 0, "{}", done.stderr);
}

/// The logits, probabilities and numbers of all images at once would take many times the memory of the images.
#[test]
fn a_large_test_set_is_verified_and_reported_in_pieces() {
    let dir = workplace();
    let (start, _) = TINY.split_once("layers = [").unwrap();
    let (_, end) = TINY.split_once("\n]\n").unwrap();
    let model = format!(
        "{start}layers = [{{ type = \"flatten\" }}, {{ type = \"linear\", out_features = 3 }}]\n{end}"
    );
    fs::write(dir.path().join("tiny.toml"), model).unwrap();
    let (images, labels) = bars(50_000, 3);
    fs::write(dir.path().join(TEST_IMAGES), images).unwrap();
    fs::write(dir.path().join(TEST_LABELS), idx(&[50_000], &labels)).unwrap();
    let limit = "-v 110000; export RAYON_NUM_THREADS=1";
    let done = limited(dir.path(), limit, &train(&["--threads", "1", "--epochs", "1", "--out", "run"]));
    assert!(done.code == 0 && done.stderr.is_empty(), "{}", done.stderr);
    assert!(dir.path().join("run/report.html").exists());
    let verify =
        ["export", "run/model.safetensors", "--data", "data", "--onnx", "net.onnx", "--verify", "--force"];
    let done = limited(dir.path(), limit, &verify);
    assert_eq!(done.code, 0, "{}", done.stderr);
    // What cannot be verified is not written.
    fs::remove_file(dir.path().join("net.onnx")).unwrap();
    fs::remove_file(dir.path().join(TEST_IMAGES)).unwrap();
    assert_eq!(run(dir.path(), &verify).code, 1);
    assert!(!dir.path().join("net.onnx").exists());
}
