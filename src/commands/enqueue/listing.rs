//! All that a host lists (com.atproto.sync.listRepos), page by page.
//!
//! One thread asks the host, by its gate: it waits when the host refuses, and asks again when it fails on the way. This one waits until
//! the input is below the mark and adds page and [place](super::cursor) in one transaction. A host that lies ends the call and not
//! the list: nothing of a page that cannot be true is enqueued, and the place stays before it. Within one call no cursor may come
//! twice, and a page must name somebody whom the last one did not.

use std::collections::HashSet;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};
use url::Url;

use super::cursor::{Kept, Place};
use super::message::NewMessage;
use super::output::Output;
use super::page::{LIMIT, MAX_PAGE, Page};
use super::progress::{Progress, Skipped};
use super::{End, Enqueue, Kit, no_thread};
use crate::commands::Failure;
use crate::error::{JobError, Reason};
use crate::fetch::document::{Answer, Documents};
use crate::fetch::host::Host;
use crate::hosts::Stopped;
use crate::hosts::wait::Waiting;
use crate::terminal::{count, escaped};

/// The method that lists the accounts of a host.
const LIST_REPOS: &str = "/xrpc/com.atproto.sync.listRepos";
/// How long one page may take.
const PAGE_TIMEOUT: Duration = Duration::from_secs(120);
/// How often in a row one page is asked for when that fails on the way.
const TRIES: u32 = 5;
/// The pause before the second try; each further one doubles it.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked whether a host is open again, and progress is shown.
const TICK: Duration = Duration::from_millis(500);
/// The smallest page with --active-only: what is left of a --limit says nothing of how many must be listed for so many active ones.
const LEAST_ACTIVE: u64 = 100;
/// Pages in a row without any account, behind which the list is not believed to have an end.
const MAX_EMPTY: u32 = 100;
/// Lines about what stands in a list and is no account; all of them are counted.
const MAX_LINES: u64 = 20;

/// What the thread that asks has to say.
enum News {
    /// It waits, for this reason.
    Waits(String),
    /// This is the answer.
    Answer(Result<Answer, JobError>),
}

/// Enqueues all that this host lists and was not enqueued before.
pub(super) fn run(
    options: &Enqueue,
    kit: &Kit,
    host: &Host,
    output: &mut Output,
    progress: &mut Progress,
) -> Result<End, Failure> {
    let kept = Kept::new(&kit.config.backfill_stream, host);
    let mut place = output.place(&kept, options.restart)?;
    progress.show_at_most(MAX_LINES);
    if place != Place::default() && place.active_only != options.active_only {
        let before = if place.active_only { "with" } else { "without" };
        return Err(Failure::Usage(format!(
            "{host}: what was listed until now was listed {before} --active-only; go on so, or begin anew with --restart"
        )));
    }
    if place.done {
        let all = count(place.enqueued);
        progress.say(&format!(
            "{host}: its list was enqueued to the end before ({all} accounts); --restart begins anew"
        ));
        return Ok(End::Done);
    }
    if place.cursor.is_some() {
        let all = count(place.enqueued);
        progress.say(&format!("{host}: going on behind {all} accounts"));
    }
    let asker = start(kit, host)?;
    let mut list = List::default();
    let mut left = options.limit.unwrap_or(u64::MAX);
    while left > 0 && !place.done {
        if !output.wait_for_room(&kit.shutdown, progress)? {
            return Ok(End::Interrupted);
        }
        let least = if options.active_only { LEAST_ACTIVE } else { 1 };
        let url = question(host, place.cursor.as_deref(), left.clamp(least, LIMIT));
        let failed = |what: &dyn std::fmt::Display| {
            Failure::Failed(format!(
                "{}; the same command goes on here",
                escaped(&format!("{host}: {what}"))
            ))
        };
        if asker.questions.send(url).is_err() {
            return Err(failed(&"whoever asks has ended"));
        }
        let answer = loop {
            select! {
                recv(asker.news) -> it => match it {
                    Ok(News::Waits(why)) => progress.waits(&why),
                    Ok(News::Answer(answer)) => break answer,
                    Err(_) => return Err(failed(&"whoever asks has ended")),
                },
                recv(kit.shutdown.requested()) -> _ => return Ok(End::Interrupted),
                default(TICK) => progress.tick(),
            }
        };
        progress.goes_on();
        let answer = answer.map_err(|error| {
            Failure::Failed(format!(
                "{}; the same command goes on here",
                escaped(&error.text)
            ))
        })?;
        if answer.status != 200 {
            return Err(failed(&answer.error().text));
        }
        let page = Page::parse(&answer.body).map_err(|e| failed(&e))?;
        list.judge(&page, &place).map_err(|e| failed(&e))?;

        let (messages, inactive) = messages(&page, host, options);
        let added = messages.len() as u64;
        let next = Place {
            done: page.cursor.is_none() || page.cursor == place.cursor,
            cursor: page.cursor,
            enqueued: place.enqueued + added,
            active_only: options.active_only,
        };
        output.add_page(&messages, &kept, &place, &next)?;
        // Only what is kept is said.
        for (shown, why) in &page.bad {
            progress.refused(shown, "syntax", why);
        }
        progress.skipped(Skipped::Duplicate, page.duplicates);
        progress.skipped(Skipped::Inactive, inactive);
        progress.enqueued(messages.len());
        progress.tick();
        place = next;
        left = left.saturating_sub(added);
        if kit.shutdown.is_requested() && !place.done {
            return Ok(End::Interrupted);
        }
    }
    asker.end();
    Ok(End::Done)
}

