//! The floor: the least that a program of this kind has to do, as code that shares nothing with the program under test.
//!
//! For each repo it receives the CAR over HTTP, hashes every block against its CID while the bytes arrive, walks the tree once,
//! turns every record into the JSON of its event once, and appends the events to a Redis stream in pipelines of XADD, one
//! pipeline in flight while the next is encoded. It does nothing else: no identity, no signature, no check of keys, order or
//! depth, no transaction, no progress, no second attempt. What it spends per record is what the ratios of the benchmark are taken
//! against, so it has to be good: the CAR itself is the arena and blocks are borrowed from it, the index is eight bytes per block,
//! nothing is allocated per record, an event is encoded where it is sent from, and replies are counted without being parsed into
//! values.
//!
//! `floor run <redis> <stream> <file>` says `ready` and, when it is given a line, does this for the repos whose URLs are the lines of
//! the file. `floor encoded …` encodes all pipelines before it is ready, and sends them then: what Redis spends on that is what
//! appending alone costs. Both end with a line of JSON.

use std::error::Error;
use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use data_encoding::BASE64_NOPAD;
use hashbrown::{HashTable, hash_table::Entry};
use sha2::{Digest as _, Sha256};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// `create` events of one pipeline, which one `repo` event ends.
const MAX_CREATES: usize = 500;
/// Bytes of JSON of one pipeline, unless one record alone is larger.
const MAX_JSON: usize = 4 << 20;

