//! The CPU engine: blocks of 16 images through the layers, blocks in parallel, every sum in a fixed order.
//!
//! A step runs in phases. Batch normalisation needs sums over the whole batch, so a phase takes each block from one
//! batch normalisation to the next (and back) without waiting for others; between phases the blocks' sums are added
//! in block order. The results are bit-identical for any number of threads.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use crate::batch::BatchSettings;
use crate::dataset::Images;
use crate::engine::{Engine, Metrics, Setup, Vector};
use crate::error::{Error, Result};
use crate::memory::check_stacks;
use crate::tensor::Tensor;

mod block;
mod ceilings;
mod clock;
mod fallback;
mod gather;
mod kernels;
mod loss;
mod memory;
mod net;
mod picture;
mod program;

use block::Block;
pub use ceilings::flops_per_second;
pub(crate) use clock::Activity;
use kernels::LANES;
use memory::Need;
use net::Net;
use program::Program;

/// Nets on the processor.
#[derive(Debug)]
pub struct CpuEngine {
    pool: rayon::ThreadPool,
    program: Program,
    nets: Vec<Net>,
    blocks: Vec<Block>,
    training: Option<(BatchSettings, Arc<Images>)>,
    test: (BatchSettings, Arc<Images>),
    step: u32,
    started: VecDeque<Work>,
}

/// Work that was started and is carried out when it is collected.
#[derive(Debug)]
enum Work {
    Training { steps: usize },
    Evaluation { averaged: bool, steps: Range<usize> },
}

/// This processor's best instruction set, for display.
pub fn instruction_set() -> String {
    format!("{:?}", pulp::Arch::new()).split('(').next().unwrap_or_default().to_owned()
}

/// Threads that the engine uses by default.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl CpuEngine {
    /// Makes an engine with this many threads, or one per processor. Weights start at zero: write them next.
    ///
    /// # Errors
    /// Threads that cannot be started, or not enough memory; nothing is allocated then.
    pub fn new(setup: &Setup<'_>, threads: Option<usize>) -> Result<Self> {
        let threads = threads.unwrap_or_else(default_threads).max(1);
        check_stacks(threads)?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(|error| {
            let cure = if threads > 1 { "; one thread needs the least" } else { "" };
            Error::Device(format!("cannot start {threads} threads: {error}{cure}"))
        })?;
        // A thread's first allocation reserves address space for all later ones, so it happens before memory is counted.
        pool.broadcast(|_| std::hint::black_box(vec![0u8; 64]));
        let program = Program::new(setup.model);
        let blocks = blocks(setup, threads);
        Need::of(setup, &program, blocks, threads).check(setup)?;
        let batches = setup.train_batches();
        let block = |index| Block::new(&program, index * LANES, batches.is_some());
        Ok(Self {
            blocks: (0..blocks).map(block).collect(),
            nets: setup.replicas.iter().map(|replica| Net::new(setup, &program, replica)).collect(),
            training: batches.zip(setup.training.cloned()),
            test: (setup.eval_batches(), Arc::clone(setup.test)),
            step: 0,
            started: VecDeque::new(),
            pool,
            program,
        })
    }

    /// Bytes that an engine with this many threads needs, including, in training, those for saving its nets.
    pub fn memory(setup: &Setup<'_>, threads: usize) -> u64 {
        Need::of(setup, &Program::new(setup.model), blocks(setup, threads), threads).total()
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    fn train_steps(&mut self, steps: usize) -> Vec<Metrics> {
        let Self { pool, program, nets, blocks, training, step: first, .. } = self;
        let (batches, images) = training.as_ref().expect("an engine without training images cannot train");
        let gather = gather::Gather::new(batches, images);
        let mut total = vec![Metrics::default(); nets.len()];
        pool.install(|| {
            for step in *first..*first + steps as u32 {
                for (net, total) in nets.iter_mut().zip(&mut total) {
                    total.add(train_step(program, net, blocks, &gather, step));
                }
            }
        });
        *first += steps as u32;
        total
    }

    fn evaluate_steps(&mut self, averaged: bool, steps: Range<usize>) -> Vec<Metrics> {
        let (size, count) = (self.evaluation_step(), self.test.1.count);
        let images = size * steps.start..count.min(size * steps.end);
        let (mut totals, test) = (vec![Metrics::default(); self.nets.len()], Arc::clone(&self.test.1));
        for (replica, total) in totals.iter_mut().enumerate() {
            self.evaluate_blocks(&test, replica, averaged, images.clone(), |_, block, images| {
                total.add(Metrics { loss_sum: f64::from(block.loss_sum), correct: block.correct, images });
            });
        }
        totals
    }

    /// Logits [images, classes] for the first net.
    fn logits_of(&mut self, images: &Images, averaged: bool) -> Vec<f32> {
        let mut logits = Vec::new();
        self.evaluate_blocks(images, 0, averaged, 0..images.count, |program, block, images| {
            let start = logits.len();
            logits.resize(start + images * program.classes(), 0.0);
            kernels::unpack(block.logits(program), program.classes(), &mut logits[start..]);
        });
        logits
    }

    /// Images per evaluation step: whole blocks.
    fn evaluation_step(&self) -> usize {
        self.test.0.batch_size.next_multiple_of(LANES)
    }

    /// Runs a range of images, starting at a block boundary, through a net; `each` gets every block with its number of
    /// images.
    fn evaluate_blocks(
        &mut self,
        images: &Images,
        replica: usize,
        averaged: bool,
        range: Range<usize>,
        mut each: impl FnMut(&Program, &Block, usize),
    ) {
        let Self { pool, program, nets, blocks, test: (batches, _), .. } = self;
        let net = &nets[replica];
        let gather = gather::Gather::new(batches, images);
        let starts: Vec<usize> = range.clone().step_by(LANES).collect();
        for starts in starts.chunks(blocks.len()) {
            pool.install(|| {
                blocks.par_iter_mut().zip(starts).for_each(|(block, &start)| {
                    gather.fill_in_order(start, block);
                    block.evaluate(program, net, averaged);
                });
            });
            for (block, &start) in blocks.iter().zip(starts) {
                each(program, block, LANES.min(range.end - start));
            }
        }
    }
}

