//! A plan in the making: tensors and launches are added one by one, joined by name.

use std::collections::BTreeMap;

use super::{Bound, Dispatch, Place, Plan, PlanOptions, TensorPlan, memory};
use crate::layers::Launch;
use crate::shader;

/// WebGPU's limit on workgroups along one axis.
const MAX_WORKGROUPS: usize = 65_535;

/// Tensors by name, and the launches so far.
pub(super) struct Draft {
    options: PlanOptions,
    tensors: Vec<TensorPlan>,
    by_name: BTreeMap<String, usize>,
    pinned: Vec<usize>,
    dispatches: Vec<Dispatch>,
    /// Constants of every launch whose shader has them.
    constants: BTreeMap<&'static str, f64>,
}

impl Draft {
    pub(super) fn new(options: PlanOptions) -> Self {
        Self {
            options,
            tensors: Vec::new(),
            by_name: BTreeMap::new(),
            pinned: Vec::new(),
            dispatches: Vec::new(),
            constants: BTreeMap::new(),
        }
    }

    /// A constant of every launch whose shader has it.
    pub(super) fn constant(&mut self, name: &'static str, value: usize) {
        self.constants.insert(name, value as f64);
    }

    /// True if a tensor has this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    fn add(&mut self, name: &str, floats: usize, place: Place) {
        if !self.by_name.contains_key(name) {
            self.by_name.insert(name.to_owned(), self.tensors.len());
            self.tensors.push(TensorPlan { name: name.to_owned(), bytes: 4 * floats as u64, place });
        }
    }

    /// A tensor in pooled memory.
    pub(super) fn pool(&mut self, name: &str, floats: usize) {
        self.add(name, floats, Place::Slot(usize::MAX));
    }

    /// A tensor with a buffer of its own that outlives the step.
    pub(super) fn keep(&mut self, name: &str, floats: usize) {
        self.keep_view(name, name, 0, floats);
    }

    /// A tensor that is part of a buffer that outlives the step.
    pub(super) fn keep_view(&mut self, name: &str, buffer: &str, offset: usize, floats: usize) {
        self.add(name, floats, Place::Kept { buffer: buffer.to_owned(), offset: 4 * offset as u64 });
    }

    /// Another name of a tensor.
    pub(super) fn alias(&mut self, name: &str, existing: &str) {
        let index = self.by_name[existing];
        self.by_name.insert(name.to_owned(), index);
    }

    /// Keeps a tensor that no launch binds by its own name: a part of a buffer that tests read.
    pub(super) fn pin(&mut self, name: &str) {
        self.pinned.push(self.by_name[name]);
    }

    /// A launch for each replica.
    pub(super) fn launch(&mut self, owner: &str, launch: &Launch) {
        self.launch_times(owner, launch, self.options.replicas);
    }

    /// A launch whose elements are those of all replicas.
    pub(super) fn launch_once(&mut self, owner: &str, launch: &Launch) {
        self.launch_times(owner, launch, 1);
    }

    /// Joins a launch's variables to tensors: `owner.variable` if there is one, else the tensor called `variable`.
    fn launch_times(&mut self, owner: &str, launch: &Launch, replicas: usize) {
        let shader = shader::find(launch.shader);
        let bindings = shader.bindings(launch.entry_point).into_iter().map(|binding| {
            let find = |variable: &str| {
                let own = self.by_name.get(&format!("{owner}.{variable}"));
                own.or_else(|| self.by_name.get(variable)).copied()
            };
            let tensor = find(&binding.variable);
            // A convolution without bias binds its weight a second time; the shader does not read it.
            let tensor = tensor.or_else(|| find("weight").filter(|_| binding.variable == "bias"));
            let tensor = tensor.unwrap_or_else(|| {
                panic!("no tensor for {owner}.{} of {}.wgsl", binding.variable, launch.shader)
            });
            let shader::Binding { index, writable, read, written, .. } = binding;
            Bound { index, tensor, writable, read, written }
        });
        let bindings = bindings.collect();
        let known = |name: &str| shader.overrides().any(|(other, _)| other == name);
        let shared = self.constants.iter().filter(|(name, _)| known(name));
        let constants = shared.chain(&launch.constants);
        let [size, ..] = shader.workgroup_size(launch.entry_point);
        let groups = launch.invocations.div_ceil(size as usize).max(1);
        let across = groups.min(MAX_WORKGROUPS);
        let workgroups = [across, groups.div_ceil(across), replicas].map(|count| count as u32);
        self.dispatches.push(Dispatch {
            label: format!("{owner}.{}", launch.entry_point),
            shader: launch.shader.to_owned(),
            entry_point: launch.entry_point.to_owned(),
            constants: constants.map(|(name, value)| ((*name).to_owned(), *value)).collect(),
            bindings,
            workgroups,
        });
    }

    /// Drops tensors that nothing uses and gives the others their places.
    pub(super) fn finish(self, batch_size: usize) -> Plan {
        let Self { mut tensors, mut dispatches, options, pinned, .. } = self;
        let mut used = vec![false; tensors.len()];
        pinned.into_iter().for_each(|tensor| used[tensor] = true);
        for bound in dispatches.iter().flat_map(|dispatch| &dispatch.bindings) {
            used[bound.tensor] = true;
        }
        let mut number = 0;
        let renumbered: Vec<usize> = used
            .iter()
            .map(|&used| {
                number += usize::from(used);
                number.wrapping_sub(1)
            })
            .collect();
        for bound in dispatches.iter_mut().flat_map(|dispatch| &mut dispatch.bindings) {
            bound.tensor = renumbered[bound.tensor];
        }
        let mut keep = used.iter();
        tensors.retain(|_| *keep.next().expect("one flag each tensor"));
        let slots = memory::assign(&mut tensors, &dispatches, options.reuse);
        Plan { batch_size, replicas: options.replicas, tensors, slots, sources: Vec::new(), dispatches }
    }
}