/// Runs `run` or `encoded`; see the module.
pub fn main(arguments: &[String]) -> ExitCode {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["run", redis, stream, file] => run(redis, stream, file),
        ["encoded", redis, stream, file] => encoded(redis, stream, file),
        _ => Err("usage: floor run|encoded <redis host:port> <stream> <file of URLs>".into()),
    };
    match result {
        Ok(counts) => {
            println!("{counts}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Everything, one repo after the other.
fn run(redis: &str, stream: &str, file: &str) -> Result<String> {
    let urls = fs::read_to_string(file)?;
    let mut redis = Redis::connect(redis)?;
    let mut counts = Counts::default();
    wait_for_the_word()?;
    let began = Instant::now();
    repos(&urls, stream, &mut counts, |pipeline| redis.swap(pipeline))?;
    redis.read_replies()?;
    Ok(counts.to_json(began))
}

/// Encodes everything, then sends it.
fn encoded(redis: &str, stream: &str, file: &str) -> Result<String> {
    let urls = fs::read_to_string(file)?;
    let mut redis = Redis::connect(redis)?;
    let mut counts = Counts::default();
    let mut pipelines = Vec::new();
    repos(&urls, stream, &mut counts, |pipeline| {
        pipelines.push((pipeline.bytes.clone(), pipeline.replies));
        Ok(())
    })?;
    wait_for_the_word()?;
    let began = Instant::now();
    for (bytes, replies) in &pipelines {
        redis.send(bytes, *replies)?;
        redis.read_replies()?;
    }
    Ok(counts.to_json(began))
}

/// Says that all is ready, and waits for a line.
fn wait_for_the_word() -> Result<()> {
    println!("ready");
    io::stdout().flush()?;
    io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

/// What was done.
#[derive(Default)]
struct Counts {
    repos: usize,
    records: usize,
    car_bytes: usize,
    json_bytes: usize,
}

impl Counts {
    fn to_json(&self, began: Instant) -> String {
        format!(
            r#"{{"repos":{},"records":{},"car_bytes":{},"json_bytes":{},"seconds":{:.6}}}"#,
            self.repos,
            self.records,
            self.car_bytes,
            self.json_bytes,
            began.elapsed().as_secs_f64()
        )
    }
}

/// Receives each repo and hands its pipelines to `send`, which leaves an empty one to go on with.
fn repos(
    urls: &str,
    stream: &str,
    counts: &mut Counts,
    mut send: impl FnMut(&mut Pipeline) -> Result<()>,
) -> Result<()> {
    let mut server = Server::default();
    let mut car = Car::default();
    let mut walk = Walk::default();
    let mut pipeline = Pipeline::default();
    for url in urls.lines().filter(|url| !url.is_empty()) {
        server.receive(url, &mut car)?;
        let commit = Commit::read(car.block(&car.root)?)?;
        let mut events = Events::new(stream, &car.root, &commit);
        walk.leaves(&car, commit.data, |key, record| {
            events.create(key, record, &car, &mut pipeline, &mut send)
        })?;
        events.end(&mut pipeline);
        send(&mut pipeline)?;
        pipeline.clear();
        counts.repos += 1;
        counts.records += events.records;
        counts.json_bytes += events.json_bytes;
        counts.car_bytes += car.length;
    }
    Ok(())
}

// ---- HTTP ----

/// The kept-alive connection to the server of the last repo.
#[derive(Default)]
struct Server {
    connection: Option<(String, TcpStream)>,
}

/// Bytes that one call of the kernel may return: few calls, and what was received is still in the cache when it is hashed.
const READ: usize = 256 << 10;

impl Server {
    /// Receives the answer's body into `car`, which hashes its blocks as they arrive.
    fn receive(&mut self, url: &str, car: &mut Car) -> Result<()> {
        let address = url.strip_prefix("http://").ok_or("the URL is not http")?;
        let (host, path) = address.split_once('/').ok_or("the URL has no path")?;
        let socket = match &mut self.connection {
            Some((known, socket)) if known == host => socket,
            other => {
                let socket = TcpStream::connect(host)?;
                socket.set_nodelay(true)?;
                &mut other.insert((host.to_owned(), socket)).1
            }
        };
        let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        socket.write_all(request.as_bytes())?;

        let mut head = [0; 16 << 10];
        let mut filled = 0;
        let end = loop {
            let count = socket.read(&mut head[filled..])?;
            if count == 0 {
                return Err(format!("{url}: no whole head in the answer").into());
            }
            filled += count;
            let found = head[..filled].windows(4).position(|end| end == b"\r\n\r\n");
            if let Some(found) = found {
                break found + 4;
            }
        };
        let length = content_length(&head[..end]).ok_or_else(|| format!("{url}: not a CAR"))?;
        let body = &head[end..filled];
        car.begin(length, body)?;
        let mut received = body.len();
        while received < length {
            let until = length.min(received + READ);
            let count = socket.read(&mut car.bytes[received..until])?;
            if count == 0 {
                return Err(format!("{url}: the body is cut").into());
            }
            received += count;
            car.received(received)?;
        }
        car.end()
    }
}

/// The length of the body of a good answer.
fn content_length(head: &[u8]) -> Option<usize> {
    let mut lines = std::str::from_utf8(head).ok()?.lines();
    lines.next()?.strip_prefix("HTTP/1.1 200")?;
    lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let wanted = name.eq_ignore_ascii_case("content-length");
        wanted.then(|| value.trim().parse().ok())?
    })
}

// ---- Blocks ----

/// A SHA-256 digest.
type Digest = [u8; 32];

/// How the CID of a block begins: version 1, dag-cbor, sha2-256 of 32 bytes.
const CID_PREFIX: [u8; 4] = [0x01, 0x71, 0x12, 0x20];
const CID: usize = 36;

/// The bytes of a CAR, and where its blocks are.
#[derive(Default)]
struct Car {
    /// Longer than the CAR where one before was longer.
    bytes: Vec<u8>,
    length: usize,
    /// Where the first frame begins that has not been read.
    next: usize,
    root: Digest,
    index: HashTable<Place>,
}

/// Where a block is: its bytes come behind its digest.
struct Place {
    digest: u32,
    length: u32,
}

impl Car {
    /// A body of this length begins with these bytes.
    fn begin(&mut self, length: usize, body: &[u8]) -> Result<()> {
        if u32::try_from(length).is_err() || body.len() > length {
            return Err("the CAR is too large, or longer than the answer says".into());
        }
        if self.bytes.len() < length {
            self.bytes = vec![0; length];
        }
        self.bytes[..body.len()].copy_from_slice(body);
        (self.length, self.next) = (length, 0);
        self.index.clear();
        // A block of a record or a node is seldom smaller, so that the index need not grow.
        let bytes = &self.bytes;
        self.index
            .reserve(length / 256, |place| hash(digest_at(bytes, place)));
        self.received(body.len())
    }

    /// Reads the frames that have arrived as a whole; so many bytes are there.
    fn received(&mut self, available: usize) -> Result<()> {
        while let Some((start, end)) = frame(&self.bytes[..available], self.next) {
            if self.next == 0 {
                self.root = root(&self.bytes[start..end])?;
            } else {
                self.keep(start, end)?;
            }
            self.next = end;
        }
        Ok(())
    }

    /// Hashes the block of a frame and takes it into the index.
    fn keep(&mut self, start: usize, end: usize) -> Result<()> {
        let Car { bytes, index, .. } = self;
        let (cid, block) = bytes[start..end]
            .split_at_checked(CID)
            .ok_or("a frame without a CID")?;
        let digest = cid
            .strip_prefix(&CID_PREFIX)
            .ok_or("a CID of a strange kind")?;
        if *Sha256::digest(block) != *digest {
            return Err("a block does not hash to its CID".into());
        }
        let place = Place {
            digest: (end - block.len() - digest.len()) as u32,
            length: block.len() as u32,
        };
        let same = |other: &Place| digest_at(bytes, other) == digest;
        let entry = index.entry(hash(digest), same, |other| hash(digest_at(bytes, other)));
        if let Entry::Vacant(vacant) = entry {
            vacant.insert(place);
        }
        Ok(())
    }

    /// All bytes have arrived.
    fn end(&self) -> Result<()> {
        if self.next == self.length && self.length > 0 {
            Ok(())
        } else {
            Err("the CAR ends inside a frame".into())
        }
    }

    /// The block with this digest.
    fn block(&self, digest: &[u8]) -> Result<&[u8]> {
        let place = self
            .index
            .find(hash(digest), |place| {
                digest_at(&self.bytes, place) == digest
            })
            .ok_or("a block is missing")?;
        let start = place.digest as usize + size_of::<Digest>();
        Ok(&self.bytes[start..start + place.length as usize])
    }
}

fn digest_at<'a>(bytes: &'a [u8], place: &Place) -> &'a [u8] {
    let start = place.digest as usize;
    &bytes[start..start + size_of::<Digest>()]
}

