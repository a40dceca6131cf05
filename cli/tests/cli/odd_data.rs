//! Datasets found in practice: other layouts, other files, labels that don't match the model's classes.

use std::io::{Cursor, Write};

use image::{DynamicImage, GrayImage, ImageFormat};

use super::pictures::{add, album, bar, save};
use super::*;

/// Runs the program with `input` piped to it.
fn run_with_input(dir: &Path, args: &[&str], input: &[u8]) -> Done {
    let mut process = command(dir, args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    process.stdin.take().unwrap().write_all(input).unwrap();
    let output = process.wait_with_output().unwrap();
    Done {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn half_a_jpeg_is_not_learnt_and_not_answered() {
    let dir = album();
    let mut jpeg = Cursor::new(Vec::new());
    DynamicImage::from(bar(0, 1)).write_to(&mut jpeg, ImageFormat::Jpeg).unwrap();
    let jpeg = jpeg.into_inner();
    fs::write(dir.path().join("data/train/low/whole.jpg"), &jpeg).unwrap();
    fs::write(dir.path().join("data/train/low/cut.jpg"), &jpeg[..jpeg.len() - 20]).unwrap();
    let done = ok(dir.path(), &train(&["--epochs", "1", "--quiet"]));
    let words = "one picture is skipped, since unreadable: ";
    assert!(done.stderr.contains(words) && done.stderr.contains("cut.jpg: damaged JPEG"), "{}", done.stderr);
    let done = run(dir.path(), &["classify", "data/train/low/cut.jpg"]);
    assert!(done.code == 1 && done.stderr.contains("damaged JPEG: it ends early"), "{}", done.stderr);
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_named_and_never_waited_for() {
    let dir = album();
    let pipe = |name: &str| {
        assert!(Command::new("mkfifo").arg(dir.path().join(name)).status().unwrap().success());
    };
    pipe("data/train/low/pipe.png");
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("data/train/mid/s.jpg")).unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("data/train/new")).unwrap();
    let done = ok(dir.path(), &["new", "--data", "data"]);
    for words in [
        "low/pipe.png (a pipe), mid/s.jpg (a socket)",
        "skipped, since not a regular file or folder: new (a broken link",
    ] {
        assert_eq!(done.stderr.matches(words).count(), 1, "{words:?} in {}", done.stderr);
    }
    let done = run(dir.path(), &["classify", "data/train/low/pipe.png"]);
    assert!(
        done.code == 1
            && done.stderr.contains("this is a pipe")
            && done.stderr.contains("shadernet classify -`")
    );

    let dir = workplace();
    for (name, words) in
        [("data/SHA256SUMS", "SHA256SUMS: this is a pipe"), (LABELS, "ubyte: this is a pipe")]
    {
        let _ = fs::remove_file(dir.path().join(name));
        assert!(Command::new("mkfifo").arg(dir.path().join(name)).status().unwrap().success());
        let done = run(dir.path(), &TRAIN);
        assert!(done.code == 1 && done.stderr.contains(words), "{}", done.stderr);
        fs::remove_file(dir.path().join(name)).unwrap();
    }
}

#[test]
fn a_picture_comes_from_standard_input() {
    let dir = album();
    let digit = fs::read(format!("{ROOT}/data/digits/7_bar.png")).unwrap();
    let done = run_with_input(dir.path(), &["classify", "-", "--json"], &digit);
    assert_eq!(done.json()[0]["digit"], 7, "{}", done.stderr);
    let done = run_with_input(dir.path(), &["classify", "-"], b"<html>");
    assert!(
        done.code == 1 && done.stderr.contains("standard input: this is an HTML page"),
        "{}",
        done.stderr
    );
}

#[cfg(unix)]
#[test]
fn the_command_that_new_proposes_can_be_pasted() {
    let dir = tempfile::tempdir().unwrap();
    add(dir.path(), "Tom's $pics", 0..4);
    let done = ok(dir.path(), &["new", "--data", "Tom's $pics", "--out", "my net.toml"]);
    let line = done.stdout.lines().find_map(|line| line.strip_prefix("to train it: shadernet ")).unwrap();
    assert_eq!(line, r"train 'my net.toml' --data 'Tom'\''s $pics'");
    let script = format!("exec \"$PROGRAM\" {line} --device cpu --epochs 1 --quiet");
    let mut shell = Command::new("sh");
    shell.current_dir(dir.path()).env("PROGRAM", env!("CARGO_BIN_EXE_shadernet")).args(["-c", &script]);
    assert!(shell.status().unwrap().success());
}

/// "10" sorts before "2": where names are numbers, a label is not the index of its class.
#[test]
fn folders_of_numbers_and_labels_are_the_same_classes() {
    let dir = album();
    let numbers = [("high", 2), ("low", 10), ("mid", 1)];
    for (name, number) in numbers {
        for part in ["train", "test"] {
            let part = dir.path().join("data").join(part);
            fs::rename(part.join(name), part.join(number.to_string())).unwrap();
        }
    }
    ok(dir.path(), &train(&["--out", "run"]));
    let eval = |data: &str| {
        let args = ["eval", "run/model.safetensors", "--data", data, "--device", "cpu", "--json"];
        ok(dir.path(), &args).json()
    };
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for (class, (_, number)) in numbers.into_iter().enumerate() {
        for index in 12..16 {
            pixels.extend(bar(class as u32, index).into_raw());
            labels.push(number);
        }
    }
    fs::create_dir(dir.path().join("idx")).unwrap();
    fs::write(dir.path().join("idx/t10k-images-idx3-ubyte"), idx(&[12, 8, 8], &pixels)).unwrap();
    fs::write(dir.path().join("idx/t10k-labels-idx1-ubyte"), idx(&[12], &labels)).unwrap();
    let (folders, files) = (eval("data"), eval("idx"));
    assert_eq!(
        (&folders["correct"], &folders["loss"].as_f64().map(|loss| (loss * 1e5).round())),
        (&files["correct"], &files["loss"].as_f64().map(|loss| (loss * 1e5).round()))
    );
    labels[0] = 3;
    fs::write(dir.path().join("idx/t10k-labels-idx1-ubyte"), idx(&[12], &labels)).unwrap();
    let args = ["eval", "run/model.safetensors", "--data", "idx", "--device", "cpu"];
    let done = run(dir.path(), &args);
    assert!(
        done.code == 1 && done.stderr.contains("the label 3 is not a class of the model"),
        "{}",
        done.stderr
    );

    // Conversely, a network trained on labels knows folders by their numbers.
    let labelled = workplace();
    ok(labelled.path(), &train(&["--out", "run"]));
    for (class, name) in ["00", "01", "2"].into_iter().enumerate() {
        save(labelled.path(), &format!("folders/test/{name}/0.png"), bar(class as u32, 20));
    }
    let args = ["eval", "run/model.safetensors", "--data", "folders", "--device", "cpu", "--json"];
    assert_eq!(ok(labelled.path(), &args).json()["total"], 3);
}

/// A stack larger than any memory: no thread can be started.
#[cfg(unix)]
#[test]
fn without_threads_pictures_are_read_and_training_says_why_not() {
    let dir = album();
    let run = |args: &[&str]| {
        command(dir.path(), args).env("RUST_MIN_STACK", (1u64 << 46).to_string()).output().unwrap()
    };
    let done = run(&["new", "--data", "data"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let done = run(&TRAIN);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.code() == Some(1) && said.contains("cannot start"), "{said}");
}

#[test]
fn parts_and_levels_are_found() {
    let dir = album();
    fs::create_dir(dir.path().join("unpacked")).unwrap();
    fs::rename(dir.path().join("data"), dir.path().join("unpacked/data")).unwrap();
    fs::rename(dir.path().join("unpacked/data/test"), dir.path().join("unpacked/data/Val")).unwrap();
    save(dir.path(), "unpacked/data/train/loose.png", GrayImage::new(8, 8));
    let args = ["train", "tiny.toml", "--data", "unpacked", "--device", "cpu", "--epochs", "1", "--json"];
    let done = ok(dir.path(), &args);
    assert_eq!((&done.json()["train_images"], &done.json()["test_images"]), (&36.into(), &12.into()));
    for words in [
        "unpacked: the dataset is in data\n",
        "data: there is no folder `test`, so Val is used instead\n",
        "train: one picture is outside the folders of the classes and not read: loose.png\n",
    ] {
        assert_eq!(done.stderr.matches(words).count(), 1, "{words:?} in {}", done.stderr);
    }
}

/// Folders of classes without parts are test images for a network that learnt others, and not for one that learnt them.
#[test]
fn a_folder_without_parts_is_judged_whole_unless_it_was_learnt() {
    let dir = album();
    add(dir.path(), "flat", 0..12);
    add(dir.path(), "other", 20..24);
    let train = |data: &str, out: &str| {
        ok(
            dir.path(),
            &[
                "train",
                "tiny.toml",
                "--device",
                "cpu",
                "--epochs",
                "1",
                "--no-report",
                "--data",
                data,
                "--out",
                out,
            ],
        );
    };
    let eval = |run: &str, data: &str| {
        let file = format!("{run}/model.safetensors");
        let done = ok(dir.path(), &["eval", &file, "--data", data, "--device", "cpu", "--json"]);
        (done.json()["total"].as_u64().unwrap(), done.stderr)
    };
    train("flat", "run");
    let summary: Value =
        serde_json::from_slice(&fs::read(dir.path().join("run/summary.json")).unwrap()).unwrap();
    let (total, said) = eval("run", "flat");
    assert_eq!((Some(total), &*said), (summary["test_images"].as_u64(), ""));
    let (total, said) = eval("run", "other");
    assert!(total == 12 && said.contains("other: all 12 pictures are judged"), "{total}: {said}");
    // Wherever it is, and though there is more of it now.
    fs::rename(dir.path().join("flat"), dir.path().join("moved")).unwrap();
    add(dir.path(), "moved", 30..36);
    let (total, said) = eval("run", "moved");
    assert!((3..18).contains(&total) && said.is_empty(), "{total}: {said}");

    // All of `train` was learnt, where there is a `test`.
    train("data", "parts");
    let (_, said) = eval("parts", "data/train");
    assert!(said.contains("trained on all pictures of this folder"), "{said}");
    assert!(said.contains("this is one part of the dataset in") && said.contains("not read: test"), "{said}");
    assert_eq!(eval("parts", "data"), (12, String::new()));
}

/// One system stores é as one character, another as two.
#[test]
fn names_are_the_same_however_unicode_writes_them() {
    let dir = album();
    for (part, name) in [("train", "caf\u{e9}"), ("test", "cafe\u{301}")] {
        let part = dir.path().join("data").join(part);
        fs::rename(part.join("low"), part.join(name)).unwrap();
    }
    let model = TINY.replace("input", "classes = [\"cafe\u{301}\", \"high\", \"mid\"]\ninput");
    fs::write(dir.path().join("tiny.toml"), model).unwrap();
    let summary = ok(dir.path(), &train(&["--epochs", "1", "--json"])).json();
    assert_eq!((&summary["train_images"], &summary["test_images"]), (&36.into(), &12.into()));
    save(dir.path(), "data/train/cafe\u{301}/0.png", bar(0, 0));
    let done = run(dir.path(), &train(&["--epochs", "1"]));
    assert!(done.code == 1 && done.stderr.contains("which Unicode can write in two ways"), "{}", done.stderr);
}

/// Every kind of picture is learnt and classified, and one of 12 bits as such, too.
#[test]
fn pictures_of_every_kind_are_learnt() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tiny.toml"), TINY).unwrap();
    let endings = ["webp", "gif", "bmp", "tif", "TIFF", "png"];
    for (class, title) in ["high", "low", "mid"].into_iter().enumerate() {
        for index in 0..12 {
            let name = format!("data/{title}/{index}.{}", endings[index as usize % endings.len()]);
            let grey = bar(class as u32, index);
            match name.ends_with("webp") || name.ends_with("gif") {
                true => save(dir.path(), &name, DynamicImage::from(grey).to_rgba8()),
                false => save(dir.path(), &name, grey),
            }
        }
    }
    let args = ["train", "tiny.toml", "--device", "cpu", "--epochs", "1", "--json", "--data"];
    let done = ok(dir.path(), &[&args[..], &["data", "--out", "run"]].concat());
    let count = |key: &str| done.json()[key].as_u64().unwrap();
    assert_eq!(count("train_images") + count("test_images"), 36);
    assert!(!done.stderr.contains("warning"), "{}", done.stderr);
    let files = ["data/low/0.webp", "data/low/1.gif", "data/low/2.bmp", "data/low/3.tif"];
    let answers =
        ok(dir.path(), &[&["classify", "--model", "run/model.safetensors", "--json"], &files[..]].concat());
    assert_eq!(answers.json().as_array().unwrap().len(), 4);

    let deep = |name: String, class: u32, index: u32, most: u16| {
        let picture = bar(class, index);
        let pixels = picture.pixels().map(|pixel| u16::from(pixel.0[0]) * (most / 255)).collect();
        let picture = image::ImageBuffer::<image::Luma<u16>, Vec<u16>>::from_raw(8, 8, pixels).unwrap();
        save(dir.path(), &name, DynamicImage::from(picture));
    };
    for index in 0..12 {
        for (class, title) in ["high", "low", "mid"].into_iter().enumerate() {
            deep(format!("deep/{title}/{index}.tif"), class as u32, index, 4095);
        }
    }
    let done = ok(dir.path(), &[&args[..], &["deep", "--out", "deep-run"]].concat());
    assert!(done.stderr.contains("deep: 36 pictures are taken as of 12 bits"), "{}", done.stderr);
    // The network knows, wherever it sees one.
    deep("x.tif".into(), 0, 3, 4095);
    let classify = |model: &str| {
        let done = ok(dir.path(), &["classify", "--model", model, "x.tif", "--json"]);
        (done.json()[0]["probabilities"].clone(), done.stderr)
    };
    let (_, said) = classify("deep-run/model.safetensors");
    assert_eq!(said, "");
    let (_, said) = classify("run/model.safetensors");
    assert!(said.contains("x.tif: nearly black"), "{said}");
}

/// The second start takes what the first one decoded, and nothing that is damaged or has changed.
#[test]
fn decoded_pictures_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tiny.toml"), TINY).unwrap();
    add(dir.path(), "data", 0..40);
    let files = |path: &str| {
        let listed = fs::read_dir(dir.path().join(path)).into_iter().flatten();
        listed.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    // What was changed a moment ago may still change.
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    for folder in ["data/high", "data/low", "data/mid"] {
        for file in files(folder) {
            fs::File::options().write(true).open(file).unwrap().set_modified(old).unwrap();
        }
    }
    let args = ["train", "tiny.toml", "--data", "data", "--device", "cpu", "--epochs", "1", "--json"];
    let hash = |cache: &str| {
        let output = command(dir.path(), &args).env("SHADERNET_CACHE", cache).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        summary["weights_sha256"].as_str().unwrap().to_owned()
    };
    let wanted = hash("off");
    assert!(files("kept").is_empty());
    assert_eq!(hash("kept"), wanted);
    let kept = files("kept");
    assert_eq!(kept.len(), 1, "{kept:?}");
    let whole = fs::read(&kept[0]).unwrap();
    assert_eq!(hash("kept"), wanted);
    for place in [3, 40, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        fs::write(&kept[0], &bytes).unwrap();
        assert_eq!(hash("kept"), wanted, "byte {place}");
        assert_eq!(fs::read(&kept[0]).unwrap(), whole, "byte {place} was not mended");
    }
    fs::write(&kept[0], &whole[..whole.len() - 9]).unwrap();
    assert_eq!(hash("kept"), wanted);
    // Another picture under an old name, of the same size and time.
    let path = dir.path().join("data/low/7.png");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    assert_eq!(hash("kept"), wanted);
    assert_eq!(files("kept").len(), if cfg!(unix) { 2 } else { 1 });
}

/// What `dataset.toml` says beside files whose labels are numbers.
#[test]
fn a_described_dataset_has_names_and_its_networks_keep_them() {
    let dir = workplace();
    let describe = |names: &str| {
        let text = format!("classes = [{names}]\nprepare = \"picture_on_black\"\n");
        fs::write(dir.path().join("data/dataset.toml"), text).unwrap();
    };
    describe("\"top\", \"middle\", \"bottom\"");
    let done = ok(dir.path(), &train(&["--epochs", "2", "--out", "run", "--no-report"]));
    assert!(!done.stdout.contains("target of the assignment"), "{}", done.stdout);
    let model = Checkpoint::load(dir.path().join("run")).unwrap();
    assert_eq!(model.classes, ["top", "middle", "bottom"]);
    assert!(model.trained.pictures && model.trained.on_black);
    let eval = || run(dir.path(), &["eval", "run", "--device", "cpu", "--json"]);
    let accuracy = eval().json()["accuracy"].clone();
    // Other labels for the same classes.
    let (_, classes) = bars(30, 3);
    let turned: Vec<u8> = classes.iter().map(|class| 2 - class).collect();
    fs::write(dir.path().join(TEST_LABELS), idx(&[30], &turned)).unwrap();
    describe("\"bottom\", \"middle\", \"top\"");
    assert_eq!(eval().json()["accuracy"], accuracy);
    describe("\"shoe\", \"middle\", \"hat\"");
    let done = eval();
    let words = "it has none called shoe, hat; its classes are top, middle, bottom";
    assert!(done.code == 1 && done.stderr.contains(words), "{}", done.stderr);
    // What is dark on white paper is seen as it is on black.
    let shape =
        |ink: u8| GrayImage::from_fn(8, 8, |x, y| image::Luma([if x * y == 12 { ink } else { 255 - ink }]));
    save(dir.path(), "light.png", shape(0));
    save(dir.path(), "dark.png", shape(255));
    let answers = ok(dir.path(), &["classify", "--model", "run", "--json", "light.png", "dark.png"]).json();
    assert_eq!(answers[0]["probabilities"], answers[1]["probabilities"]);
    assert!(answers[0]["class"].is_string(), "{answers}");
}
