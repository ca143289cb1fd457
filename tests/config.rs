//! The configuration: variables and flags, what is refused and how, and that no secret is shown.

mod support;

use support::backfiller::{Backfiller, Builder};
use support::fixture_server::FixtureServer;
use support::redis_server::RedisServer;

/// Variable, a value that is not accepted, and a word of what is.
const BAD: [(&str, &str, &str); 66] = [
    (URL, "localhost:6379", "redis://"),
    (URL, "http://localhost:6379", "redis://"),
    (URL, "redis://localhost:99999", "redis://"),
    (URL, "redis://localhost:6379/x", "redis://"),
    ("BACKFILLER_CONSUMER", "a\u{7}b", CONTROL),
    ("BACKFILLER_CONSUMER", "a\nb", CONTROL),
    ("BACKFILLER_BACKFILL_STREAM", "a\rb", CONTROL),
    ("BACKFILLER_FIREHOSE_STREAM", "a\nb", CONTROL),
    ("BACKFILLER_FIREHOSE_STREAM", "repo_backfill", "differ"),
    ("BACKFILLER_GROUP", "a\u{1b}[31mb", CONTROL),
    ("BACKFILLER_DLQ_STREAM", "a\nb", CONTROL),
    ("BACKFILLER_DLQ_STREAM", "firehose_backfill", "differ"),
    ("BACKFILLER_CONCURRENCY", "0", "from 1 to 1024"),
    ("BACKFILLER_CONCURRENCY", "1025", "from 1 to 1024"),
    ("BACKFILLER_CONCURRENCY", "two", "from 1 to 1024"),
    ("BACKFILLER_CONCURRENCY", "2\n3", "from 1 to 1024"),
    (MARK, "0", "from 1 up"),
    (MARK, "-1", "from 1 up"),
    (DEFERRED, "0", "from 1 to 2592000"),
    (DEFERRED, "2592001", "from 1 to 2592000"),
    (DEFERRED, "3d", "from 1 to 2592000"),
    ("BACKFILLER_PLC_RPS", "0", RATE),
    ("BACKFILLER_PLC_RPS", "50/s", RATE),
    ("BACKFILLER_HOST_CONCURRENCY", "0", "from 1 to 1024"),
    ("BACKFILLER_HOST_CONCURRENCY", "1025", "from 1 to 1024"),
    ("BACKFILLER_HOST_CONCURRENCY", "1.5", "from 1 to 1024"),
    (HOST_RPS, "0.001", RATE),
    (HOST_RPS, "100001", RATE),
    (HOST_RPS, "-1", RATE),
    (HOST_RPS, "inf", RATE),
    (HOST_RPS, "NaN", RATE),
    (HOST_RPS, "1e3", RATE),
    (HOST_RPS, "10\n20", RATE),
    ("BACKFILLER_PLC_URL", "plc.directory", "https://"),
    ("BACKFILLER_PLC_URL", "ftp://plc.directory", "https://"),
    ("BACKFILLER_PLC_URL", "https://plc.directory?db=1", "query"),
    ("BACKFILLER_PLC_URL", "plc\ndirectory", "https://"),
    ("BACKFILLER_HTTP_TIMEOUT_SECS", "0", "from 1 to 86400"),
    ("BACKFILLER_HTTP_TIMEOUT_SECS", "1.5", "from 1 to 86400"),
    ("BACKFILLER_HTTP_TIMEOUT_SECS", "100000", "to 86400"),
    ("BACKFILLER_HTTP_GZIP", "maybe", "true or false"),
    ("BACKFILLER_MAX_REPO_BYTES", "1GB", "from 1 up"),
    (BUDGET, "0", "from 1 to 16777216"),
    (BUDGET, "-1", "from 1 to 16777216"),
    (BUDGET, "64MB", "from 1 to 16777216"),
    (BUDGET, "16777217", "from 1 to 16777216"),
    (
        "BACKFILLER_SPILL_DIR",
        "/no/such/folder",
        "files can be made",
    ),
    ("BACKFILLER_SPILL_DIR", "/dev/null", "files can be made"),
    ("BACKFILLER_ALLOW_PRIVATE_HOSTS", "Sometimes", "true or"),
    (COLLECTIONS, "*", "app.bsky.feed.*"),
    (
        COLLECTIONS,
        "app.bsky.feed.post,app.bsky",
        "\"app.bsky\" is",
    ),
    (COLLECTIONS, "app.bsky.feed.post,", "\"\" is neither"),
    (
        COLLECTIONS,
        "app.bsky\nfeed.post",
        "\"app.bsky\\nfeed.post\"",
    ),
    ("BACKFILLER_CONTACT", "ops\r\nX-Evil: 1", "printable ASCII"),
    ("BACKFILLER_CONTACT", "ü@example.com", "printable ASCII"),
    ("BACKFILLER_SHUTDOWN_TIMEOUT_SECS", "-5", "from 0 to"),
    ("BACKFILLER_SHUTDOWN_TIMEOUT_SECS", "1m", "from 0 to"),
    (PORT, "65536", "from 0 to 65535"),
    (PORT, "-1", "from 0 to 65535"),
    (PORT, "http", "from 0 to 65535"),
    (BIND, "localhost", "an IP address"),
    (BIND, "127.0.0.1:80", "an IP address"),
    (BIND, "[127.0.0.1", "an IP address"),
    (BIND, "::1\n::2", "an IP address"),
    ("RUST_LOG", "backfiller=loud", "info"),
    ("BACKFILLER_LOG_FORMAT", "logfmt", "text or json"),
];

