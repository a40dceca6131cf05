//! Which of two devices trains a model faster: a few steps on each.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{Comparison, Device, Place, instruction_set, open_gpu};
use crate::cpu::CpuEngine;
use crate::doctor::fingerprint;
use crate::engine::{Engine, Setup};
use crate::error::{Error, Result};
use crate::files::{read_at_most, write_atomically};
use crate::gpu::{Adapter, GpuEngine, GpuOptions};

/// Steps are timed for at least this long on each device, if more than one fits.
const SECONDS: f64 = 0.04;
/// A result is a few lines.
const MOST_BYTES: u64 = 1 << 12;

impl Comparison {
    fn measure(setup: &Setup<'_>, adapter: &Adapter, device: &Device) -> Result<Self> {
        let mut gpu = GpuEngine::new(open_gpu(adapter)?, setup, device.options)?;
        let gpu_milliseconds = milliseconds(&mut gpu, setup)?;
        drop(gpu);
        let mut cpu = CpuEngine::new(setup, Some(device.cpu_threads()))?;
        let cpu_milliseconds = milliseconds(&mut cpu, setup)?;
        let cpu = Device::cpu().threads(device.cpu_threads()).name();
        Ok(Self { gpu: adapter.to_string(), gpu_milliseconds, cpu, cpu_milliseconds })
    }

    /// The result in a file, unless it is damaged.
    fn read(path: &Path) -> Option<Self> {
        let found: Self = serde_json::from_slice(&read_at_most(path, MOST_BYTES).ok()??).ok()?;
        let valid = [found.gpu_milliseconds, found.cpu_milliseconds]
            .iter()
            .all(|time| time.is_finite() && *time > 0.0);
        valid.then_some(found)
    }

    /// Losing a result costs a third of a second next time, so failures are ignored.
    fn write(&self, path: &Path) {
        let text = serde_json::to_vec_pretty(self).expect("plain values are JSON");
        let _ = path.parent().map(std::fs::create_dir_all).transpose().map_err(Error::io("create", path));
        let _ = write_atomically(path, &text);
    }
}

impl Device {
    /// If this is a GPU, the CPU engine in its place where that takes less time for a step of this training, by a
    /// measurement of up to a third of a second after compilation. Results are remembered under `cache` by adapter,
    /// driver, build, model and number of nets and threads. A GPU that cannot be used is left to [`Device::open`], whose
    /// error says why.
    ///
    /// # Panics
    /// If `setup` has no training images.
    #[must_use]
    pub fn or_faster_cpu(self, setup: &Setup<'_>, cache: Option<&Path>) -> Self {
        let Place::Gpu(adapter) = &self.place else { return self };
        let remembered = cache.map(|folder| folder.join(self.file_name(setup, adapter)));
        let found = remembered.as_deref().and_then(Comparison::read);
        let comparison = match found {
            Some(found) => found,
            None => match Comparison::measure(setup, adapter, &self) {
                Ok(measured) => {
                    remembered.iter().for_each(|path| measured.write(path));
                    measured
                }
                Err(_) => return self,
            },
        };
        let Comparison { gpu, gpu_milliseconds, cpu_milliseconds, .. } = &comparison;
        let times = |own: &f64, other: &str, others: &f64| {
            format!("the faster: {own:.3} ms a step, {other} takes {others:.3}")
        };
        let (place, why) = if comparison.gpu_is_faster() {
            (self.place.clone(), times(gpu_milliseconds, "the CPU engine", cpu_milliseconds))
        } else {
            (Place::Cpu, times(cpu_milliseconds, gpu, gpu_milliseconds))
        };
        Self { place, why, comparison: Some(comparison), ..self }
    }

    fn file_name(&self, setup: &Setup<'_>, adapter: &Adapter) -> PathBuf {
        let GpuOptions { reuse, .. } = self.options;
        let (nets, threads) = (setup.replicas.len(), self.cpu_threads());
        let more = format!("{nets} nets, {threads} threads, {}, reuse {reuse}", instruction_set());
        format!("{}.json", fingerprint(setup.model, adapter.info(), self.options, &more)).into()
    }
}

/// Milliseconds of a training step, after a first one that compiles and uploads.
fn milliseconds(engine: &mut dyn Engine, setup: &Setup<'_>) -> Result<f64> {
    engine.write_initial_weights(setup)?;
    let mut seconds = |steps: usize| -> Result<f64> {
        engine.set_step(0)?;
        let start = Instant::now();
        engine.train(steps)?;
        Ok(start.elapsed().as_secs_f64())
    };
    seconds(1)?;
    let most = setup.train_batches().expect("there are training images").steps_per_epoch()
        * setup.model.train.epochs;
    let (mut steps, mut last) = (1, seconds(1)?);
    while last < SECONDS && 2 * steps <= most {
        steps *= 2;
        last = seconds(steps)?;
    }
    Ok(1e3 * last / steps as f64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

    use super::*;

    #[test]
    fn a_damaged_result_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new").join("result.json");
        assert_eq!(Comparison::read(&path), None);
        let result = Comparison {
            gpu: "a GPU".into(),
            gpu_milliseconds: 2.0,
            cpu: "a processor".into(),
            cpu_milliseconds: 1.0,
        };
        result.write(&path);
        assert_eq!(Comparison::read(&path), Some(result.clone()));
        assert!(!result.gpu_is_faster());
        let text = std::fs::read_to_string(&path).unwrap();
        for damaged in
            [&text[..text.len() / 2], &text.replace("2.0", "-2.0"), &text.replace("1.0", "0.0"), ""]
        {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(Comparison::read(&path), None, "{damaged}");
        }
    }
}
