//! Choosing a device and making an engine on it.

use std::fmt;
#[cfg(feature = "gpu")]
use std::path::PathBuf;
use std::str::FromStr;

use crate::cpu::{self, CpuEngine};
use crate::engine::{Engine, Setup};
use crate::error::{Error, Remedy, Result};
#[cfg(feature = "gpu")]
use crate::gpu::{Adapter, Gpu, GpuEngine, GpuOptions};
use crate::layers::Op;
use crate::model::Model;

mod comparison;
#[cfg(feature = "gpu")]
mod faster;

pub use comparison::Comparison;

const CPU: &str = "CPU engine";
/// Said of a GPU with fused kernels, behind its name.
#[cfg(feature = "gpu")]
const FUSED: &str = ", fused kernels";

/// Where to compute, and why there. `Display` says both.
///
/// # Examples
/// ```
/// use shadernet::Device;
///
/// let device = Device::cpu().threads(2);
/// assert!(device.to_string().starts_with("CPU engine, 2 threads, "));
/// assert!(Device::named("no such adapter").is_err());
/// println!("training here would use the {}", Device::auto());
/// # Ok::<(), shadernet::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Device {
    place: Place,
    why: String,
    threads: Option<usize>,
    #[cfg(feature = "gpu")]
    options: GpuOptions,
    comparison: Option<Comparison>,
}

#[derive(Debug, Clone)]
enum Place {
    Cpu,
    #[cfg(feature = "gpu")]
    Gpu(Adapter),
}

/// An engine, ready for its weights.
pub struct Opened {
    /// The engine.
    pub engine: Box<dyn Engine>,
    /// On a GPU: bytes of shared working memory in training, and what it would be if no tensors shared their place.
    pub memory: Option<(u64, u64)>,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("memory", &self.memory).finish_non_exhaustive()
    }
}

impl Device {
    fn new(place: Place, why: impl Into<String>) -> Self {
        Self {
            place,
            why: why.into(),
            threads: None,
            #[cfg(feature = "gpu")]
            options: GpuOptions::DEFAULT,
            comparison: None,
        }
    }

    /// The first real GPU, otherwise the CPU engine, which is faster than every software adapter. Which of the two trains a
    /// certain model faster is measured by [`Device::or_faster_cpu`].
    pub fn auto() -> Self {
        #[cfg(feature = "gpu")]
        {
            let found = Adapter::all();
            match Adapter::first_gpu(&found) {
                Some(adapter) => Self::new(Place::Gpu(adapter.clone()), "the first real GPU"),
                None => Self::new(Place::Cpu, without_gpu(&found)),
            }
        }
        #[cfg(not(feature = "gpu"))]
        Self::new(Place::Cpu, "this build has the CPU engine only")
    }

    /// The CPU engine, with one thread per processor.
    pub fn cpu() -> Self {
        Self::new(Place::Cpu, "")
    }

    /// The first real GPU.
    ///
    /// # Errors
    /// There is none. Software adapters are used only when named.
    pub fn gpu() -> Result<Self> {
        #[cfg(feature = "gpu")]
        {
            let found = Adapter::all();
            let gpu = Adapter::first_gpu(&found).ok_or_else(|| {
                let message = format!(
                    "there is no GPU; {}\nsoftware adapters are used only when named",
                    Adapter::listing(&found)
                );
                Error::Usage(message).with(Remedy::UseCpu)
            })?;
            Ok(Self::new(Place::Gpu(gpu.clone()), "as requested, the first real GPU"))
        }
        #[cfg(not(feature = "gpu"))]
        Err(Error::Usage(NO_GPU.into()).with(Remedy::UseCpu))
    }

    /// `auto`, `cpu`, `gpu`, or a part of an adapter's name, in upper or lower case.
    ///
    /// # Errors
    /// `gpu` where there is none; a name that no adapter has, or more than one.
    pub fn named(name: &str) -> Result<Self> {
        match name.trim().to_lowercase().as_str() {
            "" => Err(Error::Usage("empty: give auto, cpu, gpu or a part of an adapter's name".into())),
            "auto" => Ok(Self::auto()),
            // Without looking for adapters, which takes longer than classifying an image.
            "cpu" => Ok(Self::new(Place::Cpu, "as requested")),
            "gpu" => Self::gpu(),
            #[cfg(feature = "gpu")]
            part => Ok(Self::new(Place::Gpu(Adapter::named(part)?), "as requested")),
            #[cfg(not(feature = "gpu"))]
            _ => Err(Error::Usage(NO_GPU.into()).with(Remedy::UseCpu)),
        }
    }

    /// The device of this machine that computes as [`Device::arithmetic`] says, if it has it: to resume on what a run began
    /// on.
    pub fn with_arithmetic(arithmetic: &str) -> Option<Self> {
        const WHY: &str = "as before";
        if arithmetic.starts_with(CPU) {
            return Some(Self::new(Place::Cpu, WHY));
        }
        #[cfg(feature = "gpu")]
        {
            let name = arithmetic.strip_suffix(FUSED).unwrap_or(arithmetic);
            let found = Adapter::all().into_iter().find(|adapter| adapter.to_string() == name)?;
            Some(Self::new(Place::Gpu(found), WHY))
        }
        #[cfg(not(feature = "gpu"))]
        None
    }

