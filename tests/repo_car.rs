//! R2, R3 and R4, through `car::read` and the block store it fills: what hashes to its CID is kept and nothing else, the
//! first root is the commit, and an archive that was cut or broken anywhere never passes for a whole one.

mod support;

use std::io::{self, Cursor, Read};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use rsky_backfiller::error::{JobError, Reason};
use rsky_backfiller::repo::blocks::BlockStore;
use rsky_backfiller::repo::commit::Commit;
use rsky_backfiller::repo::{car, mst};
use sha2::{Digest, Sha512};
use support::blocks;
use support::generator::car::{frame, frames, header};
use support::generator::cid::sha256;
use support::generator::{Cid, Repo, RepoBuilder, Value, car as archive, did_plc, records};

const MIB: usize = 1 << 20;

fn sample(count: usize) -> Repo {
    RepoBuilder::new(did_plc(2))
        .records(records::mixed(2, count))
        .build()
}

fn read(archive: &[u8]) -> Result<(car::Root, BlockStore), JobError> {
    let mut blocks = BlockStore::default();
    let root = car::read(archive, &mut blocks, &mut None)?;
    Ok((root, blocks))
}

fn read_error(archive: &[u8]) -> Reason {
    match read(archive) {
        Ok(_) => panic!("an archive of {} bytes was accepted", archive.len()),
        Err(error) => error.reason,
    }
}

/// The number of leaves, where the archive holds the whole repo.
fn prove(repo: &Repo, archive: &[u8]) -> Result<u64, Reason> {
    let (root, mut blocks) = read(archive).map_err(|error| error.reason)?;
    let block = blocks::get(&blocks, &root.digest).ok_or(Reason::Incomplete)?;
    let now = UNIX_EPOCH + Duration::from_secs(1_750_000_000);
    let commit = Commit::read(&block, &repo.did, now).map_err(|error| error.reason)?;
    let tree = mst::prove(&mut blocks, commit.data()).map_err(|error| error.reason)?;
    Ok(tree.leaves())
}

/// The archive with one bit of one byte flipped.
fn flipped(archive: &[u8], place: usize, bit: usize) -> Vec<u8> {
    let mut broken = archive.to_vec();
    broken[place] ^= 1 << bit;
    broken
}

#[test]
fn r2_a_flipped_byte_in_a_record_a_node_or_the_commit_is_refused() {
    let repo = sample(30);
    let archive = repo.car();
    let frames = frames(&archive);
    for cid in [repo.commit_cid, repo.nodes[1], repo.expected[7].cid] {
        let is_it = |(known, _): &(Cid, Vec<u8>)| *known == cid;
        let place = repo.blocks.iter().position(is_it).expect("a block");
        let length = repo.blocks[place].1.len();
        let end = frames[place + 1].end;
        for place in [end - length, end - length / 2, end - 1] {
            assert_eq!(read_error(&flipped(&archive, place, 0)), Reason::Car);
        }
        // The digest that the frame names, and not the bytes.
        let broken = flipped(&archive, end - length - 1, 7);
        assert_eq!(read_error(&broken), Reason::Car);
    }
}

#[test]
fn r2_no_flipped_bit_anywhere_passes() {
    let repo = sample(4);
    let archive = repo.car();
    assert_eq!(prove(&repo, &archive), Ok(4));
    for place in 0..archive.len() {
        let broken = flipped(&archive, place, place % 8);
        assert!(
            prove(&repo, &broken).is_err(),
            "byte {place} of the archive"
        );
    }
}

/// CIDs of `content` that no block of a repo may have, all of them true but for the last three, which carry a digest that
/// would be right for sha2-256.
fn foreign_cids(content: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let digest = sha256(content);
    let cid = |prefix: &[u8], digest: &[u8]| [prefix, digest].concat();
    let short = &content[..content.len().min(64)];
    vec![
        ("CIDv0", cid(&[0x12, 0x20], &digest)),
        (
            "sha2-512",
            cid(&[1, 0x71, 0x13, 0x40], &Sha512::digest(content)),
        ),
        ("identity", cid(&[1, 0x71, 0, short.len() as u8], short)),
        ("dag-pb", cid(&[1, 0x70, 0x12, 0x20], &digest)),
        ("dag-json", cid(&[1, 0xa9, 0x02, 0x12, 0x20], &digest)),
        (
            "sha2-256 of 31 bytes",
            cid(&[1, 0x71, 0x12, 31], &digest[..31]),
        ),
        ("blake3", cid(&[1, 0x71, 0x1e, 0x20], &digest)),
        ("sha3-256", cid(&[1, 0x71, 0x16, 0x20], &digest)),
        ("sha2-512 of 32 bytes", cid(&[1, 0x71, 0x13, 0x20], &digest)),
    ]
}

