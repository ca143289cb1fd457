//! Whether the events of a repo are what they must be: judged in full once, and from then on by their text.
//!
//! A long run has hundreds of thousands of events of the same few repos. Two messages of a repo differ in nothing but the time,
//! which is one for all events of a message.

use super::super::events::{Event, assert_repo, assert_timestamp};
use super::super::generator::Repo;

const TIME: &str = r#""time":""#;
const TIME_LENGTH: usize = "2026-01-01T00:00:00.000Z".len();

/// The texts that were found right, for each repo.
pub struct Judge(Vec<Option<Vec<String>>>);

impl Judge {
    pub fn new(repos: usize) -> Self {
        Self(vec![None; repos])
    }

    /// Asserts that these are all the events of one message of the repo, each once and in order; given by ids and texts.
    pub fn assert_complete(&mut self, place: usize, repo: &Repo, events: Vec<(String, String)>) {
        let known = &mut self.0[place];
        match known {
            Some(known) if is_same(known, &events) => {}
            _ => {
                let in_full: Vec<_> = events.iter().map(event).collect();
                assert_repo(&in_full, repo);
                assert!(known.is_none(), "two texts are right for {}", repo.did);
                *known = Some(events.into_iter().map(|(_, raw)| raw).collect());
            }
        }
    }
}

fn is_same(known: &[String], events: &[(String, String)]) -> bool {
    let Some((_, first)) = events.first() else {
        return false;
    };
    let [_, time, _] = parts(first);
    assert_timestamp(time);
    let same = |(known, (_, raw)): (&String, &(String, String))| {
        let ([head, _, tail], [head_now, time_now, tail_now]) = (parts(known), parts(raw));
        head == head_now && tail == tail_now && time == time_now
    };
    known.len() == events.len() && known.iter().zip(events).all(same)
}

/// What is before the time, the time, and what is behind it.
fn parts(raw: &str) -> [&str; 3] {
    let time = raw.find(TIME).map(|at| at + TIME.len());
    let split = time.and_then(|at| {
        Some([
            raw.get(..at)?,
            raw.get(at..at + TIME_LENGTH)?,
            raw.get(at + TIME_LENGTH..)?,
        ])
    });
    split.unwrap_or_else(|| panic!("an event without a time: {raw}"))
}

fn event((id, raw): &(String, String)) -> Event {
    let json = serde_json::from_str(raw);
    Event {
        id: id.clone(),
        raw: raw.clone(),
        json: json.unwrap_or_else(|error| panic!("entry {id} is not JSON ({error}): {raw}")),
    }
}
