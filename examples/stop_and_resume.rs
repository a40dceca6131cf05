//! Stops a run in its second epoch and resumes it on another thread, to the same weights as without a stop.
//! `cargo run --release --example stop_and_resume`

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use shadernet::train::{Ending, RunState, Watch};
use shadernet::{Device, Model, Result, Run, TrainingData};

/// Stops after 700 steps, and those that are under way.
struct Patience {
    steps: usize,
}

impl Watch for Patience {
    fn go_on(&mut self) -> ControlFlow<()> {
        if self.steps >= 700 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn steps(&mut self, epoch: usize, done: usize, of: usize, _: &[shadernet::engine::Metrics]) {
        self.steps = (epoch - 1) * of + done;
    }
}

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("data/models/small-1k.toml");
    let text = std::fs::read_to_string(&path).map_err(shadernet::Error::io("read", &path))?;
    let mut model = Model::parse(&text, "small-1k.toml")?;
    model.train.epochs = 2;
    let data = Arc::new(TrainingData::load(root.join("data/mnist"), model.input)?);
    let model = Arc::new(model);
    let builder = || Run::builder(Arc::clone(&model), Arc::clone(&data)).device(Device::cpu());

    let mut whole = builder().start()?;
    whole.train(&mut ())?;
    let wanted = whole.finish()?.weights_sha256;

    let mut run = builder().start()?;
    assert_eq!(run.train(&mut Patience { steps: 0 })?, Ending::Stopped);
    let (folder, step) = (run.folder().to_owned(), run.step());
    drop(run); // Only one run at a time may have the folder.
    println!("stopped after {step} steps; all of them are saved in {}", folder.display());

    let resumed = std::thread::spawn(move || {
        let mut run = RunState::load(&folder)?.resume(data, &Device::cpu())?;
        run.train(&mut ())?;
        run.finish()
    });
    let summary = resumed.join().expect("the thread ends")?;
    println!("{:.2} % after {} steps", summary.final_test_accuracy, summary.steps);
    println!("the same weights as without a stop: {}", summary.weights_sha256 == wanted);
    Ok(())
}
