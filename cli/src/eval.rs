//! `shadernet eval`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use shadernet::checkpoint::{save_tensors, trained_file};
use shadernet::error::Result;
use shadernet::tensor::Tensor;
use shadernet::{eval, files};

use super::{DeviceArgs, Output, loading, open, output};

const EXAMPLES: &str = "\
Examples:
  shadernet eval runs/photos-1                 # on the test images of the dataset that the run was trained on
  shadernet eval runs/photos-1 --data others   # on those of another
  shadernet eval runs/photos-1 --int8          # also as a microcontroller computes it
  shadernet eval weights.safetensors --model model.toml --data photos      # weights that PyTorch has trained";

mod scores;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EvalArgs {
    /// Trained model (.safetensors), or the folder of a run
    #[arg(value_name = "RUN|FILE")]
    file: PathBuf,
    /// Dataset folder: IDX files, or one folder of pictures per class [default: that of the run, else data/mnist]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// For weights alone, such as a PyTorch `state_dict`: the model description (.toml) of their network, or a run with the
    /// same network
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs<false>,
    /// Also judge the network in whole numbers of 8 bits, as the exported C computes it; their ranges come from training images of
    /// the dataset
    #[arg(long)]
    int8: bool,
    /// Also write the logits of all test images, as a tensor `logits` of shape [images, classes]; with --int8 also `int8_logits`,
    /// which are whole numbers, and `int8_logit_scale`, what 1 of them stands for
    #[arg(long, value_name = "OUT.safetensors")]
    logits: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long, requires = "logits")]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Judges a trained network.
pub(crate) fn run(args: &EvalArgs, output: &mut Output) -> Result<ExitCode> {
    let outputs: Vec<_> = args.logits.iter().map(PathBuf::as_path).collect();
    let file = trained_file(&args.file)?;
    let data = open::data(args.data.as_deref(), &file, args.model.as_deref())?;
    let model = args.model.as_deref().map(trained_file).transpose()?;
    let inputs: Vec<&Path> =
        [Some(&file), model.as_ref(), Some(&data)].into_iter().flatten().map(PathBuf::as_path).collect();
    files::check_outputs(&outputs, &inputs, args.force)?;
    let (checkpoint, device) = match &args.model {
        None => (open::trained(&file)?, args.device.choose()?),
        Some(model) => {
            let device = args.device.choose()?;
            // A description alone says nothing of pixels and classes.
            let data = open::is_description(model).then_some(&*data);
            (open::weights(&file, model, data, &device)?, device)
        }
    };
    let (images, warnings) =
        loading::with(args.json, |loader| eval::load_test_images_by(loader, &data, &checkpoint))?;
    warnings.iter().for_each(|warning| output::warning(warning));
    if !args.json {
        output.line(format_args!("device: {device}\ndata:   {}", data.display()));
    }
    let verdict = eval::judge(&checkpoint, &images, &device)?;
    let whole = match args.int8 {
        true => {
            let net = open::in_whole_numbers(&checkpoint, &data)?;
            Some((net.judge(&checkpoint, &images)?, net))
        }
        false => None,
    };
    if let Some(path) = &args.logits {
        let shape = vec![images.count, checkpoint.model.class_count()];
        let tensor = |name: &str, data| Tensor { name: name.into(), shape: shape.clone(), data };
        let mut tensors = vec![tensor("logits", verdict.logits.clone())];
        if let Some((judged, net)) = &whole {
            let scale = net.logit_scale();
            let whole = |&logit: &f32| (f64::from(logit) / scale).round() as f32;
            tensors.push(tensor("int8_logits", judged.logits.iter().map(whole).collect()));
            tensors.push(Tensor {
                name: "int8_logit_scale".into(),
                shape: vec![1],
                data: vec![scale as f32],
            });
        }
        save_tensors(path, &tensors)?;
    }
    if args.json {
        let mut value = scores::as_json(&verdict, &checkpoint);
        if let Some((judged, net)) = &whole {
            value["int8"] = scores::as_json(judged, &checkpoint);
            value["int8"]["other_answers"] = judged.other_answers(&verdict).into();
            value["int8"]["logit_scale"] = net.logit_scale().into();
        }
        output.line(format_args!("{value}"));
        return Ok(ExitCode::SUCCESS);
    }
    let metrics = &verdict.metrics;
    output.line(format_args!(
        "Test set: average loss {:.4}, accuracy {}/{} ({:.2}%)",
        metrics.loss(),
        metrics.correct,
        metrics.images,
        metrics.accuracy()
    ));
    if let Some((judged, _)) = &whole {
        let metrics = &judged.metrics;
        output.line(format_args!(
            "int8:     average loss {:.4}, accuracy {}/{} ({:.2}%), {}",
            metrics.loss(),
            metrics.correct,
            metrics.images,
            metrics.accuracy(),
            match judged.other_answers(&verdict) {
                1 => "1 answer differs".to_owned(),
                count => format!("{count} answers differ"),
            }
        ));
    }
    scores::print(&verdict, &checkpoint, output);
    if let Some(path) = &args.logits {
        output.line(format_args!("logits: {}", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}
