//! Stopping: by a signal, by a kill, while another process is running, and on another device.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::*;

/// A workplace whose epochs are long enough to be interrupted.
fn long_epochs(images: u32) -> tempfile::TempDir {
    let dir = workplace();
    let (pixels, labels) = bars(images, 3);
    fs::write(dir.path().join(IMAGES), pixels).unwrap();
    fs::write(dir.path().join(LABELS), idx(&[images], &labels)).unwrap();
    dir
}

/// Eight epochs of 30,000 steps: long enough for a signal on a busy machine.
const LONG: [&str; 4] = ["--batch-size", "2", "--epochs", "8"];

/// Starts a training and waits until it reports the end of epoch `first`.
fn started(dir: &Path, args: &[&str], first: usize) -> Child {
    let mut child = command(dir, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let wanted = format!("epoch {first}/");
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let seen = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with(&wanted)));
    assert!(seen.is_some(), "the training ended early");
    child
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Waits for the end: exit code, standard error, and how long it took.
fn ended(child: Child) -> (Option<i32>, String, Duration) {
    let start = Instant::now();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap(), start.elapsed())
}

fn hash(dir: &Path, run: &str) -> String {
    Checkpoint::load(dir.join(run).join("model.safetensors")).unwrap().weights_sha256()
}

