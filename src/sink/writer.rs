//! The events of one repo: from leaves to chunks.

use super::{EventWriter, Interrupted, Sink};
use crate::event::Events;
use crate::queue::Job;
use crate::queue::fence::Standing;
use crate::queue::progress::Written;
use crate::repo::mst::Leaf;
use crate::repo::record::Skip;

/// The [`EventWriter`] of a message's repo: its chunks go to Redis.
///
/// A chunk notes all leaves that are passed with it, the unwanted ones among them: the next attempt goes on behind them whatever its
/// filter is (`tests/collections.rs`).
///
/// Dropped without [`EventWriter::finish`], it leaves the message pending and what was executed in the output.
pub struct Writer<'s> {
    pub(super) sink: &'s mut Sink,
    pub(super) events: Events,
    pub(super) job: &'s Job,
    /// Leaves that were written before.
    pub(super) resumed: u64,
    /// Leaves up to the end of the last chunk that was sealed.
    pub(super) sealed: u64,
    /// Leaves up to the last one taken, those before included.
    pub(super) passed: u64,
}

impl EventWriter for Writer<'_> {
    type Error = Interrupted;

    fn resumed(&self) -> u64 {
        self.resumed
    }

    fn wants(&mut self, leaf: &Leaf<'_>) -> bool {
        let Sink {
            config, encoder, ..
        } = &mut *self.sink;
        let wanted = encoder.wants(&config.collections, leaf);
        self.passed += u64::from(!wanted);
        wanted
    }

    /// Encodes a leaf's `create` event into the chunk; sends the chunk without it where it does not fit any more.
    fn record(
        &mut self,
        leaf: &Leaf<'_>,
        block: Option<&[u8]>,
    ) -> Result<Option<Skip>, Interrupted> {
        let Sink {
            filling, encoder, ..
        } = &mut *self.sink;
        if let Err(skip) = encoder.create(&mut filling.events, &self.events, leaf, block) {
            self.passed += 1;
            self.sink.count_memory();
            return Ok(Some(skip));
        }
        let more = self.events.repo().len();
        if filling.events.is_too_large(more) {
            // First, so that not three chunks are held at a time.
            self.sink.settle(self.job)?;
            let next = self.sink.filling.events.take_last();
            self.seal(false)?;
            self.sink.filling.become_next(next);
        }
        self.passed += 1;
        self.sink.count_memory();
        Ok(None)
    }

    /// Sends the last chunk with the acknowledgement, and waits until Redis has executed it.
    fn finish(mut self) -> Result<(), Interrupted> {
        self.seal(true)?;
        self.sink.settle(self.job)
    }
}

impl Writer<'_> {
    /// Ends the chunk and sends it.
    fn seal(&mut self, last: bool) -> Result<(), Interrupted> {
        let sink = &mut *self.sink;
        let Some(fence) = &sink.fence else {
            return Err(Interrupted::NotOurs(Standing::Taken));
        };
        let output = sink.config.firehose_stream.as_bytes();
        let (progress, owner) = (fence.progress_key(), fence.owner_key());
        let chunk = &mut sink.filling;
        chunk.queue(&[b"XADD", output, b"*", b"event", self.events.repo()]);
        if last {
            let input = sink.config.backfill_stream.as_bytes();
            let (group, id) = (sink.config.group.as_bytes(), self.job.id.as_bytes());
            chunk.queue(&[b"XACK", input, group, id]);
            chunk.queue(&[b"XDEL", input, id]);
            chunk.queue(&[b"DEL", progress, owner]);
            chunk.last = true;
        } else {
            let written = Written::to_field(self.passed, &sink.time);
            chunk.queue(&[
                b"HSET",
                progress,
                sink.commit.as_bytes(),
                written.as_bytes(),
            ]);
        }
        chunk.seal(owner, output);
        (chunk.from, chunk.to) = (self.sealed, self.passed);
        self.sealed = self.passed;
        sink.send(self.job)
    }
}

impl Drop for Writer<'_> {
    /// Also where a panic unwinds through the job: the next one must not read the replies of this one.
    fn drop(&mut self) {
        self.sink.abandon();
    }
}
