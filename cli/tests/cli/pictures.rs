//! Folders of pictures per class: from `new` to `classify`, split or not, next to models of other sizes.

use image::{DynamicImage, GrayImage, Rgb, RgbImage};
use shadernet::dataset::Part;

use super::*;

pub(super) fn save(dir: &Path, name: &str, picture: impl Into<DynamicImage>) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    picture.into().save(path).unwrap();
}

/// A grey picture of 8x8 pixels with a bar at its class's position, different from all others.
pub(super) fn bar(class: u32, index: u32) -> GrayImage {
    let (pixels, _) = bars(3 * (index + 1), 3);
    let pixels = &pixels[pixels.len() - 64 * (3 - class as usize)..][..64];
    GrayImage::from_raw(8, 8, pixels.to_vec()).unwrap()
}

/// Adds pictures of three classes to `dir/name/<class>`.
pub(super) fn add(dir: &Path, name: &str, numbers: std::ops::Range<u32>) {
    for (class, title) in ["high", "low", "mid"].into_iter().enumerate() {
        for index in numbers.clone() {
            save(dir, &format!("{name}/{title}/{index}.png"), bar(class as u32, index));
        }
    }
}

/// `tiny.toml` next to pictures of its three classes, split into `train` and `test`.
pub(super) fn album() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tiny.toml"), TINY).unwrap();
    add(dir.path(), "data/train", 0..12);
    add(dir.path(), "data/test", 12..16);
    dir
}

#[test]
fn two_thousand_digits_as_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let mnist = Images::load(&Path::new(ROOT).join("data/mnist"), Part::Train).unwrap();
    let mut left = [200; 10];
    for (index, (pixels, &label)) in mnist.pixels.chunks(784).zip(&mnist.labels).enumerate() {
        if left[usize::from(label)] > 0 {
            left[usize::from(label)] -= 1;
            let picture = GrayImage::from_raw(28, 28, pixels.to_vec()).unwrap();
            save(dir.path(), &format!("digits/{label}/{index}.png"), picture);
        }
    }
    let done = ok(dir.path(), &["new", "--data", "digits"]);
    for words in [
        " training images, grey, 28x28",
        "10 classes",
        "to train it: shadernet train model.toml --data digits",
    ] {
        assert!(done.stdout.contains(words), "{words:?} is not in {}", done.stdout);
    }
    let model =
        Model::parse(&fs::read_to_string(dir.path().join("model.toml")).unwrap(), "model.toml").unwrap();
    assert!(model.parameter_count() < 20_000);

    let args = [
        "train",
        "model.toml",
        "--data",
        "digits",
        "--device",
        "cpu",
        "--epochs",
        "8",
        "--out",
        "run",
        "--json",
    ];
    let done = ok(dir.path(), &args);
    let summary = done.json();
    let count = |key: &str| summary[key].as_u64().unwrap();
    assert_eq!(count("train_images") + count("test_images"), 2000);
    assert!((280..390).contains(&count("test_images")), "{summary}");
    let accuracy = summary["final_test_accuracy"].as_f64().unwrap();
    println!("{accuracy} % of {} in {} s", count("test_images"), summary["seconds"]);
    assert!(accuracy >= 95.0, "{summary}");
    assert!(!done.stderr.contains("warning"), "{}", done.stderr);

    let eval =
        ok(dir.path(), &["eval", "run/model.safetensors", "--data", "digits", "--device", "cpu", "--json"]);
    assert!((eval.json()["accuracy"].as_f64().unwrap() - accuracy).abs() < 1e-4, "{}", eval.stdout);

    // It sees its training pictures as in training: stretched, not redrawn.
    let checkpoint = Checkpoint::load(dir.path().join("run/model.safetensors")).unwrap();
    assert!(checkpoint.trained.pictures && checkpoint.classes[3] == "3");
    let name = listing(&dir.path().join("digits/3")).into_iter().next().unwrap();
    let answer =
        ok(dir.path(), &["classify", "--model", "run/model.safetensors", name.to_str().unwrap(), "--json"])
            .json();
    assert_eq!(answer[0]["class"], "3", "{answer}");
}

