//! `bench`: its report, and that the operations it measures as a device's ceilings are really computed.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../../tests/common/adapter.rs"]
mod common;

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use shadernet::gpu::{GpuOptions, MeasuredCeilings, PlanRunner};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
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
    batch_size = 48
    "#;
/// Operations in a step of [`TINY`] for one image: twice through the first convolution, three times through the second.
const TINY_FLOPS: usize = 2 * 2 * (4 * 6 * 6) * 9 + 3 * 2 * (3 * 4 * 4) * 36;

fn bench(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shadernet"));
    // Without it the Vulkan loader may complain on standard error.
    command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
    command.current_dir(dir).arg("bench").args(args).output().unwrap()
}

fn text(dir: &Path, args: &[&str]) -> String {
    let output = bench(dir, args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&text(dir, &[args, &["--json"]].concat())).unwrap()
}

/// A folder with `tiny.toml` and no dataset.
fn workplace() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tiny.toml"), TINY).unwrap();
    dir
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

fn sum(operations: &[Value], key: &str) -> f64 {
    operations.iter().map(|row| number(&row[key])).sum()
}

/// Rate times time, over all operations.
fn work(operations: &[Value], rate: &str) -> f64 {
    operations.iter().map(|row| 1e3 * number(&row["microseconds"]) * number(&row[rate])).sum()
}

/// What must hold for every report, with `images` images per step.
fn check(report: &Value, images: f64) {
    let (step, bound, ceilings) = (&report["step"], &report["bound"], &report["ceilings"]);
    let seconds = number(&step["milliseconds"]) / 1e3;
    assert!(seconds > 0.0 && number(&report["start_up"]["first_step_seconds"]) > 0.0, "{report}");
    assert!(number(&report["start_up"]["seconds"]) >= number(&report["start_up"]["first_step_seconds"]));
    assert!(number(&step["fastest_milliseconds"]) <= number(&step["milliseconds"]));
    assert!(number(&step["slowest_milliseconds"]) >= number(&step["milliseconds"]));
    assert!(close(number(&step["images_per_second"]), images / seconds), "{step}");
    assert!(close(number(&step["gflop_per_second"]), number(&step["gflop"]) / seconds), "{step}");
    let peak = number(&ceilings["gflop_per_second"]);
    assert!(close(number(&bound["arithmetic_milliseconds"]), 1e3 * number(&step["gflop"]) / peak), "{bound}");
    let part = |name: &str| number(&bound[format!("{name}_milliseconds")]);
    let longest = part("arithmetic").max(part("memory")) + part("launch");
    assert!(longest > 0.0 && close(number(&bound["milliseconds"]), longest), "{bound}");
    assert!(close(number(&bound["reached"]), longest / (1e3 * seconds)), "{bound}");
}

#[test]
fn the_cpu_engine_is_measured_without_a_data_set() {
    let dir = workplace();
    let report = json(
        dir.path(),
        &["tiny.toml", "--device", "cpu", "--threads", "1", "--steps", "2", "--replicas", "2"],
    );
    check(&report, 2.0 * 48.0);
    for (key, value) in
        [("batch_size", 48), ("replicas", 2), ("images", 60_000), ("parameters", 4 * 10 + 8 + 3 * 37)]
    {
        assert_eq!(report[key], value, "{key}");
    }
    assert_eq!((&report["model"], &report["generated"]), (&"tiny".into(), &true.into()));
    assert!(report["device"].as_str().unwrap().contains("1 thread,"), "{report}");
    assert_eq!((&report["step"]["steps"], &report["plan"]), (&2.into(), &Value::Null));
    let flops = 1e9 * number(&report["step"]["gflop"]);
    assert!(close(flops, (2 * 48 * TINY_FLOPS) as f64), "{flops}");
    let epoch = number(&report["step"]["milliseconds"]) / 1e3 * 1250.0;
    assert!(close(number(&report["step"]["epoch_seconds"]), epoch), "{report}");
    let operations = report["operations"].as_array().unwrap();
    assert!((sum(operations, "share") - 1.0).abs() < 1e-9, "{operations:?}");
    // Rate times time is work.
    assert!((work(operations, "gflop_per_second") / flops - 1.0).abs() < 1e-6, "{operations:?}");
    let names: Vec<&str> = operations.iter().map(|row| row["operation"].as_str().unwrap()).collect();
    // The first convolution needs no gradient of its input; the rectifier is part of the normalisation.
    let expected = "gather loss optimizer conv1.forward conv1.backward_weight batch_norm1.forward \
                    batch_norm1.statistics batch_norm1.backward_input conv2.backward_input global_avg_pool1.forward";
    assert!(expected.split(' ').all(|name| names.contains(&name)), "{names:?}");
    assert!(!names.contains(&"conv1.backward_input") && !names.contains(&"relu1.forward"), "{names:?}");
    assert_eq!(names.last(), Some(&"waiting"));
}

