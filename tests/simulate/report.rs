//! What is printed of a run: throughput over time, the classes of hosts, the ends, and the workers.

use std::collections::BTreeMap;
use std::time::Duration;

use super::bounds::Figures;
use super::ends::{EVENTS, class};
use super::log::Entry;
use super::network::{Deserved, Manner};
use super::times::Time;
use crate::support::table::markdown;

/// What a line of the chart stands for.
const STEP: Duration = Duration::from_secs(5);
/// How many of the slowest hosts are named.
const SLOWEST: usize = 8;
/// The longest bar.
const BAR: usize = 40;

/// All of it.
pub fn all(figures: &Figures) -> String {
    let run = &figures.run;
    let utilisation = &figures.utilisation;
    format!(
        "{} network: {} hosts, {} repos, seed {}; {} workers in all; {:.1} s\n\n{}\n{}\n{}\n\
         worker time: {:.1} s busy, {:.1} s idle while there was work for free hosts: {:.1} %\n{}",
        run.network.name,
        run.network.hosts.len(),
        run.network.accounts.len(),
        run.network.seed,
        run.network.workers(),
        run.wall.as_secs_f64(),
        chart(&run.log),
        classes(figures),
        ends(figures),
        utilisation.busy,
        utilisation.wasted,
        utilisation.share() * 100.0,
        slowest(figures) + &undeserved(figures),
    )
}

/// The hosts that took longest against what their limits allow.
fn slowest(figures: &Figures) -> String {
    let times = figures.times.iter().enumerate();
    let mut times: Vec<_> = times
        .filter_map(|(host, time)| Some((host, (*time)?)))
        .collect();
    times.sort_by(|(_, one), (_, other)| other.ratio().total_cmp(&one.ratio()));
    let line = |(host, time): &(usize, Time)| {
        let it = &figures.run.network.hosts[*host];
        let taken = time.taken.map_or("never".to_owned(), |it| {
            format!("{:.1} s", it.as_secs_f64())
        });
        let (name, allowed) = (it.manner.name(), time.allowed.as_secs_f64());
        let messages = it.messages;
        format!("{name} host {host}, {messages} messages: {taken} against {allowed:.1} s\n")
    };
    let lines: String = times.iter().take(SLOWEST).map(line).collect();
    format!("the slowest:\n{lines}")
}

/// Throughput over time.
fn chart(log: &[Entry]) -> String {
    let Some(began) = log.iter().map(|entry| entry.arrived).min() else {
        return "No request at all.\n".to_owned();
    };
    #[derive(Clone, Default)]
    struct Line {
        requests: usize,
        repos: usize,
        refused: usize,
        busy: f64,
    }
    let place = |at: Duration| ((at - began).as_secs_f64() / STEP.as_secs_f64()) as usize;
    let last = log
        .iter()
        .map(|entry| place(entry.ended))
        .max()
        .unwrap_or(0);
    let mut lines = vec![Line::default(); last + 1];
    for entry in log {
        if entry.host.is_some() {
            lines[place(entry.arrived)].requests += 1;
            let ended = &mut lines[place(entry.ended)];
            ended.repos += usize::from(entry.status == 200);
            ended.refused += usize::from(entry.status == 429);
        }
        let (first, last) = (place(entry.arrived), place(entry.ended));
        for (at, line) in lines.iter_mut().enumerate().take(last + 1).skip(first) {
            let (from, to) = (began + STEP * at as u32, began + STEP * (at as u32 + 1));
            let within = entry.ended.min(to).saturating_sub(entry.arrived.max(from));
            line.busy += within.as_secs_f64() / STEP.as_secs_f64();
        }
    }
    let most = lines
        .iter()
        .map(|line| line.repos)
        .max()
        .unwrap_or(0)
        .max(1);
    let mut text = "    from   requests/s  repos/s  429/s  in flight\n".to_owned();
    for (at, line) in lines.iter().enumerate() {
        let rate = |count: usize| count as f64 / STEP.as_secs_f64();
        text += &format!(
            "{:>6} s {:>12.1} {:>8.1} {:>6.1} {:>10.1}  {}\n",
            at as u64 * STEP.as_secs(),
            rate(line.requests),
            rate(line.repos),
            rate(line.refused),
            line.busy,
            "█".repeat(line.repos * BAR / most),
        );
    }
    text
}

/// The classes of hosts.
fn classes(figures: &Figures) -> String {
    let head = [
        "hosts",
        "count",
        "repos",
        "allowed/s",
        "most in 10 s, %",
        "most in 30 s, %",
        "429s",
        "time, median ×",
        "time, worst ×",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let network = &figures.run.network;
    let mut refused: BTreeMap<Manner, usize> = BTreeMap::new();
    for entry in figures.run.log.iter().filter(|entry| entry.status == 429) {
        if let Some(host) = entry.host {
            *refused
                .entry(class(network.hosts[host].manner))
                .or_default() += 1;
        }
    }
    for manner in manners(figures) {
        let is_it = |it| class(it) == manner;
        let hosts: Vec<usize> = figures.hosts(is_it).collect();
        let repos: usize = hosts.iter().map(|&it| network.hosts[it].repos).sum();
        let rates = hosts.iter().map(|&it| network.hosts[it].limit.rate());
        let (least, most) = rates.fold((f64::MAX, 0.0_f64), |(least, most), rate| {
            (least.min(rate), most.max(rate))
        });
        let percent = |share: Option<f64>| format!("{:.0}", share.unwrap_or(0.0) * 100.0);
        let ratios = figures.ratios(is_it);
        let ratio = |at: Option<&f64>| at.map_or("–".to_owned(), |at| format!("{at:.2}"));
        rows.push(vec![
            manner.name().to_owned(),
            hosts.len().to_string(),
            repos.to_string(),
            if least < most {
                format!("{least:.0} to {most:.0}")
            } else {
                format!("{most:.0}")
            },
            percent(figures.highest(is_it, |it| it.short)),
            percent(figures.highest(is_it, |it| it.long)),
            refused.get(&manner).copied().unwrap_or(0).to_string(),
            ratio(ratios.get(ratios.len() / 2)),
            ratio(ratios.last()),
        ]);
    }
    markdown(&rows)
}

/// The classes that the network has.
fn manners(figures: &Figures) -> Vec<Manner> {
    let hosts = figures.run.network.hosts.iter();
    let mut manners: Vec<Manner> = hosts.map(|host| class(host.manner)).collect();
    manners.sort();
    manners.dedup();
    manners
}

/// How the repos of each class ended.
fn ends(figures: &Figures) -> String {
    let head = ["repos of", "deserve", "ended in", "count"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for ((manner, end), count) in &figures.run.ends.by_class {
        let deserved = match manner.deserves() {
            Deserved::Events => EVENTS.to_owned(),
            Deserved::DeadLetter(reasons) => format!("dead letter: {}", reasons.join(" or ")),
        };
        rows.push(vec![
            manner.name().to_owned(),
            deserved,
            end.clone(),
            count.to_string(),
        ]);
    }
    markdown(&rows)
}

/// The first of those that have ended otherwise, and what else there is to complain of.
fn undeserved(figures: &Figures) -> String {
    let wrong = figures.run.ends.undeserved.iter().take(10);
    let all = wrong.chain(&figures.run.complaints);
    all.map(|line| format!("! {line}\n")).collect()
}
