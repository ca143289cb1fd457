//! A strict DAG-CBOR reader over a byte slice: heads, strings, links; no tree, no allocation.
//!
//! It accepts exactly what DAG-CBOR allows (ipld.io/specs/codecs/dag-cbor/spec), except that the order of map keys is left to
//! the caller and that floats of 16 and 32 bits are read: minimal heads, definite lengths, no tag but 42, text that is UTF-8.
//! Own code because it is on the path of each record, and because what the serde decoders let pass (heads that are not minimal,
//! indefinite lengths, repeated keys) is to be refused here. Reading is by position; no input makes it read out of bounds, and
//! [`Reader::skip`] is iterative.

use std::fmt;

/// What is wrong with the bytes; `Display` is one phrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// The bytes end inside an item.
    Truncated,
    /// Bytes follow the item.
    TrailingBytes,
    /// A head that a shorter one could say.
    NotMinimal,
    /// An indefinite length, or a reserved head.
    Indefinite,
    /// A tag other than 42.
    Tag,
    /// Tag 42 on something that is no CID.
    Link,
    /// Text that is not UTF-8.
    Utf8,
    /// A simple value other than false, true and null.
    Simple,
    /// NaN or an infinity.
    NotFinite,
    /// A map key that is not text.
    Key,
    /// Map keys out of order, where the order matters.
    KeyOrder,
    /// The same key twice in one map.
    DuplicateKey,
    /// Nested deeper than [`MAX_DEPTH`].
    TooDeep,
    /// Another type than what is asked for here.
    Type(&'static str),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::Truncated => "CBOR is cut short",
            Malformed::TrailingBytes => "bytes after the CBOR item",
            Malformed::NotMinimal => "CBOR head is not minimal",
            Malformed::Indefinite => "indefinite or reserved CBOR length",
            Malformed::Tag => "CBOR tag other than 42",
            Malformed::Link => "tag 42 without a CID",
            Malformed::Utf8 => "text is not UTF-8",
            Malformed::Simple => "CBOR simple value other than false, true and null",
            Malformed::NotFinite => "float is not finite",
            Malformed::Key => "map key is not text",
            Malformed::KeyOrder => "map keys are out of order",
            Malformed::DuplicateKey => "map key occurs twice",
            Malformed::TooDeep => "nested too deep",
            Malformed::Type(expected) => return write!(f, "not {expected}"),
        })
    }
}

impl std::error::Error for Malformed {}

/// Result of reading CBOR.
pub type Result<T> = std::result::Result<T, Malformed>;

/// Deepest nesting of maps and arrays that is read (R1); what is deeper is refused, so recursion over a value is bounded.
pub const MAX_DEPTH: usize = 128;

