//! Repos for which there is no room in memory: their blocks go to a file that has no name, nothing else is different about them, and
//! nothing is left of them.

mod support;

use std::path::Path;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use support::backfiller::Backfiller;
use support::events::{OUTPUT, assert_repo, read_events, stream_len, wait_until_drained};
use support::fixture_server::Fault;
use support::fleet::{Fleet, Instance, assert_written_once};
use support::generator::Repo;
use support::heavy::varied;
use support::hostile::stage::Stage;
use support::instances::{end_well, has_said, summary};
use support::proxy::{Action, Exec};
use support::redis_server::RedisServer;
use support::spilled::{self, frugal};
use support::wait::eventually;

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
