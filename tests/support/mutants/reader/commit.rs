//! The parts of a commit: what is signed, and what its fields say (R5).

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
    let Item::Bytes(bytes) = item else {
        return None;
    };
    let field = [b"\x63sig", &Value::Bytes(bytes.clone()).encode()[..]].concat();
    Some((field, bytes.clone().try_into().ok()?))
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

/// Whether these are the bytes of a CID, and of nothing else.
pub fn is_cid(mut bytes: &[u8]) -> bool {
    cid::Cid::read_bytes(&mut bytes).is_ok() && bytes.is_empty()
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
