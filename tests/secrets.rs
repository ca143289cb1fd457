//! No password is printed or written to Redis, whatever goes wrong: that of Redis and that of the directory, in each spelling that
//! their URLs have, at the noisiest level of the log and in both of its forms.

mod support;

use std::net::TcpListener;

use nix::sys::signal::Signal;
use redis::{Connection, Value};

use support::backfiller::{Backfiller, Builder};
use support::events::{dead_letters, enqueue, wait_until_drained};
use support::fixture_server::{FixtureServer, served};
use support::ops::Ops;
use support::redis_server::RedisServer;
use support::wait::eventually;

/// A password, and as a URL must write it.
const PASSWORD: &str = "s3cr3t/w@rd";
const ENCODED: &str = "s3cr3t%2Fw%40rd";
/// The same as a query may write it, where a slash and an `@` stand for themselves.
const IN_QUERY: &str = "s3cr3t/w@rd";
/// What operators put before the directory.
const CREDENTIALS: &str = "operator:t0k3n";
/// No form of them is without one of these; two are in base64, as HTTP sends `operator:t0k3n`, and the last one is the end of a password.
const MARKS: [&str; 5] = ["s3cr3t", "t0k3n", "b3BlcmF0b3I6", "dDBrM24", "w@rd"];

#[track_caller]
fn assert_clean(what: &str, text: &str) {
    let found = MARKS.iter().find(|mark| text.contains(*mark));
    assert_eq!(found, None, "{what}: {text}");
}

#[track_caller]
fn assert_nothing_printed(backfiller: &Backfiller) {
    let lines = backfiller.lines();
    assert!(!lines.is_empty());
    lines.iter().for_each(|line| assert_clean("printed", line));
}

/// All keys with their values, of all types that the program writes.
#[track_caller]
fn assert_nothing_written(connection: &mut Connection) {
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(connection).unwrap();
    assert!(!keys.is_empty());
    for key in keys {
        assert_clean("a key", &key);
        let kind: String = redis::cmd("TYPE").arg(&key).query(connection).unwrap();
        let arguments: &[&str] = match kind.as_str() {
            "string" => &["GET", &key],
            "hash" => &["HGETALL", &key],
            "stream" => &["XRANGE", &key, "-", "+"],
            other => panic!("{key} is a {other}"),
        };
        let mut command = redis::cmd(arguments[0]);
        let value: Value = command.arg(&arguments[1..]).query(connection).unwrap();
        assert_clean(&key, &text_of(&value));
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Array(values) => values.iter().map(text_of).collect::<Vec<_>>().join(" "),
        other => format!("{other:?}"),
    }
}

/// Lets nobody in any more without this password, but those who are.
fn require(connection: &mut Connection, password: &str) {
    let mut command = redis::cmd("CONFIG");
    let command = command.arg(&["SET", "requirepass", password]);
    command.query::<()>(connection).expect("it is set");
}

/// The program in each form of the log, which says all that libraries say as well.
fn noisy(program: impl Fn() -> Builder) -> [Builder; 2] {
    ["text", "json"].map(|form| {
        program()
            .env("BACKFILLER_LOG_FORMAT", form)
            .env("RUST_LOG", "trace")
            .env("BACKFILLER_METRICS_PORT", "0")
    })
}

/// All that the operator's server says.
#[track_caller]
fn assert_nothing_served(ops: &Ops) {
    for path in ["/status.json", "/metrics", "/readyz"] {
        assert_clean(path, &ops.get(path).body);
    }
}

/// The URLs of this server with the password, over TCP and over its socket.
fn urls(redis: &RedisServer, socket: &str) -> Vec<String> {
    let port = redis.port();
    vec![
        format!("redis://:{ENCODED}@127.0.0.1:{port}"),
        format!("redis://default:{ENCODED}@127.0.0.1:{port}/0"),
        format!("unix://{socket}?pass={ENCODED}"),
        format!("unix://{socket}?db=0&user=default&pass={ENCODED}"),
        format!("unix://{socket}?p%61ss={ENCODED}"),
        // Of a query the `@` is a part.
        format!("unix://{socket}?user=default&pass={IN_QUERY}"),
    ]
}

/// Runs until it ends with this status.
#[track_caller]
fn ends(program: Builder, status: i32) -> Backfiller {
    let mut backfiller = program.start();
    let code = backfiller.wait().code();
    assert_eq!(code, Some(status), "{:#?}", backfiller.lines());
    assert_nothing_printed(&backfiller);
    backfiller
}

