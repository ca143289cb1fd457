//! Redis away, restarted, read-only, out of memory, or behind another password: what passes is waited out and loses nothing,
//! what does not pass ends the process with a sentence.

mod support;

use std::collections::HashMap;
use std::time::Duration;

use redis::Connection;

use support::backfiller::{Backfiller, Builder};
use support::events::{
    Event, INPUT, OUTPUT, enqueue, events_of, pending, read_events, stream_len, take_events,
    wait_until_drained,
};
use support::fixture_server::{Fault, FixtureServer, served};
use support::generator::Repo;
use support::redis_server::RedisServer;
use support::wait::{eventually, within};

/// What a server needs to lose nothing when it is killed.
const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

struct Stage {
    redis: RedisServer,
    server: FixtureServer,
}

impl Stage {
    fn new(redis_args: &[&str]) -> Self {
        Self {
            redis: RedisServer::start_with(redis_args),
            server: FixtureServer::start(),
        }
    }

    fn put_repo(&self, seed: u64, size: usize) -> Repo {
        served(&self.server, seed, size)
    }

    fn enqueue(&self, repo: &Repo) {
        enqueue(
            &mut self.redis.connection(),
            &repo.did,
            Some(&self.server.url()),
        );
    }

    fn builder(&self) -> Builder {
        Backfiller::builder(&self.redis, &self.server)
    }

    fn command(&self, command: &str) {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            command.arg(word);
        });
        let () = command.query(&mut self.redis.connection()).unwrap();
    }
}

/// Each record of the repo has its event, perhaps more than once, and the last event is the repo's.
#[track_caller]
fn assert_at_least_once(events: &[Event], repo: &Repo) {
    let events = events_of(events, &repo.did);
    let written: HashMap<_, _> = events
        .iter()
        .map(|event| (event.text("cid"), event))
        .collect();
    for record in &repo.expected {
        let which = format!("{}/{} of {}", record.collection, record.rkey, repo.did);
        let event = written.get(record.cid.to_string().as_str());
        let event = event.unwrap_or_else(|| panic!("no event of {which}"));
        assert_eq!(event.text("rkey"), record.rkey, "{which}");
        assert_eq!(event.json["record"], record.json, "{which}");
    }
    assert_eq!(events.last().map(|event| event.text("type")), Some("repo"));
}

#[track_caller]
fn assert_done(connection: &mut Connection, repos: &[Repo]) {
    let events = read_events(connection, OUTPUT);
    repos
        .iter()
        .for_each(|repo| assert_at_least_once(&events, repo));
}

#[test]
fn away_at_the_start_it_is_waited_for() {
    let mut stage = Stage::new(&DURABLE);
    let repo = stage.put_repo(1, 3);
    stage.enqueue(&repo);
    stage.redis.stop();
    let mut backfiller = stage.builder().start();
    backfiller.wait_for_line(|line| {
        line.contains("WARN")
            && line.contains("Redis cannot be used: ")
            && line.contains("waiting for it")
    });
    assert!(backfiller.is_running());
    stage.redis.restart();
    let mut connection = stage.redis.connection();
    wait_until_drained(&mut connection);
    backfiller.wait_for_line(|line| line.contains("Redis is back after "));
    assert_done(&mut connection, &[repo]);
}

#[test]
fn restarted_while_idle_it_is_worked_with_again() {
    let mut stage = Stage::new(&DURABLE);
    let mut backfiller = stage.builder().start();
    backfiller.wait_for_line(|line| line.contains("created group"));
    for seed in 1..=3 {
        stage.redis.stop();
        let said = |line: &&String| line.contains("[reader] Redis cannot be used");
        eventually("the reader says it", || {
            backfiller.lines().iter().filter(said).count() >= seed as usize
        });
        stage.redis.restart();
        let repo = stage.put_repo(seed, 3);
        stage.enqueue(&repo);
        let mut connection = stage.redis.connection();
        wait_until_drained(&mut connection);
        assert_done(&mut connection, &[repo]);
    }
    assert!(backfiller.is_running());
}

#[test]
fn restarted_with_its_data_lost_it_is_worked_with_again() {
    let mut stage = Stage::new(&[]);
    let mut backfiller = stage.builder().start();
    backfiller.wait_for_line(|line| line.contains("created group"));
    stage.redis.restart();
    let repo = stage.put_repo(1, 3);
    stage.enqueue(&repo);
    let mut connection = stage.redis.connection();
    eventually("the message is acknowledged", || {
        assert!(backfiller.is_running());
        stream_len(&mut connection, INPUT) == 0
    });
    assert_done(&mut connection, &[repo]);
}

