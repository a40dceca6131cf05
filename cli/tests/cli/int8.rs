//! `--int8`: what `eval`, `export` and `summary` say of a network in whole numbers, and when they cannot.

use super::*;

#[test]
fn every_command_means_the_same_network() {
    let dir = workplace();
    ok(dir.path(), &train(&["--epochs", "3", "--out", "run", "--quiet", "--no-report"]));

    let done = ok(dir.path(), &["eval", "run", "--int8", "--logits", "l.safetensors"]);
    let lines: Vec<&str> = done.stdout.lines().filter(|line| line.contains("average loss")).collect();
    assert!(
        matches!(lines[..], [float, int8] if float.starts_with("Test set:") && int8.starts_with("int8:"))
    );
    let json = ok(dir.path(), &["eval", "run", "--int8", "--json"]).json();
    let said = format!("{}/{} ", json["int8"]["correct"], json["int8"]["total"]);
    assert!(lines[1].contains(&said) && json["int8"]["total"] == json["total"], "{}", lines[1]);
    let differ = format!(", {} answer", json["int8"]["other_answers"]);
    assert!(lines[1].contains(&differ) && lines[1].contains(" differ"), "{}", lines[1]);
    assert!(ok(dir.path(), &["eval", "run", "--json"]).json().get("int8").is_none());

    // Whole numbers, near the others, whose largest class is mostly the same.
    let logits = fs::read(dir.path().join("l.safetensors")).unwrap();
    let logits = safetensors::SafeTensors::deserialize(&logits).unwrap();
    let of = |name: &str| -> Vec<f32> { bytemuck::pod_collect_to_vec(logits.tensor(name).unwrap().data()) };
    let scale = json["int8"]["logit_scale"].as_f64().unwrap() as f32;
    let largest = of("logits").iter().fold(0f32, |most, logit| most.max(logit.abs()));
    for (real, whole) in of("logits").into_iter().zip(of("int8_logits")) {
        assert!(whole.fract() == 0.0 && (real - scale * whole).abs() < 0.1 * largest, "{real}, {whole}");
    }
    assert_eq!(of("logits").len(), of("int8_logits").len());
    assert_eq!(of("int8_logit_scale"), [scale]);

    let done = ok(dir.path(), &["export", "run", "--c", "net.c", "--int8", "--header"]);
    let source = fs::read_to_string(dir.path().join("net.c")).unwrap();
    let header = fs::read_to_string(dir.path().join("net.h")).unwrap();
    for text in [&source, &header] {
        assert!(text.contains("void net_classify(const uint8_t *pixels, int16_t *logits);"));
        assert!(text.contains(&format!("#define NET_LOGIT_SCALE {}", json["int8"]["logit_scale"])));
    }
    assert!(done.stdout.contains("net.h: its declarations"), "{}", done.stdout);
    // What is known before the training is what it then takes.
    let lines = |text: &str| -> Vec<String> { text.lines().map(String::from).collect() };
    let size = lines(&done.stdout)[0].split_once("C99, ").unwrap().1.to_owned();
    let summary = ok(dir.path(), &["summary", "tiny.toml", "--int8"]).stdout;
    let [int8, float] = [0, 1].map(|from_end| lines(&summary).into_iter().rev().nth(from_end).unwrap());
    let memory = |line: &str| line.split_once("constants").unwrap().1.to_owned();
    assert!(float.starts_with("in C, float: ") && int8.starts_with("in C, int8:  "), "{summary}");
    assert_eq!(memory(&int8), memory(&size));
    let float_size = ok(dir.path(), &["export", "run", "--c", "f.c"]).stdout;
    assert_eq!(memory(&float), memory(lines(&float_size)[0].as_str()));
}

#[test]
fn what_does_not_fit_is_said_and_nothing_is_written() {
    let dir = workplace();
    ok(dir.path(), &train(&["--epochs", "1", "--out", "run", "--quiet", "--no-report"]));
    for (args, words) in [
        (&["export", "run", "--int8", "--onnx", "n.onnx", "--header"][..], "--c <FILE.c>"),
        (&["export", "run", "--c", "1st.c"], "1st.c: \"1st\" cannot begin the names of C functions"),
        (&["export", "run", "--c", "a-b.c", "--int8"], "a-b.c: \"a-b\" cannot begin the names"),
    ] {
        let done = run(dir.path(), args);
        assert!(done.code == 2 && done.stderr.contains(words), "{args:?}: {}", done.stderr);
    }
    // A header that is in the way is not replaced, and then the source is not written.
    fs::write(dir.path().join("net.h"), "mine").unwrap();
    let done = run(dir.path(), &["export", "run", "--c", "net.c", "--header"]);
    assert!(
        done.code == 2 && done.stderr.contains("net.h") && done.stderr.contains("--force"),
        "{}",
        done.stderr
    );
    assert_eq!(fs::read_to_string(dir.path().join("net.h")).unwrap(), "mine");
    assert!(!dir.path().join("net.c").exists() && !dir.path().join("n.onnx").exists());

    // Test images alone give no ranges.
    fs::create_dir(dir.path().join("part")).unwrap();
    for file in [TEST_IMAGES, TEST_LABELS] {
        fs::copy(dir.path().join(file), dir.path().join(file.replace("data", "part"))).unwrap();
    }
    ok(dir.path(), &["eval", "run", "--data", "part"]);
    for args in [&["eval", "run", "--int8"][..], &["export", "run", "--c", "net.c", "--int8"]] {
        let done = run(dir.path(), &[args, &["--data", "part"]].concat());
        let words = "--int8 takes its ranges from training images: say with --data DIR where some are";
        assert!(done.code == 1 && done.stderr.contains(words), "{args:?}: {}", done.stderr);
    }
}
