//! The operator's HTTP server: what is answered to whom, through the drain and while Redis is away or hangs. What clients can do to it
//! is in `http_clients.rs`.

mod support;

use std::net::TcpListener;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::backfiller::Backfiller;
use support::events::enqueue;
use support::fixture_server::{Fault, served};
use support::ops::{Ops, Reply, ends_well, program, servers, wait_until_ready};
use support::wait::eventually;

#[test]
fn each_path_says_its_type_and_that_it_must_not_be_kept() {
    let (redis, server) = servers();
    let backfiller = program(&redis, &server).start();
    let ops = Ops::of(&backfiller);
    wait_until_ready(ops);
    let text = "text/plain; charset=utf-8";
    let paths = [
        ("/healthz", 200, text),
        ("/readyz", 200, text),
        ("/metrics", 200, "text/plain; version=0.0.4; charset=utf-8"),
        (
            "/metrics?name=x",
            200,
            "text/plain; version=0.0.4; charset=utf-8",
        ),
        ("/status.json", 200, "application/json; charset=utf-8"),
        ("/", 200, "text/html; charset=utf-8"),
        ("/page.css", 200, "text/css; charset=utf-8"),
        ("/page.js", 200, "text/javascript; charset=utf-8"),
        ("/sections.js", 200, "text/javascript; charset=utf-8"),
        ("/tables.js", 200, "text/javascript; charset=utf-8"),
        ("/charts.js", 200, "text/javascript; charset=utf-8"),
        ("/reasons.js", 200, "text/javascript; charset=utf-8"),
        ("/format.js", 200, "text/javascript; charset=utf-8"),
        ("/none", 404, text),
        ("/page.html", 404, text),
        ("/../page.js", 404, text),
        ("//", 404, text),
    ];
    for (path, status, kind) in paths {
        let reply = ops.get(path);
        assert_eq!(reply.status, status, "{path}");
        let header = |name: &str| reply.headers.get(name).map(String::as_str);
        assert_eq!(header("content-type"), Some(kind), "{path}");
        assert_eq!(header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(header("x-content-type-options"), Some("nosniff"), "{path}");
        let length = reply.body.len().to_string();
        assert_eq!(header("content-length"), Some(length.as_str()), "{path}");
        assert!(header("date").is_some(), "{path}");
        let policy = header("content-security-policy");
        let is_page = ["text/html", "text/css", "text/javascript"]
            .iter()
            .any(|page| kind.starts_with(page));
        let wanted = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
        assert_eq!(policy, is_page.then_some(wanted), "{path}");
    }
    assert_eq!(ops.get("/healthz").body, "ok\n");
    assert!(ops.get("/").body.starts_with("<!doctype html>"));
    ends_well(backfiller);
}

#[test]
fn only_get_and_head_are_answered() {
    let (redis, server) = servers();
    let backfiller = program(&redis, &server).start();
    let ops = Ops::of(&backfiller);
    let host = ops.0.to_string();
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get"] {
        let reply = ops.request(method, "/healthz", &host);
        assert_eq!(reply.status, 405, "{method}");
        assert_eq!(reply.headers["allow"], "GET, HEAD");
    }
    let body = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9999\r\n\r\nbegins");
    assert_eq!(ops.send(body.as_bytes()).unwrap().status, 405);
    for path in ["/", "/healthz", "/page.js"] {
        let (get, head) = (ops.get(path), ops.request("HEAD", path, &host));
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        let length = |reply: &Reply| reply.headers["content-length"].clone();
        assert_eq!(length(&head), length(&get), "{path}");
    }
    ends_well(backfiller);
}

