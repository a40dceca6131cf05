//! Answers as text, JSON and a table.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use shadernet::checkpoint::Checkpoint;
use shadernet::classify::Answer;
use shadernet::classify::prepare::ascii;
use shadernet::error::{Result, shown};
use shadernet::files;
use shadernet::tensor::Shape;

use super::{ClassifyArgs, shows_drawings};
use crate::Output;
use crate::output::{column, column_within};

/// The answer where no class is probable enough.
pub(super) const UNSURE: &str = "unsure";
/// Of more pictures there is one line each.
pub(super) const MOST_WITH_BARS: usize = 10;
/// Columns of a class in such a line: beside the name of a file there is little room.
const CLASS_COLUMNS: usize = 20;
/// Cells of the bar of a certain answer.
const BAR: f32 = 30.0;

/// `1 picture`, `3 pictures`.
pub(super) fn count(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A picture in many lines, with a bar for each class.
    Bars,
    /// A line for each picture, and how many there are of each class.
    Lines,
    Json,
    /// The table is what is printed.
    None,
}

/// Writes answers in the forms that were asked for.
pub(super) struct Answers<'a> {
    out: &'a mut Output,
    form: Form,
    top: Option<usize>,
    unsure_below: Option<f32>,
    classes: &'a [String],
    /// Their names and `unsure` as a column.
    names: Vec<String>,
    input: Shape,
    drawings: bool,
    table: Option<Table>,
    /// Answers with each class, the last of them `unsure`.
    counts: Vec<usize>,
}

/// A table as it grows, and where it goes; `None` is standard output.
struct Table {
    path: Option<PathBuf>,
    writer: csv::Writer<Vec<u8>>,
}

impl<'a> Answers<'a> {
    pub(super) fn new(
        args: &ClassifyArgs,
        checkpoint: &'a Checkpoint,
        many: bool,
        out: &'a mut Output,
    ) -> Self {
        let path = args.csv.as_ref().map(|path| (path != Path::new("-")).then(|| path.clone()));
        let form = match (&path, args.top) {
            (Some(None), _) => Form::None,
            _ if args.json => Form::Json,
            (_, None) if many => Form::Lines,
            _ => Form::Bars,
        };
        let classes = &checkpoint.classes[..];
        let unsure = args.unsure_below.map(|_| UNSURE);
        let names = column_within(classes.iter().map(String::as_str).chain(unsure), CLASS_COLUMNS);
        let mut answers = Self {
            out,
            form,
            top: args.top.map(usize::from),
            unsure_below: args.unsure_below,
            classes,
            names,
            input: checkpoint.model.input,
            drawings: shows_drawings(checkpoint),
            table: path.map(|path| Table { path, writer: csv::Writer::from_writer(Vec::new()) }),
            counts: vec![0; classes.len() + 1],
        };
        answers.head();
        answers
    }

    /// The first row of the table.
    fn head(&mut self) {
        let mut head: Vec<String> = ["file", "class", "probability"].map(String::from).into();
        match self.top {
            None => head.extend(self.classes.iter().cloned()),
            Some(top) => {
                let places = 1..=top.min(self.classes.len());
                head.extend(
                    places.flat_map(|place| [format!("class {place}"), format!("probability {place}")]),
                );
            }
        }
        self.row(&head);
    }

    fn row(&mut self, row: &[String]) {
        let Some(Table { path, writer }) = &mut self.table else { return };
        writer.write_record(row).expect("memory takes all");
        if path.is_none() {
            let full = std::mem::replace(writer, csv::Writer::from_writer(Vec::new()));
            let text = full.into_inner().expect("memory takes all");
            self.out.line(format_args!("{}", String::from_utf8_lossy(&text).trim_end_matches('\n')));
        }
    }

    /// Writes the answer to a picture, of which `image` is what the network saw. Returns the class; none is `unsure`.
    pub(super) fn add(&mut self, file: &Path, image: &[u8], answer: &Answer) -> Option<usize> {
        let is_sure = self.unsure_below.is_none_or(|least| answer.probability() >= least);
        let class = is_sure.then_some(answer.class);
        let name = class.map_or(UNSURE, |class| &self.classes[class]);
        let file = file.display().to_string();
        if self.table.is_some() {
            self.row(&self.cells(&file, name, answer));
        }
        match self.form {
            Form::Bars => self.bars(&file, image, name, answer),
            Form::Lines => self.line(&file, class, answer),
            Form::Json => {
                let value = self.as_json(&file, class, answer);
                let first = if self.counts.iter().all(|&count| count == 0) { '[' } else { ',' };
                self.out.line(format_args!("{first}{value}"));
            }
            Form::None => {}
        }
        self.counts[class.unwrap_or(self.classes.len())] += 1;
        class
    }

