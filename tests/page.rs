//! The page of the operator, in a real browser: what it says in each state, that it fits the window and can be read, light and dark,
//! that the words of strangers stay words, and that it looks after itself.
//!
//! Skipped, with a line that says so, where no Chromium is installed. With `PAGE_SHOTS=<folder>` the first test leaves pictures
//! there.

mod support;

use std::collections::BTreeSet;
use std::env;
use std::path::Path;

use serde_json::{Value, json};
use support::browser::{Browser, Scheme};
use support::page::judge::{NAMED, readable, shown, text, well_behaved};
use support::page::server::{Answer, PageServer};
use support::page::status;
use support::wait::eventually;

/// A narrow phone, and a window on a desk, in CSS pixels.
const WIDTHS: [u32; 2] = [400, 1280];

#[test]
fn each_state_is_said_and_can_be_read() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let tab = browser.tab();
    let server = PageServer::start(status::empty());
    let cases: [(&str, Value, &str, &[&str]); 5] = [
        (
            "empty",
            status::empty(),
            "Idle: the queue is empty.",
            &[
                "backfiller enqueue did:plc:",
                "No host is known yet",
                "No failure since this process began",
                "None. Messages that cannot be done",
                "first point after 15 s",
            ],
        ),
        (
            "busy",
            status::busy(64),
            "Working.",
            &[
                "361,234",
                "21,034 of 100,000",
                "231 MiB of 512 MiB",
                "did:plc:",
                "one.large.host.example:443",
                "repo_gone",
                "backfiller dead-letters requeue",
                "301 GB",
                "left, at the rate of this process alone",
            ],
        ),
        (
            "failing",
            status::failing(),
            "The output is full",
            &[
                "100,000 of 100,000",
                "backpressure",
                "28 min 43 s",
                "network",
                "1,841",
                "the connection was closed before",
                "signature",
                "1 h 8 min",
            ],
        ),
        (
            "redis",
            status::without_redis(),
            "Redis is away: Connection refused",
            &["away", "Last answer 1 min 15 s ago", "– of 100,000"],
        ),
        (
            "draining",
            status::draining(),
            "Draining: nothing new is read",
            &["361,234"],
        ),
    ];
    for (name, status, state, texts) in cases {
        server.answer(Answer::Status(status));
        for width in WIDTHS {
            for scheme in [Scheme::Light, Scheme::Dark] {
                browser.view(&tab, width, scheme);
                browser.open(&tab, &server.url());
                shown(&mut browser, &tab);

                let said = text(&mut browser, &tab, "#state-text");
                assert!(said.starts_with(state), "{name}: {said}");
                let page = text(&mut browser, &tab, "body");
                for wanted in texts {
                    assert!(page.contains(wanted), "{name}: no {wanted:?} in:\n{page}");
                }
                well_behaved(&mut browser, &tab, &server.url(), width);
                readable(&mut browser, &tab, name, scheme);
                if let Some(folder) = env::var_os("PAGE_SHOTS") {
                    let file = format!("{name}-{width}-{}.png", scheme.name());
                    browser.picture(&tab, &Path::new(&folder).join(file));
                }
            }
        }
    }
}

