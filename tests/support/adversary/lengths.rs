//! Bodies whose length is a lie.

use super::super::generator::Repo;
use super::super::generator::car::frames;
use super::Step::{KeepAlive, Send, Silence};
use super::{CAR, CHUNKED, CLOSE, Case, Step, answer, car_head, chunk};

const NETWORK: &[&str] = &["network"];

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
        // With the last chunk the body is complete (RFC 9112, section 8); what is cut is only its trailer section.
        with_body("cut behind the last chunk", &["network", "done"], |r| {
            cut(r, 2)
        }),
        with_body("cut in the last line", &["network", "done"], |r| cut(r, 1)),
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
