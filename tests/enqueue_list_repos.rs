//! `enqueue --list-repos`: each account that a host lists becomes one message, whatever ends the command and whatever the host sends.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use redis::Connection;
use serde_json::{Value, json};

use support::backfiller::Backfiller;
use support::cli::{Answer, HOSTILE, assert_harmless, command};
use support::events::{INPUT, read_stream, stream_len};
use support::fixture_server::{Document, FixtureServer};
use support::generator::did_plc;
use support::proxy::{Action, Proxy};
use support::redis_server::RedisServer;
use support::wait::eventually;

const LIST: &str = "/xrpc/com.atproto.sync.listRepos";

/// So many accounts as listRepos lists them; each third one is deactivated.
fn listed(count: u64) -> Vec<Value> {
    let account = |n| {
        let active = n % 3 != 2;
        let mut account = json!({ "did": did_plc(n), "head": "bafyrei", "rev": "3kl7ad7zmfk2r", "active": active });
        if !active {
            account["status"] = "deactivated".into();
        }
        account
    };
    (0..count).map(account).collect()
}

struct Stage {
    redis: RedisServer,
    host: FixtureServer,
    connection: Connection,
}

impl Stage {
    /// A host that lists so many accounts, so many a page.
    fn new(count: u64, page: usize) -> Self {
        let (redis, host) = (RedisServer::start(), FixtureServer::start());
        host.list_repos(listed(count), page);
        let connection = redis.connection();
        Stage {
            redis,
            host,
            connection,
        }
    }

    /// Runs the command to its end.
    fn run(&self, args: &[&str]) -> Answer {
        self.run_at(&self.redis.url(), args)
    }

    /// The same with Redis at this address.
    fn run_at(&self, redis: &str, args: &[&str]) -> Answer {
        let url = self.host.url();
        let mut command = command(&self.redis, &["enqueue", "--list-repos", &url]);
        command.args(args).env("REDIS_URL", redis);
        command.output().expect("it starts").into()
    }

    /// Starts it, and lets it run.
    fn start(&self, args: &[&str]) -> Backfiller {
        let mut builder = Backfiller::builder(&self.redis, &self.host);
        let url = self.host.url();
        for arg in ["enqueue", "--list-repos", &url].iter().chain(args) {
            builder = builder.arg(*arg);
        }
        builder.start()
    }

    fn messages(&mut self) -> Vec<String> {
        let entries = read_stream(&mut self.connection, INPUT).into_iter();
        entries
            .map(|(_, mut fields)| fields.remove("repo").expect("a field repo"))
            .collect()
    }