/// A digest is as random as a hash can be.
fn hash(digest: &[u8]) -> u64 {
    digest
        .first_chunk()
        .map_or(0, |first| u64::from_le_bytes(*first))
}

/// Where the content of the frame at `start` begins and ends, if it is there as a whole.
fn frame(bytes: &[u8], start: usize) -> Option<(usize, usize)> {
    let (mut length, mut shift, mut at) = (0usize, 0, start);
    loop {
        let byte = *bytes.get(at)?;
        at += 1;
        length |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
        shift += 7;
        if shift > 35 {
            return None;
        }
    }
    let end = at + length;
    (end <= bytes.len()).then_some((at, end))
}

/// The digest of the first root that a CAR's header names.
fn root(header: &[u8]) -> Result<Digest> {
    let mut root = None;
    let mut input = Input(header);
    for _ in 0..input.map()? {
        match input.text()? {
            b"roots" => {
                for _ in 0..input.array()? {
                    let cid = input.link()?;
                    root.get_or_insert(cid);
                }
            }
            _ => input.skip()?,
        }
    }
    let digest = root.and_then(|cid| cid.strip_prefix(&CID_PREFIX));
    Ok(digest.ok_or("no root")?.try_into()?)
}

// ---- Tree ----

/// What the events need of a commit.
#[derive(Default)]
struct Commit<'a> {
    did: &'a str,
    rev: &'a str,
    /// The digest of the tree's root.
    data: &'a [u8],
}

