//! `backfiller check`: a line for each thing that is looked at, and what the exit status makes of them.

mod support;

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use redis::{Connection, FromRedisValue};
use serde_json::Value;
use support::backfiller::{Backfiller, binary};
use support::cli::{Answer, HOSTILE, assert_harmless, command};
use support::events::{GROUP, INPUT, OUTPUT, enqueue, read_stream};
use support::fixture_server::{FixtureServer, served};
use support::redis_server::RedisServer;
use support::wait::eventually;

/// What is looked at, in the order of the lines.
const ALL: [&str; 12] = [
    "configuration",
    "redis",
    "persistence",
    "memory",
    "keys",
    "group",
    "output",
    "consumer",
    "instances",
    "directory",
    "spill folder",
    "descriptors",
];

/// A Redis and a directory with which nothing is wrong.
fn servers() -> (RedisServer, FixtureServer) {
    let redis = RedisServer::start_with(&["--appendonly", "yes"]);
    (redis, FixtureServer::start())
}

/// The command with both, and few descriptors needed.
fn with(redis: &RedisServer, server: &FixtureServer, args: &[&str]) -> Command {
    let mut check = command(redis, &[&["check"], args].concat());
    check
        .env("BACKFILLER_CONSUMER", "c1")
        .env("BACKFILLER_PLC_URL", server.url())
        .env("BACKFILLER_MAX_REPO_BYTES", "1000000");
    check
}

fn end(mut command: Command) -> Answer {
    command.output().expect("it starts").into()
}

/// Level and detail of what the line of this name says.
#[track_caller]
fn line<'a>(answer: &'a Answer, what: &str) -> (&'a str, &'a str) {
    let mut found = answer.stdout.lines().filter_map(|line| {
        let (level, rest) = line.split_at(6);
        let detail = rest.strip_prefix(what)?;
        Some((level.trim_end(), detail.strip_prefix("  ")?.trim_start()))
    });
    let line = found.next();
    assert!(found.next().is_none(), "{what} twice: {answer:?}");
    line.unwrap_or_else(|| panic!("no line {what}: {answer:?}"))
}

#[track_caller]
fn assert_line(answer: &Answer, what: &str, level: &str, parts: &[&str]) {
    let (found, detail) = line(answer, what);
    assert_eq!(found, level, "{what}: {detail}");
    for part in parts {
        assert!(detail.contains(part), "{what}: {part}: {detail}");
    }
}

fn query<T: FromRedisValue>(connection: &mut Connection, words: &[&str]) -> T {
    redis::cmd(words[0])
        .arg(&words[1..])
        .query(connection)
        .unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

#[test]
fn where_nothing_is_wrong_each_line_says_ok() {
    let (redis, server) = servers();
    let mut connection = redis.connection();
    let answer = end(with(&redis, &server, &["--strict"])).ok();
    let names: Vec<_> = answer
        .lines()
        .iter()
        .map(|line| line[6..19].trim_end())
        .collect();
    assert_eq!(names, ALL);
    for what in ALL {
        assert_eq!(line(&answer, what).0, "ok", "{what}");
    }
    let version: String = query(&mut connection, &["INFO", "server"]);
    let version = version
        .lines()
        .find_map(|line| line.strip_prefix("redis_version:"));
    let url = redis.url();
    assert_line(&answer, "redis", "ok", &["standalone", &url, " ms"]);
    if !answer.stdout.contains("Valkey") {
        assert_line(&answer, "redis", "ok", &[version.unwrap().trim()]);
    }
    assert_line(
        &answer,
        "configuration",
        "ok",
        &["c1", GROUP, "2 workers", "512 MiB"],
    );
    assert_line(&answer, "memory", "ok", &["noeviction", "no limit"]);
    assert_line(&answer, "group", "ok", &["not there yet"]);
    assert_line(&answer, "consumer", "ok", &["c1 is free"]);
    assert_line(
        &answer,
        "directory",
        "ok",
        &[&server.url(), " ms", "not found"],
    );
    assert_eq!(server.count("/did:plc:"), 1, "one look-up");
    // Nothing was written.
    let keys: u64 = query(&mut connection, &["DBSIZE"]);
    assert_eq!(keys, 0);

    let objects = end(with(&redis, &server, &["--json"])).ok().json();
    let whats: Vec<_> = objects
        .iter()
        .map(|o| o["what"].as_str().unwrap())
        .collect();
    assert_eq!(whats, ALL);
    for object in &objects {
        let keys: Vec<_> = object.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["level", "what", "detail"]);
        assert_eq!(object["level"], "ok", "{object}");
    }
}

