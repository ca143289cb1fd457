//! What is answered to which request.
//!
//! A page of a stranger can make the operator's browser ask a loopback address, and where its own name leads there (DNS rebinding) it
//! could read the answer. The header `Host` then says that name: so on a loopback address only requests are answered that name an
//! IP address, `localhost` or this machine. Whoever has it listen elsewhere reaches it by names that are not known here, and has
//! decided who may ask.

use std::net::{IpAddr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::Watched;
use super::answer::Answer;
use super::history::History;
use super::hosts::HostsSeen;
use super::request::Request;
use super::{exposition, page, status};

/// Whoever answers: one for all connections.
pub struct Desk {
    watched: Arc<Watched>,
    history: History,
    hosts: HostsSeen,
    /// Whether any name is good enough.
    takes_any_name: bool,
    /// This machine's.
    own_name: String,
}

impl Desk {
    /// For who listens on this address.
    pub fn new(watched: &Arc<Watched>, address: IpAddr, now: Instant) -> Self {
        Desk {
            watched: Arc::clone(watched),
            history: History::new(now),
            hosts: HostsSeen::default(),
            takes_any_name: !address.to_canonical().is_loopback(),
            own_name: gethostname::gethostname().to_string_lossy().into_owned(),
        }
    }

    /// Writes down what is due, and says when the next is.
    pub fn tick(&mut self, now: Instant) -> Instant {
        self.history.tick(&self.watched, now)
    }

    /// The answer. A defect is one as well, and no end of the thread.
    pub fn answer(&mut self, request: &Request) -> Answer {
        catch_unwind(AssertUnwindSafe(|| self.route(request))).unwrap_or_else(|_| {
            let path = request.path.escape_debug();
            log::error!("{path} cannot be answered; this is a defect of this program");
            Answer::line(500, "a defect of this program")
        })
    }

    fn route(&mut self, request: &Request) -> Answer {
        if !self.takes_name(request.host.as_deref()) {
            return Answer::line(403, "this server is not known by that name");
        }
        let file = page::FILES.iter().find(|(path, ..)| *path == request.path);
        let known = matches!(
            request.path.as_str(),
            "/metrics" | "/status.json" | "/healthz" | "/readyz"
        );
        if file.is_none() && !known {
            return Answer::line(404, "there is no such path");
        }
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            return Answer::line(405, "GET and HEAD only");
        }
        if let Some((_, kind, text)) = file {
            return Answer::file(kind, text);
        }
        let now = Instant::now();
        match request.path.as_str() {
            "/healthz" => Answer::line(200, "ok"),
            "/readyz" => match self.why_not_ready(now) {
                None => Answer::line(200, "ready"),
                Some(why) => Answer::line(503, why),
            },
            "/metrics" => exposition::answer(&self.watched, self.hosts.look(&self.watched, now)),
            _ => {
                let hosts = self.hosts.look(&self.watched, now);
                status::answer(&self.watched, &self.history, hosts, now)
            }
        }
    }

    fn why_not_ready(&self, now: Instant) -> Option<&'static str> {
        let sample = self.watched.sample();
        if self.watched.shutdown.is_requested() {
            Some("draining")
        } else if !sample.is_connected(now) {
            Some("Redis is away")
        } else if !self.watched.is_working() {
            Some("starting")
        } else {
            None
        }
    }

    fn takes_name(&self, host: Option<&str>) -> bool {
        let Some(host) = host else { return true };
        self.takes_any_name || is_own(host, &self.own_name)
    }
}

/// Whether a `Host` header names an IP address, `localhost` or the machine of this name.
fn is_own(host: &str, machine: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((address, port)) => {
                address.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || is_port(port))
            }
            None => false,
        };
    }
    let (name, port) = match host.find(':') {
        Some(at) => host.split_at(at),
        None => (host, ""),
    };
    let known = name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || (!machine.is_empty() && name.eq_ignore_ascii_case(machine));
    known && (port.is_empty() || is_port(port))
}

/// `:80`
fn is_port(text: &str) -> bool {
    let digits = text.strip_prefix(':');
    digits.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_own_names_are_own() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9090",
            "192.0.2.7:80",
            "[::1]",
            "[::1]:9090",
            "localhost",
            "LocalHost:1",
            "backfill-1",
            "BACKFILL-1:9090",
        ] {
            assert!(is_own(host, "backfill-1"), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:9090",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "127.0.0.1:9090.evil.example",
            "[::1].evil.example",
            "[evil.example]",
            "[::1",
            "::1",
            "backfill-10",
        ] {
            assert!(!is_own(host, "backfill-1"), "{host}");
        }
        assert!(!is_own("", ""));
    }
}
