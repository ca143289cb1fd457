//! Bodies that are whole and bodies that are not: cut, slow, chunked, compressed, without an end; limits of size and time.

mod support;

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use support::fetching::{assert_ends, assert_repos_end};
use support::fixture_server::Fault;
use support::generator::Cid;
use support::generator::car::frame;
use support::hostile::outcomes::{self, DeadEnd};
use support::hostile::stage::Stage;

const CAR: &str = "application/vnd.ipld.car";

/// How long a job with a time-out of a second may take, in milliseconds: more than that, but far less than the other time-outs.
const BOUND: u64 = 15_000;

#[test]
fn a_body_is_whole_or_an_error() {
    let every = Duration::from_millis(1);
    let faults = vec![
        (Fault::Normal, "done"),
        (Fault::ChunkedOk, "done"),
        (Fault::CloseDelimited { after: None }, "done"),
        (Fault::Drip { bytes: 100, every }, "done"),
        (Fault::Truncate { after: 0 }, "network"),
        (Fault::Truncate { after: 500 }, "network"),
        (Fault::TruncateChunked { after: 0 }, "network"),
        (Fault::TruncateChunked { after: 500 }, "network"),
        (Fault::TruncateChunked { after: usize::MAX }, "network"),
        (Fault::Reset { after: 0 }, "network"),
        (Fault::Reset { after: 500 }, "network"),
        (Fault::CloseDelimited { after: Some(0) }, "car"),
        (Fault::CloseDelimited { after: Some(500) }, "car"),
    ];
    assert_ends(&mut Stage::new(), faults);
}

/// The archive with an unlinked block behind it, which is tolerated, that brings it to this size.
fn padded(archive: &[u8], size: usize) -> Vec<u8> {
    // A length of two bytes and an address of 36.
    let content = vec![0; size - archive.len() - 38];
    let block = [&Cid::raw(&content).bytes()[..], &content].concat();
    let padded = [archive, &frame(&block)].concat();
    assert_eq!(padded.len(), size);
    padded
}

#[test]
fn a_repo_may_have_so_many_bytes_and_no_more() {
    let mut stage = Stage::new();
    let limit = 12_000;
    let framings = [
        Fault::Normal,
        Fault::ChunkedOk,
        Fault::CloseDelimited { after: None },
    ];
    let mut repos = Vec::new();
    for framing in framings {
        for (size, how) in [
            (limit, "done"),
            (limit + 1, "too_large"),
            (10 * limit, "too_large"),
        ] {
            let repo = stage.faulty(framing.clone());
            let archive = match size - limit {
                0 | 1 => padded(&repo.car(), size),
                _ => [repo.car(), vec![0x55; size]].concat(),
            };
            stage.server.put_repo(&repo.did, archive);
            repos.push((repo, how));
        }
    }
    // A length that is too much is enough: this body never comes.
    let repo = stage.faulty(Fault::Hold { after: 0 });
    stage
        .server
        .put_repo(&repo.did, padded(&repo.car(), limit + 1));
    repos.push((repo, "too_large"));
    let program = stage
        .permitted()
        .env("BACKFILLER_MAX_REPO_BYTES", limit.to_string());
    for outcome in assert_repos_end(&mut stage, program, &repos) {
        if outcome.how == "done" {
            assert_eq!(outcome.number("bytes"), limit as u64);
        }
    }
}

#[test]
fn a_slow_server_has_so_much_time_and_no_more() {
    let mut stage = Stage::new();
    let faults = [
        Fault::Hold { after: 0 },
        Fault::Hold { after: 500 },
        Fault::Drip {
            bytes: 1,
            every: Duration::from_millis(50),
        },
    ];
    let repos = faults.map(|fault| (stage.faulty(fault), "network"));
    let program = stage.permitted().env("BACKFILLER_HTTP_TIMEOUT_SECS", "1");
    for outcome in assert_repos_end(&mut stage, program, &repos) {
        let time = outcome.number("ms");
        assert!((900..BOUND).contains(&time), "{}", outcome.line);
    }
}

/// A server that reads a request and then does what it is told. Returns its URL.
fn raw_server(answer: impl Fn(&mut TcpStream) -> io::Result<()> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    // Ends with the test process: it waits for a next client.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client");
            let head = BufReader::new(stream.try_clone().expect("a second handle")).lines();
            let _ = head
                .take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty()))
                .count();
            // The client ends what has no end.
            let _ = answer(&mut stream);
        }
    });
    format!("http://{address}")
}

/// Writes for as long as the client reads.
fn forever(stream: &mut TcpStream, text: &str) -> io::Result<()> {
    let portion = text.repeat(4096 / text.len());
    loop {
        stream.write_all(portion.as_bytes())?;
    }
}

