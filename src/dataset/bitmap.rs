//! Decoded pictures, and their pixels as a network or a drawing needs them.

#[cfg(feature = "pictures")]
use super::exif::Orientation;

/// A picture of 16 bits whose values all are below this was hardly meant to be that dark: cameras and microscopes store
/// 10, 12 or 14 bits in 16.
const MIN_DEEP: u16 = 1 << 14;
/// A pixel whose channels differ by more has a colour; less is a tint, or what JPEG adds to grey.
const MIN_COLOUR: u8 = 32;
/// How light the primaries of sRGB are (Rec. 709), to the digits with which the `image` crate computes.
const LIGHTNESS: [f32; 3] = [0.212_647_84, 0.715_179_2, 0.072_173_04];

/// Pixels in rows from the top. Both sides are at least 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Raster<T> {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// 1: grey, 2: grey and alpha, 3: RGB, 4: RGB and alpha.
    pub(crate) channels: usize,
    /// `[height][width][channels]`
    pub(crate) samples: Vec<T>,
}

impl<T: Copy> Raster<T> {
    /// The pixels of a picture that has this many channels.
    pub(crate) fn pixels<const CHANNELS: usize>(&self) -> &[[T; CHANNELS]] {
        debug_assert_eq!(self.channels, CHANNELS);
        self.samples.as_chunks().0
    }

    fn map<U, const FROM: usize, const TO: usize>(&self, pixel: impl Fn([T; FROM]) -> [U; TO]) -> Raster<U> {
        let pixels: Vec<[U; TO]> = self.pixels().iter().map(|&from| pixel(from)).collect();
        Raster { width: self.width, height: self.height, channels: TO, samples: pixels.into_flattened() }
    }

    /// Turned as a viewer would show it.
    #[cfg(feature = "pictures")]
    pub(super) fn upright(self, orientation: Orientation) -> Self {
        match self.channels {
            _ if orientation == Orientation::UPRIGHT => self,
            1 => self.turned::<1>(orientation),
            2 => self.turned::<2>(orientation),
            3 => self.turned::<3>(orientation),
            _ => self.turned::<4>(orientation),
        }
    }

    #[cfg(feature = "pictures")]
    fn turned<const CHANNELS: usize>(self, Orientation { transposed, mirrored }: Orientation) -> Self {
        let stored = self.pixels::<CHANNELS>();
        let (width, height) = if transposed { (self.height, self.width) } else { (self.width, self.height) };
        let mut pixels = Vec::with_capacity(stored.len());
        for y in 0..height {
            pixels.extend((0..width).map(|x| {
                let (column, row) = if transposed { (y, x) } else { (x, y) };
                let column = if mirrored[0] { self.width - 1 - column } else { column };
                let row = if mirrored[1] { self.height - 1 - row } else { row };
                stored[row * self.width + column]
            }));
        }
        Self { width, height, channels: CHANNELS, samples: pixels.into_flattened() }
    }
}

/// A sample of 8 or 16 bits.
pub(crate) trait Sample: Copy {
    /// In 8 bits, rounded.
    fn narrow(self) -> u8;

    /// From 0 to 1.
    fn unit(self) -> f32;
}

impl Sample for u8 {
    fn narrow(self) -> u8 {
        self
    }

    fn unit(self) -> f32 {
        const STEP: f32 = 1.0 / u8::MAX as f32;
        f32::from(self) * STEP
    }
}

impl Sample for u16 {
    fn narrow(self) -> u8 {
        ((u32::from(self) + 128) / 257) as u8
    }

    fn unit(self) -> f32 {
        const STEP: f32 = 1.0 / u16::MAX as f32;
        f32::from(self) * STEP
    }
}

/// How light a colour is, with the same rounding on every machine: no sums are fused.
fn grey<T: Sample>(rgb: [T; 3]) -> u8 {
    let [red, green, blue] = rgb.map(T::unit);
    let sum = red * LIGHTNESS[0] + green * LIGHTNESS[1] + blue * LIGHTNESS[2];
    (sum * 255.0).round() as u8
}

