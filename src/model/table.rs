//! The layer table.

use std::fmt;

use super::{Model, NamedLayer};
use crate::tensor::Shape;

/// The layer table, counted as in `torchsummary`: 4 bytes per value, 2^20 bytes per MB, every layer's output twice;
/// what PyTorch does with a plain function has no row and is named below. In a net with branches, which torchsummary
/// can't show, every layer has a row with its name and, unless it reads the previous layer, the names of its inputs.
impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |values: usize| values as f64 * 4.0 / (1 << 20) as f64;
        let from = |index: usize| self.layers[index].from(index, &self.layers);
        let branches = (0..self.layers.len()).any(|index| from(index).is_some());
        let all = self.layers.iter().enumerate();
        let (functions, rows): (Vec<_>, Vec<_>) =
            all.partition(|(_, layer)| layer.kind.functional && !branches);
        let titles: Vec<String> = rows
            .iter()
            .enumerate()
            .map(|(number, (_, layer))| match branches {
                true => format!("{} ({})", layer.name, layer.kind.title),
                false => format!("{}-{}", layer.kind.title, number + 1),
            })
            .collect();
        let first = if branches { titles.iter().map(String::len).max().unwrap_or(0) } else { 20 };
        let wide = first + if branches { 36 } else { 44 };
        let (thin, thick) = ("-".repeat(wide), "=".repeat(wide));
        let row = |title: &str, output: &str, params: &str, from: &str| match branches {
            true => format!("{title:<first$}  {output:>20} {params:>12}  {from}").trim_end().to_owned(),
            false => format!("{title:>first$}  {output:>25} {params:>15}"),
        };
        let title = if branches { "Layer" } else { "Layer (type)" };
        writeln!(f, "{thin}\n{}\n{thick}", row(title, "Output Shape", "Param #", "from"))?;
        for (title, (index, layer)) in titles.iter().zip(&rows) {
            let Shape { channels, height, width } = layer.output;
            let shape = format!("[-1, {channels}, {height}, {width}]");
            let from = from(*index).unwrap_or_default().join(", ");
            writeln!(f, "{}", row(title, &shape, &thousands(layer.parameter_count()), &from))?;
        }
        let params = self.parameter_count();
        let passes = 2 * rows.iter().map(|(_, layer)| layer.output.len()).sum::<usize>();
        let sizes = [self.input.len(), passes, params].map(megabytes);
        writeln!(f, "{thick}\nTotal params: {}", thousands(params))?;
        let frozen =
            self.layers.iter().filter(|layer| layer.frozen).map(NamedLayer::parameter_count).sum::<usize>();
        writeln!(f, "Trainable params: {}", thousands(params - frozen))?;
        writeln!(f, "Non-trainable params: {}\n{thin}", thousands(frozen))?;
        writeln!(f, "Input size (MB): {:.2}\nForward/backward pass size (MB): {:.2}", sizes[0], sizes[1])?;
        writeln!(f, "Params size (MB): {:.2}", sizes[2])?;
        write!(f, "Estimated Total Size (MB): {:.2}\n{thin}", sizes.iter().sum::<f64>())?;
        for (_, layer) in functions {
            write!(f, "\n+ {}, a plain function: {} -> {}", layer.kind.title, layer.inputs[0], layer.output)?;
        }
        Ok(())
    }
}

/// 1168 → "1,168".
pub(crate) fn thousands(value: usize) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
