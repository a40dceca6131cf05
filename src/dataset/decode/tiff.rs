//! TIFF: the first page, in grey, RGB or CMYK, of 8 or 16 bits, or in black and white.

use std::io::Cursor;

use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::{SampleFormat, Tag};
use tiff::{ColorType, TiffError};

use super::{Header, Refusal};
use crate::dataset::bitmap::Bitmap;
use crate::dataset::exif::Orientation;

const RARE: &str =
    "this kind of TIFF is not supported: expected grey, RGB or CMYK, of 8 or 16 bits, or black and white";

pub(super) struct Source<'a> {
    decoder: Box<Decoder<Cursor<&'a [u8]>>>,
    kind: Kind,
}

/// What the samples of a pixel become.
enum Kind {
    /// Themselves.
    Same,
    /// Grey, from packed bits.
    Bits,
    /// Red, green and blue, from four inks.
    Inks,
}

pub(super) fn open(bytes: &[u8], max_bytes: usize) -> Result<(Header, Source<'_>), Refusal> {
    let mut limits = Limits::default();
    limits.decoding_buffer_size = max_bytes;
    limits.intermediate_buffer_size = max_bytes;
    let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(refusal)?.with_limits(limits);
    let (width, height) = decoder.dimensions().map_err(refusal)?;
    let colour = decoder.colortype().map_err(refusal)?;
    let (kind, channels, bits) = match colour {
        ColorType::Gray(1) => (Kind::Bits, 1, 8),
        ColorType::Gray(bits) => (Kind::Same, 1, bits),
        ColorType::GrayA(bits) => (Kind::Same, 2, bits),
        ColorType::RGB(bits) => (Kind::Same, 3, bits),
        ColorType::RGBA(bits) => (Kind::Same, 4, bits),
        ColorType::CMYK(bits) => (Kind::Inks, 3, bits),
        _ => return Err(Refusal::Rare(RARE)),
    };
    let formats = decoder.find_tag_unsigned_vec::<u16>(Tag::SampleFormat).map_err(refusal)?;
    let is_whole = |format: &u16| SampleFormat::from_u16(*format) == Some(SampleFormat::Uint);
    if ![8, 16].contains(&bits) || !formats.unwrap_or_default().iter().all(is_whole) {
        return Err(Refusal::Rare(RARE));
    }
    let (width, height) = (width as usize, height as usize);
    if width == 0 || height == 0 {
        return Err(Refusal::Unreadable);
    }
    let orientation = decoder.find_tag_unsigned::<u16>(Tag::Orientation).ok().flatten();
    let bytes_per_sample = usize::from(bits) / 8;
    let header = Header {
        width,
        height,
        channels,
        bytes_per_sample,
        orientation: orientation.and_then(Orientation::of_value).unwrap_or(Orientation::UPRIGHT),
        // A strip, which may be all of it, packed and unpacked, and the samples as they are stored.
        workspace: (width as u64 * height as u64)
            .saturating_mul(2 * (bytes_per_sample * (channels + 1)) as u64),
        has_more: decoder.more_images(),
    };
    Ok((header, Source { decoder: Box::new(decoder), kind }))
}

pub(super) fn decode(mut source: Source<'_>, header: &Header) -> Result<Bitmap, Refusal> {
    let mut stored = DecodingResult::U8(Vec::new());
    let layout = source.decoder.read_image_to_buffer(&mut stored).map_err(refusal)?;
    let count = header.width * header.height * header.channels;
    match stored {
        DecodingResult::U8(samples) => {
            let samples = if layout.planes > 1 { interleaved(&samples, layout.planes) } else { samples };
            let samples = match source.kind {
                Kind::Same => samples,
                Kind::Bits => unpacked(&samples, header.width),
                Kind::Inks => of_inks(&samples, 255.0, |value| value as u8),
            };
            if samples.len() != count {
                Err(Refusal::Unreadable)
            } else {
                Ok(header.bitmap_of_eight(samples))
            }
        }
        DecodingResult::U16(samples) => {
            let samples = if layout.planes > 1 { interleaved(&samples, layout.planes) } else { samples };
            let samples = match source.kind {
                Kind::Same => samples,
                Kind::Inks => of_inks(&samples, 65535.0, |value| value as u16),
                Kind::Bits => return Err(Refusal::Unreadable),
            };
            if samples.len() != count {
                Err(Refusal::Unreadable)
            } else {
                Ok(header.bitmap_of_sixteen(samples))
            }
        }
        _ => Err(Refusal::Rare(RARE)),
    }
}

/// Pixels from planes that follow one another.
fn interleaved<T: Copy>(samples: &[T], planes: usize) -> Vec<T> {
    let size = samples.len() / planes;
    (0..size).flat_map(|at| (0..planes).map(move |plane| samples[plane * size + at])).collect()
}

/// Black and white from bits, of which each row begins with a byte of its own.
fn unpacked(rows: &[u8], width: usize) -> Vec<u8> {
    let bit = |row: &[u8], x: usize| if row[x / 8] << (x % 8) & 0x80 == 0 { 0 } else { 255 };
    rows.chunks_exact(width.div_ceil(8)).flat_map(|row| (0..width).map(move |x| bit(row, x))).collect()
}

/// Light that four inks leave, without a profile of them.
fn of_inks<T: Copy + Into<f32>>(samples: &[T], most: f32, narrow: impl Fn(f32) -> T) -> Vec<T> {
    let pixel = |&[cyan, magenta, yellow, black]: &[T; 4]| {
        let light = 1.0 - black.into() / most;
        [cyan, magenta, yellow].map(|ink| narrow((most - ink.into()) * light))
    };
    samples.as_chunks().0.iter().flat_map(pixel).collect()
}

fn refusal(error: TiffError) -> Refusal {
    match error {
        TiffError::LimitsExceeded | TiffError::IntSizeError => Refusal::TooLarge,
        TiffError::UnsupportedError(_) => Refusal::Rare(RARE),
        _ => Refusal::Unreadable,
    }
}
