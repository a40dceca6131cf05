//! The program as its users see it: whole processes, real files, small datasets made by the tests.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::Value;
use shadernet::checkpoint::{Checkpoint, read_weights};
use shadernet::dataset::Images;
use shadernet::device::Device;
use shadernet::model::Model;
use shadernet::normalization::Normalization;

#[path = "cli/bad_input.rs"]
mod bad_input;
#[path = "cli/bad_pictures.rs"]
mod bad_pictures;
#[path = "cli/classify.rs"]
mod classify;
#[path = "../../tests/common/adapter.rs"]
mod common;
#[path = "cli/device.rs"]
mod device;
#[path = "cli/experiments.rs"]
mod experiments;
#[path = "cli/int8.rs"]
mod int8;
#[cfg(target_os = "linux")]
#[path = "cli/memory.rs"]
mod memory;
#[path = "cli/odd_data.rs"]
mod odd_data;
#[path = "cli/outputs.rs"]
mod outputs;
#[path = "cli/pictures.rs"]
mod pictures;
#[path = "cli/report.rs"]
mod report;
#[path = "cli/shell.rs"]
mod shell;
#[cfg(unix)]
#[path = "common/signals.rs"]
mod signals;
#[cfg(unix)]
#[path = "cli/stop.rs"]
mod stop;
#[path = "cli/sweep.rs"]
mod sweep;
#[path = "cli/terminal.rs"]
mod terminal;
#[path = "cli/training.rs"]
mod training;
#[path = "cli/weights.rs"]
mod weights;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A process's output and exit code.
struct Done {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Done {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {:?}", self.stdout))
    }
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shadernet"));
    // Tests of it name a folder of their own.
    command.current_dir(dir).args(args).env("SHADERNET_CACHE", "off");
    command
}

fn run(dir: &Path, args: &[&str]) -> Done {
    let output = command(dir, args).output().unwrap();
    let done = Done {
        code: output.status.code().unwrap_or_else(|| panic!("{args:?}: {}", output.status)),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(!done.stderr.contains("panicked"), "{args:?}: {}", done.stderr);
    done
}

/// Runs a command that must succeed.
fn ok(dir: &Path, args: &[&str]) -> Done {
    let done = run(dir, args);
    assert_eq!(done.code, 0, "{args:?}: {}", done.stderr);
    done
}

fn idx(dims: &[u32], values: &[u8]) -> Vec<u8> {
    let header = [0, 0, 8, dims.len() as u8].into_iter();
    let dims = dims.iter().flat_map(|dim| dim.to_be_bytes());
    header.chain(dims).chain(values.iter().copied()).collect()
}

const IMAGES: &str = "data/train-images-idx3-ubyte";
const LABELS: &str = "data/train-labels-idx1-ubyte";
const TEST_IMAGES: &str = "data/t10k-images-idx3-ubyte";
const TEST_LABELS: &str = "data/t10k-labels-idx1-ubyte";

/// Images of 8x8 pixels: a bright bar at a height that depends on the class, on noise.
fn bars(count: u32, classes: u32) -> (Vec<u8>, Vec<u8>) {
    let pixel = |image: u32, at: u32| {
        let noise = (image * 64 + at).wrapping_mul(2_654_435_761) >> 25;
        let bar = at / 8 / 2 == image % classes;
        (noise + if bar { 120 } else { 0 }) as u8
    };
    let pixels = (0..count).flat_map(|image| (0..64).map(move |at| pixel(image, at)));
    let labels = (0..count).map(|image| (image % classes) as u8).collect();
    (idx(&[count, 8, 8], &pixels.collect::<Vec<_>>()), labels)
}

const TINY: &str = r#"
name = "tiny"
input = [1, 8, 8]
layers = [
  { type = "conv2d", out_channels = 4, kernel = 3 },
  { type = "relu" },
  { type = "batch_norm2d" },
  { type = "max_pool2d", kernel = 2 },
  { type = "dropout", rate = 0.1 },
  { type = "conv2d", out_channels = 3, kernel = 3 },
  { type = "global_avg_pool2d" },
]
[train]
epochs = 3
batch_size = 16
optimizer = { type = "adam" }
learning_rate = { schedule = "cosine", peak = 0.02 }
average_decay = 0.5
augment = { rotate_degrees = 3.0, scale = 0.05 }
"#;

/// A folder with `tiny.toml` and a dataset of three classes in `data`.
fn workplace() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("data")).unwrap();
    for (images, labels, count) in [(IMAGES, LABELS, 60), (TEST_IMAGES, TEST_LABELS, 30)] {
        let (pixels, classes) = bars(count, 3);
        fs::write(path(images), pixels).unwrap();
        fs::write(path(labels), idx(&[count], &classes)).unwrap();
    }
    fs::write(path("tiny.toml"), TINY).unwrap();
    dir
}

