//! Readers are given damaged and hostile files: each may reject them, but none may panic, take longer than ten
//! seconds or more than a gigabyte. `SHADERNET_FUZZ_SECONDS` is the time per reader (1), `SHADERNET_FUZZ_SEED`
//! another start (0).
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use shadernet::checkpoint::{Checkpoint, read_weights};
use shadernet::classify::Picture;
use shadernet::dataset::{Dataset, Images};
use shadernet::device::Device;
use shadernet::experiments::{Rows, Suite};
use shadernet::export::onnx::{Graph, to_onnx, to_onnx_int8};
use shadernet::int8::Quantized;
use shadernet::model::Model;
use shadernet::normalization::Normalization;
use shadernet::replica::Replica;
use shadernet::tensor::Shape;
use shadernet::train::{Run, RunState, TrainingData};

#[path = "common/alloc.rs"]
mod alloc;
mod common;

use alloc::Counting;
use common::Draw;

#[global_allocator]
static MEMORY: Counting = Counting::new();

/// One reader at a time, so that memory use is its own.
static TURN: Mutex<()> = Mutex::new(());

const MOST_SECONDS: f64 = 10.0;
const MOST_BYTES: usize = 1 << 30;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Processor seconds used by this process so far, where the system reports them.
fn processor_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // In hundredths of a second, the usual tick.
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / 100.0)
}

/// Passes each file of the corpus to `read` unchanged, then mutants until time is up. A mutant that breaks a rule is
/// saved in a file named in the failure: add it to the corpus.
fn fuzz(name: &str, corpus: &[Vec<u8>], read: impl Fn(&[u8])) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let end = Instant::now() + Duration::from_secs(setting("SHADERNET_FUZZ_SECONDS", 1));
    let seed = setting("SHADERNET_FUZZ_SEED", 0) as u32;
    let mut round = 0;
    while round < corpus.len() as u32 || Instant::now() < end {
        let mut draw = Draw::new(seed ^ round.wrapping_mul(2_654_435_761));
        let bytes = match corpus.get(round as usize) {
            Some(bytes) => bytes.clone(),
            None => mutant(corpus, &mut draw),
        };
        let (start, processor) = (Instant::now(), processor_seconds());
        let (peak, done) = MEMORY.peak_of(|| catch_unwind(AssertUnwindSafe(|| read(&bytes))));
        // On a busy machine, wall-clock time alone says nothing.
        let spent = processor_seconds().zip(processor).map_or(f64::INFINITY, |(now, before)| now - before);
        let fault = match start.elapsed().as_secs_f64() {
            _ if done.is_err() => "panics".to_owned(),
            time if time > 10.0 * MOST_SECONDS || time.min(spent) > MOST_SECONDS => format!("takes {time} s"),
            _ if peak > MOST_BYTES => format!("takes {peak} bytes"),
            _ => {
                round += 1;
                continue;
            }
        };
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}-{seed}-{round}"));
        fs::write(&path, &bytes).unwrap();
        panic!("{name}: {fault} on {}", path.display());
    }
    println!("{name}: {round} inputs");
}

/// Numbers at the limits of arithmetic.
const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "1",
    "255",
    "256",
    "65535",
    "65536",
    "16777216",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "99999999999999999999",
    "1e308",
    "1e-320",
    "nan",
    "-inf",
    "null",
    "[]",
    "{}",
    "\"\"",
];

