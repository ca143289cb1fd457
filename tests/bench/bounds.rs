//! What is to be reached, and whether it is. All figures of a bound come from the same run of the benchmark.

pub use crate::support::table::Bound;

use crate::results::{Results, SetResult};

/// Megabytes, of which there are a million bytes in one.
pub const MB: f64 = 1e6;
/// Above this share of the machine, a run that is to show what waiting costs shows what the machine can do.
const VOID: f64 = 0.7;
/// Above this share of the machine, in percent, what others take is not there to be used.
const TAKEN: f64 = 5.0;

/// A figure and the unit that it is shown in.
struct Unit(&'static str, usize);

const TIMES: Unit = Unit(" ×", 2);
const MICROS: Unit = Unit(" µs", 2);
const MEGABYTES: Unit = Unit(" MB", 0);
const PERCENT: Unit = Unit(" %", 2);

impl Unit {
    fn show(&self, value: f64) -> String {
        format!("{value:.*}{}", self.1, self.0)
    }
}

/// The table that is being filled.
struct Rows<'r> {
    results: &'r Results,
    rows: Vec<Bound>,
}

impl<'r> Rows<'r> {
    fn row(&mut self, what: &str, bound: String, reached: Option<(String, bool)>) {
        let (reached, ok) = match reached {
            Some((reached, ok)) => (reached, Some(ok)),
            None => ("not measured".to_owned(), None),
        };
        self.rows.push(Bound {
            what: what.to_owned(),
            bound,
            reached,
            ok,
        });
    }

    fn at_most(&mut self, what: &str, bound: f64, unit: &Unit, value: Option<f64>) {
        let reached = value.map(|value| (unit.show(value), value <= bound));
        self.row(what, format!("≤ {}", unit.show(bound)), reached);
    }

    fn set(&self, name: &str) -> Option<&'r SetResult> {
        self.results.get(name)
    }

    /// A figure of one set against the same of another.
    fn against(&self, one: &str, other: &str, figure: impl Fn(&SetResult) -> f64) -> Option<f64> {
        Some(figure(self.set(one)?) / figure(self.set(other)?))
    }
}

/// All rows.
pub fn check(results: &Results) -> Vec<Bound> {
    let mut rows = Rows {
        results,
        rows: Vec::new(),
    };
    cpu(&mut rows);
    wall(&mut rows);
    memory(&mut rows);
    latency(&mut rows);
    idle(&mut rows);
    rows.rows
}

fn cpu(rows: &mut Rows<'_>) {
    let of_floor = |set: &SetResult| Some(set.per_record(set.floor?.cpu));
    let floor = rows.set("100k").and_then(of_floor);
    rows.at_most(
        "CPU per record of the floor, 100k repo",
        5.0,
        &MICROS,
        floor,
    );
    let ratio = rows.set("100k").and_then(SetResult::ratio);
    rows.at_most(
        "CPU per record against the floor, 100k repo",
        1.35,
        &TIMES,
        ratio,
    );
    let cpu = |set: &SetResult| set.per_record(set.ours.cpu);
    let small = rows.set("small").map(cpu);
    rows.at_most("CPU per record, small repos", 7.0, &MICROS, small);
    for (one, other, order) in [
        ("1m", "10k", ""),
        ("1m-shuffled", "10k-shuffled", ", shuffled"),
    ] {
        // Caches make the floor grow as well: said, but no excuse.
        let floor = |set: &SetResult| {
            set.floor
                .map_or(f64::NAN, |floor| set.per_record(floor.cpu))
        };
        let growth = rows.against(one, other, cpu);
        let reached = growth.zip(rows.against(one, other, floor));
        let reached = reached.map(|(growth, floor)| {
            let text = format!("{} (the floor: {})", TIMES.show(growth), TIMES.show(floor));
            (text, growth <= 1.15)
        });
        let what = format!("CPU per record, 1M records against 10k{order}");
        rows.row(&what, format!("≤ {}", TIMES.show(1.15)), reached);
    }
    let redis = |set: &SetResult| Some(set.ours.redis / set.encoded?);
    let redis = rows.set("100k").and_then(redis);
    rows.at_most(
        "Redis's CPU per record against encoded XADD alone, 100k repo",
        1.15,
        &TIMES,
        redis,
    );
}

