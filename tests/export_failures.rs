//! `backfiller export` where something fails: nothing of it is written (I3), the reason is said in one line, and all others are written.

mod support;

use nix::sys::signal::Signal;

use support::exporting::{Export, Exported, lines_of};
use support::fixture_server::{Document, Fault, FixtureServer, served};
use support::generator::Repo;
use support::hostile::{good, of_rule};
use support::wait::eventually;

/// Only these repos are written, and each of them whole.
#[track_caller]
fn only_these_are_written(exported: &Exported, repos: &[Repo]) {
    let lines = exported.lines_however();
    for repo in repos {
        let count = lines_of(&lines, &repo.did).len();
        assert_eq!(count, repo.expected.len() + 1, "{}", repo.did);
    }
    let total: usize = repos.iter().map(|repo| repo.expected.len() + 1).sum();
    assert_eq!(lines.len(), total, "lines of others");
}

/// Hostile repos of a rule among good ones.
fn refuses(rule: &'static str) {
    let server = FixtureServer::start();
    let hostile = of_rule(rule);
    let repos = ["before", "among", "behind"].map(good);
    let mut dids = vec![repos[0].did.clone()];
    for repo in &repos {
        server.serve(repo);
    }
    // Those whose server breaks off would open its circuit for the others.
    let mut apart = Vec::new();
    for (place, bad) in hostile.iter().enumerate() {
        if matches!(bad.fault, Fault::Normal) {
            bad.serve(&server);
        } else {
            let host = FixtureServer::start();
            bad.serve_at(&host, &server);
            apart.push(host);
        }
        dids.push(bad.did.clone());
        if place == hostile.len() / 2 {
            dids.push(repos[1].did.clone());
        }
    }
    dids.push(repos[2].did.clone());
    let export = Export::of(
        Some(&server),
        &["--concurrency", "4", "--max-attempts", "2"],
    );
    let exported = export.args(&dids).run();
    assert_eq!(exported.status, Some(1), "{rule}");
    only_these_are_written(&exported, &repos);
    for bad in &hostile {
        let (reason, text) = exported.failure(&bad.did);
        assert_eq!(reason, bad.reason, "{rule}: {}: {text}", bad.name);
    }
    assert_eq!(exported.failures().len(), hostile.len(), "{rule}");
    let summary = exported.errors.last().expect("a summary");
    assert!(summary.contains("3 of"), "{summary}");
    assert!(
        summary.contains(&format!(" {} failed;", hostile.len())),
        "{summary}"
    );
}

#[test]
fn r2_wrong_hashes_write_nothing() {
    refuses("R2");
}

#[test]
fn r3_wrong_roots_write_nothing() {
    refuses("R3");
}

#[test]
fn r4_what_is_cut_short_writes_nothing() {
    refuses("R4");
}

#[test]
fn r5_wrong_commits_write_nothing() {
    refuses("R5");
}

#[test]
fn r6_wrong_documents_write_nothing() {
    refuses("R6");
}

#[test]
fn r7_wrong_trees_write_nothing() {
    refuses("R7");
}

#[test]
fn a_host_that_refuses_for_now_is_waited_for() {
    let server = FixtureServer::start();
    for (seed, code) in [(1, 429), (2, 503)] {
        let repo = served(&server, seed, 5);
        let refusal = Fault::status_with_header(code, "Retry-After", "1");
        server.set_fault(&repo.did, Fault::Then(vec![refusal]));
        let exported = Export::of(Some(&server), &[&repo.did]).run();
        assert_eq!(exported.lines().len(), 6);
        assert_eq!(server.repo_requests(&repo.did), 2);
        let said = &exported.errors[0];
        assert!(
            said.contains(&repo.did) && said.contains("(1 of 6)"),
            "{said}"
        );
    }
}

/// The handle that an account's document names.
fn handle_of(server: &FixtureServer, repo: &Repo) -> String {
    let document = repo.did_document(&server.url());
    let name = document["alsoKnownAs"][0].as_str().expect("a name");
    name.strip_prefix("at://").expect("a handle").to_owned()
}

/// What a server is asked for the DID of a handle.
fn question(handle: &str) -> String {
    format!("/xrpc/com.atproto.identity.resolveHandle?handle={handle}")
}