/// The first part of an item: all of a scalar, or the length of what follows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Item<'a> {
    /// An integer from 0.
    Unsigned(u64),
    /// The integer −1 − n.
    Negative(u64),
    /// A byte string.
    Bytes(&'a [u8]),
    /// A text string.
    Text(&'a str),
    /// An array; this many items follow.
    Array(usize),
    /// A map; this many pairs of key and value follow.
    Map(usize),
    /// A link: the binary CID.
    Link(&'a [u8]),
    /// false or true.
    Bool(bool),
    /// null.
    Null,
    /// A finite float.
    Float(f64),
}

/// A position in a slice of CBOR.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, position: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Succeeds only when all bytes have been read.
    pub fn end(&self) -> Result<()> {
        if self.position == self.bytes.len() {
            Ok(())
        } else {
            Err(Malformed::TrailingBytes)
        }
    }

    /// Reads one item, or the head of one that contains others.
    #[inline]
    pub fn item(&mut self) -> Result<Item<'a>> {
        let first = self.byte()?;
        let argument = self.argument(first)?;
        match first >> 5 {
            0 => Ok(Item::Unsigned(argument)),
            1 => Ok(Item::Negative(argument)),
            2 => Ok(Item::Bytes(self.take(argument)?)),
            3 => {
                let bytes = self.take(argument)?;
                std::str::from_utf8(bytes)
                    .map(Item::Text)
                    .map_err(|_| Malformed::Utf8)
            }
            4 => Ok(Item::Array(self.count(argument)?)),
            5 => Ok(Item::Map(self.count(argument)?)),
            6 => self.link(argument),
            _ => match first & 31 {
                20 => Ok(Item::Bool(false)),
                21 => Ok(Item::Bool(true)),
                22 => Ok(Item::Null),
                25 => finite(half_to_double(argument as u16)),
                26 => finite(f64::from(f32::from_bits(argument as u32))),
                27 => finite(f64::from_bits(argument)),
                _ => Err(Malformed::Simple),
            },
        }
    }

    /// Reads a text whose bytes have not been checked to be UTF-8; `None`, and nothing is read, where another item follows.
    #[inline]
    pub fn unchecked_text(&mut self) -> Result<Option<&'a [u8]>> {
        let start = self.position;
        let first = self.byte()?;
        if first >> 5 != 3 {
            self.position = start;
            return Ok(None);
        }
        let length = self.argument(first)?;
        self.take(length).map(Some)
    }

    /// The key of a map entry.
    #[inline]
    pub fn key(&mut self) -> Result<&'a str> {
        match self.item()? {
            Item::Text(key) => Ok(key),
            _ => Err(Malformed::Key),
        }
    }

    /// Passes over one item with all that it contains, without recursion.
    ///
    /// Keys of maps must be text; repeated keys are not looked for.
    pub fn skip(&mut self) -> Result<()> {
        // What remains to be read at each open level: items, and whether the level is a map (then it alternates).
        let mut open = [(0usize, false); MAX_DEPTH];
        let mut depth = 0;
        loop {
            let item = self.item()?;
            if let Item::Array(count) | Item::Map(count) = item {
                if depth == MAX_DEPTH {
                    return Err(Malformed::TooDeep);
                }
                let map = matches!(item, Item::Map(_));
                // `count` is at most the number of bytes, so twice of it does not overflow.
                open[depth] = (if map { count * 2 } else { count }, map);
                depth += 1;
            }
            loop {
                if depth == 0 {
                    return Ok(());
                }
                let (remaining, map) = &mut open[depth - 1];
                if *remaining == 0 {
                    depth -= 1;
                    continue;
                }
                *remaining -= 1;
                if *map && *remaining % 2 == 1 {
                    self.key()?;
                    *remaining -= 1;
                }
                break;
            }
        }
    }

    #[inline]
    fn byte(&mut self) -> Result<u8> {
        let byte = *self.bytes.get(self.position).ok_or(Malformed::Truncated)?;
        self.position += 1;
        Ok(byte)
    }

    #[inline]
    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.position..];
        if length > rest.len() as u64 {
            return Err(Malformed::Truncated);
        }
        let taken = &rest[..length as usize];
        self.position += taken.len();
        Ok(taken)
    }

    /// The argument of a head, refused where it could have been shorter (floats have their own rule).
    #[inline]
    fn argument(&mut self, first: u8) -> Result<u64> {
        let additional = first & 31;
        if additional < 24 {
            return Ok(u64::from(additional));
        }
        if additional > 27 {
            return Err(Malformed::Indefinite);
        }
        let width = 1usize << (additional - 24);
        let argument = self
            .take(width as u64)?
            .iter()
            .fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        let minimum = match width {
            1 => 24,
            2 => 1 << 8,
            4 => 1 << 16,
            _ => 1 << 32,
        };
        if argument < minimum && first >> 5 != 7 {
            return Err(Malformed::NotMinimal);
        }
        Ok(argument)
    }

    /// Every item takes a byte at least: a longer count is a lie, and is refused before anybody reserves memory for it.
    #[inline]
    fn count(&self, count: u64) -> Result<usize> {
        if count > (self.bytes.len() - self.position) as u64 {
            return Err(Malformed::Truncated);
        }
        Ok(count as usize)
    }

    #[inline]
    fn link(&mut self, tag: u64) -> Result<Item<'a>> {
        if tag != 42 {
            return Err(Malformed::Tag);
        }
        match self.item_after_tag()? {
            // The byte 0 is the multibase prefix "identity" that DAG-CBOR demands.
            [0, cid @ ..] if !cid.is_empty() => Ok(Item::Link(cid)),
            _ => Err(Malformed::Link),
        }
    }

    /// A byte string and nothing else: a tag on a tag would otherwise recurse.
    #[inline]
    fn item_after_tag(&mut self) -> Result<&'a [u8]> {
        let first = self.byte()?;
        if first >> 5 != 2 {
            return Err(Malformed::Link);
        }
        let length = self.argument(first)?;
        self.take(length)
    }
}

/// Whether `b` may follow `a` in a map of DAG-CBOR: shorter keys first, then bytewise. Equal keys are not in order.
#[inline]
pub fn in_order<K: AsRef<[u8]> + ?Sized>(a: &K, b: &K) -> bool {
    let (a, b) = (a.as_ref(), b.as_ref());
    (a.len(), a) < (b.len(), b)
}

/// The head of a map with this many entries, in its only minimal form.
pub fn map_head(entries: usize) -> Vec<u8> {
    const MAP: u8 = 5 << 5;
    match entries {
        0..24 => vec![MAP | entries as u8],
        24..0x100 => vec![MAP | 24, entries as u8],
        0x100..0x1_0000 => [&[MAP | 25][..], &(entries as u16).to_be_bytes()].concat(),
        _ => [&[MAP | 26][..], &(entries as u32).to_be_bytes()].concat(),
    }
}

#[inline]
fn finite<'a>(value: f64) -> Result<Item<'a>> {
    if value.is_finite() {
        Ok(Item::Float(value))
    } else {
        Err(Malformed::NotFinite)
    }
}