fn wall(rows: &mut Rows<'_>) {
    for name in ["100k", "500k"] {
        let wall = |set: &SetResult| Some(set.ours.wall / set.floor?.wall);
        let wall = rows.set(name).and_then(wall);
        rows.at_most(
            &format!("wall against the floor, {name} repo"),
            1.5,
            &TIMES,
            wall,
        );
    }
    let used = rows.set("workers").map(|set| {
        let (used, others) = (set.ours.used * 100.0, set.ours.others * 100.0);
        let mut text = format!("{used:.0} %");
        if others > TAKEN {
            text += &format!(", {others:.0} % taken by others: void");
        }
        (text, used >= 80.0 && others <= TAKEN)
    });
    rows.row(
        "records/s, 4 workers on big repos, against cores ÷ CPU per record of all",
        "≥ 80 %".to_owned(),
        used,
    );
}

fn memory(rows: &mut Rows<'_>) {
    let rss = |set: &SetResult| set.ours.rss as f64 / MB;
    for (what, name) in [
        ("peak RSS, 500k records", "500k"),
        ("peak RSS, 500k records, shuffled", "500k-shuffled"),
    ] {
        let set = rows.set(name);
        let bound = set.map_or(f64::NAN, |set| set.car_bytes as f64 / MB + 60.0);
        let reached = set.map(|set| (MEGABYTES.show(rss(set)), rss(set) <= bound));
        let size = match set {
            Some(_) => MEGABYTES.show(bound),
            None => "CAR + 60 MB".to_owned(),
        };
        rows.row(what, format!("≤ {size}"), reached);
    }
    for (spilled, name) in [("500k-spilled", "500k"), ("1m-spilled", "1m")] {
        let what = format!("peak RSS, {name} records, budget 64 MB");
        let reached = rows.set(spilled).map(rss);
        rows.at_most(&what, 140.0, &MEGABYTES, reached);
        let what = format!("wall, {name} records, budget 64 MB against 512 MB");
        let slower = rows.against(spilled, name, |set| set.ours.wall);
        rows.at_most(&what, 2.0, &TIMES, slower);
    }
    for (what, name) in [
        ("peak RSS, 64 workers × 40 MB, budget 512 MB", "many"),
        ("the same, chunks of 4 MiB", "many-large"),
    ] {
        let reached = rows.set(name).map(rss);
        rows.at_most(what, 800.0, &MEGABYTES, reached);
    }
}

fn latency(rows: &mut Rows<'_>) {
    let one = rows.set("latency-1").and_then(|set| set.rate);
    for (name, workers, least) in [("latency-64", 64.0, 0.9), ("latency-256", 256.0, 0.8)] {
        let rate = rows.set(name).and_then(|set| set.rate);
        let reached = one.zip(rate).map(|(one, rate)| {
            let share = rate.repos / (workers * one.repos);
            let void = rate.machine >= VOID;
            let mut text = format!("{share:.2}, machine at {:.0} %", rate.machine * 100.0);
            if void {
                text += ": void";
            }
            (text, share >= least && !void)
        });
        let what = format!("repos/s behind 250 ms, {workers} workers against {workers} × one");
        rows.row(&what, format!("≥ {least:.2}, machine < 70 %"), reached);
    }
}

fn idle(rows: &mut Rows<'_>) {
    let idle = rows.set("idle").and_then(|set| set.idle);
    let share = idle.map(|idle| idle.share * 100.0);
    rows.at_most("idle process, CPU of one core", 0.2, &PERCENT, share);
    let rss = idle.map(|idle| idle.rss as f64 / MB);
    rows.at_most("idle process, RSS", 15.0, &MEGABYTES, rss);
}
