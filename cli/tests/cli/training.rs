//! What the settings of a training do to a whole run: held-out shares, early stops, frozen layers, the search for a rate; and
//! what `new` proposes.

use shadernet::tensor::Shape;

use super::*;

fn recipe(dir: &Path, more: &str) {
    fs::write(dir.join("tiny.toml"), format!("{TINY}{more}\n")).unwrap();
}

#[test]
fn a_share_is_held_out_and_the_best_epoch_is_kept() {
    let dir = workplace();
    recipe(dir.path(), "keep = \"best\"\nearly_stop = { patience = 2, on = \"accuracy\" }");
    fs::remove_file(dir.path().join(TEST_IMAGES)).unwrap();
    let share = train(&["--hold-out", "0.2", "--epochs", "30", "--out", "run"]);
    let done = ok(dir.path(), &share);
    assert!(done.stdout.contains("48 training images, 12 held-out images to evaluate on"), "{}", done.stdout);
    let summary: Value =
        serde_json::from_slice(&fs::read(dir.path().join("run/summary.json")).unwrap()).unwrap();
    let [kept, stopped] = ["kept_epoch", "stopped_epoch"].map(|key| summary[key].as_u64().unwrap());
    assert_eq!((&summary["hold_out"], &summary["complete"], stopped), (&0.2.into(), &true.into(), kept + 2));
    let says = format!(
        "Saved: the weights of epoch {kept}, the best by the accuracy of the held-out images; stopped after epoch \
         {stopped}, since the accuracy had not got better for 2 epochs"
    );
    assert!(done.stdout.contains(&says), "{says:?} is not in {}", done.stdout);
    let page = fs::read_to_string(dir.path().join("run/report.html")).unwrap();
    for words in [
        format!("held-out accuracy after epoch {kept}, whose weights were kept"),
        format!("Stopped early after epoch {stopped} of 30"),
    ] {
        assert!(page.contains(&words), "{words:?} is not in the report");
    }
    // Interrupted and resumed, with the same images held out.
    let part = [&share[..share.len() - 1], &["part", "--max-steps", "4"]].concat();
    ok(dir.path(), &part);
    let resumed = ok(dir.path(), &["train", "--resume", "part", "--device", "cpu", "--json"]).json();
    assert_eq!(resumed["weights_sha256"], summary["weights_sha256"]);
    assert_eq!(resumed["kept_epoch"], summary["kept_epoch"]);
    // The report finds them again.
    ok(dir.path(), &["report", "run", "--out", "again.html"]);
}

#[test]
fn frozen_layers_and_rates_are_trained_as_the_file_says() {
    let dir = workplace();
    ok(dir.path(), &train(&["--out", "first"]));
    recipe(
        dir.path(),
        "freeze = [\"before conv2\"]\nclass_weights = \"balanced\"\nclip_norm = 1.0\nwarmup = 0.1",
    );
    ok(dir.path(), &train(&["--init", "first/model.safetensors", "--out", "second"]));
    let load = |run: &str| Checkpoint::load(dir.path().join(run).join("model.safetensors")).unwrap();
    let (first, second) = (load("first"), load("second"));
    for (old, new) in first.weights.iter().zip(&second.weights) {
        assert_eq!(old.data == new.data, !old.name.starts_with("conv2"), "{}", old.name);
    }
    let text = second.model.to_toml();
    for line in
        ["freeze = [\"before conv2\"]", "class_weights = \"balanced\"", "clip_norm = 1.0", "warmup = 0.1"]
    {
        assert!(text.contains(line), "{line} is not in {text}");
    }
}

#[test]
fn a_rate_is_suggested_and_drawn() {
    let dir = workplace();
    let args = ["rate", "tiny.toml", "--data", "data", "--device", "cpu"];
    let done = ok(dir.path(), &[&args[..], &["--out", "rate.svg"]].concat());
    assert!(done.stdout.contains("suggestion: peak = 0."), "{}", done.stdout);
    assert!(fs::read_to_string(dir.path().join("rate.svg")).unwrap().starts_with("<svg "));
    let again = run(dir.path(), &[&args[..], &["--out", "rate.svg"]].concat());
    assert!(again.code == 2 && again.stderr.contains("--force"), "{}", again.stderr);
    let json = ok(dir.path(), &[&args[..], &["--json"]].concat()).json();
    let steps = json["steps"].as_array().unwrap();
    assert!(steps.len() > 100 && steps[0]["rate"].as_f64().unwrap() < 2e-6, "{} steps", steps.len());
    let same = format!("peak = {} ", json["suggestion"]);
    assert!(done.stdout.contains(&same), "{} {}", done.stdout, json["suggestion"]);
}

