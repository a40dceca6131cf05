//! The quick examination before a training: done once per adapter, driver, build and model, then remembered.

use std::path::Path;
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use super::{Depth, examine};
use crate::error::{Error, Remedy, Result};
use crate::files::{hex, write_atomically};
use crate::gpu::{Adapter, AdapterInfo, GpuOptions};
use crate::model::Model;
use crate::shader;

/// Outcome of an adapter's self-check.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SelfCheck {
    /// Passed just now, in this many seconds.
    Passed(f64),
    /// Passed earlier.
    Remembered,
}

/// Makes sure that an adapter computes the kernels of `model`'s training correctly. Passes are remembered under
/// `cache`; without a folder, or if it cannot be written, the check runs each time.
///
/// # Errors
/// An adapter that cannot be opened, or that computes wrong results: the message names the kernel and a way out.
pub fn self_check(
    model: &Model,
    adapter: &Adapter,
    cache: Option<&Path>,
    options: GpuOptions,
) -> Result<SelfCheck> {
    let file_name = || format!("{}.json", fingerprint(model, adapter.info(), options, ""));
    let remembered = cache.map(|folder| folder.join(file_name()));
    if remembered.as_ref().is_some_and(|path| path.exists()) {
        return Ok(SelfCheck::Remembered);
    }
    let report = examine(model, adapter, Depth::Quick, options)?;
    if let Some(what) = &report.wrong_kernel {
        let launch = report.launches.iter().find(|row| row.wrong.is_some());
        let kernel = launch.map_or("a kernel".into(), |row| format!("{} ({})", row.launch, row.shader));
        let message = format!("{adapter} computes wrong results, so nothing was trained: {kernel}: {what}");
        return Err(Error::Device(message).with(Remedy::ReportGpu));
    }
    if let Some(path) = remembered {
        // Losing a pass only costs half a second next time, so failures are ignored.
        let text = serde_json::to_vec_pretty(&report).expect("a report is plain values");
        let _ = path.parent().map(std::fs::create_dir_all).transpose().map_err(Error::io("create", &path));
        let _ = write_atomically(&path, &text);
    }
    Ok(SelfCheck::Passed(report.seconds))
}

/// 32 hexadecimal digits that change with anything that could affect what the adapter computes, and with `more`.
pub(crate) fn fingerprint(model: &Model, adapter: &AdapterInfo, options: GpuOptions, more: &str) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update(text);
        hash.update([0]);
    };
    add(env!("CARGO_PKG_VERSION"));
    for shader in shader::all().iter().chain(shader::registered()) {
        add(shader.name);
        add(shader.source);
    }
    // Another build may plan other launches.
    let program = std::env::current_exe().and_then(std::fs::metadata);
    let built = program.and_then(|file| Ok((file.len(), file.modified()?)));
    if let Ok((len, modified)) = built {
        let age = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        add(&format!("{len} {}", age.as_nanos()));
    }
    add(&adapter.to_string());
    add(&model.to_toml());
    add(if options.fuse { "fused" } else { "each layer alone" });
    add(&format!("{:?}", options.grain));
    add(more);
    hex(&hash.finalize())[..32].to_owned()
}
