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
        Remedy::UseCpu => "\n`--device cpu` works without a GPU".into(),
        Remedy::ReportGpu => {
            "\n`--device cpu` works without a GPU; please report the output of `shadernet doctor --json`"
                .into()
        }
        Remedy::Replace => "; use `--force` to replace it, or choose another name".into(),
        Remedy::ReplaceDownload => {
            "; use `--force` to replace it, or `--out` to choose another folder".into()
        }
        Remedy::OtherFolder => ", or choose another folder with `--out`".into(),
        Remedy::NewFolder => " (use `--resume DIR` to resume a run)".into(),
        Remedy::Resume(folder) => format!("; resume it with `shadernet train --resume {}`", quoted(folder)),
        Remedy::StartFromRun(folder) => {
            let folder = quoted(folder);
            format!("; to train its network on these, start a new run with `shadernet train MODEL.toml --init {folder}`")
        }
        Remedy::Train => "; `shadernet train --out DIR` creates one".into(),
        Remedy::TrainModel(path) => format!("; train it first with `shadernet train {}`", quoted(path)),
        Remedy::Dataset => {
            "; `shadernet data mnist` downloads MNIST into data/mnist, and `--data` selects another folder"
                .into()
        }
        Remedy::ImagesOfRun => "; use `--data DIR` to say where they are".into(),
        Remedy::ImagesOfReport => "; use `--data DIR` to say which of them to report".into(),
        Remedy::FitModel(data) => {
            format!("; `shadernet new --data {}` writes a suitable model", quoted(data))
        }
        Remedy::InitialWeights => {
            "; say of which network they are with `--model MODEL.toml` (`classify`: `--model MODEL.toml --weights FILE`), \
             or start training from them with `shadernet train MODEL.toml --init FILE`"
                .into()
        }
        Remedy::Stream => {
            "; to read a program's output, use standard input: `... | shadernet classify -`".into()
        }
        Remedy::HoldOut => "; `--hold-out 0.1` holds out a tenth of each class".into(),
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
