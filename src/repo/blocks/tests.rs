//! A store whose index is in a file answers as one in memory does, and takes no more memory than it may.

use std::time::Instant;

use super::index::BUFFER;
use super::*;

/// What a store may take beyond the budget: a segment, the entries, the directory of pages, and some buffers.
const CONSTANT: u64 = 2 << 20;

/// A digest that is as good as a real one: nobody hashes here.
fn digest(number: u64) -> Digest {
    let mut digest = Digest::default();
    let mut state = number;
    for eight in digest.as_chunks_mut().0 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        *eight = (mixed ^ mixed >> 27).to_le_bytes();
    }
    digest
}

fn here() -> Arc<Path> {
    std::env::temp_dir().into()
}

/// Inserts a block of each of these numbers; returns the most that was held.
fn insert(store: &mut BlockStore, numbers: impl Iterator<Item = u64>) -> Result<u64, Full> {
    let mut most = 0;
    for number in numbers {
        store.insert(&digest(number), &number.to_le_bytes())?;
        most = most.max(store.budget.held());
    }
    Ok(most)
}

/// Of these numbers, all that are asked for are found, with their blocks; ones behind them are not.
fn assert_holds(store: &BlockStore, count: u64) {
    let mut buffer = Vec::new();
    let last = count.saturating_sub(100)..count;
    for number in (0..count).step_by(7).chain(last) {
        let guess = store.guess(store.begin(&digest(number)));
        assert!(guess.is_none() || !store.index.is_in_file());
        let place = store.find_at(guess, &digest(number)).expect("the file");
        assert!(place.is_some());
        let block = store.read_at(place, &digest(number), &mut buffer);
        assert_eq!(block.expect("the file"), Some(&number.to_le_bytes()[..]));
        let absent = store.find(&digest(count + number)).expect("the file");
        assert_eq!(absent, None);
    }
}

#[test]
fn a_spilled_index_finds_what_one_in_memory_finds() {
    let count = 3 * BUFFER as u64 + 5;
    let entries = 12 * count;
    // All in memory; the blocks in a file; the directory has no room; some hundred entries in the last run; one run after the other.
    for (limit, in_file) in [
        (u64::MAX, false),
        (4 * entries, false),
        (3 << 20, true),
        (1 << 20, true),
        (0, true),
    ] {
        let budget = Budget::new(limit);
        let mut store = BlockStore::new(&budget, &here());
        for _ in 0..2 {
            // Every third block is there twice.
            let numbers = (0..count).chain((0..count).step_by(3));
            let most = insert(&mut store, numbers).expect("room");
            assert!(most <= limit.saturating_add(CONSTANT), "{limit}: {most}");
            store.seal().expect("room");
            assert!(budget.held() <= limit.saturating_add(CONSTANT));
            assert_eq!(store.index.is_in_file(), in_file, "{limit}");
            assert!(store.is_spilled() || !in_file);
            assert!(store.len() as u64 >= count);
            // Of a tag that two blocks share, a repeated one may stay.
            assert!(in_file || store.len() as u64 - count < 16);
            assert_holds(&store, count);
            store.clear();
            assert!(store.is_empty() && !store.is_spilled());
        }
        drop(store);
        assert_eq!(budget.held(), 0);
    }
}

#[test]
fn one_block_may_be_there_as_often_as_it_likes() {
    let budget = Budget::new(0);
    let mut store = BlockStore::new(&budget, &here());
    let often = std::iter::repeat_n(1, 2 * BUFFER);
    insert(&mut store, [0].into_iter().chain(often)).expect("room");
    store.seal().expect("room");
    assert!(store.index.is_in_file());
    assert_holds(&store, 2);
}

#[test]
fn a_sealed_store_moves_out_when_others_need_the_memory() {
    let budget = Budget::new(64 << 20);
    let mut store = BlockStore::new(&budget, &here());
    let count = BUFFER as u64 + 1000;
    insert(&mut store, 0..count).expect("room");
    store.seal().expect("room");
    store.relieve();
    assert!(!store.is_spilled());

    let mut others = store.share();
    others.grow((64 << 20) - (1 << 20));
    store.relieve();
    assert!(store.is_spilled() && !store.index.is_in_file());
    assert_holds(&store, count);

    let begun = store.begin(&digest(7));
    assert!(store.guess(begun).is_some());
    others.grow(1 << 20);
    store.relieve();
    assert!(store.index.is_in_file());
    // What was begun before leads nowhere now, and does no harm.
    assert_eq!(store.guess(begun), None);
    assert!(budget.held() < (64 << 20) + 4096);
    assert_holds(&store, count);
}

