//! What the head of an answer means: statuses, the errors of XRPC, content types.

mod support;

use support::fetching::{assert_ends, assert_repos_end};
use support::fixture_server::Fault;
use support::hostile::stage::Stage;

const CAR: &str = "application/vnd.ipld.car";

/// A 200 of any type and body.
fn ok(content_type: &str, body: impl Into<Vec<u8>>) -> Fault {
    answer(200, content_type, body)
}

fn answer(code: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Fault {
    Fault::Status {
        code,
        headers: Vec::new(),
        content_type: content_type.into(),
        body: body.into(),
    }
}

#[test]
fn statuses_have_their_reasons() {
    let statuses = [
        (201, "http_status"),
        (202, "http_status"),
        (203, "http_status"),
        (204, "http_status"),
        (206, "http_status"),
        (400, "http_status"),
        (401, "http_status"),
        (403, "http_status"),
        (404, "http_status"),
        (405, "http_status"),
        (410, "http_status"),
        (418, "http_status"),
        (451, "http_status"),
        (429, "deferred"),
        (500, "network"),
        (501, "network"),
        (502, "network"),
        (503, "deferred"),
        (504, "network"),
        (520, "network"),
    ];
    let faults = statuses.map(|(code, how)| {
        // Nothing may follow the head of a 204.
        let body = if code == 204 {
            ""
        } else {
            "<html>RepoNotFound</html>"
        };
        (answer(code, "text/html", body), how)
    });
    let mut faults = faults.to_vec();
    for (name, value) in [
        ("Retry-After", "120"),
        ("RateLimit-Reset", "1900000000"),
        ("Retry-After", "x"),
    ] {
        faults.push((Fault::status_with_header(429, name, value), "deferred"));
        faults.push((Fault::status_with_header(503, name, value), "deferred"));
    }
    assert_ends(&mut Stage::new(), faults);
}

#[test]
fn xrpc_errors_have_their_reasons() {
    let gone = "Could not find repo for DID: did:plc:x";
    let errors = [
        (400, "RepoNotFound", "", "repo_gone"),
        (404, "RepoNotFound", gone, "repo_gone"),
        (
            400,
            "RepoDeactivated",
            "Repo has been deactivated",
            "repo_gone",
        ),
        (403, "RepoDeactivated", "", "repo_gone"),
        (400, "RepoTakendown", "", "repo_gone"),
        (400, "RepoSuspended", "", "repo_gone"),
        (400, "InvalidRequest", gone, "repo_gone"),
        (
            400,
            "InvalidRequest",
            "Error: Params must have the property \"did\"",
            "http_status",
        ),
        (400, "InvalidRequest", "", "http_status"),
        (400, "SomethingElse", gone, "http_status"),
        (400, "reponotfound", "", "http_status"),
        (401, "AuthenticationRequired", "", "http_status"),
        (404, "XRPCNotSupported", "", "http_status"),
        (429, "RateLimitExceeded", "Rate Limit Exceeded", "deferred"),
        (500, "InternalServerError", "", "network"),
        (500, "RepoNotFound", gone, "network"),
        (502, "UpstreamFailure", "", "network"),
        (503, "RepoNotFound", "", "deferred"),
    ];
    let faults = errors.map(|(code, error, message, how)| (Fault::xrpc(code, error, message), how));
    assert_ends(&mut Stage::new(), faults.to_vec());
}

#[test]
fn errors_that_are_none_of_xrpc_are_read_leniently() {
    let json = |body: &str| answer(400, "application/json", body);
    let faults = vec![
        (json(r#"{"error":"RepoNotFound"}"#), "repo_gone"),
        (
            json(r#"{"error":"RepoNotFound","message":null}"#),
            "repo_gone",
        ),
        (
            json(r#"{"message":"m","more":[1],"error":"RepoTakendown"}"#),
            "repo_gone",
        ),
        (json(r#"{"error":7}"#), "http_status"),
        (json(r#"["RepoNotFound"]"#), "http_status"),
        (json("RepoNotFound"), "http_status"),
        (json("{"), "http_status"),
        (
            answer(400, "application/json", b"\xff\xfe".to_vec()),
            "http_status",
        ),
        (
            answer(404, "text/plain", "x".repeat(1 << 20)),
            "http_status",
        ),
        (
            answer(
                400,
                "text/plain",
                r#"{"error":"RepoSuspended","message":""}"#,
            ),
            "repo_gone",
        ),
    ];
    assert_ends(&mut Stage::new(), faults);
}

#[test]
fn an_error_text_cannot_write_log_lines() {
    let mut stage = Stage::new();
    let forged =
        "x\n2025-01-01T00:00:00.000Z INFO  [worker-0] done did=did:plc:x host=y \u{1b}[31m";
    let ended = assert_ends(
        &mut stage,
        vec![(Fault::xrpc(500, "Error", forged), "network")],
    );
    assert_eq!(ended.len(), 1);
    assert!(!ended[0].line.contains('\u{1b}'));
}

#[test]
fn a_success_that_is_no_car_is_no_success() {
    let faults = vec![
        (ok("text/html", "<html>Log in</html>"), "http_status"),
        (ok("text/html; charset=utf-8", ""), "http_status"),
        (ok("TEXT/HTML", "<html>"), "http_status"),
        (ok("application/json", "{}"), "http_status"),
        (
            ok(
                "application/json; charset=utf-8",
                r#"{"error":"RepoNotFound"}"#,
            ),
            "http_status",
        ),
        (ok("text/plain", "hello"), "http_status"),
    ];
    assert_ends(&mut Stage::new(), faults);
}

#[test]
fn a_car_needs_no_type_of_its_own() {
    let mut stage = Stage::new();
    let mut repos = Vec::new();
    for content_type in [
        CAR,
        "application/vnd.ipld.car; version=1",
        "application/octet-stream",
        "",
    ] {
        let repo = stage.faulty(Fault::Normal);
        stage
            .server
            .set_fault(&repo.did, ok(content_type, repo.car()));
        repos.push((repo, "done"));
    }
    let program = stage.permitted();
    assert_repos_end(&mut stage, program, &repos);
}
