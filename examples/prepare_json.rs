//! Prints pictures as `classify` prepares them for a model, as JSON: `{"data/digits/7_bar.png": [0, 0, 17, ...]}`, pixels
//! `[channel][row][column]`.
//!
//! `cargo run --release --example prepare_json -- data/models/seed.safetensors data/digits/*.png`

use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use serde_json::{Map, Value};
use shadernet::checkpoint::Checkpoint;
use shadernet::classify::Picture;
use shadernet::error::{Error, Result};

fn main() {
    if let Err(error) = print_images() {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn print_images() -> Result<()> {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let model = match paths.next() {
        Some(path) => Checkpoint::load(path)?,
        None => Checkpoint::seed()?,
    };
    let mut images = Map::new();
    for path in paths {
        images.insert(path.display().to_string(), Picture::open(&path)?.input(&model)?.into());
    }
    // Not println!, which panics when the reader goes away (`| head`).
    match writeln!(std::io::stdout(), "{}", Value::from(images)) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::io("write", "standard output")(error))
        }
        _ => Ok(()),
    }
}
