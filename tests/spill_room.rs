//! Repos for which there is no room in memory, and none or not enough on the disk: those that must have it wait without being charged,
//! the others go on.

mod support;

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use support::backfiller::{Backfiller, Builder};
use support::events::{
    INPUT, OUTPUT, assert_repo, read_events, stream_len, take_events, wait_until_drained,
};
use support::fixture_server::Fault;
use support::generator::{Repo, mixed_repo};
use support::heavy::{self, varied};
use support::hostile::stage::Stage;
use support::instances::{end_well, has_said, summary};
use support::spilled::{self, frugal};
use support::verdicts::{Ended, deliveries, stop, wait_for_failures};
use support::wait::eventually;

/// Attempts that fail before there is room again.
const ROUNDS: usize = 4;

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
    let failed = lines.iter().filter(|line| line.contains("deferred did="));
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

/// The disk, or somebody with access to it, takes away what was written, when some events of the repo are in the output.
#[test]
fn a_repo_whose_file_cannot_be_read_back_waits_and_goes_on() {
    let repo = varied();
    let (mut stage, folder) = (Stage::new(), TempDir::new().expect("a folder"));
    stage.server.serve(&repo);
    let url = stage.server.url();
    stage.enqueue(&repo.did, Some(&url));
    let program = frugal(stage.permitted(), folder.path());
    let backfiller = program
        .env("BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK", "100")
        .start();
    backfiller.wait_for_line(|line| line.contains("the mark is 100: waiting"));
    let mut events = take_events(&mut stage.connection);
    assert_eq!(events.len(), 501);
    spilled::cut_all(backfiller.pid(), folder.path());
    eventually("all is written", || {
        events.extend(take_events(&mut stage.connection));
        stream_len(&mut stage.connection, INPUT) == 0
    });
    events.extend(take_events(&mut stage.connection));
    let backfiller = stop(backfiller);
    assert!(has_said(
        &backfiller,
        " error=blocks cannot be read back from their file: "
    ));
    assert!(has_said(&backfiller, ": going on behind leaf "));
    assert_eq!(summary(&backfiller, "spills"), 2);
    let ended = Ended::see(&mut stage, &[backfiller]);
    ended.assert_done(&repo.did, &["deferred"]);
    assert_eq!(ended.numbers(&repo.did), [1]);
    assert_repo(&events, &repo);
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
