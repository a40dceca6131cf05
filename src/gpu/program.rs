//! A plan prepared for a device: buffers, pipelines, bind groups.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rayon::prelude::*;

use super::cache::PipelineCache;
use super::device::Gpu;
use crate::error::{Error, Result};
use crate::layers::Grain;
use crate::memory;
use crate::plan::{Contents, Place, Plan, PlannedLaunch};
use crate::shader;
use crate::threads::on_all_processors;

/// How a model runs on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuOptions {
    /// Compute adjacent layers in one launch where there is a kernel for it.
    pub fuse: bool,
    /// Let tensors that are never alive at the same time share memory.
    pub reuse: bool,
    /// How finely to split the work; `None` chooses by adapter.
    pub grain: Option<Grain>,
    /// Keep wgpu's bounds and loop checks in the shaders. Tests do, to prove that the checks are not needed.
    pub checked: bool,
    /// A shader's name and the text to compile instead: the tests' negative controls use it to break shaders.
    pub replace: Option<(&'static str, &'static str)>,
}

impl GpuOptions {
    /// Separate kernels for each layer, shared memory, built-in shaders without checks. Fusion is off, since it gains
    /// little on the one real GPU it was measured on: docs/tried.md has the figures.
    pub const DEFAULT: Self = Self { fuse: false, reuse: true, grain: None, checked: false, replace: None };
    /// The same with fused kernels.
    pub const FUSED: Self = Self { fuse: true, ..Self::DEFAULT };
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Words after every buffer that no kernel may touch.
const GUARD_WORDS: u64 = 64;
/// Their value: a NaN that no arithmetic produces.
const GUARD: u32 = 0x7fed_cba9;

/// All buffers of an engine, by name: those that outlive a step, and the slots of pooled memory (`slot 0`, ...).
#[derive(Debug)]
pub(super) struct Buffers {
    by_name: BTreeMap<String, (wgpu::Buffer, u64)>,
}

fn buffer_name(place: &Place) -> String {
    match place {
        Place::Slot(slot) => format!("slot {slot}"),
        Place::Kept { buffer, .. } => buffer.clone(),
    }
}

fn offset(place: &Place) -> u64 {
    match place {
        Place::Slot(_) => 0,
        Place::Kept { offset, .. } => *offset,
    }
}

impl Buffers {
    /// Makes every buffer named by any of the plans, zeroed, with guard words at its end.
    pub(super) fn new(gpu: &Gpu, plans: &[&Plan]) -> Result<Self> {
        let mut sizes: BTreeMap<String, u64> = BTreeMap::new();
        for tensor in plans.iter().flat_map(|plan| &plan.tensors) {
            let size = sizes.entry(buffer_name(&tensor.place)).or_default();
            *size = (*size).max(offset(&tensor.place) + tensor.bytes).next_multiple_of(16);
        }
        let limits = gpu.device.limits();
        let most = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        if let Some((name, size)) = sizes.iter().find(|(_, size)| **size + 4 * GUARD_WORDS > most) {
            return Err(Error::Device(format!(
                "{}: buffer `{name}` needs {size} bytes, the device allows {most}: use a smaller batch size or dataset",
                gpu.info
            )));
        }
        if gpu.info.is_software() {
            // It uses the host's memory and can't report running out of it.
            let total = sizes.values().fold(0, |sum: u64, size| sum.saturating_add(*size));
            memory::check(total, &gpu.info.to_string(), "use a smaller batch size or fewer nets")?;
        }
        let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let by_name: BTreeMap<_, _> = sizes
            .into_iter()
            .map(|(name, size)| {
                let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some(&name),
                    size: size + 4 * GUARD_WORDS,
                    usage: wgpu::BufferUsages::STORAGE
                        | wgpu::BufferUsages::COPY_SRC
                        | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                });
                (name, (buffer, size))
            })
            .collect();
        if let Some(error) = pollster::block_on(scope.pop()) {
            return Err(Error::Device(format!("{}: {error}: use a smaller batch size", gpu.info)));
        }
        for (buffer, size) in by_name.values() {
            gpu.queue.write_buffer(buffer, *size, bytemuck::cast_slice(&[GUARD; GUARD_WORDS as usize]));
        }
        Ok(Self { by_name })
    }

    /// Writes what the plans say that the buffers hold before the first step. New ones hold zeros.
    ///
    /// # Panics
    /// Where two plans do not agree.
    pub(super) fn fill(&self, gpu: &Gpu, plans: &[&Plan]) {
        let mut filled = BTreeMap::new();
        for (name, contents) in plans.iter().flat_map(|plan| &plan.buffers) {
            let Contents::Words(words) = contents else { continue };
            match filled.insert(name, words) {
                None => self.write(gpu, name, 0, bytemuck::cast_slice(words)),
                Some(other) => assert!(words == other, "two plans differ in what `{name}` holds"),
            }
        }
    }

    /// Writes a buffer from a byte on.
    pub(super) fn write(&self, gpu: &Gpu, name: &str, offset: u64, bytes: &[u8]) {
        gpu.queue.write_buffer(self.get(name), offset, bytes);
    }

    pub(super) fn get(&self, name: &str) -> &wgpu::Buffer {
        &self.by_name[name].0
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// A tensor's buffer, offset and size.
    pub(super) fn place(&self, plan: &Plan, tensor: &str) -> Option<(&wgpu::Buffer, u64, u64)> {
        let tensor = plan.tensor(tensor)?;
        Some((self.get(&buffer_name(&tensor.place)), offset(&tensor.place), tensor.bytes))
    }

    /// Reads a tensor as raw words; `None` if the plan has none by this name.
    pub(super) fn read(&self, gpu: &Gpu, plan: &Plan, tensor: &str) -> Result<Option<Vec<u32>>> {
        self.place(plan, tensor).map(|(buffer, offset, bytes)| gpu.read(buffer, offset, bytes)).transpose()
    }

    /// Reads a buffer as raw words; empty if no plan has it.
    pub(super) fn read_whole(&self, gpu: &Gpu, name: &str) -> Result<Vec<u32>> {
        let buffer = self.by_name.get(name);
        buffer.map_or(Ok(Vec::new()), |(buffer, size)| gpu.read(buffer, 0, *size))
    }

    /// Fills all pooled memory with `word`.
    pub(super) fn poison(&self, gpu: &Gpu, word: u32) {
        for (name, (buffer, size)) in &self.by_name {
            if name.starts_with("slot ") {
                gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&vec![word; *size as usize / 4]));
            }
        }
    }

    /// Names of the buffers that were written past the end of.
    pub(super) fn broken_guards(&self, gpu: &Gpu) -> Result<Vec<String>> {
        let mut broken = Vec::new();
        for (name, (buffer, size)) in &self.by_name {
            if gpu.read(buffer, *size, 4 * GUARD_WORDS)?.iter().any(|&word| word != GUARD) {
                broken.push(name.clone());
            }
        }
        Ok(broken)
    }
}

