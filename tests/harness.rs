//! The harness itself: its servers and the program start, stop and leave nothing behind; waiting gives up in time.

mod support;

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::panic::{self, AssertUnwindSafe};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use redis::Commands;

use support::backfiller::Backfiller;
use support::fixture_server::FixtureServer;
use support::redis_server::RedisServer;
use support::wait::{eventually, within};

#[test]
fn a_redis_server_starts_stops_and_restarts_on_its_port() {
    let mut server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let other = RedisServer::start();
    assert_ne!(server.port(), other.port());
    let mut connection = server.connection();
    let _: () = connection.set("key", "value").unwrap();

    let (url, folder) = (server.url(), server.folder().to_owned());
    server.stop();
    let lost: redis::RedisResult<String> = connection.get("key");
    assert!(lost.is_err());
    assert!(TcpStream::connect(("127.0.0.1", server.port())).is_err());

    server.restart();
    assert_eq!(server.url(), url);
    let value: String = server.connection().get("key").unwrap();
    assert_eq!(value, "value", "what the arguments keep is still there");

    drop(server);
    assert!(!folder.exists());
}

#[test]
fn without_arguments_redis_keeps_nothing() {
    let mut server = RedisServer::start();
    let _: () = server.connection().set("key", "value").unwrap();
    server.restart();
    assert!(!server.connection().exists::<_, bool>("key").unwrap());
}

#[test]
fn servers_started_by_threads_outlive_them_and_have_ports_of_their_own() {
    let threads: Vec<_> = (0..4).map(|_| thread::spawn(RedisServer::start)).collect();
    let servers: Vec<_> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    let mut ports: Vec<_> = servers.iter().map(RedisServer::port).collect();
    for server in &servers {
        let pong: String = redis::cmd("PING").query(&mut server.connection()).unwrap();
        assert_eq!(pong, "PONG");
    }
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), servers.len());
}

#[test]
fn a_failing_test_leaves_no_server() {
    let mut port = 0;
    let mut folder = None;
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        let server = RedisServer::start();
        port = server.port();
        folder = Some(server.folder().to_owned());
        panic::resume_unwind(Box::new("a failing test"));
    }));
    assert!(result.is_err());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    assert!(!folder.unwrap().exists());
}

/// Names the role of [`victim_of_the_test_above`].
const VICTIM: &str = "BACKFILLER_TEST_VICTIM";

#[test]
fn a_killed_test_process_leaves_no_server() {
    let mut victim = Command::new(env::current_exe().unwrap())
        .args(["--exact", "victim_of_the_test_above", "--nocapture"])
        .env(VICTIM, "yes")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let said = lines.map(Result::unwrap).find_map(|line| {
        let (_, said) = line.split_once("victim: ")?;
        Some(said.to_owned())
    });
    let killed = victim.kill().and_then(|()| victim.wait()).unwrap();
    assert_eq!(killed.signal(), Some(9));

    let said = said.expect("the victim says where its server is");
    let (port, folder) = said.split_once(' ').unwrap();
    let port: u16 = port.parse().unwrap();
    eventually("the server of the killed process is gone", || {
        TcpStream::connect(("127.0.0.1", port)).is_err()
    });
    std::fs::remove_dir_all(folder).unwrap();
}

/// Does nothing unless the test above runs it, as a process to be killed. Its server is started for
/// a thread that has ended: the server must live on regardless.
#[test]
fn victim_of_the_test_above() {
    if env::var_os(VICTIM).is_none() {
        return;
    }
    let server = thread::spawn(RedisServer::start).join().unwrap();
    let _: () = server.connection().set("key", "value").unwrap();
    println!("victim: {} {}", server.port(), server.folder().display());
    io::stdout().flush().unwrap();
    let mut nothing = String::new();
    let (silent, _peer) = quiet_pair();
    let _ = (&silent).read_to_string(&mut nothing); // until it is killed
}

/// Two ends of a connection on which nobody says anything.
fn quiet_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (one, listener.accept().unwrap().0)
}

#[test]
fn the_program_runs_with_its_output_captured() {
    let (redis, fixture) = (RedisServer::start(), FixtureServer::start());
    let mut help = Backfiller::builder(&redis, &fixture).arg("--help").start();
    assert!(help.wait().success());
    help.wait_for_line(|line| line.contains("BACKFILLER_CONSUMER"));
    assert!(!help.stdout_lines().is_empty());
    let missing = || help.wait_for_line(|line| line == "never printed");
    let missing = panic::catch_unwind(AssertUnwindSafe(missing));
    assert!(missing.is_err(), "an ended program prints no more lines");

    let mut program = Backfiller::builder(&redis, &fixture)
        .env("RUST_LOG", "debug")
        .start();
    program.signal(Signal::SIGKILL);
    assert_eq!(program.wait().signal(), Some(9));
    assert!(!program.is_running());
}

#[test]
fn waiting_gives_the_value_or_gives_up() {
    let mut countdown = 3;
    let value = eventually("the countdown is over", || {
        countdown -= 1;
        (countdown == 0).then_some("value")
    });
    assert_eq!(value, "value");
    assert_eq!(within(Duration::ZERO, || false), None);
    assert_eq!(within(Duration::ZERO, || true), Some(()));
}
