//! Whose signature an offline CAR must have: there is no document to look up, so whoever exports it says so.
//!
//! With `--unverified` nobody says it, and only the signature is not verified: all other proofs hold. Pinned by `tests/export_offline.rs`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rsky_crypto::did::parse_did_key;
use serde_json::Value;

use crate::commands::Failure;
use crate::error::{JobError, Reason};
use crate::identity::{MAX_DOCUMENT, read_document};
use crate::repo::commit::Commit;

/// What the signature of an offline CAR is held against.
pub(super) enum Trust {
    /// This key, as `did:key:…`.
    Key(String),
    /// The key of this DID document, which must be that of the account (R6).
    Document(Value),
    /// Nothing.
    Unverified,
}

impl Trust {
    /// Reads the key of `--key`.
    pub(super) fn key(text: &str) -> Result<Self, Failure> {
        let text = text.to_owned();
        let parsed = parse_did_key(&text).map_err(|e| e.to_string());
        match parsed.as_ref().map(|key| key.jwt_alg.as_str()) {
            Ok("ES256" | "ES256K") => Ok(Trust::Key(text)),
            _ => Err(Failure::Usage(format!(
                "--key {text:?} is not accepted: did:key:… with a key of k256 or p256"
            ))),
        }
    }

    /// Reads the file of `--did-doc`.
    pub(super) fn document(path: &Path) -> Result<Self, Failure> {
        let wrong = |e: &dyn std::fmt::Display| Failure::Usage(format!("--did-doc {path:?}: {e}"));
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(|e| wrong(&e))?;
        file.take(MAX_DOCUMENT + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| wrong(&e))?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(wrong(&format_args!("more than {MAX_DOCUMENT} bytes")));
        }
        serde_json::from_slice(&bytes)
            .map(Trust::Document)
            .map_err(|e| wrong(&format_args!("no JSON: {e}")))
    }

    /// Verifies the signature of this DID's commit.
    ///
    /// # Errors
    /// [`Reason::Signature`]; [`Reason::Identity`] where the document is another DID's, or has no usable key.
    pub(super) fn verify(&self, did: &str, commit: &Commit) -> Result<(), JobError> {
        match self {
            Trust::Key(key) => commit.verify(key),
            Trust::Document(document) => {
                let identity = read_document(did, document)?;
                commit.verify(&identity.signing_key)
            }
            Trust::Unverified => Ok(()),
        }
    }
}

/// The DID of an offline CAR is the one that its commit names; with `wanted` it must be that.
///
/// # Errors
/// [`Reason::DidMismatch`], and [`Reason::Commit`] where it is no DID of an account: it goes into the events as it is.
pub(super) fn did_of(block: &[u8], wanted: Option<&str>) -> Result<String, JobError> {
    let did = Commit::did_of(block)?;
    crate::queue::message::check_did(&did)
        .map_err(|e| JobError::new(Reason::Commit, format_args!("the commit: {e}")))?;
    match wanted {
        Some(wanted) if wanted != did => {
            let text = format_args!("the commit is that of {did}, not of {wanted}");
            Err(JobError::new(Reason::DidMismatch, text))
        }
        _ => Ok(did),
    }
}
