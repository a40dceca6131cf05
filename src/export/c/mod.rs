//! A trained network as one C99 file, for microcontrollers: no memory but what is declared, no library.

mod float;
mod schedule;
mod step;
mod text;
mod whole;

use schedule::Schedule;
use step::Writer;
use text::{Code, string};

use crate::checkpoint::Checkpoint;
use crate::dataset::Images;
use crate::error::{Error, Result};
use crate::inference::{Program, Step, Value};
use crate::int8::Quantized;
use crate::model::{Model, thousands};
use crate::normalization::Normalization;
use crate::rng;
use crate::tensor::Shape;

/// A network as C, and what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CSource {
    /// The file, which stands alone.
    pub source: String,
    /// Its declarations, for programs that use it.
    pub header: String,
    /// What it needs.
    pub size: CSize,
}

/// What a network in C needs, beside its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CSize {
    /// Size of all constants: weights, biases, factors, tables.
    pub constant_bytes: usize,
    /// Size of the static memory for activations.
    pub arena_bytes: usize,
    /// Multiply-adds of its convolutions, for one image.
    pub multiply_adds: usize,
}

impl std::fmt::Display for CSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [constants, memory, work] =
            [self.constant_bytes, self.arena_bytes, self.multiply_adds].map(thousands);
        write!(f, "{constants} B of constants, {memory} B of memory, {work} multiply-adds")
    }
}

/// The numbers in which a network computes.
#[derive(Clone, Copy)]
enum Form<'a> {
    Float(&'a Program),
    Whole(&'a Quantized),
}

impl<'a> Form<'a> {
    fn program(self) -> &'a Program {
        match self {
            Self::Float(program) => program,
            Self::Whole(net) => &net.program,
        }
    }

    /// C's type of an activation, and its size.
    fn element(self) -> (&'static str, usize) {
        match self {
            Self::Float(_) => ("float", 4),
            Self::Whole(_) => ("int8_t", 1),
        }
    }

    fn logit(self) -> &'static str {
        match self {
            Self::Float(_) => "float",
            Self::Whole(_) => "int16_t",
        }
    }
}

/// A network in C that computes in `float`. All that it defines for others begins with `prefix`.
///
/// # Errors
/// A layer of the program's own, and a prefix that is no name in C.
///
/// # Examples
/// ```
/// use shadernet::{Checkpoint, export};
///
/// let net = export::to_c(&Checkpoint::seed()?, "digits")?;
/// assert!(net.source.contains("void digits_classify(const uint8_t *pixels, float *logits)"));
/// assert!(net.size.arena_bytes < 20_000);
/// # Ok::<(), shadernet::Error>(())
/// ```
pub fn to_c(checkpoint: &Checkpoint, prefix: &str) -> Result<CSource> {
    let Checkpoint { model, weights, normalization, .. } = checkpoint;
    let program = Program::new(model, weights, normalization, "the C export")?;
    write(Form::Float(&program), checkpoint, prefix)
}

/// The same in whole numbers: it computes exactly the logits of [`Quantized::logits`].
///
/// # Errors
/// A prefix that is no name in C.
pub fn to_c_int8(checkpoint: &Checkpoint, net: &Quantized, prefix: &str) -> Result<CSource> {
    write(Form::Whole(net), checkpoint, prefix)
}

/// What a network would need in C, in `float` and in whole numbers, before it is trained. Its constants then have other values,
/// but nearly the same size.
///
/// # Errors
/// A layer that has no form in C, or none in whole numbers.
///
/// # Examples
/// ```
/// use shadernet::{Model, export};
///
/// let [float, int8] = export::c_sizes(&Model::seed())?;
/// assert!(int8.arena_bytes < float.arena_bytes && float.constant_bytes >= 4 * 9_800);
/// # Ok::<(), shadernet::Error>(())
/// ```
pub fn c_sizes(model: &Model) -> Result<[CSize; 2]> {
    // Numbers that happen to be equal take less.
    let mut weights = model.init(0);
    for (at, value) in weights.iter_mut().flat_map(|tensor| &mut tensor.data).enumerate() {
        *value += 0.5 * rng::unit(rng::words(0, 0, 1, at as u32)[0]);
    }
    let normalization = Normalization::uniform(model.input.channels, 0.5, 0.5);
    let program = Program::new(model, &weights, &normalization, "the C export")?;
    // Ranges need some image; which one changes no size.
    let Shape { channels, height, width } = model.input;
    let pixels = (0..model.input.len()).map(|at| rng::words(0, 0, 0, at as u32)[0] as u8).collect();
    let image = Images::new([channels, height, width], pixels, vec![0])?;
    let net = Quantized::of(model, &weights, &normalization, &image)?;
    Ok([Form::Float(&program), Form::Whole(&net)].map(|form| {
        let schedule = Schedule::new(form.program());
        Writer::written(form, &schedule).size()
    }))
}

