//! Networks that go on: from a run, to other classes, for more epochs, through another program and back.

use super::*;
use shadernet::checkpoint::save_tensors;
use shadernet::tensor::Tensor;

/// The model file with a constant rate, which suits any number of epochs.
fn constant(rate: &str) -> String {
    TINY.replace("schedule = \"cosine\", peak = 0.02", &format!("schedule = \"constant\", rate = {rate}"))
}

#[test]
fn a_run_starts_from_a_network_with_other_classes() {
    let dir = workplace();
    ok(dir.path(), &train(&["--epochs", "1", "--out", "run", "--quiet", "--no-report"]));
    let (pixels, classes) = bars(60, 4);
    fs::create_dir(dir.path().join("four")).unwrap();
    for part in ["train", "t10k"] {
        let path = |kind: &str| dir.path().join(format!("four/{part}-{kind}-ubyte"));
        fs::write(path("images-idx3"), &pixels).unwrap();
        fs::write(path("labels-idx1"), idx(&[60], &classes)).unwrap();
    }
    // It hardly learns, so it ends as it begins.
    let still = constant("1e-9").replace("out_channels = 3", "out_channels = 4").replace("0.5", "0.0");
    fs::write(dir.path().join("four.toml"), still).unwrap();
    let args = ["train", "four.toml", "--data", "four", "--device", "cpu", "--max-steps", "1", "--no-report"];
    let done = ok(dir.path(), &[&args[..], &["--init", "run", "--replicas", "2", "--out", "next"]].concat());
    let said = "--init: the file has 3 classes and the model 4, so the last layer, `conv2`, starts from random weights";
    assert!(done.stderr.contains(said), "{}", done.stderr);
    let of = |path: &str| Checkpoint::load(dir.path().join(path)).unwrap().weights;
    let (old, nets) = (of("run"), [of("next/model-seed0.safetensors"), of("next/model-seed1.safetensors")]);
    let close = |a: &Tensor, b: &Tensor| a.data.iter().zip(&b.data).all(|(a, b)| (a - b).abs() < 1e-6);
    for net in &nets {
        assert!(net[0].name == "conv1.weight" && close(&net[0], &old[0]));
    }
    let [first, second] = nets.map(|net| net.into_iter().find(|it| it.name == "conv2.weight").unwrap());
    assert!(!close(&first, &second), "each net draws its own last layer");
    // With several nets, one must be named.
    let message = run(dir.path(), &[&args[..], &["--init", "next", "--out", "more"]].concat()).stderr;
    assert!(message.contains("2 trained models; give one of them: model-seed0.safetensors, "), "{message}");
}

#[test]
fn a_finished_run_trains_further() {
    let dir = workplace();
    fs::write(dir.path().join("tiny.toml"), constant("0.02")).unwrap();
    let hash = |name: &str| Checkpoint::load(dir.path().join(name)).unwrap().weights_sha256();
    ok(dir.path(), &train(&["--epochs", "5", "--out", "five", "--quiet", "--no-report"]));
    for name in ["whole", "parts"] {
        ok(dir.path(), &train(&["--out", name, "--quiet", "--no-report"]));
    }
    let further = ["train", "--device", "cpu", "--no-report", "--epochs", "5", "--resume"];
    let done = ok(dir.path(), &[&further[..], &["whole"]].concat());
    let end = "end:    epoch 5 instead of 3; from here on the learning rates are those of a run of 5 epochs, 0.0200 next";
    assert!(done.stdout.contains(end) && done.stdout.contains("epoch 5/5"), "{}", done.stdout);
    // With a constant rate nothing tells it from a run of five epochs.
    assert_eq!(hash("whole"), hash("five"));
    // The new end is kept when it is stopped on the way.
    ok(dir.path(), &[&further[..], &["parts", "--max-steps", "14"]].concat());
    let summary = ok(dir.path(), &["train", "--resume", "parts", "--device", "cpu", "--json", "--no-report"]);
    let summary = summary.json();
    assert_eq!((summary["epochs"].as_u64(), summary["steps"].as_u64()), (Some(5), Some(20)));
    assert_eq!(summary["extensions"], serde_json::json!([{ "at_step": 12, "epochs_before": 3 }]));
    assert_eq!(hash("parts"), hash("five"));
    for epochs in ["4", "100001"] {
        let args = ["train", "--device", "cpu", "--resume", "whole", "--epochs", epochs];
        let refused = run(dir.path(), &args);
        let words = if epochs == "4" { "has already trained 5" } else { "must be from 1 to 100000" };
        assert!(refused.code == 2 && refused.stderr.contains(words), "{}", refused.stderr);
    }
    // A schedule with an end is stretched to the new one.
    fs::write(dir.path().join("tiny.toml"), TINY).unwrap();
    ok(dir.path(), &train(&["--out", "cosine", "--quiet", "--no-report"]));
    ok(dir.path(), &[&further[..], &["cosine"]].concat());
    let table = fs::read_to_string(dir.path().join("cosine/metrics.csv")).unwrap();
    let rates: Vec<f32> =
        table.lines().skip(1).map(|row| row.split(',').nth(2).unwrap().parse().unwrap()).collect();
    let schedule = Model::parse(TINY, "x").unwrap().train.learning_rate;
    let wanted: Vec<f32> =
        [(11, 12), (15, 20), (19, 20)].map(|(step, steps)| schedule.rates(steps, 4)[step]).into();
    assert_eq!(rates[2..], wanted);
}

