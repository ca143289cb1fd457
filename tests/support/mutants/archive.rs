//! Damage to an archive, none of which changes what is signed: frames, CIDs, lengths, the header.

use super::bytes;
use crate::support::generator::{Block, Cid, Random, Value, car};

/// Changes that take nothing from the repo: order, repetition, further blocks. Its events must come out.
pub fn harmless(
    random: &mut Random,
    root: Cid,
    blocks: &mut Vec<Block>,
) -> (Vec<u8>, &'static str) {
    let name = match random.below(4) {
        0 => {
            random.shuffle(blocks);
            "blocks: shuffled"
        }
        1 => {
            let (one, other) = (place(random, blocks), place(random, blocks));
            blocks.swap(one, other);
            "blocks: two in each other's place"
        }
        2 => {
            let copy = blocks[place(random, blocks)].clone();
            blocks.insert(place(random, blocks), copy);
            "blocks: one twice"
        }
        _ => {
            let block = Value::map([("nobody", Value::Int(random.bits().into()))]).encode();
            let cid = if random.chance(50) {
                Cid::dag_cbor(&block)
            } else {
                Cid::raw(&block)
            };
            blocks.insert(place(random, blocks), (cid, block));
            "blocks: one that nothing leads to"
        }
    };
    (car::write(&[root], blocks), name)
}

/// Damage to frames, or to any bytes.
pub fn damage(random: &mut Random, root: Cid, blocks: &mut Vec<Block>) -> (Vec<u8>, &'static str) {
    match random.below(10) {
        0..=3 => {
            let mut archive = car::write(&[root], blocks);
            let name = bytes::damage(random, &mut archive);
            (archive, name)
        }
        4..=6 => blocks_damaged(random, root, blocks),
        7 | 8 => frame_damaged(random, root, blocks),
        _ => header_damaged(random, root, blocks),
    }
}

fn blocks_damaged(
    random: &mut Random,
    root: Cid,
    blocks: &mut Vec<Block>,
) -> (Vec<u8>, &'static str) {
    let (one, other) = (place(random, blocks), place(random, blocks));
    let name = match random.below(7) {
        0 => {
            blocks.remove(one);
            "blocks: one removed"
        }
        1 => {
            let bytes = blocks[one].1.clone();
            blocks[one].1 = std::mem::replace(&mut blocks[other].1, bytes);
            "blocks: the bytes of two swapped"
        }
        2 => {
            let bytes = blocks[one].1.clone();
            blocks[other].1 = bytes;
            "blocks: another's bytes"
        }
        3 => {
            blocks[one].0.digest[random.below(32) as usize] ^= 1 << random.below(8);
            "blocks: a forged digest"
        }
        4 => {
            blocks[one].0.codec = [0x55, 0x70, 0x51, 0x01][random.below(4) as usize];
            "blocks: another codec"
        }
        5 => {
            bytes::damage(random, &mut blocks[one].1);
            "blocks: damaged bytes under the old CID"
        }
        _ => {
            bytes::damage(random, &mut blocks[one].1);
            blocks[one].0 = Cid::dag_cbor(&blocks[one].1);
            "blocks: damaged bytes under their own CID"
        }
    };
    (car::write(&[root], blocks), name)
}

/// A length or a CID that is not what it should be, the frame around it right.
fn frame_damaged(random: &mut Random, root: Cid, blocks: &[Block]) -> (Vec<u8>, &'static str) {
    let victim = place(random, blocks);
    let mut archive = car::header(&[root]);
    let mut name = "";
    for (index, (cid, bytes)) in blocks.iter().enumerate() {
        let mut content = [&cid.bytes()[..], bytes].concat();
        if index != victim {
            archive.extend(car::frame(&content));
            continue;
        }
        let length = content.len() as u64;
        let forged = match random.below(10) {
            0 => Some(length + 1 + random.below(3)),
            1 => Some(length - 1 - random.below(40).min(length - 1)),
            2 => Some(1 << random.below(63)),
            3 => Some(u64::MAX >> random.below(2)),
            _ => None,
        };
        if let Some(forged) = forged {
            name = "frame: a forged length";
            varint(&mut archive, forged);
            archive.extend(content);
            continue;
        }
        match random.below(6) {
            0 => {
                name = "frame: a length that is not minimal";
                varint(&mut archive, length);
                let last = archive.len() - 1;
                archive[last] |= 0x80;
                archive.push(0);
                archive.extend(content);
                continue;
            }
            1 => {
                name = "frame: an empty one before";
                archive.push(0);
            }
            2 => {
                name = "frame: a CID of version 0";
                content.splice(..4, [0x12, 0x20]);
            }
            3 => {
                name = "frame: another hash function";
                content[2] = [0x13, 0x00, 0x1e, 0x11][random.below(4) as usize];
            }
            4 => {
                name = "frame: a digest of another length";
                content[3] = [0, 16, 31, 33, 64, 65, 0xff][random.below(7) as usize];
            }
            _ => {
                name = "frame: cut within the CID";
                content.truncate(random.below(36) as usize);
            }
        }
        archive.extend(car::frame(&content));
    }
    (archive, name)
}

fn header_damaged(random: &mut Random, root: Cid, blocks: &[Block]) -> (Vec<u8>, &'static str) {
    let other = blocks[place(random, blocks)].0;
    let one = |cid| Value::List(vec![Value::Link(cid)]);
    let fields = |roots, version| vec![("roots", roots), ("version", version)];
    let (fields, name) = match random.below(8) {
        0 => (fields(one(other), Value::Int(1)), "header: another root"),
        1 => {
            let roots = Value::List(vec![Value::Link(root), Value::Link(other)]);
            (fields(roots, Value::Int(1)), "header: a second root")
        }
        2 => {
            let roots = Value::List(vec![Value::Link(other), Value::Link(root)]);
            (fields(roots, Value::Int(1)), "header: another root first")
        }
        3 => (
            fields(Value::List(vec![]), Value::Int(1)),
            "header: no root",
        ),
        4 => {
            let version = [0, 2, -1, i128::from(u64::MAX)][random.below(4) as usize];
            (
                fields(one(root), Value::Int(version)),
                "header: another version",
            )
        }
        5 => {
            let raw = Cid {
                codec: 0x55,
                ..root
            };
            (fields(one(raw), Value::Int(1)), "header: a raw root")
        }
        6 => {
            let mut fields = fields(one(root), Value::Int(1));
            fields.push(("extra", Value::Null));
            (fields, "header: a further field")
        }
        _ => {
            let mut header = Value::map(fields(one(root), Value::Int(1))).encode();
            super::items::damage(random, &mut header);
            let mut archive = car::frame(&header);
            archive.extend(&car::write(&[root], blocks)[car::header(&[root]).len()..]);
            return (archive, "header: damaged CBOR");
        }
    };
    let mut archive = car::frame(&Value::map(fields).encode());
    archive.extend(&car::write(&[root], blocks)[car::header(&[root]).len()..]);
    (archive, name)
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn place<T>(random: &mut Random, list: &[T]) -> usize {
    random.below(list.len() as u64) as usize
}
