//! The driver's compiled pipelines, kept on disk. Most drivers do that themselves; this is for those that don't.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::device::Gpu;
use crate::files::{read_at_most, write_atomically};

/// A cache that grew beyond this, through many models and versions, is started afresh.
const MOST_BYTES: u64 = 64 << 20;
/// A file begins with the SHA-256 of the rest: drivers may not survive damaged data.
const DIGEST: usize = 32;

/// A driver's cache and its file.
#[derive(Debug)]
pub(super) struct PipelineCache {
    driver: wgpu::PipelineCache,
    path: PathBuf,
    known: Vec<u8>,
}

impl PipelineCache {
    /// Reads the device's file in `folder`; one that is missing, damaged or from another driver is ignored. `None`
    /// where the backend has no such cache (all but Vulkan).
    pub(super) fn open(gpu: &Gpu, folder: &Path) -> Option<Self> {
        if !gpu.device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let path = folder.join(wgpu::util::pipeline_cache_key(&gpu.device.adapter_info())?);
        let file = read_at_most(&path, MOST_BYTES).ok().flatten().unwrap_or_default();
        let known = content(&file).unwrap_or_default().to_vec();
        let descriptor = wgpu::PipelineCacheDescriptor {
            label: Some("shadernet"),
            data: (!known.is_empty()).then_some(&known),
            fallback: true,
        };
        #[allow(unsafe_code, reason = "the one way to give a driver back what it compiled")]
        // SAFETY: the data must come from `get_data`. `save` wrote nothing else to this file, its digest matches, and
        // wgpu compares backend, device and driver with those that made it. The folder belongs to the user.
        let driver = unsafe { gpu.device.create_pipeline_cache(&descriptor) };
        Some(Self { driver, path, known })
    }

    /// For creating pipelines.
    pub(super) fn driver(&self) -> &wgpu::PipelineCache {
        &self.driver
    }

    /// Writes what is new. Losing it only costs time at the next start, so failures are ignored.
    pub(super) fn save(&self) {
        let Some(data) = self.driver.get_data().filter(|data| *data != self.known) else { return };
        let file = [Sha256::digest(&data).as_slice(), &data].concat();
        let folder = self.path.parent().map(std::fs::create_dir_all);
        if folder.is_some_and(|made| made.is_ok()) {
            let _ = write_atomically(&self.path, &file);
        }
    }
}

/// The contents of a file, if intact.
fn content(file: &[u8]) -> Option<&[u8]> {
    let (digest, data) = file.split_at_checked(DIGEST)?;
    (Sha256::digest(data).as_slice() == digest).then_some(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_files_hold_nothing() {
        let data = b"machine code";
        let mut file = [Sha256::digest(data).as_slice(), data].concat();
        assert_eq!(content(&file), Some(&data[..]));
        assert_eq!(content(&file[..40]), None);
        assert_eq!(content(&file[..7]), None);
        file[35] ^= 1;
        assert_eq!(content(&file), None);
    }
}
