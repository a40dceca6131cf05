//! The program `shadernet`: what the user types, and what the user sees.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use shadernet::device::Device;
use shadernet::error::{Error, Result};
use shadernet::files;
use shadernet::gpu::Adapter;
use shadernet::model::Model;

mod augment;
mod bench;
mod classify;
mod data;
mod doctor;
mod eval;
mod experiments;
mod export;
mod loading;
mod new;
mod open;
mod output;
mod rate;
mod remedy;
mod report;
mod shell;
mod stop;
mod train;

use output::Output;

/// Train small convolutional image classifiers on any GPU or on the processor.
///
/// Without a command, train the built-in network (9,954 parameters) on the handwritten digits in data/mnist.
#[derive(Parser)]
#[command(name = "shadernet", version, after_help = format!("{EXAMPLES}\n\n{}", loading::HELP))]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  shadernet data mnist             # download 70,000 handwritten digits into data/mnist
  shadernet train                  # train the built-in network on them, on a GPU or the processor
  shadernet classify drawn.png     # recognise a digit with the built-in trained network
  shadernet new --data photos      # write model.toml for your own images, one folder per class
  shadernet train model.toml --data photos
  shadernet classify --model runs/photos-1 picture.jpg

A model description is a text file (.toml); a trained model is a file of weights (.safetensors).
Each run has its own folder in runs/, with a report (report.html) to open in a browser.
`shadernet help COMMAND` describes a command in detail.";

#[derive(Subcommand)]
enum Command {
    /// Train a network
    Train(Box<train::TrainArgs>),
    /// Evaluate a trained network on the test images of a dataset
    Eval(eval::EvalArgs),
    /// Classify pictures with a trained network
    Classify(classify::ClassifyArgs),
    /// Export a trained network as a web page, an ONNX graph, a PyTorch module or C
    Export(export::ExportArgs),
    /// Write a model description suited to your images
    New(new::NewArgs),
    /// Paint what a network would see of your images: a contact sheet of its random changes
    Augment(augment::AugmentArgs),
    /// Try learning rates in a short training and suggest one
    Rate(rate::RateArgs),
    /// Download a standard dataset
    Data(data::DataArgs),
    /// Print the layer table of a network
    Summary {
        /// Model description (.toml), trained model (.safetensors) or run [default: the built-in seed network]
        model: Option<PathBuf>,
        /// Also print what the network would need on a microcontroller, in `float` and in whole numbers of 8 bits
        #[arg(long)]
        int8: bool,
    },
    /// List compute devices and show which one `--device auto` uses
    Devices,
    /// Check every kernel of a model's training on a GPU against the reference implementation
    Doctor(doctor::DoctorArgs),
    /// Measure how fast a network trains on a device, and compare that with the device's limits
    Bench(bench::BenchArgs),
    /// Run a suite of recipes with many seeds and report means with their uncertainty
    Experiments(experiments::ExperimentsArgs),
    /// Write an HTML report of a finished run, or compare several runs
    Report(report::ReportArgs),
    /// Print a shell completion script
    Completions(shell::CompletionsArgs),
    /// Print the manual page, or write the pages of the program and of every command into a folder
    Man(shell::ManArgs),
}

/// Where to compute.
#[derive(Args)]
struct DeviceArgs<const CPU_FIRST: bool> {
    /// Compute device: auto, cpu, gpu or part of an adapter's name; auto uses the first real GPU, or the CPU if there
    /// is none, and for `train` the faster of the two
    #[arg(long, default_value = if CPU_FIRST { "cpu" } else { "auto" })]
    device: String,
    /// Number of threads of the CPU engine [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl<const CPU_FIRST: bool> DeviceArgs<CPU_FIRST> {
    fn choose(&self) -> Result<Device> {
        self.check()?;
        Ok(self.with_threads(Device::named(&self.device).map_err(|error| self.explain(error))?))
    }

    fn with_threads(&self, device: Device) -> Device {
        match self.threads {
            Some(threads) => device.threads(threads.into()),
            None => device,
        }
    }

    /// True if the choice is left to the program.
    fn is_auto(&self) -> bool {
        self.device.trim().eq_ignore_ascii_case("auto")
    }

    /// Fails if the options do not go together.
    fn check(&self) -> Result<()> {
        let device = self.device.trim().to_lowercase();
        if device.is_empty() {
            let message = "--device is empty: give auto, cpu, gpu or a part of an adapter's name";
            return Err(Error::Usage(message.into()));
        }
        if self.threads.is_some() && !["auto", "cpu"].contains(&device.as_str()) {
            let message = format!(
                "--threads applies only to the CPU engine and cannot be combined with --device {}",
                self.device
            );
            return Err(Error::Usage(message));
        }
        Ok(())
    }

