//! Faults that a test asks for, in debug builds only; a release build has none of this.
//!
//! No message, answer or repo reaches a panic, so that a panic inside of a job is caught, retried and given up can only be
//! tested with one that is made on purpose: `BACKFILLER_TEST_PANIC=<stage>:<did>` panics whenever the job of that account enters
//! the stage `fetch`, or `write` with its first chunk under way (`tests/panics.rs`).

/// Where a job may be made to panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before the repo is asked for.
    Fetch,
    /// When a leaf behind the first chunk is to be written.
    Write,
}

/// Panics where the environment asks for it.
#[cfg(debug_assertions)]
pub fn panic_if_asked(stage: Stage, did: &str) {
    let name = match stage {
        Stage::Fetch => "fetch",
        Stage::Write => "write",
    };
    let asked = std::env::var("BACKFILLER_TEST_PANIC").unwrap_or_default();
    if asked.split_once(':') == Some((name, did)) {
        panic!("asked for by BACKFILLER_TEST_PANIC");
    }
}

/// Does nothing in a release build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn panic_if_asked(_: Stage, _: &str) {}
