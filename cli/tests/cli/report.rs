//! `report`: the page agrees with the logits, needs no other files, and bad input is named.

use super::*;

fn text(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap()
}

/// The text between the first `from` and the next `to` after it.
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let start = text.find(from).unwrap_or_else(|| panic!("{from:?} is not in {text}")) + from.len();
    &text[start..start + text[start..].find(to).unwrap()]
}

/// The text of every cell of a table, row by row, without tags.
fn cells(table: &str) -> Vec<Vec<String>> {
    let plain = |cell: &str| {
        let mut text = String::new();
        let mut inside = true;
        for c in cell.chars() {
            match c {
                '<' => inside = true,
                '>' => inside = false,
                c if !inside => text.push(c),
                _ => {}
            }
        }
        text
    };
    let table = table.replace("<td", "<th").replace("<thead", "");
    let rows = table.split("<tr").skip(1);
    let of_row = |row: &str| row.split("<th").skip(1).map(|cell| plain(cell).trim().to_owned()).collect();
    rows.map(of_row).collect()
}

/// The counts in the drawing of the matrix: which cell a number belongs to, its place says.
fn matrix(page: &str) -> Vec<Vec<usize>> {
    let attribute =
        |text: &str, name: &str| -> f64 { between(text, &format!("{name}=\""), "\"").parse().unwrap() };
    let svg = between(page, "<figure class=matrix", "</svg>");
    let names = between(svg, "<g class=names", "</g>").matches("<text class=end").count();
    let mut counts = vec![vec![0; names]; names];
    let places: Vec<(f64, f64, usize)> = between(svg, "<g class=counts", "</g>")
        .split("<text")
        .skip(1)
        .map(|text| (attribute(text, " x"), attribute(text, " y"), between(text, ">", "<").parse().unwrap()))
        .collect();
    let first = |of: fn(&(f64, f64, usize)) -> f64| places.iter().map(of).fold(f64::INFINITY, f64::min);
    // The diagonal always has numbers.
    let (left, top) = (first(|place| place.0), first(|place| place.1));
    for (x, y, count) in places {
        counts[((y - top) / 24.0).round() as usize][((x - left) / 24.0).round() as usize] = count;
    }
    counts
}

fn section<'a>(page: &'a str, title: &str) -> &'a str {
    between(page, &format!("<h2>{title}</h2>"), "</section>")
}

/// Nothing is fetched from anywhere, and no script runs.
fn check_alone(page: &str) {
    for word in ["<script", "<link", "@import", "url(", " onload", "javascript:"] {
        assert!(!page.contains(word), "{word} is in the page");
    }
    let elsewhere = page.matches("http").count();
    assert_eq!(elsewhere, page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count());
    assert_eq!(page.matches("src=").count(), page.matches("src=\"data:image/png;base64,").count());
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    assert!(page.len() < 1 << 20);
    assert!(!page.contains("NaN") && !page.contains("inf<"), "{page}");
}

/// Softmax, written plainly.
fn probabilities(logits: &[f32]) -> Vec<f64> {
    let powers: Vec<f64> = logits.iter().map(|&logit| f64::from(logit).exp()).collect();
    powers.iter().map(|power| power / powers.iter().sum::<f64>()).collect()
}