#[test]
fn handles_that_must_wait_keep_no_worker_from_the_accounts_of_others() {
    let (server, resolver) = (FixtureServer::start(), FixtureServer::start());
    let repos: Vec<_> = (1..=4).map(|seed| served(&server, seed, 5)).collect();
    let handles: Vec<_> = repos[..3].iter().map(|it| handle_of(&server, it)).collect();
    for handle in &handles {
        resolver.answer(question(handle), [Document::refusal(40)]);
    }
    let running = Export::of(Some(&server), &["--handle-resolver", &resolver.url()])
        .args(&handles)
        .arg(&repos[3].did)
        .start();
    eventually("the account that needs no resolver is asked for", || {
        server.repo_requests(&repos[3].did) == 1
    });
    // Its cool-down is not over.
    for handle in &handles {
        assert!(resolver.count(&question(handle)) <= 1, "{handle}");
    }
    running.signal(Signal::SIGINT);
    assert_eq!(running.wait().status, Some(130));
}

#[test]
fn handles_that_were_refused_are_resolved_when_their_resolver_has_room() {
    let (server, resolver) = (FixtureServer::start(), FixtureServer::start());
    // So many refusals in a row are believed to be as short as they say.
    let repos: Vec<_> = (1..=3).map(|seed| served(&server, seed, 5)).collect();
    let handles: Vec<_> = repos.iter().map(|it| handle_of(&server, it)).collect();
    for (handle, repo) in handles.iter().zip(&repos) {
        let found = serde_json::json!({ "did": repo.did }).to_string();
        let answers = [Document::refusal(1), Document::ok(found)];
        resolver.answer(question(handle), answers);
    }
    // One at a time: what a lane has given must be free again for whoever comes from there.
    let args = ["--host-concurrency", "1", "--handle-resolver"];
    let export = Export::of(Some(&server), &args).arg(resolver.url());
    let exported = export.args(&handles).run();
    assert_eq!(exported.status, Some(0), "{:#?}", exported.errors);
    only_these_are_written(&exported, &repos);
}

#[test]
fn what_a_handle_has_cost_is_not_charged_to_its_account() {
    let (server, resolver) = (FixtureServer::start(), FixtureServer::start());
    let repo = served(&server, 1, 5);
    let handle = handle_of(&server, &repo);
    let found = serde_json::json!({ "did": repo.did }).to_string();
    let broken = || Document::status(502, "");
    resolver.answer(question(&handle), [broken(), broken(), Document::ok(found)]);
    server.set_fault(&repo.did, Fault::Then(vec![Fault::status(502); 2]));
    let args = ["--max-attempts", "3", "--handle-resolver", &resolver.url()];
    let exported = Export::of(Some(&server), &args).arg(&handle).run();
    assert_eq!(exported.status, Some(0), "{:#?}", exported.errors);
    only_these_are_written(&exported, &[repo]);
}

#[test]
fn what_is_refused_again_and_again_is_given_up() {
    let server = FixtureServer::start();
    let (repo, other) = (served(&server, 1, 5), served(&server, 2, 5));
    // The directory is there, and says nothing of this account.
    server.put_document_status(&repo.did, 418, "");
    let exported = Export::of(Some(&server), &[&repo.did, &other.did]).run();
    assert_eq!(exported.status, Some(1));
    let (reason, text) = exported.failure(&repo.did);
    assert_eq!(reason, "network");
    assert!(
        text.starts_with("refused 6 times: ") && text.contains("418"),
        "{text}"
    );
    assert_eq!(server.document_requests(&repo.did), 6);
    only_these_are_written(&exported, &[other]);
}

#[test]
fn what_fails_at_a_server_is_tried_again_so_often_and_not_more() {
    let server = FixtureServer::start();
    let (mended, broken) = (served(&server, 1, 5), served(&server, 2, 5));
    let failures = |count| Fault::Then(vec![Fault::status(502); count]);
    server.set_fault(&mended.did, failures(3));
    server.set_fault(&broken.did, failures(5));
    let exported = Export::of(Some(&server), &[&mended.did, &broken.did]).run();
    assert_eq!(exported.status, Some(1));
    assert_eq!(exported.failure(&broken.did).0, "network");
    assert_eq!(server.repo_requests(&mended.did), 4);
    assert_eq!(server.repo_requests(&broken.did), 4);
    only_these_are_written(&exported, &[mended]);
}

