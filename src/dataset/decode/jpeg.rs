//! JPEG. Whether one is whole, `dataset::jpeg` says.

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::{Header, Refusal};
use crate::dataset::bitmap::Bitmap;
use crate::dataset::exif::Orientation;

pub(super) type Source<'a> = Box<JpegDecoder<ZCursor<&'a [u8]>>>;

pub(super) fn open(bytes: &[u8]) -> Result<(Header, Source<'_>), Refusal> {
    let limit = usize::from(u16::MAX);
    let options = DecoderOptions::default().set_strict_mode(false).set_max_width(limit).set_max_height(limit);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|_| Refusal::Unreadable)?;
    let (width, height) = decoder.dimensions().ok_or(Refusal::Unreadable)?;
    let colours = match decoder.input_colorspace().ok_or(Refusal::Unreadable)? {
        ColorSpace::Luma => ColorSpace::Luma,
        // YCbCr, CMYK and YCCK, too.
        _ => ColorSpace::RGB,
    };
    decoder.set_options(options.jpeg_set_out_colorspace(colours));
    let exif = decoder.exif();
    let (channels, pixels) = (colours.num_components(), width as u64 * height as u64);
    let header = Header {
        width,
        height,
        channels,
        bytes_per_sample: 1,
        orientation: exif.and_then(|exif| Orientation::of_exif(exif)).unwrap_or(Orientation::UPRIGHT),
        // A progressive one keeps its coefficients, of two bytes each; in CMYK these are four for three channels.
        workspace: pixels * (2 * channels as u64 + 2),
        has_more: false,
    };
    Ok((header, Box::new(decoder)))
}

pub(super) fn decode(mut source: Source<'_>, header: &Header) -> Result<Bitmap, Refusal> {
    let mut samples = header.eight();
    source.decode_into(&mut samples).map_err(|_| Refusal::Unreadable)?;
    Ok(header.bitmap_of_eight(samples))
}
