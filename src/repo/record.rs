//! From a record's block to the JSON text of its event (R1).
//!
//! The transcoder writes straight from the block into the caller's buffer: no tree in between, keys in block order, nothing
//! added, renamed or dropped. What R1 does not let through is a [`Skip`]: it is said and counted, and the other records of the
//! repo go on. Source: atproto.com/specs/data-model. Pinned by `tests/record.rs`,
//! `tests/record_keys.rs` and `tests/fixtures.rs` (`r1_…`).

use std::fmt;

use data_encoding::BASE64_NOPAD;
use rsky_syntax::nsid::ensure_valid_nsid;

use super::cbor::{self, Item, MAX_DEPTH, Malformed, Reader};
use super::link::Link;

/// Largest record block in bytes.
pub const MAX_RECORD: usize = 2 << 20;
/// Longest key `collection/rkey` in bytes.
pub const MAX_KEY: usize = 1024;
/// Longest rkey in bytes (atproto.com/specs/record-key).
const MAX_RKEY: usize = 512;

/// Why a record becomes no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// The block is no DAG-CBOR, or holds what the data model does not know.
    Malformed(Malformed),
    /// The block holds no map.
    NotAMap,
    /// The block is larger than [`MAX_RECORD`].
    TooLarge,
    /// The CID of the leaf is not dag-cbor with sha2-256.
    Cid,
    /// The key is not `collection/rkey`, or longer than [`MAX_KEY`].
    Key,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Skip::Malformed(malformed) => malformed.fmt(f),
            Skip::NotAMap => f.write_str("not a map"),
            Skip::TooLarge => write!(f, "larger than {MAX_RECORD} bytes"),
            Skip::Cid => f.write_str("its CID is not dag-cbor with sha2-256"),
            Skip::Key => f.write_str("its key is not collection/rkey"),
        }
    }
}

impl From<Malformed> for Skip {
    fn from(malformed: Malformed) -> Self {
        Skip::Malformed(malformed)
    }
}

/// Splits keys into collection and rkey. Remembers the last collection, because leaves come sorted and checking an NSID is
/// dearer than comparing it.
#[derive(Default)]
pub struct KeyParser {
    /// The last valid one.
    collection: Option<String>,
}

impl KeyParser {
    /// The collection and the rkey of a key.
    ///
    /// What is returned consists of `A-Z a-z 0-9 . - _ ~ :` only and needs no escaping in JSON.
    ///
    /// # Errors
    /// [`Skip::Key`].
    pub fn parse<'k>(&'k mut self, key: &'k [u8]) -> Result<(&'k str, &'k str), Skip> {
        if key.len() > MAX_KEY {
            return Err(Skip::Key);
        }
        let known = match &self.collection {
            Some(collection) => {
                let rest = key.strip_prefix(collection.as_bytes());
                rest.and_then(|rest| rest.strip_prefix(b"/"))
            }
            None => None,
        };
        let rkey = match known {
            Some(rkey) => rkey,
            None => self.other_collection(key)?,
        };
        let valid = !rkey.is_empty()
            && rkey.len() <= MAX_RKEY
            && !matches!(rkey, b"." | b"..")
            && rkey.iter().all(|&byte| IN_RKEY[usize::from(byte)]);
        match (valid, &self.collection, std::str::from_utf8(rkey)) {
            (true, Some(collection), Ok(rkey)) => Ok((collection, rkey)),
            _ => Err(Skip::Key),
        }
    }

    /// Remembers the collection of the key, and returns what stands behind it.
    #[cold]
    fn other_collection<'k>(&mut self, key: &'k [u8]) -> Result<&'k [u8], Skip> {
        let key = std::str::from_utf8(key).map_err(|_| Skip::Key)?;
        let (collection, rkey) = key.split_once('/').ok_or(Skip::Key)?;
        ensure_valid_nsid(collection).map_err(|_| Skip::Key)?;
        self.collection = Some(collection.to_owned());
        Ok(rkey.as_bytes())
    }
}

