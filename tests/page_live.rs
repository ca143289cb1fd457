//! The page of a real worker, in a real browser: what happens to accounts is seen there, also what goes wrong, until the process ends.
//!
//! Skipped, with a line that says so, where no Chromium is installed. With `PAGE_SHOTS=<folder>` it leaves a picture there.

mod support;

use std::env;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::json;
use support::backfiller::Backfiller;
use support::browser::{Browser, Scheme, Tab};
use support::events::{enqueue, wait_until_drained};
use support::fixture_server::{Fault, FixtureServer, served};
use support::generator::did_plc;
use support::ops::Ops;
use support::page::judge::{shown, well_behaved};
use support::redis_server::RedisServer;

/// Waits until an element shows these words.
#[track_caller]
fn reads(browser: &mut Browser, tab: &Tab, selector: &str, words: &str) {
    let (selector, words) = (json!(selector), json!(words));
    browser.wait_for(
        tab,
        &format!("document.querySelector({selector}).innerText.includes({words})"),
    );
}

#[test]
fn a_worker_is_followed_from_its_first_account_to_its_end() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let mut redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut backfiller = Backfiller::builder(&redis, &server)
        .env("BACKFILLER_METRICS_PORT", "0")
        .env("BACKFILLER_RETRY_INITIAL_BACKOFF_MS", "100")
        .env("BACKFILLER_CONSUMER", "<img src=x onerror=harmed=1>")
        .start();
    let url = Ops::of(&backfiller).url();
    let tab = browser.tab();
    browser.view(&tab, 1280, Scheme::Light);
    browser.open(&tab, &url);
    shown(&mut browser, &tab);
    reads(&mut browser, &tab, "#state", "Idle: the queue is empty.");
    reads(&mut browser, &tab, "#workers", "backfiller enqueue");
    reads(&mut browser, &tab, "h1", "<img src=x onerror=harmed=1>");

    // One that is held in its middle, one that is done, one that is gone, and a message that a stranger made up.
    let mut connection = redis.connection();
    let held = served(&server, 1, 300).did;
    server.set_fault(&held, Fault::Hold { after: 10_000 });
    let done = served(&server, 2, 300).did;
    let gone = did_plc(3);
    server.put_document_status(&gone, 404, "not found");
    for did in [&held, &done, &gone] {
        enqueue(&mut connection, did, Some(&server.url()));
    }
    let words = "did:web:<script>harmed=1</script>\u{202e}";
    enqueue(&mut connection, words, None);
    server.wait_until_held(&held, 1);
    reads(&mut browser, &tab, "#state", "Working.");
    reads(&mut browser, &tab, "#workers-table", &held);
    reads(&mut browser, &tab, "#workers-table", "fetch");
    reads(&mut browser, &tab, "#workers-table", "10.0 kB");
    reads(&mut browser, &tab, "#hosts-table", &server.host());
    // Why the others failed, and where they are now.
    for words in ["bad_message", "did:web:<script>harmed=1</script>\\u{202e}"] {
        reads(&mut browser, &tab, "#letters-table", words);
    }
    reads(&mut browser, &tab, "#letters-table", &gone);
    reads(&mut browser, &tab, "#reasons", "bad_message");
    reads(&mut browser, &tab, "#figures", "Repos done\n1");
    reads(&mut browser, &tab, "#totals-list", "Records written\n300");
    assert_eq!(browser.evaluate(&tab, "window.harmed"), json!(null));
    well_behaved(&mut browser, &tab, &url, 1280);
    if let Some(folder) = env::var_os("PAGE_SHOTS") {
        browser.picture(&tab, &Path::new(&folder).join("live-1280.png"));
    }

    redis.stop();
    reads(&mut browser, &tab, "#state", "Redis is away");
    redis.restart();
    reads(&mut browser, &tab, "#state", "Working.");

    backfiller.signal(Signal::SIGTERM);
    reads(&mut browser, &tab, "#state", "Draining");
    server.release(&held);
    assert_eq!(backfiller.wait().code(), Some(0));
    reads(&mut browser, &tab, "#state", "The worker cannot be reached");
    wait_until_drained(&mut redis.connection());
}
