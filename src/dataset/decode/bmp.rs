//! BMP, as Windows has written it since 1990: palettes, masks, runs, from the bottom or from the top.

use super::{Header, Refusal};
use crate::dataset::bitmap::Bitmap;
use crate::dataset::exif::Orientation;

const RARE: &str = "this rare kind of BMP is not supported";
const CUT: &str = "damaged BMP: it ends early";

pub(super) struct Source<'a> {
    /// From the first pixel on.
    data: &'a [u8],
    is_from_top: bool,
    pixels: Pixels,
}

/// How a pixel is stored.
enum Pixels {
    /// Places in a palette, of this many bits.
    Places(usize, Vec<[u8; 3]>),
    /// The same in runs.
    Runs(usize, Vec<[u8; 3]>),
    /// Blue, green, red.
    Bytes,
    /// Red, green, blue and opacity as bits of a number of this many bytes.
    Masks(usize, [Mask; 4]),
}

/// The bits of a channel within a pixel.
#[derive(Clone, Copy)]
struct Mask {
    shift: u32,
    /// The largest value.
    most: u32,
}

impl Mask {
    fn new(mask: u32) -> Result<Self, Refusal> {
        let shift = mask.trailing_zeros().min(31);
        let most = mask >> shift;
        if most & most.wrapping_add(1) != 0 { Err(Refusal::Unreadable) } else { Ok(Self { shift, most }) }
    }

