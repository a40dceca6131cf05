//! Sixteen images on their way through a net: their activations, and their contribution to every sum.

use std::ops::Range;

use super::clock::{Activity, Clock};
use super::fallback;
use super::kernels::{self, Buffer, LANES, Rectified};
use super::loss;
use super::net::Net;
use super::program::{Back, Kernel, Op, Program, Share};
use crate::losses::cross_entropy::Target;

#[derive(Debug)]
pub(super) struct Block {
    /// Position in the batch of the first image.
    pub(super) first_image: usize,
    /// Images of the batch in this block.
    pub(super) valid: usize,
    pub(super) targets: [Target; LANES],
    pub(super) loss_sum: f32,
    pub(super) correct: usize,
    /// One for each activation of the net; the first holds the images.
    activations: Vec<Buffer>,
    /// Gradients of the activations that the backward pass has reached, in the program's slots.
    slots: Vec<Buffer>,
    /// This block's contribution to every gradient.
    pub(super) grads: Vec<f32>,
    /// Sums of each batch normalisation, by channel: forward relative to `shifts`, backward of g and g·x̂.
    pub(super) sums: Vec<Vec<[f64; 2]>>,
    pub(super) shifts: Vec<Vec<f32>>,
    pub(super) clock: Clock,
}

impl Block {
    /// A block whose first image has this position in the batch.
    pub(super) fn new(program: &Program, first_image: usize, training: bool) -> Self {
        let slots = if training { &program.slots[..] } else { &[] };
        let per_channel = || program.batch_norms.iter().map(|&(channels, _)| channels);
        Self {
            first_image,
            valid: LANES,
            targets: [Target::default(); LANES],
            loss_sum: 0.0,
            correct: 0,
            activations: program.buffers.iter().map(|values| Buffer::new(values * LANES)).collect(),
            slots: slots.iter().map(|values| Buffer::new(values * LANES)).collect(),
            grads: vec![0.0; if training { program.grad_len() } else { 0 }],
            sums: per_channel().map(|channels| vec![[0.0; 2]; channels]).collect(),
            shifts: per_channel().map(|channels| vec![0.0; channels]).collect(),
            clock: Clock::default(),
        }
    }

    /// The images, [channels, height, width, 16].
    pub(super) fn images_mut(&mut self) -> &mut [f32] {
        self.activations[0].values_mut()
    }

    /// [classes, 16]
    pub(super) fn logits(&self, program: &Program) -> &[f32] {
        let output = program.ops.last().map_or(0, |op| op.output);
        self.activations[output].values()
    }

    /// What `op` reads at a position, and its output.
    pub(super) fn input(&self, op: &Op, position: usize) -> &[f32] {
        self.activations[op.inputs[position]].values()
    }

    pub(super) fn output(&self, op: &Op) -> &[f32] {
        self.activations[op.output].values()
    }

    pub(super) fn output_mut(&mut self, op: &Op) -> &mut [f32] {
        self.activations[op.output].values_mut()
    }

    /// The gradient in a slot, whose value is an activation of this length.
    pub(super) fn slot(&self, slot: usize, len: usize) -> &[f32] {
        &self.slots[slot].values()[..len]
    }

    pub(super) fn slot_mut(&mut self, slot: usize, len: usize) -> &mut [f32] {
        &mut self.slots[slot].values_mut()[..len]
    }

    /// Runs `op` into its output buffer, which is none of its input buffers.
    fn apply(&mut self, op: &Op, run: impl FnOnce(&Self, &mut [f32])) {
        let mut output = std::mem::take(&mut self.activations[op.output]);
        run(self, output.values_mut());
        self.activations[op.output] = output;
    }