#[test]
fn a_small_repo_needs_no_file() {
    let budget = Budget::new(0);
    let nowhere: Arc<Path> = Path::new("/does/not/exist").into();
    let mut store = BlockStore::new(&budget, &nowhere);
    insert(&mut store, 0..1000).expect("room");
    store.seal().expect("room");
    assert!(!store.is_spilled());
    assert_holds(&store, 1000);
    assert!(budget.held() <= CONSTANT);
}

#[test]
fn the_index_of_a_small_repo_needs_no_file() {
    let budget = Budget::new(0);
    let mut store = BlockStore::new(&budget, &here());
    insert(&mut store, 0..BUFFER as u64).expect("room");
    store.seal().expect("room");
    store.relieve();
    assert!(!store.index.is_in_file());
    assert!(budget.held() <= CONSTANT);
}

#[test]
fn between_repos_a_little_is_kept_but_nothing_where_memory_is_short() {
    let budget = Budget::new(1 << 20);
    let mut store = BlockStore::new(&budget, &here());
    let mut others = store.share();
    for (short, kept) in [(false, 1..1 << 20), (true, 0..1)] {
        others.set(if short { 1 << 20 } else { 0 });
        insert(&mut store, 0..100).expect("room");
        store.seal().expect("room");
        store.clear();
        let held = budget.held() - if short { 1 << 20 } else { 0 };
        assert!(kept.contains(&held), "{held} bytes");
    }
}

#[test]
fn a_folder_that_is_not_there_is_said() {
    let count = 2 * BUFFER as u64;
    let spilled = |result| match result {
        Err(full @ Full::Spill(_)) => assert_eq!(JobError::from(full).reason, Reason::Deferred),
        other => panic!("{other:?}"),
    };
    // The folder is gone when the blocks need it, when the first run does, and when the merge does.
    for inserted in [0, BUFFER as u64 - 1, count] {
        let folder = tempfile::tempdir().expect("a folder");
        let budget = Budget::new(0);
        let mut store = BlockStore::new(&budget, &folder.path().into());
        insert(&mut store, 0..inserted).expect("room");
        folder.close().expect("an empty folder");
        match insert(&mut store, inserted..count) {
            Ok(_) => spilled(store.seal()),
            Err(full) => spilled(Err(full)),
        }
        drop(store);
        assert_eq!(budget.held(), 0);
    }
}

/// Run by hand, in a release: `cargo test --release --lib -- --ignored --nocapture tiny_blocks`.
#[test]
#[ignore = "seconds"]
fn millions_of_tiny_blocks_take_no_more_than_the_budget() {
    // In this order the most that was ever resident says something of each.
    for (count, limit) in [
        (3_000_000, 8 << 20),
        (MAX_BLOCKS as u64, 8 << 20),
        (3_000_000, 64 << 20),
        (3_000_000, u64::MAX),
    ] {
        let budget = Budget::new(limit);
        let mut store = BlockStore::new(&budget, &here());
        let each = |since: Instant| since.elapsed().as_nanos() as u64 / count;
        let began = Instant::now();
        let most = insert(&mut store, 0..count).expect("room");
        let inserted = each(began);
        let began = Instant::now();
        store.seal().expect("room");
        let sealed = each(began);
        let held = budget.held();
        assert!(most.max(held) <= limit.saturating_add(CONSTANT));
        let began = Instant::now();
        // Far from each other, as in a walk.
        for number in (0..count).map(|n| n * 7_919 % count) {
            let place = store.find(&digest(number)).expect("the file");
            assert!(place.is_some());
        }
        let found = each(began);
        println!(
            "{count} blocks, budget {}: most {} KiB, then {} KiB; {}; ns per insert {inserted}, seal {sealed}, find {found}",
            limit >> 20,
            most >> 10,
            held >> 10,
            most_resident(),
        );
    }
}

/// The kernel's line about it, where there is one.
fn most_resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    line.unwrap_or("VmHWM unknown").replace('\t', " ")
}
