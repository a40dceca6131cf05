//! A step as a C function that makes one row of its output: the loops, which are the same for all kinds of numbers.

use std::collections::BTreeSet;

use super::schedule::{Buffer, Schedule};
use super::text::{Code, Constants, product, sum};
use super::{CSize, Form, arguments};
use crate::inference::{Compute, Filter, Step, Value};
use crate::layers::window::{Axis, Pool};
use crate::tensor::Shape;

/// Writes the functions of all steps.
pub(super) struct Writer<'a> {
    pub(super) form: Form<'a>,
    schedule: &'a Schedule,
    pub(super) constants: Constants,
    pub(super) functions: Code,
    pub(super) helpers: BTreeSet<Helper>,
}

/// A function that several steps call; each is written once, and only if it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Helper {
    Limit,
    Enlarge,
    Rescale,
    Root,
    /// A function of a `float` by its name in C.
    Function(&'static str),
}

/// Where values are, in C.
#[derive(Debug, Clone)]
pub(super) struct Place {
    base: String,
    /// Seen as this.
    pub(super) shape: Shape,
    layout: Layout,
}

#[derive(Debug, Clone, Copy)]
enum Layout {
    /// Pixel by pixel.
    Image,
    /// Map by map, of this many rows each.
    Maps(usize),
}

impl Place {
    /// The value in row `y` and column `x` of channel `c`.
    pub(super) fn at(&self, c: &str, y: &str, x: &str) -> String {
        let Shape { channels, height, width } = self.shape;
        let index = match self.layout {
            Layout::Image => sum(&product(&sum(&product(y, width), x), channels), c),
            Layout::Maps(rows) => {
                let y = match rows {
                    1 => "0".to_owned(),
                    _ if rows == height || y == "0" => y.to_owned(),
                    _ if y.contains(' ') => format!("({y}) % {rows}"),
                    _ => format!("{y} % {rows}"),
                };
                sum(&product(&sum(&product(c, rows), &y), width), x)
            }
        };
        format!("{}[{index}]", self.base)
    }

    pub(super) fn is_image(&self) -> bool {
        matches!(self.layout, Layout::Image)
    }
}

impl<'a> Writer<'a> {
    /// With the functions of all steps.
    pub(super) fn written(form: Form<'a>, schedule: &'a Schedule) -> Self {
        let mut writer = Self {
            form,
            schedule,
            constants: Constants::default(),
            functions: Code::default(),
            helpers: BTreeSet::new(),
        };
        for step in 0..form.program().steps.len() {
            writer.step(step);
        }
        writer
    }

    pub(super) fn size(&self) -> CSize {
        CSize {
            constant_bytes: self.constants.bytes,
            arena_bytes: self.schedule.size * self.form.element().1,
            multiply_adds: self.form.program().multiply_adds(),
        }
    }

    /// Writes the function of a step.
    fn step(&mut self, at: usize) {
        let steps = &self.form.program().steps;
        let step = &steps[at];
        let is_last = at + 1 == steps.len();
        let inputs: Vec<Place> =
            step.inputs.iter().zip(&step.shapes).map(|(value, &shape)| self.place(value, shape)).collect();
        let output = if is_last {
            Place { base: "logits".into(), shape: step.output, layout: Layout::Maps(1) }
        } else {
            self.place(&Value::Made(at), step.output)
        };
        let pixels = "const uint8_t *pixels";
        let logits = format!("{} *logits", self.form.logit());
        let parameters =
            arguments(is_last, step, "int32_t y").replace("pixels", pixels).replace("logits", &logits);
        let parameters = if parameters.is_empty() { "void".into() } else { parameters };
        let shapes: Vec<String> = step.shapes.iter().map(Shape::to_string).collect();
        self.functions.line(format_args!(
            "\n/* {}: {}, {} -> {} */",
            step.name,
            what(step),
            shapes.join(", "),
            step.output
        ));
        self.functions.line(format_args!("static void row_{}({parameters})\n{{", step.name));
        let body = self.functions.text.len();
        let y = if step.output.height > 1 { "y" } else { "0" };
        match &step.compute {
            Compute::Conv(filter) => self.conv(at, filter, step.maximum.as_ref(), &inputs[0], &output, y),
            Compute::MaxPool(pool) | Compute::AvgPool(pool) => self.pool(at, pool, &inputs[0], &output, y),
            Compute::Concat => self.concat(at, &inputs, &output, y),
            Compute::GroupNorm { groups, .. } => self.group_norm(at, *groups, &inputs[0], &output),
            Compute::Activation(_) | Compute::Prelu(_) | Compute::Add | Compute::Multiply => {
                let c = self.functions.each("c", step.output.channels);
                let x = self.functions.each("x", step.output.width);
                let values: Vec<String> = inputs
                    .iter()
                    .map(|input| match input.shape == step.output {
                        true => input.at(&c, y, &x),
                        false => input.at(&c, "0", "0"),
                    })
                    .collect();
                self.pointwise(at, &values, &c, &output.at(&c, y, &x));
            }
        }
        // Where one row is kept of each map, there is no need to say which.
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let reads_row = self.functions.text[body..].split(|c| !is_name(c)).any(|word| word == "y");
        self.functions.end_to(1);
        if parameters.ends_with("int32_t y") && !reads_row {
            self.functions.line("(void)y;");
        }
        self.functions.end_to(0);
    }

