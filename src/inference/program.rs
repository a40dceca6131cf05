//! Operators as a device without libraries computes them: no step but those that change numbers. Batch normalisations are
//! convolutions or parts of them, rectifiers are limits of what comes before them, and reshaping is left to the reader.

use super::fold::{affine, scale_weights};
use super::{Kind, Op, Value};
use crate::error::Result;
use crate::layers::Activation;
use crate::layers::window::{Conv, Pool};
use crate::model::Model;
use crate::normalization::Normalization;
use crate::tensor::{Shape, Tensor};

/// A network as steps in the order of their computation; the last one makes the logits.
#[derive(Debug)]
pub(crate) struct Program {
    /// Shape of an image. Only convolutions read it, and those that see it flattened if it has one channel.
    pub(crate) input: Shape,
    pub(crate) normalization: Normalization,
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug)]
pub(crate) struct Step {
    /// The layer's name.
    pub(crate) name: String,
    pub(crate) compute: Compute,
    /// Of what a convolution makes only the largest value of each of these windows is kept.
    pub(crate) maximum: Option<Pool>,
    pub(crate) inputs: Vec<Value>,
    /// Shapes in which it sees its inputs: each has as many values as were made, in the same order.
    pub(crate) shapes: Vec<Shape>,
    pub(crate) output: Shape,
    /// For each channel of the output, smallest and largest value: what is beyond becomes these.
    pub(crate) limits: Option<Vec<[f64; 2]>>,
}

#[derive(Debug)]
pub(crate) enum Compute {
    Conv(Filter),
    /// A function without parameters.
    Activation(Activation),
    /// A rectifier with a slope for each channel.
    Prelu(Vec<f32>),
    GroupNorm {
        groups: usize,
        eps: f32,
        weight: Vec<f32>,
        bias: Vec<f32>,
    },
    MaxPool(Pool),
    AvgPool(Pool),
    Add,
    Concat,
    Multiply,
}

/// A convolution, whose sums are scaled for each channel before the bias is added: layers that share weights still do.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) sizes: Conv,
    pub(crate) weight: Vec<f32>,
    pub(crate) scale: Vec<f64>,
    pub(crate) bias: Vec<f64>,
}

impl Filter {
    /// `scale` · x + `bias`, channel by channel.
    fn pointwise(shape: Shape, affine: &[[f64; 2]]) -> Self {
        let sizes = Conv {
            input: shape,
            output: shape,
            kernel: [1, 1],
            stride: 1,
            padding: [0; 4],
            dilation: [1, 1],
            groups: shape.channels,
        };
        Self {
            sizes,
            weight: vec![1.0; shape.channels],
            scale: affine.iter().map(|[scale, _]| *scale).collect(),
            bias: affine.iter().map(|[_, shift]| *shift).collect(),
        }
    }
}

/// What an operator becomes.
enum Lowered {
    Step(Compute),
    /// Its input, perhaps in another shape.
    Same,
    /// [scale, shift] for each channel.
    Affine(Vec<[f64; 2]>),
    /// A rectifier, and the smallest and the largest value that it lets through.
    Rectifier(Activation, [f64; 2]),
}

impl Program {
    /// The steps of a network with these weights, in the order of [`Model::params`].
    ///
    /// # Errors
    /// A kind of layer for which `reader`, such as "the C export", has no step.
    pub(crate) fn new(
        model: &Model,
        weights: &[Tensor],
        normalization: &Normalization,
        reader: &str,
    ) -> Result<Self> {
        let ops = super::ops(model, weights, reader)?;
        let origins = origins(&ops);
        let readers = readers(&ops, &origins);
        let mut draft = Draft { steps: Vec::new(), made: Vec::new(), origins, readers };
        for (index, op) in ops.into_iter().enumerate() {
            draft.add(index, op, model.input);
        }
        draft.absorb_forward();
        draft.absorb_maxima();
        let mut program =
            Self { input: model.input, normalization: normalization.clone(), steps: draft.steps };
        program.add_copies();
        Ok(program)
    }

