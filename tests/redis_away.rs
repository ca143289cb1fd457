//! Redis away, restarted, read-only, out of memory, or behind another password: what passes is waited out and loses nothing,
//! what does not pass ends the process with a sentence.

mod support;

use std::collections::HashSet;
use std::time::Duration;

use redis::Connection;

use support::backfiller::{Backfiller, Builder};
use support::events::{
    INPUT, OUTPUT, assert_repo, enqueue, kept_keys, pending, read_events, stream_len, take_events,
    wait_until_drained,
};
use support::fixture_server::{Fault, FixtureServer, served};
use support::generator::Repo;
use support::hostile::outcomes::assert_none_failed;
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

#[track_caller]
fn assert_done(connection: &mut Connection, repos: &[Repo]) {
    let events = read_events(connection, OUTPUT);
    repos.iter().for_each(|repo| assert_repo(&events, repo));
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
fn a_server_with_too_many_clients_is_waited_for_with_and_without_a_password() {
    for password in [None, Some("secret")] {
        let stage = Stage::new(&[]);
        let repo = stage.put_repo(1, 3);
        stage.enqueue(&repo);
        // The only one that it takes from now on.
        let mut connection = stage.redis.connection();
        let set = |connection: &mut redis::Connection, name: &str, value: &str| {
            let () = redis::cmd("CONFIG")
                .arg(&["SET", name, value])
                .query(connection)
                .expect("a known name");
        };
        let mut url = stage.redis.url();
        if let Some(password) = password {
            set(&mut connection, "requirepass", password);
            url = url.replace("redis://", &format!("redis://:{password}@"));
        }
        set(&mut connection, "maxclients", "1");
        let mut backfiller = stage.builder().env("REDIS_URL", url).start();
        backfiller.wait_for_line(|line| {
            line.contains("Redis cannot be used: ") && line.contains("max number of clients")
        });
        assert!(backfiller.is_running());
        set(&mut connection, "maxclients", "100");
        wait_until_drained(&mut connection);
        assert_done(&mut connection, &[repo]);
    }
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
    assert_repo(&events, &repo);
    assert!(backfiller.is_running());
    assert_none_failed(&backfiller);
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
    // What was taken after the snapshot is there again, under the same ids.
    let mut seen = HashSet::new();
    events.retain(|event| seen.insert(event.id.clone()));
    assert_repo(&events, &repo);
    backfiller.wait_for_line(|line| line.contains("going on behind leaf 1000"));
}

/// Redis comes back without the group and so without the delivery, but with the message: it is delivered again while the worker
/// still has it, and done once.
#[test]
fn restarted_without_the_delivery_the_message_is_done_once() {
    let mut stage = Stage::new(&["--save", "3600 1"]);
    let repo = stage.put_repo(1, 20);
    stage
        .server
        .set_fault(&repo.did, Fault::Hold { after: 1000 });
    stage.enqueue(&repo);
    stage.command("SAVE");
    let _backfiller = stage
        .builder()
        .env("BACKFILLER_RETRY_INITIAL_BACKOFF_MS", "50")
        .start();
    stage.server.wait_until_held(&repo.did, 1);
    stage.redis.restart();
    stage.server.release(&repo.did);
    let mut connection = stage.redis.connection();
    wait_until_drained(&mut connection);
    assert_done(&mut connection, &[repo]);
    assert!(kept_keys(&mut connection).is_empty());
}

/// Connections that are lost while the server stays: what was executed is not written again.
#[test]
fn a_lost_connection_writes_nothing_twice() {
    let stage = Stage::new(&[]);
    let repo = stage.put_repo(1, 2900);
    stage.enqueue(&repo);
    let _backfiller = stage
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
    assert_repo(&events, &repo);
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
    assert_none_failed(&backfiller);
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
    assert_none_failed(&backfiller);
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

/// A server that takes its time to read its data, and says so to whoever asks meanwhile.
#[test]
fn a_server_that_is_loading_is_waited_out() {
    let mut stage = Stage::new(&[
        "--save",
        "3600 1",
        // Microseconds for each key.
        "--key-load-delay",
        "1000",
        "--loading-process-events-interval-bytes",
        "1024",
    ]);
    fill(&mut stage.redis.connection(), 3000).unwrap();
    let repo = stage.put_repo(1, 20);
    stage.enqueue(&repo);
    stage.command("SAVE");
    let (builder, url) = (stage.builder(), stage.redis.url());
    let redis = &mut stage.redis;
    let backfiller = std::thread::scope(|scope| {
        scope.spawn(|| redis.restart());
        eventually("the server is loading", || {
            let client = redis::Client::open(url.as_str()).unwrap();
            let answer = client
                .get_connection()
                .and_then(|mut connection| redis::cmd("PING").query::<()>(&mut connection));
            answer.is_err_and(|e| e.to_string().contains("loading"))
        });
        builder.start()
    });
    backfiller.wait_for_line(|line| {
        line.contains("[main] Redis cannot be used: ") && line.contains("loading")
    });
    let mut connection = stage.redis.connection();
    wait_until_drained(&mut connection);
    assert_done(&mut connection, &[repo]);
}

/// So many keys.
fn fill(connection: &mut Connection, count: usize) -> redis::RedisResult<()> {
    let mut keys = redis::pipe();
    for n in 0..count {
        keys.cmd("SET").arg(format!("key:{n}")).arg(n).ignore();
    }
    keys.query(connection)
}

/// A replica whose master is away, and that is told to answer nothing then.
#[test]
fn a_master_that_is_down_is_waited_out() {
    refusal_is_waited_out(
        "Link with MASTER is down",
        &[
            "CONFIG SET replica-serve-stale-data no",
            "REPLICAOF 127.0.0.1 1",
        ],
        &["REPLICAOF NO ONE"],
    );
}