    fn place(&self, value: &Value, shape: Shape) -> Place {
        match *value {
            Value::Image => Place { base: "pixels".into(), shape, layout: Layout::Image },
            Value::Made(step) => {
                let made = &self.form.program().steps[step];
                let Buffer { rows, .. } = self.schedule.buffers[step];
                // Seen in another shape it is whole.
                let rows = if made.output == shape { rows } else { shape.height };
                Place { base: format!("out_{}", made.name), shape, layout: Layout::Maps(rows) }
            }
        }
    }

    fn conv(
        &mut self,
        at: usize,
        filter: &Filter,
        maximum: Option<&Pool>,
        input: &Place,
        output: &Place,
        y: &str,
    ) {
        let sizes = &filter.sizes;
        let (group_in, group_out) = (sizes.group_in(), sizes.group_out());
        let [rows, columns] = sizes.axes();
        let terms = self.conv_constants(at, filter, input);
        let o = self.functions.each("o", sizes.output.channels);
        let x = self.functions.each("x", output.shape.width);
        let place = output.at(&o, y, &x);
        let all = self.functions.depth();
        // Row and column of what the convolution makes.
        let (y, x) = match maximum {
            Some(pool) => {
                let begin = self.pool_begin(true);
                self.functions.line(begin);
                let [down, across] = pool.axes();
                (self.tap("v", "", &down, y).1, self.tap("u", "", &across, &x).1)
            }
            None => (y.into(), x),
        };
        let outer = self.functions.depth();
        self.functions.line(format_args!("{} sum = {}[{o}];", terms.kind, terms.bias));
        let c = self.functions.each("c", group_in);
        let group = match group_out {
            1 => o.clone(),
            _ if sizes.groups == 1 => "0".into(),
            _ => format!("{o} / {group_out}"),
        };
        let channel = sum(&product(&group, group_in), &c);
        let (i, row) = self.tap("i", "row", &rows, &y);
        let (j, column) = self.tap("j", "column", &columns, &x);
        let weight = sum(
            &product(&sum(&product(&o, group_in), &c), sizes.taps()),
            &sum(&product(&i, sizes.kernel[1]), &j),
        );
        let value = input.at(&channel, &row, &column);
        let product = terms.product(&format!("{}[{weight}]", terms.weight), &value, &channel);
        self.functions.line(format_args!("sum += {product};"));
        self.functions.end_to(outer);
        if maximum.is_none() {
            return self.finish(at, "sum", &o, &place);
        }
        let (element, _) = self.form.element();
        self.functions.line(format_args!("{element} value;"));
        self.finish(at, "sum", &o, "value");
        self.functions.line("if (value > best)");
        self.functions.line("    best = value;");
        self.functions.end_to(all);
        self.functions.line(format_args!("{place} = best;"));
    }

