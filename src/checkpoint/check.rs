//! What a file may promise and no network has.

use crate::model::Model;
use crate::tensor::Tensor;

/// Fails if names do not tell classes apart.
pub(super) fn class_names(names: &[String]) -> Result<(), String> {
    let mut all = names.iter().enumerate();
    match all.find(|&(index, name)| name.is_empty() || names[..index].contains(name)) {
        None => Ok(()),
        Some((index, name)) => Err(format!(
            "class name {} in the metadata, {name:?}, is empty or appears twice; each class needs a unique name",
            index + 1
        )),
    }
}

/// Fails if a value is less than its parameter can be.
pub(super) fn range(weights: &[Tensor], model: &Model) -> Result<(), String> {
    for (tensor, param) in weights.iter().zip(model.params()) {
        let min = param.param.min;
        if let Some(at) = tensor.data.iter().position(|&value| value < min) {
            return Err(format!(
                "{}: value {at} is {}; it must be at least {min}",
                tensor.name, tensor.data[at]
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Checkpoint, read_weights};
    use super::*;

    #[test]
    fn no_variance_is_negative() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let mut small = Checkpoint::seed().unwrap();
        let text = "name = \"x\"\ninput = [1, 6, 6]\nlayers = [{ type = \"batch_norm2d\" }, { type = \"conv2d\", out_channels = 10, \
                    kernel = 3 }, { type = \"global_avg_pool2d\" }]";
        small.model = Model::parse(text, "x").unwrap();
        small.weights = small.model.init(1);
        let var = small.weights.iter_mut().find(|tensor| tensor.name.ends_with("running_var")).unwrap();
        var.data[0] = -0.5;
        small.save(&path).unwrap();
        for error in [Checkpoint::load(&path).unwrap_err(), read_weights(&path, &small.model).unwrap_err()] {
            let message = error.to_string();
            assert!(message.ends_with("running_var: value 0 is -0.5; it must be at least 0"), "{message}");
        }
    }
}