    fn cells(&self, file: &str, name: &str, answer: &Answer) -> Vec<String> {
        let number = |value: f32| round(value).to_string();
        let mut cells = vec![file.to_owned(), name.to_owned(), number(answer.probability())];
        match self.top {
            None => cells.extend(answer.probabilities.iter().map(|&value| number(value))),
            Some(top) => cells.extend(
                answer
                    .top(top)
                    .into_iter()
                    .flat_map(|class| [self.classes[class].clone(), number(answer.probabilities[class])]),
            ),
        }
        cells
    }

    fn as_json(&self, file: &str, class: Option<usize>, answer: &Answer) -> Value {
        let name = class.map_or(UNSURE, |class| &self.classes[class]);
        let probabilities: Vec<f64> = answer.probabilities.iter().copied().map(round).collect();
        let mut value = json!({
            "file": file,
            "class": name,
            "probability": probabilities[answer.class],
        });
        if class.is_none() {
            value["best"] = json!(self.classes[answer.class]);
        }
        match self.top {
            None => {
                value["classes"] = json!(self.classes);
                value["probabilities"] = json!(probabilities);
            }
            Some(top) => {
                let one = |class: usize| json!({ "class": self.classes[class], "probability": probabilities[class] });
                value["top"] = answer.top(top).into_iter().map(one).collect();
            }
        }
        if self.drawings {
            let digit = |name: &String| name.parse::<i64>().map_or_else(|_| json!(name), Value::from);
            value["digit"] = class.map_or(Value::Null, |class| digit(&self.classes[class]));
        }
        value
    }

    /// A bar for each class, below the drawing.
    fn bars(&mut self, file: &str, image: &[u8], name: &str, answer: &Answer) {
        let seen = match self.drawings {
            true => ascii(image, self.input.height, self.input.width),
            false => String::new(),
        };
        let (file, class) = (shown(file), column([name].into_iter(), false).swap_remove(0));
        self.out.line(format_args!("{seen}{file}: {class} ({:.1} %)", 100.0 * answer.probability()));
        let listed = match self.top {
            None => (0..self.classes.len()).collect(),
            Some(top) => answer.top(top),
        };
        let names = column(listed.iter().map(|&class| self.classes[class].as_str()), true);
        for (name, &class) in names.iter().zip(&listed) {
            let probability = answer.probabilities[class];
            let bar = "█".repeat((probability * BAR).round() as usize);
            let line = format!("  {name} {:>5.1} % {bar}", 100.0 * probability);
            self.out.line(format_args!("{}", line.trim_end()));
        }
        self.out.line(format_args!(""));
    }

    fn line(&mut self, file: &str, class: Option<usize>, answer: &Answer) {
        let name = &self.names[class.unwrap_or(self.classes.len())];
        let best = match class {
            Some(_) => String::new(),
            None => format!("  ({}?)", self.names[answer.class].trim_end()),
        };
        let probability = 100.0 * answer.probability();
        self.out.line(format_args!("{name}  {probability:>5.1} %  {}{best}", shown(file)));
    }

    /// Writes what comes after the last answer.
    ///
    /// # Errors
    /// What the disk refuses.
    pub(super) fn finish(self) -> Result<()> {
        let all: usize = self.counts.iter().sum();
        match self.form {
            Form::Json => self.out.line(format_args!("{}", if all == 0 { "[]" } else { "]" })),
            Form::Lines if all > 0 => {
                self.out.line(format_args!(""));
                let digits = all.to_string().len();
                for (name, count) in self.names.iter().zip(&self.counts).filter(|&(_, &count)| count > 0) {
                    self.out.line(format_args!("{count:>digits$}  {}", name.trim_end()));
                }
                self.out.line(format_args!("{all:>digits$}  in all"));
            }
            _ => {}
        }
        if let Some(Table { path: Some(path), writer }) = self.table {
            files::write_atomically(&path, &writer.into_inner().expect("memory takes all"))?;
        }
        Ok(())
    }
}

/// To six decimals.
fn round(value: f32) -> f64 {
    (f64::from(value) * 1e6).round() / 1e6
}
