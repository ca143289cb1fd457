//! From a digest to the place of its block.
//!
//! While blocks arrive, their places are only collected, each with a tag: 32 bits of a keyed hash of the digest. Nothing is looked
//! up before all have arrived, so nothing needs to be in order before, and a table that grows with each block, with all its
//! misses of the cache, is not needed: [`Index::seal`] sorts the entries by their tags in place, and a small directory leads
//! to the few of a tag. An entry takes twelve bytes, and a look-up reads two lines of memory. The key of the hash is random for
//! each process, so that nobody can choose blocks whose tags are the same.
//!
//! Where the budget refuses room for more than [`BUFFER`] entries, they go to a file: those collected so far as a sorted run
//! ([`runs`]), and every [`BUFFER`] more as another; [`Index::seal`] merges the runs into one file of pages ([`sorted`]), of which a
//! look-up reads one. Invariants: what an index takes beyond what the budget has allowed is a constant, whatever the repo
//! is; and both forms find the same blocks. Pinned by `tests.rs` here and one folder up.

mod entry;
mod runs;
mod sorted;
#[cfg(test)]
mod tests;

use std::hash::BuildHasher;
use std::io;
use std::path::Path;
use std::sync::Arc;

use foldhash::fast::RandomState;

use self::entry::Entry;
use self::runs::Runs;
use self::sorted::{Sorted, Writer};
use super::Full;
use super::arena::Place;
use super::prefetch::prefetch;
use crate::memory::Share;
use crate::repo::link::Digest;

/// Entries that one slot of the directory leads to, on average: a line of memory or two.
const PER_SLOT: usize = 4;
/// Entries that are made room for at a time, at least.
const ROOM: usize = 1024;
/// Entries that an index may hold in memory in any case: three quarters of a megabyte. So the runs are some hundreds at most.
pub const BUFFER: usize = 64 << 10;

/// A look-up that has been begun; it leads nowhere once the entries have moved to a file.
#[derive(Clone, Copy)]
pub struct LookUp {
    tag: u32,
    from: u32,
    to: u32,
}

/// Places of blocks, found by their digest once [`Index::seal`] has sorted them.
pub struct Index {
    entries: Vec<Entry>,
    /// Where the entries of each slot begin, and at last where those of the last one end; empty until all is sorted, and where all
    /// is in a file.
    directory: Vec<u32>,
    /// A slot is what a tag is, shifted by so many bits.
    shift: u32,
    /// What was collected before `entries`.
    runs: Option<Runs>,
    /// All entries, where they are in a file; then there are none in memory.
    sorted: Option<Sorted>,
    hasher: RandomState,
    folder: Arc<Path>,
    share: Share,
}

