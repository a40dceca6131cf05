//! The normalisation of a model file: `mean` and `std` in its metadata.

use super::file::Metadata;
use super::{CHANNELS_VERSION, VERSION};
use crate::normalization::Normalization;

/// What a file of this version says of this many channels.
pub(super) fn read(metadata: &Metadata, version: &str, channels: usize) -> Result<Normalization, String> {
    let text = |key: &str| metadata.get(key).ok_or_else(|| format!("`{key}` is missing from the metadata"));
    let values = |key: &str| -> Result<Vec<f32>, String> {
        let text = text(key)?;
        if version == CHANNELS_VERSION {
            serde_json::from_str(text)
                .map_err(|_| format!("{key} = {text:?} in the metadata is not a list of numbers"))
        } else {
            // One for all channels.
            let value = text.parse().ok().filter(|value: &f64| value.is_finite());
            let value = value.ok_or_else(|| format!("{key} = {text:?} in the metadata is not a number"))?;
            Ok(vec![value as f32; channels])
        }
    };
    let normalization = Normalization { mean: values("mean")?, std: values("std")? };
    let [means, stds] = [normalization.mean.len(), normalization.std.len()];
    if [means, stds] != [channels; 2] {
        return Err(format!("{means} means and {stds} deviations in the metadata for {channels} channels"));
    }
    normalization.check().map_err(|values| {
        format!("{values} in the metadata cannot normalise pixels; both must be finite, and std above 0")
    })?;
    Ok(normalization)
}

/// `version`, `mean` and `std` of a file: where all channels have the same, the one of shadernet before they could differ.
pub(super) fn written(normalization: &Normalization) -> [(&'static str, String); 3] {
    let (version, mean, std) = match normalization.common() {
        Some((mean, std)) => (VERSION, mean.to_string(), std.to_string()),
        None => {
            let list = |values: &[f32]| serde_json::to_string(values).expect("plain values are JSON");
            (CHANNELS_VERSION, list(&normalization.mean), list(&normalization.std))
        }
    };
    [("version", version.to_owned()), ("mean", mean), ("std", std)]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::file::{MAX_FILE, MAX_HEADER, TensorFile};
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::model::Model;

    fn metadata(path: &Path) -> Metadata {
        TensorFile::read(path, MAX_HEADER, MAX_FILE).unwrap().metadata
    }

    #[test]
    fn channels_that_differ_are_written_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let text = "name = \"x\"\ninput = [3, 2, 2]\nlayers = [{ type = \"flatten\" }, { type = \"linear\", out_features = 2 }]";
        let model = Model::parse(text, "x").unwrap();
        let classes = vec!["a".into(), "b".into()];
        let seed = Checkpoint::seed().unwrap();
        let mut saved = Checkpoint { weights: model.init(1), model, classes, ..seed };
        saved.normalization = Normalization { mean: vec![0.4914, 0.4822, 0.4465], std: vec![0.2, 0.1, 0.3] };
        saved.save(&path).unwrap();
        let written = metadata(&path);
        // What a program of before reads first, and refuses.
        assert_eq!(written["version"], "3");
        assert_eq!((&*written["mean"], &*written["std"]), ("[0.4914,0.4822,0.4465]", "[0.2,0.1,0.3]"));
        assert_eq!(Checkpoint::load(&path).unwrap().normalization, saved.normalization);

        // One value for all channels, as files had before: it stays what it was.
        saved.normalization = Normalization::uniform(3, 0.47, 0.2);
        saved.save(&path).unwrap();
        let written = metadata(&path);
        assert_eq!([&*written["version"], &*written["mean"], &*written["std"]], ["2", "0.47", "0.2"]);
        let loaded = Checkpoint::load(&path).unwrap();
        assert_eq!(loaded.normalization, saved.normalization);
        let bytes = std::fs::read(&path).unwrap();
        loaded.save(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn what_normalises_no_pixels_is_refused() {
        let read = |version: &str, mean: &str, std: &str| {
            let values =
                [("mean", mean), ("std", std)].map(|(key, value)| (key.to_owned(), value.to_owned()));
            read(&Metadata::from(values), version, 3)
        };
        assert_eq!(read("1", "0.5", "0.25"), Ok(Normalization::uniform(3, 0.5, 0.25)));
        let each = Normalization { mean: vec![0.5, 0.0, 1.0], std: vec![1.0, 2.0, 3.0] };
        assert_eq!(read("3", "[0.5, 0, 1]", "[1, 2, 3]"), Ok(each));
        for (version, mean, std, words) in [
            ("2", "[0.5,0.5,0.5]", "0.25", "mean = \"[0.5,0.5,0.5]\" in the metadata is not a number"),
            ("3", "[0.5,0.5,0.5]", "0.25", "std = \"0.25\" in the metadata is not a list of numbers"),
            ("3", "[0.5,0.5]", "[1,1,1]", "2 means and 3 deviations in the metadata for 3 channels"),
            ("3", "[0.5,0.5,0.5]", "[1,1,1,1]", "3 means and 4 deviations in the metadata for 3 channels"),
            (
                "3",
                "[0.5,0.5,0.5]",
                "[1,0,1]",
                "mean = 0.5 and std = 0 in the metadata cannot normalise pixels",
            ),
            (
                "3",
                "[0.5,0.5,1e39]",
                "[1,1,1]",
                "mean = \"[0.5,0.5,1e39]\" in the metadata is not a list of numbers",
            ),
        ] {
            let message = read(version, mean, std).unwrap_err();
            assert!(message.starts_with(words), "{message}");
        }
    }
}
