//! Sums and products of two activations.

use super::{LANES, dispatch, parts, vectors, vectors_mut};
use pulp::{Arch, Simd};

/// output = a + b. Blocks of the same shape.
pub(crate) fn sum(arch: Arch, a: &[f32], b: &[f32], output: &mut [f32]) {
    assert!(a.len() == b.len() && a.len() == output.len());
    dispatch!(arch, add(a: &'a [f32], b: &'a [f32], output: &'a mut [f32]));
}

#[inline(always)]
fn add<S: Simd>(simd: S, a: &[f32], b: &[f32], output: &mut [f32]) {
    let inputs = vectors::<S>(a).iter().zip(vectors::<S>(b));
    for (sum, (&a, &b)) in vectors_mut::<S>(output).iter_mut().zip(inputs) {
        *sum = simd.add_f32s(a, b);
    }
}

/// total += part. Blocks of the same shape.
pub(crate) fn add_to(arch: Arch, part: &[f32], total: &mut [f32]) {
    assert_eq!(part.len(), total.len());
    dispatch!(arch, accumulate(part: &'a [f32], total: &'a mut [f32]));
}

#[inline(always)]
fn accumulate<S: Simd>(simd: S, part: &[f32], total: &mut [f32]) {
    for (total, &part) in vectors_mut::<S>(total).iter_mut().zip(vectors::<S>(part)) {
        *total = simd.add_f32s(*total, part);
    }
}

/// output = a · b. Each input value applies to `maps` pixels of the output: 1, or a whole map.
pub(crate) fn multiply(arch: Arch, maps: [usize; 2], a: &[f32], b: &[f32], output: &mut [f32]) {
    assert!(a.len() * maps[0] == output.len() && b.len() * maps[1] == output.len());
    dispatch!(arch, product(maps: [usize; 2], a: &'a [f32], b: &'a [f32], output: &'a mut [f32]));
}

#[inline(always)]
fn product<S: Simd>(simd: S, maps: [usize; 2], a: &[f32], b: &[f32], output: &mut [f32]) {
    let (a, b, parts) = (vectors::<S>(a), vectors::<S>(b), parts::<S>());
    let place = |at: usize, map: usize| if map == 1 { at } else { at / parts / map * parts + at % parts };
    for (at, product) in vectors_mut::<S>(output).iter_mut().enumerate() {
        *product = simd.mul_f32s(a[place(at, maps[0])], b[place(at, maps[1])]);
    }
}

/// The gradient of one factor: that of the output times the other factor, summed over the pixels that a value applies
/// to. `maps` are those of this factor and of the other.
pub(crate) fn multiply_grad(
    arch: Arch,
    maps: [usize; 2],
    grad_output: &[f32],
    other: &[f32],
    grad_input: &mut [f32],
) {
    assert!(grad_input.len() * maps[0] == grad_output.len() && other.len() * maps[1] == grad_output.len());
    if maps[0] == 1 {
        return multiply(arch, [1, maps[1]], grad_output, other, grad_input);
    }
    let map = maps[0];
    dispatch!(
        arch,
        gate_grad(map: usize, grad_output: &'a [f32], other: &'a [f32], grad_input: &'a mut [f32])
    );
}

#[inline(always)]
fn gate_grad<S: Simd>(simd: S, map: usize, grad_output: &[f32], other: &[f32], grad_input: &mut [f32]) {
    let planes = grad_output.chunks_exact(map * LANES).zip(other.chunks_exact(map * LANES));
    for (sums, (grads, values)) in grad_input.chunks_exact_mut(LANES).zip(planes) {
        let sums = vectors_mut::<S>(sums);
        sums.fill(simd.splat_f32s(0.0));
        for (grads, values) in grads.chunks_exact(LANES).zip(values.chunks_exact(LANES)) {
            let products = vectors::<S>(grads).iter().zip(vectors::<S>(values));
            for (sum, (&grad, &value)) in sums.iter_mut().zip(products) {
                *sum = simd.mul_add_e_f32s(grad, value, *sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::kernels::testing::{Exact, archs, random};

    #[test]
    fn sums_match_the_definition() {
        let (a, b) = (random(1, 7 * LANES), random(2, 7 * LANES));
        for arch in archs() {
            let mut total = vec![f32::NAN; a.len()];
            sum(arch, &a, &b, &mut total);
            add_to(arch, &a, &mut total);
            for i in 0..a.len() {
                assert_eq!(total[i], a[i] + b[i] + a[i]);
            }
        }
    }

    #[test]
    fn products_and_their_gradients_match_f64() {
        let (channels, map) = (3, 5);
        let grad = random(3, channels * map * LANES);
        for arch in archs() {
            for maps in [[1, 1], [1, map], [map, 1]] {
                let [a, b] = [0, 1].map(|i| random(i as u32, channels * map / maps[i] * LANES));
                let mut output = vec![f32::NAN; grad.len()];
                multiply(arch, maps, &a, &b, &mut output);
                let [mut grad_a, mut grad_b] = [&a, &b].map(|like| vec![f32::NAN; like.len()]);
                multiply_grad(arch, maps, &grad, &b, &mut grad_a);
                multiply_grad(arch, [maps[1], maps[0]], &grad, &a, &mut grad_b);
                let [mut want_a, mut want_b] = [&a, &b].map(|like| vec![Exact::default(); like.len()]);
                for i in 0..output.len() {
                    let at = |map: usize| i / LANES / map * LANES + i % LANES;
                    let (at_a, at_b) = (at(maps[0]), at(maps[1]));
                    assert_eq!(output[i], a[at_a] * b[at_b]);
                    want_a[at_a].add(grad[i], b[at_b]);
                    want_b[at_b].add(grad[i], a[at_a]);
                }
                for (want, got) in want_a.iter().zip(grad_a).chain(want_b.iter().zip(grad_b)) {
                    want.check(got, &(arch, maps));
                }
            }
        }
    }
}
