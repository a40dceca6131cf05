//! One image, changed: the arithmetic of `shaders/batch.wgsl` on whole images.

use crate::batch::{Change, Elastic, GREY, Mixture, reflected};
use crate::config::Fill;
use crate::normalization::Normalization;
use crate::tensor::Shape;

/// An image of a dataset.
pub(super) struct Picture<'a> {
    /// [C, H, W]
    pub(super) pixels: &'a [u8],
    pub(super) shape: Shape,
    pub(super) fill: Fill,
    /// In 1/65536.
    pub(super) mean_grey: u32,
}

impl Picture<'_> {
    /// What becomes of it, [C, H, W], before normalisation.
    pub(super) fn changed(&self, change: &Change, normalization: &Normalization) -> Vec<f32> {
        let Shape { height, width, .. } = self.shape;
        let map = self.shape.area();
        let mut values = vec![0.0; self.pixels.len()];
        let field = Field::new(&change.elastic, self.shape);
        let means = || normalization.mean_pixels();
        for ((channel, values), mean) in
            self.pixels.chunks_exact(map).zip(values.chunks_exact_mut(map)).zip(means())
        {
            self.moved(change, &field, channel, mean, values);
        }
        self.coloured(change.colour, &mut values);
        let erased = change.erased;
        if erased.area() > 0 {
            for (values, mean) in values.chunks_exact_mut(map).zip(means()) {
                for row in values
                    .chunks_exact_mut(width)
                    .take(height)
                    .take(erased.bottom as usize)
                    .skip(erased.top as usize)
                {
                    row[erased.left as usize..erased.right as usize].fill(mean);
                }
            }
        }
        values
    }

    /// One channel, interpolated at the places from which its pixels come.
    fn moved(&self, change: &Change, field: &Option<Field>, channel: &[u8], mean: f32, values: &mut [f32]) {
        let Shape { height, width, .. } = self.shape;
        let outside = match self.fill {
            Fill::Value(value) => Some(value),
            Fill::Mean => Some(mean),
            Fill::Edge | Fill::Reflect => None,
        };
        let pixel = |y: i32, x: i32| -> f32 {
            // Negative numbers become large ones.
            if (y as usize) < height && (x as usize) < width {
                return f32::from(channel[y as usize * width + x as usize]);
            }
            outside.unwrap_or_else(|| {
                let place = |place: i32, size: usize| match self.fill {
                    Fill::Reflect => reflected(place.into(), size as i64) as usize,
                    _ => place.clamp(0, size as i32 - 1) as usize,
                };
                f32::from(channel[place(y, height) * width + place(x, width)])
            })
        };
        let [a, b, c, d, e, f] = change.transform;
        for (row_number, row) in values.chunks_exact_mut(width).enumerate() {
            for (column_number, value) in row.iter_mut().enumerate() {
                let (x, y) = (column_number as f32, row_number as f32);
                let (mut source_x, mut source_y) = (a * x + b * y + c, d * x + e * y + f);
                if let Some(field) = field {
                    let [right, down] = field.moves[row_number * width + column_number];
                    (source_x, source_y) = (source_x + right, source_y + down);
                }
                let (column, row) = (floor(source_x), floor(source_y));
                let (fx, fy) = (source_x - column as f32, source_y - row as f32);
                let upper = pixel(row, column) * (1.0 - fx) + pixel(row, column + 1) * fx;
                let lower = pixel(row + 1, column) * (1.0 - fx) + pixel(row + 1, column + 1) * fx;
                *value = upper * (1.0 - fy) + lower * fy;
            }
        }
    }

    fn coloured(&self, [brightness, contrast, saturation, hue]: [f32; 4], values: &mut [f32]) {
        let shown = |value: f32| value.clamp(0.0, 255.0);
        if [brightness, contrast] != [1.0; 2] {
            let pivot = shown(self.mean_grey as f32 * (1.0 / 65536.0) * brightness) * (1.0 - contrast);
            for value in values.iter_mut() {
                *value = shown(shown(*value * brightness) * contrast + pivot);
            }
        }
        if self.shape.channels != 3 || (saturation == 1.0 && hue == 0.0) {
            return;
        }
        let (reds, others) = values.split_at_mut(self.shape.area());
        let (greens, blues) = others.split_at_mut(self.shape.area());
        for ((red, green), blue) in reds.iter_mut().zip(greens).zip(blues) {
            let grey = *red * GREY[0] + *green * GREY[1] + *blue * GREY[2];
            let part = grey * (1.0 - saturation);
            let saturated = [*red, *green, *blue].map(|value| shown(value * saturation + part));
            [*red, *green, *blue] = if hue == 0.0 { saturated } else { turned(saturated, hue) };
        }
    }
}

