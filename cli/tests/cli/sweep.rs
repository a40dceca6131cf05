//! Sweeps: one run, a net for each point and seed, each with its own file and recipe.

use super::*;

const SWEEP: [&str; 4] = ["--sweep", "learning_rate=0.01,0.02", "--sweep", "dropout=0,0.3"];

#[test]
fn a_sweep_trains_the_nets_of_single_runs() {
    let dir = workplace();
    let more = [&SWEEP[..], &["--replicas", "2", "--seed", "3", "--json", "--out", "sweep"]].concat();
    let done = ok(dir.path(), &train(&more));
    let summary = done.json();
    let nets = summary["replicas"].as_array().unwrap();
    let files: Vec<_> = nets.iter().map(|net| net["file"].as_str().unwrap()).collect();
    let mut want = Vec::new();
    for (rate, dropout) in [("0.01", "0"), ("0.01", "0.3"), ("0.02", "0"), ("0.02", "0.3")] {
        for seed in ["3", "4"] {
            want.push(format!("model-dropout={dropout}-learning_rate={rate}-seed{seed}.safetensors"));
        }
    }
    assert_eq!(files, want);
    assert_eq!(nets[5]["learning_rate"]["peak"], 0.02);
    assert_eq!(nets[5]["dropout"], serde_json::json!([0.0]));
    assert_eq!(nets[5]["point"], serde_json::json!({ "dropout": 0.0, "learning_rate": 0.02 }));

    // The net with dropout 0.3 and rate 0.01, alone.
    let single = TINY.replace("rate = 0.1 }", "rate = 0.3 }").replace("peak = 0.02", "peak = 0.01");
    fs::write(dir.path().join("single.toml"), single).unwrap();
    let args =
        ["train", "single.toml", "--data", "data", "--device", "cpu", "--seed", "4", "--out", "single"];
    ok(dir.path(), &args);
    let load = |path: &str| Checkpoint::load(dir.path().join(path)).unwrap();
    let (alone, swept) = (load("single/model.safetensors"), load(&format!("sweep/{}", want[3])));
    assert_eq!(alone.weights_sha256(), swept.weights_sha256());
    assert_eq!(alone.weights_sha256(), nets[3]["weights_sha256"].as_str().unwrap());
    assert_ne!(alone.weights_sha256(), load(&format!("sweep/{}", want[1])).weights_sha256());
    // Each net's file has its own recipe.
    let recipe = |checkpoint: &Checkpoint| checkpoint.model.to_toml().replace("\"single\"", "\"tiny\"");
    assert_eq!(recipe(&swept), recipe(&alone));
    let evaluated =
        ok(dir.path(), &["eval", &format!("sweep/{}", want[3]), "--data", "data", "--device", "cpu"]);
    let accuracy = nets[3]["final_test_accuracy"].as_f64().unwrap();
    assert!(
        evaluated.stdout.contains(&format!("{accuracy:.2}")),
        "{accuracy} is not in {}",
        evaluated.stdout
    );

    let metrics = fs::read_to_string(dir.path().join("sweep/metrics.csv")).unwrap();
    let lines: Vec<_> = metrics.lines().collect();
    assert_eq!(lines.len(), 1 + 3 * 8);
    assert!(
        lines[0].starts_with("sweep.dropout,sweep.learning_rate,seed,epoch,step,learning_rate,"),
        "{metrics}"
    );
    assert!(lines[4].starts_with("0.3,0.01,4,1,4,0.00"), "{metrics}");
    assert!(lines[24].starts_with("0.3,0.02,4,3,12,"), "{metrics}");

    // Every point has the mean and deviation of its nets, recomputed here.
    let points = summary["points"].as_array().unwrap();
    assert_eq!(points.len(), 4);
    for (point, pair) in points.iter().zip(nets.chunks(2)) {
        let [a, b] = [0, 1].map(|net| pair[net]["final_test_accuracy"].as_f64().unwrap());
        let near = |key: &str, want: f64| (point["spread"][key].as_f64().unwrap() - want).abs() < 1e-5;
        assert!(near("mean", (a + b) / 2.0) && near("deviation", (a - b).abs() / 2f64.sqrt()), "{point}");
        assert!(near("min", a.min(b)) && near("max", a.max(b)), "{point}");
        assert_eq!(point["point"], pair[0]["point"]);
    }
    let mean = |point: &Value| point["spread"]["mean"].as_f64().unwrap();
    let best = points.iter().map(mean).fold(0.0, f64::max);
    let first = points.iter().find(|point| mean(point) == best).unwrap();
    let printed = &done.stderr;
    let label = format!(
        "best of 4 points: dropout={} learning_rate={}: ",
        first["point"]["dropout"].as_f64().unwrap(),
        first["point"]["learning_rate"]
    );
    assert!(printed.contains(&label), "{label} is not in {printed}");
    assert!(!printed.contains("target of the assignment"), "{printed}");
    let rows = |words: &str| printed.lines().filter(|line| line.starts_with(words)).count();
    assert_eq!(rows("dropout=0.3 learning_rate=0.02 "), 3, "two nets and their point: {printed}");
    assert_eq!(rows("sweep:  8 nets side by side"), 1, "{printed}");
}

