//! `make micro`: what each stage of a repo's way costs, alone and in this process: no server, no Redis, no other thread.
//!
//! The repos are those of `make bench`: 10,000 and 100,000 records with their blocks in the order of the tree, and shuffled. Stages that
//! read from the block store are measured with the blocks in memory and with the blocks in a file.
//!
//! The throughput is in records of the repo (`item/s`), whatever the stage handles, so that stages compare and add up: 1 Mitem/s is
//! 1,000 ns a record. `fastest` is the column to read: what disturbs a sample makes it longer, never shorter.
//!
//! What the program does between the download and the socket is `car_read` + `prove` + `events`; the others are parts of these: `hash`
//! of `car_read`; `walk`, which is in `look_up`, `transcode` and `framing` of `events`.

mod cases;
#[allow(dead_code, reason = "`make bench` uses the rest")]
mod data;
mod mix;
#[allow(dead_code, reason = "`make bench` uses the rest")]
mod process;
#[allow(dead_code, reason = "`make bench` uses the rest")]
mod sets;

#[path = "../support"]
#[allow(dead_code, unreachable_pub, reason = "each user needs a part of it")]
mod support {
    pub mod generator;
}

use std::collections::HashMap;
use std::time::SystemTime;

use divan::{Bencher, black_box};
use rsky_backfiller::event::{Events, timestamp};
use rsky_backfiller::repo::car;
use rsky_backfiller::repo::commit::Commit;
use rsky_backfiller::repo::link::{Digest, Link};
use rsky_backfiller::repo::mst::{self, Tree};
use rsky_backfiller::repo::record::{self, KeyParser, Skip};
use rsky_backfiller::resp;
use rsky_backfiller::sink::MAX_CREATES;
use rsky_backfiller::sink::chunk::Chunk;
use sha2::{Digest as _, Sha256};

use cases::{CASES, Case, Kept, Repo, in_memory, kept};
use support::generator::car::{block, frames};

fn main() {
    divan::main();
}

/// From the bytes of the CAR to hash-checked blocks that can be found; with what it takes to forget those of the repo before.
#[divan::bench(args = kept(), max_time = 1)]
fn car_read(bencher: Bencher<'_, '_>, kept: &Kept) {
    let repo = kept.case.repo();
    let mut blocks = kept.store();
    bencher.counter(kept.case.count()).bench_local(|| {
        blocks.clear();
        car::read(&repo.car[..], &mut blocks, &mut None).expect("a good CAR")
    });
}

/// The hash check of all blocks: SHA-256, compared with the digest in the CID.
#[divan::bench(args = CASES, max_time = 1)]
fn hash(bencher: Bencher<'_, '_>, case: &Case) {
    let blocks: Vec<(Digest, &[u8])> = blocks(case.repo()).collect();
    bencher.counter(case.count()).bench_local(|| {
        let good = |(digest, bytes): &(Digest, &[u8])| *digest == *Sha256::digest(bytes);
        assert!(blocks.iter().all(good));
    });
}

/// The first walk: order, depth and completeness of the tree.
#[divan::bench(args = kept(), max_time = 1)]
fn prove(bencher: Bencher<'_, '_>, kept: &Kept) {
    let (mut blocks, commit, _) = kept.read();
    bencher.counter(kept.case.count()).bench_local(|| {
        let tree = mst::prove(&mut blocks, commit.data()).expect("a good tree");
        assert_eq!(tree.leaves(), kept.case.records as u64);
    });
}

/// The second walk: the leaves in order.
#[divan::bench(args = kept(), max_time = 1)]
fn walk(bencher: Bencher<'_, '_>, kept: &Kept) {
    let (mut blocks, commit, _) = kept.read();
    let tree = mst::prove(&mut blocks, commit.data()).expect("a good tree");
    bencher.counter(kept.case.count()).bench_local(|| {
        let mut leaves = tree.walk();
        while let Some(leaf) = leaves.next(&tree).expect("a leaf") {
            black_box(leaf);
        }
    });
}

/// The second walk, and each record's block; one that is in memory is found, but not read.
#[divan::bench(args = kept(), max_time = 1)]
fn look_up(bencher: Bencher<'_, '_>, kept: &Kept) {
    let (mut blocks, commit, _) = kept.read();
    let mut tree = mst::prove(&mut blocks, commit.data()).expect("a good tree");
    bencher.counter(kept.case.count()).bench_local(|| {
        let mut leaves = tree.walk();
        while let Some(leaf) = leaves.next(&tree).expect("a leaf") {
            black_box(tree.record(&leaf).expect("a readable block"));
        }
    });
}

/// Records to JSON, in the order of the walk, each from where it lies in the CAR.
#[divan::bench(args = CASES, max_time = 1)]
fn transcode(bencher: Bencher<'_, '_>, case: &Case) {
    let leaves = leaves(*case);
    let mut out = Vec::new();
    bencher.counter(case.count()).bench_local(|| {
        for chunk in leaves.chunks(MAX_CREATES) {
            out.clear();
            for leaf in chunk {
                record::transcode(leaf.block, &mut out).expect("a good record");
            }
            black_box(&out);
        }
    });
}

