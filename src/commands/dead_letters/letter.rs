//! A dead letter, as [`ending`](crate::queue::ending) writes it and as anybody may have written it: each field may be missing, and
//! may be no text.

use data_encoding::BASE64_NOPAD;
use serde_json::{Map, Value, json};

use crate::queue::message::FIELD;

/// The fields that a letter of ours has, beside the value of the message.
const KNOWN: [&str; 7] = [
    "reason", "error", "attempts", "consumer", "id", "time", "entry",
];

/// An entry of the stream.
#[derive(Debug)]
pub(super) struct Letter {
    /// The id of its own.
    pub id: String,
    /// Its fields, in their order.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Letter {
    /// The first field of this name.
    pub(super) fn field(&self, name: &str) -> Option<&[u8]> {
        let mut fields = self.fields.iter();
        fields
            .find(|(field, _)| field == name.as_bytes())
            .map(|(_, value)| &**value)
    }

    /// The same as text; what is none is replaced.
    pub(super) fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(self.field(name).unwrap_or_default()).into_owned()
    }

    /// The account that the message names, where it names one.
    pub(super) fn did(&self) -> Option<String> {
        let message: Value = serde_json::from_slice(self.field(FIELD)?).ok()?;
        Some(message.get("did")?.as_str()?.to_owned())
    }

    /// The original value, where the message had one: what has none is kept in `entry`.
    pub(super) fn requeueable(&self) -> Option<&[u8]> {
        match self.field("entry") {
            Some(_) => None,
            None => self.field(FIELD),
        }
    }

    /// Its size in bytes.
    pub(super) fn size(&self) -> usize {
        let fields = self.fields.iter();
        fields.map(|(name, value)| name.len() + value.len()).sum()
    }

    /// Exactly what it says. Bytes that are no text are `{"$bytes": base64}`.
    pub(super) fn json(&self) -> Value {
        let value = |name| self.field(name).map_or(Value::Null, exact);
        let attempts = self.text("attempts").parse::<u64>().ok();
        let entry = self.field("entry").map_or(Value::Null, |entry| {
            serde_json::from_slice(entry).unwrap_or_else(|_| exact(entry))
        });
        let other = self.fields.iter().filter(|(name, _)| {
            name != FIELD.as_bytes() && !KNOWN.iter().any(|known| name == known.as_bytes())
        });
        let other: Map<_, _> = other
            .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), exact(value)))
            .collect();
        json!({
            "id": self.id,
            "original_id": value("id"),
            "time": value("time"),
            "reason": value("reason"),
            "attempts": attempts,
            "did": self.did(),
            "error": value("error"),
            "consumer": value("consumer"),
            "repo": value(FIELD),
            "entry": entry,
            "other": other,
        })
    }
}

fn exact(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "$bytes": BASE64_NOPAD.encode(bytes) }),
    }
}
