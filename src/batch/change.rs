//! How one image is changed at random: drawn with the same arithmetic as in `shaders/batch.wgsl`.

use std::ops::{Add, Div, Mul, Neg, Sub};

use crate::rng;
use crate::state::NetSettings;
use crate::tensor::{Rounded, Shape, UNIT_ROUNDOFF};

/// What becomes of an image. `T` is `f32`, or [`Rounded`] for the bounds of what a device may draw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change<T = f32> {
    /// Source coordinates (a·x + b·y + c, d·x + e·y + f) of output pixel (x, y).
    pub transform: [T; 6],
    /// What these coordinates are moved by.
    pub elastic: Elastic,
    /// Factors of brightness, contrast and saturation, and the turn of hues.
    pub colour: [T; 4],
    /// What is erased.
    pub erased: Region,
}

/// A rectangle of pixels: columns `left..right` of rows `top..bottom`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Region {
    /// First column.
    pub left: u32,
    /// First row.
    pub top: u32,
    /// Behind the last column.
    pub right: u32,
    /// Behind the last row.
    pub bottom: u32,
}

impl Region {
    /// True for a pixel inside.
    pub fn contains(&self, x: usize, y: usize) -> bool {
        (self.left as usize..self.right as usize).contains(&x)
            && (self.top as usize..self.bottom as usize).contains(&y)
    }

    /// Number of pixels.
    pub fn area(&self) -> u32 {
        (self.right - self.left) * (self.bottom - self.top)
    }

    /// A rectangle of this size at a random place within an image.
    pub(super) fn placed([width, height]: [u32; 2], image: Shape, random: [u32; 2]) -> Self {
        let start = |size: u32, whole: usize, word: u32| ((whole as u32 - size + 1) * (word >> 16)) >> 16;
        let (left, top) = (start(width, image.width, random[0]), start(height, image.height, random[1]));
        Self { left, top, right: left + width, bottom: top + height }
    }
}

/// A field of displacements: random ones at the points of a grid, and between them smooth.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Elastic {
    /// Largest displacement in pixels; 0 for none.
    pub pixels: f32,
    /// Points of the grid per pixel.
    pub points: f32,
    /// Key of the random words.
    pub key: u32,
    /// Epoch and image that they are drawn for.
    pub of: [u32; 2],
}

/// Random words of groups from here on belong to points of a grid.
const FIRST_POINT: u32 = 16;
/// Points in a row of the grid of random words.
const POINT_ROW: u32 = 4096;

impl Elastic {
    /// Displacement of a point of the grid.
    pub(crate) fn at_point(&self, column: u32, row: u32) -> [f32; 2] {
        let [epoch, image] = self.of;
        let words = rng::words(self.key, epoch, FIRST_POINT + row * POINT_ROW + column, image);
        [words[0], words[1]].map(|word| self.pixels * rng::signed(word))
    }

    /// Displacement of a pixel, with the bound of its rounding.
    pub(super) fn reference(&self, x: usize, y: usize) -> [Rounded; 2] {
        if self.pixels == 0.0 {
            return [Rounded::given(0.0); 2];
        }
        let place = [x, y].map(|place| Rounded::given(place as f64) * Rounded::given(self.points.into()));
        let [column, row] = place.map(|place| place.value.floor() as u32);
        // 3t² − 2t³ is flat at whole numbers, so it does not matter on which side of one a rounded place is.
        let [across, down] = place.map(|place| {
            let t = place.value - place.value.floor();
            t * t * (3.0 - 2.0 * t)
        });
        // The weights have slopes of at most 1.5, and neighbours differ by at most twice the strength.
        let strength = f64::from(self.pixels);
        let rounding = 12.0 * UNIT_ROUNDOFF;
        let bound = strength * (3.0 * (place[0].bound + place[1].bound) + 4.0 * rounding);
        std::array::from_fn(|axis| {
            let at = |right, below| f64::from(self.at_point(column + right, row + below)[axis]);
            let upper = at(0, 0) * (1.0 - across) + at(1, 0) * across;
            let lower = at(0, 1) * (1.0 - across) + at(1, 1) * across;
            Rounded { value: upper * (1.0 - down) + lower * down, bound }
        })
    }
}

/// Numbers that changes are computed with: `f32`, or [`Rounded`] to bound what a device may compute.
pub(super) trait Real:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> + Neg<Output = Self>
{
    /// A number that is given.
    fn given(value: f32) -> Self;
    /// A random number up to 1. WGSL lets a device multiply out the terms that it is the difference of.
    fn random(value: f32) -> Self;
    /// A constant, rounded.
    fn constant(value: f64) -> Self;
    fn sqrt(self) -> Self;
    fn exp2(self) -> Self;
    /// The smaller of it and 1.
    fn at_most_one(self) -> Self;
}

impl Real for f32 {
    fn given(value: f32) -> Self {
        value
    }

    fn random(value: f32) -> Self {
        value
    }

    fn constant(value: f64) -> Self {
        value as Self
    }

    fn sqrt(self) -> Self {
        self.sqrt()
    }

    fn exp2(self) -> Self {
        libm::exp2f(self)
    }

    fn at_most_one(self) -> Self {
        self.min(1.0)
    }
}

impl Real for Rounded {
    fn given(value: f32) -> Self {
        Self::given(value.into())
    }

    fn random(value: f32) -> Self {
        // A term up to 2 and one of 1, each rounded.
        Self { value: value.into(), bound: 4.0 * UNIT_ROUNDOFF }
    }

    fn constant(value: f64) -> Self {
        Self::constant(value)
    }

    fn sqrt(self) -> Self {
        self.sqrt()
    }

    fn exp2(self) -> Self {
        self.exp2()
    }

