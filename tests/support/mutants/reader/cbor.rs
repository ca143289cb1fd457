//! DAG-CBOR into a tree of values, strictly, and its JSON text.
//!
//! Written from ipld.io/specs/codecs/dag-cbor/spec and the data model's JSON form. Whether keys repeat or stand in order is the
//! affair of who asks; floats of 16 and 32 bits are read as well, for real records have them.

use cid::Cid;
use serde_json::json;

/// A value as it stands in a block.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    Int(i128),
    Bytes(Vec<u8>),
    Text(String),
    List(Vec<Item>),
    Map(Vec<(String, Item)>),
    /// The binary CID behind the zero byte, valid or not.
    Link(Vec<u8>),
    Bool(bool),
    Null,
    Float(f64),
}

/// What is wrong with a block, in a few words.
pub type Wrong = &'static str;

/// The one value of a block, with at most so many maps and lists within each other.
pub fn parse(block: &[u8], depth: usize) -> Result<Item, Wrong> {
    let mut parser = Parser { rest: block };
    let item = parser.item(depth)?;
    match parser.rest {
        [] => Ok(item),
        _ => Err("bytes behind the value"),
    }
}

struct Parser<'a> {
    rest: &'a [u8],
}

impl Parser<'_> {
    fn item(&mut self, depth: usize) -> Result<Item, Wrong> {
        let first = self.take(1)?[0];
        let (major, low) = (first >> 5, first & 0x1f);
        if major == 7 {
            return self.simple(low);
        }
        let argument = self.argument(low)?;
        Ok(match major {
            0 => Item::Int(argument.into()),
            1 => Item::Int(-1 - i128::from(argument)),
            2 => Item::Bytes(self.string(argument)?.to_vec()),
            3 => Item::Text(self.text(argument)?),
            4 => {
                let depth = depth.checked_sub(1).ok_or("nested too deep")?;
                let mut items = Vec::new();
                for _ in 0..argument {
                    items.push(self.item(depth)?);
                }
                Item::List(items)
            }
            5 => {
                let depth = depth.checked_sub(1).ok_or("nested too deep")?;
                let mut fields = Vec::new();
                for _ in 0..argument {
                    let Item::Text(key) = self.item(0)? else {
                        return Err("a key that is no text");
                    };
                    fields.push((key, self.item(depth)?));
                }
                Item::Map(fields)
            }
            _ => self.link(argument)?,
        })
    }

    fn simple(&mut self, low: u8) -> Result<Item, Wrong> {
        let float = match low {
            20 => return Ok(Item::Bool(false)),
            21 => return Ok(Item::Bool(true)),
            22 => return Ok(Item::Null),
            25 => half(u16::from_be_bytes(self.array()?)),
            26 => f32::from_be_bytes(self.array()?).into(),
            27 => f64::from_be_bytes(self.array()?),
            _ => return Err("a simple value that the data model has not"),
        };
        if float.is_finite() {
            Ok(Item::Float(float))
        } else {
            Err("a float that is not finite")
        }
    }

    fn link(&mut self, tag: u64) -> Result<Item, Wrong> {
        if tag != 42 {
            return Err("a tag other than 42");
        }
        if self.rest.first().is_none_or(|first| first >> 5 != 2) {
            return Err("a tag 42 on something else than bytes");
        }
        match self.item(0)? {
            Item::Bytes(bytes) if bytes.len() > 1 && bytes[0] == 0 => {
                Ok(Item::Link(bytes[1..].to_vec()))
            }
            _ => Err("a tag 42 without a CID"),
        }
    }

    fn argument(&mut self, low: u8) -> Result<u64, Wrong> {
        let (argument, least) = match low {
            0..24 => return Ok(low.into()),
            24 => (self.take(1)?[0].into(), 24),
            25 => (u16::from_be_bytes(self.array()?).into(), 1 << 8),
            26 => (u32::from_be_bytes(self.array()?).into(), 1 << 16),
            27 => (u64::from_be_bytes(self.array()?), 1 << 32),
            _ => return Err("an indefinite length"),
        };
        if argument < least {
            return Err("a head that is not minimal");
        }
        Ok(argument)
    }

    fn text(&mut self, length: u64) -> Result<String, Wrong> {
        String::from_utf8(self.string(length)?.to_vec()).map_err(|_| "text that is not UTF-8")
    }

    fn string(&mut self, length: u64) -> Result<&[u8], Wrong> {
        self.take(usize::try_from(length).map_err(|_| "a length beyond memory")?)
    }

    fn take(&mut self, count: usize) -> Result<&[u8], Wrong> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("cut short")?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Wrong> {
        Ok(self.take(N)?.try_into().expect("as many as were asked for"))
    }
}

/// IEEE 754 binary16, put together as binary64.
fn half(bits: u16) -> f64 {
    let sign = u64::from(bits >> 15) << 63;
    let (exponent, fraction) = (u64::from(bits >> 10 & 0x1f), u64::from(bits & 0x3ff));
    let magnitude = match (exponent, fraction) {
        (0, _) => (fraction as f64 / 16_777_216.0).to_bits(),
        (0x1f, _) => 0x7ff << 52 | fraction << 42,
        _ => (exponent + 1023 - 15) << 52 | fraction << 42,
    };
    f64::from_bits(sign | magnitude)
}

impl Item {
    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&Item> {
        let Item::Map(fields) = self else { return None };
        let mut fields = fields.iter();
        fields.find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Whether this is a map whose keys stand in DAG-CBOR order, none twice.
    pub fn is_ordered_map(&self) -> bool {
        let Item::Map(fields) = self else {
            return false;
        };
        fields.is_sorted_by(|(a, _), (b, _)| (a.len(), a) < (b.len(), b))
    }

    /// Appends the JSON text; a link that is no CID and a key that comes twice have none.
    pub fn write_json(&self, out: &mut String) -> Result<(), Wrong> {
        match self {
            Item::Int(value) => *out += &value.to_string(),
            // Two crates, two ways to write an exponent: 1e+21 and 1e21.
            Item::Float(value) => *out += &json!(value).to_string().replace("e+", "e"),
            Item::Bool(value) => *out += if *value { "true" } else { "false" },
            Item::Null => *out += "null",
            Item::Text(text) => *out += &json!(text).to_string(),
            Item::Bytes(bytes) => {
                let base64 = crate::support::generator::cid::base64(bytes);
                *out += &format!("{{\"$bytes\":\"{base64}\"}}");
            }
            Item::Link(cid) => {
                let mut rest = &cid[..];
                let cid = Cid::read_bytes(&mut rest).map_err(|_| "a link that is no CID")?;
                if !rest.is_empty() {
                    return Err("bytes behind a link's CID");
                }
                *out += &format!("{{\"$link\":\"{cid}\"}}");
            }
            Item::List(items) => {
                out.push('[');
                for (place, item) in items.iter().enumerate() {
                    if place > 0 {
                        out.push(',');
                    }
                    item.write_json(out)?;
                }
                out.push(']');
            }
            Item::Map(fields) => {
                let mut keys: Vec<_> = fields.iter().map(|(key, _)| key).collect();
                keys.sort();
                if keys.windows(2).any(|pair| pair[0] == pair[1]) {
                    return Err("a key that comes twice");
                }
                out.push('{');
                for (place, (key, value)) in fields.iter().enumerate() {
                    if place > 0 {
                        out.push(',');
                    }
                    *out += &json!(key).to_string();
                    out.push(':');
                    value.write_json(out)?;
                }
                out.push('}');
            }
        }
        Ok(())
    }
}
