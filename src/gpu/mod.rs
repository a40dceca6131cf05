//! The GPU engine: carries out plans through wgpu. Only this folder names `wgpu`.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use crate::dataset::Images;
use crate::engine::{Engine, Metrics, Setup, Vector};
use crate::error::Result;
use crate::layers::Grain;
use crate::plan::{AVERAGES, METRICS_RING, ParamLayout, Plan, PlanOptions, WEIGHTS, image_buffers};
use crate::replica::Replica;
use crate::tensor::Tensor;

mod cache;
mod ceilings;
mod device;
mod profile;
mod program;
mod runner;

pub use ceilings::MeasuredCeilings;
use device::Readback;
pub use device::{Adapter, AdapterInfo, AdapterLimits, Gpu};
pub use program::GpuOptions;
use program::{Buffers, Pipelines, RecordedPlan};
pub use runner::PlanRunner;

/// Nets on a GPU.
#[derive(Debug)]
pub struct GpuEngine {
    gpu: Gpu,
    layout: ParamLayout,
    buffers: Buffers,
    training: Option<(Plan, RecordedPlan)>,
    evaluation: (Plan, RecordedPlan),
    /// The same with the moving averages, if any.
    averaged: Option<(Plan, RecordedPlan)>,
    batches: Option<crate::batch::BatchSettings>,
    test_count: usize,
    eval_batch: usize,
    classes: usize,
    output: String,
    replicas: usize,
    step: u32,
    steps_per_submit: usize,
    in_flight: VecDeque<wgpu::SubmissionIndex>,
    started: VecDeque<Started>,
    collected: Instant,
    preparation: Preparation,
}

/// What a step is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Training,
    Evaluation { averaged: bool },
}

/// Steps in flight, and the copies of the ring that will hold their metrics.
#[derive(Debug)]
struct Started {
    training: bool,
    at: Instant,
    rings: Vec<(Range<u32>, Readback)>,
}

/// Time spent creating an engine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Preparation {
    /// Seconds until every pipeline was compiled.
    pub pipelines_seconds: f64,
    /// Seconds until everything was handed to the driver. The first step waits for the actual upload.
    pub upload_seconds: f64,
}

/// Target duration of a submission: long enough to hide the host, short enough for a display.
const SUBMIT_SECONDS: f64 = 0.05;
/// Submissions queued on the device.
const IN_FLIGHT: usize = 3;

impl GpuEngine {
    /// Makes plans, buffers and pipelines, and uploads the data. Weights start at zero: write them next.
    pub fn new(gpu: Gpu, setup: &Setup<'_>, options: GpuOptions) -> Result<Self> {
        let GpuOptions { reuse, fuse, grain, .. } = options;
        let grain = grain.unwrap_or(if gpu.info.is_software() { Grain::Coarse } else { Grain::Fine });
        let plan_options = PlanOptions { reuse, fuse, grain };
        let eval_batches = setup.eval_batches();
        let nets = setup.replicas;
        let evaluate =
            |averaged| Plan::evaluation(setup.model, nets, &eval_batches, averaged, "test", plan_options);
        let batches = setup.train_batches();
        // What drops in one net is planned for all.
        let planned = Replica::strongest(nets).model(setup.model)?;
        let training = batches.as_ref().map(|batches| Plan::training(&planned, nets, batches, plan_options));
        let evaluation = evaluate(false);
        let averaged = (training.is_some() && setup.model.train.average_decay > 0.0).then(|| evaluate(true));
        let plans: Vec<&Plan> = training.iter().chain([&evaluation]).chain(&averaged).collect();
        let buffers = Buffers::new(&gpu, &plans)?;
        let start = Instant::now();
        let pipelines = Pipelines::new(&gpu, &plans, options);
        let pipelines_seconds = start.elapsed().as_secs_f64();
        let start = Instant::now();
        buffers.fill(&gpu, &plans);
        for (part, images) in [("test", Some(setup.test)), ("train", setup.training)] {
            for (name, bytes) in images.iter().flat_map(|images| image_buffers(part, images)) {
                buffers.write(&gpu, &name, 0, &bytes);
            }
        }
        let upload_seconds = start.elapsed().as_secs_f64();
        let program = |plan: Plan| -> Result<(Plan, RecordedPlan)> {
            let program = RecordedPlan::new(&gpu, &plan, &buffers, &pipelines)?;
            Ok((plan, program))
        };
        let layout = ParamLayout::new(setup.model, nets.len());
        let training = training.map(program).transpose()?;
        let evaluation = program(evaluation)?;
        let averaged = averaged.map(program).transpose()?;
        let engine = Self {
            training,
            output: evaluation.0.logits().name.clone(),
            evaluation,
            averaged,
            layout,
            buffers,
            batches,
            test_count: setup.test.count,
            eval_batch: eval_batches.batch_size,
            classes: setup.model.class_count(),
            replicas: nets.len(),
            step: 0,
            steps_per_submit: 1,
            in_flight: VecDeque::new(),
            started: VecDeque::new(),
            collected: Instant::now(),
            preparation: Preparation { pipelines_seconds, upload_seconds },
            gpu,
        };
        engine.gpu.check()?;
        Ok(engine)
    }

