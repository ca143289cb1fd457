//! Gzip by hand (RFC 1951, RFC 1952): a few kilobytes that become megabytes.

use super::super::generator::Cid;
use super::super::generator::car::frame;

/// The head of a member without any optional field.
pub const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// An empty block that is not the last: five bytes that become none.
pub const NOTHING: [u8; 5] = [0, 0, 0, 0xff, 0xff];

/// How often the longest match, of 258 bytes, stands in a block of zeros.
const MATCHES: usize = 1000;
/// Bytes of such a block: the zero that is repeated, and the repetitions.
pub const ZEROS: usize = 1 + 258 * MATCHES;

/// Content that is stored as it is, in blocks that are not the last.
pub fn stored(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for block in content.chunks(u16::MAX.into()) {
        let length = block.len() as u16;
        out.push(0);
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(block);
    }
    out
}

/// [`ZEROS`] zeros in 1.6 KiB.
pub fn zeros() -> Vec<u8> {
    let mut out = stored(&[0]);
    let mut bits = Bits::default();
    // Not the last block; fixed codes.
    bits.number(0b0, 1);
    bits.number(0b01, 2);
    for _ in 0..MATCHES {
        // Length 258, which has no further bits, and distance 1.
        bits.code(0b1100_0101, 8);
        bits.code(0b00000, 5);
    }
    // The end of the block.
    bits.code(0b000_0000, 7);
    // An empty one behind it, so that the next begins with a byte.
    bits.number(0b000, 3);
    out.extend(bits.bytes);
    out.extend(&NOTHING[1..]);
    out
}

/// The frame of a block of zeros, which no tree names: plain and compressed.
pub fn zero_frame() -> (Vec<u8>, Vec<u8>) {
    let content = vec![0; ZEROS];
    let plain = frame(&[&Cid::raw(&content).bytes()[..], &content].concat());
    let start = plain.len() - content.len();
    (plain.clone(), [stored(&plain[..start]), zeros()].concat())
}

/// The last block and the trailer, for this content.
pub fn end(content: &[u8]) -> Vec<u8> {
    let shift = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
    let add = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| shift(crc));
    let crc = !content.iter().fold(u32::MAX, add);
    let mut out = vec![1, 0, 0, 0xff, 0xff];
    out.extend(crc.to_le_bytes());
    out.extend((content.len() as u32).to_le_bytes());
    out
}

/// Bits, from the lowest of each byte on.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    /// How many there are; the last byte is filled up with zeros.
    count: usize,
}

impl Bits {
    fn push(&mut self, bit: u32) {
        if self.count.is_multiple_of(8) {
            self.bytes.push(0);
        }
        *self.bytes.last_mut().expect("a byte") |= ((bit & 1) as u8) << (self.count % 8);
        self.count += 1;
    }

    /// A number, lowest bit first.
    fn number(&mut self, value: u32, width: u32) {
        (0..width).for_each(|bit| self.push(value >> bit));
    }

    /// A Huffman code, highest bit first.
    fn code(&mut self, value: u32, width: u32) {
        (0..width).rev().for_each(|bit| self.push(value >> bit));
    }
}
