//! `shadernet classify`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use shadernet::checkpoint::Checkpoint;
use shadernet::classify::prepare::ascii;
use shadernet::classify::{Answer, Classifier, Picture, takes_pictures};
use shadernet::error::{Result, shown};

use super::output::{column, short};
use super::{DeviceArgs, Output, open, output};

const EXAMPLES: &str = "\
Examples:
  shadernet classify drawn.png scanned.jpg     # digits, with the built-in network
  shadernet classify --model runs/photos-1 picture.jpg
  shadernet classify --json drawn.png          # output for other programs";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ClassifyArgs {
    /// Pictures (.png, .jpg) of any size and colour, or `-` for standard input; the built-in network, and others
    /// trained on IDX files, expect one digit in each
    #[arg(value_name = "IMAGE", required = true)]
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
    /// Print the answers as JSON
    #[arg(long)]
    json: bool,
}

/// Classifies every picture that can be read; fails in the end if some could not.
pub(crate) fn run(args: &ClassifyArgs, out: &mut Output) -> Result<ExitCode> {
    let checkpoint = match (&args.model, &args.weights) {
        (Some(model), Some(file)) => {
            open::weights(file, model, args.data.as_deref(), &args.device.choose()?)?
        }
        (Some(path), None) => open::trained(path)?,
        (None, _) => Checkpoint::seed()?,
    };
    let device = args.device.choose()?;
    let input = checkpoint.model.input;
    let (mut files, mut images, mut code) = (Vec::new(), Vec::new(), ExitCode::SUCCESS);
    for path in &args.images {
        match read(path, &checkpoint) {
            Ok(image) => {
                files.push(path.display().to_string());
                images.push(image);
            }
            Err(error) => {
                output::error(&error);
                code = ExitCode::FAILURE;
            }
        }
    }
    if images.is_empty() {
        return Ok(code);
    }
    let mut classifier = Classifier::new(checkpoint, &device)?;
    let answers = classifier.classify_inputs(&images)?;
    let checkpoint = classifier.checkpoint();
    if args.json {
        let answers: Vec<_> =
            files.iter().zip(&answers).map(|(file, answer)| as_json(file, answer, checkpoint)).collect();
        out.line(format_args!("{}", Value::from(answers)));
        return Ok(code);
    }
    for ((file, image), answer) in files.iter().zip(&images).zip(&answers) {
        // A drawing is shown as the network sees it.
        let seen = match takes_pictures(checkpoint) {
            true => String::new(),
            false => ascii(image, input.height, input.width),
        };
        print(file, &seen, answer, &checkpoint.classes, out);
    }
    Ok(code)
}

/// Reads a picture as the network takes it; `-` is standard input.
fn read(path: &Path, checkpoint: &Checkpoint) -> Result<Vec<u8>> {
    let picture = match path == Path::new("-") {
        true => Picture::read(std::io::stdin().lock(), "standard input")?,
        false => Picture::open(path)?,
    };
    picture.warning(checkpoint).iter().for_each(|warning| output::warning(warning));
    picture.input(checkpoint)
}

fn as_json(file: &str, answer: &Answer, checkpoint: &Checkpoint) -> Value {
    let name = &checkpoint.classes[answer.class];
    let round = |value: f32| (f64::from(value) * 1e6).round() / 1e6;
    let probabilities: Vec<f64> = answer.probabilities.iter().copied().map(round).collect();
    let probability = probabilities[answer.class];
    if takes_pictures(checkpoint) {
        return json!({ "file": file, "class": name, "probability": probability, "probabilities": probabilities });
    }
    let digit = name.parse::<i64>().map_or_else(|_| json!(name), Value::from);
    json!({ "file": file, "digit": digit, "probability": probability, "probabilities": probabilities })
}

/// Cells of the bar of a certain answer.
const BAR: f32 = 30.0;

fn print(file: &str, picture: &str, answer: &Answer, classes: &[String], out: &mut Output) {
    let best = answer.probabilities[answer.class];
    let (file, class) = (shown(file), short(&classes[answer.class]));
    out.line(format_args!("{picture}{file}: {class} ({:.1} %)", 100.0 * best));
    let names = column(classes.iter().map(String::as_str), true);
    for (name, probability) in names.iter().zip(&answer.probabilities) {
        let bar = "█".repeat((probability * BAR).round() as usize);
        let line = format!("  {name} {:>5.1} % {bar}", 100.0 * probability);
        out.line(format_args!("{}", line.trim_end()));
    }
    out.line(format_args!(""));
}
