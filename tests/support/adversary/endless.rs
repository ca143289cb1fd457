//! Answers without an end, and answers that grow.

use super::super::generator::Cid;
use super::super::generator::car::frame;
use super::Step::{Forever, Send, Silence};
use super::storm::MAX_REPO_BYTES;
use super::{CAR, CHUNKED, CLOSE, Case, car_head, chunk, gzip, head};

const NETWORK: &[&str] = &["network"];
const TOO_LARGE: &[&str] = &["too_large"];
const GZIP: &str = "Content-Encoding: gzip";

/// Blocks that no tree names, each another one, which are tolerated: at least so many bytes of them.
fn unlinked_blocks(size: usize) -> Vec<u8> {
    let mut blocks = Vec::new();
    let mut number = 0_u64;
    while blocks.len() < size {
        let content = number.to_le_bytes().repeat(4096);
        blocks.extend(frame(&[&Cid::raw(&content).bytes()[..], &content].concat()));
        number += 1;
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
    // So many that they would show in the memory, were they kept; after the last of them come the same ones again.
    let blocks = unlinked_blocks(12 * MAX_REPO_BYTES);
    let enough = unlinked_blocks(MAX_REPO_BYTES);
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
            enough.chunks(200).flat_map(chunk).collect(),
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
