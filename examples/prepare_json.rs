//! Prints PNG pictures as `classify` prepares them for a network of 28x28 pixels, as JSON: `{"7_bar.png": [0, 0, 17, ...]}`.
//!
//! `cargo run --release --example prepare_json -- data/digits/*.png`

use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use serde_json::{Map, Value};
use shadernet::classify::prepare::prepare;
use shadernet::error::{Error, Result};

fn main() {
    if let Err(error) = print_images() {
        eprintln!("error: {error}");
        std::process::exit(error.exit_code().into());
    }
}

fn print_images() -> Result<()> {
    let mut images = Map::new();
    for path in std::env::args_os().skip(1).map(PathBuf::from) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        images.insert(name, prepare(&path, 28, 28)?.into());
    }
    // Not println!, which panics when the reader goes away (`| head`).
    match writeln!(std::io::stdout(), "{}", Value::from(images)) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::io("write", "standard output")(error))
        }
        _ => Ok(()),
    }
}
