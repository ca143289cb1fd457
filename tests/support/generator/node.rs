//! Single nodes of a Merkle Search Tree and their blocks, so that wrong trees can be built by hand.

use super::cbor::{write_bytes, write_head, write_link, write_null, write_text};
use super::cid::Cid;

/// One node; `encode` takes the fields as they are, right or wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The subtree before the first entry.
    pub l: Option<Cid>,
    pub e: Vec<Entry>,
}

/// One entry of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The number of bytes shared with the previous key of the node.
    pub p: u64,
    /// The rest of the key.
    pub k: Vec<u8>,
    /// The record.
    pub v: Cid,
    /// The subtree after this entry.
    pub t: Option<Cid>,
}

impl Node {
    /// A node of whole keys with their values and right subtrees, prefixes compressed as they
    /// should be.
    pub fn from_keys<K: AsRef<[u8]>>(
        l: Option<Cid>,
        keys: impl IntoIterator<Item = (K, Cid, Option<Cid>)>,
    ) -> Self {
        let mut node = Self { l, e: Vec::new() };
        let mut previous = Vec::new();
        for (key, v, t) in keys {
            let key = key.as_ref();
            let shared = common_prefix(&previous, key);
            node.e.push(Entry {
                p: shared as u64,
                k: key[shared..].to_vec(),
                v,
                t,
            });
            previous = key.to_vec();
        }
        node
    }

    /// The DAG-CBOR block.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.e.len() * 128);
        write_head(&mut out, 5, 2);
        write_text(&mut out, "e");
        write_head(&mut out, 4, self.e.len() as u64);
        for entry in &self.e {
            write_head(&mut out, 5, 4);
            write_text(&mut out, "k");
            write_bytes(&mut out, &entry.k);
            write_text(&mut out, "p");
            write_head(&mut out, 0, entry.p);
            write_text(&mut out, "t");
            write_pointer(&mut out, entry.t.as_ref());
            write_text(&mut out, "v");
            write_link(&mut out, &entry.v);
        }
        write_text(&mut out, "l");
        write_pointer(&mut out, self.l.as_ref());
        out
    }

    /// The block with its address.
    pub fn block(&self) -> (Cid, Vec<u8>) {
        let bytes = self.encode();
        (Cid::dag_cbor(&bytes), bytes)
    }

    /// Reads what `encode` writes, and nothing else.
    pub fn decode(block: &[u8]) -> Option<Self> {
        let mut rest = block;
        take(&mut rest, b"\xa2\x61e")?;
        let count = take_head(&mut rest, 4)?;
        let mut node = Self::default();
        for _ in 0..count {
            take(&mut rest, b"\xa4\x61k")?;
            let length = usize::try_from(take_head(&mut rest, 2)?).ok()?;
            let (k, after) = rest.split_at_checked(length)?;
            rest = after;
            take(&mut rest, b"\x61p")?;
            let p = take_head(&mut rest, 0)?;
            take(&mut rest, b"\x61t")?;
            let t = take_pointer(&mut rest)?;
            take(&mut rest, b"\x61v")?;
            let v = take_pointer(&mut rest)??;
            node.e.push(Entry {
                p,
                k: k.to_vec(),
                v,
                t,
            });
        }
        take(&mut rest, b"\x61l")?;
        node.l = take_pointer(&mut rest)?;
        rest.is_empty().then_some(node)
    }

    /// The links to subtrees, to read or to change.
    pub fn subtrees_mut(&mut self) -> impl Iterator<Item = &mut Cid> {
        self.l
            .iter_mut()
            .chain(self.e.iter_mut().filter_map(|entry| entry.t.as_mut()))
    }
}

fn write_pointer(out: &mut Vec<u8>, pointer: Option<&Cid>) {
    match pointer {
        Some(cid) => write_link(out, cid),
        None => write_null(out),
    }
}

fn take(rest: &mut &[u8], expected: &[u8]) -> Option<()> {
    *rest = rest.strip_prefix(expected)?;
    Some(())
}

fn take_head(rest: &mut &[u8], major: u8) -> Option<u64> {
    let (&first, after) = rest.split_first()?;
    let width = match first & 0x1f {
        0..24 => 0,
        short @ 24..28 => 1 << (short - 24),
        _ => return None,
    };
    let (argument, after) = after.split_at_checked(width)?;
    *rest = after;
    let folded = argument
        .iter()
        .fold(0, |sum, &byte| sum << 8 | u64::from(byte));
    (first >> 5 == major).then_some(if width == 0 {
        u64::from(first & 0x1f)
    } else {
        folded
    })
}

fn take_pointer(rest: &mut &[u8]) -> Option<Option<Cid>> {
    if take(rest, b"\xf6").is_some() {
        return Some(None);
    }
    take(rest, b"\xd8\x2a\x58\x25\x00")?;
    let (cid, after) = rest.split_at_checked(36)?;
    *rest = after;
    Cid::from_bytes(cid).map(Some)
}

/// The number of leading bytes two keys share.
pub fn common_prefix(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(a, b)| a == b).count()
}
