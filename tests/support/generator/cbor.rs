//! DAG-CBOR values, their canonical encoding and their JSON form.
//!
//! Written from the DAG-CBOR and AT Protocol data model specifications: map keys sorted by length
//! and then by bytes, integers in their shortest form, floats always 64 bits wide, links as tag 42
//! over a zero byte and the CID.

use serde_json::json;

use super::cid::{Cid, base64};

/// A value of the AT Protocol data model, and floats besides.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    /// Encodable from -2^64 to 2^64 - 1; JSON holds the range of `i64` and `u64`.
    Int(i128),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    Link(Cid),
    List(Vec<Value>),
    /// In any order: encoding sorts.
    Map(Vec<(String, Value)>),
}

impl Value {
    /// A map of the given fields.
    pub fn map<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Self {
        Self::Map(
            fields
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
        )
    }

    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// The canonical DAG-CBOR encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => write_null(out),
            Self::Bool(value) => out.push(0xf4 + u8::from(*value)),
            Self::Int(value) if *value >= 0 => {
                write_head(out, 0, u64::try_from(*value).expect("at most 2^64 - 1"))
            }
            Self::Int(value) => {
                write_head(out, 1, u64::try_from(-1 - *value).expect("at least -2^64"))
            }
            Self::Float(value) => {
                out.push(0xfb);
                out.extend_from_slice(&value.to_be_bytes());
            }
            Self::Text(text) => write_text(out, text),
            Self::Bytes(bytes) => write_bytes(out, bytes),
            Self::Link(cid) => write_link(out, cid),
            Self::List(items) => {
                write_head(out, 4, items.len() as u64);
                for item in items {
                    item.write(out);
                }
            }
            Self::Map(fields) => {
                write_head(out, 5, fields.len() as u64);
                for (key, value) in canonical(fields) {
                    write_text(out, key);
                    value.write(out);
                }
            }
        }
    }

    /// The data model's JSON form, map keys in the order of the encoding.
    ///
    /// Two `serde_json` maps are equal whatever their order; compare the printed JSON where order
    /// matters.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => json!(value),
            Self::Int(value) => match (u64::try_from(*value), i64::try_from(*value)) {
                (Ok(value), _) => json!(value),
                (_, Ok(value)) => json!(value),
                _ => panic!("{value} is beyond the integers of JSON"),
            },
            Self::Float(value) => {
                assert!(value.is_finite(), "JSON has no {value}");
                json!(value)
            }
            Self::Text(text) => json!(text),
            Self::Bytes(bytes) => json!({ "$bytes": base64(bytes) }),
            Self::Link(cid) => json!({ "$link": cid.to_string() }),
            Self::List(items) => items.iter().map(Self::to_json).collect(),
            Self::Map(fields) => canonical(fields)
                .map(|(key, value)| (key.clone(), value.to_json()))
                .collect(),
        }
    }
}

/// The fields in canonical order: shorter keys first, then by bytes.
fn canonical(fields: &[(String, Value)]) -> impl Iterator<Item = &(String, Value)> {
    let mut sorted: Vec<_> = fields.iter().collect();
    sorted.sort_by(|(a, _), (b, _)| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    assert!(
        sorted.windows(2).all(|pair| pair[0].0 != pair[1].0),
        "duplicate map key"
    );
    sorted.into_iter()
}

/// Writes the head of an item: the major type and its argument in the shortest form.
pub fn write_head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let major = major << 5;
    match argument {
        0..24 => out.push(major | argument as u8),
        24..0x100 => out.extend_from_slice(&[major | 24, argument as u8]),
        0x100..0x1_0000 => {
            out.push(major | 25);
            out.extend_from_slice(&(argument as u16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 26);
            out.extend_from_slice(&(argument as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&argument.to_be_bytes());
        }
    }
}

/// Writes null.
pub fn write_null(out: &mut Vec<u8>) {
    out.push(0xf6);
}

/// Writes a text string.
pub fn write_text(out: &mut Vec<u8>, text: &str) {
    write_head(out, 3, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Writes a byte string.
pub fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_head(out, 2, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Writes a link.
pub fn write_link(out: &mut Vec<u8>, cid: &Cid) {
    out.extend_from_slice(&[0xd8, 42, 0x58, 37, 0x00]);
    out.extend_from_slice(&cid.bytes());
}