/// The messages of a page, and how many accounts are left out because they are not active.
fn messages(page: &Page, host: &Host, options: &Enqueue) -> (Vec<String>, u64) {
    let is_wanted = |active: Option<bool>| !options.active_only || active != Some(false);
    let wanted = page.repos.iter().filter(|it| is_wanted(it.hints.active));
    let messages: Vec<_> = wanted
        .map(|listed| NewMessage {
            did: listed.did.clone(),
            host: (!options.no_resolve).then(|| host.clone()),
            hints: listed.hints.clone(),
        })
        .map(|message| message.to_json())
        .collect();
    let inactive = page.repos.len() - messages.len();
    (messages, inactive as u64)
}

/// What a host has said so far.
#[derive(Default)]
struct List {
    cursors: HashSet<String>,
    /// The accounts of the last page that had any.
    last: HashSet<String>,
    empty: u32,
}

impl List {
    /// Whether this page can be the one behind the place.
    ///
    /// # Errors
    /// Why not.
    fn judge(&mut self, page: &Page, place: &Place) -> Result<(), String> {
        if page.is_empty() {
            self.empty += 1;
            if self.empty > MAX_EMPTY {
                return Err(format!(
                    "more than {MAX_EMPTY} pages in a row without an account"
                ));
            }
            // Some say at the end of the list that it is where it was.
            if page.cursor == place.cursor {
                return Ok(());
            }
        } else {
            self.empty = 0;
        }
        self.cursors.extend(place.cursor.clone());
        if let Some(cursor) = &page.cursor
            && self.cursors.contains(cursor)
        {
            return Err(format!(
                "the list does not advance: the cursor {cursor:?} comes again"
            ));
        }
        if page.repos.is_empty() {
            return Ok(());
        }
        if page.repos.iter().all(|it| self.last.contains(&it.did)) {
            return Err("the list does not advance: all of a page was in the last one".to_owned());
        }
        self.last = page.repos.iter().map(|it| it.did.clone()).collect();
        Ok(())
    }
}

fn question(host: &Host, cursor: Option<&str>, limit: u64) -> Url {
    let mut url = host.url_of(LIST_REPOS);
    let mut query = url.query_pairs_mut();
    query.append_pair("limit", &limit.to_string());
    if let Some(cursor) = cursor {
        query.append_pair("cursor", cursor);
    }
    drop(query);
    url
}

/// The thread that asks.
struct Asker {
    questions: Sender<Url>,
    news: Receiver<News>,
    thread: JoinHandle<()>,
}

impl Asker {
    /// Waits for its end; where it is interrupted, it ends with the process.
    fn end(self) {
        drop(self.questions);
        // One that panicked has ended too.
        let _ = self.thread.join();
    }
}

/// Starts the thread that asks.
fn start(kit: &Kit, host: &Host) -> Result<Asker, Failure> {
    let accept = "application/json";
    let (config, hosts) = (&kit.config, kit.hosts.clone());
    let documents = Documents::new(
        config,
        &kit.resolver,
        &hosts,
        accept,
        MAX_PAGE,
        PAGE_TIMEOUT,
    );
    let (host, shutdown) = (host.clone(), kit.shutdown.clone());
    let (questions, asked) = bounded::<Url>(1);
    let (said, news) = bounded(16);
    let waits = said.clone();
    let ask = move |url: &Url| {
        let mut tries = 0;
        loop {
            // A short wait each time, so that it can be said meanwhile what is waited for.
            let waiting = Waiting::at_most(TICK, &shutdown);
            let answer = waiting.insist(&hosts, None, |permits| {
                documents.get(&host, url.clone(), permits)
            });
            let error = match answer.map_err(Stopped::into_error) {
                // Its own fault, which may pass.
                Ok(answer) if answer.status >= 500 => answer.error(),
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let pause = match error.reason {
                Reason::Deferred => TICK,
                Reason::Network if tries + 1 < TRIES => {
                    tries += 1;
                    PAUSE * (1 << (tries - 1))
                }
                _ => return Err(error),
            };
            let _ = waits.try_send(News::Waits(error.text.clone()));
            if shutdown.sleep(pause) {
                return Err(error);
            }
        }
    };
    let work = move || {
        for url in asked {
            if said.send(News::Answer(ask(&url))).is_err() {
                return;
            }
        }
    };
    let thread = thread::Builder::new().name("list-repos".to_owned());
    Ok(Asker {
        questions,
        news,
        thread: thread.spawn(work).map_err(no_thread)?,
    })
}