#[test]
fn restarted_in_the_midst_of_a_repo_it_loses_nothing() {
    let mut stage = Stage::new(&DURABLE);
    let repo = stage.put_repo(1, 1700);
    stage.enqueue(&repo);
    let mut backfiller = stage
        .builder()
        .env("BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK", "100")
        .start();
    let mut events = Vec::new();
    for chunk in 1..=2 {
        let mut connection = stage.redis.connection();
        eventually("a chunk is there", || {
            stream_len(&mut connection, OUTPUT) >= 501
        });
        stage.redis.stop();
        let said =
            |line: &&String| line.contains("[worker-") && line.contains("Redis cannot be used");
        eventually("the worker says it", || {
            backfiller.lines().iter().filter(said).count() >= chunk
        });
        stage.redis.restart();
        let mut connection = stage.redis.connection();
        assert_eq!(pending(&mut connection), 1);
        events.extend(take_events(&mut connection));
    }
    let mut connection = stage.redis.connection();
    eventually("the message is acknowledged", || {
        events.extend(take_events(&mut connection));
        stream_len(&mut connection, INPUT) == 0
    });
    assert_eq!(pending(&mut connection), 0);
    events.extend(take_events(&mut connection));
    assert_at_least_once(&events, &repo);
    assert!(backfiller.is_running());
    assert!(
        !backfiller
            .lines()
            .iter()
            .any(|line| line.contains("failed did="))
    );
}

/// Redis acknowledges chunks, and comes back without them: from a snapshot, as after a power cut or a fail-over.
#[test]
fn restarted_without_what_it_had_acknowledged_it_loses_no_record() {
    let mut stage = Stage::new(&["--save", "3600 1"]);
    let repo = stage.put_repo(1, 2900);
    stage.enqueue(&repo);
    let backfiller = stage
        .builder()
        .env("BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK", "1000")
        .start();
    let two_chunks = |connection: &mut Connection| {
        eventually("two chunks are there", || {
            stream_len(connection, OUTPUT) == 1002
        });
    };
    let mut connection = stage.redis.connection();
    let mut events = Vec::new();
    two_chunks(&mut connection);
    stage.command("SAVE");
    events.extend(take_events(&mut connection));
    two_chunks(&mut connection);
    // The third and the fourth chunk are acknowledged, and gone with the crash. Nobody has read them.
    stage.redis.restart();
    let mut connection = stage.redis.connection();
    eventually("the message is acknowledged", || {
        events.extend(take_events(&mut connection));
        stream_len(&mut connection, INPUT) == 0
    });
    events.extend(take_events(&mut connection));
    assert_at_least_once(&events, &repo);
    backfiller.wait_for_line(|line| line.contains("writing all events again"));
}

/// Redis comes back without the delivery itself: that the message is not pending does not mean that it is done.
#[test]
fn restarted_without_the_message_it_still_writes_what_is_in_flight() {
    let mut stage = Stage::new(&["--save", "3600 1"]);
    let repo = stage.put_repo(1, 20);
    stage
        .server
        .set_fault(&repo.did, Fault::Hold { after: 1000 });
    let backfiller = stage.builder().start();
    backfiller.wait_for_line(|line| line.contains("created group"));
    stage.command("SAVE");
    stage.enqueue(&repo);
    stage.server.wait_until_held(&repo.did, 1);
    stage.redis.restart();
    stage.server.release(&repo.did);
    backfiller.wait_for_line(|line| line.contains(" done did="));
    assert_done(&mut stage.redis.connection(), &[repo]);
}

/// A connection that is lost while the server stays costs at most the chunk that was in flight.
#[test]
fn a_lost_connection_alone_does_not_write_a_repo_again() {
    let stage = Stage::new(&[]);
    let repo = stage.put_repo(1, 2900);
    stage.enqueue(&repo);
    let backfiller = stage
        .builder()
        .env("BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK", "100")
        .start();
    let mut connection = stage.redis.connection();
    let mut events = Vec::new();
    for _ in 0..4 {
        eventually("a chunk is there", || {
            stream_len(&mut connection, OUTPUT) == 501
        });
        stage.command("CLIENT KILL TYPE normal SKIPME yes");
        // The connection of this test is among those that are killed.
        connection = stage.redis.connection();
        events.extend(take_events(&mut connection));
    }
    eventually("the message is acknowledged", || {
        events.extend(take_events(&mut connection));
        stream_len(&mut connection, INPUT) == 0
    });
    events.extend(take_events(&mut connection));
    assert_at_least_once(&events, &repo);
    let lines = backfiller.lines();
    assert!(
        !lines
            .iter()
            .any(|line| line.contains("writing all events again"))
    );
    // Each kill may have met a chunk in flight, though here all of them wait for room.
    assert!(events.len() <= 2906 + 4 * 501, "{}", events.len());
}

#[test]
fn restarted_at_any_instant_it_loses_nothing() {
    let mut stage = Stage::new(&DURABLE);
    let repos: Vec<_> = (0..16).map(|seed| stage.put_repo(seed, 600)).collect();
    repos.iter().for_each(|repo| stage.enqueue(repo));
    let mut backfiller = stage.builder().start();
    for left in [14, 9, 4] {
        let mut connection = stage.redis.connection();
        eventually("some repos are done", || {
            stream_len(&mut connection, INPUT) <= left
        });
        stage.redis.restart();
    }
    let mut connection = stage.redis.connection();
    wait_until_drained(&mut connection);
    assert_done(&mut connection, &repos);
    assert!(backfiller.is_running());
    assert!(
        !backfiller
            .lines()
            .iter()
            .any(|line| line.contains("failed did="))
    );
}