/// IEEE 754 binary16 to binary64; exact.
fn half_to_double(half: u16) -> f64 {
    let exponent = (half >> 10) & 31;
    let mantissa = f64::from(half & 1023);
    let magnitude = match exponent {
        0 => mantissa * 2f64.powi(-24),
        31 if half & 1023 == 0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + mantissa) * 2f64.powi(i32::from(exponent) - 25),
    };
    if half & 0x8000 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: &[u8]) -> Result<Item<'_>> {
        let mut reader = Reader::new(bytes);
        let item = reader.item()?;
        reader.end()?;
        Ok(item)
    }

    #[test]
    fn scalars_are_read_exactly() {
        assert_eq!(one(&[0x17]), Ok(Item::Unsigned(23)));
        assert_eq!(one(&[0x18, 24]), Ok(Item::Unsigned(24)));
        assert_eq!(
            one(&[0x1b, 255, 255, 255, 255, 255, 255, 255, 255]),
            Ok(Item::Unsigned(u64::MAX))
        );
        assert_eq!(one(&[0x20]), Ok(Item::Negative(0)));
        assert_eq!(one(&[0xf4]), Ok(Item::Bool(false)));
        assert_eq!(one(&[0xf6]), Ok(Item::Null));
        assert_eq!(one(&[0xf9, 0x3c, 0x00]), Ok(Item::Float(1.0)));
        assert_eq!(
            one(&[0xf9, 0x00, 0x01]),
            Ok(Item::Float(5.960_464_477_539_063e-8))
        );
        assert_eq!(one(&[0xf9, 0xc4, 0x00]), Ok(Item::Float(-4.0)));
        assert_eq!(
            one(&[0xfa, 0x47, 0xc3, 0x50, 0x00]),
            Ok(Item::Float(100_000.0))
        );
        assert_eq!(one(&[0x62, 0xc3, 0xbc]), Ok(Item::Text("ü")));
    }

    #[test]
    fn what_dag_cbor_forbids_is_refused() {
        assert_eq!(one(&[0x18, 23]), Err(Malformed::NotMinimal));
        assert_eq!(one(&[0x58, 1, 0]), Err(Malformed::NotMinimal));
        assert_eq!(one(&[0x19, 0, 255]), Err(Malformed::NotMinimal));
        assert_eq!(one(&[0x1a, 0, 0, 255, 255]), Err(Malformed::NotMinimal));
        assert_eq!(
            one(&[0x1b, 0, 0, 0, 0, 255, 255, 255, 255]),
            Err(Malformed::NotMinimal)
        );
        assert_eq!(one(&[0x9f, 0xff]), Err(Malformed::Indefinite));
        assert_eq!(one(&[0x1c]), Err(Malformed::Indefinite));
        assert_eq!(one(&[0xc1, 0x00]), Err(Malformed::Tag));
        assert_eq!(one(&[0xd8, 42, 0x41, 1]), Err(Malformed::Link));
        assert_eq!(one(&[0xd8, 42, 0x41, 0]), Err(Malformed::Link));
        assert_eq!(one(&[0xd8, 42, 0xd8, 42, 0x41, 0]), Err(Malformed::Link));
        assert_eq!(one(&[0x62, 0xc3, 0x28]), Err(Malformed::Utf8));
        assert_eq!(one(&[0xf7]), Err(Malformed::Simple));
        assert_eq!(one(&[0xf8, 0x20]), Err(Malformed::Simple));
        assert_eq!(one(&[0xf9, 0x7c, 0x00]), Err(Malformed::NotFinite));
        assert_eq!(
            one(&[0xfb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0]),
            Err(Malformed::NotFinite)
        );
        assert_eq!(one(&[0x00, 0x00]), Err(Malformed::TrailingBytes));
    }

    #[test]
    fn no_length_reads_out_of_bounds_or_reserves() {
        assert_eq!(one(&[]), Err(Malformed::Truncated));
        assert_eq!(one(&[0x19, 1]), Err(Malformed::Truncated));
        assert_eq!(
            one(&[0x5b, 255, 255, 255, 255, 255, 255, 255, 255]),
            Err(Malformed::Truncated)
        );
        assert_eq!(
            one(&[0xbb, 255, 255, 255, 255, 255, 255, 255, 255]),
            Err(Malformed::Truncated)
        );
        assert_eq!(one(&[0x9a, 0, 1, 0, 0, 0]), Err(Malformed::Truncated));
    }

    #[test]
    fn skip_passes_over_nested_items_and_refuses_deeper_ones() {
        // {"a": [1, {"b": null}], "c": "d"} and a byte after it
        let bytes = [
            0xa2, 0x61, b'a', 0x82, 0x01, 0xa1, 0x61, b'b', 0xf6, 0x61, b'c', 0x61, b'd', 0x07,
        ];
        let mut reader = Reader::new(&bytes);
        reader.skip().unwrap();
        assert_eq!(reader.position(), bytes.len() - 1);

        let nested = |depth: usize| {
            let mut bytes = vec![0x81; depth];
            bytes.push(0x00);
            bytes
        };
        assert_eq!(Reader::new(&nested(MAX_DEPTH)).skip(), Ok(()));
        assert_eq!(
            Reader::new(&nested(MAX_DEPTH + 1)).skip(),
            Err(Malformed::TooDeep)
        );
        assert_eq!(
            Reader::new(&nested(1_000_000)).skip(),
            Err(Malformed::TooDeep)
        );
        assert_eq!(Reader::new(&[0xa1, 0x01, 0x02]).skip(), Err(Malformed::Key));
    }
}
