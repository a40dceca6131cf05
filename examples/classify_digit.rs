//! Which digit is in a picture? `cargo run --release --example classify_digit -- drawn.png`

use shadernet::{Checkpoint, Classifier, Device, Result};

fn main() {
    let paths: Vec<_> = std::env::args_os().skip(1).collect();
    if paths.is_empty() {
        eprintln!("error: give a PNG picture of a digit, or several");
        std::process::exit(2);
    }
    if let Err(error) = classify(&paths) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn classify(paths: &[std::ffi::OsString]) -> Result<()> {
    // The network that comes with shadernet; `Classifier::open` reads your own from a file.
    let mut classifier = Classifier::new(Checkpoint::seed()?, &Device::cpu())?;
    for path in paths {
        // Size, position and colours are adapted to the images that the network was trained on.
        let answer = classifier.classify_file(path)?;
        let probability = 100.0 * answer.probabilities[answer.class];
        println!("{}: {} ({probability:.1} %)", path.display(), classifier.name_of(&answer));
    }
    Ok(())
}