    fn forward_op(&mut self, program: &Program, params: &[Vec<f32>], op: &Op) {
        let arch = program.arch;
        if let Kernel::Activation(function) = op.kernel {
            if op.output != op.inputs[0] {
                self.apply(op, |block, output| output.copy_from_slice(block.input(op, 0)));
            }
            return kernels::activation(arch, function, weight_of(op, params), self.output_mut(op));
        }
        self.apply(op, |block, output| {
            let input = block.input(op, 0);
            match &op.kernel {
                Kernel::Conv2d(conv) => {
                    let bias = op.params.get(1).map(|&bias| params[bias].as_slice());
                    kernels::conv2d_forward(arch, conv, input, &params[op.params[0]], bias, output);
                }
                Kernel::FrozenNorm { eps } => {
                    let [scale, offset] = running_affine(op, params, *eps);
                    kernels::batch_norm_apply(arch, Rectified::default(), input, &scale, &offset, output);
                }
                Kernel::GroupNorm(dims) => {
                    let [weight, bias] = [0, 1].map(|param| params[op.params[param]].as_slice());
                    kernels::group_norm(arch, dims, input, weight, bias, output);
                }
                Kernel::MaxPool2d(dims) => kernels::max_pool2d(arch, dims, input, output),
                Kernel::AvgPool2d(dims) => kernels::avg_pool2d(arch, dims, input, output),
                Kernel::Add => {
                    kernels::sum(arch, input, block.input(op, 1), output);
                    for position in 2..op.inputs.len() {
                        kernels::add_to(arch, block.input(op, position), output);
                    }
                }
                Kernel::Concat => {
                    let mut rest = output;
                    for position in 0..op.inputs.len() {
                        let part = block.input(op, position);
                        let (own, behind) = rest.split_at_mut(part.len());
                        own.copy_from_slice(part);
                        rest = behind;
                    }
                }
                Kernel::Multiply { maps } => {
                    kernels::multiply(arch, *maps, input, block.input(op, 1), output);
                }
                Kernel::Activation(_)
                | Kernel::BatchNorm2d { .. }
                | Kernel::Dropout { .. }
                | Kernel::Fallback(_) => {
                    unreachable!("it works in place, and these differ between training and evaluation")
                }
            }
        });
    }

    /// The forward training pass through a phase; ends with the sums that the following batch normalisation needs.
    pub(super) fn forward(&mut self, program: &Program, net: &Net, phase: Range<usize>, step: u32) {
        let arch = program.arch;
        for index in phase.clone() {
            let op = &program.ops[index];
            match &op.kernel {
                Kernel::BatchNorm2d { number, rectified, .. } => {
                    let batch = &net.batch_norms[*number];
                    self.apply(op, |block, output| {
                        kernels::batch_norm_apply(
                            arch,
                            *rectified,
                            block.input(op, 0),
                            &batch.scale,
                            &batch.offset,
                            output,
                        );
                    });
                }
                Kernel::Dropout { number } => {
                    let (rate, key) = net.dropout(*number, op.layer);
                    self.apply(op, |block, output| {
                        let (first, input) = (block.first_image as u32, block.input(op, 0));
                        kernels::dropout(arch, rate, key, step, first, input, output);
                    });
                }
                // It processed the whole batch at the end of the previous phase.
                Kernel::Fallback(layer) if layer.sees_batch() => {}
                Kernel::Fallback(layer) => {
                    let training = !layer.frozen;
                    let context =
                        fallback::context(net.replica().seed, step, op.layer, self.first_image, training);
                    fallback::forward(layer, op, net.named(op), &context, std::slice::from_mut(self));
                }
                _ => self.forward_op(program, &net.params, op),
            }
            self.clock.lap(Activity::Forward(index));
        }
        // The phases end with the batch normalisations, in order.
        let next = program.batch_norms.binary_search_by_key(&phase.end, |&(_, op)| op);
        if let Ok(number) = next {
            let op = &program.ops[phase.end];
            let Kernel::BatchNorm2d { rectified, .. } = op.kernel else {
                unreachable!("it is a batch normalisation")
            };
            let input = self.activations[op.inputs[0]].values_mut();
            let (shifts, sums) = (&mut self.shifts[number], &mut self.sums[number]);
            kernels::batch_norm_sums(arch, rectified, input, shifts, self.valid, sums);
            self.clock.lap(Activity::Statistics(phase.end));
        }
    }

