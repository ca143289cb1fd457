//! From a CAR that is there to a commit whose signature has been verified: what [`Source`](crate::worker::source::Source) is for accounts.
//!
//! The blocks go where those of a download go, in the same memory and under the same limit of size; what is proved of them is
//! the same as well, but that the key is the [`Trust`]'s. Pinned by `tests/export_offline.rs`.

use std::fs::File;
use std::io::{self, Read};
use std::time::SystemTime;

use super::sources::Origin;
use super::trust::{Trust, did_of};
use crate::error::{JobError, Reason};
use crate::metrics::Counter;
use crate::repo::blocks::BlockStore;
use crate::repo::car;
use crate::repo::commit::Commit;
use crate::status::Slot;
use crate::worker::source::commit_block;

/// A repo whose blocks are in the store and whose commit is in order.
pub(super) struct Opened {
    pub did: String,
    pub root: cid::Cid,
    pub commit: Commit,
}

/// How offline CARs are read.
pub(super) struct Opener {
    /// What their signatures are held against.
    pub trust: Trust,
    /// Whose they must be, if that was said.
    pub did: Option<String>,
    /// Largest CAR in bytes.
    pub max_bytes: u64,
}

impl Opener {
    /// Reads a CAR into the store, and proves who signed it. What is read is counted as of a download: in the job's slot and
    /// among the bytes of all.
    ///
    /// # Errors
    /// [`Reason::Car`] also where the file cannot be read; [`Reason::TooLarge`]; those of the commit, and of [`Trust::verify`].
    pub(super) fn open(
        &self,
        origin: &Origin,
        blocks: &mut BlockStore,
        (slot, all): (&Slot, &Counter),
    ) -> Result<Opened, JobError> {
        let unreadable =
            |e: io::Error| JobError::new(Reason::Car, format_args!("cannot be read: {e}"));
        let input: Box<dyn Read> = match origin {
            Origin::File(path) => Box::new(File::open(path).map_err(unreadable)?),
            _ => Box::new(io::stdin().lock()),
        };
        let mut input = Input {
            input,
            bytes: 0,
            max_bytes: self.max_bytes,
            slot,
            all,
        };
        let root = car::read(&mut input, blocks, &mut None)?;
        let mut buffer = Vec::new();
        let block = commit_block(blocks, &root, &mut buffer)?;
        let did = did_of(block, self.did.as_deref())?;
        let commit = Commit::read(block, &did, SystemTime::now())?;
        self.trust.verify(&did, &commit)?;
        Ok(Opened {
            did,
            root: root.cid,
            commit,
        })
    }
}

/// The bytes of a CAR, up to the limit.
struct Input<'s> {
    input: Box<dyn Read>,
    bytes: u64,
    max_bytes: u64,
    slot: &'s Slot,
    all: &'s Counter,
}

impl Read for Input<'_> {
    /// Every error but `Interrupted` carries a [`JobError`].
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.input.read(buffer) {
            Ok(count) => {
                self.bytes += count as u64;
                self.all.add(count as u64);
                self.slot.add_bytes(count as u64);
                if self.bytes > self.max_bytes {
                    let text = format_args!("the repo is larger than {} bytes", self.max_bytes);
                    return Err(io::Error::other(JobError::new(Reason::TooLarge, text)));
                }
                Ok(count)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                let text = format_args!("cannot be read: {e}");
                Err(io::Error::other(JobError::new(Reason::Car, text)))
            }
        }
    }
}
