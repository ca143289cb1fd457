//! Host names to addresses, on a few named threads.
//!
//! getaddrinfo blocks and cannot be stopped, so it must not run on a worker, whose time-outs have to hold; and ureq's own resolver
//! starts an unnamed thread for each look-up. So look-ups are asked of a small pool and waited for as long as the request's own
//! time-out allows. An address literal needs no look-up. The [`AddressPolicy`] is applied to the answer, which is what ureq
//! then connects to. The threads end when the last [`Resolver`] is dropped.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver as UreqResolver};
use ureq::unversioned::transport::NextTimeout;

use super::policy::AddressPolicy;

/// One thread for so many workers: as many look-ups may hang at a time before others wait for them.
const WORKERS_PER_THREAD: usize = 8;
/// Threads of the pool, at least and at most.
const THREADS: (usize, usize) = (4, 32);
/// As many addresses as ureq takes.
const MAX_ADDRESSES: usize = 16;

struct Question {
    name: String,
    /// Until when the answer is waited for.
    deadline: Option<Instant>,
    answer: Sender<io::Result<Vec<IpAddr>>>,
}

/// Asks the pool; one for each agent.
#[derive(Clone)]
pub struct Resolver {
    questions: Sender<Question>,
    /// `None`: whatever the name resolves to, for addresses that only the operator chooses.
    policy: Option<AddressPolicy>,
}

impl Resolver {
    /// Starts the pool, for this many workers.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(workers: usize) -> io::Result<(Self, Vec<JoinHandle<()>>)> {
        let (questions, receiver) = unbounded::<Question>();
        let threads = (0..(workers / WORKERS_PER_THREAD).clamp(THREADS.0, THREADS.1))
            .map(|n| {
                let receiver = receiver.clone();
                thread::Builder::new()
                    .name(format!("resolver-{n}"))
                    .spawn(move || answer_all(&receiver))
            })
            .collect::<io::Result<_>>()?;
        let resolver = Resolver {
            questions,
            policy: None,
        };
        Ok((resolver, threads))
    }

    /// The same pool, under a policy.
    pub fn under(&self, policy: AddressPolicy) -> Self {
        Resolver {
            policy: Some(policy),
            ..self.clone()
        }
    }

    fn look_up(&self, name: &str, timeout: NextTimeout) -> Result<Vec<IpAddr>, ureq::Error> {
        let limit = (!timeout.after.is_not_happening()).then(|| *timeout.after);
        let (answer, answered) = bounded(1);
        let question = Question {
            name: name.to_owned(),
            deadline: limit.map(|limit| Instant::now() + limit),
            answer,
        };
        let gone = || ureq::Error::Io(io::Error::other("the resolver has ended"));
        self.questions.send(question).map_err(|_| gone())?;
        let addresses = match limit {
            None => answered.recv().map_err(|_| gone())?,
            Some(limit) => answered.recv_timeout(limit).map_err(|e| match e {
                RecvTimeoutError::Timeout => ureq::Error::Timeout(timeout.reason),
                RecvTimeoutError::Disconnected => gone(),
            })?,
        }?;
        match self.policy {
            Some(policy) => policy
                .permitted(name, &addresses)
                .map_err(|refusal| ureq::Error::Other(Box::new(refusal))),
            None => Ok(addresses),
        }
    }
}

fn answer_all(questions: &Receiver<Question>) {
    for question in questions {
        // Names that hang must not keep the pool busy for those who have given up.
        if question
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
        {
            continue;
        }
        // The port does not matter to getaddrinfo.
        let answer = (question.name.as_str(), 0)
            .to_socket_addrs()
            .map(|addresses| addresses.map(|address| address.ip()).collect());
        // Whoever asked may have run out of time.
        let _ = question.answer.send(answer);
    }
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
        // In a URI an IPv6 literal stands in brackets.
        let literal = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>();
        let addresses = match literal {
            // The URL has been checked before the request.
            Ok(address) => vec![address],
            Err(_) => self.look_up(host, timeout)?,
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
    use super::*;

    fn timeout() -> NextTimeout {
        NextTimeout {
            after: std::time::Duration::from_secs(60).into(),
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
        let (resolver, threads) = Resolver::start(1).unwrap();
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
}
