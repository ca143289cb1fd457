//! A simulated network: hosts of many manners behind one listener, two instances of the program, and what the hosts saw of them.
//!
//! [`network`] says which hosts there are, whom they hold and what each repo deserves; [`repos`] makes the repos; [`server`] is all
//! hosts and the directory at once, with [`answers`] as each host gives them, and keeps a [`log`] of every request; [`run`] lets the real program work on it; [`ends`] reads
//! what has become of each repo. All figures ([`rates`], [`utilisation`], [`times`]) are computed from the log of the server, none
//! from what the program says of itself. [`bounds`] judges them and [`report`] prints them. `make simulate` runs the whole network,
//! `tests/simulation.rs` a small one.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "compiled into the simulation and into a test, and each uses a part of it"
)]

pub mod answers;
pub mod bounds;
pub mod ends;
pub mod limits;
pub mod log;
pub mod network;
pub mod networks;
pub mod rates;
pub mod report;
pub mod repos;
pub mod run;
pub mod server;
pub mod times;
pub mod utilisation;
