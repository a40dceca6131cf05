//! The exported C computes what the network computes: in whole numbers exactly the integers of `int8`, in `float` the CPU engine's
//! logits. For random networks and every model in data/models, with all warnings as errors. `SHADERNET_TEST_CC`
//! names another compiler, also with flags: `clang -m32`, `gcc -fsanitize=address,undefined -fno-sanitize-recover`, `g++`.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::Draw;
use common::exported::{ALL_LAYERS, checkpoint, models};
use rayon::prelude::*;
use shadernet::dataset::{Images, Part};
use shadernet::device::Device;
use shadernet::eval::Confusion;
use shadernet::export::{CSource, to_c, to_c_int8};
use shadernet::int8::Quantized;
use shadernet::{Checkpoint, eval};

/// Reads images, writes logits.
const MAIN: &str = include_str!("c/main.c");

/// The C compiler, with flags.
fn compiler() -> Option<Vec<String>> {
    let words = |text: &str| text.split_whitespace().map(String::from).collect();
    if let Ok(named) = std::env::var("SHADERNET_TEST_CC") {
        return Some(words(&named));
    }
    let works = |name: &&str| Command::new(name).arg("--version").output().is_ok();
    ["cc", "gcc", "clang"].into_iter().find(works).map(words)
}

/// What a compiled network writes for these images: its logits, as bytes.
fn run(compiler: &[String], folder: &Path, net: &CSource, images: &Images) -> Vec<u8> {
    let [source, header, main, program] = ["net.c", "net.h", "main.c", "net"].map(|name| folder.join(name));
    std::fs::write(&source, &net.source).unwrap();
    std::fs::write(&header, &net.header).unwrap();
    std::fs::write(&main, MAIN).unwrap();
    let language = if compiler[0].ends_with("++") { ["-xc++", "-std=c++11"] } else { ["-xc", "-std=c99"] };
    let strict = ["-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-O1"];
    let built = Command::new(&compiler[0])
        .args(&compiler[1..])
        .args(language)
        .args(strict)
        .arg("-o")
        .arg(&program)
        .args([&source, &main])
        .arg("-lm")
        .output()
        .unwrap();
    assert!(built.status.success(), "{}\n{}", String::from_utf8_lossy(&built.stderr), net.source);
    let mut child = Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&interleaved(images)).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    output.stdout
}

/// Pixel by pixel, as C reads images.
fn interleaved(images: &Images) -> Vec<u8> {
    let area = images.height * images.width;
    let image = |image: &[u8]| -> Vec<u8> {
        (0..area)
            .flat_map(|at| (0..images.channels).map(move |c| c * area + at))
            .map(|at| image[at])
            .collect()
    };
    images.pixels.chunks(images.channels * area).flat_map(image).collect()
}

fn images(checkpoint: &Checkpoint, count: usize) -> Arc<Images> {
    let input = checkpoint.model.input;
    let shape = [input.channels, input.height, input.width];
    Draw::new(3).images(count, shape, checkpoint.model.class_count())
}

#[test]
fn c_computes_what_the_network_computes() {
    // Rust links with one, except on Windows.
    let compiler = match compiler() {
        None if cfg!(windows) => return println!("skipped: there is no C compiler"),
        compiler => compiler.expect("a C compiler"),
    };
    let (checked, with_maxima) = models()
        .into_par_iter()
        .map(|(path, text)| {
            let checkpoint = checkpoint(&text, &path);
            let images = images(&checkpoint, 3);
            let folder = tempfile::tempdir().unwrap();

            let net = Quantized::new(&checkpoint, &images).unwrap_or_else(|error| panic!("{path}: {error}"));
            let wanted = net.logits(&images).unwrap();
            let source = to_c_int8(&checkpoint, &net, "net").unwrap();
            let made = run(&compiler, folder.path(), &source, &images);
            let logits: Vec<i16> =
                made.chunks(2).map(|bytes| i16::from_le_bytes(bytes.try_into().unwrap())).collect();
            assert_eq!(logits, wanted, "{path}\n{text}");

            let wanted = eval::logits(&checkpoint, &images, &Device::cpu().threads(1)).unwrap();
            let made = run(&compiler, folder.path(), &to_c(&checkpoint, "net").unwrap(), &images);
            let logits: Vec<f32> =
                made.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
            assert_eq!(logits.len(), wanted.len(), "{path}");
            let largest = wanted.iter().fold(1f32, |largest, logit| largest.max(logit.abs()));
            for (got, want) in logits.iter().zip(&wanted) {
                assert!((got - want).abs() <= 2e-5 * largest, "{path}: {got}, wanted {want}\n{text}");
            }
            let has_maximum = |line: &str| line.contains("convolution") && line.contains(", maximum of");
            (1, usize::from(source.source.lines().any(has_maximum)))
        })
        .reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    assert!(
        checked >= 200 && with_maxima >= 10,
        "{checked} networks, {with_maxima} with maxima of convolutions"
    );
}

/// Accuracy in whole numbers is that of the network but for a few images, and so are the logits.
#[test]
fn whole_numbers_lose_little() {
    let folder = Path::new("data/mnist");
    let train = Images::load(folder, Part::Train).unwrap();
    let test = Arc::new(Images::load(folder, Part::Test).unwrap());
    for (name, most, memory) in
        [("seed", 0.03, 2544), ("separable-2.5k", 0.03, 2584), ("recurrent-1k", 0.05, 3626)]
    {
        let checkpoint = Checkpoint::load(format!("data/models/{name}.safetensors")).unwrap();
        let net = Quantized::new(&checkpoint, &train).unwrap();
        let logits: Vec<f32> = net.logits(&test).unwrap().into_iter().map(f32::from).collect();
        let real = eval::logits(&checkpoint, &test, &Device::cpu()).unwrap();
        let classes = checkpoint.model.class_count();
        let correct = |logits: &[f32]| Confusion::of(&test.labels, logits, classes).correct();
        let (got, wanted) = (correct(&logits), correct(&real));
        let source = to_c_int8(&checkpoint, &net, "net").unwrap();
        println!(
            "{name}: {got} of {} right, {wanted} without rounding; {} bytes of constants, {} of memory",
            test.count, source.size.constant_bytes, source.size.arena_bytes
        );
        assert!(got + 15 >= wanted, "{name}");
        assert!(source.size.arena_bytes <= memory, "{name}: {} bytes", source.size.arena_bytes);
        let scale = net.logit_scale() as f32;
        let error: f32 = logits.iter().zip(&real).map(|(&q, &x)| (scale * q - x).powi(2)).sum();
        let size: f32 = real.iter().map(|&x| x * x).sum();
        assert!((error / size).sqrt() < most, "{name}: {}", (error / size).sqrt());
    }
}

#[test]
fn names_are_checked_and_escaped() {
    let mut all = checkpoint(ALL_LAYERS, "all layers");
    all.classes = ["a\"b", "\\", "??=", "é1"].map(String::from).to_vec();
    let net = to_c(&all, "net").unwrap();
    let names = r#"#define NET_CLASS_NAMES {"a\"b", "\\", "\?\?=", "\303\2511"}"#;
    assert!(net.source.contains(names) && net.header.contains(names), "{}", net.source);
    for bad in ["", "1st", "a-b", "é", "a b", "_net"] {
        let message = to_c(&all, bad).unwrap_err().to_string();
        assert!(message.contains("cannot begin the names of C functions"), "{message}");
    }
}
