//! Opens a network once and asks it about files, bytes and pixels. `cargo run --release --example classify_many`

use std::path::Path;
use std::time::Instant;

use shadernet::classify::Picture;
use shadernet::{Checkpoint, Classifier, Device, Error, Result};

fn main() -> Result<()> {
    // The network that comes with shadernet; `Classifier::open` reads your own from a file.
    let mut classifier = Classifier::new(Checkpoint::seed()?, &Device::cpu())?;

    // Files.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/digits");
    let read = |path: &Path| std::fs::read(path).map_err(Error::io("read", path));
    let entries = std::fs::read_dir(&folder).map_err(Error::io("read", &folder))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "png"));
    paths.sort();
    for path in &paths {
        let answer = classifier.classify_file(path)?;
        let probability = 100.0 * answer.probabilities[answer.class];
        println!("{}: {} ({probability:.1} %)", path.display(), classifier.name_of(&answer));
    }

    // What a file holds, however it came here.
    let answer = classifier.classify_bytes(&read(&paths[0])?)?;
    println!("from bytes: {}", classifier.name_of(&answer));

    // Pixels, here of a vertical line: 40 x 60, one channel, dark on light.
    let pixels = (0..60 * 40).map(|at| if (18..22).contains(&(at % 40)) { 20 } else { 240 }).collect();
    let answer = classifier.classify(Picture::from_pixels(40, 60, 1, pixels)?)?;
    println!("from pixels: {}", classifier.name_of(&answer));

    // Many at once, prepared beforehand.
    let prepare = |path| Picture::open(path)?.input(classifier.checkpoint());
    let inputs = paths.iter().cycle().take(1000).map(prepare).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let answers = classifier.classify_inputs(&inputs)?;
    println!("{} images in {:.0} ms", answers.len(), 1000.0 * start.elapsed().as_secs_f64());
    Ok(())
}
