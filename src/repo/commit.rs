//! The commit: who signed what (R5).
//!
//! [`Commit::read`] checks everything that needs no key: version, DID, revision and `prev`. [`Commit::verify`] checks the
//! signature, over the commit as it was received with the field `sig` taken out, so that fields that this program does not
//! know are signed too. A [`Commit`] that has not been verified must not lead to events; the worker is the one place where
//! both calls stand. Source: atproto.com/specs/repository, "Commit Objects"; atproto.com/specs/cryptography.
//! Pinned by `tests/repo_commit.rs` (`r5_…`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rsky_crypto::verify::verify_signature_digest;
use rsky_syntax::tid::is_valid_tid;
use sha2::{Digest as _, Sha256};

use super::cbor::{self, Item, Malformed, Reader};
use super::link::{Digest, Link};
use crate::error::{JobError, Reason};

/// How far ahead of our clock a revision may be: clocks of servers differ.
const MAX_AHEAD: Duration = Duration::from_secs(5 * 60);
/// The only version that servers write; version 2 ended in 2023.
const VERSION: u8 = 3;
/// r and s of either curve.
const SIGNATURE_LENGTH: usize = 64;

/// A commit whose fields are in order, and whose signature is yet to be verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The revision, a TID.
    pub rev: String,
    /// Binary CID of the root of the tree.
    data: Vec<u8>,
    signature: Vec<u8>,
    /// SHA-256 of what was signed.
    signed: Digest,
}

impl Commit {
    /// Reads the commit block of `did`'s repo.
    ///
    /// # Errors
    /// [`Reason::DidMismatch`] where it is another account's commit, [`Reason::Commit`] for everything else.
    pub fn read(block: &[u8], did: &str, now: SystemTime) -> Result<Self, JobError> {
        let signed =
            digest_without_signature(block).map_err(|e| wrong(format_args!("the commit: {e}")))?;
        let commit: rsky_repo::types::Commit = serde_ipld_dagcbor::from_slice(block)
            .map_err(|e| wrong(format_args!("the commit: {e}")))?;
        if commit.version != VERSION {
            return Err(wrong(format_args!("commit of version {}", commit.version)));
        }
        if commit.did != did {
            return Err(JobError::new(
                Reason::DidMismatch,
                format_args!("the commit is that of {}", commit.did),
            ));
        }
        // commit.prev is decoded, so it is null, absent or a CID; it is never followed.
        let ahead = revision_time(&commit.rev)
            .ok_or_else(|| wrong(format_args!("rev {} is no TID", commit.rev)))?
            .checked_sub(now.duration_since(UNIX_EPOCH).unwrap_or_default())
            .unwrap_or_default();
        if ahead > MAX_AHEAD {
            return Err(wrong(format_args!(
                "rev {} is {} s ahead",
                commit.rev,
                ahead.as_secs()
            )));
        }
        Ok(Commit {
            rev: commit.rev,
            data: commit.data.to_bytes(),
            signature: commit.sig,
            signed,
        })
    }

    /// The DID that a commit block names, whoever signed it.
    ///
    /// # Errors
    /// [`Reason::Commit`] where it is no commit.
    pub fn did_of(block: &[u8]) -> Result<String, JobError> {
        serde_ipld_dagcbor::from_slice(block)
            .map(|commit: rsky_repo::types::Commit| commit.did)
            .map_err(|e| wrong(format_args!("the commit: {e}")))
    }

    /// The root of the tree.
    pub fn data(&self) -> Link<'_> {
        Link(&self.data)
    }

    /// Verifies the signature with a key in the form `did:key:…`, k256 or p256; low-S, 64 bytes.
    ///
    /// # Errors
    /// [`Reason::Signature`].
    pub fn verify(&self, key: &String) -> Result<(), JobError> {
        let valid = self.signature.len() == SIGNATURE_LENGTH
            && verify_signature_digest(key, &self.signed, &self.signature, None).unwrap_or(false);
        if valid {
            Ok(())
        } else {
            Err(JobError::new(
                Reason::Signature,
                format_args!("the signature does not fit the key {key}"),
            ))
        }
    }
}

