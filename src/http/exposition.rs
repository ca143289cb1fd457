//! `/metrics`: the counters in Prometheus's text format, by its client library.
//!
//! The numbers are the atomics that the work counts with anyway ([`metrics`](crate::metrics)), read when somebody asks. The only labels
//! are the reason of a failure, of which there are fifteen, and the version; never a host or a DID, which strangers choose. So
//! the number of series never changes while the process runs, but for what Redis knows, which is left out while it is away.
//! Pinned by `tests/metrics.rs`.

mod classes;
mod out;

use std::fmt;
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::prometheus_text::{self, CONTENT_TYPE};
use prometheus_client::registry::Registry;

use self::classes::{FETCH, PARSE, VERIFICATION};
use self::out::Out;
use super::Watched;
use super::answer::Answer;
use super::hosts::HostsView;
use super::process;
use crate::error::Reason;
use crate::metrics::Metrics;

/// The answer to `/metrics`.
pub fn answer(watched: &Arc<Watched>, hosts: &HostsView) -> Answer {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exposition {
        watched: Arc::clone(watched),
        hosts: (hosts.total, hosts.cooling),
    }));
    let mut text = String::new();
    match prometheus_text::encode(&mut text, &registry) {
        Ok(()) => Answer::ok(CONTENT_TYPE, text),
        Err(e) => Answer::line(500, &format!("the metrics cannot be written: {e}")),
    }
}

/// All metrics, at one moment.
struct Exposition {
    watched: Arc<Watched>,
    /// Known and cooling.
    hosts: (usize, usize),
}

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exposition")
    }
}

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        self.work(&mut out)?;
        self.failures(&mut out)?;
        self.repos(&mut out)?;
        self.streams(&mut out)?;
        self.process(&mut out)
    }
}

impl Exposition {
    /// What has been done, and what is being done.
    fn work(&self, out: &mut Out<'_>) -> fmt::Result {
        let m = &self.watched.metrics;
        let counters = [
            (
                "repos_processed",
                "Repos whose events are all written and whose message is acknowledged",
                &m.repos,
            ),
            ("records_extracted", "Records written as events", &m.records),
            (
                "records_filtered",
                "Records left out because of BACKFILLER_COLLECTIONS",
                &m.filtered,
            ),
            (
                "records_skipped",
                "Records left out because the data model does not allow them",
                &m.skipped,
            ),
            (
                "retries_attempted",
                "Attempts that failed and will be repeated",
                &m.retries,
            ),
            (
                "deferrals",
                "Attempts put off, uncharged, because a host or the directory asked for it, was busy or closed",
                &m.deferrals,
            ),
            ("events", "Events written, of both types", &m.events),
            ("chunks", "Transactions of events written", &m.chunks),
            ("bytes", "Bytes of CAR read", &m.bytes),
            (
                "spills",
                "Repos whose blocks went to a file because memory was short",
                &m.spills,
            ),
            (
                "messages_taken_over",
                "Messages that other consumers had, and left",
                &m.taken_over,
            ),
            (
                "messages_abandoned",
                "Attempts given up because another instance has the message, or has ended it",
                &m.abandoned,
            ),
            (
                "messages_released",
                "Messages given back at the end",
                &m.released,
            ),
            (
                "entries_deleted",
                "Pending entries that somebody else had deleted",
                &m.deleted_entries,
            ),
        ];
        for (name, help, counter) in counters {
            out.counter(name, help, counter.get())?;
        }
        out.counter(
            "repos_dead_lettered",
            "Messages copied to the dead letters",
            m.dead_letters(),
        )?;
        let waited = m.backpressure_seconds();
        out.seconds(
            "backpressure_seconds",
            "Seconds that workers have waited for the output, all together",
            waited,
        )?;
        let waiting = m.held.get() + m.parked.get();
        out.gauge(
            "repos_waiting",
            "Messages that this process knows and no worker has yet",
            Some(waiting),
        )?;
        let running = self.watched.slots().iter();
        let running = running.filter(|slot| slot.view().is_some()).count();
        out.gauge("repos_running", "Workers with a repo", Some(running as u64))?;
        let workers = self.watched.config.concurrency as u64;
        out.gauge("workers", "Worker threads", Some(workers))?;
        let (known, cooling) = self.hosts;
        out.gauge(
            "hosts_known",
            "Hosts that are remembered, the directory included",
            Some(known as u64),
        )?;
        out.gauge(
            "hosts_cooling",
            "Hosts left alone for now, because they asked for it or failed too often",
            Some(cooling as u64),
        )
    }