#[test]
fn a_bad_value_is_a_failure_of_the_configuration() {
    let (redis, server) = servers();
    for (variable, value, part) in [
        (
            "BACKFILLER_CONSUMER",
            "",
            "BACKFILLER_CONSUMER (unset) is not accepted",
        ),
        (
            "BACKFILLER_CONCURRENCY",
            "0",
            "BACKFILLER_CONCURRENCY=0 is not accepted",
        ),
        (
            "BACKFILLER_GROUP",
            "a\u{1b}[2J",
            "BACKFILLER_GROUP=a\\u{1b}[2J",
        ),
        (
            "BACKFILLER_SPILL_DIR",
            "/proc",
            "BACKFILLER_SPILL_DIR=/proc",
        ),
        (
            "REDIS_URL",
            "redis://:s3cret@h:x",
            "REDIS_URL=redis://:***@h:x",
        ),
        ("BACKFILLER_COLLECTIONS", "x", "BACKFILLER_COLLECTIONS=x"),
    ] {
        let mut check = with(&redis, &server, &[]);
        check.env(variable, value);
        let answer = end(check);
        assert_eq!(
            (answer.status, answer.stderr.as_str()),
            (2, ""),
            "{answer:?}"
        );
        assert_eq!(answer.lines().len(), 1, "{answer:?}");
        assert_line(&answer, "configuration", "fail", &[part]);
        assert!(!answer.stdout.contains("s3cret"));
        assert_harmless(&answer.stdout);
    }
    let flag = end(with(&redis, &server, &["--lease-secs", "0", "--json"]));
    assert_eq!(flag.status, 2);
    assert_eq!(flag.json()[0]["level"], "fail");
    for args in [&["--no-such-option"][..], &["more"]] {
        let refused = end(with(&redis, &server, args));
        assert_eq!((refused.status, refused.stdout.as_str()), (2, ""));
    }
    assert_eq!(server.count("/"), 0, "nothing else was looked at");
}

#[test]
fn a_redis_that_cannot_be_used_fails_and_the_rest_is_looked_at_all_the_same() {
    let (mut redis, server) = servers();
    let mut connection = redis.connection();
    let rest = ["directory", "spill folder", "descriptors"];
    let seen = |answer: &Answer| {
        let lines = answer.lines();
        lines
            .iter()
            .map(|line| line[6..19].trim_end().to_owned())
            .collect::<Vec<_>>()
    };
    let () = query(&mut connection, &["CONFIG", "SET", "requirepass", "right"]);
    let mut check = with(&redis, &server, &[]);
    check.env(
        "REDIS_URL",
        format!("redis://:wr0ng-secret@127.0.0.1:{}", redis.port()),
    );
    let refused = end(check);
    assert_eq!((refused.status, refused.stderr.as_str()), (1, ""));
    assert_line(
        &refused,
        "redis",
        "fail",
        &["WRONGPASS", "redis://:***@127.0.0.1"],
    );
    assert!(!refused.stdout.contains("wr0ng-secret"));
    assert_eq!(
        seen(&refused),
        [&["configuration", "redis"], &rest[..]].concat()
    );
    let noauth = end(with(&redis, &server, &[]));
    assert_line(&noauth, "redis", "fail", &["NOAUTH"]);
    let () = query(&mut connection, &["CONFIG", "SET", "requirepass", ""]);

    let () = query(&mut connection, &["SET", OUTPUT, "x"]);
    let wrong = end(with(&redis, &server, &[]));
    assert_eq!(wrong.status, 1);
    assert_line(
        &wrong,
        "keys",
        "fail",
        &["the key firehose_backfill holds a string, not a stream"],
    );
    let before = ["configuration", "redis", "persistence", "memory", "keys"];
    assert_eq!(seen(&wrong), [&before[..], &rest].concat());
    let () = query(&mut connection, &["DEL", OUTPUT]);

    let port = redis.port().to_string();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]);
    let replicated = end(with(&replica, &server, &[]));
    assert_eq!(replicated.status, 1);
    assert_line(&replicated, "redis", "fail", &["replica"]);

    redis.stop();
    let away = end(with(&redis, &server, &[]));
    assert_eq!((away.status, away.stderr.as_str()), (1, ""));
    assert_line(
        &away,
        "redis",
        "fail",
        &["Redis at redis://127.0.0.1:", "refused"],
    );
    assert_eq!(
        seen(&away),
        [&["configuration", "redis"], &rest[..]].concat()
    );

    let cluster = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    let cluster = end(with(&cluster, &server, &[]));
    assert_eq!(cluster.status, 1);
    assert_line(&cluster, "redis", "fail", &["cluster mode"]);
}

