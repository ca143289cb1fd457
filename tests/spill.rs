//! Repos for which there is no room in memory: their blocks go to a file that has no name, nothing else is different about them, and
//! nothing is left of them. Where there is no room for the file either, the message waits.

mod support;

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use support::backfiller::{Backfiller, Builder};
use support::events::{OUTPUT, assert_repo, read_events, stream_len, wait_until_drained};
use support::fixture_server::Fault;
use support::fleet::{Fleet, Instance, assert_written_once};
use support::generator::{Repo, RepoBuilder, did_plc, mixed_repo, records};
use support::heavy;
use support::hostile::stage::Stage;
use support::instances::{end_well, has_said, summary};
use support::proxy::{Action, Exec};
use support::redis_server::RedisServer;
use support::spilled;
use support::verdicts::{Ended, deliveries, stop, wait_for_failures};
use support::wait::eventually;

/// Attempts that fail before there is room again.
const ROUNDS: usize = 4;

/// One worker, as little memory as there may be, and this folder; what failed is due again soon.
fn frugal(program: Builder, folder: &Path) -> Builder {
    program
        .env("BACKFILLER_CONCURRENCY", "1")
        .env("BACKFILLER_MEMORY_BUDGET_MB", "1")
        .env("BACKFILLER_SPILL_DIR", folder)
        .env("BACKFILLER_RETRY_INITIAL_BACKOFF_MS", "20")
        .env("BACKFILLER_RETRY_MAX_BACKOFF_MS", "50")
}

/// Small records and some that are larger than the memory that is taken at a time, up to the largest there may be; and a block of
/// another kind that is larger still.
fn varied() -> Repo {
    let large = [
        heavy::record(0, 'é', 300_000),
        heavy::record(1, '"', 1 << 20),
        heavy::record(2, 'x', 2 << 20),
        heavy::record(3, '🦀', 260_000),
    ];
    assert_eq!(large[2].value.encode().len(), 2 << 20);
    let mut repo = RepoBuilder::new(did_plc(1000))
        .records(records::mixed(1000, 4000))
        .records(large)
        .build();
    repo.blocks.push(heavy::stray());
    // Some are there twice.
    repo.blocks.extend_from_within(..1000);
    repo
}

/// Starts the program on a repo whose last bytes are not sent, and waits until it has a file for what it got.
#[track_caller]
fn spilled_and_held(stage: &mut Stage, folder: &Path, repo: &Repo, car: Vec<u8>) -> Backfiller {
    let server = &stage.server;
    let after = car.len() - 100;
    server.put_document(&repo.did, repo.did_document(&server.url()));
    server.put_repo(&repo.did, car);
    server.set_fault(&repo.did, Fault::Hold { after });
    let url = server.url();
    stage.enqueue(&repo.did, Some(&url));
    let backfiller = frugal(stage.permitted(), folder).start();
    stage.server.wait_until_held(&repo.did, 1);
    // The last segment is in memory.
    eventually("all but the end is in a file", || {
        let sizes = spilled::sizes(backfiller.pid(), folder);
        sizes.len() == 1 && sizes[0] > after as u64 / 1024 - 5000
    });
    assert_eq!(spilled::names(folder), [""; 0]);
    backfiller
}

#[track_caller]
fn is_as_any_other(repo: &Repo, car: Vec<u8>) {
    let (mut stage, folder) = (Stage::new(), TempDir::new().expect("a folder"));
    let backfiller = spilled_and_held(&mut stage, folder.path(), repo, car);
    stage.server.release(&repo.did);
    wait_until_drained(&mut stage.connection);
    assert_repo(&read_events(&mut stage.connection, OUTPUT), repo);
    eventually("the file is closed", || {
        spilled::sizes(backfiller.pid(), folder.path()).is_empty()
    });
    let backfiller = end_well(backfiller);
    assert_eq!(summary(&backfiller, "spills"), 1);
    assert_eq!(summary(&backfiller, "failures"), 0);
    assert_eq!(spilled::names(folder.path()), [""; 0]);
}

#[test]
fn the_events_of_a_spilled_repo_are_those_of_any_other() {
    let repo = varied();
    is_as_any_other(&repo, repo.car());
}

#[test]
fn so_are_they_where_the_blocks_come_in_no_order() {
    let repo = varied();
    is_as_any_other(&repo, repo.car_shuffled(7));
}

#[test]
fn a_process_that_is_killed_leaves_nothing_of_a_spilled_repo() {
    let repo = varied();
    let (mut stage, folder) = (Stage::new(), TempDir::new().expect("a folder"));
    let mut backfiller = spilled_and_held(&mut stage, folder.path(), &repo, repo.car());
    backfiller.kill();
    assert_eq!(spilled::names(folder.path()), [""; 0]);
}