impl Index {
    /// An empty one, that will be held by `share` and spill into `folder`.
    pub fn new(share: Share, folder: &Arc<Path>) -> Self {
        Index {
            entries: Vec::new(),
            directory: Vec::new(),
            shift: 0,
            runs: None,
            sorted: None,
            hasher: RandomState::default(),
            folder: Arc::clone(folder),
            share,
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        let runs = self.runs.as_ref().map_or(0, Runs::len);
        let sorted = self.sorted.as_ref().map_or(0, Sorted::len);
        self.entries.len() + runs + sorted
    }

    /// Forgets all entries, and gives back what a large repo has needed.
    pub fn clear(&mut self, keep: usize) {
        self.runs = None;
        self.sorted = None;
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

    /// Whether there are sorted entries in memory that could be in a file; the few of a small repo stay.
    #[inline]
    pub fn is_in_memory(&self) -> bool {
        self.entries.len() > BUFFER && !self.directory.is_empty()
    }

    /// Whether the entries are in a file.
    #[cfg(test)]
    pub fn is_in_file(&self) -> bool {
        self.sorted.is_some()
    }

    /// Makes room for more entries, if that is a constant or the budget allows it.
    pub fn try_make_room(&mut self) -> bool {
        let capacity = self.entries.capacity();
        // Half as much again: what is not used yet is not in memory either, but for the budget it counts.
        let more = (capacity / 2).max(ROOM);
        let small = more.min(BUFFER.saturating_sub(capacity));
        let more = if self.runs.is_none() && self.share.try_grow(more * size_of::<Entry>()) {
            more
        } else {
            small
        };
        self.entries.reserve_exact(more);
        self.count();
        more > 0
    }

    /// Makes room for more entries by writing those that are there to a file.
    ///
    /// # Errors
    /// [`Full::Spill`]; then they are still there.
    pub fn spill_collected(&mut self) -> Result<(), Full> {
        self.entries.sort_unstable_by_key(|entry| entry.tag);
        let folder = &self.folder;
        let failed = |e| Full::spill(folder, e);
        let mut runs = match self.runs.take() {
            Some(runs) => runs,
            None => Runs::new(folder).map_err(failed)?,
        };
        let appended = runs.append(&self.entries).map_err(failed);
        self.runs = Some(runs);
        appended?;
        self.entries.clear();
        self.entries.shrink_to(BUFFER);
        self.count();
        Ok(())
    }

    /// Adds the place of a block with this digest.
    #[inline]
    pub fn push(&mut self, digest: &Digest, place: Place) {
        self.entries.push(Entry::new(self.tag(digest), place));
    }

    /// Makes room for the directory of the entries if that is a constant or the budget allows it, or if no directory is needed.
    pub fn try_make_directory(&mut self) -> bool {
        if self.runs.is_some() {
            return true;
        }
        let count = self.slots() + 1;
        if self.entries.len() > BUFFER && !self.share.try_grow(count * size_of::<u32>()) {
            return false;
        }
        self.directory = Vec::with_capacity(count);
        self.count();
        true
    }

    fn slots(&self) -> usize {
        (self.entries.len() / PER_SLOT).next_power_of_two().max(2)
    }

    /// Sorts the entries. Of those in memory that have the same tag, `same` says whether they lead to the same block; one of them is
    /// kept then. In a file, all are: the first one is found.
    ///
    /// # Errors
    /// [`Full::Spill`].
    pub fn seal(&mut self, same: impl FnMut(Place, Place) -> bool) -> Result<(), Full> {
        if self.runs.is_none() {
            self.seal_in_memory(same);
            return Ok(());
        }
        if !self.entries.is_empty() {
            self.spill_collected()?;
        }
        self.entries = Vec::new();
        self.merge().map_err(|e| Full::spill(&self.folder, e))
    }

    fn seal_in_memory(&mut self, mut same: impl FnMut(Place, Place) -> bool) {
        self.entries.sort_unstable_by_key(|entry| entry.tag);
        self.entries
            .dedup_by(|a, b| a.tag == b.tag && same(a.place(), b.place()));
        if self.entries.len() > BUFFER {
            self.entries.shrink_to_fit();
        }
        let slots = self.slots();
        self.shift = u32::BITS - slots.ilog2();
        self.directory.clear();
        self.directory.reserve_exact(slots + 1);
        for (at, entry) in self.entries.iter().enumerate() {
            while self.directory.len() <= (entry.tag >> self.shift) as usize {
                self.directory.push(at as u32);
            }
        }
        self.directory.resize(slots + 1, self.entries.len() as u32);
        self.count();
    }

    /// Makes one file of all runs.
    fn merge(&mut self) -> io::Result<()> {
        let Some(runs) = self.runs.take() else {
            return Ok(());
        };
        let mut writer = Writer::new(&self.folder, runs.len())?;
        // The buffer of the merge takes the place of that of the collection.
        let buffer = BUFFER * size_of::<Entry>();
        self.share.set((buffer + writer.memory()) as u64);
        runs.merge(BUFFER, |entry| writer.push(entry))?;
        self.sorted = Some(writer.finish()?);
        self.count();
        Ok(())
    }

    /// Moves the sorted entries from memory to a file.
    ///
    /// # Errors
    /// [`Full::Spill`]; then they are still there.
    pub fn spill_sorted(&mut self) -> Result<(), Full> {
        let write = || {
            let mut writer = Writer::new(&self.folder, self.entries.len())?;
            for &entry in &self.entries {
                writer.push(entry)?;
            }
            writer.finish()
        };
        self.sorted = Some(write().map_err(|e| Full::spill(&self.folder, e))?);
        self.entries = Vec::new();
        self.directory = Vec::new();
        self.count();
        Ok(())
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

    /// The places at which a block with the digest may lie: seldom more than one; none where the entries are in a file.
    #[inline]
    pub fn places(&self, look_up: LookUp) -> impl Iterator<Item = Place> + '_ {
        // There may be none any more: the entries may have moved to a file since the look-up was begun.
        let entries = self.entries.get(look_up.from as usize..look_up.to as usize);
        let found = entries
            .into_iter()
            .flatten()
            .filter(move |entry| entry.tag == look_up.tag);
        found.map(|entry| entry.place())
    }

    /// The first place in the file at which `is_it` finds the right block, if the entries are in a file.
    ///
    /// # Errors
    /// When the file cannot be read, and what `is_it` says.
    #[inline]
    pub fn find_in_file(
        &self,
        look_up: LookUp,
        is_it: impl FnMut(Place) -> io::Result<bool>,
    ) -> io::Result<Option<Place>> {
        match &self.sorted {
            Some(sorted) => sorted.find(look_up.tag, is_it),
            None => Ok(None),
        }
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
        let sorted = self.sorted.as_ref().map_or(0, Sorted::memory);
        self.share.set((entries + directory + sorted) as u64);
    }
}