#[test]
fn what_redis_may_lose_is_warned_of() {
    let (redis, server) = servers();
    let mut connection = redis.connection();
    let mut set = |name: &str, value: &str| {
        let () = query(&mut connection, &["CONFIG", "SET", name, value]);
        let plain = end(with(&redis, &server, &[]));
        assert_eq!(
            (plain.status, plain.stderr.as_str()),
            (0, ""),
            "warnings only: {plain:?}"
        );
        let strict = end(with(&redis, &server, &["--strict"]));
        assert_eq!(strict.status, 1, "{strict:?}");
        plain
    };
    for policy in ["allkeys-lru", "allkeys-random"] {
        let answer = set("maxmemory-policy", policy);
        let parts = [policy, "an evicted stream is lost work", "noeviction"];
        assert_line(&answer, "memory", "warn", &parts);
    }
    for policy in ["volatile-lru", "volatile-ttl"] {
        let answer = set("maxmemory-policy", policy);
        assert_line(&answer, "memory", "warn", &[policy, "set noeviction"]);
    }
    let () = query(
        &mut connection,
        &["CONFIG", "SET", "maxmemory-policy", "noeviction"],
    );
    let () = query(&mut connection, &["CONFIG", "SET", "appendonly", "no"]);
    let off = end(with(&redis, &server, &[]));
    assert_line(
        &off,
        "persistence",
        "warn",
        &["appendonly is off", " changes since"],
    );
    let () = query(&mut connection, &["CONFIG", "SET", "appendonly", "yes"]);
    let used: String = query(&mut connection, &["INFO", "memory"]);
    let used = used
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"))
        .unwrap();
    let limit = (used.trim().parse::<u64>().unwrap() + (64 << 10)).to_string();
    let () = query(&mut connection, &["CONFIG", "SET", "maxmemory", &limit]);
    let full = end(with(&redis, &server, &[]));
    assert_line(&full, "memory", "warn", &["nearly full"]);
}

#[test]
fn a_snapshot_that_failed_is_a_failure() {
    let (redis, server) = servers();
    let mut connection = redis.connection();
    // A folder where the file should be.
    std::fs::create_dir(redis.folder().join("dump.rdb")).unwrap();
    std::fs::write(redis.folder().join("dump.rdb").join("x"), "x").unwrap();
    let _: redis::Value = query(&mut connection, &["BGSAVE"]);
    let failed = || {
        let info: String = redis::cmd("INFO")
            .arg("persistence")
            .query(&mut redis.connection())
            .unwrap();
        info.contains("rdb_last_bgsave_status:err")
    };
    eventually("the snapshot has failed", failed);
    let answer = end(with(&redis, &server, &[]));
    assert_eq!(answer.status, 1);
    assert_line(
        &answer,
        "persistence",
        "fail",
        &["snapshot", "err", "refuses writes"],
    );
}

