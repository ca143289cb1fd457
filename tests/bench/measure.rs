//! Measures one set: the release binary as an operator would run it, in turn with the floor.
//!
//! The program is started first and waits for messages; then all of them are put into the input stream at once. The clocks run from that
//! moment until the input stream is empty, so that the start of the process is not counted, and the reader, the look-ups of
//! identities and the acknowledgements are. Of several rounds the least of each figure counts: what disturbs a run makes it longer,
//! never shorter.

use std::env;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::consume;
use crate::data::Store;
use crate::process::{Machine, cores, cpu_time, folder, peak_rss};
use crate::reference::{self, others};
use crate::results::{Figures, Rate, SetResult};
use crate::sets::Set;
use crate::stage::{DEAD_LETTERS, INPUT, OUTPUT, Running, Stage};
use crate::support::child;
use crate::support::wait::eventually;

/// How often it is looked how far the program is.
const POLL: Duration = Duration::from_millis(20);
/// How long a run may take.
const LIMIT: Duration = Duration::from_secs(300);
/// What is done behind the last acknowledgement: the log line, and giving back memory.
const AFTERMATH: Duration = Duration::from_millis(100);

/// The program that is measured.
pub fn binary() -> PathBuf {
    let named = env::var_os("BENCH_BIN").filter(|named| !named.is_empty());
    named.map_or_else(|| env!("CARGO_BIN_EXE_backfiller").into(), PathBuf::from)
}

/// Measures a set of repos.
pub fn measure(set: &Set, store: &Store) -> SetResult {
    let bodies = store.bodies(set.repos);
    let mut stage = Stage::start(set);
    let of_each = (0..stage.dids.len()).map(|number| &bodies[number % bodies.len()]);
    let (records, bytes) = of_each.fold((0, 0), |(records, bytes), body| {
        (records + body.records, bytes + body.place.len())
    });
    let mut result = SetResult {
        name: set.name.to_owned(),
        concurrency: set.concurrency,
        repos: stage.dids.len(),
        records,
        car_bytes: bytes,
        ..SetResult::default()
    };
    for round in 0..set.rounds {
        let mut texts = Vec::new();
        if set.floor {
            let figures = reference::run(&mut stage, records);
            result.floor = Some(figures.at_best(result.floor));
            texts.push(events(&mut stage));
        }
        let (figures, rate) = run(set, &mut stage, records);
        result.ours = figures.at_best((round > 0).then_some(result.ours));
        result.rate = rate;
        texts.push(events(&mut stage));
        // With several workers the repos come in any order.
        if set.concurrency == 1 {
            let same = texts.windows(2).all(|pair| pair[0] == pair[1]);
            assert!(same, "the floor writes other events than the program");
        }
        if set.encoded {
            let consumed = consume::run(&mut stage);
            result.consumed = Some(consumed.at_best(result.consumed));
            let redis = reference::encoded(&mut stage, records);
            result.encoded = Some(result.encoded.map_or(redis, |least| redis.min(least)));
        }
    }
    result
}

/// How many events the output has, and the first and the last of them without what says when they were made.
fn events(stage: &mut Stage) -> Vec<String> {
    let mut all = vec![stage.length(OUTPUT).to_string()];
    for (command, from, to) in [("XRANGE", "-", "+"), ("XREVRANGE", "+", "-")] {
        let mut range = redis::cmd(command);
        range.arg(OUTPUT).arg(from).arg(to).arg("COUNT").arg(1200);
        let entries: Vec<(String, (String, String))> = stage.ask(&range);
        all.extend(entries.into_iter().map(|(_, (_, event))| {
            let at = event.find(r#","time":""#).expect("an event has a time");
            // The key, the quotes, and the time of 24 characters.
            event[..at].to_owned() + &event[at + 9 + 24..]
        }));
    }
    all
}

/// One run of the program over all repos of the stage.
fn run(set: &Set, stage: &mut Stage, records: usize) -> (Figures, Option<Rate>) {
    stage.clear();
    let mut program = start(set, stage);
    wait_until_ready(stage);

    let before = stage.clocks();
    let cpu = cpu_time(program.pid());
    let began = SystemTime::now();
    enqueue(stage);
    let samples = watch(set, stage, &mut program);
    let (entries, last) = stage.output();
    thread::sleep(AFTERMATH);
    let cpu = cpu_time(program.pid()) - cpu;
    let passed = stage.since(&before);
    let rss = peak_rss(program.pid());
    stop(program);

    // A `repo` event behind each chunk, so at least one for each repo.
    let least = records + stage.dids.len().max(records / 500);
    assert!(entries >= least, "{entries} events, but {records} records");
    let began = began
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("a time after 1970");
    let wall = (Duration::from_millis(last).saturating_sub(began)).as_secs_f64();
    let work = cpu + passed.redis + passed.server;
    let figures = Figures {
        wall,
        cpu: cpu.as_secs_f64(),
        redis: passed.redis.as_secs_f64(),
        server: passed.server.as_secs_f64(),
        rss,
        used: work.as_secs_f64() / (wall * cores() as f64),
        others: others(passed.busy, work, passed.wall),
    };
    (figures, (set.delay_ms > 0).then(|| rate(&samples)))
}

/// Returns when the program waits for messages, and what is done once at its start is over.
pub fn wait_until_ready(stage: &mut Stage) {
    eventually("the program waits for messages", || {
        let clients: String = stage.ask(redis::cmd("CLIENT").arg("LIST"));
        clients.contains("cmd=xreadgroup")
    });
    thread::sleep(AFTERMATH);
}

/// Starts the program with what the set wants and nothing else in its environment; its log goes into a file.
pub fn start(set: &Set, stage: &Stage) -> Running {
    start_under(&[], set, stage)
}

/// The same, by a tool that is put before the program: its name and its options.
pub fn start_under(tool: &[String], set: &Set, stage: &Stage) -> Running {
    let log = File::create(log_file()).expect("a file for the log");
    let mut command = match tool {
        [] => Command::new(binary()),
        [tool, options @ ..] => {
            let mut command = Command::new(tool);
            command.args(options).arg(binary());
            command
        }
    };
    command
        .env_clear()
        .envs(env::vars_os().filter(|(key, _)| key == "PATH" || key == "HOME"))
        .env("REDIS_URL", stage.redis.url())
        .env("BACKFILLER_CONSUMER", "bench")
        .env("BACKFILLER_CONCURRENCY", set.concurrency.to_string())
        .env("BACKFILLER_PLC_URL", &stage.url)
        // A directory of one's own: the most that is accepted, far more than is asked for.
        .env("BACKFILLER_PLC_RPS", "100000")
        .env("BACKFILLER_ALLOW_PRIVATE_HOSTS", "true")
        // Nobody reads the output, so it must hold all of it.
        .env("BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK", "1000000000")
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("the same file again"))
        .stderr(log);
    if let Some(budget) = set.budget_mb {
        command.env("BACKFILLER_MEMORY_BUDGET_MB", budget.to_string());
    }
    Running(child::spawn(command).expect("the program starts"))
}