/// Fails if names cannot begin with this.
fn check_prefix(prefix: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if prefix.starts_with(|c: char| c.is_ascii_alphabetic())
        && prefix.chars().all(plain)
        && prefix.len() <= 30
    {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "{prefix:?} cannot begin the names of C functions: use a letter, then letters, digits and '_', at most 30"
    )))
}

fn write(form: Form<'_>, checkpoint: &Checkpoint, prefix: &str) -> Result<CSource> {
    check_prefix(prefix)?;
    let program = form.program();
    let schedule = Schedule::new(program);
    let writer = Writer::written(form, &schedule);
    let size = writer.size();
    let Writer { constants, functions, helpers, .. } = writer;
    let declarations = declarations(form, checkpoint, prefix, size);
    let mut code = Code::default();
    code.line(about(form, checkpoint, prefix));
    code.line("#include <stddef.h>\n#include <stdint.h>");
    if helpers.iter().any(|helper| helper.needs_math()) {
        code.line("#include <math.h>");
    }
    code.line("");
    code.line(&declarations);
    code.text.push_str(&constants.text);
    if schedule.size > 0 {
        let (element, _) = form.element();
        code.line(format_args!(
            "\n/* Memory of all activations. */\nstatic {element} arena[{}];",
            schedule.size
        ));
    }
    for (step, buffer) in program.steps.iter().zip(&schedule.buffers) {
        if buffer.rows > 0 {
            code.line(format_args!("#define out_{} (arena + {})", step.name, buffer.offset));
        }
    }
    for text in helpers.iter().filter_map(|helper| helper.text()) {
        code.line(format_args!("\n{text}"));
    }
    code.text.push_str(&functions.text);
    driver(&mut code, form, &schedule, prefix);
    let guard = format!("{}_H", prefix.to_ascii_uppercase());
    let header = format!(
        "/* Declarations of {prefix}.c, which says more. */\n#ifndef {guard}\n#define {guard}\n#include <stdint.h>\n\n{declarations}#endif\n"
    );
    Ok(CSource { source: code.text, header, size })
}

/// The comment at the top of the file.
fn about(form: Form<'_>, checkpoint: &Checkpoint, prefix: &str) -> String {
    let Checkpoint { model, test_accuracy, .. } = checkpoint;
    let [upper, logit] = [prefix.to_ascii_uppercase(), form.logit().to_owned()];
    let numbers = match form {
        Form::Float(_) => "Computes in float.",
        Form::Whole(_) => "Computes in whole numbers: weights and activations of 8 bits, sums of 32.",
    };
    let before = match form {
        Form::Float(_) => "",
        Form::Whole(_) => " before it was rounded",
    };
    let pixels = match model.input.channels {
        1 => "a byte each",
        _ => "the channels of a pixel side by side, a byte each",
    };
    let scale = match form {
        Form::Float(_) => String::new(),
        Form::Whole(_) => format!("\n   A logit of the network is {upper}_LOGIT_SCALE times that number."),
    };
    // A name could end the comment.
    let name: String =
        model.name.chars().map(|c| if c == '*' || !c.is_ascii_graphic() { '_' } else { c }).collect();
    format!(
        "/* The network \"{name}\", written by shadernet {}. {numbers}\n   It was right on {test_accuracy:.2} % of its test images{before}.\n\n   \
         void {prefix}_classify(const uint8_t *pixels, {logit} *logits);\n\n   \
         pixels: {upper}_HEIGHT rows of {upper}_WIDTH pixels of {upper}_CHANNELS, {pixels}, 0 to 255, as in the training images.\n   \
         logits: {upper}_CLASSES numbers; the largest one names the class. {upper}_CLASS_NAMES lists their names.{scale}\n   \
         All its memory is a static array of {upper}_ARENA_BYTES, so it must not run twice at the same time. */",
        env!("CARGO_PKG_VERSION"),
    )
}

fn declarations(form: Form<'_>, checkpoint: &Checkpoint, prefix: &str, size: CSize) -> String {
    let program = form.program();
    let upper = prefix.to_ascii_uppercase();
    let names: Vec<String> = checkpoint.classes.iter().map(|name| string(name)).collect();
    let mut code = Code::default();
    for (name, value) in [
        ("CHANNELS", program.input.channels),
        ("HEIGHT", program.input.height),
        ("WIDTH", program.input.width),
        ("CLASSES", checkpoint.classes.len()),
        ("ARENA_BYTES", size.arena_bytes),
        ("MULTIPLY_ADDS", size.multiply_adds),
    ] {
        code.line(format_args!("#define {upper}_{name} {value}"));
    }
    if let Form::Whole(net) = form {
        code.line(format_args!("#define {upper}_LOGIT_SCALE {:?}", net.logit_scale()));
    }
    code.line(format_args!("#define {upper}_CLASS_NAMES {{{}}}", names.join(", ")));
    let logit = form.logit();
    code.line(format_args!(
        "\n#ifdef __cplusplus\nextern \"C\" {{\n#endif\nvoid {prefix}_classify(const uint8_t *pixels, {logit} *logits);\n#ifdef __cplusplus\n}}\n#endif\n"
    ));
    code.text
}

