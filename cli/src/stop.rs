//! Ctrl-C and its relatives: work ends at the next good place, and a second one ends the program at once.

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use indicatif::ProgressBar;
use shadernet::error::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::output;

/// Whether a signal asked the program to stop, from the moment on when this was made.
pub(crate) struct Stop(Arc<Shared>);

#[derive(Default)]
struct Shared {
    signal: AtomicUsize,
    /// What to say if the next signal ends the program, where it does; and a bar to take from the terminal first.
    at_once: Mutex<Option<(String, Option<ProgressBar>)>>,
}

impl Stop {
    /// Catches the signals: from now on somebody must ask for [`Stop::go_on`]. Where no thread can be started to listen for
    /// them, they go on ending the program.
    pub(crate) fn catch() -> Result<Self> {
        let stop = Self(Arc::default());
        let (sender, receiver) = mpsc::channel();
        let shared = Arc::clone(&stop.0);
        let (ready, has_begun) = mpsc::channel();
        let listen = move || {
            // Its first allocation takes address space, which others count: not while they do.
            let _ = ready.send(std::hint::black_box(vec![0u8; 64]));
            receiver.iter().for_each(|signals| listen(signals, &shared));
        };
        // The thread first: signals that are registered and not listened to would do nothing at all.
        if std::thread::Builder::new().spawn(listen).is_ok() {
            let signals =
                register().map_err(|error| Error::Device(format!("cannot catch signals: {error}")))?;
            let _ = sender.send(signals);
            let _ = has_begun.recv();
        }
        Ok(stop)
    }

    /// Lets the next signal end the program at once, after `line`: for work that loses nothing.
    pub(crate) fn end_at_once(&self, line: &str, bar: Option<ProgressBar>) {
        *self.0.at_once.lock().unwrap_or_else(PoisonError::into_inner) = Some((line.to_owned(), bar));
    }

    /// Lets the next signal wait for somebody who asks again.
    pub(crate) fn wait(&self) {
        *self.0.at_once.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// `Break` after a signal.
    pub(crate) fn go_on(&self) -> ControlFlow<()> {
        match self.0.signal.load(Ordering::Relaxed) {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }

    /// What shells expect of a program that a signal ended.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(128 + self.0.signal.load(Ordering::Relaxed) as u8)
    }
}

impl Shared {
    fn receive(&self, signal: i32) {
        let is_second = self.signal.swap(signal as usize, Ordering::Relaxed) != 0;
        let at_once = self.at_once.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((line, bar)) = &at_once {
            bar.iter().for_each(ProgressBar::finish_and_clear);
            output::note(line);
        }
        if is_second || at_once.is_some() {
            signal_hook::low_level::exit(128 + signal);
        }
    }
}

#[cfg(unix)]
type Signals = signal_hook::iterator::Signals;

#[cfg(unix)]
fn register() -> std::io::Result<Signals> {
    use signal_hook::consts::SIGHUP;
    // nohup starts programs that are to outlive their terminal with this signal ignored.
    let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    Signals::new([SIGINT, SIGTERM].into_iter().chain(hangup))
}

#[cfg(unix)]
fn listen(mut signals: Signals, shared: &Shared) {
    signals.forever().for_each(|signal| shared.receive(signal));
}

#[cfg(not(unix))]
type Signals = [(i32, Arc<std::sync::atomic::AtomicBool>); 2];

#[cfg(not(unix))]
fn register() -> std::io::Result<Signals> {
    let flags: Signals = [SIGINT, SIGTERM].map(|signal| (signal, Arc::default()));
    for (signal, flag) in &flags {
        signal_hook::flag::register(*signal, Arc::clone(flag))?;
    }
    Ok(flags)
}

/// Where handlers can only set flags, somebody must look at them.
#[cfg(not(unix))]
fn listen(flags: Signals, shared: &Shared) {
    loop {
        for (signal, flag) in &flags {
            if flag.swap(false, Ordering::Relaxed) {
                shared.receive(*signal);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Makes a file that outgrows `ulimit -f` an error like a full disk, not the end of the program.
#[cfg(unix)]
pub(crate) fn outlive_file_limit() {
    // If even this fails, the system's own way stays.
    let _ = signal_hook::flag::register(libc::SIGXFSZ, Arc::default());
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