fn steps(dir: &Path, run: &str) -> u64 {
    let text = fs::read_to_string(dir.join(run).join("summary.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["steps"].as_u64().unwrap()
}

#[test]
fn a_signal_loses_no_step() {
    let dir = long_epochs(60_000);
    ok(dir.path(), &train(&[&LONG[..], &["--out", "whole", "--no-report"]].concat()));
    for (name, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        // The program heeds the others even if they are ignored when it starts.
        if name == "HUP" && signals::is_ignored(1) {
            continue;
        }
        let child = started(dir.path(), &train(&[&LONG[..], &["--out", name, "--no-report"]].concat()), 1);
        sleep(Duration::from_millis(30));
        signal(&child, name);
        let (ended_with, said, time) = ended(child);
        assert_eq!(ended_with, Some(code), "{said}");
        // One second on an otherwise idle machine.
        assert!(time < Duration::from_secs(4), "{time:?}");
        let after: u32 =
            said.split_once("stopped after step ").unwrap().1.split(';').next().unwrap().parse().unwrap();
        assert!((30_000..240_000).contains(&after), "{said}");
        assert!(said.contains(&format!("shadernet train --resume {name}\n")), "{said}");
        // The results of the first epoch are there for others.
        assert!(steps(dir.path(), name) >= 30_000);
        hash(dir.path(), name);
        let done = ok(dir.path(), &["train", "--resume", name, "--device", "cpu", "--no-report"]);
        assert!(done.stdout.contains(&format!("resuming after step {after}\n")), "{}", done.stdout);
        assert_eq!(hash(dir.path(), name), hash(dir.path(), "whole"), "{name}");
        let file = |run: &str, file: &str| timeless(dir.path().join(run).join(file));
        assert_eq!(file(name, "metrics.csv"), file("whole", "metrics.csv"));
        assert_eq!(listing(&dir.path().join(name)).len(), 4, "{:?}", listing(&dir.path().join(name)));
    }
    let again = ok(dir.path(), &["train", "--resume", "INT", "--device", "cpu", "--no-report"]);
    assert!(
        again.stdout.contains("this run is finished; there is nothing left to train"),
        "{}",
        again.stdout
    );
}

#[test]
fn a_kill_within_an_epoch_loses_the_time_since_the_last_state() {
    let dir = long_epochs(150_000);
    let one = ["--batch-size", "1", "--epochs", "1", "--no-report"];
    ok(dir.path(), &train(&[&one[..], &["--out", "whole"]].concat()));
    let args = train(&[&one[..], &["--out", "run", "--save-every", "1", "--threads", "1"]].concat());
    let mut child = command(dir.path(), &args).stdout(Stdio::null()).spawn().unwrap();
    let state = dir.path().join("run/checkpoint.safetensors");
    while !state.exists() && child.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let done = ok(dir.path(), &["train", "--resume", "run", "--device", "cpu", "--no-report"]);
    assert!(
        done.stdout.contains("resuming after step") || done.stdout.contains("finished"),
        "{}",
        done.stdout
    );
    assert_eq!(hash(dir.path(), "run"), hash(dir.path(), "whole"));
    assert_eq!(listing(&dir.path().join("run")).len(), 4);
}

#[test]
fn a_folder_has_one_owner() {
    let dir = long_epochs(60_000);
    let child = started(dir.path(), &train(&[&LONG[..], &["--out", "run", "--no-report"]].concat()), 1);
    let owner = format!("in use by process {} on ", child.id());
    for args in [&train(&["--out", "run"])[..], &["train", "--resume", "run", "--device", "cpu"]] {
        let done = run(dir.path(), args);
        assert!(done.code == 1 && done.stderr.contains(&owner), "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains(" since 2"), "{}", done.stderr);
    }
    signal(&child, "KILL");
    assert_eq!(ended(child).0, None);
    // Dead processes own nothing.
    ok(dir.path(), &["train", "--resume", "run", "--device", "cpu", "--max-steps", "30500", "--no-report"]);
}

#[test]
fn a_run_that_died_at_once_is_no_obstacle() {
    let dir = long_epochs(60_000);
    for out in [&["--out", "run"][..], &[]] {
        let args = train(&[&LONG[..], out, &["--no-report"]].concat());
        let folder = dir.path().join(if out.is_empty() { "runs/tiny-1" } else { "run" });
        let mut child = command(dir.path(), &args).stdout(Stdio::null()).spawn().unwrap();
        while !folder.join(".shadernet.lock").exists() {
            sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!folder.join("checkpoint.safetensors").exists());
        ok(dir.path(), &train(&[&["--max-steps", "5", "--no-report"], out].concat()));
        assert_eq!(listing(&folder).len(), 4, "{:?}", listing(&folder));
    }
}

#[test]
fn going_on_elsewhere_is_said() {
    let Some(gpu) = common::gpu() else { return };
    let dir = workplace();
    ok(dir.path(), &train(&["--out", "run", "--max-steps", "5", "--no-report"]));
    let report = &gpu.info;
    let name = format!("{} ({}", report.name, report.backend);
    let done = ok(dir.path(), &["train", "--resume", "run", "--device", &name, "--no-report"]);
    assert!(done.stderr.contains("up to step 5 the run was computed on CPU engine, "), "{}", done.stderr);
    assert!(
        done.stderr.contains(&report.name) && done.stderr.contains("may round differently"),
        "{}",
        done.stderr
    );
    let text = fs::read_to_string(dir.path().join("run/summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&text).unwrap();
    let devices = summary["devices"].as_array().unwrap();
    let from: Vec<_> = devices.iter().map(|span| span["from_step"].as_u64().unwrap()).collect();
    assert_eq!(from, [0, 5]);
    // On the same device there is no message.
    ok(dir.path(), &train(&["--out", "same", "--max-steps", "5", "--no-report"]));
    let done = ok(dir.path(), &["train", "--resume", "same", "--device", "cpu", "--no-report"]);
    assert!(!done.stderr.contains("round"), "{}", done.stderr);
}

/// A run's value does not depend on when its last epoch diverged.
#[test]
fn a_diverged_run_keeps_its_last_good_epoch() {
    let dir = workplace();
    // Weight decay multiplies each weight by -2 in every step, until they overflow.
    let sgd = TINY
        .replace("type = \"adam\"", "type = \"sgd\", weight_decay = 1.0")
        .replace("\"cosine\", peak = 0.02", "\"constant\", rate = 3.0")
        .replace("average_decay = 0.5\n", "");
    fs::write(dir.path().join("tiny.toml"), sgd).unwrap();
    let done = run(dir.path(), &train(&["--out", "run", "--epochs", "100", "--no-report"]));
    assert_eq!(done.code, 2, "{}", done.stdout);
    let epoch = done.stderr.split_once("the saved weights are those after epoch ").unwrap().1.trim();
    let last = done.stdout.lines().filter(|line| line.starts_with("epoch ")).count();
    assert_eq!(epoch, last.to_string(), "{}", done.stderr);
    let model = Checkpoint::load(dir.path().join("run/model.safetensors")).unwrap();
    assert_eq!(model.trained.epochs, last);
    let metrics = fs::read_to_string(dir.path().join("run/metrics.csv")).unwrap();
    assert_eq!(metrics.lines().count(), 1 + last);
    ok(dir.path(), &["eval", "run/model.safetensors", "--data", "data", "--device", "cpu"]);
}

/// One of several seeds must not affect the others.
#[test]
fn a_seed_that_diverges_does_not_stop_the_others() {
    let dir = workplace();
    let sgd = TINY.replace("type = \"adam\"", "type = \"sgd\", weight_decay = 1.0");
    let model = Model::parse(&sgd, "tiny.toml").unwrap();
    let data = shadernet::TrainingData::load(dir.path().join("data"), model.input).unwrap();
    let mut replicas = shadernet::replica::Replica::of_seeds(&model, 1..4);
    replicas[1].learning_rate = shadernet::config::LearningRate::Constant { rate: 100.0 };
    let model = Model::parse(&sgd.replace("epochs = 3", "epochs = 30"), "tiny.toml").unwrap();
    let out = dir.path().join("run");
    let training = shadernet::Run::builder(model, data).replicas(replicas).device(Device::cpu()).folder(&out);
    let mut training = training.start().unwrap();
    training.train(&mut ()).unwrap();
    let summary = training.finish().unwrap();
    let trained: Vec<bool> = summary.replicas.iter().map(|net| net.file.is_some()).collect();
    assert_eq!(trained, [true, false, true]);
    assert!(summary.final_test_accuracy.is_finite() && summary.complete);
    drop(training);
    ok(dir.path(), &["report", "run", "--data", "data", "--device", "cpu"]);
}

/// If the folder is removed and a run started again, it must not find another run's state there.
#[test]
fn a_folder_that_is_replaced_belongs_to_the_new_run() {
    let dir = long_epochs(60_000);
    let args = train(&[&LONG[..], &["--out", "run", "--no-report"]].concat());
    let child = started(dir.path(), &args, 1);
    fs::rename(dir.path().join("run"), dir.path().join("old")).unwrap();
    ok(dir.path(), &train(&["--out", "run", "--seed", "9", "--no-report"]));
    let new = hash(dir.path(), "run");
    signal(&child, "INT");
    let (code, said, _) = ended(child);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("run: this folder was removed, moved or replaced"), "{said}");
    assert!(!said.contains("--resume"), "{said}");
    assert_eq!(hash(dir.path(), "run"), new);
    // What it had saved before can be resumed in its new location.
    ok(dir.path(), &["train", "--resume", "old", "--device", "cpu", "--max-steps", "30001", "--no-report"]);
}

#[test]
fn metrics_summary_and_report_agree_wherever_a_run_was_stopped() {
    let dir = long_epochs(60_000);
    ok(dir.path(), &train(&[&LONG[..], &["--out", "run", "--max-steps", "20", "--no-report"]].concat()));
    let child = command(dir.path(), &["train", "--resume", "run", "--device", "cpu", "--no-report"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    sleep(Duration::from_millis(400));
    signal(&child, "INT");
    ended(child);
    let metrics = fs::read_to_string(dir.path().join("run/metrics.csv")).unwrap();
    let last = metrics.lines().last().unwrap().split(',').nth(1).unwrap().parse::<u64>().unwrap();
    assert_eq!(last, steps(dir.path(), "run"), "{metrics}");
    // Data that was moved is where it was found last.
    fs::rename(dir.path().join("data"), dir.path().join("moved")).unwrap();
    let gone = run(dir.path(), &["train", "--resume", "run", "--device", "cpu"]);
    assert!(gone.code == 1 && gone.stderr.contains("use --data to say where it is now"), "{}", gone.stderr);
    let more = ["train", "--resume", "run", "--device", "cpu", "--max-steps", "31000", "--no-report"];
    ok(dir.path(), &[&more[..], &["--data", "moved"]].concat());
    ok(dir.path(), &more);
}