    fn at_most_one(self) -> Self {
        self.clamp(f64::NEG_INFINITY, 1.0)
    }
}

impl Change {
    /// Words of a change on a device: the transform, the strength of `elastic`, four colours and what is erased.
    #[cfg(feature = "gpu")]
    pub(crate) const WORDS: usize = 15;

    /// The same for the reference: these numbers, without an error.
    pub fn exact(&self) -> Change<Rounded> {
        let given = |value: f32| Rounded::given(value.into());
        Change {
            transform: self.transform.map(given),
            elastic: self.elastic,
            colour: self.colour.map(given),
            erased: self.erased,
        }
    }

    /// Nothing is changed.
    #[cfg(any(test, feature = "gpu"))]
    pub(crate) fn none() -> Self {
        Self {
            transform: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            elastic: Elastic::default(),
            colour: [1.0, 1.0, 1.0, 0.0],
            erased: Region::default(),
        }
    }
}

/// The change of image `index` in an epoch.
pub(super) fn drawn<T: Real>(settings: &NetSettings, image: Shape, epoch: u32, index: u32) -> Change<T> {
    let words: [[u32; 4]; 6] =
        std::array::from_fn(|group| rng::words(settings.augment_key, epoch, group as u32, index));
    let signed = |group: usize, at: usize| T::random(rng::signed(words[group][at]));
    let unit = |group: usize, at: usize| T::random(rng::unit(words[group][at]));
    let factor = |strength: f32, random: T| T::given(1.0) + T::given(strength) * random;
    let transform = moved(settings, image, &words, &signed, &unit);
    let colour = [
        factor(settings.brightness, signed(3, 1)),
        factor(settings.contrast, signed(3, 2)),
        factor(settings.saturation, signed(3, 3)),
        T::given(settings.hue) * signed(4, 0),
    ];
    let erased = if words[4][1] < settings.erase {
        // From a quarter of the longest side to all of it.
        let side = |word: u32, whole: usize| {
            let share = (settings.erase_side * (0x4000 + (((word >> 16) * 3) >> 2))) >> 16;
            ((whole as u32 * share + 0x8000) >> 16).clamp(1, whole as u32)
        };
        let size = [side(words[4][2], image.width), side(words[4][3], image.height)];
        Region::placed(size, image, [words[5][0], words[5][1]])
    } else {
        Region::default()
    };
    let elastic = Elastic {
        pixels: settings.elastic,
        points: settings.points,
        key: settings.augment_key,
        of: [epoch, index],
    };
    Change { transform, elastic, colour, erased }
}

/// Where the pixels come from.
fn moved<T: Real>(
    settings: &NetSettings,
    image: Shape,
    words: &[[u32; 4]; 6],
    signed: &impl Fn(usize, usize) -> T,
    unit: &impl Fn(usize, usize) -> T,
) -> [T; 6] {
    let (number, part) = (T::given, |divisor: f64| T::constant(1.0 / divisor));
    let angle = number(settings.rotate) * signed(0, 0);
    let square = angle * angle;
    // Taylor series: exact to f32 up to 45°, and the same on every device.
    let sine = angle * (number(1.0) + square * (part(-6.0) + square * (part(120.0) - square * part(5040.0))));
    let cosine = number(1.0)
        + square * (number(-0.5) + square * (part(24.0) + square * (part(-720.0) + square * part(40320.0))));
    let shrink = number(1.0) / (number(1.0) + number(settings.scale) * signed(0, 3));
    let shear = number(settings.shear) * signed(1, 0);
    let centre_x = number((image.width - 1) as f32 * 0.5);
    let centre_y = number((image.height - 1) as f32 * 0.5);
    let from_x = centre_x + number(settings.shift) * signed(0, 1);
    let from_y = centre_y + number(settings.shift) * signed(0, 2);
    let (a, b) = (cosine * shrink, (sine + shear * cosine) * shrink);
    let (d, e) = (-sine * shrink, (cosine - shear * sine) * shrink);
    let mut moved = [a, b, centre_x - (a * from_x + b * from_y), d, e, centre_y - (d * from_x + e * from_y)];
    if settings.flip_horizontal > words[1][1] {
        let last = number((image.width - 1) as f32);
        moved = [
            -moved[0],
            moved[1],
            moved[0] * last + moved[2],
            -moved[3],
            moved[4],
            moved[3] * last + moved[5],
        ];
    }
    if settings.flip_vertical > words[1][2] {
        let last = number((image.height - 1) as f32);
        moved = [
            moved[0],
            -moved[1],
            moved[1] * last + moved[2],
            moved[3],
            -moved[4],
            moved[4] * last + moved[5],
        ];
    }
    let shift = |word: u32| {
        let places = 2 * settings.pad + 1;
        number((((word >> 16) * places) >> 16) as f32 - settings.pad as f32)
    };
    moved[2] = moved[2] + shift(words[1][3]);
    moved[5] = moved[5] + shift(words[2][0]);
    if settings.crop > 0.0 || settings.aspect > 0.0 {
        let area = number(1.0) - number(settings.crop) * unit(2, 1);
        let aspect = (number(settings.aspect) * signed(2, 2)).exp2();
        let width = (area * aspect).sqrt().at_most_one();
        let height = (area / aspect).sqrt().at_most_one();
        // Pixels are squares around whole coordinates, so the image begins at -1/2.
        let start = |size: T, whole: usize, random: T| {
            number(0.5) * size - number(0.5) + number(whole as f32) * (number(1.0) - size) * random
        };
        let from_x = start(width, image.width, unit(2, 3));
        let from_y = start(height, image.height, unit(3, 0));
        let [a, b, c, d, e, f] = moved;
        moved = [width * a, width * b, width * c + from_x, height * d, height * e, height * f + from_y];
    }
    moved
}
