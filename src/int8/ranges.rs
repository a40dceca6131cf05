//! The range of each step's values, taken from images.

use rayon::prelude::*;

use crate::inference::Program;
use crate::threads::on_all_processors;

/// Resolution at which values are counted.
const BINS: usize = 2048;
/// Parts of the range that are tried for each end: from a quarter to the whole, in steps of 1/40.
const PARTS: std::ops::RangeInclusive<usize> = 10..=40;

/// For each step the smallest and the largest value to keep apart, with 0 between them: what is beyond is cut off. Of all
/// ranges the one with the least mean square of what is lost by cutting and by rounding to 256 values (docs/tried.md compares
/// it with others). The last step, which makes the logits, has all that it made.
pub(super) fn of(program: &Program, images: &[&[u8]]) -> Vec<[f64; 2]> {
    let steps = program.steps.len();
    let extremes = on_all_processors(|| {
        let of_one = |pixels: &&[u8]| -> Vec<[f32; 2]> {
            let extreme =
                |values: Vec<f32>| values.iter().fold([0f32; 2], |[low, high], &x| [low.min(x), high.max(x)]);
            program.run(pixels).into_iter().map(extreme).collect()
        };
        let wider = |a: Vec<[f32; 2]>, b: Vec<[f32; 2]>| -> Vec<[f32; 2]> {
            a.iter().zip(b).map(|(a, b)| [a[0].min(b[0]), a[1].max(b[1])]).collect()
        };
        images.par_iter().map(of_one).reduce(|| vec![[0.0; 2]; steps], wider)
    });
    let counts = on_all_processors(|| {
        let count = |mut counts: Vec<Vec<u64>>, pixels: &&[u8]| {
            for ((values, counts), [low, high]) in program.run(pixels).iter().zip(&mut counts).zip(&extremes)
            {
                let bins = BINS as f32 / (high - low);
                for x in values.iter().filter(|_| high > low) {
                    counts[(((x - low) * bins) as usize).min(BINS - 1)] += 1;
                }
            }
            counts
        };
        let none = || vec![vec![0u64; BINS]; steps];
        let add = |mut a: Vec<Vec<u64>>, b: Vec<Vec<u64>>| {
            a.iter_mut().flatten().zip(b.iter().flatten()).for_each(|(a, b)| *a += b);
            a
        };
        images.par_iter().fold(none, count).reduce(none, add)
    });
    let extremes = extremes.iter().map(|range| range.map(f64::from));
    extremes
        .zip(counts)
        .enumerate()
        .map(|(step, (range, counts))| if step + 1 == steps { range } else { least_error(range, &counts) })
        .collect()
}

/// The part of `range` that loses least.
fn least_error([low, high]: [f64; 2], counts: &[u64]) -> [f64; 2] {
    let width = (high - low) / counts.len() as f64;
    let values =
        || counts.iter().enumerate().map(|(bin, &count)| (low + (bin as f64 + 0.5) * width, count as f64));
    let error = |range: [f64; 2]| -> f64 {
        let rounding = ((range[1] - range[0]) / 255.0).powi(2) / 12.0;
        let lost = |(x, count): (f64, f64)| {
            let cut = x - x.clamp(range[0], range[1]);
            count * if cut == 0.0 { rounding } else { cut * cut }
        };
        values().map(lost).sum()
    };
    let part = |end: f64| PARTS.map(move |part| end * part as f64 / *PARTS.end() as f64);
    let lows: Vec<f64> = if low < 0.0 { part(low).collect() } else { vec![0.0] };
    let highs: Vec<f64> = if high > 0.0 { part(high).collect() } else { vec![0.0] };
    let ranges = lows.iter().flat_map(|&low| highs.iter().map(move |&high| [low, high]));
    ranges.min_by(|a, b| error(*a).total_cmp(&error(*b))).expect("there is a range")
}
