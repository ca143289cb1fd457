//! Hostile repositories, a catalogue for each rule from R2 to R7: each entry is wrong in one place, right in all others, and
//! signed by its owner where that is possible, so that the rule alone can refuse it.
//!
//! [`outcomes`] reads what became of such accounts out of the program's log.

mod archives;
mod commits;
mod documents;
pub mod outcomes;
pub mod stage;
mod trees;

use serde_json::Value as Json;

use super::fixture_server::{Fault, FixtureServer};
use super::generator::cid::sha256;
use super::generator::{Repo, RepoBuilder, SigningKey, did_plc, records};

/// Stands for the server in the documents of a catalogue, which do not know it.
const SERVER: &str = "http://pds.invalid";

/// A repository that must be refused.
#[derive(Clone, Debug)]
pub struct Hostile {
    pub rule: &'static str,
    /// What is wrong with it.
    pub name: String,
    /// The reason that the log must give.
    pub reason: &'static str,
    pub did: String,
    pub car: Vec<u8>,
    pub document: Json,
    /// How the server sends it.
    pub fault: Fault,
}

impl Hostile {
    /// Registers it with the server, which its document names.
    pub fn serve(&self, server: &FixtureServer) {
        self.serve_at(server, server);
    }

    /// Registers it with its host, and its document, which names that, with the directory.
    pub fn serve_at(&self, host: &FixtureServer, directory: &FixtureServer) {
        let document = self.document.to_string().replace(SERVER, &host.url());
        directory.put_document_status(&self.did, 200, document);
        host.put_repo(&self.did, self.car.clone());
        host.set_fault(&self.did, self.fault.clone());
    }
}

/// All hostile repositories of a rule.
pub fn of_rule(rule: &'static str) -> Vec<Hostile> {
    let mut catalogue = Catalogue {
        rule,
        list: Vec::new(),
    };
    match rule {
        "R2" => archives::wrong_hashes(&mut catalogue),
        "R3" => archives::wrong_roots(&mut catalogue),
        "R4" => archives::cut_short(&mut catalogue),
        "R5" => commits::fill(&mut catalogue),
        "R6" => documents::fill(&mut catalogue),
        "R7" => trees::fill(&mut catalogue),
        _ => panic!("there is no catalogue of {rule}"),
    }
    assert!(!catalogue.list.is_empty());
    catalogue.list
}

/// A good repository, to be served beside hostile ones.
pub fn good(name: &str) -> Repo {
    let seed = seed_of(name);
    RepoBuilder::new(did_plc(seed))
        .key(SigningKey::k256(seed))
        .records(records::mixed(seed, 40))
        .build()
}

fn seed_of(name: &str) -> u64 {
    let digest = sha256(name.as_bytes());
    u64::from_be_bytes(*digest.first_chunk().expect("eight bytes"))
}

/// A catalogue that is being filled.
struct Catalogue {
    rule: &'static str,
    list: Vec<Hostile>,
}

impl Catalogue {
    /// An account of its own for the next entry: DID and key, of either curve in turn.
    fn account(&self) -> (String, SigningKey) {
        let place = self.list.len();
        let seed = seed_of(&format!("{}/{place}", self.rule));
        let key = if place.is_multiple_of(2) {
            SigningKey::k256(seed)
        } else {
            SigningKey::p256(seed)
        };
        (did_plc(seed), key)
    }

    /// A good repo of so many records for the next entry.
    fn repo(&self, count: usize) -> Repo {
        let (did, key) = self.account();
        let seed = seed_of(&did);
        RepoBuilder::new(did)
            .key(key)
            .records(records::mixed(seed, count))
            .build()
    }

    /// An entry whose repo is wrong as it stands.
    fn add(&mut self, name: impl Into<String>, reason: &'static str, repo: &Repo) {
        self.add_car(name, reason, repo, repo.car());
    }

    /// An entry whose archive is wrong.
    fn add_car(
        &mut self,
        name: impl Into<String>,
        reason: &'static str,
        repo: &Repo,
        car: Vec<u8>,
    ) {
        self.list.push(Hostile {
            rule: self.rule,
            name: name.into(),
            reason,
            did: repo.did.clone(),
            car,
            document: repo.did_document(SERVER),
            fault: Fault::Normal,
        });
    }

    /// An entry whose server breaks off.
    fn add_fault(
        &mut self,
        name: impl Into<String>,
        reason: &'static str,
        repo: &Repo,
        fault: Fault,
    ) {
        self.add(name, reason, repo);
        self.last().fault = fault;
    }

    /// An entry whose document is wrong; it is given the good one to change.
    fn add_document(&mut self, name: &str, reason: &'static str, change: impl FnOnce(&mut Json)) {
        let repo = self.repo(3);
        self.add(name, reason, &repo);
        change(&mut self.last().document);
    }

    fn last(&mut self) -> &mut Hostile {
        self.list.last_mut().expect("an entry")
    }
}

/// The fields of an entry.
pub type Fields = Vec<(&'static str, &'static [u8])>;

/// Messages that can never become events.
pub fn malformed_messages() -> Vec<Fields> {
    let mut messages: Vec<Fields> = vec![
        vec![("did", b"did:plc:aaaa")],
        vec![("Repo", b"{}"), ("other", b"")],
    ];
    let values: [&[u8]; 16] = [
        b"",
        b"no JSON",
        b"null",
        b"[]",
        b"{\"did\":\"did:plc:aaaa\"",
        b"{\"host\":\"pds.example\"}",
        b"{\"did\":7}",
        b"{\"did\":\"alice.example\"}",
        b"{\"did\":\"did:plc:\"}",
        b"{\"did\":\"did:plc:a\\nfailed did=x\"}",
        b"{\"did\":\"did:key:zQ3shrBMVuqvBzFRwh1UB6dH2qQGdiEosbbCcft7PkWVFqakD\"}",
        b"{\"did\":\"did:plc:aaaa\",\"host\":\"ftp://pds.example\"}",
        b"{\"did\":\"did:plc:aaaa\",\"host\":\"http://pds.example/path?x\"}",
        b"{\"did\":\"did:plc:aaaa\",\"host\":[]}",
        b"\xff\xfe\x00\r\n{\"did\":\"did:plc:aaaa\"}",
        b"{\"did\":\"did:plc:aaaa\xff\"}",
    ];
    messages.extend(values.map(|value| vec![("repo", value)]));
    messages
}