    /// Time spent creating the engine.
    pub fn preparation(&self) -> Preparation {
        self.preparation
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The plan of a training step.
    pub fn training_plan(&self) -> Option<&Plan> {
        self.training.as_ref().map(|(plan, _)| plan)
    }

    /// Takes one training step and returns the seconds of each of its launches by the device's clock; `None` if it
    /// has none.
    pub fn profile(&mut self) -> Result<Option<Vec<f64>>> {
        let Some((_, program)) = &self.training else { return Ok(None) };
        self.write_step(self.step);
        profile::seconds(&self.gpu, program)
    }

    /// The plan of an evaluation step, with the moving averages if `averaged` and if there are any.
    pub fn evaluation_plan(&self, averaged: bool) -> &Plan {
        &self.evaluation(averaged).0
    }

    /// Reads a tensor of the training plan as raw words; meaningful for all tensors only if none share memory.
    pub fn read_tensor(&self, name: &str) -> Result<Option<Vec<u32>>> {
        self.training_plan().map_or(Ok(None), |plan| self.buffers.read(&self.gpu, plan, name))
    }

    /// The same for a tensor of the evaluation plan.
    pub fn read_evaluation_tensor(&self, averaged: bool, name: &str) -> Result<Option<Vec<u32>>> {
        self.buffers.read(&self.gpu, self.evaluation_plan(averaged), name)
    }

    /// Fills all pooled memory with a word, to expose values that a kernel forgets to write.
    pub fn poison(&self, word: u32) {
        self.buffers.poison(&self.gpu, word);
    }

    /// Buffers that a kernel has written past the end of; empty if all is well.
    pub fn broken_guards(&self) -> Result<Vec<String>> {
        self.buffers.broken_guards(&self.gpu)
    }

    fn write_step(&self, step: u32) {
        let place = self.buffers.place(&self.evaluation.0, "state.next_step");
        let (buffer, offset, _) = place.expect("every plan has a step");
        self.gpu.queue.write_buffer(buffer, offset, bytemuck::bytes_of(&step));
    }

    /// Submits the steps of a range, never far ahead of the device, and copies of their metrics.
    fn start(&mut self, work: Work, steps: Range<u32>) -> Result<()> {
        self.write_step(steps.start);
        let mut started = Started { training: work == Work::Training, at: Instant::now(), rings: Vec::new() };
        let mut first = steps.start;
        while first < steps.end {
            let end = steps.end.min(first + METRICS_RING as u32);
            let mut left = (end - first) as usize;
            while left > 0 {
                let now = left.min(self.steps_per_submit);
                let submission = self.program(work).1.submit(&self.gpu, now);
                self.in_flight.push_back(submission);
                left -= now;
                if self.in_flight.len() >= IN_FLIGHT
                    && let Some(oldest) = self.in_flight.pop_front()
                {
                    self.gpu.wait(oldest)?;
                }
            }
            let ring = self.buffers.get("metrics_ring");
            let bytes = self.program(work).0.tensor("metrics_ring").expect("a plan has metrics").bytes;
            started.rings.push((first..end, self.gpu.start_read(ring, 0, bytes)));
            first = end;
        }
        self.started.push_back(started);
        Ok(())
    }

    /// Adds up the steps of a range from a copy of the ring: [step, replica, part of the batch], each with the sum of
    /// losses and the number of hits.
    fn add_up(&self, total: &mut [Metrics], words: &[u32], steps: Range<u32>, images: impl Fn(u32) -> usize) {
        let width = words.len() / (2 * METRICS_RING * self.replicas);
        for step in steps {
            for (replica, metrics) in total.iter_mut().enumerate() {
                let start = 2 * width * (step as usize % METRICS_RING * self.replicas + replica);
                for pair in words[start..start + 2 * width].chunks(2) {
                    metrics.loss_sum += f64::from(f32::from_bits(pair[0]));
                    metrics.correct += f32::from_bits(pair[1]) as usize;
                }
                metrics.images += images(step);
            }
        }
    }

    /// Logits [images, classes] of the first images in the test buffer, for the first replica.
    fn logits_of(&mut self, count: usize, averaged: bool) -> Result<Vec<f32>> {
        let (plan, program) = self.evaluation(averaged);
        let (buffer, offset, bytes) = self.buffers.place(plan, &self.output).expect("the plan has an output");
        let bytes = bytes / self.replicas as u64;
        let mut logits = Vec::with_capacity(count * self.classes);
        self.write_step(0);
        for start in (0..count).step_by(self.eval_batch) {
            program.submit(&self.gpu, 1);
            let words = self.gpu.read(buffer, offset, bytes)?;
            for image in 0..self.eval_batch.min(count - start) {
                let quad = image / 4 * self.classes;
                logits.extend(
                    (0..self.classes).map(|class| f32::from_bits(words[(quad + class) * 4 + image % 4])),
                );
            }
        }
        Ok(logits)
    }

    fn program(&self, work: Work) -> &(Plan, RecordedPlan) {
        match work {
            Work::Training => self.training.as_ref().expect("an engine without training images cannot train"),
            Work::Evaluation { averaged } => self.evaluation(averaged),
        }
    }

    fn evaluation(&self, averaged: bool) -> &(Plan, RecordedPlan) {
        self.averaged.as_ref().filter(|_| averaged).unwrap_or(&self.evaluation)
    }

    fn vector_buffers(vector: Vector) -> (&'static str, Option<&'static str>) {
        let [trained, running] = match vector {
            Vector::Weights => WEIGHTS,
            Vector::Average => AVERAGES,
            Vector::Memory(name) => return (name, None),
        };
        (trained, Some(running))
    }
}

impl Engine for GpuEngine {
    fn start_training(&mut self, steps: usize) -> Result<()> {
        let first = self.step;
        self.step += steps as u32;
        self.start(Work::Training, first..self.step)
    }

