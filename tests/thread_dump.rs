//! The thread dump: one line for each thread on SIGUSR1 and SIGQUIT, with what it is at, in each state of the process; and that it
//! stops nobody, also where standard error is a pipe that nobody reads.

mod support;

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use support::backfiller::{Backfiller, binary};
use support::child::{self, Running};
use support::events::{OUTPUT, assert_repo, enqueue, read_events, wait_until_drained};
use support::fixture_server::{Fault, FixtureServer, served};
use support::hostile::outcomes;
use support::redis_server::RedisServer;
use support::wait::{eventually, within};

/// The last one that a dump names, for it was the last one to be started.
const LAST: &str = "reader";

/// The value of the first `name=value`.
fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    line.split(' ')
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// The lines of all dumps so far, as people read them.
fn dumped(backfiller: &Backfiller) -> Vec<String> {
    let lines = backfiller.lines().into_iter();
    lines
        .filter(|line| line.contains(" [thread-dump] thread name="))
        .collect()
}

/// Asks for a dump and returns its lines, when the one of the thread named has come.
#[track_caller]
fn dump(backfiller: &Backfiller, signal: Signal, last: &str) -> Vec<String> {
    let before = dumped(backfiller).len();
    backfiller.signal(signal);
    eventually("the last thread is named", || {
        let lines = dumped(backfiller).split_off(before);
        let is_whole = lines.iter().any(|line| field(line, "name") == Some(last));
        is_whole.then_some(lines)
    })
}

/// The line of this thread.
#[track_caller]
fn line_of<'l>(lines: &'l [String], name: &str) -> &'l str {
    let found = lines.iter().find(|line| field(line, "name") == Some(name));
    found.unwrap_or_else(|| panic!("{name} is not in {lines:#?}"))
}

/// Dumps until this thread is in this phase.
#[track_caller]
fn dump_with(backfiller: &Backfiller, last: &str, name: &str, phase: &str) -> Vec<String> {
    eventually(&format!("{name} is in {phase}"), || {
        let lines = dump(backfiller, Signal::SIGUSR1, last);
        (field(line_of(&lines, name), "phase") == Some(phase)).then_some(lines)
    })
}

#[test]
fn both_signals_name_every_thread_and_what_it_does() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let repo = served(&server, 1, 300);
    server.set_fault(&repo.did, Fault::Hold { after: 1000 });
    // Nothing of it passes the log's filter.
    let mut backfiller = Backfiller::builder(&redis, &server)
        .env("RUST_LOG", "off")
        .start();
    let id = enqueue(&mut connection, &repo.did, Some(&server.url()));
    server.wait_until_held(&repo.did, 1);
    let mut names: Vec<_> = ["main", "ctrl-c", "thread-dump", "keeper", "reader"].into();
    names.extend(["worker-0", "worker-1"]);
    names.extend(["resolver-0", "resolver-1", "resolver-2", "resolver-3"]);
    for signal in [Signal::SIGUSR1, Signal::SIGQUIT] {
        let (lines, busy) = eventually("the bytes have come", || {
            let lines = dump(&backfiller, signal, LAST);
            let busy = lines.iter().find(|line| line.contains(" bytes=1000 "));
            let busy = busy?.clone();
            Some((lines, busy))
        });
        let mut named: Vec<_> = lines.iter().filter_map(|it| field(it, "name")).collect();
        named.sort_unstable();
        names.sort_unstable();
        assert_eq!(named, names);
        for (name, value) in [
            ("phase", "fetch"),
            ("id", id.as_str()),
            ("did", repo.did.as_str()),
            ("host", server.url().as_str()),
            ("records", "0"),
        ] {
            assert_eq!(field(&busy, name), Some(value), "{busy}");
        }
        let idle = ["worker-0", "worker-1"].map(|name| line_of(&lines, name));
        let idle = idle.into_iter().find(|line| **line != busy).expect("one");
        assert_eq!(field(idle, "phase"), Some("idle"), "{idle}");
        assert_eq!(field(idle, "did"), None, "{idle}");
        assert_eq!(field(line_of(&lines, "main"), "phase"), Some("wait"));
        assert_eq!(field(line_of(&lines, "thread-dump"), "phase"), Some("dump"));
        for line in &lines {
            support::events::assert_timestamp(line.split(' ').next().expect("a time"));
            let seconds = field(line, "seconds").expect("seconds");
            assert!(seconds.parse::<f64>().is_ok_and(|it| it < 60.0), "{line}");
        }
    }
    // The time in a phase grows.
    eventually("a second has passed in it", || {
        let lines = dump(&backfiller, Signal::SIGUSR1, LAST);
        let busy = lines.iter().find(|line| line.contains(" phase=fetch "))?;
        let seconds: f64 = field(busy, "seconds")?.parse().ok()?;
        (seconds >= 1.0).then_some(())
    });
    server.release(&repo.did);
    wait_until_drained(&mut connection);
    assert_repo(&read_events(&mut connection, OUTPUT), &repo);
    backfiller.signal(Signal::SIGINT);
    assert_eq!(backfiller.wait().code(), Some(0));
}

