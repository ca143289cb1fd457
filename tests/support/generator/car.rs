//! CAR version 1: writing archives, and finding the boundaries of their frames.

use std::io::{self, Write};
use std::ops::Range;

use super::cbor::Value;
use super::cid::Cid;

/// Writes an archive of the given roots and blocks.
pub fn write(roots: &[Cid], blocks: &[(Cid, Vec<u8>)]) -> Vec<u8> {
    let size: usize = blocks.iter().map(|(_, bytes)| bytes.len() + 40).sum();
    let mut out = Vec::with_capacity(size + 128);
    write_to(&mut out, roots, blocks).expect("a vector takes every write");
    out
}

/// Writes an archive of the given roots and blocks to `out`.
pub fn write_to(out: &mut impl Write, roots: &[Cid], blocks: &[(Cid, Vec<u8>)]) -> io::Result<()> {
    out.write_all(&header(roots))?;
    for (cid, bytes) in blocks {
        write_varint(out, (36 + bytes.len()) as u64)?;
        out.write_all(&cid.bytes())?;
        out.write_all(bytes)?;
    }
    Ok(())
}

/// The first frame of an archive: the header with its roots.
pub fn header(roots: &[Cid]) -> Vec<u8> {
    let roots = roots.iter().map(|root| Value::Link(*root)).collect();
    frame(&Value::map([("version", Value::Int(1)), ("roots", Value::List(roots))]).encode())
}

/// One frame of any content: its length, then its bytes.
pub fn frame(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 4);
    write_varint(&mut out, content.len() as u64).expect("a vector takes every write");
    out.extend_from_slice(content);
    out
}

/// The frames of a well-formed archive, the header's first, each with its length prefix.
pub fn frames(archive: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0;
    while start < archive.len() {
        let (length, width) = read_varint(&archive[start..]).expect("a whole length prefix");
        let end = start + width + length;
        assert!(end <= archive.len(), "the frame at {start} is cut short");
        found.push(start..end);
        start = end;
    }
    found
}

/// The address and the content of a block's frame, as `frames` found it.
pub fn block(archive: &[u8], frame: Range<usize>) -> Option<(Cid, &[u8])> {
    let bytes = &archive[frame];
    let (_, width) = read_varint(bytes)?;
    let (cid, content) = bytes[width..].split_at_checked(36)?;
    Some((Cid::from_bytes(cid)?, content))
}

fn write_varint(out: &mut impl Write, mut value: u64) -> io::Result<()> {
    while value >= 0x80 {
        out.write_all(&[value as u8 | 0x80])?;
        value >>= 7;
    }
    out.write_all(&[value as u8])
}

/// The value of the varint at the start of `bytes`, and the number of its bytes.
fn read_varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(9).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Some((value, index + 1));
        }
    }
    None
}