impl<'a> Commit<'a> {
    fn read(block: &'a [u8]) -> Result<Self> {
        let mut commit = Commit::default();
        let mut input = Input(block);
        for _ in 0..input.map()? {
            match input.text()? {
                b"did" => commit.did = std::str::from_utf8(input.text()?)?,
                b"rev" => commit.rev = std::str::from_utf8(input.text()?)?,
                b"data" => commit.data = node_digest(input.link()?)?,
                _ => input.skip()?,
            }
        }
        Ok(commit)
    }
}

fn node_digest(cid: &[u8]) -> Result<&[u8]> {
    Ok(cid.strip_prefix(&CID_PREFIX).ok_or("a link to no block")?)
}

/// An entry of a node that is being walked.
struct Leaf {
    /// Where its key ends; it begins where that of the entry before ends.
    key_end: usize,
    /// Where its record's CID and the link to the right of it are in the node; 0: there is none.
    value: u32,
    right: u32,
}

/// The walk over a tree. The entries and the keys of all nodes from the root to the current one lie in two vectors, one node's behind
/// the other's.
#[derive(Default)]
struct Walk {
    leaves: Vec<Leaf>,
    keys: Vec<u8>,
}

impl Walk {
    /// Calls `each` with the key and the CID of each record, in the order of the keys.
    fn leaves(
        &mut self,
        car: &Car,
        root: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.leaves.clear();
        self.keys.clear();
        self.node(car, root, &mut each)
    }

    fn node(
        &mut self,
        car: &Car,
        digest: &[u8],
        each: &mut impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let block = car.block(digest)?;
        let (first, first_key) = (self.leaves.len(), self.keys.len());
        let left = self.read(block)?;
        if left != 0 {
            self.node(car, node_digest(cid_at(block, left))?, each)?;
        }
        let mut key = first_key;
        for leaf in first.. {
            let Some(leaf) = self.leaves.get(leaf) else {
                break;
            };
            let right = leaf.right;
            each(&self.keys[key..leaf.key_end], cid_at(block, leaf.value))?;
            key = leaf.key_end;
            if right != 0 {
                self.node(car, node_digest(cid_at(block, right))?, each)?;
            }
        }
        self.leaves.truncate(first);
        self.keys.truncate(first_key);
        Ok(())
    }

    /// Reads the entries of a node; returns where the link is that comes before them.
    fn read(&mut self, block: &[u8]) -> Result<u32> {
        let mut left = 0;
        let mut input = Input(block);
        for _ in 0..input.map()? {
            match input.text()? {
                b"l" => left = input.link_or_null(block)?,
                b"e" => {
                    let mut before = self.keys.len()..self.keys.len();
                    for _ in 0..input.array()? {
                        before = self.entry(&mut input, block, before)?;
                    }
                }
                _ => input.skip()?,
            }
        }
        Ok(left)
    }

    /// Reads an entry; `before` is where the key before it is, and what is returned, where its own is.
    fn entry(
        &mut self,
        input: &mut Input<'_>,
        block: &[u8],
        before: std::ops::Range<usize>,
    ) -> Result<std::ops::Range<usize>> {
        let (mut suffix, mut prefix) = (&[][..], 0);
        let (mut value, mut right) = (0, 0);
        for _ in 0..input.map()? {
            match input.text()? {
                b"k" => suffix = input.bytes()?,
                b"p" => prefix = input.unsigned()? as usize,
                b"v" => value = input.link_or_null(block)?,
                b"t" => right = input.link_or_null(block)?,
                _ => input.skip()?,
            }
        }
        if value == 0 || prefix > before.len() {
            return Err("a wrong entry in a node".into());
        }
        let start = self.keys.len();
        self.keys
            .extend_from_within(before.start..before.start + prefix);
        self.keys.extend_from_slice(suffix);
        let key_end = self.keys.len();
        self.leaves.push(Leaf {
            key_end,
            value,
            right,
        });
        Ok(start..key_end)
    }
}

