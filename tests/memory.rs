//! How much memory a process takes: the budget, and what each worker is busy with, whatever the repos are; and that it is given back.
//!
//! Each program has occupied all its workers with a small repo before it is measured: what it has then is not what is asked about.

mod support;

use tempfile::TempDir;

use support::adversary::resources::Resources;
use support::backfiller::{Backfiller, Builder};
use support::events::wait_until_drained;
use support::fixture_server::{Fault, FixtureServer};
use support::generator::{Repo, RepoBuilder, did_plc};
use support::heavy::{self, Large};
use support::hostile::outcomes;
use support::hostile::stage::Stage;
use support::instances::{end_well, summary};
use support::wait::eventually;

/// Kibibytes of a mebibyte.
const MIB: u64 = 1024;

/// The seed of the first repo that is measured; smaller ones are those of small repos.
const FIRST: u64 = 1000;

/// A running program, and what it had at most while all its workers had a small repo, in KiB.
struct Trial {
    stage: Stage,
    program: Backfiller,
    folder: TempDir,
    small: u64,
}

impl Trial {
    /// Starts a program with so many workers; `budget` is in MiB, or the default.
    fn begin(workers: usize, budget: Option<u64>) -> Self {
        Self::begin_with(workers, budget, |program| program)
    }

    /// The same, with other variables too.
    fn begin_with(
        workers: usize,
        budget: Option<u64>,
        with: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let mut stage = Stage::new();
        let folder = TempDir::new().expect("a folder");
        let mut program = stage
            .permitted()
            .env("BACKFILLER_CONCURRENCY", workers.to_string())
            .env("BACKFILLER_SPILL_DIR", folder.path())
            .env("BACKFILLER_RETRY_INITIAL_BACKOFF_MS", "20")
            .env("BACKFILLER_RETRY_MAX_BACKOFF_MS", "50");
        if let Some(budget) = budget {
            program = program.env("BACKFILLER_MEMORY_BUDGET_MB", budget.to_string());
        }
        let small: Vec<_> = (0..workers)
            .map(|_| stage.faulty(Fault::Hold { after: 100 }))
            .collect();
        let program = with(program).start();
        for repo in &small {
            stage.server.wait_until_held(&repo.did, 1);
        }
        for repo in &small {
            stage.server.release(&repo.did);
        }
        wait_until_drained(&mut stage.connection);
        let small = Resources::of(program.pid()).peak;
        Self {
            stage,
            program,
            folder,
            small,
        }
    }

    /// Serves the repo, and asks for it. Returns the size of its CAR in KiB.
    fn put(&mut self, repo: &Repo) -> u64 {
        let server = &self.stage.server;
        server.put_document(&repo.did, repo.did_document(&server.url()));
        let car = repo.car();
        let size = car.len() as u64 / 1024;
        server.put_repo(&repo.did, car);
        let url = server.url();
        self.stage.enqueue(&repo.did, Some(&url));
        size
    }

    /// Asks for the repo at a host of its own, which sends only a part.
    fn put_cut(&mut self, repo: &Repo) -> FixtureServer {
        let (server, car) = (FixtureServer::start(), repo.car());
        let after = car.len() - 100;
        server.put_repo(&repo.did, car);
        server.set_fault(&repo.did, Fault::Truncate { after });
        self.stage.enqueue(&repo.did, Some(&server.url()));
        server
    }

    /// How much more it had at most than with small repos, in KiB, when nothing is left to do.
    fn more(&mut self) -> u64 {
        wait_until_drained(&mut self.stage.connection);
        self.more_so_far()
    }

    fn more_so_far(&self) -> u64 {
        Resources::of(self.program.pid()).peak - self.small
    }

    /// The sizes in KiB of the files that it has open in its folder.
    fn files(&self) -> Vec<u64> {
        support::spilled::sizes(self.program.pid(), self.folder.path())
    }

    /// Waits until the attempts at the account's repo have ended so.
    #[track_caller]
    fn assert_ends(&self, repo: &Repo, ends: &[&str]) {
        eventually(&format!("{ends:?}"), || {
            let outcomes = outcomes::so_far(&self.program).into_iter();
            let of_it = outcomes.filter(|outcome| outcome.did == repo.did);
            of_it.map(|outcome| outcome.how).eq(ends.iter().copied())
        });
    }
}

