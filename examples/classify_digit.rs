//! Which digit is in a picture? `cargo run --release --example classify_digit -- drawn.png`

use std::path::PathBuf;

use shadernet::checkpoint::Checkpoint;
use shadernet::classify::{classify, prepare};
use shadernet::device::Device;
use shadernet::error::{Error, Result};

fn main() {
    if let Err(error) = classify_all() {
        eprintln!("error: {error}");
        std::process::exit(error.exit_code().into());
    }
}

fn classify_all() -> Result<()> {
    // The network that ships with shadernet; `Checkpoint::load` reads your own.
    let checkpoint = Checkpoint::seed()?;
    let device = Device::cpu(None);
    let input = checkpoint.model.input;

    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if paths.is_empty() {
        return Err(Error::Usage("give a PNG picture of a digit, or several".into()));
    }
    // Size, position and colours are adapted to the images that the network was trained on.
    let prepare = |path: &PathBuf| prepare::prepare(path, input.height, input.width);
    let images = paths.iter().map(prepare).collect::<Result<Vec<_>>>()?;

    for (path, answer) in paths.iter().zip(classify(&checkpoint, &images, &device)?) {
        let digit = &checkpoint.classes[answer.class];
        let probability = 100.0 * answer.probabilities[answer.class];
        println!("{}: {digit} ({probability:.1} %)", path.display());
    }
    Ok(())
}
