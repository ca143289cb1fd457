//! Panics within a job, made on purpose (debug builds only): caught, retried and given up, and nothing else suffers. And repos with
//! which the whole process ends each time.

mod support;

use support::backfiller::Backfiller;
use support::events::{OUTPUT, assert_repo, read_events, wait_until_drained};
use support::fixture_server::{Fault, served};
use support::generator::Repo;
use support::hostile::outcomes;
use support::hostile::stage::Stage;
use support::verdicts::{
    ATTEMPTS, Ended, assert_begun, deliveries, hasty, stop, wait_for_failures,
};

/// Makes the jobs of an account panic.
const VARIABLE: &str = "BACKFILLER_TEST_PANIC";

/// A repo of four chunks.
fn long(stage: &mut Stage) -> Repo {
    let repo = served(&stage.server, 1001, 1700);
    let url = stage.server.url();
    stage.enqueue(&repo.did, Some(&url));
    repo
}

#[test]
fn a_panic_is_caught_and_retried_and_the_thread_lives() {
    let mut stage = Stage::new();
    let before = stage.faulty(Fault::Normal);
    let panicking = stage.faulty(Fault::Normal);
    let behind = stage.faulty(Fault::Normal);
    // One worker does them all.
    let program = hasty(&stage)
        .env("BACKFILLER_CONCURRENCY", "1")
        .env(VARIABLE, format!("fetch:{}", panicking.did));
    let ended = Ended::run(&mut stage, program);
    ended.assert_dead(&panicking.did, &["panic"; ATTEMPTS as usize]);
    let letter = ended.letter(&panicking.did).expect("a letter");
    assert_eq!(letter["error"], format!("asked for by {VARIABLE}"));
    for repo in [&before, &behind] {
        ended.assert_done(&repo.did, &[]);
    }
    stage.assert_events([&before, &behind]);
}

#[test]
fn with_one_attempt_a_panic_is_final() {
    let mut stage = Stage::new();
    let repo = stage.faulty(Fault::Normal);
    let program = hasty(&stage)
        .env("BACKFILLER_MAX_ATTEMPTS", "1")
        .env(VARIABLE, format!("fetch:{}", repo.did));
    let ended = Ended::run(&mut stage, program);
    ended.assert_dead(&repo.did, &["panic"]);
    stage.assert_events([]);
}

#[test]
fn a_panic_between_chunks_writes_nothing_twice_and_ends_as_a_dead_letter() {
    let mut stage = Stage::new();
    let repo = long(&mut stage);
    let program = hasty(&stage).env(VARIABLE, format!("write:{}", repo.did));
    let ended = Ended::run(&mut stage, program);
    ended.assert_dead(&repo.did, &["panic"; ATTEMPTS as usize]);
    let written = assert_begun(&mut stage, &repo);
    // Each attempt sends the chunk behind those before it, and gives up the connection: it is executed, mostly, or it is not.
    assert!(written <= 500 * ATTEMPTS as usize, "{written}");

    // The message has ended: nothing comes of it any more, also where nothing panics.
    let other = stage.faulty(Fault::Normal);
    let program = hasty(&stage);
    let ended = Ended::run(&mut stage, program);
    ended.assert_done(&other.did, &[]);
    assert!(ended.attempts(&repo.did).is_empty());
    assert_eq!(assert_begun(&mut stage, &repo), written);
}