#[test]
fn the_threads_of_the_cpu_engine_share_a_step() {
    let report =
        json(Path::new(ROOT), &["--device", "cpu", "--threads", "2", "--batch-size", "16", "--steps", "30"]);
    let operations = report["operations"].as_array().unwrap();
    // The batch is one block, so one of two threads waits for at least half of the time.
    let waiting = operations.last().unwrap();
    assert!(waiting["operation"] == "waiting" && number(&waiting["share"]) > 0.45, "{operations:?}");
    assert!((sum(operations, "share") - 1.0).abs() < 1e-9, "{operations:?}");
    let flops = 1e9 * number(&report["step"]["gflop"]);
    assert!((2.0 * work(operations, "gflop_per_second") / flops - 1.0).abs() < 1e-6, "{operations:?}");
}

#[test]
fn a_data_set_is_used_where_it_fits() {
    let root = Path::new(ROOT);
    let report = json(root, &["--device", "cpu", "--steps", "1", "--batch-size", "100"]);
    check(&report, 100.0);
    assert_eq!(
        (&report["model"], &report["generated"], &report["images"]),
        (&"seed".into(), &false.into(), &60_000.into())
    );
    let dir = workplace();
    let tiny = dir.path().join("tiny.toml");
    let said = text(root, &[tiny.to_str().unwrap(), "--device", "cpu", "--steps", "1"]);
    for words in ["60000 images generated", "CPU engine", "images/s", "start-up", "ceilings", "reaches"] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
}

#[test]
fn every_launch_of_a_gpu_is_in_the_table() {
    let Some(gpu) = common::gpu() else { return };
    let device = gpu.info.to_string();
    let dir = workplace();
    let mut counts = Vec::new();
    for more in [&[][..], &["--fusion"]] {
        let args = [&["tiny.toml", "--device", &device, "--steps", "2"], more].concat();
        let report = json(dir.path(), &args);
        check(&report, 48.0);
        let (plan, ceilings) = (&report["plan"], &report["ceilings"]);
        assert!(number(&plan["memory_bytes"]) > 0.0 && number(&plan["traffic_bytes"]) > 0.0, "{plan}");
        assert!(number(&plan["unshared_bytes"]) >= number(&plan["memory_bytes"]), "{plan}");
        assert!(number(&ceilings["gb_per_second"]) > 0.0 && number(&ceilings["launch_microseconds"]) > 0.0);
        counts.push(number(&plan["launches"]) as usize);
        let Some(launches) = report["operations"].as_array() else {
            println!("{device} has no clock");
            continue;
        };
        assert_eq!(launches.len(), *counts.last().unwrap());
        assert!((sum(launches, "share") - 1.0).abs() < 1e-9 && sum(launches, "microseconds") > 0.0);
        // Over all launches, the work is that of the step.
        assert!(
            (work(launches, "gflop_per_second") / (48 * TINY_FLOPS) as f64 - 1.0).abs() < 1e-6,
            "{launches:?}"
        );
        assert!(
            (work(launches, "gb_per_second") / number(&plan["traffic_bytes"]) - 1.0).abs() < 1e-6,
            "{launches:?}"
        );
        let said = text(dir.path(), &args);
        for launch in launches.iter().map(|launch| launch["operation"].as_str().unwrap()) {
            assert!(said.contains(launch), "{launch} is not in {said}");
        }
    }
    assert!(counts[1] < counts[0], "{counts:?} launches without and with fusion");
}

