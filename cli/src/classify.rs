//! `shadernet classify`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use shadernet::checkpoint::{Checkpoint, trained_file};
use shadernet::classify::{Classifier, Picture, Prepared, pictures_in, prepare_files, takes_pictures};
use shadernet::error::{Error, Result, shown};
use shadernet::files;

use super::{DeviceArgs, Output, open, output};

mod answers;
mod sort;

use answers::{Answers, UNSURE};
use sort::Sorter;

const EXAMPLES: &str = "\
Examples:
  shadernet classify drawn.png scanned.jpg     # digits, with the built-in network
  shadernet classify --model runs/photos-1 picture.jpg
  shadernet classify --model runs/photos-1 holiday --unsure-below 0.8 --sort-into sorted
  shadernet classify holiday --csv answers.csv # a table for a spreadsheet
  shadernet classify --json drawn.png          # output for other programs

Of a folder, all pictures in it and in the folders inside are classified; its other files are counted. Files that cannot
be read are named and left out, and the exit status is then 1.

--sort-into makes a folder for each answer, with a link to each picture, or a copy with --copy. Whatever is there stays
as it is: a name that is taken gets a number (cat-2.jpg), and a picture that is already there is not sorted in again.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ClassifyArgs {
    /// Pictures (PNG, JPEG, WebP, GIF, BMP, TIFF) of any size and colour, folders of them, or `-` for standard input; the
    /// built-in network, and others trained on IDX files, expect one digit in each
    #[arg(value_name = "IMAGE|FOLDER", required = true)]
    images: Vec<PathBuf>,
    /// Trained model (.safetensors), or the folder of a run [default: the built-in seed network]
    #[arg(long, value_name = "RUN|FILE")]
    model: Option<PathBuf>,
    /// Use these weights, such as a PyTorch `state_dict`, in the network of --model, which may then be a description (.toml)
    #[arg(long, value_name = "FILE", requires = "model")]
    weights: Option<PathBuf>,
    /// Dataset folder on which the weights were trained, for the normalisation and the names of the classes
    #[arg(long, value_name = "DIR", requires = "weights")]
    data: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs<true>,
    /// Show only the K most probable classes, in their order [default: all, or of a folder the answer alone]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u16).range(1..))]
    top: Option<u16>,
    /// Answer `unsure` if the most probable class has less than this probability (0 to 1)
    #[arg(long, value_name = "P", value_parser = probability)]
    unsure_below: Option<f32>,
    /// Also write the answers as a table, or only that to standard output (`-`)
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Also sort the pictures by their answers: a link to each in a folder for its class, or in `unsure`
    #[arg(long, value_name = "DIR")]
    sort_into: Option<PathBuf>,
    /// Sort copies instead of links
    #[arg(long, requires = "sort_into")]
    copy: bool,
    /// Replace an existing table
    #[arg(long, requires = "csv")]
    force: bool,
    /// Print the answers as JSON
    #[arg(long)]
    json: bool,
}

fn probability(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        Ok(value) if value > 1.0 && value <= 100.0 => {
            Err(format!("a probability is 0 to 1; for {value} %, give {}", value / 100.0))
        }
        _ => Err("a probability is 0 to 1".into()),
    }
}

/// Pictures that are read at a time, so that of many only a few are in memory.
const AT_ONCE: usize = 256;

/// What is to be classified, in the order of the arguments.
#[derive(Default)]
struct Given {
    files: Vec<PathBuf>,
    /// How many pictures or folders could not be read.
    failures: usize,
    has_folders: bool,
}

impl Given {
    fn fail(&mut self, error: &Error) {
        output::error(error);
        self.failures += 1;
    }
}

/// Classifies every picture that can be read; fails in the end if some could not.
pub(crate) fn run(args: &ClassifyArgs, out: &mut Output) -> Result<ExitCode> {
    check(args)?;
    let checkpoint = match (&args.model, &args.weights) {
        (Some(model), Some(file)) => {
            let data = args.data.as_deref().filter(|_| open::is_description(model));
            open::weights(file, model, data, &args.device.choose()?)?
        }
        (Some(path), None) => open::trained(path)?,
        (None, _) => Checkpoint::seed()?,
    };
    if args.unsure_below.is_some() && checkpoint.classes.iter().any(|class| class == UNSURE) {
        let message = "--unsure-below cannot be used with this model: one of its classes is named `unsure`";
        return Err(Error::Usage(message.into()));
    }
    let device = args.device.choose()?;
    let mut given = find(args);
    let files = std::mem::take(&mut given.files);
    let mut sorter = args.sort_into.as_ref().map(|dir| Sorter::new(dir, args.copy, &checkpoint.classes));
    let many = given.has_folders || files.len() > answers::MOST_WITH_BARS;
    let mut answers = Answers::new(args, &checkpoint, many, out);
    // Opened when there is something to classify.
    let mut classifier: Option<Classifier> = None;
    let mut classify = |files: &[PathBuf]| -> Result<()> {
        let (mut names, mut images) = (Vec::new(), Vec::new());
        for (file, read) in files.iter().zip(read(files, &checkpoint)) {
            match read {
                Ok(Prepared { input, warning, .. }) => {
                    warning.iter().for_each(|warning| output::warning(warning));
                    names.push(file);
                    images.push(input);
                }
                Err(error) => given.fail(&error),
            }
        }
        if images.is_empty() {
            return Ok(());
        }
        let opened = match classifier.take() {
            Some(opened) => opened,
            None => Classifier::new(checkpoint.clone(), &device)?,
        };
        let opened = classifier.insert(opened);
        for ((file, image), answer) in names.iter().zip(&images).zip(opened.classify_inputs(&images)?) {
            let class = answers.add(file, image, &answer);
            if let Some(sorter) = &mut sorter {
                sorter.sort(file, class)?;
            }
        }
        Ok(())
    };
    let done = files.chunks(AT_ONCE).try_for_each(&mut classify);
    // What was answered before is not lost.
    answers.finish()?;
    done?;
    if let Some(sorter) = &sorter {
        output::note(&sorter);
    }
    if given.failures == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    if files.len() > 1 {
        output::note(&format_args!("{} could not be read", answers::count(given.failures, "picture")));
    }
    Ok(ExitCode::FAILURE)
}

