//! What is enqueued: the value of the field `repo`, as the README's wire format has it.

use serde_json::{Map, Value};

use crate::fetch::host::Host;

/// A message to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewMessage {
    /// The account.
    pub did: String,
    /// The server to ask.
    pub host: Option<Host>,
    /// What else is known of it.
    pub hints: Hints,
}

/// What decides nothing, and is passed on where it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Hints {
    /// A TID.
    pub rev: Option<String>,
    pub status: Option<String>,
    pub active: Option<bool>,
}

/// Longest status that is passed on, in bytes; the protocol's are words.
const MAX_STATUS: usize = 64;

impl Hints {
    /// Status and activity, as messages and lists of repos have them.
    pub fn read(fields: &Map<String, Value>, rev: Option<String>) -> Self {
        let status = fields.get("status").and_then(Value::as_str);
        Hints {
            rev,
            status: status
                .filter(|status| status.len() <= MAX_STATUS)
                .map(str::to_owned),
            active: fields.get("active").and_then(Value::as_bool),
        }
    }
}

impl NewMessage {
    /// Compact JSON; what is not known is left out.
    pub fn to_json(&self) -> String {
        let mut fields = Map::new();
        fields.insert("did".to_owned(), self.did.as_str().into());
        if let Some(host) = &self.host {
            let url = host.url_of("/");
            let origin = url.as_str().trim_end_matches('/');
            fields.insert("host".to_owned(), origin.into());
        }
        if let Some(rev) = &self.hints.rev {
            fields.insert("rev".to_owned(), rev.as_str().into());
        }
        if let Some(status) = &self.hints.status {
            fields.insert("status".to_owned(), status.as_str().into());
        }
        if let Some(active) = self.hints.active {
            fields.insert("active".to_owned(), active.into());
        }
        Value::Object(fields).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::host::ChosenBy;
    use crate::queue::Message;

    #[test]
    fn a_message_is_read_as_it_was_meant() {
        let host = Host::parse("PDS.example:8443", ChosenBy::Operator).unwrap();
        let hints = Hints {
            rev: Some("3kl7ad7zmfk2r".to_owned()),
            status: Some("deactivated".to_owned()),
            active: Some(false),
        };
        let did = "did:plc:abc".to_owned();
        let full = NewMessage {
            did: did.clone(),
            host: Some(host.clone()),
            hints: hints.clone(),
        };
        assert_eq!(
            full.to_json(),
            r#"{"did":"did:plc:abc","host":"https://pds.example:8443","rev":"3kl7ad7zmfk2r","status":"deactivated","active":false}"#
        );
        let read = Message::parse(full.to_json().as_bytes()).unwrap();
        assert_eq!(
            (read.did, read.host, read.rev),
            (did.clone(), Some(host), hints.rev)
        );
        let bare = NewMessage {
            did,
            host: None,
            hints: Hints::default(),
        };
        assert_eq!(bare.to_json(), r#"{"did":"did:plc:abc"}"#);
    }
}
