//! A plan under construction: tensors and launches are added one by one.

use std::collections::BTreeMap;

use super::{Bound, Contents, METRICS_RING, Place, Plan, PlanOptions, PlannedLaunch, TensorPlan, memory};
use crate::layers::Launch;
use crate::shader;
use crate::state;

/// WebGPU's limit on workgroups along one axis.
const MAX_WORKGROUPS: usize = 65_535;

/// Tensors by shader variable.
#[derive(Debug, Clone, Default)]
pub(super) struct Wires(BTreeMap<String, usize>);

impl Wires {
    pub(super) fn new<'a>(wires: impl IntoIterator<Item = (&'a str, usize)>) -> Self {
        Self(wires.into_iter().map(|(variable, tensor)| (variable.to_owned(), tensor)).collect())
    }

    /// The same, for a convolution without bias: it binds its weight a second time, which the shader doesn't read.
    pub(super) fn with_bias(&self) -> Self {
        let mut wires = self.clone();
        if let (Some(weight), None) = (self.get("weight"), self.get("bias")) {
            wires.set("bias", weight);
        }
        wires
    }

    /// Wires a variable, replacing any earlier wiring.
    pub(super) fn set(&mut self, variable: &str, tensor: usize) {
        self.0.insert(variable.to_owned(), tensor);
    }

    pub(super) fn get(&self, variable: &str) -> Option<usize> {
        self.0.get(variable).copied()
    }
}

/// Tensors by name, and the launches so far.
pub(super) struct Draft {
    options: PlanOptions,
    replicas: usize,
    tensors: Vec<TensorPlan>,
    by_name: BTreeMap<String, usize>,
    buffers: BTreeMap<String, Contents>,
    pinned: Vec<usize>,
    launches: Vec<PlannedLaunch>,
    /// Constants of every launch whose shader declares them.
    constants: BTreeMap<&'static str, f64>,
}

impl Draft {
    /// For this many nets, each with this many channels of input, classes that have a weight, and layers.
    pub(super) fn new(
        options: PlanOptions,
        replicas: usize,
        [channels, class_weights, layers]: [usize; 3],
    ) -> Self {
        let constants = state::constants(channels, class_weights, layers).chain([("RING", METRICS_RING)]);
        Self {
            options,
            replicas,
            tensors: Vec::new(),
            by_name: BTreeMap::new(),
            buffers: BTreeMap::new(),
            pinned: Vec::new(),
            launches: Vec::new(),
            constants: constants.map(|(name, value)| (name, value as f64)).collect(),
        }
    }

    fn add(&mut self, name: &str, floats: usize, place: Place) -> usize {
        *self.by_name.entry(name.to_owned()).or_insert_with(|| {
            self.tensors.push(TensorPlan { name: name.to_owned(), bytes: 4 * floats as u64, place });
            self.tensors.len() - 1
        })
    }

    /// A tensor in pooled memory. Returns its number, like the methods below.
    pub(super) fn pool(&mut self, name: &str, floats: usize) -> usize {
        self.add(name, floats, Place::Slot(usize::MAX))
    }

    /// A tensor with its own buffer that outlives the step.
    pub(super) fn keep(&mut self, name: &str, floats: usize) -> usize {
        self.keep_view(name, name, 0, floats)
    }

    /// Such a tensor that holds these words before the first step.
    pub(super) fn keep_words(&mut self, name: &str, words: Vec<u32>) -> usize {
        let tensor = self.keep(name, words.len());
        self.contents(name, Contents::Words(words));
        tensor
    }

    /// Says what a buffer that outlives the step holds before the first one, if it is not zeros.
    pub(super) fn contents(&mut self, buffer: &str, contents: Contents) {
        self.buffers.insert(buffer.to_owned(), contents);
    }

    /// A tensor that is part of a buffer that outlives the step.
    pub(super) fn keep_view(&mut self, name: &str, buffer: &str, offset: usize, floats: usize) -> usize {
        self.add(name, floats, Place::Kept { buffer: buffer.to_owned(), offset: 4 * offset as u64 })
    }

    /// Keeps a tensor that no launch binds: a part of a buffer, for tests to read.
    pub(super) fn pin(&mut self, tensor: usize) {
        self.pinned.push(tensor);
    }

    /// A launch for each replica. `wires` maps variables to tensors; other variables bind the tensors of the same name.
    pub(super) fn launch(&mut self, owner: &str, launch: &Launch, wires: &Wires) {
        self.launch_times(owner, launch, wires, self.replicas);
    }

    /// A launch that covers the elements of all replicas.
    pub(super) fn launch_once(&mut self, owner: &str, launch: &Launch, wires: &Wires) {
        self.launch_times(owner, launch, wires, 1);
    }

    fn launch_times(&mut self, owner: &str, launch: &Launch, wires: &Wires, replicas: usize) {
        let shader = shader::find(launch.shader);
        let bindings = shader.bindings(launch.entry_point).into_iter().map(|binding| {
            // What a kernel only reads of a tensor that another kernel of its shader writes has a name of its own.
            let variable = binding.variable.strip_prefix("still_").unwrap_or(&binding.variable);
            let wired = wires.get(variable);
            let tensor = wired.or_else(|| self.by_name.get(variable).copied());
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
        self.launches.push(PlannedLaunch {
            label: format!("{owner}.{}", launch.entry_point),
            shader: launch.shader.to_owned(),
            entry_point: launch.entry_point.to_owned(),
            constants: constants.map(|(name, value)| ((*name).to_owned(), *value)).collect(),
            bindings,
            workgroups,
        });
    }

    /// Drops unused tensors and places the others.
    pub(super) fn finish(self, batch_size: usize) -> Plan {
        let Self { mut tensors, mut launches, options, replicas, mut buffers, pinned, .. } = self;
        let mut used = vec![false; tensors.len()];
        pinned.into_iter().for_each(|tensor| used[tensor] = true);
        for bound in launches.iter().flat_map(|launch| &launch.bindings) {
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
        for bound in launches.iter_mut().flat_map(|launch| &mut launch.bindings) {
            bound.tensor = renumbered[bound.tensor];
        }
        let mut keep = used.iter();
        tensors.retain(|_| *keep.next().expect("one flag each tensor"));
        let slots = memory::assign(&mut tensors, &launches, options.reuse);
        let mut kept = BTreeMap::new();
        for tensor in &tensors {
            if let Place::Kept { buffer, .. } = &tensor.place
                && !kept.contains_key(buffer)
            {
                kept.insert(buffer.clone(), buffers.remove(buffer).unwrap_or(Contents::Zeros));
            }
        }
        Plan { batch_size, replicas, tensors, slots, buffers: kept, launches }
    }
}
