//! What the system can do to a training: kill it at any call that touches its folder, or make that call fail.
//! Afterwards the same command, or `--resume`, ends as if nothing had happened, and nothing is left behind.
//!
//! Linux, with strace. `SHADERNET_FAULTS=all` tries every call instead of a selection, `SHADERNET_KILLS=300` kills
//! that often instead of a dozen times, `SHADERNET_REQUIRE_STRACE=1` makes a missing strace a failure.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_shadernet");

const TINY: &str = r#"
name = "tiny"
input = [1, 8, 8]
layers = [
  { type = "conv2d", out_channels = 4, kernel = 3 },
  { type = "relu" },
  { type = "batch_norm2d" },
  { type = "conv2d", out_channels = 3, kernel = 3 },
  { type = "global_avg_pool2d" },
]
[train]
epochs = 3
batch_size = 16
optimizer = { type = "adam" }
learning_rate = { schedule = "cosine", peak = 0.02 }
average_decay = 0.5
"#;

const SUITE: &str = r#"
name = "s"
test = { first_seed = 10, seeds = 2 }
[[groups]]
name = "g"
question = "?"
arms = [
  { name = "a", model = "tiny.toml" },
  { name = "b", model = "tiny.toml", set = { train = { batch_size = 8 } } },
]
"#;

/// A folder with a model, a suite, IDX files of `images` training images, and the same as pictures.
fn workplace(images: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("tiny.toml"), TINY).unwrap();
    fs::write(path("suite.toml"), SUITE).unwrap();
    fs::create_dir(path("data")).unwrap();
    let pixel = |image: u32, at: u32| -> u8 {
        let noise = (image * 64 + at).wrapping_mul(2_654_435_761) >> 25;
        (noise + if at / 16 == image % 3 { 120 } else { 0 }) as u8
    };
    for (part, count) in [("train", images), ("t10k", 30)] {
        let header = |dims: &[u32]| -> Vec<u8> {
            let start = [0, 0, 8, dims.len() as u8].into_iter();
            start.chain(dims.iter().flat_map(|dim| dim.to_be_bytes())).collect()
        };
        let pixels: Vec<u8> = (0..count).flat_map(|image| (0..64).map(move |at| pixel(image, at))).collect();
        let labels: Vec<u8> = (0..count).map(|image| (image % 3) as u8).collect();
        fs::write(path(&format!("data/{part}-images-idx3-ubyte")), [header(&[count, 8, 8]), pixels].concat())
            .unwrap();
        fs::write(path(&format!("data/{part}-labels-idx1-ubyte")), [header(&[count]), labels].concat())
            .unwrap();
    }
    for image in 0..36 {
        let folder = path(&format!("pictures/{}", ["high", "low", "mid"][image as usize % 3]));
        fs::create_dir_all(&folder).unwrap();
        let pixels = (0..64).map(|at| pixel(image, at)).collect();
        image::GrayImage::from_raw(8, 8, pixels).unwrap().save(folder.join(format!("{image}.png"))).unwrap();
    }
    dir
}

/// A job whose results can be compared: its command, how to continue after an accident, and what it leaves.
struct Job {
    name: &'static str,
    start: &'static [&'static str],
}

const SINGLE: Job = Job {
    name: "one net",
    start: &["train", "tiny.toml", "--data", "data", "--device", "cpu", "--out", "run", "--no-report"],
};
const PICTURES: Job = Job {
    name: "pictures",
    start: &["train", "tiny.toml", "--data", "pictures", "--device", "cpu", "--out", "run", "--no-report"],
};
const REPLICAS: Job = Job {
    name: "replicas",
    start: &[
        "train",
        "tiny.toml",
        "--data",
        "data",
        "--device",
        "cpu",
        "--out",
        "run",
        "--no-report",
        "--replicas",
        "3",
    ],
};
const SWEEP: Job = Job {
    name: "sweep",
    start: &[
        "train",
        "tiny.toml",
        "--data",
        "data",
        "--device",
        "cpu",
        "--out",
        "run",
        "--no-report",
        "--sweep",
        "learning_rate=0.01,0.02",
    ],
};
const EXPERIMENTS: Job = Job {
    name: "experiments",
    start: &["experiments", "suite.toml", "--data", "data", "--device", "cpu", "--out", "run"],
};

