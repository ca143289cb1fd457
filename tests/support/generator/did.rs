//! DIDs and DID documents, as the PLC directory writes them.

use serde_json::json;

use super::cid::{base32, sha256};
use super::keys::SigningKey;

/// A `did:plc` that depends on the seed alone.
pub fn did_plc(seed: u64) -> String {
    format!(
        "did:plc:{}",
        base32(&sha256(format!("plc/{seed}").as_bytes())[..15])
    )
}

/// The DID document of an account, as the PLC directory writes it.
pub fn did_document(did: &str, key: &SigningKey, pds_url: &str) -> serde_json::Value {
    let method = verification_method(did, "Multikey", &key.multibase());
    did_document_with(did, vec![method], pds_url)
}

/// The DID document of an account with one key of a 2019 type, its point bare.
pub fn did_document_of_2019(
    did: &str,
    key: &SigningKey,
    compressed: bool,
    pds_url: &str,
) -> serde_json::Value {
    let method = verification_method(
        did,
        key.type_of_2019(),
        &key.bare_point_multibase(compressed),
    );
    did_document_with(did, vec![method], pds_url)
}

/// A DID document with any verification methods.
pub fn did_document_with(
    did: &str,
    methods: Vec<serde_json::Value>,
    pds_url: &str,
) -> serde_json::Value {
    let name = did.rsplit(':').next().unwrap_or(did);
    json!({
        "@context": [
            "https://www.w3.org/ns/did/v1",
            "https://w3id.org/security/multikey/v1",
            "https://w3id.org/security/suites/secp256k1-2019/v1",
        ],
        "id": did,
        "alsoKnownAs": [format!("at://{name}.example.com")],
        "verificationMethod": methods,
        "service": [{
            "id": "#atproto_pds",
            "type": "AtprotoPersonalDataServer",
            "serviceEndpoint": pds_url,
        }],
    })
}

/// The `#atproto` verification method of an account.
pub fn verification_method(did: &str, kind: &str, multibase: &str) -> serde_json::Value {
    json!({
        "id": format!("{did}#atproto"),
        "type": kind,
        "controller": did,
        "publicKeyMultibase": multibase,
    })
}
