//! A second reader of repositories, to hold the program against: whether a repo is what its owner signed, and which events it
//! must then become.
//!
//! Written from the rules R1 to R7 for small repos, without regard for speed; it shares no code with the program. In two places
//! it has no opinion ([`Reading::unusual`]): on a CAR whose frames or header are unusual, and on a commit that links to a CID with
//! bytes behind it, which the decoders of the network do not all refuse.

mod archive;
mod cbor;
mod tree;

use self::archive::Archive;
use self::cbor::Item;
use crate::support::generator::{Cid, SigningKey, Value};

/// The stages of the way of a repo, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Hash or root.
    Car,
    /// The commit block is missing.
    Incomplete,
    /// The commit's form, version, rev.
    Commit,
    /// The commit's DID.
    Did,
    Signature,
    Tree,
}

/// Why there are no events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub stage: Stage,
    pub text: &'static str,
}

/// A repo that is what its owner signed.
#[derive(Clone, Debug, PartialEq)]
pub struct Contents {
    pub did: String,
    pub commit: String,
    pub rev: String,
    /// `collection`, `rkey`, `cid` and `record` of the events, as they stand in the text.
    pub records: Vec<String>,
    /// How many leaves have no event.
    pub skipped: u64,
}

/// What this reader makes of an archive.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Every block's bytes hash to its CID.
    pub whole: bool,
    /// The commit without the signature, where that fits the account's key.
    pub signed: Option<Vec<u8>>,
    /// Why others may refuse what this reader accepts, or accept what it refuses.
    pub unusual: Option<&'static str>,
    pub verdict: Result<Contents, Refusal>,
}

/// Most leaves that fit into one chunk.
const CHUNK: usize = 500;
/// How far ahead of the clock a rev may be, in microseconds.
const AHEAD: u64 = 300_000_000;
/// Deepest record.
const RECORD_DEPTH: usize = 128;

/// Reads the archive of the account that has this key; `now` in microseconds since 1970.
pub fn read(bytes: &[u8], did: &str, key: &SigningKey, now: u64) -> Reading {
    let archive = archive::read(bytes);
    let mut reading = Reading {
        whole: !archive.wrong_hash && archive.unusual.is_none(),
        signed: None,
        unusual: archive.unusual,
        verdict: Err(refusal(Stage::Car, "unusual frames")),
    };
    reading.verdict = verdict(&archive, did, key, now, &mut reading);
    reading
}

fn verdict(
    archive: &Archive<'_>,
    did: &str,
    key: &SigningKey,
    now: u64,
    reading: &mut Reading,
) -> Result<Contents, Refusal> {
    if archive.wrong_hash {
        return Err(refusal(Stage::Car, "a wrong hash"));
    }
    let root = archive.root.ok_or(refusal(Stage::Car, "no root"))?;
    let block = archive.blocks.get(&root.digest);
    let block = block.ok_or(refusal(Stage::Incomplete, "no commit block"))?;
    let commit = cbor::parse(block, RECORD_DEPTH).map_err(|text| refusal(Stage::Commit, text))?;
    reading.signed = signed(block, &commit, key);

    let wrong = |text| Err(refusal(Stage::Commit, text));
    if !commit.is_ordered_map() {
        return wrong("no map in order");
    }
    let fields = ["did", "rev", "data", "sig"].map(|name| commit.field(name));
    let [Some(of), Some(rev), Some(Item::Link(data)), Some(sig)] = fields else {
        return wrong("a field is missing or of another type");
    };
    let (Some(of), Some(rev)) = (reading.text(of), reading.text(rev)) else {
        return wrong("did or rev of another type");
    };
    match sig {
        Item::Bytes(_) => {}
        Item::List(_) | Item::Text(_) => reading.unusual = Some("a signature that is not bytes"),
        _ => return wrong("sig of another type"),
    }
    if commit.field("version") != Some(&Item::Int(3)) {
        return wrong("another version");
    }
    match commit.field("prev") {
        None | Some(Item::Null) => {}
        Some(Item::Link(cid)) if reading.cid(cid).is_some() => {}
        Some(_) => return wrong("prev of another type"),
    }
    let Some(data) = reading.cid(data) else {
        return wrong("data is no CID");
    };
    if of != did {
        return Err(refusal(Stage::Did, "another account's"));
    }
    if micros_of(&rev).is_none_or(|micros| micros > now + AHEAD) {
        return wrong("rev");
    }
    if reading.signed.is_none() {
        return Err(refusal(Stage::Signature, "the signature does not fit"));
    }
    let leaves = tree::leaves(archive, data)?;
    let mut contents = Contents {
        did: did.to_owned(),
        commit: root.to_string(),
        rev,
        records: Vec::new(),
        skipped: 0,
    };
    for (key, value) in leaves {
        match record(archive, &key, &value) {
            Some(text) => contents.records.push(text),
            None => contents.skipped += 1,
        }
    }
    Ok(contents)
}

