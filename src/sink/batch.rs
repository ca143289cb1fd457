//! The events of a chunk, encoded where they are sent from: how many and how large they may be together, whatever form they have.
//!
//! The sink has them as commands of Redis ([`Commands`](super::chunk::Commands)), `backfiller export` as lines; which it is, is known when this
//! is compiled, so no record is dispatched. Pinned by `tests/events.rs` and `tests/export.rs`.

use std::marker::PhantomData;

use super::{MAX_CREATES, MAX_JSON};

/// Buffers up to this size are kept for the next chunk of a repo: a full one, with what stands around its events.
const KEEP: usize = MAX_JSON + (512 << 10);
/// Buffers up to this size are kept for the next repo: most chunks fit.
const KEEP_SMALL: usize = 512 << 10;
/// How much room is made at a time, at least.
const ROOM: usize = 64 << 10;

/// How events stand in the bytes of a chunk.
pub trait Form {
    /// What a chunk begins with.
    const HEAD: &'static [u8];
    /// An event that is being written.
    type Open;

    /// Begins an event, whose bytes the caller appends.
    fn open(out: &mut Vec<u8>) -> Self::Open;

    /// Ends it; returns its length in bytes.
    fn close(open: Self::Open, out: &mut Vec<u8>) -> usize;
}

/// The `create` events of one chunk.
pub struct Batch<F> {
    /// In their form; begins with its head as soon as there is anything.
    pub bytes: Vec<u8>,
    /// How many there are.
    pub creates: usize,
    /// Their bytes of JSON.
    pub json: usize,
    /// The last one of them.
    last: Event,
    form: PhantomData<F>,
}

/// An event in a chunk.
#[derive(Clone, Copy, Default)]
struct Event {
    /// Where it begins, with what stands before it.
    at: usize,
    /// Bytes of its JSON.
    json: usize,
}

impl<F> Default for Batch<F> {
    fn default() -> Self {
        Batch {
            bytes: Vec::new(),
            creates: 0,
            json: 0,
            last: Event::default(),
            form: PhantomData,
        }
    }
}

impl<F: Form> Batch<F> {
    /// Makes room for the next chunk.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
        (self.creates, self.json) = (0, 0);
    }

    /// Gives back what an unusual chunk has needed; all, unless `keeps` is set.
    pub fn shrink(&mut self, keeps: bool) {
        self.bytes.shrink_to(if keeps { KEEP_SMALL } else { 0 });
    }

    /// Adds an event that `write` appends; `before` is what stands before it, `size` what both will probably take.
    ///
    /// # Errors
    /// What `write` says; then nothing is added.
    pub fn event<E>(
        &mut self,
        before: &[u8],
        size: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let length = self.bytes.len();
        // Doubling would take twice of what a large chunk needs.
        if self.bytes.capacity() - length < size {
            self.bytes.reserve_exact(size.max(ROOM));
        }
        self.begin();
        let out = &mut self.bytes;
        let at = out.len();
        out.extend_from_slice(before);
        let event = F::open(out);
        if let Err(e) = write(out) {
            out.truncate(length);
            return Err(e);
        }
        let json = F::close(event, out);
        self.last = Event { at, json };
        self.count(json);
        Ok(())
    }

    /// Whether it is larger than a chunk may be, with so many bytes of JSON to come; one event is always in its place.
    pub fn is_too_large(&self, more: usize) -> bool {
        self.creates > MAX_CREATES || (self.creates > 1 && self.json + more > MAX_JSON)
    }

    /// Takes the last event out again, as the first of a chunk of its own.
    pub fn take_last(&mut self) -> Batch<F> {
        let Event { at, json } = self.last;
        let mut next = Batch::default();
        next.bytes
            .reserve_exact(self.bytes.len() - at + F::HEAD.len());
        next.begin();
        next.bytes.extend_from_slice(&self.bytes[at..]);
        next.count(json);
        self.bytes.truncate(at);
        // The event may have been much larger than all others together.
        self.bytes.shrink_to(KEEP);
        self.creates -= 1;
        self.json -= json;
        next
    }

    /// Becomes the next chunk, in its own memory where that is enough.
    pub fn become_next(&mut self, next: Batch<F>) {
        if self.bytes.capacity() < next.bytes.len() {
            *self = next;
            return;
        }
        self.clear();
        self.bytes.extend_from_slice(&next.bytes);
        (self.creates, self.json) = (next.creates, next.json);
    }

    /// Begins the chunk, unless something is in it already.
    pub fn begin(&mut self) {
        if self.bytes.is_empty() {
            self.bytes.extend_from_slice(F::HEAD);
        }
    }

    fn count(&mut self, json: usize) {
        self.creates += 1;
        self.json += json;
    }
}
