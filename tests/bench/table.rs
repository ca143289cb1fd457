//! The table of the sets, beside that of the bounds.

use serde_json::Value;

use crate::bounds::MB;
use crate::results::{Results, SetResult};
pub use crate::support::table::bounds;
use crate::support::table::markdown;

/// So much of the machine, in percent, other processes may use before it is said.
pub const LOUD: f64 = 5.0;

/// The table of the sets; where there was a run before, with the change of CPU time and wall against it.
pub fn sets(results: &Results, previous: Option<&Value>) -> String {
    let mut rows = vec![
        [
            "set",
            "workers",
            "repos",
            "records",
            "wall s",
            "records/s",
            "repos/s",
            "CPU µs/record",
            "CPU µs/repo",
            "Redis µs/record",
            "server µs/record",
            "peak RSS MB",
            "floor µs/record",
            "× floor CPU",
            "× floor wall",
            "others %",
            "change CPU, wall",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for set in results.0.iter().filter(|set| set.idle.is_none()) {
        let ours = &set.ours;
        let rate = set
            .rate
            .map_or(set.repos as f64 / ours.wall, |rate| rate.repos);
        let optional =
            |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.2}"));
        rows.push(vec![
            set.name.clone(),
            set.concurrency.to_string(),
            set.repos.to_string(),
            set.records.to_string(),
            format!("{:.2}", ours.wall),
            format!("{:.0}", set.records as f64 / ours.wall),
            format!("{rate:.1}"),
            format!("{:.2}", set.per_record(ours.cpu)),
            format!("{:.0}", set.per_repo(ours.cpu)),
            format!("{:.2}", set.per_record(ours.redis)),
            format!("{:.2}", set.per_record(ours.server)),
            format!("{:.0}", ours.rss as f64 / MB),
            optional(set.floor.map(|floor| set.per_record(floor.cpu))),
            optional(set.ratio()),
            optional(set.floor.map(|floor| ours.wall / floor.wall)),
            format!("{:.0}", ours.others * 100.0),
            change(set, previous),
        ]);
    }
    markdown(&rows)
}

/// How the table is to be read, and whether the machine was quiet.
pub fn notes(results: &Results) -> String {
    let loudest = results.0.iter().map(|set| set.ours.others);
    let loudest = loudest.fold(0.0, f64::max) * 100.0;
    let mut text = String::from(
        "CPU times are those of the processes that did the work; of several rounds the least of each figure counts, of memory the most. \
         MB: a million bytes.",
    );
    if loudest > LOUD {
        text += &format!(
            "\nNot a quiet machine: other processes used up to {loudest:.0} % of it (column `others %`), which makes everything slower."
        );
    }
    text
}

/// One line about a set that was just measured.
pub fn short(set: &SetResult) -> String {
    if let Some(idle) = set.idle {
        let (share, rss) = (idle.share * 100.0, idle.rss as f64 / MB);
        return format!("{share:.3} % of a core, {rss:.1} MB");
    }
    let floor = match (set.floor, set.ratio()) {
        (Some(floor), Some(ratio)) => {
            let cpu = set.per_record(floor.cpu);
            format!("; floor {cpu:.2} µs, {ratio:.2} ×")
        }
        _ => String::new(),
    };
    format!(
        "{:.2} s, {:.2} µs of CPU per record{floor}",
        set.ours.wall,
        set.per_record(set.ours.cpu)
    )
}

/// Against the last run of the same set.
fn change(set: &SetResult, previous: Option<&Value>) -> String {
    let before = previous.map(|previous| &previous["sets"][&set.name]);
    let before = before.filter(|before| before["records"] == set.records);
    let before = before.map(|before| &before["ours"]);
    let Some(before) = before else {
        return "–".to_owned();
    };
    let percent = |now: f64, field: &str| {
        let before = before[field].as_f64().unwrap_or(f64::NAN);
        format!("{:+.0} %", (now / before - 1.0) * 100.0)
    };
    let (cpu, wall) = (set.ours.cpu, set.ours.wall);
    format!(
        "{}, {}",
        percent(cpu, "cpu_seconds"),
        percent(wall, "wall_seconds")
    )
}
