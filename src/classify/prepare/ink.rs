//! Measuring ink and placing it as MNIST does.

use crate::dataset::bitmap::Raster;

/// Ink box in parts of the output's side.
const BOX: f32 = 20.0 / 28.0;
/// Strokes are widened to about this many output pixels; the median of MNIST is 2.4.
const STROKE: f32 = 2.6;
/// Differences below this part of the ink's contrast are paper.
const NOISE: f32 = 0.15;

/// How much ink is in each pixel of a picture.
pub(super) struct Ink {
    pub(super) height: usize,
    pub(super) width: usize,
    /// `[height][width]`, 0 is paper.
    pub(super) values: Vec<u8>,
}

impl Ink {
    /// The distance in a picture of four channels to the paper's colour, which serves dark and light ink alike; transparency is paper.
    pub(super) fn new(picture: &Raster<u8>, paper: [u8; 3]) -> Self {
        let distance = |&[r, g, b, alpha]: &[u8; 4]| {
            let [r, g, b] = [(r, 0), (g, 1), (b, 2)].map(|(v, i)| v.abs_diff(paper[i]));
            (u32::from(r.max(g).max(b)) * u32::from(alpha) / 255) as u8
        };
        Self {
            height: picture.height,
            width: picture.width,
            values: picture.pixels().iter().map(distance).collect(),
        }
    }

    /// Makes faint differences 0 and typical ink 255.
    pub(super) fn stretch(&mut self) {
        let peak = peak(&self.values.iter().map(|&v| f32::from(v)));
        let stretched: Vec<u8> =
            (0..=255u8).map(|v| (255.0 * (f32::from(v) / peak - NOISE) / (1.0 - NOISE)) as u8).collect();
        for value in &mut self.values {
            *value = stretched[usize::from(*value)];
        }
    }

    /// The finished image: scaled so that the ink fits its box, its centre of mass on pixel (height / 2, width / 2),
    /// which is where MNIST has it.
    pub(super) fn place(&self, height: usize, width: usize) -> Vec<u8> {
        let mut rows = vec![0u64; self.height];
        let mut columns = vec![0u64; self.width];
        for (row, sum) in self.values.chunks_exact(self.width).zip(&mut rows) {
            for (&value, column) in row.iter().zip(&mut columns) {
                *sum += u64::from(value);
                *column += u64::from(value);
            }
        }
        let (rows, columns) = (Extent::new(&rows), Extent::new(&columns));
        let scale = |by: f32| {
            let rows = (rows.size() + by) / (BOX * height as f32);
            rows.max((columns.size() + by) / (BOX * width as f32))
        };
        // Averaging over one output pixel would fade thin strokes; a wider window, up to a whole stroke for a line
        // without width, widens them. A window of one source pixel is bilinear interpolation.
        let narrow = scale(0.0);
        let fade = STROKE * narrow - self.stroke_width() * (1.0 - 1.0 / STROKE);
        let widening = fade.max(1.0).max(narrow) - narrow;
        let scale = scale(widening);
        let rows = rows.taps(height, scale, widening);
        let columns = columns.taps(width, scale, widening);
        let mut narrow = Vec::with_capacity(self.height * width);
        for row in self.values.chunks_exact(self.width) {
            narrow.extend(columns.iter().map(|(first, weights)| -> f32 {
                let pairs = row[*first..].iter().zip(weights);
                pairs.map(|(&v, w)| f32::from(v) * w).sum()
            }));
        }
        let mut out = vec![0.0; height * width];
        for (line, (first, weights)) in out.chunks_exact_mut(width.max(1)).zip(&rows) {
            let sources = narrow.chunks_exact(width.max(1)).skip(*first);
            for (source, weight) in sources.zip(weights) {
                for (v, s) in line.iter_mut().zip(source) {
                    *v += s * weight;
                }
            }
        }
        let gain = 255.0 / peak(&out.iter().copied());
        out.iter().map(|v| (v * gain).round() as u8).collect()
    }

    /// Mean width of the strokes: a line of width w and length l has the area wl and the outline 2l, which pixel edges
    /// lengthen by 4/π on average.
    fn stroke_width(&self) -> f32 {
        let (mut area, mut edges) = (0usize, 0usize);
        let mut above = vec![false; self.width];
        for row in self.values.chunks_exact(self.width) {
            let mut left = false;
            for (&value, above) in row.iter().zip(&mut above) {
                let full = value >= 128;
                area += usize::from(full);
                // Every edge is entered and left: count entries only.
                edges += usize::from(full && !left) + usize::from(full && !*above);
                (left, *above) = (full, full);
            }
        }
        area as f32 / edges.max(1) as f32 * (4.0 / std::f32::consts::PI)
    }
}

/// Brightness of typical ink: the mean of all values above a third of the maximum.
fn peak(values: &(impl Iterator<Item = f32> + Clone)) -> f32 {
    let third = values.clone().fold(0.0, f32::max) / 3.0;
    let strong = values.clone().filter(|&v| v >= third);
    let (sum, count) = strong.fold((0.0, 0.0), |(s, n), v| (s + f64::from(v), n + 1.0));
    ((sum / count) as f32).max(f32::MIN_POSITIVE)
}

/// Where the ink lies along one axis, in source pixels.
struct Extent {
    len: usize,
    first: f32,
    end: f32,
    centre: f32,
}

impl Extent {
    /// From the ink per row or column. A thousandth of the ink at either end does not count: specks of dust.
    fn new(sums: &[u64]) -> Self {
        let total: u64 = sums.iter().sum();
        let dust = |sums: &mut dyn Iterator<Item = &u64>| {
            let mut seen = 0;
            let passed = sums.take_while(|&&sum| {
                seen += sum;
                seen <= total / 1000
            });
            passed.count() as f32
        };
        let moments = sums.iter().enumerate();
        let moment: f64 = moments.map(|(i, &s)| (i as f64 + 0.5) * s as f64).sum();
        Self {
            len: sums.len(),
            first: dust(&mut sums.iter()),
            end: sums.len() as f32 - dust(&mut sums.iter().rev()),
            centre: (moment / total.max(1) as f64) as f32,
        }
    }

    fn size(&self) -> f32 {
        self.end - self.first
    }

    /// For each of `side` output pixels, `scale` source pixels large, the first source pixel of its window and the
    /// weights of that and the following ones.
    fn taps(&self, side: usize, scale: f32, widening: f32) -> Vec<(usize, Vec<f32>)> {
        let first = self.first - widening / 2.0;
        let size = (self.size() + widening) / scale;
        // The box begins on an output pixel, as in MNIST, and stays inside however uneven the ink is.
        let middle = (side / 2) as f32 + 0.5;
        let left = (middle - (self.centre - first) / scale).round();
        let left = left.min((side as f32 - size).floor()).max(0.0);
        let weights = |i: usize| {
            let start = first + (i as f32 - left) * scale - widening / 2.0;
            let end = start + scale + widening;
            let from = (start.max(0.0) as usize).min(self.len);
            let to = (end.max(0.0).ceil() as usize).min(self.len);
            let overlap = |i: usize| ((i + 1) as f32).min(end) - (i as f32).max(start);
            let weights = (from..to).map(|i| overlap(i).max(0.0) / (end - start));
            (from, weights.collect())
        };
        (0..side).map(weights).collect()
    }
}