/// Keys checked, and events put into chunks of Redis's protocol, without their records.
#[divan::bench(args = CASES, max_time = 1)]
fn framing(bencher: Bencher<'_, '_>, case: &Case) {
    let leaves = leaves(*case);
    let (_, commit, cid) = in_memory(*case).read();
    let mut writer = Writer::new(*case, &commit, cid);
    bencher.counter(case.count()).bench_local(|| {
        for leaf in &leaves {
            let nothing = |_: &mut Vec<u8>| Ok(());
            writer.event(&leaf.key, Link(&leaf.value), leaf.block.len(), nothing);
        }
        writer.seal();
    });
}

/// The second walk with all that it is for: from the proven tree to the bytes for the socket.
#[divan::bench(args = kept(), max_time = 1)]
fn events(bencher: Bencher<'_, '_>, kept: &Kept) {
    let (mut blocks, commit, cid) = kept.read();
    let mut tree = mst::prove(&mut blocks, commit.data()).expect("a good tree");
    let mut writer = Writer::new(kept.case, &commit, cid);
    bencher
        .counter(kept.case.count())
        .bench_local(|| write(&mut tree, &mut writer));
}

fn write(tree: &mut Tree<'_>, writer: &mut Writer) {
    let mut leaves = tree.walk();
    while let Some(leaf) = leaves.next(tree).expect("a leaf") {
        let block = tree.record(&leaf).expect("a readable block");
        let block = block.expect("the record's block");
        writer.event(leaf.key, leaf.value, block.len(), |out| {
            record::transcode(block, out)
        });
    }
    writer.seal();
}

/// The output stream, under its default name.
const OUTPUT: &[u8] = b"firehose_backfill";

/// What the sink does with a leaf, but for the socket: a chunk is cleared where it would be sent.
struct Writer {
    events: Events,
    keys: KeyParser,
    chunk: Chunk,
    append: Vec<u8>,
}

impl Writer {
    fn new(case: Case, commit: &Commit, cid: cid::Cid) -> Self {
        let time = timestamp(SystemTime::now());
        let mut append = Vec::new();
        resp::command(&mut append, &[b"XADD", OUTPUT, b"*", b"event", b""]);
        // The empty event is cut off again.
        append.truncate(append.len() - b"$0\r\n\r\n".len());
        Writer {
            events: Events::new(&case.repo().did, &cid, &commit.rev, &time),
            keys: KeyParser::default(),
            chunk: Chunk::default(),
            append,
        }
    }

    #[inline]
    fn event(
        &mut self,
        key: &[u8],
        value: Link<'_>,
        block: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), Skip>,
    ) {
        let Writer {
            events,
            keys,
            chunk,
            append,
        } = self;
        let (collection, rkey) = keys.parse(key).expect("a good key");
        let size = append.len() + events.repo().len() + 3 * (key.len() + block);
        let added = chunk.events.event(append, size, |out| {
            if !events.begin_create(collection, rkey, value, out) {
                return Err(Skip::Cid);
            }
            write(out)?;
            Events::end_create(out);
            Ok(())
        });
        added.expect("a good record");
        if chunk.events.creates == MAX_CREATES || chunk.events.is_too_large(events.repo().len()) {
            self.seal();
        }
    }

    fn seal(&mut self) {
        let repo = self.events.repo();
        self.chunk.queue(&[b"XADD", OUTPUT, b"*", b"event", repo]);
        self.chunk
            .queue(&[b"HSET", b"progress", b"commit", b"500 2026-01-01"]);
        self.chunk.seal(b"owner", OUTPUT);
        black_box(self.chunk.commands());
        self.chunk.clear();
    }
}

/// A leaf as the second walk finds it.
struct Leaf {
    key: Vec<u8>,
    value: Vec<u8>,
    /// The record's block, where it lies in the CAR.
    block: &'static [u8],
}

fn leaves(case: Case) -> Vec<Leaf> {
    let in_car: HashMap<Digest, &[u8]> = blocks(case.repo()).collect();
    let (mut blocks, commit, _) = in_memory(case).read();
    let tree = mst::prove(&mut blocks, commit.data()).expect("a good tree");
    let mut walk = tree.walk();
    let mut leaves = Vec::with_capacity(case.records);
    while let Some(leaf) = walk.next(&tree).expect("a leaf") {
        leaves.push(Leaf {
            key: leaf.key.to_vec(),
            value: leaf.value.0.to_vec(),
            block: in_car[leaf.value.dag_cbor().expect("the CID of a record")],
        });
    }
    leaves
}

/// The blocks of the CAR, behind its header.
fn blocks(repo: &'static Repo) -> impl Iterator<Item = (Digest, &'static [u8])> {
    let frames = frames(&repo.car).into_iter().skip(1);
    frames.map(|frame| {
        let (cid, bytes) = block(&repo.car, frame).expect("a frame of a block");
        let digest = *Link(&cid.bytes()).dag_cbor().expect("a CID of the repo");
        (digest, bytes)
    })
}
