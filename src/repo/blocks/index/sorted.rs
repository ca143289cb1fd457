//! All entries of a large index, in order, in a file.
//!
//! The file consists of pages; only the tag of each page's first entry is in memory, a fifth of a megabyte for sixteen million
//! entries. A look-up reads the page that may hold a tag, and the next ones as long as these begin with the same tag.
//! Invariants: every page but the last is full; entries ascend over all pages; an entry lies in one page. Pinned by the tests of
//! [`super`] (`sorted_…`).

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::Place;
use super::entry::Entry;

/// Bytes of a page: what the system reads and caches at a time in any case.
const PAGE: usize = 4096;
/// Entries of a page; a few bytes at its end stay free.
pub const PER_PAGE: usize = PAGE / Entry::SIZE;
/// Bytes that are written at a time.
const WRITE: usize = 16 * PAGE;

/// Entries in order, in a file.
pub struct Sorted {
    file: File,
    /// The tag of the first entry of each page.
    first: Vec<u32>,
    len: usize,
}

impl Sorted {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory that it takes.
    pub fn memory(&self) -> usize {
        self.first.capacity() * size_of::<u32>()
    }

    /// The first place with this tag that is the right one.
    ///
    /// # Errors
    /// When the file cannot be read, and what `is_it` says.
    pub fn find(
        &self,
        tag: u32,
        mut is_it: impl FnMut(Place) -> io::Result<bool>,
    ) -> io::Result<Option<Place>> {
        let mut buffer = [0; PAGE];
        // Entries with the tag may begin in the page before the first one that begins with it.
        let after = self.first.partition_point(|&first| first < tag);
        for number in after.saturating_sub(1)..self.first.len() {
            if self.first[number] > tag {
                break;
            }
            let page = self.read(number, &mut buffer)?;
            let from = page.partition_point(|bytes| Entry::from_bytes(bytes).tag < tag);
            for entry in page[from..].iter().map(Entry::from_bytes) {
                if entry.tag != tag {
                    return Ok(None);
                }
                if is_it(entry.place())? {
                    return Ok(Some(entry.place()));
                }
            }
        }
        Ok(None)
    }

    /// The entries of a page.
    fn read<'b>(
        &self,
        number: usize,
        buffer: &'b mut [u8; PAGE],
    ) -> io::Result<&'b [[u8; Entry::SIZE]]> {
        let count = PER_PAGE.min(self.len - number * PER_PAGE);
        let bytes = &mut buffer[..count * Entry::SIZE];
        self.file
            .read_exact_at(bytes, (number * PAGE) as u64)
            .map(|()| bytes.as_chunks().0)
    }
}

/// Writes a [`Sorted`].
pub struct Writer {
    sorted: Sorted,
    /// Pages that are not written yet; the last one is being filled.
    bytes: Vec<u8>,
}

impl Writer {
    /// For so many entries, in an unlinked file.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn new(folder: &Path, count: usize) -> io::Result<Self> {
        Ok(Writer {
            sorted: Sorted {
                file: tempfile::tempfile_in(folder)?,
                first: Vec::with_capacity(count.div_ceil(PER_PAGE)),
                len: 0,
            },
            bytes: Vec::with_capacity(WRITE),
        })
    }

    /// Bytes of memory that it takes.
    pub fn memory(&self) -> usize {
        self.sorted.memory() + self.bytes.capacity()
    }

    /// Appends an entry, which does not come before the last one.
    ///
    /// # Errors
    /// When the file cannot be written.
    #[inline]
    pub fn push(&mut self, entry: Entry) -> io::Result<()> {
        if self.sorted.len.is_multiple_of(PER_PAGE) {
            self.begin_page(entry.tag)?;
        }
        self.bytes.extend_from_slice(&entry.to_bytes());
        self.sorted.len += 1;
        Ok(())
    }

    fn begin_page(&mut self, tag: u32) -> io::Result<()> {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(PAGE), 0);
        if self.bytes.len() >= WRITE {
            self.flush()?;
        }
        self.sorted.first.push(tag);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sorted.file.write_all(&self.bytes)?;
        self.bytes.clear();
        Ok(())
    }

    /// What was written.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(mut self) -> io::Result<Sorted> {
        self.flush()?;
        Ok(self.sorted)
    }
}