fn log_file() -> PathBuf {
    folder().join("backfiller.log")
}

/// Ends the program in the way of an operator; whatever it had to complain about fails the benchmark.
pub fn stop(mut program: Running) {
    let pid = Pid::from_raw(program.pid().try_into().expect("a process id"));
    kill(pid, Signal::SIGTERM).expect("the signal is sent");
    let status = program.0.wait().expect("the program's end");
    let log = fs::read_to_string(log_file()).expect("the log");
    let complaints = log
        .lines()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"));
    let complaints: Vec<&str> = complaints.take(10).collect();
    assert!(
        status.success() && complaints.is_empty(),
        "{status}; {}",
        complaints.join("\n")
    );
}

/// Puts the messages of all repos into the input stream.
pub fn enqueue(stage: &mut Stage) {
    let mut pipeline = redis::pipe();
    for did in &stage.dids {
        let message = serde_json::json!({ "did": did, "host": stage.url }).to_string();
        let entry = pipeline.cmd("XADD").arg(INPUT).arg("*");
        entry.arg("repo").arg(message).ignore();
    }
    let () = pipeline
        .query(&mut stage.connection)
        .expect("the messages are taken");
}

/// How many repos were done at a moment, and how busy the machine has been until then.
pub struct Sample {
    at: Instant,
    done: usize,
    machine: Machine,
}

/// Waits until the input stream is empty.
pub fn watch(set: &Set, stage: &mut Stage, program: &mut Running) -> Vec<Sample> {
    let repos = stage.dids.len();
    let deadline = Instant::now() + LIMIT;
    let mut samples = Vec::new();
    loop {
        let left = stage.length(INPUT);
        samples.push(Sample {
            at: Instant::now(),
            done: repos - left,
            machine: Machine::now(),
        });
        if left == 0 {
            break;
        }
        if set.drained {
            let mut trim = redis::cmd("XTRIM");
            let _: usize = stage.ask(trim.arg(OUTPUT).arg("MAXLEN").arg(0));
        }
        let ended = program.0.try_wait().expect("the state of a child");
        let in_time = Instant::now() < deadline;
        if ended.is_some() || !in_time || stage.length(DEAD_LETTERS) > 0 {
            let log = fs::read_to_string(log_file()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(20)..].join("\n");
            panic!("{}: {left} of {repos} repos are left:\n{end}", set.name);
        }
        thread::sleep(POLL);
    }
    assert_eq!(stage.length(DEAD_LETTERS), 0, "dead letters");
    samples
}

/// Between the 10th and the 90th percentile of the repos.
fn rate(samples: &[Sample]) -> Rate {
    let repos = samples.last().map_or(0, |sample| sample.done);
    let reached = |share: usize| {
        let mut after = samples.iter();
        let found = after.find(|sample| sample.done * 10 >= repos * share);
        found.expect("all repos are done at the end")
    };
    let (from, to) = (reached(1), reached(9));
    Rate {
        repos: (to.done - from.done) as f64 / (to.at - from.at).as_secs_f64(),
        machine: to.machine.share_since(&from.machine),
    }
}