/// What a program may have more than before, in KiB: the budget and, for each worker, two chunks and what it reads with.
const fn most(budget: u64, workers: u64, chunk: u64, reads_with: u64) -> u64 {
    budget * MIB + workers * (2 * chunk + reads_with) + CONSTANT
}

/// What is not counted, and what the allocator keeps.
const CONSTANT: u64 = 8 * MIB;
/// What a worker reads ordinary blocks with: the first segment of its blocks, and buffers.
const READS: u64 = MIB;
/// What it reads the largest blocks with: one from the CAR, and one from the file.
const READS_LARGEST: u64 = 2 * 4 * MIB;
/// The largest chunk of many records.
const CHUNK: u64 = 4 * MIB + 64;
/// The largest chunk of a single one: 2 MiB of characters of which JSON makes six.
const LARGEST_CHUNK: u64 = 6 * 2 * MIB + 64;

#[test]
fn a_repo_larger_than_the_budget_takes_the_budget() {
    // Each chunk is as large as it can be.
    let repo = heavy::repo(FIRST, 3000, 'x', 20_000);
    let mut trial = Trial::begin(1, Some(8));
    let size = trial.put(&repo);
    let more = trial.more();
    assert!(more <= most(8, 1, CHUNK, READS), "{more} KiB");
    assert_eq!(summary(&end_well(trial.program), "spills"), 1);

    // Else this would show nothing.
    let mut trial = Trial::begin(1, None);
    trial.put(&repo);
    let more = trial.more();
    assert!(
        more > size && more > 2 * most(8, 1, CHUNK, READS),
        "{more} KiB"
    );
    assert_eq!(summary(&end_well(trial.program), "spills"), 0);
}

const WORKERS: u64 = 16;

/// As many repos of some 6 MB as there are workers. All that is sent of them before they are released has arrived, at the same time.
#[track_caller]
fn many_workers(budget: Option<u64>, arrived: impl Fn(&Trial, u64) -> bool) -> (Trial, u64) {
    const AFTER: usize = 5_900_000;
    let first = heavy::repo(FIRST, 3000, 'x', 2000);
    let mut trial = Trial::begin(WORKERS as usize, budget);
    let repos = (0..WORKERS).map(|n| heavy::of_another(&first, FIRST + n));
    let repos: Vec<_> = repos.collect();
    for repo in &repos {
        let fault = Fault::Hold { after: AFTER };
        trial.stage.server.set_fault(&repo.did, fault);
        trial.put(repo);
    }
    let sent = AFTER as u64 / 1024;
    eventually("all is there", || arrived(&trial, sent));
    let more = trial.more_so_far();
    for repo in &repos {
        trial.stage.server.release(&repo.did);
    }
    (trial, more)
}

#[test]
fn all_workers_share_the_budget() {
    /// 500 records.
    const CHUNK: u64 = MIB + 256;
    let (mut trial, reading) = many_workers(Some(8), |trial, sent| {
        let files = trial.files().into_iter();
        // The last segment is in memory.
        files.filter(|size| *size > sent - MIB).count() as u64 == WORKERS
    });
    let more = trial.more();
    assert!(reading <= most(8, WORKERS, 0, READS), "{reading} KiB");
    assert!(more <= most(8, WORKERS, CHUNK, READS), "{more} KiB");
    assert_eq!(summary(&end_well(trial.program), "spills"), WORKERS);

    let (mut trial, reading) = many_workers(None, |trial, sent| {
        trial.more_so_far() > WORKERS * (sent - MIB)
    });
    let more = trial.more();
    assert!(more > most(8, WORKERS, CHUNK, READS), "{more} KiB");
    assert!(reading > 2 * most(8, WORKERS, 0, READS), "{reading} KiB");
    assert_eq!(summary(&end_well(trial.program), "spills"), 0);
}

/// Records whose JSON is six times their block, in chunks that are as large as they can be.
fn escapes() -> Repo {
    let records = (0..8).map(|number| {
        let bytes = if number % 2 == 0 { 690_000 } else { 2 << 20 };
        heavy::record(number, '\u{1}', bytes)
    });
    RepoBuilder::new(did_plc(FIRST))
        .without_json()
        .records(records)
        .build()
}