#[test]
fn the_words_of_strangers_stay_words() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let tab = browser.tab();
    let markup = "<img src=x onerror=\"window.harmed=1\"><script>window.harmed=1</script>'\"`</td></textarea>&lt;b&gt;";
    let bidi = "did:web:\u{202e}elpmaxe.sdp\u{2066}\u{200f}\u{200b}\u{feff}\u{0}\u{1b}[31m\u{e0041}\u{2028}\r\n\tأمثلة.example";
    let long = format!("did:web:{}", "w".repeat(2000));
    // Each with what is seen of it: innerText has the words as they are laid out.
    let seen_of_bidi = "did:web:\\u{202e}elpmaxe.sdp\\u{2066}\\u{200f}\\u{200b}\\u{feff}\\u{0}\\u{1b}[31m\\u{e0041}\\u{2028}\\u{d}\\u{a}\\u{9}أمثلة.example";
    let cases = [
        (markup.to_owned(), markup.to_owned()),
        (bidi.to_owned(), seen_of_bidi.to_owned()),
        (long.clone(), long),
    ];
    let server = PageServer::start(status::empty());
    for (words, seen) in &cases {
        server.answer(Answer::Status(status::hostile(words)));
        for width in WIDTHS {
            browser.view(&tab, width, Scheme::Light);
            browser.open(&tab, &server.url());
            shown(&mut browser, &tab);
            let open =
                "document.querySelectorAll('details').forEach((details) => details.open = true)";
            browser.evaluate(&tab, open);

            for view in [
                "h1",
                "#about",
                "#state",
                "#gauges",
                "#phases",
                "#workers-table",
                "#hosts-table",
                "#reasons",
                "#letters-table",
                "#letters-note",
            ] {
                let text = text(&mut browser, &tab, view);
                assert!(text.contains(seen.as_str()), "{view} at {width}: {text}");
            }
            // Nothing but what the page itself makes.
            let elements = "[...new Set([...document.querySelectorAll('body *')].map((e) => e.localName))].sort()";
            let elements: BTreeSet<String> =
                serde_json::from_value(browser.evaluate(&tab, elements)).expect("names");
            for never in ["img", "script", "b", "textarea", "iframe", "object"] {
                assert!(!elements.contains(never), "<{never}> in the page");
            }
            assert_eq!(browser.evaluate(&tab, "window.harmed"), Value::Null);
            let handlers = "[...document.querySelectorAll('*')].some((e) => e.getAttributeNames().some((n) => n.startsWith('on')))";
            assert_eq!(browser.evaluate(&tab, handlers), json!(false));
            // Nor does one cell reach over another.
            let over = "[...document.querySelectorAll('td, .gauge, #figures > div, summary, #state')].filter((e) => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1).map(named)";
            let over = browser.evaluate(&tab, &format!("{NAMED}; {over}"));
            assert_eq!(over, json!([]), "at {width}");
            if let Some(folder) = env::var_os("PAGE_SHOTS") {
                let file = format!("hostile-{}-{width}.png", seen.len());
                browser.picture(&tab, &Path::new(&folder).join(file));
            }
            well_behaved(&mut browser, &tab, &server.url(), width);
        }
    }
}

#[test]
fn it_updates_itself_says_when_nobody_answers_and_recovers() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let tab = browser.tab();
    let server = PageServer::start(status::empty());
    browser.open(&tab, &server.url());
    shown(&mut browser, &tab);
    browser.wait_for(
        &tab,
        "document.getElementById('state-age').innerText.startsWith('Updated ')",
    );

    server.answer(Answer::Status(status::busy(64)));
    browser.wait_for(
        &tab,
        "document.getElementById('state-text').innerText === 'Working.'",
    );

    let troubles = [
        (
            Answer::Nothing,
            "The worker cannot be reached: no connection",
        ),
        (
            Answer::Other("503 Service Unavailable", "draining"),
            "The worker cannot be reached: it answers 503",
        ),
        (
            Answer::Other("200 OK", "no JSON"),
            "The worker cannot be reached: ",
        ),
        // Of another version.
        (
            Answer::Other("200 OK", "{}"),
            "The worker’s answer cannot be shown: ",
        ),
        (
            Answer::Other("200 OK", "null"),
            "The worker’s answer cannot be shown: ",
        ),
    ];
    for (trouble, said) in troubles {
        server.answer(trouble);
        browser.wait_for(
            &tab,
            &format!(
                "document.getElementById('state-text').innerText.startsWith({})",
                json!(said)
            ),
        );
        // What was known stays, with its age.
        browser.wait_for(
            &tab,
            "/^What is below is \\d.* old\\.$/.test(document.getElementById('state-age').innerText)",
        );
        let page = text(&mut browser, &tab, "body");
        assert!(page.contains("361,234"), "{page}");

        server.answer(Answer::Status(status::draining()));
        browser.wait_for(
            &tab,
            "document.getElementById('state-text').innerText.startsWith('Draining')",
        );
        let age = text(&mut browser, &tab, "#state-age");
        assert!(age.starts_with("Updated "), "{age}");
    }
}