#[test]
fn the_page_says_what_the_logits_say() {
    let dir = workplace();
    // Labels that even a trained net gets wrong.
    let label = |image: usize| if image.is_multiple_of(7) { (image + 1) % 3 } else { image % 3 };
    let labels: Vec<u8> = (0..30).map(|image| label(image) as u8).collect();
    fs::write(dir.path().join(TEST_LABELS), idx(&[30], &labels)).unwrap();
    let done = ok(dir.path(), &train(&["--max-steps", "3", "--out", "x"]));
    assert!(done.stdout.contains("report.html"), "{}", done.stdout);
    let at_the_end = text(dir.path().join("x/report.html"));
    // Again, from the folder alone and from another working directory: the same bytes.
    fs::remove_file(dir.path().join("x/report.html")).unwrap();
    ok(&dir.path().join("x"), &["report", "."]);
    let page = text(dir.path().join("x/report.html"));
    assert!(page == at_the_end);
    check_alone(&page);

    let arguments = ["eval", "x/model.safetensors", "--data", "data", "--device", "cpu", "--logits", "l"];
    ok(dir.path(), &arguments);
    let file = fs::read(dir.path().join("l")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&file).unwrap();
    let logits: Vec<f32> = bytemuck::pod_collect_to_vec(file.tensor("logits").unwrap().data());
    let (mut counts, mut losses) = ([[0; 3]; 3], Vec::new());
    for (image, row) in logits.chunks(3).enumerate() {
        let answer = (0..3).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        counts[label(image)][answer] += 1;
        losses.push((-probabilities(row)[label(image)].ln(), image));
    }
    let right: usize = (0..3).map(|class| counts[class][class]).sum();
    assert!((1..30).contains(&right), "some images must be right and some wrong: {counts:?}");

    assert_eq!(matrix(&page), counts.map(Vec::from));
    assert!(section(&page, "Confusion matrix").contains(&format!("{right} of 30 correct")));
    let classes = cells(section(&page, "Each class"));
    assert_eq!(classes.len(), 1 + 3 + 1);
    for (class, row) in classes[1..4].iter().enumerate() {
        let (hits, all) = (counts[class][class], counts[class].iter().sum::<usize>());
        let answers: usize = counts.iter().map(|row| row[class]).sum();
        let share =
            |of: f64| if of > 0.0 { format!("{:.2}", 100.0 * hits as f64 / of) } else { "–".into() };
        let want = [all.to_string(), (all - hits).to_string(), share(answers as f64), share(all as f64)];
        assert_eq!(row[1..5], want, "{row:?}");
        assert_eq!(row[5], share((all + answers) as f64 / 2.0));
    }
    assert_eq!(classes[4][..3], ["mean".to_owned(), "30".into(), (30 - right).to_string()]);

    losses.sort_by(|a, b| b.0.total_cmp(&a.0));
    let worst = section(&page, "Worst images");
    let shown: Vec<&str> =
        worst.split("<small>#").skip(1).map(|rest| &rest[..rest.find('<').unwrap()]).collect();
    let want: Vec<_> = losses.iter().map(|(loss, image)| format!("{image}, loss {loss:.2}")).collect();
    assert_eq!(shown, want);
    let first = &losses[0];
    let of_first = probabilities(&logits[3 * first.1..][..3]);
    let figure = between(worst, "<figcaption>", "</figcaption>");
    for probability in of_first {
        assert!(figure.contains(&format!("{:.1} %", 100.0 * probability)), "{figure}");
    }
    assert!(figure.starts_with(&format!("<b>{}</b> → ", label(first.1))), "{figure}");

    let summary: Value = serde_json::from_str(&text(dir.path().join("x/summary.json"))).unwrap();
    for key in ["final_test_accuracy", "best_test_accuracy", "train_accuracy"] {
        assert!(page.contains(&format!("<b>{:.2} %</b>", summary[key].as_f64().unwrap())), "{key}");
    }
    for words in [
        "after the last epoch",
        "chosen by looking at the test images",
        "stopped in epoch 1 of 3, at step 3",
        summary["weights_sha256"].as_str().unwrap(),
        "conv1.weight: 4 filters of 3×3",
        "<b>conv1 → relu1</b> 4×6×6",
        "<b>global_avg_pool1</b> 3×1×1",
        "optimizer.type",
        "training steps",
    ] {
        assert!(page.contains(words), "{words:?} is not in the page");
    }
}

#[test]
fn the_worst_images_are_files_that_can_be_found() {
    let dir = pictures::album();
    ok(dir.path(), &train(&["--epochs", "1", "--out", "x"]));
    let page = text(dir.path().join("x/report.html"));
    check_alone(&page);
    let worst = section(&page, "Worst images");
    let files: Vec<&str> =
        worst.split("<small>").skip(1).map(|text| text.split(',').next().unwrap()).collect();
    let summary: Value = serde_json::from_str(&text(dir.path().join("x/summary.json"))).unwrap();
    assert_eq!(files.len() as u64, summary["test_images"].as_u64().unwrap());
    for (file, figure) in files.iter().zip(worst.split("<figure>").skip(1)) {
        assert!(dir.path().join("data").join(file).is_file(), "{file}");
        let class = Path::new(file).parent().unwrap().file_name().unwrap().to_str().unwrap();
        assert!(figure.contains(&format!("<b>{class}</b> → ")), "{figure}");
        // The image, and the map of where the answer comes from.
        assert_eq!(figure.matches("<img ").count(), 2);
    }
    let held_out = train(&["--epochs", "1", "--hold-out", "5", "--out", "y"]);
    ok(dir.path(), &held_out);
    let page = text(dir.path().join("y/report.html"));
    assert_eq!(section(&page, "Worst images").matches("<small>train/").count(), 5);
}

