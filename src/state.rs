//! What lies where in the tensor `state`: what every step of training is told, and writes down for the next one. This is the
//! only place that knows. Kernels know the places as override constants, the host as views of the tensor.
//!
//! First comes what all nets share: the words about the step, how the pixels of each channel are normalised, and what each class
//! counts, if they differ. Then, net by net, the settings in which nets may differ; behind those of a net, those of each of its
//! layers.

use crate::config::Fill;
use crate::normalization::Normalization;

/// A piece of `state`: what its words are, in order, and by which override constants kernels know their places.
macro_rules! piece {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $constant:ident: $field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Default)]
        pub struct $name {
            $($(#[$about])* pub $field: $kind,)*
        }

        impl $name {
            /// Each constant, and how many words it is the first of.
            const CONSTANTS: &'static [(&'static str, usize)] = &[$((stringify!($constant), <$kind>::WORDS)),*];
            /// All words.
            const LEN: usize = total(Self::CONSTANTS);

            fn words(self) -> Vec<u32> {
                let mut words = Vec::with_capacity(Self::LEN);
                $(self.$field.write(&mut words);)*
                words
            }
        }
    };
}

/// What a setting is made of.
trait Words {
    const WORDS: usize;

    fn write(self, words: &mut Vec<u32>);
}

impl Words for u32 {
    const WORDS: usize = 1;

    fn write(self, words: &mut Vec<u32>) {
        words.push(self);
    }
}

impl Words for f32 {
    const WORDS: usize = 1;

    fn write(self, words: &mut Vec<u32>) {
        words.push(self.to_bits());
    }
}

impl<const N: usize> Words for [u32; N] {
    const WORDS: usize = N;

    fn write(self, words: &mut Vec<u32>) {
        words.extend(self);
    }
}

/// Words of all.
const fn total(constants: &[(&str, usize)]) -> usize {
    let (mut words, mut at) = (0, 0);
    while at < constants.len() {
        words += constants[at].1;
        at += 1;
    }
    words
}

/// Names with the place of the first word of each.
fn places(constants: &'static [(&'static str, usize)]) -> impl Iterator<Item = (&'static str, usize)> {
    constants.iter().scan(0, |next, &(name, words)| {
        *next += words;
        Some((name, *next - words))
    })
}

/// Quantiles in a table: those of 0, 1/16, ..., 1.
pub const QUANTILES: usize = 17;

piece! {
    /// Words about the step.
    StepWords {
        /// Number of the step to begin, which the end of each step moves on.
        NEXT_STEP: next_step: u32,
        /// Number of the step under way.
        THIS_STEP: this_step: u32,
        /// Images of its batch.
        STEP_IMAGES: step_images: u32,
    }
}

piece! {
    /// Settings of a net.
    NetSettings {
        /// Key of the random words that shuffle.
        SHUFFLE_KEY: shuffle_key: u32,
        /// Key of those that change images.
        AUGMENT_KEY: augment_key: u32,
        /// Share of the target that is spread over all classes.
        LABEL_SMOOTHING: label_smoothing: f32,
        /// Largest rotation in radians.
        AUGMENT_ROTATE: rotate: f32,
        /// Largest shift in pixels.
        AUGMENT_SHIFT: shift: f32,
        /// Largest relative change of size.
        AUGMENT_SCALE: scale: f32,
        /// Largest shear in columns per row.
        AUGMENT_SHEAR: shear: f32,
        /// Random words below it mirror an image left to right: share · 2³².
        AUGMENT_FLIP_HORIZONTAL: flip_horizontal: u32,
        /// Those that turn it upside down.
        AUGMENT_FLIP_VERTICAL: flip_vertical: u32,
        /// Largest shift by whole pixels.
        AUGMENT_PAD: pad: u32,
        /// Largest share of the area that is cropped away.
        AUGMENT_CROP: crop: f32,
        /// Binary logarithm of the crop's largest aspect ratio.
        AUGMENT_ASPECT: aspect: f32,
        /// Largest displacement of a point, in pixels.
        AUGMENT_ELASTIC: elastic: f32,
        /// Points that are displaced on their own, per pixel.
        AUGMENT_POINTS: points: f32,
        /// How far factors of brightness are from 1 at most.
        AUGMENT_BRIGHTNESS: brightness: f32,
        /// Of contrast.
        AUGMENT_CONTRAST: contrast: f32,
        /// Of saturation.
        AUGMENT_SATURATION: saturation: f32,
        /// Largest turn of hues, in turns.
        AUGMENT_HUE: hue: f32,
        /// Random words below it erase a rectangle: share · 2³².
        AUGMENT_ERASE: erase: u32,
        /// The rectangle's longest sides as shares of the image's, in 1/65536.
        AUGMENT_ERASE_SIDE: erase_side: u32,
        /// 0: images are not mixed; 1: blended; 2: a rectangle comes from another image; 3: half of them each.
        MIX_KIND: mix_kind: u32,
        /// Quantiles of the other image's weight, in 1/65536 (`mixture.rs`).
        MIX_WEIGHTS: mix_weights: [u32; QUANTILES],
        /// Quantiles of the rectangle's sides as shares of the image's, in 1/65536.
        MIX_SIDES: mix_sides: [u32; QUANTILES],
        /// What is moved in: 0 pixels of a value, 1 the mean, 2 the nearest pixel, 3 the mirrored image.
        FILL_KIND: fill_kind: u32,
        /// The value.
        FILL_VALUE: fill_value: f32,
        /// Weight decay.
        WEIGHT_DECAY: weight_decay: f32,
        /// First epoch whose images stay as they are.
        PLAIN_FROM: plain_from: u32,
        /// What the images of a batch count together in the loss, which each step writes down where classes have weights.
        TOTAL_WEIGHT: total_weight: f32,
        /// Largest norm of the gradient; 0: no limit.
        CLIP_NORM: clip_norm: f32,
        /// By what the gradient is multiplied, which each step writes down where there is a limit.
        CLIP_FACTOR: clip_factor: f32,
    }
}