/// What is seen of a sample on white paper.
fn on_white<T: Sample>(sample: T, alpha: T) -> u8 {
    let (sample, alpha) = (u32::from(sample.narrow()), u32::from(alpha.narrow()));
    ((sample * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}

impl<T: Sample> Raster<T> {
    fn flatten(&self, channels: usize) -> Raster<u8> {
        match (self.channels, channels) {
            (1, 1) => self.map(|[v]: [T; 1]| [v.narrow()]),
            (1, _) => self.map(|[v]: [T; 1]| [v.narrow(); 3]),
            (2, 1) => self.map(|[v, alpha]| [on_white(v, alpha)]),
            (2, _) => self.map(|[v, alpha]| [on_white(v, alpha); 3]),
            (3, 1) => self.map(|rgb| [grey(rgb)]),
            (3, _) => self.map(|rgb: [T; 3]| rgb.map(T::narrow)),
            (_, 1) => self.map(|[r, g, b, alpha]| [grey([r, g, b].map(|v| on_white(v, alpha)))]),
            _ => self.map(|[r, g, b, alpha]| [r, g, b].map(|v| on_white(v, alpha))),
        }
    }

    fn to_rgba(&self) -> Raster<u8> {
        match self.channels {
            1 => self.map(|[v]: [T; 1]| [v.narrow(), v.narrow(), v.narrow(), 255]),
            2 => self.map(|[v, alpha]: [T; 2]| [v, v, v, alpha].map(T::narrow)),
            3 => self.map(|[r, g, b]: [T; 3]| [r.narrow(), g.narrow(), b.narrow(), 255]),
            _ => self.map(|rgba: [T; 4]| rgba.map(T::narrow)),
        }
    }

    fn is_coloured(&self) -> bool {
        let spread = |[r, g, b]: [u8; 3]| r.max(g).max(b) - r.min(g).min(b);
        let is_coloured = |rgb: [T; 3]| spread(rgb.map(T::narrow)) > MIN_COLOUR;
        match self.channels {
            3 => self.pixels().iter().any(|&rgb| is_coloured(rgb)),
            4 => self.pixels().iter().any(|&[r, g, b, _]| is_coloured([r, g, b])),
            _ => false,
        }
    }
}

/// A picture as its file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bitmap {
    /// With samples of 8 bits, to which fewer are widened.
    Eight(Raster<u8>),
    /// With samples of 16 bits.
    #[cfg_attr(not(feature = "pictures"), allow(dead_code, reason = "only files have them"))]
    Sixteen(Raster<u16>),
}

impl Bitmap {
    /// Width and height.
    pub(crate) fn size(&self) -> (usize, usize) {
        match self {
            Self::Eight(raster) => (raster.width, raster.height),
            Self::Sixteen(raster) => (raster.width, raster.height),
        }
    }

    /// Turned as a viewer would show it.
    #[cfg(feature = "pictures")]
    pub(super) fn upright(self, orientation: Orientation) -> Self {
        match self {
            Self::Eight(raster) => Self::Eight(raster.upright(orientation)),
            Self::Sixteen(raster) => Self::Sixteen(raster.upright(orientation)),
        }
    }

    /// In as many channels as a network takes, 1 or 3; what is transparent is laid on white.
    pub(crate) fn flatten(self, channels: usize) -> Raster<u8> {
        match self {
            Self::Eight(raster) if raster.channels == channels => raster,
            Self::Eight(raster) => raster.flatten(channels),
            Self::Sixteen(raster) => raster.flatten(channels),
        }
    }

    /// In four channels.
    pub(crate) fn into_rgba(self) -> Raster<u8> {
        match self {
            Self::Eight(raster) if raster.channels == 4 => raster,
            Self::Eight(raster) => raster.to_rgba(),
            Self::Sixteen(raster) => raster.to_rgba(),
        }
    }

    /// Whether any pixel has a colour that is more than a tint.
    pub(super) fn is_coloured(&self) -> bool {
        match self {
            Self::Eight(raster) => raster.is_coloured(),
            Self::Sixteen(raster) => raster.is_coloured(),
        }
    }

    /// The largest value of a picture of 16 bits.
    pub(crate) fn most(&self) -> Option<u16> {
        let Self::Sixteen(Raster { channels, samples, .. }) = self else { return None };
        let colours = if channels % 2 == 0 { channels - 1 } else { *channels };
        samples.chunks(*channels).flat_map(|pixel| &pixel[..colours]).copied().max()
    }

    /// The largest value of a picture of 16 bits that hardly uses them.
    pub(crate) fn faint(&self) -> Option<u16> {
        self.most().filter(|most| is_faint(*most))
    }

    /// With the values of 12 bits spread over 16, if there are no larger ones. Opacity stays as it is.
    pub(crate) fn widened(mut self) -> Self {
        if self.most().is_some_and(|most| most < 1 << 12)
            && let Self::Sixteen(Raster { channels, samples, .. }) = &mut self
        {
            let colours = if *channels % 2 == 0 { *channels - 1 } else { *channels };
            let values = samples.chunks_mut(*channels).flat_map(|pixel| &mut pixel[..colours]);
            values.for_each(|value| *value = *value << 4 | *value >> 8);
        }
        self
    }
}

/// True for the largest value of a picture that was hardly meant to be so dark.
pub(super) fn is_faint(most: u16) -> bool {
    (1..MIN_DEEP).contains(&most)
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, ImageBuffer, Rgba};

    use super::*;

    /// Pixels without any order; every third is of one colour or opaque.
    fn noise(width: usize, height: usize, channels: usize) -> Vec<u16> {
        let sample = |at: usize| {
            let word = crate::rng::pcg4d([at as u32, channels as u32, 0, 0])[0];
            if (at / channels).is_multiple_of(3) { 0xffff * (word >> 31) as u16 } else { (word >> 16) as u16 }
        };
        (0..width * height * channels).map(sample).collect()
    }

    /// The same picture for us and for the `image` crate, of 8 and of 16 bits.
    fn pairs(width: usize, height: usize, channels: usize) -> [(Bitmap, DynamicImage); 2] {
        let deep = noise(width, height, channels);
        let samples: Vec<u8> = deep.iter().map(|&v| (v >> 8) as u8).collect();
        let (w, h) = (width as u32, height as u32);
        let (a, b) = (samples.clone(), deep.clone());
        let (eight, sixteen): (DynamicImage, DynamicImage) = match channels {
            1 => (
                ImageBuffer::<image::Luma<u8>, _>::from_raw(w, h, a).unwrap().into(),
                ImageBuffer::<image::Luma<u16>, _>::from_raw(w, h, b).unwrap().into(),
            ),
            2 => (
                ImageBuffer::<image::LumaA<u8>, _>::from_raw(w, h, a).unwrap().into(),
                ImageBuffer::<image::LumaA<u16>, _>::from_raw(w, h, b).unwrap().into(),
            ),
            3 => (
                ImageBuffer::<image::Rgb<u8>, _>::from_raw(w, h, a).unwrap().into(),
                ImageBuffer::<image::Rgb<u16>, _>::from_raw(w, h, b).unwrap().into(),
            ),
            _ => (
                ImageBuffer::<Rgba<u8>, _>::from_raw(w, h, a).unwrap().into(),
                ImageBuffer::<Rgba<u16>, _>::from_raw(w, h, b).unwrap().into(),
            ),
        };
        [
            (Bitmap::Eight(Raster { width, height, channels, samples }), eight),
            (Bitmap::Sixteen(Raster { width, height, channels, samples: deep }), sixteen),
        ]
    }

    /// Laid on white, in the words of the `image` crate.
    fn reference(picture: &DynamicImage, channels: usize) -> Vec<u8> {
        let opaque = if picture.color().has_alpha() {
            let mut picture = picture.to_rgba8();
            for Rgba([colours @ .., alpha]) in picture.pixels_mut() {
                let alpha = u32::from(*alpha);
                for colour in colours {
                    *colour = ((u32::from(*colour) * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
                }
            }
            picture.into()
        } else {
            picture.clone()
        };
        if channels == 1 { opaque.to_luma8().into_raw() } else { opaque.to_rgb8().into_raw() }
    }

    #[test]
    fn colours_are_those_of_the_reference() {
        for channels in 1..=4 {
            for (ours, theirs) in pairs(300, 200, channels) {
                let rgba = ours.clone().into_rgba();
                assert_eq!(rgba.pixels::<4>().len(), 300 * 200);
                assert_eq!(rgba.samples, theirs.to_rgba8().into_raw(), "{:?}", theirs.color());
                for flat in [1, 3] {
                    let raster = ours.clone().flatten(flat);
                    assert_eq!((raster.width, raster.height, raster.channels), (300, 200, flat));
                    let want = reference(&theirs, flat);
                    // The crate fuses its sums where the processor can: 42 of all 2^24 colours differ.
                    let fuses = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
                    let most = u8::from(fuses && flat == 1);
                    let mut pairs = raster.samples.iter().zip(&want);
                    assert!(pairs.all(|(a, b)| a.abs_diff(*b) <= most), "{:?} to {flat}", theirs.color());
                    assert_eq!(raster.samples.len(), want.len());
                }
            }
        }
    }

    #[test]
    fn every_value_of_16_bits_becomes_that_of_the_reference() {
        let samples: Vec<u16> = (0..=u16::MAX).collect();
        let theirs: DynamicImage =
            ImageBuffer::<image::Luma<u16>, _>::from_raw(256, 256, samples.clone()).unwrap().into();
        let ours = Bitmap::Sixteen(Raster { width: 256, height: 256, channels: 1, samples });
        assert_eq!(ours.clone().flatten(1).samples, theirs.to_luma8().into_raw());
        assert_eq!(ours.clone().flatten(3).samples, theirs.to_rgb8().into_raw());
        assert_eq!(ours.into_rgba().samples, theirs.to_rgba8().into_raw());
    }

    #[test]
    fn every_grey_and_transparency_becomes_that_of_the_reference() {
        let samples: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_be_bytes).collect();
        let theirs: DynamicImage =
            ImageBuffer::<image::LumaA<u8>, _>::from_raw(256, 256, samples.clone()).unwrap().into();
        let ours = Bitmap::Eight(Raster { width: 256, height: 256, channels: 2, samples });
        for channels in [1, 3] {
            assert_eq!(ours.clone().flatten(channels).samples, reference(&theirs, channels));
        }
    }

    #[test]
    fn a_tint_is_no_colour() {
        let coloured = |samples: Vec<u16>, channels| {
            let eight = samples.iter().map(|&v| (v >> 8) as u8).collect();
            let [width, height] = [1, samples.len() / channels];
            let eight = Bitmap::Eight(Raster { width, height, channels, samples: eight });
            let sixteen = Bitmap::Sixteen(Raster { width, height, channels, samples });
            assert_eq!(eight.is_coloured(), sixteen.is_coloured());
            eight.is_coloured()
        };
        let of = |value: u16| 257 * value;
        assert!(!coloured(vec![of(9), of(9), of(9), of(10), of(30), of(42)], 3));
        assert!(coloured(vec![of(9), of(9), of(9), of(10), of(30), of(43)], 3));
        // Transparency is none, and grey never is one.
        assert!(!coloured(vec![of(9), of(9), of(9), of(200)], 4));
        assert!(coloured(vec![of(9), of(90), of(9), of(0)], 4));
        assert!(!coloured(vec![of(9), of(90)], 2));
    }

    #[test]
    fn a_picture_is_faint_in_its_colours() {
        let faint = |samples: Vec<u16>, channels| {
            let height = samples.len() / channels;
            Bitmap::Sixteen(Raster { width: 1, height, channels, samples }).faint()
        };
        assert_eq!(faint(vec![0, 4095, 7], 1), Some(4095));
        assert_eq!(faint(vec![0, 0], 1), None);
        assert_eq!(faint(vec![0, MIN_DEEP], 1), None);
        assert_eq!(faint(vec![1, 2, 3, 60_000, 4, 5, 6, 60_000], 4), Some(6));
        assert_eq!(faint(vec![1, 60_000, 2, 60_000], 2), Some(2));
        let eight = Raster { width: 1, height: 1, channels: 1, samples: vec![3] };
        assert_eq!(Bitmap::Eight(eight).faint(), None);
    }
}
