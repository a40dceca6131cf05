//! Loads datasets with a bar on a terminal, and keeps decoded pictures for the next time.

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use shadernet::dataset::Loader;
use shadernet::device::cache_folder;
use shadernet::error::Result;

/// Names the folder for decoded pictures, or turns keeping them off.
const VARIABLE: &str = "SHADERNET_CACHE";

/// What the help says about it.
pub(crate) const HELP: &str = "\
Decoded pictures are kept in the user's cache folder, at most 2 GiB, so that the next start is fast.
SHADERNET_CACHE=off turns that off; SHADERNET_CACHE=DIR names another folder.";

/// Loads something; the bar is hidden if `quiet`, and where standard error is no terminal.
pub(crate) fn with<T>(quiet: bool, load: impl FnOnce(&Loader<'_>) -> Result<T>) -> Result<T> {
    let style = ProgressStyle::with_template("reading pictures {bar:30} {pos}/{len}  {eta} left");
    let bar = ProgressBar::new(0).with_style(style.expect("a valid template"));
    if quiet {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let show = |done: usize, of: usize| {
        bar.set_length(of as u64);
        bar.inc(1);
        if done == of {
            bar.finish_and_clear();
        }
    };
    let folder = cache();
    let mut loader = Loader::new().progress(&show);
    if let Some(folder) = &folder {
        loader = loader.cache(folder);
    }
    let loaded = load(&loader);
    bar.finish_and_clear();
    loaded
}

fn cache() -> Option<PathBuf> {
    match std::env::var_os(VARIABLE) {
        None => cache_folder("pictures"),
        Some(value) if value.is_empty() || value == "off" => None,
        Some(folder) => Some(folder.into()),
    }
}
