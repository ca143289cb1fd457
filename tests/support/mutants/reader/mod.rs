//! A second reader of repositories, to hold the program against: whether a repo is what its owner signed, and which events it
//! must then become.
//!
//! Written from the rules R1 to R7 for small repos, without regard for speed; it shares no code with the program. In two cases
//! it has no opinion ([`Reading::unusual`]): on a CAR whose frames or header are unusual, and on a commit with a field of another
//! type that decoders may take for the right one. What comes out must be signed all the same.

mod archive;
mod cbor;
mod commit;
mod record;
mod tree;

use self::archive::Archive;
use self::cbor::Item;
use crate::support::generator::SigningKey;

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
    let fields =
        cbor::parse(block, record::MAX_DEPTH).map_err(|text| refusal(Stage::Commit, text))?;
    reading.signed = commit::signed(block, &fields, key);

    let wrong = |text| Err(refusal(Stage::Commit, text));
    if !fields.is_ordered_map() {
        return wrong("no map in order");
    }
    let required = ["did", "rev", "data", "sig"].map(|name| fields.field(name));
    let [
        Some(Item::Text(of)),
        Some(Item::Text(rev)),
        Some(Item::Link(data)),
        Some(Item::Bytes(_)),
    ] = required
    else {
        return wrong("a field is missing or of another type");
    };
    if fields.field("version") != Some(&Item::Int(3)) {
        return wrong("another version");
    }
    match fields.field("prev") {
        None | Some(Item::Null) => {}
        Some(Item::Link(cid)) if commit::is_cid(cid) => {}
        Some(_) => return wrong("prev of another type"),
    }
    if !commit::is_cid(data) {
        return wrong("data is no CID");
    }
    if of != did {
        return Err(refusal(Stage::Did, "another account's"));
    }
    if commit::micros_of(rev).is_none_or(|micros| micros > now + AHEAD) {
        return wrong("rev");
    }
    if reading.signed.is_none() {
        return Err(refusal(Stage::Signature, "the signature does not fit"));
    }
    let leaves = tree::leaves(archive, data)?;
    let mut contents = Contents {
        did: did.to_owned(),
        commit: root.to_string(),
        rev: rev.clone(),
        records: Vec::new(),
        skipped: 0,
    };
    for (key, value) in leaves {
        match record::text(archive, &key, &value) {
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
        let Self {
            did, commit, rev, ..
        } = self;
        let rest =
            format!(r#""seq":-1,"time":"{time}","did":"{did}","commit":"{commit}","rev":"{rev}""#);
        let records = self.records.iter();
        records
            .map(|record| format!(r#"{{"type":"create",{rest},{record}}}"#))
            .chain([format!(r#"{{"type":"repo",{rest}}}"#)])
            .collect()
    }
}

fn refusal(stage: Stage, text: &'static str) -> Refusal {
    Refusal { stage, text }
}