#[test]
fn a_sweep_with_one_seed_has_one_line_a_point() {
    let dir = workplace();
    let done = ok(dir.path(), &train(&["--sweep", "augment=0,1", "--epochs", "1"]));
    let rows = |words: &str| done.stdout.lines().filter(|line| line.starts_with(words)).count();
    assert_eq!((rows("augment=0 "), rows("augment=1 ")), (1, 1), "{}", done.stdout);
    for (file, rotate) in [("model-augment=0-seed0", 0.0), ("model-augment=1-seed0", 3.0)] {
        let path = dir.path().join(format!("runs/tiny-1/{file}.safetensors"));
        assert_eq!(Checkpoint::load(path).unwrap().model.train.augment.rotate_degrees, rotate);
    }
    // A single value also names its net.
    let one = ok(dir.path(), &train(&["--sweep", "dropout=0.2", "--epochs", "1", "--json"])).json();
    assert_eq!(one["replicas"][0]["file"], "model-dropout=0.2-seed0.safetensors");
    assert_eq!(one["points"].as_array().unwrap().len(), 1);
}

#[test]
fn a_resumed_sweep_ends_like_one_that_never_stopped() {
    let dir = workplace();
    ok(dir.path(), &train(&[&SWEEP[..], &["--out", "whole"]].concat()));
    ok(dir.path(), &train(&[&SWEEP[..], &["--out", "parts", "--max-steps", "6"]].concat()));
    ok(dir.path(), &["train", "--resume", "parts", "--device", "cpu"]);
    let path = |folder: &str, file: &str| dir.path().join(folder).join(file);
    for file in ["metrics.csv", "summary.json"] {
        assert_eq!(timeless(path("parts", file)), timeless(path("whole", file)), "{file}");
    }
    let models = listing(&dir.path().join("whole"));
    let models: Vec<_> = models.iter().filter(|path| path.to_str().unwrap().contains("model-")).collect();
    assert_eq!(models.len(), 4);
    for model in models {
        let name = model.file_name().unwrap().to_str().unwrap();
        assert!(fs::read(model).unwrap() == fs::read(path("parts", name)).unwrap(), "{name} differs");
    }
}

#[test]
fn a_sweep_that_does_not_fit_is_refused_at_once() {
    let dir = workplace();
    // Nothing is loaded before that: there is no data.
    fs::remove_dir_all(dir.path().join("data")).unwrap();
    for (more, words) in [
        (
            &["--sweep", "lr=0.1"][..],
            &["--sweep lr=0.1", "\"lr\"", "learning_rate, warmup, weight_decay, dropout"][..],
        ),
        (&["--sweep", "dropout"], &["KEY=V1,V2"]),
        (&["--sweep", "dropout=0.1,x"], &["\"x\" is not a number"]),
        (&["--sweep", "dropout=1.5"], &["--sweep dropout=1.5", "below 1"]),
        (&["--sweep", "learning_rate=1000"], &["--sweep learning_rate=1000", "learning_rate.peak", "to 100"]),
        (&["--sweep", "dropout=0.1,0.2", "--replicas", "200"], &["2 points with 200 seeds", "at most 256"]),
        (&["--sweep", "augment=1", "--augment", "off"], &["nothing to multiply"]),
        (&["--sweep", "dropout=0.1", "--resume", "runs/x"], &["--resume", "--sweep"]),
    ] {
        let args = if more.contains(&"--resume") { [&["train"], more].concat() } else { train(more) };
        let done = run(dir.path(), &args);
        assert_eq!(done.code, 2, "{more:?}: {}", done.stderr);
        for word in words {
            assert!(done.stderr.contains(word), "{more:?}: {word:?} is not in {}", done.stderr);
        }
    }
    assert!(!dir.path().join("runs").exists());
}

