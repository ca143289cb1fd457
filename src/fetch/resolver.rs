//! Host names to addresses, on a few named threads.
//!
//! getaddrinfo blocks and cannot be stopped, so it must not run on a worker, whose time-outs have to hold; and ureq's own resolver
//! starts an unnamed thread for each look-up. So look-ups are asked of a small pool and waited for as long as the request's own
//! time-out allows; answers are kept for a while (see [`names`](super::names)). An address literal needs no look-up. The
//! [`AddressPolicy`] is applied to each use of an answer, kept or not, and what it lets pass is what ureq then connects
//! to: a name cannot resolve to one address for the check and to another for the connection. The threads end when the
//! last [`Resolver`] is dropped.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver as UreqResolver};
use ureq::unversioned::transport::NextTimeout;

use super::addresses::is_own;
use super::names::{Asked, KEPT_FOR, Names};
use super::policy::{AddressPolicy, is_localhost};
use crate::dump::{Place, Roster};
use crate::status::Phase;

/// One thread for so many workers: as many look-ups may hang at a time before others wait for them.
const WORKERS_PER_THREAD: usize = 8;
/// Threads of the pool, at least and at most.
const THREADS: (usize, usize) = (4, 32);
/// As many addresses as ureq takes.
const MAX_ADDRESSES: usize = 16;

/// How a name is looked up.
type LookUp = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// Asks the pool; one for each agent.
#[derive(Clone)]
pub struct Resolver {
    questions: Sender<String>,
    names: Arc<Names>,
    /// `None`: whatever the name resolves to, for addresses that only the operator chooses.
    policy: Option<AddressPolicy>,
}

impl Resolver {
    /// Starts the pool, for this many workers; its threads are on the roster.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(workers: usize, roster: &Roster) -> io::Result<(Self, Vec<JoinHandle<()>>)> {
        Self::start_with(workers, KEPT_FOR, Arc::new(ask_system), roster)
    }

    fn start_with(
        workers: usize,
        kept_for: Duration,
        look_up: Arc<LookUp>,
        roster: &Roster,
    ) -> io::Result<(Self, Vec<JoinHandle<()>>)> {
        let (questions, receiver) = unbounded();
        let names = Arc::new(Names::new(kept_for));
        let threads = (0..(workers / WORKERS_PER_THREAD).clamp(THREADS.0, THREADS.1))
            .map(|n| {
                let (receiver, names) = (receiver.clone(), Arc::clone(&names));
                let look_up = Arc::clone(&look_up);
                let name = format!("resolver-{n}");
                let place = roster.place(&name);
                thread::Builder::new()
                    .name(name)
                    .spawn(move || answer_all(&receiver, &names, &*look_up, &place))
            })
            .collect::<io::Result<_>>()?;
        let resolver = Resolver {
            questions,
            names,
            policy: None,
        };
        Ok((resolver, threads))
    }

    /// The same pool and the same answers, under a policy.
    pub fn under(&self, policy: AddressPolicy) -> Self {
        Resolver {
            policy: Some(policy),
            ..self.clone()
        }
    }

    /// Whether this host, a name or an address literal, is one of the operator's own: all that it last resolved to is on
    /// this machine or a private network. `None` where that is not known yet (or not any more). Asks nobody.
    pub fn is_private(&self, host: &str) -> Option<bool> {
        if let Some(address) = literal(host) {
            return Some(is_own(address));
        }
        if is_localhost(host) {
            return Some(true);
        }
        let addresses = self.names.last(&host.to_ascii_lowercase())?;
        Some(!addresses.is_empty() && addresses.iter().all(|address| is_own(*address)))
    }

    fn look_up(&self, name: &str, timeout: NextTimeout) -> Result<Vec<IpAddr>, ureq::Error> {
        let limit = (!timeout.after.is_not_happening()).then(|| *timeout.after);
        let gone = || ureq::Error::Io(io::Error::other("the resolver has ended"));
        let deadline = limit.map(|limit| Instant::now() + limit);
        let answered = match self.names.ask(name, deadline) {
            Asked::Known(addresses) => return self.permitted(name, &addresses),
            Asked::Waiting(answered) => answered,
            Asked::First(answered) => {
                self.questions.send(name.to_owned()).map_err(|_| gone())?;
                answered
            }
        };
        let answer = match limit {
            None => answered.recv().map_err(|_| gone())?,
            Some(limit) => answered.recv_timeout(limit).map_err(|e| match e {
                RecvTimeoutError::Timeout => ureq::Error::Timeout(timeout.reason),
                RecvTimeoutError::Disconnected => gone(),
            })?,
        };
        match answer {
            Ok(addresses) => self.permitted(name, &addresses),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string()).into()),
        }
    }

    fn permitted(&self, name: &str, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, ureq::Error> {
        match self.policy {
            Some(policy) => policy
                .permitted(name, addresses)
                .map_err(|refusal| ureq::Error::Other(Box::new(refusal))),
            None => Ok(addresses.to_vec()),
        }
    }
}

