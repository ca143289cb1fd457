//! From the bytes of a CAR to hash-checked blocks (R2, R3, R4).
//!
//! iroh-car splits the stream into frames while the bytes arrive; each block is hashed before it is kept. Three things that
//! iroh-car does not see are seen here: that a block's bytes do not hash to its CID; that the stream ends inside the length of
//! a frame, which iroh-car takes for a clean end; and that the reading itself failed, which is the fetch's error and not the
//! CAR's. Blocks whose CID is not CIDv1/sha2-256/dag-cbor or raw are passed over: nothing can lead to them. Pinned by
//! `tests/repo_car.rs` (`r2_…`, `r3_…`, `r4_…`).

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use iroh_car::CarReader;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, ReadBuf};

use super::blocks::BlockStore;
use super::link::{DAG_CBOR, Digest, block_digest};
use crate::block_on::block_on;
use crate::error::{JobError, Reason};

/// iroh-car asks for the length of a frame byte by byte.
const BUFFER: usize = 64 * 1024;

/// The root of a CAR: the CID of the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// The CID as the CAR's header names it.
    pub cid: cid::Cid,
    /// Its digest, by which the block is found.
    pub digest: Digest,
}

/// Reads a whole CAR into `blocks`, seals them, and returns its first root, which `named` holds as soon as the header has named it.
///
/// An [`io::Error`] of `reader` that carries a [`JobError`] is returned as that error, any other as [`Reason::Network`].
///
/// # Errors
/// [`Reason::Car`] for a wrong header, frame or hash; [`Reason::TooLarge`] for too many blocks;
/// [`Reason::Deferred`] where they do not fit into memory and cannot go to a file; and what the reader says.
pub fn read(
    reader: impl Read + Unpin,
    blocks: &mut BlockStore,
    named: &mut Option<Root>,
) -> Result<Root, JobError> {
    let position = Cell::new(0);
    let mut source = Source {
        reader: BufReader::with_capacity(BUFFER, reader),
        position: &position,
        failure: None,
    };
    let result = block_on(read_frames(&mut source, &position, blocks, named));
    // A failure of the reader comes first: what iroh-car made of it is a consequence.
    match source.failure {
        Some(failure) => Err(failure),
        None => result,
    }
}

async fn read_frames<R: Read + Unpin>(
    source: &mut Source<'_, R>,
    position: &Cell<u64>,
    blocks: &mut BlockStore,
    named: &mut Option<Root>,
) -> Result<Root, JobError> {
    let mut car = CarReader::new(source).await.map_err(|e| wrong(0, e))?;
    // iroh-car refuses a header without roots.
    let root = car
        .header()
        .roots()
        .first()
        .filter(|cid| cid.codec() == DAG_CBOR)
        .and_then(|cid| block_digest(cid).map(|digest| Root { cid: *cid, digest }))
        .ok_or_else(|| wrong(0, "the root is no CIDv1 with dag-cbor and sha2-256"))?;
    *named = Some(root);
    let mut boundary = position.get();
    while let Some((cid, bytes)) = car.next_block().await.map_err(|e| wrong(boundary, e))? {
        if let Some(digest) = block_digest(&cid) {
            if digest != *Sha256::digest(&bytes) {
                return Err(wrong(
                    boundary,
                    format_args!("the bytes do not hash to {cid}"),
                ));
            }
            blocks.insert(&digest, &bytes)?;
        }
        boundary = position.get();
    }
    if position.get() != boundary {
        return Err(wrong(boundary, "the CAR ends inside the length of a frame"));
    }
    blocks.seal()?;
    Ok(root)
}

/// An error of the frame that begins at this byte; the header is the frame at 0.
fn wrong(byte: u64, what: impl fmt::Display) -> JobError {
    JobError::new(Reason::Car, format_args!("frame at byte {byte}: {what}"))
}

/// A blocking reader as tokio's `AsyncRead`: each poll is a blocking read, so no poll is ever pending.
struct Source<'a, R> {
    reader: BufReader<R>,
    /// Bytes handed out so far; shared with the one who needs to know where frames begin.
    position: &'a Cell<u64>,
    /// What went wrong in the reader; iroh-car turns it into text.
    failure: Option<JobError>,
}

impl<R: Read + Unpin> AsyncRead for Source<'_, R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match this.reader.fill_buf() {
                Ok(available) => {
                    let count = available.len().min(buffer.remaining());
                    buffer.put_slice(&available[..count]);
                    this.reader.consume(count);
                    this.position.set(this.position.get() + count as u64);
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    let kind = e.kind();
                    this.failure = Some(match e.downcast::<JobError>() {
                        Ok(failure) => failure,
                        Err(e) => JobError::new(Reason::Network, e),
                    });
                    return Poll::Ready(Err(kind.into()));
                }
            }
        }
    }
}