#[test]
fn names_are_only_names() {
    let dir = workplace();
    let names = "classes = [\"<b>\", \"&amp\", \"it's \\\"x\\\"\"]\nlayers = [";
    let model = TINY.replacen("layers = [", names, 1);
    fs::write(dir.path().join("tiny.toml"), model).unwrap();
    ok(dir.path(), &train(&["--epochs", "1", "--out", "<script>"]));
    let page = text(dir.path().join("<script>/report.html"));
    check_alone(&page);
    for name in ["<h1>&lt;script&gt;</h1>", ">&lt;b&gt;</text>", "&amp;amp", "it&#39;s &quot;x&quot;"] {
        assert!(page.contains(name), "{name}");
    }
}

#[test]
fn runs_of_several_nets_show_each_and_say_whose_details_they_show() {
    let dir = workplace();
    ok(dir.path(), &train(&["--epochs", "2", "--replicas", "8", "--seed", "3", "--out", "many"]));
    let page = text(dir.path().join("many/report.html"));
    check_alone(&page);
    assert!(page.contains("the net <b>seed 3</b>, the first that trained"));
    assert!(page.contains("mean of 8 nets") && page.contains("sample deviation of the nets"));
    let table = cells(section(&page, "Nets"));
    let summary: Value = serde_json::from_str(&text(dir.path().join("many/summary.json"))).unwrap();
    assert_eq!(table.len(), 1 + 8);
    for (row, net) in table[1..].iter().zip(summary["replicas"].as_array().unwrap()) {
        assert_eq!(row[0], format!("seed {}", net["seed"]));
        assert_eq!(row[2], format!("{:.2} %", net["final_test_accuracy"].as_f64().unwrap()));
    }

    let sweep = ["--sweep", "learning_rate=0.0001,0.02", "--replicas", "2", "--out", "sweep"];
    ok(dir.path(), &train(&[&sweep[..], &["--epochs", "6", "--hold-out", "20"]].concat()));
    let page = text(dir.path().join("sweep/report.html"));
    check_alone(&page);
    assert!(
        page.contains(
            "the net <b>learning_rate=0.02, seed 0</b>, the first of the point with the highest mean"
        )
    );
    assert!(page.contains("held-out accuracy after the last epoch"), "{page}");
    // From the folder: the held-out images are found again.
    let before = page;
    ok(dir.path(), &["report", "sweep"]);
    assert!(text(dir.path().join("sweep/report.html")) == before);
}

#[test]
fn runs_are_compared_side_by_side() {
    let dir = workplace();
    ok(dir.path(), &train(&["--epochs", "2", "--out", "runs/a", "--no-report"]));
    ok(dir.path(), &train(&["--epochs", "3", "--seed", "5", "--out", "runs/b", "--no-report"]));
    ok(dir.path(), &train(&["--epochs", "2", "--replicas", "2", "--out", "c/a", "--no-report"]));
    let sweep = ["--epochs", "2", "--sweep", "learning_rate=0.01,0.02", "--out", "sweep", "--no-report"];
    ok(dir.path(), &train(&sweep));
    fs::remove_dir_all(dir.path().join("data")).unwrap();
    let done = ok(dir.path(), &["report", "runs/a", "runs/b"]);
    assert!(done.stdout.contains("comparison.html"), "{}", done.stdout);
    let page = text(dir.path().join("comparison.html"));
    check_alone(&page);
    let finals = cells(section(&page, "Final figures"));
    assert!(finals[0].iter().filter(|head| head.starts_with("last epoch")).count() == 3, "{finals:?}");
    assert!(finals[0].iter().any(|head| head.starts_with("best epoch")), "{finals:?}");
    for (row, run) in finals[1..].iter().zip(["a", "b"]) {
        let summary: Value =
            serde_json::from_str(&text(dir.path().join(format!("runs/{run}/summary.json")))).unwrap();
        assert_eq!(row[0], run);
        assert_eq!(row[1], format!("{:.2} %", summary["final_test_accuracy"].as_f64().unwrap()));
        assert_eq!(row[2], format!("{:.4}", summary["final_test_loss"].as_f64().unwrap()));
    }
    let differing = cells(section(&page, "Settings that differ"));
    let want = [["setting", "a", "b"], ["epochs", "2", "3"], ["seed", "0", "5"]];
    assert_eq!(differing, want.map(|row| row.map(String::from).to_vec()));
    assert!(!page.contains('±') && page.contains("differ by chance"));

    // Folders with the same name, and a run of several nets.
    ok(dir.path(), &["report", "runs/a", "c/a", "--out", "two.html"]);
    let page = text(dir.path().join("two.html"));
    assert!(page.contains("<td>runs/a</td>") && page.contains("<td>c/a</td>"));
    assert!(page.contains("drawn by their mean"));
    ok(dir.path(), &["report", "runs/a", "sweep", "--out", "sweep.html"]);
    let differing = cells(section(&text(dir.path().join("sweep.html")), "Settings that differ"));
    let want = [["setting", "a", "sweep"], ["learning_rate.peak", "0.02", "0.01, 0.02"]];
    assert_eq!(differing, want.map(|row| row.map(String::from).to_vec()));
}

