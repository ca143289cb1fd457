//! `/status.json`: all that the page shows, in one object.
//!
//! Its keys are stable. What strangers chose (DIDs, hosts, error texts) stands in it as JSON strings, exactly as it is; whoever
//! shows it must escape it for where it is shown. Times in `…_ms` are unix milliseconds by this machine's clock, those in `…_seconds`
//! decimal seconds. What Redis knows is at most a few seconds old, and null while Redis is away. Pinned by
//! `tests/status_json.rs`.

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::Watched;
use super::answer::Answer;
use super::history::{History, Point, STEP};
use super::hosts::{HostView, HostsView};
use super::sampler::Letter;
use crate::error::Reason;
use crate::event::unix_millis;
use crate::metrics::{Failure, Metrics};
use crate::status::Slot;

/// The answer to `/status.json`.
pub fn answer(watched: &Watched, history: &History, hosts: &HostsView, now: Instant) -> Answer {
    let status = status(watched, history, hosts, now);
    Answer::ok("application/json; charset=utf-8", status.to_string())
}

fn status(watched: &Watched, history: &History, hosts: &HostsView, now: Instant) -> Value {
    let (config, metrics) = (&watched.config, &watched.metrics);
    let sample = watched.sample();
    let lengths = sample.lengths(now);
    let slots = watched.slots().iter().enumerate();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "consumer": config.consumer,
        "group": config.group,
        "now_ms": unix_millis(SystemTime::now()),
        "started_ms": unix_millis(watched.started),
        "draining": watched.shutdown.is_requested(),
        "redis": {
            "connected": sample.is_connected(now),
            "error": sample.error,
            "age_seconds": sample.age(now).map(seconds),
        },
        "queue": {
            "stream": config.backfill_stream,
            "length": lengths.map(|lengths| lengths.queue),
            "pending": lengths.and_then(|lengths| lengths.pending),
            "held": metrics.held.get(),
            "parked": metrics.parked.get(),
        },
        "output": {
            "stream": config.firehose_stream,
            "length": lengths.map(|lengths| lengths.output),
            "high_water_mark": config.high_water_mark,
        },
        "dead_letters": {
            "stream": config.dlq_stream,
            "length": lengths.map(|lengths| lengths.letters),
            "last": sample.letters.iter().map(letter).collect::<Vec<_>>(),
        },
        "totals": totals(metrics),
        "memory": {
            "budget_bytes": watched.memory.limit(),
            "used_bytes": watched.memory.held(),
        },
        "history": {
            "step_seconds": STEP.as_secs(),
            "points": history.points().map(point).collect::<Vec<_>>(),
        },
        "workers": slots.map(|(n, slot)| worker(n, slot)).collect::<Vec<_>>(),
        "hosts": {
            "total": hosts.total,
            "cooling": hosts.cooling,
            "shown": hosts.shown.iter().map(|view| host(view, now)).collect::<Vec<_>>(),
        },
        "failures": failures(metrics),
    })
}

fn totals(metrics: &Metrics) -> Value {
    json!({
        "repos": metrics.repos.get(),
        "failures": metrics.failures(),
        "dead_letters": metrics.dead_letters(),
        "retries": metrics.retries.get(),
        "deferrals": metrics.deferrals.get(),
        "records": metrics.records.get(),
        "skipped": metrics.skipped.get(),
        "filtered": metrics.filtered.get(),
        "events": metrics.events.get(),
        "chunks": metrics.chunks.get(),
        "bytes": metrics.bytes.get(),
        "spills": metrics.spills.get(),
        "backpressure_seconds": metrics.backpressure_seconds(),
    })
}

fn letter(letter: &Letter) -> Value {
    json!({
        "id": letter.id,
        "did": letter.did,
        "reason": letter.reason,
        "error": letter.error,
        "attempts": letter.attempts,
        "time": letter.time,
    })
}

fn point(point: &Point) -> Value {
    json!({
        "at_ms": point.at_ms,
        "repos": point.done.repos,
        "records": point.done.records,
        "bytes": point.done.bytes,
        "failures": point.done.failures,
        "queue": point.queue,
        "output": point.output,
    })
}

fn worker(number: usize, slot: &Slot) -> Value {
    let name = format!("worker-{number}");
    let Some(view) = slot.view() else {
        return json!({
            "name": name, "phase": "idle", "did": null, "id": null, "host": null, "bytes": 0, "records": 0,
            "phase_seconds": 0.0, "job_seconds": 0.0,
        });
    };
    // The time in the phase is counted in whole milliseconds.
    let time = view.since.elapsed();
    json!({
        "name": name,
        "phase": view.phase.name(),
        "did": view.did,
        "id": view.id,
        "host": known(&view.host),
        "bytes": view.bytes,
        "records": view.records,
        "phase_seconds": seconds(view.in_phase.min(time)),
        "job_seconds": seconds(time),
    })
}

fn host(view: &HostView, now: Instant) -> Value {
    let closed = view
        .closed_until
        .and_then(|until| until.checked_duration_since(now));
    json!({
        "host": view.name,
        "waiting": view.waiting,
        "running": view.running,
        "closed_seconds": closed.map(seconds),
    })
}

/// The reasons that have occurred.
fn failures(metrics: &Metrics) -> Vec<Value> {
    let last = |reason| {
        let observed = metrics.observed.iter();
        let last = observed.flat_map(|observed| observed.last_failures(reason));
        last.map(failure).collect::<Vec<_>>()
    };
    let counted = Reason::ALL.map(|reason| (reason, metrics.failures_of(reason)));
    let occurred = counted.into_iter().filter(|(_, count)| *count > 0);
    occurred
        .map(|(reason, count)| {
            json!({
                "reason": reason.code(),
                "count": count,
                "last": last(reason),
            })
        })
        .collect()
}

fn failure(failure: Failure) -> Value {
    json!({
        "at_ms": unix_millis(failure.at),
        "did": known(&failure.did),
        "host": known(&failure.host),
        "id": failure.id,
        "attempt": failure.attempt,
        "error": failure.error,
    })
}

/// What is not known is null.
fn known(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// Seconds with as many digits as anybody reads.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}
