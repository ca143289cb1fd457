//! Trees made from keys, and archives taken apart: what the checks of the generator share.

use std::collections::HashMap;

use super::generator::mst::{self, Entry, Node};
use super::generator::{Cid, car};

pub fn tree_of(keys: impl IntoIterator<Item = String>, value: Cid) -> mst::Tree {
    let mut entries: Vec<_> = keys.into_iter().map(|key| (key, value)).collect();
    entries.sort();
    mst::build(&entries)
}

/// An archive taken apart: the keys, values and nodes of its tree, and every block by its address.
pub struct Archive {
    pub root: Cid,
    pub entries: Vec<(Vec<u8>, Cid)>,
    pub nodes: Vec<Cid>,
    pub blocks: HashMap<Cid, Vec<u8>>,
}

pub fn take_apart(archive: &[u8]) -> Archive {
    let frames = car::frames(archive).into_iter().skip(1);
    let blocks = frames.map(|frame| car::block(archive, frame).expect("a block"));
    let blocks: HashMap<_, _> = blocks.map(|(cid, bytes)| (cid, bytes.to_vec())).collect();
    // The commit is the one block with a field `data` that links to a node.
    let root = blocks.values().find_map(|bytes| {
        let at = bytes.windows(5).position(|five| five == b"\x64data")? + 5;
        let link = bytes[at..].strip_prefix(b"\xd8\x2a\x58\x25\x00")?;
        let root = Cid::from_bytes(link.get(..36)?)?;
        Node::decode(blocks.get(&root)?).map(|_| root)
    });
    let root = root.expect("a commit");
    let mut archive = Archive {
        root,
        entries: Vec::new(),
        nodes: Vec::new(),
        blocks,
    };
    collect(&mut archive, root);
    archive
}

fn collect(archive: &mut Archive, cid: Cid) {
    archive.nodes.push(cid);
    let node = Node::decode(&archive.blocks[&cid]).expect("a node");
    assert_eq!(
        node.encode(),
        archive.blocks[&cid],
        "decoding and encoding are inverse"
    );
    node.l.into_iter().for_each(|left| collect(archive, left));
    let mut key: Vec<u8> = Vec::new();
    for Entry { p, k, v, t } in node.e {
        key.truncate(p as usize);
        key.extend(k);
        archive.entries.push((key.clone(), v));
        t.into_iter().for_each(|right| collect(archive, right));
    }
}
