//! The weights of one net, their optimizer and their averages, in `f32`.

use std::ops::Range;

use super::block::Block;
use super::clock::Clock;
use super::fallback;
use super::kernels::BatchNormGrad;
use super::program::{Kernel, Op, Program};
use crate::config::Optimizer;
use crate::engine::{Setup, Vector};
use crate::model::ModelParam;
use crate::optimizers::average;
use crate::replica::Replica;
use crate::rng::{self, Stream};
use crate::state::NetSettings;
use crate::tensor::Tensor;

#[derive(Debug)]
pub(super) struct Net {
    replica: Replica,
    settings: NetSettings,
    learning_rates: Vec<f32>,
    optimizer: Optimizer,
    average_decay: f32,
    about: Vec<ModelParam>,
    /// Factor on the learning rate of each parameter.
    rates: Vec<f32>,
    /// Parameters and running statistics, in the model's order.
    pub(super) params: Vec<Vec<f32>>,
    averages: Vec<Vec<f32>>,
    /// The optimizer's state, one vector for each of [`Optimizer::memory`], by parameter.
    memory: Vec<Vec<Vec<f32>>>,
    pub(super) batch_norms: Vec<BatchStatistics>,
    /// Of what is done for all blocks at once.
    pub(super) clock: Clock,
}

/// What the blocks share about a batch normalisation in a step, by channel.
#[derive(Debug, Default, Clone)]
pub(super) struct BatchStatistics {
    pub(super) mean: Vec<f32>,
    pub(super) inv_std: Vec<f32>,
    /// output = input · scale + offset
    pub(super) scale: Vec<f32>,
    pub(super) offset: Vec<f32>,
    /// Means over the batch of `grad_output` and of `grad_output` · x̂.
    pub(super) mean_grad: Vec<f32>,
    pub(super) mean_grad_xhat: Vec<f32>,
    grad: Vec<[f64; 2]>,
}

impl BatchStatistics {
    /// For the backward pass.
    pub(super) fn grad(&self) -> BatchNormGrad<'_> {
        BatchNormGrad {
            mean: &self.mean,
            inv_std: &self.inv_std,
            scale: &self.scale,
            offset: &self.offset,
            mean_grad: &self.mean_grad,
            mean_grad_xhat: &self.mean_grad_xhat,
        }
    }
}

impl Net {
    pub(super) fn new(setup: &Setup<'_>, program: &Program, replica: &Replica) -> Self {
        let (model, train) = (setup.model, &setup.model.train);
        let about = model.params();
        let zeros = || -> Vec<Vec<f32>> { about.iter().map(|entry| vec![0.0; entry.param.size()]).collect() };
        Self {
            replica: replica.clone(),
            settings: replica.settings(model, train.epochs).0,
            learning_rates: setup.learning_rates(replica),
            optimizer: train.optimizer.with_weight_decay(replica.weight_decay),
            average_decay: train.average_decay,
            params: zeros(),
            averages: zeros(),
            memory: train.optimizer.memory().iter().map(|_| zeros()).collect(),
            batch_norms: vec![BatchStatistics::default(); program.batch_norms.len()],
            rates: about.iter().map(|param| model.layers[param.layer].rate).collect(),
            about,
            clock: Clock::default(),
        }
    }

    pub(super) fn replica(&self) -> &Replica {
        &self.replica
    }

    pub(super) fn settings(&self) -> &NetSettings {
        &self.settings
    }

    /// Rate of the dropout layer with this number, which is layer `layer` of the model, and the key of its random words.
    pub(super) fn dropout(&self, number: usize, layer: u32) -> (f32, u32) {
        (self.replica.dropout[number], rng::key(self.replica.seed, Stream::Dropout(layer)))
    }

    /// The weights to use in an evaluation.
    pub(super) fn weights(&self, averaged: bool) -> &[Vec<f32>] {
        if averaged && self.average_decay > 0.0 { &self.averages } else { &self.params }
    }

    /// Names and values of an operation's parameters.
    pub(super) fn named(&self, op: &Op) -> impl Iterator<Item = (&'static str, &[f32])> {
        self.named_weights(op, false)
    }

    pub(super) fn named_weights(
        &self,
        op: &Op,
        averaged: bool,
    ) -> impl Iterator<Item = (&'static str, &[f32])> {
        let values = self.weights(averaged);
        op.params.iter().map(|&param| (self.about[param].param.name, values[param].as_slice()))
    }

