//! Which reasons the three counters of errors sum up that dashboards know from before. A message that cannot be understood, a panic
//! and a Redis that refuses are in none of them, and each reason is in one at most. Pinned by `tests/metrics.rs`.

use crate::error::Reason;

/// Failures on the way to a repo's bytes: `car_fetch_errors`.
pub const FETCH: [Reason; 4] = [
    Reason::Network,
    Reason::HttpStatus,
    Reason::RepoGone,
    Reason::TooLarge,
];
/// Bytes that are no CAR, or of which a block is not what it is called: `car_parse_errors`.
pub const PARSE: [Reason; 1] = [Reason::Car];
/// CARs that are not what the owner of the account signed, or of which that cannot be said: `verification_errors`.
pub const VERIFICATION: [Reason; 6] = [
    Reason::Identity,
    Reason::Incomplete,
    Reason::Mst,
    Reason::Commit,
    Reason::DidMismatch,
    Reason::Signature,
];
