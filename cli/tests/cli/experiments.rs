//! Suites of experiments: what is chosen and tested, that nothing is done twice, and that parts add up to the whole.

use super::*;

const SUITE: &str = r#"
name = "bars"
target = 50.0
select = { hold_out = 20, first_seed = 5, seeds = 2 }
test = { first_seed = 40, seeds = 3 }

[[groups]]
name = "rate"
question = "which learning rate?"
arms = [
  { name = "as it is", model = "tiny.toml" },
  { name = "tuned", model = "tiny.toml", candidates = [
    { train.learning_rate.peak = 1e-6 },
    { train.learning_rate.peak = 0.04 },
  ] },
]

[[groups]]
name = "dropout"
question = "does it help?"
arms = [
  { name = "as it is, again", model = "tiny.toml" },
  { name = "none", model = "tiny.toml", set = { dropout = 0.0, train.optimizer = { type = "sgd" } } },
]
"#;

fn suite(text: &str) -> tempfile::TempDir {
    let dir = workplace();
    fs::write(dir.path().join("suite.toml"), text).unwrap();
    dir
}

fn experiments<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["experiments", "suite.toml", "--data", "data", "--device", "cpu", "--out", "out"], more].concat()
}

/// Rows of a table: phase, arm, change, seed, accuracy, hash of the weights.
fn rows(path: &Path) -> Vec<[String; 6]> {
    let mut reader = csv::Reader::from_path(path).unwrap();
    let header = reader.headers().unwrap().clone();
    let columns = ["phase", "arm", "change", "seed", "final_accuracy", "weights_sha256"]
        .map(|name| header.iter().position(|column| column == name).unwrap());
    reader.records().map(|row| columns.map(|column| row.as_ref().unwrap()[column].to_owned())).collect()
}

#[test]
fn recipes_are_chosen_then_tested_and_nothing_is_done_twice() {
    let dir = suite(SUITE);
    let table = dir.path().join("out/runs.csv");
    let first = ok(dir.path(), &experiments(&[]));
    let all = rows(&table);
    let count = |phase: &str| all.iter().filter(|row| row[0] == phase).count();
    // Two candidates with two seeds; then three recipes with three seeds, one of which is shared by two arms.
    assert_eq!((count("select"), count("test")), (4, 9), "{all:?}");
    assert_eq!(first.stdout.lines().filter(|line| line.contains(", seed ")).count(), 13, "{}", first.stdout);
    let tuned: BTreeSet<_> = all.iter().filter(|row| row[0] == "test" && row[1] == "tuned").collect();
    assert!(tuned.iter().all(|row| row[2] == "learning_rate.peak = 0.04"), "{tuned:?}");
    let seeds: BTreeSet<_> = all.iter().filter(|row| row[0] == "test").map(|row| row[3].as_str()).collect();
    assert_eq!(seeds, BTreeSet::from(["40", "41", "42"]));
    let hashes: BTreeSet<_> = all.iter().map(|row| &row[5]).collect();
    assert_eq!(hashes.len(), 13, "every run has weights of its own");

    // A net in the suite equals the one that `train` makes.
    ok(dir.path(), &train(&["--seed", "41", "--out", "single"]));
    let alone = Checkpoint::load(dir.path().join("single/model.safetensors")).unwrap();
    let same = all.iter().find(|row| row[0] == "test" && row[1] == "as it is" && row[3] == "41").unwrap();
    assert_eq!(same[5], alone.weights_sha256());
    assert_eq!(same[4].parse::<f64>().unwrap(), alone.test_accuracy);

    let before = fs::read_to_string(&table).unwrap();
    let again = ok(dir.path(), &experiments(&[]));
    assert!(!again.stdout.contains(", seed "), "{}", again.stdout);
    assert_eq!(fs::read_to_string(&table).unwrap(), before);

    // What is missing is run again, to the same bits.
    let lines: Vec<&str> = before.lines().collect();
    let without = [&lines[..7], &lines[8..]].concat().join("\n") + "\n";
    fs::write(&table, without).unwrap();
    let filled = ok(dir.path(), &experiments(&[]));
    assert_eq!(filled.stdout.lines().filter(|line| line.contains(", seed ")).count(), 1, "{}", filled.stdout);
    assert_eq!(rows(&table).into_iter().collect::<BTreeSet<_>>(), all.iter().cloned().collect());
    // Side by side, too, only what is missing.
    fs::write(&table, [&lines[..7], &lines[8..9], &lines[10..]].concat().join("\n") + "\n").unwrap();
    let filled = ok(dir.path(), &experiments(&["--replicas", "3"]));
    assert_eq!(filled.stdout.lines().filter(|line| line.contains(", seed ")).count(), 2, "{}", filled.stdout);
    let filled = rows(&table);
    assert_eq!(filled.len(), all.len(), "{filled:?}");
    assert_eq!(filled.into_iter().collect::<BTreeSet<_>>(), all.iter().cloned().collect());
}