    /// Computes what the first operation of a phase needs from the whole batch, which has reached it: turns the
    /// blocks' sums into the mean and deviation of a batch normalisation, or runs a layer without a tuned kernel;
    /// updates the running statistics.
    pub(super) fn finish_statistics(&mut self, program: &Program, op: &Op, blocks: &mut [Block], step: u32) {
        let (number, eps, momentum) = match &op.kernel {
            Kernel::BatchNorm2d { number, eps, momentum, .. } => (*number, *eps, *momentum),
            Kernel::Fallback(layer) => {
                let context = fallback::context(self.replica.seed, step, op.layer, 0, true);
                let made = fallback::forward(layer, op, self.named(op), &context, blocks);
                for (&param, about) in op.params.iter().zip(&layer.params) {
                    if let (false, Some(new)) = (about.trained, made.get(about.name)) {
                        self.params[param] = new.to_f32();
                    }
                }
                return;
            }
            other => unreachable!("{other:?} begins no phase"),
        };
        let (channels, _) = program.batch_norms[number];
        let params: [usize; 4] = op.params[..].try_into().expect("a batch normalisation has four parameters");
        let [weight, bias, running_mean, running_var] =
            self.params.get_disjoint_mut(params).expect("four different ones");
        let plane = program.buffers[op.inputs[0]] / channels;
        let batch = &mut self.batch_norms[number];
        for values in [&mut batch.mean, &mut batch.inv_std, &mut batch.scale, &mut batch.offset] {
            values.resize(channels, 0.0);
        }
        for c in 0..channels {
            // All sums relative to the first block's shift.
            let shift = f64::from(blocks[0].shifts[number][c]);
            let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
            for block in &*blocks {
                let n = (block.valid * plane) as f64;
                let [block_sum, block_squares] = block.sums[number][c];
                let moved = f64::from(block.shifts[number][c]) - shift;
                count += n;
                sum += block_sum + n * moved;
                squares += block_squares + 2.0 * moved * block_sum + n * moved * moved;
            }
            let from_shift = sum / count;
            let mean = shift + from_shift;
            let var = (squares / count - from_shift * from_shift).max(0.0);
            let inv_std = 1.0 / (var + f64::from(eps)).sqrt();
            let scale = f64::from(weight[c]) * inv_std;
            (batch.mean[c], batch.inv_std[c]) = (mean as f32, inv_std as f32);
            (batch.scale[c], batch.offset[c]) = (scale as f32, (f64::from(bias[c]) - mean * scale) as f32);
            let unbiased = var * count / (count - 1.0).max(1.0);
            for (running, new) in [(&mut running_mean[c], mean), (&mut running_var[c], unbiased)] {
                *running = (1.0 - momentum) * *running + momentum * new as f32;
            }
        }
    }

    /// The same for the backward pass: turns the blocks' gradient sums into the gradients of weight and bias and the
    /// means that the input's gradient needs.
    pub(super) fn finish_grad_sums(&mut self, program: &Program, op: &Op, blocks: &mut [Block], step: u32) {
        let number = match &op.kernel {
            Kernel::BatchNorm2d { number, .. } => *number,
            Kernel::Fallback(layer) => {
                let context = fallback::context(self.replica.seed, step, op.layer, 0, true);
                return fallback::backward(layer, op, self.named(op), &context, blocks);
            }
            other => unreachable!("{other:?} begins no phase"),
        };
        let (channels, _) = program.batch_norms[number];
        let plane = program.buffers[op.inputs[0]] / channels;
        let count: f64 = blocks.iter().map(|block| (block.valid * plane) as f64).sum();
        let batch = &mut self.batch_norms[number];
        batch.grad.clear();
        batch.mean_grad.clear();
        batch.mean_grad_xhat.clear();
        for c in 0..channels {
            let mut total = [0.0; 2];
            for block in &*blocks {
                for (total, part) in total.iter_mut().zip(block.sums[number][c]) {
                    *total += part;
                }
            }
            batch.grad.push(total);
            batch.mean_grad.push((total[0] / count) as f32);
            batch.mean_grad_xhat.push((total[1] / count) as f32);
        }
    }

    /// Adds up the blocks' gradients in order, then those of layers that share parameters, in order; takes the
    /// optimizer step and updates the averages.
    pub(super) fn update(&mut self, program: &Program, blocks: &mut [Block], step: u32) {
        let learning_rate = self.learning_rates[step as usize];
        let (first, others) = blocks.split_first_mut().expect("a batch has images");
        for other in others {
            first.grads.iter_mut().zip(&other.grads).for_each(|(sum, part)| *sum += part);
        }
        for (number, &(_, op)) in program.batch_norms.iter().enumerate() {
            let mut ranges = program.ops[op].grads.iter().flatten();
            let [weight, bias] =
                [(); 2].map(|()| ranges.next().expect("weight and bias are trained").clone());
            for (c, [sum, sum_normalised]) in self.batch_norms[number].grad.iter().enumerate() {
                first.grads[weight.start + c] = *sum_normalised as f32;
                first.grads[bias.start + c] = *sum as f32;
            }
        }
        for uses in &program.grad_ranges {
            let [range, others @ ..] = &uses[..] else { continue };
            for other in others {
                let (before, from_other) = first.grads.split_at_mut(other.start);
                before[range.clone()].iter_mut().zip(from_other).for_each(|(sum, part)| *sum += *part);
            }
        }
        self.clip(program, &mut first.grads);
        for (index, uses) in program.grad_ranges.iter().enumerate() {
            let [range, ..] = &uses[..] else { continue };
            let decay = if self.about[index].param.decays { self.optimizer.weight_decay() } else { 0.0 };
            let mut memory = self.memory.iter_mut().map(|memory| &mut memory[index]);
            let (m, s) = (memory.next(), memory.next());
            let (params, grads) = (&mut self.params[index], &first.grads[range.clone()]);
            let learning_rate = learning_rate * self.rates[index];
            apply(self.optimizer, params, grads, [m, s], Rates { step, learning_rate, decay });
        }
        if self.average_decay > 0.0 {
            let keep = average::decay(self.average_decay, step);
            for (averages, values) in self.averages.iter_mut().zip(&self.params) {
                for (average, value) in averages.iter_mut().zip(values) {
                    *average += (1.0 - keep) * (value - *average);
                }
            }
        }
    }

