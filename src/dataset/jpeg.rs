//! Is a JPEG whole? Decoders paint grey over what is missing, as a browser should, and a network would learn the grey.
//!
//! This walks through the Huffman codes of every scan without decoding a pixel: each block that the header promises must
//! be there, and nothing else but padding.

mod huffman;

use huffman::{Band, Bits, Table};

/// Blocks of 8x8 coefficients, in zigzag order.
const COEFFICIENTS: usize = 64;
/// A coefficient that no scan has brought yet.
const MISSING: u8 = u8::MAX;
const MAX_SIDE: usize = 8192;
const MAX_COMPONENTS: u8 = 4;
/// Every usual encoder makes about ten.
const MAX_SCANS: usize = 100;
const CUT: &str = "damaged JPEG: it ends early, so part of the picture is missing";
const CORRUPT: &str = "damaged JPEG: its compressed data are corrupt";
/// Of what no decoder at hand reads though it may be whole.
pub(super) const RARE: &str = "this rare kind of JPEG is not supported; convert it, for example with ImageMagick's `convert FILE NEW.png`";

type Checked<T = ()> = Result<T, &'static str>;

/// Fails if a baseline or progressive JPEG was cut off or has corrupt scans. What follows its end
/// marker does not matter: phones store more there.
pub(super) fn check(bytes: &[u8]) -> Checked {
    let mut jpeg = Jpeg::default();
    let mut at = 2;
    let mut scans = 0;
    loop {
        let (marker, start) = next_marker(bytes, at)?;
        at = start;
        match marker {
            0x01 | 0xd0..=0xd8 => continue,
            0xd9 => return jpeg.check_complete(),
            _ => {}
        }
        let length = bytes.get(at..at + 2).ok_or(CUT)?;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let segment = bytes.get(at + 2..at + length.max(2)).ok_or(CUT)?;
        at += length.max(2);
        match marker {
            0xc4 => jpeg.read_tables(segment)?,
            0xc0..=0xc2 => jpeg.read_frame(segment, marker == 0xc2)?,
            0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                // Lossless, hierarchical or arithmetic coding.
                return Err(RARE);
            }
            0xdd => jpeg.interval = usize::from(u16_at(segment, 0)?),
            0xda => {
                scans += 1;
                if scans > MAX_SCANS {
                    return Err(CORRUPT);
                }
                at = jpeg.read_scan(segment, bytes, at)?;
            }
            _ => {}
        }
    }
}

/// The next marker, and where it ends.
fn next_marker(bytes: &[u8], mut at: usize) -> Checked<(u8, usize)> {
    loop {
        match bytes.get(at..at + 2).ok_or(CUT)? {
            [0xff, 0x00] | [0..=0xfe, _] | [0xff, 0xff] => at += 1,
            &[_, marker] => return Ok((marker, at + 2)),
            _ => return Err(CUT),
        }
    }
}

fn byte_at(segment: &[u8], at: usize) -> Checked<u8> {
    segment.get(at).copied().ok_or(CORRUPT)
}

fn u16_at(segment: &[u8], at: usize) -> Checked<u16> {
    Ok(u16::from_be_bytes([byte_at(segment, at)?, byte_at(segment, at + 1)?]))
}

#[derive(Default)]
struct Jpeg {
    tables: [[Option<Table>; 4]; 2],
    progressive: bool,
    width: usize,
    height: usize,
    components: Vec<Component>,
    /// MCUs between two restart markers; 0: there are none.
    interval: usize,
}

struct Component {
    id: u8,
    /// Blocks of an MCU, across and down.
    sampling: [usize; 2],
    /// Blocks in a row, with those that fill up the last MCU.
    stride: usize,
    /// For each block which coefficients are not 0, as refining scans want to know.
    nonzero: Vec<u64>,
    /// For each coefficient how many of its lowest bits no scan has brought yet.
    missing_bits: [u8; COEFFICIENTS],
}