#[test]
fn the_report_is_made_from_the_rows() {
    let dir = suite(SUITE);
    ok(dir.path(), &experiments(&["--replicas", "2"]));
    let all = rows(&dir.path().join("out/runs.csv"));
    let report = fs::read_to_string(dir.path().join("out/report.md")).unwrap();
    let accuracies = |arm: &str| -> Vec<f64> {
        let of_arm = all.iter().filter(|row| row[0] == "test" && row[1] == arm);
        of_arm.map(|row| row[4].parse().unwrap()).collect()
    };
    for (arm, written) in
        [("as it is", "as it is"), ("tuned", "tuned (learning_rate.peak = 0.04)"), ("none", "none")]
    {
        let values = accuracies(arm);
        assert_eq!(values.len(), 3, "{arm}");
        let mean = values.iter().sum::<f64>() / 3.0;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let cells = format!("| {written} | 133 | 3 | **{mean:.3}** ± {:.3} |", (squares / 2.0).sqrt());
        let parameters = Model::parse(TINY, "tiny.toml").unwrap().parameter_count();
        let cells = cells.replace("133", &parameters.to_string());
        assert!(report.contains(&cells), "{cells} is not in {report}");
    }
    // The first arm of the second group shares the runs of the first.
    assert!(report.contains("| as it is, again | "), "{report}");
    assert!(
        report.contains("| tuned | learning_rate.peak = 0.04 | ") && report.contains("| chosen |"),
        "{report}"
    );
    for chart in ["rate-accuracy.svg", "rate-curves.svg", "dropout-accuracy.svg", "dropout-curves.svg"] {
        assert!(report.contains(&format!("]({chart})")), "{chart}");
        let text = fs::read_to_string(dir.path().join("out").join(chart)).unwrap();
        assert!(text.contains("as it is") || chart.contains("curves"), "{text}");
        assert!(text.contains("<circle"), "{text}");
    }
}

/// A group can have its own seeds, and choose by loss where accuracy disagrees.
#[test]
fn a_group_has_its_own_protocol() {
    let own = r#"name = "rate"
select = { hold_out = 20, first_seed = 8, seeds = 1, by = "loss" }
test = { first_seed = 41, seeds = 1 }"#;
    let dir = suite(&SUITE.replace("name = \"rate\"", own));
    ok(dir.path(), &experiments(&["--phase", "select"]));
    let table = dir.path().join("out/runs.csv");
    let choice = rows(&table);
    assert_eq!(choice.len(), 2, "{choice:?}");
    assert!(choice.iter().all(|row| row[3] == "8"), "{choice:?}");
    // As if the first were right more often and the second more confident.
    let mut reader = csv::Reader::from_path(&table).unwrap();
    let header = reader.headers().unwrap().clone();
    let mut lines: Vec<csv::StringRecord> = vec![header.clone()];
    for (record, [accuracy, loss]) in reader.records().zip([["100", "0.5"], ["90", "0.25"]]) {
        let record = record.unwrap();
        let changed = header.iter().zip(&record).map(|(column, value)| match column {
            "final_accuracy" => accuracy.to_owned(),
            "final_loss" => loss.to_owned(),
            _ => value.to_owned(),
        });
        lines.push(changed.collect());
    }
    let mut writer = csv::Writer::from_path(&table).unwrap();
    lines.iter().for_each(|line| writer.write_record(line).unwrap());
    writer.flush().unwrap();

    ok(dir.path(), &experiments(&[]));
    let all = rows(&table);
    let of = |phase: &str, arm: &str| -> Vec<[String; 6]> {
        all.iter().filter(|row| row[0] == phase && row[1] == arm).cloned().collect()
    };
    let tested = of("test", "tuned");
    assert_eq!(tested.len(), 1);
    assert!(tested[0][2] == "learning_rate.peak = 0.04" && tested[0][3] == "41", "{tested:?}");
    // Three seeds of the recipe that both groups share: one for the first, the other two for the second.
    assert_eq!((of("test", "as it is").len(), of("test", "as it is, again").len()), (1, 2), "{all:?}");
    let report = fs::read_to_string(dir.path().join("out/report.md")).unwrap();
    assert!(report.contains("Seeds 41 to 41.") && report.contains("Seeds 40 to 42."), "{report}");
    assert!(report.contains("Chosen by the mean loss of seeds 8 to 8 on 20 held-out images"), "{report}");
}

