//! The hosts as they are shown: how many messages wait for each, how many requests are at it, and for how long it is left alone.
//!
//! What waits is what the reader published last; the rest is read off the gates. Looking at thousands of them takes a moment and their
//! locks, so it is done once a second at most, however many ask. Names are strangers' choice, so only so many are shown.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Watched;
use crate::hosts::Key;

/// Hosts that are shown.
const SHOWN: usize = 50;
/// How old what is shown may be.
const FRESH: Duration = Duration::from_secs(1);

/// What was seen last.
#[derive(Default)]
pub struct HostsSeen(Option<(Instant, HostsView)>);

/// All hosts, and some of them.
#[derive(Debug, Default)]
pub struct HostsView {
    /// That are known, the directory included.
    pub total: usize,
    /// That are closed, for a cool-down or by their circuit.
    pub cooling: usize,
    /// Those with the most waiting messages, and those that are closed.
    pub shown: Vec<HostView>,
}

/// One host.
#[derive(Debug, PartialEq, Eq)]
pub struct HostView {
    /// Name and port; `directory` is that of did:plc documents, `unknown` whichever a document will name.
    pub name: String,
    /// Messages that wait for it here.
    pub waiting: usize,
    /// Requests that are made or about to be made.
    pub running: usize,
    /// Until when it is closed.
    pub closed_until: Option<Instant>,
}

impl HostsSeen {
    /// The hosts as they are about now.
    pub fn look(&mut self, watched: &Watched, now: Instant) -> &HostsView {
        let is_fresh = |(at, _): &(Instant, HostsView)| now.duration_since(*at) < FRESH;
        let seen = self.0.take().filter(is_fresh);
        &self
            .0
            .insert(seen.unwrap_or_else(|| (now, look(watched, now))))
            .1
    }
}

impl HostView {
    /// The most waiting first; of those for which none waits, those that are closed.
    fn place(&self) -> impl Ord + use<> {
        let closed = self.closed_until.is_some();
        (
            Reverse(self.waiting),
            Reverse(closed),
            Reverse(self.running),
        )
    }
}

/// A host's name has a port, so these two are nobody's.
fn name(key: &Key) -> String {
    if key.is_directory() {
        "directory".to_owned()
    } else if key.is_unknown() {
        "unknown".to_owned()
    } else {
        key.to_string()
    }
}

fn look(watched: &Watched, now: Instant) -> HostsView {
    let waiting = watched.waiting.as_ref().map(|waiting| waiting.get());
    let waiting: HashMap<&Key, usize> = waiting
        .iter()
        .flat_map(|waiting| waiting.iter().map(|(key, count)| (key, *count)))
        .collect();
    let mut hosts = Vec::new();
    for (key, (running, closed_until)) in watched.hosts.look(now) {
        let view = HostView {
            name: String::new(),
            waiting: waiting.get(&key).copied().unwrap_or_default(),
            running,
            closed_until,
        };
        // Messages may wait for a host that is not known yet; itself it is none.
        if !key.is_unknown() || view.waiting > 0 {
            hosts.push((key, view));
        }
    }
    let known = hosts.iter().filter(|(key, _)| !key.is_unknown());
    let (total, cooling) = known.fold((0, 0), |(total, cooling), (_, view)| {
        let closed = usize::from(view.closed_until.is_some());
        (total + 1, cooling + closed)
    });
    if hosts.len() > SHOWN {
        hosts.select_nth_unstable_by_key(SHOWN - 1, |(_, view)| view.place());
        hosts.truncate(SHOWN);
    }
    let named = hosts.into_iter().map(|(key, view)| HostView {
        name: name(&key),
        ..view
    });
    let mut shown: Vec<_> = named.collect();
    shown.sort_by(|a, b| {
        let (of_a, of_b) = ((a.place(), &a.name), (b.place(), &b.name));
        of_a.cmp(&of_b)
    });
    HostsView {
        total,
        cooling,
        shown,
    }
}