impl Job {
    /// The command after an accident, as users are told.
    fn go_on(&self, dir: &Path) -> Vec<&'static str> {
        if self.start[0] == "train" && dir.join("run/checkpoint.safetensors").exists() {
            vec!["train", "--resume", "run", "--device", "cpu", "--no-report"]
        } else {
            self.start.to_vec()
        }
    }

    /// Runs it; returns the results without times.
    fn whole(&self, dir: &Path) -> Left {
        let output = Command::new(PROGRAM).args(self.start).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{}: {}", self.name, text(&output));
        let left = Left::of(&dir.join("run"));
        fs::remove_dir_all(dir.join("run")).unwrap();
        left
    }

    /// After an accident: continues, and compares.
    fn check(&self, dir: &Path, whole: &Left, accident: &str) {
        let output = Command::new(PROGRAM).args(self.go_on(dir)).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{}, {accident}: {}", self.name, text(&output));
        assert_eq!(Left::of(&dir.join("run")), *whole, "{}, {accident}", self.name);
        fs::remove_dir_all(dir.join("run")).unwrap();
    }
}

/// The contents of a folder: all files by name, and the text of tables without times and hashes of weights.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    files: BTreeSet<String>,
    tables: Vec<String>,
}

impl Left {
    fn of(run: &Path) -> Self {
        let (mut files, mut tables) = (BTreeSet::new(), Vec::new());
        let mut folders = vec![run.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                files.insert(path.strip_prefix(run).unwrap().display().to_string());
                if path.is_dir() {
                    folders.push(path);
                } else if path.ends_with("metrics.csv") || path.ends_with("runs.csv") {
                    tables.push(without(&path, &["seconds"]));
                } else if path.extension().is_some_and(|extension| extension == "safetensors")
                    && !path.ends_with("checkpoint.safetensors")
                {
                    let model = shadernet::checkpoint::Checkpoint::load(&path).unwrap();
                    tables.push(format!(
                        "{}: {}",
                        path.file_name().unwrap().display(),
                        model.weights_sha256()
                    ));
                }
            }
        }
        tables.sort();
        Self { files, tables }
    }
}

/// A table without some columns, with its rows in order.
fn without(path: &Path, columns: &[&str]) -> String {
    let mut reader = csv::Reader::from_path(path).unwrap();
    let kept: Vec<usize> = (0..reader.headers().unwrap().len())
        .filter(|&index| !columns.contains(&&reader.headers().unwrap()[index]))
        .collect();
    let row = |record: csv::StringRecord| {
        kept.iter().map(|&index| record[index].to_owned()).collect::<Vec<_>>().join(",")
    };
    let mut rows: Vec<String> = reader.records().map(|record| row(record.unwrap())).collect();
    rows.sort();
    rows.join("\n")
}

fn text(output: &Output) -> String {
    format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr))
}

fn strace() -> bool {
    let found =
        Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    assert!(found || std::env::var_os("SHADERNET_REQUIRE_STRACE").is_none(), "there is no strace");
    if !found {
        println!("skipped: there is no strace");
    }
    found
}

const CALLS: [&str; 6] = ["mkdir", "openat", "write", "fsync", "rename", "unlink"];
const KINDS: [&str; 3] = ["signal=KILL", "error=ENOSPC", "error=EIO"];