fn cid_at(block: &[u8], at: u32) -> &[u8] {
    &block[at as usize..at as usize + CID]
}

// ---- Events ----

/// Commands that are sent in one go.
#[derive(Default)]
struct Pipeline {
    bytes: Vec<u8>,
    replies: usize,
    json: usize,
}

impl Pipeline {
    fn clear(&mut self) {
        self.bytes.clear();
        (self.replies, self.json) = (0, 0);
    }

    /// Appends the command that appends the event that `encode` writes.
    ///
    /// The length of the event stands before it and is known behind it. So the place that it takes is guessed, and the event
    /// is moved where the guess was wrong.
    fn append(
        &mut self,
        command: &[u8],
        digits: usize,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<usize> {
        let out = &mut self.bytes;
        out.extend_from_slice(command);
        let head = out.len();
        out.extend_from_slice(&b"00000000"[..digits.min(8)]);
        out.extend_from_slice(b"\r\n");
        let start = out.len();
        encode(out)?;
        let length = out.len() - start;
        let mut text = itoa::Buffer::new();
        let text = text.format(length).as_bytes();
        out.extend_from_slice(b"\r\n");
        if text.len() == start - 2 - head {
            out[head..head + text.len()].copy_from_slice(text);
        } else {
            let end = out.len();
            let moved = head + text.len();
            out.resize(end.max(moved + end - (start - 2)), 0);
            out.copy_within(start - 2..end, moved);
            out.truncate(moved + end - (start - 2));
            out[head..moved].copy_from_slice(text);
        }
        self.replies += 1;
        self.json += length;
        Ok(length)
    }
}

/// The events of one repo.
struct Events {
    /// XADD up to the length of the event.
    command: Vec<u8>,
    /// A `create` event up to its collection.
    create: Vec<u8>,
    /// The `repo` event.
    repo: Vec<u8>,
    /// Of the present pipeline.
    creates: usize,
    records: usize,
    json_bytes: usize,
}

impl Events {
    fn new(stream: &str, commit: &Digest, of: &Commit<'_>) -> Self {
        let time = jiff::Timestamp::try_from(SystemTime::now()).unwrap_or_default();
        let time = time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ");
        let mut cid = Vec::new();
        cid_text(&[&CID_PREFIX[..], commit].concat(), &mut cid);
        let (did, rev, commit) = (of.did, of.rev, String::from_utf8_lossy(&cid));
        let rest =
            format!(r#""seq":-1,"time":"{time}","did":"{did}","commit":"{commit}","rev":"{rev}""#);
        let length = stream.len();
        Events {
            command: format!(
                "*5\r\n$4\r\nXADD\r\n${length}\r\n{stream}\r\n$1\r\n*\r\n$5\r\nevent\r\n$"
            )
            .into_bytes(),
            create: format!(r#"{{"type":"create",{rest},"collection":""#).into_bytes(),
            repo: format!(r#"{{"type":"repo",{rest}}}"#).into_bytes(),
            creates: 0,
            records: 0,
            json_bytes: 0,
        }
    }

    /// Adds a `create` event; sends the pipeline before it where it does not fit any more.
    fn create(
        &mut self,
        key: &[u8],
        cid: &[u8],
        car: &Car,
        pipeline: &mut Pipeline,
        send: &mut impl FnMut(&mut Pipeline) -> Result<()>,
    ) -> Result<()> {
        let record = car.block(node_digest(cid)?)?;
        let slash = key.iter().position(|&byte| byte == b'/');
        let slash = slash.ok_or("a key without a slash")?;
        if self.creates == MAX_CREATES {
            self.end(pipeline);
            send(pipeline)?;
            pipeline.clear();
        }
        let (start, json) = (pipeline.bytes.len(), pipeline.json);
        // Most events have some 200 bytes more than their records.
        let digits = 3 + usize::from(record.len() > 700) + usize::from(record.len() > 9_700);
        let encode = |out: &mut Vec<u8>| {
            // With room for what is between its parts.
            out.reserve(self.create.len() + key.len() + record.len() * 2 + 256);
            out.extend_from_slice(&self.create);
            out.extend_from_slice(&key[..slash]);
            out.extend_from_slice(b"\",\"rkey\":\"");
            out.extend_from_slice(&key[slash + 1..]);
            out.extend_from_slice(b"\",\"cid\":\"");
            cid_text(cid, out);
            out.extend_from_slice(b"\",\"record\":");
            let mut input = Input(record);
            input.value(0, out)?;
            out.push(b'}');
            if input.0.is_empty() {
                Ok(())
            } else {
                Err("bytes behind a record".into())
            }
        };
        let length = pipeline.append(&self.command, digits, encode)?;
        if self.creates > 0 && json + length + self.repo.len() > MAX_JSON {
            let command = pipeline.bytes.split_off(start);
            (pipeline.json, pipeline.replies) = (json, pipeline.replies - 1);
            self.end(pipeline);
            send(pipeline)?;
            pipeline.clear();
            pipeline.bytes.extend_from_slice(&command);
            (pipeline.json, pipeline.replies) = (length, 1);
        }
        self.creates += 1;
        self.records += 1;
        self.json_bytes += length;
        Ok(())
    }

    /// Adds the `repo` event that ends a pipeline.
    fn end(&mut self, pipeline: &mut Pipeline) {
        let head = self.repo.len().to_string();
        for part in [&self.command, head.as_bytes(), b"\r\n", &self.repo, b"\r\n"] {
            pipeline.bytes.extend_from_slice(part);
        }
        pipeline.replies += 1;
        self.json_bytes += self.repo.len();
        self.creates = 0;
    }
}

/// The text of a CID: `b` and base32 in lower case, ten bits at a time.
fn cid_text(cid: &[u8], out: &mut Vec<u8>) {
    const PAIRS: [[u8; 2]; 1024] = {
        let letters = b"abcdefghijklmnopqrstuvwxyz234567";
        let mut pairs = [[0; 2]; 1024];
        let mut n = 0;
        while n < 1024 {
            pairs[n] = [letters[n >> 5], letters[n & 31]];
            n += 1;
        }
        pairs
    };
    static TABLE: [[u8; 2]; 1024] = PAIRS;
    out.push(b'b');
    let mut chunks = cid.chunks_exact(5);
    for chunk in &mut chunks {
        let bits = chunk
            .iter()
            .fold(0u64, |bits, &byte| bits << 8 | u64::from(byte));
        let mut text = [0; 8];
        for (n, pair) in text.chunks_exact_mut(2).enumerate() {
            pair.copy_from_slice(&TABLE[(bits >> (30 - 10 * n)) as usize & 1023]);
        }
        out.extend_from_slice(&text);
    }
    let rest = chunks.remainder();
    let mut bits = rest
        .iter()
        .fold(0u64, |bits, &byte| bits << 8 | u64::from(byte));
    bits <<= 40 - 8 * rest.len();
    for n in 0..(rest.len() * 8).div_ceil(5) {
        out.push(TABLE[(bits >> (35 - 5 * n)) as usize & 31][1]);
    }
}

// ---- CBOR and JSON ----

/// What is left of the bytes of a block.
struct Input<'a>(&'a [u8]);

/// How deep values may be nested.
const MAX_DEPTH: usize = 128;

impl<'a> Input<'a> {
    /// The major type of the next item, and its argument.
    #[inline]
    fn head(&mut self) -> Result<(u8, u64)> {
        let (&first, rest) = self.0.split_first().ok_or(CUT)?;
        self.0 = rest;
        let additional = first & 31;
        let argument = match additional {
            0..24 => u64::from(additional),
            24 => u64::from(u8::from_be_bytes(self.array_of()?)),
            25 => u64::from(u16::from_be_bytes(self.array_of()?)),
            26 => u64::from(u32::from_be_bytes(self.array_of()?)),
            27 => u64::from_be_bytes(self.array_of()?),
            _ => return Err("an indefinite length".into()),
        };
        Ok((first >> 5, argument))
    }

    #[inline]
    fn array_of<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk().ok_or(CUT)?;
        self.0 = rest;
        Ok(*array)
    }

    #[inline]
    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length as usize).ok_or(CUT)?;
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    fn argument_of(&mut self, wanted: u8) -> Result<u64> {
        match self.head()? {
            (major, argument) if major == wanted => Ok(argument),
            _ => Err("another CBOR item than is expected".into()),
        }
    }

