//! Servers that mean ill: for each way to misbehave the reason that the contract documents, in bounded time and memory, and
//! the worker is free again.
//!
//! Each test sends the program, with one worker, through its part of the catalogue of `support::adversary`; that a good repo
//! comes through after each case, and what must hold at the end, is the business of its `storm`.

mod support;

use support::adversary::storm::{self, Storm};
use support::adversary::{connections, endless, lengths, redirects, statuses};

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
    let mut cases = connections::silent();
    cases.extend(connections::silent_errors());
    storm::endure_apart(6, cases);
}

#[test]
fn servers_that_send_one_byte_a_second() {
    storm::endure_apart(5, connections::slow());
}

#[test]
fn servers_that_do_not_speak_tls() {
    storm::endure_apart(4, connections::without_tls());
}

#[test]
fn answers_without_an_end() {
    let mut storm = Storm::begin(&[]);
    storm.endure_all(endless::endless_heads());
    storm.endure_all(endless::endless_bodies());
    storm.end();
}

#[test]
fn bodies_that_grow() {
    let mut storm = Storm::begin(&[COMPRESSED]);
    storm.endure_all(endless::bombs());
    storm.end();
}

#[test]
fn bodies_whose_length_is_a_lie() {
    let mut storm = Storm::begin(&[]);
    storm.endure_all(lengths::lengths());
    storm.endure_all(lengths::chunks());
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
    storm.endure_all(redirects::with_another_answer());
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
