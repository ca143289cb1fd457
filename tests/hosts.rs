//! Which servers are asked, and how: names, addresses that may not be asked, headers, proxies, connections.

mod support;

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, TcpListener, ToSocketAddrs};

use serde_json::json;
use support::backfiller::Builder;
use support::events::enqueue_raw;
use support::fetching::{assert_all_done, assert_nobody_came, redirected};
use support::fixture_server::{Fault, FixtureServer, GET_REPO};
use support::generator::{Repo, RepoBuilder, records};
use support::hostile::outcomes;
use support::hostile::stage::Stage;
use support::wait::eventually;

fn port_of(server: &FixtureServer) -> String {
    let host = server.host();
    host.rsplit(':').next().expect("a port").to_owned()
}

#[test]
fn a_message_names_its_host_with_or_without_scheme_and_slash() {
    let mut stage = Stage::new();
    let port = port_of(&stage.server);
    let hosts = [
        format!("http://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{port}/"),
        format!("HTTP://127.0.0.1:{port}/"),
        format!("http://localhost:{port}"),
    ];
    let repos = hosts.map(|host| {
        let repo = stage.account();
        stage.enqueue(&repo.did, Some(&host));
        repo
    });
    let program = stage.program();
    let ended = stage.run(program);
    assert_all_done(&mut stage, &repos, &ended);
}

#[test]
fn a_host_without_a_scheme_is_asked_over_tls() {
    let mut stage = Stage::new();
    let plain = FixtureServer::start();
    for host in [
        plain.host(),
        format!("{}/", plain.host()),
        format!("https://{}", plain.host()),
    ] {
        let repo = stage.account();
        plain.put_repo(&repo.did, repo.car());
        stage.enqueue(&repo.did, Some(&host));
    }
    let program = stage.program();
    let ended = stage.run(program);
    for outcome in &ended {
        assert_eq!(outcome.how, "network", "{}", outcome.line);
    }
    assert!(plain.requests().is_empty(), "a request without TLS");
}

#[test]
fn what_else_a_message_says_decides_nothing() {
    let mut stage = Stage::new();
    let repo = stage.account();
    let message = json!({
        "did": repo.did, "host": stage.server.url(), "rev": "zzzzzzzzzzzzz", "status": "deactivated", "active": false,
        "more": [1],
    });
    let message = message.to_string();
    let id = enqueue_raw(&mut stage.connection, &[("repo", message.as_bytes())]);
    stage.messages.push((id, repo.did.clone()));
    let program = stage.program();
    assert_eq!(stage.run_one(program), "done");
    stage.assert_events([&repo]);
    let requests = stage.server.requests();
    let request = requests.iter().find(|request| request.is_get_repo());
    let path = request.expect("a request").path.clone();
    assert_eq!(path, format!("{GET_REPO}?did={}", repo.did));
}

/// A name of this machine that is not `localhost` and resolves to private addresses alone, and the first of them.
fn private_name() -> Option<(String, IpAddr)> {
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let lines = hosts
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    let names = lines
        .flat_map(|line| line.split_whitespace().skip(1))
        .chain([own.trim()]);
    let names: Vec<_> = names
        .filter(|name| !name.contains("localhost") && !name.is_empty())
        .collect();
    names.into_iter().find_map(|name| {
        let addresses: Vec<_> = (name, 0)
            .to_socket_addrs()
            .ok()?
            .map(|address| address.ip())
            .collect();
        let private = |address: &IpAddr| match address {
            IpAddr::V4(v4) => v4.is_loopback() || v4.is_private(),
            IpAddr::V6(v6) => v6.is_loopback(),
        };
        let first = *addresses.first()?;
        let usable = addresses.iter().all(private)
            && first.is_ipv4()
            && TcpListener::bind((first, 0)).is_ok();
        usable.then(|| (name.to_owned(), first))
    })
}

#[test]
fn a_name_on_a_private_address_needs_permission() {
    let Some((name, address)) = private_name() else {
        println!("skipped: no name of this machine resolves to a private address");
        return;
    };
    let pds = FixtureServer::start_with_addr(&format!("{address}:0"));
    let port = port_of(&pds);
    let mut stage = Stage::new();
    let repo = stage.account();
    pds.put_repo(&repo.did, repo.car());
    stage.enqueue(&repo.did, Some(&format!("http://{name}:{port}")));
    let program = stage.permitted();
    assert_eq!(stage.run_one(program), "done");
    assert_eq!(pds.requests().len(), 1);

    // One at a time: a host that is not known yet is asked for one repo only.
    for by_redirect in [false, true] {
        let mut stage = Stage::new();
        if by_redirect {
            redirected(&mut stage, 302, |repo| {
                format!("https://{name}:{port}{GET_REPO}?did={}", repo.did)
            });
        } else {
            let repo = stage.account();
            stage.enqueue(&repo.did, Some(&format!("http://{name}:{port}")));
        }
        let program = stage.program();
        for outcome in stage.run(program) {
            assert_ne!(outcome.how, "done");
            assert!(outcome.line.contains("not permitted"), "{}", outcome.line);
        }
    }
    assert_eq!(pds.requests().len(), 1, "only with permission");
}

