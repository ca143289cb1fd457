//! Content addresses (CIDs), the hash they carry, and the bit-wise text encodings they are shown
//! in.

use std::fmt;

use sha2::{Digest, Sha256};

const DAG_CBOR: u8 = 0x71;
const RAW: u8 = 0x55;
/// CIDv1 over sha2-256 with a 32-byte digest: version, codec, hash function, length. The codec goes
/// to index 1.
const CID_PREFIX: [u8; 4] = [0x01, 0x00, 0x12, 0x20];

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// A CIDv1 with a sha2-256 digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cid {
    pub codec: u8,
    pub digest: [u8; 32],
}

impl Cid {
    /// The address of a DAG-CBOR block.
    pub fn dag_cbor(block: &[u8]) -> Self {
        Self {
            codec: DAG_CBOR,
            digest: sha256(block),
        }
    }

    /// The address of a raw block, such as a blob.
    pub fn raw(block: &[u8]) -> Self {
        Self {
            codec: RAW,
            digest: sha256(block),
        }
    }

    /// The binary form.
    pub fn bytes(&self) -> [u8; 36] {
        let mut out = [0; 36];
        out[..4].copy_from_slice(&CID_PREFIX);
        out[1] = self.codec;
        out[4..].copy_from_slice(&self.digest);
        out
    }

    /// Reads the binary form; `None` unless it is a CIDv1 over sha2-256.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (prefix, digest) = bytes.split_at_checked(4)?;
        let codec = prefix[1];
        let known = [CID_PREFIX[0], codec, CID_PREFIX[2], CID_PREFIX[3]];
        (prefix == known).then_some(Self {
            codec,
            digest: digest.try_into().ok()?,
        })
    }

    /// Reads the text form, `b` and lowercase base32.
    pub fn parse(text: &str) -> Option<Self> {
        let mut out = Vec::with_capacity(36);
        let (mut buffer, mut bits) = (0_u32, 0);
        for char in text.strip_prefix('b')?.bytes() {
            let digit = BASE32.iter().position(|&known| known == char)?;
            buffer = (buffer << 5 | digit as u32) & 0xffff;
            bits += 5;
            if bits >= 8 {
                bits -= 8;
                out.push((buffer >> bits) as u8);
            }
        }
        Self::from_bytes(&out)
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}", base32(&self.bytes()))
    }
}

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Lowercase RFC 4648 base32 without padding.
pub fn base32(bytes: &[u8]) -> String {
    radix(bytes, 5, BASE32)
}

/// Standard RFC 4648 base64 without padding.
pub fn base64(bytes: &[u8]) -> String {
    radix(bytes, 6, BASE64)
}

fn radix(bytes: &[u8], width: u32, alphabet: &[u8]) -> String {
    let mask = (1 << width) - 1;
    let mut out = String::with_capacity(bytes.len() * 8 / width as usize + 1);
    let (mut buffer, mut bits) = (0_u32, 0);
    for &byte in bytes {
        buffer = (buffer << 8 | u32::from(byte)) & 0xffff;
        bits += 8;
        while bits >= width {
            bits -= width;
            out.push(char::from(alphabet[(buffer >> bits & mask) as usize]));
        }
    }
    if bits > 0 {
        out.push(char::from(
            alphabet[(buffer << (width - bits) & mask) as usize],
        ));
    }
    out
}