const TRAIN: [&str; 6] = ["train", "tiny.toml", "--data", "data", "--device", "cpu"];

fn train<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&TRAIN[..], more].concat()
}

/// Every file and folder below `dir`.
fn listing(dir: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut all = BTreeSet::new();
    for path in entries {
        if path.is_dir() {
            all.extend(listing(&path));
        }
        all.insert(path);
    }
    all
}

#[test]
fn a_run_writes_its_folder_and_eval_agrees() {
    let dir = workplace();
    let done = ok(dir.path(), &train(&["--epochs", "5"]));
    for words in
        ["device: CPU engine", "Conv2d-1", "60 training images", "epoch 5/5", "Test set: average loss"]
    {
        assert!(done.stdout.contains(words), "{words:?} is not in {}", done.stdout);
    }
    let folder = dir.path().join("runs/tiny-1");
    let names: Vec<_> = listing(&folder).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(
        names,
        ["checkpoint.safetensors", "metrics.csv", "model.safetensors", "report.html", "summary.json"]
    );
    let metrics = fs::read_to_string(folder.join("metrics.csv")).unwrap();
    let lines: Vec<_> = metrics.lines().collect();
    let head = "epoch,step,learning_rate,train_loss,train_accuracy,test_loss,test_accuracy,seconds";
    assert_eq!((lines.len(), lines[0]), (6, head));
    let summary: Value = serde_json::from_slice(&fs::read(folder.join("summary.json")).unwrap()).unwrap();
    for (key, value) in [("model", "tiny".into()), ("parameters", Value::from(159)), ("epochs", 5.into())] {
        assert_eq!(summary[key], value);
    }
    for (key, value) in [("batch_size", 16), ("seed", 0), ("hold_out", 0), ("steps", 20)] {
        assert_eq!(summary[key], value);
    }
    let accuracy = summary["final_test_accuracy"].as_f64().unwrap();
    assert!(accuracy > 60.0 && accuracy <= summary["best_test_accuracy"].as_f64().unwrap(), "{summary}");
    for key in ["best_epoch", "seconds", "seconds_per_epoch", "final_test_loss", "train_accuracy"] {
        assert!(summary[key].as_f64().unwrap() > 0.0, "{key}");
    }
    let model = Checkpoint::load(folder.join("model.safetensors")).unwrap();
    assert_eq!(summary["weights_sha256"], model.weights_sha256());
    assert_eq!(model.test_accuracy, accuracy);

    let file = "runs/tiny-1/model.safetensors";
    let arguments =
        ["eval", file, "--data", "data", "--device", "cpu", "--json", "--logits", "out.safetensors"];
    let eval = ok(dir.path(), &arguments).json();
    let close = |key: &str, value: f64| (eval[key].as_f64().unwrap() - value).abs() < 1e-5;
    assert!(close("accuracy", accuracy) && close("loss", model.test_loss), "{eval}, {summary}");
    assert_eq!(eval["total"], 30);
    let logits = fs::read(dir.path().join("out.safetensors")).unwrap();
    let logits = safetensors::SafeTensors::deserialize(&logits).unwrap();
    assert_eq!(logits.tensor("logits").unwrap().shape(), [30, 3]);

    // The targets of the course assignment are about MNIST.
    assert!(!done.stdout.contains("target of the assignment"), "{}", done.stdout);
    let mnist = format!("{ROOT}/data/mnist");
    let digits =
        ["train", "--data", &mnist, "--device", "cpu", "--max-steps", "1", "--no-report", "--out", "digits"];
    assert!(ok(dir.path(), &digits).stdout.contains("target of the assignment"));

    // The next run takes the next number and trains to the same weights.
    let again = ok(dir.path(), &train(&["--epochs", "5", "--json"])).json();
    assert_eq!(again["weights_sha256"], summary["weights_sha256"]);
    assert!(dir.path().join("runs/tiny-2").is_dir());
    let other = ok(dir.path(), &train(&["--epochs", "5", "--json", "--seed", "1"])).json();
    assert_ne!(other["weights_sha256"], summary["weights_sha256"]);
}