/// Fails if the arguments do not go together, before any work.
fn check(args: &ClassifyArgs) -> Result<()> {
    let usage = |message: String| Err(Error::Usage(message));
    let to_stdout = args.csv.as_deref() == Some(Path::new("-"));
    if to_stdout && args.json {
        return usage("--csv - and --json cannot be combined: both would go to standard output".into());
    }
    if let Some(path) = args.csv.as_deref().filter(|_| !to_stdout) {
        let model = args.model.as_deref().map(trained_file).transpose()?;
        let inputs: Vec<&Path> =
            args.images.iter().chain(&args.weights).chain(&model).map(PathBuf::as_path).collect();
        files::check_outputs(&[path], &inputs, args.force)?;
    }
    let Some(dir) = &args.sort_into else { return Ok(()) };
    if args.images.iter().any(|image| image == Path::new("-")) {
        return usage("--sort-into sorts files; standard input is none".into());
    }
    let name = shown(&dir.to_string_lossy()).into_owned();
    if dir.exists() && !dir.is_dir() {
        return usage(format!("--sort-into {name}: this is a file; name a folder"));
    }
    let same = |image: &PathBuf| match (image.canonicalize(), dir.canonicalize()) {
        (Ok(image), Ok(dir)) => image == dir,
        _ => false,
    };
    if args.images.iter().any(same) {
        return usage(format!("--sort-into {name}: this folder is to be classified; name another"));
    }
    Ok(())
}

/// The pictures of the arguments; what else their folders have is told.
fn find(args: &ClassifyArgs) -> Given {
    let mut given = Given::default();
    for path in &args.images {
        if !path.is_dir() {
            given.files.push(path.clone());
            continue;
        }
        given.has_folders = true;
        match pictures_in(path, args.sort_into.as_deref()) {
            Err(error) => given.fail(&error),
            Ok(found) => {
                found.errors.iter().for_each(|error| given.fail(error));
                let others = others(&found.others);
                if found.pictures.is_empty() {
                    let but = others.map_or_else(String::new, |others| format!(", but {others}"));
                    given.fail(&Error::data(path, format!("there are no pictures in this folder{but}")));
                } else if let Some(others) = others {
                    output::note(&format_args!("{}: {others} left out", shown(&path.to_string_lossy())));
                }
                given.files.extend(found.pictures);
            }
        }
    }
    given
}

/// `7 other files (4 .heic, 3 .txt)`.
fn others(others: &BTreeMap<String, usize>) -> Option<String> {
    const FEW: usize = 4;
    let all: usize = others.values().sum();
    let mut kinds: Vec<_> = others.iter().filter(|(kind, _)| !kind.is_empty()).collect();
    kinds.sort_by_key(|&(_, &count)| std::cmp::Reverse(count));
    let more = if kinds.len() > FEW { ", ..." } else { "" };
    let kinds: Vec<_> = kinds.iter().take(FEW).map(|(kind, count)| format!("{count} .{kind}")).collect();
    let kinds = if kinds.is_empty() { String::new() } else { format!(" ({}{more})", kinds.join(", ")) };
    (all > 0).then(|| format!("{}{kinds}", answers::count(all, "other file")))
}

/// Reads pictures as the network takes them; `-` is standard input.
fn read(files: &[PathBuf], checkpoint: &Checkpoint) -> Vec<Result<Prepared>> {
    let is_stdin = |path: &PathBuf| path == Path::new("-");
    if !files.iter().any(is_stdin) {
        return prepare_files(files, checkpoint);
    }
    let one = |path: &PathBuf| match is_stdin(path) {
        true => Picture::read(std::io::stdin().lock(), "standard input")
            .and_then(|picture| Prepared::new(picture, checkpoint)),
        false => prepare_files(std::slice::from_ref(path), checkpoint).swap_remove(0),
    };
    files.iter().map(one).collect()
}

/// True if a drawing is shown as the network sees it, beside its answer.
fn shows_drawings(checkpoint: &Checkpoint) -> bool {
    !takes_pictures(checkpoint)
}
