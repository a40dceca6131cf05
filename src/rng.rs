//! The one source of randomness: a counter-based generator with the same bits in Rust and in WGSL.
//!
//! A random word is a pure function of (seed, stream, step, group, element), never of history: CPU and GPU see the
//! same batches, crops and dropout masks, and a run can be resumed or split anywhere. The mixing function is PCG4D
//! (Jarzynski and Olano, "Hash Functions for GPU Rendering", JCGT 9(3), 2020). `shaders/*.wgsl` contain the same function.

/// The purpose of random words; keeps the uses independent of one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Initial parameters.
    Init,
    /// Order of the training images in an epoch.
    Shuffle,
    /// Random rotation, shift, scale and shear.
    Augment,
    /// Held-out part of the training set.
    Split,
    /// Dropout mask of the layer with this index.
    Dropout(u32),
}

impl Stream {
    /// The number used in the key.
    pub fn number(self) -> u32 {
        match self {
            Self::Init => 0,
            Self::Shuffle => 1,
            Self::Augment => 2,
            Self::Split => 3,
            Self::Dropout(layer) => 16 + layer,
        }
    }
}

/// PCG4D: four words in, four well-mixed words out.
#[inline(always)]
pub fn pcg4d(v: [u32; 4]) -> [u32; 4] {
    let [mut x, mut y, mut z, mut w] = v.map(|a| a.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    x = x.wrapping_add(y.wrapping_mul(w));
    y = y.wrapping_add(z.wrapping_mul(x));
    z = z.wrapping_add(x.wrapping_mul(y));
    w = w.wrapping_add(y.wrapping_mul(z));
    [x, y, z, w] = [x, y, z, w].map(|a| a ^ (a >> 16));
    x = x.wrapping_add(y.wrapping_mul(w));
    y = y.wrapping_add(z.wrapping_mul(x));
    z = z.wrapping_add(x.wrapping_mul(y));
    w = w.wrapping_add(y.wrapping_mul(z));
    [x, y, z, w]
}

/// The key of one stream of one seed.
#[inline]
pub fn key(seed: u32, stream: Stream) -> u32 {
    pcg4d([seed, stream.number(), 0, 0])[0]
}

/// Four random words of a stream. The stream's user decides what `step`, `group` and `element` count.
///
/// # Examples
/// ```
/// use shadernet::rng::{Stream, key, unit, words};
///
/// let key = key(42, Stream::Init);
/// let word = words(key, 0, 0, 7)[0];
/// assert_eq!(word, words(key, 0, 0, 7)[0]); // no state: the same question has the same answer
/// assert!((0.0..1.0).contains(&unit(word)));
/// ```
#[inline(always)]
pub fn words(key: u32, step: u32, group: u32, element: u32) -> [u32; 4] {
    pcg4d([element, group, step, key])
}

/// A word as an f32 in [0, 1), a multiple of 2^-24.
#[inline(always)]
pub fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// A word as an f32 in [-1, 1), a multiple of 2^-23.
#[inline(always)]
pub fn signed(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 8_388_608.0) - 1.0
}

/// Dropout keeps an element when its word is at least this: P(word < threshold) = `rate`.
pub fn drop_threshold(rate: f32) -> u32 {
    (f64::from(rate) * 4_294_967_296.0) as u32
}

/// A random permutation of 0..len without a table: a four-round Feistel network with cycle walking (Black and Rogaway,
/// "Ciphers with Arbitrary Finite Domains", 2002).
///
/// # Examples
/// ```
/// use shadernet::rng::{Permutation, Stream, key};
///
/// let order = Permutation::new(5, key(42, Stream::Shuffle), 0);
/// let mut images: Vec<u32> = (0..5).map(|position| order.get(position)).collect();
/// images.sort();
/// assert_eq!(images, [0, 1, 2, 3, 4]);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Permutation {
    len: u32,
    half_bits: u32,
    key: u32,
    epoch: u32,
}

impl Permutation {
    /// The permutation of `0..len` that `key` gives for `epoch`. `len` is at most 2^30.
    pub fn new(len: u32, key: u32, epoch: u32) -> Self {
        Self { len, half_bits: Self::half_bits(len), key, epoch }
    }

    /// Half the width of the Feistel block: the smallest h with 4^h ≥ `len`.
    pub fn half_bits(len: u32) -> u32 {
        (32 - len.saturating_sub(1).leading_zeros()).div_ceil(2)
    }

    /// The value at position `index` of the order.
    pub fn get(&self, index: u32) -> u32 {
        let mask = (1u32 << self.half_bits) - 1;
        let mut value = index;
        loop {
            let (mut left, mut right) = (value >> self.half_bits, value & mask);
            for round in 0..4 {
                let mixed = words(self.key, self.epoch, round, right)[0] & mask;
                (left, right) = (right, left ^ mixed);
            }
            value = left << self.half_bits | right;
            if value < self.len {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pcg4d_has_the_published_constants() {
        // Worked out by hand for all-zero input: after the first line each word is 1013904223.
        let c = 1_013_904_223u32;
        let x = c.wrapping_add(c.wrapping_mul(c));
        let y = c.wrapping_add(c.wrapping_mul(x));
        let z = c.wrapping_add(x.wrapping_mul(y));
        let w = c.wrapping_add(y.wrapping_mul(z));
        let [x, y, _, w] = [x, y, z, w].map(|a| a ^ (a >> 16));
        assert_eq!(pcg4d([0; 4])[0], x.wrapping_add(y.wrapping_mul(w)));
    }

    #[test]
    fn permutations_visit_everything_once_and_differ_by_epoch() {
        for len in [1, 2, 3, 7, 16, 17, 1000, 60_000] {
            let order = |epoch| -> Vec<u32> {
                let permutation = Permutation::new(len, key(5, Stream::Shuffle), epoch);
                (0..len).map(|i| permutation.get(i)).collect()
            };
            let mut sorted = order(0);
            sorted.sort_unstable();
            assert!(sorted.iter().enumerate().all(|(i, &v)| i as u32 == v), "len {len}");
            if len >= 1000 {
                let same = order(0).iter().zip(order(1)).filter(|(a, b)| **a == *b).count();
                assert!(same < 20, "epochs share {same} of {len} positions");
            }
        }
    }

    #[test]
    fn words_are_uniform() {
        let key = key(1, Stream::Dropout(3));
        let mut counts = [0u32; 16];
        for element in 0..40_000 {
            for word in words(key, 9, 2, element) {
                counts[(word >> 28) as usize] += 1;
            }
        }
        // χ² with 15 degrees of freedom: 37.7 is the 0.1 % point.
        let chi2: f64 = counts.iter().map(|&c| (f64::from(c) - 1e4).powi(2) / 1e4).sum();
        assert!(chi2 < 37.7, "χ² = {chi2}");
    }
}
