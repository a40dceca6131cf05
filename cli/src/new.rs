//! `shadernet new`: a model file to start from, that fits a dataset.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use shadernet::dataset::Survey;
use shadernet::error::{Error, Result};
use shadernet::files;
use shadernet::layers::Op;
use shadernet::model::Model;
use shadernet::tensor::Shape;

use super::{Output, loading, output};

mod network;
mod preset;

use preset::Preset;

const EXAMPLES: &str = "\
Examples:
  shadernet new --data photos                  # photos/train/cat/*.jpg, photos/train/dog/*.jpg, photos/test/cat/*.jpg, ...
  shadernet new --data photos --out small.toml # then: shadernet train small.toml --data photos
  shadernet new --data photos --size 96        # larger pictures than it would choose: slower, often better
  shadernet new --data signs --preset mnist    # signs that mean something else when they are mirrored
  shadernet new --data photos --parameters 10000";

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
    /// What kind of images these are [default: by their size and colours]
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// Largest number of parameters: the network is as wide as they allow
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    parameters: Option<u32>,
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
    let preset = args.preset.unwrap_or_else(|| Preset::of(&survey, input(&survey, args.size)));
    let text = describe(&survey, args, preset)?;
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
        "{}: preset {preset}, input {}, {convolutions} convolutions, {parameters} parameters, {} epochs",
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

/// The model file.
fn describe(survey: &Survey, args: &NewArgs, preset: Preset) -> Result<String> {
    let input = input(survey, args.size);
    let classes = survey.classes.len();
    let width = match args.parameters {
        Some(most) => network::width_within(input, classes, most as usize)?,
        None => preset.width(),
    };
    let name: String = std::path::absolute(&args.data)
        .ok()
        .and_then(|data| Some(data.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_default()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
        .collect();
    let name = if name.is_empty() { "model" } else { &name };
    let layers = network::layers(input, classes, width);
    let recipe = preset.recipe(survey.count, input);
    Ok(format!(
        "# A network to start from, as `shadernet new` proposes it ({preset}).\nname = {name:?}\ninput = {input}  # channels, \
         height, width\nlayers = [\n{layers}]\n\n{recipe}"
    ))
}
