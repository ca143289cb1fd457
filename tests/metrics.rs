//! `/metrics`, as a scraper reads it: every name that dashboards use, counters that are equal to what Redis holds after a run with
//! failures of each reason, and a number of series that no host and no DID changes.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use redis::Connection;

use support::events::{
    DEAD_LETTERS, GROUP, INPUT, OUTPUT, dead_letters, enqueue_raw, kept_keys, read_events,
    stream_len, wait_until_drained,
};
use support::fixture_server::{Fault, FixtureServer};
use support::generator::{RepoBuilder, SigningKey, records};
use support::hostile;
use support::hostile::stage::Stage;
use support::ops::{Metrics, Ops, watched};
use support::proxy::{Action, Exec, Proxy};
use support::verdicts::{hasty, stop};
use support::wait::eventually;

/// What existing dashboards ask for.
const NAMES: [&str; 12] = [
    "backfiller_repos_processed_total",
    "backfiller_repos_failed_total",
    "backfiller_repos_dead_lettered_total",
    "backfiller_records_extracted_total",
    "backfiller_records_filtered_total",
    "backfiller_retries_attempted_total",
    "backfiller_repos_waiting",
    "backfiller_repos_running",
    "backfiller_output_stream_length",
    "backfiller_car_fetch_errors_total",
    "backfiller_car_parse_errors_total",
    "backfiller_verification_errors_total",
];

/// The rule whose catalogue has repos that fail for this reason.
const HOSTILE: [(&str, &str); 7] = [
    ("R2", "car"),
    ("R6", "identity"),
    ("R7", "incomplete"),
    ("R7", "mst"),
    ("R5", "commit"),
    ("R5", "did_mismatch"),
    ("R5", "signature"),
];

fn hostile(stage: &mut Stage, rule: &'static str, reason: &str) {
    let mut entries = hostile::of_rule(rule).into_iter();
    let entry = entries.find(|entry| entry.reason == reason);
    let entry = entry.unwrap_or_else(|| panic!("no {reason} in {rule}"));
    entry.serve(&stage.server);
    let url = stage.server.url();
    stage.enqueue(&entry.did, Some(&url));
}

/// How many dead letters there are of each reason, and all their attempts.
fn letters(connection: &mut Connection) -> BTreeMap<String, (u64, u64)> {
    let mut counts = BTreeMap::new();
    for letter in dead_letters(connection) {
        let count: &mut (u64, u64) = counts.entry(letter["reason"].clone()).or_default();
        count.0 += 1;
        count.1 += letter["attempts"].parse::<u64>().unwrap();
    }
    counts
}

/// Waits until Redis was asked after the last message had ended.
fn settled(ops: Ops, connection: &mut Connection) -> Metrics {
    let output = stream_len(connection, OUTPUT) as f64;
    let letters = stream_len(connection, DEAD_LETTERS) as f64;
    eventually("the sampler has seen the end", || {
        let metrics = ops.metrics();
        let is_known = metrics.text.contains("\nbackfiller_queue_pending ")
            && metrics.value("backfiller_queue_length") == 0.0
            && metrics.value("backfiller_output_stream_length") == output
            && metrics.value("backfiller_dead_letters_length") == letters
            && metrics.value("backfiller_repos_running") == 0.0;
        is_known.then_some(metrics)
    })
}