#[test]
fn what_has_no_end_is_ended() {
    type Answer = fn(&mut TcpStream) -> io::Result<()>;
    let answers: [(&str, &str, Answer); 6] = [
        ("headers", "network", |stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
            forever(stream, "X-More: and more\r\n")
        }),
        ("a header", "network", |stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nX-More: ")?;
            forever(stream, "more ")
        }),
        ("a status line", "network", |stream| {
            stream.write_all(b"HTTP/1.1 200 ")?;
            forever(stream, "OK")
        }),
        ("interim answers", "network", |stream| {
            forever(stream, "HTTP/1.1 100 Continue\r\n\r\n")
        }),
        ("an error's body", "http_status", |stream| {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n")?;
            forever(stream, "not found ")
        }),
        ("the length of a chunk", "network", |stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            forever(stream, "0")
        }),
    ];
    let mut stage = Stage::new();
    let jobs = answers.map(|(name, how, answer)| {
        let repo = stage.account();
        stage.enqueue(&repo.did, Some(&raw_server(answer)));
        (name, how, repo.did)
    });
    let program = stage.program();
    let ended = stage.run(program);
    for (name, how, did) in jobs {
        let outcome = outcomes::of(&ended, &did);
        assert_eq!(outcome.how, how, "{name}: {}", outcome.line);
        assert!(outcome.number("ms") < BOUND, "{name}: {}", outcome.line);
    }
}

#[test]
fn a_server_that_does_not_speak_http_is_an_error_of_the_network() {
    type Answer = fn(&mut TcpStream) -> io::Result<()>;
    let answers: [(&str, Answer); 6] = [
        ("nothing", |_| Ok(())),
        ("another protocol", |stream| {
            stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        }),
        ("noise", |stream| stream.write_all(&[0xff; 1000])),
        ("half a status line", |stream| {
            stream.write_all(b"HTTP/1.1 2")
        }),
        ("half of the headers", |stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-")
        }),
        ("a status of four digits", |stream| {
            stream.write_all(b"HTTP/1.1 2000 OK\r\n\r\n")
        }),
    ];
    let mut stage = Stage::new();
    let mut jobs: Vec<_> = answers
        .into_iter()
        .map(|(name, answer)| {
            let repo = stage.account();
            stage.enqueue(&repo.did, Some(&raw_server(answer)));
            (name, repo.did)
        })
        .collect();
    let nobody = DeadEnd::new();
    let refused = stage.account();
    stage.enqueue(&refused.did, Some(&nobody.url()));
    jobs.push(("nobody", refused.did));
    let program = stage.program();
    let ended = stage.run(program);
    for (name, did) in jobs {
        let outcome = outcomes::of(&ended, &did);
        assert_eq!(outcome.how, "network", "{name}: {}", outcome.line);
        assert!(outcome.number("ms") < BOUND, "{name}: {}", outcome.line);
    }
}

#[test]
fn a_server_that_is_silent_is_given_up() {
    let mut stage = Stage::new();
    // Connections wait to be accepted, and their requests to be read.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let repo = stage.account();
    stage.enqueue(&repo.did, Some(&url));
    let program = stage.program().env("BACKFILLER_HTTP_TIMEOUT_SECS", "1");
    let ended = stage.run(program);
    assert_eq!(ended[0].how, "network");
    assert!(
        (900..BOUND).contains(&ended[0].number("ms")),
        "{}",
        ended[0].line
    );
}

/// The content as gzip, stored and not compressed (RFC 1952, RFC 1951 3.2.4).
fn gzip(content: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = content.chunks(1000).peekable();
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        out.push(u8::from(blocks.peek().is_none()));
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(block);
    }
    let shift = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
    let add = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| shift(crc));
    let crc = content.iter().fold(u32::MAX, add);
    out.extend((!crc).to_le_bytes());
    out.extend((content.len() as u32).to_le_bytes());
    out
}

#[test]
fn compressed_repos_are_asked_for_where_the_operator_wants_them() {
    for (setting, expected) in [
        (None, None),
        (Some("false"), None),
        (Some("true"), Some("gzip")),
    ] {
        let mut stage = Stage::new();
        let repo = stage.faulty(Fault::Normal);
        let mut program = stage.permitted();
        if let Some(setting) = setting {
            program = program.env("BACKFILLER_HTTP_GZIP", setting);
        }
        assert_eq!(stage.run_one(program), "done");
        stage.assert_events([&repo]);
        let requests = stage.server.requests();
        let request = requests
            .iter()
            .find(|request| request.is_get_repo())
            .expect("a request");
        assert_eq!(request.header("accept-encoding"), expected);
        assert_eq!(request.header("accept"), Some(CAR));
    }
}

#[test]
fn compressed_repos_are_whole_or_an_error() {
    let mut stage = Stage::new();
    let mut repos = Vec::new();
    let cuts: [(usize, &str); 4] = [
        (0, "done"),
        (8, "network"),
        (9, "network"),
        (1500, "network"),
    ];
    for (cut, how) in cuts {
        let repo = stage.faulty(Fault::Normal);
        let mut body = gzip(&repo.car());
        body.truncate(body.len() - cut);
        stage.server.set_fault(&repo.did, compressed(body));
        repos.push((repo, how));
    }
    let repo = stage.faulty(Fault::Normal);
    let mut body = gzip(&repo.car());
    let checksum = body.len() - 8;
    body[checksum] ^= 1;
    stage.server.set_fault(&repo.did, compressed(body));
    repos.push((repo, "network"));
    let program = stage.permitted().env("BACKFILLER_HTTP_GZIP", "true");
    let ended = assert_repos_end(&mut stage, program, &repos);
    let (first, _) = &repos[0];
    assert_eq!(
        outcomes::of(&ended, &first.did).number("bytes"),
        first.car().len() as u64
    );
}

fn compressed(body: Vec<u8>) -> Fault {
    Fault::Status {
        code: 200,
        headers: vec![("Content-Encoding".into(), "gzip".into())],
        content_type: CAR.into(),
        body,
    }
}
