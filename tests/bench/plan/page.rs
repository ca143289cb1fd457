//! The page of `make plan`.

use std::fmt::Write;

use jiff::Timestamp;
use serde_json::Value;

use super::arithmetic::{Bound, Figures, Plan};
use super::{NEEDED, Row, of};
use crate::support::table::markdown;
use crate::table::LOUD;

/// Entries of the output at which writing waits: the default of BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK.
const HIGH_WATER_MARK: f64 = 100_000.0;
/// The largest host's share in `make simulate`, in percent: what a skewed network looks like.
const SKEWED: f64 = 6.5;

/// All of it; `figures` with the directory's rate.
pub fn page(figures: &Figures, rows: &[Row], last: &Value) -> String {
    let records = figures.repos * figures.records;
    let mut text = format!(
        "{} repos: {:.1} TB of CARs, {:.1} billion records.\nThe output takes {:.1} TB of Redis's memory if nobody trims it, and {:.0} MB at the \
         high-water mark of {} entries.\n\n",
        number(figures.repos),
        figures.repos * figures.repo_bytes / 1e12,
        records / 1e9,
        figures.output_bytes() / 1e12,
        HIGH_WATER_MARK * figures.event_bytes / 1e6,
        number(HIGH_WATER_MARK),
    );
    let mut table = vec![line(["figure", "value", "source", ""])];
    table.extend(
        rows.iter()
            .map(|row| line([row.name, &number(row.value), row.source, row.note.as_str()])),
    );
    text += &markdown(&table);
    text += &measured(figures, last);

    let mut table = vec![line(["bound", "hours, alone", ""])];
    for (bound, time) in figures.bounds() {
        table.push(line([name(bound), &hours(time), &why(bound, figures)]));
    }
    let _ = writeln!(text, "\n{}", markdown(&table));

    let mirror = Figures {
        directory_rate: None,
        ..*figures
    };
    let plans = [figures, &mirror].map(Figures::plan);
    text += &markdown(&needs(&plans, figures));
    for (with, plan) in ["With the directory", "With a mirror of it"]
        .iter()
        .zip(&plans)
    {
        let (next, then) = plan.next;
        let _ = write!(
            text,
            "\n{with}, {} binds. Faster: {}; up to {:.1} times, when {} binds.",
            name(plan.binds),
            faster(plan.binds),
            plan.time / then,
            name(next),
        );
    }
    let percent = figures.repos / 100.0 / figures.largest_rate();
    let _ = write!(
        text,
        "\nEach percent of all repos that lies on one host takes {} hours of that host: the {SKEWED} % of the largest host in `make simulate` {}.\n\
         Not counted: TLS, which was not measured; failures, refusals and repeats; Redis's append-only file and replicas; what the \
         consumer does.",
        hours(percent),
        hours(percent * SKEWED),
    );
    text
}

/// Where the measured figures are from, and how far they are off for a set that they were not taken from.
fn measured(figures: &Figures, last: &Value) -> String {
    let at = Timestamp::from_second(last["at"].as_i64().unwrap_or_default()).unwrap_or_default();
    let small = &last["sets"]["small"];
    let repos = of(small, "/repos");
    let says = figures.worker.of(of(small, "/records") / repos) * 1e6;
    let is = of(small, "/ours/cpu_seconds") / repos * 1e6;
    let others = NEEDED.map(|name| of(&last["sets"][name], "/ours/machine_used_by_others") * 100.0);
    let others = others.into_iter().fold(0.0, f64::max);
    let mut text = format!(
        "Measured: `make bench` on {}, last at {}.\nThe two costs of CPU make {says:.0} µs of a repo of the set `small`, which took {is:.0} µs.\n",
        last["machine"].as_str().unwrap_or("?"),
        at.strftime("%F %H:%M UTC"),
    );
    if others > LOUD {
        let _ = writeln!(
            text,
            "Not a quiet machine: other processes used up to {others:.0} % of it meanwhile."
        );
    }
    text
}

