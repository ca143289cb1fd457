//! Accounts whose server misbehaves, and how their jobs must end: what the tests of fetching share.

use std::io::ErrorKind;
use std::net::TcpListener;

use super::backfiller::Builder;
use super::fixture_server::Fault;
use super::generator::Repo;
use super::hostile::outcomes::{self, Outcome};
use super::hostile::stage::Stage;

/// Runs the program over an account for each fault; each must end so, and the good ones have all their events. What defers, or breaks
/// off, has a server of its own: one that asks to wait, or fails again and again, is not asked for anything else meanwhile.
#[track_caller]
pub fn assert_ends(stage: &mut Stage, faults: Vec<(Fault, &str)>) -> Vec<Outcome> {
    let (apart, faults): (Vec<_>, Vec<_>) = faults
        .into_iter()
        .partition(|(_, how)| matches!(*how, "deferred" | "network"));
    let apart: Vec<_> = apart
        .into_iter()
        .map(|(fault, how)| (stage.faulty_apart(fault), how))
        .collect();
    let repos: Vec<_> = faults
        .into_iter()
        .map(|(fault, how)| (stage.faulty(fault), how))
        .collect();
    let program = stage.permitted();
    let ended = assert_repos_end(stage, program, &repos);
    for ((repo, server), how) in &apart {
        let outcome = outcomes::of(&ended, &repo.did);
        assert_eq!(outcome.how, *how, "{}", outcome.line);
        assert_eq!(server.repo_requests(&repo.did), 1, "{}", outcome.line);
    }
    ended
}

#[track_caller]
pub fn assert_repos_end(
    stage: &mut Stage,
    program: Builder,
    repos: &[(Repo, &str)],
) -> Vec<Outcome> {
    let ended = stage.run(program);
    for (place, (repo, how)) in repos.iter().enumerate() {
        let outcome = outcomes::of(&ended, &repo.did);
        assert_eq!(outcome.how, *how, "{place}: {}", outcome.line);
        assert_eq!(
            stage.server.repo_requests(&repo.did),
            1,
            "{place}: one attempt is one request"
        );
    }
    let done = repos.iter().filter(|(_, how)| *how == "done");
    stage.assert_events(done.map(|(repo, _)| repo));
    ended
}

/// A new account whose message names the stage's own server, which redirects so.
pub fn redirected(stage: &mut Stage, code: u16, location: impl FnOnce(&Repo) -> String) -> Repo {
    let repo = stage.faulty(Fault::Normal);
    let location = location(&repo);
    stage
        .server
        .set_fault(&repo.did, Fault::Redirect { code, location });
    repo
}

/// All are done, and all their events are there.
#[track_caller]
pub fn assert_all_done(stage: &mut Stage, repos: &[Repo], ended: &[Outcome]) {
    for repo in repos {
        let outcome = outcomes::of(ended, &repo.did);
        assert_eq!(outcome.how, "done", "{}", outcome.line);
    }
    stage.assert_events(repos);
}

#[track_caller]
pub fn assert_nobody_came(listener: &TcpListener) {
    listener
        .set_nonblocking(true)
        .expect("a mode of the listener");
    match listener.accept() {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        came => panic!("somebody came: {came:?}"),
    }
}
