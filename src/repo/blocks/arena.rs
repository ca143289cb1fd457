//! The bytes of a repo's blocks: in segments of memory, or in a file.
//!
//! Blocks are appended, each behind its digest, and read back by their [`Place`]. Segments are mapped by themselves, so that what is
//! given back is given back to the system at once; all but the first are asked for as huge pages, which cost one page fault instead
//! of five hundred and spare most of the address translation when a large repo is walked. Where the budget refuses a segment,
//! the whole arena moves into an unlinked temporary file and goes on from there: only the segment that is being filled stays in
//! memory, and places stay valid. The file ends with the arena, or with the process, however that ends.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use memmap2::MmapMut;

use super::Full;
use super::prefetch::prefetch;
use crate::memory::Share;
use crate::repo::link::Digest;

/// Bytes of the first segment, which most repos fit into and which is kept for the next one; and of those that are taken when the
/// budget has no room for a larger one.
const SMALL: usize = 256 << 10;
/// Bytes of the other segments: a huge page.
const LARGE: usize = 2 << 20;
/// Segments are whole pages.
const PAGE: usize = 4096;

/// Frames of a CAR have at most 4 MiB, so a block is shorter than this many bits can say.
const LENGTH_BITS: u32 = 23;
/// Blocks begin in the first [`LARGE`] bytes of a segment, also of one that is larger.
const OFFSET_BITS: u32 = 21;
const SEGMENT_BITS: u32 = u64::BITS - OFFSET_BITS - LENGTH_BITS;

/// Where a block lies: its segment, the offset of its digest in it, and the length of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u64);

impl Place {
    fn new(segment: usize, offset: usize, length: usize) -> Result<Self, Full> {
        if segment >> SEGMENT_BITS != 0 || offset >> OFFSET_BITS != 0 || length >> LENGTH_BITS != 0
        {
            return Err(Full::TooMuch);
        }
        let place = (segment << OFFSET_BITS | offset) << LENGTH_BITS | length;
        Ok(Place(place as u64))
    }

    /// As two words, for a table without padding.
    pub fn to_words(self) -> [u32; 2] {
        [(self.0 >> 32) as u32, self.0 as u32]
    }

    /// The place of these words.
    pub fn from_words([high, low]: [u32; 2]) -> Self {
        Place(u64::from(high) << 32 | u64::from(low))
    }

    fn segment(self) -> usize {
        (self.0 >> (OFFSET_BITS + LENGTH_BITS)) as usize
    }

    fn offset(self) -> usize {
        (self.0 >> LENGTH_BITS) as usize & ((1 << OFFSET_BITS) - 1)
    }

    /// Bytes of digest and block together.
    fn length(self) -> usize {
        size_of::<Digest>() + (self.0 as usize & ((1 << LENGTH_BITS) - 1))
    }
}

struct Segment {
    /// Where it begins in the file.
    start: u64,
    /// How much of it is used.
    used: usize,
    /// Its bytes, as long as they are in memory.
    memory: Option<MmapMut>,
}

/// The bytes of all blocks.
pub struct Arena {
    segments: Vec<Segment>,
    file: Option<File>,
    folder: Arc<Path>,
    share: Share,
}

impl Arena {
    /// An empty one, that will be held by `share` and spill into `folder`.
    pub fn new(share: Share, folder: &Arc<Path>) -> Self {
        Arena {
            segments: Vec::new(),
            file: None,
            folder: Arc::clone(folder),
            share,
        }
    }

    /// Forgets all blocks. The first segment is kept if `keeps` is set, so that a small repo costs no page fault.
    pub fn clear(&mut self, keeps: bool) {
        self.file = None;
        self.segments.truncate(1);
        let size = |first: &Segment| first.memory.as_ref().map_or(0, |memory| memory.len());
        match self.segments.first_mut() {
            Some(first) if keeps && size(first) == SMALL => {
                (first.start, first.used) = (0, 0);
                self.share.set(SMALL as u64);
            }
            _ => {
                self.segments.clear();
                self.share.set(0);
            }
        }
    }

    /// Appends a block.
    ///
    /// # Errors
    /// [`Full`].
    #[inline]
    pub fn push(&mut self, digest: &Digest, bytes: &[u8]) -> Result<Place, Full> {
        let need = size_of::<Digest>() + bytes.len();
        let fits = self.segments.last().is_some_and(|segment| {
            let memory = segment.memory.as_ref();
            segment.used >> OFFSET_BITS == 0
                && memory.is_some_and(|memory| memory.len() - segment.used >= need)
        });
        if !fits {
            self.add_segment(need)?;
        }
        let number = self.segments.len().saturating_sub(1);
        let Some(Segment {
            used,
            memory: Some(memory),
            ..
        }) = self.segments.last_mut()
        else {
            return Err(self.failed(io::ErrorKind::OutOfMemory.into()));
        };
        let place = Place::new(number, *used, bytes.len())?;
        let (head, tail) = memory[*used..*used + need].split_at_mut(size_of::<Digest>());
        head.copy_from_slice(digest);
        tail.copy_from_slice(bytes);
        *used += need;
        Ok(place)
    }

    /// Digest and bytes of a block that is in memory.
    #[inline]
    fn in_memory(&self, place: Place) -> Option<(&Digest, &[u8])> {
        let memory = self.segments.get(place.segment())?.memory.as_ref()?;
        let offset = place.offset();
        memory
            .get(offset..offset + place.length())?
            .split_first_chunk()
    }

