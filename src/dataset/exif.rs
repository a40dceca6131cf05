//! Which way a camera was held: the orientation that EXIF data give.

/// Where the pixels of an upright picture are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Orientation {
    /// Rows are stored as columns.
    pub(crate) transposed: bool,
    /// Whether the stored rows run from right to left, and whether they go from the bottom to the top.
    pub(crate) mirrored: [bool; 2],
}

impl Orientation {
    pub(crate) const UPRIGHT: Self = Self { transposed: false, mirrored: [false; 2] };

    /// What the values of EXIF's tag 0x112 mean.
    pub(super) fn of_value(value: u16) -> Option<Self> {
        let (transposed, mirrored) = match value {
            1 => (false, [false, false]),
            2 => (false, [true, false]),
            3 => (false, [true, true]),
            4 => (false, [false, true]),
            5 => (true, [false, false]),
            6 => (true, [false, true]),
            7 => (true, [true, true]),
            8 => (true, [true, false]),
            _ => return None,
        };
        Some(Self { transposed, mirrored })
    }

    /// From EXIF data, which begin with a TIFF header. `None` where they say nothing that makes sense.
    pub(super) fn of_exif(exif: &[u8]) -> Option<Self> {
        let is_big_endian = match exif.first_chunk()? {
            b"MM\0*" => true,
            b"II*\0" => false,
            _ => return None,
        };
        let u16_of =
            |bytes: [u8; 2]| if is_big_endian { u16::from_be_bytes } else { u16::from_le_bytes }(bytes);
        let u32_of =
            |bytes: [u8; 4]| if is_big_endian { u32::from_be_bytes } else { u32::from_le_bytes }(bytes);
        let start = u32_of(*exif.get(4..)?.first_chunk()?);
        let (count, entries) = exif.get(usize::try_from(start).ok()?..)?.split_first_chunk()?;
        let entries = entries.as_chunks::<12>().0.iter().take(u16_of(*count).into());
        // Tag, kind (3: 16 bits), count, value.
        entries
            .map(|&[t0, t1, k0, k1, c0, c1, c2, c3, v0, v1, ..]| {
                (u16_of([t0, t1]), u16_of([k0, k1]), u32_of([c0, c1, c2, c3]), u16_of([v0, v1]))
            })
            .find(|&(tag, kind, count, _)| (tag, kind, count) == (0x112, 3, 1))
            .and_then(|(.., value)| Self::of_value(value))
    }
}

#[cfg(test)]
mod tests {
    use image::metadata::Orientation as Reference;

    use super::*;
    use crate::dataset::bitmap::Raster;

    /// A directory of these entries, as tag, kind, count and value.
    fn exif(is_big_endian: bool, entries: &[(u16, u16, u32, u16)]) -> Vec<u8> {
        let two = |v: u16| if is_big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
        let four = |v: u32| if is_big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
        let mut bytes = if is_big_endian { b"MM\0*".to_vec() } else { b"II*\0".to_vec() };
        bytes.extend(four(10));
        bytes.extend([7, 7]);
        bytes.extend(two(entries.len() as u16));
        for &(tag, kind, count, value) in entries {
            bytes.extend([two(tag), two(kind)].concat());
            bytes.extend(four(count));
            bytes.extend([two(value), [0, 0]].concat());
        }
        bytes
    }

    /// Turns a picture of six pixels by what `exif` says, here and by the `image` crate.
    fn assert_as_reference(exif: &[u8], what: &str) {
        let ours = Orientation::of_exif(exif);
        let theirs = Reference::from_exif_chunk(exif);
        assert_eq!(ours.is_some(), theirs.is_some(), "{what}: {ours:?}, {theirs:?}");
        let (Some(ours), Some(theirs)) = (ours, theirs) else { return };
        let samples: Vec<u8> = (0..6).collect();
        let mut reference: image::DynamicImage =
            image::GrayImage::from_raw(3, 2, samples.clone()).unwrap().into();
        reference.apply_orientation(theirs);
        let upright = Raster { width: 3, height: 2, channels: 1, samples }.upright(ours);
        assert_eq!(
            (upright.width, upright.height),
            (reference.width() as usize, reference.height() as usize)
        );
        assert_eq!(upright.samples, reference.as_bytes(), "{what}: {theirs:?}");
    }

    #[test]
    fn all_values_in_both_byte_orders() {
        for is_big_endian in [false, true] {
            for value in (0..=10).chain([255, 256, 262, u16::MAX]) {
                let other = (0x10f, 2, 20, 99);
                let bytes = exif(is_big_endian, &[other, (0x112, 3, 1, value), (0x112, 3, 1, 1)]);
                assert_eq!(Orientation::of_exif(&bytes).is_some(), (1..=8).contains(&value), "{value}");
                assert_as_reference(&bytes, &format!("value {value}"));
                for end in 0..bytes.len() {
                    assert_as_reference(&bytes[..end], &format!("value {value}, cut at {end}"));
                }
            }
            for entry in [(0x112, 4, 1, 6), (0x112, 3, 2, 6), (0x113, 3, 1, 6)] {
                let bytes = exif(is_big_endian, &[entry]);
                assert_eq!(Orientation::of_exif(&bytes), None);
                assert_as_reference(&bytes, &format!("{entry:?}"));
            }
        }
    }

    #[test]
    fn any_bytes_end_in_the_answer_of_the_reference() {
        let good = [false, true].map(|is_big_endian| exif(is_big_endian, &[(1, 3, 1, 4), (0x112, 3, 1, 6)]));
        for seed in 0..4000 {
            let mut bytes = good[seed as usize % 2].clone();
            for change in 0..1 + seed % 3 {
                let [place, value, ..] = crate::rng::pcg4d([seed, change, 0, 0]);
                let place = place as usize % bytes.len();
                bytes[place] = value as u8;
            }
            assert_as_reference(&bytes, &format!("{bytes:?}"));
        }
    }
}