/// SHA-256 of the commit without its field `sig`: the head with one entry less, then the other entries as they are.
///
/// This is what the owner encoded and signed, because the keys are required to be in DAG-CBOR order.
fn digest_without_signature(block: &[u8]) -> cbor::Result<Digest> {
    let mut reader = Reader::new(block);
    let Item::Map(fields) = reader.item()? else {
        return Err(Malformed::Type("a map"));
    };
    let body = reader.position();
    let mut signature = None;
    let mut last: Option<&str> = None;
    for _ in 0..fields {
        let start = reader.position();
        let key = reader.key()?;
        if last.is_some_and(|last| !cbor::in_order(last, key)) {
            return Err(Malformed::KeyOrder);
        }
        last = Some(key);
        read_field(&mut reader, key)?;
        if key == "sig" {
            signature = Some(start..reader.position());
        }
    }
    reader.end()?;
    let signature = signature.ok_or(Malformed::Type("a signed commit: field sig is missing"))?;
    let mut hash = Sha256::new();
    hash.update(cbor::map_head(fields - 1));
    hash.update(&block[body..signature.start]);
    hash.update(&block[signature.end..]);
    Ok(hash.finalize().into())
}

/// Passes over the value of a field, which must be of the type that the field has: serde_ipld_dagcbor, which decodes the commit
/// afterwards, also takes bytes for a text and a list for bytes, and passes over what is behind a CID.
fn read_field(reader: &mut Reader<'_>, key: &str) -> cbor::Result<()> {
    let is_cid = |bytes: &[u8]| cid::Cid::try_from(bytes).is_ok_and(|cid| cid.to_bytes() == bytes);
    let expected = match key {
        "did" | "rev" => "a text",
        "version" => "a number",
        "data" | "prev" => "a CID",
        "sig" => "bytes",
        _ => return reader.skip(),
    };
    let fits = match (key, reader.item()?) {
        ("did" | "rev", Item::Text(_))
        | ("version", Item::Unsigned(_))
        | ("prev", Item::Null)
        | ("sig", Item::Bytes(_)) => true,
        ("data" | "prev", Item::Link(bytes)) => is_cid(bytes),
        _ => false,
    };
    if fits {
        Ok(())
    } else {
        Err(Malformed::Type(expected))
    }
}

/// Time since 1970 that a TID names, to the microsecond (atproto.com/specs/tid); `None` where it is no TID.
fn revision_time(rev: &str) -> Option<Duration> {
    if !is_valid_tid(rev) {
        return None;
    }
    // 13 digits of 5 bits; the first is below 16, so 64 bits hold it. The lowest 10 bits name the clock.
    let value = rev.bytes().fold(0u64, |value, c| {
        let digit = match c {
            b'2'..=b'7' => c - b'2',
            _ => c - b'a' + 6,
        };
        value << 5 | u64::from(digit)
    });
    Some(Duration::from_micros(value >> 10))
}

fn wrong(what: impl std::fmt::Display) -> JobError {
    JobError::new(Reason::Commit, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tid_names_its_time() {
        let time = revision_time("2222222222222").unwrap();
        assert_eq!(time, Duration::ZERO);
        assert_eq!(
            revision_time("2222222222322"),
            Some(Duration::from_micros(1))
        );
        assert_eq!(revision_time("222222222222z"), Some(Duration::ZERO));
        assert_eq!(
            revision_time("jzzzzzzzzzzzz"),
            Some(Duration::from_micros((1 << 54) - 1))
        );
        for bad in [
            "",
            "kzzzzzzzzzzzz",
            "222222222222",
            "22222222222222",
            "222222222222A",
            "222222222222é",
        ] {
            assert_eq!(revision_time(bad), None, "{bad}");
        }
    }
}