impl Contents {
    /// The texts of all events of a repo that fits into one chunk, in their order.
    pub fn events(&self, time: &str) -> Vec<String> {
        assert!(self.records.len() <= CHUNK, "more than one chunk");
        let Self { did, commit, rev, .. } = self;
        let rest = format!(
            r#""seq":-1,"time":"{time}","did":"{did}","commit":"{commit}","rev":"{rev}""#
        );
        let records = self.records.iter();
        records
            .map(|record| format!(r#"{{"type":"create",{rest},{record}}}"#))
            .chain([format!(r#"{{"type":"repo",{rest}}}"#)])
            .collect()
    }
}

/// What of a commit is signed, where the account's key signed it in the one form that the protocol allows.
fn signed(block: &[u8], commit: &Item, key: &SigningKey) -> Option<Vec<u8>> {
    let Item::Map(fields) = commit else { return None };
    let (sig, signature) = signature_field(commit.field("sig")?)?;
    let at = block.windows(sig.len()).position(|bytes| bytes == sig)?;
    if !(1..24).contains(&fields.len()) {
        return None;
    }
    let mut message = vec![0xa0 + fields.len() as u8 - 1];
    message.extend_from_slice(&block[1..at]);
    message.extend_from_slice(&block[at + sig.len()..]);
    (is_low(&signature, key) && key.verifies(&message, &signature)).then_some(message)
}

/// The field as it is encoded, for which there is one way only, and the signature in it.
fn signature_field(item: &Item) -> Option<(Vec<u8>, [u8; 64])> {
    let value = match item {
        Item::Bytes(bytes) => Value::Bytes(bytes.clone()),
        Item::List(items) => {
            let numbers = items.iter().map(|item| match item {
                Item::Int(number) => Some(Value::Int(*number)),
                _ => None,
            });
            Value::List(numbers.collect::<Option<_>>()?)
        }
        _ => return None,
    };
    let signature: Vec<u8> = match &value {
        Value::Bytes(bytes) => bytes.clone(),
        Value::List(numbers) => {
            let bytes = numbers.iter().map(|number| match number {
                Value::Int(number) => u8::try_from(*number).ok(),
                _ => None,
            });
            bytes.collect::<Option<_>>()?
        }
        _ => return None,
    };
    let field = [b"\x63sig", &value.encode()[..]].concat();
    Some((field, signature.try_into().ok()?))
}

/// Whether s is in the lower half of the curve's order.
fn is_low(signature: &[u8; 64], key: &SigningKey) -> bool {
    match key {
        SigningKey::K256(_) => k256::ecdsa::Signature::from_slice(signature)
            .is_ok_and(|signature| signature.normalize_s().is_none()),
        SigningKey::P256(_) => p256::ecdsa::Signature::from_slice(signature)
            .is_ok_and(|signature| signature.normalize_s().is_none()),
    }
}

// The forms of a commit on which this reader has no opinion. The protocol allows none of them; a decoder may.
impl Reading {
    /// A text, or bytes that could be one.
    fn text(&mut self, item: &Item) -> Option<String> {
        match item {
            Item::Text(text) => Some(text.clone()),
            Item::Bytes(bytes) => {
                self.unusual = Some("bytes in place of a text");
                String::from_utf8(bytes.clone()).ok()
            }
            _ => None,
        }
    }

    /// The CID at the start of the bytes of a link.
    fn cid<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let mut rest = bytes;
        cid::Cid::read_bytes(&mut rest).ok()?;
        if !rest.is_empty() {
            self.unusual = Some("bytes behind a CID of the commit");
        }
        bytes.strip_suffix(rest)
    }
}

/// The microseconds of a TID.
fn micros_of(rev: &str) -> Option<u64> {
    const DIGITS: &str = "234567abcdefghijklmnopqrstuvwxyz";
    if rev.len() != 13 {
        return None;
    }
    let mut value: u64 = 0;
    for (place, digit) in rev.chars().enumerate() {
        let digit = DIGITS.find(digit)? as u64;
        if place == 0 && digit > 15 {
            return None;
        }
        value = value << 5 | digit;
    }
    Some(value >> 10)
}

/// The part of a leaf's event that is its own; `None` where the leaf has none (R1).
fn record(archive: &Archive<'_>, key: &[u8], value: &[u8]) -> Option<String> {
    let key = std::str::from_utf8(key).ok()?;
    let (collection, rkey) = key.split_once('/')?;
    if key.len() > 1024 || !is_nsid(collection) || !is_record_key(rkey) {
        return None;
    }
    let digest = tree::dag_cbor_digest(value)?;
    let block = archive.blocks.get(&digest)?;
    if block.len() > 2 << 20 {
        return None;
    }
    let record = cbor::parse(block, RECORD_DEPTH).ok()?;
    if !matches!(record, Item::Map(_)) {
        return None;
    }
    let cid = Cid { codec: 0x71, digest };
    let mut text =
        format!(r#""collection":"{collection}","rkey":"{rkey}","cid":"{cid}","record":"#);
    record.write_json(&mut text).ok()?;
    Some(text)
}

/// atproto.com/specs/nsid
fn is_nsid(text: &str) -> bool {
    let segments: Vec<&str> = text.split('.').collect();
    let Some((name, authority)) = segments.split_last() else {
        return false;
    };
    let label = |label: &&str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 317
        && authority.len() >= 2
        && authority.iter().all(label)
        && !authority[0].starts_with(|first: char| first.is_ascii_digit())
        && (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric())
        && !name.starts_with(|first: char| first.is_ascii_digit())
}

/// atproto.com/specs/record-key
fn is_record_key(text: &str) -> bool {
    (1..=512).contains(&text.len())
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_~:".contains(&b))
}

fn refusal(stage: Stage, text: &'static str) -> Refusal {
    Refusal { stage, text }
}
