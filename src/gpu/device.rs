//! Finding, choosing and opening an adapter.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::Serialize;

use crate::error::{Error, Remedy, Result};

/// An adapter as the user sees it.
#[derive(Debug, Clone, Serialize)]
pub struct AdapterInfo {
    /// Name given by the driver.
    pub name: String,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: String,
    /// `discrete GPU`, `integrated GPU`, `virtual GPU`, `software` or `other`.
    pub kind: &'static str,
    /// Driver and its version.
    pub driver: String,
    /// PCI numbers of vendor and device, 0 where there are none.
    pub pci: [u32; 2],
}

/// An adapter's limits that matter to shadernet's kernels. WebGPU's defaults are enough except for many nets side by side.
#[derive(Debug, Clone, Serialize)]
pub struct AdapterLimits {
    /// Storage buffers per kernel; shadernet requests 8.
    pub storage_buffers: u32,
    /// Bytes per binding; shadernet requests the maximum, up to 2 GiB.
    pub binding_bytes: u64,
    /// Bytes per buffer; shadernet requests the maximum, up to 2 GiB.
    pub buffer_bytes: u64,
    /// Invocations per workgroup; shadernet requests 256.
    pub workgroup_invocations: u32,
    /// Shared bytes per workgroup; shadernet requests 16 KiB.
    pub workgroup_bytes: u32,
    /// Workgroups along one axis; shadernet requests 65,535.
    pub workgroups: u32,
}

impl fmt::Display for AdapterInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {}", self.name, self.backend, self.kind)?;
        if !self.driver.is_empty() {
            write!(f, ", {}", self.driver)?;
        }
        write!(f, ")")
    }
}

impl AdapterInfo {
    fn new(info: &wgpu::AdapterInfo) -> Self {
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete GPU",
            wgpu::DeviceType::IntegratedGpu => "integrated GPU",
            wgpu::DeviceType::VirtualGpu => "virtual GPU",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "other",
        };
        let driver = format!("{} {}", info.driver, info.driver_info).trim().to_owned();
        let pci = [info.vendor, info.device];
        Self { name: info.name.clone(), backend: info.backend.to_string(), kind, driver, pci }
    }

    /// True for an adapter that computes on the processor: llvmpipe, SwiftShader, WARP.
    pub fn is_software(&self) -> bool {
        self.kind == "software"
    }
}

/// A GPU, or a driver that imitates one in software.
///
/// # Examples
/// ```
/// use shadernet::gpu::Adapter;
///
/// let found = Adapter::all();
/// for adapter in &found {
///     println!("{adapter}");
/// }
/// match Adapter::first_gpu(&found) {
///     Some(gpu) => println!("the first real GPU is {}", gpu.info().name),
///     None => println!("there is no GPU"),
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Adapter {
    info: AdapterInfo,
    adapter: wgpu::Adapter,
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}