#[test]
fn a_run_is_named_by_its_folder() {
    let dir = workplace();
    let trained = ok(dir.path(), &train(&["--out", "run", "--no-report", "--json"])).json();
    let elsewhere = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let folder = folder.to_str().unwrap();
    let file = format!("{folder}/model.safetensors");
    for model in [folder, &file] {
        let done = ok(elsewhere.path(), &["eval", model, "--device", "cpu", "--json"]);
        assert_eq!(done.json()["accuracy"], trained["final_test_accuracy"], "{}", done.stdout);
    }
    let said = ok(elsewhere.path(), &["eval", folder, "--device", "cpu"]).stdout;
    assert!(said.contains(&format!("data:   {}", dir.path().join("data").display())), "{said}");
    let picture = format!("{ROOT}/data/digits/7_bar.png");
    let answers =
        [folder, &file].map(|model| ok(dir.path(), &["classify", "--model", model, &picture]).stdout);
    assert_eq!(answers[0], answers[1]);
    assert!(ok(dir.path(), &["summary", folder]).stdout.contains("Total params: 159\n"));
    ok(elsewhere.path(), &["export", folder, "--onnx", "net.onnx", "--verify"]);
    fs::rename(dir.path().join("data"), dir.path().join("moved")).unwrap();
    let done = run(dir.path(), &["eval", folder]);
    assert!(done.code == 1 && done.stderr.contains("no longer exists; use --data DIR"), "{}", done.stderr);
    ok(dir.path(), &["eval", folder, "--data", "moved", "--device", "cpu"]);
}

