//! CIDs as they stand in blocks: binary, borrowed, and most often of one form.
//!
//! The protocol's blocks are CIDv1, sha2-256 over 32 bytes, codec dag-cbor or raw (R2). Such a CID is 36 bytes with a fixed
//! beginning, so it is recognised by comparing four bytes and printed without parsing. Any other CID can occur as a link inside
//! a record and is printed through the `cid` crate; it never leads to a block.

use std::fmt;
use std::sync::LazyLock;

use cid::Cid;
use data_encoding::{Encoding, Specification};

/// A SHA-256 digest: what blocks are found by.
pub type Digest = [u8; 32];

/// The multicodec of DAG-CBOR.
pub const DAG_CBOR: u64 = 0x71;
/// The multicodec of raw bytes.
pub const RAW: u64 = 0x55;
/// The multihash code of sha2-256.
pub const SHA2_256: u64 = 0x12;

/// How a CIDv1 with dag-cbor and sha2-256 begins: version, codec, hash, length of the digest.
const DAG_CBOR_SHA256: [u8; 4] = [1, DAG_CBOR as u8, SHA2_256 as u8, 32];
const RAW_SHA256: [u8; 4] = [1, RAW as u8, SHA2_256 as u8, 32];
const BINARY_LENGTH: usize = 36;

/// The multibase `b`: RFC 4648 base32 in lower case without padding.
static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification
        .symbols
        .push_str("abcdefghijklmnopqrstuvwxyz234567");
    // 32 distinct ASCII symbols and no options: encoding() has nothing to object to.
    specification.encoding().expect("a valid base32 alphabet")
});

/// A binary CID, borrowed from a block. Not necessarily valid: [`Link::write_text`] finds that out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Link<'a>(pub &'a [u8]);

impl<'a> Link<'a> {
    /// The digest, where this is a CIDv1 with dag-cbor and sha2-256.
    #[inline]
    pub fn dag_cbor(self) -> Option<&'a Digest> {
        match self.0.split_first_chunk::<4>() {
            Some((&DAG_CBOR_SHA256, digest)) => digest.try_into().ok(),
            _ => None,
        }
    }

    /// Appends the CID in its text form. Returns whether it is a valid CID; if not, nothing is appended.
    #[inline]
    pub fn write_text(self, out: &mut Vec<u8>) -> bool {
        if self.0.len() == BINARY_LENGTH
            && (self.0.starts_with(&DAG_CBOR_SHA256) || self.0.starts_with(&RAW_SHA256))
        {
            out.push(b'b');
            let start = out.len();
            out.resize(start + BASE32.encode_len(BINARY_LENGTH), 0);
            BASE32.encode_mut(self.0, &mut out[start..]);
            return true;
        }
        let mut rest = self.0;
        match Cid::read_bytes(&mut rest) {
            Ok(cid) if rest.is_empty() => {
                out.extend_from_slice(cid.to_string().as_bytes());
                true
            }
            _ => false,
        }
    }
}

impl fmt::Display for Link<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::new();
        if self.write_text(&mut text) {
            f.write_str(&String::from_utf8_lossy(&text))
        } else {
            f.write_str("(not a CID)")
        }
    }
}

impl fmt::Debug for Link<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The binary CIDv1 of a digest, with dag-cbor and sha2-256.
pub fn dag_cbor_cid(digest: &Digest) -> [u8; BINARY_LENGTH] {
    let mut cid = [0; BINARY_LENGTH];
    let (head, tail) = cid.split_at_mut(DAG_CBOR_SHA256.len());
    head.copy_from_slice(&DAG_CBOR_SHA256);
    tail.copy_from_slice(digest);
    cid
}

/// The digest of a CID that may name a block of a repo: CIDv1, dag-cbor or raw, sha2-256 (R2).
pub fn block_digest(cid: &Cid) -> Option<Digest> {
    let usable = cid.version() == cid::Version::V1
        && matches!(cid.codec(), DAG_CBOR | RAW)
        && cid.hash().code() == SHA2_256;
    if usable {
        cid.hash().digest().try_into().ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_printing_agree_with_the_cid_crate() {
        for text in [
            "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a",
            "bafkreiey6e2xp4ncufvsyfmubucbsz5xujbc7lguospuziohtgfdik3pr4",
            "QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n",
        ] {
            let bytes = text.parse::<Cid>().unwrap().to_bytes();
            assert_eq!(Link(&bytes).to_string(), text);
            assert_eq!(
                Link(&bytes).dag_cbor().is_some(),
                text.starts_with("bafyrei")
            );
        }
    }

    #[test]
    fn what_is_no_cid_prints_nothing() {
        let valid = "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a"
            .parse::<Cid>()
            .unwrap()
            .to_bytes();
        let mut long = valid.clone();
        long.push(0);
        for bytes in [&valid[..35], &long[..], &[], &[1], &[9, 0x71, 0x12, 0x20]] {
            let mut out = Vec::new();
            assert!(!Link(bytes).write_text(&mut out));
            assert!(out.is_empty());
            assert!(Link(bytes).dag_cbor().is_none());
        }
    }
}
