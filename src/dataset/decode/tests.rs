//! Every kind of file against the `image` crate, bit by bit.

mod others;

use std::io::{Cursor, Write};

use image::{DynamicImage, ImageDecoder, ImageReader};

use super::*;

/// The `image` crate's pixels, upright.
fn reference(bytes: &[u8]) -> DynamicImage {
    let mut decoder =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().unwrap().into_decoder().unwrap();
    let orientation = decoder.orientation().unwrap();
    let mut picture = DynamicImage::from_decoder(decoder).unwrap();
    picture.apply_orientation(orientation);
    picture
}

fn assert_as_reference(bytes: &[u8], what: &str) -> Bitmap {
    let decoder = Decoder::new(bytes, Format::of(bytes).unwrap(), 1 << 28).unwrap();
    let count = decoder.header.bytes();
    let ours = decoder.decode().unwrap();
    let theirs = reference(bytes);
    assert_eq!(ours.size(), (theirs.width() as usize, theirs.height() as usize), "{what}");
    let (channels, depth, samples) = match &ours {
        Bitmap::Eight(raster) => (raster.channels, 8, raster.samples.clone()),
        Bitmap::Sixteen(raster) => (raster.channels, 16, bytemuck::cast_slice(&raster.samples).to_vec()),
    };
    assert_eq!(count, samples.len() as u64, "{what}");
    assert_eq!(channels, usize::from(theirs.color().channel_count()), "{what}");
    assert_eq!(depth * channels, usize::from(theirs.color().bits_per_pixel()), "{what}");
    assert_eq!(samples, theirs.as_bytes(), "{what}");
    ours
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(data);
    let length = (data.len() as u32).to_be_bytes();
    [&length, &kind[..], data, &crc.sum().to_be_bytes()].concat()
}

/// A PNG of noise: colour type and depth as its header has them, and chunks between header and pixels.
fn png([width, height]: [usize; 2], colour: u8, depth: u8, interlaced: bool, more: &[u8]) -> Vec<u8> {
    let channels = [1, 0, 3, 1, 2, 0, 4][usize::from(colour)];
    // First pixel and step, across and down, of each pass.
    let passes: &[[usize; 4]] = if interlaced {
        &[[0, 8, 0, 8], [4, 8, 0, 8], [0, 4, 4, 8], [2, 4, 0, 4], [0, 2, 2, 4], [1, 2, 0, 2], [0, 1, 1, 2]]
    } else {
        &[[0, 1, 0, 1]]
    };
    let mut rows = Vec::new();
    for &[left, across, top, down] in passes {
        let (width, height) =
            (width.saturating_sub(left).div_ceil(across), height.saturating_sub(top).div_ceil(down));
        for row in 0..if width == 0 { 0 } else { height } {
            rows.push((row % 5) as u8);
            let length = (width * channels * usize::from(depth)).div_ceil(8);
            let noise = |at| (crate::rng::pcg4d([at as u32, row as u32, left as u32, 0])[0] >> 24) as u8;
            rows.extend((0..length).map(noise));
        }
    }
    let mut pixels = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    pixels.write_all(&rows).unwrap();
    let size = [width as u32, height as u32].map(u32::to_be_bytes).concat();
    let header = [&size[..], &[depth, colour, 0, 0, interlaced.into()]].concat();
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    bytes.extend(chunk(b"IHDR", &header));
    bytes.extend(more);
    bytes.extend(chunk(b"IDAT", &pixels.finish().unwrap()));
    bytes.extend(chunk(b"IEND", b""));
    bytes
}

#[test]
fn png_of_every_kind() {
    let palette: Vec<u8> = (0..=255).flat_map(|v: u8| [v, 255 - v, v.wrapping_mul(7)]).collect();
    let kinds: [(u8, &[u8]); 5] =
        [(0, &[1, 2, 4, 8, 16]), (2, &[8, 16]), (3, &[1, 2, 4, 8]), (4, &[8, 16]), (6, &[8, 16])];
    for (colour, depths) in kinds {
        for &depth in depths {
            let palette = chunk(b"PLTE", &palette[..3 << depth.min(8)]);
            // The transparent colour, or the opacity of the palette's first colours.
            let transparent = match colour {
                0 => chunk(b"tRNS", &[0, 1]),
                2 => chunk(b"tRNS", &[0, 7, 0, 8, 0, 9]),
                3 => chunk(b"tRNS", &[0, 90]),
                _ => Vec::new(),
            };
            let palette = if colour == 3 { palette } else { Vec::new() };
            let transparent = [&palette[..], &transparent].concat();
            for size in [[37, 23], [1, 1], [3, 5], [9, 1], [1, 9]] {
                for (interlaced, more) in
                    [false, true].into_iter().flat_map(|i| [(i, &palette), (i, &transparent)])
                {
                    let bytes = png(size, colour, depth, interlaced, more);
                    let what = format!("{size:?}, colour {colour}, {depth} bits, {interlaced}");
                    assert_as_reference(&bytes, &what);
                }
            }
        }
    }
}

