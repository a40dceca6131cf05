//! Everything that a user can get wrong: one message that says where and what would be valid, and nothing half-written.

use super::*;

/// The error, how to cause it, the arguments, the exit code, and words that the message must contain.
type Case<'a> = (&'a str, &'a dyn Fn(&Path), &'a [&'a str], i32, &'a [&'a str]);

fn check(cases: &[Case<'_>]) {
    for (what, spoil, args, code, words) in cases {
        let dir = workplace();
        spoil(dir.path());
        let before = listing(dir.path());
        let done = run(dir.path(), args);
        assert_eq!(done.code, *code, "{what}: {}", done.stderr);
        assert!(done.stderr.contains("error: "), "{what}: {}", done.stderr);
        for word in *words {
            assert!(done.stderr.contains(word), "{what}: {word:?} is not in {}", done.stderr);
        }
        let added: Vec<_> = listing(dir.path()).difference(&before).cloned().collect();
        assert!(added.is_empty(), "{what}: left {added:?}");
    }
}

fn nothing(_: &Path) {}

fn write(name: &'static str, bytes: impl AsRef<[u8]>) -> impl Fn(&Path) {
    move |dir: &Path| fs::write(dir.join(name), &bytes).unwrap()
}

/// `tiny.toml` with a piece of its text replaced.
fn model(from: &'static str, to: &'static str) -> impl Fn(&Path) {
    assert!(TINY.contains(from), "{from}");
    write("tiny.toml", TINY.replacen(from, to, 1))
}

#[test]
fn data_sets() {
    let (images, _) = bars(60, 3);
    let labels: Vec<u8> = (0..30).map(|image| image % 4).collect();
    let (other, _) = bars(60, 4);
    let square = idx(&[30, 4, 4], &[9; 480]);
    let cases: &[Case<'_>] = &[
        ("no folder", &|dir| fs::remove_dir_all(dir.join("data")).unwrap(), &TRAIN, 1, &["data"]),
        ("no file", &|dir| fs::remove_file(dir.join(LABELS)).unwrap(), &TRAIN, 1, &["data", "train-labels"]),
        (
            "truncated",
            &write(IMAGES, &images[..1000]),
            &TRAIN,
            1,
            &[IMAGES, "declares 3856 bytes, found 1000"],
        ),
        (
            "wrong magic",
            &write(IMAGES, b"PK\x03\x04 zip"),
            &TRAIN,
            1,
            &[IMAGES, "a ZIP archive, which must be unpacked"],
        ),
        ("too long", &write(IMAGES, [&images[..], &[0]].concat()), &TRAIN, 1, &[IMAGES, "longer than"]),
        (
            "terabytes",
            &write(IMAGES, idx(&[1 << 24, 4096, 4096], &[1])),
            &TRAIN,
            1,
            &[IMAGES, "281474976710656 bytes, but at most"],
        ),
        ("label", &write(TEST_LABELS, idx(&[30], &labels)), &TRAIN, 1, &[TEST_LABELS, "label 3 of image 3"]),
        ("counts", &write(LABELS, idx(&[59], &[0; 59])), &TRAIN, 1, &[LABELS, "59 labels", "60 images"]),
        ("two sizes", &write(TEST_IMAGES, square), &TRAIN, 1, &["8x8", "4x4"]),
        ("classes", &write(LABELS, idx(&[60], &[1; 60])), &TRAIN, 1, &["label 0 of image 0"]),
        (
            "more classes",
            &|dir| {
                write(IMAGES, &other)(dir);
                write(LABELS, idx(&[60], &(0..60).map(|image| image % 4).collect::<Vec<_>>()))(dir);
            },
            &TRAIN,
            1,
            &["4 classes", "tiny ends with 3 values"],
        ),
        ("image size", &model("[1, 8, 8]", "[1, 9, 9]"), &TRAIN, 1, &["[1, 8, 8]", "tiny takes [1, 9, 9]"]),
        ("hold-out", &nothing, &train(&["--hold-out", "60"]), 2, &["cannot hold out 60 of 60"]),
    ];
    check(cases);
}

#[test]
fn model_files() {
    let cases: &[Case<'_>] = &[
        ("missing", &nothing, &["train", "no.toml"], 1, &["no.toml"]),
        ("a folder", &nothing, &["train", "data"], 1, &["data"]),
        ("no text", &write("tiny.toml", [0xff, 0xfe, 0]), &TRAIN, 2, &["tiny.toml", "not a UTF-8 text"]),
        ("too large", &write("tiny.toml", vec![b' '; 2 << 20]), &TRAIN, 2, &["tiny.toml", "too large"]),
        ("no TOML", &write("tiny.toml", "name = "), &TRAIN, 2, &["tiny.toml:1: "]),
        (
            "unknown key",
            &model("epochs", "epoch"),
            &TRAIN,
            2,
            &["tiny.toml:14: ", "no key `epoch`", "did you mean epochs"],
        ),
        (
            "unknown layer",
            &model("\"relu\"", "\"rellu\""),
            &TRAIN,
            2,
            &["tiny.toml:6: ", "rellu", "leaky_relu"],
        ),
        ("large kernel", &model("kernel = 3", "kernel = 9"), &TRAIN, 2, &["tiny.toml:5: ", "conv1", "9"]),
        (
            "no channels",
            &model("out_channels = 4", "out_channels = 0"),
            &TRAIN,
            2,
            &["tiny.toml:5: ", "conv1"],
        ),
        (
            "no class values",
            &model(
                "  { type = \"global_avg_pool2d\" },\n",
                "  { type = \"relu\" },\n  { type = \"dropout\" },\n",
            ),
            &TRAIN,
            2,
            &["tiny.toml:"],
        ),
        (
            "no classes",
            &model("kernel = 3 },\n  { type = \"global_avg_pool2d\" }", "kernel = 2 }"),
            &["summary", "tiny.toml"],
            2,
            &["tiny.toml:10: ", "one value per class", "global_avg_pool2d"],
        ),
        (
            "weights of nobody",
            &model("out_channels = 3", "weights_of = \"conv9\", out_channels = 3"),
            &TRAIN,
            2,
            &["tiny.toml:10: ", "conv2", "no earlier layer \"conv9\" for weights_of (did you mean conv1?)"],
        ),
        ("rate", &model("peak = 0.02", "peak = -1.0"), &TRAIN, 2, &["learning_rate.peak = -1"]),
    ];
    check(cases);
}

#[test]
fn arguments_and_devices() {
    let blocked = |dir: &Path| fs::write(dir.join("file"), "").unwrap();
    let taken = |dir: &Path| {
        fs::create_dir(dir.join("taken")).unwrap();
        fs::write(dir.join("taken/file"), "").unwrap();
    };
    // Weight decay multiplies each weight by -99 in every step.
    let diverging = model(
        "optimizer = { type = \"adam\" }\nlearning_rate = { schedule = \"cosine\", peak = 0.02 }",
        "optimizer = { type = \"sgd\", weight_decay = 1.0 }\nlearning_rate = { schedule = \"constant\", rate = 100.0 }",
    );
    let many = |dir: &Path| {
        write(IMAGES, bars(400, 3).0)(dir);
        write(LABELS, idx(&[400], &bars(400, 3).1))(dir);
    };
    let eval = ["eval", "x.safetensors", "--device", "nosuchthing", "--data", "data"];
    let cases: &[Case<'_>] = &[
        ("flag", &nothing, &train(&["--epoch-count", "3"]), 2, &["--epoch-count"]),
        ("command", &nothing, &["trian"], 2, &["trian"]),
        ("epochs", &nothing, &train(&["--epochs", "0"]), 2, &["epochs = 0", "1 to 100000"]),
        ("batch size", &nothing, &train(&["--batch-size", "0"]), 2, &["batch_size = 0"]),
        ("steps", &nothing, &train(&["--max-steps", "0"]), 2, &["--max-steps"]),
        ("replicas", &nothing, &train(&["--replicas", "0"]), 2, &["--replicas"]),
        ("seeds", &nothing, &train(&["--replicas", "2", "--seed", "4294967295"]), 2, &["4294967295"]),
        ("switch", &nothing, &train(&["--augment", "maybe"]), 2, &["--augment", "on"]),
        ("threads", &nothing, &train(&["--threads", "0"]), 2, &["--threads"]),
        (
            "device",
            &nothing,
            &["train", "tiny.toml", "--data", "data", "--device", "nosuchthing"],
            2,
            &["nosuchthing"],
        ),
        (
            "no device",
            &nothing,
            &["train", "tiny.toml", "--data", "data", "--device", ""],
            2,
            &["--device is empty"],
        ),
        (
            "threads of a GPU",
            &nothing,
            &["train", "--device", "gpu", "--threads", "2", "--data", "data", "tiny.toml"],
            2,
            &["--threads applies only to the CPU"],
        ),
        (
            "taken",
            &taken,
            &train(&["--out", "taken"]),
            2,
            &["taken: this folder exists and is not empty", "--resume DIR"],
        ),
        ("a file", &blocked, &train(&["--out", "file"]), 2, &["file: this is a file"]),
        ("below a file", &blocked, &train(&["--out", "file/x"]), 1, &["file/x"]),
        ("runs is a file", &write("runs", ""), &TRAIN, 1, &["cannot make the folder runs"]),
        ("too many steps", &many, &train(&["--epochs", "100000", "--batch-size", "1"]), 2, &["at most"]),
        (
            "diverged",
            &diverging,
            &train(&["--out", "x", "--batch-size", "2"]),
            2,
            &["diverged", "learning_rate"],
        ),
        ("missing model", &nothing, &eval, 1, &["x.safetensors"]),
        ("no image", &nothing, &["classify"], 2, &["IMAGE"]),
        ("no digits", &write("x.png", ""), &["classify", "x.png"], 1, &["x.png", "empty"]),
    ];
    check(cases);
}

#[test]
fn trained_models() {
    // Created once, and copied into each workplace.
    let source = workplace();
    ok(source.path(), &train(&["--max-steps", "2", "--out", "run"]));
    let file = |name: &str| fs::read(source.path().join("run").join(name)).unwrap();
    let (good, state) = (file("model.safetensors"), file("checkpoint.safetensors"));
    let seed = fs::read(format!("{ROOT}/data/models/seed.safetensors")).unwrap();
    let pytorch = fs::read(format!("{ROOT}/tests/fixtures/interchange.safetensors")).unwrap();
    let spoiled = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        write("x.safetensors", bytes)
    };
    let last = good.len() - 1;
    let eval = ["eval", "x.safetensors", "--device", "cpu", "--data", "data"];
    let init = train(&["--init", "x.safetensors"]);
    let resume = ["train", "--resume", "run", "--device", "cpu"];
    let run_with = |state: Vec<u8>| {
        move |dir: &Path| {
            fs::create_dir(dir.join("run")).unwrap();
            fs::write(dir.join("run/checkpoint.safetensors"), &state).unwrap();
        }
    };
    let good_run = run_with(state.clone());
    let cases: &[Case<'_>] = &[
        (
            "other shapes",
            &write("x.safetensors", &seed),
            &init,
            1,
            &["x.safetensors: conv1.weight: the file has [8, 1, 3, 3], but the model needs [4, 1, 3, 3]"],
        ),
        ("other data", &write("x.safetensors", &seed), &eval, 1, &["[1, 8, 8]", "[1, 28, 28]"]),
        ("PyTorch's", &write("x.safetensors", &pytorch), &eval, 1, &["x.safetensors", "--init"]),
        (
            "a run's state",
            &write("x.safetensors", &state),
            &eval,
            1,
            &["`shadernet train --resume .`", "no model.safetensors next to it"],
        ),
        ("a run's state to start from", &write("x.safetensors", &state), &init, 1, &["--resume"]),
        ("empty", &spoiled(&|bytes| bytes.clear()), &eval, 1, &["x.safetensors", "ends after 0 bytes"]),
        ("truncated", &spoiled(&|bytes| bytes.truncate(last)), &eval, 1, &["x.safetensors: damaged"]),
        ("a giant's header", &spoiled(&|bytes| bytes[5] = 1), &init, 1, &["at most 1048576 are allowed"]),
        ("no safetensors", &write("x.safetensors", TINY), &init, 1, &["x.safetensors"]),
        (
            "a flipped bit",
            &spoiled(&|bytes| bytes[last - 3] ^= 1),
            &eval,
            1,
            &["damaged, or changed after it was written: its SHA-256 is"],
        ),
        ("no run", &nothing, &resume, 2, &["--resume run", "no such folder"]),
        ("no state", &run_with(good.clone()), &resume, 1, &["not the state of a run"]),
        ("a damaged state", &run_with(state[..state.len() - 9].to_vec()), &resume, 1, &["damaged"]),
        (
            "another recipe",
            &good_run,
            &["train", "--resume", "run", "--batch-size", "9"],
            2,
            &["--resume", "--batch-size", "start a new run with --init run"],
        ),
        (
            "other images",
            &|dir| {
                good_run(dir);
                write(TEST_LABELS, idx(&[30], &[0; 30]))(dir);
            },
            &["train", "--resume", "run", "--device", "cpu", "--data", "data"],
            1,
            &["not the images that the run", "start a new run with `shadernet train MODEL.toml --init run`"],
        ),
    ];
    check(cases);
}

/// Each format separately: `export seed.safetensors --html page.html` and so on.
#[test]
fn exports() {
    const SEED: &[u8] = include_bytes!("../../../data/models/seed.safetensors");
    let model = write("seed.safetensors", SEED);
    let taken = |file: &'static str| {
        let model = &model;
        move |dir: &Path| {
            model(dir);
            write(file, "mine")(dir);
        }
    };
    check(&[("no format", &model, &["export", "seed.safetensors"], 2, &["--html", "--onnx", "--pytorch"])]);
    for (format, file, below) in [
        ("--html", "page.html", "no/page.html"),
        ("--onnx", "net.onnx", "no/net.onnx"),
        ("--pytorch", "net.py", "no/net.py"),
    ] {
        let export = ["export", "seed.safetensors", format, file];
        let cases: &[Case<'_>] = &[
            ("missing", &nothing, &export, 1, &["cannot read seed.safetensors"]),
            (
                "empty",
                &write("seed.safetensors", ""),
                &export,
                1,
                &["seed.safetensors", "ends after 0 bytes"],
            ),
            (
                "damaged",
                &write("seed.safetensors", &SEED[..9000]),
                &export,
                1,
                &["seed.safetensors: damaged"],
            ),
            (
                "changed",
                &write("seed.safetensors", [&SEED[..SEED.len() - 1], &[77]].concat()),
                &export,
                1,
                &["seed.safetensors: damaged, or changed after it was written: its SHA-256 is"],
            ),
            (
                "a description",
                &nothing,
                &["export", "tiny.toml", format, file],
                1,
                &[
                    "tiny.toml: this is a model description",
                    "train it first with `shadernet train tiny.toml`",
                ],
            ),
            (
                "exists",
                &taken(file),
                &export,
                2,
                &[&format!("{file} exists; use `--force` to replace it, or choose another name")],
            ),
            (
                "a folder",
                &model,
                &["export", "seed.safetensors", format, "data", "--force"],
                2,
                &["data: this is a folder; name a file"],
            ),
            (
                "no such folder",
                &model,
                &["export", "seed.safetensors", format, below],
                1,
                &[&format!("cannot write {below}")],
            ),
            (
                "below a file",
                &model,
                &["export", "seed.safetensors", format, "tiny.toml/x"],
                1,
                &["cannot write tiny.toml/x"],
            ),
        ];
        check(cases);
    }
    let several = ["export", "seed.safetensors", "--html", "page.html", "--pytorch", "net.py", "--onnx"];
    let cases: &[Case<'_>] = &[
        (
            "one of several is in the way",
            &taken("net.py"),
            &[&several[..], &["net.onnx"]].concat(),
            2,
            &["net.py exists"],
        ),
        (
            "one of several has no folder",
            &model,
            &[&several[..], &["no/net.onnx"]].concat(),
            1,
            &["no/net.onnx"],
        ),
        (
            "nothing to train on the page with",
            &model,
            &["export", "seed.safetensors", "--html", "page.html", "--train-here", "--data", "none"],
            1,
            &["none"],
        ),
        (
            "no page to train on",
            &model,
            &["export", "seed.safetensors", "--pytorch", "net.py", "--train-here"],
            2,
            &["--html"],
        ),
        (
            "nothing to verify on",
            &model,
            &["export", "seed.safetensors", "--pytorch", "net.py", "--verify"],
            2,
            &["--onnx"],
        ),
    ];
    check(cases);
}

/// Permissions don't stop the superuser.
#[cfg(unix)]
#[test]
fn a_read_only_folder() {
    use std::os::unix::fs::PermissionsExt;
    let dir = workplace();
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(closed.join("x"), "").is_ok() {
        return;
    }
    let seed = format!("{ROOT}/data/models/seed.safetensors");
    for args in [
        &["export", &seed, "--onnx", "closed/x"][..],
        &["export", &seed, "--pytorch", "closed/x"],
        &["export", &seed, "--html", "closed/x"],
        &["new", "--data", "data", "--out", "closed/x"],
    ] {
        let done = run(dir.path(), args);
        assert_eq!(done.code, 1, "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains("error: cannot write closed/x: "), "{args:?}: {}", done.stderr);
    }
}
