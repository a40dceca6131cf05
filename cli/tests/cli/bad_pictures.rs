//! Odd or invalid folders of pictures: a warning, or one message that says what would be valid.

use super::pictures::{add, album, bar, save};
use super::*;

#[test]
fn what_is_odd_is_said_and_does_not_stop() {
    let dir = album();
    let path = |name: &str| dir.path().join("data").join(name);
    fs::remove_dir_all(path("train/mid")).unwrap();
    save(dir.path(), "data/train/mid/0.png", bar(2, 0));
    save(dir.path(), "data/train/mid/1.png", bar(2, 1));
    fs::write(path("train/mid/cut.png"), &fs::read(path("train/mid/0.png")).unwrap()[..60]).unwrap();
    fs::write(path("train/high/notes.txt"), "").unwrap();
    fs::write(path("train/high/.hidden"), "").unwrap();
    fs::create_dir(path("val")).unwrap();
    fs::create_dir(path("train/high/empty")).unwrap();
    save(dir.path(), "data/train/high/old/1.png", bar(0, 1));
    for name in ["moving.gif", "pages.tif"] {
        let fixture = Path::new(ROOT).join("tests/fixtures/pictures").join(name);
        fs::copy(fixture, path("train/low").join(name)).unwrap();
    }
    for index in 0..5 {
        save(dir.path(), &format!("data/test/low/twin{index}.png"), bar(1, index));
    }
    let done = ok(dir.path(), &train(&["--epochs", "1", "--quiet"]));
    let data = dir.path().join("data");
    let data = data.display();
    let mut lines: Vec<_> = done.stderr.lines().collect();
    lines.sort_unstable();
    let mut wanted = [
        format!("warning: {data}: one folder is not part of the dataset and not read: val"),
        format!(
            "warning: {data}/train: one file is ignored, since only PNG, JPEG, WebP, GIF, BMP or TIFF files are read, by their \
             endings: high/notes.txt"
        ),
        format!(
            "warning: {data}: one picture is skipped, since unreadable: train/mid/cut.png: damaged PNG: "
        ),
        format!(
            "warning: {data}/train: some folders are not read, since pictures must lie directly in the folder of their class: \
             high/empty, high/old (1 picture)"
        ),
        format!(
            "warning: {data}: 2 pictures are the first of several in an animation or document, and the others are not read: \
             train/low/moving.gif, train/low/pages.tif"
        ),
        format!(
            "warning: {data}: classes are of unequal size: \"low\" has 14 training images, \"mid\" only 2; "
        ),
        format!(
            "warning: {data}: 5 test images have the same pixels as a training image, so the accuracy is too optimistic: \
             test/low/twin0.png = train/low/0.png, test/low/twin1.png = train/low/1.png, test/low/twin2.png = \
             train/low/2.png, and 2 more"
        ),
    ];
    wanted.sort_unstable();
    assert_eq!(lines.len(), wanted.len(), "{}", done.stderr);
    for (line, wanted) in lines.iter().zip(&wanted) {
        assert!(line.starts_with(wanted.as_str()), "{line}\n{wanted}");
    }
    assert_eq!(done.stdout.lines().count(), 1, "{}", done.stdout);
    // Three times as many isn't worth a warning.
    for index in 2..5 {
        save(dir.path(), &format!("data/train/mid/{index}.png"), bar(2, index));
    }
    let done = ok(dir.path(), &train(&["--epochs", "1", "--quiet"]));
    assert!(!done.stderr.contains("unequal"), "{}", done.stderr);
}

