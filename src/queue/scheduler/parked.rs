//! What is parked for one host, in the order in which it is claimed.
//!
//! There are three kinds, which take turns, each in its own order. So a message that has failed does not wait for the thousands that were
//! read since, thousands that fail again and again do not keep the new ones waiting, and those that redirects have led here, however
//! many, keep neither.

use std::collections::VecDeque;

use super::super::EntryId;
use crate::hosts::Learnt;

/// A message that is remembered and not held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// The id of its entry.
    pub id: EntryId,
    /// Where a redirect or a DID document led, when it was begun before. (Few have one, and all take room.)
    pub learnt: Option<Box<Learnt>>,
}

/// Why a message is parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It had its turn, and its host had no room for it after all.
    Returned,
    /// It was read for the first time.
    New,
    /// It is due again.
    Again,
}

/// The parked messages of one host.
#[derive(Default)]
pub struct Parking {
    /// By kind.
    kinds: [VecDeque<Parked>; 3],
    /// The kind that has the next turn, if there is one of it.
    next: usize,
}

impl Parking {
    /// The last of its kind.
    pub fn push(&mut self, parked: Parked, kind: Kind) {
        self.kinds[kind as usize].push_back(parked);
    }

    /// The first of the kind whose turn it is.
    pub fn pop(&mut self) -> Option<Parked> {
        for _ in 0..self.kinds.len() {
            let kind = self.next;
            self.next = (kind + 1) % self.kinds.len();
            if let Some(parked) = self.kinds[kind].pop_front() {
                return Some(parked);
            }
        }
        None
    }

    /// The one that came last: a new one, if there is any, for nothing is known of it that could be lost.
    pub fn pop_last(&mut self) -> Option<Parked> {
        let kinds = [Kind::New, Kind::Again, Kind::Returned].into_iter();
        kinds
            .filter_map(|kind| self.kinds[kind as usize].pop_back())
            .next()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.kinds.iter().map(VecDeque::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