    /// Multiply-adds of all convolutions, for one image.
    pub(crate) fn multiply_adds(&self) -> usize {
        let of = |step: &Step| match &step.compute {
            Compute::Conv(filter) => {
                let window = step.maximum.map_or(1, |pool| pool.kernel[0] * pool.kernel[1]);
                step.output.len() * window * filter.sizes.filter()
            }
            _ => 0,
        };
        self.steps.iter().map(of).sum()
    }

    /// Copies an image that any step but a convolution reads, or that has several channels and is read in another shape; and
    /// what the last step made, if need be.
    fn add_copies(&mut self) {
        // The last step makes logits of any size, which what only picks or looks up cannot.
        if let Some(last) = self.steps.last()
            && matches!(last.compute, Compute::MaxPool(_) | Compute::Activation(_))
        {
            let (made, shape) = (Value::Made(self.steps.len() - 1), last.output);
            let copy = Filter::pointwise(shape, &vec![[1.0, 0.0]; shape.channels]);
            // No layer can be called loss or input.
            self.steps.push(Step::new("loss", Compute::Conv(copy), vec![made], vec![shape]));
        }
        let fits = |step: &Step| {
            let is_conv = matches!(step.compute, Compute::Conv(_));
            is_conv && (self.input.channels == 1 || step.shapes[0] == self.input)
        };
        let reads = |step: &&Step| step.inputs.contains(&Value::Image);
        if !self.steps.is_empty() && self.steps.iter().filter(reads).all(fits) {
            return;
        }
        for input in self.steps.iter_mut().flat_map(|step| &mut step.inputs) {
            *input = match *input {
                Value::Image => Value::Made(0),
                Value::Made(step) => Value::Made(step + 1),
            };
        }
        let copy = Filter::pointwise(self.input, &vec![[1.0, 0.0]; self.input.channels]);
        self.steps.insert(0, Step::new("input", Compute::Conv(copy), vec![Value::Image], vec![self.input]));
    }
}

/// For each operator, the one whose values it passes on: itself, unless it does nothing.
fn origins(ops: &[Op]) -> Vec<usize> {
    let mut origins: Vec<usize> = Vec::new();
    for (index, op) in ops.iter().enumerate() {
        origins.push(match (&op.kind, op.inputs[0]) {
            (Kind::Nothing | Kind::Reshape, Value::Made(made)) => origins[made],
            _ => index,
        });
    }
    origins
}

/// For each operator, how many read its values and do something with them.
fn readers(ops: &[Op], origins: &[usize]) -> Vec<usize> {
    let mut readers = vec![0; ops.len()];
    for op in ops.iter().filter(|op| !matches!(op.kind, Kind::Nothing | Kind::Reshape)) {
        for input in &op.inputs {
            if let Value::Made(made) = *input {
                readers[origins[made]] += 1;
            }
        }
    }
    readers
}

struct Draft {
    steps: Vec<Step>,
    /// For each operator so far, what it made and in which shape.
    made: Vec<(Value, Shape)>,
    origins: Vec<usize>,
    readers: Vec<usize>,
}

impl Step {
    fn new(name: &str, compute: Compute, inputs: Vec<Value>, shapes: Vec<Shape>) -> Self {
        let output = shapes[0];
        Self { name: name.into(), compute, maximum: None, inputs, shapes, output, limits: None }
    }

    /// Scales and shifts what the step makes, if it can.
    fn scale(&mut self, affine: &[[f64; 2]]) -> bool {
        let Compute::Conv(filter) = &mut self.compute else { return false };
        for ((scale, bias), [factor, shift]) in filter.scale.iter_mut().zip(&mut filter.bias).zip(affine) {
            *scale *= factor;
            *bias = factor * *bias + shift;
        }
        for (limits, [factor, shift]) in self.limits.iter_mut().flatten().zip(affine) {
            // 0 · ∞ is no number.
            let moved = limits.map(|limit| if *factor == 0.0 { *shift } else { factor * limit + shift });
            *limits = if *factor < 0.0 { [moved[1], moved[0]] } else { moved };
        }
        true
    }

