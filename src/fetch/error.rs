//! What a server's refusal means: from statuses and transport errors to reasons.
//!
//! XRPC errors are JSON, `{"error": name, "message": text}` (atproto.com/specs/xrpc, "Error Responses"). The names that say
//! that an account has no repo here count whatever 4xx they come with; older servers say it in the message only.

use std::io::ErrorKind;

use serde_json::{Map, Value};

use super::host::Host;
use super::transport::TooSlow;
use crate::error::{JobError, Reason};

/// Names of the errors of com.atproto.sync.getRepo that say that the repo is not to be had.
const GONE: [&str; 4] = [
    "RepoNotFound",
    "RepoDeactivated",
    "RepoTakendown",
    "RepoSuspended",
];
/// How older servers begin the message of an `InvalidRequest` that says so.
const GONE_MESSAGE: &str = "Could not find repo";

/// The error of an answer that is not a success.
pub fn of_status(host: &Host, status: u16, body: &[u8]) -> JobError {
    let xrpc: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    let text = |field| xrpc.get(field).and_then(Value::as_str).unwrap_or_default();
    let (name, message) = (text("error"), text("message"));
    let said = match (name, message) {
        ("", _) => String::new(),
        (error, "") => format!(" {error}"),
        (error, message) => format!(" {error}: {message}"),
    };
    let gone =
        GONE.contains(&name) || (name == "InvalidRequest" && message.starts_with(GONE_MESSAGE));
    let reason = match status {
        400..=499 if gone => Reason::RepoGone,
        429 | 503 => Reason::Deferred,
        500..=599 => Reason::Network,
        _ => Reason::HttpStatus,
    };
    JobError::new(reason, format_args!("{host} answered {status}{said}"))
}

/// The error of a request or a body that did not come through.
pub fn of_transport(host: &Host, error: &ureq::Error) -> JobError {
    match error {
        // From our own resolver or transport: it speaks for itself.
        ureq::Error::Other(error) => {
            JobError::new(Reason::Network, format_args!("{host}: {error}"))
        }
        error => JobError::new(Reason::Network, format_args!("{host}: {error}")),
    }
}

/// Whether the error, of a request or in the midst of a body, means that the host was not reached or did not answer to the end, and
/// not that we would not wait or would not ask, or that the content is wrong.
///
/// `was_patient`: it had most of the time that is given as a whole to the one thing that it has not done in that time.
pub fn is_unreachable(error: &ureq::Error, was_patient: bool) -> bool {
    match error {
        ureq::Error::Timeout(ureq::Timeout::Global) => was_patient,
        ureq::Error::Other(error) => error.is::<TooSlow>(),
        ureq::Error::BadUri(_) => false,
        // What was sent is wrong, unless there is too little of it.
        ureq::Error::Decompress(_, error) => matches!(
            error.kind(),
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted
        ),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::host::ChosenBy;
    use super::*;

    fn reason(status: u16, body: &str) -> Reason {
        let host = Host::parse("pds.example", ChosenBy::Operator).unwrap();
        of_status(&host, status, body.as_bytes()).reason
    }

    #[test]
    fn a_host_is_to_blame_for_its_silence_and_not_for_our_haste() {
        let timeout = ureq::Error::Timeout;
        assert!(is_unreachable(&timeout(ureq::Timeout::Connect), false));
        assert!(is_unreachable(&timeout(ureq::Timeout::Global), true));
        assert!(!is_unreachable(&timeout(ureq::Timeout::Global), false));
        assert!(is_unreachable(&ureq::Error::HostNotFound, false));
        assert!(!is_unreachable(&ureq::Error::Other("refused".into()), true));
        let checksum = std::io::Error::other("corrupt gzip stream");
        assert!(!is_unreachable(
            &ureq::Error::Decompress("gzip", checksum),
            true
        ));
        let cut = std::io::ErrorKind::UnexpectedEof;
        let part = ureq::Error::Decompress("gzip", cut.into());
        assert!(is_unreachable(&part, false));
        assert!(is_unreachable(&ureq::Error::Io(cut.into()), false));
    }

    #[test]
    fn statuses_have_the_reasons_of_the_table() {
        for name in GONE {
            assert_eq!(
                reason(400, &format!(r#"{{"error":"{name}","message":"m"}}"#)),
                Reason::RepoGone
            );
            assert_eq!(
                reason(404, &format!(r#"{{"error":"{name}"}}"#)),
                Reason::RepoGone
            );
        }
        let could_not =
            r#"{"error":"InvalidRequest","message":"Could not find repo for DID: did:plc:x"}"#;
        assert_eq!(reason(400, could_not), Reason::RepoGone);
        assert_eq!(reason(500, r#"{"error":"RepoNotFound"}"#), Reason::Network);
        assert_eq!(
            reason(400, r#"{"error":"InvalidRequest","message":"did"}"#),
            Reason::HttpStatus
        );
        assert_eq!(reason(404, "<html>"), Reason::HttpStatus);
        assert_eq!(reason(403, ""), Reason::HttpStatus);
        assert_eq!(reason(204, ""), Reason::HttpStatus);
        assert_eq!(reason(429, "<html>slow down"), Reason::Deferred);
        assert_eq!(reason(503, ""), Reason::Deferred);
        assert_eq!(reason(500, ""), Reason::Network);
        assert_eq!(reason(502, ""), Reason::Network);
        assert_eq!(reason(400, r#"{"error":7}"#), Reason::HttpStatus);
    }
}
