//! The library as a program uses it: images in memory, runs that are built, moved, stopped and resumed, a classifier that is
//! opened once, and errors that say what is wrong.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::Draw;
use shadernet::classify::Picture;
use shadernet::config::LearningRate;
use shadernet::dataset::HoldOut;
use shadernet::error::Remedy;
use shadernet::layers::{self, LayerKind};
use shadernet::replica::Replica;
use shadernet::tensor::Tensor;
use shadernet::train::{Ending, EpochMetrics, RunState, Watch};
use shadernet::{Checkpoint, Classifier, Device, Error, Images, Model, Run, TrainConfig, TrainingData, eval};

const CLASSES: [&str; 3] = ["low", "middle", "high"];

/// 66 images of 2x6x6 values, whose brightness is their class.
fn images(count: usize) -> Images {
    let mut draw = Draw::new(11);
    let labels: Vec<u8> = (0..count).map(|image| (image % 3) as u8).collect();
    let pixels = labels.iter().flat_map(|&label| [label; 72]).map(|label| 80 * label + draw.below(60) as u8);
    Images::new([2, 6, 6], pixels.collect(), labels.clone()).unwrap()
}

fn data() -> TrainingData {
    let (train, test) = images(66).split(15, 0).unwrap();
    TrainingData::from_images(train, test, CLASSES).unwrap()
}

fn model(epochs: usize) -> Model {
    let rate = LearningRate::Constant { rate: 0.02 };
    let recipe = TrainConfig::default().epochs(epochs).batch_size(10).learning_rate(rate).average_decay(0.9);
    let model = Model::builder("bright", [2, 6, 6]).conv2d(4, 3).relu().batch_norm2d();
    model.conv2d(3, 3).global_avg_pool2d().train(recipe).build().unwrap()
}

#[test]
fn a_run_moves_between_threads_and_is_shared_by_none() {
    fn sent<T: Send + 'static>() {}
    sent::<Run>();
    sent::<Classifier>();
    sent::<RunState>();
    sent::<TrainingData>();
    sent::<Device>();
}

#[test]
fn what_is_trained_from_memory_is_normalised_trained_and_asked() {
    let dir = tempfile::tempdir().unwrap();
    let data = Arc::new(data());
    // By hand: all values of the first channel of the training images.
    let values =
        data.train.pixels.chunks(72).flat_map(|image| &image[..36]).map(|&value| f64::from(value) / 255.0);
    let values: Vec<f64> = values.collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    assert!((f64::from(data.normalization.mean[0]) - mean).abs() < 6e-5);
    assert_eq!(data.normalization.mean.len(), 2);

    let out = dir.path().join("run");
    let run = Run::builder(model(6), Arc::clone(&data)).seed(5).device(Device::cpu().threads(2)).folder(&out);
    let mut run = run.start().unwrap();
    assert_eq!(run.train(&mut ()).unwrap(), Ending::Done);
    let summary = run.finish().unwrap();
    assert_eq!((summary.steps, summary.final_test_accuracy), (36, 100.0));
    let path = out.join("model.safetensors");
    let checkpoint = Checkpoint::load(&path).unwrap();
    assert_eq!((&checkpoint.classes[..], checkpoint.trained.seed), (&CLASSES.map(String::from)[..], 5));

    // One classifier, many questions, more at once than it has room for; the same answers as an evaluation, on any device.
    let many = Arc::new(images(600));
    let inputs: Vec<Vec<u8>> = many.pixels.chunks(72).map(<[u8]>::to_vec).collect();
    let gpu = common::adapter().map(Device::from);
    for device in [Some(Device::cpu().threads(2)), gpu].into_iter().flatten() {
        let wanted = eval::logits(&checkpoint, &many, &device).unwrap();
        let mut classifier = Classifier::open(&path, &device).unwrap();
        for _ in 0..2 {
            let answers = classifier.classify_inputs(&inputs).unwrap();
            assert_eq!(answers.len(), 600);
            for (index, (answer, logits)) in answers.iter().zip(wanted.chunks(3)).enumerate() {
                let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
                for (&probability, &logit) in answer.probabilities.iter().zip(logits) {
                    let want = f64::from(logit).exp() / sum;
                    assert!((f64::from(probability) - want).abs() < 1e-5, "{device}: image {index}");
                }
            }
            let alone = classifier.classify_inputs(&inputs[599..]).unwrap();
            assert_eq!(alone, answers[599..], "{device}");
            assert_eq!(classifier.name_of(&alone[0]), CLASSES[599 % 3]);
        }
        assert_eq!(classifier.classify_inputs(&[]).unwrap(), []);
        let error = classifier.classify_inputs(&[vec![0; 71]]).unwrap_err();
        assert_eq!(error.to_string(), "the image has 71 values, but the model takes 72");
    }
}

