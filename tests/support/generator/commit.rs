//! Commits: the regular fields, any other fields, and the signature over them.

use super::cbor::Value;
use super::cid::Cid;
use super::keys::SigningKey;

/// A block and its address.
pub type Block = (Cid, Vec<u8>);
/// The fields of a commit, in any order.
pub type Fields = Vec<(String, Value)>;

/// The fields of a regular commit, without the signature.
pub fn commit_fields(did: &str, rev: &str, root: Cid) -> Fields {
    let fields = [
        ("did", Value::text(did)),
        ("version", Value::Int(3)),
        ("data", Value::Link(root)),
        ("rev", Value::text(rev)),
        ("prev", Value::Null),
    ];
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Sets a field, whether or not it is there already.
pub fn set_field(fields: &mut Fields, name: &str, value: Value) {
    fields.retain(|(known, _)| known != name);
    fields.push((name.to_owned(), value));
}

/// Signs a commit of any fields.
pub fn sign_commit(fields: Fields, key: &SigningKey) -> Block {
    sign_commit_with(fields, |message| key.sign(message).to_vec())
}

/// Signs a commit of any fields with whatever `sign` makes of the bytes to be signed.
pub fn sign_commit_with(mut fields: Fields, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Block {
    let message = Value::Map(fields.clone()).encode();
    fields.push(("sig".to_owned(), Value::Bytes(sign(&message))));
    let block = Value::Map(fields).encode();
    (Cid::dag_cbor(&block), block)
}
