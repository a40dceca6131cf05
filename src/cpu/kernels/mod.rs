//! The arithmetic of the CPU engine: one function per layer and direction, on blocks of 16 images.
//!
//! A block holds 16 images with the image index innermost: `[channels, height, width, 16]`. Every operation is then
//! the same scalar code run on whole vectors of images, whatever the image size, stride, padding or grouping. Vectors
//! narrower than 16 process the block in equal parts. Buffers work at any address and are fastest at multiples of 64
//! bytes, where no vector straddles two cache lines.

mod activation;
mod batch_norm;
mod batch_norm_grad;
mod combine;
mod conv;
mod conv_weight;
mod direct_conv;
mod dropout;
mod group_norm;
mod linear;
mod pool;
#[cfg(test)]
mod testing;

pub(crate) use activation::{activation, activation_grad, prelu_grad_weight};
pub(crate) use batch_norm::{Rectified, batch_norm_apply, batch_norm_sums};
pub(crate) use batch_norm_grad::{BatchNormGrad, batch_norm_grad_input, batch_norm_grad_sums};
pub(crate) use combine::{add_to, multiply, multiply_grad, sum};
pub(crate) use conv::{conv2d_forward, conv2d_grad_input, is_matrix};
pub(crate) use conv_weight::conv2d_grad_weight;
pub(crate) use dropout::dropout;
pub(crate) use group_norm::{GroupNormDims, group_norm, group_norm_grad};
pub(crate) use pool::{PoolDims, avg_pool2d, avg_pool2d_grad, max_pool2d, max_pool2d_grad};

use pulp::Simd;

/// Images per block.
pub(crate) const LANES: usize = 16;

/// Values of blocks at an address that is a multiple of 64: no vector straddles two cache lines.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Vec<Lanes>);

#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Lanes([f32; LANES]);

impl Buffer {
    /// `values` zeros, or slightly more.
    pub(crate) fn new(values: usize) -> Self {
        Self(vec![Lanes([0.0; LANES]); values.div_ceil(LANES)])
    }

    pub(crate) fn values(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }

    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }

    /// The first `values` values; the buffer grows when necessary.
    fn room(&mut self, values: usize) -> &mut [f32] {
        if self.0.len() * LANES < values {
            *self = Self::new(values);
        }
        &mut self.values_mut()[..values]
    }
}

/// Runs a function generic over the instruction set with the one selected by `arch`. The function and everything it
/// calls must be `#[inline(always)]`, closures that are passed on too: code left out of line is compiled for the baseline processor. For the same
/// reason, small arrays are filled by loops; `array::from_fn` and `array::map` sometimes remain calls.
macro_rules! dispatch {
    ($arch:expr, $function:ident($($argument:ident: $type:ty),* $(,)?)) => {{
        struct Kernel<'a> {
            $($argument: $type),*
        }
        impl<'a> pulp::WithSimd for Kernel<'a> {
            type Output = ();
            #[inline(always)]
            fn with_simd<S: pulp::Simd>(self, simd: S) {
                $function(simd, $(self.$argument),*);
            }
        }
        $arch.dispatch(Kernel { $($argument),* });
    }};
}
use dispatch;

/// Number of vectors in the 16 lanes.
#[inline(always)]
const fn parts<S: Simd>() -> usize {
    LANES / S::F32_LANES
}

/// A block as vectors.
#[inline(always)]
fn vectors<S: Simd>(block: &[f32]) -> &[S::f32s] {
    S::as_simd_f32s(block).0
}

/// A block as mutable vectors.
#[inline(always)]
fn vectors_mut<S: Simd>(block: &mut [f32]) -> &mut [S::f32s] {
    S::as_mut_simd_f32s(block).0
}

/// Taps `k` in `0..taps` with `0 <= start + k·dilation < len`: those on the image, not on its padding.
#[inline(always)]
fn taps_inside(start: isize, taps: usize, dilation: usize, len: usize) -> std::ops::Range<usize> {
    // The first tap at or after `place`. Compared with the few pixels of a row in one channel, a division takes long.
    let tap_from = |place: isize| {
        let distance = (place - start).max(0) as usize;
        taps.min(if dilation == 1 { distance } else { distance.div_ceil(dilation) })
    };
    tap_from(0)..tap_from(len as isize)
}

/// Packs up to 16 `images`, `[n, features]`, into a `block`, `[features, 16]`. Missing images become zeros.
pub(crate) fn pack(images: &[f32], features: usize, block: &mut [f32]) {
    assert_eq!(block.len(), features * LANES);
    assert!(images.len() <= block.len() && images.len().is_multiple_of(features));
    block.fill(0.0);
    for (n, image) in images.chunks_exact(features).enumerate() {
        for (lanes, &value) in block.chunks_exact_mut(LANES).zip(image) {
            lanes[n] = value;
        }
    }
}

/// Unpacks as many images as fit `images`, `[n, features]`, from a `block`, `[features, 16]`.
pub(crate) fn unpack(block: &[f32], features: usize, images: &mut [f32]) {
    assert_eq!(block.len(), features * LANES);
    assert!(images.len() <= block.len() && images.len().is_multiple_of(features));
    for (n, image) in images.chunks_exact_mut(features).enumerate() {
        for (value, lanes) in image.iter_mut().zip(block.chunks_exact(LANES)) {
            *value = lanes[n];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_is_undone_by_unpacking() {
        for images in [1, 5, 16] {
            let data = testing::random(1, images * 7);
            let mut block = vec![f32::NAN; 7 * LANES];
            pack(&data, 7, &mut block);
            assert_eq!(block[3 * LANES], data[3]);
            assert!(images == LANES || block[3 * LANES + images] == 0.0);
            let mut back = vec![0.0; data.len()];
            unpack(&block, 7, &mut back);
            assert_eq!(back, data);
        }
    }

    #[test]
    fn taps_stay_inside() {
        assert_eq!(taps_inside(-2, 5, 1, 4), 2..5);
        assert_eq!(taps_inside(2, 5, 1, 4), 0..2);
        assert_eq!(taps_inside(-1, 5, 1, 2), 1..3);
        assert!(taps_inside(-6, 5, 1, 4).is_empty());
        assert!(taps_inside(9, 5, 1, 4).is_empty());
        // -3, -1, 1, 3, 5
        assert_eq!(taps_inside(-3, 5, 2, 4), 2..4);
        assert_eq!(taps_inside(-4, 5, 2, 4), 2..4);
        assert!(taps_inside(-1, 2, 5, 4).is_empty());
    }
}