piece! {
    /// Settings of a layer; those of dropout are 0 if it is none.
    LayerSettings {
        /// Key of its random words.
        DROPOUT_KEY: dropout_key: u32,
        /// Those below it drop a value: rate · 2³².
        DROPOUT_THRESHOLD: dropout_threshold: u32,
        /// What the others are multiplied by: 1 / (1 − rate).
        DROPOUT_SCALE: dropout_scale: f32,
        /// Factor on the learning rate of its parameters.
        LAYER_RATE: rate: f32,
    }
}

impl NetSettings {
    /// What is moved in from outside an image.
    pub(crate) fn fill(&self) -> Fill {
        match self.fill_kind {
            0 => Fill::Value(self.fill_value),
            1 => Fill::Mean,
            2 => Fill::Edge,
            _ => Fill::Reflect,
        }
    }
}

/// Words of a net with this many layers.
const fn net_len(layers: usize) -> usize {
    NetSettings::LEN + layers * LayerSettings::LEN
}

/// The tensor `state` of nets that have equally many layers.
///
/// # Panics
/// If they have not.
///
/// # Examples
/// ```
/// use shadernet::normalization::Normalization;
/// use shadernet::state::{LayerSettings, NetSettings, StepWords, words};
///
/// let step = StepWords { next_step: 7, ..Default::default() };
/// let net = NetSettings { weight_decay: 0.5, ..Default::default() };
/// let grey = Normalization::uniform(1, 0.1307, 0.3081);
/// let words = words(step, &grey, &[], &[(net, vec![LayerSettings::default(); 4])]);
/// assert_eq!(words[0], 7);
/// assert!(words.contains(&0.5f32.to_bits()));
/// ```
pub fn words(
    step: StepWords,
    normalization: &Normalization,
    class_weights: &[f32],
    nets: &[(NetSettings, Vec<LayerSettings>)],
) -> Vec<u32> {
    let mut words = step.words().to_vec();
    words.extend(normalization.affine().map(|(scale, _)| scale.to_bits()));
    words.extend(normalization.affine().map(|(_, offset)| offset.to_bits()));
    words.extend(normalization.mean_pixels().map(f32::to_bits));
    words.extend(class_weights.iter().map(|weight| weight.to_bits()));
    for (net, layers) in nets {
        assert_eq!(layers.len(), nets[0].1.len(), "nets side by side have the same layers");
        words.extend(net.words());
        words.extend(layers.iter().flat_map(|layer| layer.words()));
    }
    words
}

/// Where kernels find the words about the step, those of this many channels and classes that have a weight, and the settings of nets
/// with this many layers: `PIXEL_SCALE`, `PIXEL_OFFSET` and `PIXEL_MEAN` are those of the first channel, `CLASS_WEIGHTS` is that of
/// the first class, `FIRST_SETTING` is the first word of the first net, `SETTINGS` the words of each, and the settings are places
/// among these.
#[cfg(feature = "gpu")]
pub(crate) fn constants(
    channels: usize,
    class_weights: usize,
    layers: usize,
) -> impl Iterator<Item = (&'static str, usize)> {
    let scale = StepWords::LEN;
    let shared =
        [("PIXEL_SCALE", scale), ("PIXEL_OFFSET", scale + channels), ("PIXEL_MEAN", scale + 2 * channels)];
    let weights = scale + 3 * channels;
    let nets = [
        ("CLASS_WEIGHTS", weights),
        ("FIRST_SETTING", weights + class_weights),
        ("SETTINGS", net_len(layers)),
    ];
    places(StepWords::CONSTANTS).chain(shared).chain(nets).chain(places(NetSettings::CONSTANTS))
}

