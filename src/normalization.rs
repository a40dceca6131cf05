//! How pixels become what a network sees.

use std::fmt;

/// Mean and deviation of pixels / 255, one entry a channel: a network sees (pixel / 255 − mean) / std.
///
/// # Examples
/// ```
/// use shadernet::normalization::Normalization;
///
/// let colours = Normalization { mean: vec![0.5, 0.4, 0.3], std: vec![0.2, 0.2, 0.25] };
/// assert_eq!(colours.to_string(), "means 0.5, 0.4, 0.3 and deviations 0.2, 0.2, 0.25");
/// assert_eq!(colours.check(), Ok(()));
/// assert_eq!(Normalization::uniform(3, 0.5, 0.2).to_string(), "mean 0.5 and deviation 0.2");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Normalization {
    /// What becomes 0.
    pub mean: Vec<f32>,
    /// How far from it is 1.
    pub std: Vec<f32>,
}

impl Normalization {
    /// The same mean and deviation for this many channels.
    pub fn uniform(channels: usize, mean: f32, std: f32) -> Self {
        Self { mean: vec![mean; channels], std: vec![std; channels] }
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.mean.len()
    }

    /// For each channel (scale, offset): what a network sees is pixel · scale + offset.
    pub fn affine(&self) -> impl Iterator<Item = (f32, f32)> {
        self.mean.iter().zip(&self.std).map(|(mean, std)| (1.0 / (255.0 * std), -mean / std))
    }

    /// For each channel the pixel value that becomes 0.
    pub fn mean_pixels(&self) -> impl Iterator<Item = f32> {
        self.mean.iter().map(|mean| 255.0 * mean)
    }

    /// Mean and deviation if all channels have the same.
    pub fn common(&self) -> Option<(f32, f32)> {
        let (&mean, &std) = (self.mean.first()?, self.std.first()?);
        (*self == Self::uniform(self.channels(), mean, std)).then_some((mean, std))
    }

    /// Fails if a channel's mean and deviation make no numbers of its pixels.
    ///
    /// # Errors
    /// Says which do not.
    pub fn check(&self) -> Result<(), String> {
        // What becomes of a pixel: value / std - mean / std.
        let sound = |&(mean, std): &(&f32, &f32)| {
            *std > 0.0 && std.is_finite() && std.recip().is_finite() && (mean / std).is_finite()
        };
        match self.mean.iter().zip(&self.std).find(|pair| !sound(pair)) {
            None => Ok(()),
            Some((mean, std)) => Err(format!("mean = {mean} and std = {std}")),
        }
    }
}

impl fmt::Display for Normalization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.common() {
            Some((mean, std)) => write!(f, "mean {mean} and deviation {std}"),
            None => {
                let list = |values: &[f32]| values.iter().map(f32::to_string).collect::<Vec<_>>().join(", ");
                write!(f, "means {} and deviations {}", list(&self.mean), list(&self.std))
            }
        }
    }
}