    /// What [`Device::named`] says of a name, with the option that it came from.
    fn explain(&self, error: Error) -> Error {
        match error.kind() {
            Error::Usage(message) => {
                Error::Usage(format!("--device {message}\n`--device cpu` works without a GPU"))
            }
            _ => error,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// No description of a network comes near this.
const MAX_MODEL_FILE: u64 = 1 << 20;

fn main() -> ExitCode {
    spare_desktop_probe();
    run()
}

/// Mesa's Vulkan layer that sorts devices asks the desktop which is its own, and without one prints errors on each look.
/// Adapters are sorted here anyway.
#[allow(unsafe_code, reason = "the driver's only switch is an environment variable")]
fn spare_desktop_probe() {
    let has_desktop =
        std::env::var_os("XDG_RUNTIME_DIR").is_some_and(|dir| dir.as_encoded_bytes().starts_with(b"/"));
    if cfg!(target_os = "linux") && !has_desktop && std::env::var_os("MESA_VK_DEVICE_SELECT").is_none() {
        // SAFETY: this is the first thing that the process does, there is no other thread yet.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

/// Carries out the command line.
fn run() -> ExitCode {
    #[cfg(unix)]
    stop::outlive_file_limit();
    let mut output = Output::stdout();
    let done = Cli::try_parse().map_or_else(
        |error| output::clap(&error),
        |cli| carry_out(cli.command.unwrap_or_else(train_by_default), &mut output),
    );
    match done.and_then(|code| output.finish().map(|()| code)) {
        Ok(code) => code,
        Err(error) => {
            output::error(&error);
            ExitCode::from(remedy::exit_code(&error))
        }
    }
}

fn carry_out(command: Command, output: &mut Output) -> Result<ExitCode> {
    match command {
        Command::Train(args) => train::run(&args, output),
        Command::Eval(args) => eval::run(&args, output),
        Command::Classify(args) => classify::run(&args, output),
        Command::Export(args) => export::run(&args, output),
        Command::New(args) => new::run(&args, output),
        Command::Augment(args) => augment::run(&args, output),
        Command::Rate(args) => rate::run(&args, output),
        Command::Data(args) => data::run(&args, output),
        Command::Summary { model, int8 } => summary(model.as_deref(), int8, output),
        Command::Devices => devices(output),
        Command::Doctor(args) => doctor::run(&args, output),
        Command::Bench(args) => bench::run(&args, output),
        Command::Experiments(args) => experiments::run(&args, output),
        Command::Report(args) => report::run(&args, output),
        Command::Completions(args) => shell::completions(&args, output),
        Command::Man(args) => shell::man(&args, output),
    }
}

/// `shadernet` alone is `shadernet train`.
fn train_by_default() -> Command {
    #[derive(Parser)]
    struct Defaults {
        #[command(flatten)]
        args: train::TrainArgs,
    }
    Command::Train(Box::new(Defaults::parse_from(["shadernet"]).args))
}

/// Reads a model description; `None` is the built-in one.
fn read_model(path: Option<&Path>) -> Result<Model> {
    let Some(path) = path else {
        return Ok(Model::seed());
    };
    let name = path.display().to_string();
    let bad = |message: &str| Error::Config { path: name.clone(), line: None, message: message.into() };
    let bytes = files::read_at_most(path, MAX_MODEL_FILE)?;
    // Eight bytes of a length, then JSON.
    let is_header = |bytes: &Vec<u8>| matches!(bytes[..], [_, _, _, _, _, _, _, 0, b'{', ..]);
    if is_trained(path) || bytes.as_ref().is_some_and(is_header) {
        return Err(bad(
            "this is a file of weights, not a model description (.toml); `train MODEL.toml --init` starts training \
             from weights, `eval` and `classify --model` use them",
        ));
    }
    let bytes = bytes.ok_or_else(|| bad("this file is too large; expected a model description (.toml)"))?;
    let text = String::from_utf8(bytes).map_err(|_| {
        bad("this is not a UTF-8 text file; expected a model description (.toml) saved as UTF-8")
    })?;
    Model::parse(&text, &name)
}

/// The network of a model description or of a trained model; `None` is the built-in one.
fn load_model(path: Option<&Path>) -> Result<Model> {
    match path {
        Some(path) if is_trained(path) || path.is_dir() => Ok(open::trained(path)?.model),
        path => read_model(path),
    }
}

fn is_trained(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "safetensors")
}

fn summary(path: Option<&Path>, int8: bool, output: &mut Output) -> Result<ExitCode> {
    let model = load_model(path)?;
    model.warnings(None).iter().for_each(|warning| output::warning(warning));
    output.line(format_args!("{model}"));
    if int8 {
        let [float, int8] = shadernet::export::c_sizes(&model)?;
        output.line(format_args!("\nin C, float: {float}\nin C, int8:  {int8}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn devices(output: &mut Output) -> Result<ExitCode> {
    output.line(format_args!("{}", Device::cpu()));
    let found = Adapter::all();
    found.iter().for_each(|adapter| output.line(format_args!("{adapter}")));
    if found.is_empty() {
        output.line(format_args!("{}", Adapter::listing(&found)));
    }
    output.line(format_args!("\n--device auto uses the {}", Device::auto()));
    Ok(ExitCode::SUCCESS)
}