    /// Begins the loop over a window's taps along an axis; what is in the padding is skipped. Returns tap and coordinate.
    fn tap(&mut self, tap: &str, name: &str, axis: &Axis, out: &str) -> (String, String) {
        let variable = self.functions.each(tap, axis.kernel);
        let padded = sum(&product(out, axis.stride), &product(&variable, axis.dilation));
        let before = axis.padding[0];
        let outputs = axis.output().expect("it was checked");
        let is_after = (outputs - 1) * axis.stride + axis.reach() > axis.input + before;
        if before == 0 && !is_after {
            return (variable, padded);
        }
        let coordinate = if before == 0 { padded } else { format!("{padded} - {before}") };
        self.functions.line(format_args!("const int32_t {name} = {coordinate};"));
        let mut conditions = Vec::new();
        if before > 0 {
            conditions.push(format!("{name} < 0"));
        }
        if is_after {
            conditions.push(format!("{name} >= {}", axis.input));
        }
        let skips = conditions.join(" || ");
        // A single tap has no loop to continue.
        match axis.kernel {
            1 => self.functions.line(format_args!("if (!({skips})) {{")),
            _ => self.functions.line(format_args!(
                "if ({skips})\n{:1$}continue;",
                "",
                4 * self.functions.depth() + 4
            )),
        }
        (variable, name.into())
    }

    fn pool(&mut self, at: usize, pool: &Pool, input: &Place, output: &Place, y: &str) {
        let [rows, columns] = pool.axes();
        let is_maximum = matches!(self.form.program().steps[at].compute, Compute::MaxPool(_));
        let c = self.functions.each("c", output.shape.channels);
        let x = self.functions.each("x", output.shape.width);
        let outer = self.functions.depth();
        let begin = self.pool_begin(is_maximum);
        self.functions.line(begin);
        let (_, row) = self.tap("i", "row", &rows, y);
        let (_, column) = self.tap("j", "column", &columns, &x);
        let value = input.at(&c, &row, &column);
        if is_maximum {
            let (element, _) = self.form.element();
            self.functions.line(format_args!("const {element} value = {value};"));
            self.functions.line("if (value > best)");
            self.functions.line("    best = value;");
            self.functions.end_to(outer);
            self.functions.line(format_args!("{} = best;", output.at(&c, y, &x)));
        } else {
            self.average_term(at, &value);
            self.functions.end_to(outer);
            self.average_end(at, pool, &c, &output.at(&c, y, &x));
        }
    }

    fn concat(&mut self, at: usize, inputs: &[Place], output: &Place, y: &str) {
        let mut first = 0;
        for (position, input) in inputs.iter().enumerate() {
            let c = self.functions.each("c", input.shape.channels);
            let x = self.functions.each("x", input.shape.width);
            let channel = sum(&c, &first.to_string());
            self.copy(at, position, &input.at(&c, y, &x), &channel, &output.at(&channel, y, &x));
            self.functions.end_to(1);
            first += input.shape.channels;
        }
    }

    /// Adds a helper and those that it needs.
    pub(super) fn need(&mut self, helper: Helper) {
        if matches!(helper, Helper::Enlarge) {
            self.helpers.insert(Helper::Limit);
        }
        self.helpers.insert(helper);
    }
}

/// Constants of a convolution, and how a weight and a value are multiplied.
pub(super) struct Terms {
    /// C's type of the sum.
    pub(super) kind: &'static str,
    pub(super) bias: String,
    pub(super) weight: String,
    /// What is subtracted from each value.
    pub(super) zero: Zero,
    /// The type to which values are converted before anything else.
    pub(super) cast: &'static str,
}

pub(super) enum Zero {
    None,
    /// The same for all.
    One(String),
    /// An array with one for each channel.
    Each(String),
}

impl Terms {
    fn product(&self, weight: &str, value: &str, channel: &str) -> String {
        let value = format!("{}{value}", self.cast);
        match &self.zero {
            Zero::None => format!("{weight} * {value}"),
            Zero::One(zero) => match zero.strip_prefix('-') {
                Some(positive) => format!("{weight} * ({value} + {positive})"),
                None => format!("{weight} * ({value} - {zero})"),
            },
            Zero::Each(array) => format!("{weight} * ({value} - {array}[{channel}])"),
        }
    }
}

