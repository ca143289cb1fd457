//! The messages that this process holds: from when they are read or claimed until they have ended or are given back.
//!
//! Whoever has a message has its [`Hold`], which travels with the job. While it lives, the keeper renews the message's idle time
//! in Redis, so that no other instance takes it for orphaned. When it is dropped and nothing has been written down about what
//! becomes of the message (shutdown came first, or Redis refused for good), the message is released for the other instances, and an
//! attempt that had begun is not charged. So no path through the program can forget to let go of a message. Pinned by the tests here
//! and by `tests/releases.rs`.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

/// A message that is given back, to be due for others at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The id of the entry.
    pub id: String,
    /// Whether this process goes on with it later, if no other one does.
    pub parked: bool,
    /// The number of the attempt that had begun, and is not to be charged.
    pub begun: Option<u64>,
}

/// All messages held; shared by reader, workers and keeper.
pub struct Held {
    state: Mutex<State>,
    wake: Sender<()>,
    woken: Receiver<()>,
}

#[derive(Default)]
struct State {
    messages: HashMap<String, Message>,
    released: Vec<Release>,
    /// Messages that are just being parked in Redis, and were not held again since.
    offered: HashSet<String>,
}

#[derive(Default)]
struct Message {
    begun: Option<u64>,
    lost: bool,
    settled: bool,
    parked: bool,
}

impl Default for Held {
    fn default() -> Self {
        let (wake, woken) = bounded(1);
        Held {
            state: Mutex::default(),
            wake,
            woken,
        }
    }
}

impl Held {
    /// Holds a message; `None` when it is held already.
    pub fn hold(self: &Arc<Self>, id: &str) -> Option<Hold> {
        let mut state = self.lock();
        if state.messages.contains_key(id) {
            return None;
        }
        state.messages.insert(id.to_owned(), Message::default());
        // What was to be given back is taken again.
        if !state.released.is_empty() {
            state.released.retain(|release| release.id != id);
        }
        state.offered.remove(id);
        Some(Hold {
            held: Arc::clone(self),
            id: id.to_owned(),
        })
    }

    /// Whether the message is held.
    pub fn contains(&self, id: &str) -> bool {
        self.lock().messages.contains_key(id)
    }

    /// The ids of the messages that are held and, as far as is known, not lost.
    pub fn ids(&self) -> Vec<String> {
        let state = self.lock();
        let kept = state.messages.iter().filter(|(_, message)| !message.lost);
        kept.map(|(id, _)| id.clone()).collect()
    }

    /// Whether the message is held, and no attempt at it has begun.
    pub fn is_waiting(&self, id: &str) -> bool {
        let state = self.lock();
        let message = state.messages.get(id);
        message.is_some_and(|message| message.begun.is_none())
    }

    /// Another instance has taken the message over.
    pub fn lose(&self, id: &str) {
        if let Some(message) = self.lock().messages.get_mut(id) {
            message.lost = true;
        }
    }

    /// Gives back all that is held, begun or not: the process is about to end.
    pub fn release_all(&self) {
        let mut state = self.lock();
        let State {
            messages, released, ..
        } = &mut *state;
        released.extend(messages.drain().filter(|(_, message)| !message.lost).map(
            |(id, message)| Release {
                id,
                parked: false,
                begun: message.begun,
            },
        ));
        drop(state);
        let _ = self.wake.try_send(());
    }

    /// The message was delivered to this process anew.
    pub fn regain(&self, id: &str) {
        if let Some(message) = self.lock().messages.get_mut(id) {
            message.lost = false;
        }
    }

    /// Lets the others have messages that were just read and are not held.
    pub fn offer(&self, ids: Vec<String>) {
        if ids.is_empty() {
            return;
        }
        let released = ids.into_iter().map(|id| Release {
            id,
            parked: true,
            begun: None,
        });
        self.lock().released.extend(released);
        let _ = self.wake.try_send(());
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.lock().messages.is_empty()
    }

    /// What is to be given back in Redis.
    pub fn take_released(&self) -> Vec<Release> {
        let mut state = self.lock();
        let released = mem::take(&mut state.released);
        let parked = released.iter().filter(|release| release.parked);
        let parked: Vec<_> = parked.map(|release| release.id.clone()).collect();
        state.offered.extend(parked);
        released
    }

