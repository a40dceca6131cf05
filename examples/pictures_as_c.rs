//! Prints pictures as C arrays, prepared as `classify` prepares them for a model: the bytes that its exported C takes.
//!
//! `cargo run --release --example pictures_as_c -- data/models/separable-2.5k.safetensors data/digits/*.png`

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;

use shadernet::checkpoint::Checkpoint;
use shadernet::classify::Picture;
use shadernet::error::{Error, Result};

fn main() {
    if let Err(error) = print_pictures() {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn print_pictures() -> Result<()> {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let (model, paths) = (paths.next(), paths.collect::<Vec<_>>());
    let Some(model) = model.filter(|_| !paths.is_empty()) else {
        return Err(Error::Usage("expected a model and pictures".into()));
    };
    let model = Checkpoint::load(model)?;
    let input = model.model.input;
    let area = input.height * input.width;
    let (count, bytes) = (paths.len(), area * input.channels);
    let mut names = String::new();
    let mut pictures = String::new();
    for path in &paths {
        let planes = Picture::open(path)?.input(&model)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().replace(['"', '\\', '?'], "_");
        writeln!(names, "    \"{name}\",").expect("a String takes all");
        writeln!(pictures, "    {{").expect("a String takes all");
        for y in 0..input.height {
            // C takes the channels of a pixel side by side.
            let pixels = (0..input.width).flat_map(|x| (0..input.channels).map(move |c| (c, x)));
            let row: String =
                pixels.map(|(c, x)| format!(" {},", planes[c * area + y * input.width + x])).collect();
            writeln!(pictures, "       {row}").expect("a String takes all");
        }
        writeln!(pictures, "    }},").expect("a String takes all");
    }
    let text = format!(
        "#include <stdint.h>\n\n#define PICTURE_COUNT {count}\n\n\
         static const char *const picture_names[PICTURE_COUNT] = {{\n{names}}};\n\n\
         static const uint8_t pictures[PICTURE_COUNT][{bytes}] = {{\n{pictures}}};"
    );
    // Not println!, which panics when the reader goes away (`| head`).
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::io("write", "standard output")(error))
        }
        _ => Ok(()),
    }
}
