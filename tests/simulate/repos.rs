//! The repos of a network: small ones of ordinary records, each with a commit of its own.
//!
//! Many accounts share a tree and a key, so that twenty thousand take seconds to make; each account's commit is signed for it alone.

use std::collections::HashMap;
use std::sync::Arc;

use super::network::Network;
use crate::support::generator::{
    Cid, RepoBuilder, SigningKey, car, commit_fields, records, sign_commit, tid,
};

/// How many different trees there are.
const TREES: usize = 61;
/// How many different keys. All but a few of the network sign with secp256k1.
const KEYS: usize = 64;
/// Records of a repo: between these, ten on average.
const RECORDS: std::ops::RangeInclusive<usize> = 5..=15;

/// Tree and records, which many repos share.
pub struct Body {
    root: Cid,
    /// Frames of a CAR.
    pub frames: Vec<u8>,
    /// Collection, rkey and CID of each record, in order.
    pub records: Vec<[String; 3]>,
}

/// A repo.
pub struct Repo {
    /// The CAR's header and the commit.
    pub head: Vec<u8>,
    pub commit: String,
    pub body: Arc<Body>,
    key: usize,
}

/// All repos of a network.
pub struct Repos {
    repos: Vec<Repo>,
    keys: Vec<SigningKey>,
    numbers: HashMap<String, usize>,
}

impl Repos {
    pub fn new(network: &Network) -> Self {
        let keys: Vec<_> = (0..KEYS as u64)
            .map(|seed| match seed % 50 {
                49 => SigningKey::p256(seed),
                _ => SigningKey::k256(seed),
            })
            .collect();
        let sizes = RECORDS.end() - RECORDS.start() + 1;
        let bodies: Vec<_> = (0..TREES)
            .map(|number| Arc::new(body(number as u64, RECORDS.start() + number % sizes)))
            .collect();
        let rev = tid(1_750_000_000_000_000, 7);
        let numbered = network.accounts.iter().enumerate();
        let repos = numbered.clone().map(|(number, account)| {
            let (key, body) = (number % KEYS, &bodies[number % TREES]);
            let fields = commit_fields(&account.did, &rev, body.root);
            let (cid, block) = sign_commit(fields, &keys[key]);
            let mut head = car::header(&[cid]);
            head.extend(car::frame(&[&cid.bytes()[..], &block].concat()));
            Repo {
                head,
                commit: cid.to_string(),
                body: Arc::clone(body),
                key,
            }
        });
        Repos {
            repos: repos.collect(),
            numbers: numbered
                .map(|(number, account)| (account.did.clone(), number))
                .collect(),
            keys,
        }
    }

    pub fn get(&self, account: usize) -> &Repo {
        &self.repos[account]
    }

    pub fn key(&self, account: usize) -> &SigningKey {
        &self.keys[self.repos[account].key]
    }

    /// The number of this account.
    pub fn number(&self, did: &str) -> Option<usize> {
        self.numbers.get(did).copied()
    }
}

fn body(seed: u64, size: usize) -> Body {
    let repo = RepoBuilder::new("did:plc:nobody")
        .records(records::mixed(seed, size))
        .build();
    let others = repo
        .blocks
        .iter()
        .filter(|(cid, _)| *cid != repo.commit_cid);
    let frames = others.flat_map(|(cid, block)| car::frame(&[&cid.bytes()[..], block].concat()));
    let records = repo.expected.iter().map(|record| {
        [
            record.collection.clone(),
            record.rkey.clone(),
            record.cid.to_string(),
        ]
    });
    Body {
        root: repo.root,
        frames: frames.collect(),
        records: records.collect(),
    }
}
