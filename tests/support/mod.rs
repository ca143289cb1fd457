//! What the integration tests stand on: private servers, the program as a child process,
//! repositories made to order, and the assertions on what comes out.
//!
//! Nothing here shares code with the program: a mistake in its reading of the contract must not be
//! repeated by the tests. Every server listens on a free port, keeps its files in a temporary
//! folder and ends with its owner.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "compiled into each test crate and into the demonstration, and each uses a part of it"
)]

pub mod adversary;
pub mod assertions;
pub mod backfiller;
pub mod blocks;
pub mod browser;
pub mod child;
pub mod cli;
pub mod crash;
pub mod dns;
pub mod events;
pub mod exporting;
pub mod fetching;
pub mod filtered;
pub mod fixture_server;
pub mod fleet;
pub mod generator;
pub mod heavy;
pub mod hostile;
pub mod identities;
pub mod instances;
pub mod monitor;
pub mod ops;
pub mod page;
pub mod proxy;
pub mod redis_server;
pub mod spilled;
pub mod table;
pub mod trees;
pub mod verdicts;
pub mod wait;
pub mod wire;