#[test]
fn passwords_that_redis_refuses() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("redis.sock");
    let socket = socket.to_str().expect("a path");
    let server = FixtureServer::start();
    let wrong = RedisServer::start_with(&["--unixsocket", socket]);
    require(&mut wrong.connection(), "another");
    for url in urls(&wrong, socket) {
        for program in noisy(|| Backfiller::builder(&wrong, &server).env("REDIS_URL", &url)) {
            let ended = ends(program, 1);
            let refused = |line: &String| line.contains("authentication was refused");
            assert!(ended.lines().iter().any(refused), "{:#?}", ended.lines());
        }
    }
    drop(wrong);

    // This one does not know what it is asked for, and repeats it.
    let arguments = ["--unixsocket", socket, "--rename-command", "AUTH", ""];
    let unknown = RedisServer::start_with(&arguments);
    let mut connection = unknown.connection();
    let mut auth = redis::cmd("AUTH");
    let said = auth.arg(PASSWORD).query::<()>(&mut connection).unwrap_err();
    assert!(said.to_string().contains(PASSWORD), "{said}");
    for url in urls(&unknown, socket) {
        for program in noisy(|| Backfiller::builder(&unknown, &server).env("REDIS_URL", &url)) {
            let ended = ends(program, 1);
            let refused = |line: &String| line.contains("unknown command");
            assert!(ended.lines().iter().any(refused), "{:#?}", ended.lines());
        }
    }
}

/// A port on which nobody listens.
fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

#[test]
fn a_redis_that_is_not_there() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let port = closed_port();
    for url in [
        format!("redis://:{ENCODED}@127.0.0.1:{port}"),
        format!("rediss://user:{ENCODED}@127.0.0.1:{port}/0"),
        // Plain where TLS is spoken, and a name that nobody has.
        format!("rediss://user:{ENCODED}@127.0.0.1:{}", redis.port()),
        format!("redis://user:{ENCODED}@nowhere.invalid"),
        format!("unix:///nowhere/redis.sock?pass={ENCODED}"),
    ] {
        for program in noisy(|| Backfiller::builder(&redis, &server).env("REDIS_URL", &url)) {
            let mut backfiller = program.start();
            backfiller.wait_for_line(|line| {
                line.contains("Redis cannot be used") || line.contains("Redis: ")
            });
            if backfiller.is_running() {
                let ops = Ops::of(&backfiller);
                eventually("it is said what is wrong with Redis", || {
                    ops.status()["redis"]["error"].is_string()
                });
                assert_nothing_served(&ops);
                backfiller.signal(Signal::SIGUSR1);
                backfiller.wait_for_line(|line| line.contains("thread-dump"));
                backfiller.signal(Signal::SIGINT);
            }
            backfiller.wait();
            assert_nothing_printed(&backfiller);
        }
    }
}

#[test]
fn a_directory_that_refuses_with_a_redis_that_does_not() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    require(&mut connection, PASSWORD);
    let url = format!("redis://:{ENCODED}@127.0.0.1:{}", redis.port());
    let server = FixtureServer::start();
    let repo = served(&server, 1, 3);
    let mut letters = 0;
    for directory in [
        format!("http://{CREDENTIALS}@127.0.0.1:{}", closed_port()),
        format!("http://{CREDENTIALS}@nowhere.invalid/path"),
        // TLS where none is spoken.
        format!("https://{CREDENTIALS}@{}", server.host()),
    ] {
        for program in noisy(|| {
            Backfiller::builder(&redis, &server)
                .env("REDIS_URL", &url)
                .env("BACKFILLER_PLC_URL", &directory)
                .env("BACKFILLER_ALLOW_PRIVATE_HOSTS", "true")
                .env("BACKFILLER_RETRY_INITIAL_BACKOFF_MS", "20")
                .env("BACKFILLER_RETRY_MAX_BACKOFF_MS", "50")
                .env("BACKFILLER_LEASE_SECS", "1")
                .env("BACKFILLER_MAX_DEFERRED_SECS", "1")
        }) {
            let mut backfiller = program.start();
            enqueue(&mut connection, &repo.did, Some(&server.url()));
            backfiller.wait_for_line(|line| line.contains("directory: "));
            assert_nothing_written(&mut connection);
            letters += 1;
            eventually("it is given up", || {
                dead_letters(&mut connection).len() == letters
            });
            let ops = Ops::of(&backfiller);
            eventually("the letter is shown", || {
                ops.status()["dead_letters"]["last"][0]["error"].is_string()
            });
            assert_nothing_served(&ops);
            backfiller.signal(Signal::SIGQUIT);
            backfiller.wait_for_line(|line| line.contains("thread-dump"));
            backfiller.signal(Signal::SIGINT);
            assert_eq!(backfiller.wait().code(), Some(0));
            assert_nothing_printed(&backfiller);
            assert_nothing_written(&mut connection);
        }
    }
}

