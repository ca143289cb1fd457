//! Answers without an end, answers that grow, and bodies whose length is a lie.

use super::super::generator::car::{frame, frames};
use super::super::generator::{Cid, Repo};
use super::Step::{Forever, KeepAlive, Send, Silence};
use super::storm::MAX_REPO_BYTES;
use super::{CAR, Case, Step, answer, car_head, gzip, head};

const NETWORK: &[&str] = &["network"];
const TOO_LARGE: &[&str] = &["too_large"];
const CHUNKED: &str = "Transfer-Encoding: chunked";
const CLOSE: &str = "Connection: close";
const GZIP: &str = "Content-Encoding: gzip";

fn chunk(content: &[u8]) -> Vec<u8> {
    let length = format!("{:x}\r\n", content.len());
    [length.as_bytes(), content, b"\r\n"].concat()
}

/// Blocks that no tree names, each another one, which are tolerated: a little more than a repo may have in bytes.
fn unlinked_blocks() -> Vec<u8> {
    let mut blocks = Vec::new();
    for number in 0_u64.. {
        if blocks.len() > MAX_REPO_BYTES {
            break;
        }
        let content = number.to_le_bytes().repeat(1000);
        blocks.extend(frame(&[&Cid::raw(&content).bytes()[..], &content].concat()));
    }
    blocks
}

