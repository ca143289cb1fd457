//! Backfills AT Protocol repositories: reads account ids from a Redis stream, downloads each account's whole repository from
//! its server, proves that it is what its owner signed, and appends one JSON event per record to another Redis stream.
//!
//! ```text
//!  input stream, consumer group
//!       │ XREADGROUP; what is due again is claimed from the pending list
//!       ▼
//!  reader thread ──► bounded channel
//!                         │ Job
//!       ┌─────────────────┴──────────────────┐
//!       ▼                                    ▼
//!  worker-0 … worker-(N-1): one blocking Redis connection and one ureq agent each
//!       acquire    this message is ours: attempt, fence, where to go on
//!       fetch      com.atproto.sync.getRepo, bytes as they arrive
//!       car        frames → hash-checked blocks
//!       identity   DID → signing key
//!       commit     DID, version, rev, signature
//!       mst        walk 1: order, depth, completeness; nothing is written before this has passed
//!       mst        walk 2: leaf → record → JSON event
//!       sink       chunks of at most 500, MULTI … EXEC; the last one acknowledges the message
//!       ▼
//!  output stream
//! ```
//!
//! [`worker`] reads like this drawing. [`backfiller`] starts and ends the threads, [`queue`] is the input side with the life of a
//! message and who may write for it, [`hosts`] how much each server may be asked, [`fetch`] and [`identity`] ask, [`repo`] proves,
//! [`event`] is the wire format, [`sink`] the output side, and [`memory`] what all of them may take.
//! [`http`] shows all of this while it runs, [`cli`] and [`commands`] are what the one who runs it speaks with.

#![warn(missing_docs)]

pub mod backfiller;
pub mod block_on;
pub mod cli;
pub mod collections;
pub mod commands;
pub mod config;
pub mod connection;
pub mod did_web;
pub mod dump;
pub mod error;
pub mod event;
pub mod fault;
pub mod fetch;
pub mod handle;
pub mod hosts;
pub mod http;
pub mod identity;
pub mod lines;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod preflight;
pub mod queue;
pub mod redact;
pub mod repo;
pub mod resp;
pub mod shutdown;
pub mod sink;
pub mod status;
pub mod terminal;
pub mod worker;
