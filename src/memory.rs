//! How much memory this process can still get: asked for before much is taken, since the system ends a process that takes
//! too much without a word.

use indicatif::HumanBytes;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::error::{Error, Result};

/// What a thread's stack takes of the address space, if nobody asked for another size.
const STACK: u64 = 2 << 20;

/// Fails if `what` needs more bytes than there are; `cure` is what would help.
pub(crate) fn check(needed: u64, what: &str, cure: &str) -> Result<()> {
    match shortage(needed) {
        None => Ok(()),
        Some(free) => Err(Error::Device(message(needed, free, what, cure))),
    }
}

/// What there is, if it is less than is needed.
pub(crate) fn shortage(needed: u64) -> Option<u64> {
    available().filter(|&free| free < needed)
}

/// What an error says about a shortage.
pub(crate) fn message(needed: u64, free: u64, what: &str, cure: &str) -> String {
    format!("{what} needs {} of memory, {} are free: {cure}", HumanBytes(needed), HumanBytes(free))
}

/// Fails if `ulimit` leaves no room for the stacks of so many threads. Some of them would start, and hold what the message
/// needs.
pub(crate) fn check_stacks(threads: usize) -> Result<()> {
    let needed = threads as u64 * STACK;
    match of_limits().filter(|&free| free < needed) {
        None => Ok(()),
        Some(free) => {
            let (needed, free) = (HumanBytes(needed), HumanBytes(free));
            let message = format!(
                "cannot start {threads} threads: their stacks need {needed} of address space, {free} are left"
            );
            Err(Error::Device(message))
        }
    }
}

/// Bytes that this process can still get: the least of what the system has, what the process's group may take, and what
/// `ulimit` leaves it. `None` where nobody says.
pub(crate) fn available() -> Option<u64> {
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::everything());
    let system = System::new_with_specifics(memory);
    let of_system = match system.available_memory() {
        0 => None,
        free => Some(free.saturating_add(system.free_swap())),
    };
    // The page cache counts as used there, but gives way.
    let of_group = (system.total_memory() > 0).then(|| system.cgroup_limits()).flatten();
    let of_group = of_group.filter(|group| group.total_memory < system.total_memory());
    let of_group = of_group.map(|group| group.total_memory.saturating_sub(group.rss));
    of_system.into_iter().chain(of_group).chain(of_limits()).min()
}

/// What `ulimit -v` and `ulimit -d` leave. A tenth stays for what is not counted: stacks, gaps, libraries.
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
