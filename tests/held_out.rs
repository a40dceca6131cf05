//! Runs that decide by held-out images: what is kept is what a plain run had after that epoch, whatever trains beside it and
//! however often it is interrupted.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use common::Draw;
use shadernet::config::{Criterion, EarlyStop, Keep, LearningRate};
use shadernet::error::Remedy;
use shadernet::replica::Replica;
use shadernet::train::{Ending, EpochMetrics, RunState, Summary};
use shadernet::{Checkpoint, Device, Error, HoldOut, Images, Model, Run, TrainConfig, TrainingData};

/// Images of two classes that hardly differ, so that a net soon learns them by heart and gets worse on others.
fn data() -> TrainingData {
    let mut draw = Draw::new(5);
    let labels: Vec<u8> = (0..90).map(|image| image % 2).collect();
    let pixels = labels.iter().flat_map(|&label| [label; 36]).map(|label| 25 * label + draw.below(200) as u8);
    let images = Images::new([1, 6, 6], pixels.collect(), labels.clone()).unwrap();
    let unused = Images::new([1, 6, 6], vec![0; 36], vec![0]).unwrap();
    TrainingData::from_images(images, unused, ["dark", "bright"]).unwrap().hold_out(0.3).unwrap()
}

const EPOCHS: usize = 14;

fn model(early_stop: Option<(u32, Criterion)>, keep: Keep) -> Model {
    let mut recipe = TrainConfig::default().epochs(EPOCHS).batch_size(9).average_decay(0.5).keep(keep);
    recipe.learning_rate = LearningRate::Constant { rate: 0.05 };
    recipe.early_stop = early_stop.map(|(patience, on)| {
        let mut stop = EarlyStop::after(patience);
        stop.on = on;
        stop
    });
    Model::builder("noise", [1, 6, 6]).conv2d(8, 3).relu().flatten().linear(2).train(recipe).build().unwrap()
}

fn start(model: &Model, seeds: &[u32], out: &Path) -> Run {
    let run =
        Run::builder(model.clone(), data()).seeds(seeds.iter().copied()).device(Device::cpu().threads(1));
    run.folder(out).start().unwrap()
}

/// SHA-256 of the weights after an epoch of a plain run.
fn plain(seed: u32, epoch: usize, out: &Path) -> String {
    let mut run = start(&model(None, Keep::Last), &[seed], out);
    let step = run.steps_per_epoch() * epoch as u32;
    run.train_to_step(step, &mut ()).unwrap();
    run.finish().unwrap().weights_sha256.unwrap()
}

fn whole(model: &Model, seeds: &[u32], out: &Path) -> (Summary, Vec<EpochMetrics>) {
    let mut run = start(model, seeds, out);
    assert_eq!(run.train(&mut ()).unwrap(), Ending::Done);
    assert!(run.is_complete());
    (run.finish().unwrap(), run.rows().to_vec())
}

const BY_LOSS: Option<(u32, Criterion)> = Some((2, Criterion::Loss));

#[test]
fn what_is_kept_is_what_a_plain_run_had_after_that_epoch() {
    let dir = tempfile::tempdir().unwrap();
    for (name, early_stop, keep) in [
        ("best", None, Keep::Best),
        ("early", BY_LOSS, Keep::Last),
        ("both", BY_LOSS, Keep::Best),
        ("accuracy", Some((3, Criterion::Accuracy)), Keep::Best),
    ] {
        let out = dir.path().join(name);
        let (summary, rows) = whole(&model(early_stop, keep), &[4], &out);
        let kept = summary.kept_epoch.unwrap();
        // Chosen by hand from the rows.
        let better = |a: &EpochMetrics, b: &EpochMetrics| match early_stop {
            Some((_, Criterion::Loss)) => a.test_loss < b.test_loss,
            _ => (a.test_accuracy, -a.test_loss) > (b.test_accuracy, -b.test_loss),
        };
        let best = rows.iter().reduce(|best, row| if better(row, best) { row } else { best }).unwrap();
        let last = rows.last().unwrap();
        assert_eq!(kept, if keep == Keep::Best { best.epoch } else { last.epoch }, "{name}");
        assert_eq!(summary.stopped_epoch, early_stop.map(|_| last.epoch), "{name}");
        if let Some((patience, _)) = early_stop {
            assert!(last.epoch < EPOCHS && last.epoch == best.epoch + patience as usize, "{name}: {rows:?}");
        }
        assert!(
            keep == Keep::Last || best.epoch < last.epoch,
            "{name}: the last was the best, which shows nothing"
        );
        let row = &rows[kept - 1];
        assert_eq!(
            (summary.final_test_accuracy, summary.final_test_loss),
            (row.test_accuracy, row.test_loss)
        );
        let checkpoint = Checkpoint::load(out.join("model.safetensors")).unwrap();
        assert_eq!((checkpoint.trained.epochs, checkpoint.test_loss), (kept, row.test_loss));
        assert_eq!(checkpoint.weights_sha256(), plain(4, kept, &dir.path().join(format!("plain-{name}"))));
    }
}

