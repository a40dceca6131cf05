//! Kinds of images, and how networks for them are trained. What was compared is in docs/results.md.

use std::fmt;

use clap::ValueEnum;
use shadernet::dataset::Survey;
use shadernet::tensor::Shape;

/// What kind of images a set has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Preset {
    /// Digits, letters and signs: few shades, never mirrored
    Mnist,
    /// Small pictures: icons, clothing, thumbnails
    Small,
    /// Photos: more epochs, stronger changes
    Photo,
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("none is hidden").get_name())
    }
}

impl Preset {
    /// Grey images are likely signs, and large ones photos.
    pub(super) fn of(survey: &Survey, input: Shape) -> Self {
        if survey.images.channels == 1 {
            Self::Mnist
        } else if input.height.max(input.width) <= 40 {
            Self::Small
        } else {
            Self::Photo
        }
    }

    /// Channels of the first block.
    pub(super) fn width(self) -> usize {
        match self {
            Self::Mnist => 8,
            Self::Small | Self::Photo => 16,
        }
    }

    /// `[train]`. Of few images there are more epochs, in smaller batches.
    pub(super) fn recipe(self, images: usize, input: Shape) -> String {
        let (fewest, most) = if self == Self::Photo { (10, 60) } else { (10, 30) };
        let epochs = (300_000 / images.max(1)).clamp(fewest, most);
        let batch_size = if images < 5000 { 32 } else { 64 };
        let peak = match self {
            Self::Mnist => 0.3,
            Self::Small => 0.2,
            Self::Photo => 0.1,
        };
        let side = input.height.min(input.width) as f32;
        let shift = (side / 14.0).round().max(1.0);
        let around = format!("rotate_degrees = 10.0, shift_pixels = {shift:.1}, scale = 0.1");
        let changes = match self {
            Self::Mnist => around,
            Self::Small => format!("flip_horizontal = 0.5, {around}, {}", colours(0.2, input)),
            Self::Photo => format!(
                "flip_horizontal = 0.5, crop = 0.5, crop_aspect = 0.33, rotate_degrees = 10.0, {}",
                colours(0.3, input)
            ),
        };
        format!(
            "[train]\nepochs = {epochs}\nbatch_size = {batch_size}\noptimizer = {{ type = \"sgd\", momentum = 0.9, nesterov = \
             true, weight_decay = 5e-4 }}\nlearning_rate = {{ schedule = \"one_cycle\", peak = {peak} }}\nlabel_smoothing = \
             0.1\naugment = {{ {changes}, fill = \"edge\" }}\n"
        )
    }
}

/// Changes of the colours, as far as the images have any.
fn colours(most: f32, input: Shape) -> String {
    let light = format!("brightness = {most}, contrast = {most}");
    if input.channels == 3 { format!("{light}, saturation = {most}, hue = 0.02") } else { light }
}
