//! Damage to the CBOR of a block: types, heads, counts, fields.
//!
//! Works on the encoded bytes, so that what no encoder would write can be written as well.

use std::ops::Range;

use super::values::{damaged_link, other_item, random_digest};
use crate::support::generator::Random;
use crate::support::generator::cbor::{write_head, write_text};

/// Bytes of a link to a block: tag, head, zero byte, CID.
const LINK: usize = 41;

/// An item of a block: its head, then what belongs to it.
#[derive(Clone, Debug)]
struct Span {
    start: usize,
    /// Behind the head.
    body: usize,
    end: usize,
    major: u8,
    argument: u64,
}

impl Span {
    fn all(&self) -> Range<usize> {
        self.start..self.end
    }
}

/// Changes an item of the block; returns what was done. A block that is no CBOR stays as it is.
pub fn damage(random: &mut Random, block: &mut Vec<u8>) -> &'static str {
    let mut spans = Vec::new();
    if scan(block, 0, &mut spans).is_none() {
        return "items: none";
    }
    let span = pick(random, &spans).clone();
    match random.below(12) {
        0..=2 => {
            let (name, item) = other_item(random);
            block.splice(span.all(), item);
            name
        }
        3 => {
            let head = if random.chance(70) {
                longer_head(random, &span)
            } else {
                vec![span.major << 5 | 31]
            };
            block.splice(span.start..span.body, head);
            "items: another head of the same item"
        }
        4 => {
            let argument = match random.below(4) {
                0 => span.argument.wrapping_add(1),
                1 => span.argument.wrapping_sub(1),
                2 => 1 << random.below(64),
                _ => random.below(30),
            };
            let mut head = Vec::new();
            write_head(&mut head, span.major, argument);
            block.splice(span.start..span.body, head);
            "items: another length or number"
        }
        5 => {
            let mut head = Vec::new();
            match random.below(3) {
                0 => write_head(&mut head, 4, 1),
                1 => head.extend_from_slice(b"\xa1\x61a"),
                _ => write_head(&mut head, 6, [1, 42, 43, 1 << 32][random.below(4) as usize]),
            }
            block.splice(span.start..span.start, head);
            "items: wrapped into a list, a map or a tag"
        }
        6 => {
            let depth = [126, 127, 128, 129, 1000][random.below(5) as usize];
            let mut item = if random.chance(50) {
                vec![0x81; depth]
            } else {
                b"\xa1\x61a".repeat(depth)
            };
            item.push(0xf6);
            block.splice(span.all(), item);
            "items: nested deep"
        }
        7 => {
            let links = spans
                .iter()
                .filter(|span| span.major == 6 && span.end == span.start + LINK);
            let links: Vec<_> = links.cloned().collect();
            let (span, digest) = match links.len() {
                0 => (span, random_digest(random)),
                _ => {
                    let link = pick(random, &links).clone();
                    let digest = block[link.end - 32..link.end].try_into();
                    (link, digest.expect("32 bytes"))
                }
            };
            block.splice(span.all(), damaged_link(random, &digest));
            "items: a link damaged"
        }
        8 => {
            let texts: Vec<_> = spans
                .iter()
                .filter(|span| span.major == 3 && span.end > span.body)
                .cloned()
                .collect();
            if let Some(last) = texts.len().checked_sub(1) {
                let text = &texts[random.below(last as u64 + 1) as usize];
                let at = text.body + random.below((text.end - text.body) as u64) as usize;
                block[at] = [0x00, 0x1f, b'"', b'\\', 0x7f, 0x80, 0xc0, 0xed, 0xff]
                    [random.below(9) as usize];
            }
            "items: a text damaged"
        }
        _ => fields(random, block, &spans),
    }
}

/// Changes the fields of a map, or the items of a list.
fn fields(random: &mut Random, block: &mut Vec<u8>, spans: &[Span]) -> &'static str {
    let containers = spans
        .iter()
        .filter(|span| matches!(span.major, 4 | 5) && span.argument > 0);
    let containers: Vec<_> = containers.cloned().collect();
    if containers.is_empty() {
        return "items: none";
    }
    let container = pick(random, &containers);
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let mut at = container.body;
    for _ in 0..container.argument {
        let start = at;
        for _ in 0..=usize::from(container.major == 5) {
            at = scan(block, at, &mut Vec::new()).expect("it was scanned before");
        }
        parts.push(block[start..at].to_vec());
    }
    let count = parts.len() as u64;
    let one = random.below(count) as usize;
    let name = match random.below(5) {
        0 => {
            let copy = parts[one].clone();
            parts.insert(random.below(count + 1) as usize, copy);
            "items: a field twice"
        }
        1 => {
            parts.swap(one, random.below(count) as usize);
            "items: fields swapped"
        }
        2 => {
            parts.remove(one);
            "items: a field removed"
        }
        3 => {
            let mut field = Vec::new();
            if container.major == 5 {
                write_text(&mut field, &"z".repeat(1 + random.below(20) as usize));
            }
            field.extend(other_item(random).1);
            let place = if random.chance(60) {
                count
            } else {
                random.below(count + 1)
            };
            parts.insert(place as usize, field);
            "items: a field added"
        }
        _ => {
            random.shuffle(&mut parts);
            "items: fields shuffled"
        }
    };
    let mut head = Vec::new();
    write_head(&mut head, container.major, parts.len() as u64);
    head.extend(parts.concat());
    block.splice(container.all(), head);
    name
}

/// Lists the item at this place and all within it; where it ends. `None`: this is no CBOR that an encoder writes.
fn scan(block: &[u8], start: usize, spans: &mut Vec<Span>) -> Option<usize> {
    let first = *block.get(start)?;
    let width = match first & 31 {
        0..24 => 0,
        low @ 24..28 => 1 << (low - 24),
        _ => return None,
    };
    let body = start + 1 + width;
    let bytes = block.get(start + 1..body)?.iter();
    let argument = match width {
        0 => u64::from(first & 31),
        _ => bytes.fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    };
    let major = first >> 5;
    let place = spans.len();
    spans.push(Span {
        start,
        body,
        end: body,
        major,
        argument,
    });
    let within = match major {
        4 => argument,
        5 => argument.checked_mul(2)?,
        6 => 1,
        _ => 0,
    };
    let mut end = body;
    if matches!(major, 2 | 3) {
        end = body.checked_add(usize::try_from(argument).ok()?)?;
    }
    for _ in 0..within {
        end = scan(block, end, spans)?;
    }
    spans[place].end = end;
    (end <= block.len()).then_some(end)
}

/// The same number in more bytes than it needs.
fn longer_head(random: &mut Random, span: &Span) -> Vec<u8> {
    let width = 24 + random.below(4) as u8;
    let bytes = span.argument.to_be_bytes();
    let mut head = vec![span.major << 5 | width];
    head.extend_from_slice(&bytes[8 - (1 << (width - 24))..]);
    head
}

fn pick<'a, T>(random: &mut Random, list: &'a [T]) -> &'a T {
    &list[random.below(list.len() as u64) as usize]
}