#[test]
fn the_ceilings_are_really_computed() {
    let Some(gpu) = common::gpu() else { return };
    let [multiply_add, copy, add_one] = MeasuredCeilings::plans();
    let runner = |plan| PlanRunner::new(&gpu, plan, 0, GpuOptions::DEFAULT).unwrap();

    let chains = runner(multiply_add);
    // x / 2 + 1/2 converges to exactly 1 from any start; the result is a sum of eight.
    chains.write("factors", &[0.5f32.to_bits(); 2]).unwrap();
    chains.run().unwrap();
    assert_eq!(chains.read("sums").unwrap().unwrap(), [8.0f32.to_bits(); 64]);

    let copied = runner(copy);
    let words: Vec<u32> = (0..copied.plan().tensor("original").unwrap().bytes as u32 / 4).collect();
    copied.write("original", &words).unwrap();
    copied.run().unwrap();
    assert!(copied.read("duplicate").unwrap().unwrap() == words, "the copy differs");

    let counted = runner(add_one);
    (0..3).for_each(|_| counted.run().unwrap());
    assert_eq!(counted.read("count").unwrap().unwrap(), [3; 64]);
}

#[test]
fn wrong_arguments_get_one_clear_message() {
    let dir = workplace();
    let cases: [(&[&str], i32, &str); 8] = [
        (&["--steps", "0"], 2, "--steps"),
        (&["--steps", "65537"], 2, "1..=65536"),
        (&["--replicas", "0"], 2, "--replicas"),
        (&["--batch-size", "0"], 2, "batch_size = 0 must be from 1 to 65536"),
        (&["--device", "nosuchthing"], 2, "--device nosuchthing: no adapter has this in its name"),
        (&["--device", ""], 2, "--device is empty"),
        (&["--device", "gpu", "--threads", "2"], 2, "--threads applies only to the CPU engine"),
        (&["nosuch.toml"], 1, "cannot read nosuch.toml"),
    ];
    for (args, code, words) in cases {
        let output = bench(dir.path(), args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(words) && said.matches("error: ").count() == 1, "{args:?}: {said}");
        assert!(output.stdout.is_empty() && !said.contains("panicked"), "{args:?}: {said}");
    }
}

#[test]
fn scaling_measures_every_point_and_draws_it() {
    let dir = workplace();
    let points = json(dir.path(), &["tiny.toml", "--device", "cpu", "--steps", "1", "--scaling", "s.svg"]);
    let points = points.as_array().unwrap();
    let of = |quantity: &str| -> Vec<&Value> {
        points.iter().filter(|point| point["quantity"] == quantity).collect()
    };
    let gflop = |point: &Value| number(&point["report"]["step"]["gflop"]);
    let batches = of("batch_size");
    for (point, batch_size) in batches.iter().zip([32, 64, 128, 256, 512, 1024]) {
        assert_eq!(point["value"], batch_size);
        assert_eq!(point["report"]["batch_size"], batch_size);
        assert!(close(gflop(point) * 1e9, (batch_size * TINY_FLOPS) as f64), "{point}");
    }
    assert_eq!(batches.len(), 6);
    // The second convolution outputs the classes, so only its inputs grow.
    assert!(close(gflop(of("channels")[2]), 4.0 * gflop(of("channels")[0])));
    assert!(gflop(of("image_size")[1]) > 4.0 * gflop(of("image_size")[0]));
    let replicas: Vec<_> = of("replicas").iter().map(|point| point["report"]["replicas"].clone()).collect();
    assert_eq!(replicas, [1, 2, 4, 8, 16]);
    assert!(!of("threads").is_empty());
    let drawing = std::fs::read_to_string(dir.path().join("s.svg")).unwrap();
    assert_eq!(drawing.matches("<circle").count(), points.len());

    let output = bench(dir.path(), &["tiny.toml", "--device", "cpu", "--scaling", "nowhere/s.svg"]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && message.contains("nowhere/s.svg"), "{message}");
}