/// On a GPU the self-check must cover every kernel that any of the nets uses.
#[test]
fn a_sweep_runs_on_a_gpu() {
    let dir = workplace();
    let Some(gpu) = common::gpu() else { return };
    let name = gpu.info.name;
    let summary = |more: &[&str]| {
        let args = ["train", "tiny.toml", "--data", "data", "--device", &name, "--epochs", "1", "--json"];
        ok(dir.path(), &[&args, more].concat()).json()
    };
    for fusion in [&[][..], &["--fusion"]] {
        let swept = summary(&[&["--augment", "off", "--sweep", "augment.scale=0,0.1"], fusion].concat());
        let plain = summary(&[&["--augment", "off"], fusion].concat());
        assert_eq!(swept["replicas"][0]["weights_sha256"], plain["weights_sha256"]);
        assert_ne!(swept["replicas"][1]["weights_sha256"], plain["weights_sha256"]);
    }
}

/// Finding values that don't train is what sweeps are for: it continues without them.
#[test]
fn a_net_that_diverges_does_not_stop_the_others() {
    let dir = workplace();
    // Weight decay multiplies each weight by -99 in every step.
    let sgd = TINY
        .replace("type = \"adam\"", "type = \"sgd\", weight_decay = 1.0")
        .replace("\"cosine\", peak", "\"constant\", rate");
    fs::write(dir.path().join("tiny.toml"), sgd).unwrap();
    let more = ["--sweep", "learning_rate=100,0.02", "--replicas", "2", "--epochs", "20"];
    let done = ok(dir.path(), &train(&[&more[..], &["--out", "whole"]].concat()));
    assert!(done.stdout.contains("2 of 4 diverged"), "{}", done.stdout);
    assert!(done.stdout.contains("best of 2 points: learning_rate=0.02: "), "{}", done.stdout);
    let rows = |words: &str| done.stdout.lines().filter(|line| line.starts_with(words)).count();
    assert_eq!(rows("learning_rate=100 "), 3, "{}", done.stdout);

    let path = |folder: &str, file: &str| dir.path().join(folder).join(file);
    let text = fs::read_to_string(path("whole", "summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(summary["points"][0]["diverged"], 2);
    assert_eq!(summary["points"][0]["spread"], Value::Null);
    assert_eq!(summary["replicas"][1]["file"], Value::Null);
    let accuracies = [2, 3].map(|net| summary["replicas"][net]["final_test_accuracy"].as_f64().unwrap());
    let mean = summary["points"][1]["spread"]["mean"].as_f64().unwrap();
    assert!((mean - (accuracies[0] + accuracies[1]) / 2.0).abs() < 1e-5, "{text}");
    assert_eq!(summary["final_test_accuracy"].as_f64().unwrap(), mean, "of those that trained");
    let models = listing(&dir.path().join("whole"));
    assert_eq!(models.iter().filter(|path| path.to_str().unwrap().contains("model-")).count(), 2);

    // It stays excluded when the run is resumed.
    ok(dir.path(), &train(&[&more[..], &["--out", "parts", "--max-steps", "60"]].concat()));
    ok(dir.path(), &["train", "--resume", "parts", "--device", "cpu"]);
    for file in ["metrics.csv", "summary.json"] {
        assert_eq!(timeless(path("parts", file)), timeless(path("whole", file)), "{file}");
    }
    let all = run(dir.path(), &train(&["--sweep", "learning_rate=100", "--epochs", "20", "--out", "none"]));
    assert_eq!(all.code, 2);
    assert!(all.stderr.contains("diverged (learning_rate=100, seed 0)"), "{}", all.stderr);
}
