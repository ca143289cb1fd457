//! Which redirects are followed, how many, and to where.

mod support;

use std::net::TcpListener;

use support::fetching::{assert_all_done, assert_nobody_came, redirected};
use support::fixture_server::{Fault, FixtureServer, GET_REPO};
use support::hostile::outcomes;
use support::hostile::stage::Stage;

/// The most redirects that are followed for one request.
const MAX_REDIRECTS: usize = 5;

#[test]
fn redirects_to_another_server_are_followed() {
    let mut stage = Stage::new();
    let other = FixtureServer::start_with_addr("127.0.0.2:0");
    let repos = [301, 302, 303, 307, 308].map(|code| {
        redirected(&mut stage, code, |repo| {
            other.put_repo(&repo.did, repo.car());
            other.repo_url(&repo.did)
        })
    });
    let program = stage.permitted();
    let ended = stage.run(program);
    assert_all_done(&mut stage, &repos, &ended);
    for repo in &repos {
        assert_eq!(outcomes::of(&ended, &repo.did).host, other.url());
        assert_eq!(stage.server.repo_requests(&repo.did), 1);
        assert_eq!(other.repo_requests(&repo.did), 1);
    }
}

#[test]
fn redirects_within_a_server_need_no_full_url() {
    let mut stage = Stage::new();
    let repo = stage.faulty(Fault::Normal);
    let redirect = Fault::redirect(format!("{GET_REPO}?did={}", repo.did));
    stage
        .server
        .set_fault(&repo.did, Fault::Then(vec![redirect]));
    let program = stage.permitted();
    assert_eq!(stage.run_one(program), "done");
    stage.assert_events([&repo]);
    assert_eq!(stage.server.repo_requests(&repo.did), 2);
}

#[test]
fn at_most_five_redirects_are_followed() {
    for (count, how) in [(MAX_REDIRECTS, "done"), (MAX_REDIRECTS + 1, "http_status")] {
        let mut stage = Stage::new();
        let repo = stage.faulty(Fault::Normal);
        let back = Fault::redirect(stage.server.repo_url(&repo.did));
        stage
            .server
            .set_fault(&repo.did, Fault::Then(vec![back; count]));
        let program = stage.permitted();
        assert_eq!(stage.run_one(program), how, "{count} redirects");
        assert_eq!(stage.server.repo_requests(&repo.did), MAX_REDIRECTS + 1);
    }
}

#[test]
fn redirects_in_a_ring_end() {
    let mut stage = Stage::new();
    let other = FixtureServer::start();
    let base = stage.server.repo_url("");
    let itself = redirected(&mut stage, 301, |repo| format!("{base}{}", repo.did)).did;
    let ring = redirected(&mut stage, 307, |repo| {
        other.set_fault(&repo.did, Fault::redirect(format!("{base}{}", repo.did)));
        other.repo_url(&repo.did)
    });
    let ring = ring.did;
    let program = stage.permitted();
    for outcome in stage.run(program) {
        assert_eq!(outcome.how, "http_status", "{}", outcome.line);
    }
    let server = &stage.server;
    assert_eq!(server.repo_requests(&itself), MAX_REDIRECTS + 1);
    let of_both = server.repo_requests(&ring) + other.repo_requests(&ring);
    assert_eq!(of_both, MAX_REDIRECTS + 1);
}

#[test]
fn redirects_that_lead_nowhere_are_refused() {
    let mut stage = Stage::new();
    for location in [
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "data:,hello",
        "gopher://127.0.0.1:70/",
        "http://",
        "http://127.0.0.1:port/",
        "http://[::1/",
    ] {
        redirected(&mut stage, 302, |_| location.to_owned());
    }
    let other = FixtureServer::start();
    let with_user = other.url().replace("://", "://user:secret@");
    redirected(&mut stage, 302, |_| with_user);
    for code in [300, 301, 304] {
        stage.faulty(Fault::status(code));
    }
    let program = stage.permitted();
    let ended = stage.run(program);
    for outcome in &ended {
        assert_eq!(outcome.how, "http_status", "{}", outcome.line);
        assert!(!outcome.line.contains("secret"), "{}", outcome.line);
    }
    assert!(other.requests().is_empty());
}

#[test]
fn redirects_to_http_or_a_private_address_need_permission() {
    let mut stage = Stage::new();
    // Whoever asks over TLS leaves no request, but a connection.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    for target in [
        format!("http://127.0.0.1:{port}"),
        format!("http://localhost:{port}"),
        format!("https://127.0.0.1:{port}"),
        format!("https://localhost:{port}"),
        format!("https://LOCALHOST.:{port}"),
        format!("https://pds.localhost:{port}"),
        format!("https://2130706433:{port}"),
        format!("https://0x7f.1:{port}"),
        format!("https://0.0.0.0:{port}"),
        format!("https://[::1]:{port}"),
        format!("https://[::ffff:127.0.0.1]:{port}"),
        "https://10.0.0.1".to_owned(),
        "https://169.254.169.254".to_owned(),
        "https://[fd00::1]".to_owned(),
        "http://pds.example.com".to_owned(),
    ] {
        redirected(&mut stage, 302, |repo| {
            format!("{target}{GET_REPO}?did={}", repo.did)
        });
    }
    let program = stage.program();
    let ended = stage.run(program);
    for outcome in &ended {
        assert_eq!(outcome.how, "http_status", "{}", outcome.line);
    }
    assert_nobody_came(&listener);
}
