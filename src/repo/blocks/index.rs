//! From a digest to the place of its block.
//!
//! While blocks arrive, their places are only collected, each with a tag: 32 bits of a keyed hash of the digest. Nothing is looked
//! up before all have arrived, so nothing needs to be in order before, and a table that grows with each block, with all its
//! misses of the cache, is not needed: [`Index::seal`] sorts the entries by their tags in place, and a small directory leads
//! to the few of a tag. An entry takes twelve bytes, and a look-up reads two lines of memory. The key of the hash is random for
//! each process, so that nobody can choose blocks whose tags are the same.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use super::arena::Place;
use super::prefetch::prefetch;
use crate::memory::Share;
use crate::repo::link::Digest;

/// Entries that one slot of the directory leads to, on average: a line of memory or two.
const PER_SLOT: usize = 4;
/// Entries that are made room for at a time, at least.
const ROOM: usize = 1024;

#[derive(Clone, Copy)]
struct Entry {
    tag: u32,
    place: [u32; 2],
}

impl Entry {
    fn place(self) -> Place {
        Place::from_words(self.place)
    }
}

/// A look-up that has been begun; good until the index changes.
#[derive(Clone, Copy)]
pub struct LookUp {
    tag: u32,
    from: u32,
    to: u32,
}

/// Places of blocks, found by their digest once [`Index::seal`] has sorted them.
pub struct Index {
    entries: Vec<Entry>,
    /// Where the entries of each slot begin, and at last where those of the last one end; empty until all is sorted.
    directory: Vec<u32>,
    /// A slot is what a tag is, shifted by so many bits.
    shift: u32,
    hasher: RandomState,
    share: Share,
}

impl Index {
    /// An empty one, that will be held by `share`.
    pub fn new(share: Share) -> Self {
        Index {
            entries: Vec::new(),
            directory: Vec::new(),
            shift: 0,
            hasher: RandomState::default(),
            share,
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Forgets all entries, and gives back what a large repo has needed.
    pub fn clear(&mut self, keep: usize) {
        self.entries.clear();
        self.entries.shrink_to(keep);
        self.directory = Vec::new();
        self.count();
    }

    /// Whether the next entry needs no memory.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.entries.len() < self.entries.capacity()
    }

    /// Makes room for more entries, if the budget allows it; if not, and `must` is not set, there is none.
    pub fn make_room(&mut self, must: bool) -> bool {
        // Half as much again: what is not used yet is not in memory either, but for the budget it counts.
        let more = (self.entries.capacity() / 2).max(ROOM);
        let bytes = more * size_of::<Entry>();
        if must {
            self.share.grow(bytes);
        } else if !self.share.try_grow(bytes) {
            return false;
        }
        self.entries.reserve_exact(more);
        self.count();
        true
    }

    /// Adds the place of a block with this digest.
    #[inline]
    pub fn push(&mut self, digest: &Digest, place: Place) {
        let (tag, place) = (self.tag(digest), place.to_words());
        self.entries.push(Entry { tag, place });
    }

    /// Sorts the entries. Of those with the same tag, `same` says whether they lead to the same block; one of them is kept then.
    pub fn seal(&mut self, mut same: impl FnMut(Place, Place) -> bool) {
        self.entries.sort_unstable_by_key(|entry| entry.tag);
        self.entries
            .dedup_by(|a, b| a.tag == b.tag && same(a.place(), b.place()));
        let slots = (self.entries.len() / PER_SLOT).next_power_of_two().max(2);
        self.shift = u32::BITS - slots.ilog2();
        self.directory = Vec::with_capacity(slots + 1);
        for (at, entry) in self.entries.iter().enumerate() {
            while self.directory.len() <= (entry.tag >> self.shift) as usize {
                self.directory.push(at as u32);
            }
        }
        self.directory.resize(slots + 1, self.entries.len() as u32);
        self.count();
    }

    /// Begins to look a digest up, and lets the processor fetch what [`Index::places`] reads.
    #[inline]
    pub fn begin(&self, digest: &Digest) -> LookUp {
        let tag = self.tag(digest);
        let slot = (tag >> self.shift) as usize;
        let (from, to) = match self.directory.get(slot..slot + 2) {
            Some(&[from, to]) => (from, to),
            _ => (0, 0),
        };
        prefetch(&self.entries[from as usize..to as usize]);
        LookUp { tag, from, to }
    }

    /// The places at which a block with the digest may lie: seldom more than one.
    #[inline]
    pub fn places(&self, look_up: LookUp) -> impl Iterator<Item = Place> + '_ {
        let entries = &self.entries[look_up.from as usize..look_up.to as usize];
        let found = entries.iter().filter(move |entry| entry.tag == look_up.tag);
        found.map(|entry| entry.place())
    }

    /// The processor multiplies the digest's first half with the key; half of a SHA-256 is more than enough for 32 bits.
    #[inline]
    fn tag(&self, digest: &Digest) -> u32 {
        let half = digest.first_chunk().copied().unwrap_or_default();
        (self.hasher.hash_one(u128::from_le_bytes(half)) >> 32) as u32
    }

    /// Tells the budget what is held.
    fn count(&mut self) {
        let entries = self.entries.capacity() * size_of::<Entry>();
        let directory = self.directory.capacity() * size_of::<u32>();
        self.share.set((entries + directory) as u64);
    }
}
