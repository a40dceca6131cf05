//! One error type, its variants sorted by who must act. Every message says where and what would fit.

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
/// assert_eq!(error.exit_code(), 1);
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A command line that cannot be carried out.
    #[error("{0}")]
    Usage(String),
    /// A model or training description that is not valid.
    #[error("{path}{}: {message}", line.map(|l| format!(":{l}")).unwrap_or_default())]
    Config {
        /// File name as the user gave it.
        path: String,
        /// Line in the file, counted from 1.
        line: Option<usize>,
        /// What is wrong and what would fit.
        message: String,
    },
    /// A training whose weights are no longer finite.
    #[error("{model}: {message}")]
    Diverged {
        /// Name of the model.
        model: String,
        /// Which net, and what would help.
        message: String,
    },
    /// A data set or image that cannot be used.
    #[error("{}: {message}", path.display())]
    Data {
        /// The offending file or folder.
        path: PathBuf,
        /// What is wrong and what would fit.
        message: String,
    },
    /// A weights file that cannot be used.
    #[error("{}: {message}", path.display())]
    Checkpoint {
        /// The offending file.
        path: PathBuf,
        /// What is wrong and what would fit.
        message: String,
    },
    /// A compute device that is missing, ambiguous or failing.
    #[error("{0}")]
    Device(String),
    /// A folder or file that another process works on.
    #[error("{}: in use by {owner}; only one at a time may write there", path.display())]
    Busy {
        /// The folder or file.
        path: PathBuf,
        /// Which process, where, and since when.
        owner: String,
    },
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: "read", "write", ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
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
        move |source| Self::Io { action, path, source }
    }

    /// Exit code of the program: 2 for what the user typed or wrote, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config { .. } | Self::Diverged { .. } => 2,
            _ => 1,
        }
    }
}