#[test]
fn what_is_in_the_streams_is_said() {
    let (redis, server) = servers();
    let mut connection = redis.connection();
    for n in 0..5 {
        enqueue(&mut connection, "did:plc:a", None);
        let _: String = query(
            &mut connection,
            &["XADD", OUTPUT, "*", "event", &n.to_string()],
        );
    }
    let () = query(&mut connection, &["XGROUP", "CREATE", INPUT, GROUP, "0"]);
    let read = [
        "XREADGROUP",
        "GROUP",
        GROUP,
        "c9",
        "COUNT",
        "2",
        "STREAMS",
        INPUT,
        ">",
    ];
    let _: redis::Value = query(&mut connection, &read);
    let answer = end(with(&redis, &server, &[])).ok();
    assert_line(
        &answer,
        "group",
        "ok",
        &["3 messages not delivered yet, 2 pending"],
    );
    assert_line(
        &answer,
        "output",
        "ok",
        &["5 entries in firehose_backfill", "100,000"],
    );
    let full = end(with(
        &redis,
        &server,
        &["--firehose-stream-high-water-mark", "5"],
    ))
    .ok();
    assert_line(&full, "output", "warn", &["it waits now"]);
}

#[test]
fn instances_that_are_alive_share_the_rate() {
    let (redis, server) = servers();
    let mut connection = redis.connection();
    let worker = Backfiller::builder(&redis, &server)
        .env("BACKFILLER_CONSUMER", "c2")
        .start();
    worker.wait_for_line(|line| line.contains("created group"));
    let answer = eventually("it is seen", || {
        let answer = end(with(&redis, &server, &[])).ok();
        line(&answer, "instances")
            .1
            .contains("c2")
            .then_some(answer)
    });
    assert_line(
        &answer,
        "instances",
        "warn",
        &[
            "with this one 2",
            "are 20",
            "BACKFILLER_HOST_RPS=5 and BACKFILLER_PLC_RPS=25",
        ],
    );
    assert_line(&answer, "consumer", "ok", &["c1 is free"]);
    let halved = end(with(&redis, &server, &["--host-rps", "5"])).ok();
    assert_line(
        &halved,
        "instances",
        "ok",
        &["2 on this machine: 10 requests"],
    );
    // That directory is the operator's own; others count by address as well. No directory has this name (RFC 2606).
    let at_another = |args: &[&str]| {
        let mut check = with(&redis, &server, &[&["--host-rps", "5"], args].concat());
        check.env("BACKFILLER_PLC_URL", "https://directory.invalid");
        end(check)
    };
    assert_line(
        &at_another(&[]),
        "instances",
        "warn",
        &[
            "2 on this machine",
            "50 look-ups a second in the directory each are 100",
            "BACKFILLER_HOST_RPS=5 and BACKFILLER_PLC_RPS=25",
        ],
    );
    assert_line(
        &at_another(&["--plc-rps", "25"]),
        "instances",
        "ok",
        &["2 on this machine: 10 requests", "50 look-ups"],
    );
    // The one that runs is not counted twice.
    let own = end(with(&redis, &server, &["--consumer", "c2"])).ok();
    assert_line(&own, "instances", "ok", &["1 on this machine: 10 requests"]);
    let pid = format!(" pid {} ", worker.pid());
    assert_line(
        &own,
        "consumer",
        "ok",
        &["c2 is running on this machine", &pid],
    );
    let alone = end(with(
        &redis,
        &server,
        &["--consumer", "c2", "--host-rps", "50"],
    ))
    .ok();
    assert_line(&alone, "instances", "warn", &["BACKFILLER_HOST_RPS=10"]);

    // One on another machine.
    let _: u64 = query(
        &mut connection,
        &["XGROUP", "CREATECONSUMER", INPUT, GROUP, "c3"],
    );
    let key = format!("{OUTPUT}:consumer:{INPUT}:{GROUP}:c3");
    let () = query(
        &mut connection,
        &["SET", &key, "elsewhere pid 1 since x (y)"],
    );
    let two = end(with(&redis, &server, &["--consumer", "c2"])).ok();
    assert_line(
        &two,
        "instances",
        "ok",
        &["if those elsewhere share its address", "=5 "],
    );
    let taken = end(with(&redis, &server, &["--consumer", "c3"])).ok();
    assert_line(
        &taken,
        "consumer",
        "warn",
        &["held on another machine (elsewhere pid 1"],
    );
}