    fn unsigned(&mut self) -> Result<u64> {
        self.argument_of(0)
    }

    #[inline]
    fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.argument_of(2)?;
        self.take(length)
    }

    #[inline]
    fn text(&mut self) -> Result<&'a [u8]> {
        let length = self.argument_of(3)?;
        self.take(length)
    }

    fn array(&mut self) -> Result<u64> {
        self.argument_of(4)
    }

    fn map(&mut self) -> Result<u64> {
        self.argument_of(5)
    }

    fn link(&mut self) -> Result<&'a [u8]> {
        match self.argument_of(6)? {
            42 => self.cid(),
            _ => Err("a strange tag".into()),
        }
    }

    /// The CID behind the tag of a link.
    #[inline]
    fn cid(&mut self) -> Result<&'a [u8]> {
        match self.bytes()? {
            [0, cid @ ..] => Ok(cid),
            _ => Err("a link without a CID".into()),
        }
    }

    /// Where in the block the CID of a link is; 0 for null.
    #[inline]
    fn link_or_null(&mut self, block: &[u8]) -> Result<u32> {
        if let [0xf6, rest @ ..] = self.0 {
            self.0 = rest;
            return Ok(0);
        }
        match self.link()? {
            cid if cid.len() == CID => Ok((block.len() - self.0.len() - CID) as u32),
            _ => Err("a CID of a strange kind".into()),
        }
    }

    fn skip(&mut self) -> Result<()> {
        self.value(0, &mut Vec::new())
    }

    /// Appends the next value as JSON.
    fn value(&mut self, depth: usize, out: &mut Vec<u8>) -> Result<()> {
        let first = self.0.first().copied().unwrap_or_default();
        let (major, argument) = self.head()?;
        match major {
            0 => out.extend_from_slice(itoa::Buffer::new().format(argument).as_bytes()),
            1 => {
                let number = -1 - i128::from(argument);
                out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
            }
            2 => {
                let bytes = self.take(argument)?;
                out.extend_from_slice(b"{\"$bytes\":\"");
                let start = out.len();
                out.resize(start + BASE64_NOPAD.encode_len(bytes.len()), 0);
                BASE64_NOPAD.encode_mut(bytes, &mut out[start..]);
                out.extend_from_slice(b"\"}");
            }
            3 => string(self.take(argument)?, out)?,
            4 | 5 if depth == MAX_DEPTH => return Err("nested too deep".into()),
            4 => {
                out.push(b'[');
                for n in 0..argument {
                    if n > 0 {
                        out.push(b',');
                    }
                    self.value(depth + 1, out)?;
                }
                out.push(b']');
            }
            5 => {
                out.push(b'{');
                for n in 0..argument {
                    if n > 0 {
                        out.push(b',');
                    }
                    string(self.text()?, out)?;
                    out.push(b':');
                    self.value(depth + 1, out)?;
                }
                out.push(b'}');
            }
            6 if argument == 42 => {
                out.extend_from_slice(b"{\"$link\":\"");
                cid_text(self.cid()?, out);
                out.extend_from_slice(b"\"}");
            }
            _ => match first {
                0xf4 => out.extend_from_slice(b"false"),
                0xf5 => out.extend_from_slice(b"true"),
                0xf6 => out.extend_from_slice(b"null"),
                0xfb => {
                    let number = f64::from_bits(argument);
                    out.extend_from_slice(ryu::Buffer::new().format(number).as_bytes());
                }
                _ => return Err("a strange CBOR item".into()),
            },
        }
        Ok(())
    }
}