    /// Asserts that each of so many accounts is in the input exactly once.
    #[track_caller]
    fn assert_each_once(&mut self, count: u64) {
        let mut times: BTreeMap<String, usize> = (0..count).map(|n| (did_plc(n), 0)).collect();
        for message in self.messages() {
            let message: Value = serde_json::from_str(&message).expect("JSON");
            let did = message["did"].as_str().expect("a DID");
            *times
                .get_mut(did)
                .unwrap_or_else(|| panic!("{did} is of nobody")) += 1;
        }
        let wrong: Vec<_> = times.iter().filter(|(_, n)| **n != 1).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    fn key(&self) -> String {
        format!("{INPUT}:list-repos:{}", self.host.url())
    }

    fn kept(&mut self) -> BTreeMap<String, String> {
        let key = self.key();
        redis::cmd("HGETALL")
            .arg(key)
            .query(&mut self.connection)
            .expect("HGETALL")
    }

    fn clear(&mut self) {
        redis::cmd("FLUSHALL")
            .exec(&mut self.connection)
            .expect("FLUSHALL");
    }
}

#[test]
fn all_that_a_host_lists_is_enqueued_in_its_order_with_the_host_and_once() {
    let mut stage = Stage::new(2345, 1000);
    let answer = stage.run(&[]);
    assert_eq!(
        (answer.status, answer.stderr.as_str()),
        (0, "enqueued 2,345\n")
    );
    let url = stage.host.url();
    let expected: Vec<_> = (0..2345_u64)
        .map(|n| {
            let rest = if n % 3 == 2 {
                r#""status":"deactivated","active":false"#
            } else {
                r#""active":true"#
            };
            format!(
                r#"{{"did":"{}","host":"{url}","rev":"3kl7ad7zmfk2r",{rest}}}"#,
                did_plc(n)
            )
        })
        .collect();
    assert_eq!(stage.messages(), expected);
    let asked: Vec<_> = stage
        .host
        .requests()
        .into_iter()
        .map(|it| it.path)
        .collect();
    let pages = ["", "&cursor=behind 1000", "&cursor=behind 2000"]
        .map(|it| format!("{LIST}?limit=1000{it}"));
    // A space in a query is a plus.
    assert_eq!(
        asked
            .iter()
            .map(|it| it.replace('+', " "))
            .collect::<Vec<_>>(),
        pages
    );

    // Whoever does not know that it was the end enqueues nothing again.
    let answer = stage.run(&[]);
    assert_eq!(answer.status, 0);
    assert!(
        answer
            .stderr
            .contains("its list was enqueued to the end before (2,345 accounts)"),
        "{answer:?}"
    );
    assert_eq!(stage.messages().len(), 2345);
    let answer = stage.run(&["--restart", "--no-resolve"]);
    assert_eq!(
        (answer.status, answer.stderr.as_str()),
        (0, "enqueued 2,345\n")
    );
    let messages = stage.messages();
    assert_eq!(messages.len(), 2 * 2345);
    assert!(!messages[2345].contains("host"), "{}", messages[2345]);
}

#[test]
fn killed_at_any_instant_it_goes_on_and_each_account_is_enqueued_once() {
    const ACCOUNTS: u64 = 900;
    let mut stage = Stage::new(ACCOUNTS, 6);
    let mut kills = 0;
    let mut in_the_midst = 0;
    for round in 0.. {
        let mut program = stage.start(&[]);
        // Another instant each time: behind so many more requests, and a little later.
        let seen = stage.host.count(LIST);
        eventually("it gets on", || {
            stage.host.count(LIST) > seen + round % 7 || !program.is_running()
        });
        let pause = Duration::from_micros(300 * (round as u64 % 13));
        let until = Instant::now() + pause;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        if !program.is_running() {
            assert_eq!(program.wait().code(), Some(0));
            break;
        }
        program.kill();
        kills += 1;
        // At one instant: what it has sent may be executed after its end.
        let (enqueued, said): (u64, Option<u64>) = redis::pipe()
            .atomic()
            .cmd("XLEN")
            .arg(INPUT)
            .cmd("HGET")
            .arg(stage.key())
            .arg("enqueued")
            .query(&mut stage.connection)
            .expect("both");
        in_the_midst += u64::from(enqueued > 0 && enqueued < ACCOUNTS);
        assert_eq!(said.unwrap_or(0), enqueued, "page and place are one");
    }
    assert!(
        kills >= 10 && in_the_midst >= 5,
        "{in_the_midst} of {kills}"
    );
    stage.assert_each_once(ACCOUNTS);
    assert_eq!(stage.kept()["done"], "1");
}

#[test]
fn a_connection_that_is_lost_with_a_page_under_way_loses_and_doubles_nothing() {
    for (action, applied) in [(Action::CutBefore, false), (Action::CutAfter, true)] {
        let mut stage = Stage::new(50, 10);
        let proxy = Proxy::start(stage.redis.port());
        let mut pages = 0;
        let cut = proxy.rule(action, move |_| {
            pages += 1;
            pages == 3
        });
        let answer = stage.run_at(&proxy.url(), &[]);
        assert_eq!(answer.status, 1, "{answer:?}");
        assert!(
            answer.stderr.contains("is not known")
                && answer.stderr.contains("enqueued 20 before that"),
            "{answer:?}"
        );
        assert_eq!(cut.count(), 1);
        assert_eq!(stage.messages().len(), if applied { 30 } else { 20 });
        let answer = stage.run(&[]);
        assert_eq!(answer.status, 0, "{answer:?}");
        stage.assert_each_once(50);
    }
}

#[test]
fn it_waits_while_the_input_is_above_the_mark() {
    let mut stage = Stage::new(60, 10);
    let mut program = stage.start(&["--high-water-mark", "15"]);
    program.wait_for_line(|line| line.contains("waiting until there are less than 15"));
    // A page is added as a whole, and no further one is even asked for.
    assert_eq!(stream_len(&mut stage.connection, INPUT), 20);
    assert_eq!(stage.host.count(LIST), 2);
    let mut taken = 0;
    let mut longest = 0;
    while program.is_running() {
        longest = longest.max(stream_len(&mut stage.connection, INPUT));
        let ids: Vec<String> = read_stream(&mut stage.connection, INPUT)
            .into_iter()
            .take(5)
            .map(|(id, _)| id)
            .collect();
        if !ids.is_empty() {
            taken += ids.len();
            redis::cmd("XDEL")
                .arg(INPUT)
                .arg(ids)
                .exec(&mut stage.connection)
                .expect("XDEL");
        }
    }
    assert_eq!(program.wait().code(), Some(0));
    assert!(longest < 25, "{longest}");
    assert_eq!(taken + stream_len(&mut stage.connection, INPUT), 60);
}

#[test]
fn only_active_accounts_where_that_is_asked_for_and_only_as_many() {
    let mut stage = Stage::new(30, 10);
    let answer = stage.run(&["--active-only"]);
    assert_eq!(
        (answer.status, answer.stderr.as_str()),
        (0, "enqueued 20, skipped 10 (10 inactive)\n")
    );
    assert!(
        stage
            .messages()
            .iter()
            .all(|message| message.contains(r#""active":true"#))
    );
    // Those that were left out are not at an end.
    let other = stage.run(&[]);
    assert_eq!(other.status, 2, "{}", other.stderr);
    assert!(other.stderr.contains("--restart"), "{}", other.stderr);

    stage.clear();
    // The pages are those of the limit then, and the next call goes on.
    for enqueued in [7, 14, 21, 28] {
        assert_eq!(stage.run(&["--limit", "7"]).status, 0);
        assert_eq!(stage.messages().len(), enqueued);
    }
    assert_eq!(stage.run(&["--limit", "7"]).status, 0);
    stage.assert_each_once(30);
}

#[test]
fn a_limit_of_active_accounts_does_not_ask_for_ever_smaller_pages() {
    let mut stage = Stage::new(0, 1000);
    let mut accounts = listed(1000);
    for (n, account) in accounts.iter_mut().enumerate() {
        account["active"] = (n % 50 == 49).into();
    }
    stage.host.list_repos(accounts, 1000);
    let answer = stage.run(&["--limit", "5", "--active-only"]);
    assert_eq!(answer.status, 0, "{}", answer.stderr);
    assert_eq!(stage.messages().len(), 6);
    assert_eq!(stage.host.requests().len(), 3);
}

#[test]
fn a_dry_run_prints_the_whole_list_and_keeps_nothing() {
    let mut stage = Stage::new(25, 10);
    let answer = stage.run(&["--dry-run"]);
    assert_eq!(
        (answer.status, answer.stderr.as_str()),
        (0, "would enqueue 25\n")
    );
    assert_eq!(answer.lines().len(), 25);
    assert!(stage.messages().is_empty() && stage.kept().is_empty());
}

#[test]
fn ctrl_c_ends_it_between_two_pages_and_the_next_call_goes_on() {
    let mut stage = Stage::new(60, 10);
    let mut program = stage.start(&["--high-water-mark", "15"]);
    program.wait_for_line(|line| line.contains("waiting until"));
    program.signal(Signal::SIGINT);
    assert_eq!(program.wait().code(), Some(130));
    assert_eq!(
        program.lines().last().map(String::as_str),
        Some("interrupted: enqueued 20")
    );
    let answer = stage.run(&[]);
    assert_eq!(answer.status, 0);
    assert!(
        answer.stderr.contains("going on behind 20 accounts"),
        "{answer:?}"
    );
    stage.assert_each_once(60);
}

#[test]
fn two_who_list_the_same_host_enqueue_each_account_once() {
    let mut stage = Stage::new(60, 10);
    let mut first = stage.start(&["--high-water-mark", "15"]);
    first.wait_for_line(|line| line.contains("waiting until"));
    assert_eq!(stage.run(&[]).status, 0);
    stage.assert_each_once(60);
    redis::cmd("DEL")
        .arg(INPUT)
        .exec(&mut stage.connection)
        .expect("DEL");
    assert_eq!(first.wait().code(), Some(1));
    assert!(
        first
            .lines()
            .concat()
            .contains("another call lists the same host")
    );
    assert_eq!(
        stage.messages(),
        [""; 0],
        "it has added nothing behind the other"
    );
}

#[test]
fn a_host_that_refuses_or_fails_for_a_moment_is_asked_again_as_it_says() {
    let mut stage = Stage::new(20, 10);
    let first = format!("{LIST}?limit=1000");
    let page = json!({ "repos": listed(10), "cursor": "behind 10" }).to_string();
    stage.host.answer(
        &first,
        [
            Document::refusal(2),
            Document::status(502, "<html>"),
            Document::ok(page),
        ],
    );
    let answer = stage.run(&[]);
    assert_eq!(answer.status, 0, "{answer:?}");
    stage.assert_each_once(20);
    let at: Vec<_> = stage.host.requests().into_iter().map(|it| it.at).collect();
    assert_eq!(at.len(), 4);
    assert!(
        at[1] - at[0] >= Duration::from_secs(2),
        "{:?}",
        at[1] - at[0]
    );
}

#[test]
fn a_page_that_breaks_off_is_asked_for_again() {
    let mut stage = Stage::new(20, 10);
    stage.host.cut_documents(true);
    let mut program = stage.start(&[]);
    eventually("it was cut off", || stage.host.count(LIST) > 0);
    stage.host.cut_documents(false);
    assert_eq!(program.wait().code(), Some(0));
    stage.assert_each_once(20);
}

#[test]
fn a_hostile_page_ends_the_call_with_one_line_and_loses_nothing() {
    let mut stage = Stage::new(20, 10);
    let second = format!("{LIST}?limit=1000&cursor=behind+10");
    let repos = |count: u64| listed(count)[10..].to_vec();
    let page = |cursor: &str| json!({ "repos": repos(20), "cursor": cursor }).to_string();
    let cases = [
        (Document::ok("<html>"), "no JSON object"),
        (Document::ok("{\"repos\":7}"), "no list of repos"),
        (
            Document::ok("{\"repos\":[],\"cursor\":{}}"),
            "a cursor that is no string",
        ),
        (Document::ok(page("behind 10")), "comes again"),
        (
            Document::ok(page(&"c".repeat(3000))),
            "a cursor of more than 2048 bytes",
        ),
        (
            Document::ok(json!({ "repos": vec![1; 10_001] }).to_string()),
            "10001 accounts, and 1000 were asked for",
        ),
        (
            Document::ok(" ".repeat((4 << 20) + 1)),
            "an answer of more than 4194304 bytes",
        ),
        (Document::ok("[".repeat(1 << 20)), "no JSON object"),
        (
            Document::status(
                400,
                "{\"error\":\"InvalidRequest\",\"message\":\"no such cursor\"}",
            ),
            "no such cursor",
        ),
        (Document::status(404, HOSTILE), "answered 404"),
        (
            Document::status(302, "http://10.0.0.1/"),
            "plain http is not permitted",
        ),
        (
            Document::status(302, "https://localhost/"),
            "loopback address",
        ),
        (
            Document::status(302, stage.host.url() + &second),
            "plain http is not permitted",
        ),
    ];
    assert_eq!(stage.run(&["--limit", "10"]).status, 0);
    let kept = stage.kept();
    for (document, why) in cases {
        stage.host.answer(&second, [document]);
        let answer = stage.run(&[]);
        assert_eq!(answer.status, 1, "{why}: {answer:?}");
        let line = answer.stderr.lines().last().expect("a line");
        assert!(
            line.contains(why) && line.contains("the same command goes on here"),
            "{why}: {line}"
        );
        assert_harmless(&answer.stderr);
        assert_eq!(answer.stderr.lines().count(), 2, "{answer:?}");
        assert_eq!(
            (stage.messages().len(), stage.kept()),
            (10, kept.clone()),
            "{why}"
        );
    }
    stage.host.forget_answer(&second);
    assert_eq!(stage.run(&[]).status, 0);
    stage.assert_each_once(20);
}

#[test]
fn a_list_without_an_end_is_not_followed_without_an_end() {
    let mut stage = Stage::new(0, 10);
    let target = |n: u32| match n {
        0 => format!("{LIST}?limit=1000"),
        n => format!("{LIST}?limit=1000&cursor={n}"),
    };
    // No account, and always another cursor.
    for n in 0..200 {
        let body = json!({ "repos": [], "cursor": (n + 1).to_string() });
        stage
            .host
            .answer(target(n), [Document::ok(body.to_string())]);
    }
    let answer = stage.run(&[]);
    assert_eq!(answer.status, 1);
    assert!(
        answer
            .stderr
            .contains("more than 100 pages in a row without an account"),
        "{answer:?}"
    );
    assert!(stage.messages().is_empty());

    // The same page for ever.
    stage.clear();
    for n in 0..3 {
        let body = json!({ "repos": listed(10), "cursor": (n + 1).to_string() });
        stage
            .host
            .answer(target(n), [Document::ok(body.to_string())]);
    }
    let answer = stage.run(&[]);
    assert_eq!(answer.status, 1);
    assert!(
        answer.stderr.contains("all of a page was in the last one"),
        "{answer:?}"
    );
    stage.assert_each_once(10);

    // A ring of cursors.
    stage.clear();
    for n in 0..3 {
        let repos = &listed(30)[n * 10..][..10];
        let next = if n == 2 { 1 } else { n + 1 };
        let body = json!({ "repos": repos, "cursor": next.to_string() });
        stage
            .host
            .answer(target(n as u32), [Document::ok(body.to_string())]);
    }
    let answer = stage.run(&[]);
    assert_eq!(answer.status, 1);
    assert!(
        answer.stderr.contains("the cursor \"1\" comes again"),
        "{answer:?}"
    );
    stage.assert_each_once(20);
}

#[test]
fn what_is_no_account_is_counted_and_the_others_of_its_page_are_enqueued() {
    let mut stage = Stage::new(0, 10);
    let mut repos = listed(5);
    repos.extend([
        json!(7),
        json!({ "did": HOSTILE }),
        json!({ "did": "did:key:z" }),
        json!(null),
        repos[0].clone(),
    ]);
    repos.extend((0..100).map(|n| json!({ "did": format!("nobody {n}") })));
    let body = json!({ "repos": repos }).to_string();
    stage
        .host
        .answer(format!("{LIST}?limit=1000"), [Document::ok(body)]);
    let answer = stage.run(&[]);
    assert_eq!(answer.status, 1);
    let lines: Vec<_> = answer.stderr.lines().collect();
    assert_eq!(
        lines.last(),
        Some(&"enqueued 5, skipped 1 (1 duplicate), refused 104 (104 syntax)")
    );
    // Twenty of them, that there are more, and the summary.
    assert_eq!(lines.len(), 22, "{lines:?}");
    assert_harmless(&answer.stderr);
    stage.assert_each_once(5);
}

#[test]
fn a_key_that_is_something_else_is_not_written_over() {
    let mut stage = Stage::new(5, 10);
    let key = stage.key();
    redis::cmd("SET")
        .arg(&key)
        .arg("x")
        .exec(&mut stage.connection)
        .expect("SET");
    let answer = stage.run(&[]);
    assert!(answer.refusal(1).contains("WRONGTYPE"), "{answer:?}");
    assert!(stage.messages().is_empty());
}