/// A file's text without its times.
fn timeless(path: PathBuf) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let without_last = |line: &str| line.rsplit_once(',').map_or(line, |(rest, _)| rest).to_owned();
    text.lines().filter(|line| !line.contains("seconds")).map(without_last).collect()
}

#[test]
fn a_resumed_run_ends_like_one_that_never_stopped() {
    for more in [&[][..], &["--replicas", "2", "--seed", "7"]] {
        let dir = workplace();
        ok(dir.path(), &train(&[more, &["--out", "whole"]].concat()));
        // 4 steps per epoch: once between two epochs, once in the middle of one.
        ok(dir.path(), &train(&[more, &["--out", "parts", "--max-steps", "4"]].concat()));
        ok(dir.path(), &["train", "--resume", "parts", "--device", "cpu", "--max-steps", "6"]);
        let last = ok(dir.path(), &["train", "--resume", "parts", "--device", "cpu", "--quiet"]);
        assert_eq!(last.stdout.lines().count(), 1, "{}", last.stdout);
        let path = |folder: &str, file: &str| dir.path().join(folder).join(file);
        for file in ["metrics.csv", "summary.json"] {
            assert_eq!(timeless(path("parts", file)), timeless(path("whole", file)), "{file}");
        }
        let models = if more.is_empty() {
            &["model.safetensors"][..]
        } else {
            &["model-seed7.safetensors", "model-seed8.safetensors"]
        };
        for file in models {
            let bytes = |folder| fs::read(path(folder, file)).unwrap();
            assert!(bytes("parts") == bytes("whole"), "{file} differs");
        }
    }
}

/// Shared weights are in the files once, under their owner's name.
#[test]
fn a_net_that_shares_weights_is_saved_resumed_and_loaded() {
    let dir = workplace();
    let convs = "{ type = \"conv2d\", name = \"step\", out_channels = 4, kernel = 3, padding = 1 },\n  \
                 { type = \"conv2d\", weights_of = \"step\", out_channels = 4, kernel = 3, padding = 1 },\n  \
                 { type = \"conv2d\", out_channels = 3, kernel = 3 }";
    let text = TINY.replace("{ type = \"conv2d\", out_channels = 3, kernel = 3 }", convs);
    fs::write(dir.path().join("tiny.toml"), &text).unwrap();
    ok(dir.path(), &train(&["--out", "whole"]));
    ok(dir.path(), &train(&["--out", "parts", "--max-steps", "6"]));
    ok(dir.path(), &["train", "--resume", "parts", "--device", "cpu"]);
    let path = |folder: &str| dir.path().join(folder).join("model.safetensors");
    assert!(
        fs::read(path("parts")).unwrap() == fs::read(path("whole")).unwrap(),
        "another net after a pause"
    );

    let saved = Checkpoint::load(path("whole")).unwrap();
    let names: Vec<_> = saved.weights.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names.iter().filter(|name| name.ends_with(".weight")).count(), 4, "{names:?}");
    assert!(names.contains(&"step.bias") && !names.contains(&"conv3.bias"), "{names:?}");
    assert_eq!(saved.model.layers[6].weights_of, Some(5));
    let again =
        ok(dir.path(), &["eval", "whole/model.safetensors", "--data", "data", "--device", "cpu", "--json"]);
    assert_eq!(again.json()["accuracy"].as_f64().unwrap(), saved.test_accuracy, "{}", again.stdout);

    let sweep = ["--sweep", "learning_rate=0.02,0.01", "--out", "sweep"];
    ok(dir.path(), &train(&sweep));
    let same = Checkpoint::load(dir.path().join("sweep").join("model-learning_rate=0.02-seed0.safetensors"));
    assert_eq!(same.unwrap().weights, saved.weights);
}

#[test]
fn replicas_are_the_nets_of_single_runs() {
    let dir = workplace();
    let both = ok(dir.path(), &train(&["--replicas", "2", "--seed", "3", "--json"])).json();
    let one = ok(dir.path(), &train(&["--seed", "4", "--json"])).json();
    assert_eq!(both["seeds"], serde_json::json!([3, 4]));
    assert_eq!(both["replicas"][1]["weights_sha256"], one["weights_sha256"]);
    assert_eq!(both["replicas"][1]["final_test_accuracy"], one["final_test_accuracy"]);
    let metrics = fs::read_to_string(dir.path().join("runs/tiny-1/metrics.csv")).unwrap();
    assert!(metrics.starts_with("seed,epoch,") && metrics.lines().count() == 7, "{metrics}");
}