#[test]
fn in_json_each_thread_is_an_object() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let repo = served(&server, 1, 300);
    server.set_fault(&repo.did, Fault::Hold { after: 1000 });
    let backfiller = Backfiller::builder(&redis, &server)
        .env("BACKFILLER_LOG_FORMAT", "json")
        .start();
    let id = enqueue(&mut connection, &repo.did, Some(&server.url()));
    server.wait_until_held(&repo.did, 1);
    let busy: Value = eventually("the bytes have come", || {
        backfiller.signal(Signal::SIGQUIT);
        let lines = backfiller.lines();
        let objects = lines
            .iter()
            .map(|line| serde_json::from_str::<Value>(line).expect("an object"));
        let mut objects = objects.filter(|object| object["message"] == "thread");
        objects.find(|object| object["bytes"] == 1000)
    });
    assert_eq!(busy["thread"], "thread-dump");
    assert_eq!([&busy["id"], &busy["did"]], [&id, &repo.did]);
    assert_eq!([&busy["phase"], &busy["host"]], ["fetch", &server.url()]);
    assert!(busy["seconds"].is_f64() && busy["records"] == 0, "{busy}");
}

#[test]
fn it_works_at_the_start_without_redis_and_while_redis_is_away_and_in_the_drain() {
    let mut redis = RedisServer::start_with(&["--appendonly", "yes"]);
    let server = FixtureServer::start();
    redis.stop();
    let mut backfiller = Backfiller::builder(&redis, &server).start();
    backfiller.wait_for_line(|line| line.contains("Redis cannot be used"));
    let lines = dump(&backfiller, Signal::SIGUSR1, "thread-dump");
    assert_eq!(field(line_of(&lines, "main"), "phase"), Some("redis"));
    redis.restart();
    backfiller.wait_for_line(|line| line.contains("created group"));
    let repo = served(&server, 1, 300);
    server.set_fault(&repo.did, Fault::Hold { after: 1000 });
    let mut connection = redis.connection();
    enqueue(&mut connection, &repo.did, Some(&server.url()));
    server.wait_until_held(&repo.did, 1);

    redis.stop();
    dump_with(&backfiller, LAST, "reader", "redis");
    redis.restart();
    dump_with(&backfiller, LAST, "reader", "wait");

    backfiller.signal(Signal::SIGINT);
    backfiller.wait_for_line(|line| line.contains("signal: reading stops"));
    // The reader ends at once, and the idle worker; the other one has a repo.
    dump_with(&backfiller, "keeper", "main", "drain");
    eventually("who has nothing to do is not named any more", || {
        backfiller.signal(Signal::SIGUSR1);
        let lines = backfiller.lines();
        let last = lines
            .iter()
            .rposition(|line| line.contains(" name=main "))?;
        let named = |name| {
            lines[last..]
                .iter()
                .any(|it| field(it, "name") == Some(name))
        };
        let workers = ["worker-0", "worker-1"].map(named);
        (named("keeper") && !named("reader") && workers[0] != workers[1]).then_some(())
    });
    server.release(&repo.did);
    assert_eq!(backfiller.wait().code(), Some(0));
    assert_repo(&read_events(&mut redis.connection(), OUTPUT), &repo);
}

