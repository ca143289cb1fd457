//! Accounts' keys of both curves: signatures right and wrong, and the text forms of the public key.

use super::cid::sha256;
use k256::ecdsa::signature::{Signer, Verifier};

/// A signing key of one of the protocol's two curves.
#[derive(Clone, Debug)]
pub enum SigningKey {
    K256(k256::ecdsa::SigningKey),
    P256(p256::ecdsa::SigningKey),
}

impl SigningKey {
    /// A secp256k1 key that depends on the seed alone.
    pub fn k256(seed: u64) -> Self {
        Self::k256_from_secret(&sha256(format!("k256/{seed}").as_bytes()))
    }

    /// A NIST P-256 key that depends on the seed alone.
    pub fn p256(seed: u64) -> Self {
        Self::p256_from_secret(&sha256(format!("p256/{seed}").as_bytes()))
    }

    /// The secp256k1 key of a 32-byte secret.
    pub fn k256_from_secret(secret: &[u8]) -> Self {
        Self::K256(
            k256::ecdsa::SigningKey::from_slice(secret)
                .expect("a secret within the order of the curve"),
        )
    }

    /// The NIST P-256 key of a 32-byte secret.
    pub fn p256_from_secret(secret: &[u8]) -> Self {
        Self::P256(
            p256::ecdsa::SigningKey::from_slice(secret)
                .expect("a secret within the order of the curve"),
        )
    }

    /// The public point in its 33-byte or 65-byte form.
    pub fn public_point(&self, compressed: bool) -> Vec<u8> {
        match self {
            Self::K256(key) => key
                .verifying_key()
                .to_encoded_point(compressed)
                .as_bytes()
                .to_vec(),
            Self::P256(key) => key
                .verifying_key()
                .to_encoded_point(compressed)
                .as_bytes()
                .to_vec(),
        }
    }

    /// The Multikey form: the multibase of the multicodec prefix and the compressed point.
    pub fn multibase(&self) -> String {
        let mut bytes = match self {
            Self::K256(_) => vec![0xe7, 0x01],
            Self::P256(_) => vec![0x80, 0x24],
        };
        bytes.extend(self.public_point(true));
        multibase(&bytes)
    }

    /// The key as a `did:key`.
    pub fn did_key(&self) -> String {
        format!("did:key:{}", self.multibase())
    }

    /// The form of the 2019 key types: the multibase of the bare point, compressed or not.
    pub fn bare_point_multibase(&self, compressed: bool) -> String {
        multibase(&self.public_point(compressed))
    }

    /// The name of the key's 2019 type.
    pub fn type_of_2019(&self) -> &'static str {
        match self {
            Self::K256(_) => "EcdsaSecp256k1VerificationKey2019",
            Self::P256(_) => "EcdsaSecp256r1VerificationKey2019",
        }
    }

    /// Signs the SHA-256 of the message: 64 bytes, deterministic, low-S.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        match self {
            Self::K256(key) => {
                let signature: k256::ecdsa::Signature = key.sign(message);
                signature
                    .normalize_s()
                    .unwrap_or(signature)
                    .to_bytes()
                    .into()
            }
            Self::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(message);
                signature
                    .normalize_s()
                    .unwrap_or(signature)
                    .to_bytes()
                    .into()
            }
        }
    }

    /// Whether the signature fits the message, for the generator's own checks.
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        match self {
            Self::K256(key) => k256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verifying_key().verify(message, &signature).is_ok()),
            Self::P256(key) => p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verifying_key().verify(message, &signature).is_ok()),
        }
    }

    /// The same signature in its other, malleable form: mathematically valid, refused by the
    /// protocol.
    pub fn sign_high_s(&self, message: &[u8]) -> [u8; 64] {
        let low = self.sign(message);
        match self {
            Self::K256(_) => {
                let low = k256::ecdsa::Signature::from_slice(&low).expect("a signature");
                let high = k256::ecdsa::Signature::from_scalars(*low.r(), -*low.s());
                high.expect("a negated scalar is not zero")
                    .to_bytes()
                    .into()
            }
            Self::P256(_) => {
                let low = p256::ecdsa::Signature::from_slice(&low).expect("a signature");
                let high = p256::ecdsa::Signature::from_scalars(*low.r(), -*low.s());
                high.expect("a negated scalar is not zero")
                    .to_bytes()
                    .into()
            }
        }
    }

    /// The same signature in ASN.1 DER, which the protocol refuses too.
    pub fn sign_der(&self, message: &[u8]) -> Vec<u8> {
        let compact = self.sign(message);
        let (r, s) = compact.split_at(32);
        let body = [der_integer(r), der_integer(s)].concat();
        [vec![0x30, body.len() as u8], body].concat()
    }
}

/// A positive integer in DER: no superfluous leading zeros, but one where the first bit is set.
fn der_integer(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
    let mut digits = bytes[zeros..].to_vec();
    if digits.first().is_none_or(|&first| first >= 0x80) {
        digits.insert(0, 0);
    }
    [vec![0x02, digits.len() as u8], digits].concat()
}

const BASE58: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// The base58btc multibase of `bytes`.
pub fn multibase(bytes: &[u8]) -> String {
    let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
    let mut digits: Vec<u8> = Vec::new();
    for &byte in bytes {
        let mut carry = u32::from(byte);
        for digit in &mut digits {
            carry += u32::from(*digit) << 8;
            *digit = (carry % 58) as u8;
            carry /= 58;
        }
        while carry > 0 {
            digits.push((carry % 58) as u8);
            carry /= 58;
        }
    }
    digits.extend(std::iter::repeat_n(0, zeros));
    let text: String = digits
        .iter()
        .rev()
        .map(|&digit| char::from(BASE58[usize::from(digit)]))
        .collect();
    format!("z{text}")
}
