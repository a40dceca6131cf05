//! `--device auto` on a machine with a GPU, for which the test's adapter passes.

use super::*;

/// A run with a cache of its own, on a machine whose GPU is the test's adapter.
fn auto(dir: &Path, gpu: &str, args: &[&str]) -> String {
    let mut command = command(dir, args);
    command.env("XDG_CACHE_HOME", dir.join("cache")).env("SHADERNET_TEST_REAL_GPU", gpu);
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !stderr.contains("warning"), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// The only result of a measurement that is remembered.
fn remembered(dir: &Path) -> PathBuf {
    let mut files = fs::read_dir(dir.join("cache/shadernet/devices")).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none(), "more than one file");
    file
}

#[cfg(target_os = "linux")]
#[test]
fn the_faster_device_is_measured_and_remembered() {
    let Some(gpu) = common::gpu() else { return };
    let name = gpu.info.name.clone();
    let dir = workplace();
    let dir = dir.path();
    let train = |out: &str| auto(dir, &name, &["train", "tiny.toml", "--data", "data", "--out", out]);
    let summary = |run: &str| -> Value {
        serde_json::from_slice(&fs::read(dir.join(run).join("summary.json")).unwrap()).unwrap()
    };

    let said = train("first");
    let measured = summary("first")["comparison"].clone();
    let [on_gpu, on_cpu] = ["gpu", "cpu"].map(|of| measured[format!("{of}_milliseconds")].as_f64().unwrap());
    assert!(on_gpu > 0.0 && on_cpu > 0.0, "{measured}");
    assert!(measured["gpu"].as_str().unwrap().contains(&name), "{measured}");
    let chosen = if on_cpu < on_gpu { "CPU engine" } else { &name };
    assert!(summary("first")["device"].as_str().unwrap().contains(chosen), "{said}");
    // Sixty images in software: starting a driver's threads takes longer than the CPU engine's whole step.
    assert_eq!(chosen, "CPU engine", "{measured}");
    let reason =
        format!("the faster: {on_cpu:.3} ms a step, {} takes {on_gpu:.3}", measured["gpu"].as_str().unwrap());
    assert!(said.contains(&reason), "{reason} is not in {said}");

    // What is remembered decides.
    let file = remembered(dir);
    let text = fs::read_to_string(&file).unwrap();
    let mut other = measured.clone();
    other["gpu_milliseconds"] = 0.001.into();
    fs::write(&file, other.to_string()).unwrap();
    let said = train("second");
    assert!(said.contains("the faster: 0.001 ms a step, the CPU engine takes"), "{said}");
    assert!(summary("second")["device"].as_str().unwrap().contains(&name));
    assert_eq!(summary("second")["comparison"], other);
    // What is damaged does not.
    fs::write(&file, &text[..text.len() / 2]).unwrap();
    train("third");
    assert!(summary("third")["device"].as_str().unwrap().contains("CPU engine"));
    let again: Value = serde_json::from_slice(&fs::read(remembered(dir)).unwrap()).unwrap();
    assert!(again["gpu_milliseconds"].as_f64().unwrap() > 0.001, "{again}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_stays_on_the_device_on_which_it_began() {
    let Some(gpu) = common::gpu() else { return };
    let name = gpu.info.name.clone();
    let dir = workplace();
    let dir = dir.path();
    for (device, known) in [("cpu", "CPU engine"), (name.as_str(), name.as_str())] {
        let out = ["--max-steps", "2", "--out", known];
        auto(dir, &name, &[&["train", "tiny.toml", "--data", "data", "--device", device][..], &out].concat());
        let said = auto(dir, &name, &["train", "--resume", known]);
        assert!(said.contains("(as before)"), "{said}");
        let summary: Value =
            serde_json::from_slice(&fs::read(dir.join(known).join("summary.json")).unwrap()).unwrap();
        assert!(summary["device"].as_str().unwrap().contains(known), "{summary}");
        assert_eq!(summary["devices"], Value::Null, "{summary}");
    }
    assert!(!dir.join("cache/shadernet/devices").exists(), "something was measured");
}
