//! The same seed gives the same bits on one device, for any number of threads, vector width and grouping of steps.
//! (`tests/gpu_layers.rs` tests more of this for the GPU.)
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../../tests/common/adapter.rs"]
mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use shadernet::cpu::{self, CpuEngine};
use shadernet::dataset::{Images, Part};
use shadernet::engine::{Engine, Setup, Vector};
use shadernet::model::Model;
use shadernet::normalization::Normalization;
use shadernet::replica::Replica;
use shadernet::tensor::Tensor;

/// The seed network with dropout. The recipe belongs to these tests, so that their hashes don't depend on improvements.
fn seed_network() -> String {
    let text = include_str!("../../data/models/seed.toml").replace("rate = 0.0", "rate = 0.1");
    let (layers, _) = text.split_once("[train]").unwrap();
    assert!(layers.contains("rate = 0.1"), "the seed network has dropout");
    let recipe = r#"[train]
        epochs = 19
        batch_size = 64
        optimizer = { type = "sgd", momentum = 0.9, nesterov = true }
        learning_rate = { schedule = "one_cycle", peak = 0.2, warmup = 0.2 }
        average_decay = 0.998
        augment = { rotate_degrees = 10.0, shift_pixels = 2.0, scale = 0.1 }
    "#;
    format!("{layers}{recipe}")
}

/// Averaged weights of the seed network after thirty steps, taken in `pieces`.
fn weights_after(images: &Arc<Images>, seed: u32, threads: usize, pieces: &[usize]) -> Vec<Tensor> {
    let model = Model::parse(&seed_network(), "seed.toml").unwrap();
    let setup = Setup {
        model: &model,
        replicas: &[Replica::new(&model, seed)],
        shuffle: true,
        normalization: &Normalization::uniform(1, 0.1307, 0.3081),
        training: Some(images),
        test: images,
    };
    let mut engine = CpuEngine::new(&setup, Some(threads)).unwrap();
    let first = model.init(seed);
    engine.write(Vector::Weights, 0, &first).unwrap();
    engine.write(Vector::Average, 0, &first).unwrap();
    for &steps in pieces {
        engine.train(steps).unwrap();
        // An evaluation in between must not change anything.
        engine.evaluate(true).unwrap();
    }
    engine.read(Vector::Average, 0).unwrap()
}

