//! Named `f32` tensors in a safetensors file, checked on the way in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::files;
use crate::tensor::Tensor;

/// No model of ours comes near these; files beyond are refused before they are parsed.
const MAX_FILE: u64 = 1 << 30;
pub(super) const MAX_HEADER: u64 = 1 << 20;

/// What stands in the metadata of a file.
pub(crate) type Metadata = BTreeMap<String, String>;

/// A name and a shape that a file must have.
pub(crate) type Wanted = (String, Vec<usize>);

/// A safetensors file whose structure is sound.
pub(crate) struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
    pub(crate) metadata: Metadata,
}

impl TensorFile {
    /// Reads a file with a header of at most `max_header` bytes.
    pub(crate) fn read(path: &Path, max_header: u64) -> Result<Self> {
        let bytes = files::read_at_most(path, MAX_FILE)?
            .ok_or_else(|| Error::checkpoint(path, format!("the file has more than {MAX_FILE} bytes")))?;
        Self::parse(bytes, path, max_header)
    }

    /// Takes the bytes of a file; `path` is for messages.
    pub(crate) fn parse(bytes: Vec<u8>, path: &Path, max_header: u64) -> Result<Self> {
        let bad = |message: String| Error::checkpoint(path, message);
        let Some((length, _)) = bytes.split_first_chunk() else {
            let message = format!("this is no safetensors file: it ends after {} bytes", bytes.len());
            return Err(bad(message));
        };
        let header = u64::from_le_bytes(*length);
        if header > max_header {
            return Err(bad(format!(
                "this is no safetensors file of a network: its first 8 bytes promise a header of {header} bytes; \
                 at most {max_header} fit"
            )));
        }
        let parsed = SafeTensors::read_metadata(&bytes).and_then(|(_, header)| {
            SafeTensors::deserialize(&bytes)?;
            Ok(header)
        });
        let header = parsed.map_err(|error| bad(format!("damaged, or no safetensors file: {error}")))?;
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Self { path: path.to_owned(), bytes, metadata })
    }

    /// The tensors that are wanted, in that order, if they are all there, with these shapes, as finite `f32`, and with
    /// nothing beside them but what `extra` accepts.
    pub(crate) fn tensors(&self, wanted: &[Wanted], extra: fn(&str, Dtype) -> bool) -> Result<Vec<Tensor>> {
        let bad = |message: String| Error::checkpoint(&self.path, message);
        let file = SafeTensors::deserialize(&self.bytes).map_err(|error| bad(error.to_string()))?;
        let mut tensors = Vec::with_capacity(wanted.len());
        for (name, shape) in wanted {
            let view = file
                .tensor(name)
                .map_err(|_| bad(format!("{name}: missing; the model wants {shape:?} here")))?;
            if view.shape() != shape {
                let found = view.shape();
                return Err(bad(format!("{name}: the file has {found:?}, the model wants {shape:?}")));
            }
            if view.dtype() != Dtype::F32 {
                let message = format!("{name}: the file has {} values, F32 fits", view.dtype());
                return Err(bad(message));
            }
            let (values, _) = view.data().as_chunks();
            let data: Vec<f32> = values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
            if let Some(index) = data.iter().position(|value| !value.is_finite()) {
                let message = format!("{name}: value {index} is {}, not a finite number", data[index]);
                return Err(bad(message));
            }
            tensors.push(Tensor { name: name.clone(), shape: shape.clone(), data });
        }
        let mut names = file.names();
        names.sort_unstable();
        let known = |name: &str| wanted.iter().any(|(wanted, _)| wanted == name);
        for name in names {
            let view = file.tensor(name).map_err(|error| bad(error.to_string()))?;
            if !known(name) && !extra(name, view.dtype()) {
                let message =
                    format!("{name}: the file has {:?}, the model has no such tensor", view.shape());
                return Err(bad(message));
            }
        }
        if let Some(promised) = self.metadata.get("weights_sha256") {
            let found = sha256(&tensors);
            if *promised != found {
                let message =
                    format!("damaged: the tensors' SHA-256 is {found}, the file was written with {promised}");
                return Err(bad(message));
            }
        }
        Ok(tensors)
    }
}

/// A safetensors file. The crate's own writer orders metadata by chance; here the same content gives the same bytes.
pub(crate) fn encode(tensors: &[Tensor], metadata: &Metadata) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), json!(metadata));
    let mut end = 0;
    for tensor in tensors {
        let start = end;
        end += 4 * tensor.data.len();
        let entry = json!({ "dtype": "F32", "shape": tensor.shape, "data_offsets": [start, end] });
        header.insert(tensor.name.clone(), entry);
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    // Tensors start at a multiple of 8 bytes, so that readers can map them.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = Vec::with_capacity(8 + header.len() + end);
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header);
    for tensor in tensors {
        bytes.extend(tensor.data.iter().flat_map(|value| value.to_le_bytes()));
    }
    bytes
}

/// SHA-256 over names, shapes and little-endian values, in order.
pub(crate) fn sha256(tensors: &[Tensor]) -> String {
    let mut hash = Sha256::new();
    for tensor in tensors {
        hash.update(format!("{} {:?}\n", tensor.name, tensor.shape));
        for values in tensor.data.chunks(1024) {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            hash.update(bytes);
        }
    }
    hex(&hash.finalize())
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
