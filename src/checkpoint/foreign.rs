//! What people give instead of a trained model, and what would fit.

use std::path::Path;

use crate::error::shown;
use crate::files::quoted;

/// Says what a file is that is no safetensors file, by how it begins and by its name.
pub(super) fn file(path: &Path, bytes: &[u8]) -> Option<String> {
    // The header of every safetensors file stands there.
    if bytes.get(8) == Some(&b'{') {
        return None;
    }
    let begins = |with: &[u8]| bytes.starts_with(with);
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    let ends = |with: &[&str]| ending.as_deref().is_some_and(|ending| with.contains(&ending));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let first_word = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).trim_start().to_lowercase();
    Some(if begins(b"version https://git-lfs.github.com/spec/") {
        "this is a Git LFS pointer instead of the file; `git lfs pull` fetches it".into()
    } else if ends(&["npz", "npy"]) || begins(b"\x93NUMPY") {
        let code = format!(
            "import numpy; from safetensors.numpy import save_file; \
             save_file(dict(numpy.load({name:?})), 'weights.safetensors')"
        );
        format!("this is a NumPy file; {}", by_python(&code))
    } else if begins(b"PK\x03\x04") || matches!(bytes, [0x80, 2..=5, ..]) || ends(&["pt", "pth", "ckpt"]) {
        let code = format!(
            "import torch; from safetensors.torch import save_file; w = torch.load({name:?}, map_location='cpu'); \
             save_file(w.get('state_dict', w), 'weights.safetensors')"
        );
        format!("this is a PyTorch file; {}", by_python(&code))
    } else if begins(b"\x89HDF\r\n\x1a\n") || ends(&["h5", "hdf5", "keras"]) {
        "this is a Keras or HDF5 file; weights are read from safetensors files, named and shaped as in PyTorch".into()
    } else if ends(&["onnx"]) {
        "this is an ONNX graph; give the model.safetensors that it was made from".into()
    } else if begins(b"\x89PNG") || begins(b"\xff\xd8\xff") {
        "this is a picture, not a trained model (.safetensors)".into()
    } else if ends(&["toml"]) {
        format!(
            "this describes a network and holds no weights; train it first (`shadernet train {}`), then give the \
             model.safetensors of the run",
            quoted(&shown(&path.to_string_lossy()))
        )
    } else if first_word.starts_with("<!doctype") || first_word.starts_with("<html") {
        "this is a web page, not a trained model (.safetensors); the download was not the file".into()
    } else {
        return None;
    })
}

fn by_python(code: &str) -> String {
    format!("save it as safetensors, and `--init` starts from it: python -c {}", quoted(&shown(code)))
}

/// Says which file in a folder fits.
pub(super) fn folder(path: &Path) -> String {
    let entries = path.read_dir().into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let model = names.filter(|name| name.starts_with("model") && name.ends_with(".safetensors")).min();
    match model {
        Some(name) => format!("this is a folder; give {}", shown(&path.join(name).to_string_lossy())),
        None => "this is a folder, without a trained model; give a file of weights (.safetensors)".into(),
    }
}