#[test]
fn what_cannot_be_trained_on_is_refused() {
    let text = |name: &'static str, change: &'static dyn Fn(&str) -> String| {
        move |dir: &Path| fs::write(dir.join(name), change(TINY)).unwrap()
    };
    let drop_folders = |names: &'static [&'static str]| {
        move |dir: &Path| names.iter().for_each(|name| fs::remove_dir_all(dir.join(name)).unwrap())
    };
    let empty = |name: &'static str| {
        move |dir: &Path| {
            fs::remove_dir_all(dir.join(name)).unwrap();
            fs::create_dir(dir.join(name)).unwrap();
        }
    };
    let garbage = |dir: &Path| {
        for index in 0..12 {
            fs::write(dir.join(format!("data/train/mid/{index}.png")), "").unwrap();
        }
    };
    let eval = ["eval", "x.safetensors", "--data", "data", "--device", "cpu"];
    let train_and = |spoil: &'static dyn Fn(&Path)| {
        move |dir: &Path| {
            ok(dir, &train(&["--epochs", "1", "--out", "run"]));
            fs::rename(dir.join("run/model.safetensors"), dir.join("x.safetensors")).unwrap();
            fs::remove_dir_all(dir.join("run")).unwrap();
            spoil(dir);
        }
    };
    let one = |dir: &Path| {
        fs::remove_dir_all(dir.join("data")).unwrap();
        add(dir, "data", 0..1);
    };
    let many = |dir: &Path| {
        for class in 0..257 {
            save(dir, &format!("data/train/{class}/0.png"), bar(0, 0));
        }
    };
    let large = |dir: &Path| {
        add(dir, "data/train", 12..220);
        fs::write(dir.join("tiny.toml"), TINY.replace("8, 8]", "1900, 1900]")).unwrap();
    };
    type Case<'a> = (&'a str, &'a dyn Fn(&Path), &'a [&'a str], i32, &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        (
            "one class",
            &drop_folders(&["data/train/low", "data/train/mid"]),
            &TRAIN,
            1,
            &["data/train: ", "\"high\" is the only class"],
        ),
        (
            "no images",
            &|dir| ["high", "low", "mid"].iter().for_each(|class| empty_folder(dir, class)),
            &TRAIN,
            1,
            &["there are no pictures (PNG, JPEG, WebP, GIF, BMP or TIFF) in its 3 folders"],
        ),
        (
            "an empty class",
            &empty("data/train/low"),
            &TRAIN,
            1,
            &["data/train/low: this class has no picture"],
        ),
        (
            "an empty test class",
            &empty("data/test/low"),
            &TRAIN,
            1,
            &["data/test/low: this class has no picture"],
        ),
        (
            "no test images",
            &drop_folders(&["data/test/mid"]),
            &TRAIN,
            1,
            &["train has the class \"mid\", but test does not"],
        ),
        (
            "no training images",
            &drop_folders(&["data/train/mid"]),
            &TRAIN,
            1,
            &["test has the class \"mid\", but train does not"],
        ),
        (
            "no training folder",
            &drop_folders(&["data/train"]),
            &TRAIN,
            1,
            &["a folder test, but no folder `train`"],
        ),
        ("one picture", &one, &TRAIN, 1, &["data/high: this class has only one picture"]),
        (
            "nothing to read",
            &garbage,
            &TRAIN,
            1,
            &["none of the 12 pictures of the class \"mid\" can be read"],
        ),
        ("many classes", &many, &TRAIN, 1, &["there are 260 classes; at most 256"]),
        (
            "channels",
            &text("tiny.toml", &|tiny| tiny.replace("[1, 8, 8]", "[2, 8, 8]")),
            &TRAIN,
            1,
            &["1 channel (grey) or 3 (RGB), but the model takes 2", "`shadernet new --data "],
        ),
        (
            "too few values",
            &drop_folders(&["data/train/mid", "data/test/mid"]),
            &TRAIN,
            1,
            &["there are 2 classes, but the model tiny ends with 3 values", "`shadernet new --data "],
        ),
        (
            "other names",
            &text("tiny.toml", &|tiny| {
                tiny.replace("input", "classes = [\"high\", \"mid\", \"low\"]\ninput")
            }),
            &TRAIN,
            1,
            &[
                "the classes of the data are [\"high\", \"low\", \"mid\"], but the model tiny has classes = [\"high\", \"mid\", \"low\"]",
            ],
        ),
        ("memory", &large, &TRAIN, 1, &["660 pictures of [1, 1900, 1900]", "take 2382600000 bytes"]),
        (
            "unknown class",
            &train_and(&|dir| fs::rename(dir.join("data/test/low"), dir.join("data/test/new")).unwrap()),
            &eval,
            1,
            &["\"new\" is not a class of the model; its classes are high, low, mid"],
        ),
        (
            "a file that exists",
            &|dir| fs::write(dir.join("model.toml"), "mine").unwrap(),
            &["new", "--data", "data"],
            2,
            &["model.toml exists; use `--force` to replace it, or choose another name"],
        ),
        (
            "no place",
            &|_| (),
            &["new", "--data", "data", "--out", "no/model.toml"],
            1,
            &["cannot write no/model.toml"],
        ),
        (
            "no data",
            &|_| (),
            &["new", "--data", "nowhere"],
            1,
            &["nowhere: there is no such folder; `shadernet data mnist`"],
        ),
        (
            "the default",
            &|_| (),
            &["train", "tiny.toml"],
            1,
            &["data/mnist: there is no such folder; `shadernet data mnist`", "--data"],
        ),
    ];
    for (what, spoil, args, code, words) in cases {
        let dir = album();
        spoil(dir.path());
        let before = listing(dir.path());
        let done = run(dir.path(), args);
        assert_eq!(done.code, *code, "{what}: {} {}", done.stdout, done.stderr);
        for word in *words {
            assert!(done.stderr.contains(word), "{what}: {word:?} is not in {}", done.stderr);
        }
        assert_eq!(listing(dir.path()), before, "{what}");
    }
    let dir = album();
    fs::write(dir.path().join("model.toml"), "mine").unwrap();
    ok(dir.path(), &["new", "--data", "data", "--force"]);
    ok(dir.path(), &["train", "model.toml", "--data", "data", "--device", "cpu", "--epochs", "1"]);
}

fn empty_folder(dir: &Path, class: &str) {
    let folder = dir.join("data/train").join(class);
    fs::remove_dir_all(&folder).unwrap();
    fs::create_dir(folder).unwrap();
}