/// A colour with its hue turned by this share of a circle: see the shader.
#[inline(always)]
fn turned([r, g, b]: [f32; 3], turn: f32) -> [f32; 3] {
    let most = r.max(g).max(b);
    let chroma = most - r.min(g).min(b);
    let of_blue = r - g + 4.0 * chroma;
    let of_green = b - r + 2.0 * chroma;
    let hue = if most == g { of_green } else { of_blue };
    let hue = if most == r { g - b } else { hue };
    let circle = 6.0 * chroma;
    [5.0, 3.0, 1.0].map(|n| {
        let place = hue + circle * turn + n * chroma;
        let place = if place < 0.0 { place + circle } else { place };
        let place = if place >= circle { place - circle } else { place };
        let place = if place >= circle { place - circle } else { place };
        most - place.min(4.0 * chroma - place).max(0.0).min(chroma)
    })
}

/// Mixes another image into `values`.
pub(super) fn mix(values: &mut [f32], other: &[f32], mixture: &Mixture, shape: Shape) {
    let Some(region) = mixture.region else {
        let weight = mixture.weight as f32 * (1.0 / 65536.0);
        let keep = 1.0 - weight;
        values.iter_mut().zip(other).for_each(|(value, other)| *value = *value * keep + other * weight);
        return;
    };
    let columns = region.left as usize..region.right as usize;
    let rows = values.chunks_exact_mut(shape.width).zip(other.chunks_exact(shape.width)).enumerate();
    for (row, (values, other)) in rows {
        if (region.top as usize..region.bottom as usize).contains(&(row % shape.height)) {
            values[columns.clone()].copy_from_slice(&other[columns.clone()]);
        }
    }
}

/// How far each pixel is displaced.
struct Field {
    moves: Vec<[f32; 2]>,
}

impl Field {
    fn new(elastic: &Elastic, shape: Shape) -> Option<Self> {
        if elastic.pixels == 0.0 {
            return None;
        }
        let place = |at: usize| {
            let place = at as f32 * elastic.points;
            let t = place - place.floor();
            (place as usize, t * t * (3.0 - 2.0 * t))
        };
        let [columns, rows] = [shape.width, shape.height].map(|size| place(size - 1).0 + 2);
        let points: Vec<[f32; 2]> = (0..rows * columns)
            .map(|at| elastic.at_point((at % columns) as u32, (at / columns) as u32))
            .collect();
        let across: Vec<_> = (0..shape.width).map(place).collect();
        let mut moves = Vec::with_capacity(shape.area());
        for y in 0..shape.height {
            let (row, down) = place(y);
            moves.extend(across.iter().map(|&(column, across)| {
                let at = |right: usize, below: usize| points[(row + below) * columns + column + right];
                std::array::from_fn(|axis| {
                    let upper = at(0, 0)[axis] * (1.0 - across) + at(1, 0)[axis] * across;
                    let lower = at(0, 1)[axis] * (1.0 - across) + at(1, 1)[axis] * across;
                    upper * (1.0 - down) + lower * down
                })
            }));
        }
        Some(Self { moves })
    }
}

/// The largest integer not above `x`. `f32::floor` is a function call on processors that lack SSE 4.1.
fn floor(x: f32) -> i32 {
    let whole = x as i32;
    whole - i32::from(whole as f32 > x)
}
