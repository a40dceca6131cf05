//! Where each parameter is in the flat buffers of all parameters.

use crate::model::{Model, ModelParam};

/// All trained parameters in one vector (and the optimizer memory likewise), all running statistics in another.
///
/// Gradients are rows of such vectors, which the optimizer sums. A launch writes one row per part, and each use of a
/// parameter shared by several layers has its own rows, in layer order. What nothing writes is 0.
///
/// A parameter's values for all replicas are contiguous, [replica, ...], and start at a multiple of 64 values: WebGPU
/// requires bindings aligned to 256 bytes. This lets one launch update everything while each kernel binds just what
/// it needs.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamLayout {
    entries: Vec<Entry>,
    /// For each layer, the indices of the entries that it uses.
    indices: Vec<Vec<usize>>,
    /// For each layer, which use of its trained parameters it is, counted from 0.
    use_numbers: Vec<usize>,
    trained_len: usize,
    running_len: usize,
    replicas: usize,
}

/// Location of one parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The parameter.
    pub param: ModelParam,
    /// First value, counted in values from the start of its vector.
    pub offset: usize,
    /// Values of all replicas.
    pub len: usize,
    /// Layers that use it.
    pub uses: usize,
}

const ALIGNMENT: usize = 64;

impl ParamLayout {
    /// Lays out the parameters of `replicas` nets.
    pub fn new(model: &Model, replicas: usize) -> Self {
        let (mut entries, mut trained_len, mut running_len) = (Vec::new(), 0, 0);
        for param in model.params() {
            let len = replicas * param.param.size();
            let end = if param.param.trained { &mut trained_len } else { &mut running_len };
            entries.push(Entry { param, offset: *end, len, uses: 0 });
            *end += len.next_multiple_of(ALIGNMENT);
        }
        let indices = model.param_indices();
        let count_use = |indices: &Vec<usize>| {
            // Running statistics have one use, so the shared parameters determine the number.
            let number = indices.iter().map(|&index| entries[index].uses).max();
            indices.iter().for_each(|&index| entries[index].uses += 1);
            number.unwrap_or(0)
        };
        let use_numbers = indices.iter().map(count_use).collect();
        Self { entries, indices, use_numbers, trained_len, running_len, replicas }
    }

    /// The parameter or running statistic called `name` that a layer uses.
    pub fn entry(&self, layer: usize, name: &str) -> Option<&Entry> {
        let mut entries = self.indices.get(layer)?.iter().map(|&index| &self.entries[index]);
        entries.find(|entry| entry.param.param.name == name)
    }

    /// Rows of the gradients when launches have this many parts.
    pub fn grad_rows(&self, parts: usize) -> usize {
        let uses = self.entries.iter().filter(|entry| entry.param.param.trained).map(|entry| entry.uses);
        parts * uses.max().unwrap_or(1)
    }

    /// First row that a layer writes.
    pub fn first_grad_row(&self, layer: usize, parts: usize) -> usize {
        parts * self.use_numbers[layer]
    }

    /// The parameters, in the order of [`Model::params`].
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Values in the vector of trained parameters, padding included.
    pub fn trained_len(&self) -> usize {
        self.trained_len
    }

    /// Required contents of the tensor `owners`: for each value of the vector of trained parameters 2 · its replica (of 256 at
    /// most), plus 1 where weight decay applies, plus 512 · its layer. 0 in the padding.
    pub fn owners(&self) -> Vec<u32> {
        let mut owners = vec![0; self.trained_len];
        for Entry { param, offset, len, .. } in self.entries.iter().filter(|entry| entry.param.param.trained)
        {
            let each = len / self.replicas;
            for (index, owner) in owners[*offset..][..*len].iter_mut().enumerate() {
                *owner = 512 * param.layer as u32 + 2 * (index / each) as u32 + u32::from(param.param.decays);
            }
        }
        owners
    }

    /// Where each trained parameter of a net is in their vector: that of the first net, and the distance to the next one's.
    pub fn places(&self) -> Vec<[u32; 2]> {
        let trained = self.entries.iter().filter(|entry| entry.param.param.trained);
        let places = trained.flat_map(|&Entry { offset, len, .. }| {
            let each = (len / self.replicas) as u32;
            (0..each).map(move |index| [offset as u32 + index, each])
        });
        places.collect()
    }

    /// Values in the vector of running statistics, padding included.
    pub fn running_len(&self) -> usize {
        self.running_len
    }
}
