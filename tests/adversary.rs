//! Servers that mean ill: for each way to misbehave the reason that the contract documents, in bounded time and memory, and
//! the worker is free again.
//!
//! Each test sends the program, with one worker, through its part of the catalogue of `support::adversary`; that a good repo
//! comes through after each case, and what must hold at the end, is the business of its `storm`.

mod support;

use support::adversary::storm::Storm;
use support::adversary::{bodies, connections, redirects, statuses};

const PERMITTED: (&str, &str) = ("BACKFILLER_ALLOW_PRIVATE_HOSTS", "true");
const COMPRESSED: (&str, &str) = ("BACKFILLER_HTTP_GZIP", "true");

#[test]
fn connections_that_break_anywhere() {
    let mut storm = Storm::begin(&[]);
    storm.endure_all(connections::broken());
    storm.end();
}

#[test]
fn servers_that_fall_silent() {
    let mut storm = Storm::begin(&[]);
    storm.endure_all(connections::silent());
    storm.endure_all(connections::silent_errors());
    storm.end();
}

#[test]
fn servers_that_send_one_byte_a_second() {
    let mut storm = Storm::begin(&[]);
    storm.endure_all(connections::slow());
    storm.end();
}

#[test]
fn answers_without_an_end() {
    let mut storm = Storm::begin(&[]);
    storm.endure_all(bodies::endless_heads());
    storm.endure_all(bodies::endless_bodies());
    storm.end();
}

#[test]
fn bodies_that_grow() {
    let mut storm = Storm::begin(&[COMPRESSED]);
    storm.endure_all(bodies::bombs());
    storm.end();
}

#[test]
fn bodies_whose_length_is_a_lie() {
    let mut storm = Storm::begin(&[]);
    storm.endure_all(bodies::lengths());
    storm.endure_all(bodies::chunks());
    storm.end();
}

#[test]
fn answers_that_are_no_repo() {
    let mut storm = Storm::begin(&[]);
    storm.endure_all(statuses::errors());
    storm.endure_all(statuses::successes());
    storm.end();
}

#[test]
fn redirects_where_private_addresses_are_permitted() {
    let mut storm = Storm::begin(&[PERMITTED]);
    storm.endure_all(redirects::loops("http_status"));
    storm.endure_all(redirects::loops_that_take_time());
    storm.endure_all(redirects::to_a_private_address("done"));
    storm.endure_all(redirects::to_nowhere(false));
    storm.end();
}

#[test]
fn redirects_where_private_addresses_are_not_permitted() {
    let mut storm = Storm::begin(&[]);
    storm.endure_all(redirects::loops("http_status"));
    storm.endure_all(redirects::to_a_private_address("http_status"));
    storm.endure_all(redirects::to_nowhere(true));
    storm.end();
}