    fn evaluation_steps(&self) -> usize {
        self.test_count.div_ceil(self.eval_batch)
    }

    fn start_evaluation(&mut self, averaged: bool, steps: Range<usize>) -> Result<()> {
        self.start(Work::Evaluation { averaged }, steps.start as u32..steps.end as u32)
    }

    fn collect(&mut self) -> Result<Vec<Metrics>> {
        let Started { training, at, rings } = self.started.pop_front().expect("work was started");
        let mut total = vec![Metrics::default(); self.replicas];
        let steps: usize = rings.iter().map(|(steps, _)| steps.len()).sum();
        for (steps, ring) in rings {
            let words = ring.finish(&self.gpu)?;
            match self.batches.as_ref().filter(|_| training) {
                Some(batches) => self.add_up(&mut total, &words, steps, |step| batches.images_of(step)),
                None => self.add_up(&mut total, &words, steps, |step| {
                    self.eval_batch.min(self.test_count - step as usize * self.eval_batch)
                }),
            }
        }
        let seconds = at.max(self.collected).elapsed().as_secs_f64();
        self.collected = Instant::now();
        if training {
            let most = SUBMIT_SECONDS * steps as f64 / seconds.max(1e-9);
            self.steps_per_submit = (most as usize).clamp(1, 64);
        }
        Ok(total)
    }

    fn logits(&mut self, averaged: bool) -> Result<Vec<f32>> {
        self.logits_of(self.test_count, averaged)
    }

    fn classify(&mut self, images: &Images) -> Result<Vec<f32>> {
        for (name, bytes) in image_buffers("test", images) {
            self.buffers.write(&self.gpu, &name, 0, &bytes);
        }
        self.logits_of(images.count, false)
    }

    fn read_all(&mut self, vector: Vector) -> Result<Vec<Vec<Tensor>>> {
        let (trained, running) = Self::vector_buffers(vector);
        // Whole buffers: a round trip per tensor per net would take longer than an epoch.
        let trained = self.buffers.read_whole(&self.gpu, trained)?;
        let running = running.map(|name| self.buffers.read_whole(&self.gpu, name)).transpose()?;
        let mut replicas = vec![Vec::new(); self.replicas];
        for entry in self.layout.entries() {
            let words = if entry.param.param.trained { Some(&trained) } else { running.as_ref() };
            let Some(words) = words else { continue };
            let all = words[entry.offset..][..entry.len].chunks(entry.len / self.replicas);
            for (tensors, words) in replicas.iter_mut().zip(all) {
                tensors.push(Tensor {
                    name: entry.param.name.clone(),
                    shape: entry.param.param.shape.clone(),
                    data: words.iter().copied().map(f32::from_bits).collect(),
                });
            }
        }
        Ok(replicas)
    }

    fn write(&mut self, vector: Vector, replica: usize, tensors: &[Tensor]) -> Result<()> {
        let (trained, running) = Self::vector_buffers(vector);
        let mut tensors = tensors.iter();
        for entry in self.layout.entries() {
            let buffer = if entry.param.param.trained { Some(trained) } else { running };
            let Some(buffer) = buffer else { continue };
            let tensor = tensors.next().expect("one tensor for each parameter");
            let len = entry.len / self.replicas;
            assert_eq!(tensor.data.len(), len, "{}", tensor.name);
            let offset = 4 * (entry.offset + replica * len) as u64;
            if self.buffers.contains(buffer) {
                self.gpu.queue.write_buffer(
                    self.buffers.get(buffer),
                    offset,
                    bytemuck::cast_slice(&tensor.data),
                );
            }
        }
        self.gpu.check()
    }

    fn step(&self) -> u32 {
        self.step
    }

    fn set_step(&mut self, step: u32) -> Result<()> {
        self.step = step;
        self.gpu.check()
    }
}
