//! What buffers hold before the first step.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::batch::mean_grey;
use crate::dataset::Images;

/// What a buffer that outlives the steps holds before the first one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Contents {
    /// Zeros.
    Zeros,
    /// These 32-bit words. As text, little-endian bytes in base64.
    Words(#[serde(serialize_with = "as_base64", deserialize_with = "from_base64")] Vec<u32>),
    /// What the plan cannot know: images and labels ([`image_buffers`]), weights. Who carries it out writes them.
    Given,
}

/// Buffers of the parameters and of the running statistics, as [`ParamLayout`](super::ParamLayout) lays them out.
pub const WEIGHTS: [&str; 2] = ["params", "running"];
/// Those of their moving averages.
pub const AVERAGES: [&str; 2] = ["average_params", "average_running"];

/// Names and bytes of the buffers with images and labels of a part of the dataset, `train` or `test`: pixels as they are, up
/// to a whole word; and a word for each image, with its label and, above 8 bits, its mean grey in 1/65536.
pub fn image_buffers<'a>(part: &str, images: &'a Images) -> [(String, Cow<'a, [u8]>); 2] {
    let mut pixels = Cow::from(&images.pixels);
    if pixels.len() % 4 > 0 {
        let whole = pixels.len().next_multiple_of(4);
        pixels.to_mut().resize(whole, 0);
    }
    let size = images.pixels.len() / images.count.max(1);
    let of_image = |(&label, pixels): (&u8, &[u8])| {
        (u32::from(label) | mean_grey(pixels, images.channels) << 8).to_le_bytes()
    };
    let labels: Vec<u8> =
        images.labels.iter().zip(images.pixels.chunks_exact(size)).flat_map(of_image).collect();
    [(format!("{part}.images"), pixels), (format!("{part}.labels"), labels.into())]
}

fn as_base64<S: Serializer>(words: &[u32], serializer: S) -> Result<S::Ok, S::Error> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes = STANDARD.decode(text).map_err(de::Error::custom)?;
    let words = bytes.chunks(4).map(|word| word.try_into().map(u32::from_le_bytes));
    words.collect::<Result<_, _>>().map_err(de::Error::custom)
}