#[test]
fn shards_together_are_the_whole() {
    let (whole, parts) = (suite(SUITE), suite(SUITE));
    ok(whole.path(), &experiments(&[]));
    let early = run(parts.path(), &experiments(&["--shard", "1/2"]));
    assert_eq!(early.code, 2, "{}", early.stdout);
    assert!(
        early.stderr.contains("not been chosen yet") && early.stderr.contains("\"tuned\""),
        "{}",
        early.stderr
    );
    ok(parts.path(), &experiments(&["--shard", "2/2", "--phase", "select"]));
    for shard in ["1/2", "2/2"] {
        ok(parts.path(), &experiments(&["--shard", shard]));
    }
    let table = |dir: &tempfile::TempDir, name: &str| rows(&dir.path().join("out").join(name));
    let halves = [table(&parts, "runs-1-of-2.csv"), table(&parts, "runs-2-of-2.csv")];
    assert_eq!(halves.each_ref().map(Vec::len), [7, 6]);
    let together: BTreeSet<_> = halves.into_iter().flatten().collect();
    assert_eq!(together, table(&whole, "runs.csv").into_iter().collect());
    let report = |dir: &tempfile::TempDir| fs::read_to_string(dir.path().join("out/report.md")).unwrap();
    let without_times = |text: String| -> Vec<String> {
        text.lines().map(|line| line.rsplitn(3, '|').last().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(without_times(report(&whole)), without_times(report(&parts)));
}

/// The protocol is enforced: while recipes are chosen there is no test set.
#[test]
fn the_choice_does_not_open_the_test_set() {
    let dir = suite(SUITE);
    for file in [TEST_IMAGES, TEST_LABELS] {
        fs::remove_file(dir.path().join(file)).unwrap();
    }
    ok(dir.path(), &experiments(&["--phase", "select"]));
    assert_eq!(rows(&dir.path().join("out/runs.csv")).len(), 4);
    let test = run(dir.path(), &experiments(&[]));
    assert_eq!(test.code, 1);
    assert!(test.stderr.contains("t10k"), "{}", test.stderr);
}

#[test]
fn a_run_that_was_stopped_goes_on() {
    let dir = suite(SUITE);
    ok(dir.path(), &experiments(&[]));
    let table = dir.path().join("out/runs.csv");
    let all = rows(&table);
    let text = fs::read_to_string(&table).unwrap();
    let (gone, kept): (Vec<_>, Vec<_>) =
        text.lines().partition(|line| line.starts_with("test,rate,as it is,") && line.contains(",41,"));
    assert_eq!(gone.len(), 1);
    fs::write(&table, kept.join("\n") + "\n").unwrap();
    let fingerprint = gone[0].rsplit(',').nth(1).unwrap();
    let folder = dir.path().join(format!("out/runs/rate-test-{fingerprint}-seed41"));
    // The state left by a process that is killed in the second epoch.
    fs::remove_dir_all(&folder).unwrap();
    ok(dir.path(), &train(&["--seed", "41", "--max-steps", "5", "--out", folder.to_str().unwrap()]));
    fs::write(folder.join("marker"), "").unwrap();
    ok(dir.path(), &experiments(&[]));
    assert_eq!(rows(&table).into_iter().collect::<BTreeSet<_>>(), all.into_iter().collect());
    assert!(folder.join("marker").exists(), "the run was begun anew");
}

#[test]
fn divergence_is_a_result() {
    let text = SUITE.replace("dropout = 0.0, ", "train.learning_rate.peak = 100.0, train.batch_size = 1, ");
    let dir = suite(&text.replace("type = \"sgd\"", "type = \"sgd\", momentum = 0.9"));
    let done = ok(dir.path(), &experiments(&[]));
    let all = rows(&dir.path().join("out/runs.csv"));
    let diverged: Vec<_> = all.iter().filter(|row| row[1] == "none").collect();
    assert_eq!(diverged.len(), 3);
    assert!(diverged.iter().all(|row| row[4] == "0.0" && row[5].is_empty()), "{diverged:?}");
    assert_eq!(done.stdout.matches(": diverged,").count(), 3, "{}", done.stdout);
    let report = fs::read_to_string(dir.path().join("out/report.md")).unwrap();
    assert!(report.contains("3, 3 diverged |"), "{report}");
}

#[test]
fn bad_suites() {
    let model = TINY.replace("kernel = 2", "kernel = 0");
    let cases: &[(&str, &str, &str)] = &[
        ("name = \"bars\"", "nam = \"bars\"", "suite.toml:2: "),
        ("first_seed = 40", "first_seed = 6", "needs other seeds than `select`"),
        ("seeds = 3", "seeds = 0", "at least one seed"),
        (
            "question = \"does it help?\"",
            "question = \"?\"\ntest = { first_seed = 6, seeds = 3 }",
            "group \"dropout\": its test needs other seeds",
        ),
        (
            "question = \"does it help?\"",
            "question = \"?\"\nselect = { hold_out = 10, first_seed = 5, seeds = 2 }",
            "hold_out = 10, but another group has 20",
        ),
        ("name = \"none\"", "name = \"as it is, again\"", "this name is taken"),
        ("name = \"dropout\"", "name = \"rate\"", "names must be unique"),
        ("dropout = 0.0,", "layers = 3,", "layers cannot be changed"),
        ("dropout = 0.0,", "dropout = 1.5,", "rate"),
        ("peak = 0.04", "peek = 0.04", "peek"),
        ("model = \"tiny.toml\", set", "model = \"no.toml\", set", "no.toml"),
        ("model = \"tiny.toml\", set", "model = \"bad.toml\", set", "bad.toml:8: layer `max_pool1`"),
    ];
    for (good, bad, words) in cases {
        assert!(SUITE.contains(good), "{good}");
        let dir = suite(&SUITE.replacen(good, bad, 1));
        fs::write(dir.path().join("bad.toml"), &model).unwrap();
        let done = run(dir.path(), &experiments(&[]));
        assert_eq!(done.code, 2, "{bad}: {}", done.stderr);
        assert!(done.stderr.contains(words), "{bad}: {words:?} is not in {}", done.stderr);
        assert!(!dir.path().join("out").exists(), "{bad}");
    }
    let dir = suite(SUITE);
    fs::create_dir(dir.path().join("out")).unwrap();
    fs::write(dir.path().join("out/notes.csv"), "a,b\n1,2\n").unwrap();
    let done = run(dir.path(), &experiments(&[]));
    assert!(
        done.code == 2 && done.stderr.contains("notes.csv") && done.stderr.contains("not a table of runs")
    );
    let done = run(dir.path(), &experiments(&["--shard", "3/2"]));
    assert!(done.code == 2 && done.stderr.contains("I from 1 to N"), "{}", done.stderr);
}

/// A row belongs to the images, the hold-out and the rules that produced it; rows that belong to others are kept, but
/// don't count.
#[test]
fn rows_of_other_data_or_another_hold_out_are_not_results() {
    let dir = suite(SUITE);
    let trained = |done: &Done| done.stdout.lines().filter(|line| line.contains(", seed ")).count();
    let report = || fs::read_to_string(dir.path().join("out/report.md")).unwrap();
    ok(dir.path(), &experiments(&[]));
    let table = dir.path().join("out/runs.csv");
    let first = rows(&table);

    // The same dataset under another path is the same dataset.
    fs::rename(dir.path().join("data"), dir.path().join("moved")).unwrap();
    let moved = ["experiments", "suite.toml", "--data", "moved", "--device", "cpu", "--out", "out"];
    assert_eq!(trained(&ok(dir.path(), &moved)), 0);

    // Other labels.
    fs::create_dir(dir.path().join("data")).unwrap();
    for file in [IMAGES, TEST_IMAGES, TEST_LABELS] {
        fs::copy(dir.path().join(file.replace("data/", "moved/")), dir.path().join(file)).unwrap();
    }
    let labels: Vec<u8> = (0..60).map(|image| (image / 3 % 3) as u8).collect();
    fs::write(dir.path().join(LABELS), idx(&[60], &labels)).unwrap();
    let other = ok(dir.path(), &experiments(&[]));
    assert_eq!(trained(&other), 13, "{}", other.stdout);
    assert!(other.stderr.contains("13 rows in this folder are from other data"), "{}", other.stderr);
    assert!(report().contains("\n13 more rows are of other data"), "{}", report());
    let both = rows(&table);
    assert_eq!(both.len(), 26);
    let both: BTreeSet<_> = both.into_iter().collect();
    assert!(first.iter().all(|row| both.contains(row)), "results were lost");

    // Nothing is retrained for either, and a report without data does not guess.
    assert_eq!(trained(&ok(dir.path(), &moved)), 0);
    assert_eq!(trained(&ok(dir.path(), &experiments(&[]))), 0);
    let unsure = run(dir.path(), &["experiments", "suite.toml", "--out", "out", "--report"]);
    assert!(unsure.code == 2 && unsure.stderr.contains("use `--data DIR` to say"), "{}", unsure.stderr);
    ok(dir.path(), &[&moved[..], &["--report"]].concat());
    assert!(report().contains("\n13 runs so far"), "{}", report());

    // Another hold-out: the choice is made again, and the tests are kept if the choice is the same.
    fs::write(dir.path().join("suite.toml"), SUITE.replace("hold_out = 20", "hold_out = 24")).unwrap();
    let held = ok(dir.path(), &moved);
    assert_eq!(held.stdout.lines().filter(|line| line.contains("select: ")).count(), 4, "{}", held.stdout);

    // Rows from before origins were recorded are read, and the report says so.
    let text = fs::read_to_string(&table).unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().unwrap().clone();
    let new: Vec<usize> = ["data_sha256", "hold_out", "rules"]
        .map(|name| header.iter().position(|column| column == name).unwrap())
        .into();
    let mut old = csv::Writer::from_writer(Vec::new());
    let kept = |record: &csv::StringRecord| -> Vec<String> {
        let fields = record.iter().enumerate().filter(|(index, _)| !new.contains(index));
        fields.map(|(_, field)| field.to_owned()).collect()
    };
    old.write_record(kept(&header)).unwrap();
    reader.records().take(13).for_each(|record| old.write_record(kept(&record.unwrap())).unwrap());
    fs::write(&table, old.into_inner().unwrap()).unwrap();
    fs::write(dir.path().join("suite.toml"), SUITE).unwrap();
    let old = ok(dir.path(), &moved);
    assert_eq!(trained(&old), 0);
    assert!(
        old.stderr.contains("13 rows in this folder were written by an older shadernet"),
        "{}",
        old.stderr
    );
    assert!(
        report().contains("\n13 of them were made by a shadernet that did not yet record"),
        "{}",
        report()
    );
}

#[cfg(unix)]
#[test]
fn a_suite_is_stopped_and_goes_on_and_has_one_process() {
    let dir = suite(
        &SUITE.replace("test = { first_seed = 40, seeds = 3 }", "test = { first_seed = 40, seeds = 400 }"),
    );
    let table = dir.path().join("out/runs.csv");
    let mut child =
        command(dir.path(), &experiments(&[])).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while !table.exists() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let second = run(dir.path(), &experiments(&[]));
    let owner = format!("out: in use by process {} on ", child.id());
    assert!(second.code == 1 && second.stderr.contains(&owner), "{}", second.stderr);
    // A shard has its own table, and `--report` works meanwhile.
    ok(dir.path(), &experiments(&["--report"]));
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("the same command continues"), "{said}");
    let kept = rows(&table);
    assert!(dir.path().join("out/report.md").exists());
    fs::write(dir.path().join("suite.toml"), SUITE).unwrap();
    ok(dir.path(), &experiments(&[]));
    let all: BTreeSet<_> = rows(&table).into_iter().collect();
    assert!(kept.iter().all(|row| all.contains(row)));
    // Tables, models and charts; no state of a finished run, no lock, no temporary file.
    let left: Vec<_> = listing(&dir.path().join("out"))
        .into_iter()
        .filter(|path| {
            path.to_string_lossy().contains("/.shadernet") || path.ends_with("checkpoint.safetensors")
        })
        .collect();
    assert!(left.len() <= 1, "{left:?}");
}

#[test]
fn rows_that_cannot_be_are_refused_and_doubles_count_once() {
    let dir = suite(SUITE);
    ok(dir.path(), &experiments(&[]));
    let table = dir.path().join("out/runs.csv");
    let text = fs::read_to_string(&table).unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().unwrap().clone();
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let column = |name: &str| header.iter().position(|column| column == name).unwrap();
    let write = |records: &[csv::StringRecord]| {
        let mut writer = csv::Writer::from_path(&table).unwrap();
        writer.write_record(&header).unwrap();
        records.iter().for_each(|record| writer.write_record(record).unwrap());
        writer.flush().unwrap();
    };
    let changed = |row: usize, name: &str, value: &str| {
        let mut records = records.clone();
        let fields = records[row].iter().enumerate();
        let fields = fields.map(|(index, field)| if index == column(name) { value } else { field });
        records[row] = fields.map(str::to_owned).collect::<Vec<_>>().into();
        records
    };
    for (name, value) in [
        ("final_accuracy", "NaN"),
        ("final_accuracy", "inf"),
        ("final_accuracy", "100.5"),
        ("final_loss", "NaN"),
        ("seconds", "1e308"),
        ("accuracies", "abc"),
        ("accuracies", "50"),
    ] {
        write(&changed(2, name, value));
        let done = run(dir.path(), &experiments(&["--report"]));
        assert_eq!(done.code, 2, "{name} = {value}: {}", done.stderr);
        assert!(done.stderr.contains("runs.csv:4: ") && done.stderr.contains(name), "{}", done.stderr);
    }
    // The same row twice, and a contradictory one.
    let mut doubled = records.clone();
    doubled.push(records[5].clone());
    doubled.push(changed(6, "weights_sha256", "0")[6].clone());
    write(&doubled);
    let done = ok(dir.path(), &experiments(&[]));
    assert!(!done.stdout.contains(", seed "), "{}", done.stdout);
    assert!(done.stderr.contains("different results are recorded for 1 run(s)"), "{}", done.stderr);
    let report = fs::read_to_string(dir.path().join("out/report.md")).unwrap();
    assert!(report.contains("\n13 runs so far"), "{report}");
    let none = run(dir.path(), &["experiments", "suite.toml", "--out", "typo", "--report"]);
    assert!(none.code == 1 && none.stderr.contains("typo: there is no such folder"), "{}", none.stderr);
    // A suite without its data leaves nothing behind.
    let none =
        run(dir.path(), &["experiments", "suite.toml", "--data", "no", "--device", "cpu", "--out", "a/b"]);
    assert!(none.code == 1 && !dir.path().join("a").exists(), "{}", none.stderr);
}
