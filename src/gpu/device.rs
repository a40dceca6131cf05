//! Finding, choosing and opening an adapter.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::Serialize;

use crate::error::{Error, Result};

/// An adapter as the user sees it.
#[derive(Debug, Clone, Serialize)]
pub struct AdapterReport {
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

impl fmt::Display for AdapterReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {}", self.name, self.backend, self.kind)?;
        if !self.driver.is_empty() {
            write!(f, ", {}", self.driver)?;
        }
        write!(f, ")")
    }
}

impl AdapterReport {
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

/// Adapters of this machine, real GPUs first, discrete before integrated.
///
/// # Examples
/// ```
/// use shadernet::gpu::Adapters;
///
/// let adapters = Adapters::find();
/// for report in adapters.reports() {
///     println!("{report}");
/// }
/// match adapters.real_gpu() {
///     Some(index) => println!("the first real GPU is {}", adapters.report(index).name),
///     None => println!("{}", adapters.listing()),
/// }
/// ```
#[derive(Debug)]
pub struct Adapters {
    found: Vec<(AdapterReport, wgpu::Adapter)>,
}

impl Adapters {
    /// Queries every backend. Finding nothing, where there is no driver, is not an error.
    pub fn find() -> Self {
        // One per process: with one per call, NVIDIA's driver eventually found no adapter in tests that open dozens.
        static INSTANCE: OnceLock<wgpu::Instance> = OnceLock::new();
        let instance = INSTANCE.get_or_init(|| {
            wgpu::Instance::new(wgpu::InstanceDescriptor {
                flags: wgpu::InstanceFlags::empty(),
                ..wgpu::InstanceDescriptor::new_without_display_handle()
            })
        });
        let mut found: Vec<_> = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()))
            .into_iter()
            .map(|adapter| (AdapterReport::new(&adapter.get_info()), adapter))
            .collect();
        let order = ["discrete GPU", "integrated GPU", "virtual GPU", "other", "software"];
        found.sort_by_key(|(report, _)| order.iter().position(|&kind| kind == report.kind));
        Self { found }
    }

    /// The adapters found, best first.
    pub fn reports(&self) -> impl Iterator<Item = &AdapterReport> {
        self.found.iter().map(|(report, _)| report)
    }

    /// The adapters found, as text for a message.
    pub fn listing(&self) -> String {
        if self.found.is_empty() {
            return "no adapter at all was found (is a Vulkan, Metal or DX12 driver installed?)".into();
        }
        let lines: Vec<_> = self.reports().map(|report| format!("\n  {report}")).collect();
        format!("these adapters were found:{}", lines.concat())
    }

    /// The first real GPU.
    pub fn real_gpu(&self) -> Option<usize> {
        self.reports().position(|report| !report.is_software())
    }

    /// The only adapter whose name or backend contains `text`, ignoring case.
    pub fn named(&self, text: &str) -> Result<usize> {
        let wanted = text.to_lowercase();
        let matches = |report: &AdapterReport| format!("{report}").to_lowercase().contains(&wanted);
        let all: Vec<usize> =
            self.reports().enumerate().filter(|(_, report)| matches(report)).map(|(i, _)| i).collect();
        match all[..] {
            [one] => Ok(one),
            [] => Err(Error::Usage(format!(
                "--device {text}: no adapter has this in its name; {}\n`--device cpu` needs none",
                self.listing()
            ))),
            _ => Err(Error::Usage(format!(
                "--device {text} fits {} adapters: give more of the name; {}",
                all.len(),
                self.listing()
            ))),
        }
    }

    /// The report of adapter `index`.
    pub fn report(&self, index: usize) -> &AdapterReport {
        &self.found[index].0
    }

    /// The limits of adapter `index`.
    pub fn limits(&self, index: usize) -> AdapterLimits {
        let limits = self.found[index].1.limits();
        AdapterLimits {
            storage_buffers: limits.max_storage_buffers_per_shader_stage,
            binding_bytes: limits.max_storage_buffer_binding_size,
            buffer_bytes: limits.max_buffer_size,
            workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            workgroups: limits.max_compute_workgroups_per_dimension,
        }
    }

    /// Opens adapter `index` with WebGPU's default limits, except that buffers may be as large as the adapter allows,
    /// up to 2 GiB.
    pub fn open(&self, index: usize) -> Result<Gpu> {
        let (report, adapter) = &self.found[index];
        let allowed = adapter.limits();
        let required_limits = wgpu::Limits {
            max_buffer_size: allowed.max_buffer_size.min(MOST_BYTES),
            max_storage_buffer_binding_size: allowed.max_storage_buffer_binding_size.min(MOST_BYTES),
            ..Default::default()
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("shadernet"),
            required_limits,
            required_features: adapter.features() & OPTIONAL,
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).map_err(|error| {
            Error::Device(format!("{report} cannot be opened: {error}\ntry `--device cpu`"))
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
        Ok(Gpu { device, queue, report: report.clone(), pipelines: None, failure })
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
    pub report: AdapterReport,
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
        Error::Device(format!("{}: {text}\n`--device cpu` needs no GPU", self.report))
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