fn mutant(corpus: &[Vec<u8>], draw: &mut Draw) -> Vec<u8> {
    let mut bytes = corpus[draw.below(corpus.len())].clone();
    for _ in 0..1 + draw.below(4) {
        if bytes.is_empty() || bytes.len() > 1 << 20 {
            break;
        }
        // Headers matter most: every other change is near the start.
        let len = if draw.below(2) == 0 { bytes.len().min(64) } else { bytes.len() };
        let at = draw.below(len);
        let end = (at + 1 + draw.below(64)).min(bytes.len());
        match draw.below(12) {
            0 => bytes[at] ^= 1 << draw.below(8),
            1 => bytes[at] = draw.pick(&[0, 1, 0x7f, 0x80, 0xff, b'"', b'\n', b'[', b'{']),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => {
                // A piece of another file.
                let other = &corpus[draw.below(corpus.len())];
                if !other.is_empty() {
                    let from = draw.below(other.len());
                    let to = (from + 1 + draw.below(64)).min(other.len());
                    bytes.splice(at..end, other[from..to].iter().copied());
                }
            }
            6 | 7 => replace_number(&mut bytes, at, draw),
            8 => {
                // A binary number, in either byte order.
                let number = draw.pick(&[
                    0u64,
                    1,
                    0x7fff_ffff,
                    0xffff_ffff,
                    1 << 33,
                    u64::MAX,
                    u64::MAX >> 1,
                    1 << 20,
                ]);
                let width = draw.pick(&[2, 4, 8]);
                let digits = if draw.below(2) == 0 { number.to_le_bytes() } else { number.to_be_bytes() };
                let digits = if draw.below(2) == 0 { &digits[..width] } else { &digits[8 - width..] };
                let end = (at + width).min(bytes.len());
                bytes[at..end].copy_from_slice(&digits[..end - at]);
            }
            _ => {
                // Lines, or the text between commas: duplicated, swapped, repeated many times.
                let separator = draw.pick(b"\n,;}");
                let mut parts: Vec<&[u8]> = bytes.split(|&byte| byte == separator).collect();
                let (a, b) = (draw.below(parts.len()), draw.below(parts.len()));
                match draw.below(3) {
                    0 => parts.swap(a, b),
                    1 => parts.insert(a, parts[b]),
                    _ => (0..200).for_each(|_| parts.insert(a, parts[b])),
                }
                bytes = parts.join(&separator);
            }
        }
    }
    // Larger files are rejected by size, which other tests cover.
    bytes.truncate(4 << 20);
    bytes
}

/// Replaces the first decimal number at or after `at`.
fn replace_number(bytes: &mut Vec<u8>, at: usize, draw: &mut Draw) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|found| at + found) else { return };
    let is_part = |byte: &u8| byte.is_ascii_digit() || b".e".contains(byte);
    let len = bytes[start..].iter().take_while(|byte| is_part(byte)).count();
    bytes.splice(start..start + len, draw.pick(NUMBERS).bytes());
}

const TINY: &str = r#"name = "tiny"
input = [1, 8, 8]
classes = ["a", "b", "c"]
layers = [
  { type = "conv2d", name = "first", out_channels = 4, kernel = 3, padding = 1, stride = 2, groups = 1 },
  { type = "relu" },
  { type = "batch_norm2d", eps = 1e-5, momentum = 0.1 },
  { type = "max_pool2d", kernel = 2, stride = 1, padding = 1 },
  { type = "dropout", rate = 0.1 },
  { type = "conv2d", out_channels = 3, kernel = 3, bias = false },
  { type = "avg_pool2d", kernel = 3 },
]
[train]
epochs = 2
batch_size = 16
optimizer = { type = "adam", beta1 = 0.9 }
learning_rate = { schedule = "cosine", peak = 0.02 }
average_decay = 0.5
augment = { rotate_degrees = 3.0, scale = 0.05 }
"#;

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Writes a file and passes its folder to a reader; then again with a correct digest.
fn in_folder(name: &str, read: impl Fn(&Path)) -> impl Fn(&[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    move |bytes| {
        fs::write(&path, bytes).unwrap();
        read(dir.path());
        if let Some(sealed) = sealed(bytes) {
            fs::write(&path, sealed).unwrap();
            read(dir.path());
        }
    }
}

/// One of our files with the digest of its bytes, if there is a place for it.
fn sealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mark = br#""file_sha256":""#;
    let start = bytes.windows(mark.len()).position(|window| window == mark)? + mark.len();
    let mut bytes = bytes.to_vec();
    bytes.get_mut(start..start + 64)?.fill(b'0');
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    bytes[start..start + 64].copy_from_slice(digest.as_bytes());
    Some(bytes)
}

#[test]
fn model_text() {
    let shared = TINY.replace("out_channels = 3", "weights_of = \"first\", out_channels = 4");
    let linear = TINY.replace(
        "{ type = \"avg_pool2d\", kernel = 3 }",
        "{ type = \"flatten\" }, { type = \"linear\", out_features = 3 }",
    );
    let corpus = texts(&[TINY, &shared, &linear, include_str!("../data/models/seed.toml")]);
    fuzz("model", &corpus, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let Ok(model) = Model::parse(text, "x.toml") else { return };
        assert!(model.to_string().len() > 10);
        let again = Model::parse(&model.to_toml(), "again").unwrap();
        assert_eq!(again.to_toml(), model.to_toml());
        if model.parameter_count() < 100_000 {
            assert!(!Replica::of_seeds(&model, 0..2).is_empty());
            model.init(0);
        }
        model.warnings(Some(33));
    });
}