/// The program with the defect is killed, and replaced by one without.
#[test]
fn a_repo_that_panicked_before_is_completed_exactly_once() {
    let mut stage = Stage::new();
    let repo = long(&mut stage);
    let program = hasty(&stage)
        .env("BACKFILLER_MAX_ATTEMPTS", "100")
        .env(VARIABLE, format!("write:{}", repo.did));
    let mut first = program.start();
    wait_for_failures(&first, &repo.did, 2);
    first.kill();
    let attempts = deliveries(&mut stage, &repo.did);
    assert!(attempts >= 2, "{attempts}");
    let written = assert_begun(&mut stage, &repo);

    let second = hasty(&stage).env("BACKFILLER_MAX_ATTEMPTS", "100").start();
    wait_until_drained(&mut stage.connection);
    let second = stop(second);
    let outcomes = outcomes::so_far(&second);
    // Redis may have executed one more chunk after the kill.
    let resumed = outcomes::of(&outcomes, &repo.did).number("resumed") as usize;
    assert!(
        resumed >= written && resumed.is_multiple_of(500),
        "{resumed}"
    );
    Ended::see(&mut stage, &[second]).assert_done(&repo.did, &[]);
    let events = read_events(&mut stage.connection, OUTPUT);
    assert_repo(&events, &repo);
}

/// Starts the program and kills it as soon as it asks for the repo, which takes so many requests.
#[track_caller]
fn kill_while_fetching(stage: &mut Stage, repo: &Repo, requests: usize) -> Backfiller {
    let mut backfiller = hasty(stage).start();
    stage.server.wait_until_held(&repo.did, requests);
    backfiller.kill();
    backfiller
}

#[test]
fn a_repo_with_which_the_process_ends_each_time_is_given_up() {
    let mut stage = Stage::new();
    let repo = stage.faulty(Fault::Hold { after: 100 });
    for attempt in 1..=ATTEMPTS as usize {
        kill_while_fetching(&mut stage, &repo, attempt);
        assert_eq!(deliveries(&mut stage, &repo.did), attempt);
    }
    let program = hasty(&stage);
    let ended = Ended::run(&mut stage, program);
    ended.assert_letter(&repo.did, "panic", ATTEMPTS);
    let letter = ended.letter(&repo.did).expect("a letter");
    let error = "attempt 3 ended with its process; none before was judged";
    assert_eq!(letter["error"], error);
    assert_eq!(stage.server.repo_requests(&repo.did), ATTEMPTS as usize);
    stage.assert_events([]);
}

#[test]
fn the_letter_of_a_repo_with_which_the_process_ended_names_the_failure_before() {
    let mut stage = Stage::new();
    let hold = Fault::Hold { after: 100 };
    let sequence = vec![Fault::status(500), hold.clone(), hold];
    let repo = stage.faulty(Fault::Then(sequence));
    let first = kill_while_fetching(&mut stage, &repo, 1);
    let second = kill_while_fetching(&mut stage, &repo, 2);
    let third = hasty(&stage).start();
    wait_until_drained(&mut stage.connection);
    let ended = Ended::see(&mut stage, &[first, second, stop(third)]);
    assert_eq!(ended.attempts(&repo.did), ["network", "panic"]);
    ended.assert_letter(&repo.did, "panic", ATTEMPTS);
    let letter = ended.letter(&repo.did).expect("a letter");
    let error = "attempt 3 ended with its process; the last one judged: network";
    assert_eq!(letter["error"], error);
    stage.assert_events([]);
}

/// Not the process is to blame, but the operator has lowered the limit meanwhile.
#[test]
fn a_limit_that_was_lowered_names_the_failure() {
    let mut stage = Stage::new();
    let repo = stage.faulty(Fault::status(500));
    let before = stage.program().start();
    wait_for_failures(&before, &repo.did, 1);
    let before = stop(before);
    let program = hasty(&stage).env("BACKFILLER_MAX_ATTEMPTS", "1");
    let after = program.start();
    wait_until_drained(&mut stage.connection);
    let ended = Ended::see(&mut stage, &[before, stop(after)]);
    let letter = ended.letter(&repo.did).expect("a letter");
    assert_eq!(
        [&letter["reason"], &letter["attempts"], &letter["error"]],
        [
            "network",
            "1",
            "attempt 1 failed before, and 1 is the limit now"
        ]
    );
    assert_eq!(stage.server.repo_requests(&repo.did), 1);
    stage.assert_events([]);
}
