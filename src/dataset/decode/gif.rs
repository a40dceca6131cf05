//! GIF: the first frame, on a transparent ground as large as the screen.

use std::io::Cursor;
use std::num::NonZeroU64;

use gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};

use super::{Header, Refusal};
use crate::dataset::bitmap::Bitmap;
use crate::dataset::exif::Orientation;

const CUT: &str = "damaged GIF: it ends early";

pub(super) struct Source<'a> {
    decoder: Box<gif::Decoder<Cursor<&'a [u8]>>>,
    frame: Frame,
}

/// Place and size of the first frame.
struct Frame {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

pub(super) fn open(bytes: &[u8], max_bytes: usize) -> Result<(Header, Source<'_>), Refusal> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::RGBA);
    options.check_lzw_end_code(true);
    options.set_memory_limit(
        NonZeroU64::new(max_bytes as u64).map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes),
    );
    let mut decoder = options.read_info(Cursor::new(bytes)).map_err(refusal)?;
    let (width, height) = (usize::from(decoder.width()), usize::from(decoder.height()));
    let first = decoder.next_frame_info().map_err(refusal)?.ok_or(Refusal::Unreadable)?;
    let frame = Frame {
        left: first.left.into(),
        top: first.top.into(),
        width: first.width.into(),
        height: first.height.into(),
    };
    let frame_bytes = 4 * frame.width as u64 * frame.height as u64;
    if width == 0 || height == 0 || frame_bytes == 0 {
        return Err(Refusal::Unreadable);
    } else if frame_bytes > max_bytes as u64 {
        return Err(Refusal::TooLarge);
    }
    let header = Header {
        width,
        height,
        channels: 4,
        bytes_per_sample: 1,
        orientation: Orientation::UPRIGHT,
        workspace: frame_bytes + frame_bytes / 4,
        has_more: frames(bytes).is_ok_and(|frames| frames > 1),
    };
    Ok((header, Source { decoder: Box::new(decoder), frame }))
}

pub(super) fn decode(mut source: Source<'_>, header: &Header) -> Result<Bitmap, Refusal> {
    let Frame { left, top, width, height } = source.frame;
    let mut frame = vec![0; 4 * width * height];
    source.decoder.read_into_buffer(&mut frame).map_err(refusal)?;
    if (left, top, width, height) == (0, 0, header.width, header.height) {
        return Ok(header.bitmap_of_eight(frame));
    }
    let mut samples = header.eight();
    // What is outside the screen is not seen.
    let seen = 4 * width.min(header.width.saturating_sub(left));
    let rows = samples.chunks_exact_mut(4 * header.width).skip(top);
    for (row, from) in rows.zip(frame.chunks_exact(4 * width)).filter(|_| seen > 0) {
        row[4 * left..4 * left + seen].copy_from_slice(&from[..seen]);
    }
    Ok(header.bitmap_of_eight(samples))
}

fn refusal(error: DecodingError) -> Refusal {
    match error {
        DecodingError::MemoryLimit => Refusal::TooLarge,
        _ => Refusal::Unreadable,
    }
}

/// Fails if the file ends before its trailer.
pub(super) fn check(bytes: &[u8]) -> Result<(), &'static str> {
    frames(bytes).map(drop)
}

/// Counts the frames by walking from block to block.
fn frames(bytes: &[u8]) -> Result<usize, &'static str> {
    /// Bytes of a colour table, if there is one.
    fn table(flags: u8) -> usize {
        if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
    }
    let byte = |at: usize| bytes.get(at).copied().ok_or(CUT);
    let mut at = 13 + table(byte(10)?);
    let mut frames = 0;
    loop {
        at += match byte(at)? {
            0x21 => 2,
            0x2c => {
                frames += 1;
                // Behind the table is the size of the first codes.
                10 + table(byte(at + 9)?) + 1
            }
            0x3b => return Ok(frames),
            // Between blocks some programs leave zeros.
            0 => {
                at += 1;
                continue;
            }
            _ => return Err("damaged GIF: its blocks are corrupt"),
        };
        // Pieces with their lengths, and an empty one.
        loop {
            let length = usize::from(byte(at)?);
            at += 1 + length;
            if length == 0 {
                break;
            }
        }
    }
}
