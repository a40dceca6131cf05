//! `shadernet new`: a model file to start from, that fits a dataset.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use shadernet::dataset::Survey;
use shadernet::error::{Error, Result};
use shadernet::files;
use shadernet::layers::Op;
use shadernet::model::Model;
use shadernet::tensor::Shape;

use super::{Output, loading, output};

const EXAMPLES: &str = "\
Examples:
  shadernet new --data photos                  # photos/train/cat/*.jpg, photos/train/dog/*.jpg, photos/test/cat/*.jpg, ...
  shadernet new --data photos --out small.toml # then: shadernet train small.toml --data photos
  shadernet new --data photos --size 96        # larger pictures than it would choose: slower, often better";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct NewArgs {
    /// Dataset folder: one folder of pictures per class, or IDX files
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Model description to write
    #[arg(long, value_name = "MODEL.toml", default_value = "model.toml")]
    out: PathBuf,
    /// Side of the input in pixels, or height x width, to which pictures are stretched [default: that of the median picture,
    /// at most 64, in its shape]
    #[arg(long, value_name = "SIDE|HxW", value_parser = Size::parse)]
    size: Option<Size>,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

/// Height and width that the user wants.
#[derive(Clone, Copy)]
struct Size {
    height: usize,
    width: usize,
}

impl Size {
    /// A side of a square, or two sides; the net halves them twice.
    fn parse(text: &str) -> Result<Self, String> {
        let side = |text: &str| text.trim().parse().ok().filter(|side| (8..=512).contains(side));
        let sides = match text.split_once(['x', 'X', '×']) {
            Some((height, width)) => side(height).zip(side(width)),
            None => side(text).map(|side| (side, side)),
        };
        let (height, width) =
            sides.ok_or("give a side of 8 to 512 pixels, such as 96, or HEIGHTxWIDTH, such as 64x96")?;
        Ok(Self { height, width })
    }
}

/// Longer side of the input that is proposed for large pictures.
const MAX_SIDE: usize = 64;
/// Channels of the first block; each following one has as many more.
const CHANNELS: usize = 8;
/// A map is halved until a side is below this.
const SMALLEST_HALVED: usize = 8;

/// Writes the model file.
pub(crate) fn run(args: &NewArgs, out: &mut Output) -> Result<ExitCode> {
    files::check_outputs(&[&args.out], &[&args.data], args.force)?;
    let survey = loading::with(false, |loader| loader.survey(&args.data))?;
    survey.warnings.iter().for_each(|warning| output::warning(warning));
    if args.size.is_some() && !survey.pictures {
        let message = format!(
            "--size: these images are {}x{} and are used as they are; only pictures are stretched",
            survey.images.height, survey.images.width
        );
        return Err(Error::Usage(message));
    }
    let text = describe(&survey, &args.data, args.size);
    let model = Model::parse(&text, &args.out.display().to_string())?;
    files::write_atomically(&args.out, text.as_bytes())?;
    let Survey { images, count, classes, .. } = &survey;
    let colour = if images.channels == 1 { "grey" } else { "RGB" };
    let size = format!("{}x{}", images.height, images.width);
    out.line(format_args!(
        "{}: {count} training images, {colour}, {size} (median, height x width), {} classes: {}",
        args.data.display(),
        classes.len(),
        names(classes)
    ));
    let parameters = model.parameter_count();
    let convolutions = model
        .layers
        .iter()
        .filter(|layer| matches!(layer.op, Op::Conv2d(_)) && !layer.is_fully_connected())
        .count();
    out.line(format_args!(
        "{}: input {}, {convolutions} convolutions, {parameters} parameters, {} epochs",
        args.out.display(),
        model.input,
        model.train.epochs
    ));
    out.line(format_args!(
        "to train it: shadernet train {} --data {}",
        files::quoted(&args.out),
        files::quoted(&args.data)
    ));
    Ok(ExitCode::SUCCESS)
}

/// The first names and, after many more, the last.
fn names(classes: &[String]) -> String {
    const FEW: usize = 6;
    let short: Vec<_> = classes.iter().map(|name| output::short(name)).collect();
    match &short[..] {
        [first @ .., last] if short.len() > FEW => format!("{}, ..., {last}", first[..FEW - 1].join(", ")),
        all => all.join(", "),
    }
}

/// Pictures are brought to at most 64 pixels, keeping the shape of the median one, in multiples of 4 that can be halved
/// twice; IDX images have their own size.
fn input(survey: &Survey, size: Option<Size>) -> Shape {
    let Shape { channels, height, width } = survey.images;
    if let Some(Size { height, width }) = size {
        return Shape::new(channels, height, width);
    }
    if !survey.pictures {
        return survey.images;
    }
    let scale = (MAX_SIDE as f64 / height.max(width) as f64).min(1.0);
    let side = |side: usize| ((side as f64 * scale / 4.0).round() as usize * 4).clamp(8, MAX_SIDE);
    Shape::new(channels, side(height), side(width))
}

/// The model file: blocks of two convolutions and a pooling, then a value for each class.
fn describe(survey: &Survey, data: &Path, size: Option<Size>) -> String {
    let input = input(survey, size);
    let name: String = std::path::absolute(data)
        .ok()
        .and_then(|data| Some(data.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_default()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
        .collect();
    let name = if name.is_empty() { "model" } else { &name };
    let mut text = format!(
        "# A network to start from.\nname = {name:?}\ninput = {input}  # channels, height, width\nlayers = [\n"
    );
    let mut channels = 0;
    let mut side = input.height.min(input.width);
    loop {
        channels += CHANNELS;
        for _ in 0..2 {
            let _ = writeln!(
                text,
                "  {{ type = \"conv2d\", out_channels = {channels}, kernel = 3, padding = 1 }},\n  {{ type = \"relu\" }},\n  \
                 {{ type = \"batch_norm2d\" }},"
            );
        }
        if side < SMALLEST_HALVED {
            break;
        }
        text.push_str("  { type = \"max_pool2d\", kernel = 2 },\n");
        side /= 2;
    }
    let classes = survey.classes.len();
    let _ = writeln!(
        text,
        "  {{ type = \"conv2d\", out_channels = {classes}, kernel = 1 }},  # one value per class"
    );
    text.push_str("  { type = \"global_avg_pool2d\" },\n]\n\n");
    text.push_str(&recipe(survey.count, input));
    text
}

/// Few images are seen more often, and large ones moved by more pixels.
fn recipe(images: usize, input: Shape) -> String {
    let epochs = (300_000 / images.max(1)).clamp(10, 30);
    let (batch_size, peak) = if images < 5000 { (32, 0.05) } else { (64, 0.1) };
    let shift = (input.height.min(input.width) as f32 / 14.0).round();
    format!(
        "[train]\nepochs = {epochs}\nbatch_size = {batch_size}\noptimizer = {{ type = \"sgd\", momentum = 0.9, nesterov = \
         true, weight_decay = 5e-4 }}\nlearning_rate = {{ schedule = \"one_cycle\", peak = {peak} }}\naugment = {{ \
         rotate_degrees = 10.0, shift_pixels = {shift:.1}, scale = 0.1 }}\n"
    )
}
