//! CAR version 1 into blocks by their digest, each hash checked (R2, R3).

use std::collections::HashMap;

use super::cbor::{self, Item, Wrong};
use crate::support::generator::Cid;
use crate::support::generator::cid::sha256;

const MAX_FRAME: usize = 4 << 20;
const DAG_CBOR: u64 = 0x71;
const RAW: u64 = 0x55;
const SHA2_256: u64 = 0x12;

pub type Digest = [u8; 32];

/// What a CAR holds.
#[derive(Default)]
pub struct Archive<'a> {
    /// The first root.
    pub root: Option<Cid>,
    pub blocks: HashMap<Digest, &'a [u8]>,
    /// A block's bytes do not hash to its CID.
    pub wrong_hash: bool,
    /// What is unusual about header or frames. Another reader may see that in another way.
    pub unusual: Option<Wrong>,
}

/// Reads as far as frames can be told apart.
pub fn read(bytes: &[u8]) -> Archive<'_> {
    let mut archive = Archive::default();
    archive.unusual = archive.fill(bytes).err();
    archive
}

impl<'a> Archive<'a> {
    fn fill(&mut self, mut bytes: &'a [u8]) -> Result<(), Wrong> {
        let header = frame(&mut bytes)?;
        self.root = Some(first_root(header)?);
        while !bytes.is_empty() {
            let mut block = frame(&mut bytes)?;
            if let Some(digest) = block_digest(&mut block)? {
                if sha256(block) != digest {
                    self.wrong_hash = true;
                    return Ok(());
                }
                self.blocks.insert(digest, block);
            }
        }
        Ok(())
    }
}

fn frame<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Wrong> {
    let length = usize::try_from(varint(bytes)?).map_err(|_| "a frame beyond memory")?;
    if length > MAX_FRAME {
        return Err("a frame of more than 4 MiB");
    }
    take(bytes, length)
}

fn first_root(header: &[u8]) -> Result<Cid, Wrong> {
    let header = cbor::parse(header, 2)?;
    let regular =
        header.is_ordered_map() && matches!(&header, Item::Map(fields) if fields.len() == 2);
    let (true, Some(Item::Int(1)), Some(Item::List(roots))) =
        (regular, header.field("version"), header.field("roots"))
    else {
        return Err("a header of another form");
    };
    let mut cids = Vec::new();
    for root in roots {
        let Item::Link(cid) = root else {
            return Err("a root that is no link");
        };
        cids.push(Cid::from_bytes(cid).ok_or("a root of another kind")?);
    }
    let first = *cids.first().ok_or("no root")?;
    match u64::from(first.codec) {
        DAG_CBOR => Ok(first),
        _ => Err("a root of another codec"),
    }
}

/// Reads the CID before a block; the digest, where it is one that a repo's block may have.
fn block_digest(bytes: &mut &[u8]) -> Result<Option<Digest>, Wrong> {
    if bytes.starts_with(&[0x12, 0x20]) {
        take(bytes, 34)?;
        return Ok(None);
    }
    let version = varint(bytes)?;
    let codec = varint(bytes)?;
    let hash = varint(bytes)?;
    let length = varint(bytes)?;
    if version != 1 || length > 64 {
        return Err("a CID of another version, or too long");
    }
    let digest = take(bytes, length as usize)?;
    let usable = matches!(codec, DAG_CBOR | RAW) && hash == SHA2_256;
    Ok(usable.then(|| digest.try_into().ok()).flatten())
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Wrong> {
    let mut value = 0;
    for place in 0..9 {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            if byte == 0 && place > 0 {
                return Err("a number that is not minimal");
            }
            return Ok(value);
        }
    }
    Err("a number of more than 9 bytes")
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], Wrong> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or("cut short")?;
    *bytes = rest;
    Ok(taken)
}