#[test]
fn new_fits_the_images_and_the_budget() {
    let dir = workplace();
    let new = |more: &[&str]| {
        let done = ok(dir.path(), &[&["new", "--data", "data", "--force"][..], more].concat());
        let text = fs::read_to_string(dir.path().join("model.toml")).unwrap();
        (Model::parse(&text, "model.toml").unwrap(), done.stdout)
    };
    // Grey images of 8x8: signs, which are not mirrored.
    let (model, said) = new(&[]);
    assert!(said.contains("mnist"), "{said}");
    assert_eq!((model.input, model.class_count()), (Shape::new(1, 8, 8), 3));
    let augment = model.train.augment;
    assert!(augment.flip_horizontal == 0.0 && augment.rotate_degrees > 0.0 && augment.saturation == 0.0);
    for preset in ["small", "photo"] {
        let (model, said) = new(&["--preset", preset]);
        assert!(model.train.augment.flip_horizontal > 0.0 && said.contains(preset), "{said}");
        assert!(model.train.augment.hue == 0.0, "grey images have none");
    }
    let (small, large) = (new(&["--parameters", "2000"]).0, new(&["--parameters", "50000"]).0);
    assert!(small.parameter_count() <= 2000 && (30_000..=50_000).contains(&large.parameter_count()));
    let done = run(dir.path(), &["new", "--data", "data", "--force", "--parameters", "100"]);
    assert!(
        done.code == 2 && done.stderr.contains("the smallest network that is proposed"),
        "{}",
        done.stderr
    );
    // What it writes is trained as it is.
    ok(dir.path(), &["train", "model.toml", "--data", "data", "--device", "cpu", "--epochs", "1"]);
}

#[test]
fn settings_that_cannot_be_are_refused() {
    for (recipe_of, args, words) in [
        ("keep = \"best\"", &[][..], &["keep in [train]", "never by test images", "--hold-out 0.1"][..]),
        ("early_stop = { patience = 3 }", &[], &["early_stop in [train]", "--hold-out 0.1"]),
        (
            "early_stop = { patience = 0 }",
            &["--hold-out", "9"],
            &["tiny.toml:", "early_stop.patience must be from 1"],
        ),
        ("early_stop = { on = \"loss\" }", &[], &["early_stop: `patience` is missing"]),
        (
            "early_stop = { patience = 3, on = \"test\" }",
            &[],
            &["early_stop.on: there is no name \"test\"", "accuracy, loss"],
        ),
        ("keep = \"first\"", &[], &["keep: there is no name \"first\"", "last, best"]),
        ("class_weights = [1, 2]", &[], &["tiny.toml:", "class_weights has 2 numbers", "ends with 3 values"]),
        ("class_weights = [1, 0, 2]", &[], &["tiny.toml:", "class_weights has 0", "from 0.000001"]),
        (
            "class_weights = \"even\"",
            &[],
            &["class_weights must be \"balanced\" or a list of numbers", "not \"even\""],
        ),
        ("clip_norm = -1", &[], &["tiny.toml:", "clip_norm = -1 must be from 0.000001"]),
        ("freeze = [\"conv9\"]", &[], &["tiny.toml:", "no layer \"conv9\" to freeze", "conv1, relu1"]),
        ("warmup = 1.5", &[], &["tiny.toml:", "warmup = 1.5 must be from 0 to 1"]),
        ("", &["--hold-out", "0"], &["--hold-out", "such as 500, or a share of each class, such as 0.1"]),
        ("", &["--hold-out", "1.5"], &["--hold-out", "such as 500"]),
        ("", &["--hold-out", "60"], &["cannot hold out 60 of 60 images"]),
    ] {
        let dir = workplace();
        recipe(dir.path(), recipe_of);
        let before = listing(dir.path());
        let done = run(dir.path(), &train(args));
        assert_eq!(done.code, 2, "{recipe_of} {args:?}: {}", done.stderr);
        for word in words {
            assert!(done.stderr.contains(word), "{recipe_of} {args:?}: {word:?} is not in {}", done.stderr);
        }
        assert_eq!(listing(dir.path()), before, "{recipe_of} {args:?}");
    }
}