/// For each system call, the occurrences, counted from 1, at which the main thread uses it on the run's folder.
fn places(dir: &Path, job: &Job) -> Vec<(&'static str, usize)> {
    let log = dir.join("strace.log");
    let traced = Command::new("strace")
        .args(["-f", "-y", "-o"])
        .arg(&log)
        .args(["-e", &format!("trace={}", CALLS.join(","))])
        .arg(PROGRAM)
        .args(job.start)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(traced.status.success(), "{}", text(&traced));
    fs::remove_dir_all(dir.join("run")).unwrap();
    let log = fs::read_to_string(&log).unwrap();
    let main = log.split_whitespace().next().unwrap();
    let mut places = Vec::new();
    for call in CALLS {
        let lines = log.lines().filter(|line| line.starts_with(main) && line.contains(&format!(" {call}(")));
        let touching = lines
            .enumerate()
            .filter(|(_, line)| line.contains("run/") || line.contains("/run>") || line.contains("\"run\""));
        places.extend(touching.map(|(index, _)| (call, index + 1)));
    }
    places
}

#[test]
fn an_accident_at_any_call_loses_nothing() {
    if !strace() {
        return;
    }
    let all = std::env::var("SHADERNET_FAULTS").is_ok_and(|value| value == "all");
    for (job, some) in [(&SINGLE, 45), (&EXPERIMENTS, 15)] {
        let dir = workplace(48);
        let whole = job.whole(dir.path());
        let places = places(dir.path(), job);
        assert!(places.len() > 20, "{places:?}");
        let cases: Vec<_> = places.iter().flat_map(|place| KINDS.map(|kind| (place, kind))).collect();
        let stride = if all { 1 } else { (cases.len() / some).max(1) };
        for ((call, number), kind) in cases.iter().step_by(stride) {
            let accident = format!("{kind} at {call} {number}");
            let output = Command::new("strace")
                .args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}")])
                .args(["-e", &format!("inject={call}:{kind}:when={number}")])
                .arg(PROGRAM)
                .args(job.start)
                .current_dir(dir.path())
                .output()
                .unwrap();
            let said = text(&output);
            assert!(!said.contains("panicked"), "{}, {accident}: {said}", job.name);
            match output.status.code() {
                // The accident hit something that the run can do without, or another call than intended.
                Some(0) => {
                    if *call == "unlink" {
                        // The one remaining file is then the lock, which no process holds.
                        let _ = fs::remove_file(dir.path().join("run/.shadernet.lock"));
                    }
                    assert_eq!(Left::of(&dir.path().join("run")), whole, "{}, {accident}", job.name);
                    fs::remove_dir_all(dir.path().join("run")).unwrap();
                }
                code => {
                    assert!(code == Some(1) || *kind == "signal=KILL", "{}, {accident}: {said}", job.name);
                    assert!(
                        !said.contains(".shadernet"),
                        "{}, {accident} names our own files: {said}",
                        job.name
                    );
                    job.check(dir.path(), &whole, &accident);
                }
            }
        }
        println!("{}: {} of {} accidents", job.name, cases.len().div_ceil(stride), cases.len());
    }
}

#[test]
fn a_kill_at_any_time_loses_nothing() {
    let kills = std::env::var("SHADERNET_KILLS").map_or(15, |text| text.parse().unwrap());
    let jobs = [SINGLE, PICTURES, REPLICAS, SWEEP, EXPERIMENTS];
    let mut landed = 0;
    for (index, job) in jobs.iter().enumerate() {
        let dir = workplace(3000);
        let whole = job.whole(dir.path());
        let start = Instant::now();
        assert!(
            Command::new(PROGRAM).args(job.start).current_dir(dir.path()).output().unwrap().status.success()
        );
        fs::remove_dir_all(dir.path().join("run")).unwrap();
        let usual = start.elapsed();
        let mine = (kills + jobs.len() - 1 - index) / jobs.len();
        for kill in 0..mine {
            // Spread over the job's duration; every other run is hit a second time when it resumes.
            for part in [0.5 + kill as f64, mine as f64 / 2.0].iter().take(1 + kill % 2) {
                let mut child = Command::new(PROGRAM)
                    .args(job.go_on(dir.path()))
                    .current_dir(dir.path())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                std::thread::sleep(usual.mul_f64(part / mine as f64).max(Duration::from_millis(1)));
                landed += usize::from(child.try_wait().unwrap().is_none());
                child.kill().unwrap();
                child.wait().unwrap();
            }
            job.check(dir.path(), &whole, &format!("kill {kill} of {mine}"));
        }
    }
    println!("{landed} kills of processes at work");
    assert!(landed > kills / 3, "{landed} of {kills}");
}