/// What a step does, in words.
fn what(step: &Step) -> String {
    let side = |sides: [usize; 2]| format!("{}x{}", sides[0], sides[1]);
    let maximum = |pool: &Pool| format!("maximum of {}, stride {}", side(pool.kernel), side(pool.stride));
    match &step.compute {
        Compute::Conv(filter) => {
            let sizes = &filter.sizes;
            let mut text = format!("convolution {}", side(sizes.kernel));
            if sizes.stride > 1 {
                text += &format!(", stride {}", sizes.stride);
            }
            if sizes.padding != [0; 4] {
                text += &format!(", padding {:?}", sizes.padding);
            }
            if sizes.dilation != [1, 1] {
                text += &format!(", dilation {}", side(sizes.dilation));
            }
            if sizes.groups > 1 {
                text += &format!(", {} groups", sizes.groups);
            }
            if let Some(pool) = &step.maximum {
                text += &format!(", {}", maximum(pool));
            }
            text
        }
        Compute::Activation(function) => {
            match serde_json::to_value(function).expect("plain values are JSON")["function"].as_str() {
                Some(name) => name.to_owned(),
                None => unreachable!("it is tagged"),
            }
        }
        Compute::Prelu(_) => "prelu".into(),
        Compute::GroupNorm { groups, .. } => format!("normalisation of {groups} groups"),
        Compute::MaxPool(pool) => maximum(pool),
        Compute::AvgPool(pool) => format!("mean of {}, stride {}", side(pool.kernel), side(pool.stride)),
        Compute::Add => "sum".into(),
        Compute::Concat => "concatenation".into(),
        Compute::Multiply => "product".into(),
    }
}

/// The steps of a form of numbers. Each writes into the function that is open.
impl Writer<'_> {
    fn conv_constants(&mut self, at: usize, filter: &Filter, input: &Place) -> Terms {
        match self.form {
            Form::Float(program) => self.float_conv(program, &program.steps[at].name, filter, input),
            Form::Whole(net) => self.whole_conv(net, at),
        }
    }

    /// Writes a sum of channel `c` to its place.
    fn finish(&mut self, at: usize, sum: &str, c: &str, place: &str) {
        match self.form {
            Form::Float(program) => self.float_finish(&program.steps[at], sum, c, place),
            Form::Whole(net) => self.whole_finish(net, at, sum, c, place),
        }
    }

    fn pointwise(&mut self, at: usize, values: &[String], c: &str, place: &str) {
        match self.form {
            Form::Float(program) => self.float_pointwise(&program.steps[at], values, c, place),
            Form::Whole(net) => self.whole_pointwise(net, at, values, c, place),
        }
    }

    fn pool_begin(&self, is_maximum: bool) -> &'static str {
        match (self.form, is_maximum) {
            (Form::Float(_), true) => "float best = -3.4028235e38f;",
            (Form::Float(_), false) => "float sum = 0.0f;",
            (Form::Whole(_), true) => "int8_t best = -128;",
            (Form::Whole(_), false) => "int32_t sum = 0;",
        }
    }

    fn average_term(&mut self, at: usize, value: &str) {
        match self.form {
            Form::Float(_) => self.functions.line(format_args!("sum += {value};")),
            Form::Whole(net) => self.whole_average_term(net, at, value),
        }
    }

    fn average_end(&mut self, at: usize, pool: &Pool, c: &str, place: &str) {
        match self.form {
            Form::Float(program) => {
                let share = super::text::float(1.0 / (pool.kernel[0] * pool.kernel[1]) as f32);
                self.functions.line(format_args!("sum *= {share};"));
                self.float_finish(&program.steps[at], "sum", c, place);
            }
            Form::Whole(net) => self.whole_average_end(net, at, c, place),
        }
    }

    fn copy(&mut self, at: usize, position: usize, value: &str, c: &str, place: &str) {
        match self.form {
            Form::Float(_) => self.functions.line(format_args!("{place} = {value};")),
            Form::Whole(net) => self.whole_copy(net, at, position, value, c, place),
        }
    }

    fn group_norm(&mut self, at: usize, groups: usize, input: &Place, output: &Place) {
        match self.form {
            Form::Float(program) => self.float_group_norm(&program.steps[at], groups, input, output),
            Form::Whole(net) => self.whole_group_norm(net, at, groups, input, output),
        }
    }

    /// The name of an array of a step's constants.
    pub(super) fn name(&self, of: &str, step: &Step) -> String {
        format!("{of}_{}", step.name)
    }
}