    /// Shortens the gradient of all parameters to the largest norm; formula: `shaders/clip.wgsl`.
    fn clip(&self, program: &Program, grads: &mut [f32]) {
        let limit = f64::from(self.replica.clip_norm);
        if limit == 0.0 {
            return;
        }
        let ranges = || program.grad_ranges.iter().filter_map(|uses| uses.first());
        let squares = |range: &Range<usize>| -> f64 {
            grads[range.clone()].iter().map(|&grad| f64::from(grad) * f64::from(grad)).sum()
        };
        let factor = (limit / (ranges().map(squares).sum::<f64>().sqrt() + 1e-6)).min(1.0) as f32;
        for range in ranges() {
            grads[range.clone()].iter_mut().for_each(|grad| *grad *= factor);
        }
    }

    fn vector(&self, vector: Vector) -> &[Vec<f32>] {
        match vector {
            Vector::Weights => &self.params,
            Vector::Average => &self.averages,
            Vector::Memory(name) => {
                let at = self.optimizer.memory().iter().position(|&other| other == name);
                &self.memory[at.expect("a vector of this optimizer")]
            }
        }
    }

    pub(super) fn read(&self, vector: Vector) -> Vec<Tensor> {
        let entries = self.about.iter().zip(self.vector(vector));
        let wanted = entries.filter(|(about, _)| about.param.trained || !matches!(vector, Vector::Memory(_)));
        let tensor = |(about, data): (&ModelParam, &Vec<f32>)| Tensor {
            name: about.name.clone(),
            shape: about.param.shape.clone(),
            data: data.clone(),
        };
        wanted.map(tensor).collect()
    }

    pub(super) fn write(&mut self, vector: Vector, tensors: &[Tensor]) {
        let values = match vector {
            Vector::Weights => &mut self.params,
            Vector::Average => &mut self.averages,
            Vector::Memory(name) => {
                let at = self.optimizer.memory().iter().position(|&other| other == name);
                &mut self.memory[at.expect("a vector of this optimizer")]
            }
        };
        let entries = self.about.iter().zip(values);
        let wanted = entries.filter(|(about, _)| about.param.trained || !matches!(vector, Vector::Memory(_)));
        for ((_, values), tensor) in wanted.zip(tensors) {
            values.copy_from_slice(&tensor.data);
        }
    }
}

struct Rates {
    step: u32,
    learning_rate: f32,
    decay: f32,
}

/// One update of one parameter; formulas as in `shaders/sgd.wgsl` and `shaders/adam.wgsl`.
fn apply(
    optimizer: Optimizer,
    params: &mut [f32],
    grads: &[f32],
    memory: [Option<&mut Vec<f32>>; 2],
    Rates { step, learning_rate, decay }: Rates,
) {
    let elements = || 0..grads.len();
    match (optimizer, memory) {
        (Optimizer::Sgd { momentum, nesterov, .. }, [Some(velocity), _]) => {
            for i in elements() {
                let grad = grads[i] + decay * params[i];
                let moved = momentum * velocity[i] + grad;
                velocity[i] = moved;
                params[i] -= learning_rate * if nesterov { grad + momentum * moved } else { moved };
            }
        }
        (
            Optimizer::Adam { beta1, beta2, eps, .. } | Optimizer::Adamw { beta1, beta2, eps, .. },
            [Some(first), Some(second)],
        ) => {
            let decoupled = matches!(optimizer, Optimizer::Adamw { .. });
            let time = step as i32 + 1;
            // In f64: 1 − βᵗ cancels most digits of an f32 in the first steps.
            let correction = |beta: f32| (1.0 - f64::from(beta).powi(time)) as f32;
            let (step_size, correction) = (learning_rate / correction(beta1), correction(beta2));
            for i in elements() {
                let param = if decoupled { params[i] * (1.0 - learning_rate * decay) } else { params[i] };
                let grad = if decoupled { grads[i] } else { grads[i] + decay * param };
                first[i] = beta1 * first[i] + (1.0 - beta1) * grad;
                second[i] = beta2 * second[i] + (1.0 - beta2) * grad * grad;
                params[i] = param - step_size * first[i] / ((second[i] / correction).sqrt() + eps);
            }
        }
        _ => unreachable!("memory is made for the optimizer"),
    }
}