/// The disk, or somebody with access to it, takes away what was written.
#[test]
fn a_file_that_cannot_be_read_back_is_written_anew() {
    let repo = varied();
    let (mut stage, folder) = (Stage::new(), TempDir::new().expect("a folder"));
    let backfiller = spilled_and_held(&mut stage, folder.path(), &repo, repo.car());
    spilled::cut_all(backfiller.pid(), folder.path());
    stage.server.release(&repo.did);
    wait_until_drained(&mut stage.connection);
    let backfiller = stop(backfiller);
    let ended = Ended::see(&mut stage, std::slice::from_ref(&backfiller));
    ended.assert_done(&repo.did, &["deferred"]);
    assert!(has_said(
        &backfiller,
        " error=blocks cannot be read back from their file: "
    ));
    assert_eq!(summary(&backfiller, "spills"), 2);
    assert_repo(&read_events(&mut stage.connection, OUTPUT), &repo);
}

/// Sends a repo that fits until its events take memory too, but for its end; then lets `change` be, and sends the end.
fn spill_while_walking(change: impl FnOnce(&Path)) -> (Stage, Backfiller, TempDir, Repo) {
    let (mut stage, folder) = (Stage::new(), TempDir::new().expect("a folder"));
    let repo = mixed_repo(1001, 1000);
    stage.server.serve(&repo);
    let after = repo.car().len() - 100;
    stage.server.set_fault(&repo.did, Fault::Hold { after });
    let url = stage.server.url();
    stage.enqueue(&repo.did, Some(&url));
    let backfiller = frugal(stage.permitted(), folder.path()).start();
    stage.server.wait_until_held(&repo.did, 1);
    change(folder.path());
    stage.server.release(&repo.did);
    wait_until_drained(&mut stage.connection);
    let backfiller = end_well(backfiller);
    (stage, backfiller, folder, repo)
}

#[test]
fn blocks_make_room_for_events() {
    let (mut stage, backfiller, _folder, repo) = spill_while_walking(|_| {});
    assert_repo(&read_events(&mut stage.connection, OUTPUT), &repo);
    assert_eq!(summary(&backfiller, "spills"), 1);
    assert!(!has_said(&backfiller, "memory is short"));
}

#[test]
fn blocks_that_cannot_make_room_for_events_stay() {
    let (mut stage, backfiller, _folder, repo) = spill_while_walking(|folder| {
        fs::remove_dir(folder).expect("an empty folder");
    });
    assert_repo(&read_events(&mut stage.connection, OUTPUT), &repo);
    assert_eq!(summary(&backfiller, "spills"), 0);
    assert!(has_said(&backfiller, "memory is short"));
}

/// Runs the program, which cannot spill, over a repo that must be spilled and others, until the one has failed several times; then
/// `mend` makes it possible. The error of each attempt must say `error`.
#[track_caller]
fn waits_for_room(
    program: impl FnOnce(Builder) -> Builder,
    spoil: impl FnOnce(&Path),
    mend: impl FnOnce(&Backfiller, &Path),
    error: &str,
) {
    let (mut stage, folder) = (Stage::new(), TempDir::new().expect("a folder"));
    let large = heavy::repo(1002, 60, 'x', 100_000);
    stage.server.serve(&large);
    let url = stage.server.url();
    let program = program(frugal(stage.permitted(), folder.path()));
    let backfiller = program.env("BACKFILLER_MAX_ATTEMPTS", "2").start();
    backfiller.wait_for_line(|line| line.contains("created group"));
    spoil(folder.path());
    stage.enqueue(&large.did, Some(&url));
    let small = [1, 2, 3].map(|_| {
        let repo = stage.account();
        stage.enqueue(&repo.did, Some(&url));
        repo
    });
    wait_for_failures(&backfiller, &large.did, ROUNDS);
    eventually("the others are done", || {
        stream_len(&mut stage.connection, OUTPUT) == small.len() * 6
    });
    eventually("it waits, and nothing is charged", || {
        deliveries(&mut stage, &large.did) == 0
    });
    mend(&backfiller, folder.path());
    wait_until_drained(&mut stage.connection);
    let backfiller = stop(backfiller);
    assert_eq!(summary(&backfiller, "dead_letters"), 0);
    let lines = backfiller.lines();
    let failed = lines.iter().filter(|line| line.contains("failed did="));
    let place = format!(" error=a file in {}: {error}", folder.path().display());
    for line in failed {
        assert!(line.contains(" reason=deferred attempt=1 "), "{line}");
        assert!(line.contains(&place), "{line} without {place}");
    }
    let ended = Ended::see(&mut stage, &[backfiller]);
    let failures = ended.numbers(&large.did).len();
    assert!(failures >= ROUNDS);
    ended.assert_done(&large.did, &vec!["deferred"; failures]);
    for repo in &small {
        ended.assert_done(&repo.did, &[]);
    }
    let events = read_events(&mut stage.connection, OUTPUT);
    assert_repo(&events, &large);
    small.iter().for_each(|repo| assert_repo(&events, repo));
    assert_eq!(spilled::names(folder.path()), [""; 0]);
}