const CUT: &str = "a block is cut";

/// Appends a text as a JSON string.
#[inline]
fn string(text: &[u8], out: &mut Vec<u8>) -> Result<()> {
    out.push(b'"');
    if is_plain(text) {
        out.extend_from_slice(text);
    } else {
        escaped(text, out)?;
    }
    out.push(b'"');
    Ok(())
}

/// Whether a text is ASCII without anything that JSON escapes, which most are.
#[inline]
fn is_plain(text: &[u8]) -> bool {
    let plain = |byte: u8| matches!(byte, 0x20..0x80) && byte != b'"' && byte != b'\\';
    let mut chunks = text.chunks_exact(16);
    // Without a way out in between, the compiler looks at sixteen bytes at once.
    let all = |chunk: &[u8]| chunk.iter().fold(true, |all, &byte| all & plain(byte));
    chunks.by_ref().all(all) && chunks.remainder().iter().all(|&byte| plain(byte))
}

#[inline(never)]
fn escaped(text: &[u8], out: &mut Vec<u8>) -> Result<()> {
    simdutf8::basic::from_utf8(text)?;
    let mut written = 0;
    for (at, &byte) in text.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text[written..at]);
        written = at + 1;
        let short = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            _ => {
                write!(out, "\\u{byte:04x}")?;
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
    out.extend_from_slice(&text[written..]);
    Ok(())
}

