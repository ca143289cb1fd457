//! Damage to any bytes, whatever they mean.

use crate::support::generator::Random;

/// Values at which something changes in CBOR, varints, CIDs or text.
const MARKS: &[u8] = &[
    0x00, 0x01, 0x12, 0x17, 0x18, 0x1b, 0x1f, 0x20, 0x2a, 0x40, 0x55, 0x58, 0x5f, 0x60, 0x71, 0x7f,
    0x80, 0x9f, 0xa0, 0xbf, 0xd8, 0xf6, 0xf9, 0xfb, 0xff,
];

/// Changes the bytes in one place; returns what was done to them.
pub fn damage(random: &mut Random, bytes: &mut Vec<u8>) -> &'static str {
    if bytes.is_empty() {
        bytes.push(random.bits() as u8);
        return "bytes: inserted";
    }
    let at = place(random, bytes);
    let end = bytes.len().min(at + length(random));
    match random.below(9) {
        0 | 1 => {
            bytes[at] ^= 1 << random.below(8);
            "bytes: a bit flipped"
        }
        2 => {
            bytes[at] = MARKS[random.below(MARKS.len() as u64) as usize];
            "bytes: one set"
        }
        3 => {
            bytes[at..end]
                .iter_mut()
                .for_each(|byte| *byte = random.bits() as u8);
            "bytes: overwritten"
        }
        4 => {
            bytes.drain(at..end);
            "bytes: removed"
        }
        5 => {
            let new: Vec<u8> = (at..end).map(|_| random.bits() as u8).collect();
            bytes.splice(at..at, new);
            "bytes: inserted"
        }
        6 => {
            let copy = bytes[at..end].to_vec();
            let to = place(random, bytes);
            bytes.splice(to..to, copy);
            "bytes: duplicated"
        }
        7 => {
            let other = place(random, bytes);
            let count = length(random).min(bytes.len() - at.max(other));
            (0..count).for_each(|i| bytes.swap(at + i, other + i));
            "bytes: swapped"
        }
        _ => {
            bytes.truncate(at);
            "bytes: cut off"
        }
    }
}

fn place(random: &mut Random, bytes: &[u8]) -> usize {
    random.below(bytes.len() as u64) as usize
}

/// Mostly short.
fn length(random: &mut Random) -> usize {
    let longest = [2, 9, 40, 700][random.below(4) as usize];
    1 + random.below(longest) as usize
}
