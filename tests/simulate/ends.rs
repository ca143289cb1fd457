//! What has become of each repo, as Redis has it, against what it deserves.

use std::collections::BTreeMap;

use redis::Connection;
use redis::streams::StreamRangeReply;
use serde_json::Value;

use super::network::{Deserved, Manner, Network};
use super::repos::Repos;
use crate::support::events::{DEAD_LETTERS, INPUT, OUTPUT, kept_keys, pending, stream_len};

/// How many entries are read in one go.
const PAGE: usize = 1000;

/// What the streams say of one account.
#[derive(Clone, Debug, Default)]
struct Found {
    /// How many events; each is the next one of its repo.
    events: usize,
    /// The first that was not.
    wrong: Option<String>,
    letters: Vec<String>,
}

/// All ends.
#[derive(Debug)]
pub struct Ends {
    /// For each class: how many repos ended how.
    pub by_class: BTreeMap<(Manner, String), usize>,
    /// Repos that have not ended as they deserve, with the reason.
    pub undeserved: Vec<String>,
    /// Repos that have ended, in events or as a dead letter.
    pub ended: usize,
    /// Messages that are still there, new or pending.
    pub left: usize,
    /// Keys of unfinished messages.
    pub keys: Vec<String>,
    /// Events and letters of accounts that nobody has asked for.
    pub strangers: usize,
}

/// Reads all streams.
pub fn read(connection: &mut Connection, network: &Network) -> Ends {
    let repos = Repos::new(network);
    let mut found = vec![Found::default(); network.accounts.len()];
    let mut strangers = 0;
    each(connection, OUTPUT, "event", |text| {
        let event: Value = serde_json::from_str(text).expect("an event is JSON");
        match repos.number(event["did"].as_str().unwrap_or_default()) {
            Some(account) => found[account].event(&event, &repos, account),
            None => strangers += 1,
        }
    });
    let mut reasons = Vec::new();
    each(connection, DEAD_LETTERS, "reason", |reason| {
        reasons.push(reason.to_owned());
    });
    let mut reasons = reasons.into_iter();
    each(connection, DEAD_LETTERS, "repo", |text| {
        let message: Value = serde_json::from_str(text).expect("a message is JSON");
        let reason = reasons.next().unwrap_or_default();
        match repos.number(message["did"].as_str().unwrap_or_default()) {
            Some(account) => found[account].letters.push(reason),
            None => strangers += 1,
        }
    });
    let mut ends = Ends {
        by_class: BTreeMap::new(),
        undeserved: Vec::new(),
        ended: 0,
        left: stream_len(connection, INPUT).max(pending(connection)),
        keys: kept_keys(connection),
        strangers,
    };
    for (number, found) in found.iter().enumerate() {
        let account = &network.accounts[number];
        let manner = class(network.hosts[account.host].manner);
        let end = found.end(repos.get(number).body.records.len() + 1);
        let is_deserved = match manner.deserves() {
            Deserved::Events => end == EVENTS,
            Deserved::DeadLetter(reasons) => reasons.contains(&end.as_str()),
        };
        if !is_deserved {
            let text = format!(
                "{} of host {} ({})",
                account.did,
                account.host,
                manner.name()
            );
            ends.undeserved.push(format!("{text}: {end}"));
        }
        ends.ended += usize::from(end == EVENTS || found.letters.len() == 1);
        *ends.by_class.entry((manner, end)).or_default() += 1;
    }
    ends
}

/// How a repo ends whose events are all there, once.
pub const EVENTS: &str = "events";

/// One for all spellings.
pub fn class(manner: Manner) -> Manner {
    match manner {
        Manner::Small(_) => Manner::Small(super::limits::Spelling::None),
        other => other,
    }
}

impl Found {
    /// Takes the next event of the account.
    fn event(&mut self, event: &Value, repos: &Repos, account: usize) {
        let repo = repos.get(account);
        let text = |field: &str| event[field].as_str().unwrap_or_default();
        let is_next = match repo.body.records.get(self.events) {
            Some([collection, rkey, cid]) => {
                text("type") == "create"
                    && text("collection") == collection
                    && text("rkey") == rkey
                    && text("cid") == cid
            }
            None => text("type") == "repo" && self.events == repo.body.records.len(),
        };
        if !is_next || text("commit") != repo.commit {
            let text = format!("event {} is not the next one", self.events);
            self.wrong.get_or_insert(text);
        }
        self.events += 1;
    }

    /// How it ended: `events`, the reason of its dead letter, or what is wrong.
    fn end(&self, expected: usize) -> String {
        match (&self.wrong, self.events, &self.letters[..]) {
            (Some(wrong), ..) => wrong.clone(),
            (None, 0, []) => "nothing".to_owned(),
            (None, 0, [reason]) => reason.clone(),
            (None, events, []) if events == expected => EVENTS.to_owned(),
            (None, events, letters) => format!(
                "{events} of {expected} events and {} dead letters",
                letters.len()
            ),
        }
    }
}

/// Each value of this field, in the order of the stream.
fn each(connection: &mut Connection, stream: &str, field: &str, mut take: impl FnMut(&str)) {
    let mut from = "-".to_owned();
    loop {
        let mut range = redis::cmd("XRANGE");
        range.arg(stream).arg(&from).arg("+").arg("COUNT").arg(PAGE);
        let page: StreamRangeReply = range.query(connection).expect("XRANGE");
        let Some(last) = page.ids.last() else {
            return;
        };
        from = format!("({}", last.id);
        for entry in &page.ids {
            let value: String = entry.get(field).expect("an entry has its field");
            take(&value);
        }
    }
}