#[test]
fn a_closure_stops_a_run_which_is_resumed_on_another_thread() {
    let dir = tempfile::tempdir().unwrap();
    let (model, data) = (Arc::new(model(4)), Arc::new(data()));
    let start = |name: &str| {
        let run = Run::builder(Arc::clone(&model), Arc::clone(&data)).seeds([3, 8]).device(Device::cpu());
        run.save_every(Duration::from_secs(3600)).folder(dir.path().join(name)).start().unwrap()
    };
    let mut whole = start("whole");
    whole.train(&mut ()).unwrap();
    let hashes = |run: &mut Run| {
        let summary = run.finish().unwrap();
        summary.replicas.into_iter().map(|net| net.weights_sha256.unwrap()).collect::<Vec<_>>()
    };

    let mut run = start("part");
    let mut epochs = Vec::new();
    let mut stop_after_two = |rows: &[EpochMetrics]| {
        assert_eq!(rows.len(), 2);
        epochs.push(rows[0].epoch);
        if epochs.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    assert_eq!(run.train(&mut stop_after_two).unwrap(), Ending::Stopped);
    assert_eq!((epochs, run.step(), run.saved_step(), run.is_complete()), (vec![1, 2], 12, Some(12), false));
    let folder = run.folder().to_owned();
    assert!(matches!(RunState::load(&folder), Err(Error::Busy { .. })), "the run still has its folder");
    drop(run);

    // Nothing is known before the first epoch.
    let message = start("early").finish().unwrap_err().to_string();
    assert!(message.starts_with("the run has no results yet"), "{message}");

    // Other images are refused; these are in memory, so no folder is known.
    let state = RunState::load(&folder).unwrap();
    assert_eq!(
        (state.data_folder(), state.held_out(), state.shuffles()),
        (Path::new(""), HoldOut::NONE, true)
    );
    let other = TrainingData::from_images(images(60), images(12), CLASSES).unwrap();
    let message = state.resume(other, &Device::cpu()).unwrap_err().to_string();
    assert!(message.starts_with("the images in memory: these are not the images"), "{message}");

    let state = RunState::load(&folder).unwrap();
    let resumed = std::thread::spawn(move || {
        let mut run = state.resume(data, &Device::cpu()).unwrap();
        run.train(&mut ()).unwrap();
        run
    });
    let mut resumed = resumed.join().unwrap();
    assert_eq!(hashes(&mut resumed), hashes(&mut whole));
}

#[test]
fn initial_weights_are_those_that_were_given() {
    let dir = tempfile::tempdir().unwrap();
    let model = Arc::new(model(1));
    let start = |name: &str, weights: Vec<Tensor>| {
        let run = Run::builder(Arc::clone(&model), data()).device(Device::cpu()).initial_weights(weights);
        run.folder(dir.path().join(name)).start()
    };
    let hash = |name: &str, seed: u32| {
        let mut run = start(name, model.init(seed)).unwrap();
        run.train(&mut ()).unwrap();
        run.finish().unwrap().weights_sha256.unwrap()
    };
    assert_eq!(hash("a", 7), hash("b", 7));
    assert_ne!(hash("c", 8), hash("d", 7));
    let mut few = model.init(0);
    few.pop();
    let message = start("e", few).unwrap_err().to_string();
    assert_eq!(message, "the initial weights are not the 8 tensors of bright, all finite");
    assert!(!dir.path().join("e").exists(), "a run that cannot start leaves nothing behind");
}

#[test]
fn images_that_do_not_fit_are_refused_with_the_reason() {
    let new = |pixels: usize, labels: &[u8]| Images::new([1, 2, 3], vec![0; pixels], labels.to_vec());
    for (pixels, labels, words) in [
        (6, &[0, 1][..], "2 images need 6 values each, but there are 6 values"),
        (13, &[0, 1], "2 images need 6 values each, but there are 13 values"),
        (0, &[], "at least one image"),
    ] {
        let message = new(pixels, labels).unwrap_err().to_string();
        assert!(message.starts_with("images of [1, 2, 3]: ") && message.contains(words), "{message}");
    }
    let good = || new(12, &[0, 1]).unwrap();
    let larger = Images::new([1, 3, 2], vec![0; 12], vec![0, 1]).unwrap();
    let short = Images { labels: vec![0], ..good() };
    let many: Vec<String> = (0..257).map(|class| class.to_string()).collect();
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    for (train, test, classes, words) in [
        (
            good(),
            larger,
            names(&["a", "b"]),
            "test images: they are [1, 3, 2], but the training images are [1, 2, 3]",
        ),
        (short, good(), names(&["a", "b"]), "training images: 1 labels for 2 images"),
        (good(), good(), names(&["a"]), "1 classes; there can be 2 to 256"),
        (good(), good(), many, "257 classes; there can be 2 to 256"),
        (good(), good(), names(&["a", "a"]), "\"a\""),
        (good(), good(), names(&["a", ""]), "name 2"),
        (
            good(),
            new(12, &[1, 2]).unwrap(),
            names(&["a", "b"]),
            "test images: image 1 has the label 2, but there are only 2 classes",
        ),
    ] {
        let message = TrainingData::from_images(train, test, classes).unwrap_err().to_string();
        assert!(message.contains(words), "{words}: {message}");
    }
    // A model for other images or another number of classes.
    let start =
        |model: Model| Run::builder(model, data()).device(Device::cpu()).start().unwrap_err().to_string();
    let other = Model::builder("other", [1, 6, 6]).flatten().linear(3).build().unwrap();
    let message = start(other);
    assert!(message.contains("the images are [2, 6, 6]") && message.contains("[1, 6, 6]"), "{message}");
    let other = Model::builder("other", [2, 6, 6]).flatten().linear(4).build().unwrap();
    let message = start(other);
    assert!(
        message.contains("there are 3 classes") && message.contains("other ends with 4 values"),
        "{message}"
    );
}

#[test]
fn pixels_bytes_and_files_are_one_picture() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/digits/7_bar.png");
    let mut classifier = Classifier::new(Checkpoint::seed().unwrap(), &Device::cpu()).unwrap();
    let answer = classifier.classify_file(&path).unwrap();
    assert_eq!(classifier.name_of(&answer), "7");
    assert_eq!(classifier.classify_bytes(&std::fs::read(&path).unwrap()).unwrap(), answer);
    let decoded = image::open(&path).unwrap().into_rgba8();
    let (width, height) = (decoded.width() as usize, decoded.height() as usize);
    let picture = Picture::from_pixels(width, height, 4, decoded.into_raw()).unwrap();
    assert_eq!(classifier.classify(picture).unwrap(), answer);
    for (width, height, channels, bytes, words) in [
        (0, 3, 1, 0, "sides of 1 to 8192"),
        (8193, 1, 1, 8193, "sides of 1 to 8192"),
        (2, 3, 5, 30, "1 to 4 channels"),
        (2, 3, 3, 17, "are 18 bytes, not 17"),
    ] {
        let error = Picture::from_pixels(width, height, channels, vec![0; bytes]).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    assert!(classifier.classify_bytes(b"no picture").unwrap_err().to_string().starts_with("the picture: "));
}

#[test]
fn errors_say_what_would_help_and_nothing_twice() {
    let missing = Checkpoint::load("no-such-file.safetensors").unwrap_err();
    assert!(matches!(missing, Error::Io { .. }));
    assert!(std::error::Error::source(&missing).is_none(), "the reason is in the message");
    let error = Device::named("no such adapter").unwrap_err();
    assert!(error.to_string().starts_with("no such adapter: no adapter has this in its name"), "{error}");
    assert_eq!(error.remedy(), Some(&Remedy::UseCpu));
    assert!(matches!(error.kind(), Error::Usage(_)));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let error = Run::builder(model(1), data()).device(Device::cpu()).folder(dir.path()).start().unwrap_err();
    assert_eq!(error.remedy(), Some(&Remedy::NewFolder));
    assert!(!error.to_string().contains("--"), "{error}");
    let nowhere = dir.path().join("nowhere");
    let error = TrainingData::load(&nowhere, [1, 28, 28].into()).unwrap_err();
    assert_eq!((error.remedy(), error.to_string().contains("--")), (Some(&Remedy::Dataset), false));
}

/// A layer from outside is compiled with checks, unless its author promises that it needs none.
#[test]
#[allow(unsafe_code, reason = "what is registered here has nothing to check")]
fn shaders_of_a_program_are_trusted_only_by_its_promise() {
    const WGSL: &str = "@compute @workgroup_size(1) fn forward() {}";
    let kind = |name| LayerKind::new::<Nothing>(name, "Nothing", name);
    layers::register(kind("checked_nothing"), WGSL).unwrap();
    // SAFETY: it reads and writes nothing, and has no loop.
    unsafe { layers::register_unchecked(kind("unchecked_nothing"), WGSL) }.unwrap();
    let is_trusted = |name| shadernet::shader::find(name).is_trusted;
    assert_eq!(["checked_nothing", "unchecked_nothing", "conv2d"].map(is_trusted), [false, true, true]);
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Nothing {}

impl layers::Layer for Nothing {
    fn keys(&self) -> toml::Table {
        toml::Table::new()
    }

    fn output_shape(&self, inputs: &[shadernet::tensor::Shape]) -> Result<shadernet::tensor::Shape, String> {
        Ok(inputs[0])
    }

    fn forward(&self, arrays: &shadernet::tensor::Arrays, _: &layers::Context) -> shadernet::tensor::Arrays {
        shadernet::tensor::Arrays::from([("output", arrays["input"].clone())])
    }

    fn backward(&self, arrays: &shadernet::tensor::Arrays, _: &layers::Context) -> shadernet::tensor::Arrays {
        shadernet::tensor::Arrays::from([("grad_input", arrays["grad_output"].clone())])
    }

    fn launches(&self, _: layers::Pass, _: &layers::PlanContext) -> Vec<layers::Launch> {
        Vec::new()
    }
}

/// All fields of a model and of the data can be changed: what no longer fits is refused, and nothing is trained or written.
#[test]
fn what_was_changed_by_hand_is_checked_again() {
    let dir = tempfile::tempdir().unwrap();
    let start = |model: Model, data: TrainingData| {
        let run = Run::builder(model, data).device(Device::cpu()).folder(dir.path().join("run"));
        run.start().unwrap_err().to_string()
    };
    let changed = |change: &dyn Fn(&mut TrainingData)| {
        let mut data = data();
        change(&mut data);
        start(model(1), data)
    };
    let train = |change: &dyn Fn(&mut Images)| changed(&|data| change(Arc::make_mut(&mut data.train)));
    for (message, words) in [
        (train(&|images| images.labels[3] = 9), "training images: image 3 has the label 9"),
        (train(&|images| images.pixels.truncate(100)), "but there are 100 values"),
        (
            changed(&|data| data.test = Arc::new(Images::new([1, 6, 6], vec![0; 36], vec![0]).unwrap())),
            "test images: they are",
        ),
        (
            changed(&|data| data.normalization.mean.clear()),
            "the normalisation has 0 channels, the images have 2",
        ),
        (changed(&|data| data.normalization.std = vec![0.0; 2]), "the normalisation cannot be mean = "),
        (changed(&|data| data.classes.clear()), "there are only 0 classes"),
    ] {
        assert!(message.contains(words), "{words}: {message}");
    }
    let model_with = |change: &dyn Fn(&mut Model)| {
        let mut model = model(1);
        change(&mut model);
        start(model, data())
    };
    assert!(model_with(&|model| model.name = "../evil".into()).contains("name: use 1 to"));
    assert!(model_with(&|model| model.train.epochs = 0).contains("epochs = 0"));
    let mut wide = Model::builder("wide", [2, 8, 8]).conv2d(3, 3).global_avg_pool2d().build().unwrap();
    wide.input = [2, 6, 6].into();
    assert!(start(wide, data()).contains("was changed after it was built"));
    assert!(!dir.path().join("run").exists());

    let held_out = TrainingData::load_held_out("data/mnist", [1, 28, 28].into(), 0).unwrap_err();
    assert!(held_out.to_string().starts_with("cannot hold out 0 images"), "{held_out}");
    let checkpoint = Checkpoint::seed().unwrap();
    let evaluated = |images: Images| {
        eval::evaluate(&checkpoint, &Arc::new(images), &Device::cpu()).unwrap_err().to_string()
    };
    let of =
        |shape: [usize; 3], label| Images::new(shape, vec![0; shape.iter().product()], vec![label]).unwrap();
    assert!(evaluated(of([1, 8, 8], 0)).contains("[1, 8, 8]"));
    assert!(evaluated(of([3, 28, 28], 0)).contains("[3, 28, 28]"));
    assert!(evaluated(of([1, 28, 28], 200)).contains("the labels go up to 200"));
}

/// A network that was trained on images as they are sees pictures as they are, and not as drawings of digits.
#[test]
fn a_grey_network_from_memory_sees_pictures_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let labels: Vec<u8> = [0, 1].repeat(60);
    let pixels = labels.iter().flat_map(|label| [30 + 200 * label; 64]).collect();
    let (train, test) = Images::new([1, 8, 8], pixels, labels).unwrap().split(20, 0).unwrap();
    let data = TrainingData::from_images(train, test, ["dark", "bright"]).unwrap();
    let recipe = TrainConfig::default().epochs(3).batch_size(10);
    let model = Model::builder("light", [1, 8, 8]).flatten().linear(2).train(recipe).build().unwrap();
    let mut run =
        Run::builder(model, data).device(Device::cpu()).folder(dir.path().join("run")).start().unwrap();
    run.train(&mut ()).unwrap();
    assert_eq!(run.finish().unwrap().final_test_accuracy, 100.0);
    let mut classifier = Classifier::open(dir.path().join("run/model.safetensors"), &Device::cpu()).unwrap();
    for (level, name) in [(20, "dark"), (235, "bright")] {
        let mut pixels = vec![level; 16 * 16];
        pixels[..16].fill(128);
        let answer = classifier.classify(Picture::from_pixels(16, 16, 1, pixels).unwrap()).unwrap();
        assert_eq!(classifier.name_of(&answer), name);
    }
}

#[test]
fn odd_runs_end_with_an_error_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let builder = |name: &str| {
        Run::builder(model(2), data()).device(Device::cpu().threads(0)).folder(dir.path().join(name))
    };
    // A state after every step, and never twice after the same.
    let mut run = builder("often").save_every(Duration::ZERO).start().unwrap();
    assert_eq!(run.train(&mut ()).unwrap(), Ending::Done);
    drop(run);
    let with_point = |key: &str, value: f32| {
        let mut net = Replica::new(&model(2), 0);
        net.point.0.insert(key.into(), value);
        builder("point").replicas(vec![net]).start().unwrap_err().to_string()
    };
    assert!(with_point("x", f32::NAN).contains("x = NaN is not a finite number"));
    assert!(with_point(&"x".repeat(300), 1.0).contains("is too long"));
    let mut weights = model(2).init(0);
    weights[0].data[0] = f32::INFINITY;
    let error = builder("weights").initial_weights(weights).start().unwrap_err();
    assert!(error.to_string().ends_with("tensors of bright, all finite"), "{error}");

    // Within the second of two epochs: the results are those of the first until there are others.
    struct InSecond(usize);
    impl Watch for InSecond {
        fn go_on(&mut self) -> ControlFlow<()> {
            if self.0 == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }

        fn steps(&mut self, epoch: usize, done: usize, of: usize, _: &[shadernet::engine::Metrics]) {
            self.0 = if done < of { epoch } else { 0 };
        }
    }
    let mut run = builder("part").start().unwrap();
    if run.train(&mut InSecond(0)).unwrap() == Ending::Stopped {
        drop(run);
        let state = RunState::load(dir.path().join("part")).unwrap();
        let mut run = state.resume(data(), &Device::cpu()).unwrap();
        let message = run.finish().unwrap_err().to_string();
        assert!(
            message.starts_with("no epoch was trained and tested since the run was resumed"),
            "{message}"
        );
        run.train(&mut ()).unwrap();
        assert!(run.finish().unwrap().complete);
    }
}