#[test]
fn a_page_that_nobody_sees_asks_for_nothing() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let server = PageServer::start(status::busy(2));
    let first = browser.tab();
    browser.open(&first, &format!("{}a/", server.url()));
    shown(&mut browser, &first);
    let second = browser.tab();
    browser.open(&second, &format!("{}b/", server.url()));
    shown(&mut browser, &second);
    browser.activate(&second);
    browser.wait_for(&first, "document.hidden");

    // One question may have been under way; then only the other one asks.
    let rounds = |folder: &str| server.asked(folder);
    let from = rounds("b");
    eventually("the page in front goes on", || rounds("b") > from);
    let (hidden, from) = (rounds("a"), rounds("b"));
    eventually("the page in front goes on", || rounds("b") >= from + 3);
    assert_eq!(rounds("a"), hidden, "questions of the hidden page");

    browser.activate(&first);
    eventually("it asks again when it is seen", || rounds("a") > hidden);
}

#[test]
fn a_thousand_workers_stay_usable() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let tab = browser.tab();
    let server = PageServer::start(status::busy(1024));
    browser.view(&tab, 1280, Scheme::Light);
    browser.open(&tab, &server.url());
    shown(&mut browser, &tab);
    let rows = "document.querySelectorAll('#workers-table tbody tr').length";
    assert_eq!(browser.evaluate(&tab, rows), json!(20), "rows at first");
    let longest = "(() => { const jobs = [...document.querySelectorAll('#workers-table tbody tr')].map((row) => parseFloat(row.lastElementChild.innerText)); return jobs.every((job, i) => i === 0 || jobs[i - 1] >= job) && jobs[0] > 20; })()";
    assert_eq!(
        browser.evaluate(&tab, longest),
        json!(true),
        "longest first"
    );

    // With the keyboard, and the focus stays where it is when the page updates itself.
    browser.evaluate(&tab, "document.getElementById('workers-more').focus()");
    browser.press(&tab, "Enter");
    browser.wait_for(&tab, &format!("{rows} === 1024"));
    let asked = server.asked("");
    eventually("further rounds", || server.asked("") >= asked + 2);
    let focus = "document.activeElement.id";
    assert_eq!(browser.evaluate(&tab, focus), json!("workers-more"));
    well_behaved(&mut browser, &tab, &server.url(), 1280);

    let find = "const find = document.getElementById('find'); find.focus(); find.value = 'WORKER-77'; find.dispatchEvent(new Event('input'));";
    browser.evaluate(&tab, find);
    // worker-77, worker-770 … worker-779
    assert_eq!(browser.evaluate(&tab, rows), json!(11));
    let nothing = "find.value = 'nobody'; find.dispatchEvent(new Event('input'));";
    browser.evaluate(&tab, nothing);
    let note = text(&mut browser, &tab, "#workers-note");
    assert_eq!(note, "No worker is like that now.");
    browser.evaluate(
        &tab,
        "find.value = ''; find.dispatchEvent(new Event('input'));",
    );
    browser.evaluate(
        &tab,
        "document.querySelector('#phases [data-phase=idle]').click()",
    );
    assert_eq!(browser.evaluate(&tab, rows), json!(64), "idle ones");
    let pressed = "[...document.querySelectorAll('#phases [aria-pressed=true]')].map((button) => button.innerText).join()";
    let pressed = browser.evaluate(&tab, pressed);
    assert!(
        pressed.as_str().expect("text").starts_with("idle"),
        "{pressed}"
    );
}

