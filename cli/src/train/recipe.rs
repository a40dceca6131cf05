//! A recipe in words.

use shadernet::config::{Augment, Fill, LearningRate, Optimizer, TrainConfig};

/// The recipe on one line.
pub(super) fn recipe(train: &TrainConfig) -> String {
    let optimizer = match train.optimizer {
        Optimizer::Sgd { momentum, nesterov, weight_decay } => {
            let nesterov = if nesterov { " Nesterov" } else { "" };
            format!("SGD{nesterov} momentum {momentum}, weight decay {weight_decay}")
        }
        Optimizer::Adam { weight_decay, .. } => format!("Adam, weight decay {weight_decay}"),
        Optimizer::Adamw { weight_decay, .. } => format!("AdamW, weight decay {weight_decay}"),
    };
    let schedule = match train.learning_rate {
        LearningRate::Constant { rate } => format!("constant rate {rate}"),
        LearningRate::Step { rate, every_epochs, factor } => {
            format!("rate {rate}, times {factor} every {every_epochs} epochs")
        }
        LearningRate::Exponential { start, end } => format!("rates from {start} to {end}"),
        LearningRate::Cosine { peak, .. } => format!("cosine from rate {peak}"),
        LearningRate::OneCycle { peak, .. } => format!("one cycle to rate {peak}"),
    };
    let mut text =
        format!("{} epochs, batches of {}, {optimizer}, {schedule}", train.epochs, train.batch_size);
    if train.warmup > 0.0 {
        text += &format!(" after a rise over {} % of the run", 100.0 * train.warmup);
    }
    if train.clip_norm > 0.0 {
        text += &format!(", gradients of norm {} at most", train.clip_norm);
    }
    if train.class_weights.is_some() {
        text += ", weighted classes";
    }
    if !train.freeze.is_empty() {
        text += &format!(", frozen: {}", train.freeze.join(", "));
    }
    if train.average_decay > 0.0 {
        text += &format!(", average of weights {}", train.average_decay);
    }
    if train.label_smoothing > 0.0 {
        text += &format!(", label smoothing {}", train.label_smoothing);
    }
    let augment = train.augment;
    if augment.is_none() {
        text += ", no augmentation";
    } else {
        text += ", augmentation by";
        let changes = Augment::STRENGTHS.iter().zip(augment.strengths()).filter(|(_, most)| *most > 0.0);
        text += &changes.map(|(key, most)| change(key, most)).collect::<Vec<_>>().join(",");
        if augment.fill != Fill::default() {
            text += &format!(", filled with {}", augment.fill);
        }
        if augment.plain_epochs > 0 {
            text += &format!(", but not in the last {} epochs", augment.plain_epochs);
        }
    }
    text
}

/// A change of images, in words.
fn change(key: &str, most: f32) -> String {
    let percent = (1000.0 * most).round() / 10.0;
    match key {
        "rotate_degrees" => format!(" ±{most}°"),
        "shift_pixels" => format!(" ±{most} pixels"),
        "scale" => format!(" ±{percent} % scale"),
        "shear" => format!(" ±{most} shear"),
        "flip_horizontal" => format!(" mirroring of {percent} %"),
        "flip_vertical" => format!(" turning {percent} % upside down"),
        "pad_crop" => format!(" ±{most} whole pixels"),
        "crop" => format!(" crops of up to {percent} %"),
        "crop_aspect" => format!(" aspect ratios up to {}", 1.0 + most),
        "elastic" => format!(" elastic ±{most} pixels"),
        "brightness" | "contrast" | "saturation" => format!(" ±{percent} % {key}"),
        "hue" => format!(" ±{}° hue", 360.0 * most),
        "erase" => format!(" erasing in {percent} %"),
        "mixup" | "cutmix" => format!(" {key} α {most}"),
        _ => format!(" {key} {most}"),
    }
}
