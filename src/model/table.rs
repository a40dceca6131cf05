//! The layer table.

use std::fmt;

use super::Model;
use crate::tensor::Shape;

/// The layer table, counted as `torchsummary` does: 4 bytes a value, 2^20 bytes a MB, every layer's output twice;
/// what PyTorch does by a plain function has no row and is named below.
impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |values: usize| values as f64 * 4.0 / (1 << 20) as f64;
        let (thin, thick) = ("-".repeat(64), "=".repeat(64));
        let from = |index: usize| self.layers[index].from(index, &self.layers);
        // PyTorch's summary has no such column, and a chain needs none.
        let column = if (0..self.layers.len()).any(|index| from(index).is_some()) { "  from" } else { "" };
        let [layer, output, params] = ["Layer (type)", "Output Shape", "Param #"];
        writeln!(f, "{thin}\n{layer:>20}  {output:>25} {params:>15}{column}\n{thick}")?;
        let all = self.layers.iter().enumerate();
        let (functions, rows): (Vec<_>, Vec<_>) = all.partition(|(_, layer)| layer.kind.functional);
        for (number, (index, layer)) in rows.iter().enumerate() {
            let Shape { channels, height, width } = layer.output;
            let title = format!("{}-{}", layer.kind.title, number + 1);
            let shape = format!("[-1, {channels}, {height}, {width}]");
            let from = from(*index).map_or(String::new(), |names| format!("  {}", names.join(", ")));
            writeln!(f, "{title:>20}  {shape:>25} {:>15}{from}", thousands(layer.parameter_count()))?;
        }
        let params = self.parameter_count();
        let passes = 2 * rows.iter().map(|(_, layer)| layer.output.len()).sum::<usize>();
        let sizes = [self.input.len(), passes, params].map(megabytes);
        writeln!(f, "{thick}\nTotal params: {}", thousands(params))?;
        writeln!(f, "Trainable params: {}\nNon-trainable params: 0\n{thin}", thousands(params))?;
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