#[track_caller]
fn records_of_escapes(workers: u64) {
    let repo = escapes();
    let mut trial = Trial::begin(workers as usize, Some(1));
    for n in 0..workers {
        trial.put(&heavy::of_another(&repo, FIRST + n));
    }
    let more = trial.more();
    assert_eq!(
        summary(&end_well(trial.program), "records"),
        8 * workers + 5 * workers
    );
    let most = most(1, workers, LARGEST_CHUNK, READS_LARGEST);
    assert!(more <= most, "{more} of {most} KiB");
}

#[test]
fn records_that_are_much_larger_as_json_take_two_chunks() {
    records_of_escapes(1);
}

#[test]
fn so_do_those_of_several_workers() {
    records_of_escapes(4);
}

#[track_caller]
fn nodes_of_megabytes(large: Large, end: &[&str]) {
    let repo = heavy::chain(FIRST, 8, large);
    let mut trial = Trial::begin(1, Some(8));
    trial.put(&repo);
    let more = trial.more();
    trial.assert_ends(&repo, end);
    let most = most(8, 1, 0, READS_LARGEST);
    assert!(more <= most, "{more} of {most} KiB");
}

#[test]
fn nodes_with_fields_of_megabytes_take_the_budget() {
    nodes_of_megabytes(Large::UnknownField, &["done"]);
}

#[test]
fn nodes_with_keys_of_kilobytes_take_the_budget() {
    nodes_of_megabytes(Large::LongSuffixes, &["mst"; 2]);
}

#[test]
fn nodes_with_many_entries_take_the_budget() {
    nodes_of_megabytes(Large::ManyEntries, &["mst"; 2]);
}

/// Their index, of twelve bytes a block, has no room either.
#[test]
fn a_repo_of_tiny_blocks_takes_the_budget() {
    const BLOCKS: u64 = 1_000_000;
    let mut repo = heavy::repo(FIRST, 10, 'x', 1000);
    repo.blocks.extend((0..BLOCKS).map(heavy::tiny));
    let mut trial = Trial::begin(1, Some(1));
    trial.put(&repo);
    let more = trial.more();
    let most = most(1, 1, 0, READS);
    assert!(more <= most && most < BLOCKS * 12 / 1024, "{more} KiB");
    assert_eq!(summary(&end_well(trial.program), "spills"), 1);
}

#[test]
fn what_a_large_repo_needed_is_given_back() {
    let mut trial = Trial::begin(2, None);
    let pid = trial.program.pid();
    let before = Resources::of(pid).resident;
    trial.put(&heavy::repo(FIRST, 3000, 'x', 20_000));
    trial.put(&heavy::of_another(&escapes(), FIRST + 1));
    let more = trial.more();
    assert!(more > 50 * MIB, "{more} KiB");
    let most = before + 12 * MIB;
    eventually("it is small again", || Resources::of(pid).resident <= most);
}

/// Downloads that are cut, trees that are none, panics: together several times the budget. Then one fits that needs the most of it.
#[test]
fn what_a_failed_repo_needed_is_given_back() {
    let good = heavy::repo(FIRST, 400, 'x', 20_000);
    let [panicking, cut, cut_too] = [1, 2, 5].map(|n| heavy::of_another(&good, FIRST + n));
    let wrong = heavy::chain(FIRST + 3, 2, Large::ManyEntries);
    let large = heavy::repo(FIRST + 4, 2000, 'x', 20_000);
    let asked = format!("write:{}", panicking.did);
    let mut trial = Trial::begin_with(1, Some(64), |program| {
        let program = program.env("BACKFILLER_TEST_PANIC", asked);
        // A host that has cut one more would be left alone.
        program.env("BACKFILLER_MAX_ATTEMPTS", "4")
    });
    let _hosts = [&cut, &cut_too].map(|repo| trial.put_cut(repo));
    trial.put(&panicking);
    trial.put(&wrong);
    trial.assert_ends(&cut, &["network"; 4]);
    trial.assert_ends(&cut_too, &["network"; 4]);
    trial.assert_ends(&wrong, &["mst"; 2]);
    // Its last chunk may have been executed all the same.
    wait_until_drained(&mut trial.stage.connection);
    let size = trial.put(&large);
    assert!(size > 38 * MIB);
    trial.assert_ends(&large, &["done"]);
    let program = end_well(trial.program);
    assert!(summary(&program, "panic") > 0);
    assert_eq!(summary(&program, "spills"), 0);
}