#[test]
fn colours_are_learned_and_classified() {
    let dir = tempfile::tempdir().unwrap();
    // Only a model that sees colours can distinguish two colours of equal lightness.
    for (class, [r, g, b]) in [("blue", [60u8, 100, 200]), ("olive", [120, 101, 15])] {
        for index in 0..24u32 {
            let tone =
                |value: u8, x: u32, y: u32| value.saturating_add(((x * 7 + y * 3 + index * 5) % 40) as u8);
            let picture =
                RgbImage::from_fn(40 + index, 30, |x, y| Rgb([tone(r, x, y), tone(g, x, y), tone(b, x, y)]));
            save(
                dir.path(),
                &format!("data/{class}/{index}.{}", ["png", "JPG", "jpeg"][index as usize % 3]),
                picture,
            );
        }
    }
    let done = ok(dir.path(), &["new", "--data", "data", "--out", "colours.toml"]);
    assert!(done.stdout.contains("RGB") && done.stdout.contains("input [3, 32, 52]"), "{}", done.stdout);
    let args = [
        "train",
        "colours.toml",
        "--data",
        "data",
        "--device",
        "cpu",
        "--epochs",
        "6",
        "--out",
        "run",
        "--json",
    ];
    let summary = ok(dir.path(), &args).json();
    assert_eq!(summary["final_test_accuracy"], 100.0, "{summary}");
    let args =
        ["classify", "--model", "run/model.safetensors", "data/olive/3.png", "data/blue/4.JPG", "--json"];
    let answers = ok(dir.path(), &args).json();
    assert_eq!((&answers[0]["class"], &answers[1]["class"]), (&"olive".into(), &"blue".into()), "{answers}");
    let args = ["classify", "--model", "run/model.safetensors", "data/olive/3.png"];
    assert!(ok(dir.path(), &args).stdout.starts_with("data/olive/3.png: olive ("));

    // A one-channel model sees the same pictures in grey.
    let text = fs::read_to_string(dir.path().join("colours.toml")).unwrap();
    let (before, after) = text.split_once(", saturation").unwrap();
    let grey =
        [before, &after[after.find(", fill").unwrap()..]].concat().replace("[3, 32, 52]", "[1, 32, 52]");
    fs::write(dir.path().join("grey.toml"), grey).unwrap();
    let args = [
        "train",
        "grey.toml",
        "--data",
        "data",
        "--device",
        "cpu",
        "--epochs",
        "1",
        "--out",
        "grey",
        "--json",
    ];
    assert_eq!(ok(dir.path(), &args).json()["train_images"], summary["train_images"]);
}

