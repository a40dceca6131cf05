//! What people give instead of a trained model, and what would fit.

use std::path::{Path, PathBuf};

use super::file::some;
use crate::error::{Error, Remedy, Result, shown};
use crate::files::quoted;

const KERAS: &str = "this is a Keras or HDF5 file; expected a safetensors file whose tensors are named and shaped as in PyTorch";

/// Says what a file is that is no safetensors file, by how it begins and by its name.
pub(super) fn file(path: &Path, bytes: &[u8]) -> Option<Error> {
    // The header of every safetensors file stands there.
    if bytes.get(8) == Some(&b'{') {
        return None;
    }
    let begins = |with: &[u8]| bytes.starts_with(with);
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    let ends = |with: &[&str]| ending.as_deref().is_some_and(|ending| with.contains(&ending));
    // The name of a ZIP archive's first file stands at its beginning.
    let holds = |name: &[u8]| bytes[..bytes.len().min(4096)].windows(name.len()).any(|window| window == name);
    let is_zip = begins(b"PK\x03\x04");
    let other = |message: String| Error::checkpoint(path, message);
    let first_word = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).trim_start().to_lowercase();
    Some(if begins(b"version https://git-lfs.github.com/spec/") {
        other("this is a Git LFS pointer, not the file itself; `git lfs pull` fetches the file".into())
    } else if begins(b"\x93NUMPY") || ends(&["npy"]) {
        let message = "this is a single NumPy array without a name; expected a safetensors file with all weights by \
                       name";
        other(message.into())
    } else if ends(&["npz"]) || is_zip && holds(b".npy") {
        let code = format!(
            "import numpy; from safetensors.numpy import save_file; \
             save_file(dict(numpy.load({})), 'weights.safetensors')",
            python_string(path)
        );
        other(format!("this is a NumPy file; {}", by_python(&code))).with(Remedy::InitialWeights)
    } else if ends(&["keras"]) {
        other(KERAS.into())
    } else if is_zip && !holds(b"data.pkl") && !ends(&["pt", "pth", "ckpt"]) {
        let message = "this is a ZIP archive, not a trained model (.safetensors); unpack it and give the file of weights";
        other(message.into())
    } else if is_zip || matches!(bytes, [0x80, 2..=5, ..]) || ends(&["pt", "pth", "ckpt"]) {
        let code = format!(
            "import torch; from safetensors.torch import save_file; w = torch.load({}, map_location='cpu'); \
             save_file(w.get('state_dict', w), 'weights.safetensors')",
            python_string(path)
        );
        other(format!("this is a PyTorch file; {}", by_python(&code))).with(Remedy::InitialWeights)
    } else if begins(b"\x89HDF\r\n\x1a\n") || ends(&["h5", "hdf5"]) {
        other(KERAS.into())
    } else if ends(&["onnx"]) {
        other("this is an ONNX graph; give the model.safetensors that it was made from".into())
    } else if begins(b"\x89PNG") || begins(b"\xff\xd8\xff") {
        other("this is a picture, not a trained model (.safetensors)".into())
    } else if ends(&["toml"]) {
        let message = "this is a model description, without weights; give the model.safetensors of a run";
        other(message.into()).with(Remedy::TrainModel(path.to_owned()))
    } else if first_word.starts_with("<!doctype") || first_word.starts_with("<html") {
        other("this is a web page, not a trained model (.safetensors), perhaps from a failed download".into())
    } else {
        return None;
    })
}

fn by_python(code: &str) -> String {
    format!("save it as safetensors: python -c {}", quoted(code))
}

/// A path as a Python string. Like Python itself it has what is no Unicode as surrogates.
fn python_string(path: &Path) -> String {
    let mut literal = String::from("\"");
    for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
        // What JSON escapes Python reads, and its quotes are those of the whole.
        let json = serde_json::Value::from(chunk.valid()).to_string();
        literal += &shown(&json[1..json.len() - 1]);
        literal.extend(chunk.invalid().iter().map(|byte| format!("\\udc{byte:02x}")));
    }
    literal + "\""
}

/// The file that a path means: itself, or the only trained model in a folder, such as that of a run.
///
/// # Errors
/// A folder with no trained model, or with several: says which.
pub fn trained_file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let entries = path.read_dir().map_err(Error::io("read", path))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> =
        names.filter(|name| name.starts_with("model") && name.ends_with(".safetensors")).collect();
    names.sort_unstable();
    match &names[..] {
        [name] => Ok(path.join(name)),
        [] if path.join("checkpoint.safetensors").is_file() => {
            let message = "the run in this folder has no trained model yet";
            Err(Error::checkpoint(path, message).with(Remedy::Resume(path.to_owned())))
        }
        [] => {
            let message = "this folder has no trained model in it; give a file of weights (.safetensors)";
            Err(Error::checkpoint(path, message))
        }
        several => {
            let message = format!(
                "this folder has {} trained models; give one of them: {}",
                several.len(),
                some(several.iter().map(|name| shown(name).into_owned()))
            );
            Err(Error::checkpoint(path, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_reads_every_path() {
        for (path, literal) in [
            ("sub/w.pth", r#""sub/w.pth""#),
            ("a\"b\\c'", r#""a\"b\\c'""#),
            ("\u{1b}\n\u{85}\u{202e}é", r#""\u001b\n\u0085\u202eé""#),
        ] {
            assert_eq!(python_string(Path::new(path)), literal);
        }
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt;
            let path = Path::new(std::ffi::OsStr::from_bytes(b"caf\xe9.pth"));
            assert_eq!(python_string(path), r#""caf\udce9.pth""#);
        }
    }

    #[test]
    fn archives_are_told_apart() {
        let said = |path: &str, bytes: &[u8]| file(Path::new(path), bytes).unwrap().to_string();
        let zip = |name: &str| [b"PK\x03\x04", &[0; 26][..], name.as_bytes()].concat();
        assert!(said("sub/w.pth", &zip("w/data.pkl")).contains(r#"torch.load("sub/w.pth", "#));
        assert!(said("w.zip", &zip("w/data.pkl")).contains("this is a PyTorch file"));
        assert!(said("w.zip", &zip("conv1.npy")).contains(r#"numpy.load("w.zip")"#));
        assert!(said("photos.zip", &zip("cat/1.png")).contains("this is a ZIP archive"));
        assert!(said("w.keras", &zip("metadata.json")).contains("Keras"));
        let array = said("w.npy", b"\x93NUMPY\x01\0");
        assert!(array.contains("this is a single NumPy array") && !array.contains("python"), "{array}");
    }
}
