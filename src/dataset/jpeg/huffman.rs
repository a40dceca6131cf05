//! The Huffman codes of a scan, read for their lengths only.

use super::{COEFFICIENTS, CORRUPT, CUT, Checked};

/// The coefficients and bits of a scan.
#[derive(Clone, Copy)]
pub(super) struct Band {
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) refines: bool,
}

/// A Huffman code.
pub(super) struct Table {
    /// For each 8 bits that start with a code: its length << 8 | its symbol; 0 if the code is longer.
    short: [u16; 256],
    /// For each length the end of its codes, as 16 bits.
    ends: [u32; 17],
    /// For each length what turns a code into the place of its symbol.
    offsets: [i32; 17],
    symbols: Vec<u8>,
}

impl Table {
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Checked<Self> {
        let mut table =
            Self { short: [0; 256], ends: [0; 17], offsets: [0; 17], symbols: symbols.to_owned() };
        let (mut code, mut place) = (0, 0);
        for length in 1..=16 {
            table.offsets[length] = place as i32 - code as i32;
            for _ in 0..counts[length - 1] {
                if code >> length != 0 {
                    return Err(CORRUPT);
                }
                if length <= 8 {
                    let first = code << (8 - length);
                    table.short[first..first + (1 << (8 - length))]
                        .fill((length as u16) << 8 | u16::from(symbols[place]));
                }
                code += 1;
                place += 1;
            }
            table.ends[length] = (code << (16 - length)) as u32;
            code <<= 1;
        }
        Ok(table)
    }
}

/// The bits of a scan up to the next marker.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    buffer: u64,
    count: u32,
    /// The last of them, that stand for what is behind the end.
    invented: u32,
}

impl<'a> Bits<'a> {
    /// The bits that start with the byte `at`.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, buffer: 0, count: 0, invented: 0 }
    }

    fn fill(&mut self) {
        // The quick way, as long as there is no marker and no stuffing.
        if let Some(&[a, b, c, d]) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<4>)
            && self.count <= 32
            && ![a, b, c, d].contains(&0xff)
        {
            self.buffer = self.buffer << 32 | u64::from(u32::from_be_bytes([a, b, c, d]));
            self.count += 32;
            self.at += 4;
        }
        while self.count <= 32 {
            let byte = match self.bytes.get(self.at..self.at + 2) {
                Some([0xff, 0]) => {
                    self.at += 2;
                    0xff
                }
                Some(&[byte @ 0..=0xfe, _]) => {
                    self.at += 1;
                    byte
                }
                _ => {
                    self.invented += 8;
                    0
                }
            };
            self.buffer = self.buffer << 8 | u64::from(byte);
            self.count += 8;
        }
    }

    #[inline]
    fn next(&mut self, count: u32) -> u32 {
        if self.count < count {
            self.fill();
        }
        (self.buffer >> (self.count - count)) as u32 & ((1 << count) - 1)
    }

    #[inline]
    pub(super) fn skip(&mut self, count: u32) -> Checked<u32> {
        if count > 16 {
            return Err(CORRUPT);
        }
        let value = self.next(count);
        self.count -= count;
        if self.count < self.invented { Err(CUT) } else { Ok(value) }
    }

    #[inline]
    pub(super) fn symbol(&mut self, table: &Table) -> Checked<u8> {
        let next = self.next(16);
        let short = table.short[next as usize >> 8];
        if short != 0 {
            self.skip(u32::from(short >> 8))?;
            return Ok(short as u8);
        }
        let Some(length) = (9..=16).find(|&length| next < table.ends[length]) else {
            // Where bits are missing, any code may seem wrong.
            return Err(if self.invented > 0 { CUT } else { CORRUPT });
        };
        self.skip(length as u32)?;
        let place = (next >> (16 - length)) as i32 + table.offsets[length];
        table.symbols.get(place as usize).copied().ok_or(CORRUPT)
    }

    pub(super) fn baseline_block(&mut self, dc: &Table, ac: &Table) -> Checked {
        let size = self.symbol(dc)?;
        self.skip(size.into())?;
        let mut at = 1;
        while at < COEFFICIENTS {
            let symbol = self.symbol(ac)?;
            match (usize::from(symbol >> 4), symbol & 15) {
                (15, 0) => at += 16,
                (_, 0) => break,
                (zeros, size) => {
                    at += zeros + 1;
                    self.skip(size.into())?;
                }
            }
        }
        if at > COEFFICIENTS { Err(CORRUPT) } else { Ok(()) }
    }

    /// A block of a scan without constant terms; `run` counts blocks that have no further coefficients.
    pub(super) fn progressive_block(
        &mut self,
        ac: &Table,
        band: Band,
        run: &mut u32,
        nonzero: &mut u64,
    ) -> Checked {
        let mut at = band.first;
        while *run == 0 && at <= band.last {
            let symbol = self.symbol(ac)?;
            let (mut zeros, size) = (symbol >> 4, symbol & 15);
            if size == 0 && zeros < 15 {
                *run = (1 << zeros) + self.skip(zeros.into())?;
                break;
            }
            self.skip(size.into())?;
            if band.refines {
                while at <= band.last {
                    if *nonzero >> at & 1 == 1 {
                        self.skip(1)?;
                    } else if zeros == 0 {
                        break;
                    } else {
                        zeros -= 1;
                    }
                    at += 1;
                }
            } else {
                at += usize::from(zeros);
            }
            if size > 0 {
                if at > band.last {
                    return Err(CORRUPT);
                }
                *nonzero |= 1 << at;
            }
            at += 1;
        }
        if *run > 0 {
            *run -= 1;
            if band.refines {
                let rest = (at..=band.last).filter(|&at| *nonzero >> at & 1 == 1).count();
                for _ in 0..rest {
                    self.skip(1)?;
                }
            }
        }
        Ok(())
    }

    /// Where the bits end, if nothing but padding is left of them.
    pub(super) fn finish(mut self) -> Checked<usize> {
        let real = (self.count - self.invented) / 8;
        let rest = (0..real).map(|place| (self.buffer >> (self.invented + 8 * place)) as u8);
        let mut padding = rest.into_iter().all(|byte| [0, 0xff].contains(&byte));
        while let Some([0..=0xfe, _] | [0xff, 0]) = self.bytes.get(self.at..self.at + 2) {
            padding &= [0, 0xff].contains(&self.bytes[self.at]);
            self.at += 1;
        }
        if padding { Ok(self.at) } else { Err(CORRUPT) }
    }
}
