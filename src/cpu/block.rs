//! Sixteen images on their way through a net: their activations, and their share of every sum.

use std::ops::Range;

use super::fallback;
use super::kernels::{self, BatchNormGrad, Buffer, LANES};
use super::loss;
use super::net::Net;
use super::program::{Kernel, Op, Program};

#[derive(Debug)]
pub(super) struct Block {
    /// Position in the batch of the first image.
    pub(super) first_image: usize,
    /// Images of the batch in this block.
    pub(super) valid: usize,
    pub(super) targets: [u8; LANES],
    pub(super) loss_sum: f32,
    pub(super) correct: usize,
    /// One for each activation of the net; the first holds the images.
    activations: Vec<Buffer>,
    /// The gradient of the activation that the backward pass has reached, and room for the next one.
    grad: Buffer,
    next_grad: Buffer,
    /// This block's part of every gradient.
    pub(super) grads: Vec<f32>,
    /// Sums of each batch normalisation, by channel: forward around `shifts`, backward of g and g·x̂.
    pub(super) sums: Vec<Vec<[f64; 2]>>,
    pub(super) shifts: Vec<Vec<f32>>,
}

impl Block {
    /// A block whose first image has this position in the batch.
    pub(super) fn new(program: &Program, first_image: usize, training: bool) -> Self {
        let largest = if training { program.largest() } else { 0 };
        let per_channel = || program.batch_norms.iter().map(|&(channels, _)| channels);
        Self {
            first_image,
            valid: LANES,
            targets: [0; LANES],
            loss_sum: 0.0,
            correct: 0,
            activations: program.buffers.iter().map(|values| Buffer::new(values * LANES)).collect(),
            grad: Buffer::new(largest),
            next_grad: Buffer::new(largest),
            grads: vec![0.0; if training { program.grad_len() } else { 0 }],
            sums: per_channel().map(|channels| vec![[0.0; 2]; channels]).collect(),
            shifts: per_channel().map(|channels| vec![0.0; channels]).collect(),
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

    /// Runs `op` from its input to its output buffer.
    fn apply(&mut self, op: &Op, run: impl FnOnce(&Self, &[f32], &mut [f32])) {
        let mut output = std::mem::take(&mut self.activations[op.output]);
        run(self, self.activations[op.input].values(), output.values_mut());
        self.activations[op.output] = output;
    }

    fn forward_op(&mut self, program: &Program, params: &[Vec<f32>], op: &Op) {
        let arch = program.arch;
        if let Kernel::LeakyRelu { slope } = op.kernel {
            if op.output != op.input {
                self.apply(op, |_, input, output| output.copy_from_slice(input));
            }
            return kernels::leaky_relu(arch, slope, self.activations[op.output].values_mut());
        }
        self.apply(op, |_, input, output| match &op.kernel {
            Kernel::Conv2d(dims) => {
                let bias = op.params.get(1).map(|&bias| params[bias].as_slice());
                kernels::conv2d_forward(arch, dims, input, &params[op.params[0]], bias, output);
            }
            Kernel::MaxPool2d(dims) => kernels::max_pool2d(arch, dims, input, output),
            Kernel::AvgPool2d(dims) => kernels::avg_pool2d(arch, dims, input, output),
            Kernel::LeakyRelu { .. }
            | Kernel::BatchNorm2d { .. }
            | Kernel::Dropout { .. }
            | Kernel::Fallback { .. } => {
                unreachable!("it works in place, and these differ between training and evaluation")
            }
        });
    }

    /// Training forward through a phase; ends with the sums that the batch normalisation behind it needs.
    pub(super) fn forward(&mut self, program: &Program, net: &Net, phase: Range<usize>, step: u32) {
        let arch = program.arch;
        for op in &program.ops[phase.clone()] {
            match &op.kernel {
                Kernel::BatchNorm2d { number, .. } => {
                    let batch = &net.batch_norms[*number];
                    self.apply(op, |_, input, output| {
                        kernels::batch_norm_apply(arch, input, &batch.scale, &batch.offset, output);
                    });
                }
                Kernel::Dropout { number } => {
                    let (rate, key) = net.dropout(*number, op.layer);
                    self.apply(op, |block, input, output| {
                        kernels::dropout(arch, rate, key, step, block.first_image as u32, input, output);
                    });
                }
                Kernel::Fallback { layer, input: shape, .. } => {
                    let context =
                        fallback::context(net.replica().seed, step, op.layer, self.first_image, true);
                    self.apply(op, |_, input, output| {
                        fallback::forward(layer.as_ref(), *shape, net.named(op), &context, input, output);
                    });
                }
                _ => self.forward_op(program, &net.params, op),
            }
        }
        // The phases end with the batch normalisations, in order.
        let next = program.batch_norms.binary_search_by_key(&phase.end, |&(_, op)| op);
        if let Ok(number) = next {
            let input = self.activations[program.ops[phase.end].input].values();
            let shifts = &mut self.shifts[number];
            let plane = input.len() / shifts.len();
            for (c, shift) in shifts.iter_mut().enumerate() {
                *shift = input[c * plane];
            }
            kernels::batch_norm_sums(arch, input, shifts, self.valid, &mut self.sums[number]);
        }
    }

    /// The whole net with running statistics and without dropout, then loss and hits.
    pub(super) fn evaluate(&mut self, program: &Program, net: &Net, averaged: bool) {
        let params = net.weights(averaged);
        for op in &program.ops {
            match &op.kernel {
                Kernel::BatchNorm2d { eps, .. } => {
                    let [weight, bias, mean, var] = op.params[..] else {
                        unreachable!("a batch normalisation has four parameters")
                    };
                    let [weight, bias, mean, var] = [weight, bias, mean, var].map(|param| &params[param]);
                    let scale: Vec<f32> = weight.iter().zip(var).map(|(w, v)| w / (v + eps).sqrt()).collect();
                    let offset: Vec<f32> =
                        bias.iter().zip(mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
                    self.apply(op, |_, input, output| {
                        kernels::batch_norm_apply(program.arch, input, &scale, &offset, output);
                    });
                }
                Kernel::Dropout { .. } => self.apply(op, |_, input, output| output.copy_from_slice(input)),
                Kernel::Fallback { layer, input: shape, .. } => {
                    let context = fallback::context(net.replica().seed, 0, op.layer, self.first_image, false);
                    let named = net.named_weights(op, averaged);
                    self.apply(op, |_, input, output| {
                        fallback::forward(layer.as_ref(), *shape, named, &context, input, output);
                    });
                }
                _ => self.forward_op(program, params, op),
            }
        }
        self.measure(program);
    }

    /// Loss and hits; the loss of an evaluation knows no smoothing.
    fn measure(&mut self, program: &Program) {
        let (loss_sum, correct) = loss::measure(self.logits(program), &self.targets[..self.valid], 0.0, None);
        (self.loss_sum, self.correct) = (loss_sum, correct);
    }

    /// Loss, hits and the gradient of the logits; `images` are those of the whole batch.
    pub(super) fn loss(&mut self, program: &Program, net: &Net, images: usize) {
        let mut grad = std::mem::take(&mut self.grad);
        let grad_logits = &mut grad.values_mut()[..program.classes() * LANES];
        let targets = &self.targets[..self.valid];
        let gradient = Some((&mut *grad_logits, images));
        let smoothing = net.replica().label_smoothing;
        let (loss_sum, correct) = loss::measure(self.logits(program), targets, smoothing, gradient);
        (self.loss_sum, self.correct, self.grad) = (loss_sum, correct, grad);
    }

    /// Backward through a phase, from the gradient of its output to that of its batch normalisation's output, whose sums
    /// it then takes; through the first phase, to the end.
    pub(super) fn backward(&mut self, program: &Program, net: &Net, phase: Range<usize>, step: u32) {
        for op in program.ops[phase].iter().rev() {
            if let Kernel::BatchNorm2d { number, .. } = &op.kernel {
                let batch = &net.batch_norms[*number];
                let input = self.activations[op.input].values();
                let grad = &self.grad.values()[..input.len()];
                let (mean, inv_std) = (&batch.mean, &batch.inv_std);
                let sums = &mut self.sums[*number];
                kernels::batch_norm_grad_sums(program.arch, input, grad, mean, inv_std, self.valid, sums);
            } else {
                self.backward_op(program, net, op, step);
            }
        }
    }

    /// Backward through batch normalisation `number`, whose sums are finished, then through the phase before it.
    pub(super) fn backward_normalised(
        &mut self,
        program: &Program,
        net: &Net,
        number: usize,
        phase: Range<usize>,
        step: u32,
    ) {
        let op = &program.ops[program.batch_norms[number].1];
        if op.grad_input {
            let batch = &net.batch_norms[number];
            let input = self.activations[op.input].values();
            let constants = BatchNormGrad {
                mean: &batch.mean,
                inv_std: &batch.inv_std,
                scale: &batch.scale,
                mean_grad: &batch.mean_grad,
                mean_grad_xhat: &batch.mean_grad_xhat,
            };
            let grad = &mut self.grad.values_mut()[..input.len()];
            kernels::batch_norm_grad_input(program.arch, constants, input, self.valid, grad);
            self.backward(program, net, phase, step);
        }
    }

    fn backward_op(&mut self, program: &Program, net: &Net, op: &Op, step: u32) {
        let arch = program.arch;
        let (input, output) = (self.activations[op.input].values(), self.activations[op.output].values());
        if let Kernel::LeakyRelu { slope } = op.kernel {
            return kernels::leaky_relu_grad(
                arch,
                slope,
                output,
                &mut self.grad.values_mut()[..output.len()],
            );
        }
        let grad_output = &self.grad.values()[..output.len()];
        let grad_input = &mut self.next_grad.values_mut()[..input.len()];
        match &op.kernel {
            Kernel::Conv2d(dims) => {
                let weight = &net.params[op.params[0]];
                let mut grads = op.grads.iter().flatten();
                let weights = grads.next().expect("a convolution has weights").clone();
                let (grad_weight, rest) = self.grads[weights.start..].split_at_mut(weights.len());
                let grad_bias = grads.next().map(|bias| &mut rest[..bias.len()]);
                kernels::conv2d_grad_weight(arch, dims, input, grad_output, grad_weight, grad_bias);
                if op.grad_input {
                    kernels::conv2d_grad_input(arch, dims, grad_output, weight, grad_input);
                }
            }
            Kernel::MaxPool2d(dims) => kernels::max_pool2d_grad(arch, dims, input, grad_output, grad_input),
            Kernel::AvgPool2d(dims) => kernels::avg_pool2d_grad(arch, dims, grad_output, grad_input),
            Kernel::Dropout { number } => {
                let (rate, key) = net.dropout(*number, op.layer);
                kernels::dropout(arch, rate, key, step, self.first_image as u32, grad_output, grad_input);
            }
            Kernel::Fallback { layer, input: in_shape, output: out_shape } => {
                let context = fallback::context(net.replica().seed, step, op.layer, self.first_image, true);
                let made = fallback::backward(
                    layer.as_ref(),
                    [*in_shape, *out_shape],
                    net.named(op),
                    &context,
                    [input, output, grad_output],
                    grad_input,
                );
                for ((name, _), range) in net.named(op).zip(&op.grads) {
                    if let Some(range) = range {
                        self.grads[range.clone()].copy_from_slice(&fallback::grad_of(&made, name));
                    }
                }
            }
            Kernel::LeakyRelu { .. } => unreachable!("it works in place"),
            Kernel::BatchNorm2d { .. } => unreachable!("a phase ends at a batch normalisation"),
        }
        std::mem::swap(&mut self.grad, &mut self.next_grad);
    }
}
