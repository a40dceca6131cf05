//! The temperature of a model file, in the metadata of those that have one.

use super::file::Metadata;

const KEY: &str = "temperature";

/// What a file says.
pub(super) fn read(metadata: &Metadata) -> Result<Option<f32>, String> {
    let Some(text) = metadata.get(KEY) else { return Ok(None) };
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(Some(value)),
        _ => Err(format!("{KEY} = {text:?} in the metadata is not a number above 0")),
    }
}

/// The entry of a file.
pub(super) fn written(temperature: Option<f32>) -> Option<(&'static str, String)> {
    temperature.map(|value| (KEY, value.to_string()))
}
