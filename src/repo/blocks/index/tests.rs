//! The index in its files: runs, pages, and what happens where there is no file to be had.

use super::entry::Entry;
use super::runs::Runs;
use super::sorted::{PER_PAGE, Writer};
use super::*;
use crate::memory::Budget;

fn entry(tag: u32, number: u32) -> Entry {
    Entry::new(tag, Place::from_words([!number, number]))
}

/// Numbers without order, always the same.
fn tags(count: u32) -> impl Iterator<Item = u32> {
    (1..=count).map(|n| n.wrapping_mul(0x9e37_79b9).rotate_left(13) >> 8)
}

#[test]
fn runs_are_merged_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut runs = Runs::new(folder.path()).expect("a file");
    let mut all = Vec::new();
    for length in [1, 63, 64, 65, 4096, 4097, 10_000, 2] {
        let seed = all.len() as u32;
        let mut run: Vec<Entry> = tags(length)
            .map(|tag| entry(tag ^ (seed & 1), seed + tag))
            .collect();
        run.sort_unstable();
        runs.append(&run).expect("room in the file");
        all.extend(run);
    }
    assert_eq!(runs.len(), all.len());
    all.sort_unstable();
    let mut merged = Vec::new();
    let put = |entry| {
        merged.push(entry);
        Ok(())
    };
    runs.merge(1000, put).expect("the runs");
    assert!(merged == all);
}

#[test]
fn runs_may_be_none() {
    let runs = Runs::new(&std::env::temp_dir()).expect("a file");
    runs.merge(1, |_| panic!("there is no entry"))
        .expect("no run");
}

#[test]
fn entries_survive_their_bytes() {
    let entry = entry(0x0102_0304, 0x0506_0708);
    assert!(Entry::from_bytes(&entry.to_bytes()) == entry);
}

#[test]
fn sorted_finds_all_of_a_tag_over_all_its_pages() {
    // How many entries each tag has: such that they begin and end at, before and behind the bounds of pages.
    let counts = [
        1,
        PER_PAGE - 1,
        1,
        PER_PAGE,
        2 * PER_PAGE + 1,
        3,
        PER_PAGE - 4,
        PER_PAGE,
        7,
    ];
    for last in [1, 5, 8, counts.len()] {
        let counts = &counts[..last];
        let mut writer = Writer::new(&std::env::temp_dir(), 0).expect("a file");
        let mut number = 0;
        for (tag, &count) in counts.iter().enumerate() {
            for _ in 0..count {
                let tag = 10 * tag as u32 + 10;
                writer.push(entry(tag, number)).expect("room in the file");
                number += 1;
            }
        }
        let sorted = writer.finish().expect("room in the file");
        assert_eq!(sorted.len(), number as usize);
        let mut number = 0;
        for (tag, &count) in counts.iter().enumerate() {
            let tag = 10 * tag as u32 + 10;
            let mut seen = 0;
            let none = sorted.find(tag, |_| {
                seen += 1;
                Ok(false)
            });
            assert_eq!((none.expect("the file"), seen), (None, count));
            for _ in 0..count {
                let place = entry(tag, number).place();
                let found = sorted.find(tag, |other| Ok(other == place));
                assert_eq!(found.expect("the file"), Some(place));
                number += 1;
            }
            for absent in [tag - 1, tag + 1, 0, u32::MAX] {
                let found = sorted.find(absent, |_| panic!("another tag"));
                assert_eq!(found.expect("the file"), None);
            }
        }
    }
}

#[test]
fn sorted_may_be_empty() {
    let writer = Writer::new(&std::env::temp_dir(), 0).expect("a file");
    let sorted = writer.finish().expect("a file");
    let found = sorted.find(1, |_| panic!("there is no entry"));
    assert_eq!(found.expect("the file"), None);
}

#[test]
fn what_no_file_takes_stays() {
    let nowhere: Arc<Path> = Path::new("/does/not/exist").into();
    let budget = Budget::new(0);
    let mut index = Index::new(Share::new(&budget), &nowhere);
    let mut pushed = 0_u32;
    let digest = |number: u32| {
        let mut digest = Digest::default();
        digest[..4].copy_from_slice(&number.to_le_bytes());
        digest
    };
    while index.try_make_room() {
        while index.has_room() {
            index.push(&digest(pushed), Place::from_words([0, pushed]));
            pushed += 1;
        }
    }
    assert_eq!(pushed as usize, BUFFER);
    assert_eq!(budget.held() as usize, BUFFER * size_of::<Entry>());
    assert!(matches!(index.spill_collected(), Err(Full::Spill(_))));
    assert!(index.try_make_directory());
    index.seal(|_, _| false).expect("memory");
    assert!(matches!(index.spill_sorted(), Err(Full::Spill(_))));
    assert_eq!(index.len(), BUFFER);
    for number in 0..pushed {
        let mut places = index.places(index.begin(&digest(number)));
        assert!(places.any(|place| place == Place::from_words([0, number])));
    }
    index.clear(0);
    assert_eq!(budget.held(), 0);
}