#[test]
fn model_file() {
    let seed = Checkpoint::seed().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seed.safetensors");
    seed.save(&path).unwrap();
    let corpus = [fs::read(&path).unwrap(), fs::read(&path).unwrap()[..4000].to_vec()];
    fuzz(
        "safetensors",
        &corpus,
        in_folder("x.safetensors", move |dir| {
            let path = dir.join("x.safetensors");
            let _ = Checkpoint::load(&path);
            let _ = read_weights(&path, &seed.model);
        }),
    );
}

/// Images of 8x8 pixels as IDX files for both parts.
fn idx_files(dir: &Path) -> [PathBuf; 4] {
    let images = |count: u32| {
        let header = [0, 0, 8, 3].into_iter().chain([count, 8, 8].into_iter().flat_map(u32::to_be_bytes));
        header.chain((0..count * 64).map(|at| (at * 37 % 251) as u8)).collect::<Vec<u8>>()
    };
    let labels = |count: u32| {
        let header = [0, 0, 8, 1].into_iter().chain(count.to_be_bytes());
        header.chain((0..count).map(|image| (image % 3) as u8)).collect::<Vec<u8>>()
    };
    let names = [
        ("train-images-idx3", images(30)),
        ("train-labels-idx1", labels(30)),
        ("t10k-images-idx3", images(9)),
        ("t10k-labels-idx1", labels(9)),
    ];
    names.map(|(name, bytes)| {
        let path = dir.join(format!("{name}-ubyte"));
        fs::write(&path, bytes).unwrap();
        path
    })
}

#[test]
fn idx() {
    let shape = Shape::new(1, 8, 8);
    for at in [0, 1] {
        let dir = tempfile::tempdir().unwrap();
        let path = idx_files(dir.path())[at].clone();
        let plain = fs::read(&path).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        fuzz(["idx-images", "idx-labels"][at], &[plain, gzip.finish().unwrap()], |bytes| {
            fs::write(&path, bytes).unwrap();
            let _ = Dataset::load(dir.path(), shape);
        });
    }
}

#[test]
fn checksums() {
    let dir = tempfile::tempdir().unwrap();
    idx_files(dir.path());
    let line = format!("{}  train-images-idx3-ubyte\n{}  other\n", "0".repeat(64), "ab".repeat(32));
    fuzz("sha256sums", &texts(&[&line, &line.replace("  ", " *")]), |bytes| {
        fs::write(dir.path().join("SHA256SUMS"), bytes).unwrap();
        let _ = Dataset::load(dir.path(), Shape::new(1, 8, 8));
    });
}

