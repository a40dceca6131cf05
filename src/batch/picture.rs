//! What a network sees of a sample, in `f64` with the bound of each value: the reference for gathering.

use crate::config::Fill;
use crate::normalization::Normalization;
use crate::tensor::{Array, Rounded, Shape, gamma};

use super::Mixture;
use super::change::Change;
use super::mixture::ONE;

/// Shares of red, green and blue in grey (ITU-R BT.601, as in torchvision).
pub(crate) const GREY: [f32; 3] = [0.2989, 0.587, 0.114];

/// Mean grey of an image [C, H, W] in 1/65536; that of all channels, if there are not three.
pub(crate) fn mean_grey(pixels: &[u8], channels: usize) -> u32 {
    let map = pixels.len() / channels;
    let sums =
        pixels.chunks_exact(map).map(|channel| channel.iter().map(|&pixel| u64::from(pixel)).sum::<u64>());
    let mean = match channels {
        3 => sums.zip(GREY).map(|(sum, share)| sum as f64 * f64::from(share)).sum::<f64>() / map as f64,
        _ => sums.sum::<u64>() as f64 / pixels.len() as f64,
    };
    (mean * f64::from(ONE)) as u32
}

/// The images of a dataset, and how they are read.
pub(super) struct Pictures<'a> {
    pub(super) shape: Shape,
    pub(super) normalization: &'a Normalization,
    pub(super) fill: Fill,
}

impl Pictures<'_> {
    /// A channel's pixel, which may be outside.
    fn pixel(&self, map: &[u8], mean: f32, y: i64, x: i64) -> f64 {
        let (height, width) = (self.shape.height as i64, self.shape.width as i64);
        let at = |y: i64, x: i64| f64::from(map[(y * width + x) as usize]);
        if (0..height).contains(&y) && (0..width).contains(&x) {
            return at(y, x);
        }
        match self.fill {
            Fill::Value(value) => value.into(),
            Fill::Mean => mean.into(),
            Fill::Edge => at(y.clamp(0, height - 1), x.clamp(0, width - 1)),
            Fill::Reflect => at(reflected(y, height), reflected(x, width)),
        }
    }

    /// Pixel (x, y) of a changed image in all channels, before normalisation.
    fn seen(&self, pixels: &[u8], change: &Change<Rounded>, y: usize, x: usize) -> Vec<Rounded> {
        let means = self.normalization.mean_pixels();
        if change.erased.contains(x, y) {
            return means.map(|mean| Rounded::given(mean.into())).collect();
        }
        let [a, b, c, d, e, f] = change.transform;
        let moved = change.elastic.reference(x, y);
        let place = [x, y].map(|place| Rounded::given(place as f64));
        let source = [a * place[0] + b * place[1] + c + moved[0], d * place[0] + e * place[1] + f + moved[1]];
        let [column, row] = source.map(|place| place.value.floor());
        let (fx, fy) = (source[0].value - column, source[1].value - row);
        // Interpolation is continuous with slope at most 255 a pixel, so a rounded coordinate costs at most 255 times its error.
        let error = source[0].bound + source[1].bound;
        let bound = 255.0 * error + if error > 0.0 { 255.0 * gamma(8) } else { 0.0 };
        let maps = pixels.chunks_exact(self.shape.area());
        let values = maps.zip(means).map(|(map, mean)| {
            let at = |down, right| self.pixel(map, mean, row as i64 + down, column as i64 + right);
            let upper = at(0, 0) * (1.0 - fx) + at(0, 1) * fx;
            let lower = at(1, 0) * (1.0 - fx) + at(1, 1) * fx;
            Rounded { value: upper * (1.0 - fy) + lower * fy, bound }
        });
        coloured(values.collect(), change.colour, mean_grey(pixels, self.shape.channels))
    }

    /// What the network sees: [1, C, H, W].
    pub(super) fn reference(
        &self,
        own: (&[u8], Option<&Change<Rounded>>),
        other: Option<(&[u8], &Mixture<Rounded>)>,
    ) -> Array {
        let Shape { channels, height, width } = self.shape;
        let mut made = Array::zeros(&[1, channels, height, width]);
        for y in 0..height {
            for x in 0..width {
                let mut values = match own.1 {
                    Some(change) => self.seen(own.0, change, y, x),
                    None => {
                        let maps = own.0.chunks_exact(height * width);
                        maps.map(|map| Rounded::given(map[y * width + x].into())).collect()
                    }
                };
                if let Some((pixels, mixture)) = other {
                    let others = || self.seen(pixels, &mixture.change, y, x);
                    match mixture.region {
                        Some(region) if region.contains(x, y) => values = others(),
                        Some(_) => {}
                        None => {
                            let weight = Rounded::given(f64::from(mixture.weight) / f64::from(ONE));
                            let keep = Rounded::given(1.0) - weight;
                            values
                                .iter_mut()
                                .zip(others())
                                .for_each(|(own, other)| *own = *own * keep + other * weight);
                        }
                    }
                }
                for (c, (value, (scale, offset))) in
                    values.into_iter().zip(self.normalization.affine()).enumerate()
                {
                    let (scale, offset) = (f64::from(scale), f64::from(offset));
                    let at = (c * height + y) * width + x;
                    made.data[at] = value.value * scale + offset;
                    made.bound[at] =
                        value.bound * scale + gamma(3) * ((value.value * scale).abs() + offset.abs());
                }
            }
        }
        made
    }
}

