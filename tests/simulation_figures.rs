//! The instruments of the simulation: what they say of logs whose figures are known.

mod support;

#[path = "simulate/mod.rs"]
mod simulate;

use std::time::Duration;

use simulate::limits::{Counter, Limit, Spelling};
use simulate::log::{self, Entry, NOBODY};
use simulate::network::{Account, Host, Manner, Network, Settings};
use simulate::{networks, rates, times, utilisation};

/// One host that allows ten requests a second, takes 100 ms for each, and holds so many accounts.
fn one_host(repos: usize) -> Network {
    let host = Host {
        manner: Manner::Large,
        latency: Duration::from_millis(100),
        limit: Limit::new(300, 30),
        repos,
        messages: repos,
    };
    let account = |number: usize| Account {
        did: format!("did:plc:{number}"),
        host: 0,
        named: 0,
    };
    Network {
        name: "one",
        seed: 1,
        settings: Settings {
            workers: 4,
            host_rps: 5,
            host_concurrency: 5,
            max_deferred_secs: 60,
            http_timeout_secs: 20,
            private_hosts: true,
            patience: Duration::from_secs(60),
        },
        hosts: vec![host],
        accounts: (0..repos).map(account).collect(),
        order: (0..repos).collect(),
        front: 0,
        behind: None,
    }
}

/// A request each so many milliseconds, all answered after 100 ms.
fn every(millis: u64, count: usize) -> Vec<Entry> {
    let entry = |number: usize| {
        let arrived = Duration::from_millis(5 + millis * number as u64);
        Entry {
            host: Some(0),
            account: number,
            arrived,
            ended: arrived + Duration::from_millis(100),
            status: 200,
            told: None,
        }
    };
    (0..count).map(entry).collect()
}

#[track_caller]
fn assert_near(value: f64, wanted: f64) {
    let error = (value - wanted).abs();
    assert!(error < 0.02 * wanted.max(1.0), "{value}, not {wanted}");
}

#[test]
fn the_worst_window_is_found_wherever_it_begins() {
    let at = |seconds: &[u64]| {
        let times: Vec<_> = seconds.iter().map(|it| Duration::from_secs(*it)).collect();
        rates::most_within(&times, Duration::from_secs(10))
    };
    assert_eq!(at(&[]), 0);
    assert_eq!(at(&[0, 10, 20]), 1);
    assert_eq!(at(&[0, 9, 10, 11, 18, 30]), 4);
}

#[test]
fn a_host_counts_in_windows_of_its_own() {
    let at = |seconds: &[u64]| {
        let times: Vec<_> = seconds.iter().map(|it| Duration::from_secs(*it)).collect();
        rates::most_counted(&times, Duration::from_secs(10))
    };
    assert_eq!(at(&[]), 0);
    assert_eq!(at(&[3, 12, 13, 14, 22, 23]), 3, "from 13 to 22");
}

#[test]
fn a_rate_is_seen_in_each_window() {
    let network = one_host(600);
    for (millis, share) in [(100, 1.0), (50, 2.0), (200, 0.5)] {
        let rates = rates::of_hosts(&network, &every(millis, 600));
        assert_near(rates[0].short, share);
        // Those every 50 ms are over after 30 s, and so is the window.
        assert_near(rates[0].long, share);
    }
}

#[test]
fn who_is_served_at_its_rate_leaves_no_work_to_idle_workers() {
    let network = one_host(100);
    let measured = utilisation::of(&network, &every(100, 100));
    assert_near(measured.busy, 10.0);
    assert_near(measured.share(), 1.0);
}

#[test]
fn who_is_served_at_half_its_rate_could_have_kept_as_many_workers_again() {
    let network = one_host(100);
    let measured = utilisation::of(&network, &every(200, 100));
    assert_near(measured.busy, 10.0);
    // But for the quarter of a second that may be saved up.
    assert_near(measured.wasted, 9.9);
}

#[test]
fn what_a_host_forbids_is_no_work() {
    let network = one_host(100);
    let mut log = every(200, 100);
    log[0].told = Some(Duration::from_secs(60));
    assert_near(utilisation::of(&network, &log).share(), 1.0);
    log[0].told = None;
    log[0].status = 429;
    // For half a minute, where it does not say how long; it was over after twenty seconds.
    assert_near(utilisation::of(&network, &log).share(), 1.0);
}