#[test]
fn without_the_folder_a_large_repo_waits_and_the_others_go_on() {
    waits_for_room(
        |program| program,
        |folder| fs::remove_dir(folder).expect("an empty folder"),
        |_, folder| fs::create_dir(folder).expect("the folder"),
        "No such file or directory",
    );
}

#[test]
#[cfg(target_os = "linux")]
fn without_room_for_the_whole_file_a_large_repo_waits_and_the_others_go_on() {
    waits_for_room(
        |program| program.largest_file(2 << 20),
        |_| {},
        |backfiller, _| backfiller.allow_all_files(),
        "File too large",
    );
}

/// An instance behind a proxy, and the folder of its files.
fn spilling(fleet: &Fleet) -> (Instance, TempDir) {
    let folder = TempDir::new().expect("a folder");
    let instance = fleet.start_with(1, |program| frugal(program, folder.path()));
    (instance, folder)
}

/// More than the budget, and several chunks.
const RECORDS: usize = 4000;

#[test]
fn a_connection_that_is_cut_in_the_midst_of_a_spilled_repo_costs_nothing() {
    let mut fleet = Fleet::new(&[]);
    let (mut instance, _folder) = spilling(&fleet);
    let cuts = [(Action::CutBefore, 2), (Action::CutAfter, 4)].map(|(action, place)| {
        let mut chunks = 0;
        instance.proxy.once(action, move |exec| {
            chunks += usize::from(exec.is_chunk());
            chunks == place
        })
    });
    fleet.put(&[RECORDS]);
    wait_until_drained(&mut fleet.connection);
    assert_eq!(cuts.each_ref().map(|cut| cut.count()), [1, 1]);
    instance.end();
    assert_eq!(summary(&instance.program, "spills"), 1);
    assert_eq!(fleet.server.repo_requests(&fleet.repos[0].did), 1);
    assert_written_once(&mut fleet.connection, &fleet.repos);
}

/// The second chunk is written, answered, and lost with the server: the file is read a second time, and what the replica has is left
/// out.
#[test]
fn a_spilled_repo_goes_on_where_a_promoted_replica_says() {
    let mut fleet = Fleet::new(&["--repl-diskless-sync-delay", "0"]);
    let port = fleet.redis.port().to_string();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]);
    let mut promoted = replica.connection();
    eventually("the replica follows", || {
        let mut info = redis::cmd("INFO");
        let info: String = info.arg("replication").query(&mut promoted).unwrap();
        info.contains("master_link_status:up")
    });
    let (mut instance, folder) = spilling(&fleet);
    let proxy = &instance.proxy;
    let first = proxy.once(Action::PauseAfter, Exec::is_chunk);
    fleet.put(&[RECORDS]);
    first.wait(1);
    assert_eq!(
        spilled::sizes(instance.program.pid(), folder.path()).len(),
        1
    );
    eventually("the replica has the first chunk", || {
        stream_len(&mut promoted, OUTPUT) == 501
    });
    let mut detach = redis::cmd("REPLICAOF");
    let () = detach.arg(&["NO", "ONE"]).query(&mut promoted).unwrap();
    // The third one is sent when the second one is answered.
    let mut chunks = 1;
    let third = proxy.once(Action::Delay, move |exec| {
        chunks += usize::from(exec.is_chunk());
        chunks == 3
    });
    drop(first);
    third.wait(1);
    proxy.refuse(true);
    proxy.cut_all();
    proxy.set_upstream(replica.port());
    proxy.refuse(false);

    wait_until_drained(&mut promoted);
    instance.end();
    assert!(has_said(&instance.program, ": going on behind leaf 500"));
    assert_eq!(summary(&instance.program, "spills"), 1);
    assert_eq!(fleet.server.repo_requests(&fleet.repos[0].did), 1);
    assert_written_once(&mut promoted, &fleet.repos);
}

/// One that is asked to end while a repo is spilled finishes it.
#[test]
fn a_signal_waits_for_a_spilled_repo() {
    let repo = varied();
    let (mut stage, folder) = (Stage::new(), TempDir::new().expect("a folder"));
    let mut backfiller = spilled_and_held(&mut stage, folder.path(), &repo, repo.car());
    backfiller.signal(Signal::SIGTERM);
    backfiller.wait_for_line(|line| line.contains("signal: reading stops"));
    stage.server.release(&repo.did);
    assert_eq!(backfiller.wait().code(), Some(0));
    assert_eq!(summary(&backfiller, "spills"), 1);
    assert_repo(&read_events(&mut stage.connection, OUTPUT), &repo);
}