#[test]
fn a_directory_that_lets_in_is_asked_with_the_credentials() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let server = FixtureServer::start();
    let directory = format!("http://{CREDENTIALS}@{}", server.host());
    for (seed, program) in
        noisy(|| Backfiller::builder(&redis, &server).env("BACKFILLER_PLC_URL", &directory))
            .into_iter()
            .enumerate()
    {
        let repo = served(&server, seed as u64, 3);
        let mut backfiller = program.start();
        enqueue(&mut connection, &repo.did, Some(&server.url()));
        wait_until_drained(&mut connection);
        backfiller.wait_for_line(|line| line.contains(&repo.did) && line.contains("done"));
        backfiller.signal(Signal::SIGINT);
        assert_eq!(backfiller.wait().code(), Some(0));
        assert_nothing_printed(&backfiller);
        assert_nothing_written(&mut connection);
    }
    let asked = server.requests().into_iter();
    let asked: Vec<_> = asked.filter(|it| !it.is_get_repo()).collect();
    assert_eq!(asked.len(), 2);
    for request in asked {
        let credentials = request.header("authorization");
        assert!(
            credentials.is_some_and(|it| it.contains(MARKS[2])),
            "{credentials:?}"
        );
    }
}

#[test]
fn urls_that_are_refused_at_the_start() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let program = || Backfiller::builder(&redis, &server);
    for url in [
        "redis://:s3cr3t",
        "redis://user:s3cr3t/0",
        "redis://user:s3cr3t%40host:6379",
        "redis://user:s3cr3t@host:port",
        "reddis://s3cr3t@host",
        "redis://user:s3cr3t#x@host:port",
        "redis://[::1]:s3cr3t",
        "unix:?pass=s3cr3t&s3cr3t",
        "redis:/:s3cr3t",
        "rediss:/default:s3cr3t",
        "redis:///:s3cr3t",
        "redis:s3cr3t",
    ] {
        for program in noisy(|| program().env("REDIS_URL", url)) {
            ends(program, 2);
        }
        for program in noisy(|| program().arg("--redis-url").arg(url)) {
            ends(program, 2);
        }
    }
    for url in [
        "https://operator:t0k3n@plc.example?x=y",
        "https://t0k3n@plc.example#x",
        "ftp://operator:t0k3n@plc.example",
        "operator:t0k3n@plc.example",
        "https://plc.example?token=t0k3n",
        "https://plc.example:t0k3n",
    ] {
        for program in noisy(|| program().env("BACKFILLER_PLC_URL", url)) {
            ends(program, 2);
        }
    }
    // Where no argument is expected, or another one, it is repeated without the password.
    let url = "redis://:s3cr3t@host:6379";
    for arguments in [
        &[url][..],
        &["status", &format!("--json={url}")],
        &["status", &format!("--watch={url}")],
        &["status", "--watch", url],
        &["enqueue", &format!("--concurrency={url}"), "did:plc:abc"],
    ] {
        let with = || arguments.iter().fold(program(), |it, word| it.arg(word));
        for program in noisy(with) {
            let ended = ends(program, 2);
            let repeated = |line: &String| line.contains("redis://:***@host:6379");
            assert!(ended.lines().iter().any(repeated), "{:#?}", ended.lines());
        }
    }
    for program in noisy(|| program().arg("status").arg("redis:s3cr3t")) {
        ends(program, 2);
    }
    // Nor does the page that shows the variables' values show these.
    let ended = program()
        .env("REDIS_URL", "redis://:s3cr3t@host:6379")
        .env("BACKFILLER_PLC_URL", "https://t0k3n@plc.example")
        .arg("--help");
    ends(ended, 0);
}