#[test]
fn requests_say_who_asks() {
    let name = concat!("rsky-backfiller/", env!("CARGO_PKG_VERSION"));
    let contact = "https://example.com/us";
    for (contact, expected) in [
        (None, name.to_owned()),
        (Some(contact), format!("{name} (+{contact})")),
    ] {
        let mut stage = Stage::new();
        stage.faulty(Fault::Normal);
        let mut program = stage.program();
        if let Some(contact) = contact {
            program = program.env("BACKFILLER_CONTACT", contact);
        }
        assert_eq!(stage.run_one(program), "done");
        let requests = stage.server.requests();
        assert_eq!(requests.len(), 2, "the repo and the document");
        for request in requests {
            let agent = request.header("user-agent");
            assert_eq!(agent, Some(expected.as_str()), "{}", request.path);
        }
    }
}

/// The program with a proxy in every variable that clients look at; nobody must come to it.
fn with_proxy(mut program: Builder, proxy: &TcpListener) -> Builder {
    let url = format!("http://{}", proxy.local_addr().expect("an address"));
    for variable in [
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ] {
        program = program.env(variable, &url);
    }
    program.env("BACKFILLER_HTTP_TIMEOUT_SECS", "20")
}

#[test]
fn proxies_of_the_environment_are_not_used() {
    let mut stage = Stage::new();
    let repo = stage.faulty(Fault::Normal);
    assert_no_proxy(&mut stage, &repo);
}

#[test]
fn proxies_of_the_environment_are_not_used_for_did_web() {
    let mut stage = Stage::new();
    let url = stage.server.url();
    let did = format!("did:web:localhost%3A{}", port_of(&stage.server));
    let repo = RepoBuilder::new(did).records(records::mixed(1, 3)).build();
    stage.server.put_web_document(repo.did_document(&url));
    stage.server.put_repo(&repo.did, repo.car());
    stage.enqueue(&repo.did, Some(&url));
    assert_no_proxy(&mut stage, &repo);
}

/// Runs the one message of the account with a proxy that never answers; it must be done all the same.
#[track_caller]
fn assert_no_proxy(stage: &mut Stage, repo: &Repo) {
    let proxy = TcpListener::bind("127.0.0.1:0").expect("a port");
    proxy.set_nonblocking(true).expect("a mode of the listener");
    let backfiller = with_proxy(stage.permitted(), &proxy).start();
    eventually("the job has ended", || {
        assert_nobody_came(&proxy);
        !outcomes::so_far(&backfiller).is_empty()
    });
    assert_nobody_came(&proxy);
    let ended = outcomes::so_far(&backfiller);
    assert_all_done(stage, std::slice::from_ref(repo), &ended);
}

#[test]
fn a_worker_keeps_its_connections() {
    let mut stage = Stage::new();
    let pds = FixtureServer::start();
    let url = pds.url();
    let mut repos = Vec::new();
    for place in 0..40 {
        let repo = stage.account();
        pds.put_repo(&repo.did, repo.car());
        match place % 4 {
            1 => pds.set_fault(&repo.did, Fault::ChunkedOk),
            2 => {
                let back = Fault::redirect(pds.repo_url(&repo.did));
                pds.set_fault(&repo.did, Fault::Then(vec![back]));
            }
            _ => {}
        }
        stage.enqueue(&repo.did, Some(&url));
        repos.push(repo);
    }
    let program = stage.permitted().env("BACKFILLER_CONCURRENCY", "1");
    let ended = stage.run(program);
    assert_all_done(&mut stage, &repos, &ended);
    for server in [&pds, &stage.server] {
        let requests = server.requests();
        assert!(requests.len() >= 40);
        let connections: HashSet<_> = requests.iter().map(|request| request.connection).collect();
        let (count, of) = (connections.len(), requests.len());
        assert!(count <= 2, "{count} connections for {of} requests");
    }
}
