//! Named `f32` tensors in a safetensors file, checked on the way in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::foreign;
use crate::error::{Error, Result, shown};
use crate::files::{self, hex};
use crate::tensor::Tensor;

/// No model of ours comes near this; larger files are refused before they are read.
pub(super) const MAX_FILE: u64 = 1 << 30;
pub(super) const MAX_HEADER: u64 = 1 << 20;

/// The key of the digest, as it stands in a header and nowhere else: within strings quotes are escaped.
const SEAL: &str = "\"file_sha256\":\"";
/// Takes the place of the digest while it is computed.
const BLANK: [u8; 64] = [b'0'; 64];
/// Formats of ours, with the last version that had no digest of the whole file.
const UNSEALED: [(&str, &str); 2] = [(super::FORMAT, super::OLD_VERSION), (super::RUN_FORMAT, "2")];

/// What stands in the metadata of a file.
pub(crate) type Metadata = BTreeMap<String, String>;

/// A name and a shape that a file must have.
pub(crate) type Wanted = (String, Vec<usize>);

/// A safetensors file whose structure is sound, and whose digest is right if it has one.
pub(crate) struct TensorFile {
    /// Where it was, for messages.
    pub(super) path: PathBuf,
    bytes: Vec<u8>,
    pub(crate) metadata: Metadata,
    sealed: bool,
}

impl TensorFile {
    /// Reads a file of at most `max_file` bytes with a header of at most `max_header`; of a folder, its only trained model.
    pub(crate) fn read(path: &Path, max_header: u64, max_file: u64) -> Result<Self> {
        let path = &foreign::trained_file(path)?;
        let bytes = files::read_at_most(path, max_file)?
            .ok_or_else(|| Error::checkpoint(path, format!("the file has more than {max_file} bytes")))?;
        Self::parse(bytes, path, max_header)
    }

    /// Takes the bytes of a file; `path` is for messages.
    pub(crate) fn parse(bytes: Vec<u8>, path: &Path, max_header: u64) -> Result<Self> {
        let bad = |message: String| Error::checkpoint(path, message);
        if let Some(error) = foreign::file(path, &bytes) {
            return Err(error);
        }
        let Some((length, rest)) = bytes.split_first_chunk() else {
            let message = format!("this is not a safetensors file: it ends after {} bytes", bytes.len());
            return Err(bad(message));
        };
        let length = u64::from_le_bytes(*length);
        if length > max_header {
            return Err(bad(format!(
                "this is not the safetensors file of a network: its first 8 bytes declare a header of {length} bytes, \
                 but at most {max_header} are allowed"
            )));
        }
        let parsed = SafeTensors::read_metadata(&bytes).and_then(|(_, header)| {
            SafeTensors::deserialize(&bytes)?;
            Ok(header)
        });
        let header =
            parsed.map_err(|error| bad(format!("damaged, or not a safetensors file: {}", plain(&error))))?;
        let metadata: Metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        let seal = seal_at(&rest[..length as usize]).map(|at| 8 + at);
        let promised = seal.and_then(|at| bytes.get(at..at + BLANK.len()));
        if let Some((at, promised)) = seal.zip(promised) {
            let found = digest(&bytes, at);
            if promised != found.as_bytes() {
                return Err(bad(format!("damaged, or changed after it was written: its SHA-256 is {found}")));
            }
        } else {
            let get = |key: &str| metadata.get(key).map(String::as_str);
            let old = |(format, version): &(&str, &str)| {
                get("format") != Some(format) || get("version") == Some(version)
            };
            if !UNSEALED.iter().all(old) {
                return Err(bad(
                    "damaged, or changed after it was written: it has no SHA-256 of the whole file".into(),
                ));
            }
        }
        Ok(Self { path: path.to_owned(), metadata, sealed: seal.is_some(), bytes })
    }

    /// True if the file has a digest of all its bytes; without one, damage to its metadata is not noticed.
    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// The tensors that are wanted, in that order, if they are all there, with these shapes, as finite `f32`, and with
    /// nothing beside them.
    pub(crate) fn tensors(&self, wanted: &[Wanted]) -> Result<Vec<Tensor>> {
        let bad = |message: String| Error::checkpoint(&self.path, message);
        let file = self.views()?;
        let mut names = file.names();
        names.sort_unstable();
        let mut tensors = Vec::with_capacity(wanted.len());
        for (name, shape) in wanted {
            let view = file.tensor(name).map_err(|_| {
                bad(format!("{name}: missing; the model needs {shape:?} here, but {}", listed(&names)))
            })?;
            if view.shape() != shape {
                let found = view.shape();
                return Err(bad(format!("{name}: the file has {found:?}, but the model needs {shape:?}")));
            }
            tensors.push(self.tensor(name, &view, |dtype| dtype == Dtype::F32)?);
        }
        let known: BTreeSet<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
        if let Some(name) = names.into_iter().find(|name| !known.contains(name)) {
            let shape = file.tensor(name).map_err(|error| bad(error.to_string()))?.shape().to_vec();
            return Err(bad(format!(
                "{}: the file has {shape:?}, but the model has no such tensor",
                cut(name)
            )));
        }
        self.check_sha256(&tensors)?;
        Ok(tensors)
    }

