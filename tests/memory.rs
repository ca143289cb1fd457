//! How much memory a process takes: the budget, and what each worker is busy with, whatever the repos are; and that it is given back.
//!
//! Each program has occupied all its workers with a small repo before it is measured: what it has then is not what is asked about.

mod support;

use tempfile::TempDir;

use support::adversary::resources::Resources;
use support::backfiller::Backfiller;
use support::events::wait_until_drained;
use support::fixture_server::Fault;
use support::generator::{Record, Repo, RepoBuilder, did_plc};
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
        let program = program.start();
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

    /// How the attempts at the account's repo have ended.
    fn ends(&self, repo: &Repo) -> Vec<String> {
        let outcomes = outcomes::so_far(&self.program).into_iter();
        let of_it = outcomes.filter(|outcome| outcome.did == repo.did);
        of_it.map(|outcome| outcome.how).collect()
    }
}

/// Some 60 MB.
fn large_repo() -> Repo {
    heavy::repo(FIRST, 3000, 'x', 20_000)
}

#[test]
fn a_repo_larger_than_the_budget_takes_the_budget() {
    let repo = large_repo();
    let mut trial = Trial::begin(1, Some(8));
    let size = trial.put(&repo);
    assert!(size > 57 * MIB);
    let more = trial.more();
    eprintln!("A budget 8: {more} of {size}, small {}", trial.small);
    assert_eq!(trial.ends(&repo), ["done"]);
    assert_eq!(summary(&end_well(trial.program), "spills"), 1);

    // Else this would show nothing.
    let mut trial = Trial::begin(1, None);
    trial.put(&repo);
    let more = trial.more();
    eprintln!("A budget -: {more} of {size}, small {}", trial.small);
    assert!(more > size, "{more} of {size} KiB");
    assert_eq!(summary(&end_well(trial.program), "spills"), 0);
}

#[test]
fn many_workers_share_the_budget() {
    const WORKERS: usize = 16;
    const AFTER: usize = 5 << 20;
    let first = heavy::repo(FIRST, 300, 'x', 20_000);
    let repos: Vec<_> = (0..WORKERS as u64)
        .map(|n| heavy::of_another(&first, FIRST + n))
        .collect();
    for budget in [Some(8), None] {
        let mut trial = Trial::begin(WORKERS, budget);
        for repo in &repos {
            let fault = Fault::Hold { after: AFTER };
            trial.stage.server.set_fault(&repo.did, fault);
        }
        let sizes: u64 = repos.iter().map(|repo| trial.put(repo)).sum();
        // All of them have what is sent of their repos.
        let all = (WORKERS * (AFTER - (2 << 20)) / 1024) as u64;
        if budget.is_some() {
            eventually("all have a file", || {
                let files = trial.files();
                let large = files.iter().filter(|size| **size > 3 * MIB);
                large.count() == WORKERS
            });
        } else {
            eventually("all have a repo", || trial.more_so_far() > all);
        }
        for repo in &repos {
            trial.stage.server.release(&repo.did);
        }
        let more = trial.more();
        eprintln!(
            "B budget {budget:?}: {more} of {sizes}, small {}",
            trial.small
        );
        let spills = summary(&end_well(trial.program), "spills");
        eprintln!("spills {spills}");
    }
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

#[test]
fn records_that_are_much_larger_as_json() {
    let repo = escapes();
    let mut trial = Trial::begin(1, Some(1));
    let size = trial.put(&repo);
    let more = trial.more();
    eprintln!("C: {more} of {size}, small {}", trial.small);
    assert_eq!(trial.ends(&repo), ["done"]);
}

#[test]
fn records_that_are_much_larger_as_json_at_many_workers() {
    const WORKERS: u64 = 4;
    let repo = escapes();
    let mut trial = Trial::begin(WORKERS as usize, Some(1));
    for n in 0..WORKERS {
        trial.put(&heavy::of_another(&repo, FIRST + n));
    }
    let more = trial.more();
    eprintln!("C4: {more}, small {}", trial.small);
}

#[test]
fn nodes_of_megabytes() {
    for large in [Large::UnknownField, Large::LongSuffixes, Large::ManyEntries] {
        let repo = heavy::chain(FIRST, 8, large);
        let mut trial = Trial::begin(1, Some(8));
        let size = trial.put(&repo);
        let more = trial.more();
        eprintln!(
            "D {large:?}: {more} of {size}, small {} {:?}",
            trial.small,
            trial.ends(&repo)
        );
    }
}

#[test]
fn what_a_large_repo_needed_is_given_back() {
    let mut trial = Trial::begin(2, None);
    let before = Resources::of(trial.program.pid()).resident;
    trial.put(&large_repo());
    trial.put(&heavy::of_another(&escapes(), FIRST + 1));
    let more = trial.more();
    for _ in 0..20 {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let now = Resources::of(trial.program.pid()).resident;
        eprint!("{now} ");
    }
    let now = Resources::of(trial.program.pid()).resident;
    eprintln!("F: before {before}, peak more {more}, now {now}");
}

/// The record type is only named by the closure of another function.
#[allow(dead_code)]
type Unused = Record;