fn needs(plans: &[Plan; 2], figures: &Figures) -> Vec<Vec<String>> {
    let row = |what: &str, of: &dyn Fn(&Plan) -> String| {
        let mut row = line([what]);
        row.extend(plans.iter().map(of));
        row
    };
    let rate = |whole: f64, plan: &Plan| number(whole * figures.addresses / plan.instances);
    let directory = figures.directory_rate.unwrap_or_default();
    vec![
        line(["what suffices", "with the directory", "with a mirror of it"]),
        row("binding", &|plan| name(plan.binds).to_owned()),
        row("hours", &|plan| hours(plan.time)),
        row("repos a second", &|plan| number(plan.rate)),
        row("addresses", &|_| number(figures.addresses)),
        row("instances", &|plan| number(plan.instances)),
        row("cores for the instances", &|plan| number(plan.cores)),
        row("of one core for Redis", &|plan| {
            format!("{:.0} %", plan.redis * 100.0)
        }),
        row("memory of the instances, GB", &|plan| {
            number(plan.memory / 1e9)
        }),
        row("download, Mbit/s", &|plan| {
            number(plan.download * 8.0 / 1e6)
        }),
        row("workers, of all instances", &|plan| number(plan.workers)),
        row("BACKFILLER_CONCURRENCY of each", &|plan| {
            number(plan.workers / plan.instances)
        }),
        row("BACKFILLER_HOST_RPS of each", &|plan| {
            rate(figures.host_rate, plan)
        }),
        line([
            "BACKFILLER_PLC_RPS of each".to_owned(),
            number(directory / plans[0].instances),
            "the mirror's".to_owned(),
        ]),
    ]
}

fn name(bound: Bound) -> &'static str {
    match bound {
        Bound::LargestHost => "the largest host",
        Bound::Directory => "the directory",
        Bound::Network => "the bandwidth",
        Bound::Redis => "Redis",
        Bound::Cpu => "CPU",
    }
}

fn why(bound: Bound, figures: &Figures) -> String {
    let micros = |seconds: f64| number(seconds * 1e6);
    match bound {
        Bound::LargestHost => format!(
            "{} repos at {} a second, {} address(es)",
            number(figures.repos * figures.largest),
            number(figures.largest_rate()),
            number(figures.addresses),
        ),
        Bound::Directory => format!(
            "one look-up a repo, {} a second; none with a mirror",
            number(figures.directory_rate.unwrap_or_default()),
        ),
        Bound::Network => format!(
            "{:.1} TB at {} Mbit/s",
            figures.repos * figures.repo_bytes / 1e12,
            number(figures.bandwidth * 8.0 / 1e6),
        ),
        Bound::Redis => format!(
            "one core: {} µs a repo for the writers, {} for the consumer",
            micros(figures.redis.of(figures.records)),
            micros(figures.reading * figures.records),
        ),
        Bound::Cpu => format!(
            "{} core(s): {} µs a repo",
            number(figures.cores),
            micros(figures.worker.of(figures.records)),
        ),
    }
}

fn faster(bound: Bound) -> &'static str {
    match bound {
        Bound::LargestHost => {
            "more ADDRESSES, each of which has its own HOST_RPS, or a host that allows more"
        }
        Bound::Directory => {
            "a mirror (BACKFILLER_PLC_URL), or a directory that allows more (PLC_RPS)"
        }
        Bound::Network => {
            "more bandwidth (BANDWIDTH_MBIT), or compressed repos where servers offer them (BACKFILLER_HTTP_GZIP)"
        }
        Bound::Redis => {
            "a second Redis with a part of the accounts and instances of its own, or fewer collections"
        }
        Bound::Cpu => "more CORES",
    }
}

fn hours(seconds: f64) -> String {
    format!("{:.1}", seconds / 3600.0)
}

/// Three digits, or all of those before the point, in groups.
fn number(value: f64) -> String {
    let decimals = match value {
        value if value.fract() == 0.0 || value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

fn line<const N: usize>(cells: [impl Into<String>; N]) -> Vec<String> {
    cells.map(Into::into).to_vec()
}