    /// Limits what the step makes, if it can.
    fn limit(&mut self, [low, high]: [f64; 2]) -> bool {
        if !matches!(
            self.compute,
            Compute::Conv(_)
                | Compute::Add
                | Compute::Multiply
                | Compute::AvgPool(_)
                | Compute::GroupNorm { .. }
        ) {
            return false;
        }
        let unlimited = || vec![[f64::NEG_INFINITY, f64::INFINITY]; self.output.channels];
        for limits in self.limits.get_or_insert_with(unlimited) {
            *limits = limits.map(|limit| limit.clamp(low, high));
        }
        true
    }
}

impl Draft {
    fn add(&mut self, index: usize, op: Op, image: Shape) {
        let source = |value: &Value| match *value {
            Value::Image => (Value::Image, image),
            Value::Made(op) => self.made[op],
        };
        let (inputs, shapes): (Vec<Value>, Vec<Shape>) = op.inputs.iter().map(source).unzip();
        // The step that a part of this operator can become a part of: nobody else reads what it makes, in this shape.
        let before = match (op.inputs[0], inputs[0]) {
            (Value::Made(made), Value::Made(step))
                if self.readers[self.origins[made]] == 1 && self.steps[step].output == shapes[0] =>
            {
                Some(step)
            }
            _ => None,
        };
        let value = match lower(op.kind, &op.output) {
            Lowered::Same => inputs[0],
            Lowered::Affine(affine) => match before {
                Some(step) if self.steps[step].scale(&affine) => inputs[0],
                _ => {
                    let filter = Filter::pointwise(op.output, &affine);
                    self.push(Step::new(&op.name, Compute::Conv(filter), inputs, shapes))
                }
            },
            Lowered::Rectifier(function, limits) => match before {
                Some(step) if self.steps[step].limit(limits) => inputs[0],
                _ => self.push(Step::new(&op.name, Compute::Activation(function), inputs, shapes)),
            },
            Lowered::Step(compute) => {
                let step = Step { output: op.output, ..Step::new(&op.name, compute, inputs, shapes) };
                self.push(step)
            }
        };
        debug_assert_eq!(self.made.len(), index);
        self.made.push((value, op.output));
    }

    fn push(&mut self, step: Step) -> Value {
        self.steps.push(step);
        Value::Made(self.steps.len() - 1)
    }

    /// What scales the input of a single convolution without padding becomes a part of that.
    fn absorb_forward(&mut self) {
        let mut at = 0;
        while at < self.steps.len() {
            let reads = |step: &Step| step.inputs.iter().filter(|input| **input == Value::Made(at)).count();
            let mut readers = (at + 1..self.steps.len()).filter(|&step| reads(&self.steps[step]) > 0);
            let reader = match (readers.next(), readers.next()) {
                (Some(reader), None) => reader,
                _ => {
                    at += 1;
                    continue;
                }
            };
            let (before, after) = self.steps.split_at_mut(reader);
            if absorb(&before[at], &mut after[0]) {
                let source = before[at].inputs[0];
                self.remove(at, source);
            } else {
                at += 1;
            }
        }
    }

    /// A maximum that sees each value of a convolution once at most becomes a part of that, if no more rows must then be kept
    /// of what the convolution reads than are saved of what it makes.
    fn absorb_maxima(&mut self) {
        let mut at = 0;
        while at < self.steps.len() {
            let is_last = at + 1 == self.steps.len();
            match (&self.steps[at].compute, self.steps[at].inputs[0]) {
                (&Compute::MaxPool(pool), Value::Made(before))
                    if !is_last && self.can_end_in(before, &pool) =>
                {
                    debug_assert!(self.steps[at].limits.is_none(), "it only picks");
                    let step = &mut self.steps[before];
                    (step.maximum, step.output) = (Some(pool), pool.output);
                    self.remove(at, Value::Made(before));
                }
                _ => at += 1,
            }
        }
    }

