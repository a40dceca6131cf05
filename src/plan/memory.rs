//! Shares memory between tensors whose lifetimes within a step do not overlap.

use super::{Place, PlannedLaunch, TensorPlan};

/// Gives every pooled tensor a slot and returns the slots' sizes in bytes.
///
/// A tensor lives from the first to the last launch that binds it. Going through the launches, each new tensor takes the
/// smallest free slot that is large enough, else the largest free one, which grows, else a new one.
pub(super) fn assign(tensors: &mut [TensorPlan], launches: &[PlannedLaunch], reuse: bool) -> Vec<u64> {
    let mut lives = vec![(usize::MAX, 0); tensors.len()];
    for (time, launch) in launches.iter().enumerate() {
        for bound in &launch.bindings {
            let life: &mut (usize, usize) = &mut lives[bound.tensor];
            *life = (life.0.min(time), time);
        }
    }
    // Tensors that begin and end at each time, in order.
    let (mut begin, mut end) = (vec![Vec::new(); launches.len()], vec![Vec::new(); launches.len()]);
    for (tensor, &(first, last)) in lives.iter().enumerate() {
        if first != usize::MAX && matches!(tensors[tensor].place, Place::Slot(_)) {
            begin[first].push(tensor);
            end[last].push(tensor);
        }
    }
    let mut slots: Vec<u64> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    for (begin, end) in begin.into_iter().zip(end) {
        for tensor in begin {
            let tensor = &mut tensors[tensor];
            let fits = free
                .iter()
                .copied()
                .filter(|&slot| slots[slot] >= tensor.bytes)
                .min_by_key(|&slot| slots[slot]);
            let slot =
                fits.or_else(|| free.iter().copied().max_by_key(|&slot| slots[slot])).unwrap_or_else(|| {
                    slots.push(0);
                    slots.len() - 1
                });
            free.retain(|&other| other != slot);
            slots[slot] = slots[slot].max(tensor.bytes);
            tensor.place = Place::Slot(slot);
        }
        if reuse {
            free.extend(end.into_iter().filter_map(|tensor| match tensors[tensor].place {
                Place::Slot(slot) => Some(slot),
                Place::Kept { .. } => None,
            }));
        }
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::super::Bound;
    use super::*;

    /// Random plans, checked by brute force: two tensors alive at the same time never share a slot.
    #[test]
    fn no_two_live_tensors_share_a_slot() {
        for seed in 0..200u32 {
            let word = |i: u32| crate::rng::words(seed, 0, 0, i)[0];
            let mut tensors: Vec<_> = (0..12)
                .map(|i| TensorPlan {
                    name: i.to_string(),
                    bytes: u64::from(word(i) % 100 + 1),
                    place: Place::Slot(usize::MAX),
                })
                .collect();
            let launches: Vec<_> = (0..20)
                .map(|time| PlannedLaunch {
                    label: String::new(),
                    shader: String::new(),
                    entry_point: String::new(),
                    constants: Default::default(),
                    bindings: (0..3)
                        .map(|k| {
                            let tensor = word(100 + 3 * time + k) as usize % 12;
                            Bound { index: k, tensor, writable: true, read: true, written: true }
                        })
                        .collect(),
                    workgroups: [1; 3],
                })
                .collect();
            let slots = assign(&mut tensors, &launches, true);
            let uses = |tensor: usize| {
                let times = launches.iter().enumerate();
                let times = times.filter(|(_, d)| d.bindings.iter().any(|bound| bound.tensor == tensor));
                times.map(|(time, _)| time).fold((usize::MAX, 0), |(first, _), time| (first.min(time), time))
            };
            for a in 0..12 {
                for b in 0..a {
                    let ((a0, a1), (b0, b1)) = (uses(a), uses(b));
                    let together = a0 != usize::MAX && b0 != usize::MAX && a0 <= b1 && b0 <= a1;
                    assert!(!together || tensors[a].place != tensors[b].place, "seed {seed}: {a} and {b}");
                }
                if let Place::Slot(slot) = tensors[a].place
                    && slot != usize::MAX
                {
                    assert!(slots[slot] >= tensors[a].bytes);
                }
            }
        }
    }
}
