//! Text for the user. A reader that goes away (`| head`) is no reason to fail or to stop a training, and nothing from a file
//! can act on a terminal.

use std::borrow::Cow;
use std::fmt::{Arguments, Display};
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use console::Term;
use shadernet::error::{Error, Result, shown, shown_lines};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::remedy::with_remedy;

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

    /// How many characters fit on a line of the terminal that it goes to; elsewhere, what fits on most.
    pub(crate) fn columns(&self) -> usize {
        const USUAL: usize = 80;
        let terminal = match &self.sink {
            Sink::Stdout(_) => Term::stdout(),
            Sink::Stderr(_) => Term::stderr(),
            Sink::Nothing => return USUAL,
        };
        terminal.size_checked().map_or(USUAL, |(_, columns)| columns.into())
    }

    /// Writes a line. After a failure nothing more is written.
    pub(crate) fn line(&mut self, text: Arguments<'_>) {
        if self.failure.is_some() {
            return;
        }
        let text = text.to_string();
        let text = shown_lines(&text);
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
pub(crate) fn error(error: &Error) {
    let _ = writeln!(io::stderr(), "error: {}", shown_lines(&with_remedy(error)));
}

/// Tells something beside whatever goes to standard output.
pub(crate) fn note(note: &dyn Display) {
    let _ = writeln!(io::stderr(), "{}", shown_lines(&note.to_string()));
}

/// Prints a warning beside whatever goes to standard output.
pub(crate) fn warning(warning: &dyn Display) {
    let _ = writeln!(io::stderr(), "warning: {}", shown_lines(&warning.to_string()));
}

/// Prints what clap says of a command line: help and version to standard output, else an error.
pub(crate) fn clap(error: &clap::Error) -> Result<ExitCode> {
    let text = error.render().to_string();
    let printed = match shown_lines(&text) {
        Cow::Borrowed(_) => error.print().and_then(|()| io::stdout().flush()),
        // What was typed or expanded is repeated there.
        Cow::Owned(text) => write!(io::stderr(), "{text}"),
    };
    match printed {
        Err(failure) if !error.use_stderr() && failure.kind() != ErrorKind::BrokenPipe => {
            Err(Error::io("write", "standard output")(failure))
        }
        _ => Ok(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))),
    }
}

/// Columns of the longest name in a list; of a longer one the beginning is shown.
const MOST_COLUMNS: usize = 40;

/// A name from a file on one line, shortened to what fits a column.
pub(crate) fn short(name: &str) -> String {
    short_within(name, MOST_COLUMNS)
}

/// The same for a column of `most`.
fn short_within(name: &str, most: usize) -> String {
    let name = shown(name);
    // Characters without a width of their own are no reason for a line without end.
    let most_chars = 4 * most;
    if name.width() <= most && name.chars().nth(most_chars).is_none() {
        return name.into_owned();
    }
    let mut columns = 0;
    let fits = |c: &char| {
        columns += c.width().unwrap_or(0);
        columns < most
    };
    name.chars().take(most_chars).take_while(fits).chain(['…']).collect()
}

/// The column of a table that has names, all as wide as the widest, which is no wider than [`MOST_COLUMNS`].
pub(crate) fn column<'a>(names: impl Iterator<Item = &'a str>, right: bool) -> Vec<String> {
    padded(names.map(short).collect(), right)
}

/// The same to the left, no wider than `most`.
pub(crate) fn column_within<'a>(names: impl Iterator<Item = &'a str>, most: usize) -> Vec<String> {
    padded(names.map(|name| short_within(name, most)).collect(), false)
}

fn padded(names: Vec<String>, right: bool) -> Vec<String> {
    let widest = names.iter().map(|name| name.width()).max().unwrap_or(0);
    let pad = |name: String| {
        let spaces = " ".repeat(widest - name.width());
        if right { spaces + &name } else { name + &spaces }
    };
    names.into_iter().map(pad).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_columns_however_long_and_wide_they_are() {
        assert_eq!(column(["a", "数字", "é"].into_iter(), true), ["   a", "数字", "   é"]);
        assert_eq!(column(["a", "b\u{1b}"].into_iter(), false), ["a      ", "b\\u001b"]);
        for long in
            ["x".repeat(70_000), "字".repeat(70_000), "e\u{301}".repeat(70_000), "\u{301}".repeat(70_000)]
        {
            let column = column([long.as_str(), "b"].into_iter(), true);
            assert!(column[0].width() <= MOST_COLUMNS && column[0].len() < 1000 && column[0].ends_with('…'));
            assert_eq!(column[0].width(), column[1].width());
        }
    }
}