    /// The whole net with running statistics and without dropout, then loss and hits.
    pub(super) fn evaluate(&mut self, program: &Program, net: &Net, averaged: bool) {
        let params = net.weights(averaged);
        for op in &program.ops {
            match &op.kernel {
                Kernel::BatchNorm2d { eps, rectified, .. } => {
                    let [scale, offset] = running_affine(op, params, *eps);
                    self.apply(op, |block, output| {
                        let input = block.input(op, 0);
                        kernels::batch_norm_apply(program.arch, *rectified, input, &scale, &offset, output);
                    });
                }
                Kernel::Dropout { .. } => {
                    self.apply(op, |block, output| output.copy_from_slice(block.input(op, 0)));
                }
                Kernel::Fallback(layer) => {
                    let context = fallback::context(net.replica().seed, 0, op.layer, self.first_image, false);
                    let named = net.named_weights(op, averaged);
                    fallback::forward(layer, op, named, &context, std::slice::from_mut(self));
                }
                _ => self.forward_op(program, params, op),
            }
        }
        self.measure(program);
    }

    /// Loss and hits; an evaluation's loss is not smoothed.
    fn measure(&mut self, program: &Program) {
        let (loss_sum, correct) =
            loss::measure(self.logits(program), &self.targets[..self.valid], 0.0, None, None);
        (self.loss_sum, self.correct) = (loss_sum, correct);
    }

    /// Loss, hits and the gradient of the logits; `images` counts the whole batch.
    pub(super) fn loss(
        &mut self,
        program: &Program,
        net: &Net,
        images: usize,
        weights: Option<loss::Weights<'_>>,
    ) {
        let mut grad = std::mem::take(&mut self.slots[program.grad_logits]);
        let grad_logits = &mut grad.values_mut()[..program.classes() * LANES];
        let targets = &self.targets[..self.valid];
        let gradient = Some((&mut *grad_logits, images));
        let smoothing = net.replica().label_smoothing;
        let (loss_sum, correct) = loss::measure(self.logits(program), targets, smoothing, weights, gradient);
        (self.loss_sum, self.correct, self.slots[program.grad_logits]) = (loss_sum, correct, grad);
    }

    /// Backward through a phase, to the gradient of its first operation's output; if that is a batch normalisation,
    /// computes the sums it needs.
    pub(super) fn backward(&mut self, program: &Program, net: &Net, phase: Range<usize>, step: u32) {
        for index in phase.rev() {
            let op = &program.ops[index];
            let Some(back) = &op.back else { continue };
            match &op.kernel {
                Kernel::BatchNorm2d { number, rectified, .. } => {
                    let batch = net.batch_norms[*number].grad();
                    let input = self.activations[op.inputs[0]].values();
                    let grad = &self.slots[back.grad_output].values()[..input.len()];
                    let sums = &mut self.sums[*number];
                    kernels::batch_norm_grad_sums(
                        program.arch,
                        *rectified,
                        batch,
                        input,
                        grad,
                        self.valid,
                        sums,
                    );
                    self.clock.lap(Activity::Statistics(index));
                }
                Kernel::Fallback(layer) if layer.sees_batch() => {}
                Kernel::Fallback(layer) => {
                    let training = !layer.frozen;
                    let context =
                        fallback::context(net.replica().seed, step, op.layer, self.first_image, training);
                    fallback::backward(layer, op, net.named(op), &context, std::slice::from_mut(self));
                    self.add_up(program, op, back);
                }
                _ => {
                    if op.grads.iter().any(Option::is_some) {
                        self.grad_params(program, op, back);
                        self.clock.lap(Activity::BackwardWeight(index));
                    }
                    self.backward_op(program, net, op, back, step);
                }
            }
            if back.shares.iter().any(|&share| share != Share::Unwanted) {
                self.clock.lap(Activity::BackwardInput(index));
            }
        }
    }