#[cfg(feature = "gpu")]
impl CpuEngine {
    /// Takes training steps with the clocks running: seconds per step of each activity, added up over the threads.
    pub(crate) fn profile(&mut self, steps: usize) -> Vec<(Activity, f64)> {
        let ops = self.program.ops.len();
        self.blocks.iter_mut().for_each(|block| block.clock.start(ops));
        self.nets.iter_mut().for_each(|net| net.clock.start(ops));
        self.train_steps(steps);
        let stopped = self.blocks.iter_mut().map(|block| block.clock.stop());
        let stopped = stopped.chain(self.nets.iter_mut().map(|net| net.clock.stop()));
        stopped
            .reduce(|mut sum, more| {
                sum.iter_mut().zip(more).for_each(|((_, seconds), (_, more))| *seconds += more);
                sum
            })
            .unwrap_or_default()
            .into_iter()
            .map(|(activity, seconds)| (activity, seconds / steps as f64))
            .collect()
    }

    /// Index of an operation's layer in the model.
    pub(crate) fn layer_of(&self, op: usize) -> usize {
        self.program.ops[op].layer as usize
    }
}

/// Blocks that an engine needs at once.
fn blocks(setup: &Setup<'_>, threads: usize) -> usize {
    let for_training = setup.train_batches().map_or(0, |batches| batches.batch_size.div_ceil(LANES));
    for_training.max(setup.eval_batches().batch_size.div_ceil(LANES).min(threads))
}

