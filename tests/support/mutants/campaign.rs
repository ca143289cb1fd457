//! Many mutants on all processors: how many, which, what came of them, and what to do with one that was not taken as it should.
//!
//! | variable | |
//! |---|---|
//! | `FUZZ_SEED` | another seed than that of CI; `random` for one that nobody knows |
//! | `FUZZ_MUTANTS` | so many mutants |
//! | `FUZZ_SECONDS` | as many as this time allows |
//! | `FUZZ_ONLY` | this mutant alone |

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use super::verdict::{Opinion, Outcome};
use super::{Mutant, Mutants};
use crate::support::wait::LIMIT;

/// A seed that nobody knew before.
static CHANCE: OnceLock<u64> = OnceLock::new();
/// The seed of CI.
const SEED: u64 = 0x6d75_7461_7465;
/// Failing mutants that are shown and kept.
const KEPT: usize = 10;
/// The longest that a mutant may take, of one processor.
pub const SLOWEST: Duration = Duration::from_secs(1);

/// Which mutants.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub first: u64,
    pub mutants: u64,
    pub until: Option<Instant>,
}

impl Plan {
    /// What the environment asks for, else so many of the seed of CI.
    pub fn from_env(mutants: u64) -> Self {
        let number = |name: &str| {
            let text = env::var(name).ok().filter(|text| !text.is_empty())?;
            let number = text.parse::<u64>();
            Some(number.unwrap_or_else(|_| panic!("{name}={text} is no number")))
        };
        let seed = match env::var("FUZZ_SEED").as_deref() {
            // One for all tests of this process.
            Ok("random") => *CHANCE.get_or_init(|| RandomState::new().hash_one(Instant::now())),
            _ => number("FUZZ_SEED").unwrap_or(SEED),
        };
        let seconds = number("FUZZ_SECONDS").map(Duration::from_secs);
        let only = number("FUZZ_ONLY");
        let unlimited = seconds.map(|_| u64::MAX / 2);
        let mutants = number("FUZZ_MUTANTS").or(unlimited).unwrap_or(mutants);
        Self {
            seed,
            first: only.unwrap_or(0),
            mutants: if only.is_some() { 1 } else { mutants },
            until: seconds.map(|time| Instant::now() + time),
        }
    }

    /// Whether it is one that does not depend on chance or time, and large enough for statements on the whole.
    pub fn is_whole(&self) -> bool {
        self.mutants >= 1000 && self.until.is_none()
    }
}

/// What came of the mutants.
#[derive(Debug, Default)]
pub struct Tally {
    pub mutants: u64,
    /// Nodes, records or commit changed, hashed and signed again.
    pub signed_again: u64,
    pub classes: BTreeMap<String, u64>,
    /// By what was done to them and what came of it.
    pub histories: BTreeMap<(&'static str, String), u64>,
    pub slowest: Duration,
    pub failed: u64,
    pub failures: Vec<String>,
}

impl Tally {
    /// Counts an outcome, and checks it against the second reader.
    pub fn count(
        &mut self,
        seed: u64,
        mutant: &Mutant,
        outcome: &Outcome,
        took: Duration,
        now: u64,
    ) {
        let opinion = Opinion::of(mutant, outcome, now);
        self.mutants += 1;
        self.signed_again += u64::from(opinion.signed_again(mutant));
        let class = outcome.class();
        for name in &mutant.history {
            *self.histories.entry((name, class.clone())).or_default() += 1;
        }
        *self.classes.entry(class).or_default() += 1;
        self.slowest = self.slowest.max(took);
        let mut result = opinion.check(outcome);
        if took > SLOWEST {
            result = Err(format!("{took:?} of processor time"));
        }
        if let Err(text) = result {
            self.fail(seed, mutant, &text);
        }
    }

    /// Keeps a mutant that was not taken as it should.
    pub fn fail(&mut self, seed: u64, mutant: &Mutant, text: &str) {
        self.failed += 1;
        if self.failures.len() < KEPT {
            let path = keep(seed, mutant);
            let (number, history) = (mutant.number, &mutant.history);
            self.failures.push(format!(
                "mutant {number} {history:?}: {text}\n  {path}; again with FUZZ_SEED={seed} FUZZ_ONLY={number} make fuzz"
            ));
        }
    }

    fn add(&mut self, other: Tally) {
        self.mutants += other.mutants;
        self.signed_again += other.signed_again;
        self.slowest = self.slowest.max(other.slowest);
        self.failed += other.failed;
        self.failures.extend(other.failures);
        for (class, count) in other.classes {
            *self.classes.entry(class).or_default() += count;
        }
        for (history, count) in other.histories {
            *self.histories.entry(history).or_default() += count;
        }
    }