#[test]
fn what_is_opened_stays_open_and_selected() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let tab = browser.tab();
    let server = PageServer::start(status::failing());
    browser.open(&tab, &server.url());
    shown(&mut browser, &tab);
    // The most frequent reason lies first, and open.
    let reasons = "[...document.querySelectorAll('#reasons details')].map((d) => `${d.querySelector('code').innerText} ${d.open}`).join()";
    assert_eq!(
        browser.evaluate(&tab, reasons),
        json!("network true,signature false,repo_gone false")
    );
    browser.evaluate(
        &tab,
        "const last = document.querySelector('#reasons details:last-child'); last.open = true; last.querySelector('summary').focus();
         getSelection().selectAllChildren(last.querySelector('td.did span'));",
    );
    let selected = browser.evaluate(&tab, "String(getSelection())");
    assert!(selected.as_str().expect("text").starts_with("did:plc:"));

    // It overtakes the others.
    let mut status = status::failing();
    status["failures"][0]["count"] = 5000.into();
    server.answer(Answer::Status(status));
    browser.wait_for(
        &tab,
        &format!("{reasons} === 'repo_gone true,network true,signature false'"),
    );
    assert_eq!(
        browser.evaluate(
            &tab,
            "document.activeElement === last.querySelector('summary')"
        ),
        json!(true),
        "the focus"
    );
}

#[test]
fn screen_readers_are_told_what_is_seen() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let tab = browser.tab();
    let server = PageServer::start(status::failing());
    for width in WIDTHS {
        browser.view(&tab, width, Scheme::Light);
        browser.open(&tab, &server.url());
        shown(&mut browser, &tab);
        let tree = browser.accessibility_tree(&tab);
        let names = |role: &str| {
            let nodes = tree.iter().filter(|node| node["role"]["value"] == role);
            nodes
                .map(|node| {
                    node["name"]["value"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned()
                })
                .collect::<Vec<_>>()
        };
        for role in [
            "image",
            "meter",
            "button",
            "link",
            "searchbox",
            "table",
            "columnheader",
            "heading",
        ] {
            let names = names(role);
            assert!(!names.is_empty(), "no {role} at {width}");
            assert!(
                names.iter().all(|name| !name.is_empty()),
                "{role} at {width}: {names:?}"
            );
        }
        // Workers, hosts, letters and the reason that is open: also where rows are laid out as blocks.
        assert_eq!(names("table").len(), 4, "at {width}");
        assert_eq!(names("columnheader").len(), 9 + 4 + 6 + 6, "at {width}");
        let charts = names("image");
        assert_eq!(charts.len(), 6);
        for (chart, title) in charts.iter().zip([
            "Records",
            "Repos",
            "Downloaded",
            "Failures",
            "Queue",
            "Output",
        ]) {
            assert!(
                chart.starts_with(&format!("{title} over the last")),
                "{chart}"
            );
            assert!(
                chart.contains("highest") && chart.contains("mean"),
                "{chart}"
            );
        }
        assert!(names("heading").contains(&"Last hour".to_owned()));
        let state = tree.iter().find(|node| node["role"]["value"] == "status");
        assert!(state.is_some(), "the state is announced");
        let levels = "[...document.querySelectorAll('h1, h2, h3')].map((h) => +h.localName[1]).every((level, i, all) => level - (all[i - 1] ?? 0) <= 1)";
        assert_eq!(
            browser.evaluate(&tab, levels),
            json!(true),
            "no level of heading is left out"
        );
    }
    // All that can be used can be reached with the keyboard, from the top on.
    let mut reached = BTreeSet::new();
    browser.evaluate(&tab, "document.activeElement.blur(); scrollTo(0, 0)");
    for _ in 0..60 {
        browser.press(&tab, "Tab");
        let focus = "document.activeElement.localName + (document.activeElement.id && '#') + document.activeElement.id";
        let focus = browser.evaluate(&tab, focus);
        reached.insert(focus.as_str().expect("a name").to_owned());
    }
    for wanted in [
        "a",
        "button",
        "input#find",
        "button#workers-more",
        "summary",
    ] {
        assert!(reached.contains(wanted), "no {wanted} in {reached:?}");
    }
}
