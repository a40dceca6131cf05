//! Where each parameter lies in the flat buffers of all parameters.

use crate::model::{Model, ModelParam};

/// All trained parameters in one vector (and gradients and optimizer memory alike), all running statistics in another.
///
/// A parameter's values for all replicas lie together, [replica, ...], and start at a multiple of 64 values: WebGPU wants
/// bindings aligned to 256 bytes. One launch can so update everything, and each kernel still binds just what it needs.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamLayout {
    entries: Vec<Entry>,
    trained_len: usize,
    running_len: usize,
    replicas: usize,
}

/// One parameter's place.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The parameter.
    pub param: ModelParam,
    /// First value, counted in values from the start of its vector.
    pub offset: usize,
    /// Values of all replicas.
    pub len: usize,
}

const ALIGNMENT: usize = 64;

impl ParamLayout {
    /// Lays out the parameters of `replicas` nets.
    pub fn new(model: &Model, replicas: usize) -> Self {
        let mut layout = Self { entries: Vec::new(), trained_len: 0, running_len: 0, replicas };
        for param in model.params() {
            let len = replicas * param.param.shape.iter().product::<usize>();
            let end = if param.param.trained { &mut layout.trained_len } else { &mut layout.running_len };
            layout.entries.push(Entry { param, offset: *end, len });
            *end += len.next_multiple_of(ALIGNMENT);
        }
        layout
    }

    /// The parameters, in the order of [`Model::params`].
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Values in the vector of trained parameters, padding included.
    pub fn trained_len(&self) -> usize {
        self.trained_len
    }

    /// What the tensor `owners` must hold: for each value of the vector of trained parameters 2 · its replica, and 1 more
    /// where weight decay acts on it. 0 in the padding.
    pub fn owners(&self) -> Vec<u32> {
        let mut owners = vec![0; self.trained_len];
        for Entry { param, offset, len } in self.entries.iter().filter(|entry| entry.param.param.trained) {
            let each = len / self.replicas;
            for (index, owner) in owners[*offset..][..*len].iter_mut().enumerate() {
                *owner = 2 * (index / each) as u32 + u32::from(param.param.decays);
            }
        }
        owners
    }

    /// Values in the vector of running statistics, padding included.
    pub fn running_len(&self) -> usize {
        self.running_len
    }
}
