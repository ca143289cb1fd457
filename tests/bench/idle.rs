//! What the program costs while it has nothing to do.

use std::thread;
use std::time::{Duration, Instant};

use crate::measure::{start, stop};
use crate::process::{cpu_time, rss};
use crate::results::{Idle, SetResult};
use crate::sets::Set;
use crate::stage::Stage;

/// Until what is done once at the start is over.
const SETTLE: Duration = Duration::from_secs(3);
/// How long it is watched.
const SPAN: Duration = Duration::from_secs(10);

/// Starts the program without any message and watches it.
pub fn measure(set: &Set) -> SetResult {
    let stage = Stage::start(set);
    let program = start(set, &stage);
    thread::sleep(SETTLE);
    let (began, cpu) = (Instant::now(), cpu_time(program.pid()));
    thread::sleep(SPAN);
    let cpu = cpu_time(program.pid()) - cpu;
    let share = cpu.as_secs_f64() / began.elapsed().as_secs_f64();
    let rss = rss(program.pid());
    stop(program);
    SetResult {
        name: set.name.to_owned(),
        concurrency: set.concurrency,
        idle: Some(Idle { share, rss }),
        ..SetResult::default()
    }
}
