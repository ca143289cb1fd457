//! From the leaves of a proven tree to events, as often as the connection is lost on the way.
//!
//! Nothing of a repo is written twice: behind a lost connection Redis is asked which leaves its events are of, and the walk passes
//! those over. Pinned by `tests/cuts.rs` and `tests/sink.rs`.

use super::source::Fetched;
use crate::error::JobError;
use crate::queue::Job;
use crate::queue::fence::Standing;
use crate::repo::mst::{Leaf, Tree};
use crate::repo::record::Skip;
use crate::sink::{EventWriter, Interrupted, Sink};

/// Skipped records of one repo that are logged one by one; the others are only counted.
const SKIPS_SAID: u64 = 5;

/// What became of the leaves of a repo whose events are all written and whose message is acknowledged.
#[derive(Default)]
pub(crate) struct Written {
    pub records: u64,
    pub skipped: u64,
    /// Records of collections that are not wanted.
    pub filtered: u64,
    /// Leaves that were written before this attempt, or before a connection was lost.
    pub resumed: u64,
}

/// Turns the leaves of a proven tree into events, and returns when the last of them is in the output; or whose the message is
/// instead.
pub(super) fn write(
    sink: &mut Sink,
    job: &Job,
    fetched: &Fetched,
    tree: &mut Tree<'_>,
) -> Result<Result<Written, Standing>, JobError> {
    loop {
        match write_once(sink, job, fetched, tree) {
            Ok(written) => return Ok(Ok(written)),
            Err(Interrupted::NotOurs(standing)) => return Ok(Err(standing)),
            Err(Interrupted::Failed(error)) => return Err(error),
            Err(Interrupted::Resume) => {}
        }
    }
}

/// The same as long as the connection lasts. Leaves whose events are in the output already are left out.
fn write_once(
    sink: &mut Sink,
    job: &Job,
    fetched: &Fetched,
    tree: &mut Tree<'_>,
) -> Result<Written, Interrupted> {
    let writer = sink.begin(job, &fetched.root, &fetched.commit.rev);
    let resumed = writer.resumed();
    if resumed > 0 {
        let why = format_args!("going on behind leaf {resumed}");
        log::info!(did = job.message.did, id = job.id, "~resumed" = resumed, why:% = why; "");
    }
    write_leaves(writer, &job.message.did, tree)
}

/// Hands the leaves of a proven tree to whoever writes their events, but for those that are written already.
///
/// # Errors
/// Those of the writer, and [`Reason::Deferred`](crate::error::Reason::Deferred) where a file of blocks cannot be read.
pub(crate) fn write_leaves<W: EventWriter>(
    mut writer: W,
    did: &str,
    tree: &mut Tree<'_>,
) -> Result<Written, W::Error> {
    let mut written = Written {
        resumed: writer.resumed(),
        ..Written::default()
    };
    let mut leaves = tree.walk();
    let mut passed = 0;
    while let Some(leaf) = leaves.next(tree)? {
        passed += 1;
        if passed <= written.resumed {
            continue;
        }
        if !writer.wants(&leaf) {
            written.filtered += 1;
            continue;
        }
        match writer.record(&leaf, tree.record(&leaf)?)? {
            None => written.records += 1,
            Some(skip) => {
                written.skipped += 1;
                log_skip(did, &leaf, skip, written.skipped);
            }
        }
    }
    writer.finish()?;
    Ok(written)
}

/// The first skipped records of a repo are said at once; all of them only where somebody listens to more.
fn log_skip(did: &str, leaf: &Leaf<'_>, skip: Skip, count: u64) {
    let level = if count <= SKIPS_SAID {
        log::Level::Warn
    } else {
        log::Level::Debug
    };
    let key = String::from_utf8_lossy(leaf.key);
    let (key, cid) = (key.escape_debug(), leaf.value);
    log::log!(level, did = did, key:% = key, cid:% = cid, why:% = skip; "skipped");
}
