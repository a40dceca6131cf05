//! From the bytes of a picture file to pixels.

mod bmp;
mod gif;
mod jpeg;
mod png;
#[cfg(test)]
mod tests;
mod tiff;
mod webp;

use super::bitmap::{Bitmap, Raster};
use super::exif::Orientation;
use super::format::Format;

/// Why there are no pixels. The libraries' words are for programmers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Would take more memory than allowed.
    TooLarge,
    /// Damaged, as this says.
    Damaged(&'static str),
    /// Damaged, or of a kind that the library does not know.
    Unreadable,
    /// Perhaps whole, but of a kind that is not read.
    Rare(&'static str),
}

/// What a file says of its picture before the pixels are decoded.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) width: usize,
    pub(super) height: usize,
    channels: usize,
    /// 1 or 2.
    bytes_per_sample: usize,
    orientation: Orientation,
    /// Bytes that decoding takes beside the pixels.
    workspace: u64,
    /// True if more pictures follow the one that is read: the frames of an animation, the pages of a document.
    pub(super) has_more: bool,
}

impl Header {
    fn pixels(&self) -> u64 {
        self.width as u64 * self.height as u64
    }

    /// What the pixels take.
    pub(super) fn bytes(&self) -> u64 {
        self.pixels().saturating_mul((self.channels * self.bytes_per_sample) as u64)
    }

    /// The most bytes that the picture takes at a time, from decoding it to resizing it.
    pub(super) fn memory(&self) -> u64 {
        /// What the decoders and a line of a resized picture take beside the pixels.
        const FEW: u64 = 4 << 20;
        let turning = if self.orientation == Orientation::UPRIGHT { 0 } else { self.bytes() };
        // Drawings are measured in RGBA, and networks get no more channels than that.
        let beside = self.workspace.max(turning).max(4 * self.pixels());
        self.bytes().saturating_add(beside).saturating_add(FEW)
    }

    /// Zeros for all samples of 8 bits.
    fn eight(&self) -> Vec<u8> {
        vec![0; self.width * self.height * self.channels]
    }

    fn bitmap_of_eight(&self, samples: Vec<u8>) -> Bitmap {
        let Self { width, height, channels, .. } = *self;
        Bitmap::Eight(Raster { width, height, channels, samples })
    }

    fn bitmap_of_sixteen(&self, samples: Vec<u16>) -> Bitmap {
        let Self { width, height, channels, .. } = *self;
        Bitmap::Sixteen(Raster { width, height, channels, samples })
    }
}

/// A picture of which only the header was read.
pub(super) struct Decoder<'a> {
    pub(super) header: Header,
    source: Source<'a>,
}

enum Source<'a> {
    Png(png::Source<'a>),
    Jpeg(jpeg::Source<'a>),
    WebP(webp::Source<'a>),
    Gif(gif::Source<'a>),
    Bmp(bmp::Source<'a>),
    Tiff(tiff::Source<'a>),
}

impl<'a> Decoder<'a> {
    /// Reads the header. What comes before the pixels, such as a palette, may not take more than `max_bytes`.
    pub(super) fn new(bytes: &'a [u8], format: Format, max_bytes: usize) -> Result<Self, Refusal> {
        let (header, source) = match format {
            Format::Png => png::open(bytes, max_bytes).map(|(header, source)| (header, Source::Png(source))),
            Format::Jpeg => jpeg::open(bytes).map(|(header, source)| (header, Source::Jpeg(source))),
            Format::WebP => {
                webp::open(bytes, max_bytes).map(|(header, source)| (header, Source::WebP(source)))
            }
            Format::Gif => gif::open(bytes, max_bytes).map(|(header, source)| (header, Source::Gif(source))),
            Format::Bmp => bmp::open(bytes).map(|(header, source)| (header, Source::Bmp(source))),
            Format::Tiff => {
                tiff::open(bytes, max_bytes).map(|(header, source)| (header, Source::Tiff(source)))
            }
        }?;
        Ok(Self { header, source })
    }

    /// Decodes the pixels, which takes memory for them: its limit is the caller's affair. They are turned upright.
    pub(super) fn decode(self) -> Result<Bitmap, Refusal> {
        let Self { header, source } = self;
        let bitmap = match source {
            Source::Png(source) => png::decode(source, &header),
            Source::Jpeg(source) => jpeg::decode(source, &header),
            Source::WebP(source) => webp::decode(source, &header),
            Source::Gif(source) => gif::decode(source, &header),
            Source::Bmp(source) => bmp::decode(&source, &header),
            Source::Tiff(source) => tiff::decode(source, &header),
        }?;
        Ok(bitmap.upright(header.orientation))
    }
}

/// Fails with a plain reason if a file was cut off or is damaged in a way that its decoder would let pass.
pub(super) fn check(bytes: &[u8], format: Format) -> Result<(), &'static str> {
    match format {
        Format::Png => png::check(bytes),
        Format::Jpeg => super::jpeg::check(bytes),
        Format::WebP => webp::check(bytes),
        Format::Gif => gif::check(bytes),
        // Their readers look for everything that the header promises.
        Format::Bmp | Format::Tiff => Ok(()),
    }
}
