//! What would help against an error, in the words of the command line.

use shadernet::error::{Error, Remedy};
use shadernet::files::quoted;

/// The error as the user reads it, with what would help.
pub(crate) fn with_remedy(error: &Error) -> String {
    match error.remedy().map(in_words) {
        Some(words) => format!("{error}{words}"),
        None => error.to_string(),
    }
}

fn in_words(remedy: &Remedy) -> String {
    match remedy {
        Remedy::UseCpu => "\n`--device cpu` needs no GPU".into(),
        Remedy::ReportGpu => {
            "\n`--device cpu` needs no GPU; `shadernet doctor` prints a report to send in".into()
        }
        Remedy::Replace => ": --force replaces it, another name keeps it".into(),
        Remedy::ReplaceDownload => "; `--force` replaces it, `--out` names another folder".into(),
        Remedy::OtherFolder => ", or name another folder with `--out`".into(),
        Remedy::NewFolder => " (`--resume DIR` resumes a run)".into(),
        Remedy::Resume(folder) => format!("; `shadernet train --resume {}` resumes it", quoted(folder)),
        Remedy::Train => "; `shadernet train --out DIR` makes one".into(),
        Remedy::TrainModel(path) => format!("; `shadernet train {}` trains it", quoted(path)),
        Remedy::Dataset => {
            "; `shadernet data mnist` fetches MNIST into data/mnist, and --data names another folder".into()
        }
        Remedy::ImagesOfRun => "; `--data DIR` says where they are".into(),
        Remedy::ImagesOfReport => "; `--data DIR` says which of them to report".into(),
        Remedy::FitModel(data) => {
            format!("; `shadernet new --data {}` writes a model that fits", quoted(data))
        }
        Remedy::InitialWeights => {
            "; `shadernet train MODEL.toml --init FILE` starts from such weights".into()
        }
        Remedy::Stream => {
            "; a program's output is read from standard input: `... | shadernet classify -`".into()
        }
        Remedy::FinishSelection => "; finish `--phase select` on all shards first".into(),
        _ => String::new(),
    }
}

/// Exit code of the program: 2 for what the user typed or wrote, 1 for everything else.
pub(crate) fn exit_code(error: &Error) -> u8 {
    match error.kind() {
        Error::Usage(_) | Error::Config { .. } | Error::Diverged { .. } => 2,
        _ => 1,
    }
}