    /// Fails the test where a mutant failed.
    #[track_caller]
    pub fn assert_sound(&self) {
        let shown = &self.failures[..self.failures.len().min(KEPT)];
        assert!(
            self.failed == 0,
            "{} of {} mutants were not taken as they should:\n{}",
            self.failed,
            self.mutants,
            shown.join("\n")
        );
    }

    /// One line on all of it.
    pub fn line(&self) -> String {
        let share = 100 * self.signed_again / self.mutants.max(1);
        let classes: Vec<_> = self
            .classes
            .iter()
            .map(|(class, count)| format!("{class} {count}"))
            .collect();
        format!(
            "{} mutants, {share} % signed again, slowest {} ms, {} failed; {}",
            self.mutants,
            self.slowest.as_millis(),
            self.failed,
            classes.join(", ")
        )
    }
}

/// Writes the archive where it outlives the test; returns the path.
fn keep(seed: u64, mutant: &Mutant) -> String {
    let path = env::temp_dir().join(format!("backfiller-mutant-{seed}-{}.car", mutant.number));
    match fs::write(&path, &mutant.served) {
        Ok(()) => path.display().to_string(),
        Err(error) => format!("(not kept: {error})"),
    }
}

/// What a thread is working on: the mutant's number and 1, and since when, in milliseconds; 0 for nothing.
#[derive(Default)]
struct Bench {
    number: AtomicU64,
    since: AtomicU64,
}

/// Gives each mutant of the plan to a program; each thread has one of its own.
///
/// A mutant on which the program hangs ends the process: there is no other way to end a thread.
pub fn run<P>(plan: &Plan, now: u64, program: impl Fn() -> P + Sync) -> Tally
where
    P: FnMut(&Mutant) -> Outcome,
{
    let mutants = Mutants::of(plan.seed);
    let threads = thread::available_parallelism().map_or(2, |count| count.get().clamp(2, 16));
    let benches: Vec<Bench> = (0..threads).map(|_| Bench::default()).collect();
    let (began, next, over) = (Instant::now(), AtomicU64::new(0), AtomicBool::new(false));
    let total = Mutex::new(Tally::default());
    let (ended, ends) = mpsc::channel();
    thread::scope(|scope| {
        for bench in &benches {
            let (mutants, program, next, over, total, ended) =
                (&mutants, &program, &next, &over, &total, ended.clone());
            scope.spawn(move || {
                let mut program = program();
                let mut tally = Tally::default();
                while !over.load(Ordering::Relaxed) {
                    let offset = next.fetch_add(1, Ordering::Relaxed);
                    if offset >= plan.mutants {
                        break;
                    }
                    let mutant = mutants.get(plan.first + offset);
                    bench
                        .since
                        .store(began.elapsed().as_millis() as u64, Ordering::Relaxed);
                    bench.number.store(mutant.number + 1, Ordering::Release);
                    let start = processor_time();
                    let outcome = program(&mutant);
                    let took = processor_time() - start;
                    bench.number.store(0, Ordering::Release);
                    tally.count(plan.seed, &mutant, &outcome, took, now);
                    if offset % 256 == 0 {
                        lock(total).add(std::mem::take(&mut tally));
                    }
                }
                lock(total).add(tally);
                let _ = ended.send(());
            });
        }
        drop(ended);
        let mut said = Instant::now();
        loop {
            match ends.recv_timeout(Duration::from_millis(200)) {
                Ok(()) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    watch(&mutants, &benches, began);
                    over.fetch_or(
                        plan.until.is_some_and(|until| Instant::now() >= until),
                        Ordering::Relaxed,
                    );
                    if said.elapsed() > Duration::from_secs(10) {
                        said = Instant::now();
                        println!("{:5} s: {}", began.elapsed().as_secs(), lock(&total).line());
                    }
                }
            }
        }
    });
    total.into_inner().expect("no thread panicked")
}

/// Ends the process where a mutant takes endlessly.
fn watch(mutants: &Mutants, benches: &[Bench], began: Instant) {
    for bench in benches {
        let number = bench.number.load(Ordering::Acquire);
        let since = Duration::from_millis(bench.since.load(Ordering::Relaxed));
        if number > 0 && began.elapsed() > since + LIMIT {
            let mutant = mutants.get(number - 1);
            let path = keep(mutants.seed, &mutant);
            // Past the capture of the test harness, which would be lost with the process.
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!(
                    "mutant {} of seed {} {:?} hangs: {path}\n",
                    number - 1,
                    mutants.seed,
                    mutant.history
                )
                .as_bytes(),
            );
            std::process::abort();
        }
    }
}

fn lock(total: &Mutex<Tally>) -> std::sync::MutexGuard<'_, Tally> {
    total
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What this thread has had of a processor: other processes on the machine do not count.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("the thread's clock")
        .into()
}