#[test]
fn pictures() {
    let seed = Checkpoint::seed().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.png");
    let mut corpus = Vec::new();
    for (format, kind) in [("png", image::ImageFormat::Png), ("jpg", image::ImageFormat::Jpeg)] {
        let grey = image::GrayImage::from_fn(12, 12, |x, y| image::Luma([(x * 20 + y) as u8]));
        let colour = image::RgbImage::from_fn(12, 9, |x, y| image::Rgb([(x * 20) as u8, (y * 20) as u8, 7]));
        let path = dir.path().join(format!("made.{format}"));
        for picture in [image::DynamicImage::from(grey), colour.into()] {
            picture.save_with_format(&path, kind).unwrap();
            corpus.push(fs::read(&path).unwrap());
        }
    }
    // And every other kind, as other programs write it.
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/pictures");
    let mut others: Vec<_> = fs::read_dir(fixtures).unwrap().map(|entry| entry.unwrap().path()).collect();
    others.retain(|file| !["png", "py"].iter().any(|ending| file.extension().unwrap() == *ending));
    others.sort();
    corpus.extend(others.into_iter().map(|file| fs::read(file).unwrap()));
    assert!(corpus.len() > 40);
    let folder = tempfile::tempdir().unwrap();
    for part in ["train", "test"] {
        for class in ["a", "b"] {
            fs::create_dir_all(folder.path().join(part).join(class)).unwrap();
            fs::write(folder.path().join(part).join(class).join("1.png"), &corpus[0]).unwrap();
        }
    }
    let odd = folder.path().join("train/a/2.png");
    fuzz("pictures", &corpus, |bytes| {
        let mut bytes = bytes.to_vec();
        mend_checksums(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        let _ = Picture::open(&path).and_then(|picture| picture.input(&seed));
        fs::write(&odd, &bytes).unwrap();
        let _ = Dataset::load(folder.path(), Shape::new(3, 8, 8));
    });
}

/// Corrects the checksums of a PNG's chunks, so that the changes are read at all.
fn mend_checksums(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(head) = bytes.get(at..at + 4) {
        let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let end = at + 8 + len;
        if bytes.len() < end + 4 {
            return;
        }
        let mut crc = flate2::Crc::new();
        crc.update(&bytes[at + 4..end]);
        bytes[end..end + 4].copy_from_slice(&crc.sum().to_be_bytes());
        at = end + 4;
    }
}

#[test]
fn run_state() {
    let dir = tempfile::tempdir().unwrap();
    idx_files(dir.path());
    let model = Model::parse(TINY, "tiny.toml").unwrap();
    let data = TrainingData::load(dir.path(), model.input).unwrap();
    let out = dir.path().join("run");
    let run = Run::builder(model, data).seeds(0..2).device(Device::cpu().threads(1)).folder(&out);
    let mut run = run.start().unwrap();
    run.train_to_step(3, &mut ()).unwrap();
    drop(run);
    let state = fs::read(out.join(RunState::FILE)).unwrap();
    fuzz("state", &[state], in_folder(RunState::FILE, |dir| drop(RunState::load(dir))));
}

#[test]
fn rows_of_experiments() {
    let corpus = texts(&[
        include_str!("../docs/experiments/small/runs.csv")
            .lines()
            .take(4)
            .collect::<Vec<_>>()
            .join("\n")
            .as_str(),
        "phase,group\n",
    ]);
    fuzz(
        "rows",
        &corpus,
        in_folder("runs.csv", |dir| {
            let Ok(rows) = Rows::read(dir, "runs.csv") else { return };
            assert!(rows.iter().all(|row| row.curve().len() < 1 << 20));
        }),
    );
}

#[test]
fn suite_text() {
    let suite = r#"name = "mine"
target = 99.0
select = { hold_out = 50, first_seed = 900, seeds = 2, by = "loss" }
test = { first_seed = 0, seeds = 5 }
[[groups]]
name = "rates"
question = "Which?"
arms = [
  { name = "a", model = "tiny.toml" },
  { name = "b", model = "tiny.toml", set = { dropout = 0.1 }, candidates = [{ train = { epochs = 3 } }, { model = "tiny.toml" }] },
]
"#;
    fuzz(
        "suite",
        &texts(&[suite]),
        in_folder("suite.toml", |dir| {
            fs::write(dir.join("tiny.toml"), TINY).unwrap();
            if let Ok(suite) = Suite::load(&dir.join("suite.toml")) {
                assert!(suite.arms().count() > 0);
                let seeds = |group: &shadernet::experiments::Group| {
                    group.select.range().len() + group.test.range().len()
                };
                assert!(suite.groups.iter().all(|group| seeds(group) > 1));
            }
        }),
    );
}

#[test]
fn onnx() {
    let seed = Checkpoint::seed().unwrap();
    let images = Images::new([1, 28, 28], vec![9; 784], vec![0]).unwrap();
    let whole = to_onnx_int8(&seed, &Quantized::new(&seed, &images).unwrap());
    let corpus = [to_onnx(&seed, true).unwrap(), to_onnx(&seed, false).unwrap(), whole];
    fuzz("onnx", &corpus, |bytes| {
        drop(Graph::read(bytes).and_then(|graph| graph.run(&[0.5; 784], "logits")));
    });
}

/// A dataset of two images, on which every model may be trained.
#[test]
fn training_of_odd_models() {
    let images = Arc::new(Images::new([1, 8, 8], vec![7; 128], vec![0, 1]).unwrap());
    fuzz("training", &texts(&[TINY]), |bytes| {
        let Ok(model) =
            std::str::from_utf8(bytes).map_or(Err(()), |text| Model::parse(text, "x").map_err(drop))
        else {
            return;
        };
        let small = model.layers.iter().map(|layer| layer.output.len()).sum::<usize>() < 100_000;
        if !small
            || model.parameter_count() > 10_000
            || model.input != Shape::new(1, 8, 8)
            || model.class_count() < 2
        {
            return;
        }
        let setup = shadernet::engine::Setup {
            model: &model,
            replicas: &Replica::of_seeds(&model, 0..1),
            shuffle: true,
            normalization: &Normalization::uniform(model.input.channels, 0.5, 0.5),
            training: Some(&images),
            test: &images,
        };
        let mut engine = Device::cpu().threads(1).open(&setup).unwrap().engine;
        engine.write(shadernet::engine::Vector::Weights, 0, &model.init(0)).unwrap();
        engine.train(1).unwrap();
        engine.evaluate(false).unwrap();
    });
}
