//! A plan as text, which golden tests compare.

use std::fmt;

use super::{Contents, Place, Plan};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pooled, alone) = self.pooled_bytes();
        writeln!(f, "batch size {}, replicas {}", self.batch_size, self.replicas)?;
        writeln!(
            f,
            "{} launches, {} slots, {pooled} bytes pooled of {alone}",
            self.launches.len(),
            self.slots.len()
        )?;
        for (buffer, contents) in &self.buffers {
            match contents {
                Contents::Zeros => {}
                Contents::Words(words) => writeln!(f, "{buffer} begins as {} words", words.len())?,
                Contents::Given => writeln!(f, "{buffer} is given")?,
            }
        }
        for launch in &self.launches {
            let [x, y, z] = launch.workgroups;
            writeln!(f, "\n{} ({}.wgsl) {x}x{y}x{z}", launch.label, launch.shader)?;
            for bound in &launch.bindings {
                let tensor = &self.tensors[bound.tensor];
                let access = match (bound.read, bound.written) {
                    (true, true) => "<>",
                    (false, true) => "->",
                    _ => "<-",
                };
                let place = match &tensor.place {
                    Place::Slot(slot) => format!("slot {slot}"),
                    Place::Kept { buffer, offset } => format!("{buffer}+{offset}"),
                };
                writeln!(
                    f,
                    "  {:>2} {access} {} ({} bytes, {place})",
                    bound.index, tensor.name, tensor.bytes
                )?;
            }
            let constants: Vec<_> =
                launch.constants.iter().map(|(name, value)| format!("{name}={value}")).collect();
            writeln!(f, "  {}", constants.join(" "))?;
        }
        Ok(())
    }
}