#[test]
fn r2_blocks_under_foreign_cids_are_never_used() {
    let repo = sample(30);
    let archive = repo.car();
    let frames = frames(&archive);
    for needed in [repo.commit_cid, repo.nodes[1], repo.expected[3].cid] {
        let block = repo.block(needed).expect("a block").to_vec();
        let is_it = |(known, _): &(Cid, Vec<u8>)| *known == needed;
        let place = repo.blocks.iter().position(is_it).expect("a block");
        for (name, cid) in foreign_cids(&block) {
            let mut foreign = archive.clone();
            let frame = frame(&[&cid[..], &block].concat());
            foreign.splice(frames[place + 1].clone(), frame);
            let (_, blocks) = read(&foreign).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(blocks.len(), repo.blocks.len() - 1, "{name}");
            assert!(blocks::get(&blocks, &needed.digest).is_none(), "{name}");
            assert_eq!(prove(&repo, &foreign), Err(Reason::Incomplete), "{name}");
        }
    }
}

#[test]
fn r2_raw_blocks_are_hashed_and_kept() {
    let (repo, blob) = (sample(1), b"a blob".as_slice());
    let archive = [
        repo.car(),
        frame(&[&Cid::raw(blob).bytes()[..], blob].concat()),
    ]
    .concat();
    let (_, blocks) = read(&archive).expect("a whole archive");
    assert_eq!(blocks::get(&blocks, &sha256(blob)), Some(blob.to_vec()));
    assert_eq!(
        read_error(&flipped(&archive, archive.len() - 1, 0)),
        Reason::Car
    );
}

#[test]
fn r3_the_first_root_is_the_commit_and_further_roots_are_tolerated() {
    let repo = sample(5);
    let other = Cid::dag_cbor(b"another");
    let roots = [repo.commit_cid, other, Cid::raw(b"a blob")];
    let (root, blocks) = read(&archive::write(&roots, &repo.blocks)).expect("a whole archive");
    assert_eq!(root.cid.to_bytes(), repo.commit_cid.bytes());
    assert_eq!(root.digest, repo.commit_cid.digest);
    assert_eq!(
        blocks::get(&blocks, &root.digest),
        Some(repo.commit().to_vec())
    );

    let swapped = archive::write(&[other, repo.commit_cid], &repo.blocks);
    let (root, _) = read(&swapped).expect("an archive of another root");
    assert_eq!(root.digest, other.digest);
    assert_eq!(prove(&repo, &swapped), Err(Reason::Incomplete));
}

#[test]
fn r3_roots_that_can_be_no_commit_are_refused() {
    let repo = sample(1);
    let raw = Cid::raw(repo.commit());
    assert_eq!(read_error(&archive::write(&[], &repo.blocks)), Reason::Car);
    let raw_first = archive::write(&[raw, repo.commit_cid], &repo.blocks);
    assert_eq!(read_error(&raw_first), Reason::Car);
    for (name, cid) in foreign_cids(repo.commit()) {
        // {"roots": [cid], "version": 1}
        let mut head = b"\xa2\x65roots\x81\xd8\x2a\x58".to_vec();
        head.extend([cid.len() as u8 + 1, 0]);
        head.extend(&cid);
        head.extend(b"\x67version\x01");
        let archive = [frame(&head), repo.car()[header(&[raw]).len()..].to_vec()].concat();
        assert_eq!(read_error(&archive), Reason::Car, "{name}");
    }
}

#[test]
fn r3_duplicate_and_unlinked_blocks_are_tolerated() {
    let mut repo = sample(20);
    let count = repo.blocks.len();
    repo.blocks.extend(repo.blocks.clone());
    repo.blocks.extend(sample(21).blocks);
    let extra = b"no CBOR at all".to_vec();
    repo.blocks.insert(0, (Cid::dag_cbor(&extra), extra));
    assert_eq!(prove(&repo, &repo.car()), Ok(20));
    assert_eq!(prove(&repo, &repo.car_shuffled(3)), Ok(20));
    let (_, blocks) = read(&repo.car()).expect("a whole archive");
    assert!(blocks.len() > count && blocks.len() < repo.blocks.len());

    // A second copy is hashed like the first.
    let archive = [
        repo.car(),
        repo.car()[header(&[repo.commit_cid]).len()..].to_vec(),
    ]
    .concat();
    assert_eq!(prove(&repo, &archive), Ok(20));
    assert_eq!(
        read_error(&flipped(&archive, archive.len() - 1, 3)),
        Reason::Car
    );
}

#[test]
fn r4_a_cut_at_any_frame_boundary_never_passes() {
    let repo = sample(60);
    for archive in [repo.car(), repo.car_shuffled(1), repo.car_shuffled(2)] {
        let frames = frames(&archive);
        assert_eq!(read_error(&[]), Reason::Car);
        for frame in &frames[..frames.len() - 1] {
            let cut = &archive[..frame.end];
            assert_eq!(
                prove(&repo, cut),
                Err(Reason::Incomplete),
                "at {}",
                frame.end
            );
        }
        assert_eq!(prove(&repo, &archive), Ok(60));
    }
}