// ---- Redis ----

/// The connection to Redis, with at most one pipeline in flight.
struct Redis {
    socket: TcpStream,
    /// Replies that are to be read.
    expected: usize,
    /// What has been received and not been looked at.
    replies: Vec<u8>,
    /// The pipeline that is being sent.
    sent: Pipeline,
}

impl Redis {
    fn connect(address: &str) -> Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        Ok(Redis {
            socket,
            expected: 0,
            replies: vec![0; 64 << 10],
            sent: Pipeline::default(),
        })
    }

    /// Sends a pipeline as soon as the one before is answered, and leaves that one's memory for the next.
    fn swap(&mut self, pipeline: &mut Pipeline) -> Result<()> {
        self.read_replies()?;
        std::mem::swap(&mut self.sent, pipeline);
        self.expected = self.sent.replies;
        self.socket.write_all(&self.sent.bytes)?;
        Ok(())
    }

    fn send(&mut self, bytes: &[u8], replies: usize) -> Result<()> {
        self.expected = replies;
        self.socket.write_all(bytes)?;
        Ok(())
    }

    /// Reads the replies that are expected: the ids of entries, as bulk strings.
    fn read_replies(&mut self) -> Result<()> {
        let mut held = 0;
        while self.expected > 0 {
            let count = self.socket.read(&mut self.replies[held..])?;
            if count == 0 {
                return Err("Redis has closed the connection".into());
            }
            let available = held + count;
            let mut at = 0;
            while let Some(length) = reply(&self.replies[at..available])? {
                at += length;
                self.expected = self.expected.checked_sub(1).ok_or("a reply too many")?;
            }
            self.replies.copy_within(at..available, 0);
            held = available - at;
        }
        if held == 0 {
            Ok(())
        } else {
            Err("a reply too many".into())
        }
    }
}

/// How long the first reply is, if it is there as a whole.
fn reply(bytes: &[u8]) -> Result<Option<usize>> {
    let Some((&kind, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
        return Ok(None);
    };
    let line = rest[..end].trim_ascii_end();
    if kind != b'$' {
        return Err(format!("Redis replied {}", String::from_utf8_lossy(line)).into());
    }
    let text: usize = std::str::from_utf8(line)?.parse()?;
    let length = 1 + end + 1 + text + 2;
    Ok((bytes.len() >= length).then_some(length))
}