#[test]
fn held_out_images_replace_the_test_set() {
    let dir = workplace();
    fs::remove_file(dir.path().join(TEST_IMAGES)).unwrap();
    let summary = ok(dir.path(), &train(&["--hold-out", "10", "--json", "--augment", "off"])).json();
    assert_eq!((&summary["hold_out"], &summary["test_images"]), (&10.into(), &10.into()));
    assert_eq!(summary["train_images"], 50);
    let done = ok(dir.path(), &train(&["--hold-out", "10", "--shuffle", "off"]));
    assert!(
        done.stdout.contains("10 held-out images to evaluate on") && done.stdout.contains("Held-out set:")
    );
}

#[test]
fn trained_weights_can_start_a_run() {
    let dir = workplace();
    ok(dir.path(), &train(&["--out", "first"]));
    let init = ["--init", "first/model.safetensors", "--out", "second", "--json"];
    let second = ok(dir.path(), &train(&init)).json();
    let first = Checkpoint::load(dir.path().join("first/model.safetensors")).unwrap();
    assert!(second["train_loss"].as_f64().unwrap() < first.test_loss + 0.3, "{second}");
    let (a, b) = (second["weights_sha256"].clone(), first.weights_sha256());
    assert_ne!(a, b);
}

#[test]
fn summary_prints_the_table_of_the_seed_document() {
    let rows = "
            Conv2d-1            [-1, 8, 26, 26]              80
              ReLU-2            [-1, 8, 26, 26]               0
       BatchNorm2d-3            [-1, 8, 26, 26]              16
            Conv2d-4           [-1, 16, 24, 24]           1,168
              ReLU-5           [-1, 16, 24, 24]               0
       BatchNorm2d-6           [-1, 16, 24, 24]              32
            Conv2d-7            [-1, 8, 24, 24]             136
         MaxPool2d-8            [-1, 8, 12, 12]               0
           Dropout-9            [-1, 8, 12, 12]               0
           Conv2d-10           [-1, 16, 10, 10]           1,168
             ReLU-11           [-1, 16, 10, 10]               0
      BatchNorm2d-12           [-1, 16, 10, 10]              32
           Conv2d-13             [-1, 16, 8, 8]           2,320
             ReLU-14             [-1, 16, 8, 8]               0
      BatchNorm2d-15             [-1, 16, 8, 8]              32
        MaxPool2d-16             [-1, 16, 4, 4]               0
          Dropout-17             [-1, 16, 4, 4]               0
           Conv2d-18             [-1, 32, 2, 2]           4,640
           Conv2d-19             [-1, 10, 2, 2]             330
";
    let dir = workplace();
    let seed = format!("{ROOT}/data/models/seed.safetensors");
    for args in [&["summary"][..], &["summary", &seed]] {
        let table = ok(dir.path(), args).stdout;
        assert!(table.contains(rows), "{table}");
        for line in [
            "Total params: 9,954\nTrainable params: 9,954\nNon-trainable params: 0\n",
            "Input size (MB): 0.00\nForward/backward pass size (MB): 0.45\n",
            "Params size (MB): 0.04\nEstimated Total Size (MB): 0.49\n",
        ] {
            assert!(table.contains(line), "{table}");
        }
    }
    assert!(ok(dir.path(), &["summary", "tiny.toml"]).stdout.contains("Total params: 159\n"));
}

/// Weights and logits from PyTorch.
#[test]
fn weights_from_pytorch_give_pytorchs_logits() {
    let fixture = |name: &str| PathBuf::from(format!("{ROOT}/tests/fixtures/{name}.safetensors"));
    let model = Model::parse(include_str!("../../data/models/seed.toml"), "seed.toml").unwrap();
    let checkpoint = Checkpoint {
        weights: read_weights(&fixture("interchange"), &model).unwrap().0,
        model,
        normalization: Normalization::uniform(1, 0.1307, 0.3081),
        ..Checkpoint::seed().unwrap()
    };
    let expected = fs::read(fixture("interchange_expected")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&expected).unwrap();
    let pixels = expected.tensor("pixels").unwrap().data().to_vec();
    let images = Arc::new(Images::new([1, 28, 28], pixels, vec![0; 8]).unwrap());
    let (values, _) = expected.tensor("logits").unwrap().data().as_chunks();
    let wanted: Vec<f64> = values.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect();
    let logits = shadernet::eval::logits(&checkpoint, &images, &Device::cpu()).unwrap();
    assert_eq!((logits.len(), wanted.len()), (80, 80));
    for (index, (&got, want)) in logits.iter().zip(wanted).enumerate() {
        assert!((f64::from(got) - want).abs() < 1e-4, "logit {index}: {got}, PyTorch has {want}");
    }
}

