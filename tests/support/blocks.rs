//! Blocks as the program stores them.

use rsky_backfiller::repo::blocks::BlockStore;

use super::generator::Block;

/// A store that holds these blocks, ready to be read.
pub fn store<'b>(blocks: impl IntoIterator<Item = &'b Block>) -> BlockStore {
    let mut store = BlockStore::default();
    for (cid, bytes) in blocks {
        store.insert(&cid.digest, bytes).expect("room for a block");
    }
    store.seal().expect("room for the index");
    store
}

/// The block of a digest.
pub fn get(blocks: &BlockStore, digest: &[u8; 32]) -> Option<Vec<u8>> {
    let mut buffer = Vec::new();
    let block = blocks.read(digest, &mut buffer).expect("blocks in memory");
    block.map(<[u8]>::to_vec)
}