#[test]
fn weights_of_another_program_come_back_without_training() {
    let dir = workplace();
    ok(dir.path(), &train(&["--out", "run", "--quiet", "--no-report"]));
    let trained = Checkpoint::load(dir.path().join("run")).unwrap();
    // As a wrapped network of PyTorch would be saved, with something beside it.
    let renamed = trained.weights.iter().cloned();
    let mut tensors: Vec<Tensor> =
        renamed.map(|it| Tensor { name: format!("module.{}", it.name), ..it }).collect();
    tensors.push(Tensor { name: "n_averaged".into(), shape: vec![1], data: vec![1.0] });
    save_tensors(&dir.path().join("w.safetensors"), &tensors).unwrap();

    let plain = run(dir.path(), &["eval", "w.safetensors", "--data", "data"]);
    assert!(plain.code == 1 && plain.stderr.contains("--model MODEL.toml"), "{}", plain.stderr);
    let wanted = trained.test_accuracy;
    for model in ["tiny.toml", "run", "run/model.safetensors"] {
        let args = ["eval", "w.safetensors", "--model", model, "--data", "data", "--device", "cpu", "--json"];
        let done = ok(dir.path(), &args);
        assert_eq!(done.json()["accuracy"].as_f64().unwrap(), wanted, "{model}");
        assert!(done.stderr.contains("not used: n_averaged"), "{}", done.stderr);
    }
    // Of a run the data are known.
    ok(dir.path(), &["eval", "w.safetensors", "--model", "run", "--device", "cpu"]);
    for (model, data) in [("tiny.toml", &["--data", "data"][..]), ("run", &[])] {
        let args = ["export", "w.safetensors", "--model", model, "--trained", "back.safetensors", "--force"];
        let done = ok(dir.path(), &[&args[..], data].concat());
        assert!(done.stdout.contains(&format!("{wanted:.2} % correct")), "{}", done.stdout);
        let back = Checkpoint::load(dir.path().join("back.safetensors")).unwrap();
        assert_eq!((back.weights, back.classes), (trained.weights.clone(), trained.classes.clone()));
        assert_eq!((back.normalization, back.test_accuracy), (trained.normalization.clone(), wanted));
    }
    let picture = format!("{ROOT}/data/digits/7_bar.png");
    let classify = |more: &[&str]| run(dir.path(), &[&["classify", "--json", &picture][..], more].concat());
    let answer = classify(&["--model", "run"]).json();
    assert_eq!(classify(&["--model", "run", "--weights", "w.safetensors"]).json(), answer);
    let described = ["--model", "tiny.toml", "--weights", "w.safetensors"];
    assert_eq!(classify(&[&described[..], &["--data", "data"]].concat()).json(), answer);
    let refused = classify(&described);
    assert!(refused.code == 2 && refused.stderr.contains("use --data DIR"), "{}", refused.stderr);
    // Not even MNIST is assumed, and what is read is never replaced.
    for command in ["eval", "export"] {
        let refused = |more: &[&str], words: &str| {
            let done = run(dir.path(), &[&[command, "w.safetensors", "--force"][..], more].concat());
            assert!(done.code == 2 && done.stderr.contains(words), "{}", done.stderr);
        };
        let out = if command == "eval" { "--logits" } else { "--trained" };
        refused(&["--model", "tiny.toml", out, "new.safetensors"], "use --data DIR");
        for read in ["w.safetensors", "run/model.safetensors"] {
            refused(&["--model", "run", out, read], "is an input");
        }
        refused(&["--model", "tiny.toml", "--data", "data", out, "tiny.toml"], "is an input");
    }
    for read in ["w.safetensors", "run/model.safetensors"] {
        let refused = classify(&["--model", "run", "--weights", "w.safetensors", "--force", "--csv", read]);
        assert!(refused.code == 2, "{}", refused.stderr);
    }
    assert_eq!(fs::read_to_string(dir.path().join("tiny.toml")).unwrap(), TINY);
}

#[test]
fn a_sheet_shows_what_the_network_will_see() {
    let dir = workplace();
    let turned = TINY.replace("rotate_degrees = 3.0", "rotate_degrees = 40.0");
    assert_ne!(turned, TINY);
    fs::write(dir.path().join("turned.toml"), turned).unwrap();
    let args = ["augment", "turned.toml", "--data", "data", "--images", "4"];
    let done = ok(dir.path(), &[&args[..], &["--epochs", "3", "--seed", "5"]].concat());
    assert!(done.stdout.starts_with("augment.png: 4 images, "), "{}", done.stdout);
    let sheet = image::open(dir.path().join("augment.png")).unwrap();
    assert!(sheet.width() > 4 * 8 && sheet.height() > 4 * 8, "{}x{}", sheet.width(), sheet.height());
    for (out, words) in [("augment.png", "exists; use `--force`"), ("turned.toml", "is an input")] {
        let force = if out == "turned.toml" { &["--force"][..] } else { &[] };
        let done = run(dir.path(), &[&args[..], &["--out", out], force].concat());
        assert!(done.code == 2 && done.stderr.contains(words), "{}", done.stderr);
    }
}
