//! Batch normalisations become parts of their neighbours.

use super::{Kind, Op, Value};
use crate::layers::window::Conv;

/// Folds batch normalisations into adjacent convolutions: scale · (W x + b) + shift = (scale · W) x + (scale · b +
/// shift) after one; W (scale · x + shift) + b = (W · scale) x + (W · shift + b) before one, if x is not zero-padded.
/// The neighbour must not have any other reader or source.
pub(crate) fn fold(ops: &mut [Op]) {
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); ops.len()];
    for (index, op) in ops.iter().enumerate() {
        for input in &op.inputs {
            if let Value::Made(made) = *input {
                readers[made].push(index);
            }
        }
    }
    // Skips what does nothing.
    let behind = |ops: &[Op], mut at: usize| loop {
        let [reader] = readers[at][..] else { return None };
        match ops[reader].kind {
            Kind::Nothing => at = reader,
            _ => return Some(reader),
        }
    };
    for index in 0..ops.len() {
        let Some(affine) = affine(&ops[index].kind) else { continue };
        let mut before = ops[index].inputs[0];
        while let Value::Made(made) = before
            && matches!(ops[made].kind, Kind::Nothing)
        {
            before = ops[made].inputs[0];
        }
        let folded = match before {
            Value::Made(made) if behind(ops, made) == Some(index) => {
                scale_outputs(&mut ops[made].kind, &affine)
            }
            _ => false,
        };
        let folded =
            folded || behind(ops, index).is_some_and(|next| scale_inputs(&mut ops[next].kind, &affine));
        if folded {
            ops[index].kind = Kind::Nothing;
        }
    }
}

/// Scale and shift per channel.
pub(super) fn affine(kind: &Kind) -> Option<Vec<[f64; 2]>> {
    let Kind::BatchNorm { eps, weight, bias, mean, var } = kind else { return None };
    let channel = |c: usize| {
        let [weight, bias, mean, var] = [weight, bias, mean, var].map(|values| f64::from(values[c]));
        let scale = weight / (var + f64::from(*eps)).sqrt();
        [scale, bias - scale * mean]
    };
    Some((0..weight.len()).map(channel).collect())
}

fn scale_outputs(kind: &mut Kind, affine: &[[f64; 2]]) -> bool {
    let Kind::Conv { weight, bias, .. } = kind else { return false };
    let filter = weight.len() / affine.len();
    let bias = bias.get_or_insert_with(|| vec![0.0; affine.len()]);
    for ((filter, bias), [scale, shift]) in weight.chunks_mut(filter).zip(bias).zip(affine) {
        filter.iter_mut().for_each(|weight| *weight = (scale * f64::from(*weight)) as f32);
        *bias = (scale * f64::from(*bias) + shift) as f32;
    }
    true
}

fn scale_inputs(kind: &mut Kind, affine: &[[f64; 2]]) -> bool {
    let Kind::Conv { sizes, weight, bias } = kind else { return false };
    if sizes.padding != [0; 4] {
        return false;
    }
    let bias = bias.get_or_insert_with(|| vec![0.0; sizes.output.channels]);
    for (bias, shift) in bias.iter_mut().zip(scale_weights(sizes, weight, affine)) {
        *bias = (f64::from(*bias) + shift) as f32;
    }
    true
}

/// Multiplies the weights of each input channel by its scale, and returns for each output channel what the shifts add to it.
pub(super) fn scale_weights(sizes: &Conv, weight: &mut [f32], affine: &[[f64; 2]]) -> Vec<f64> {
    let (taps, group_in, group_out) = (sizes.taps(), sizes.group_in(), sizes.group_out());
    let filters = weight.chunks_mut(group_in * taps).enumerate();
    let shifted = filters.map(|(out, filter)| {
        let mut shifted = 0.0;
        for (c, taps) in filter.chunks_mut(taps).enumerate() {
            let [scale, shift] = affine[out / group_out * group_in + c];
            for weight in taps {
                shifted += shift * f64::from(*weight);
                *weight = (scale * f64::from(*weight)) as f32;
            }
        }
        shifted
    });
    shifted.collect()
}
