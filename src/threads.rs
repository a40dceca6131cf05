//! Work on all processors, or, if no thread can be started, on the calling thread.

use rayon::ThreadPoolBuilder;

/// Runs `work`, whose parallel iterators then use all processors. Rayon's global pool would panic if the system
/// refuses threads (`ulimit -u`, a container's limit); here they then run on the calling thread.
pub(crate) fn on_all_processors<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    if rayon::current_thread_index().is_some() {
        return work();
    }
    ThreadPoolBuilder::new()
        .build()
        .or_else(|_| ThreadPoolBuilder::new().num_threads(1).use_current_thread().build())
        .expect("a pool of the calling thread starts none")
        .install(work)
}
