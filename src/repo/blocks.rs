//! The blocks of one repo, found by their digest.
//!
//! All bytes lie in one arena, each block behind its digest; the index is a table of places in the arena, eight bytes each. So
//! a repo of a million blocks costs two large allocations instead of millions of small ones, and the store can be used again for
//! the next repo. Invariant: what [`BlockStore::get`] returns hashes to the digest asked for, because only
//! [`car`](super::car), which has hashed the bytes, inserts (`repo_car.rs` R2).

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry};

use super::link::Digest;

/// Most blocks of one repo. The largest known repos have some three million records; this leaves room for five times as many
/// and bounds the index.
pub const MAX_BLOCKS: usize = 16_000_000;

/// Arenas up to this size in bytes are kept for the next repo; larger ones are given back.
const KEEP: usize = 16 << 20;

/// How many bits of a [`Place`] hold the length: frames of a CAR have at most 4 MiB, which needs 23.
const LENGTH_BITS: u32 = 24;

/// Where a block lies: offset of its digest in the arena, and length of its bytes.
#[derive(Clone, Copy)]
struct Place(u64);

impl Place {
    fn new(offset: usize, length: usize) -> Self {
        Place((offset as u64) << LENGTH_BITS | length as u64)
    }

    fn digest(self, arena: &[u8]) -> &[u8] {
        let offset = self.offset();
        &arena[offset..offset + size_of::<Digest>()]
    }

    fn bytes(self, arena: &[u8]) -> &[u8] {
        let start = self.offset() + size_of::<Digest>();
        &arena[start..start + (self.0 & ((1 << LENGTH_BITS) - 1)) as usize]
    }

    fn offset(self) -> usize {
        (self.0 >> LENGTH_BITS) as usize
    }
}

/// The store cannot hold the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The blocks of one repo.
#[derive(Default)]
pub struct BlockStore {
    arena: Vec<u8>,
    index: HashTable<Place>,
    // Seeded at random for each process, so that nobody can choose blocks that collide in the index.
    hasher: DefaultHashBuilder,
}

impl BlockStore {
    /// Number of distinct blocks.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether no block is held.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Forgets all blocks; keeps the memory for the next repo unless it is large.
    pub fn clear(&mut self) {
        if self.arena.capacity() > KEEP {
            *self = BlockStore::default();
        } else {
            self.arena.clear();
            self.index.clear();
        }
    }

    /// Keeps a block whose bytes hash to `digest`. A block that is there already is not kept twice (R3).
    ///
    /// # Errors
    /// [`Full`] for the block after [`MAX_BLOCKS`], and for one that no CAR frame can hold.
    pub fn insert(&mut self, digest: &Digest, bytes: &[u8]) -> Result<(), Full> {
        if self.index.len() == MAX_BLOCKS || bytes.len() >> LENGTH_BITS != 0 {
            return Err(Full);
        }
        let BlockStore {
            arena,
            index,
            hasher,
        } = self;
        let entry = index.entry(
            hasher.hash_one(digest.as_slice()),
            |place| place.digest(arena) == digest,
            |place| hasher.hash_one(place.digest(arena)),
        );
        if let Entry::Vacant(vacant) = entry {
            vacant.insert(Place::new(arena.len(), bytes.len()));
            arena.extend_from_slice(digest);
            arena.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// The bytes of the block with this digest.
    #[inline]
    pub fn get(&self, digest: &Digest) -> Option<&[u8]> {
        self.index
            .find(self.hasher.hash_one(digest.as_slice()), |place| {
                place.digest(&self.arena) == digest
            })
            .map(|place| place.bytes(&self.arena))
    }

    /// Whether a block with this digest is held.
    #[inline]
    pub fn contains(&self, digest: &Digest) -> bool {
        self.get(digest).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u32) -> Digest {
        let mut digest = [7; 32];
        digest[..4].copy_from_slice(&n.to_be_bytes());
        digest
    }

    #[test]
    fn blocks_are_found_by_digest_and_kept_once() {
        let mut blocks = BlockStore::default();
        for n in 0..10_000u32 {
            blocks.insert(&digest(n), &n.to_le_bytes()).unwrap();
            blocks.insert(&digest(n), &n.to_le_bytes()).unwrap();
        }
        assert_eq!(blocks.len(), 10_000);
        assert_eq!(blocks.arena.len(), 10_000 * 36);
        for n in 0..10_000u32 {
            assert_eq!(blocks.get(&digest(n)), Some(&n.to_le_bytes()[..]));
        }
        assert_eq!(blocks.get(&digest(10_000)), None);
        blocks.insert(&digest(10_000), &[]).unwrap();
        assert_eq!(blocks.get(&digest(10_000)), Some(&[][..]));
        blocks.clear();
        assert!(blocks.is_empty());
        assert!(!blocks.contains(&digest(1)));
    }

    #[test]
    fn a_large_arena_is_given_back() {
        let mut blocks = BlockStore::default();
        for n in 0..10 {
            blocks.insert(&digest(n), &vec![0; 4 << 20]).unwrap();
        }
        blocks.clear();
        assert_eq!(blocks.arena.capacity(), 0);
        assert_eq!(
            blocks.insert(&digest(1), &vec![0; 1 << LENGTH_BITS]),
            Err(Full)
        );
    }
}