/// The characters of record keys (atproto.com/specs/record-key).
const IN_RKEY: [bool; 256] = {
    let mut valid = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let character = byte as u8;
        valid[byte] = character.is_ascii_alphanumeric()
            || matches!(character, b'.' | b'-' | b'_' | b'~' | b':');
        byte += 1;
    }
    valid
};

/// Appends the record's JSON to `out`.
///
/// # Errors
/// Why the record is skipped; `out` then ends with a part of it, which the caller cuts off.
pub fn transcode(block: &[u8], out: &mut Vec<u8>) -> Result<(), Skip> {
    if block.len() > MAX_RECORD {
        return Err(Skip::TooLarge);
    }
    let mut reader = Reader::new(block);
    match reader.item()? {
        Item::Map(pairs) => map(&mut reader, pairs, 1, out)?,
        _ => return Err(Skip::NotAMap),
    }
    reader.end()?;
    Ok(())
}

/// Recursion is bounded by [`MAX_DEPTH`]; `depth` is that of the map or array around the value.
fn value(reader: &mut Reader<'_>, depth: usize, out: &mut Vec<u8>) -> cbor::Result<()> {
    if let Some(text) = reader.unchecked_text()? {
        return string(text, out);
    }
    match reader.item()? {
        // Read above.
        Item::Text(_) => return Err(Malformed::Type("a value")),
        Item::Unsigned(n) => integer(n, out),
        // −1 − n, for n up to 2^64 − 1: one bit more than i64 has.
        Item::Negative(n) => integer(-1 - i128::from(n), out),
        Item::Map(pairs) => map(reader, pairs, depth + 1, out)?,
        Item::Array(count) => array(reader, count, depth + 1, out)?,
        Item::Link(cid) => {
            out.extend_from_slice(b"{\"$link\":\"");
            if !Link(cid).write_text(out) {
                return Err(Malformed::Link);
            }
            out.extend_from_slice(b"\"}");
        }
        Item::Bytes(bytes) => {
            out.extend_from_slice(b"{\"$bytes\":\"");
            let start = out.len();
            out.resize(start + BASE64_NOPAD.encode_len(bytes.len()), 0);
            BASE64_NOPAD.encode_mut(bytes, &mut out[start..]);
            out.extend_from_slice(b"\"}");
        }
        Item::Bool(true) => out.extend_from_slice(b"true"),
        Item::Bool(false) => out.extend_from_slice(b"false"),
        Item::Null => out.extend_from_slice(b"null"),
        Item::Float(value) => {
            out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes())
        }
    }
    Ok(())
}

fn array(
    reader: &mut Reader<'_>,
    count: usize,
    depth: usize,
    out: &mut Vec<u8>,
) -> cbor::Result<()> {
    if depth > MAX_DEPTH {
        return Err(Malformed::TooDeep);
    }
    out.push(b'[');
    for i in 0..count {
        if i > 0 {
            out.push(b',');
        }
        value(reader, depth, out)?;
    }
    out.push(b']');
    Ok(())
}

fn map(reader: &mut Reader<'_>, pairs: usize, depth: usize, out: &mut Vec<u8>) -> cbor::Result<()> {
    if depth > MAX_DEPTH {
        return Err(Malformed::TooDeep);
    }
    out.push(b'{');
    let start = reader.clone();
    let mut last: Option<&[u8]> = None;
    let mut sorted = true;
    for i in 0..pairs {
        let key = reader.unchecked_text()?.ok_or(Malformed::Key)?;
        if i > 0 {
            out.push(b',');
        }
        // Keys in DAG-CBOR order cannot repeat; only where the order is broken they must be compared all with all.
        sorted = sorted && last.is_none_or(|last| cbor::in_order(last, key));
        last = Some(key);
        string(key, out)?;
        out.push(b':');
        value(reader, depth, out)?;
    }
    out.push(b'}');
    if sorted {
        Ok(())
    } else {
        distinct_keys(start, pairs)
    }
}

/// Reads an unsorted map again, to see that no key occurs twice.
fn distinct_keys(mut reader: Reader<'_>, pairs: usize) -> cbor::Result<()> {
    let mut keys = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        keys.push(reader.key()?);
        reader.skip()?;
    }
    keys.sort_unstable();
    if keys.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Malformed::DuplicateKey);
    }
    Ok(())
}