#[test]
fn counters_are_what_redis_holds_after_failures_of_each_reason() {
    let mut stage = Stage::new();
    let good: Vec<_> = (0..5).map(|_| stage.faulty(Fault::Normal)).collect();
    let repaired = stage.faulty(Fault::Then(vec![Fault::status(500)]));
    for (rule, reason) in HOSTILE {
        hostile(&mut stage, rule, reason);
    }
    stage.faulty(Fault::status(500));
    stage.faulty(Fault::status(404));
    stage.faulty(Fault::xrpc(400, "RepoTakendown", "no"));
    enqueue_raw(&mut stage.connection, &[("repo", b"no JSON")]);
    let panicking = stage.faulty(Fault::Normal);
    let large = RepoBuilder::new(support::generator::did_plc(77))
        .key(SigningKey::k256(77))
        .records(records::mixed(77, 400))
        .build();
    stage.server.put_repo(&large.did, large.car());
    let url = stage.server.url();
    stage.enqueue(&large.did, Some(&url));
    let largest = large.car().len() - 1;
    let wanted = "app.bsky.feed.*";
    let backfiller = watched(hasty(&stage))
        .env("BACKFILLER_MAX_REPO_BYTES", largest.to_string())
        .env("BACKFILLER_COLLECTIONS", wanted)
        .env("BACKFILLER_TEST_PANIC", format!("fetch:{}", panicking.did))
        .start();
    let ops = Ops::of(&backfiller);
    wait_until_drained(&mut stage.connection);
    let metrics = settled(ops, &mut stage.connection);

    let events = read_events(&mut stage.connection, OUTPUT);
    let creates = events
        .iter()
        .filter(|event| event.text("type") == "create")
        .count();
    let repos: BTreeSet<_> = events
        .iter()
        .map(|event| event.text("did").to_owned())
        .collect();
    let done: Vec<_> = good.iter().chain([&repaired]).collect();
    let records: usize = done.iter().map(|repo| repo.expected.len()).sum();
    let letters = letters(&mut stage.connection);
    let (dead, attempts) = letters
        .values()
        .fold((0, 0), |(dead, all), (count, attempts)| {
            (dead + count, all + attempts)
        });
    let expected_reasons = [
        "bad_message",
        "too_large",
        "repo_gone",
        "network",
        "http_status",
        "panic",
    ];
    let reasons = HOSTILE
        .map(|(_, reason)| reason)
        .into_iter()
        .chain(expected_reasons);
    let reasons: BTreeSet<_> = reasons.map(str::to_owned).collect();
    assert_eq!(letters.keys().cloned().collect::<BTreeSet<_>>(), reasons);

    let equal = |name: &str, value: f64| assert_eq!(metrics.value(name), value, "{name}");
    equal("backfiller_repos_processed_total", repos.len() as f64);
    assert_eq!(repos.len(), done.len());
    equal("backfiller_repos_dead_lettered_total", dead as f64);
    equal("backfiller_records_extracted_total", creates as f64);
    assert!(creates > 0 && creates < records, "some are filtered");
    equal(
        "backfiller_records_filtered_total",
        (records - creates) as f64,
    );
    equal("backfiller_events_total", events.len() as f64);
    equal("backfiller_chunks_total", done.len() as f64);
    // Each attempt failed and was charged; all but the last of a message were repeated, and the one that was repaired was, too.
    equal("backfiller_repos_failed_total", (attempts + 1) as f64);
    equal(
        "backfiller_retries_attempted_total",
        (attempts - dead + 1) as f64,
    );
    let mut sums = BTreeMap::new();
    for (reason, (count, attempts)) in &letters {
        let repaired = u64::from(reason == "network");
        let failed = (attempts + repaired) as f64;
        assert_eq!(
            metrics.of_reason("backfiller_failures_total", reason),
            failed,
            "{reason}"
        );
        assert_eq!(
            metrics.of_reason("backfiller_dead_letters_total", reason),
            *count as f64,
            "{reason}"
        );
        let class = match reason.as_str() {
            "network" | "http_status" | "repo_gone" | "too_large" => {
                "backfiller_car_fetch_errors_total"
            }
            "car" => "backfiller_car_parse_errors_total",
            "bad_message" | "panic" => continue,
            _ => "backfiller_verification_errors_total",
        };
        *sums.entry(class).or_insert(0.0) += failed;
    }
    assert_eq!(sums.len(), 3);
    for (name, sum) in sums {
        equal(name, sum);
    }
    for reason in ["deferred", "redis"] {
        assert_eq!(metrics.of_reason("backfiller_failures_total", reason), 0.0);
    }
    equal("backfiller_repos_waiting", 0.0);
    equal("backfiller_queue_pending", 0.0);
    equal("backfiller_redis_connected", 1.0);
    equal("backfiller_draining", 0.0);
    equal("backfiller_workers", 2.0);
    equal("backfiller_output_high_water_mark", 100_000.0);
    equal("backfiller_memory_budget_bytes", (512u64 << 20) as f64);
    assert!(metrics.value("process_resident_memory_bytes") > 1e6);
    assert!(metrics.value("process_start_time_seconds") > 1.7e9);
    let info = concat!(
        "\nbackfiller_build_info{version=\"",
        env!("CARGO_PKG_VERSION"),
        "\"} 1\n"
    );
    assert!(metrics.text.contains(info));

    let (proved, seconds) = metrics.histogram("backfiller_write_seconds");
    assert_eq!(proved, done.len() as f64);
    assert!(seconds > 0.0);
    let (verified, _) = metrics.histogram("backfiller_verify_seconds");
    assert_eq!(verified, done.len() as f64);
    let (fetched, _) = metrics.histogram("backfiller_fetch_seconds");
    let (sized, bytes) = metrics.histogram("backfiller_repo_bytes");
    assert!(
        fetched == sized && fetched > proved,
        "hostile repos were fetched as well"
    );
    let least: usize = done.iter().map(|repo| repo.car().len()).sum();
    assert!(bytes >= least as f64);
    assert!(metrics.value("backfiller_bytes_total") >= bytes);

    let names: BTreeSet<_> = metrics
        .scrape
        .samples
        .iter()
        .map(|sample| sample.metric.as_str())
        .collect();
    for name in NAMES {
        assert!(names.contains(name), "{name}");
    }
    let after = backfiller_summary(&stop(backfiller));
    assert_eq!(after["repos"], done.len() as u64);
    assert_eq!(after["failures"], attempts + 1);
}