/// To a program, a file that the system does not let grow looks like a full disk.
#[test]
fn a_full_disk_is_an_error_that_says_how_to_go_on() {
    let dir = workplace(48);
    let whole = SINGLE.whole(dir.path());
    for (blocks, epochs_saved) in [(1, false), (16, true)] {
        // Blocks of 1,024 bytes: none of the run's files fits, or its table stops fitting after a while.
        let limit = format!("ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let mut command = Command::new("bash");
        command.args(["-c", &limit, PROGRAM]).args(SINGLE.start);
        if epochs_saved {
            // The state has a row per epoch, and grows.
            command.args(["--epochs", "100"]);
        }
        let output = command.current_dir(dir.path()).output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("cannot write run/"), "{said}");
        assert!(!said.contains(".shadernet"), "{said}");
        assert_eq!(said.contains("shadernet train --resume run"), epochs_saved, "{said}");
        if epochs_saved {
            let args = ["train", "--resume", "run", "--device", "cpu", "--no-report"];
            let output = Command::new(PROGRAM).args(args).current_dir(dir.path()).output().unwrap();
            assert!(output.status.success(), "{}", text(&output));
            fs::remove_dir_all(dir.path().join("run")).unwrap();
        } else {
            assert!(!dir.path().join("run").exists(), "an empty folder is left");
            SINGLE.check(dir.path(), &whole, "a full disk");
        }
    }
}

/// A disk that flips one bit of a state, anywhere in the file.
#[test]
fn every_bit_of_a_state_counts() {
    let dir = workplace(48);
    let output = Command::new(PROGRAM).args(SINGLE.start).current_dir(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let run = dir.path().join("run");
    let path = run.join("checkpoint.safetensors");
    let whole = fs::read(&path).unwrap();
    shadernet::train::RunState::load(&run).unwrap();
    let mut flips = 0;
    for (place, bit) in (0..whole.len()).flat_map(|place| (0..8).map(move |bit| (place, bit))).step_by(11) {
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << bit;
        fs::write(&path, bytes).unwrap();
        let loaded = shadernet::train::RunState::load(&run);
        assert!(loaded.is_err(), "bit {bit} of byte {place} of {} does not count", whole.len());
        flips += 1;
    }
    assert!(flips > 4000, "{flips}");
}

/// A separate file system, where we may create one.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(at: &'a Path, size: &str) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let made = Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(at).output();
        made.is_ok_and(|made| made.status.success()).then_some(Self(at))
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,{size}");
        assert!(Command::new("mount").args(["-o", &options]).arg(self.0).status().unwrap().success());
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_full_file_system_loses_nothing_either() {
    let dir = workplace(48);
    let many = ["--epochs", "120"];
    let whole = Command::new(PROGRAM).args(SINGLE.start).args(many).current_dir(dir.path()).output().unwrap();
    assert!(whole.status.success(), "{}", text(&whole));
    let whole = Left::of(&dir.path().join("run"));
    fs::remove_dir_all(dir.path().join("run")).unwrap();
    let run = dir.path().join("run");
    let Some(mounted) = Mounted::new(&run, "size=60k") else {
        println!("skipped: no file system can be mounted here");
        return;
    };
    let output =
        Command::new(PROGRAM).args(SINGLE.start).args(many).current_dir(dir.path()).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write run/") && said.contains("No space left"), "{said}");
    assert!(said.contains("shadernet train --resume run") && !said.contains(".shadernet"), "{said}");
    mounted.resize("size=10m");
    let output =
        Command::new(PROGRAM).args(SINGLE.go_on(dir.path())).current_dir(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(Left::of(&run), whole);
}
