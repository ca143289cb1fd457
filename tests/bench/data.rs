//! The repos: bodies that are generated once and kept in `target/bench`, and the accounts that own them.
//!
//! A body is a repo's tree and its records, as frames of a CAR; nothing in it names the account. So sixty-four repos of 40 MB need
//! one body on the disk, and each its own head: the CAR's header and the signed commit ([`Account`]). The folder of the bodies is named
//! by a hash of the generator's sources, so a change of the generator makes them anew.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::PathBuf;

use crate::mix;
use crate::process::folder;
use crate::sets::{Repos, Set, network_sizes};
use crate::support::generator::cid::Cid;
use crate::support::generator::mst::{self, Step};
use crate::support::generator::random::Random;
use crate::support::generator::records::Record;
use crate::support::generator::{
    SigningKey, car, commit_fields, did_document, did_plc, sign_commit, tid,
};

/// What the bodies depend on.
const SOURCES: [&str; 8] = [
    include_str!("data.rs"),
    include_str!("mix.rs"),
    include_str!("sets.rs"),
    include_str!("../support/generator/cbor.rs"),
    include_str!("../support/generator/content.rs"),
    include_str!("../support/generator/mst.rs"),
    include_str!("../support/generator/node.rs"),
    include_str!("../support/generator/random.rs"),
];

/// The folder of the bodies.
pub struct Store(PathBuf);

/// Where a body is in its file.
#[derive(Clone, Debug)]
pub struct Body {
    /// The root of the tree.
    pub root: Cid,
    pub place: Range<usize>,
    pub records: usize,
}

impl Store {
    /// The folder of this version of the generator; those of others are removed.
    pub fn open() -> Self {
        let version = Cid::raw(SOURCES.concat().as_bytes()).to_string();
        let name = format!("data-{}", &version[version.len() - 8..]);
        let folder = folder();
        for entry in fs::read_dir(&folder).expect("the folder of the benchmark") {
            let entry = entry.expect("an entry of the folder");
            let old = entry.file_name().into_string().unwrap_or_default();
            if old.starts_with("data-") && old != name {
                fs::remove_dir_all(entry.path()).expect("old data are removed");
            }
        }
        let folder = folder.join(name);
        fs::create_dir_all(&folder).expect("a folder for the data");
        Store(folder)
    }

    /// The bodies of a set, which are generated where they are not there yet.
    pub fn bodies(&self, repos: Repos) -> Vec<Body> {
        let index = self.path(repos).with_extension("index");
        if !index.is_file() {
            self.generate(repos);
        }
        let index = fs::read_to_string(index).expect("the index of the bodies");
        index.lines().map(body).collect()
    }

    /// The file that holds them.
    pub fn path(&self, repos: Repos) -> PathBuf {
        let name = match repos {
            Repos::None => "none".to_owned(),
            Repos::Network(count) => format!("network-{count}"),
            Repos::Own(count, size) => format!("mixed-{count}x{size}"),
            // The first of the bodies of the set with one repo.
            Repos::Shared(_, size) => format!("mixed-1x{size}"),
            Repos::Large(_, size) => format!("large-1x{size}"),
        };
        self.0.join(name + ".blocks")
    }

    /// Written beside its place, and renamed when it is whole: the index last, for it says that both are there.
    fn generate(&self, repos: Repos) {
        let path = self.path(repos);
        let (blocks, index) = (
            path.with_extension("blocks.new"),
            path.with_extension("index.new"),
        );
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&blocks).expect("a file"));
        let mut lines = String::new();
        let mut end = 0;
        for (seed, size) in sizes(repos).into_iter().enumerate() {
            let seed = (size as u64) << 20 | seed as u64;
            let records: &mut dyn Iterator<Item = Record> = match repos {
                Repos::Large(..) => &mut mix::large(seed),
                _ => &mut mix::mixed(seed),
            };
            let (root, length) = write_body(&mut out, records.take(size));
            lines += &format!(
                "{} {end} {} {size}\n",
                data_encoding::HEXLOWER.encode(&root.bytes()),
                end + length
            );
            end += length;
        }
        out.flush().expect("the bodies are written");
        fs::write(&index, lines).expect("the index is written");
        fs::rename(blocks, &path).expect("the bodies are in their place");
        fs::rename(index, path.with_extension("index")).expect("the index is in its place");
    }
}