    /// Backward through the first operation of a phase, whose sums over the batch are complete.
    pub(super) fn backward_first(&mut self, program: &Program, net: &Net, op: &Op) {
        let Some(back) = &op.back else { return };
        if let (Kernel::BatchNorm2d { number, rectified, .. }, false) =
            (&op.kernel, back.shares[0] == Share::Unwanted)
        {
            let batch = net.batch_norms[*number].grad();
            let input = self.activations[op.inputs[0]].values();
            let grad = &mut self.slots[back.grad_output].values_mut()[..input.len()];
            kernels::batch_norm_grad_input(program.arch, *rectified, batch, input, self.valid, grad);
        }
        self.add_up(program, op, back);
    }

    /// Adds an operation's shares of its inputs' gradients to those of later readers.
    fn add_up(&mut self, program: &Program, op: &Op, back: &Back) {
        for (position, share) in back.shares.iter().enumerate() {
            self.add_share(program, op, position, *share);
        }
    }

    fn add_share(&mut self, program: &Program, op: &Op, position: usize, share: Share) {
        if let Share::Added { made, to } = share {
            let len = self.input(op, position).len();
            let mut sum = std::mem::take(&mut self.slots[to]);
            kernels::add_to(program.arch, self.slot(made, len), &mut sum.values_mut()[..len]);
            self.slots[to] = sum;
        }
    }

    /// Gradients of parameters, where they are not computed together with that of the input.
    fn grad_params(&mut self, program: &Program, op: &Op, back: &Back) {
        let arch = program.arch;
        let mut grads = op.grads.iter().flatten();
        // A frozen one has none.
        if let (Kernel::Conv2d(conv), Some(weights)) = (&op.kernel, grads.next().cloned()) {
            let (input, output) = (self.activations[op.inputs[0]].values(), self.output(op).len());
            let grad_output = &self.slots[back.grad_output].values()[..output];
            let (grad_weight, rest) = self.grads[weights.start..].split_at_mut(weights.len());
            let grad_bias = grads.next().map(|bias| &mut rest[..bias.len()]);
            kernels::conv2d_grad_weight(arch, conv, input, grad_output, grad_weight, grad_bias);
        }
        if let (Kernel::Activation(_), [Some(slopes)]) = (&op.kernel, &op.grads[..]) {
            let input = self.activations[op.inputs[0]].values();
            let grad_output = &self.slots[back.grad_output].values()[..input.len()];
            kernels::prelu_grad_weight(arch, input, grad_output, &mut self.grads[slopes.clone()]);
        }
    }

    fn backward_op(&mut self, program: &Program, net: &Net, op: &Op, back: &Back, step: u32) {
        let arch = program.arch;
        if let Kernel::GroupNorm(dims) = &op.kernel {
            self.group_norm_grad(program, net, op, back, dims);
            return self.add_up(program, op, back);
        }
        for (position, &share) in back.shares.iter().enumerate() {
            let (Share::Made(made) | Share::Added { made, .. }) = share else { continue };
            let mut target = std::mem::take(&mut self.slots[made]);
            let grad_input = &mut target.values_mut()[..self.input(op, position).len()];
            if made == back.grad_output {
                if let Kernel::FrozenNorm { eps } = op.kernel {
                    let [scale, _] = running_affine(op, &net.params, eps);
                    let plane = grad_input.len() / scale.len();
                    for (values, scale) in grad_input.chunks_exact_mut(plane).zip(scale) {
                        values.iter_mut().for_each(|value| *value *= scale);
                    }
                }
                // Sums are passed on unchanged.
                if let Kernel::Activation(function) = op.kernel {
                    let from =
                        if function.reads_input() { self.input(op, position) } else { self.output(op) };
                    kernels::activation_grad(arch, function, weight_of(op, &net.params), from, grad_input);
                }
            } else {
                self.grad_input(program, net, op, back.grad_output, position, step, grad_input);
            }
            self.slots[made] = target;
            self.add_share(program, op, position, share);
        }
    }

