//! Connections that break, servers that are silent, and servers that are slow.

use super::Step::{Drip, Forever, Reset, Send, Silence};
use super::{Case, answer, car_head, good_answer, head};

const NETWORK: &[&str] = &["network"];

/// The bytes of a good answer up to some place in it.
fn part(name: &str, until: impl Fn(&[u8]) -> usize + std::marker::Send + Sync + 'static) -> Case {
    Case::new(name, NETWORK, move |scene| {
        let answer = good_answer(scene.repo);
        vec![Send(answer[..until(&answer)].to_vec()), Silence]
    })
}

/// Where the body of an answer begins.
fn body_of(answer: &[u8]) -> usize {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    end.expect("the end of the head") + 4
}

/// No connection, or one that is reset after so many bytes of a good answer: each place in its head, and places all over its
/// body.
pub fn broken() -> Vec<Case> {
    let mut cases = vec![
        Case::fixed("connection refused", NETWORK, Vec::new()).ring(0),
        Case::fixed("reset before the request is read", NETWORK, vec![Reset]).deaf(),
        Case::fixed("closed before the request is read", NETWORK, Vec::new()).deaf(),
        Case::fixed("closed after the request", NETWORK, Vec::new()),
    ];
    let reset = |name: String, place: usize, in_body: bool| {
        Case::new(name, NETWORK, move |scene| {
            let answer = good_answer(scene.repo);
            let start = if in_body { body_of(&answer) } else { 0 };
            // The last byte is never sent: the answer would be whole.
            let end = (start + place).min(answer.len() - 1);
            vec![Send(answer[..end].to_vec()), Reset]
        })
    };
    // The head has 81 bytes, with a length of four digits.
    cases.extend((0..90).map(|k| reset(format!("reset after {k} bytes"), k, false)));
    let in_body = (0..6).chain((40..3300).step_by(97)).chain([usize::MAX / 2]);
    cases.extend(in_body.map(|k| reset(format!("reset after {k} bytes of the body"), k, true)));
    cases
}

/// Servers that answer up to some point, and never go on.
pub fn silent() -> Vec<Case> {
    vec![
        part("never answers", |_| 0),
        part("half a status line", |_| 11),
        part("half of the headers", |_| 40),
        part("the head alone", body_of),
        part("all but a byte", |answer| answer.len() - 1),
        Case::fixed("an interim answer alone", NETWORK, {
            vec![Send(head("100 Continue", &[])), Silence]
        }),
        Case::new("half a chunk", NETWORK, |scene| {
            let start = [
                car_head("Transfer-Encoding: chunked"),
                b"1000\r\n".to_vec(),
                scene.repo.car()[..100].to_vec(),
            ];
            vec![Send(start.concat()), Silence]
        }),
    ]
}

/// An error or a page of which the body never comes: the status says enough.
pub fn silent_errors() -> Vec<Case> {
    let silent = |status: &'static str, end: &'static str| {
        let head = head(status, &["Content-Type: text/html", "Content-Length: 1000"]);
        let name = format!("{status} without its body");
        Case::fixed(name, &[end], vec![Send(head), Silence])
    };
    vec![
        silent("200 OK", "http_status"),
        silent("404 Not Found", "http_status"),
        silent("429 Too Many Requests", "deferred"),
        silent("502 Bad Gateway", "network"),
    ]
}

/// Servers that are asked over TLS, and do not come to an agreement.
pub fn without_tls() -> Vec<Case> {
    // The head of a record of 256 bytes, as a handshake begins with.
    let record = [22, 3, 3, 1, 0];
    let slow = [&record[..], &[0; 256]].concat();
    let cases = [
        ("silence", vec![Silence]),
        (
            "half a record and silence",
            vec![Send(slow[..100].to_vec()), Silence],
        ),
        ("one byte a second", vec![Drip(slow)]),
        ("endless noise", vec![Forever(vec![0xff])]),
        ("endless empty records", vec![Forever(vec![22, 3, 3, 0, 0])]),
        ("plain text", vec![Send(answer("200 OK", "text/html", b""))]),
        ("a reset", vec![Reset]),
        ("the end of the connection", Vec::new()),
    ];
    let case =
        |(name, steps)| Case::fixed(format!("{name} where TLS is asked for"), NETWORK, steps);
    cases
        .into_iter()
        .map(|parts| case(parts).over_tls())
        .collect()
}

/// One byte a second.
pub fn slow() -> Vec<Case> {
    let chunked = car_head("Transfer-Encoding: chunked");
    let error = head("400 Bad Request", &["Content-Length: 1000"]);
    vec![
        Case::new("one byte a second", NETWORK, |scene| {
            vec![Drip(good_answer(scene.repo))]
        }),
        Case::new("one byte a second of the body", NETWORK, |scene| {
            let answer = good_answer(scene.repo);
            let (head, body) = answer.split_at(body_of(&answer));
            vec![Send(head.to_vec()), Drip(body.to_vec())]
        }),
        Case::fixed("one byte a second of the headers", NETWORK, {
            vec![
                Send(b"HTTP/1.1 200 OK\r\nX: ".to_vec()),
                Drip(vec![b'x'; 100]),
            ]
        }),
        Case::fixed("one digit a second of a chunk's length", NETWORK, {
            vec![Send(chunked), Drip(vec![b'0'; 100])]
        }),
        // What was sent of the text does not matter beside the status.
        Case::fixed("one byte a second of an error", &["http_status"], {
            vec![Send(error), Drip(vec![b'x'; 100])]
        }),
    ]
}
