//! What an operator sees of the threads: their names, in the system's tools and in the log; what they cost when idle; and the
//! lines that a long repo writes.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use support::backfiller::{Backfiller, Builder};
use support::events::{enqueue, take_events, wait_until_drained};
use support::fixture_server::{Fault, FixtureServer, served};
use support::ops::{self, Ops};
use support::redis_server::RedisServer;
use support::wait::{eventually, within};

/// The names that `ps -L` and `top -H` show, sorted.
fn thread_names(backfiller: &Backfiller) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", backfiller.pid())).unwrap();
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
    let names = tasks.filter_map(|task| name(task.ok()?));
    let mut names: Vec<_> = names.map(|name| name.trim_end().to_owned()).collect();
    names.sort();
    names
}

/// Processor time used so far, in ticks of 10 ms.
fn ticks(backfiller: &Backfiller) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", backfiller.pid())).unwrap();
    // The name in parentheses may hold blanks; behind it stands the third field.
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<_> = rest.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Resident memory, in KiB.
fn resident(backfiller: &Backfiller) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", backfiller.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next())
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn threads_have_the_names_of_what_they_do() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    for workers in [1, 12] {
        let backfiller = Backfiller::builder(&redis, &server)
            .env("BACKFILLER_CONCURRENCY", workers.to_string())
            .start();
        let mut wanted: Vec<_> = (0..workers).map(|n| format!("worker-{n}")).collect();
        wanted.extend((0..4).map(|n| format!("resolver-{n}")));
        // The first thread keeps the name of the program; ctrlc names its own.
        let others = ["backfiller", "ctrl-c", "keeper", "reader", "thread-dump"];
        wanted.extend(others.map(str::to_owned));
        wanted.sort();
        let within = within(Duration::from_secs(20), || {
            thread_names(&backfiller) == wanted
        });
        assert!(
            within.is_some(),
            "{:?}\n{wanted:?}",
            thread_names(&backfiller)
        );
        // The system cuts longer names, which then were other names than these.
        assert!(wanted.iter().all(|name| name.len() <= 15));
    }
}

/// Runs `make threads`' script; its status and both outputs.
fn threads_script(path: &OsStr, pid: &str) -> (Option<i32>, String, String) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/threads.sh");
    let mut command = Command::new("/bin/sh");
    command.arg(script).env("PATH", path).env("PID", pid);
    let output = command.output().expect("the script runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn make_threads_shows_the_threads_of_the_process_that_is_chosen() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let running: Vec<_> = (0..2)
        .map(|_| Backfiller::builder(&redis, &server).start())
        .collect();
    for backfiller in &running {
        eventually("all threads are there", || {
            thread_names(backfiller).contains(&"reader".to_owned())
        });
    }
    let [one, other] = [running[0].pid(), running[1].pid()].map(|pid| pid.to_string());
    let path = std::env::var_os("PATH").expect("a PATH");
    // A folder with all that it takes, but gdb.
    let folder = tempfile::tempdir().expect("a folder");
    for tool in ["cat", "grep", "sed"] {
        let mut found = std::env::split_paths(&path).map(|folder| folder.join(tool));
        let found = found
            .find(|tool| tool.is_file())
            .expect("the tool is there");
        std::os::unix::fs::symlink(found, folder.path().join(tool)).expect("linked");
    }
    for (path, has_gdb) in [
        (path.as_os_str(), None),
        (folder.path().as_os_str(), Some(false)),
    ] {
        let (status, out, err) = threads_script(path, &one);
        assert_eq!(status, Some(0), "{err}");
        for name in [
            "backfiller",
            "ctrl-c",
            "keeper",
            "reader",
            "thread-dump",
            "worker-1",
        ] {
            assert!(out.contains(name), "{name}: {out}");
        }
        if has_gdb == Some(false) {
            assert!(err.contains("install gdb"), "{err}");
        }
    }
    // Two are running at least: those of other tests are seen as well.
    let (status, out, err) = threads_script(&path, "");
    assert_eq!((status, out.as_str()), (Some(1), ""));
    let named: Vec<_> = err.split_whitespace().collect();
    assert!(
        err.contains("PID=") && named.contains(&one.as_str()),
        "{err}"
    );
    assert!(named.contains(&other.as_str()), "{err}");
    let (status, _, err) = threads_script(&path, &std::process::id().to_string());
    assert_eq!(status, Some(1));
    assert!(err.starts_with("no backfiller runs as process "), "{err}");
}