/// The function that calls all others.
fn driver(code: &mut Code, form: Form<'_>, schedule: &Schedule, prefix: &str) {
    let program = form.program();
    let steps = &program.steps;
    code.line(format_args!("\nvoid {prefix}_classify(const uint8_t *pixels, {} *logits)\n{{", form.logit()));
    for group in &schedule.groups {
        let arguments = |step: usize, row: &str| arguments(step + 1 == steps.len(), &steps[step], row);
        if group.len() == 1 {
            let step = group.start;
            let y = match makes_all(&steps[step]) {
                true => "0".into(),
                false => code.each("y", steps[step].output.height),
            };
            code.line(format_args!("row_{}({});", steps[step].name, arguments(step, &y)));
            code.end_to(1);
            continue;
        }
        code.line(format_args!(
            "/* {} to {}, row by row: whenever one can be made, the last that can makes it. */",
            steps[group.start].name,
            steps[group.end - 1].name
        ));
        code.line("{");
        let counters: Vec<String> =
            group.clone().map(|step| format!("made_{} = 0", steps[step].name)).collect();
        code.line(format_args!("int32_t {};", counters.join(", ")));
        let unread_inside = |step: &usize| {
            let is_read = |other: usize| steps[other].inputs.contains(&Value::Made(*step));
            (group.end..steps.len()).any(is_read) || *step + 1 == group.end
        };
        let unfinished: Vec<String> = group
            .clone()
            .filter(unread_inside)
            .map(|step| format!("made_{} < {}", steps[step].name, steps[step].output.height))
            .collect();
        code.line(format_args!("while ({}) {{", unfinished.join(" || ")));
        for (at, step) in group.clone().rev().enumerate() {
            let conditions = conditions(steps, group, step);
            let call = format!(
                "row_{0}({1});",
                steps[step].name,
                arguments(step, &format!("made_{}", steps[step].name))
            );
            let advance = format!("made_{}++;", steps[step].name);
            let word = match at {
                0 => format!("if ({conditions}) {{"),
                _ if step == group.start => "} else {".into(),
                _ => format!("}} else if ({conditions}) {{"),
            };
            code.line(word);
            code.line(call);
            code.line(advance);
        }
        code.end_to(1);
    }
    code.end_to(0);
}

/// True for a step whose function makes all rows at once.
fn makes_all(step: &Step) -> bool {
    matches!(step.compute, crate::inference::Compute::GroupNorm { .. })
}

/// Arguments of a step's function, or its parameters, as `row` says.
fn arguments(is_last: bool, step: &Step, row: &str) -> String {
    let mut arguments = Vec::new();
    if step.inputs.contains(&Value::Image) {
        arguments.push("pixels");
    }
    if is_last {
        arguments.push("logits");
    }
    if step.output.height > 1 && !makes_all(step) {
        arguments.push(row);
    }
    arguments.join(", ")
}

/// When a step of a group can make its next row.
fn conditions(steps: &[Step], group: &std::ops::Range<usize>, at: usize) -> String {
    let step = &steps[at];
    let counter = format!("made_{}", step.name);
    let mut conditions = vec![format!("{counter} < {}", step.output.height)];
    for (position, input) in step.inputs.iter().enumerate() {
        let Value::Made(before) = *input else { continue };
        if !group.contains(&before) {
            continue;
        }
        let made = steps[before].output;
        let end = |y: usize| schedule::rows_needed(step, position, made, y).end;
        let last = step.output.height - 1;
        let condition = match step.output.height {
            1 => format!("made_{} >= {}", steps[before].name, end(0)),
            _ => {
                // Rows advance by the stride until the edge.
                let stride = end(1) - end(0);
                let linear = (0..=last).all(|y| end(y) == (end(0) + y * stride).min(made.height));
                if end(0) == made.height {
                    format!("made_{} == {}", steps[before].name, made.height)
                } else if linear {
                    let wanted = text::sum(&text::product(&counter, stride), &end(0).to_string());
                    if end(0) + last * stride <= made.height {
                        format!("made_{} >= {wanted}", steps[before].name)
                    } else {
                        format!("(made_{0} >= {wanted} || made_{0} == {1})", steps[before].name, made.height)
                    }
                } else {
                    unreachable!("windows advance evenly")
                }
            }
        };
        conditions.push(condition);
    }
    conditions.join(" && ")
}