#[test]
fn a_training_can_go_without_and_survives_a_report_that_fails() {
    let dir = workplace();
    let done = ok(dir.path(), &train(&["--max-steps", "2", "--out", "x", "--no-report"]));
    assert!(!dir.path().join("x/report.html").exists() && !done.stdout.contains("report.html"));
    fs::create_dir(dir.path().join("x/report.html")).unwrap();
    let done = ok(dir.path(), &["train", "--resume", "x", "--device", "cpu", "--json"]);
    assert!(done.stderr.contains("warning: no report was written: "), "{}", done.stderr);
    assert_eq!(done.json()["complete"], true);
    assert!(text(dir.path().join("x/summary.json")).contains("\"complete\": true"));
}

#[test]
fn what_is_in_the_way_stays() {
    let dir = workplace();
    ok(dir.path(), &train(&["--epochs", "1", "--out", "x"]));
    let own = dir.path().join("x/report.html");
    let page = text(own.clone());
    ok(dir.path(), &["report", "x"]);
    fs::write(&own, "my notes").unwrap();
    fs::write(dir.path().join("other.html"), &page).unwrap();
    for more in [&[][..], &["--out", "other.html"]] {
        let done = run(dir.path(), &[&["report", "x"], more].concat());
        assert_eq!(done.code, 2, "{}", done.stderr);
        assert!(
            done.stderr.contains("exists; use `--force` to replace it, or choose another name"),
            "{}",
            done.stderr
        );
    }
    assert_eq!(text(own.clone()), "my notes");
    // The inputs of the report are kept even then.
    for name in ["model.safetensors", "metrics.csv", "summary.json", "checkpoint.safetensors"] {
        let path = format!("x/{name}");
        for runs in [&["x"][..], &["x", "x"]] {
            let done = run(dir.path(), &[&["report"], runs, &["--out", &path, "--force"]].concat());
            assert_eq!(done.code, 2, "{}", done.stderr);
            assert!(done.stderr.contains(&format!("{path}: this file is an input")), "{}", done.stderr);
        }
    }
    let done = run(dir.path(), &["report", "x", "--data", "data", "--out", TEST_LABELS, "--force"]);
    assert!(done.stderr.contains("this file is an input"), "{}", done.stderr);
    ok(dir.path(), &["report", "x", "--force"]);
    assert!(text(own) == page);
}

