//! Repos that are not what their owner signed: fetched again, for they may be repaired; given up when the same commit fails the
//! same rule again, or after three attempts.

mod support;

use support::fixture_server::Fault;
use support::generator::{Repo, SigningKey, Value, did_plc, set_field, tid};
use support::hostile;
use support::hostile::stage::Stage;
use support::verdicts::{Ended, hasty, sent};

/// All reasons of this kind.
const REASONS: [&str; 6] = [
    "car",
    "incomplete",
    "mst",
    "commit",
    "did_mismatch",
    "signature",
];

/// The repo under a commit of its own, good as it is.
fn at_rev(repo: &Repo, number: u64) -> Repo {
    let mut repo = repo.clone();
    repo.rev = tid(1_750_000_000_000_000 + number, 7);
    let root = repo.root;
    repo.resign_with_root(root)
}

/// The repo with one of its bits wrong; the commit is the same.
fn flipped(repo: &Repo) -> Repo {
    let mut repo = repo.clone();
    let (_, block) = repo.blocks.last_mut().expect("a block");
    block[0] ^= 1;
    repo
}

/// The repo without one of its blocks; the commit is the same.
fn cut(repo: &Repo) -> Repo {
    let mut repo = repo.clone();
    repo.blocks.pop();
    repo
}

/// The repo at a rev of its own, broken so that it fails for this reason.
fn broken(repo: &Repo, reason: &str, rev: u64) -> Repo {
    let repo = at_rev(repo, rev);
    let with = |name: &str, value: Value| {
        let mut fields = repo.commit_fields();
        set_field(&mut fields, name, value);
        repo.clone().resign_with_fields(fields)
    };
    match reason {
        "car" => flipped(&repo),
        "incomplete" => cut(&repo),
        "mst" => repo.edit_node(0, |node| node.e[0].p = 1),
        "commit" => with("version", Value::Int(2)),
        "did_mismatch" => with("did", Value::text(did_plc(999))),
        "signature" => repo.resign_with(|_, message| SigningKey::k256(99).sign(message).to_vec()),
        _ => panic!("{reason} is none of these"),
    }
}

/// A new account whose server sends these one after the other, and then the good repo.
fn sending(stage: &mut Stage, make: impl FnOnce(&Repo) -> Vec<Repo>) -> Repo {
    let repo = stage.faulty(Fault::Normal);
    let sequence = make(&repo).iter().map(sent).collect();
    stage.server.set_fault(&repo.did, Fault::Then(sequence));
    repo
}

#[test]
fn the_same_commit_is_not_tried_a_third_time_for_the_same_reason() {
    let mut stage = Stage::new();
    let repos = REASONS.map(|reason| {
        sending(&mut stage, |repo| {
            let same = broken(repo, reason, 1);
            vec![same.clone(), same.clone(), same]
        })
    });
    let program = hasty(&stage).env("BACKFILLER_MAX_ATTEMPTS", "8");
    let ended = Ended::run(&mut stage, program);
    for (repo, reason) in repos.iter().zip(REASONS) {
        ended.assert_dead(&repo.did, &[reason; 2]);
        assert_eq!(stage.server.repo_requests(&repo.did), 2, "{reason}");
    }
    stage.assert_events([]);
}

#[test]
fn other_commits_are_given_up_after_three_attempts() {
    let mut stage = Stage::new();
    let repos = REASONS.map(|reason| {
        sending(&mut stage, |repo| {
            (1..=4).map(|rev| broken(repo, reason, rev)).collect()
        })
    });
    let program = hasty(&stage).env("BACKFILLER_MAX_ATTEMPTS", "8");
    let ended = Ended::run(&mut stage, program);
    for (repo, reason) in repos.iter().zip(REASONS) {
        ended.assert_dead(&repo.did, &[reason; 3]);
        assert_eq!(stage.server.repo_requests(&repo.did), 3, "{reason}");
    }
    stage.assert_events([]);
}

#[test]
fn a_repo_that_is_repaired_meanwhile_becomes_events() {
    let mut stage = Stage::new();
    let mut repos = Vec::new();
    for reason in REASONS {
        // Under another commit each time; the last one is the good repo.
        for times in 1..=2 {
            let repo = sending(&mut stage, |repo| {
                (1..=times).map(|rev| broken(repo, reason, rev)).collect()
            });
            repos.push((repo, vec![reason; times as usize]));
        }
    }
    // The very commit whose blocks came in wrong.
    let repo = sending(&mut stage, |repo| vec![flipped(repo)]);
    repos.push((repo, vec!["car"]));
    let program = hasty(&stage).env("BACKFILLER_MAX_ATTEMPTS", "8");
    let ended = Ended::run(&mut stage, program);
    for (repo, failed) in &repos {
        ended.assert_done(&repo.did, failed);
    }
    stage.assert_events(repos.iter().map(|(repo, _)| repo));
}

/// What counts is the same commit *and* the same rule, in two attempts with nothing between them.
#[test]
fn one_commit_that_fails_in_different_ways_has_three_attempts() {
    let mut stage = Stage::new();
    let ways = sending(&mut stage, |repo| {
        vec![flipped(repo), cut(repo), flipped(repo), flipped(repo)]
    });
    let turns = sending(&mut stage, |repo| {
        [1, 2, 1].map(|rev| broken(repo, "mst", rev)).into()
    });
    // Other classes come between: it begins anew.
    let between = stage.faulty(Fault::Normal);
    let same = || sent(&broken(&between, "mst", 1));
    let sequence = vec![same(), Fault::status(500), same(), Fault::status(500)];
    stage.server.set_fault(&between.did, Fault::Then(sequence));
    let program = hasty(&stage).env("BACKFILLER_MAX_ATTEMPTS", "8");
    let ended = Ended::run(&mut stage, program);
    ended.assert_dead(&ways.did, &["car", "incomplete", "car"]);
    ended.assert_dead(&turns.did, &["mst"; 3]);
    ended.assert_done(&between.did, &["mst", "network", "mst", "network"]);
    stage.assert_events([&between]);
}

/// What comes to no commit cannot be recognized, so it is tried three times.
#[test]
fn an_archive_without_a_root_is_given_up_after_three_attempts() {
    let mut stage = Stage::new();
    let archives = [
        hostile::of_rule("R3")
            .into_iter()
            .find(|entry| entry.name == "no root"),
        hostile::of_rule("R4")
            .into_iter()
            .find(|entry| entry.name == "cut inside the header"),
    ];
    let archives = archives.map(|entry| entry.expect("such an archive"));
    for entry in &archives {
        entry.serve(&stage.server);
        let url = stage.server.url();
        stage.enqueue(&entry.did, Some(&url));
    }
    let program = hasty(&stage).env("BACKFILLER_MAX_ATTEMPTS", "8");
    let ended = Ended::run(&mut stage, program);
    for entry in &archives {
        ended.assert_dead(&entry.did, &["car"; 3]);
    }
    stage.assert_events([]);
}