#[test]
fn without_idle_workers_nothing_is_wasted() {
    let mut network = one_host(100);
    network.settings.workers = 1;
    let mut log = every(200, 100);
    // Both workers wait for the directory all the time.
    let busy = Entry {
        host: None,
        ended: log[99].ended,
        ..log[0]
    };
    log.extend([busy, busy]);
    assert_near(utilisation::of(&network, &log).share(), 1.0);
}

#[test]
fn the_time_of_a_host_ends_with_its_last_repo() {
    let network = one_host(100);
    let mut log = every(100, 100);
    let time = times::of_hosts(&network, &log)[0].expect("a healthy host");
    let (taken, allowed) = (10.0, 10.0 + 0.1 + times::START.as_secs_f64());
    assert_near(time.ratio(), taken / allowed);
    log[50].status = 429;
    let time = times::of_hosts(&network, &log)[0].expect("a healthy host");
    assert!(time.ratio().is_infinite(), "one is missing");
}

#[test]
fn a_host_refuses_what_is_beyond_its_limit_and_says_until_when() {
    let limit = Limit::new(2, 10);
    let at = |counter: &mut Counter, millis| counter.count(Duration::from_millis(millis));
    for spelling in [Spelling::Delta, Spelling::Seconds, Spelling::None] {
        let mut counter = Counter::new(limit, spelling);
        // The window begins with the first request.
        assert!(!at(&mut counter, 3_000).is_refused);
        assert!(!at(&mut counter, 4_000).is_refused);
        let refused = at(&mut counter, 5_500);
        assert!(refused.is_refused);
        let headers = match spelling {
            Spelling::Delta => {
                "RateLimit-Limit: 2\r\nRateLimit-Remaining: 0\r\nRateLimit-Reset: 8\r\n"
            }
            Spelling::Seconds => "Retry-After: 8\r\n",
            _ => "",
        };
        assert_eq!(refused.headers, headers);
        assert!(at(&mut counter, 12_999).is_refused);
        assert!(!at(&mut counter, 13_000).is_refused);
    }
}

#[test]
fn dates_are_those_of_http() {
    let mut counter = Counter::new(Limit::new(1, 10), Spelling::Date);
    counter.count(Duration::ZERO);
    let headers = counter.count(Duration::ZERO).headers;
    // Retry-After: Sun, 06 Nov 1994 08:49:37 GMT
    let form = "Retry-After: aaa, dd aaa dddd dd:dd:dd GMT\r\n";
    let fits = |(character, form): (char, char)| match form {
        'd' => character.is_ascii_digit(),
        'a' => character.is_ascii_alphabetic(),
        _ => character == form,
    };
    assert_eq!(headers.len(), form.len(), "{headers}");
    let beginning = "Retry-After: ".len();
    let pairs = headers.chars().zip(form.chars()).skip(beginning);
    assert!({ pairs }.all(fits), "{headers}");
}

#[test]
fn a_log_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut entries = every(100, 3);
    entries[1].host = None;
    entries[1].told = Some(Duration::from_secs(3));
    entries[2].account = NOBODY;
    let path = folder.path().join("log");
    log::write(&entries, &path).expect("the log is written");
    assert_eq!(log::read(&path), entries);
}

#[test]
fn the_networks_are_of_their_sizes_and_have_a_front() {
    for (name, hosts, repos) in [
        ("whole", 300, 20_000),
        ("scarce", 13, 4610),
        ("small", 24, 818),
    ] {
        let network = networks::named(name, 1).expect("a network");
        assert_eq!(
            (network.hosts.len(), network.accounts.len()),
            (hosts, repos),
            "{name}"
        );
        let named = |host: usize| network.named(host).count();
        for (number, host) in network.hosts.iter().enumerate() {
            assert_eq!(host.messages, named(number), "{name}, host {number}");
        }
        let front = network.hosts[network.front].messages;
        let first = network.order[..front].iter();
        assert!({ first }.all(|&it| network.accounts[it].named == network.front));
        let again = networks::named(name, 1).expect("a network");
        assert_eq!(network.order, again.order, "the seed is all that matters");
    }
}
