//! What is to be reached, and whether it is.

use super::limits::Spelling;
use super::network::Manner;
use super::rates::{self, Rates};
use super::run::Run;
use super::times::{self, START, Time};
use super::utilisation::{self, Utilisation};
use crate::support::table::Bound;

/// How much more than its limit a host may see.
const EXCESS: f64 = 1.05;
/// How much longer than its limits allow a healthy host may take.
const SLOWER: f64 = 1.2;
/// How busy the workers must be while there is work for free hosts.
const BUSY: f64 = 0.9;

/// A run, and what its log says.
pub struct Figures {
    pub run: Run,
    pub rates: Vec<Rates>,
    pub times: Vec<Option<Time>>,
    pub utilisation: Utilisation,
}

impl Figures {
    pub fn of(run: Run) -> Self {
        Figures {
            rates: rates::of_hosts(&run.network, &run.log),
            times: times::of_hosts(&run.network, &run.log),
            utilisation: utilisation::of(&run.network, &run.log),
            run,
        }
    }

    /// The hosts of these manners.
    pub fn hosts(&self, wanted: impl Fn(Manner) -> bool) -> impl Iterator<Item = usize> {
        let hosts = self.run.network.hosts.iter().enumerate();
        hosts
            .filter(move |(_, host)| wanted(host.manner))
            .map(|(number, _)| number)
    }

    /// The highest of these shares.
    pub fn highest(
        &self,
        wanted: impl Fn(Manner) -> bool,
        share: impl Fn(&Rates) -> f64,
    ) -> Option<f64> {
        self.hosts(wanted)
            .map(|host| share(&self.rates[host]))
            .reduce(f64::max)
    }

    /// The ratios of the times of these hosts, in ascending order.
    pub fn ratios(&self, wanted: impl Fn(Manner) -> bool) -> Vec<f64> {
        let times = self.hosts(wanted).filter_map(|host| self.times[host]);
        let mut ratios: Vec<f64> = times.map(|time| time.ratio()).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }
}

fn is_large(manner: Manner) -> bool {
    matches!(manner, Manner::Large | Manner::Relay)
}

fn is_small(manner: Manner) -> bool {
    matches!(manner, Manner::Small(_))
}

/// Says nothing before it refuses.
fn is_surprising(manner: Manner) -> bool {
    matches!(manner, Manner::Small(Spelling::Seconds | Spelling::Date))
}

fn is_wordless(manner: Manner) -> bool {
    manner == Manner::Wordless
}

fn is_sick(manner: Manner) -> bool {
    !manner.is_healthy()
}

/// All rows of a run.
pub fn check(figures: &Figures) -> Vec<Bound> {
    let name = figures.run.network.name;
    let mut rows = rates_of(figures);
    match figures.run.network.behind {
        None => rows.extend(times_of(figures)),
        Some(host) => rows.push(behind(figures, host)),
    }
    let share = figures.utilisation.share();
    rows.push(Bound {
        what: "workers busy, of the time that there was work for free hosts".to_owned(),
        bound: format!("≥ {:.0} %", BUSY * 100.0),
        reached: format!("{:.1} %", share * 100.0),
        ok: Some(share >= BUSY),
    });
    rows.extend(ends_of(figures));
    for row in &mut rows {
        row.what = format!("{name}: {}", row.what);
    }
    rows
}

/// What the hosts see.
pub fn rates_of(figures: &Figures) -> Vec<Bound> {
    type Wanted = fn(Manner) -> bool;
    type Share = fn(&Rates) -> f64;
    let rows: [(&str, Wanted, Share); 6] = [
        ("large hosts and relays, over 10 s", is_large, |it| it.short),
        ("large hosts and relays, over 30 s", is_large, |it| it.long),
        (
            "small hosts that say what is left, over as long as their windows",
            |it| is_small(it) && !is_surprising(it),
            |it| it.own,
        ),
        // Such a host cannot be known to have windows before it has refused; so it is its own count that it goes by.
        (
            "small hosts that say nothing before they refuse, in their windows",
            is_surprising,
            |it| it.counted,
        ),
        (
            "wordless hosts, over as long as their windows",
            is_wordless,
            |it| it.own,
        ),
        ("dead and hostile hosts, over 10 s", is_sick, |it| it.short),
    ];
    let row = |(what, wanted, share): (&str, Wanted, Share)| {
        let highest = figures.highest(wanted, share)?;
        Some(Bound {
            what: format!("the most requests against the limit: {what}"),
            bound: format!("≤ {:.0} %", EXCESS * 100.0),
            reached: format!("{:.1} %", highest * 100.0),
            ok: Some(highest <= EXCESS),
        })
    };
    rows.into_iter().filter_map(row).collect()
}

fn times_of(figures: &Figures) -> impl Iterator<Item = Bound> {
    type Wanted = fn(Manner) -> bool;
    let rows: [(&str, Wanted); 4] = [
        ("large hosts", |it| it == Manner::Large),
        ("small hosts", is_small),
        ("relays", |it| it == Manner::Relay),
        (
            "wordless hosts, with 30 s of rest for each refusal",
            is_wordless,
        ),
    ];
    rows.into_iter().filter_map(|(what, wanted)| {
        let worst = figures.ratios(wanted).last().copied()?;
        Some(Bound {
            what: format!("the longest time against what the limits allow: {what}"),
            bound: format!("≤ {SLOWER:.2} ×"),
            reached: format!("{worst:.2} ×"),
            ok: Some(worst <= SLOWER),
        })
    })
}

fn behind(figures: &Figures, host: usize) -> Bound {
    let network = &figures.run.network;
    let fair = times::fair(network, host).as_secs_f64();
    let taken = figures.times[host].and_then(|time| time.taken);
    let taken = taken.map_or(f64::INFINITY, |taken| taken.as_secs_f64());
    let of_front = network.hosts[network.front].messages;
    let of_host = network.hosts[host].repos;
    Bound {
        what: format!(
            "the time of {of_host} messages behind {of_front} of another host, against an equal share of an instance's workers"
        ),
        bound: format!("≤ {SLOWER:.2} × {fair:.1} s"),
        reached: format!("{:.2} × ({taken:.1} s)", taken / fair),
        ok: Some(taken <= SLOWER * fair),
    }
}

/// What has become of the repos.
pub fn ends_of(figures: &Figures) -> Vec<Bound> {
    let (run, ends) = (&figures.run, &figures.run.ends);
    let all = run.network.accounts.len();
    let deserved = all - ends.undeserved.len();
    let none = |what: &str, count: usize| Bound {
        what: what.to_owned(),
        bound: "0".to_owned(),
        reached: count.to_string(),
        ok: Some(count == 0),
    };
    vec![
        Bound {
            what: "repos that end as their host deserves, once".to_owned(),
            bound: format!("{all}"),
            reached: format!("{deserved}"),
            ok: Some(deserved == all),
        },
        none(
            "messages lost: neither events nor dead letter nor left",
            all.saturating_sub(ends.ended + ends.left),
        ),
        none("messages left, new or pending", ends.left),
        none("keys left of unfinished messages", ends.keys.len()),
        none("events and letters of other accounts", ends.strangers),
        none(
            "errors in the logs, other exit statuses",
            run.complaints.len(),
        ),
    ]
}

/// The constant in the times, for the reader of the table.
pub fn constant() -> String {
    format!("{} s", START.as_secs())
}
