//! The blocks of one repo, found by their digest.
//!
//! `arena` holds the bytes, `index` the places. Blocks are inserted first and looked up when all are there
//! ([`BlockStore::seal`]). Both count in the [`Budget`] of all jobs; where that is used up, the bytes go to a file, from which
//! they are read back one by one, and where that is not enough, the places as well. Invariants: what a store takes without asking
//! is a constant, whatever the repo is (`tests.rs`); what [`BlockStore::read`] returns hashes to the digest asked for, because only
//! [`car`](super::car), which has hashed the bytes, inserts (`repo_car.rs` R2), and because the digest that lies with the
//! bytes is compared. Pinned by `tests/spill.rs` and the tests here.

mod arena;
mod index;
mod prefetch;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;

use self::arena::Arena;
pub use self::arena::Place;
use self::index::Index;
pub use self::index::LookUp;
use super::link::Digest;
use crate::error::{JobError, Reason};
use crate::memory::{Budget, Share};

/// Most blocks of one repo, repeated ones included. The largest known repos have some three million records; this leaves room for
/// five times as many and bounds the index.
pub const MAX_BLOCKS: usize = 16_000_000;

/// Entries of the index that are kept for the next repo; most repos have fewer blocks.
const KEEP: usize = 4096;

/// The store cannot hold the block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// More than [`MAX_BLOCKS`] blocks, or one that no CAR frame can hold.
    #[error("more than {MAX_BLOCKS} blocks")]
    TooMuch,
    /// The budget is used up, and the file cannot be written.
    #[error("{0}")]
    Spill(String),
}

impl Full {
    fn spill(folder: &Path, error: io::Error) -> Self {
        Full::Spill(format!("a file in {}: {error}", folder.display()))
    }
}

impl From<Full> for JobError {
    fn from(full: Full) -> Self {
        let reason = match full {
            Full::TooMuch => Reason::TooLarge,
            Full::Spill(_) => Reason::Deferred,
        };
        JobError::new(reason, full)
    }
}

/// The blocks of one repo.
pub struct BlockStore {
    arena: Arena,
    index: Index,
    budget: Arc<Budget>,
    /// Whether moving to a file has failed for this repo.
    stuck: bool,
}

impl Default for BlockStore {
    /// An empty store that takes as much memory as it needs.
    fn default() -> Self {
        let folder: Arc<Path> = std::env::temp_dir().into();
        BlockStore::new(&Budget::new(u64::MAX), &folder)
    }
}

impl BlockStore {
    /// An empty store. Its memory is part of `budget`; what does not fit goes to a file in `folder`.
    pub fn new(budget: &Arc<Budget>, folder: &Arc<Path>) -> Self {
        BlockStore {
            arena: Arena::new(Share::new(budget), folder),
            index: Index::new(Share::new(budget), folder),
            budget: Arc::clone(budget),
            stuck: false,
        }
    }

    /// A share of the budget that its blocks are part of, for whoever works on them.
    pub fn share(&self) -> Share {
        Share::new(&self.budget)
    }

    /// Number of blocks; of distinct ones, once sealed in memory.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether no block is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the blocks are in a file.
    pub fn is_spilled(&self) -> bool {
        self.arena.is_spilled()
    }

    /// Forgets all blocks; keeps a little memory for the next repo, unless memory is short.
    pub fn clear(&mut self) {
        let keeps = !self.budget.is_overdrawn();
        self.arena.clear(keeps);
        self.index.clear(if keeps { KEEP } else { 0 });
        self.stuck = false;
    }

    /// Keeps a block whose bytes hash to `digest`.
    ///
    /// # Errors
    /// [`Full`].
    #[inline]
    pub fn insert(&mut self, digest: &Digest, bytes: &[u8]) -> Result<(), Full> {
        if self.index.len() == MAX_BLOCKS {
            return Err(Full::TooMuch);
        }
        let place = self.arena.push(digest, bytes)?;
        if !self.index.has_room() {
            self.make_room()?;
        }
        self.index.push(digest, place);
        Ok(())
    }

    /// Makes room in the index, with the memory of the blocks before its own.
    #[cold]
    fn make_room(&mut self) -> Result<(), Full> {
        if self.index.try_make_room() {
            return Ok(());
        }
        self.arena.spill()?;
        if self.index.try_make_room() {
            return Ok(());
        }
        self.index.spill_collected()
    }

