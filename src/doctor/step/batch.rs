//! The images of a step: which they are, how they are changed, and what the network sees of them.

use crate::batch::{Change, Mixture, Region, Sample};
use crate::tensor::{Array, Rounded};

use super::super::compare::Table;
use super::StepCheck;

impl StepCheck<'_> {
    pub(super) fn batch(&self, replica: usize, place: &str, table: &mut Table) {
        let targets = self.part("targets", replica);
        let launch = self.maker("targets");
        let size = self.setup.model.input.len();
        let (input, behind) = self.split("input", replica);
        if !behind.iter().all(|value| value.is_finite()) {
            let message = format!("{place}, input: the lanes behind the batch hold {behind:?}");
            table.wrong(self.maker("input"), message);
        }
        let (net, _) = self.setup.replicas[replica].settings(self.setup.model, self.batches.epochs);
        for n in 0..4 * self.quads() {
            let mut sample = self.batches.sample_with_bounds(&net, self.step, n);
            let target = sample.target(&self.images.labels).word();
            let place = format!("{place}, image {n}");
            // The fused plan doesn't store which image it is: its pixels and class identify it.
            let index =
                self.tensors.get("indices").map_or(sample.index, |_| self.part("indices", replica)[n]);
            if (index, targets[n]) != (sample.index, target) {
                let got = (index, targets[n]);
                table.wrong(launch, format!("{place}: (index, target) {got:?}, not {sample:?}, {target}"));
                continue;
            }
            table.exact(launch, 2);
            if self.tensors.contains_key("changes") && self.batches.changes.any {
                self.changes(replica, n, &mut sample, &place, table);
            }
            if n < self.valid() {
                let want = self.batches.reference_with_bounds(self.images, &sample);
                let got = &input[n * size..][..size];
                table.check_launch(self.maker("input"), "batch.input", &place, got, &want);
            }
        }
    }

    /// Compares an image's changes, and gives `sample` the device's own numbers: pixels depend on their rounding.
    fn changes(
        &self,
        replica: usize,
        n: usize,
        sample: &mut Sample<Rounded>,
        place: &str,
        table: &mut Table,
    ) {
        let launch = self.maker("changes");
        let words =
            &self.part("changes", replica)[n * crate::batch::CHANGE_WORDS..][..crate::batch::CHANGE_WORDS];
        let (own, rest) = words.split_at(Change::WORDS);
        let (other, about) = rest.split_at(Change::WORDS);
        let mut check = |what: &str, words: &[u32], change: &mut Change<Rounded>| {
            let wanted: Vec<Rounded> =
                [&change.transform[..], &[Rounded::given(change.elastic.pixels.into())], &change.colour[..]]
                    .concat();
            let want = Array {
                shape: vec![wanted.len()],
                data: wanted.iter().map(|number| number.value).collect(),
                bound: wanted.iter().map(|number| number.bound).collect(),
            };
            let (numbers, erased) = words.split_at(wanted.len());
            let got: Vec<f32> = numbers.iter().map(|&word| f32::from_bits(word)).collect();
            table.check_launch(launch, "batch.changes", &format!("{place}, {what}"), &got, &want);
            if region(erased) != change.erased {
                table.wrong(launch, format!("{place}, {what}: erased {erased:?}, not {:?}", change.erased));
            }
            table.exact(launch, 4);
            let given = |at: usize| Rounded::given(got[at].into());
            change.transform = std::array::from_fn(given);
            change.colour = std::array::from_fn(|at| given(7 + at));
        };
        match &mut sample.change {
            Some(change) => check("its own change", own, change),
            None => check("its own change", own, &mut Change::none().exact()),
        }
        let wanted = match &mut sample.mixture {
            Some(Mixture { index, change, weight, region }) => {
                check("the change of what is mixed in", other, change);
                (*index, *weight, region.unwrap_or_default())
            }
            None => (sample.index, 0, Region::default()),
        };
        let got = (about[0], about[1], region(&about[2..]));
        if got != wanted {
            table.wrong(launch, format!("{place}: (index, weight, region) mixed in {got:?}, not {wanted:?}"));
        }
        table.exact(launch, 6);
    }
}

fn region(words: &[u32]) -> Region {
    Region { left: words[0], top: words[1], right: words[2], bottom: words[3] }
}
