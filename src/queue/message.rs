//! A message of the input stream, and what of it counts.
//!
//! Field `repo`, JSON `{"did": str, "host"?: str, "rev"?: str, "status"?: …, "active"?: …}`; unknown keys are ignored. `active` and
//! `status` decide nothing: the server's answer does. `rev` decides nothing either, so one that cannot be read is no reason to
//! refuse the message. Pinned by the tests here and by `tests/delivery.rs` (`i4_…`).

use rsky_syntax::did::ensure_valid_did;
use rsky_syntax::tid::is_valid_tid;
use serde_json::{Map, Value};

use crate::error::{JobError, Reason};
use crate::fetch::host::{ChosenBy, Host};

/// The field that holds the message.
pub const FIELD: &str = "repo";

/// A value that is longer than this, in bytes, is not looked into for the DID that it names.
const MOST_READ: usize = 64 << 10;
/// Characters of that DID which are kept.
const MOST_NAMED: usize = 500;

/// A well-formed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The account: did:plc or did:web, valid syntax.
    pub did: String,
    /// The server to ask; without one, the PDS of the DID document is asked.
    pub host: Option<Host>,
    /// The revision that the sender knew of, a TID.
    pub rev: Option<String>,
}

impl Message {
    /// Reads the value of the field `repo`.
    ///
    /// # Errors
    /// [`Reason::BadMessage`].
    pub fn parse(value: &[u8]) -> Result<Self, JobError> {
        let fields: Map<String, Value> = serde_json::from_slice(value)
            .map_err(|e| bad(format_args!("not a JSON object: {e}")))?;
        let did = match fields.get("did") {
            Some(Value::String(did)) => did.clone(),
            _ => return Err(bad("no did")),
        };
        check_did(&did).map_err(bad)?;
        let host = match fields.get("host") {
            None | Some(Value::Null) => None,
            Some(Value::String(host)) => Some(Host::parse(host, ChosenBy::Operator).map_err(bad)?),
            Some(other) => return Err(bad(format_args!("host {other}: not a string"))),
        };
        let rev = fields.get("rev").and_then(Value::as_str);
        let rev = rev.filter(|rev| is_valid_tid(*rev)).map(str::to_owned);
        Ok(Message { did, host, rev })
    }
}

/// Whether this is the DID of an account that can be asked for: valid syntax, did:plc or did:web.
///
/// # Errors
/// What is wrong, in words.
pub fn check_did(did: &str) -> Result<(), String> {
    ensure_valid_did(did).map_err(|e| format!("did {did:?}: {e}"))?;
    if did.starts_with("did:plc:") || did.starts_with("did:web:") {
        Ok(())
    } else {
        Err(format!("did {did:?}: neither did:plc nor did:web"))
    }
}

/// The DID that a value names, whatever else is wrong with it or with the DID: for people who look for it.
pub fn named_did(value: &[u8]) -> Option<String> {
    if value.len() > MOST_READ {
        return None;
    }
    let fields: Map<String, Value> = serde_json::from_slice(value).ok()?;
    let did = fields.get("did")?.as_str()?;
    Some(did.chars().take(MOST_NAMED).collect())
}

fn bad(what: impl std::fmt::Display) -> JobError {
    JobError::new(Reason::BadMessage, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Message, JobError> {
        Message::parse(text.as_bytes())
    }

    #[test]
    fn what_decides_nothing_may_be_anything() {
        let message = parse(
            r#"{"did":"did:plc:abc","host":"https://pds.example/","rev":7,"status":["x"],"active":"no","more":{"a":1}}"#,
        )
        .unwrap();
        assert_eq!(message.did, "did:plc:abc");
        assert_eq!(message.host.unwrap().to_string(), "pds.example");
        assert_eq!(message.rev, None);
        let forged = parse(r#"{"did":"did:plc:abc","rev":"3kl7\nINFO done"}"#);
        assert_eq!(forged.unwrap().rev, None);
        let message =
            parse(r#"{"did":"did:web:example.com","host":null,"rev":"3kl7ad7zmfk2r"}"#).unwrap();
        assert_eq!(
            (message.host, message.rev.as_deref()),
            (None, Some("3kl7ad7zmfk2r"))
        );
    }

    #[test]
    fn what_is_no_message_may_still_name_a_did() {
        let long = format!("did:plc:{}", "a".repeat(600));
        let long_one = format!(r#"{{"did":"{long}"}}"#);
        let huge = format!(r#"{{"did":"did:plc:abc","x":"{}"}}"#, "a".repeat(70_000));
        for (value, named) in [
            (
                r#"{"did":"did:plc:abc","host":"ftp://pds.example"}"#,
                Some("did:plc:abc"),
            ),
            (r#"{"did":"nobody"}"#, Some("nobody")),
            (&long_one, Some(&long[..500])),
            (&huge, None),
            (r#"{"did":7}"#, None),
            ("did:plc:abc", None),
        ] {
            assert_eq!(named_did(value.as_bytes()).as_deref(), named, "{value}");
        }
    }

    #[test]
    fn malformed_messages_are_bad() {
        for text in [
            "",
            "[]",
            "null",
            "{",
            r#"{"host":"pds.example"}"#,
            r#"{"did":7}"#,
            r#"{"did":""}"#,
            r#"{"did":"plc:abc"}"#,
            r#"{"did":"did:plc:"}"#,
            r#"{"did":"did"}"#,
            r#"{"did":"did:key:zabc"}"#,
            r#"{"did":"did:plc:a\"b"}"#,
            r#"{"did":"did:plc:abc","host":""}"#,
            r#"{"did":"did:plc:abc","host":7}"#,
            r#"{"did":"did:plc:abc","host":"ftp://pds.example"}"#,
            r#"{"did":"did:plc:abc","host":"pds.example/path"}"#,
        ] {
            assert_eq!(
                parse(text).map_err(|e| e.reason),
                Err(Reason::BadMessage),
                "{text}"
            );
        }
        assert_eq!(
            Message::parse(b"\xff\xfe").map_err(|e| e.reason),
            Err(Reason::BadMessage)
        );
        let long = format!(r#"{{"did":"did:plc:{}"}}"#, "a".repeat(3000));
        assert_eq!(parse(&long).map_err(|e| e.reason), Err(Reason::BadMessage));
    }
}