#[test]
fn r4_a_cut_inside_a_frame_is_refused() {
    let archive = sample(4).car();
    let frames = frames(&archive);
    let long = frames
        .iter()
        .any(|frame| frame.len() > 130 && frame.start > 0);
    assert!(long, "there are frames whose length has two bytes");
    for frame in frames {
        for cut in frame.start + 1..frame.end {
            assert_eq!(read_error(&archive[..cut]), Reason::Car, "cut at {cut}");
        }
    }
}

/// Gives the bytes out in small pieces, and then an error.
struct Faulty<'a> {
    bytes: &'a [u8],
    error: Option<io::Error>,
}

impl Read for Faulty<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.bytes.is_empty()
            && let Some(error) = self.error.take()
        {
            return Err(error);
        }
        let piece = buffer.len().min(7);
        self.bytes.read(&mut buffer[..piece])
    }
}

#[test]
fn r4_a_reader_that_fails_is_heard_wherever_it_fails() {
    let archive = sample(3).car();
    let inside_a_length = frames(&archive)[1].start + 1;
    for cut in [
        0,
        1,
        30,
        frames(&archive)[2].start,
        inside_a_length,
        archive.len(),
    ] {
        let fail = |error: io::Error| {
            let (bytes, error) = (&archive[..cut], Some(error));
            car::read(
                Faulty { bytes, error },
                &mut BlockStore::default(),
                &mut None,
            )
            .map(|root| root.cid)
        };
        for kind in [
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::TimedOut,
            io::ErrorKind::UnexpectedEof,
        ] {
            let error = fail(kind.into()).expect_err("the reader failed");
            assert_eq!(error.reason, Reason::Network, "at {cut}");
        }
        let carried = JobError::new(Reason::TooLarge, "larger than allowed");
        assert_eq!(
            fail(io::Error::other(carried.clone())),
            Err(carried),
            "at {cut}"
        );
    }
    // An interrupted system call is no failure, and small pieces make no difference.
    let interrupted = Faulty {
        bytes: &archive[..40],
        error: Some(io::ErrorKind::Interrupted.into()),
    };
    let rest = Cursor::new(&archive[40..]);
    let root = car::read(
        interrupted.chain(rest),
        &mut BlockStore::default(),
        &mut None,
    );
    assert_eq!(
        root.expect("a whole archive"),
        read(&archive).expect("a whole archive").0
    );
}

#[test]
fn r4_frames_of_impossible_lengths_are_refused() {
    let repo = sample(1);
    let after = |frame: &[u8]| [&repo.car(), frame].concat();
    let block = |content: &[u8]| frame(&[&Cid::raw(content).bytes()[..], content].concat());
    assert_eq!(prove(&repo, &after(&block(&vec![7; 4 * MIB - 36]))), Ok(1));
    assert_eq!(
        read_error(&after(&block(&vec![7; 4 * MIB - 35]))),
        Reason::Car
    );
    for wrong in [
        // No length, a length of two bytes that one could say, 2^63 and more, no end.
        &[0][..],
        &[0x80, 0],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0xff; 32],
        // A frame without a whole CID.
        &[1, 1],
        &[4, 1, 0x71, 0x12, 0x20],
    ] {
        assert_eq!(read_error(&after(wrong)), Reason::Car, "{wrong:?}");
        assert_eq!(read_error(wrong), Reason::Car, "{wrong:?}");
    }
}

#[test]
fn r4_a_hostile_header_neither_overflows_the_stack_nor_reserves_memory() {
    let deep = |before: &[u8], byte: u8| [before, &vec![byte; 4 * MIB - before.len()]].concat();
    let roots = b"\xa2\x65roots".as_slice();
    let unknown = b"\xa3\x61x".as_slice();
    let huge = [0xff; 8];
    let wrong = Value::map([("roots", Value::Int(1)), ("version", Value::Int(1))]);
    let version_2 = [&header(&[Cid::dag_cbor(b"")])[1..58], &[2]].concat();
    let headers = [
        deep(&[], 0x81),
        deep(&[], 0xa1),
        deep(&[], 0xd8),
        deep(&[], 0xc1),
        deep(&[], 0x9f),
        deep(roots, 0x81),
        deep(unknown, 0x81),
        deep(unknown, 0x9f),
        deep(&[roots, b"\x81\xd8\x2a"].concat(), 0xd8),
        [&[0x9b], &huge[..]].concat(),
        [&[0xbb], &huge[..]].concat(),
        [roots, &[0x9b], &huge].concat(),
        [unknown, &[0x7b], &huge].concat(),
        [unknown, &[0x5b], &huge].concat(),
        wrong.encode(),
        version_2,
        vec![0xf6],
        vec![],
    ];
    let read_all = move || headers.map(|header| read_error(&frame(&header)));
    let thread = thread::Builder::new().stack_size(2 * MIB).spawn(read_all);
    let reasons = thread.expect("a thread").join().expect("no panic");
    assert_eq!(reasons, [Reason::Car; 18]);
}