/// Signals interrupt whatever waits in the kernel; none of that may be taken for a failure.
#[test]
fn a_storm_of_signals_disturbs_no_work() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let mut backfiller = Backfiller::builder(&redis, &server).start();
    backfiller.wait_for_line(|line| line.contains("created group"));
    let repos: Vec<_> = (0..10).map(|seed| served(&server, seed, 700)).collect();
    for repo in &repos {
        enqueue(&mut connection, &repo.did, Some(&server.url()));
    }
    let mut sent = 0;
    eventually("all are done", || {
        for signal in [Signal::SIGUSR1, Signal::SIGQUIT] {
            backfiller.signal(signal);
            sent += 1;
        }
        outcomes::so_far(&backfiller).len() >= repos.len()
    });
    outcomes::assert_none_failed(&backfiller);
    assert!(sent >= 20, "{sent}");
    backfiller.signal(Signal::SIGINT);
    assert_eq!(backfiller.wait().code(), Some(0));
    let lines = backfiller.lines();
    assert!(!lines.iter().any(|line| line.contains("WARN")));
    let events = read_events(&mut connection, OUTPUT);
    repos.iter().for_each(|repo| assert_repo(&events, repo));
}

#[test]
fn it_names_a_thousand_workers() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let backfiller = Backfiller::builder(&redis, &server)
        .env("BACKFILLER_CONCURRENCY", "1024")
        .start();
    // The reader is the last one to be started, and something has been read.
    let repo = served(&server, 1, 3);
    let mut connection = redis.connection();
    enqueue(&mut connection, &repo.did, Some(&server.url()));
    wait_until_drained(&mut connection);
    let lines = dump(&backfiller, Signal::SIGUSR1, LAST);
    let names: BTreeSet<_> = lines.iter().filter_map(|it| field(it, "name")).collect();
    for (kind, count) in [("worker", 1024), ("resolver", 32)] {
        for number in 0..count {
            let name = format!("{kind}-{number}");
            assert!(names.contains(name.as_str()), "{name}: {lines:#?}");
        }
    }
}

/// Bytes that nobody has read yet.
#[allow(unsafe_code, reason = "std has no call for it")]
fn unread(pipe: &impl AsRawFd) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: the call writes an int, to one that outlives it.
    let result = unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &mut count) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    usize::try_from(count).expect("a count")
}

#[test]
fn a_pipe_that_nobody_reads_stops_only_the_dump() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let mut command = Command::new(binary());
    command
        .env_clear()
        .env("REDIS_URL", redis.url())
        .env("BACKFILLER_PLC_URL", server.url())
        .env("BACKFILLER_CONSUMER", "one")
        // A dump of them all is larger than a pipe.
        .env("BACKFILLER_CONCURRENCY", "1024")
        .env("RUST_LOG", "off")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut running = Running(child::spawn(command).expect("it starts"));
    let pipe = running.0.stderr.take().expect("a pipe");
    let pid = Pid::from_raw(running.pid().try_into().expect("a process id"));
    let first = served(&server, 1, 3);
    enqueue(&mut connection, &first.did, Some(&server.url()));
    wait_until_drained(&mut connection);
    let mut last = 0;
    eventually("the pipe takes no more", || {
        kill(pid, Signal::SIGUSR1).expect("sent");
        let grown = within(Duration::from_millis(300), || unread(&pipe) > last).is_some();
        last = unread(&pipe);
        !grown && last > 4096
    });
    let second = served(&server, 2, 700);
    enqueue(&mut connection, &second.did, Some(&server.url()));
    wait_until_drained(&mut connection);
    let events = read_events(&mut connection, OUTPUT);
    for repo in [&first, &second] {
        assert_repo(&events, repo);
    }
    let began = Instant::now();
    kill(pid, Signal::SIGINT).expect("sent");
    let status = eventually("it ends", || running.0.try_wait().expect("known"));
    assert_eq!(status.code(), Some(0), "after {:?}", began.elapsed());
    assert_eq!(unread(&pipe), last, "nobody has read");
}
