//! The events of one repo as lines: what the worker's [`Writer`](crate::sink::Writer) is for Redis.
//!
//! The same encoder makes the same chunks, each ended by a `repo` event; a chunk is written in one go. Leaves that are written are
//! noted as the worker notes them, so that another attempt, should reading fail in the midst of a repo, goes on behind them.
//! Pinned by `tests/export.rs`.

use std::io;
use std::time::SystemTime;

use super::output::Turn;
use crate::collections::Collections;
use crate::error::JobError;
use crate::event::{Events, timestamp};
use crate::fault::{self, Stage};
use crate::memory::{Budget, Share};
use crate::metrics::Metrics;
use crate::queue::progress::{Progress, Written};
use crate::repo::mst::Leaf;
use crate::repo::record::Skip;
use crate::sink::EventWriter;
use crate::sink::batch::{Batch, Form};
use crate::sink::encoder::Encoder;
use crate::status::Slot;

/// Events as lines of JSON.
struct Lines;

impl Form for Lines {
    const HEAD: &'static [u8] = b"";
    type Open = usize;

    fn open(out: &mut Vec<u8>) -> usize {
        out.len()
    }

    fn close(open: usize, out: &mut Vec<u8>) -> usize {
        let length = out.len() - open;
        out.push(b'\n');
        length
    }
}

/// What one thread keeps from repo to repo.
pub(super) struct Buffers {
    batch: Batch<Lines>,
    encoder: Encoder,
    /// What the chunk takes of the memory of all.
    share: Share,
}

impl Buffers {
    /// Nothing yet.
    pub(super) fn new(memory: &std::sync::Arc<Budget>) -> Self {
        Buffers {
            batch: Batch::default(),
            encoder: Encoder::new(Vec::new()),
            share: Share::new(memory),
        }
    }

    /// Forgets what a repo has left, as where its writing has ended in its midst.
    pub(super) fn clear(&mut self) {
        self.batch.clear();
        self.batch.shrink(!self.share.budget().is_overdrawn());
        self.count();
    }

    fn count(&mut self) {
        self.share.set(self.batch.bytes.capacity() as u64);
    }
}

/// Why the lines of a repo are not all written.
pub(super) enum Interrupted {
    /// A leaf could not be read.
    Failed(JobError),
    /// The output takes no more.
    Output(io::Error),
}

impl From<JobError> for Interrupted {
    fn from(error: JobError) -> Self {
        Interrupted::Failed(error)
    }
}

/// Whose events they are.
pub(super) struct About<'a> {
    pub did: &'a str,
    pub commit: &'a cid::Cid,
    pub rev: &'a str,
}

/// The [`EventWriter`] of a repo whose turn it is.
pub(super) struct LineWriter<'a, 't> {
    turn: &'a mut Turn<'t>,
    buffers: &'a mut Buffers,
    collections: &'a Collections,
    metrics: &'a Metrics,
    slot: &'a Slot,
    place: Place<'a>,
    did: &'a str,
    events: Events,
}

/// How far a commit is written.
struct Place<'a> {
    progress: &'a mut Progress,
    commit: String,
    written: Written,
    passed: u64,
}

impl<'a, 't> LineWriter<'a, 't> {
    /// Begins the lines of a proven repo, or goes on with them.
    pub(super) fn new(
        turn: &'a mut Turn<'t>,
        buffers: &'a mut Buffers,
        progress: &'a mut Progress,
        about: &About<'a>,
        (collections, metrics, slot): (&'a Collections, &'a Metrics, &'a Slot),
    ) -> Self {
        let commit = about.commit.to_string();
        let written = progress.written(&commit).unwrap_or_else(|| Written {
            leaves: 0,
            time: timestamp(SystemTime::now()),
        });
        LineWriter {
            turn,
            buffers,
            collections,
            metrics,
            slot,
            events: Events::new(about.did, about.commit, about.rev, &written.time),
            place: Place {
                passed: written.leaves,
                progress,
                commit,
                written,
            },
            did: about.did,
        }
    }

    /// Ends the chunk, which may be the last one, and writes it.
    fn seal(&mut self, last: bool) -> Result<(), Interrupted> {
        let Buffers { batch, .. } = &mut *self.buffers;
        batch.bytes.extend_from_slice(self.events.repo());
        batch.bytes.push(b'\n');
        self.turn.write(&batch.bytes).map_err(Interrupted::Output)?;
        let Place {
            progress,
            commit,
            written,
            passed,
        } = &mut self.place;
        let field = Written::to_field(*passed, &written.time);
        progress.0.insert(commit.clone(), field);
        self.metrics.records.add(batch.creates as u64);
        self.slot.add_records(batch.creates as u64);
        batch.clear();
        if !last {
            fault::panic_if_asked(Stage::Write, self.did);
        }
        Ok(())
    }
}

impl EventWriter for LineWriter<'_, '_> {
    type Error = Interrupted;

    fn resumed(&self) -> u64 {
        self.place.written.leaves
    }

    fn wants(&mut self, leaf: &Leaf<'_>) -> bool {
        let wanted = self.buffers.encoder.wants(self.collections, leaf);
        self.place.passed += u64::from(!wanted);
        wanted
    }

    fn record(
        &mut self,
        leaf: &Leaf<'_>,
        block: Option<&[u8]>,
    ) -> Result<Option<Skip>, Interrupted> {
        let Buffers { batch, encoder, .. } = &mut *self.buffers;
        let encoded = encoder.create(batch, &self.events, leaf, block);
        if encoded.is_ok() && batch.is_too_large(self.events.repo().len()) {
            let next = batch.take_last();
            self.seal(false)?;
            self.buffers.batch.become_next(next);
        }
        self.place.passed += 1;
        self.buffers.count();
        Ok(encoded.err())
    }

    fn finish(mut self) -> Result<(), Interrupted> {
        self.seal(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_whose_end_does_not_count() {
        let mut batch = Batch::<Lines>::default();
        for text in ["{}", "{\"a\":1}"] {
            let added = batch.event::<()>(b"", 16, |out| {
                out.extend_from_slice(text.as_bytes());
                Ok(())
            });
            assert_eq!(added, Ok(()));
        }
        assert_eq!(batch.bytes, b"{}\n{\"a\":1}\n");
        assert_eq!((batch.creates, batch.json), (2, 9));
        let next = batch.take_last();
        assert_eq!(
            (&*batch.bytes, &*next.bytes),
            (&b"{}\n"[..], &b"{\"a\":1}\n"[..])
        );
    }
}