#[test]
fn log_lines_carry_the_name_of_their_thread() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let held: Vec<_> = (0..2).map(|seed| served(&server, seed, 3)).collect();
    for repo in &held {
        // Both workers are busy at the same time, so that both have something to say.
        server.set_fault(&repo.did, Fault::Hold { after: 100 });
        enqueue(&mut connection, &repo.did, Some(&server.url()));
    }
    let mut backfiller = Backfiller::builder(&redis, &server).start();
    for repo in &held {
        server.wait_until_held(&repo.did, 1);
    }
    held.iter().for_each(|repo| server.release(&repo.did));
    let () = redis::cmd("XADD")
        .arg(&["repo_backfill", "*", "repo", "?"])
        .query(&mut connection)
        .unwrap();
    wait_until_drained(&mut connection);
    backfiller.wait_for_line(|line| line.contains(" [reader] dead letter id="));
    for name in ["worker-0", "worker-1"] {
        let line =
            backfiller.wait_for_line(|line| line.contains(&format!(" INFO  [{name}] done did=")));
        let fields = [
            "did=did:plc:",
            "host=http://127.0.0.1:",
            "records=3",
            "bytes=",
            "ms=",
        ];
        assert!(fields.iter().all(|field| line.contains(field)), "{line}");
    }
    backfiller.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(backfiller.wait().code(), Some(0));
    let names = ["main", "reader", "worker-0", "worker-1", "ctrl-c"];
    for line in backfiller.lines() {
        let mut words = line.split_whitespace();
        let (time, level, thread) = (
            words.next().unwrap(),
            words.next().unwrap(),
            words.next().unwrap(),
        );
        support::events::assert_timestamp(time);
        assert!(["INFO", "WARN", "ERROR"].contains(&level), "{line}");
        assert!(
            names.iter().any(|name| thread == format!("[{name}]")),
            "{line}"
        );
    }
    assert!(
        backfiller
            .lines()
            .iter()
            .any(|line| line.contains(" [main] summary "))
    );
    assert!(
        backfiller.stdout_lines().is_empty(),
        "the log goes to standard error"
    );
}

#[test]
fn an_idle_process_costs_nothing() {
    costs_nothing(|program| program);
}

/// With a server for the operator that nobody asks, Redis is asked once a second.
#[test]
fn an_idle_process_that_can_be_watched_costs_next_to_nothing() {
    let backfiller = costs_nothing(ops::watched);
    let names = thread_names(&backfiller);
    for name in ["http", "sampler"] {
        assert!(names.iter().any(|of| of == name), "{name}: {names:?}");
    }
    assert_eq!(Ops::of(&backfiller).get("/healthz").status, 200);
}

/// Runs a repo, and then nothing for three seconds.
fn costs_nothing(with: impl FnOnce(Builder) -> Builder) -> Backfiller {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let backfiller = with(Backfiller::builder(&redis, &server)).start();
    let repo = served(&server, 1, 600);
    enqueue(&mut connection, &repo.did, Some(&server.url()));
    wait_until_drained(&mut connection);
    backfiller.wait_for_line(|line| line.contains(" done did="));
    println!("resident after a repo: {} KiB", resident(&backfiller));

    let (began, before) = (Instant::now(), ticks(&backfiller));
    eventually("three seconds have passed", || {
        began.elapsed() >= Duration::from_secs(3)
    });
    let used = ticks(&backfiller) - before;
    println!("idle for 3 s: {used} ticks");
    assert!(used <= 5, "{used} ticks of 10 ms in 3 s");
    backfiller
}

#[test]
fn a_long_repo_writes_progress_lines_and_the_process_a_heartbeat() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    // Two chunks, of which the second waits for room: a download that is held would run into the limit of silence, which is
    // thirty seconds as well.
    let repo = served(&server, 1, 700);
    let began = Instant::now();
    let backfiller = Backfiller::builder(&redis, &server)
        .env("BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK", "100")
        .start();
    let quick = served(&server, 2, 3);
    enqueue(&mut connection, &quick.did, Some(&server.url()));
    wait_until_drained(&mut connection);
    enqueue(&mut connection, &repo.did, Some(&server.url()));

    let line = backfiller.wait_for_line(|line| line.contains("[main] progress worker-"));
    assert!(
        began.elapsed() >= Duration::from_secs(10),
        "not before ten seconds"
    );
    let did = format!(" backpressure did={} ", repo.did);
    let host = format!(" host={} ", server.url());
    let bytes = format!(" bytes={} ", repo.car().len());
    for part in [did.as_str(), &host, &bytes, " records=500 ", " seconds=1"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let line = backfiller.wait_for_line(|line| line.contains("[main] heartbeat "));
    assert!(
        began.elapsed() >= Duration::from_secs(30),
        "not before thirty seconds"
    );
    assert!(
        line.contains(
            "heartbeat done=1 failures=0 deferrals=0 in_flight=1 waiting=0 pending=1 records/s="
        ),
        "{line}"
    );
    let progress = backfiller
        .lines()
        .iter()
        .filter(|line| line.contains(" progress "))
        .count();
    assert!((2..=3).contains(&progress), "every ten seconds: {progress}");
    let mut events = take_events(&mut connection);
    wait_until_drained(&mut connection);
    events.extend(take_events(&mut connection));
    assert_eq!(events.len(), 4 + 702);
}
