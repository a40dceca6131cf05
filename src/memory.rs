//! How much memory this process can still get: checked before large allocations, since the system silently kills a
//! process that takes too much.

use std::sync::{Condvar, Mutex, PoisonError};

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::error::{Error, Result};

/// Address space of a thread's stack at the default size.
const STACK: u64 = 2 << 20;

/// Fails if `what` needs more bytes than are available; `cure` is what would help.
pub(crate) fn check(needed: u64, what: &str, cure: &str) -> Result<()> {
    match shortage(needed) {
        None => Ok(()),
        Some(free) => Err(Error::Device(message(needed, free, what, cure))),
    }
}

/// The available memory, if it is less than needed.
pub(crate) fn shortage(needed: u64) -> Option<u64> {
    available().filter(|&free| free < needed)
}

/// The error message for a shortage.
pub(crate) fn message(needed: u64, free: u64, what: &str, cure: &str) -> String {
    format!("{what} needs {} of memory, but only {} is free: {cure}", in_units(needed), in_units(free))
}

/// A number of bytes to read: `1.50 GiB`.
fn in_units(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].iter().zip((1..).map(|step| 1u64 << (10 * step)));
    let unit = units.take_while(|&(_, size)| bytes >= size).last();
    unit.map_or(format!("{bytes} B"), |(unit, size)| format!("{:.2} {unit}", bytes as f64 / size as f64))
}

/// Fails if `ulimit` leaves no room for the stacks of `threads` threads. Otherwise some would start and hold the
/// memory that the message needs.
pub(crate) fn check_stacks(threads: usize) -> Result<()> {
    let needed = threads as u64 * STACK;
    match of_limits().filter(|&free| free < needed) {
        None => Ok(()),
        Some(free) => {
            let (needed, free) = (in_units(needed), in_units(free));
            let message = format!(
                "cannot start {threads} threads: their stacks need {needed} of address space, but only {free} is left"
            );
            Err(Error::Device(message))
        }
    }
}

/// Bytes that this process can still get: the least of the system's free memory, its control group's limit, and what
/// `ulimit` leaves. `None` if unknown.
pub(crate) fn available() -> Option<u64> {
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::everything());
    let system = System::new_with_specifics(memory);
    let of_system = match system.available_memory() {
        0 => None,
        free => Some(free.saturating_add(system.free_swap())),
    };
    // The page cache counts as used there, but is reclaimable.
    let of_group = (system.total_memory() > 0).then(|| system.cgroup_limits()).flatten();
    let of_group = of_group.filter(|group| group.total_memory < system.total_memory());
    let of_group = of_group.map(|group| group.total_memory.saturating_sub(group.rss));
    of_system.into_iter().chain(of_group).chain(of_limits()).min()
}

/// Memory shared by threads: work that doesn't fit alongside the rest waits until that is done.
#[cfg_attr(not(feature = "pictures"), allow(dead_code, reason = "only decoders take of it"))]
pub(crate) struct Budget {
    bytes: u64,
    taken: Mutex<u64>,
    returned: Condvar,
}

#[cfg_attr(not(feature = "pictures"), allow(dead_code, reason = "only decoders take of it"))]
impl Budget {
    /// A budget of all memory that is free now.
    pub(crate) fn of_what_is_free() -> Self {
        Self { bytes: available().unwrap_or(u64::MAX), taken: Mutex::default(), returned: Condvar::new() }
    }

    /// Waits until `needed` bytes are left, and reserves them until the share is dropped. A thread that has a share
    /// must not ask for another one.
    ///
    /// # Errors
    /// Those of [`check`], if `needed` bytes wouldn't be left even when all others are done.
    pub(crate) fn take(&self, needed: u64, what: &str, cure: &str) -> Result<Share<'_>> {
        if needed > self.bytes {
            return Err(Error::Device(message(needed, self.bytes, what, cure)));
        }
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |taken: &mut u64| *taken > self.bytes - needed;
        let mut taken = self.returned.wait_while(taken, is_full).unwrap_or_else(PoisonError::into_inner);
        *taken += needed;
        Ok(Share { budget: self, bytes: needed })
    }
}

/// A part of a [`Budget`].
pub(crate) struct Share<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        *self.budget.taken.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.budget.returned.notify_all();
    }
}

/// What `ulimit -v` and `ulimit -d` leave. A tenth is reserved for what is not counted: stacks, gaps, libraries.
#[cfg(target_os = "linux")]
fn of_limits() -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    left_by_limits(&read("limits"), &read("status"))
}

#[cfg(not(target_os = "linux"))]
fn of_limits() -> Option<u64> {
    None
}

/// The same from the texts of `/proc/self/limits` and `/proc/self/status`.
#[cfg(any(target_os = "linux", test))]
fn left_by_limits(limits: &str, status: &str) -> Option<u64> {
    let left = |(limit, used): (&str, &str)| {
        let soft = limits.lines().find_map(|line| line.strip_prefix(limit))?;
        let soft: u64 = soft.split_whitespace().next()?.parse().ok()?;
        let used = status.lines().find_map(|line| line.strip_prefix(used))?;
        let used: u64 = used.split_whitespace().next()?.parse().ok()?;
        Some(soft.saturating_sub(1024 * used) / 10 * 9)
    };
    [("Max address space", "VmSize:"), ("Max data size", "VmData:")].into_iter().filter_map(left).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_memory_and_an_exabyte_is_not() {
        assert!(available().is_none_or(|free| free > 1 << 20));
        assert_eq!(shortage(1 << 20), None);
        if cfg!(target_os = "linux") {
            let message = check(1 << 60, "this", "use less").unwrap_err().to_string();
            assert!(message.starts_with("this needs 1.00 EiB of memory, "), "{message}");
            assert!(message.ends_with("free: use less"), "{message}");
        }
    }

    #[test]
    fn who_finds_no_memory_left_waits_for_the_others() {
        let budget = Budget { bytes: 100, taken: Mutex::default(), returned: Condvar::new() };
        let message = budget.take(101, "this", "use less").err().unwrap().to_string();
        assert_eq!(message, "this needs 101 B of memory, but only 100 B is free: use less");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let first = budget.take(60, "", "").unwrap();
            let second = budget.take(40, "", "").unwrap();
            scope.spawn(|| {
                let _third = budget.take(50, "", "").unwrap();
                assert!(done.load(std::sync::atomic::Ordering::SeqCst));
            });
            drop(second);
            std::thread::sleep(std::time::Duration::from_millis(20));
            done.store(true, std::sync::atomic::Ordering::SeqCst);
            drop(first);
        });
        assert_eq!(*budget.taken.lock().unwrap(), 0);
    }

    #[test]
    fn limits_of_the_shell_count() {
        let limits = |size, data| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max data size             {data}            unlimited            bytes     \n\
                 Max address space         {size}           unlimited            bytes     \n"
            )
        };
        let status = "Name:\tx\nVmPeak:\t  999 kB\nVmSize:\t   100 kB\nVmData:\t    10 kB\n";
        assert_eq!(left_by_limits(&limits("unlimited", "unlimited"), status), None);
        assert_eq!(left_by_limits(&limits("1126400", "unlimited"), status), Some(921_600));
        assert_eq!(left_by_limits(&limits("1126400", "112640"), status), Some(92_160));
        assert_eq!(left_by_limits(&limits("1024", "unlimited"), status), Some(0));
        assert_eq!(left_by_limits("", ""), None);
    }
}
