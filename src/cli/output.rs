//! Text for the user. A reader that goes away (`| head`) is no reason to fail or to stop a training.

use std::fmt::{Arguments, Display};
use std::io::{self, ErrorKind, Write};

use shadernet::error::{Error, Result};

/// A place for lines.
pub(crate) struct Output {
    sink: Sink,
    failure: Option<io::Error>,
}

enum Sink {
    Stdout(io::Stdout),
    Stderr(io::Stderr),
    Nothing,
}

impl Output {
    /// Standard output.
    pub(crate) fn stdout() -> Self {
        Self { sink: Sink::Stdout(io::stdout()), failure: None }
    }

    /// Standard error.
    pub(crate) fn stderr() -> Self {
        Self { sink: Sink::Stderr(io::stderr()), failure: None }
    }

    /// Nowhere.
    pub(crate) fn nothing() -> Self {
        Self { sink: Sink::Nothing, failure: None }
    }

    /// Writes a line. After a failure nothing more is written.
    pub(crate) fn line(&mut self, text: Arguments<'_>) {
        if self.failure.is_some() {
            return;
        }
        let written = match &mut self.sink {
            Sink::Stdout(stdout) => writeln!(stdout, "{text}"),
            Sink::Stderr(stderr) => writeln!(stderr, "{text}"),
            Sink::Nothing => Ok(()),
        };
        self.failure = written.err();
    }

    /// Reports what went wrong with the lines, such as a full disk.
    pub(crate) fn finish(&mut self) -> Result<()> {
        let flushed = match &mut self.sink {
            Sink::Stdout(stdout) => stdout.flush(),
            Sink::Stderr(_) | Sink::Nothing => Ok(()),
        };
        match self.failure.take().or(flushed.err()) {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Error::io("write", "standard output")(error))
            }
            _ => Ok(()),
        }
    }
}

/// Prints an error. If even that fails, the exit code has to do.
pub(crate) fn error(error: &dyn Display) {
    let _ = writeln!(io::stderr(), "error: {error}");
}

/// Prints a warning beside whatever goes to standard output.
pub(crate) fn warning(warning: &dyn Display) {
    let _ = writeln!(io::stderr(), "warning: {warning}");
}

/// Prints a line beside whatever goes to standard output.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