/// A name that a stranger controls may lead a browser to a loopback address.
#[test]
fn a_name_that_is_not_this_machine_s_is_refused_on_a_loopback_address() {
    let (redis, server) = servers();
    let own = gethostname::gethostname();
    let own = own.to_string_lossy();
    let local = program(&redis, &server).start();
    let open = program(&redis, &server)
        .env("BACKFILLER_METRICS_BIND", "0.0.0.0")
        .start();
    let (local, open) = (Ops::of(&local), (Ops::of(&open), open, local));
    let (open, _kept) = (Ops(([127, 0, 0, 1], open.0.0.port()).into()), open);
    let known = [
        "127.0.0.1",
        "127.0.0.1:80",
        "[::1]:80",
        "localhost",
        "LOCALHOST:9",
        "192.0.2.1",
        &own,
    ];
    for host in known {
        assert_eq!(local.request("GET", "/healthz", host).status, 200, "{host}");
    }
    let foreign = [
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "",
    ];
    for host in foreign {
        for path in ["/", "/status.json", "/metrics", "/healthz", "/none"] {
            let reply = local.request("GET", path, host);
            assert_eq!(reply.status, 403, "{host} {path}");
        }
        assert_eq!(open.request("GET", "/healthz", host).status, 200, "{host}");
    }
    // Old clients send none, browsers always do.
    assert_eq!(
        local.send(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap().status,
        200
    );
    assert_eq!(
        local.send(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap().status,
        400
    );
}

#[test]
fn it_listens_where_it_is_told_to_also_on_ipv6() {
    if TcpListener::bind("[::1]:0").is_err() {
        return; // no IPv6 on this system
    }
    let (redis, server) = servers();
    let backfiller = program(&redis, &server)
        .env("BACKFILLER_METRICS_BIND", "::1")
        .start();
    let ops = Ops::of(&backfiller);
    assert!(ops.0.is_ipv6() && ops.0.port() != 0);
    assert_eq!(ops.get("/healthz").status, 200);
    assert_eq!(ops.request("GET", "/", "evil.example").status, 403);
    ends_well(backfiller);
}

#[test]
fn a_port_that_is_taken_stops_the_start_with_one_line() {
    let (redis, server) = servers();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut backfiller = Backfiller::builder(&redis, &server)
        .env("BACKFILLER_METRICS_PORT", address.port().to_string())
        .env("RUST_LOG", "error")
        .start();
    assert_eq!(backfiller.wait().code(), Some(1));
    let lines = backfiller.lines();
    let said = format!("cannot listen on {address} (BACKFILLER_METRICS_PORT): ");
    assert!(lines.len() == 1 && lines[0].contains(&said), "{lines:?}");
}

#[test]
fn without_redis_it_lives_and_is_not_ready() {
    let (mut redis, server) = servers();
    redis.stop();
    let backfiller = program(&redis, &server).start();
    let ops = Ops::of(&backfiller);
    let away = (503, "Redis is away".to_owned());
    assert_eq!(ops.readiness(), away);
    assert_eq!(ops.get("/healthz").status, 200);
    redis.restart();
    wait_until_ready(ops);
    redis.stop();
    eventually("it is not ready", || ops.readiness() == away);
    assert_eq!(ops.get("/healthz").status, 200);
    redis.restart();
    wait_until_ready(ops);
    ends_well(backfiller);
}

#[test]
fn a_redis_that_hangs_keeps_nobody_waiting() {
    let (redis, server) = servers();
    let backfiller = program(&redis, &server).start();
    let ops = Ops::of(&backfiller);
    wait_until_ready(ops);
    let pid = Pid::from_raw(redis.pid().try_into().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    // Each of these would wait for as long as it hangs.
    eventually("it is not ready", || ops.readiness().0 == 503);
    assert_eq!(ops.get("/healthz").status, 200);
    assert_eq!(ops.status()["redis"]["connected"], false);
    assert_eq!(ops.metrics().value("backfiller_redis_connected"), 0.0);
    kill(pid, Signal::SIGCONT).unwrap();
    wait_until_ready(ops);
    ends_well(backfiller);
}

#[test]
fn while_draining_it_serves_and_is_not_ready() {
    let (redis, server) = servers();
    let repo = served(&server, 1, 3);
    server.set_fault(&repo.did, Fault::Hold { after: 100 });
    enqueue(&mut redis.connection(), &repo.did, Some(&server.url()));
    let mut backfiller = program(&redis, &server).start();
    let ops = Ops::of(&backfiller);
    server.wait_until_held(&repo.did, 1);
    wait_until_ready(ops);
    backfiller.signal(Signal::SIGINT);
    eventually("it drains", || {
        ops.readiness() == (503, "draining".to_owned())
    });
    assert_eq!(ops.get("/healthz").status, 200);
    let status = ops.status();
    assert_eq!(status["draining"], true);
    assert_eq!(
        status["workers"][0]["did"]
            .as_str()
            .or(status["workers"][1]["did"].as_str()),
        Some(repo.did.as_str())
    );
    server.release(&repo.did);
    assert_eq!(backfiller.wait().code(), Some(0));
    assert!(ops.connect().is_err(), "nobody listens any more");
}
