//! The program `shadernet`: see [`cli`].

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    spare_desktop_probe();
    cli::run()
}

/// Mesa's Vulkan layer that sorts devices asks the desktop which is its own, and without one prints errors on each look.
/// Adapters are sorted here anyway.
#[allow(unsafe_code, reason = "the driver's only switch is an environment variable")]
fn spare_desktop_probe() {
    let has_desktop =
        std::env::var_os("XDG_RUNTIME_DIR").is_some_and(|dir| dir.as_encoded_bytes().starts_with(b"/"));
    if cfg!(target_os = "linux") && !has_desktop && std::env::var_os("MESA_VK_DEVICE_SELECT").is_none() {
        // SAFETY: this is the first thing that the process does, there is no other thread yet.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}
