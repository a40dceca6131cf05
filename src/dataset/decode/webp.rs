//! WebP, lossy and lossless; of an animation the first frame.

use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};

use super::{Header, Refusal};
use crate::dataset::bitmap::Bitmap;
use crate::dataset::exif::Orientation;

pub(super) type Source<'a> = Box<WebPDecoder<Cursor<&'a [u8]>>>;

const CUT: &str = "damaged WebP: it ends early";

pub(super) fn open(bytes: &[u8], max_bytes: usize) -> Result<(Header, Source<'_>), Refusal> {
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(refusal)?;
    decoder.set_memory_limit(max_bytes);
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    let exif = decoder.exif_metadata().ok().flatten();
    let header = Header {
        width: width as usize,
        height: height as usize,
        channels: if decoder.has_alpha() { 4 } else { 3 },
        bytes_per_sample: 1,
        orientation: exif.and_then(|exif| Orientation::of_exif(&exif)).unwrap_or(Orientation::UPRIGHT),
        // RGBA of a frame and of what lies under it, and planes of lightness and colour.
        workspace: 10 * pixels,
        has_more: decoder.is_animated() && decoder.num_frames() > 1,
    };
    Ok((header, Box::new(decoder)))
}

#[expect(clippy::boxed_local, reason = "beside the other kinds in an enum it would be the large one")]
pub(super) fn decode(mut source: Source<'_>, header: &Header) -> Result<Bitmap, Refusal> {
    let mut samples = header.eight();
    source.read_image(&mut samples).map_err(refusal)?;
    Ok(header.bitmap_of_eight(samples))
}

fn refusal(error: DecodingError) -> Refusal {
    match error {
        DecodingError::MemoryLimitExceeded | DecodingError::ImageTooLarge => Refusal::TooLarge,
        _ => Refusal::Unreadable,
    }
}

/// Fails if the file is shorter than it says, or a part of it longer than what holds it.
pub(super) fn check(bytes: &[u8]) -> Result<(), &'static str> {
    let size = bytes.get(4..).and_then(<[u8]>::first_chunk).ok_or(CUT)?;
    let end = (u32::from_le_bytes(*size) as usize).checked_add(8).ok_or(CUT)?;
    let mut rest = bytes.get(12..end).ok_or(CUT)?;
    while let Some((head, data)) = rest.split_first_chunk::<8>() {
        let size = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        // A part has an even number of bytes, but for the last one of careless writers.
        rest = data.get(size..).ok_or(CUT)?;
        rest = rest.get(size % 2..).unwrap_or_default();
    }
    Ok(())
}
