//! The floor on the same stage: what the work costs that cannot be avoided.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::process::{cores, cpu_time, cpu_time_of_the_ended, folder};
use crate::results::Figures;
use crate::stage::{OUTPUT, Running, Stage, this_program};
use crate::support::child;

/// Runs the floor over all repos of the stage, one after the other.
pub fn run(stage: &mut Stage, records: usize) -> Figures {
    stage.clear();
    let ended = cpu_time_of_the_ended();
    let mut floor = start(stage, "run");
    floor.wait_until_ready();
    // Its start is no work, as little as ours is.
    let started = cpu_time(floor.process.0.id());
    let before = stage.clocks();
    floor.go_on();
    let summary = floor.summary(records);
    floor.end();
    let passed = stage.since(&before);
    let cpu = cpu_time_of_the_ended() - ended - started;
    let wall = summary["seconds"].as_f64().expect("the floor's seconds");
    let work = cpu + passed.redis + passed.server;
    Figures {
        wall,
        cpu: cpu.as_secs_f64(),
        redis: passed.redis.as_secs_f64(),
        server: passed.server.as_secs_f64(),
        rss: 0,
        used: work.as_secs_f64() / (wall * cores() as f64),
        others: others(passed.busy, work, passed.wall),
    }
}

/// Redis's CPU time for the same pipelines, encoded before.
pub fn encoded(stage: &mut Stage, records: usize) -> f64 {
    stage.clear();
    let mut floor = start(stage, "encoded");
    floor.wait_until_ready();
    let before = stage.clocks();
    floor.go_on();
    floor.summary(records);
    let passed = stage.since(&before);
    floor.end();
    passed.redis.as_secs_f64()
}

/// The share of the machine that processes used which have nothing to do with the benchmark.
pub fn others(busy: Duration, work: Duration, wall: Duration) -> f64 {
    busy.saturating_sub(work).as_secs_f64() / (wall.as_secs_f64() * cores() as f64)
}

struct Floor {
    process: Running,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

fn start(stage: &Stage, how: &str) -> Floor {
    let urls = stage
        .dids
        .iter()
        .map(|did| format!("{}/xrpc/com.atproto.sync.getRepo?did={did}\n", stage.url));
    let file = folder().join("urls");
    fs::write(&file, urls.collect::<String>()).expect("the list of URLs");
    let mut command = this_program();
    command
        .args(["floor", how])
        .arg(format!("127.0.0.1:{}", stage.redis.port()))
        .arg(OUTPUT)
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut process = Running(child::spawn(command).expect("the floor starts"));
    let Child { stdin, stdout, .. } = &mut process.0;
    Floor {
        input: stdin.take().expect("a pipe"),
        output: BufReader::new(stdout.take().expect("a pipe")),
        process,
    }
}

impl Floor {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the floor's words");
        line.trim_end().to_owned()
    }

    fn wait_until_ready(&mut self) {
        assert_eq!(self.line(), "ready", "the floor's first words");
    }

    fn go_on(&mut self) {
        self.input.write_all(b"go\n").expect("the floor goes on");
    }

    fn summary(&mut self, records: usize) -> Value {
        let line = self.line();
        let summary: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("the floor's summary ({error}): {line}"));
        assert_eq!(
            summary["records"], records,
            "the floor has seen all records"
        );
        summary
    }

    /// Waits for its end, which is when its CPU time is known.
    fn end(mut self) {
        drop(self.input);
        let status = self.process.0.wait().expect("the floor's end");
        assert!(status.success(), "the floor failed: {status}");
    }
}