const URL: &str = "REDIS_URL";
const MARK: &str = "BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK";
const PORT: &str = "BACKFILLER_METRICS_PORT";
const BIND: &str = "BACKFILLER_METRICS_BIND";
const BUDGET: &str = "BACKFILLER_MEMORY_BUDGET_MB";
const COLLECTIONS: &str = "BACKFILLER_COLLECTIONS";
const DEFERRED: &str = "BACKFILLER_MAX_DEFERRED_SECS";
const HOST_RPS: &str = "BACKFILLER_HOST_RPS";
const RATE: &str = "a decimal number from 0.01 to 100000";
const CONTROL: &str = "control characters";

/// The flag of a variable.
fn flag(variable: &str) -> String {
    if variable == "RUST_LOG" {
        return "--log".to_owned();
    }
    let name = variable.trim_start_matches("BACKFILLER_");
    format!("--{}", name.to_lowercase().replace('_', "-"))
}

fn servers() -> (RedisServer, FixtureServer) {
    (RedisServer::start(), FixtureServer::start())
}

/// Runs to the end; the exit status and all that was printed.
fn outcome(builder: Builder) -> (Option<i32>, Vec<String>, Vec<String>) {
    let mut backfiller = builder.start();
    let code = backfiller.wait().code();
    (code, backfiller.lines(), backfiller.stdout_lines())
}

/// Whether this is the right refusal; else what is wrong with it.
fn refusal(
    builder: Builder,
    (variable, value, accepted): (&str, &str, &str),
) -> Result<(), String> {
    let (code, lines, stdout) = outcome(builder);
    let shown = value.escape_debug().to_string();
    let named = lines.first().is_some_and(|line| {
        line.starts_with(&format!("backfiller: {variable}={shown} is not accepted: "))
            && line.contains(accepted)
    });
    if code == Some(2) && lines.len() == 1 && stdout.is_empty() && named {
        return Ok(());
    }
    Err(format!("{variable}={shown}: status {code:?}, {lines:?}"))
}

#[test]
fn a_bad_variable_ends_the_start_with_one_line() {
    let (redis, server) = servers();
    let with = |(variable, value, _)| Backfiller::builder(&redis, &server).env(variable, value);
    let wrong = BAD
        .into_iter()
        .filter_map(|bad| refusal(with(bad), bad).err());
    let wrong: Vec<_> = wrong.collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_bad_flag_ends_the_start_with_the_same_line() {
    let (redis, server) = servers();
    let with = |(variable, value, _)| {
        let argument = format!("{}={value}", flag(variable));
        Backfiller::builder(&redis, &server).arg(argument)
    };
    let wrong = BAD
        .into_iter()
        .filter_map(|bad| refusal(with(bad), bad).err());
    let wrong: Vec<_> = wrong.collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn without_a_consumer_there_is_no_start() {
    let (redis, server) = servers();
    let builder = || Backfiller::builder(&redis, &server);
    for builder in [
        builder().env_remove("BACKFILLER_CONSUMER"),
        builder().env("BACKFILLER_CONSUMER", ""),
    ] {
        let (code, lines, stdout) = outcome(builder);
        assert_eq!(code, Some(2));
        assert!(stdout.is_empty());
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].contains("BACKFILLER_CONSUMER (unset) is not accepted: "),
            "{lines:?}"
        );
    }
}

#[test]
fn an_unknown_flag_or_argument_ends_with_2() {
    let (redis, server) = servers();
    for argument in ["--no-such-flag", "--concurency=2", "argument", "-x"] {
        let (code, lines, stdout) = outcome(Backfiller::builder(&redis, &server).arg(argument));
        assert_eq!(code, Some(2), "{argument}");
        assert!(stdout.is_empty());
        let named = argument.split('=').next().unwrap();
        assert!(lines.iter().any(|line| line.contains(named)), "{lines:?}");
    }
}

#[test]
fn help_lists_all_and_shows_no_password() {
    let (redis, server) = servers();
    for help in ["--help", "-h"] {
        let builder = Backfiller::builder(&redis, &server)
            .env("REDIS_URL", "redis://user:secret@localhost:6379")
            .arg(help);
        let (code, lines, stdout) = outcome(builder);
        assert_eq!(code, Some(0));
        assert_eq!(lines.len(), stdout.len(), "help goes to standard output");
        // It is wrapped to the width of the terminal.
        let words: Vec<_> = stdout
            .iter()
            .flat_map(|line| line.split_whitespace())
            .collect();
        let text = words.join(" ");
        for (variable, ..) in BAD {
            let flag = flag(variable);
            assert!(
                text.contains(&format!("[env: {variable}")),
                "{variable}: {text}"
            );
            assert!(text.contains(&flag), "{flag}: {text}");
        }
        assert!(!text.contains("secret"), "{text}");
    }
}