/// One training step of one net.
fn train_step(
    program: &Program,
    net: &mut Net,
    blocks: &mut [Block],
    gather: &gather::Gather<'_>,
    step: u32,
) -> Metrics {
    let images = gather.batches().images_of(step);
    let active = &mut blocks[..images.div_ceil(LANES)];
    let phases = program.phases();
    let of_classes = &gather.batches().class_weights[..];
    let weights = (!of_classes.is_empty()).then(|| {
        // The loss of each image needs the sum over the batch, so all images are gathered first.
        active.par_iter_mut().with_max_len(1).for_each(|block| {
            block.clock.begin();
            gather.fill(net.settings(), step, images, block);
            block.clock.lap(Activity::Gather);
        });
        let targets = active.iter().flat_map(|block| &block.targets[..block.valid]);
        let total = targets.map(|&target| loss::weight_of(target, of_classes)).sum();
        loss::Weights { of_classes, total, images }
    });
    for (number, phase) in phases.iter().enumerate() {
        let shared = &*net;
        let last = number + 1 == phases.len();
        active.par_iter_mut().with_max_len(1).for_each(|block| {
            block.clock.begin();
            if number == 0 && weights.is_none() {
                gather.fill(shared.settings(), step, images, block);
                block.clock.lap(Activity::Gather);
            }
            block.forward(program, shared, phase.clone(), step);
            if last {
                block.loss(program, shared, images, weights);
                block.clock.lap(Activity::Loss);
                block.backward(program, shared, phase.clone(), step);
            }
        });
        if !last {
            net.clock.begin();
            net.finish_statistics(program, &program.ops[phase.end], active, step);
            net.clock.lap(Activity::Statistics(phase.end));
        }
    }
    for phase in phases[..phases.len() - 1].iter().rev() {
        let first = &program.ops[phase.end];
        net.clock.begin();
        net.finish_grad_sums(program, first, active, step);
        net.clock.lap(Activity::Statistics(phase.end));
        let shared = &*net;
        active.par_iter_mut().with_max_len(1).for_each(|block| {
            block.clock.begin();
            block.backward_first(program, shared, first);
            block.clock.lap(Activity::BackwardInput(phase.end));
            block.backward(program, shared, phase.clone(), step);
        });
    }
    net.clock.begin();
    net.update(program, active, step);
    net.clock.lap(Activity::Optimizer);
    let mut metrics = Metrics { images, ..Default::default() };
    for block in active.iter() {
        metrics.loss_sum += f64::from(block.loss_sum);
        metrics.correct += block.correct;
    }
    metrics
}

impl Engine for CpuEngine {
    fn start_training(&mut self, steps: usize) -> Result<()> {
        self.started.push_back(Work::Training { steps });
        Ok(())
    }

    fn evaluation_steps(&self) -> usize {
        self.test.1.count.div_ceil(self.evaluation_step())
    }

    fn start_evaluation(&mut self, averaged: bool, steps: Range<usize>) -> Result<()> {
        self.started.push_back(Work::Evaluation { averaged, steps });
        Ok(())
    }

    fn collect(&mut self) -> Result<Vec<Metrics>> {
        Ok(match self.started.pop_front().expect("work was started") {
            Work::Training { steps } => self.train_steps(steps),
            Work::Evaluation { averaged, steps } => self.evaluate_steps(averaged, steps),
        })
    }

    fn logits(&mut self, averaged: bool) -> Result<Vec<f32>> {
        let test = Arc::clone(&self.test.1);
        Ok(self.logits_of(&test, averaged))
    }

    fn classify(&mut self, images: &Images) -> Result<Vec<f32>> {
        Ok(self.logits_of(images, false))
    }

    fn read_all(&mut self, vector: Vector) -> Result<Vec<Vec<Tensor>>> {
        Ok(self.nets.iter().map(|net| net.read(vector)).collect())
    }

    fn write(&mut self, vector: Vector, replica: usize, tensors: &[Tensor]) -> Result<()> {
        self.nets[replica].write(vector, tensors);
        Ok(())
    }

    fn step(&self) -> u32 {
        self.step
    }

    fn set_step(&mut self, step: u32) -> Result<()> {
        self.step = step;
        Ok(())
    }
}
