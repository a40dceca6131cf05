//! Choosing a device and making an engine on it.

use std::fmt;
use std::path::PathBuf;

use crate::cpu::{self, CpuEngine};
use crate::engine::{Engine, Setup};
use crate::error::{Error, Result};
use crate::gpu::{Adapters, Gpu, GpuEngine, GpuOptions};
use crate::layers::Op;
use crate::model::Model;

/// A device and why it was chosen. `Display` says both.
#[derive(Debug)]
pub struct Device {
    place: Place,
    why: String,
}

#[derive(Debug)]
enum Place {
    Cpu { threads: Option<usize> },
    Gpu { adapters: Adapters, index: usize },
}

/// An engine, ready for its weights.
pub struct Opened<'a> {
    /// The engine.
    pub engine: Box<dyn Engine + 'a>,
    /// On a GPU: bytes of shared working memory in training, and what it would be if no tensors shared their place.
    pub memory: Option<(u64, u64)>,
}

impl fmt::Debug for Opened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("memory", &self.memory).finish_non_exhaustive()
    }
}

impl Device {
    /// The CPU engine, on so many threads or one for each processor.
    pub fn cpu(threads: Option<usize>) -> Self {
        Self { place: Place::Cpu { threads }, why: String::new() }
    }

    /// What `--device` says: `auto`, `cpu`, `gpu`, or a part of an adapter's name. `threads` is for the CPU engine.
    ///
    /// `auto` takes the first real GPU, else the CPU engine, which beats every software adapter.
    ///
    /// # Errors
    /// `gpu` where there is none; a name that no adapter or more than one has.
    ///
    /// # Examples
    /// ```
    /// use shadernet::device::Device;
    ///
    /// let device = Device::choose("cpu", Some(2))?;
    /// assert!(device.to_string().starts_with("CPU engine, 2 threads, "));
    /// assert!(Device::choose("no such adapter", None).is_err());
    /// # Ok::<(), shadernet::error::Error>(())
    /// ```
    pub fn choose(wanted: &str, threads: Option<usize>) -> Result<Self> {
        let wanted = wanted.trim();
        if wanted.eq_ignore_ascii_case("cpu") {
            // Without a look at the adapters, which takes longer than classifying an image.
            return Ok(Self { why: "as asked".into(), ..Self::cpu(threads) });
        }
        let automatic = wanted.eq_ignore_ascii_case("auto");
        if threads.is_some() && !automatic {
            return Err(Error::Usage(format!(
                "--threads is for the CPU engine; it does not go with --device {wanted}"
            )));
        }
        let gpu =
            |adapters, index, why: &str| Self { place: Place::Gpu { adapters, index }, why: why.into() };
        let adapters = Adapters::find();
        if automatic {
            let why = without_gpu(&adapters);
            return Ok(match adapters.real_gpu() {
                Some(index) => gpu(adapters, index, "the first real GPU"),
                None => Self { why, ..Self::cpu(threads) },
            });
        }
        if wanted.eq_ignore_ascii_case("gpu") {
            let index = adapters.real_gpu().ok_or_else(|| {
                Error::Usage(format!(
                    "--device gpu: there is no GPU; {}\n`--device cpu` needs none, software adapters are used when named",
                    adapters.listing()
                ))
            })?;
            return Ok(gpu(adapters, index, "as asked, the first real GPU"));
        }
        if wanted.is_empty() {
            return Err(Error::Usage(
                "--device is empty: give auto, cpu, gpu or a part of an adapter's name".into(),
            ));
        }
        let index = adapters.named(wanted)?;
        Ok(gpu(adapters, index, "as asked"))
    }

    /// The adapter, if the device is a GPU.
    pub fn adapter(&self) -> Option<(&Adapters, usize)> {
        match &self.place {
            Place::Cpu { .. } => None,
            Place::Gpu { adapters, index } => Some((adapters, *index)),
        }
    }

    /// Name of the device, without the reason.
    pub fn name(&self) -> String {
        match &self.place {
            Place::Cpu { threads } => {
                let threads = threads.unwrap_or_else(cpu::default_threads);
                let plural = if threads == 1 { "" } else { "s" };
                format!("CPU engine, {threads} thread{plural}, {}", instruction_set())
            }
            Place::Gpu { adapters, index } => adapters.report(*index).to_string(),
        }
    }

    /// Name of what decides how results are rounded: devices for which it is the same give the same bits.
    pub fn arithmetic(&self, options: GpuOptions) -> String {
        match &self.place {
            Place::Cpu { .. } => format!("CPU engine, {}", instruction_set()),
            Place::Gpu { adapters, index } => {
                let fused = if options.fuse { ", fused kernels" } else { "" };
                format!("{}{fused}", adapters.report(*index))
            }
        }
    }

    /// What is slow about training this model here, in one line. The CPU engine has no kernels for a layer that a program
    /// registers without saying what it computes ([`crate::layers::Layer::op`]).
    pub fn warning(&self, model: &Model) -> Option<String> {
        let opaque = model.layers.iter().filter(|layer| matches!(layer.op, Op::Opaque));
        let names: Vec<_> = opaque.map(|layer| format!("`{}`", layer.name)).collect();
        (self.adapter().is_none() && !names.is_empty()).then(|| {
            format!(
                "the CPU engine has no kernels of its own for {}: the reference implementation computes there, which is slow",
                names.join(", ")
            )
        })
    }

    /// Makes an engine; `options` are for GPUs.
    ///
    /// # Errors
    /// A device that cannot be opened or has too little memory.
    pub fn open<'a>(&self, setup: &Setup<'a>, options: GpuOptions) -> Result<Opened<'a>> {
        match &self.place {
            Place::Cpu { threads } => {
                Ok(Opened { engine: Box::new(CpuEngine::new(setup, *threads)?), memory: None })
            }
            Place::Gpu { adapters, index } => {
                let gpu = open_gpu(adapters, *index)?;
                let engine = GpuEngine::new(gpu, setup, options)?;
                let memory = engine.training_plan().map(|plan| plan.pooled_bytes());
                Ok(Opened { engine: Box::new(engine), memory })
            }
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        if self.why.is_empty() { Ok(()) } else { write!(f, " ({})", self.why) }
    }
}

/// Opens an adapter that keeps what its driver compiles in the user's cache.
pub(crate) fn open_gpu(adapters: &Adapters, index: usize) -> Result<Gpu> {
    let mut gpu = adapters.open(index)?;
    gpu.pipelines = cache_folder("pipelines");
    Ok(gpu)
}

/// Where shadernet remembers things between runs: `part` of its folder in the user's cache, if there is such a place.
pub fn cache_folder(part: &str) -> Option<PathBuf> {
    dirs::cache_dir().map(|folder| folder.join("shadernet").join(part))
}

/// Why `auto` takes the CPU engine.
fn without_gpu(adapters: &Adapters) -> String {
    let mut names: Vec<_> = adapters.reports().map(|report| report.name.as_str()).collect();
    names.dedup();
    match names[..] {
        [] => "no GPU was found".into(),
        [one] => format!("no GPU was found; {one} is software and is used only when named"),
        _ => format!("no GPU was found; {} are software and are used only when named", names.join(" and ")),
    }
}

/// The processor's vector instructions that the CPU engine uses.
fn instruction_set() -> String {
    let name = cpu::instruction_set();
    match name.as_str() {
        "V4" => "AVX-512".into(),
        "V3" => "AVX2".into(),
        "Neon" => "NEON".into(),
        _ => name,
    }
}
