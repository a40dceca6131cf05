//! The adapter that tests run on.

use shadernet::gpu::{Adapters, Gpu};

/// The adapter that tests run on: the one with `SHADERNET_TEST_ADAPTER` in its name, else the first.
///
/// `None`, with a message, where there is none; with `SHADERNET_REQUIRE_GPU=1` that is a failure instead.
pub(crate) fn gpu() -> Option<Gpu> {
    let adapters = Adapters::find();
    let index = match std::env::var("SHADERNET_TEST_ADAPTER") {
        Ok(name) => Some(adapters.named(&name).unwrap()),
        Err(_) => adapters.reports().next().map(|_| 0),
    };
    let Some(index) = index else {
        assert!(
            !std::env::var("SHADERNET_REQUIRE_GPU").is_ok_and(|value| value == "1"),
            "SHADERNET_REQUIRE_GPU=1, but {}",
            adapters.listing()
        );
        println!("skipped: no adapter");
        return None;
    };
    Some(adapters.open(index).unwrap())
}