#[test]
fn the_directory_is_asked_as_the_worker_asks() {
    const DID: &str = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa";
    let (redis, server) = servers();
    server.put_document_status(DID, 500, "out of order");
    let broken = end(with(&redis, &server, &[]));
    assert_eq!(broken.status, 1);
    assert_line(&broken, "directory", "fail", &["500"]);
    server.refuse_document(DID, 3600);
    let refused = end(with(&redis, &server, &[])).ok();
    assert_line(&refused, "directory", "warn", &["429"]);

    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let url = format!("http://user:s3cret@{nobody}");
    let mut check = with(&redis, &server, &[]);
    check.env("BACKFILLER_PLC_URL", &url);
    let away = end(check);
    assert!(!away.stdout.contains("s3cret"), "{away:?}");
    let mut check = with(&redis, &server, &[]);
    check.env("BACKFILLER_PLC_URL", format!("http://{nobody}"));
    let away = end(check);
    assert_eq!(away.status, 1);
    assert_line(&away, "directory", "fail", &["cannot be asked"]);
    let repo = served(&server, 1, 1);
    assert_eq!(server.document_requests(&repo.did), 0);
}

#[test]
fn the_folder_and_the_descriptors_are_measured() {
    let (redis, server) = servers();
    let folder = tempfile::tempdir().unwrap();
    let shown = folder.path().to_str().unwrap();
    let mut check = with(&redis, &server, &["--spill-dir", shown]);
    check.env("BACKFILLER_MAX_REPO_BYTES", u64::MAX.to_string());
    let small = end(check).ok();
    assert_line(
        &small,
        "spill folder",
        "warn",
        &[shown, "BACKFILLER_MAX_REPO_BYTES"],
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    if mounts.lines().any(|line| line.contains(" /dev/shm tmpfs ")) {
        let memory = end(with(&redis, &server, &["--spill-dir", "/dev/shm"])).ok();
        assert_line(&memory, "spill folder", "warn", &["tmpfs"]);
    }
    let mut few = Command::new("sh");
    few.args(["-c", "ulimit -n 100; exec \"$0\" \"$@\""])
        .arg(binary())
        .args(["check", "--concurrency", "16"])
        .env_clear()
        .envs(
            with(&redis, &server, &[])
                .get_envs()
                .filter_map(|(k, v)| Some((k, v?))),
        );
    let few = end(few).ok();
    assert_line(
        &few,
        "descriptors",
        "warn",
        &["100 files", "16 workers", "192", "LimitNOFILE"],
    );
    assert!(Path::new(shown).is_dir());
}

#[test]
fn what_strangers_have_written_stays_text() {
    let (redis, server) = servers();
    let mut connection = redis.connection();
    let () = query(
        &mut connection,
        &["XGROUP", "CREATE", INPUT, GROUP, "0", "MKSTREAM"],
    );
    let long = "漢".repeat(10_000);
    for name in [HOSTILE, &long, "c1"] {
        let _: u64 = query(
            &mut connection,
            &["XGROUP", "CREATECONSUMER", INPUT, GROUP, name],
        );
        let key = format!("{OUTPUT}:consumer:{INPUT}:{GROUP}:{name}");
        let () = query(&mut connection, &["SET", &key, &format!("{HOSTILE}{long}")]);
    }
    server.put_document_status(
        "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa",
        200,
        format!("{HOSTILE}{long}"),
    );
    let answer = end(with(&redis, &server, &[]));
    assert_eq!((answer.status, answer.stderr.as_str()), (0, ""));
    assert_eq!(answer.lines().len(), ALL.len(), "one line each");
    assert_harmless(&answer.stdout);
    assert!(answer.stdout.contains("\\u{1b}]0;owned"), "{answer:?}");
    assert!(
        answer
            .lines()
            .iter()
            .all(|line| line.chars().count() < 1000),
        "{answer:?}"
    );
    let json = end(with(&redis, &server, &["--json"]));
    assert!(!json.stdout.contains('\u{1b}'));
    let details: Vec<Value> = json.json();
    assert_eq!(details.len(), ALL.len());
    assert!(read_stream(&mut connection, OUTPUT).is_empty());
}