    /// Of these, which have been parked in Redis, or should have been, those that were not held again meanwhile.
    pub fn were_offered<'i>(&self, ids: impl Iterator<Item = &'i String>) -> HashSet<&'i String> {
        let mut state = self.lock();
        ids.filter(|id| state.offered.remove(*id)).collect()
    }

    /// Ready when there is something to be given back.
    pub fn woken(&self) -> &Receiver<()> {
        &self.woken
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to work on a message, as far as this process is concerned.
pub struct Hold {
    held: Arc<Held>,
    id: String,
}

impl Hold {
    /// An attempt begins, and may be charged; or the message was acquired again.
    pub fn begin(&self, attempt: u64) {
        if let Some(message) = self.held.lock().messages.get_mut(&self.id) {
            message.begun = Some(attempt);
            message.lost = false;
        }
    }

    /// What becomes of the message is written down, or not this process's to say.
    pub fn settle(&self) {
        if let Some(message) = self.held.lock().messages.get_mut(&self.id) {
            message.settled = true;
        }
    }

    /// Gives the message back, to go on with it when its host has room; the others may have it before.
    pub fn park(self) {
        if let Some(message) = self.held.lock().messages.get_mut(&self.id) {
            message.parked = true;
        }
    }

    /// Whether another instance has taken the message over.
    pub fn is_lost(&self) -> bool {
        let state = self.held.lock();
        state
            .messages
            .get(&self.id)
            .is_some_and(|message| message.lost)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.held.lock();
        let Some(message) = state.messages.remove(&self.id) else {
            return;
        };
        if !message.settled && !message.lost {
            state.released.push(Release {
                id: mem::take(&mut self.id),
                parked: message.parked,
                begun: message.begun,
            });
            drop(state);
            // A full channel wakes the keeper as well.
            let _ = self.held.wake.try_send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn releases(held: &Held) -> Vec<(String, Option<u64>)> {
        let released = held.take_released().into_iter();
        let mut released: Vec<_> = released.map(|r| (r.id, r.begun)).collect();
        released.sort();
        released
    }

    #[test]
    fn what_is_not_settled_is_released_when_it_is_dropped() {
        let held = Arc::new(Held::default());
        let [a, b, c] = ["1-0", "2-0", "3-0"].map(|id| held.hold(id).unwrap());
        assert!(held.hold("1-0").is_none(), "held once");
        assert!(held.is_waiting("2-0"));
        b.begin(3);
        c.begin(1);
        assert!(!held.is_waiting("2-0"));
        c.settle();
        drop(c);
        assert!(held.woken().is_empty());
        drop((a, b));
        assert_eq!(held.woken().try_recv(), Ok(()));
        let wanted = [("1-0".to_owned(), None), ("2-0".to_owned(), Some(3))];
        assert_eq!(releases(&held), wanted);
        assert!(held.ids().is_empty() && releases(&held).is_empty());
    }

    #[test]
    fn what_is_held_again_is_not_released() {
        let held = Arc::new(Held::default());
        drop(held.hold("1-0").unwrap());
        let _again = held.hold("1-0").unwrap();
        assert!(releases(&held).is_empty());
    }

    #[test]
    fn what_is_lost_is_neither_kept_nor_released() {
        let held = Arc::new(Held::default());
        let hold = held.hold("1-0").unwrap();
        held.lose("1-0");
        assert!(hold.is_lost() && held.contains("1-0") && held.ids().is_empty());
        drop(hold);
        assert!(held.take_released().is_empty());

        let hold = held.hold("1-0").unwrap();
        held.lose("1-0");
        hold.begin(1);
        assert_eq!(held.ids(), ["1-0"], "acquired again, it is kept again");
    }

    #[test]
    fn what_is_held_again_while_it_is_parked_was_not_deleted() {
        let held = Arc::new(Held::default());
        let ids = ["1-0", "2-0", "3-0"].map(str::to_owned);
        held.offer(ids.to_vec());
        assert_eq!(held.take_released().len(), 3);
        // The reader claims one at once, and a worker is done with it before the others are parked.
        drop(held.hold("2-0").unwrap());
        let left = held.were_offered(ids.iter());
        assert!(left.len() == 2 && !left.contains(&ids[1]));
        assert!(held.were_offered(ids.iter()).is_empty());
    }

    #[test]
    fn at_the_end_all_is_released_and_what_was_begun_is_known() {
        let held = Arc::new(Held::default());
        let (a, b) = (held.hold("1-0").unwrap(), held.hold("2-0").unwrap());
        a.begin(2);
        held.release_all();
        let wanted = [("1-0".to_owned(), Some(2)), ("2-0".to_owned(), None)];
        assert_eq!(releases(&held), wanted);
        drop((a, b));
        assert!(held.take_released().is_empty(), "not a second time");
    }
}
