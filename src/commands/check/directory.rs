//! The directory: one look-up, by the worker's own way.

use std::sync::Arc;
use std::time::Instant;

use super::{Finding, fail, ok, warn};
use crate::config::Config;
use crate::dump::Roster;
use crate::error::Reason;
use crate::fetch::resolver::Resolver;
use crate::hosts::{Hosts, Permits, Stopped};
use crate::identity::Identities;
use crate::redact::redact;
use crate::terminal::escaped;

/// A DID of which nothing is wanted: that the directory does not know it is an answer like any other.
const DID: &str = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa";

/// Asks the directory.
pub(super) fn check(config: &Arc<Config>) -> Finding {
    let what = "directory";
    let shown = escaped(&redact(&config.plc_url));
    // A look-up of a name cannot be stopped, and this process soon ends: the threads are not joined.
    let resolver = match Resolver::start(1, &Roster::default()) {
        Ok((resolver, _)) => resolver,
        Err(error) => return fail(what, format!("a thread cannot be started: {error}")),
    };
    let hosts = Hosts::new(config);
    let identities = Identities::new(config, &resolver, &hosts);
    let began = Instant::now();
    let answer = identities.resolve(DID, &mut Permits::default());
    let millis = began.elapsed().as_millis();
    let answered = |how: &str| format!("{shown} answers in {millis} ms ({how})");
    match answer {
        Ok(_) => ok(what, answered("a document")),
        Err(Stopped::Failed(error)) if error.reason == Reason::Identity => {
            ok(what, answered(&escaped(&error.text)))
        }
        Err(Stopped::Failed(error)) => {
            let text = escaped(&error.text);
            fail(
                what,
                format!("{shown} cannot be asked: {text}; did:plc accounts wait"),
            )
        }
        // It has closed its gate with its first answer.
        Err(Stopped::Busy(busy)) => {
            let text = escaped(&busy.error.text);
            warn(
                what,
                format!("{shown} wants to be left alone for now: {text}"),
            )
        }
    }
}
