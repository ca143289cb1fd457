//! Encoded items of all types, to be put where another is expected.

use crate::support::generator::cbor::{write_bytes, write_head, write_link, write_text};
use crate::support::generator::{Cid, Random};

/// An item of any type.
pub fn other_item(random: &mut Random) -> (&'static str, Vec<u8>) {
    let mut item = Vec::new();
    let name = match random.below(9) {
        0 => {
            item.push([0xf4, 0xf5, 0xf6, 0xf7, 0xe0, 0xff][random.below(6) as usize]);
            "items: a simple value instead"
        }
        1 => {
            let value = random.bits() >> random.below(64);
            write_head(&mut item, random.below(2) as u8, value);
            "items: a number instead"
        }
        2 => {
            write_head(
                &mut item,
                random.below(2) as u8,
                [u64::MAX, 1 << 63, 0][random.below(3) as usize],
            );
            "items: a number at the edge instead"
        }
        3 => {
            let floats: [&[u8]; 10] = [
                b"\xf9\x3c\x00",
                b"\xf9\x7c\x00",
                b"\xf9\x7e\x00",
                b"\xf9\x00\x01",
                b"\xfa\x47\xc3\x50\x00",
                b"\xfa\x7f\x80\x00\x00",
                b"\xfb\x3f\xb9\x99\x99\x99\x99\x99\x9a",
                b"\xfb\x7f\xf0\x00\x00\x00\x00\x00\x00",
                b"\xfb\x80\x00\x00\x00\x00\x00\x00\x00",
                b"\xfb\x44\x4b\x1a\xe4\xd6\xe2\xef\x50",
            ];
            item.extend_from_slice(floats[random.below(10) as usize]);
            "items: a float instead"
        }
        4 => {
            write_text(
                &mut item,
                random.pick(&["", "app.bsky.feed.post/3k", "\u{0}\"\\🦋", "self"]),
            );
            "items: a text instead"
        }
        5 => {
            write_bytes(
                &mut item,
                &random.bits().to_be_bytes()[..random.below(9) as usize],
            );
            "items: bytes instead"
        }
        6 => {
            item.push([0x80, 0xa0][random.below(2) as usize]);
            "items: an empty list or map instead"
        }
        7 => {
            let bytes = random.bits().to_be_bytes();
            let cid = if random.chance(50) {
                Cid::raw(&bytes)
            } else {
                Cid::dag_cbor(&bytes)
            };
            write_link(&mut item, &cid);
            "items: a link instead"
        }
        _ => {
            let digest = random_digest(random);
            item = damaged_link(random, &digest);
            "items: a damaged link instead"
        }
    };
    (name, item)
}

pub fn random_digest(random: &mut Random) -> [u8; 32] {
    Cid::dag_cbor(&random.bits().to_be_bytes()).digest
}

/// Tag 42 over what is no CID of a block, but for the digest.
pub fn damaged_link(random: &mut Random, digest: &[u8; 32]) -> Vec<u8> {
    let v0 = [&[0, 0x12, 0x20][..], digest].concat();
    let mut bytes = [&[0, 1, 0x71, 0x12, 0x20][..], digest].concat();
    match random.below(8) {
        0 => bytes = v0,
        1 => bytes[0] = 1,
        2 => bytes[2] = [0x55, 0x70, 0x80, 0][random.below(4) as usize],
        3 => bytes[3] = [0x13, 0x1e, 0, 0xff][random.below(4) as usize],
        4 => bytes[4] = [0, 31, 33, 0xff][random.below(4) as usize],
        5 => bytes.truncate(random.below(37) as usize),
        6 => bytes.push(0),
        _ => bytes[1] = [0, 2, 3][random.below(3) as usize],
    }
    let mut link = Vec::new();
    write_head(&mut link, 6, 42);
    write_bytes(&mut link, &bytes);
    link
}
