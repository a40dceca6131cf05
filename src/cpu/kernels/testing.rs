//! Shared test code of the kernels.

use crate::rng;
use pulp::Arch;

/// The instruction sets under test: all that this machine has, from none to the best.
pub(crate) fn archs() -> Vec<Arch> {
    let mut archs = vec![Arch::Scalar];
    #[cfg(target_arch = "x86_64")]
    archs.extend(pulp::x86::V3::try_new().map(Arch::V3));
    archs.push(Arch::new());
    archs
}

/// `len` numbers in [-1, 1).
pub(crate) fn random(key: u32, len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| rng::signed(rng::words(key, 0, 0, i)[0])).collect()
}

/// A sum of products in f64, with what is needed to bound the rounding errors of the same sum in f32.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Exact {
    value: f64,
    size: f64,
    terms: u32,
}

impl Exact {
    /// Adds the product a·b.
    pub(crate) fn add(&mut self, a: f32, b: f32) {
        let product = f64::from(a) * f64::from(b);
        self.value += product;
        self.size += product.abs();
        self.terms += 1;
    }

    /// Checks an f32 sum of the same products, in any order, fused or not.
    #[track_caller]
    pub(crate) fn check(&self, got: f32, what: &dyn std::fmt::Debug) {
        let bound = f64::from(self.terms + 2) * 2f64.powi(-24) * self.size;
        let error = (f64::from(got) - self.value).abs();
        assert!(error <= bound, "{what:?}: {got} for {self:?}, error {error:e} > {bound:e}");
    }
}