impl Jpeg {
    fn read_tables(&mut self, mut segment: &[u8]) -> Checked {
        while let Some((&kind, rest)) = segment.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or(CORRUPT)?;
            let count = counts.iter().map(|&count| usize::from(count)).sum();
            let (values, rest) = rest.split_at_checked(count).ok_or(CORRUPT)?;
            let place = self.tables.get_mut(usize::from(kind >> 4));
            let place = place.and_then(|tables| tables.get_mut(usize::from(kind & 15))).ok_or(CORRUPT)?;
            *place = Some(Table::new(counts, values)?);
            segment = rest;
        }
        Ok(())
    }

    fn read_frame(&mut self, segment: &[u8], progressive: bool) -> Checked {
        if !self.components.is_empty() {
            return Err(CORRUPT);
        }
        self.progressive = progressive;
        self.height = usize::from(u16_at(segment, 1)?);
        self.width = usize::from(u16_at(segment, 3)?);
        let components = byte_at(segment, 5)?;
        if [self.width, self.height].iter().any(|side| !(1..=MAX_SIDE).contains(side))
            || components > MAX_COMPONENTS
        {
            return Err(CORRUPT);
        }
        for component in 0..usize::from(components) {
            let sampling = byte_at(segment, 7 + 3 * component)?;
            let sampling = [usize::from(sampling >> 4), usize::from(sampling & 15)];
            if sampling.iter().any(|side| !(1..=4).contains(side)) {
                return Err(CORRUPT);
            }
            self.components.push(Component {
                id: byte_at(segment, 6 + 3 * component)?,
                sampling,
                stride: 0,
                nonzero: Vec::new(),
                missing_bits: [MISSING; COEFFICIENTS],
            });
        }
        let [across, down] = self.mcus();
        for component in &mut self.components {
            component.stride = across * component.sampling[0];
            if progressive {
                component.nonzero = vec![0; component.stride * down * component.sampling[1]];
            }
        }
        Ok(())
    }

    fn most_sampled(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.components.iter().map(|c| c.sampling[axis]).max().unwrap_or(1))
    }

    /// MCUs of an interleaved scan, across and down.
    fn mcus(&self) -> [usize; 2] {
        let most = self.most_sampled();
        [self.width.div_ceil(8 * most[0]), self.height.div_ceil(8 * most[1])]
    }

    /// Walks through a scan whose header is `segment`; returns where it ends.
    fn read_scan(&mut self, segment: &[u8], bytes: &[u8], at: usize) -> Checked<usize> {
        let count = usize::from(byte_at(segment, 0)?);
        let mut members = Vec::new();
        for member in 0..count {
            let id = byte_at(segment, 1 + 2 * member)?;
            let tables = byte_at(segment, 2 + 2 * member)?;
            let index = self.components.iter().position(|component| component.id == id).ok_or(CORRUPT)?;
            members.push((index, [usize::from(tables >> 4), usize::from(tables & 15)]));
        }
        let refinement = byte_at(segment, 3 + 2 * count)?;
        let band = match self.progressive {
            false => Band { first: 0, last: COEFFICIENTS - 1, refines: false },
            true => Band {
                first: usize::from(byte_at(segment, 1 + 2 * count)?),
                last: usize::from(byte_at(segment, 2 + 2 * count)?),
                refines: refinement >> 4 != 0,
            },
        };
        if members.is_empty() || band.first > band.last || band.last >= COEFFICIENTS {
            return Err(CORRUPT);
        }
        // A scan of one component has only its own blocks, without those that fill up an MCU.
        let most = self.most_sampled();
        let [across, down] = match &members[..] {
            &[(index, _)] => {
                let [x, y] = self.components[index].sampling;
                [(self.width * x).div_ceil(8 * most[0]), (self.height * y).div_ceil(8 * most[1])]
            }
            _ => self.mcus(),
        };
        let mut bits = Bits::new(bytes, at);
        let mut run = 0;
        for mcu in 0..across * down {
            if self.interval > 0 && mcu > 0 && mcu % self.interval == 0 {
                let (marker, end) = next_marker(bytes, bits.finish()?)?;
                if usize::from(marker) != 0xd0 + (mcu / self.interval - 1) % 8 {
                    return Err(CORRUPT);
                }
                (bits, run) = (Bits::new(bytes, end), 0);
            }
            for &(index, tables) in &members {
                let component = &mut self.components[index];
                let [x, y] = if members.len() == 1 { [1, 1] } else { component.sampling };
                let corner = mcu / across * y * component.stride + mcu % across * x;
                let [dc, ac] =
                    [0, 1].map(|kind| self.tables[kind].get(tables[kind]).and_then(Option::as_ref));
                for block in 0..x * y {
                    if !self.progressive {
                        bits.baseline_block(dc.ok_or(CORRUPT)?, ac.ok_or(CORRUPT)?)?;
                    } else if band.first == 0 {
                        let size = if band.refines { 1 } else { bits.symbol(dc.ok_or(CORRUPT)?)? };
                        bits.skip(size.into())?;
                    } else {
                        let place = corner + block / x * component.stride + block % x;
                        let nonzero = component.nonzero.get_mut(place).ok_or(CORRUPT)?;
                        bits.progressive_block(ac.ok_or(CORRUPT)?, band, &mut run, nonzero)?;
                    }
                }
            }
        }
        let last = if self.progressive && band.first == 0 { 0 } else { band.last };
        let missing = if self.progressive { refinement & 15 } else { 0 };
        for (index, _) in members {
            self.components[index].missing_bits[band.first..=last].fill(missing);
        }
        bits.finish()
    }

    fn check_complete(&self) -> Checked {
        let whole = |component: &Component| component.missing_bits.iter().all(|&bits| bits == 0);
        if self.components.is_empty() || !self.components.iter().all(whole) { Err(CUT) } else { Ok(()) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use base64::Engine;
    use image::{ImageFormat, Rgb, RgbImage};

    use super::*;

    /// 24x20 pixels in colour, progressive, with colours at half the resolution: ten scans.
    const PROGRESSIVE: &str = "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDACAWGBwYFCAcGhwkIiAmMFA0MCwsMGJGSjpQdGZ6eHJmcG6AkLicgIiuim5woNqirr7EztDO\
        fJri8uDI8LjKzsb/2wBDASIkJDAqMF40NF7GhHCExsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbG\
        xsb/wgARCAAUABgDASIAAhEBAxEB/8QAFwABAQEBAAAAAAAAAAAAAAAAAAIBA//EABgBAAIDAAAAAAAAAAAAAAAAAAEDAAIE/9oADAMB\
        AAIQAxAAAAHhmTd1MASNaKEH/8QAFBABAAAAAAAAAAAAAAAAAAAAMP/aAAgBAQABBQIf/8QAFhEBAQEAAAAAAAAAAAAAAAAAEgAQ/9oA\
        CAEDAQE/AXPf/8QAFhEBAQEAAAAAAAAAAAAAAAAAEwAQ/9oACAECAQE/ATj3/8QAFBABAAAAAAAAAAAAAAAAAAAAMP/aAAgBAQAGPwIf\
        /8QAGBABAAMBAAAAAAAAAAAAAAAAAAEQEUH/2gAIAQEAAT8hTWtvqX//2gAMAwEAAgADAAAAENM/gv/EABcRAQEBAQAAAAAAAAAAAAAA\
        AAEAEWH/2gAIAQMBAT8QckdzF//EABgRAAIDAAAAAAAAAAAAAAAAAAABEBFh/9oACAECAQE/EGdRR//EABsQAQACAwEBAAAAAAAAAAAA\
        AAEAIRExQWGR/9oACAEBAAE/EMi1Fk3cFO6lNPyLfJlNzLcLE7n/2Q==";

    pub(in super::super) fn progressive() -> Vec<u8> {
        base64::prelude::BASE64_STANDARD.decode(PROGRESSIVE).unwrap()
    }

    fn baseline() -> Vec<u8> {
        let picture = RgbImage::from_fn(61, 43, |x, y| Rgb([(x * y) as u8, (x * 40) as u8, (y * 31) as u8]));
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
        bytes.into_inner()
    }

    /// Grey blocks with a restart marker behind each: a difference of 0 is 00, the end of a block 1010 in the usual codes.
    fn restarting() -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::GrayImage::new(80, 8).write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
        let mut bytes = bytes.into_inner();
        let scan = bytes.windows(2).position(|marker| marker == [0xff, 0xda]).unwrap();
        let header = bytes[scan..scan + 10].to_vec();
        bytes.truncate(scan);
        bytes.extend([0xff, 0xdd, 0, 4, 0, 1]);
        bytes.extend(header);
        for block in 0..10 {
            bytes.extend([0b0010_1011, 0xff, if block == 9 { 0xd9 } else { 0xd0 + block % 8 }]);
        }
        bytes
    }

    #[test]
    fn whole_pictures_pass_whatever_follows_them() {
        for bytes in [baseline(), progressive(), restarting()] {
            assert_eq!(check(&bytes), Ok(()));
            assert!(image::load_from_memory(&bytes).is_ok());
            // A phone's second picture, and padding before the end marker.
            assert_eq!(check(&[&bytes[..], &bytes[..99]].concat()), Ok(()));
            let (rest, end) = bytes.split_at(bytes.len() - 2);
            assert_eq!(check(&[rest, &[0, 0, 0xff, 0xff], end].concat()), Ok(()));
        }
    }

    #[test]
    fn a_cut_anywhere_is_found() {
        for bytes in [baseline(), progressive(), restarting()] {
            for end in 2..bytes.len() {
                assert!(check(&bytes[..end]).is_err(), "cut at {end} of {}", bytes.len());
            }
            // The picture of a program that closes what it could not read.
            let scan = bytes.windows(2).position(|marker| marker == [0xff, 0xda]).unwrap();
            for end in scan + 14..bytes.len() - 3 {
                let closed = [&bytes[..end], &[0xff, 0xd9]].concat();
                assert!(check(&closed).is_err(), "closed at {end} of {}", bytes.len());
            }
        }
    }

    #[test]
    fn what_is_missing_or_too_much_inside_is_found() {
        let bytes = restarting();
        let marker = bytes.windows(2).position(|marker| marker == [0xff, 0xd3]).unwrap();
        assert!(check(&[&bytes[..marker - 1], &bytes[marker + 2..]].concat()).is_err());
        let bytes = baseline();
        let more = [&bytes[..bytes.len() - 2], &[0x5a; 9], &[0xff, 0xd9]].concat();
        assert_eq!(check(&more), Err(CORRUPT));
    }

    #[test]
    fn any_bytes_end_in_an_answer() {
        let good = [baseline(), progressive(), restarting()];
        for seed in 0..6000 {
            let mut bytes = good[seed as usize % 3].clone();
            for change in 0..1 + seed % 4 {
                let [place, value, ..] = crate::rng::pcg4d([seed, change, 0, 0]);
                let place = 2 + place as usize % (bytes.len() - 2);
                bytes[place] = value as u8;
            }
            // Neither panics nor runs for long; most are refused.
            let _ = check(&bytes);
        }
    }
}