#[test]
fn an_interrupted_run_keeps_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(Some((4, Criterion::Loss)), Keep::Best);
    let (wanted, rows) = whole(&model, &[4], &dir.path().join("whole"));
    let kept = wanted.kept_epoch.unwrap();
    // Before and after the epoch that is kept, after an epoch and within one.
    let steps = (wanted.steps as usize / rows.len()) as u32;
    for (name, step) in [
        ("early", steps * (kept as u32 - 1)),
        ("within", steps * (kept as u32 - 1) + 2),
        ("late", steps * (kept as u32 + 1)),
        ("later", steps * (kept as u32 + 1) + 3),
    ] {
        let out = dir.path().join(name);
        let mut run = start(&model, &[4], &out);
        run.train_to_step(step, &mut ()).unwrap();
        assert!(!run.is_complete());
        drop(run);
        let mut run = RunState::load(&out).unwrap().resume(data(), &Device::cpu().threads(1)).unwrap();
        run.train(&mut ()).unwrap();
        let summary = run.finish().unwrap();
        assert_eq!(summary.weights_sha256, wanted.weights_sha256, "{name}");
        assert_eq!(
            (summary.kept_epoch, summary.stopped_epoch),
            (wanted.kept_epoch, wanted.stopped_epoch),
            "{name}"
        );
        // One that has stopped goes no further.
        drop(run);
        let mut run = RunState::load(&out).unwrap().resume(data(), &Device::cpu().threads(1)).unwrap();
        assert!(run.is_complete());
        run.train(&mut ()).unwrap();
        assert_eq!(
            (run.step(), run.finish().unwrap().weights_sha256),
            (wanted.steps, wanted.weights_sha256.clone())
        );
    }
}

/// Each of several nets has its own end.
#[test]
fn nets_side_by_side_stop_as_each_would_alone() {
    let dir = tempfile::tempdir().unwrap();
    for (name, keep) in [("best", Keep::Best), ("last", Keep::Last)] {
        let model = model(BY_LOSS, keep);
        let seeds = [1, 2, 3, 4, 5, 6, 7, 8];
        let out = dir.path().join(name);
        let mut stopped: Vec<usize> = Vec::new();
        let mut run = start(&model, &seeds, &out);
        let mut watch = |rows: &[EpochMetrics]| {
            assert!(rows.iter().all(|row| row.stopped == row.test_loss.is_nan()));
            stopped.push(rows.iter().filter(|row| row.stopped).count());
            // Interrupted once, while some have stopped.
            if stopped.last() > Some(&0) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        assert_eq!(run.train(&mut watch).unwrap(), Ending::Stopped, "{stopped:?}");
        drop(run);
        let mut run = RunState::load(&out).unwrap().resume(data(), &Device::cpu()).unwrap();
        run.train(&mut ()).unwrap();
        let together = run.finish().unwrap();
        let mut ends = Vec::new();
        for (net, seed) in together.replicas.iter().zip(seeds) {
            let (alone, _) = whole(&model, &[seed], &dir.path().join(format!("{name}-{seed}")));
            assert_eq!(net.weights_sha256, alone.weights_sha256, "{name}, seed {seed}");
            assert_eq!((net.kept_epoch, net.stopped_epoch), (alone.kept_epoch, alone.stopped_epoch));
            assert_eq!((net.final_test_loss, net.best_epoch), (alone.final_test_loss, alone.best_epoch));
            ends.push(net.stopped_epoch.unwrap());
        }
        assert!(ends.iter().any(|&end| end != ends[0]), "all ended together, which shows nothing: {ends:?}");
        let mean = together.replicas.iter().map(|net| net.final_test_accuracy).sum::<f64>() / 8.0;
        assert!((together.final_test_accuracy - mean).abs() < 1e-5);
    }
}

#[test]
fn test_images_decide_nothing() {
    let mut data = data();
    data.held_out = HoldOut::NONE;
    let data = Arc::new(data);
    for (key, early_stop, keep) in
        [("early_stop", BY_LOSS, Keep::Best), ("keep", None, Keep::Best), ("early_stop", BY_LOSS, Keep::Last)]
    {
        let run = Run::builder(model(early_stop, keep), Arc::clone(&data)).device(Device::cpu()).start();
        let error = run.unwrap_err();
        assert_eq!(error.remedy(), Some(&Remedy::HoldOut));
        assert!(matches!(error.kind(), Error::Usage(message) if message.contains(key)), "{error}");
    }
    let plain = model(None, Keep::Last);
    assert_eq!(Replica::new(&plain, 0).model(&plain).unwrap().train.judges(), None);
}