#[test]
fn an_account_that_is_gone_is_looked_for_twice() {
    let server = FixtureServer::start();
    let (gone, unknown, other) = (
        served(&server, 1, 5),
        served(&server, 2, 5),
        served(&server, 3, 5),
    );
    server.set_fault(
        &gone.did,
        Fault::xrpc(400, "RepoDeactivated", "it is asleep"),
    );
    server.put_document_status(&unknown.did, 404, "");
    let dids = [&gone.did, &unknown.did, &other.did];
    let exported = Export::of(Some(&server), &[]).args(dids).run();
    assert_eq!(exported.status, Some(1));
    let (reason, text) = exported.failure(&gone.did);
    assert_eq!(reason, "repo_gone");
    assert!(text.contains("RepoDeactivated"), "{text}");
    assert_eq!(server.repo_requests(&gone.did), 2);
    assert_eq!(exported.failure(&unknown.did).0, "identity");
    only_these_are_written(&exported, &[other]);
}

#[test]
fn a_repo_that_is_too_large_is_tried_once() {
    let server = FixtureServer::start();
    let (large, small) = (served(&server, 1, 500), served(&server, 2, 5));
    let limit = (small.car().len() + 1).to_string();
    let dids = [&large.did, &small.did];
    let export = Export::of(Some(&server), &["--max-repo-bytes", &limit]);
    let exported = export.args(dids).run();
    assert_eq!(exported.failure(&large.did).0, "too_large");
    assert_eq!(server.repo_requests(&large.did), 1);
    only_these_are_written(&exported, &[small]);
}

#[test]
fn what_strangers_say_is_shown_in_one_plain_line() {
    let server = FixtureServer::start();
    let repo = served(&server, 1, 5);
    let evil = "\u{1b}]0;title\u{7}\u{1b}[2J\r\nbackfiller: 1 of 1 exported";
    server.set_fault(&repo.did, Fault::xrpc(400, "RepoTakendown", evil));
    let exported = Export::of(Some(&server), &[&repo.did]).run();
    assert_eq!(exported.status, Some(1));
    let text = exported.failure(&repo.did).1;
    assert!(text.contains("\\u{1b}[2J"), "{text}");
    for line in &exported.errors {
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    assert_eq!(exported.errors.len(), 2);
}

#[test]
fn i5_a_panic_ends_the_attempt_and_the_others_go_on() {
    let server = FixtureServer::start();
    let (bad, other) = (served(&server, 1, 5), served(&server, 2, 5));
    let export = Export::of(Some(&server), &["--concurrency", "1", &bad.did, &other.did]);
    let exported = export
        .env("BACKFILLER_TEST_PANIC", format!("fetch:{}", bad.did))
        .run();
    assert_eq!(exported.status, Some(1));
    assert_eq!(exported.failure(&bad.did).0, "panic");
    only_these_are_written(&exported, &[other]);
}

#[test]
fn i2_an_attempt_that_ends_among_its_lines_is_gone_on_with_behind_them() {
    let server = FixtureServer::start();
    let repo = served(&server, 1, 1501);
    // Each attempt panics behind its first chunk; the fourth has only the last one.
    let export = Export::of(Some(&server), &[&repo.did]);
    let exported = export
        .env("BACKFILLER_TEST_PANIC", format!("write:{}", repo.did))
        .run();
    let lines = exported.lines();
    assert_eq!(lines.len(), 1501 + 4);
    let wanted = repo.expected.iter().map(|record| &record.rkey);
    let creates = lines
        .iter()
        .filter(|line| line.contains(r#""type":"create""#));
    for (line, rkey) in creates.zip(wanted) {
        assert!(
            line.contains(&format!(r#""rkey":"{rkey}""#)),
            "{rkey}: {line}"
        );
    }
    assert_eq!(server.repo_requests(&repo.did), 4);
}

#[test]
fn an_export_that_is_ended_while_it_waits_for_a_host_ends_at_once() {
    let server = FixtureServer::start();
    let repo = served(&server, 1, 5);
    let refusal = Fault::status_with_header(429, "Retry-After", "3000");
    server.set_fault(&repo.did, refusal);
    let running = Export::of(Some(&server), &[&repo.did]).start();
    support::wait::eventually("it waits", || running.errors().contains("waiting: "));
    running.signal(Signal::SIGINT);
    let exported = running.wait();
    assert_eq!(exported.status, Some(130));
    only_these_are_written(&exported, &[]);
    let summary = exported.errors.last().expect("a summary");
    assert!(
        summary.contains("0 of 1 exported") && summary.contains("interrupted"),
        "{summary}"
    );
}