#[test]
fn what_else_a_png_holds_changes_nothing() {
    let plain = assert_as_reference(&png([9, 7], 2, 8, false, &[]), "plain");
    let gamma = chunk(b"gAMA", &100_000u32.to_be_bytes());
    let text = chunk(b"tEXt", b"Comment\0with a text");
    let profile = chunk(b"iCCP", b"no\0\0profile");
    for more in [&gamma, &text, &profile] {
        assert_eq!(assert_as_reference(&png([9, 7], 2, 8, false, more), "more"), plain);
    }
}

#[test]
fn a_png_is_turned_upright() {
    for value in 0..=9 {
        let exif = [b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".as_slice(), &[value, 0, 0, 0]];
        let more = chunk(b"eXIf", &exif.concat());
        for (colour, depth) in [(0, 8), (0, 16), (2, 8), (4, 8), (6, 16)] {
            let bytes = png([11, 6], colour, depth, false, &more);
            let picture = assert_as_reference(&bytes, &format!("orientation {value}"));
            assert_eq!(picture.size(), if (5..=8).contains(&value) { (6, 11) } else { (11, 6) });
        }
    }
}

/// A baseline JPEG with this many components, whose blocks of 8x8 have one value each, with Adobe's `transform` if given.
fn jpeg(components: u8, transform: Option<u8>) -> Vec<u8> {
    // The tables of grey pictures are the standard's for lightness.
    let mut grey = Cursor::new(Vec::new());
    image::GrayImage::new(8, 8).write_to(&mut grey, image::ImageFormat::Jpeg).unwrap();
    let grey = grey.into_inner();
    let segment = |marker: u8, data: &[u8]| {
        [&[0xff, marker], &(data.len() as u16 + 2).to_be_bytes()[..], data].concat()
    };
    let mut bytes = vec![0xff, 0xd8];
    if let Some(transform) = transform {
        bytes.extend(segment(0xee, &[&b"Adobe\0\x64\0\0\0\0"[..], &[transform]].concat()));
    }
    let mut at = 2;
    while grey[at + 1] != 0xda {
        let length = usize::from(u16::from_be_bytes([grey[at + 2], grey[at + 3]]));
        if [0xdb, 0xc4].contains(&grey[at + 1]) {
            bytes.extend(&grey[at..at + 2 + length]);
        }
        at += 2 + length;
    }
    let ids = 1..=components;
    let frame = [&[8, 0, 21, 0, 37, components][..]];
    let parts = ids.clone().flat_map(|id| [id, 0x11, 0]);
    bytes.extend(segment(0xc0, &frame.concat().into_iter().chain(parts).collect::<Vec<_>>()));
    let scan = std::iter::once(components).chain(ids.flat_map(|id| [id, 0])).chain([0, 63, 0]);
    bytes.extend(segment(0xda, &scan.collect::<Vec<_>>()));
    // A difference of 3 bits (code 100), and the end of the block (1010).
    let mut bits = String::new();
    for block in 0..15 * u32::from(components) {
        let difference = crate::rng::pcg4d([block, 0, 0, 0])[0] >> 29;
        bits += &format!("100{difference:03b}1010");
    }
    bits += &"1".repeat(bits.len().wrapping_neg() % 8);
    for byte in bits.as_bytes().chunks(8) {
        let byte = byte.iter().fold(0, |byte, &bit| byte << 1 | (bit & 1));
        bytes.push(byte);
        if byte == 0xff {
            bytes.push(0);
        }
    }
    bytes.extend([0xff, 0xd9]);
    bytes
}

#[test]
fn jpeg_of_every_kind() {
    let kinds = [(1, None), (3, None), (3, Some(0)), (3, Some(1)), (4, None), (4, Some(0)), (4, Some(2))];
    let mut seen = Vec::new();
    for (components, transform) in kinds {
        let bytes = jpeg(components, transform);
        assert_eq!(crate::dataset::jpeg::check(&bytes), Ok(()));
        let picture = assert_as_reference(&bytes, &format!("{components}, {transform:?}"));
        assert_eq!(picture.size(), (37, 21));
        let Bitmap::Eight(raster) = picture else { panic!("more than 8 bits") };
        assert_eq!(raster.channels, if components == 1 { 1 } else { 3 });
        assert!(raster.samples.iter().any(|&v| v != raster.samples[0]));
        seen.push(raster.samples);
    }
    // Each kind is one.
    assert_ne!(seen[1], seen[2]);
    assert_ne!(seen[5], seen[6]);
    for quality in [1, 50, 100] {
        for size in [[1, 1], [8, 8], [17, 33], [200, 113]] {
            let [width, height] = size.map(|side| side as u32);
            let colour = |x: u32, y: u32| [(x * y) as u8, (x * 40) as u8, (y * 31) as u8];
            let picture = image::RgbImage::from_fn(width, height, |x, y| image::Rgb(colour(x, y)));
            for picture in
                [DynamicImage::from(picture.clone()), DynamicImage::from(picture).to_luma8().into()]
            {
                let mut bytes = Vec::new();
                let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality);
                picture.write_with_encoder(encoder).unwrap();
                assert_as_reference(&bytes, &format!("{size:?}, quality {quality}"));
            }
        }
    }
}