/// Where a place outside 0..size falls if the image is mirrored at its outermost pixels.
pub(crate) fn reflected(place: i64, size: i64) -> i64 {
    let period = (2 * size - 2).max(1);
    let place = place.abs() % period;
    place.min(period - place).min(size - 1)
}

/// A pixel's channels with their brightness, contrast, saturation and hue changed, as torchvision's `adjust_...` do it.
fn coloured(values: Vec<Rounded>, colour: [Rounded; 4], mean_grey: u32) -> Vec<Rounded> {
    let [brightness, contrast, saturation, hue] = colour;
    let one = Rounded::given(1.0);
    let given = |value: f64| Rounded::given(value);
    let shown = |value: Rounded| value.clamp(0.0, 255.0);
    let none = [brightness, contrast, saturation].iter().all(|factor| *factor == one) && hue == given(0.0);
    if none {
        return values;
    }
    let pivot = shown(given(f64::from(mean_grey) / f64::from(ONE)) * brightness);
    let mut values: Vec<_> = values
        .into_iter()
        .map(|value| shown(shown(value * brightness) * contrast + pivot * (one - contrast)))
        .collect();
    let &[red, green, blue] = values.as_slice() else { return values };
    let [r, g, b] = GREY.map(|share| given(share.into()));
    let grey = red * r + green * g + blue * b;
    values.iter_mut().for_each(|value| *value = shown(*value * saturation + grey * (one - saturation)));
    if hue == given(0.0) {
        return values;
    }
    turned([values[0], values[1], values[2]], hue).to_vec()
}

/// A colour with its hue turned by this share of a circle: HSV (Smith 1978) without its divisions. With the hue times the chroma,
/// H = h·c from 0 to 6c, a channel is max − clamp(min(K, 4c − K), 0, c) for K = H + 6c·turn + n·c modulo 6c, n = 5, 3, 1.
fn turned(rgb: [Rounded; 3], turn: Rounded) -> [Rounded; 3] {
    let [r, g, b] = rgb.map(|value| value.value);
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    let chroma = most - least;
    let hue = match most {
        _ if most == r => g - b,
        _ if most == g => b - r + 2.0 * chroma,
        _ => r - g + 4.0 * chroma,
    };
    // The result is piecewise linear and continuous in the three channels, with slopes that add up to at most 7. About ten
    // roundings of numbers up to 13c.
    let error = rgb.iter().map(|value| value.bound).fold(0.0, f64::max);
    let bound = 7.0 * error + 6.0 * chroma * turn.bound + gamma(10) * 13.0 * chroma + gamma(2) * most;
    [5.0, 3.0, 1.0].map(|n| {
        let turned = (hue + 6.0 * chroma * turn.value + n * chroma).rem_euclid(6.0 * chroma.max(1e-30));
        let value = most - turned.min(4.0 * chroma - turned).clamp(0.0, chroma);
        Rounded { value, bound }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrored_places() {
        let places: Vec<i64> = (-4..=6).map(|place| reflected(place, 3)).collect();
        assert_eq!(places, [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]);
        assert!((-3..4).all(|place| reflected(place, 1) == 0));
        assert_eq!([-1, 0, 1, 2, 3].map(|place| reflected(place, 2)), [1, 0, 1, 0, 1]);
    }

    #[test]
    fn hues_by_hand() {
        let turn = |rgb: [f64; 3], turn| {
            turned(rgb.map(Rounded::given), Rounded::given(turn)).map(|v| v.value.round())
        };
        // A third of a turn: red becomes green, green blue, blue red.
        assert_eq!(turn([250.0, 40.0, 10.0], 1.0 / 3.0), [10.0, 250.0, 40.0]);
        assert_eq!(turn([10.0, 250.0, 40.0], 1.0 / 3.0), [40.0, 10.0, 250.0]);
        // Half a turn: orange becomes azure.
        assert_eq!(turn([255.0, 128.0, 0.0], 0.5), [0.0, 127.0, 255.0]);
        assert_eq!(turn([255.0, 128.0, 0.0], -0.5), [0.0, 127.0, 255.0]);
        assert_eq!(turn([77.0; 3], 0.3), [77.0; 3]);
    }
}