impl Adapter {
    /// The adapters of this machine: real GPUs first, discrete before integrated. Empty where there is no driver.
    pub fn all() -> Vec<Self> {
        // One for the process: with one for each call NVIDIA's driver eventually found no adapter in tests that open dozens.
        static INSTANCE: OnceLock<wgpu::Instance> = OnceLock::new();
        let instance = INSTANCE.get_or_init(|| {
            wgpu::Instance::new(wgpu::InstanceDescriptor {
                flags: wgpu::InstanceFlags::empty(),
                ..wgpu::InstanceDescriptor::new_without_display_handle()
            })
        });
        let mut found: Vec<_> = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()))
            .into_iter()
            .map(|adapter| Self { info: AdapterInfo::new(&adapter.get_info()), adapter })
            .collect();
        let order = ["discrete GPU", "integrated GPU", "virtual GPU", "other", "software"];
        found.sort_by_key(|found| order.iter().position(|&kind| kind == found.info.kind));
        found
    }

    /// What [`Adapter::all`] found, for a message.
    pub fn listing(found: &[Self]) -> String {
        if found.is_empty() {
            return "no adapter was found (is a Vulkan, Metal or DX12 driver installed?)".into();
        }
        let lines: Vec<_> = found.iter().map(|adapter| format!("\n  {adapter}")).collect();
        format!("these adapters were found:{}", lines.concat())
    }

    /// The first real GPU among those that [`Adapter::all`] found.
    pub fn first_gpu(found: &[Self]) -> Option<&Self> {
        // A test that needs a real GPU, where there is none, says which software adapter is to pass for one.
        let declared = std::env::var("SHADERNET_TEST_REAL_GPU").ok().filter(|name| !name.is_empty());
        let passes = |adapter: &&Self| {
            declared.as_ref().is_some_and(|name| adapter.to_string().contains(name))
                || !adapter.info.is_software()
        };
        found.iter().find(passes)
    }

    /// The one adapter whose name or backend contains `text`, in upper or lower case.
    ///
    /// # Errors
    /// No adapter, or more than one, that does.
    pub fn named(text: &str) -> Result<Self> {
        let wanted = text.to_lowercase();
        let found = Self::all();
        let mut fitting = found.iter().filter(|adapter| adapter.to_string().to_lowercase().contains(&wanted));
        let problem = match (fitting.next(), fitting.count()) {
            (Some(adapter), 0) => return Ok(adapter.clone()),
            (Some(_), others) => {
                format!("{text}: {} adapters have this in their names; give more of it", others + 1)
            }
            (None, _) => format!("{text}: no adapter has this in its name"),
        };
        Err(Error::Usage(format!("{problem}; {}", Self::listing(&found))).with(Remedy::UseCpu))
    }

    /// Its name, backend and driver.
    pub fn info(&self) -> &AdapterInfo {
        &self.info
    }

    /// What it allows.
    pub fn limits(&self) -> AdapterLimits {
        let limits = self.adapter.limits();
        AdapterLimits {
            storage_buffers: limits.max_storage_buffers_per_shader_stage,
            binding_bytes: limits.max_storage_buffer_binding_size,
            buffer_bytes: limits.max_buffer_size,
            workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            workgroups: limits.max_compute_workgroups_per_dimension,
        }
    }

    /// Opens it with WebGPU's default limits, except that buffers may be as large as it lets them, up to 2 GiB.
    ///
    /// # Errors
    /// What the driver refuses.
    pub fn open(&self) -> Result<Gpu> {
        let allowed = self.adapter.limits();
        let required_limits = wgpu::Limits {
            max_buffer_size: allowed.max_buffer_size.min(MOST_BYTES),
            max_storage_buffer_binding_size: allowed.max_storage_buffer_binding_size.min(MOST_BYTES),
            ..Default::default()
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("shadernet"),
            required_limits,
            required_features: self.adapter.features() & OPTIONAL,
            ..Default::default()
        };
        let (device, queue) =
            pollster::block_on(self.adapter.request_device(&descriptor)).map_err(|error| {
                Error::Device(format!("{self} cannot be opened: {error}")).with(Remedy::UseCpu)
            })?;
        let failure = Arc::new(Mutex::new(None));
        let keep = |failure: &Arc<Mutex<Option<String>>>, text: String| {
            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
        };
        let lost = Arc::clone(&failure);
        device.set_device_lost_callback(move |reason, text| {
            // Dropping the device isn't a failure.
            if reason != wgpu::DeviceLostReason::Destroyed {
                keep(&lost, format!("the device was lost: {text}"));
            }
        });
        let uncaptured = Arc::clone(&failure);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| keep(&uncaptured, error.to_string())));
        Ok(Gpu { device, queue, info: self.info.clone(), pipelines: None, failure })
    }
}

/// Keeps byte offsets within a buffer below 2³¹, for every driver's arithmetic.
const MOST_BYTES: u64 = 1 << 31;

/// Clocks for `bench`, and the driver's pipeline cache. Everything works without them.
const OPTIONAL: wgpu::Features = wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::PIPELINE_CACHE);

/// An open device. Errors that wgpu reports asynchronously are kept until the next check.
#[derive(Debug)]
pub struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    /// Which adapter it is.
    pub info: AdapterInfo,
    /// Folder for the driver's compiled pipelines, where it provides them; `None` keeps nothing.
    pub pipelines: Option<PathBuf>,
    failure: Arc<Mutex<Option<String>>>,
}

/// No submission of ours takes anywhere near this long: a device silent for this long is gone.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(300);

impl Gpu {
    /// True if the device can time its launches.
    pub(super) fn has_clock(&self) -> bool {
        self.device.features().contains(wgpu::Features::TIMESTAMP_QUERY)
    }

    pub(super) fn check(&self) -> Result<()> {
        match self.failure.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            None => Ok(()),
            Some(text) => Err(self.error(text)),
        }
    }

    fn error(&self, text: &str) -> Error {
        Error::Device(format!("{}: {text}", self.info)).with(Remedy::UseCpu)
    }

    /// Waits until a submission has finished.
    pub(super) fn wait(&self, submission: wgpu::SubmissionIndex) -> Result<()> {
        let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: Some(PATIENCE) };
        let polled = self.device.poll(wait);
        self.check()?;
        polled.map(|_| ()).map_err(|error| self.error(&format!("no answer from the device: {error}")))
    }

    /// Copies part of a buffer to the host. `offset` and `bytes` are multiples of 4.
    pub(super) fn read(&self, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> Result<Vec<u32>> {
        self.start_read(buffer, offset, bytes).finish(self)
    }

    /// Starts copying part of a buffer, in the state left by earlier submissions.
    pub(super) fn start_read(&self, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> Readback {
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("readback"),
            size: bytes,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, bytes);
        let submission = self.queue.submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |_| {});
        Readback { staging, submission }
    }
}

/// A copy in flight to the host.
#[derive(Debug)]
pub(super) struct Readback {
    staging: wgpu::Buffer,
    submission: wgpu::SubmissionIndex,
}

impl Readback {
    /// Waits for it.
    pub(super) fn finish(self, gpu: &Gpu) -> Result<Vec<u32>> {
        gpu.wait(self.submission)?;
        let mapped = self
            .staging
            .get_mapped_range(..)
            .map_err(|error| gpu.error(&format!("readback failed: {error}")))?;
        Ok(mapped
            .chunks_exact(4)
            .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
            .collect())
    }
}
