//! The processor's peak rate, against which `bench` compares the engine's time.

use std::hint::black_box;
use std::time::Instant;

use pulp::{Arch, Simd, WithSimd};

use crate::error::{Error, Result};

/// Enough independent chains to hide the latency of a multiply-add, few enough for 16 registers.
const CHAINS: usize = 10;
/// Minimum duration of a run.
const RUN_SECONDS: f64 = 0.02;
/// The fastest of this many runs counts.
const REPEATS: usize = 5;

/// Multiplications and additions per second, in `f32`, on this many threads at once: each runs chains of x · a + b in
/// registers.
///
/// # Errors
/// Threads that cannot be started.
pub fn flops_per_second(threads: usize) -> Result<f64> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|error| Error::Device(format!("cannot start {threads} threads: {error}")))?;
    let arch = Arch::new();
    let run = |rounds: usize| {
        let start = Instant::now();
        let flops: usize = pool.broadcast(|_| arch.dispatch(Chains { rounds })).into_iter().sum();
        (flops, start.elapsed().as_secs_f64())
    };
    let mut rounds = 1 << 16;
    while run(rounds).1 < RUN_SECONDS {
        rounds *= 2;
    }
    let rates = (0..REPEATS).map(|_| run(rounds)).map(|(flops, seconds)| flops as f64 / seconds);
    Ok(rates.fold(0.0, f64::max))
}

/// Chains of multiply-adds; returns the number of operations.
struct Chains {
    rounds: usize,
}

impl WithSimd for Chains {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> usize {
        let (a, b) = (simd.splat_f32s(black_box(0.5)), simd.splat_f32s(black_box(0.5)));
        let mut chains = [b; CHAINS];
        for _ in 0..self.rounds {
            for chain in &mut chains {
                *chain = simd.mul_add_f32s(*chain, a, b);
            }
        }
        black_box(chains);
        2 * S::F32_LANES * CHAINS * self.rounds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_a_processor() {
        let rate = flops_per_second(1).unwrap();
        // A tenth of an operation per cycle at 1 GHz, and 16 lanes, three units and 10 GHz.
        assert!((1e8..1e12).contains(&rate), "{rate:e} operations a second on one thread");
    }
}
