//! Each spelling.

mod garbage;

use std::time::UNIX_EPOCH;

use ureq::http::{HeaderName, HeaderValue};

use super::*;

/// Friday, 14 November 2025, 22:13:20 GMT.
const NOW: u64 = 1_763_158_400;

fn now() -> SystemTime {
    UNIX_EPOCH + seconds(NOW)
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn read(lines: &[(&str, &str)]) -> Limits {
    Limits::read(&headers(lines), now())
}

/// Remaining and reset in seconds, limit and window in seconds.
fn limits(remaining: u64, reset: u64, limit: u64, window: Option<u64>) -> Limits {
    Limits {
        retry_after: None,
        remaining: Some(remaining),
        reset: Some(seconds(reset)),
        limit: Some(limit),
        window: window.map(seconds),
    }
}

fn retry_after(lines: &[(&str, &str)]) -> Option<Duration> {
    read(lines).retry_after
}

#[test]
fn an_answer_that_says_nothing() {
    for lines in [&[][..], &[("content-type", "text/html"), ("ratelimit", "")]] {
        assert_eq!(read(lines), Limits::default());
        assert_eq!(read(lines).wait(), None);
    }
}

#[test]
fn the_pds_of_bluesky() {
    let reset = (NOW + 120).to_string();
    let said = read(&[
        ("RateLimit-Limit", "3000"),
        ("RateLimit-Remaining", "2995"),
        ("RateLimit-Reset", &reset),
        ("RateLimit-Policy", "3000;w=300"),
    ]);
    assert_eq!(said, limits(2995, 121, 3000, Some(300)));
}

#[test]
fn a_header_each_with_seconds_from_now() {
    for prefix in ["RateLimit", "X-RateLimit", "X-Rate-Limit"] {
        let [limit, remaining, reset] =
            ["Limit", "Remaining", "Reset"].map(|what| format!("{prefix}-{what}"));
        let said = read(&[(&limit, "100"), (&remaining, "7"), (&reset, " 30 ")]);
        assert_eq!(said, limits(7, 30, 100, None), "{prefix}");
    }
}

#[test]
fn what_has_no_prefix_counts_first() {
    let said = read(&[
        ("X-RateLimit-Remaining", "1"),
        ("X-RateLimit-Reset", "10"),
        ("RateLimit-Remaining", "2"),
        ("RateLimit-Reset", "none"),
    ]);
    assert_eq!(said.remaining, Some(2));
    assert_eq!(
        said.reset,
        Some(seconds(10)),
        "what cannot be read is not there"
    );
}

#[test]
fn resets_are_told_apart_by_size() {
    let reset = |text: &str| read(&[("X-RateLimit-Reset", text)]).reset;
    for (text, wanted) in [
        ("0", 0),
        ("300", 300),
        ("999999999", 3600),
        ("1000000000", 0),
        (&NOW.to_string(), 1),
        (&(NOW - 1).to_string(), 0),
        (&(NOW + 59).to_string(), 60),
        (&format!("{}.25", NOW + 59), 60),
        (&format!("{}000", NOW + 59), 60),
        ("Fri, 14 Nov 2025 22:14:19 GMT", 60),
    ] {
        assert_eq!(reset(text), Some(seconds(wanted)), "{text}");
    }
}

#[test]
fn policies_within_the_limit() {
    let said = read(&[
        ("RateLimit-Limit", "100, 100;w=60"),
        ("RateLimit-Remaining", "50"),
        ("RateLimit-Reset", "30"),
    ]);
    assert_eq!(said, limits(50, 30, 100, Some(60)));
}

#[test]
fn of_several_policies_the_one_with_the_lowest_rate_counts() {
    let policy = |lines: &[(&str, &str)]| {
        let said = read(lines);
        (said.limit, said.window)
    };
    let hourly = (Some(1000), Some(seconds(3600)));
    let list = "10;w=1, 50;w=60;comment=\"a,b;w=9\", 1000;w=3600";
    assert_eq!(policy(&[("RateLimit-Policy", list)]), hourly);
    let two = [
        ("RateLimit-Policy", "1000;w=3600"),
        ("RateLimit-Policy", "10;w=1"),
        ("RateLimit-Limit", "10"),
    ];
    assert_eq!(policy(&two), hourly);
    let same = [("RateLimit-Policy", "600;w=60, 10;w=1")];
    assert_eq!(policy(&same), (Some(10), Some(seconds(1))));
}

#[test]
fn the_dictionary() {
    let said = read(&[
        ("RateLimit", "limit=100, remaining=50, reset=30"),
        ("RateLimit-Policy", "100;w=60"),
    ]);
    assert_eq!(said, limits(50, 30, 100, Some(60)));
    let alone = read(&[("RateLimit", "limit=100,remaining=50,reset=30")]);
    assert_eq!(alone, limits(50, 30, 100, None));
}

#[test]
fn the_named_policies() {
    let said = read(&[
        ("RateLimit-Policy", "\"default\";q=100;w=10"),
        ("RateLimit", "\"default\";r=50;t=30"),
    ]);
    assert_eq!(said, limits(50, 30, 100, Some(10)));
    let blanks = read(&[
        (
            "RateLimit-Policy",
            "\"100-in-1min\"; q=100; w=60; pk=:MGMzNGM3YmU2MTlj:",
        ),
        ("RateLimit", "\"100-in-1min\"; r=95; t=25; pk=:MGMz=:"),
    ]);
    assert_eq!(blanks, limits(95, 25, 100, Some(60)));
}

#[test]
fn of_several_states_the_one_that_is_used_up_first_counts() {
    let state = |list: &str| {
        let said = read(&[("RateLimit", list)]);
        (said.remaining, said.reset.map(|reset| reset.as_secs()))
    };
    let list = "\"second\";r=9;t=1, \"day\";r=100;t=3000, \"hour\";r=500;t=3500";
    assert_eq!(state(list), (Some(100), Some(3000)));
    let list = "\"a\";r=0;t=3, \"b\";r=0;t=30, \"c\";r=1;t=3000";
    assert_eq!(state(list), (Some(0), Some(30)));
    assert_eq!(state("\"a\";r=7, \"b\";r=9;t=3"), (Some(9), Some(3)));
    assert_eq!(state("\"a\";r=7"), (Some(7), None));
}

#[test]
fn the_one_header_counts_before_a_header_each() {
    let said = read(&[
        ("RateLimit", "\"a\";r=7;t=3"),
        ("RateLimit-Remaining", "9"),
        ("RateLimit-Reset", "30"),
    ]);
    assert_eq!((said.remaining, said.reset), (Some(7), Some(seconds(3))));
}

#[test]
fn other_units_than_requests_do_not_count() {
    let said = read(&[
        (
            "RateLimit-Policy",
            "\"bytes\";q=9;w=9000;qu=\"content-bytes\", \"calls\";q=100;w=10;qu=\"requests\"",
        ),
        ("RateLimit", "\"bytes\";r=1;t=900, \"calls\";r=50;t=30"),
    ]);
    assert_eq!(said, limits(50, 30, 100, Some(10)));
}

#[test]
fn retry_after_in_seconds() {
    for (text, wanted) in [("120", 120), (" 7 ", 7), ("0", 0), ("1.5", 2), ("2.0", 2)] {
        let said = retry_after(&[("Retry-After", text)]);
        assert_eq!(said, Some(seconds(wanted)), "{text}");
    }
    let two = [
        ("Retry-After", "5"),
        ("Retry-After", "9"),
        ("Retry-After", "x"),
    ];
    assert_eq!(retry_after(&two), Some(seconds(9)));
    assert_eq!(retry_after(&[("Retry-After", "5, 9")]), Some(seconds(5)));
}

#[test]
fn retry_after_as_a_date_in_each_form() {
    for date in [
        "Fri, 14 Nov 2025 22:14:20 GMT",
        "Friday, 14-Nov-25 22:14:20 GMT",
        "Fri Nov 14 22:14:20 2025",
    ] {
        let said = retry_after(&[("Retry-After", date)]);
        assert_eq!(said, Some(seconds(61)), "{date}");
    }
    for past in [
        "Fri, 14 Nov 2025 22:13:19 GMT",
        "Thu, 01 Jan 1970 00:00:00 GMT",
    ] {
        let said = retry_after(&[("Retry-After", past)]);
        assert_eq!(said, Some(Duration::ZERO), "{past}");
    }
}

/// The server's clock is a day behind ours, or a day ahead of it.
#[test]
fn moments_are_compared_with_the_servers_own_clock() {
    let reset = (NOW + 60).to_string();
    let lines = [
        ("Date", "Fri, 14 Nov 2025 22:13:20 GMT"),
        ("Retry-After", "Fri, 14 Nov 2025 22:13:50 GMT"),
        ("RateLimit-Reset", &reset),
    ];
    for ours in [NOW - 86_400, NOW, NOW + 86_400] {
        let said = Limits::read(&headers(&lines), UNIX_EPOCH + seconds(ours));
        assert_eq!(said.retry_after, Some(seconds(31)));
        assert_eq!(said.reset, Some(seconds(61)));
    }
    // One that cannot be read is none.
    let lines = [("Date", "today"), ("RateLimit-Reset", &reset)];
    assert_eq!(read(&lines).reset, Some(seconds(61)));
}

#[test]
fn a_refusal_asks_for_retry_after_else_until_the_reset() {
    let wait = |lines: &[(&str, &str)]| read(lines).wait().map(|wait| wait.as_secs());
    let reset = ("RateLimit-Reset", "30");
    assert_eq!(wait(&[("Retry-After", "5"), reset]), Some(5));
    assert_eq!(wait(&[("Retry-After", "50"), reset]), Some(50));
    assert_eq!(wait(&[reset]), Some(30));
    assert_eq!(wait(&[("Retry-After", "soon"), reset]), Some(30));
    assert_eq!(wait(&[("Retry-After", "0"), reset]), Some(30));
    assert_eq!(wait(&[("Retry-After", "0")]), None);
    assert_eq!(wait(&[("RateLimit-Remaining", "0")]), None);
}