/// The sizes of the bodies, in records.
fn sizes(repos: Repos) -> Vec<usize> {
    match repos {
        Repos::None => Vec::new(),
        Repos::Network(count) => {
            // Large ones between small ones, as they come.
            let mut sizes = network_sizes(count);
            Random::new(count as u64).shuffle(&mut sizes);
            sizes
        }
        Repos::Own(count, size) => vec![size; count],
        Repos::Shared(_, size) | Repos::Large(_, size) => vec![size],
    }
}

/// A line of the index.
fn body(line: &str) -> Body {
    let words: Vec<&str> = line.split(' ').collect();
    let [root, start, end, records] = words[..] else {
        panic!("the index has four words a line: {line}");
    };
    let number = |word: &str| word.parse().expect("a number of the index");
    let root = data_encoding::HEXLOWER.decode(root.as_bytes());
    Body {
        root: Cid::from_bytes(&root.expect("a CID of the index")).expect("a CID of the index"),
        place: number(start)..number(end),
        records: number(records),
    }
}

/// Writes tree and records in the order of the walk; returns the root and the number of bytes.
fn write_body(out: &mut impl Write, records: impl Iterator<Item = Record>) -> (Cid, usize) {
    let mut leaves: Vec<(String, Cid, Vec<u8>)> = records
        .map(|record| {
            let block = record.value.encode();
            let key = format!("{}/{}", record.collection, record.rkey);
            (key, Cid::dag_cbor(&block), block)
        })
        .collect();
    leaves.sort();
    let entries: Vec<(&str, Cid)> = leaves
        .iter()
        .map(|(key, cid, _)| (key.as_str(), *cid))
        .collect();
    let tree = mst::build(&entries);
    let mut written = HashSet::new();
    let mut length = 0;
    for step in tree.walk {
        let (cid, block) = match step {
            Step::Node(index) => (tree.nodes[index].0, &tree.nodes[index].1),
            Step::Record(index) => (leaves[index].1, &leaves[index].2),
        };
        if written.insert(cid) {
            let frame = car::frame(&[&cid.bytes()[..], block].concat());
            out.write_all(&frame).expect("the body is written");
            length += frame.len();
        }
    }
    (tree.root, length)
}

/// The body's frames in a random order that depends on nothing but their number.
pub fn shuffle(bytes: &[u8], bodies: &[Body]) -> Vec<u8> {
    let mut shuffled = Vec::with_capacity(bytes.len());
    for body in bodies {
        let body = &bytes[body.place.clone()];
        let mut frames = car::frames(body);
        Random::new(frames.len() as u64).shuffle(&mut frames);
        for frame in frames {
            shuffled.extend_from_slice(&body[frame]);
        }
    }
    shuffled
}

/// The account of a repo.
pub struct Account {
    pub did: String,
    key: SigningKey,
}

impl Account {
    /// The account of the repo of this number. All but a few of the network sign with secp256k1.
    pub fn new(number: usize) -> Self {
        let seed = number as u64;
        let key = if number % 50 == 49 {
            SigningKey::p256(seed)
        } else {
            SigningKey::k256(seed)
        };
        Account {
            did: did_plc(seed),
            key,
        }
    }

    /// The beginning of its CAR: the header and the signed commit.
    pub fn head(&self, root: Cid) -> Vec<u8> {
        let rev = tid(1_750_000_000_000_000, 7);
        let (cid, block) = sign_commit(commit_fields(&self.did, &rev, root), &self.key);
        let mut head = car::header(&[cid]);
        head.extend(car::frame(&[&cid.bytes()[..], &block].concat()));
        head
    }

    /// Its DID document.
    pub fn document(&self, pds: &str) -> String {
        did_document(&self.did, &self.key, pds).to_string()
    }
}

/// How many repos a set has.
pub fn count(set: &Set) -> usize {
    match set.repos {
        Repos::None => 0,
        Repos::Network(count)
        | Repos::Own(count, _)
        | Repos::Shared(count, _)
        | Repos::Large(count, _) => count,
    }
}
