//! Clients of the operator's HTTP server that are slow, many or hostile: none keeps another from being answered or the process from
//! ending, and none takes memory.

mod support;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;

use support::ops::{Ops, ends_well, program, servers, sockets, wait_until_ready};
use support::wait::eventually;

/// Connections at a time, as the program has it.
const MOST: usize = 64;
/// What the program may have open beside them: its own connections to Redis, and what comes and goes.
const OTHERS: usize = 24;

/// Half a request, and then nothing.
const HALF: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: local";

#[test]
fn five_hundred_slow_clients_keep_nobody_waiting() {
    let (redis, server) = servers();
    let backfiller = program(&redis, &server).start();
    let ops = Ops::of(&backfiller);
    wait_until_ready(ops);
    let mut slow = Vec::new();
    let mut connect = |count: usize| {
        for _ in 0..count {
            let mut stream = ops.connect().unwrap();
            // It may be the one that is one too many already.
            let _ = stream.write_all(HALF);
            slow.push(stream);
        }
    };
    connect(500);
    eventually("somebody is answered while all places are taken", || {
        connect(MOST);
        let answered = ops.get("/healthz").status == 200;
        // Nobody has been given up for his slowness before.
        answered && sockets(&backfiller) >= MOST
    });
    let open = sockets(&backfiller);
    assert!(open <= MOST + OTHERS, "{open} sockets");

    // However many come, the end waits for none of them.
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut slow = Vec::new();
            while !over.load(Ordering::Relaxed) {
                if let Ok(mut stream) = ops.connect() {
                    let _ = stream.write_all(HALF);
                    slow.push(stream);
                }
                if slow.len() > 200 {
                    slow.clear();
                }
            }
        });
        let mut backfiller = backfiller;
        backfiller.signal(Signal::SIGINT);
        let status = backfiller.wait();
        over.store(true, Ordering::Relaxed);
        assert_eq!(status.code(), Some(0));
    });
}

#[test]
fn clients_that_do_not_read_keep_nobody_waiting() {
    let (redis, server) = servers();
    let backfiller = program(&redis, &server)
        .env("BACKFILLER_CONCURRENCY", "512")
        .start();
    let ops = Ops::of(&backfiller);
    let request = format!("GET /status.json HTTP/1.1\r\nHost: {}\r\n\r\n", ops.0);
    let deaf: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = ops.connect().unwrap();
            let _ = stream.write_all(request.as_bytes());
            stream
        })
        .collect();
    assert_eq!(ops.get("/healthz").status, 200);
    assert!(sockets(&backfiller) <= MOST + OTHERS);
    drop(deaf);
    ends_well(backfiller);
}

#[test]
fn what_is_no_request_is_refused_and_takes_no_memory() {
    let (redis, server) = servers();
    let backfiller = program(&redis, &server).start();
    let ops = Ops::of(&backfiller);
    // TLS, a blank, and a request for a proxy.
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b" / HTTP/1.1\r\n\r\n",
        b"GET http://127.0.0.1/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
    ] {
        assert_eq!(
            ops.send(bytes).unwrap().status,
            400,
            "{}",
            bytes.escape_ascii()
        );
    }
    // Headers without end: an answer after 8 KiB, and then the end of the connection.
    let mut stream = ops.connect().unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let mut sent = 0;
    while stream.write_all(&[b'a'; 4096]).is_ok() {
        sent += 4096;
        assert!(sent < 64 << 20, "{sent} bytes of a header were taken");
    }
    let mut head = String::new();
    let _ = stream.read_to_string(&mut head);
    assert!(
        head.is_empty() || head.starts_with("HTTP/1.1 431 "),
        "{head}"
    );
    let mut large = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: ".to_vec();
    large.resize(8 << 10, b'a');
    assert_eq!(ops.send(&large).unwrap().status, 431);
    assert_eq!(ops.get("/healthz").status, 200);
    ends_well(backfiller);
}
