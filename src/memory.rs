//! The memory that all jobs share (`BACKFILLER_MEMORY_BUDGET_MB`).
//!
//! Whoever holds memory whose size depends on a repo holds a [`Share`] for it: the blocks of a repo, their index, the large nodes that
//! a walk is in, and the chunks that are encoded. Blocks and index ask before they take ([`Share::try_grow`]) and go to a file
//! where they are refused; what a job cannot do without is taken in any case ([`Share::grow`]), and where that overdraws
//! the budget, the jobs that are proving or writing move their blocks out. So what is held at a time is the budget or, where that
//! is more, the chunks of all workers, and for each worker a small constant; never the repos.
//! Pinned by `tests/memory.rs` and `tests/spill_room.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes that are held, and how many may be.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    held: AtomicU64,
}

impl Budget {
    /// So many bytes for all.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Budget {
            limit,
            held: AtomicU64::new(0),
        })
    }

    /// Bytes that may be held.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that are held.
    pub fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    /// Whether more is held than should be.
    #[inline]
    pub fn is_overdrawn(&self) -> bool {
        self.held() > self.limit
    }
}

/// One holder's part of the budget, in bytes; given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Share {
    /// Nothing yet.
    pub fn new(budget: &Arc<Budget>) -> Self {
        Share {
            budget: Arc::clone(budget),
            bytes: 0,
        }
    }

    /// The budget that it is part of.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Takes so much more, if the budget allows it.
    #[must_use]
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let more = |held: u64| {
            held.checked_add(bytes)
                .filter(|&held| held <= self.budget.limit)
        };
        let taken = self.budget.held.fetch_update(Relaxed, Relaxed, more);
        if taken.is_ok() {
            self.bytes += bytes;
        }
        taken.is_ok()
    }

    /// Takes so much more.
    pub fn grow(&mut self, bytes: usize) {
        self.set(self.bytes.saturating_add(bytes as u64));
    }

    /// Gives so much back.
    pub fn shrink(&mut self, bytes: usize) {
        self.set(self.bytes.saturating_sub(bytes as u64));
    }

    /// Holds exactly so much from now on.
    #[inline]
    pub fn set(&mut self, bytes: u64) {
        if bytes > self.bytes {
            self.budget.held.fetch_add(bytes - self.bytes, Relaxed);
        } else if bytes < self.bytes {
            self.budget.held.fetch_sub(self.bytes - bytes, Relaxed);
        }
        self.bytes = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_are_given_back() {
        let budget = Budget::new(100);
        let (mut one, mut two) = (Share::new(&budget), Share::new(&budget));
        assert!(one.try_grow(60));
        assert!(!two.try_grow(41));
        assert!(!two.try_grow(usize::MAX));
        assert!(two.try_grow(40));
        assert!(!budget.is_overdrawn());
        two.grow(1);
        assert!(budget.is_overdrawn());
        one.shrink(10);
        assert_eq!(budget.held(), 91);
        one.set(20);
        assert_eq!(budget.held(), 61);
        drop(two);
        assert_eq!(budget.held(), 20);
        one.shrink(1000);
        assert_eq!(budget.held(), 0);
    }
}