    /// Ends the insertion: from now on blocks are found, and none is inserted. A block that was inserted more than once is found
    /// once (R3).
    ///
    /// # Errors
    /// [`Full::Spill`].
    pub fn seal(&mut self) -> Result<(), Full> {
        if !self.index.try_make_directory() {
            self.arena.spill()?;
            if !self.index.try_make_directory() {
                self.index.spill_collected()?;
            }
        }
        let BlockStore { arena, index, .. } = self;
        // Where the file cannot be read, both are kept, which does no harm.
        index.seal(|a, b| arena.are_same(a, b).unwrap_or(false))
    }

    /// Where the block with this digest lies.
    ///
    /// # Errors
    /// [`Reason::Deferred`], when the file cannot be read.
    #[inline]
    pub fn find(&self, digest: &Digest) -> Result<Option<Place>, JobError> {
        let look_up = self.index.begin(digest);
        for place in self.index.places(look_up) {
            if self.arena.is_at(place, digest).map_err(unreadable)? {
                return Ok(Some(place));
            }
        }
        let is_it = |place| self.arena.is_at(place, digest);
        self.index.find_in_file(look_up, is_it).map_err(unreadable)
    }

    /// The same, for whoever has a guess where it may lie.
    ///
    /// # Errors
    /// As [`BlockStore::find`].
    #[inline]
    pub fn find_at(
        &self,
        guess: Option<Place>,
        digest: &Digest,
    ) -> Result<Option<Place>, JobError> {
        match guess {
            Some(place) if self.arena.is_at(place, digest).map_err(unreadable)? => Ok(guess),
            _ => self.find(digest),
        }
    }

    /// Begins to look a block up, so that what [`BlockStore::guess`] reads comes while others are begun.
    #[inline]
    pub fn begin(&self, digest: &Digest) -> LookUp {
        self.index.begin(digest)
    }

    /// Where the block may lie; lets the processor fetch it. There is no guess where it would have to be read from a file.
    #[inline]
    pub fn guess(&self, look_up: LookUp) -> Option<Place> {
        let place = self.index.places(look_up).next()?;
        self.arena.prefetch(place);
        Some(place)
    }

    /// The bytes of the block with this digest; `buffer` is for those that are read from a file.
    ///
    /// # Errors
    /// [`Reason::Deferred`], when the file cannot be read.
    pub fn read<'s>(
        &'s self,
        digest: &Digest,
        buffer: &'s mut Vec<u8>,
    ) -> Result<Option<&'s [u8]>, JobError> {
        self.read_at(None, digest, buffer)
    }

    /// The same, for whoever has a guess where it may lie.
    ///
    /// # Errors
    /// As [`BlockStore::read`].
    #[inline]
    pub fn read_at<'s>(
        &'s self,
        guess: Option<Place>,
        digest: &Digest,
        buffer: &'s mut Vec<u8>,
    ) -> Result<Option<&'s [u8]>, JobError> {
        let place = self.load(guess, digest, buffer).map_err(unreadable)?;
        Ok(place.and_then(|place| self.arena.loaded(place, buffer)))
    }

    #[inline]
    fn load(
        &self,
        guess: Option<Place>,
        digest: &Digest,
        buffer: &mut Vec<u8>,
    ) -> io::Result<Option<Place>> {
        if let Some(place) = guess
            && self.arena.load(place, digest, buffer)?
        {
            return Ok(guess);
        }
        let look_up = self.index.begin(digest);
        for place in self.index.places(look_up) {
            if self.arena.load(place, digest, buffer)? {
                return Ok(Some(place));
            }
        }
        self.index
            .find_in_file(look_up, |place| self.arena.load(place, digest, buffer))
    }

    /// Moves the blocks to a file where the budget is overdrawn, and then their index. Where that fails, they stay.
    #[inline]
    pub fn relieve(&mut self) {
        if self.budget.is_overdrawn()
            && (self.arena.is_in_memory() || self.index.is_in_memory())
            && !self.stuck
        {
            self.relieve_now();
        }
    }

    #[cold]
    fn relieve_now(&mut self) {
        let mut relieved = self.arena.spill();
        if relieved.is_ok() && self.budget.is_overdrawn() && self.index.is_in_memory() {
            relieved = self.index.spill_sorted();
        }
        if let Err(e) = relieved {
            log::warn!("~error":% = e; "memory is short, and blocks cannot be moved out of it: {e}");
            self.stuck = true;
        }
    }
}

#[cold]
fn unreadable(error: io::Error) -> JobError {
    JobError::new(
        Reason::Deferred,
        format_args!("blocks cannot be read back from their file: {error}"),
    )
}
