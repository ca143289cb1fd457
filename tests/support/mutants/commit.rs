//! Commits with something wrong, or at least unusual, in them; most of them signed by the owner.

use super::draft::Draft;
use super::{bytes, items};
use crate::support::generator::cbor::{Value, write_bytes, write_text};
use crate::support::generator::{
    Block, Cid, Fields, Random, SigningKey, set_field, sign_commit, tid,
};

impl Draft {
    /// An odd commit on this tree, and what is odd about it.
    pub fn odd_commit(&self, random: &mut Random) -> (Block, &'static str) {
        match random.below(10) {
            0..=5 => {
                let (name, fields) = self.odd_fields(random);
                (sign_commit(fields, &self.key), name)
            }
            6 | 7 => {
                let mut message = self.message();
                let name = if random.chance(75) {
                    items::damage(random, &mut message);
                    "commit: damaged items, signed"
                } else {
                    bytes::damage(random, &mut message);
                    "commit: damaged bytes, signed"
                };
                let signature = self.key.sign(&message);
                (sealed(&message, &signature), name)
            }
            8 => self.odd_signature(random),
            _ => {
                // Behind the signature's back, but under its own address.
                let (_, mut block) = self.commit();
                items::damage(random, &mut block);
                (
                    (Cid::dag_cbor(&block), block),
                    "commit: damaged after it was signed",
                )
            }
        }
    }

    fn odd_fields(&self, random: &mut Random) -> (&'static str, Fields) {
        let mut fields = self.fields();
        let any = random.below(self.blocks.len() as u64) as usize;
        let any = self.blocks[any].0;
        let mut set = |name: &str, value| set_field(&mut fields, name, value);
        let name = match random.below(10) {
            0 | 1 => {
                let other = self.did.to_uppercase();
                set(
                    "did",
                    Value::text(random.pick(&[
                        "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa",
                        "",
                        "did:web:example.com",
                        &other,
                    ])),
                );
                "commit: another did"
            }
            2 => {
                set(
                    "version",
                    Value::Int([2, 4, 0, -3, 1 << 40][random.below(5) as usize]),
                );
                "commit: another version"
            }
            3 => {
                let far = tid(7_000_000_000_000_000, 1);
                set(
                    "rev",
                    Value::text(random.pick(&[
                        "",
                        "2222222222222",
                        "3lrhkyyzs222",
                        "3LRHKYYZS2222",
                        "zzzzzzzzzzzzz",
                        &far,
                    ])),
                );
                "commit: another rev"
            }
            4 => {
                set(
                    "prev",
                    [
                        Value::Link(any),
                        Value::text("prev"),
                        Value::Bool(false),
                        Value::Int(0),
                    ][random.below(4) as usize]
                        .clone(),
                );
                "commit: another prev"
            }
            5 | 6 => {
                let raw = Cid {
                    codec: 0x55,
                    ..self.root()
                };
                let data = [
                    Value::Link(any),
                    Value::Link(raw),
                    Value::Link(Cid::dag_cbor(b"nothing")),
                    Value::Null,
                ];
                set("data", data[random.below(4) as usize].clone());
                "commit: another root"
            }
            7 => {
                let field = random
                    .pick(&["did", "version", "data", "rev", "prev"])
                    .to_owned();
                fields.retain(|(name, _)| *name != field);
                "commit: a field removed"
            }
            _ => {
                if random.chance(40) {
                    let name = random
                        .pick(&["did", "rev", "data", "prev", "version"])
                        .to_owned();
                    confuse(random, &mut fields, &name);
                    return ("commit: a field of a type that looks alike", fields);
                }
                let name = random
                    .pick(&["a", "zzz", "zzzz", "ops", "since", "something longer"])
                    .to_owned();
                let values = [
                    Value::Null,
                    Value::Int(u64::MAX.into()),
                    Value::Float(0.5),
                    Value::Link(any),
                    Value::map([("a", Value::List(vec![Value::Bool(true)]))]),
                    Value::Bytes(vec![0; 300]),
                ];
                set(&name, values[random.below(6) as usize].clone());
                "commit: a further field"
            }
        };
        (name, fields)
    }

    fn odd_signature(&self, random: &mut Random) -> (Block, &'static str) {
        let message = self.message();
        let good = self.key.sign(&message);
        if random.chance(15) {
            let mut fields = self.fields();
            set_field(&mut fields, "sig", Value::Bytes(good.to_vec()));
            confuse(random, &mut fields, "sig");
            let block = Value::Map(fields).encode();
            return (
                (Cid::dag_cbor(&block), block),
                "commit: a signature of another type",
            );
        }
        let signature = match random.below(9) {
            0 => self.key.sign_high_s(&message).to_vec(),
            1 => self.key.sign_der(&message),
            2 => vec![0; 64],
            3 => vec![0xff; 64],
            4 => good[..63].to_vec(),
            5 => [&good[..], &[0]].concat(),
            6 => SigningKey::k256(random.bits()).sign(&message).to_vec(),
            7 => self.key.sign(b"something else").to_vec(),
            _ => {
                let mut signature = good.to_vec();
                bytes::damage(random, &mut signature);
                signature
            }
        };
        (sealed(&message, &signature), "commit: another signature")
    }
}

/// Gives a field another type that careless decoders may take for its own.
fn confuse(random: &mut Random, fields: &mut Fields, name: &str) {
    let field = fields.iter_mut().find(|(known, _)| known == name);
    let Some((_, value)) = field else { return };
    let bytes: Vec<u8> = match value {
        Value::Text(text) => text.as_bytes().to_vec(),
        Value::Link(cid) => [&[0][..], &cid.bytes()].concat(),
        Value::Bytes(bytes) => bytes.clone(),
        Value::Int(number) => number.to_be_bytes()[15..].to_vec(),
        _ => Vec::new(),
    };
    *value = match random.below(4) {
        0 | 1 => Value::Bytes(bytes),
        2 => Value::List(
            bytes
                .into_iter()
                .map(|byte| Value::Int(byte.into()))
                .collect(),
        ),
        _ => Value::List(vec![value.clone()]),
    };
}

/// The commit of a message, which may be damaged, and a signature.
fn sealed(message: &[u8], signature: &[u8]) -> Block {
    let mut field = Vec::new();
    write_text(&mut field, "sig");
    write_bytes(&mut field, signature);
    let place = message.windows(5).position(|bytes| bytes == b"\x64data");
    let place = place.unwrap_or(message.len());
    let mut block = [&message[..place], &field, &message[place..]].concat();
    if (0xa0..0xb7).contains(&block[0]) {
        block[0] += 1;
    }
    (Cid::dag_cbor(&block), block)
}
