//! Ctrl-C and its relatives: work ends at the next good place, and a second one ends the program at once.

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use shadernet::error::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::output;

/// Whether a signal asked the program to stop, from the moment on when this was made.
pub(crate) struct Stop {
    signal: Arc<AtomicUsize>,
    at_once: Arc<AtomicBool>,
}

impl Stop {
    /// Catches the signals: from now on somebody must ask for [`Stop::go_on`].
    pub(crate) fn catch() -> Result<Self> {
        let stop = Self { signal: Arc::default(), at_once: Arc::default() };
        for signal in signals() {
            // In this order: the first one makes the second one end the program.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop.at_once))
                .and_then(|_| flag::register(signal, Arc::clone(&stop.at_once)))
                .and_then(|_| flag::register_usize(signal, Arc::clone(&stop.signal), signal as usize))
                .map_err(|error| Error::Device(format!("signals cannot be caught: {error}")))?;
        }
        Ok(stop)
    }

    /// `Break` after a signal.
    pub(crate) fn go_on(&self) -> ControlFlow<()> {
        if self.signal.load(Ordering::Relaxed) == 0 {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }

    /// Lets the next signal end the program at once: all is saved.
    pub(crate) fn release(&self) {
        self.at_once.store(true, Ordering::Relaxed);
    }

    /// What shells expect of a program that a signal ended.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(128 + self.signal.load(Ordering::Relaxed) as u8)
    }
}

/// Makes the signals end the program at once, after `line`: for work that needs no more to go on. `before` clears the terminal.
#[cfg(unix)]
pub(crate) fn end_with(line: &'static str, before: impl FnOnce() + Send + 'static) -> Result<()> {
    let fail = |error: std::io::Error| Error::Device(format!("signals cannot be caught: {error}"));
    let mut signals = signal_hook::iterator::Signals::new(signals()).map_err(fail)?;
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            before();
            output::note(&line);
            std::process::exit(128 + signal);
        }
    };
    std::thread::Builder::new().spawn(wait).map(drop).map_err(fail)
}

#[cfg(not(unix))]
pub(crate) fn end_with(_: &'static str, _: impl FnOnce()) -> Result<()> {
    Ok(())
}

#[cfg(unix)]
fn signals() -> Vec<i32> {
    // nohup starts programs that are to outlive their terminal with this signal ignored.
    let hangup = (!is_ignored(signal_hook::consts::SIGHUP)).then_some(signal_hook::consts::SIGHUP);
    [SIGINT, SIGTERM].into_iter().chain(hangup).collect()
}

#[cfg(not(unix))]
fn signals() -> Vec<i32> {
    vec![SIGINT, SIGTERM]
}

/// Makes a file that outgrows `ulimit -f` an error like a full disk, not the end of the program.
#[cfg(unix)]
pub(crate) fn outlive_file_limit() {
    // If even this fails, the system's own way stays.
    let _ = flag::register(libc::SIGXFSZ, Arc::default());
}

#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let mut old = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    #[allow(unsafe_code, reason = "the standard library does not tell what happens to signals")]
    // SAFETY: without a new action the call only fills in the old one, and its result says whether it did.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), old.as_mut_ptr()) == 0
            && old.assume_init().sa_sigaction == libc::SIG_IGN
    }
}