/// The numbers of the summary line.
fn backfiller_summary(backfiller: &support::backfiller::Backfiller) -> BTreeMap<String, u64> {
    let line = backfiller.wait_for_line(|line| line.contains("] summary "));
    let pairs = line.split(' ').filter_map(|word| word.split_once('='));
    pairs
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

/// Strangers choose hosts and DIDs: hundreds of them are not a series more.
#[test]
fn no_host_and_no_did_is_a_label() {
    let mut stage = Stage::new();
    let hosts: Vec<_> = (0..40).map(|_| FixtureServer::start()).collect();
    let backfiller = watched(hasty(&stage))
        .env("BACKFILLER_CONCURRENCY", "8")
        .start();
    let ops = Ops::of(&backfiller);
    let before = settled(ops, &mut stage.connection).series();
    for n in 0..200 {
        let repo = stage.account();
        let host = &hosts[n % hosts.len()];
        if n % 3 == 0 {
            host.put_repo(&repo.did, repo.car());
        }
        stage.enqueue(&repo.did, Some(&host.url()));
    }
    wait_until_drained(&mut stage.connection);
    // Hosts are looked at once a second.
    eventually("all hosts are known", || {
        ops.metrics().value("backfiller_hosts_known") >= hosts.len() as f64
    });
    let metrics = settled(ops, &mut stage.connection);
    assert_eq!(metrics.series(), before);
    for foreign in ["did:", "127.0.0.1", "http:"] {
        assert!(
            !metrics.text.contains(foreign),
            "{foreign}: {}",
            metrics.text
        );
    }
    let labels = metrics
        .scrape
        .samples
        .iter()
        .flat_map(|sample| sample.labels.keys());
    let labels: BTreeSet<_> = labels.map(String::as_str).collect();
    assert_eq!(labels, BTreeSet::from(["reason", "version"]));
}

#[test]
fn what_redis_knows_is_left_out_while_it_is_away() {
    let mut stage = Stage::new();
    let backfiller = watched(hasty(&stage)).start();
    let ops = Ops::of(&backfiller);
    let all: BTreeSet<_> = settled(ops, &mut stage.connection)
        .series()
        .into_iter()
        .collect();
    stage.redis.stop();
    let metrics = eventually("Redis is away", || {
        let metrics = ops.metrics();
        (metrics.value("backfiller_redis_connected") == 0.0).then_some(metrics)
    });
    let left: BTreeSet<_> = metrics.series().into_iter().collect();
    let missing: Vec<_> = all.difference(&left).map(String::as_str).collect();
    let lengths = [
        "backfiller_dead_letters_length",
        "backfiller_output_stream_length",
        "backfiller_queue_length",
        "backfiller_queue_pending",
    ];
    assert_eq!(missing, lengths);
    assert!(left.is_subset(&all));
}

#[test]
fn waiting_for_the_output_is_counted_while_it_lasts() {
    let mut stage = Stage::new();
    let () = redis::cmd("XADD")
        .arg(&[OUTPUT, "*", "event", "{}"])
        .query(&mut stage.connection)
        .unwrap();
    stage.faulty(Fault::Normal);
    let backfiller = watched(hasty(&stage))
        .env("BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK", "1")
        .start();
    let ops = Ops::of(&backfiller);
    let metrics = eventually("a worker has waited", || {
        let metrics = ops.metrics();
        let waited = metrics.value("backfiller_backpressure_seconds_total");
        (waited > 0.5).then_some(metrics)
    });
    assert_eq!(metrics.value("backfiller_repos_running"), 1.0);
    assert_eq!(stream_len(&mut stage.connection, INPUT), 1);
}

#[test]
fn what_a_host_asks_for_is_no_failure() {
    let mut stage = Stage::new();
    let refusal = Fault::status_with_header(429, "retry-after", "600");
    stage.faulty(refusal);
    let backfiller = watched(hasty(&stage)).start();
    let ops = Ops::of(&backfiller);
    let metrics = eventually("the host is left alone", || {
        let metrics = ops.metrics();
        let put_off = metrics.value("backfiller_deferrals_total") == 1.0
            && metrics.value("backfiller_hosts_cooling") == 1.0
            && metrics.value("backfiller_repos_waiting") == 1.0;
        put_off.then_some(metrics)
    });
    for name in ["repos_failed", "retries_attempted", "car_fetch_errors"] {
        assert_eq!(metrics.value(&format!("backfiller_{name}_total")), 0.0);
    }
}

/// The host is left alone for as long as it wants, and that is longer than a message may wait.
#[test]
fn a_message_that_was_only_put_off_has_failed_when_it_is_given_up() {
    let mut stage = Stage::new();
    let refusal = Fault::status_with_header(429, "retry-after", "1");
    let repo = stage.faulty(refusal);
    let backfiller = watched(hasty(&stage))
        .env("BACKFILLER_MAX_DEFERRED_SECS", "1")
        .start();
    let ops = Ops::of(&backfiller);
    wait_until_drained(&mut stage.connection);
    let metrics = settled(ops, &mut stage.connection);
    assert_eq!(letters(&mut stage.connection)["network"], (1, 0));
    for name in ["dead_letters", "failures"] {
        let name = format!("backfiller_{name}_total");
        assert_eq!(metrics.of_reason(&name, "network"), 1.0, "{name}");
        assert_eq!(metrics.of_reason(&name, "deferred"), 0.0, "{name}");
    }
    assert!(metrics.value("backfiller_deferrals_total") >= 1.0);
    assert_eq!(metrics.value("backfiller_repos_failed_total"), 1.0);
    let status = ops.status();
    let [failures] = &status["failures"].as_array().unwrap()[..] else {
        panic!("{}", status["failures"]);
    };
    assert_eq!(failures["reason"], "network");
    let last = &failures["last"][0];
    assert_eq!(last["did"], repo.did);
    assert_eq!(last["id"], stage.messages[0].0);
    let letters = dead_letters(&mut stage.connection);
    assert_eq!(last["error"], letters[0]["error"]);
    stop(backfiller);
}

/// Somebody else ends the message while its dead letter is on its way.
#[test]
fn an_attempt_that_is_abandoned_has_not_failed() {
    let mut stage = Stage::new();
    let proxy = Proxy::start(stage.redis.port());
    let letter = proxy.once(Action::Delay, Exec::is_dead_letter);
    stage.faulty(Fault::status(404));
    let backfiller = watched(hasty(&stage))
        .env("REDIS_URL", proxy.url())
        .env("BACKFILLER_MAX_ATTEMPTS", "1")
        .start();
    let ops = Ops::of(&backfiller);
    letter.wait(1);
    let failed = |metrics: &Metrics| metrics.value("backfiller_repos_failed_total");
    assert_eq!(failed(&ops.metrics()), 0.0, "nothing is certain yet");
    let mut ends = redis::pipe();
    let id = stage.messages[0].0.as_str();
    ends.cmd("XACK").arg(&[INPUT, GROUP, id]);
    ends.cmd("XDEL").arg(&[INPUT, id]);
    ends.cmd("DEL").arg(kept_keys(&mut stage.connection));
    let () = ends.query(&mut stage.connection).unwrap();
    letter.release();
    let metrics = eventually("it is abandoned", || {
        let metrics = ops.metrics();
        (metrics.value("backfiller_messages_abandoned_total") == 1.0).then_some(metrics)
    });
    assert_eq!(failed(&metrics), 0.0);
    assert_eq!(metrics.value("backfiller_repos_dead_lettered_total"), 0.0);
    assert_eq!(ops.status()["failures"], serde_json::json!([]));
    assert_eq!(stream_len(&mut stage.connection, DEAD_LETTERS), 0);
    stop(backfiller);
}