/// A plan with every launch ready to be recorded.
#[derive(Debug)]
pub(super) struct RecordedPlan {
    launches: Vec<Recorded>,
}

/// One launch, ready to be recorded.
#[derive(Debug)]
pub(super) struct Recorded {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    workgroups: [u32; 3],
}

impl Recorded {
    pub(super) fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        let [x, y, z] = self.workgroups;
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// What determines a pipeline; launches with equal keys share one.
fn pipeline_key(launch: &PlannedLaunch) -> String {
    format!("{}.{} {:?}", launch.shader, launch.entry_point, launch.constants)
}

/// Compiled pipelines, each created once however many launches and plans use it.
#[derive(Debug)]
pub(super) struct Pipelines(HashMap<String, wgpu::ComputePipeline>);

impl Pipelines {
    /// Compiles the plans' launches, in parallel.
    pub(super) fn new(gpu: &Gpu, plans: &[&Plan], options: GpuOptions) -> Self {
        let launches = || plans.iter().flat_map(|plan| &plan.launches);
        let names: BTreeSet<&str> = launches().map(|launch| launch.shader.as_str()).collect();
        let modules: HashMap<&str, wgpu::ShaderModule> =
            names.into_iter().map(|name| (name, module(gpu, shader::find(name), options))).collect();
        let unique: BTreeMap<String, &PlannedLaunch> =
            launches().map(|launch| (pipeline_key(launch), launch)).collect();
        let cache = gpu.pipelines.as_ref().and_then(|folder| PipelineCache::open(gpu, folder));
        let compile = |(key, launch): (String, &PlannedLaunch)| {
            let module = &modules[launch.shader.as_str()];
            (key, pipeline(gpu, module, launch, cache.as_ref().map(PipelineCache::driver)))
        };
        let compiled = Self(on_all_processors(|| unique.into_par_iter().map(compile).collect()));
        if let Some(cache) = cache {
            cache.save();
        }
        compiled
    }
}

impl RecordedPlan {
    /// Binds the tensors of a plan to its pipelines.
    pub(super) fn new(gpu: &Gpu, plan: &Plan, buffers: &Buffers, pipelines: &Pipelines) -> Result<Self> {
        let launches = plan.launches.iter().map(|launch| {
            let pipeline = &pipelines.0[&pipeline_key(launch)];
            let entries: Vec<_> = launch
                .bindings
                .iter()
                .map(|bound| {
                    let tensor = &plan.tensors[bound.tensor];
                    let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: buffers.get(&buffer_name(&tensor.place)),
                        offset: offset(&tensor.place),
                        size: wgpu::BufferSize::new(tensor.bytes.next_multiple_of(4)),
                    });
                    wgpu::BindGroupEntry { binding: bound.index, resource }
                })
                .collect();
            let bind_group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(&launch.label),
                layout: &pipeline.get_bind_group_layout(0),
                entries: &entries,
            });
            Recorded { pipeline: pipeline.clone(), bind_group, workgroups: launch.workgroups }
        });
        let launches = launches.collect();
        gpu.check()?;
        Ok(Self { launches })
    }

    /// The launches, in order.
    pub(super) fn launches(&self) -> &[Recorded] {
        &self.launches
    }

    /// Records `times` runs of the plan into one pass and submits it.
    pub(super) fn submit(&self, gpu: &Gpu, times: usize) -> wgpu::SubmissionIndex {
        gpu.queue.submit([self.encode(gpu, times)])
    }

    /// Records `times` runs of the plan into one pass.
    pub(super) fn encode(&self, gpu: &Gpu, times: usize) -> wgpu::CommandBuffer {
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for _ in 0..times {
                self.launches.iter().for_each(|launch| launch.record(&mut pass));
            }
        }
        encoder.finish()
    }
}