    /// True if a maximum over what a step makes, which reads it, can be a part of it.
    fn can_end_in(&self, step: usize, pool: &Pool) -> bool {
        let readers =
            self.steps.iter().flat_map(|step| &step.inputs).filter(|input| **input == Value::Made(step));
        let Step { compute: Compute::Conv(filter), maximum: None, inputs, output, .. } = &self.steps[step]
        else {
            return false;
        };
        let is_apart = (0..2).all(|axis| pool.stride[axis] >= pool.kernel[axis]) && pool.padding == 0;
        let read = filter.sizes.input;
        let more = match inputs[0] {
            Value::Image => 0,
            Value::Made(_) => (pool.kernel[0] - 1) * filter.sizes.stride * read.channels * read.width,
        };
        is_apart
            && *output == pool.input
            && readers.count() == 1
            && more <= pool.kernel[0] * output.channels * output.width
    }

    /// Takes a step out; who read it reads `source`.
    fn remove(&mut self, at: usize, source: Value) {
        self.steps.remove(at);
        for input in self.steps.iter_mut().flat_map(|step| &mut step.inputs) {
            *input = match *input {
                Value::Made(step) if step == at => source,
                Value::Made(step) if step > at => Value::Made(step - 1),
                other => other,
            };
        }
    }
}

/// Moves a pointwise scaling into the convolution that reads it. True if it fits.
fn absorb(scaling: &Step, reader: &mut Step) -> bool {
    let (Compute::Conv(scaling_filter), None) = (&scaling.compute, &scaling.limits) else { return false };
    let is_pointwise = scaling_filter.sizes.is_pointwise() && scaling_filter.sizes.filter() == 1;
    let depth = scaling_filter.sizes.groups == scaling.output.channels;
    let Compute::Conv(filter) = &mut reader.compute else { return false };
    if !(is_pointwise && depth) || filter.sizes.padding != [0; 4] || reader.shapes[0] != scaling.output {
        return false;
    }
    let Filter { weight, scale, bias, .. } = scaling_filter;
    let channel = |c: usize| [f64::from(weight[c]) * scale[c], bias[c]];
    let affine: Vec<[f64; 2]> = (0..weight.len()).map(channel).collect();
    let shifts = scale_weights(&filter.sizes, &mut filter.weight, &affine);
    for ((bias, scale), shift) in filter.bias.iter_mut().zip(&filter.scale).zip(shifts) {
        *bias += scale * shift;
    }
    true
}

fn lower(kind: Kind, output: &Shape) -> Lowered {
    if let Some(affine) = affine(&kind) {
        return Lowered::Affine(affine);
    }
    Lowered::Step(match kind {
        Kind::Nothing | Kind::Reshape => return Lowered::Same,
        Kind::Activation { function: function @ Activation::LeakyRelu { slope: 0.0 }, .. } => {
            return Lowered::Rectifier(function, [0.0, f64::INFINITY]);
        }
        Kind::Activation { function: function @ Activation::Relu6, .. } => {
            return Lowered::Rectifier(function, [0.0, 6.0]);
        }
        Kind::Activation { function: Activation::Prelu, slopes } => match slopes[..] {
            [slope] => Compute::Activation(Activation::LeakyRelu { slope }),
            _ => Compute::Prelu(slopes),
        },
        Kind::Activation { function, .. } => Compute::Activation(function),
        Kind::Conv { sizes, weight, bias } => {
            let bias =
                bias.map_or(vec![0.0; output.channels], |bias| bias.into_iter().map(f64::from).collect());
            Compute::Conv(Filter { sizes, weight, scale: vec![1.0; output.channels], bias })
        }
        Kind::BatchNorm { .. } => unreachable!("it is affine"),
        Kind::GroupNorm { groups, eps, weight, bias } => Compute::GroupNorm { groups, eps, weight, bias },
        Kind::MaxPool(pool) => Compute::MaxPool(pool),
        Kind::AvgPool { pool, .. } => Compute::AvgPool(pool),
        Kind::Add => Compute::Add,
        Kind::Concat => Compute::Concat,
        Kind::Multiply => Compute::Multiply,
    })
}
