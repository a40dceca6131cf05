//! How training images are changed at random: the keys of `augment`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::setters::setters;

/// The strengths, each with its key and its largest value.
macro_rules! augment {
    ($($(#[$about:meta])* $key:ident: $most:literal,)*) => {
        /// Random changes of the training images, each by its greatest strength. A strength of 0 switches a change off.
        ///
        /// Colours are changed as in torchvision's `ColorJitter`, in the order of the fields. Places are in pixels of the image
        /// as the network sees it.
        #[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        #[non_exhaustive]
        pub struct Augment {
            $($(#[$about])* pub $key: f32,)*
            /// Distance in pixels between the points that [`elastic`](field@Self::elastic) moves on their own, from 1 to 1000.
            #[serde(skip_serializing_if = "is_default_smoothness")]
            pub elastic_smoothness: f32,
            /// Largest share of the image that is erased, from 0.01 to 0.9.
            #[serde(skip_serializing_if = "is_default_area")]
            pub erase_area: f32,
            /// What is moved in from outside the image.
            #[serde(skip_serializing_if = "Fill::is_default")]
            pub fill: Fill,
            /// This many final epochs see the images unaugmented, as in the test; all, if the run has no more.
            #[serde(skip_serializing_if = "is_zero")]
            pub plain_epochs: u32,
        }

        impl Augment {
            /// Keys of the strengths, in the order of the fields.
            pub const STRENGTHS: &'static [&'static str] = &[$(stringify!($key)),*];

            /// Largest value of each.
            const MOST: &'static [f32] = &[$($most),*];

            /// The strengths, in the order of [`Augment::STRENGTHS`].
            pub fn strengths(&self) -> [f32; Self::STRENGTHS.len()] {
                [$(self.$key),*]
            }

            /// The same, to be changed.
            pub fn strengths_mut(&mut self) -> [&mut f32; Self::STRENGTHS.len()] {
                [$(&mut self.$key),*]
            }
        }

        setters!(Augment {
            $($key: f32,)*
            elastic_smoothness: f32,
            erase_area: f32,
            fill: Fill,
            plain_epochs: u32,
        });

        impl Default for Augment {
            fn default() -> Self {
                Self {
                    $($key: 0.0,)*
                    elastic_smoothness: SMOOTHNESS,
                    erase_area: AREA,
                    fill: Fill::default(),
                    plain_epochs: 0,
                }
            }
        }
    };
}

augment! {
    /// Rotation in either direction, at most 45 degrees.
    rotate_degrees: 45.0,
    /// Shift in each direction, in pixels.
    shift_pixels: 1000.0,
    /// Relative change in size, either way.
    scale: 0.9,
    /// Horizontal shear, columns per row, either way.
    shear: 1.0,
    /// Share of the images that are mirrored left to right, from 0 to 1.
    #[serde(skip_serializing_if = "is_off")]
    flip_horizontal: 1.0,
    /// Share of the images that are turned upside down, from 0 to 1.
    #[serde(skip_serializing_if = "is_off")]
    flip_vertical: 1.0,
    /// Shift in each direction by whole pixels: as if the image were padded by so many and cropped to its size again.
    #[serde(skip_serializing_if = "is_off")]
    pad_crop: 1000.0,
    /// Largest share of the image's area that is cut off before the rest is resized to the whole, like torchvision's
    /// `RandomResizedCrop` with `scale=(1 - crop, 1)`.
    #[serde(skip_serializing_if = "is_off")]
    crop: 0.95,
    /// The crop's aspect ratio is between 1 / (1 + this) and 1 + this times the image's.
    #[serde(skip_serializing_if = "is_off")]
    crop_aspect: 3.0,
    /// Largest displacement in pixels of single points, between which the image is distorted smoothly.
    #[serde(skip_serializing_if = "is_off")]
    elastic: 1000.0,
    /// Pixels are multiplied by a factor between 1 − this and 1 + this.
    #[serde(skip_serializing_if = "is_off")]
    brightness: 1.0,
    /// So is their difference from the image's mean grey.
    #[serde(skip_serializing_if = "is_off")]
    contrast: 1.0,
    /// So is the difference of a colour from its grey; for images of three channels.
    #[serde(skip_serializing_if = "is_off")]
    saturation: 1.0,
    /// Hues are turned by at most this share of a full turn, 0 to 0.5; for images of three channels.
    #[serde(skip_serializing_if = "is_off")]
    hue: 0.5,
    /// Share of the images in which a rectangle is erased (Zhong et al. 2020), from 0 to 1: it gets the mean of the training set.
    #[serde(skip_serializing_if = "is_off")]
    erase: 1.0,
    /// Each image is blended with another one, and its target with the other's. The other's weight is at most ½, λ or
    /// 1 − λ for λ drawn from Beta(α, α) with this α (Zhang et al. 2018).
    #[serde(skip_serializing_if = "is_off")]
    mixup: 10.0,
    /// A rectangle of each image comes from another one, and so does that share of its target. Drawn as for `mixup` (Yun et al.
    /// 2019); with both, half of the images get each.
    #[serde(skip_serializing_if = "is_off")]
    cutmix: 10.0,
}

const SMOOTHNESS: f32 = 8.0;
const AREA: f32 = 0.25;

pub(crate) fn is_off(strength: &f32) -> bool {
    *strength == 0.0
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

fn is_default_smoothness(pixels: &f32) -> bool {
    *pixels == SMOOTHNESS
}

fn is_default_area(area: &f32) -> bool {
    *area == AREA
}

impl Augment {
    /// True if no epoch is augmented.
    pub fn is_none(&self) -> bool {
        self.strengths().iter().all(|&strength| strength == 0.0)
    }

    /// The first unaugmented epoch of a run of `epochs`, counted from 0; `u32::MAX` if there is none.
    pub fn plain_from(&self, epochs: usize) -> u32 {
        if self.plain_epochs == 0 {
            return u32::MAX;
        }
        epochs.saturating_sub(self.plain_epochs as usize) as u32
    }

    /// Checks ranges.
    pub(super) fn check(&self) -> Result<(), String> {
        let within = |key: &str, value: f32, low: f32, high: f32| {
            if value >= low && value <= high {
                return Ok(());
            }
            Err(format!("augment.{key} = {value} must be from {low} to {high}"))
        };
        for ((key, value), &most) in Self::STRENGTHS.iter().zip(self.strengths()).zip(Self::MOST) {
            within(key, value, 0.0, most)?;
        }
        for (key, value) in [("mixup", self.mixup), ("cutmix", self.cutmix)] {
            if value > 0.0 && value < 0.01 {
                return Err(format!("augment.{key} = {value} must be 0 or from 0.01 to 10"));
            }
        }
        if self.pad_crop.fract() != 0.0 {
            return Err(format!("augment.pad_crop = {} must be a whole number of pixels", self.pad_crop));
        }
        within("elastic_smoothness", self.elastic_smoothness, 1.0, 1000.0)?;
        within("erase_area", self.erase_area, 0.01, 0.9)?;
        match self.fill {
            Fill::Value(value) => within("fill", value, 0.0, 255.0),
            Fill::Mean | Fill::Edge | Fill::Reflect => Ok(()),
        }
    }

    /// Fails if images of this many channels have no colours to change.
    ///
    /// # Errors
    /// Says which setting needs them.
    pub fn check_fits(&self, channels: usize) -> Result<(), String> {
        for (key, value) in [("saturation", self.saturation), ("hue", self.hue)] {
            if value > 0.0 && channels != 3 {
                let have = if channels == 1 { "1 channel".into() } else { format!("{channels} channels") };
                return Err(format!(
                    "augment.{key} = {value} needs images of 3 channels, and these have {have}; brightness and contrast \
                     suit any image"
                ));
            }
        }
        Ok(())
    }
}

/// What is moved in from outside an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fill {
    /// Pixels of this value, from 0, which is black, to 255.
    Value(f32),
    /// Pixels of the training set's mean in each channel.
    Mean,
    /// The nearest pixel of the image.
    Edge,
    /// The image mirrored at its outermost pixels, which are not repeated.
    Reflect,
}

const FILLS: [(&str, Fill); 3] = [("edge", Fill::Edge), ("mean", Fill::Mean), ("reflect", Fill::Reflect)];

impl Default for Fill {
    fn default() -> Self {
        Self::Value(0.0)
    }
}

impl Fill {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// As in a model file.
impl fmt::Display for Fill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, FILLS.iter().find(|(_, fill)| fill == self)) {
            (_, Some((name, _))) => f.write_str(name),
            (Self::Value(value), None) => write!(f, "{value}"),
            _ => unreachable!("every fill but a value has a name"),
        }
    }
}

impl Serialize for Fill {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => serializer.serialize_f32(*value),
            named => serializer.serialize_str(&named.to_string()),
        }
    }
}