    /// The same device with this many threads for the CPU engine, 1 to 1024; a GPU needs none.
    #[must_use]
    pub fn threads(self, threads: usize) -> Self {
        Self { threads: Some(threads.clamp(1, 1024)), ..self }
    }

    /// The same device with these options, if it is a GPU.
    #[cfg(feature = "gpu")]
    #[must_use]
    pub fn with_options(self, options: GpuOptions) -> Self {
        Self { options, ..self }
    }

    /// How a GPU carries out a plan.
    #[cfg(feature = "gpu")]
    pub fn options(&self) -> GpuOptions {
        self.options
    }

    /// The adapter, if the device is a GPU.
    #[cfg(feature = "gpu")]
    pub fn adapter(&self) -> Option<&Adapter> {
        match &self.place {
            Place::Cpu => None,
            Place::Gpu(adapter) => Some(adapter),
        }
    }

    /// True for a GPU or a software adapter, false for the CPU engine.
    pub fn is_gpu(&self) -> bool {
        !matches!(self.place, Place::Cpu)
    }

    /// Name of the device, without the reason.
    pub fn name(&self) -> String {
        match &self.place {
            Place::Cpu => {
                let threads = self.cpu_threads();
                let plural = if threads == 1 { "" } else { "s" };
                format!("{CPU}, {threads} thread{plural}, {}", instruction_set())
            }
            #[cfg(feature = "gpu")]
            Place::Gpu(adapter) => adapter.to_string(),
        }
    }

    /// Threads that the CPU engine has.
    pub fn cpu_threads(&self) -> usize {
        self.threads.unwrap_or_else(cpu::default_threads)
    }

    /// Name of what determines how results are rounded: devices with the same name give the same bits.
    pub fn arithmetic(&self) -> String {
        match &self.place {
            Place::Cpu => format!("{CPU}, {}", instruction_set()),
            #[cfg(feature = "gpu")]
            Place::Gpu(adapter) => {
                let fused = if self.options.fuse { FUSED } else { "" };
                format!("{adapter}{fused}")
            }
        }
    }

    /// What was measured to choose the device, if anything was.
    pub fn comparison(&self) -> Option<&Comparison> {
        self.comparison.as_ref()
    }

    /// What is slow about training this model here, in one line. The CPU engine has no kernels for a layer that a program
    /// registers without saying what it computes ([`crate::layers::Layer::op`]).
    pub fn warning(&self, model: &Model) -> Option<String> {
        let opaque = model.layers.iter().filter(|layer| matches!(layer.op, Op::Opaque));
        let names: Vec<_> = opaque.map(|layer| format!("`{}`", layer.name)).collect();
        (!self.is_gpu() && !names.is_empty()).then(|| {
            format!(
                "the CPU engine has no kernels for {}, so the reference implementation, which is slow, runs instead",
                names.join(", ")
            )
        })
    }

    /// Makes an engine.
    ///
    /// # Errors
    /// A device that cannot be opened or has too little memory.
    pub fn open(&self, setup: &Setup<'_>) -> Result<Opened> {
        match &self.place {
            Place::Cpu => {
                let engine = CpuEngine::new(setup, Some(self.cpu_threads()))?;
                Ok(Opened { engine: Box::new(engine), memory: None })
            }
            #[cfg(feature = "gpu")]
            Place::Gpu(adapter) => {
                let engine = GpuEngine::new(open_gpu(adapter)?, setup, self.options)?;
                let memory = engine.training_plan().map(|plan| plan.pooled_bytes());
                Ok(Opened { engine: Box::new(engine), memory })
            }
        }
    }
}

#[cfg(feature = "gpu")]
impl From<Adapter> for Device {
    fn from(adapter: Adapter) -> Self {
        Self::new(Place::Gpu(adapter), "")
    }
}

impl FromStr for Device {
    type Err = Error;

    /// As [`Device::named`].
    fn from_str(name: &str) -> Result<Self> {
        Self::named(name)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        if self.why.is_empty() { Ok(()) } else { write!(f, " ({})", self.why) }
    }
}

#[cfg(not(feature = "gpu"))]
const NO_GPU: &str = "this build of shadernet has the CPU engine only: its feature `gpu` is off";

/// Opens an adapter that keeps what its driver compiles in the user's cache.
#[cfg(feature = "gpu")]
pub(crate) fn open_gpu(adapter: &Adapter) -> Result<Gpu> {
    let mut gpu = adapter.open()?;
    gpu.pipelines = cache_folder("pipelines");
    Ok(gpu)
}

/// Where shadernet remembers things between runs: `part` of its folder in the user's cache, if there is such a place.
#[cfg(feature = "gpu")]
pub fn cache_folder(part: &str) -> Option<PathBuf> {
    dirs::cache_dir().map(|folder| folder.join("shadernet").join(part))
}

/// Why [`Device::auto`] takes the CPU engine.
#[cfg(feature = "gpu")]
fn without_gpu(found: &[Adapter]) -> String {
    let mut names: Vec<_> = found.iter().map(|adapter| adapter.info().name.as_str()).collect();
    names.dedup();
    match names[..] {
        [] => "no GPU was found".into(),
        [one] => format!("no GPU was found; {one} is software, which is used only when named"),
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