#[test]
fn an_exported_page_holds_the_network() {
    let dir = workplace();
    ok(dir.path(), &train(&["--max-steps", "2", "--out", "run"]));
    let export = ["export", "run/model.safetensors", "--html", "page.html"];
    let said = ok(dir.path(), &export).stdout;
    let page = fs::read_to_string(dir.path().join("page.html")).unwrap();
    assert!(said.starts_with(&format!("page.html: {} kB", page.len().div_ceil(1000))), "{said}");
    let (_, model) = page.split_once("id=\"model\">").unwrap();
    let model: Value = serde_json::from_str(model.split_once("</script>").unwrap().0).unwrap();
    assert_eq!((&model["name"], &model["input"]), (&"tiny".into(), &serde_json::json!([1, 8, 8])));
    assert_eq!(model["classes"], serde_json::json!(["0", "1", "2"]));
    // Existing files are kept, unless forced.
    fs::write(dir.path().join("page.html"), "mine").unwrap();
    assert_eq!(run(dir.path(), &export).code, 2);
    assert_eq!(fs::read_to_string(dir.path().join("page.html")).unwrap(), "mine");
    ok(dir.path(), &[&export[..], &["--force"]].concat());
    assert_eq!(fs::read_to_string(dir.path().join("page.html")).unwrap(), page);
    // With the images of the dataset, and the plan of its own recipe.
    ok(dir.path(), &[&export[..], &["--force", "--train-here", "--data", "data"]].concat());
    let page = fs::read_to_string(dir.path().join("page.html")).unwrap();
    let (_, model) = page.split_once("id=\"model\">").unwrap();
    let model: Value = serde_json::from_str(model.split_once("</script>").unwrap().0).unwrap();
    let training = &model["training"];
    assert!(
        training["images"].as_u64() > Some(0) && training["test_images"].as_u64() > Some(0),
        "{training}"
    );
    let labels: Vec<&Value> =
        training["plan"]["launches"].as_array().unwrap().iter().map(|it| &it["label"]).collect();
    assert!(labels.contains(&&"optimizer.update".into()), "{labels:?}");
}

#[test]
fn drawn_digits_are_recognised() {
    let digits = Path::new(ROOT).join("data/digits");
    let names = listing(&digits).into_iter().filter(|path| path.extension().is_some_and(|end| end == "png"));
    let names: Vec<String> =
        names.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(names.len(), 20);
    let args: Vec<&str> =
        ["classify", "--json"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let answers = ok(&digits, &args).json();
    let mut wrong = Vec::new();
    for (name, answer) in names.iter().zip(answers.as_array().unwrap()) {
        assert_eq!(answer["file"], name.as_str());
        let probabilities: Vec<f64> =
            answer["probabilities"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect();
        let digit = answer["digit"].as_u64().unwrap() as usize;
        assert_eq!(answer["probability"].as_f64().unwrap(), probabilities[digit]);
        assert!(probabilities.len() == 10 && (probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-4);
        if !name.starts_with(&digit.to_string()) {
            wrong.push(format!("{name}: {digit}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");

    // An unreadable file does not affect the answers for the others.
    let done = run(&digits, &["classify", "draw.py", "3_deep.png", "missing.png"]);
    assert_eq!(done.code, 1);
    assert!(done.stdout.contains("3_deep.png: 3 (") && done.stdout.contains('█'), "{}", done.stdout);
    assert!(
        done.stderr.contains("error: draw.py: ") && done.stderr.contains("missing.png"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure_and_a_full_disk_is() {
    let dir = workplace();
    for args in [&["summary"][..], &train(&["--epochs", "1"])] {
        let mut child =
            command(dir.path(), args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(dir.path().join("runs/tiny-1/summary.json").exists());
    if let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") {
        let output = command(dir.path(), &["summary"]).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("error: cannot write standard output"));
    }
}

#[test]
fn devices_lists_the_cpu_and_what_auto_takes() {
    let done = ok(Path::new(ROOT), &["devices"]);
    assert!(done.stdout.starts_with("CPU engine, ") && done.stdout.contains("--device auto uses"));
}