fn answer_all(questions: &Receiver<String>, names: &Names, look_up: &LookUp, place: &Place) {
    for name in questions {
        // Names that hang must not keep the pool busy for those who have given up.
        if names.is_wanted(&name) {
            place.begin("", "");
            place.asks(&name);
            place.enter(Phase::Resolve);
            let answer = look_up(&name);
            place.end();
            names.answer(&name, answer);
        }
    }
}

fn ask_system(name: &str) -> io::Result<Vec<IpAddr>> {
    // The port does not matter to getaddrinfo.
    let addresses = (name, 0).to_socket_addrs()?;
    Ok(addresses.map(|address| address.ip()).collect())
}

/// The address that stands for itself; in a URI an IPv6 literal stands in brackets.
fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

impl UreqResolver for Resolver {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri
            .host()
            .ok_or_else(|| ureq::Error::BadUri(uri.to_string()))?;
        let port = uri
            .port_u16()
            .unwrap_or(if uri.scheme_str() == Some("http") {
                80
            } else {
                443
            });
        let addresses = match literal(host) {
            // The URL has been checked before the request.
            Some(address) => vec![address],
            None => self.look_up(&host.to_ascii_lowercase(), timeout)?,
        };
        let mut resolved = self.empty();
        for address in addresses.into_iter().take(MAX_ADDRESSES) {
            resolved.push(SocketAddr::new(address, port));
        }
        if resolved.is_empty() {
            return Err(ureq::Error::HostNotFound);
        }
        Ok(resolved)
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::policy::Refusal;
    use super::*;

    fn timeout() -> NextTimeout {
        NextTimeout {
            after: Duration::from_secs(60).into(),
            reason: ureq::Timeout::Resolve,
            ..Default::default()
        }
    }

    fn resolve(resolver: &Resolver, uri: &str) -> Result<Vec<SocketAddr>, ureq::Error> {
        let uri: Uri = uri.parse().unwrap();
        resolver
            .resolve(&uri, &Config::default(), timeout())
            .map(|a| a.to_vec())
    }

