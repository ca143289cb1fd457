//! Answers that are no repo, and say so or do not.

use super::Step::{KeepAlive, Send};
use super::{CAR, Case, answer, head};

const HTTP_STATUS: &[&str] = &["http_status"];
const PAGE: &[u8] = b"<!DOCTYPE html><html><body>RepoNotFound</body></html>";
const JSON: &str = "application/json; charset=utf-8";

/// Statuses, what they mean by themselves, and the error of XRPC that comes with them.
const STATUSES: [(&str, &str, &str); 8] = [
    ("400 Bad Request", "http_status", "InvalidRequest"),
    ("401 Unauthorized", "http_status", "AuthenticationRequired"),
    ("403 Forbidden", "http_status", "Forbidden"),
    ("404 Not Found", "http_status", "XRPCNotSupported"),
    ("429 Too Many Requests", "deferred", "RateLimitExceeded"),
    (
        "500 Internal Server Error",
        "network",
        "InternalServerError",
    ),
    ("502 Bad Gateway", "network", "UpstreamFailure"),
    ("503 Service Unavailable", "deferred", "NotEnoughResources"),
];

fn xrpc(error: &str) -> Vec<u8> {
    format!(r#"{{"error":"{error}","message":"{error}, so there"}}"#).into_bytes()
}

/// Errors with and without bodies, of XRPC and others; the connection is kept or not.
pub fn errors() -> Vec<Case> {
    let mut cases = Vec::new();
    for (status, end, error) in STATUSES {
        let ends = [end];
        let mut add = |with: &str, answer: Vec<u8>, keep: bool| {
            let mut steps = vec![Send(answer)];
            steps.extend(keep.then_some(KeepAlive));
            cases.push(Case::fixed(format!("{status} with {with}"), &ends, steps));
        };
        add("nothing", head(status, &["Content-Length: 0"]), true);
        add("no length and no body", head(status, &[]), false);
        add("a page", answer(status, "text/html", PAGE), true);
        add("an error of XRPC", answer(status, JSON, &xrpc(error)), true);
        add(
            "JSON that is no error",
            answer(status, JSON, b"[null]"),
            true,
        );
        add(
            "half an error of XRPC",
            answer(status, JSON, br#"{"error":"RepoNot"#),
            false,
        );
        let mut cut = answer(status, JSON, &[b'x'; 1000]);
        cut.truncate(cut.len() - 500);
        add("a body that is cut", cut, false);
    }
    for error in [
        "RepoNotFound",
        "RepoTakendown",
        "RepoSuspended",
        "RepoDeactivated",
    ] {
        for (status, _, _) in &STATUSES[..4] {
            let steps = vec![Send(answer(status, JSON, &xrpc(error))), KeepAlive];
            cases.push(Case::fixed(
                format!("{status} with {error}"),
                &["repo_gone"],
                steps,
            ));
        }
    }
    // That server errs, whatever it says of the account.
    for (status, end, _) in &STATUSES[5..] {
        let steps = vec![Send(answer(status, JSON, &xrpc("RepoNotFound"))), KeepAlive];
        cases.push(Case::fixed(
            format!("{status} with RepoNotFound"),
            &[end],
            steps,
        ));
    }
    cases
}

/// Successes that are none.
pub fn successes() -> Vec<Case> {
    let ok = |name: &str, ends: &[&'static str], kind: &str, body: &[u8]| {
        Case::fixed(
            name,
            ends,
            vec![Send(answer("200 OK", kind, body)), KeepAlive],
        )
    };
    let none = head("204 No Content", &[]);
    vec![
        ok("a page", HTTP_STATUS, "text/html; charset=utf-8", PAGE),
        ok(
            "an error of XRPC with 200",
            HTTP_STATUS,
            JSON,
            &xrpc("RepoNotFound"),
        ),
        ok("a text", HTTP_STATUS, "text/plain", b"hello"),
        ok("nothing, as a text", HTTP_STATUS, "text/plain", b""),
        ok("a page that says it is a repo", &["car"], CAR, PAGE),
        ok(
            "an error of XRPC that says it is a repo",
            &["car"],
            CAR,
            &xrpc("RepoNotFound"),
        ),
        ok(
            "a page of any type",
            &["car"],
            "application/octet-stream",
            PAGE,
        ),
        Case::new("a repo that says it is a page", HTTP_STATUS, |scene| {
            let car = scene.repo.car();
            vec![Send(answer("200 OK", "text/html", &car)), KeepAlive]
        }),
        Case::new("a repo of any type", &["done"], |scene| {
            let car = scene.repo.car();
            vec![
                Send(answer("200 OK", "application/octet-stream", &car)),
                KeepAlive,
            ]
        }),
        Case::fixed("204", HTTP_STATUS, vec![Send(none.clone()), KeepAlive]),
        Case::fixed(
            "204, and the connection closed",
            HTTP_STATUS,
            vec![Send(none)],
        ),
        // Nothing may follow the head of a 204: this is not taken for a repo, nor for the answer to a later request.
        Case::new("204 with a repo", HTTP_STATUS, |scene| {
            let answer = answer("204 No Content", CAR, &scene.repo.car());
            vec![Send(answer), KeepAlive]
        }),
    ]
}
