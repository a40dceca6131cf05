//! The kinds beside PNG and JPEG against the pixels that other programs say they have.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::super::format::Format;
use super::super::super::picture::decode_bytes;
use super::*;

/// Files with what `make.py` wrote beside each: its pixels as PNG.
fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| !["png", "py"].contains(&file.extension().unwrap().to_str().unwrap()));
    files.sort();
    files
}

fn name_of(file: &Path) -> String {
    file.file_name().unwrap().to_string_lossy().into_owned()
}

/// As a network of three channels sees it.
fn flat(bitmap: Bitmap) -> (usize, usize, Vec<u8>) {
    let flat = bitmap.flatten(3);
    (flat.width, flat.height, flat.samples)
}

#[test]
fn every_kind_has_the_pixels_that_other_programs_see() {
    let mut seen = 0;
    for file in fixtures() {
        let name = name_of(&file);
        let answer = decode_bytes(&fs::read(&file).unwrap(), &file);
        if name.starts_with("no-") {
            let message = answer.err().unwrap().to_string();
            assert!(message.contains("this kind of TIFF is not supported: expected grey,"), "{message}");
            continue;
        }
        let picture = answer.unwrap();
        // The expected PNG is read by the `image` crate, not by us.
        let wanted = image::open(file.with_file_name(format!("{name}.png"))).unwrap();
        if let (Bitmap::Sixteen(raster), true) = (&picture.bitmap, wanted.color().bytes_per_pixel() > 1) {
            let wanted = match raster.channels {
                1 => wanted.to_luma16().into_raw(),
                _ => wanted.to_rgb16().into_raw(),
            };
            assert_eq!(raster.samples, wanted, "{name}");
        }
        let (width, height) = (wanted.width() as usize, wanted.height() as usize);
        let wanted =
            Bitmap::Eight(Raster { width, height, channels: 4, samples: wanted.to_rgba8().into_raw() });
        let (ours, wanted) = (flat(picture.bitmap), flat(wanted));
        assert_eq!((ours.0, ours.1), (wanted.0, wanted.1), "{name}");
        let most = ours.2.iter().zip(&wanted.2).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        let allowed = match () {
            _ if name.contains("lossy") => 4,
            _ if name.contains("close") => 1,
            _ => 0,
        };
        assert!(most <= allowed, "{name}: {most}");
        assert_eq!(picture.has_more, ["moving", "pages"].iter().any(|word| name.starts_with(word)), "{name}");
        seen += 1;
    }
    assert!(seen >= 40, "{seen}");
}

#[test]
fn what_is_lossless_is_what_the_reference_reads() {
    // Of those that the `image` crate reads at all.
    let not_there = ["lossy-jpeg.tif", "runs-4.bmp"];
    for file in fixtures() {
        let (name, bytes) = (name_of(&file), fs::read(&file).unwrap());
        if !name.starts_with("no-") && !not_there.contains(&&*name) {
            assert_as_reference(&bytes, &name);
        }
    }
}

/// A file that was cut off is none to trust, wherever it ends.
#[test]
fn a_cut_anywhere_is_found() {
    for file in fixtures().into_iter().filter(|file| !name_of(file).starts_with("no-")) {
        let bytes = fs::read(&file).unwrap();
        for end in 0..bytes.len() {
            let answer = decode_bytes(&bytes[..end], &file);
            // What follows the pixels of a BMP or TIFF may be missing.
            let is_whole = |picture: crate::dataset::picture::Decoded| {
                [Some(Format::Bmp), Some(Format::Tiff)].contains(&Format::of(&bytes))
                    && picture.bitmap == decode_bytes(&bytes, &file).unwrap().bitmap
            };
            assert!(answer.is_err() || answer.is_ok_and(is_whole), "{} cut at {end}", file.display());
        }
    }
}

#[test]
fn damage_is_said_in_plain_words() {
    let message = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures");
        let mut bytes = fs::read(folder.join(name)).unwrap();
        change(&mut bytes);
        decode_bytes(&bytes, "x".as_ref()).unwrap_err().to_string()
    };
    let half: &dyn Fn(&mut Vec<u8>) = &|bytes| bytes.truncate(bytes.len() / 2);
    for (name, wanted) in [
        ("lossy.webp", "x: damaged WebP: it ends early"),
        ("plain.gif", "x: damaged GIF: it ends early"),
        ("24.bmp", "x: damaged BMP: it ends early"),
        ("runs-8.bmp", "x: damaged BMP: it ends early"),
    ] {
        assert_eq!(message(name, half), wanted, "{name}");
    }
    assert!(message("rgb-raw.tif", half).starts_with("x: damaged TIFF"), "{}", message("rgb-raw.tif", half));
    let rare = message("24.bmp", &|bytes| bytes[30] = 5);
    assert_eq!(rare, "x: this rare kind of BMP is not supported; convert it to PNG or JPEG");
    let large = message("24.bmp", &|bytes| bytes[18..26].copy_from_slice(&[0, 0, 1, 0, 1, 0, 0, 0]));
    assert!(large.starts_with("x: damaged BMP") || large.starts_with("x: too large"), "{large}");
}
