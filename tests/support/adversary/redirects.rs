//! Redirects that lead nowhere, everywhere, or where nobody may go.

use super::Step::{self, Forever, KeepAlive, Second, Send};
use super::{Case, answer, good_answer, head};

const CODES: [&str; 5] = [
    "301 Moved Permanently",
    "302 Found",
    "303 See Other",
    "307 Temporary Redirect",
    "308 Permanent Redirect",
];
const HTTP_STATUS: &[&str] = &["http_status"];

fn redirect(status: &str, location: &str) -> Step {
    let location = format!("Location: {location}");
    Send(head(status, &[&location, "Content-Length: 0"]))
}

/// Redirects to the server itself, and around rings of servers: `end` is what becomes of them.
pub fn loops(end: &'static str) -> Vec<Case> {
    let mut cases = Vec::new();
    for status in CODES {
        for listeners in [1, 2, 3] {
            let name = format!("{status} around a ring of {listeners}");
            let ring = Case::new(name, &[end], move |scene| {
                vec![redirect(status, &scene.next_url), KeepAlive]
            });
            cases.push(ring.ring(listeners));
        }
    }
    cases
}

/// Loops whose answers take time, or have bodies without end.
pub fn loops_that_take_time() -> Vec<Case> {
    vec![
        // The time is that of all hops together, and over before the last of them.
        Case::new("a slow ring", &["network"], |scene| {
            vec![Second, redirect("302 Found", &scene.next_url), KeepAlive]
        })
        .ring(2),
        Case::new("a ring of endless bodies", HTTP_STATUS, |scene| {
            let location = format!("Location: {}", scene.next_url);
            let head = head("302 Found", &[&location, "Connection: close"]);
            vec![Send(head), Forever(b"this way ".to_vec())]
        })
        .ring(2),
    ]
}

/// A redirect to the server itself, and behind it on the same connection the answer to a request that was never made: the
/// next request is answered by what the server says when it is asked.
pub fn with_another_answer() -> Vec<Case> {
    let case = |status: &'static str, smuggled: Vec<u8>| {
        Case::new(
            format!("{status} and an answer too many"),
            &["done"],
            move |scene| {
                if scene.earlier > 0 {
                    return vec![Send(good_answer(scene.repo)), KeepAlive];
                }
                let location = format!("Location: {}", scene.own_url);
                let head = head(status, &[&location, "Content-Length: 0"]);
                vec![Send([&head[..], &smuggled].concat()), KeepAlive]
            },
        )
    };
    let smuggled = answer(
        "404 Not Found",
        "application/json",
        br#"{"error":"RepoNotFound"}"#,
    );
    CODES
        .into_iter()
        .map(|status| case(status, smuggled.clone()))
        .collect()
}

/// A redirect to another server on a private address, which has the repo: `end` is what becomes of it.
pub fn to_a_private_address(end: &'static str) -> Vec<Case> {
    let to_next = |status: &'static str| {
        Case::new(
            format!("{status} to a private address"),
            &[end],
            move |scene| {
                if scene.place == 0 {
                    vec![redirect(status, &scene.next_url), KeepAlive]
                } else {
                    vec![Send(good_answer(scene.repo)), KeepAlive]
                }
            },
        )
        .ring(2)
    };
    CODES.into_iter().map(to_next).collect()
}

/// Redirects to what is never followed, and to private addresses of which nothing is known here: those only where they are
/// not permitted.
pub fn to_nowhere(private_addresses_too: bool) -> Vec<Case> {
    let to = |status: &'static str, location: &str| {
        let steps = vec![redirect(status, location), KeepAlive];
        Case::fixed(format!("{status} to {location:?}"), HTTP_STATUS, steps)
    };
    let mut cases: Vec<_> = CODES
        .into_iter()
        .map(|status| to(status, "file:///etc/passwd"))
        .collect();
    let strange = [
        "file://localhost/etc/passwd",
        "FILE:/etc/passwd",
        "ftp://127.0.0.1/repo.car",
        "gopher://127.0.0.1:6379/_SHUTDOWN",
        "redis://127.0.0.1/",
        "javascript:alert(1)",
        "http://",
        "http://[::1",
        "http://127.0.0.1:99999/",
    ];
    cases.extend(strange.map(|location| to("302 Found", location)));
    if private_addresses_too {
        let private = [
            "http://169.254.169.254/latest/meta-data/",
            "https://169.254.169.254/",
            "https://10.0.0.1/",
            "https://192.168.1.1/",
            "https://127.0.0.1/",
            "https://localhost/",
            "https://[::1]/",
            "https://[fd00::1]/",
            "https://[::ffff:10.0.0.1]/",
        ];
        cases.extend(private.map(|location| to("302 Found", location)));
    }
    for status in CODES {
        let steps = vec![Send(head(status, &["Content-Length: 0"])), KeepAlive];
        cases.push(Case::fixed(
            format!("{status} to nowhere"),
            HTTP_STATUS,
            steps,
        ));
    }
    let not_text = b"HTTP/1.1 302 Found\r\nLocation: /\xff\xfe\r\nContent-Length: 0\r\n\r\n";
    let steps = vec![Send(not_text.to_vec()), KeepAlive];
    cases.push(Case::fixed("302 to what is no text", HTTP_STATUS, steps));
    cases
}
