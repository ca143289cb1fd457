//! Who else works for the group, and what they ask together.
//!
//! Servers and the directory count requests by address, and each instance counts its own only. Who is alive is known by the keys with which
//! processes keep their consumer names, which also say on which machine each is. Those of this machine share its address; of
//! others it is not known.

use url::Url;

use super::{Finding, named, ok, warn};
use crate::commands::status::sample::Sample;
use crate::config::{Config, DEFAULT_HOST_RPS, DEFAULT_PLC_RPS};
use crate::fetch::policy::names_own;

/// Instances that are named.
const NAMED: usize = 5;

/// Looks at the name of this consumer, and at the rates of all.
pub(super) fn check(config: &Config, sample: &Sample) -> [Finding; 2] {
    let here = gethostname::gethostname().to_string_lossy().into_owned();
    let alive: Vec<(&[u8], &[u8])> = sample
        .consumers
        .iter()
        .filter_map(|c| Some((&*c.name, c.holder.as_deref()?)))
        .collect();
    [name(config, &alive, &here), rates(config, &alive, &here)]
}

/// The machine that a holder is on: what stands before its process.
fn machine(holder: &[u8]) -> &[u8] {
    const PROCESS: &[u8] = b" pid ";
    let mut places = holder.windows(PROCESS.len());
    let end = places.position(|place| place == PROCESS);
    &holder[..end.unwrap_or(holder.len())]
}

fn name(config: &Config, alive: &[(&[u8], &[u8])], here: &str) -> Finding {
    let consumer = named(config.consumer.as_bytes());
    let holder = alive
        .iter()
        .find(|(name, _)| *name == config.consumer.as_bytes());
    match holder {
        None => ok("consumer", format!("the name {consumer} is free")),
        Some((_, holder)) if machine(holder) == here.as_bytes() => ok(
            "consumer",
            format!("{consumer} is running on this machine: {}", named(holder)),
        ),
        Some((_, holder)) => warn(
            "consumer",
            format!(
                "the name {consumer} is held on another machine ({}): a worker that is started here ends at once",
                named(holder)
            ),
        ),
    }
}

fn rates(config: &Config, alive: &[(&[u8], &[u8])], here: &str) -> Finding {
    let is_running = alive
        .iter()
        .any(|(name, _)| *name == config.consumer.as_bytes());
    let this = usize::from(!is_running);
    let local = alive
        .iter()
        .filter(|(_, holder)| machine(holder) == here.as_bytes());
    let (local, all) = (local.count() + this, alive.len() + this);
    let hosts = config.host_rps.unwrap_or(DEFAULT_HOST_RPS);
    // Whoever has a directory of his own knows what it can take.
    let look_ups = (!has_own_directory(config)).then(|| config.plc_rps.unwrap_or(DEFAULT_PLC_RPS));
    let is_too_much = |n: usize| {
        hosts * n as f64 > DEFAULT_HOST_RPS
            || look_ups.is_some_and(|each| each * n as f64 > DEFAULT_PLC_RPS)
    };
    let mut names: Vec<_> = alive
        .iter()
        .take(NAMED)
        .map(|(name, _)| named(name))
        .collect();
    if alive.len() > NAMED {
        names.push(format!("{} more", alive.len() - NAMED));
    }
    let who = match (alive.is_empty(), is_running) {
        (true, _) => "none is alive by the keys of their names; with this one 1".to_owned(),
        (false, true) => format!("alive by the keys of their names: {}", names.join(", ")),
        (false, false) => format!(
            "alive by the keys of their names: {}; with this one {all}",
            names.join(", ")
        ),
    };
    let share = |n: usize| {
        format!(
            "BACKFILLER_HOST_RPS={} and BACKFILLER_PLC_RPS={}",
            part(DEFAULT_HOST_RPS, n),
            part(DEFAULT_PLC_RPS, n)
        )
    };
    let together = |each: f64| each * local as f64;
    if is_too_much(local) {
        let of_directory = look_ups.map_or(String::new(), |each| {
            format!(
                "; {each} look-ups a second in the directory each are {}, of {DEFAULT_PLC_RPS}",
                together(each)
            )
        });
        return warn(
            "instances",
            format!(
                "{who}; {local} on this machine at {hosts} requests a second to a host each are {}, and servers allow an address \
                 {DEFAULT_HOST_RPS}{of_directory}: give each {}",
                together(hosts),
                share(local)
            ),
        );
    }
    let elsewhere = match all > local && is_too_much(all) {
        true => format!(
            "; if those elsewhere share its address, give each {}",
            share(all)
        ),
        false => String::new(),
    };
    let of_directory = look_ups.map_or(String::new(), |each| {
        format!(", and {} look-ups of {DEFAULT_PLC_RPS}", together(each))
    });
    ok(
        "instances",
        format!(
            "{who}; {local} on this machine: {} requests a second to a host, of the {DEFAULT_HOST_RPS} that servers allow an \
             address{of_directory}{elsewhere}",
            together(hosts)
        ),
    )
}

/// Whether the directory is at an address of the operator's own, as far as its URL says so.
fn has_own_directory(config: &Config) -> bool {
    Url::parse(&config.plc_url).is_ok_and(|url| names_own(&url))
}

/// An equal part of a rate, rounded down to hundredths: more would be too much.
fn part(rate: f64, n: usize) -> f64 {
    ((rate / n as f64 * 100.0).floor() / 100.0).max(0.01)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_never_more_than_the_whole() {
        assert_eq!([1, 2, 3, 7].map(|n| part(10.0, n)), [10.0, 5.0, 3.33, 1.42]);
        assert_eq!(part(10.0, 100_000), 0.01);
    }

    #[test]
    fn the_machine_is_what_stands_before_the_process() {
        assert_eq!(machine(b"a b pid 7 since x (y)"), b"a b");
        assert_eq!(machine(b"whatever"), b"whatever");
        assert_eq!(machine(b""), b"");
    }
}
