//! The parts of a commit: what is signed, and what its fields say (R5).

use super::Reading;
use super::cbor::Item;
use crate::support::generator::{SigningKey, Value};

/// What of a commit is signed, where the account's key signed it in the one form that the protocol allows.
pub fn signed(block: &[u8], commit: &Item, key: &SigningKey) -> Option<Vec<u8>> {
    let Item::Map(fields) = commit else {
        return None;
    };
    let (sig, signature) = signature_field(commit.field("sig")?)?;
    let at = block.windows(sig.len()).position(|bytes| bytes == sig)?;
    if !(1..24).contains(&fields.len()) {
        return None;
    }
    let mut message = vec![0xa0 + fields.len() as u8 - 1];
    message.extend_from_slice(&block[1..at]);
    message.extend_from_slice(&block[at + sig.len()..]);
    (is_low(&signature, key) && key.verifies(&message, &signature)).then_some(message)
}

/// The field as it is encoded, for which there is one way only, and the signature in it.
fn signature_field(item: &Item) -> Option<(Vec<u8>, [u8; 64])> {
    let (value, signature) = match item {
        Item::Bytes(bytes) => (Value::Bytes(bytes.clone()), bytes.clone()),
        Item::List(items) => {
            let bytes = items.iter().map(|item| match item {
                Item::Int(number) => u8::try_from(*number).ok(),
                _ => None,
            });
            let bytes: Vec<u8> = bytes.collect::<Option<_>>()?;
            let numbers = bytes.iter().map(|&byte| Value::Int(byte.into()));
            (Value::List(numbers.collect()), bytes)
        }
        _ => return None,
    };
    let field = [b"\x63sig", &value.encode()[..]].concat();
    Some((field, signature.try_into().ok()?))
}

/// Whether s is in the lower half of the curve's order.
fn is_low(signature: &[u8; 64], key: &SigningKey) -> bool {
    match key {
        SigningKey::K256(_) => k256::ecdsa::Signature::from_slice(signature)
            .is_ok_and(|signature| signature.normalize_s().is_none()),
        SigningKey::P256(_) => p256::ecdsa::Signature::from_slice(signature)
            .is_ok_and(|signature| signature.normalize_s().is_none()),
    }
}

// The forms of a commit on which this reader has no opinion. The protocol allows none of them; a decoder may.
impl Reading {
    /// A text, or bytes that could be one. Some decoders do not even tell numbers from texts.
    pub fn text(&mut self, item: &Item) -> Option<String> {
        if let Item::Text(text) = item {
            return Some(text.clone());
        }
        self.unusual = Some("another type in place of a text");
        match item {
            Item::Bytes(bytes) => String::from_utf8(bytes.clone()).ok(),
            _ => None,
        }
    }

    /// Whether this may pass for a signature.
    pub fn is_signature(&mut self, item: &Item) -> bool {
        match item {
            Item::Bytes(_) => true,
            Item::List(_) | Item::Text(_) => {
                self.unusual = Some("a signature that is not bytes");
                true
            }
            _ => false,
        }
    }

    /// The CID at the start of the bytes of a link.
    pub fn cid<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let mut rest = bytes;
        cid::Cid::read_bytes(&mut rest).ok()?;
        if !rest.is_empty() {
            self.unusual = Some("bytes behind a CID of the commit");
        }
        bytes.strip_suffix(rest)
    }
}

/// The microseconds of a TID.
pub fn micros_of(rev: &str) -> Option<u64> {
    const DIGITS: &str = "234567abcdefghijklmnopqrstuvwxyz";
    if rev.len() != 13 {
        return None;
    }
    let mut value: u64 = 0;
    for (place, digit) in rev.chars().enumerate() {
        let digit = DIGITS.find(digit)? as u64;
        if place == 0 && digit > 15 {
            return None;
        }
        value = value << 5 | digit;
    }
    Some(value >> 10)
}