#[test]
fn parts_and_held_out_images() {
    let dir = album();
    let summary = |data: &str, more: &[&str]| {
        let args = ["train", "tiny.toml", "--device", "cpu", "--epochs", "1", "--json", "--data", data];
        ok(dir.path(), &[&args, more].concat()).json()
    };
    let counts =
        |summary: &Value| [&summary["train_images"], &summary["test_images"]].map(|n| n.as_u64().unwrap());
    assert_eq!(counts(&summary("data", &["--out", "given"])), [36, 12]);
    let model = Checkpoint::load(dir.path().join("given/model.safetensors")).unwrap();
    assert_eq!(model.classes, ["high", "low", "mid"]);
    // Mean and deviation are those of the training images.
    let pixels: Vec<u8> =
        (0..3).flat_map(|class| (0..12).flat_map(move |index| bar(class, index).into_raw())).collect();
    let mean = pixels.iter().map(|&pixel| f64::from(pixel)).sum::<f64>() / 255.0 / pixels.len() as f64;
    let (found, _) = model.normalization.common().unwrap();
    assert!((f64::from(found) - mean).abs() < 1e-4, "{found} {mean}");

    // The test folder is not opened.
    assert_eq!(counts(&summary("data", &["--hold-out", "6"])), [30, 6]);
    fs::rename(dir.path().join("data/test"), dir.path().join("kept")).unwrap();
    assert_eq!(counts(&summary("data", &["--out", "split"])), [30, 6]);
    assert_eq!(counts(&summary("data", &["--hold-out", "6"])), [24, 6]);
    // The split is by name: the folder's location does not matter.
    fs::rename(dir.path().join("data/train"), dir.path().join("moved")).unwrap();
    let sorted = summary("moved", &["--out", "moved-run"]);
    let hash = |folder: &str| {
        Checkpoint::load(dir.path().join(folder).join("model.safetensors")).unwrap().weights_sha256()
    };
    assert_eq!((counts(&sorted), hash("moved-run")), ([30, 6], hash("split")));

    // A run resumes with the same pictures, but not with others.
    let start =
        ["train", "tiny.toml", "--data", "moved", "--device", "cpu", "--max-steps", "1", "--out", "run"];
    ok(dir.path(), &start);
    ok(dir.path(), &["train", "--resume", "run", "--device", "cpu", "--quiet"]);
    fs::remove_file(dir.path().join("moved/low/3.png")).unwrap();
    let done = run(dir.path(), &["train", "--resume", "run", "--device", "cpu"]);
    assert!(done.stderr.contains("not the images that the run in run began with"), "{}", done.stderr);

    // A trained model knows its classes by name, whatever folders exist.
    fs::remove_dir_all(dir.path().join("kept/high")).unwrap();
    fs::create_dir(dir.path().join("some")).unwrap();
    fs::rename(dir.path().join("kept"), dir.path().join("some/test")).unwrap();
    let file = "given/model.safetensors";
    let eval = ok(dir.path(), &["eval", file, "--data", "some", "--device", "cpu", "--json"]).json();
    assert_eq!(eval["total"], 8);
    fs::rename(dir.path().join("some/test/low"), dir.path().join("some/test/deep")).unwrap();
    let done = run(dir.path(), &["eval", file, "--data", "some", "--device", "cpu"]);
    assert!(
        done.stderr.contains("\"deep\" is not a class of the model; its classes are high, low, mid"),
        "{}",
        done.stderr
    );
}

#[test]
fn experiments_take_pictures_and_models_of_several_sizes() {
    let dir = album();
    fs::write(
        dir.path().join("large.toml"),
        TINY.replace("[1, 8, 8]", "[3, 12, 12]").replace("tiny", "large"),
    )
    .unwrap();
    let suite = r#"
name = "sizes"
target = 50.0
select = { hold_out = 6, first_seed = 5, seeds = 1 }
test = { first_seed = 0, seeds = 1 }
[[groups]]
name = "sizes"
question = "which size?"
arms = [{ name = "8", model = "tiny.toml" }, { name = "12", model = "large.toml" }]
"#;
    fs::write(dir.path().join("suite.toml"), suite).unwrap();
    save(dir.path(), "data/train/low/bad.png", bar(0, 0));
    fs::write(dir.path().join("data/train/low/bad.png"), "").unwrap();
    let done = ok(dir.path(), &["experiments", "suite.toml", "--data", "data", "--device", "cpu"]);
    assert!(done.stderr.contains("warning: data: one picture is skipped"), "{}", done.stderr);
    assert_eq!(done.stdout.matches(" % after epoch 3").count(), 2, "{}", done.stdout);
}

#[test]
fn idx_files_stay_idx_files() {
    let dir = workplace();
    // Folders next to them don't matter.
    add(dir.path(), "data", 0..2);
    let summary = ok(dir.path(), &train(&["--epochs", "1", "--json"])).json();
    assert_eq!((&summary["train_images"], &summary["test_images"]), (&60.into(), &30.into()));
    let done = ok(dir.path(), &["new", "--data", "data"]);
    assert!(
        done.stdout.contains("60 training images, grey, 8x8") && done.stdout.contains("3 classes"),
        "{}",
        done.stdout
    );
    // A class may be called train.
    let trains = tempfile::tempdir().unwrap();
    add(trains.path(), "data", 0..6);
    fs::rename(trains.path().join("data/low"), trains.path().join("data/train")).unwrap();
    fs::write(trains.path().join("tiny.toml"), TINY).unwrap();
    let summary = ok(trains.path(), &train(&["--epochs", "1", "--json"])).json();
    assert_eq!((&summary["train_images"], &summary["test_images"]), (&14.into(), &4.into()));
}