    /// Whether the block at a place has this digest; then [`Arena::loaded`] has its bytes, for which `buffer` is where they come
    /// from the file.
    ///
    /// # Errors
    /// When the file cannot be read.
    #[inline]
    pub fn load(&self, place: Place, digest: &Digest, buffer: &mut Vec<u8>) -> io::Result<bool> {
        if let Some((found, _)) = self.in_memory(place) {
            return Ok(found == digest);
        }
        // Digest and bytes at once: what is looked for is nearly always what is there.
        self.read_file(place, place.length(), buffer)?;
        Ok(buffer.starts_with(digest))
    }

    /// The bytes of a block that was loaded into this buffer.
    #[inline]
    pub fn loaded<'s>(&'s self, place: Place, buffer: &'s [u8]) -> Option<&'s [u8]> {
        match self.in_memory(place) {
            Some((_, bytes)) => Some(bytes),
            None => buffer.get(size_of::<Digest>()..),
        }
    }

    /// Whether the block at a place has this digest.
    ///
    /// # Errors
    /// When the file cannot be read.
    #[inline]
    pub fn is_at(&self, place: Place, digest: &Digest) -> io::Result<bool> {
        if let Some((found, _)) = self.in_memory(place) {
            return Ok(found == digest);
        }
        Ok(self.read_digest(place)? == *digest)
    }

    /// Whether the same block is at both places.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn are_same(&self, a: Place, b: Place) -> io::Result<bool> {
        match self.in_memory(a) {
            Some((digest, _)) => self.is_at(b, digest),
            None => self.is_at(b, &self.read_digest(a)?),
        }
    }

    /// Lets the processor fetch a block that will be read soon.
    #[inline]
    pub fn prefetch(&self, place: Place) {
        if let Some((_, bytes)) = self.in_memory(place) {
            prefetch(bytes);
        }
    }

    /// Whether the blocks are in a file.
    pub fn is_spilled(&self) -> bool {
        self.file.is_some()
    }

    /// Whether there are blocks in memory that could be in the file; those of a small repo stay.
    #[inline]
    pub fn is_in_memory(&self) -> bool {
        self.file.is_none() && self.segments.len() > 1
    }

    /// Moves all blocks into a file.
    ///
    /// # Errors
    /// [`Full::Spill`]; then all blocks are still where they were.
    pub fn spill(&mut self) -> Result<(), Full> {
        if self.file.is_some() {
            return Ok(());
        }
        let file = tempfile::tempfile_in(&self.folder).map_err(|e| self.failed(e))?;
        let mut start = 0;
        for segment in &mut self.segments {
            segment.start = start;
            start += segment.used as u64;
        }
        for segment in &self.segments {
            write(&file, segment).map_err(|e| self.failed(e))?;
        }
        for segment in &mut self.segments {
            segment.memory = None;
        }
        self.share.set(0);
        self.file = Some(file);
        Ok(())
    }

    /// A segment with room for so many bytes, in memory; the one before goes to the file, if there is one.
    fn add_segment(&mut self, need: usize) -> Result<(), Full> {
        let need = need.next_multiple_of(PAGE);
        if self.file.is_none() {
            let first = self.segments.is_empty();
            let sizes = if first { [SMALL; 2] } else { [LARGE, SMALL] };
            for size in sizes.map(|size| size.max(need)) {
                // An arena in a file takes a small segment without asking, so a small repo may as well, and needs no file.
                let free = first && size == SMALL;
                if free {
                    self.share.grow(size);
                }
                if free || self.share.try_grow(size) {
                    match map(size) {
                        Ok(memory) => {
                            self.append(memory);
                            return Ok(());
                        }
                        // As good as refused.
                        Err(_) => self.share.shrink(size),
                    }
                }
            }
            self.spill()?;
        }
        // The segment that has just been filled, whose memory serves again where it is large enough.
        let mut memory = None;
        if let Some((file, last)) = self.file.as_ref().zip(self.segments.last_mut())
            && last.memory.is_some()
        {
            write(file, last).map_err(|e| Full::spill(&self.folder, e))?;
            memory = last.memory.take();
        }
        let memory = match memory.filter(|memory| memory.len() >= need) {
            Some(memory) => memory,
            None => map(SMALL.max(need)).map_err(|e| self.failed(e))?,
        };
        self.share.set(memory.len() as u64);
        self.append(memory);
        Ok(())
    }

    fn append(&mut self, memory: MmapMut) {
        let last = self.segments.last();
        self.segments.push(Segment {
            start: last.map_or(0, |last| last.start + last.used as u64),
            used: 0,
            memory: Some(memory),
        });
    }

    fn in_file(&self, place: Place) -> io::Result<(&File, u64)> {
        let segment = self.segments.get(place.segment());
        match self.file.as_ref().zip(segment) {
            Some((file, segment)) => Ok((file, segment.start + place.offset() as u64)),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn read_digest(&self, place: Place) -> io::Result<Digest> {
        let (file, position) = self.in_file(place)?;
        let mut digest = [0; size_of::<Digest>()];
        file.read_exact_at(&mut digest, position)?;
        Ok(digest)
    }

    fn read_file(&self, place: Place, length: usize, buffer: &mut Vec<u8>) -> io::Result<()> {
        let (file, position) = self.in_file(place)?;
        buffer.resize(length, 0);
        file.read_exact_at(buffer, position)
    }

    fn failed(&self, error: io::Error) -> Full {
        Full::spill(&self.folder, error)
    }
}

fn write(file: &File, segment: &Segment) -> io::Result<()> {
    match &segment.memory {
        Some(memory) => file.write_all_at(&memory[..segment.used], segment.start),
        None => Ok(()),
    }
}

fn map(size: usize) -> io::Result<MmapMut> {
    let memory = MmapMut::map_anon(size)?;
    #[cfg(target_os = "linux")]
    if size >= LARGE {
        // Where there are none, small pages do as well.
        let _ = memory.advise(memmap2::Advice::HugePage);
    }
    Ok(memory)
}
