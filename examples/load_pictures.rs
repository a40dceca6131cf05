//! Loads a folder of pictures twice, with progress and a cache, and says how long that took:
//!
//!     cargo run --release --example load_pictures -- photos 64

use std::path::PathBuf;
use std::time::Instant;

use shadernet::dataset::Loader;
use shadernet::{Error, Result};

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let folder = args.next().map(PathBuf::from);
    let folder = folder.ok_or_else(|| Error::Usage("give a folder of pictures, and a side".into()))?;
    let side = args.next().and_then(|side| side.to_str()?.parse().ok()).unwrap_or(64);

    let show = |done: usize, of: usize| {
        if done.is_multiple_of(1000) || done == of {
            eprintln!("{done} of {of}");
        }
    };
    let cache = std::env::temp_dir().join(format!("shadernet-pictures-{}", std::process::id()));
    let loader = Loader::new().progress(&show).cache(&cache);
    for time in ["first", "second"] {
        let start = Instant::now();
        let data = loader.load(&folder, [3, side, side].into())?;
        let (train, test) = (data.train.count, data.test.count);
        println!("{time} time: {train} and {test} images in {:.2} s", start.elapsed().as_secs_f64());
        data.warnings.iter().for_each(|warning| println!("{warning}"));
    }
    let _ = std::fs::remove_dir_all(cache);
    Ok(())
}
