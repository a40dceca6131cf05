//! One error type, its variants sorted by who must act. Every message says where and what would fit.

use std::borrow::Cow;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Anything that can go wrong because of input, files or devices. Broken internal rules panic instead.
///
/// # Examples
/// ```
/// use shadernet::checkpoint::Checkpoint;
///
/// let error = Checkpoint::load("no-such-file.safetensors").unwrap_err();
/// assert!(error.to_string().starts_with("cannot read no-such-file.safetensors: "));
/// assert!(matches!(error, shadernet::Error::Io { .. }));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A request that cannot be carried out.
    #[error("{0}")]
    Usage(String),
    /// A model or training description that is not valid.
    #[error("{}{}: {message}", shown(path), line.map(|l| format!(":{l}")).unwrap_or_default())]
    Config {
        /// File name as the user gave it.
        path: String,
        /// Line in the file, counted from 1.
        line: Option<usize>,
        /// What is wrong and what would fit.
        message: String,
    },
    /// A training whose weights are no longer finite.
    #[error("{}: {message}", shown(model))]
    Diverged {
        /// Name of the model.
        model: String,
        /// Which net, and what would help.
        message: String,
    },
    /// A dataset or image that cannot be used.
    #[error("{}: {message}", shown_path(path))]
    Data {
        /// The offending file or folder.
        path: PathBuf,
        /// What is wrong and what would fit.
        message: String,
    },
    /// A weights file that cannot be used.
    #[error("{}: {message}", shown_path(path))]
    Checkpoint {
        /// The offending file.
        path: PathBuf,
        /// What is wrong and what would fit.
        message: String,
    },
    /// A trained network whose answer is no number.
    #[error("{}: {message}", shown(model))]
    NotFinite {
        /// Name of the model.
        model: String,
        /// Which answer, and why that may be.
        message: String,
    },
    /// A compute device that is missing, ambiguous or failing.
    #[error("{0}")]
    Device(String),
    /// A folder or file that another process works on.
    #[error("{}: in use by {owner}; only one process at a time may write there", shown_path(path))]
    Busy {
        /// The folder or file.
        path: PathBuf,
        /// Which process, where, and since when.
        owner: String,
    },
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {reason}", shown_path(path))]
    Io {
        /// What was tried: "read", "write", ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// Any of the others, with what would help.
    #[error("{error}")]
    WithRemedy {
        /// What went wrong.
        error: Box<Self>,
        /// What would help.
        remedy: Remedy,
    },
}

/// What would help against an error, if that is something that the program around the library can offer: it knows by which
/// option or command. Everything else is said in the error's message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// The CPU engine, which needs no GPU.
    UseCpu,
    /// The CPU engine, and a report about the GPU, which computes wrongly.
    ReportGpu,
    /// Consent to replace the file, or another name.
    Replace,
    /// Consent to replace the file, or another folder to download into.
    ReplaceDownload,
    /// Another folder to download into.
    OtherFolder,
    /// A new or empty folder for the run, or resuming the one in it.
    NewFolder,
    /// Resuming the run in this folder.
    Resume(PathBuf),
    /// A new run that starts from the network of the run in this folder.
    StartFromRun(PathBuf),
    /// A training, which writes the folder of a run.
    Train,
    /// A training of the model in this file.
    TrainModel(PathBuf),
    /// A dataset that can be fetched, or the folder of another.
    Dataset,
    /// The folder in which the images of the run are now.
    ImagesOfRun,
    /// Saying from which images the report's rows are to be.
    ImagesOfReport,
    /// A model made for the dataset in this folder.
    FitModel(PathBuf),
    /// A training that starts from the weights in the file.
    InitialWeights,
    /// Reading the picture from a stream, such as standard input.
    Stream,
    /// Images held out of the training set.
    HoldOut,
    /// The choice of recipes, finished on all shards.
    FinishSelection,
}

impl Error {
    /// A [`Error::Data`] about `path`.
    pub fn data(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::Data { path: path.as_ref().to_owned(), message: message.into() }
    }

    /// A [`Error::Checkpoint`] about `path`.
    pub fn checkpoint(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::Checkpoint { path: path.as_ref().to_owned(), message: message.into() }
    }

    /// An [`Error::Io`]: for `map_err` after a file operation.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |reason| Self::Io { action, path, reason }
    }

    /// The same error with what would help.
    pub(crate) fn with(self, remedy: Remedy) -> Self {
        Self::WithRemedy { error: Box::new(self), remedy }
    }

    /// What would help, if it is something that a program can offer.
    pub fn remedy(&self) -> Option<&Remedy> {
        match self {
            Self::WithRemedy { remedy, .. } => Some(remedy),
            _ => None,
        }
    }

    /// The error without its remedy.
    pub fn kind(&self) -> &Self {
        match self {
            Self::WithRemedy { error, .. } => error,
            error => error,
        }
    }
}

/// Text from a file, or the name of one, for a line of ours: nothing in it can end the line, act on a terminal or turn the
/// direction of reading. Escapes are those of JSON.
///
/// # Examples
/// ```
/// assert_eq!(shadernet::error::shown("a\u{1b}[2J\nb"), r"a\u001b[2J\nb");
/// ```
pub fn shown(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// As [`shown`], for text of ours that has lines and columns.
pub fn shown_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c == '\n' || c == '\t')
}

fn shown_path(path: &Path) -> String {
    shown(&path.to_string_lossy()).into_owned()
}

fn escaped(text: &str, keep: fn(char) -> bool) -> Cow<'_, str> {
    // All of them have four hexadecimal digits.
    let acts = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(|c| acts(c) && !keep(c)) {
        return text.into();
    }
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            c if !acts(c) || keep(c) => escaped.push(c),
            '\n' => escaped.push_str("\\n"),
            '\t' => escaped.push_str("\\t"),
            c => write!(escaped, "\\u{:04x}", u32::from(c)).expect("a string takes all"),
        }
    }
    escaped.into()
}