#[test]
fn what_is_no_run_is_named() {
    let dir = workplace();
    ok(dir.path(), &train(&["--epochs", "1", "--out", "x"]));
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("empty")).unwrap();
    fs::create_dir(at("cut off")).unwrap();
    fs::copy(at("x/checkpoint.safetensors"), at("cut off/checkpoint.safetensors")).unwrap();
    fs::copy(at("x/metrics.csv"), at("cut off/metrics.csv")).unwrap();
    let damaged = |folder: &str, file: &str, change: &dyn Fn(Vec<u8>) -> Option<Vec<u8>>| {
        fs::create_dir(at(folder)).unwrap();
        for name in ["summary.json", "metrics.csv", "model.safetensors"] {
            fs::copy(at("x").join(name), at(folder).join(name)).unwrap();
        }
        match change(fs::read(at(folder).join(file)).unwrap()) {
            Some(bytes) => fs::write(at(folder).join(file), bytes).unwrap(),
            None => fs::remove_file(at(folder).join(file)).unwrap(),
        }
    };
    damaged("no-model", "model.safetensors", &|_| None);
    damaged("bad-model", "model.safetensors", &|bytes| Some(bytes[..bytes.len() - 4].to_vec()));
    damaged("bad-summary", "summary.json", &|bytes| Some(bytes[..bytes.len() / 2].to_vec()));
    damaged("bad-metrics", "metrics.csv", &|bytes| Some([&bytes[..], b"2,x\n"].concat()));
    damaged("no-rows", "metrics.csv", &|bytes| Some(bytes.split(|&b| b == b'\n').next().unwrap().to_vec()));
    ok(dir.path(), &train(&["--epochs", "1", "--out", "y", "--seed", "1", "--no-report"]));
    let other = fs::read(at("y/model.safetensors")).unwrap();
    damaged("other-model", "model.safetensors", &|_| Some(other.clone()));
    fs::write(at("file"), "").unwrap();
    let few = idx(&[3, 8, 8], &[7; 192]);
    fs::create_dir(at("few")).unwrap();
    fs::write(at("few/t10k-images-idx3-ubyte"), few).unwrap();
    fs::write(at("few/t10k-labels-idx1-ubyte"), idx(&[3], &[0, 1, 2])).unwrap();

    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["none"], 1, &["none: there is no such folder"]),
        (&["file"], 1, &["file: this is a file", "runs/seed-1"]),
        (&["empty"], 1, &["empty: ", "there is no summary.json and no metrics.csv", "train --out"]),
        (
            &["cut off"],
            1,
            &["cut off: ", "there is no summary.json", "resume it with `shadernet train --resume 'cut off'`"],
        ),
        (&["no-model"], 1, &["no-model: ", "there is no model.safetensors"]),
        (&["bad-model"], 1, &["model.safetensors: damaged"]),
        (&["other-model"], 1, &["other-model/model.safetensors: ", "not the weights that summary.json"]),
        (
            &["bad-summary"],
            1,
            &["bad-summary/summary.json: damaged, or from another version of shadernet (line "],
        ),
        (&["bad-metrics"], 1, &["bad-metrics/metrics.csv: damaged: line 3 "]),
        (&["no-rows"], 1, &["no-rows/metrics.csv: damaged: 0 rows for 1 nets"]),
        (&["x", "--data", "few"], 1, &["few: 3 test images", "evaluated on 30", "--data"]),
        (&["x", "--data", "none"], 1, &["none: there is no such folder"]),
        (&["x", "--out", "none/x.html"], 1, &["cannot write none/x.html: there is no folder none"]),
        (&["x", "--out", "empty", "--force"], 2, &["empty: this is a folder; name a file"]),
        (&["x", "y", "--data", "data"], 2, &["--data applies to a single run"]),
        (&["x", "empty"], 1, &["empty: "]),
        (&["x", "x", "x", "x", "x", "x", "x"], 2, &["7 runs: at most 6"]),
        (&[], 2, &["<RUNS>"]),
    ];
    for (args, code, words) in cases {
        let done = run(dir.path(), &[&["report"], *args].concat());
        assert_eq!(done.code, *code, "{args:?}: {}", done.stderr);
        for word in *words {
            assert!(done.stderr.contains(word), "{args:?}: {word:?} is not in {}", done.stderr);
        }
    }
    assert!(!at("comparison.html").exists());

    // A dataset that moved.
    fs::rename(at("data"), at("moved")).unwrap();
    let done = run(dir.path(), &["report", "x"]);
    assert_eq!(done.code, 1);
    assert!(done.stderr.contains("data: ") && done.stderr.contains("use `--data DIR`"), "{}", done.stderr);
    ok(dir.path(), &["report", "x", "--data", "moved"]);
}

/// As many other images would be mixed with the run's figures.
#[test]
fn other_images_are_not_those_of_the_run() {
    let dir = workplace();
    for (run, more) in [("all", &[][..]), ("part", &["--hold-out", "30"])] {
        ok(dir.path(), &train(&[&["--epochs", "1", "--no-report", "--out", run], more].concat()));
        ok(dir.path(), &["report", run, "--out", "page.html", "--device", "cpu"]);
        fs::remove_file(dir.path().join("page.html")).unwrap();
    }
    for (name, count) in [(IMAGES, 60), (TEST_IMAGES, 30)] {
        let mut pixels = bars(count, 3).0;
        pixels[16..].iter_mut().for_each(|pixel| *pixel = pixel.wrapping_mul(3));
        fs::write(dir.path().join(name), pixels).unwrap();
    }
    for folder in ["all", "part"] {
        let done = run(dir.path(), &["report", folder, "--out", "page.html", "--device", "cpu"]);
        assert!(
            done.code == 1 && done.stderr.contains("these are not the images of the run"),
            "{}",
            done.stderr
        );
        assert!(!dir.path().join("page.html").exists());
    }
}