#[test]
fn threads_and_pauses_do_not_change_a_bit() {
    let mut images =
        Images::load(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../data/mnist")), Part::Test).unwrap();
    // Ten batches of 64 and one of 60 per epoch.
    images.count = 700;
    images.pixels.truncate(700 * 784);
    images.labels.truncate(700);
    let images = Arc::new(images);
    let want = weights_after(&images, 3, 1, &[30]);
    for (threads, pieces) in [(2, &[30][..]), (3, &[30]), (2, &[1, 10, 19])] {
        assert!(weights_after(&images, 3, threads, pieces) == want, "{threads} threads, pieces {pieces:?}");
    }
    assert!(weights_after(&images, 4, 1, &[30]) != want, "another seed gives other weights");
}

/// Ten steps of the seed network with dropout, seed 5, on the CPU engine, for each instruction set: tiles and strands
/// of sums depend on the number and width of its registers, and without AVX2 a product is rounded before it is added.
/// On Linux with glibc, since other C libraries have a different `exp`. An intended change to the arithmetic changes
/// these.
const ON_CPU: [(&str, &str); 3] = [
    ("V4", "a971e12343a4848f3eee4490495fddcc87ae4fd823a75d760bed94903e300229"),
    ("V3", "11758745a76ee75331e69218d785c0cb14d60524e3b980f5adbe2c5587236127"),
    ("Scalar", "7ccec9abbc2112b7a1c14704161f7506dbb9503576f6a657c807de86a59c8822"),
];
/// The same on Debian 12's lavapipe where it uses 256-bit vectors by default: on processors with AVX. The code comes
/// from naga (pinned by `Cargo.lock`), Mesa and LLVM; for processors with only SSE they give other bits.
const ON_LAVAPIPE: &str = "c758adfa5793187695605950137c803e4f9ddf9a9ed9292f9b59bad85227be2e";
const LAVAPIPE: [&str; 2] = ["llvmpipe (LLVM 15.0.6, 256 bits)", "llvmpipe Mesa 22.3.6 (LLVM 15.0.6)"];

/// Training in separate processes, on a hundred images of MNIST.
struct Workplace(tempfile::TempDir);

impl Workplace {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images =
            Images::load(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../data/mnist")), Part::Test)
                .unwrap();
        let write = |name: &str, first: usize, count: usize| {
            let header = |dims: &[usize]| -> Vec<u8> {
                let sizes = dims.iter().flat_map(|&dim| (dim as u32).to_be_bytes());
                [0, 0, 8, dims.len() as u8].into_iter().chain(sizes).collect()
            };
            let pixels = &images.pixels[784 * first..784 * (first + count)];
            let file = |kind: &str| dir.path().join(format!("{name}-{kind}-ubyte"));
            fs::write(file("images-idx3"), [&header(&[count, 28, 28]), pixels].concat()).unwrap();
            let labels = &images.labels[first..first + count];
            fs::write(file("labels-idx1"), [&header(&[count]), labels].concat()).unwrap();
        };
        write("train", 0, 100);
        write("t10k", 100, 20);
        fs::write(dir.path().join("seed.toml"), seed_network()).unwrap();
        Self(dir)
    }

    /// The output of `shadernet train` for ten steps, the last in the second epoch.
    fn train(&self, device: &str, seed: &str, more: &[&str], environment: &[(&str, &str)]) -> String {
        let arguments = ["train", "seed.toml", "--data", ".", "--batch-size", "16", "--max-steps", "10"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_shadernet"));
        command.current_dir(self.0.path()).args(arguments).args(["--device", device, "--seed", seed]);
        let output = command.args(more).envs(environment.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// SHA-256 of the weights after that.
    fn hash(&self, device: &str, seed: &str, more: &[&str], environment: &[(&str, &str)]) -> String {
        let more = [more, &["--json"]].concat();
        let summary: Value = serde_json::from_str(&self.train(device, seed, &more, environment)).unwrap();
        summary["weights_sha256"].as_str().unwrap().to_owned()
    }
}

#[test]
fn five_runs_on_the_processor_give_one_hash() {
    let workplace = Workplace::new();
    let hash = |seed, threads| workplace.hash("cpu", seed, &["--threads", threads], &[]);
    let hashes: BTreeSet<_> = ["1", "2", "1", "2", "2"].map(|threads| hash("5", threads)).into();
    assert_eq!(hashes.len(), 1, "{hashes:?}");
    let hash_of_5 = hashes.first().unwrap();
    assert_ne!(hash("6", "1"), *hash_of_5, "another seed gives other weights");
    let printed = workplace.train("cpu", "5", &[], &[]);
    assert!(printed.contains(&format!("weights: SHA-256 {}...", &hash_of_5[..16])), "{printed}");
    if cfg!(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu")) {
        let instructions = cpu::instruction_set();
        let (_, want) = ON_CPU.iter().find(|(name, _)| *name == instructions).unwrap();
        assert_eq!(hash_of_5, want, "{instructions}");
    }
}

#[test]
fn five_runs_on_a_gpu_give_one_hash() {
    let Some(gpu) = common::gpu() else { return };
    let report = gpu.info.clone();
    let lavapipe = report.name.starts_with("llvmpipe");
    // Lavapipe's name contains its vector width, which is about to change.
    let name = if lavapipe { "llvmpipe".into() } else { format!("{} ({}", report.name, report.backend) };
    let workplace = Workplace::new();
    let one_hash = |more: &[&str]| {
        let hash = |seed, environment: &[(&str, &str)]| workplace.hash(&name, seed, more, environment);
        let mut hashes = BTreeSet::from([hash("5", &[])]);
        // Other drivers don't know these variables: four more runs, all the same.
        for threads in ["0", "2"] {
            for width in ["128", "256"] {
                let environment = [("LP_NUM_THREADS", threads), ("LP_NATIVE_VECTOR_WIDTH", width)];
                hashes.insert(hash("5", &environment));
            }
        }
        assert_eq!(hashes.len(), 1, "{more:?}: {hashes:?}");
        let hash_of_5 = hashes.pop_first().unwrap();
        assert_ne!(hash("6", &[]), hash_of_5, "another seed gives other weights");
        hash_of_5
    };
    let hash_of_5 = one_hash(&[]);
    assert_ne!(one_hash(&["--fusion"]), hash_of_5, "fused kernels round differently");
    if [&*report.name, &*report.driver] == LAVAPIPE {
        assert_eq!(hash_of_5, ON_LAVAPIPE);
    } else {
        println!("{report}: {hash_of_5}");
    }
}
