//! The adapter that tests run on.

use shadernet::gpu::{Adapter, Gpu};

/// The adapter that tests run on: the one with `SHADERNET_TEST_ADAPTER` in its name, else the first.
///
/// `None`, with a message, where there is none; with `SHADERNET_REQUIRE_GPU=1` that is a failure instead.
pub(crate) fn gpu() -> Option<Gpu> {
    Some(adapter()?.open().unwrap())
}

/// The same, not opened.
pub(crate) fn adapter() -> Option<Adapter> {
    let found = match std::env::var("SHADERNET_TEST_ADAPTER") {
        Ok(name) => Some(Adapter::named(&name).unwrap()),
        Err(_) => Adapter::all().into_iter().next(),
    };
    if found.is_none() {
        assert!(
            !std::env::var("SHADERNET_REQUIRE_GPU").is_ok_and(|value| value == "1"),
            "SHADERNET_REQUIRE_GPU=1, but {}",
            Adapter::listing(&[])
        );
        println!("skipped: no adapter");
    }
    found
}
