//! `classify` with folders: what is found, in which forms the answers come, and where the pictures go.

use super::*;

/// The drawn digits in a folder, with others further down, and what is no picture; the path of each in order.
fn digits() -> (tempfile::TempDir, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("new");
    fs::create_dir_all(folder.join("deep/er")).unwrap();
    let from = Path::new(ROOT).join("data/digits");
    for (name, to) in [
        ("0_chalk.png", "0.png"),
        ("1_marker.png", "1.png"),
        ("7_bar.png", "deep/7.png"),
        ("3_red.png", "deep/er/0.png"),
        ("README.md", "README.md"),
        ("draw.py", "deep/draw.py"),
    ] {
        fs::copy(from.join(name), folder.join(to)).unwrap();
    }
    let names = ["0.png", "1.png", "deep/7.png", "deep/er/0.png"];
    (dir, names.map(|name| format!("new/{name}")).into())
}

#[test]
fn a_folder_is_classified_whole_with_a_line_for_each_picture() {
    let (dir, names) = digits();
    let done = ok(dir.path(), &["classify", "new"]);
    let lines: Vec<&str> = done.stdout.lines().collect();
    for ((line, name), digit) in lines.iter().zip(&names).zip([0, 1, 7, 3]) {
        assert!(line.starts_with(&format!("{digit}  ")) && line.ends_with(name), "{line}");
    }
    assert_eq!(lines[4..], ["", "1  0", "1  1", "1  3", "1  7", "4  in all"]);
    assert!(done.stderr.contains("new: 2 other files (1 .md, 1 .py) left out"), "{}", done.stderr);
    assert!(lines.iter().all(|line| line.chars().count() <= 60), "{}", done.stdout);

    // What cannot be read is named, counted and left out.
    fs::write(dir.path().join("new/1a.png"), "<html>").unwrap();
    let done = run(dir.path(), &["classify", "new"]);
    assert_eq!(done.code, 1);
    assert!(done.stdout.contains("4  in all") && done.stderr.contains("new/1a.png: "), "{}", done.stderr);
    assert!(done.stderr.contains("1 picture could not be read"), "{}", done.stderr);

    for (folder, words) in
        [("empty", "empty: there are no pictures in this folder"), ("text", "but 1 other file (1 .txt)")]
    {
        fs::create_dir(dir.path().join(folder)).unwrap();
        fs::write(dir.path().join("text/a.txt"), "").ok();
        let done = run(dir.path(), &["classify", folder]);
        assert!(done.code == 1 && done.stderr.contains(words), "{}", done.stderr);
    }
}