#[test]
fn version_is_printed() {
    let (redis, server) = servers();
    let (code, lines, _) = outcome(Backfiller::builder(&redis, &server).arg("--version"));
    assert_eq!(code, Some(0));
    assert_eq!(lines, [concat!("backfiller ", env!("CARGO_PKG_VERSION"))]);
}

#[test]
fn a_flag_wins_over_its_variable() {
    let (redis, server) = servers();
    let folder = tempfile::TempDir::new().unwrap();
    let folder = folder.path().display();
    let backfiller = Backfiller::builder(&redis, &server)
        .env("BACKFILLER_CONSUMER", "of-the-environment")
        .env("BACKFILLER_CONCURRENCY", "no number")
        .env("BACKFILLER_GROUP", "the-group")
        .env(BUDGET, "no number")
        .env("BACKFILLER_SPILL_DIR", "/no/such/folder")
        .env("BACKFILLER_HOST_CONCURRENCY", "no number")
        .env(HOST_RPS, "no number")
        .env("BACKFILLER_PLC_RPS", "no number")
        .env(DEFERRED, "no number")
        .env(COLLECTIONS, "no list")
        .env(PORT, "no number")
        .env(BIND, "no address")
        .arg("--consumer=of-the-flag")
        .arg("--concurrency")
        .arg("3")
        .arg("--http-gzip")
        .arg("--memory-budget-mb=64")
        .arg("--host-concurrency=7")
        .arg("--host-rps=2.5")
        .arg("--plc-rps=400")
        .arg("--collections=com.example.* , app.bsky.feed.post")
        .arg("--max-deferred-secs=3600")
        .arg("--metrics-port=0")
        .arg("--metrics-bind=[::]")
        .arg(format!("--spill-dir={folder}"))
        .start();
    let line = backfiller.wait_for_line(|line| line.contains("[main] redis="));
    for part in [
        " memory_budget=64MB ",
        &format!(" spill_dir={folder} "),
        " consumer=of-the-flag ",
        " concurrency=3 ",
        " group=the-group ",
        " gzip=true ",
        " host_concurrency=7 ",
        " host_rps=2.5 ",
        " plc_rps=400 ",
        " collections=app.bsky.feed.post,com.example.* ",
        " max_deferred=3600s ",
        " http=[::]:0",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    backfiller.wait_for_line(|line| line.contains("created group the-group"));
}

/// Memory that is called a disk is said at the start, for it is no less memory for that.
#[test]
#[cfg(target_os = "linux")]
fn a_folder_for_blocks_that_is_memory_is_said() {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    if !mounts.lines().any(|line| line.contains(" /dev/shm tmpfs ")) {
        return; // no such folder on this system
    }
    let (redis, server) = servers();
    let backfiller = Backfiller::builder(&redis, &server)
        .env("BACKFILLER_SPILL_DIR", "/dev/shm")
        .start();
    let line = backfiller.wait_for_line(|line| line.contains("tmpfs"));
    let said = "[main] /dev/shm (BACKFILLER_SPILL_DIR) is a tmpfs: ";
    assert!(line.contains("WARN") && line.contains(said), "{line}");
}

#[test]
fn the_password_is_in_no_line() {
    let (redis, server) = servers();
    let mut connection = redis.connection();
    let () = redis::cmd("CONFIG")
        .arg(&["SET", "requirepass", "s3cr3t"])
        .query(&mut connection)
        .unwrap();
    let url = format!("redis://:s3cr3t@127.0.0.1:{}", redis.port());
    let mut backfiller = Backfiller::builder(&redis, &server)
        .env("REDIS_URL", url)
        .env("RUST_LOG", "trace")
        .start();
    let shown = format!(" redis=redis://:***@127.0.0.1:{} ", redis.port());
    backfiller.wait_for_line(|line| line.contains(&shown));
    backfiller.wait_for_line(|line| line.contains("created group"));
    backfiller.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(backfiller.wait().code(), Some(0));
    assert!(
        !backfiller
            .lines()
            .iter()
            .any(|line| line.contains("s3cr3t"))
    );
}

#[test]
fn a_refused_url_shows_no_password() {
    let (redis, server) = servers();
    let urls = [
        "reddis://:s3cr3t@localhost:6379",
        "redis://user:s3cr3t@localhost:port",
        "redis://:s3c@s3cr3t@localhost:6379/x",
        "redis:/:s3cr3t@localhost:6379",
        "user:s3cr3t@localhost:6379",
        ":s3cr3t@localhost:6379",
    ];
    let mut shown = Vec::new();
    for url in urls {
        let (code, lines, _) = outcome(Backfiller::builder(&redis, &server).env("REDIS_URL", url));
        assert_eq!(code, Some(2), "{url}: {lines:?}");
        shown.extend(lines.into_iter().filter(|line| line.contains("s3cr3t")));
    }
    assert!(shown.is_empty(), "{shown:#?}");
}
