//! Entries that were collected while memory was short: sorted runs, one behind the other in a file, merged at last.
//!
//! Invariants: each run is in order, and is there as a whole or not at all (one that could not be written is written over by the
//! next); the merge hands out every entry of every run once, in order, and reads all runs through a bounded buffer, however
//! many they are. Pinned by the tests of [`super`] (`runs_…`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::entry::Entry;

/// Entries that are written at a time.
const WRITE: usize = 4096;
/// Entries of each run that are read at a time, at least.
const LEAST: usize = 64;

/// A file of sorted runs.
pub struct Runs {
    file: File,
    /// Where each run ends, counted in entries.
    ends: Vec<usize>,
}

impl Runs {
    /// None yet, in an unlinked file.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn new(folder: &Path) -> io::Result<Self> {
        Ok(Runs {
            file: tempfile::tempfile_in(folder)?,
            ends: Vec::new(),
        })
    }

    /// Number of entries in all runs.
    pub fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Appends a run.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn append(&mut self, sorted: &[Entry]) -> io::Result<()> {
        let mut end = self.len();
        let mut bytes = Vec::with_capacity(sorted.len().min(WRITE) * Entry::SIZE);
        for part in sorted.chunks(WRITE) {
            bytes.clear();
            bytes.extend(part.iter().flat_map(|entry| entry.to_bytes()));
            self.file.write_all_at(&bytes, position(end))?;
            end += part.len();
        }
        self.ends.push(end);
        Ok(())
    }

    /// Hands out all entries in order; reads about so many at a time, of all runs together.
    ///
    /// # Errors
    /// When the file cannot be read, and what `put` says.
    pub fn merge(
        self,
        room: usize,
        mut put: impl FnMut(Entry) -> io::Result<()>,
    ) -> io::Result<()> {
        let room = (room / self.ends.len().max(1)).max(LEAST);
        let begins = [0].into_iter().chain(self.ends.iter().copied());
        let mut runs: Vec<Run> = begins
            .zip(&self.ends)
            .map(|(next, &end)| Run::new(next, end))
            .collect();
        let mut heads = BinaryHeap::with_capacity(runs.len());
        for (number, run) in runs.iter_mut().enumerate() {
            heads.extend(
                run.next(&self.file, room)?
                    .map(|head| Reverse((head, number))),
            );
        }
        while let Some(mut first) = heads.peek_mut() {
            let Reverse((entry, number)) = *first;
            put(entry)?;
            match runs[number].next(&self.file, room)? {
                Some(head) => *first = Reverse((head, number)),
                None => {
                    PeekMut::pop(first);
                }
            }
        }
        Ok(())
    }
}

/// How far a run has been read.
struct Run {
    /// The entry that is read from the file next, and the first that is not the run's.
    next: usize,
    end: usize,
    /// What was read, and how much of it was handed out.
    bytes: Vec<u8>,
    used: usize,
}

impl Run {
    fn new(next: usize, end: usize) -> Self {
        Run {
            next,
            end,
            bytes: Vec::new(),
            used: 0,
        }
    }

    /// The next entry; `None` at the end.
    #[inline]
    fn next(&mut self, file: &File, room: usize) -> io::Result<Option<Entry>> {
        if self.used == self.bytes.len() {
            self.refill(file, room)?;
        }
        let entry = self.bytes[self.used..].first_chunk();
        self.used += entry.map_or(0, |entry| entry.len());
        Ok(entry.map(Entry::from_bytes))
    }

    fn refill(&mut self, file: &File, room: usize) -> io::Result<()> {
        let count = room.min(self.end - self.next);
        self.bytes.resize(count * Entry::SIZE, 0);
        self.used = 0;
        file.read_exact_at(&mut self.bytes, position(self.next))?;
        self.next += count;
        Ok(())
    }
}

/// Where an entry lies in the file.
fn position(entry: usize) -> u64 {
    (entry * Entry::SIZE) as u64
}