    fn failures(&self, out: &mut Out<'_>) -> fmt::Result {
        let m = &self.watched.metrics;
        let sum = |reasons: &[Reason]| reasons.iter().map(|reason| m.failures_of(*reason)).sum();
        out.counter(
            "repos_failed",
            "Attempts that failed, whether they will be repeated or not",
            m.failures(),
        )?;
        out.counter(
            "car_fetch_errors",
            "Failures on the way to a repo: network, http_status, repo_gone, too_large",
            sum(&FETCH),
        )?;
        out.counter(
            "car_parse_errors",
            "Repos that are no sound CAR: car",
            sum(&PARSE),
        )?;
        let help = "Repos that are not what their owner signed: identity, incomplete, mst, commit, did_mismatch, signature";
        out.counter("verification_errors", help, sum(&VERIFICATION))?;
        out.by_reason(
            "failures",
            "Attempts that failed and messages that were given up, by reason",
            |reason| m.failures_of(reason),
        )?;
        out.by_reason(
            "dead_letters",
            "Messages copied to the dead letters, by reason",
            |reason| m.dead_letters_of(reason),
        )
    }

    /// Times and sizes.
    fn repos(&self, out: &mut Out<'_>) -> fmt::Result {
        let Metrics {
            observed: Some(observed),
            ..
        } = &*self.watched.metrics
        else {
            return Ok(());
        };
        let histograms = [
            (
                "fetch_seconds",
                "Time of downloads that came to their end",
                &observed.fetch_seconds,
            ),
            (
                "verify_seconds",
                "Time to prove a repo: signature and tree",
                &observed.verify_seconds,
            ),
            (
                "write_seconds",
                "Time to write a repo's events, backpressure included",
                &observed.write_seconds,
            ),
            (
                "repo_bytes",
                "Bytes of CAR of downloads that came to their end",
                &observed.repo_bytes,
            ),
        ];
        for (name, help, histogram) in histograms {
            out.histogram(name, help, histogram)?;
        }
        Ok(())
    }

    /// What Redis knows, and the mark.
    fn streams(&self, out: &mut Out<'_>) -> fmt::Result {
        let sample = self.watched.sample();
        let lengths = sample.lengths(Instant::now());
        out.gauge(
            "redis_connected",
            "Whether Redis answered when it was asked last",
            Some(u64::from(lengths.is_some())),
        )?;
        out.gauge(
            "queue_length",
            "Entries in the input stream",
            lengths.map(|l| l.queue),
        )?;
        out.gauge(
            "queue_pending",
            "Messages pending in the group, of all consumers",
            lengths.and_then(|l| l.pending),
        )?;
        out.gauge(
            "output_stream_length",
            "Entries in the output stream",
            lengths.map(|l| l.output),
        )?;
        let mark = self.watched.config.high_water_mark;
        out.gauge(
            "output_high_water_mark",
            "Entries in the output stream at which writing waits",
            Some(mark),
        )?;
        out.gauge(
            "dead_letters_length",
            "Entries in the stream of dead letters",
            lengths.map(|l| l.letters),
        )
    }

    fn process(&self, out: &mut Out<'_>) -> fmt::Result {
        let (memory, shutdown) = (&self.watched.memory, &self.watched.shutdown);
        out.gauge(
            "memory_used_bytes",
            "Memory that repos take now",
            Some(memory.held()),
        )?;
        out.gauge(
            "memory_budget_bytes",
            "Memory that repos may take",
            Some(memory.limit()),
        )?;
        out.gauge(
            "draining",
            "Whether the process is about to end",
            Some(u64::from(shutdown.is_requested())),
        )?;
        out.build_info()?;
        let since = self.watched.started.duration_since(UNIX_EPOCH);
        let since = since.map_or(0.0, |since| since.as_secs_f64());
        out.foreign(
            "process_start_time_seconds",
            "Start time of the process since the unix epoch in seconds",
            Some(since),
        )?;
        let resident = process::resident_bytes().map(|bytes| bytes as f64);
        out.foreign(
            "process_resident_memory_bytes",
            "Resident memory in bytes",
            resident,
        )
    }
}
