//! PNG.

use std::io::Cursor;

use png::{BitDepth, DecodingError, Transformations};

use super::{Header, Refusal};
use crate::dataset::bitmap::Bitmap;
use crate::dataset::exif::Orientation;

pub(super) type Source<'a> = Box<png::Reader<Cursor<&'a [u8]>>>;

const CUT: &str = "damaged PNG: it ends early";

pub(super) fn open(bytes: &[u8], max_bytes: usize) -> Result<(Header, Source<'_>), Refusal> {
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: max_bytes });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    // Palettes become colours, a transparent colour an alpha channel, and 1, 2 and 4 bits 8.
    decoder.set_transformations(Transformations::EXPAND);
    let reader = decoder.read_info().map_err(refusal)?;
    let (colour, depth) = reader.output_color_type();
    let info = reader.info();
    let exif = info.exif_metadata.as_ref();
    let header = Header {
        width: info.width as usize,
        height: info.height as usize,
        channels: colour.samples(),
        bytes_per_sample: if depth == BitDepth::Sixteen { 2 } else { 1 },
        orientation: exif.and_then(|exif| Orientation::of_exif(exif)).unwrap_or(Orientation::UPRIGHT),
        workspace: 0,
        has_more: info.animation_control.is_some_and(|animation| animation.num_frames > 1),
    };
    Ok((header, Box::new(reader)))
}

pub(super) fn decode(mut source: Source<'_>, header: &Header) -> Result<Bitmap, Refusal> {
    if header.bytes_per_sample == 2 {
        let mut samples = vec![0u16; header.width * header.height * header.channels];
        source.next_frame(bytemuck::cast_slice_mut(&mut samples)).map_err(refusal)?;
        samples.iter_mut().for_each(|sample| *sample = u16::from_be(*sample));
        return Ok(header.bitmap_of_sixteen(samples));
    }
    let mut samples = header.eight();
    source.next_frame(&mut samples).map_err(refusal)?;
    Ok(header.bitmap_of_eight(samples))
}

fn refusal(error: DecodingError) -> Refusal {
    match error {
        DecodingError::LimitsExceeded => Refusal::TooLarge,
        _ => Refusal::Unreadable,
    }
}

/// Fails if a PNG has no last chunk: its decoder is content with the pixels, but a file that was cut off is none to trust. And
/// if a chunk's checksum does not fit, but for those that decoders may ignore.
pub(super) fn check(bytes: &[u8]) -> Result<(), &'static str> {
    let mut rest = bytes.get(8..).unwrap_or_default();
    loop {
        let (length, chunk) = rest.split_first_chunk().ok_or(CUT)?;
        let length = u32::from_be_bytes(*length) as usize;
        // The kind is not counted.
        let (chunk, end) = length.checked_add(4).and_then(|size| chunk.split_at_checked(size)).ok_or(CUT)?;
        let (checksum, next) = end.split_first_chunk().ok_or(CUT)?;
        let mut found = flate2::Crc::new();
        found.update(chunk);
        if chunk[0].is_ascii_uppercase() && found.sum() != u32::from_be_bytes(*checksum) {
            return Err("damaged PNG: a checksum in it does not match");
        }
        if chunk.starts_with(b"IEND") {
            return Ok(());
        }
        rest = next;
    }
}