#[test]
fn every_form_says_the_same() {
    let (dir, names) = digits();
    let all = ok(dir.path(), &["classify", "new", "--json"]).json();
    let top = ok(dir.path(), &["classify", "new", "--json", "--top", "2"]).json();
    let args = ["classify", "new", "--csv", "a.csv", "--json"];
    assert_eq!(ok(dir.path(), &args).json(), all);
    let table = fs::read_to_string(dir.path().join("a.csv")).unwrap();
    assert_eq!(ok(dir.path(), &["classify", "new", "--csv", "-"]).stdout, table);
    let rows = |text: &str| -> Vec<Vec<String>> {
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
        reader.records().map(|row| row.unwrap().iter().map(String::from).collect()).collect()
    };
    let table = rows(&table);
    assert_eq!(table[0][..4], ["file", "class", "probability", "0"]);
    let best = rows(&ok(dir.path(), &["classify", "new", "--csv", "-", "--top", "2"]).stdout);
    assert_eq!(best[0][3..], ["class 1", "probability 1", "class 2", "probability 2"]);
    assert_eq!((all.as_array().unwrap().len(), table.len(), best.len()), (4, 5, 5));
    for (index, name) in names.iter().enumerate() {
        let (answer, row, best) = (&all[index], &table[index + 1], &best[index + 1]);
        assert_eq!((&answer["file"], &row[0]), (&name.as_str().into(), name));
        let classes: Vec<&str> =
            answer["classes"].as_array().unwrap().iter().map(|class| class.as_str().unwrap()).collect();
        let probabilities: Vec<f64> =
            answer["probabilities"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
        let of_row: Vec<f64> = row[3..].iter().map(|cell| cell.parse().unwrap()).collect();
        assert_eq!(of_row, probabilities);
        let mut order: Vec<usize> = (0..10).collect();
        order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        assert_eq!(answer["class"], classes[order[0]]);
        assert_eq!(answer["digit"].to_string(), classes[order[0]]);
        for place in 0..2 {
            let (class, probability) = (&best[3 + 2 * place], best[4 + 2 * place].parse::<f64>().unwrap());
            // Of classes whose probabilities are rounded to the same, either may be first.
            let at = classes.iter().position(|name| name == class).unwrap();
            assert_eq!([probability, probabilities[at]], [probabilities[order[place]]; 2]);
            let of_top = &top[index]["top"][place];
            assert_eq!(
                (of_top["class"].as_str(), of_top["probability"].as_f64()),
                (Some(&**class), Some(probability))
            );
        }
    }
    let done = ok(dir.path(), &["classify", "new/0.png", "--top", "2"]);
    let bars = done.stdout.lines().filter(|line| line.starts_with("  ") && line.contains(" % ")).count();
    assert!((1..=2).contains(&bars), "{}", done.stdout);
}

#[test]
fn doubtful_answers_are_unsure_and_pictures_go_to_their_folders() {
    let (dir, names) = digits();
    let all = ok(dir.path(), &["classify", "new", "--json"]).json();
    let probability = |index: usize| all[index]["probability"].as_f64().unwrap();
    let least = (0..4).map(probability).fold(1.0, f64::min);
    // Above the least sure of them, below the next.
    let limit = (0..4).map(probability).filter(|&value| value > least).fold(1.0, f64::min);
    let limit = ((least + limit) / 2.0).to_string();
    let args = ["classify", "new", "--unsure-below", &limit];
    let some = ok(dir.path(), &[&args[..], &["--json"]].concat()).json();
    let mut want: Vec<(String, String)> = Vec::new();
    for index in 0..4 {
        let is_sure = probability(index) > least;
        let class = if is_sure { &all[index]["class"] } else { &"unsure".into() };
        assert_eq!((&some[index]["class"], some[index]["digit"].is_null()), (class, !is_sure));
        assert_eq!(some[index]["probabilities"], all[index]["probabilities"]);
        if !is_sure {
            assert_eq!(some[index]["best"], all[index]["class"]);
        }
        want.push((class.as_str().unwrap().to_owned(), names[index].clone()));
    }
    let lines = ok(dir.path(), &args).stdout;
    assert!(lines.contains("?)") && lines.contains("1  unsure"), "{lines}");

    let sort =
        |into: &str, more: &[&str]| ok(dir.path(), &[&args[..], &["--sort-into", into], more].concat());
    let done = sort("sorted", &[]);
    assert!(done.stderr.contains("4 pictures linked into sorted"), "{}", done.stderr);
    sort("copies", &["--copy"]);
    for into in ["sorted", "copies"] {
        let mut found: Vec<(String, Vec<u8>)> = Vec::new();
        for file in listing(&dir.path().join(into)).iter().filter(|path| path.is_file()) {
            let class = file.parent().unwrap().file_name().unwrap().to_str().unwrap();
            found.push((class.to_owned(), fs::read(file).unwrap()));
        }
        let mut want: Vec<(String, Vec<u8>)> = want
            .iter()
            .map(|(class, name)| (class.clone(), fs::read(dir.path().join(name)).unwrap()))
            .collect();
        found.sort();
        want.sort();
        assert!(found == want, "{into}");
    }
    // Again, also from inside the folder: what is there is known, and is not classified as new.
    let done = sort("sorted", &[]);
    assert!(done.stderr.contains("0 pictures linked into sorted; 4 were there already"), "{}", done.stderr);
    sort("new/sorted", &[]);
    let done = sort("new/sorted", &[]);
    assert!(done.stdout.contains("4  in all"), "{}", done.stdout);
}

#[test]
fn what_does_not_go_together_is_said_first() {
    let (dir, _) = digits();
    fs::write(dir.path().join("old.csv"), "").unwrap();
    for (args, words) in [
        (&["new", "--unsure-below", "80"][..], "a probability is 0 to 1; for 80 %, give 0.8"),
        (&["new", "--unsure-below=-1"], "a probability is 0 to 1"),
        (&["new", "--top", "0"], "--top"),
        (&["new", "--csv", "-", "--json"], "both would go to standard output"),
        (&["new", "--csv", "old.csv"], "old.csv exists; use `--force` to replace it"),
        (&["new", "--sort-into", "new"], "this folder is to be classified; name another"),
        (&["new", "--sort-into", "old.csv"], "this is a file; name a folder"),
        (&["-", "--sort-into", "x"], "standard input is none"),
        (&["new", "--copy"], "--sort-into"),
    ] {
        let done = run(dir.path(), &[&["classify"], args].concat());
        assert!(done.code == 2 && done.stderr.contains(words), "{args:?}: {}", done.stderr);
    }
    ok(dir.path(), &["classify", "new", "--csv", "old.csv", "--force"]);
    assert!(fs::read_to_string(dir.path().join("old.csv")).unwrap().starts_with("file,class"));
}

/// Where images are held out, the model has a temperature: `eval` measures what it is worth, `classify` uses it.
#[test]
fn held_out_images_calibrate_a_model() {
    let dir = workplace();
    ok(dir.path(), &train(&["--epochs", "3", "--out", "plain", "--no-report"]));
    assert!(Checkpoint::load(dir.path().join("plain/model.safetensors")).unwrap().temperature.is_none());
    // Every fourth label says nothing, so that no answer is certain.
    let word = |image: u32| image.wrapping_mul(2_654_435_761) >> 20;
    let label = |image: u32| if word(image).is_multiple_of(4) { word(image) / 4 % 3 } else { image % 3 };
    let labels: Vec<u8> = (0..300).map(|image| label(image) as u8).collect();
    fs::write(dir.path().join(IMAGES), bars(300, 3).0).unwrap();
    fs::write(dir.path().join(LABELS), idx(&[300], &labels)).unwrap();
    ok(dir.path(), &train(&["--epochs", "8", "--hold-out", "100", "--out", "run"]));
    let path = dir.path().join("run/model.safetensors");
    let checkpoint = Checkpoint::load(&path).unwrap();
    let temperature = checkpoint.temperature.unwrap();
    // Not the test set: the same images as those of the run.
    let data =
        shadernet::TrainingData::load_held_out(dir.path().join("data"), checkpoint.model.input, 100_usize)
            .unwrap();
    let logits = shadernet::eval::logits(&checkpoint, &data.test, &Device::cpu()).unwrap();
    assert_eq!(shadernet::eval::fit_temperature(&logits, &data.test.labels, 3), Some(temperature));
    let page = fs::read_to_string(dir.path().join("run/report.html")).unwrap();
    assert!(page.contains(&format!("at the model’s temperature, {temperature}")));

    let eval = ["eval", "run/model.safetensors", "--data", "data", "--device", "cpu"];
    let judged = ok(dir.path(), &[&eval[..], &["--json"]].concat()).json();
    assert_eq!(judged["temperature"].as_f64().unwrap() as f32, temperature);
    let printed = ok(dir.path(), &eval).stdout;
    for key in ["calibration_error", "calibrated_error"] {
        assert!(printed.contains(&format!("{:.2} %", judged[key].as_f64().unwrap())), "{printed}");
    }
    assert!(printed.lines().all(|line| line.chars().count() <= 80), "{printed}");

    let picture = format!("{ROOT}/data/digits/7_bar.png");
    let classify = |model: &str| ok(dir.path(), &["classify", &picture, "--json", "--model", model]).json();
    let warm = classify("run/model.safetensors");
    Checkpoint { temperature: None, ..checkpoint }.save(&path).unwrap();
    let plain = classify("run/model.safetensors");
    let of = |answer: &Value, class: usize| answer[0]["probabilities"][class].as_f64().unwrap();
    for class in 1..3 {
        let [ratio, want] = [&warm, &plain].map(|answer| (of(answer, class) / of(answer, 0)).ln());
        assert!((ratio * f64::from(temperature) - want).abs() < 1e-3 * want.abs().max(1.0), "{warm} {plain}");
    }
}