/// Where optimizers find the settings of layers: those of the first one are `FIRST_LAYER` words behind the settings of their net, each
/// has `LAYER_SETTINGS`, and `LAYER_RATE` is a place among them.
pub(crate) fn rate_constants() -> impl Iterator<Item = (&'static str, f64)> {
    let rate = places(LayerSettings::CONSTANTS).filter(|(name, _)| *name == "LAYER_RATE");
    let layers = [("FIRST_LAYER", net_len(0)), ("LAYER_SETTINGS", LayerSettings::LEN)];
    layers.into_iter().chain(rate).map(|(name, value)| (name, value as f64))
}

/// Where the kernels of dropout find the settings of the layer with this number, among those of a net.
pub(crate) fn layer_constants(layer: usize) -> impl Iterator<Item = (&'static str, f64)> {
    let dropout = places(LayerSettings::CONSTANTS).filter(|(name, _)| name.starts_with("DROPOUT"));
    dropout.map(move |(name, place)| (name, (net_len(layer) + place) as f64))
}

/// The words about the step, `next_step`, `this_step` and `step_images`, and where they are.
#[cfg(feature = "gpu")]
pub(crate) fn step_words() -> impl Iterator<Item = (String, usize)> {
    places(StepWords::CONSTANTS).map(|(name, place)| (name.to_lowercase(), place))
}

#[cfg(all(test, feature = "gpu"))]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Every setting of every net is where the constants say.
    #[test]
    fn words_are_where_the_kernels_look() {
        let layer = |number: u32| LayerSettings {
            dropout_key: 100 * number + 1,
            dropout_threshold: 100 * number + 2,
            dropout_scale: number as f32,
            rate: 0.5 * number as f32,
        };
        let net = |number: u32| NetSettings {
            augment_key: number,
            mix_sides: [40 + number; QUANTILES],
            plain_from: 70 + number,
            ..Default::default()
        };
        let nets: Vec<_> = (1..=3).map(|n| (net(n), vec![layer(10 * n), layer(10 * n + 1)])).collect();
        let normalization = Normalization { mean: vec![0.5, 0.75, 0.25], std: vec![0.25, 0.5, 1.0] };
        let words = words(
            StepWords { next_step: 5, this_step: 4, step_images: 64 },
            &normalization,
            &[7.0, 8.0],
            &nets,
        );
        let place = |name: &str| constants(3, 2, 2).find(|(other, _)| *other == name).unwrap().1;
        let step = ["NEXT_STEP", "THIS_STEP", "STEP_IMAGES"].map(|name| words[place(name)]);
        assert_eq!(step, [5, 4, 64]);
        assert_eq!(step_words().map(|(_, place)| words[place]).collect::<Vec<_>>(), step);
        for (channel, (scale, offset)) in normalization.affine().enumerate() {
            let at = |name: &str| f32::from_bits(words[place(name) + channel]);
            assert_eq!((at("PIXEL_SCALE"), at("PIXEL_OFFSET")), (scale, offset), "channel {channel}");
            assert_eq!(at("PIXEL_MEAN"), 255.0 * normalization.mean[channel], "channel {channel}");
        }
        let weight = |class: usize| f32::from_bits(words[place("CLASS_WEIGHTS") + class]);
        assert_eq!([weight(0), weight(1)], [7.0, 8.0]);
        assert_eq!(words.len(), place("FIRST_SETTING") + 3 * place("SETTINGS"));
        for number in 0..3 {
            let setting = |at: usize| words[place("FIRST_SETTING") + number * place("SETTINGS") + at];
            let n = number as u32 + 1;
            assert_eq!([setting(place("AUGMENT_KEY")), setting(place("PLAIN_FROM"))], [n, 70 + n]);
            let sides = place("MIX_SIDES")..place("MIX_SIDES") + QUANTILES;
            assert!(sides.map(setting).all(|side| side == 40 + n));
            for index in 0..2 {
                let found: Vec<u32> = layer_constants(index).map(|(_, at)| setting(at as usize)).collect();
                let words = layer(10 * n + index as u32).words();
                assert_eq!(found, words[..3], "net {number}, layer {index}");
                let rate: HashMap<_, _> = rate_constants().map(|(name, at)| (name, at as usize)).collect();
                let rate = rate["FIRST_LAYER"] + index * rate["LAYER_SETTINGS"] + rate["LAYER_RATE"];
                assert_eq!(setting(rate), words[3], "net {number}, layer {index}");
            }
        }
    }
}
