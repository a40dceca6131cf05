//! Prints the plans of a model as JSON: every tensor with its place in memory, what the buffers hold before the first step, and
//! every kernel launch with shader, entry point, override constants, bindings and workgroups.
//! `{"training": ..., "evaluation": ...}`, one step of each.
//!
//! `cargo run --release --example plan_json -- [MODEL.toml] [--batch-size N] [--replicas R] [--fine]`

use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use clap::Parser;
use shadernet::batch::{BatchSettings, Changes};
use shadernet::error::{Error, Result};
use shadernet::layers::Grain;
use shadernet::model::Model;
use shadernet::normalization::Normalization;
use shadernet::plan::{Plan, PlanOptions};
use shadernet::replica::Replica;

/// Prints the plans of a training step and of an evaluation step as JSON.
#[derive(Parser)]
struct Args {
    /// Model description [default: the built-in seed network]
    model: Option<PathBuf>,
    /// Images of one step [default: the model's]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch_size: Option<u32>,
    /// Nets trained side by side
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    replicas: u32,
    /// Split the work for a device with many lanes, such as a real GPU
    #[arg(long)]
    fine: bool,
}

fn main() {
    if let Err(error) = print_plans(&Args::parse()) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn print_plans(args: &Args) -> Result<()> {
    let model = match &args.model {
        None => Model::parse(include_str!("../data/models/seed.toml"), "data/models/seed.toml")?,
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
            Model::parse(&text, &path.display().to_string())?
        }
    };
    let batch_size = args.batch_size.map_or(model.train.batch_size, |size| size as usize);
    // A plan depends on the size of the dataset and its normalisation: here, MNIST's.
    let batch = BatchSettings {
        batch_size,
        image_count: 60_000,
        image: model.input,
        epochs: model.train.epochs,
        shuffle: true,
        changes: Changes::of(&[Replica::new(&model, 0)]),
        normalization: Normalization::uniform(model.input.channels, 0.1307, 0.3081),
        class_weights: Vec::new(),
    };
    let grain = if args.fine { Grain::Fine } else { Grain::Coarse };
    let options = |fuse| PlanOptions { fuse, grain, ..PlanOptions::default() };
    let nets = Replica::of_seeds(&model, 0..args.replicas);
    let training = |fuse| Plan::training(&model, &nets, &batch, options(fuse));
    let evaluation = |fuse| Plan::evaluation(&model, &nets, &batch, false, "test", options(fuse));
    let plans = serde_json::json!({
        "training": training(true),
        "evaluation": evaluation(true),
        "training, each layer alone": training(false),
        "evaluation, each layer alone": evaluation(false),
    });
    // Not println!, which panics when the reader goes away (`| head`).
    match writeln!(std::io::stdout(), "{plans:#}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::io("write", "standard output")(error))
        }
        _ => Ok(()),
    }
}
