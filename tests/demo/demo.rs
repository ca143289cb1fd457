//! `make demo`: the whole way, seen from outside, in less than half a minute.
//!
//! Starts a private Redis and a server with freshly signed repositories, puts the accounts into the input stream, runs the real
//! binary until all are done, and shows its summary and a few of the events. Everything it starts ends with it.

#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::Signal;

use support::backfiller::Backfiller;
use support::events::{INPUT, OUTPUT, enqueue, stream_len};
use support::fixture_server::FixtureServer;
use support::generator::{RepoBuilder, SigningKey, did_plc, records};
use support::redis_server::RedisServer;
use support::wait::eventually;

/// Repos by number of records: most are small, a few hold almost everything, as in the network.
const REPOS: [(usize, usize); 5] = [(1, 60_000), (3, 15_000), (20, 1_500), (60, 100), (60, 6)];
/// Events shown at the end.
const SHOWN: usize = 3;

fn main() -> ExitCode {
    let began = Instant::now();
    println!("A private Redis, and a server with signed repositories ...");
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let mut expected = 0;
    let sizes = REPOS
        .iter()
        .flat_map(|(count, size)| std::iter::repeat_n(*size, *count));
    for (seed, size) in (0..).zip(sizes) {
        let key = if seed % 2 == 0 {
            SigningKey::k256(seed)
        } else {
            SigningKey::p256(seed)
        };
        let repo = RepoBuilder::new(did_plc(seed))
            .key(key)
            .without_json()
            .records(records::mixed(seed, size))
            .build();
        server.put_document(&repo.did, repo.did_document(&server.url()));
        server.put_repo(&repo.did, repo.car());
        enqueue(&mut connection, &repo.did, Some(&server.url()));
        // One event a record, and one that ends each chunk of 500.
        expected += size + size.div_ceil(500).max(1);
    }
    let repos = stream_len(&mut connection, INPUT);
    println!("{repos} accounts in the stream {INPUT}; now the backfiller:\n");

    let mut backfiller = Backfiller::builder(&redis, &server)
        .env("BACKFILLER_CONSUMER", "backfiller_demo")
        // Nobody reads the output here, so it must hold all of it.
        .env("BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK", "1000000")
        .start();
    let bar = ProgressBar::new(expected as u64).with_style(
        ProgressStyle::with_template("{bar:40} {pos}/{len} events  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    eventually("all accounts are backfilled", || {
        assert!(backfiller.is_running(), "the backfiller has ended");
        let left = stream_len(&mut connection, INPUT);
        bar.set_position(stream_len(&mut connection, OUTPUT) as u64);
        bar.set_message(format!("{}/{repos} repos", repos - left));
        // Looked at ten times a second; `eventually` would ask more often than anybody can see.
        std::thread::sleep(Duration::from_millis(100));
        left == 0
    });
    bar.finish();
    backfiller.signal(Signal::SIGINT);
    let status = backfiller.wait();

    println!("\nThe last lines of its log:");
    let log = backfiller.lines();
    for line in &log[log.len().saturating_sub(5)..] {
        println!("  {line}");
    }
    println!("\nThe first events in the stream {OUTPUT}:");
    let entries: Vec<(String, Vec<(String, String)>)> = redis::cmd("XRANGE")
        .arg(OUTPUT)
        .arg("-")
        .arg("+")
        .arg("COUNT")
        .arg(SHOWN)
        .query(&mut connection)
        .expect("the output is read");
    for (id, fields) in entries {
        println!(
            "  {id} {}",
            fields
                .into_iter()
                .map(|(_, event)| event)
                .collect::<String>()
        );
    }
    let written = stream_len(&mut connection, OUTPUT);
    println!(
        "\n{written} events of {repos} repos in {:.1} s, everything stopped.",
        began.elapsed().as_secs_f64()
    );
    if status.success() && written == expected {
        ExitCode::SUCCESS
    } else {
        eprintln!("expected {expected} events and a clean end, got {status}");
        ExitCode::FAILURE
    }
}