fn module(gpu: &Gpu, shader: &shader::Shader, options: GpuOptions) -> wgpu::ShaderModule {
    let source = match options.replace {
        Some((name, text)) if name == shader.name => text,
        _ => shader.source,
    };
    let descriptor = wgpu::ShaderModuleDescriptor {
        label: Some(shader.name),
        source: wgpu::ShaderSource::Wgsl(source.into()),
    };
    if options.checked || !shader.is_trusted {
        return gpu.device.create_shader_module(descriptor);
    }
    #[allow(
        unsafe_code,
        reason = "the one way to leave out checks that the tests have shown to be superfluous"
    )]
    // SAFETY: these are the shaders of this crate, or come with their author's promise (`layers::register_unchecked`). In ours every index is checked against the tensor's size and every loop ends;
    // the tests run them with the checks on and with guard words after every buffer.
    unsafe {
        gpu.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
    }
}

fn pipeline(
    gpu: &Gpu,
    module: &wgpu::ShaderModule,
    launch: &PlannedLaunch,
    cache: Option<&wgpu::PipelineCache>,
) -> wgpu::ComputePipeline {
    let constants: Vec<_> = launch.constants.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(&launch.label),
        layout: None,
        module,
        entry_point: Some(&launch.entry_point),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &constants,
            // Every kernel writes workgroup memory before it reads it.
            zero_initialize_workgroup_memory: false,
        },
        cache,
    })
}