#[test]
fn a_progressive_jpeg() {
    let bytes = crate::dataset::jpeg::tests::progressive();
    assert_eq!(assert_as_reference(&bytes, "progressive").size(), (24, 20));
}

/// The `image` crate's answer to any bytes, as ours would be: size and pixels, if they are few.
fn answer_of_reference(bytes: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
    let refused = |error| match error {
        image::ImageError::Limits(_) => Refusal::TooLarge,
        _ => Refusal::Unreadable,
    };
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().unwrap();
    let mut limits = image::Limits::no_limits();
    limits.max_alloc = Some(1 << 28);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(refused)?;
    let orientation = decoder.orientation().map_err(refused)?;
    if decoder.total_bytes() > 1 << 20 {
        return Ok(None);
    }
    let mut picture = DynamicImage::from_decoder(decoder).map_err(refused)?;
    picture.apply_orientation(orientation);
    Ok(Some(picture.into_bytes()))
}

fn answer(bytes: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
    let decoder = Decoder::new(bytes, Format::of(bytes).unwrap(), 1 << 28)?;
    if decoder.header.bytes() > 1 << 20 {
        return Ok(None);
    }
    Ok(Some(match decoder.decode()? {
        Bitmap::Eight(raster) => raster.samples,
        Bitmap::Sixteen(raster) => bytemuck::cast_slice(&raster.samples).to_vec(),
    }))
}

#[test]
fn damaged_files_have_the_answer_of_the_reference() {
    let exif = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0");
    let palette = chunk(b"PLTE", &[7; 48]);
    let good = [
        png([9, 7], 2, 8, false, &exif),
        png([9, 7], 3, 4, true, &palette),
        png([9, 7], 6, 16, false, &[]),
        jpeg(1, None),
        jpeg(3, Some(0)),
        jpeg(4, Some(2)),
        crate::dataset::jpeg::tests::progressive(),
    ];
    let mut answers = [0; 2];
    for seed in 0..7000 {
        let mut bytes = good[seed as usize % good.len()].clone();
        for change in 0..1 + seed % 3 {
            let [place, value, ..] = crate::rng::pcg4d([seed, change, 0, 0]);
            let place = 8 + place as usize % (bytes.len() - 8);
            bytes[place] = value as u8;
        }
        if Format::of(&bytes) == Some(Format::Png) {
            mend_checksums(&mut bytes);
        }
        let ours = answer(&bytes);
        assert_eq!(ours, answer_of_reference(&bytes), "seed {seed}");
        answers[usize::from(ours.is_ok())] += 1;
    }
    assert!(answers.iter().all(|&count| count > 1000), "{answers:?}");
}

/// So that what was changed is read at all.
fn mend_checksums(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(length) = bytes.get(at..at + 4) {
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let end = at + 8 + length;
        let Some(chunk) = bytes.get(at + 4..end) else { return };
        let mut crc = flate2::Crc::new();
        crc.update(chunk);
        let Some(sum) = bytes.get_mut(end..end + 4) else { return };
        sum.copy_from_slice(&crc.sum().to_be_bytes());
        at = end + 4;
    }
}