/// Heads and framings without an end.
pub fn endless_heads() -> Vec<Case> {
    let forever = |name: &str, start: &[u8], more: &[u8]| {
        let steps = vec![Send(start.to_vec()), Forever(more.to_vec())];
        Case::fixed(format!("endless {name}"), NETWORK, steps)
    };
    let chunked = car_head(CHUNKED);
    let in_chunk = |start: &[u8]| [&chunked[..], start].concat();
    vec![
        forever("noise", b"", &[0xff]),
        forever("zeros", b"", &[0]),
        forever("empty lines", b"", b"\r\n"),
        forever("status line", b"HTTP/1.1 200 ", b"OK "),
        forever("header", b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        forever("headers", b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n"),
        forever("empty headers", b"HTTP/1.1 200 OK\r\n", b"X:\r\n"),
        forever("folded header", b"HTTP/1.1 200 OK\r\nX: x\r\n", b" x\r\n"),
        forever("interim answers", b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        forever(
            "early hints",
            b"",
            b"HTTP/1.1 103 Early Hints\r\nX: x\r\n\r\n",
        ),
        forever("zeros of a chunk's length", &chunked, b"0"),
        forever("digits of a chunk's length", &chunked, b"f"),
        forever("extension of a chunk", &in_chunk(b"10;"), b"x"),
        forever(
            "headers of a redirect",
            b"HTTP/1.1 302 Found\r\n",
            b"X: x\r\n",
        ),
        Case::fixed("endless location of a redirect", NETWORK, {
            let start = b"HTTP/1.1 302 Found\r\nLocation: /".to_vec();
            vec![Send(start), Forever(b"x".to_vec())]
        }),
    ]
}

/// Bodies without an end, and what is behind the end of a body.
pub fn endless_bodies() -> Vec<Case> {
    let blocks = unlinked_blocks();
    let endless = |name: &'static str, framing: &'static str, more: Vec<u8>| {
        let name = format!("endless repo, {name}");
        Case::new(name, TOO_LARGE, move |scene| {
            let start = match framing {
                CHUNKED => chunk(&scene.repo.car()),
                _ => scene.repo.car(),
            };
            vec![
                Send([car_head(framing), start].concat()),
                Forever(more.clone()),
            ]
        })
    };
    let announced = |length: &str| {
        let length = format!("Content-Length: {length}");
        vec![Send(car_head(&length)), Silence]
    };
    let page = head("200 OK", &["Content-Type: text/html", CLOSE]);
    let error = |status| vec![Send(head(status, &[CLOSE])), Forever(b"error ".to_vec())];
    vec![
        endless("until the connection ends", CLOSE, blocks.clone()),
        endless("in chunks", CHUNKED, chunk(&blocks)),
        endless(
            "in small chunks",
            CHUNKED,
            blocks.chunks(9).flat_map(chunk).collect(),
        ),
        Case::fixed("a length beyond the limit", TOO_LARGE, announced("2097153")),
        Case::fixed(
            "the largest length",
            TOO_LARGE,
            announced("18446744073709551615"),
        ),
        Case::fixed(
            "endless page",
            &["http_status"],
            vec![Send(page), Forever(b"<p>".to_vec())],
        ),
        Case::fixed("endless 404", &["http_status"], error("404 Not Found")),
        Case::fixed("endless 500", NETWORK, error("500 Internal Server Error")),
        Case::fixed("endless zeros as a repo", &["car"], {
            vec![Send(car_head(CLOSE)), Forever(vec![0])]
        }),
        Case::fixed("endless length of a frame", &["car"], {
            vec![Send(car_head(CLOSE)), Forever(vec![0xff])]
        }),
        // The repo is whole by then.
        Case::new("endless trailers", &["network", "done"], |scene| {
            let body = [chunk(&scene.repo.car()), b"0\r\n".to_vec()].concat();
            let start = [car_head(CHUNKED), body].concat();
            vec![Send(start), Forever(b"X: x\r\n".to_vec())]
        }),
    ]
}

/// Compressed bodies that are more than they seem.
pub fn bombs() -> Vec<Case> {
    let packed_head = |status, kind: &str| {
        let kind = format!("Content-Type: {kind}");
        head(status, &[&kind, GZIP, CLOSE])
    };
    // More than a gigabyte, in less than 8 MiB.
    const COUNT: usize = 4200;
    let (frame, packed_frame) = gzip::zero_frame();
    assert!(COUNT * frame.len() > 1 << 30 && COUNT * packed_frame.len() < 8 << 20);
    let zeros = gzip::zeros();
    let of = |count: usize, ends: &[&'static str]| {
        let (frame, packed_frame) = (frame.clone(), packed_frame.clone());
        let name = format!("a repo and {count} blocks of zeros, compressed");
        let head = packed_head("200 OK", CAR);
        Case::new(name, ends, move |scene| {
            let plain = [scene.repo.car(), frame.repeat(count.min(2))].concat();
            let mut body = [&gzip::HEAD[..], &gzip::stored(&scene.repo.car())].concat();
            body.extend(packed_frame.repeat(count));
            body.extend(gzip::end(&plain));
            vec![Send(head.clone()), Send(body)]
        })
    };
    let packed = |name: &str, ends: &[&'static str], start: Vec<u8>, more: &[u8]| {
        let steps = vec![
            Send(start),
            Send(gzip::HEAD.to_vec()),
            Forever(more.to_vec()),
        ];
        Case::fixed(name, ends, steps)
    };
    // Its head announces a file name, which never ends.
    let mut named = gzip::HEAD;
    named[3] = 1 << 3;
    vec![
        // That this one is well-formed shows that the next one is a bomb and not just broken.
        of(2, &["done"]),
        of(COUNT, TOO_LARGE),
        packed(
            "a bomb of zeros",
            &["car"],
            packed_head("200 OK", CAR),
            &zeros,
        ),
        packed(
            "a page that is a bomb",
            &["http_status"],
            packed_head("200 OK", "text/html"),
            &zeros,
        ),
        packed(
            "a 404 that is a bomb",
            &["http_status"],
            packed_head("404 Not Found", "application/json"),
            &zeros,
        ),
        packed(
            "a 500 that is a bomb",
            NETWORK,
            packed_head("500 Internal Server Error", "application/json"),
            &zeros,
        ),
        packed(
            "compressed nothing without end",
            NETWORK,
            packed_head("200 OK", CAR),
            &gzip::NOTHING,
        ),
        Case::fixed("a compressed body whose head has no end", NETWORK, {
            let head = packed_head("200 OK", CAR);
            vec![Send(head), Send(named.to_vec()), Forever(b"x".to_vec())]
        }),
    ]
}

/// Content-Length too long, too short, or no length at all.
pub fn lengths() -> Vec<Case> {
    let with_length =
        |name: &str, ends: &[&'static str], length: fn(&Repo) -> String, last: Option<Step>| {
            Case::new(name, ends, move |scene| {
                let head = car_head(&length(scene.repo));
                let mut steps = vec![Send([head, scene.repo.car()].concat())];
                steps.extend(last.clone());
                steps
            })
        };
    fn length(length: usize) -> String {
        format!("Content-Length: {length}")
    }
    // Where the archive is cut decides what is wrong with it.
    fn at_a_frame(repo: &Repo) -> usize {
        frames(&repo.car()).last().expect("a frame").start
    }
    const CUT: &[&str] = &["car"];
    vec![
        with_length(
            "a length that is one too long",
            NETWORK,
            |r| length(r.car().len() + 1),
            None,
        ),
        with_length(
            "a length that is much too long",
            NETWORK,
            |r| length(r.car().len() + 100_000),
            None,
        ),
        with_length(
            "a length that is too long, and silence",
            NETWORK,
            |r| length(r.car().len() + 1),
            Some(Silence),
        ),
        with_length(
            "a length that is one too short",
            CUT,
            |r| length(r.car().len() - 1),
            None,
        ),
        with_length(
            "a length that is too short by a frame",
            &["incomplete"],
            |r| length(at_a_frame(r)),
            None,
        ),
        with_length(
            "a length in the header of the archive",
            CUT,
            |_| length(7),
            None,
        ),
        with_length("a length of nothing", CUT, |_| length(0), None),
        with_length(
            "a length that is too short on a kept connection",
            CUT,
            |r| length(r.car().len() - 1),
            Some(KeepAlive),
        ),
        with_length(
            "two lengths",
            NETWORK,
            |r| format!("{}\r\n{}", length(r.car().len()), length(7)),
            None,
        ),
        with_length(
            "a negative length",
            NETWORK,
            |_| "Content-Length: -1".into(),
            None,
        ),
        with_length(
            "a length in letters",
            NETWORK,
            |_| "Content-Length: all".into(),
            None,
        ),
        with_length(
            "a length beyond all numbers",
            NETWORK,
            |_| format!("Content-Length: 1{}", "0".repeat(30)),
            None,
        ),
        Case::new("more than the length", &["done"], |scene| {
            let good = answer("200 OK", CAR, &scene.repo.car());
            vec![
                Send([&good[..], b"HTTP/1.1 404 Not Found\r\n\r\n"].concat()),
                KeepAlive,
            ]
        }),
        Case::fixed("neither length nor body", CUT, vec![Send(car_head(CLOSE))]),
    ]
}

/// Chunked encoding that is cut or wrong.
pub fn chunks() -> Vec<Case> {
    let with_body = |name: &str, ends: &[&'static str], body: fn(&Repo) -> Vec<u8>| {
        Case::new(name, ends, move |scene| {
            vec![Send([car_head(CHUNKED), body(scene.repo)].concat())]
        })
    };
    // Two chunks and the last one: a good body to begin with.
    fn chunked(repo: &Repo) -> Vec<u8> {
        let car = repo.car();
        let (first, second) = car.split_at(1000);
        [chunk(first), chunk(second), b"0\r\n\r\n".to_vec()].concat()
    }
    fn cut(repo: &Repo, bytes: usize) -> Vec<u8> {
        let mut body = chunked(repo);
        body.truncate(body.len() - bytes);
        body
    }
    fn begun(start: &[u8], repo: &Repo) -> Vec<u8> {
        [start, &repo.car(), b"\r\n0\r\n\r\n"].concat()
    }
    vec![
        with_body("good chunks", &["done"], chunked),
        with_body("no chunk", NETWORK, |_| Vec::new()),
        with_body("cut in the length of a chunk", NETWORK, |_| b"10".to_vec()),
        with_body("cut behind the length of a chunk", NETWORK, |_| {
            b"10\r\n".to_vec()
        }),
        with_body("cut in a chunk", NETWORK, |r| chunked(r)[..500].to_vec()),
        with_body("cut before the end of a chunk", NETWORK, |r| {
            chunked(r)[..1005].to_vec()
        }),
        with_body("cut between chunks", NETWORK, |r| {
            chunked(r)[..1007].to_vec()
        }),
        with_body("cut before the end of the last full chunk", NETWORK, |r| {
            cut(r, 7)
        }),
        with_body("cut before the last chunk", NETWORK, |r| cut(r, 5)),
        with_body("cut in the last chunk", NETWORK, |r| cut(r, 4)),
        with_body("cut behind the last chunk", NETWORK, |r| cut(r, 2)),
        with_body("cut in the last line", NETWORK, |r| cut(r, 1)),
        with_body("a chunk that is shorter than it says", NETWORK, |r| {
            begun(b"100000\r\n", r)
        }),
        with_body("a chunk that is longer than it says", NETWORK, |r| {
            begun(b"10\r\n", r)
        }),
        with_body("a chunk of letters", NETWORK, |r| begun(b"xyz\r\n", r)),
        with_body("a chunk of negative length", NETWORK, |r| {
            begun(b"-10\r\n", r)
        }),
        with_body("a chunk beyond all numbers", NETWORK, |r| {
            begun(b"ffffffffffffffffffff\r\n", r)
        }),
        with_body("a chunk of the largest length", NETWORK, |r| {
            begun(b"ffffffffffffffff\r\n", r)
        }),
        with_body("the last chunk first", &["car"], |_| b"0\r\n\r\n".to_vec()),
    ]
}