    /// The finite values of a tensor, under the name that the model has for it.
    pub(super) fn tensor(
        &self,
        name: &str,
        view: &TensorView<'_>,
        fits: fn(Dtype) -> bool,
    ) -> Result<Tensor> {
        let bad = |message: String| Error::checkpoint(&self.path, message);
        if !fits(view.dtype()) {
            let message = format!(
                "{name}: the file has {} values, but F32 is needed; in PyTorch `tensor.float()` converts them",
                view.dtype()
            );
            return Err(bad(message));
        }
        let data = floats(view).map_err(Error::io("read", &self.path))?;
        if let Some(index) = data.iter().position(|value| !value.is_finite()) {
            return Err(bad(format!("{name}: value {index} is {}, not a finite number", data[index])));
        }
        Ok(Tensor { name: name.to_owned(), shape: view.shape().to_vec(), data })
    }

    /// Fails if the metadata promise another digest of these tensors.
    pub(super) fn check_sha256(&self, tensors: &[Tensor]) -> Result<()> {
        let Some(promised) = self.metadata.get("weights_sha256") else { return Ok(()) };
        let found = sha256(tensors);
        if *promised == found {
            return Ok(());
        }
        let message = format!(
            "damaged: the tensors' SHA-256 is {found}, but was {} when the file was written",
            cut(promised)
        );
        Err(Error::checkpoint(&self.path, message))
    }

    /// All its tensors.
    pub(super) fn views(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.bytes)
            .map_err(|error| Error::checkpoint(&self.path, format!("damaged: {}", plain(&error))))
    }
}

/// What is wrong with a file, without the words of the library, which are about its own types.
fn plain(error: &SafeTensorError) -> &'static str {
    match error {
        SafeTensorError::HeaderTooSmall
        | SafeTensorError::InvalidHeaderLength
        | SafeTensorError::MetadataIncompleteBuffer => "its length is not the one that its header declares",
        SafeTensorError::TensorInvalidInfo
        | SafeTensorError::InvalidOffset(_)
        | SafeTensorError::ValidationOverflow => "its header places tensors at impossible positions",
        _ => "its header cannot be read",
    }
}

/// True for half precision, whose values are numbers of single precision, too.
pub(super) fn is_half(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F16 | Dtype::BF16)
}

/// The values of a tensor of single or half precision, exactly.
fn floats(view: &TensorView<'_>) -> std::io::Result<Vec<f32>> {
    let mut values = Vec::new();
    values.try_reserve_exact(view.shape().iter().product())?;
    let data = view.data();
    match view.dtype() {
        Dtype::F16 => {
            values.extend(data.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()));
        }
        Dtype::BF16 => {
            values.extend(data.as_chunks().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32()));
        }
        _ => values.extend(data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes))),
    }
    Ok(values)
}

/// What a file has.
pub(super) fn listed(names: &[&str]) -> String {
    if names.is_empty() {
        return "the file has no tensors".into();
    }
    format!("the file has {}", some(names.iter().map(|name| cut(name))))
}

/// The first items of a list, and how many there are beside them.
pub(super) fn some(items: impl ExactSizeIterator<Item = String>) -> String {
    const SHOWN: usize = 4;
    let more = match items.len().saturating_sub(SHOWN) {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    let first: Vec<_> = items.take(SHOWN).collect();
    format!("{}{more}", first.join(", "))
}

/// A name from a file, for a message.
pub(super) fn cut(name: &str) -> String {
    const MOST: usize = 80;
    let cut: String = name.chars().take(MOST).collect();
    let dots = if cut.len() < name.len() { "..." } else { "" };
    format!("{}{dots}", shown(&cut))
}

/// Where the digits of the digest begin in a header.
fn seal_at(header: &[u8]) -> Option<usize> {
    header.windows(SEAL.len()).position(|window| window == SEAL.as_bytes()).map(|at| at + SEAL.len())
}

/// SHA-256 of a file whose digest is at `at`, with zeros instead of it.
fn digest(bytes: &[u8], at: usize) -> String {
    let hash = Sha256::new().chain_update(&bytes[..at]).chain_update(BLANK);
    hex(&hash.chain_update(&bytes[at + BLANK.len()..]).finalize())
}

/// A safetensors file, whose metadata get a SHA-256 of the whole file. The crate's own writer orders metadata by chance; here
/// the same content gives the same bytes.
pub(crate) fn encode(tensors: &[Tensor], metadata: &Metadata) -> Vec<u8> {
    let mut metadata = metadata.clone();
    metadata.insert("file_sha256".into(), BLANK.iter().copied().map(char::from).collect());
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
    let at = 8 + seal_at(&header).expect("it was put in");
    let mut bytes = Vec::with_capacity(8 + header.len() + end);
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header);
    for tensor in tensors {
        bytes.extend(tensor.data.iter().flat_map(|value| value.to_le_bytes()));
    }
    let digest = digest(&bytes, at);
    bytes[at..at + BLANK.len()].copy_from_slice(digest.as_bytes());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_header_is_told_in_plain_words() {
        for (header, words) in [
            ("{", "its header cannot be read"),
            (&"[".repeat(200), "its header cannot be read"),
            (
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[9],\"data_offsets\":[0,4]}}",
                "places tensors at impossible positions",
            ),
            ("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", "its length is not the one"),
        ] {
            let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
            let error = TensorFile::parse(bytes, "x".as_ref(), MAX_HEADER).err().unwrap().to_string();
            assert!(
                error.starts_with("x: damaged, or not a safetensors file: ") && error.contains(words),
                "{error}"
            );
        }
    }
}