    /// All gradients at once: they are computed from the same sums.
    fn group_norm_grad(
        &mut self,
        program: &Program,
        net: &Net,
        op: &Op,
        back: &Back,
        dims: &kernels::GroupNormDims,
    ) {
        let mut target = match back.shares[0] {
            Share::Made(made) | Share::Added { made, .. } => {
                Some((made, std::mem::take(&mut self.slots[made])))
            }
            Share::Unwanted => None,
        };
        let input = self.activations[op.inputs[0]].values();
        let grad_output = &self.slots[back.grad_output].values()[..input.len()];
        let mut unused = Vec::new();
        let grads = match &op.grads[0] {
            Some(weight) => &mut self.grads[weight.start..],
            // A frozen one.
            None => {
                unused.resize(2 * dims.channels, 0.0);
                &mut unused[..]
            }
        };
        let (grad_weight, rest) = grads.split_at_mut(dims.channels);
        kernels::group_norm_grad(
            program.arch,
            dims,
            input,
            &net.params[op.params[0]],
            grad_output,
            grad_weight,
            &mut rest[..dims.channels],
            target.as_mut().map(|(_, slot)| &mut slot.values_mut()[..input.len()]),
        );
        if let Some((made, slot)) = target {
            self.slots[made] = slot;
        }
    }

    #[expect(clippy::too_many_arguments, reason = "split from its only caller")]
    fn grad_input(
        &self,
        program: &Program,
        net: &Net,
        op: &Op,
        grad_output: usize,
        position: usize,
        step: u32,
        grad_input: &mut [f32],
    ) {
        let arch = program.arch;
        let grad_output = self.slot(grad_output, self.output(op).len());
        let input = self.input(op, position);
        match &op.kernel {
            Kernel::Conv2d(conv) => {
                kernels::conv2d_grad_input(arch, conv, grad_output, &net.params[op.params[0]], grad_input);
            }
            Kernel::MaxPool2d(dims) => kernels::max_pool2d_grad(arch, dims, input, grad_output, grad_input),
            Kernel::AvgPool2d(dims) => kernels::avg_pool2d_grad(arch, dims, grad_output, grad_input),
            Kernel::Dropout { number } => {
                let (rate, key) = net.dropout(*number, op.layer);
                kernels::dropout(arch, rate, key, step, self.first_image as u32, grad_output, grad_input);
            }
            Kernel::Add => grad_input.copy_from_slice(grad_output),
            Kernel::Concat => {
                let first: usize = (0..position).map(|before| self.input(op, before).len()).sum();
                grad_input.copy_from_slice(&grad_output[first..][..grad_input.len()]);
            }
            Kernel::Multiply { maps } => {
                let other = 1 - position;
                let maps = [maps[position], maps[other]];
                kernels::multiply_grad(arch, maps, grad_output, self.input(op, other), grad_input);
            }
            Kernel::Activation(_) | Kernel::FrozenNorm { .. } => unreachable!("they work in place"),
            Kernel::BatchNorm2d { .. } | Kernel::GroupNorm(_) | Kernel::Fallback(_) => {
                unreachable!("they go their own ways")
            }
        }
    }
}

/// Scale and offset of each channel by a batch normalisation's running statistics.
fn running_affine(op: &Op, params: &[Vec<f32>], eps: f32) -> [Vec<f32>; 2] {
    let [weight, bias, mean, var] = op.params[..] else {
        unreachable!("a batch normalisation has four parameters")
    };
    let [weight, bias, mean, var] = [weight, bias, mean, var].map(|param| &params[param]);
    let scale: Vec<f32> = weight.iter().zip(var).map(|(w, v)| w / (v + eps).sqrt()).collect();
    let offset = bias.iter().zip(mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
    [scale, offset]
}

/// The first parameter of an operation; none if it has no parameters.
fn weight_of<'a>(op: &Op, params: &'a [Vec<f32>]) -> &'a [f32] {
    op.params.first().map_or(&[], |&weight| &params[weight])
}
