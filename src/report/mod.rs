//! The folder of a run as a readable page: one self-contained HTML file without scripts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::Checkpoint;
use crate::dataset::Images;
use crate::device::Device;
use crate::error::{Error, Remedy, Result};
use crate::eval;
use crate::files::{self, read_at_most};
use crate::train::TrainingData;

mod answers;
mod charts;
mod compare;
mod confusion;
mod html;
mod matrix;
mod network;
mod occlusion;
mod page;
mod picture;
mod record;
mod settings;
mod sheet;
mod worst;

use answers::Answers;
use record::Record;
pub use sheet::contact_sheet;

/// Name of a report in the folder of its run.
pub const FILE: &str = "report.html";

/// The images that a run was evaluated on.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// In the dataset recorded in the run's summary.
    Recorded,
    /// In the dataset in this folder.
    Folder(&'a Path),
    /// These images.
    Images(&'a Arc<Images>),
}

/// The page of a run, whose net classifies its images once more on `device`. If there are several nets, the first
/// that trained is shown in detail; for a sweep, the first of the best point.
///
/// # Errors
/// A folder that is not a finished run's or is damaged, and images that are missing or not the run's.
///
/// # Examples
/// ```no_run
/// use std::path::Path;
///
/// use shadernet::device::Device;
/// use shadernet::files::write_atomically;
/// use shadernet::report::{Source, of_run};
///
/// let page = of_run(Path::new("runs/seed-1"), Source::Recorded, &Device::cpu())?;
/// write_atomically(Path::new("seed-1.html"), page.as_bytes())?;
/// # Ok::<(), shadernet::error::Error>(())
/// ```
pub fn of_run(folder: &Path, source: Source<'_>, device: &Device) -> Result<String> {
    let record = Record::load(folder)?;
    let net = record.shown()?;
    let checkpoint = record.checkpoint(&net)?;
    let loaded;
    let (images, dir) = match source {
        Source::Images(images) => (images, None),
        Source::Folder(_) | Source::Recorded => {
            let dir = match source {
                Source::Folder(dir) => dir,
                _ => Path::new(&record.summary.data),
            };
            if matches!(source, Source::Recorded) && !dir.exists() {
                let message = "the images of the run were in this folder, which no longer exists";
                return Err(Error::data(dir, message).with(Remedy::ImagesOfRun));
            }
            loaded = load(dir, &record, &checkpoint)?;
            (&loaded, Some(dir))
        }
    };
    let logits = eval::logits(&checkpoint, images, device)?;
    let answers = Answers::new(logits, &images.labels, checkpoint.model.class_count());
    if let Some(dir) = dir {
        check_same(dir, &record, net.index, &answers)?;
    }
    let worst = answers.worst.iter().map(|answer| (answer.image, answer.class));
    let maps = &occlusion::maps(&checkpoint, images, worst, device)[..];
    let (checkpoint, answers) = (&checkpoint, &answers);
    Ok(page::of_run(&page::Shown { record: &record, index: net.index, checkpoint, images, answers, maps }))
}

const OTHER: &str = "these are not the images of the run";

/// Fails if a net's answers differ so much from the recorded ones that it must have been evaluated on other images:
/// the test set alone has no recorded hash. Devices round differently, which changes few answers and hardly moves the
/// loss.
fn check_same(dir: &Path, record: &Record, net: usize, answers: &Answers) -> Result<()> {
    let summary = &record.summary;
    let (accuracy, loss) = match summary.replicas.get(net) {
        Some(net) => (net.final_test_accuracy, net.final_test_loss),
        None => (summary.final_test_accuracy, summary.final_test_loss),
    };
    let images = answers.confusion.images() as f64;
    let moved = (answers.confusion.correct() as f64 - accuracy / 100.0 * images).abs();
    let same_loss = (answers.loss - loss).abs() <= 1e-3 * loss.abs() + 1e-4;
    if same_loss && moved < (images / 1000.0).max(2.0) + 0.5 {
        return Ok(());
    }
    let message = format!(
        "{OTHER}: on these, {} of {images} answers are correct and the loss is {:.4}; the run had {:.2} % and {:.4}",
        answers.confusion.correct(),
        answers.loss,
        accuracy,
        loss
    );
    Err(Error::data(dir, message).with(Remedy::ImagesOfRun))
}

/// The images that a run was evaluated on, from its dataset.
fn load(dir: &Path, record: &Record, checkpoint: &Checkpoint) -> Result<Arc<Images>> {
    let held_out = record.summary.hold_out;
    let images = if held_out.is_none() {
        eval::load_test_images(dir, checkpoint)?.0
    } else {
        let data = TrainingData::load_held_out(dir, checkpoint.model.input, held_out)?;
        data.check(&checkpoint.model)?;
        data.check_classes(checkpoint)?;
        if record.summary.data_sha256.as_ref().is_some_and(|hash| *hash != data.sha256()) {
            return Err(Error::data(dir, OTHER).with(Remedy::ImagesOfRun));
        }
        data.test
    };
    if images.count != record.summary.test_images {
        let message = format!(
            "{} test images, but the run was evaluated on {}",
            images.count, record.summary.test_images
        );
        return Err(Error::data(dir, message).with(Remedy::ImagesOfRun));
    }
    Ok(images)
}

/// The page of several runs: their curves in one chart, their final figures, and the settings in which they differ.
///
/// # Errors
/// More runs than can be told apart; a folder that is not a finished run's or is damaged.
pub fn of_runs(folders: &[PathBuf]) -> Result<String> {
    compare::check_count(folders.len())?;
    let records = folders.iter().map(|folder| Record::load(folder)).collect::<Result<Vec<_>>>()?;
    compare::of_runs(&records)
}

/// Fails if the page of `runs` cannot be written to `path`, as [`files::check_outputs`]: the files in the runs'
/// folders are inputs, except for pages, and so are the datasets that they recorded. The report already in a single
/// run's folder is replaced.
///
/// # Errors
/// [`Error::Usage`], which says what would help.
pub fn check_free(path: &Path, runs: &[PathBuf], force: bool) -> Result<()> {
    let mut inputs = Vec::new();
    for run in runs {
        // If this is not a run, `of_run` gives the better error.
        let Ok(entries) = run.read_dir() else { return Ok(()) };
        let files = entries.flatten().map(|entry| entry.path());
        inputs.extend(files.filter(|file| file.extension().is_none_or(|ending| ending != "html")));
        inputs.extend(Record::load(run).ok().map(|record| record.summary.data.into()));
    }
    let in_place = matches!(runs, [run] if path == run.join(FILE)) && path.is_file();
    // Larger than any of ours, so not ours.
    let own = in_place && read_at_most(path, 64 << 20)?.is_some_and(|bytes| is_report(&bytes));
    files::check_outputs(&[path], &inputs.iter().map(PathBuf::as_path).collect::<Vec<_>>(), force || own)
}

fn is_report(bytes: &[u8]) -> bool {
    let mark = html::MARK.as_bytes();
    bytes.windows(mark.len()).take(500).any(|window| window == mark)
}
