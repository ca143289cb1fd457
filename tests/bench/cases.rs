//! The repos of the micro-benchmarks: sizes and orders, and where their blocks are kept.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use divan::counter::ItemsCount;
use rsky_backfiller::memory::Budget;
use rsky_backfiller::repo::blocks::BlockStore;
use rsky_backfiller::repo::car;
use rsky_backfiller::repo::commit::Commit;

use crate::data::{self, Account};
use crate::sets::Repos;

/// One repo in one order.
#[derive(Clone, Copy)]
pub struct Case {
    name: &'static str,
    pub records: usize,
    shuffled: bool,
}

/// All of them.
pub const CASES: [Case; 4] = {
    const fn case(name: &'static str, records: usize, shuffled: bool) -> Case {
        Case {
            name,
            records,
            shuffled,
        }
    }
    [
        case("10k", 10_000, false),
        case("10k-shuffled", 10_000, true),
        case("100k", 100_000, false),
        case("100k-shuffled", 100_000, true),
    ]
};

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// One repo in one order, and where its blocks are kept.
#[derive(Clone, Copy)]
pub struct Kept {
    pub case: Case,
    pub spilled: bool,
}

/// All of them.
pub fn kept() -> impl Iterator<Item = Kept> {
    let both = [false, true].into_iter();
    both.flat_map(|spilled| CASES.map(|case| Kept { case, spilled }))
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.spilled { "file" } else { "memory" };
        write!(f, "{place}, {}", self.case)
    }
}

/// A repo as its server sends it.
pub struct Repo {
    pub did: String,
    pub car: Vec<u8>,
}

impl Case {
    /// Made at the first use.
    pub fn repo(&self) -> &'static Repo {
        static REPOS: [OnceLock<Repo>; CASES.len()] = [const { OnceLock::new() }; CASES.len()];
        let at = CASES.iter().position(|case| case.name == self.name);
        REPOS[at.expect("one of the cases")].get_or_init(|| {
            let repos = Repos::Own(1, self.records);
            let store = data::Store::open();
            let bodies = store.bodies(repos);
            let mut body = fs::read(store.path(repos)).expect("the body of the repo");
            if self.shuffled {
                body = data::shuffle(&body, &bodies);
            }
            let account = Account::new(0);
            let mut car = account.head(bodies[0].root);
            car.append(&mut body);
            Repo {
                did: account.did,
                car,
            }
        })
    }

    /// What the throughput is given in.
    pub fn count(&self) -> ItemsCount {
        ItemsCount::new(self.records)
    }
}

impl Kept {
    /// An empty store.
    pub fn store(&self) -> BlockStore {
        let limit = if self.spilled { 0 } else { u64::MAX };
        // The default of BACKFILLER_SPILL_DIR.
        let folder: Arc<Path> = Path::new("/var/tmp").into();
        BlockStore::new(&Budget::new(limit), &folder)
    }

    /// The repo's blocks and its commit.
    pub fn read(&self) -> (BlockStore, Commit, cid::Cid) {
        let repo = self.case.repo();
        let mut blocks = self.store();
        let root = car::read(&repo.car[..], &mut blocks, &mut None).expect("a good CAR");
        assert_eq!(blocks.is_spilled(), self.spilled);
        let mut buffer = Vec::new();
        let commit = blocks.read(&root.digest, &mut buffer);
        let commit = commit.expect("a readable block").expect("a commit");
        let commit = Commit::read(commit, &repo.did, SystemTime::now()).expect("a good commit");
        (blocks, commit, root.cid)
    }
}

/// With its blocks in memory.
pub fn in_memory(case: Case) -> Kept {
    Kept {
        case,
        spilled: false,
    }
}
