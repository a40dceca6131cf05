//! `shadernet experiments`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use shadernet::engine::Metrics;
use shadernet::error::{Error, Result, shown};
use shadernet::experiments::{
    Job, Options, Phase, Row, Rows, Suite, Watcher, carry_out, choose_rows, report,
};
use shadernet::gpu::GpuOptions;
use shadernet::train::{Ending, Watch};

use super::stop::Stop;
use super::{DeviceArgs, Output, output};

const EXAMPLES: &str = "\
Examples:
  shadernet experiments suite.toml             # all of it; after a stop, the same command continues
  shadernet experiments suite.toml --shard 1/4 # a quarter of it, on one of four machines
  shadernet experiments suite.toml --report    # only the report of the runs done so far";

const STOPPED: &str = "stopped; everything is saved, and the same command continues from here";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExperimentsArgs {
    /// Suite of arms and seeds (.toml)
    suite: PathBuf,
    /// Folder for tables, models and the report; runs that it already holds are not repeated [default:
    /// experiments/<suite>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Dataset folder: IDX files, or one folder of pictures per class [default: data/mnist]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs<false>,
    /// Number of seeds of an arm to train side by side, where that is faster [default: 8 on a GPU, 1 on the processor]
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..=256))]
    replicas: Option<u32>,
    /// Run the I-th of N parts of the suite, such as 1/4: for several machines that share the folder, or whose CSV
    /// files are later collected in one
    #[arg(long, value_name = "I/N", value_parser = shard, default_value = "1/1")]
    shard: (usize, usize),
    /// Only choose recipes on held-out images, or only test the chosen ones [default: both, one after the other]
    #[arg(long)]
    phase: Option<OnePhase>,
    /// Train nothing; write the report of the runs done so far
    #[arg(long)]
    report: bool,
    /// Compute neighbouring layers in one kernel launch (GPU only)
    #[arg(long)]
    fusion: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum OnePhase {
    Select,
    Test,
}

fn shard(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    match parts {
        Some((i, n)) if (1..=n).contains(&i) => Ok((i - 1, n)),
        _ => Err("expected I/N, with I from 1 to N".into()),
    }
}

/// Runs what is missing, and writes the report.
pub(crate) fn run(args: &ExperimentsArgs, output: &mut Output) -> Result<ExitCode> {
    let suite = Suite::load(&args.suite)?;
    let out = args.out.clone().unwrap_or_else(|| {
        Path::new("experiments").join(args.suite.file_stem().unwrap_or(suite.name.as_ref()))
    });
    let own_file = match args.shard {
        (0, 1) => "runs.csv".to_owned(),
        (i, n) => format!("runs-{}-of-{n}.csv", i + 1),
    };
    let mut ending = Ending::Done;
    let mut rows;
    let stop = Stop::catch()?;
    if args.report {
        if !out.is_dir() {
            return Err(Error::data(&out, "there is no such folder, so there is nothing to report"));
        }
        rows = Rows::read(&out, &own_file)?;
        let mut progress = Progress { output, bar: None, label: String::new(), stop: &stop };
        choose_rows(&suite, args.data.as_deref(), &mut rows, &mut progress)?;
    } else {
        let options = GpuOptions { fuse: args.fusion, ..GpuOptions::DEFAULT };
        let device = args.device.choose()?.with_options(options);
        let default = if device.is_gpu() { 8 } else { 1 };
        let phases: &[Phase] = match args.phase {
            Some(OnePhase::Select) => &[Phase::Select],
            Some(OnePhase::Test) => &[Phase::Test],
            None => &[Phase::Select, Phase::Test],
        };
        rows = Rows::open(&out, &own_file)?;
        let options = Options {
            data: args.data.as_deref().unwrap_or(Path::new("data/mnist")),
            out: &out,
            device: &device,
            replicas: args.replicas.unwrap_or(default) as usize,
            shard: args.shard,
            phases,
        };
        output.line(format_args!("device: {device}"));
        let mut progress = Progress { output, bar: None, label: String::new(), stop: &stop };
        ending = carry_out(&suite, &options, &mut rows, &mut progress)?;
        progress.clear();
    }
    let path = report(&suite, &rows).write(&out)?;
    output.line(format_args!("report: {}", path.display()));
    if ending == Ending::Stopped {
        output::note(&STOPPED);
        return Ok(stop.code());
    }
    Ok(ExitCode::SUCCESS)
}

/// A line for each run that is done, and a bar for the one that is not.
struct Progress<'a> {
    output: &'a mut Output,
    bar: Option<ProgressBar>,
    label: String,
    stop: &'a Stop,
}

impl Progress<'_> {
    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Watch for Progress<'_> {
    fn go_on(&mut self) -> ControlFlow<()> {
        self.stop.go_on()
    }

    fn steps(&mut self, epoch: usize, done: usize, of: usize, _sums: &[Metrics]) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}, epoch {epoch}, step {done} of {of}", self.label));
            bar.tick();
        }
    }
}

impl Watcher for Progress<'_> {
    fn warning(&mut self, warning: &str) {
        output::warning(&warning);
    }

    fn loading(&mut self, is_loading: bool) {
        if is_loading {
            self.stop.end_at_once(STOPPED, None);
        } else {
            self.stop.wait();
        }
    }

    fn job(&mut self, job: &Job<'_>, done: usize, of: usize) {
        let change =
            if job.recipe.change.is_empty() { String::new() } else { format!(" ({})", job.recipe.change) };
        let name = format!("{}{change}", job.arm.name);
        self.label = format!("[{} of {of}] {}: {}", done + 1, job.phase.name(), shown(&name));
        let style = ProgressStyle::with_template("{msg}").expect("a valid template");
        self.bar = Some(ProgressBar::new_spinner().with_style(style));
    }

    fn rows(&mut self, rows: &[Row]) {
        self.clear();
        for row in rows {
            let result = match row.epochs {
                0 => "diverged".to_owned(),
                epochs => format!("{:.2} % after epoch {epochs}", row.final_accuracy),
            };
            self.output
                .line(format_args!("{}, seed {}: {result}, {:.0} s", self.label, row.seed, row.seconds));
        }
    }
}