#[test]
fn a_wrong_password_ends_the_start_with_a_sentence() {
    let stage = Stage::new(&[]);
    let mut connection = stage.redis.connection();
    let () = redis::cmd("CONFIG")
        .arg(&["SET", "requirepass", "right-one"])
        .query(&mut connection)
        .unwrap();
    let port = stage.redis.port();
    for user in [":wrong-one@", "default:wrong-one@", ""] {
        let url = format!("redis://{user}127.0.0.1:{port}");
        let mut backfiller = stage.builder().env("REDIS_URL", url).start();
        assert_eq!(backfiller.wait().code(), Some(1), "{user:?}");
        let lines = backfiller.lines();
        assert!(
            !lines.iter().any(|line| line.contains("wrong-one")),
            "{lines:?}"
        );
        let last = lines.last().unwrap();
        assert!(
            last.contains("ERROR [main] Redis: ") && last.to_lowercase().contains("auth"),
            "{last}"
        );
    }
    let url = format!("redis://:right-one@127.0.0.1:{port}");
    let backfiller = stage.builder().env("REDIS_URL", url).start();
    backfiller.wait_for_line(|line| line.contains("created group"));
    assert!(
        !backfiller
            .lines()
            .iter()
            .any(|line| line.contains("right-one"))
    );
}

/// Brings Redis into a state in which it refuses writes, before the start and in the midst of a repo, and out of it again.
fn refusal_is_waited_out(said: &str, refuse: &[&str], accept: &[&str]) {
    let stage = Stage::new(&[]);
    let repo = stage.put_repo(1, 700);
    stage
        .server
        .set_fault(&repo.did, Fault::Hold { after: 1000 });
    refuse.iter().for_each(|command| stage.command(command));
    let mut backfiller = stage.builder().start();
    backfiller
        .wait_for_line(|line| line.contains("[main] Redis cannot be used") && line.contains(said));
    accept.iter().for_each(|command| stage.command(command));
    backfiller.wait_for_line(|line| line.contains("created group"));

    stage.enqueue(&repo);
    stage.server.wait_until_held(&repo.did, 1);
    refuse.iter().for_each(|command| stage.command(command));
    stage.server.release(&repo.did);
    backfiller.wait_for_line(|line| {
        line.contains("[worker-") && line.contains("Redis cannot be used") && line.contains(said)
    });
    let flood = within(Duration::from_secs(3), || {
        let lines = backfiller.lines();
        let said = lines
            .iter()
            .filter(|line| line.contains("Redis cannot be used"));
        (said.count() > 6).then_some(lines.len())
    });
    assert_eq!(
        flood, None,
        "it is said once for each thread and state, not over and over"
    );
    assert!(backfiller.is_running());
    accept.iter().for_each(|command| stage.command(command));
    let mut connection = stage.redis.connection();
    wait_until_drained(&mut connection);
    assert_done(&mut connection, &[repo]);
    assert!(
        !backfiller
            .lines()
            .iter()
            .any(|line| line.contains("failed did="))
    );
}

/// A database other than 0 is selected at each connection, and that may be refused for a while as anything else.
#[test]
fn a_server_that_is_busy_is_waited_for_also_when_a_database_is_to_be_selected() {
    let stage = Stage::new(&["--busy-reply-threshold", "10"]);
    let mut busy = stage.redis.connection();
    let script = std::thread::spawn(move || {
        let endless = redis::cmd("EVAL")
            .arg("while true do end")
            .arg(0)
            .query::<()>(&mut busy);
        assert!(endless.is_err(), "it is killed");
    });
    let mut connection = stage.redis.connection();
    eventually("the server is busy", || {
        let answer: redis::RedisResult<()> = redis::cmd("GET").arg("x").query(&mut connection);
        answer.is_err_and(|e| e.code() == Some("BUSY"))
    });
    let backfiller = stage
        .builder()
        .env("REDIS_URL", format!("{}/1", stage.redis.url()))
        .start();
    backfiller
        .wait_for_line(|line| line.contains("Redis cannot be used: ") && line.contains("BUSY"));
    stage.command("SCRIPT KILL");
    script.join().expect("the script ends");
    backfiller.wait_for_line(|line| line.contains("created group"));
    let streams: usize = redis::pipe()
        .cmd("SELECT")
        .arg(1)
        .ignore()
        .cmd("EXISTS")
        .arg(INPUT)
        .query::<(usize,)>(&mut connection)
        .expect("EXISTS")
        .0;
    assert_eq!(streams, 1);
}

#[test]
fn out_of_memory_is_waited_out() {
    let refuse = [
        "CONFIG SET maxmemory-policy noeviction",
        "CONFIG SET maxmemory 1",
    ];
    refusal_is_waited_out("OOM", &refuse, &["CONFIG SET maxmemory 0"]);
}

#[test]
fn read_only_is_waited_out() {
    refusal_is_waited_out(
        "read only replica",
        &["REPLICAOF 127.0.0.1 1"],
        &["REPLICAOF NO ONE"],
    );
}