impl<'de> Deserialize<'de> for Fill {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FillVisitor)
    }
}

struct FillVisitor;

impl de::Visitor<'_> for FillVisitor {
    type Value = Fill;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number from 0, black, to 255, or \"edge\", \"mean\" or \"reflect\"")
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Fill, E> {
        Ok(Fill::Value(value as f32))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Fill, E> {
        Ok(Fill::Value(value as f32))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Fill, E> {
        Ok(Fill::Value(value as f32))
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Fill, E> {
        let named = FILLS.iter().find(|(known, _)| *known == name);
        named.map(|(_, fill)| *fill).ok_or_else(|| E::invalid_value(de::Unexpected::Str(name), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::shortest_floats;

    fn parse(text: &str) -> Result<Augment, String> {
        toml::from_str::<Augment>(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_description_without_new_keys_is_written_as_before() {
        let before = Augment { rotate_degrees: 10.0, shift_pixels: 2.0, ..Default::default() };
        let text = shortest_floats(&before).to_string();
        assert_eq!(text, "rotate_degrees = 10.0\nscale = 0.0\nshear = 0.0\nshift_pixels = 2.0\n");
    }

    #[test]
    fn every_key_is_read_as_it_is_written() {
        let mut all =
            Augment::default().fill(Fill::Reflect).plain_epochs(2).elastic_smoothness(5.0).erase_area(0.1);
        for (at, strength) in all.strengths_mut().into_iter().enumerate() {
            *strength = (1.0 + at as f32) / 128.0;
        }
        assert_eq!(parse(&shortest_floats(&all).to_string()), Ok(all));
        for fill in [Fill::Value(255.0), Fill::Edge, Fill::Mean] {
            let augment = Augment::default().fill(fill);
            assert_eq!(parse(&shortest_floats(&augment).to_string()), Ok(augment), "{fill}");
        }
    }

    #[test]
    fn ranges() {
        let base = Augment::default;
        assert_eq!(base().check(), Ok(()));
        for (augment, words) in [
            (base().hue(0.6), "augment.hue = 0.6 must be from 0 to 0.5"),
            (base().flip_horizontal(-0.5), "augment.flip_horizontal = -0.5 must be from 0 to 1"),
            (base().pad_crop(1.5), "augment.pad_crop = 1.5 must be a whole number of pixels"),
            (base().mixup(1e-3), "augment.mixup = 0.001 must be 0 or from 0.01 to 10"),
            (base().cutmix(f32::NAN), "augment.cutmix = NaN must be from 0 to 10"),
            (base().fill(Fill::Value(256.0)), "augment.fill = 256 must be from 0 to 255"),
            (base().elastic_smoothness(0.5), "augment.elastic_smoothness = 0.5 must be from 1 to 1000"),
            (base().erase_area(0.0), "augment.erase_area = 0 must be from 0.01 to 0.9"),
        ] {
            assert_eq!(augment.check(), Err(words.into()));
        }
        assert!(base().hue(0.1).check_fits(1).unwrap_err().contains("needs images of 3 channels"));
        assert_eq!(base().hue(0.1).brightness(0.2).check_fits(3), Ok(()));
        assert_eq!(base().brightness(0.2).check_fits(2), Ok(()));
    }
}