fn integer(n: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// A JSON string: quotation mark, backslash and control characters escaped, everything else as it is (RFC 8259, 7).
///
/// Most texts are ASCII without any of these, and are copied as they are; only from the first other byte on the text is looked
/// at closely, and proved to be UTF-8.
#[inline]
fn string(text: &[u8], out: &mut Vec<u8>) -> cbor::Result<()> {
    out.push(b'"');
    if is_all_plain(text) {
        out.extend_from_slice(text);
    } else {
        other_string(text, out)?;
    }
    out.push(b'"');
    Ok(())
}

/// The same for a text that is not as most are, without the quotation marks.
#[inline(never)]
fn other_string(text: &[u8], out: &mut Vec<u8>) -> cbor::Result<()> {
    let (plain, rest) = text.split_at(first(text, is_ascii_and_plain));
    out.extend_from_slice(plain);
    if simdutf8::basic::from_utf8(rest).is_err() {
        return Err(Malformed::Utf8);
    }
    escaped(rest, out);
    Ok(())
}

/// Whether a text is ASCII that a JSON string can hold as it is.
#[inline]
fn is_all_plain(text: &[u8]) -> bool {
    let Some(last) = text.last_chunk::<8>() else {
        return is_short_plain(text);
    };
    // Without a way out in between, several words are looked at at once; the last one may overlap with the one before.
    let (words, _) = text.as_chunks::<8>();
    let others = |others, word: &[u8; 8]| others | is_ascii_and_plain(u64::from_le_bytes(*word));
    others(words.iter().fold(0, others), last) == 0
}

/// The same for at most seven bytes.
#[inline]
fn is_short_plain(text: &[u8]) -> bool {
    match (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        (Some(first), Some(last)) => {
            let word = u64::from(u32::from_le_bytes(*first)) << 32;
            is_ascii_and_plain(word | u64::from(u32::from_le_bytes(*last))) == 0
        }
        _ => text
            .iter()
            .all(|&byte| matches!(byte, b' '..0x80) && !matches!(byte, b'"' | b'\\')),
    }
}

fn escaped(mut text: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    loop {
        let (plain, rest) = text.split_at(first(text, is_plain));
        out.extend_from_slice(plain);
        let Some((&byte, rest)) = rest.split_first() else {
            return;
        };
        text = rest;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
    }
}

/// How many bytes stand before the first one that is not as `all` says of eight bytes: the high bit of each that is not is set
/// in what it returns, and, of those behind the first, perhaps of others.
#[inline]
fn first(text: &[u8], all: impl Fn(u64) -> u64) -> usize {
    let mut chunks = text.chunks_exact(8);
    let mut passed = 0;
    for chunk in &mut chunks {
        let others = all(u64::from_le_bytes(chunk.try_into().unwrap_or_default()));
        if others != 0 {
            return passed + (others.trailing_zeros() / 8) as usize;
        }
        passed += 8;
    }
    // Filled up with what is as it should be.
    let mut last = [b' '; 8];
    let rest = chunks.remainder();
    last[..rest.len()].copy_from_slice(rest);
    let others = all(u64::from_le_bytes(last));
    passed + rest.len().min((others.trailing_zeros() / 8) as usize)
}

const ONES: u64 = u64::from_le_bytes([1; 8]);
const HIGH: u64 = u64::from_le_bytes([0x80; 8]);

/// Bytes that a JSON string cannot hold as they are.
#[inline]
fn is_plain(bytes: u64) -> u64 {
    // Less than n: subtracting n borrows. (Exact up to the first byte that is; see "Determine if a word has a byte less than n"
    // in Bit Twiddling Hacks.)
    let less = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & HIGH;
    let equal = |byte: u8| less(bytes ^ (ONES * u64::from(byte)), 1);
    less(bytes, 0x20) | equal(b'"') | equal(b'\\')
}

/// The same, and those that are not ASCII.
#[inline]
fn is_ascii_and_plain(bytes: u64) -> u64 {
    is_plain(bytes) | bytes & HIGH
}