    fn value(self, pixel: u32) -> u8 {
        let value = u64::from(pixel >> self.shift & self.most);
        match self.most {
            0 => 0,
            // The lowest bits of more than eight are left out.
            256.. => (value >> (self.most.count_ones() - 8)) as u8,
            most => ((value * 255 + u64::from(most) / 2) / u64::from(most)) as u8,
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Refusal> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map(|b| u16::from_le_bytes(*b)).ok_or(Refusal::Damaged(CUT))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Refusal> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map(|b| u32::from_le_bytes(*b)).ok_or(Refusal::Damaged(CUT))
}

pub(super) fn open(bytes: &[u8]) -> Result<(Header, Source<'_>), Refusal> {
    let start = u32_at(bytes, 10)? as usize;
    let size = u32_at(bytes, 14)? as usize;
    let (width, height, bits, compression, colours) = match size {
        12 => {
            let [width, height, bits] = [18, 20, 24].map(|at| u16_at(bytes, at));
            (i32::from(width?), i32::from(height?), bits?, 0, 0)
        }
        40 | 52 | 56 | 64 | 108 | 124 => {
            let [width, height, compression, colours] = [18, 22, 30, 46].map(|at| u32_at(bytes, at));
            (width? as i32, height? as i32, u16_at(bytes, 28)?, compression?, colours? as usize)
        }
        _ => return Err(Refusal::Rare(RARE)),
    };
    if width <= 0 || height == 0 || height == i32::MIN {
        return Err(Refusal::Unreadable);
    }
    let (width, is_from_top, height) = (width as usize, height < 0, height.unsigned_abs() as usize);
    let bits = usize::from(bits);
    let palette = || palette(bytes, size, bits, colours);
    let pixels = match (compression, bits) {
        (0, 1 | 2 | 4 | 8) => Pixels::Places(bits, palette()?),
        (1, 8) | (2, 4) if !is_from_top => Pixels::Runs(bits, palette()?),
        (0, 24) => Pixels::Bytes,
        (0, 16) => Pixels::Masks(2, masks([0x7c00, 0x3e0, 0x1f, 0])?),
        (0, 32) => Pixels::Masks(4, masks([0xff_0000, 0xff00, 0xff, 0])?),
        (3, 16 | 32) => {
            // Behind the oldest header, in the same place within the others, which have opacity, too.
            let [red, green, blue] = [54, 58, 62].map(|at| u32_at(bytes, at));
            let opacity = if size >= 56 && size != 64 { u32_at(bytes, 66)? } else { 0 };
            Pixels::Masks(bits / 8, masks([red?, green?, blue?, opacity])?)
        }
        _ => return Err(Refusal::Rare(RARE)),
    };
    let has_opacity = matches!(&pixels, Pixels::Masks(_, [.., opacity]) if opacity.most > 0);
    let data = bytes.get(start..).ok_or(Refusal::Damaged(CUT))?;
    let row = row_bytes(width, bits);
    if !matches!(pixels, Pixels::Runs(..)) && row.saturating_mul(height) > data.len() {
        return Err(Refusal::Damaged(CUT));
    }
    let header = Header {
        width,
        height,
        channels: if has_opacity { 4 } else { 3 },
        bytes_per_sample: 1,
        orientation: Orientation::UPRIGHT,
        workspace: 0,
        has_more: false,
    };
    Ok((header, Source { data, is_from_top, pixels }))
}

/// Bytes of a row, which end at a multiple of four.
fn row_bytes(width: usize, bits: usize) -> usize {
    (width * bits).div_ceil(32) * 4
}

/// As many colours as pixels can name; those that are not in the file are black.
fn palette(bytes: &[u8], size: usize, bits: usize, colours: usize) -> Result<Vec<[u8; 3]>, Refusal> {
    let most = 1 << bits;
    // In the oldest header's files without a fourth byte.
    let (step, count) = match (size, colours) {
        (12, _) => (3, most),
        (_, 0) => (4, most),
        (_, colours) if colours <= most => (4, colours),
        _ => return Err(Refusal::Unreadable),
    };
    let stored = bytes.get(14 + size..14 + size + step * count).ok_or(Refusal::Damaged(CUT))?;
    let mut palette: Vec<_> =
        stored.chunks_exact(step).map(|colour| [colour[2], colour[1], colour[0]]).collect();
    palette.resize(most, [0; 3]);
    Ok(palette)
}

fn masks(masks: [u32; 4]) -> Result<[Mask; 4], Refusal> {
    let [red, green, blue, opacity] = masks.map(Mask::new);
    let masks = [red?, green?, blue?, opacity?];
    if masks[..3].iter().any(|mask| mask.most == 0) { Err(Refusal::Unreadable) } else { Ok(masks) }
}

pub(super) fn decode(source: &Source<'_>, header: &Header) -> Result<Bitmap, Refusal> {
    let mut samples = header.eight();
    let (width, channels, data) = (header.width, header.channels, source.data);
    let line = width * channels;
    // The row of the picture that is stored at this place.
    let row_at = |at: usize| if source.is_from_top { at } else { header.height - 1 - at };
    let stored = |bits: usize| data.chunks_exact(row_bytes(width, bits)).take(header.height).enumerate();
    match &source.pixels {
        Pixels::Runs(bits, palette) => runs(data, *bits, palette, header, &mut samples)?,
        Pixels::Places(bits, palette) => {
            for (at, bytes) in stored(*bits) {
                let row = samples[row_at(at) * line..][..line].as_chunks_mut::<3>().0;
                for (x, pixel) in row.iter_mut().enumerate() {
                    *pixel = palette[place(bytes, x, *bits)];
                }
            }
        }
        Pixels::Bytes => {
            for (at, bytes) in stored(24) {
                let row = samples[row_at(at) * line..][..line].as_chunks_mut::<3>().0;
                for (pixel, &[blue, green, red]) in row.iter_mut().zip(bytes.as_chunks().0) {
                    *pixel = [red, green, blue];
                }
            }
        }
        Pixels::Masks(bytes_of_pixel, masks) => {
            for (at, bytes) in stored(8 * bytes_of_pixel) {
                let row = samples[row_at(at) * line..][..line].chunks_exact_mut(channels);
                for (pixel, bytes) in row.zip(bytes.chunks_exact(*bytes_of_pixel)) {
                    let value = bytes.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
                    pixel.iter_mut().zip(masks).for_each(|(sample, mask)| *sample = mask.value(value));
                }
            }
            // Programs that know no opacity leave it 0: nobody saves a picture that cannot be seen.
            if channels == 4 && samples.iter().skip(3).step_by(4).all(|&opacity| opacity == 0) {
                samples.iter_mut().skip(3).step_by(4).for_each(|opacity| *opacity = 255);
            }
        }
    }
    Ok(header.bitmap_of_eight(samples))
}

/// The place in the palette of pixel `x` of a row.
fn place(row: &[u8], x: usize, bits: usize) -> usize {
    let at = x * bits;
    usize::from(row[at / 8] << (at % 8) >> (8 - bits))
}

/// Runs of equal pixels, pieces of unequal ones, and jumps; what is jumped over is black.
fn runs(
    data: &[u8],
    bits: usize,
    palette: &[[u8; 3]],
    header: &Header,
    samples: &mut [u8],
) -> Result<(), Refusal> {
    let pixels = samples.as_chunks_mut::<3>().0;
    let byte = |at: usize| data.get(at).copied().ok_or(Refusal::Damaged(CUT));
    let (mut at, mut x, mut y) = (0, 0, 0);
    while y < header.height {
        let (count, value) = (byte(at)?, byte(at + 1)?);
        at += 2;
        let (count, piece) = match (count, value) {
            (0, 0) => {
                (x, y) = (0, y + 1);
                continue;
            }
            (0, 1) => return Ok(()),
            (0, 2) => {
                (x, y) = (x + usize::from(byte(at)?), y + usize::from(byte(at + 1)?));
                at += 2;
                continue;
            }
            (0, count) => {
                let bytes = (usize::from(count) * bits).div_ceil(8);
                let piece = data.get(at..at + bytes).ok_or(Refusal::Damaged(CUT))?;
                at += bytes.next_multiple_of(2);
                (count, piece)
            }
            // Of four bits: two places, in turn.
            (count, _) => (count, &data[at - 1..at]),
        };
        let row = &mut pixels[(header.height - 1 - y) * header.width..][..header.width];
        let places = 8 / bits;
        for index in 0..usize::from(count) {
            let index = if piece.len() == 1 { index % places } else { index };
            if let Some(pixel) = row.get_mut(x) {
                *pixel = palette[place(piece, index, bits)];
            }
            x += 1;
        }
    }
    Ok(())
}
