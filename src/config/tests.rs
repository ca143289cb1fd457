//! Defaults, and what is refused with which words.

use super::*;
use crate::logging::text_of;

fn cli() -> Cli {
    Cli {
        consumer: Some("backfiller_1".to_owned()),
        ..Cli::default()
    }
}

fn error(change: impl FnOnce(&mut Cli)) -> String {
    let mut cli = cli();
    change(&mut cli);
    Config::from_cli(&cli)
        .err()
        .map(|e| e.to_string())
        .unwrap_or_default()
}

#[test]
fn defaults_are_those_of_the_table() {
    let config = Config::from_cli(&cli()).unwrap();
    assert_eq!(config.redis_shown, "redis://localhost:6379");
    assert_eq!(config.backfill_stream, "repo_backfill");
    assert_eq!(config.firehose_stream, "firehose_backfill");
    assert_eq!(config.group, "repo_backfill_group");
    assert_eq!(config.dlq_stream, "repo_backfill_dlq");
    assert_eq!(config.concurrency, 2);
    assert_eq!(config.high_water_mark, 100_000);
    assert_eq!(config.max_attempts, 8);
    assert_eq!(config.initial_backoff, Duration::from_secs(30));
    assert_eq!(config.max_backoff, Duration::from_secs(3600));
    assert_eq!(config.max_deferred, Duration::from_secs(259_200));
    assert_eq!(config.lease, Duration::from_secs(60));
    assert_eq!(config.plc_url, "https://plc.directory");
    assert_eq!(config.plc_rps, None);
    assert_eq!(config.host_concurrency, None);
    assert_eq!(config.host_rps, None);
    assert_eq!(config.http_timeout, Duration::from_secs(600));
    assert!(!config.http_gzip);
    assert_eq!(config.max_repo_bytes, 4_294_967_296);
    assert_eq!(config.memory_budget, 512 << 20);
    assert_eq!(&*config.spill_dir, Path::new("/var/tmp"));
    assert!(!config.allow_private_hosts);
    assert!(config.collections.is_all());
    assert_eq!(config.contact, None);
    assert_eq!(config.shutdown_timeout, Duration::from_secs(60));
    assert_eq!(config.log, "info");
    assert_eq!(config.log_format, Format::Text);
}

#[test]
fn an_empty_value_counts_as_unset() {
    let mut cli = cli();
    cli.concurrency = Some(" ".to_owned());
    assert_eq!(Config::from_cli(&cli).unwrap().concurrency, 2);
    cli.consumer = Some(String::new());
    assert!(Config::from_cli(&cli).is_err());
}

#[test]
fn a_bad_value_is_named_with_what_is_accepted() {
    assert_eq!(
        error(|c| c.concurrency = Some("0".to_owned())),
        "BACKFILLER_CONCURRENCY=0 is not accepted: a whole number from 1 to 1024"
    );
    assert_eq!(
        error(|c| c.concurrency = Some("1025".to_owned())),
        "BACKFILLER_CONCURRENCY=1025 is not accepted: a whole number from 1 to 1024"
    );
    assert_eq!(
        error(|c| c.lease_secs = Some("0".to_owned())),
        "BACKFILLER_LEASE_SECS=0 is not accepted: a whole number from 1 to 3600"
    );
    assert_eq!(
        error(|c| c.retry_max_backoff_ms = Some("29999".to_owned())),
        "BACKFILLER_RETRY_MAX_BACKOFF_MS=29999 is not accepted: not less than \
         BACKFILLER_RETRY_INITIAL_BACKOFF_MS, which is 30000"
    );
    assert!(
        error(|c| c.consumer = None).starts_with("BACKFILLER_CONSUMER (unset) is not accepted: ")
    );
    assert!(
        error(|c| c.repos.http_gzip = Some("maybe".to_owned()))
            .starts_with("BACKFILLER_HTTP_GZIP=maybe ")
    );
    assert!(
        error(|c| c.requests.plc_url = Some("plc.directory".to_owned()))
            .starts_with("BACKFILLER_PLC_URL=")
    );
    assert!(
        error(|c| c.requests.contact = Some("ops\nX-Evil: 1".to_owned()))
            .starts_with("BACKFILLER_CONTACT=")
    );
    assert!(
        error(|c| c.redis.dlq_stream = Some("repo_backfill".to_owned())).contains("must differ")
    );
    assert!(
        error(|c| c.redis.dlq_stream = Some("firehose_backfill".to_owned()))
            .contains("must differ")
    );
    assert!(
        error(|c| c.redis.firehose_stream = Some("repo_backfill".to_owned()))
            .contains("must differ")
    );
}

#[test]
fn rates_are_plain_decimal_numbers() {
    let rate = |value: &str| {
        let mut cli = cli();
        cli.requests.host_rps = Some(value.to_owned());
        Config::from_cli(&cli).map(|config| config.host_rps).ok()
    };
    for (value, wanted) in [
        ("10", 10.0),
        ("0.01", 0.01),
        (" 2.5 ", 2.5),
        (".5", 0.5),
        ("100000", 100_000.0),
    ] {
        assert_eq!(rate(value), Some(Some(wanted)), "{value}");
    }
    assert_eq!(rate(""), Some(None));
    for value in [
        "0", "0.009", "100000.1", "-1", "+1", "1e3", "inf", "NaN", "1,5", "1.2.3", ".", "10/s",
    ] {
        assert_eq!(rate(value), None, "{value}");
    }
}

#[test]
fn the_line_says_whether_a_limit_is_set_or_the_default_for_public_hosts() {
    let mut cli = cli();
    let line = text_of(&Config::from_cli(&cli).unwrap().fields());
    let limits = " plc_rps=50(public) host_concurrency=10(public) host_rps=10(public) ";
    assert!(line.contains(limits), "{line}");
    cli.requests.plc_rps = Some("50".to_owned());
    cli.requests.host_concurrency = Some("3".to_owned());
    cli.requests.host_rps = Some("0.5".to_owned());
    let line = text_of(&Config::from_cli(&cli).unwrap().fields());
    let limits = " plc_rps=50 host_concurrency=3 host_rps=0.5 ";
    assert!(line.contains(limits), "{line}");
}

#[test]
fn no_message_shows_a_password() {
    let message = error(|c| c.redis.redis_url = Some("reddis://user:se@cret@host:1".to_owned()));
    assert!(
        message.starts_with("REDIS_URL=reddis://user:***@host:1 "),
        "{message}"
    );
}