    #[test]
    fn literals_and_names_resolve_and_the_threads_end_with_the_last_resolver() {
        let (resolver, threads) = Resolver::start(1, &Roster::default()).unwrap();
        let strict = resolver.under(AddressPolicy::new(false));
        assert_eq!(
            resolve(&strict, "http://127.0.0.1:8080/").unwrap(),
            ["127.0.0.1:8080".parse().unwrap()]
        );
        assert_eq!(
            resolve(&strict, "https://[::1]/").unwrap(),
            ["[::1]:443".parse().unwrap()]
        );
        let local = resolve(&strict, "http://localhost/").unwrap();
        assert!(
            local.iter().all(|a| a.ip().is_loopback() && a.port() == 80),
            "{local:?}"
        );
        assert!(resolve(&strict, "https://no-such-name.invalid/").is_err());
        drop((resolver, strict));
        for thread in threads {
            thread.join().unwrap();
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A resolver whose names resolve by this function, and how often it was asked.
    fn scripted(
        kept_for: Duration,
        look_up: impl Fn(&str, usize) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> (Resolver, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let look_up = move |name: &str| look_up(name, count.fetch_add(1, Ordering::SeqCst));
        let (resolver, _) =
            Resolver::start_with(1, kept_for, Arc::new(look_up), &Roster::default()).unwrap();
        (resolver, asked)
    }

    #[test]
    fn answers_are_kept_for_all_agents_and_failures_are_not() {
        let (resolver, asked) = scripted(KEPT_FOR, |_, time| match time {
            0 => Err(io::Error::other("not now")),
            _ => Ok(vec![address("192.31.196.1")]),
        });
        let strict = resolver.under(AddressPolicy::new(false));
        let error = resolve(&strict, "https://pds.example/").unwrap_err();
        assert!(error.to_string().contains("not now"), "{error}");
        for agent in [
            &strict,
            &resolver,
            &resolver.under(AddressPolicy::new(true)),
        ] {
            let addresses = resolve(agent, "https://pds.example:8443/").unwrap();
            assert_eq!(addresses, ["192.31.196.1:8443".parse().unwrap()]);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        resolve(&strict, "https://other.example/").unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn the_policy_is_applied_to_kept_answers_as_well() {
        let (resolver, asked) = scripted(KEPT_FOR, |_, _| {
            Ok(vec![address("10.0.0.1"), address("192.31.196.1")])
        });
        let strict = resolver.under(AddressPolicy::new(false));
        // Whoever may ask all addresses has asked first.
        assert_eq!(resolve(&resolver, "http://pds.example/").unwrap().len(), 2);
        let permitted = resolve(&strict, "https://pds.example/").unwrap();
        assert_eq!(permitted, ["192.31.196.1:443".parse().unwrap()]);
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_name_that_changes_to_a_private_address_is_refused_from_then_on() {
        let (resolver, asked) = scripted(Duration::ZERO, |_, time| {
            Ok(vec![address(["192.31.196.1", "127.0.0.1"][time.min(1)])])
        });
        let strict = resolver.under(AddressPolicy::new(false));
        let before = resolve(&strict, "https://pds.example/").unwrap();
        assert_eq!(before, ["192.31.196.1:443".parse().unwrap()]);
        for _ in 0..2 {
            let error = resolve(&strict, "https://pds.example/").unwrap_err();
            let ureq::Error::Other(error) = error else {
                panic!("{error}");
            };
            assert!(error.is::<Refusal>(), "{error}");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 3, "each answer was too old");
    }

    #[test]
    fn who_asks_for_the_same_name_at_the_same_time_asks_once() {
        let (release, released) = unbounded::<()>();
        let (resolver, asked) = scripted(KEPT_FOR, move |_, _| {
            let _ = released.recv();
            Ok(vec![address("192.31.196.1")])
        });
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let resolver = resolver.clone();
                thread::spawn(move || resolve(&resolver, "https://pds.example/").unwrap())
            })
            .collect();
        let deadline = Instant::now() + Duration::from_secs(30);
        while resolver.names.waiting("pds.example") < threads.len() {
            assert!(Instant::now() < deadline, "they do not all wait");
            thread::yield_now();
        }
        drop(release);
        for thread in threads {
            assert_eq!(thread.join().unwrap().len(), 1);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_name_that_hangs_costs_the_time_that_was_allowed() {
        let (release, released) = unbounded::<()>();
        let (resolver, _) = scripted(KEPT_FOR, move |_, _| {
            let _ = released.recv();
            Ok(vec![address("192.31.196.1")])
        });
        let timeout = NextTimeout {
            after: Duration::from_millis(50).into(),
            ..timeout()
        };
        let uri: Uri = "https://pds.example/".parse().unwrap();
        for _ in 0..2 {
            let result = resolver.resolve(&uri, &Config::default(), timeout);
            assert!(
                matches!(result, Err(ureq::Error::Timeout(ureq::Timeout::Resolve))),
                "{result:?}"
            );
        }
        drop(release);
    }

    #[test]
    fn whether_a_host_is_the_operators_own_is_known_once_it_has_resolved() {
        let (resolver, asked) = scripted(Duration::ZERO, |name, _| {
            Ok(match name {
                "own.example" => vec![address("10.0.0.1"), address("fd00::1")],
                "mixed.example" => vec![address("10.0.0.1"), address("192.31.196.1")],
                _ => vec![address("192.31.196.1")],
            })
        });
        for host in [
            "localhost",
            "a.localhost.",
            "127.0.0.2",
            "[::1]",
            "192.168.0.1",
        ] {
            assert_eq!(resolver.is_private(host), Some(true), "{host}");
        }
        for host in ["8.8.8.8", "[2606:4700::1]", "100.64.0.1"] {
            assert_eq!(resolver.is_private(host), Some(false), "{host}");
        }
        for (name, own) in [
            ("own.example", true),
            ("mixed.example", false),
            ("public.example", false),
        ] {
            assert_eq!(resolver.is_private(name), None, "{name}");
            resolve(&resolver, &format!("https://{name}/")).unwrap();
            assert_eq!(resolver.is_private(name), Some(own), "{name}");
            let in_capitals = name.to_ascii_uppercase();
            assert_eq!(resolver.is_private(&in_capitals), Some(own), "{name}");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }
}
