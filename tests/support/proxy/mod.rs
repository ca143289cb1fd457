//! A TCP proxy between the program and a Redis server, which sees each transaction and fails on demand.
//!
//! ```text
//! let proxy = Proxy::start(redis.port());
//! let program = Backfiller::builder(&redis, &server).env("REDIS_URL", proxy.url()).start();
//! let last = proxy.once(Action::HoldReply, Exec::is_last_chunk);
//! last.wait(1);                                   // executed, and the program does not know
//! program.kill();
//! ```
//!
//! It is transparent but for three things that a test may ask of it at any time:
//!
//! - A **rule** ([`Proxy::rule`], [`Proxy::once`]) takes the EXECs for which its closure holds; what it does with them says
//!   [`Action`]. The oldest rule that wants an EXEC has it. The handle counts ([`Rule::count`]), waits ([`Rule::wait`]) and lets go
//!   on ([`Rule::release`]); when it is dropped, the rule takes no more, and what it holds goes on.
//! - **Connections**: all cut at once ([`Proxy::cut_all`]), new ones turned away ([`Proxy::refuse`]), led to another server
//!   ([`Proxy::set_upstream`]), or each cut after a number of bytes ([`Proxy::cut_bytes`], [`random_cuts`]).
//! - A **record** of each EXEC that came by ([`Proxy::records`]): of which message it is, on which connection it came, what the
//!   server replied, and whether that reply got through.
//!
//! The commands of a transaction go on to the server as they come, for they do nothing without their EXEC; so the EXEC alone is
//! held or cut off, and what came behind it in the same write waits with it. A connection that is cut towards the client stays
//! open towards the server until each EXEC that was sent has been answered, so that each record says what became of its EXEC.
//!
//! Which instance it is that a connection belongs to, the proxy cannot know: a test with several of them gives each its own.
//! Plain threads, two per connection; none of them looks again and again, all wait to be woken. They end with the [`Proxy`], also
//! when the test panics.

mod connection;
mod exec;
mod resp;
mod rules;
mod state;

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::generator::Random;

#[allow(
    unused_imports,
    reason = "not every test crate looks at all of a record"
)]
pub use exec::{Exec, Kind, Outcome, Record};
#[allow(unused_imports, reason = "not every test crate names the type")]
pub use rules::{Action, Rule};
#[allow(unused_imports, reason = "not every test crate cuts after bytes")]
pub use state::{Counts, Cut, Towards};

use state::{Shared, State};

/// A running proxy.
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy on a free port of 127.0.0.1, to the server on another one.
    pub fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let shared = Arc::new(Shared::new(State::new(upstream)));
        let acceptor = thread::Builder::new()
            .name("proxy".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || connection::accept(&listener, &shared)
            })
            .expect("a thread");
        Self {
            shared,
            address,
            acceptor: Some(acceptor),
        }
    }

    /// `redis://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Takes each EXEC for which the closure holds. The closure must not call the proxy.
    #[must_use = "a rule ends with its handle"]
    pub fn rule(&self, action: Action, wanted: impl FnMut(&Exec) -> bool + Send + 'static) -> Rule {
        Rule::add(&self.shared, action, None, Box::new(wanted))
    }

    /// Takes the first EXEC for which the closure holds.
    #[must_use = "a rule ends with its handle"]
    pub fn once(&self, action: Action, wanted: impl FnMut(&Exec) -> bool + Send + 'static) -> Rule {
        Rule::add(&self.shared, action, Some(1), Box::new(wanted))
    }

    /// All EXECs so far, in the order of their arrival.
    pub fn records(&self) -> Vec<Record> {
        self.shared.lock().records.clone()
    }

    /// How many of the EXECs so far are such.
    pub fn count(&self, wanted: impl Fn(&Record) -> bool) -> usize {
        let state = self.shared.lock();
        state.records.iter().filter(|record| wanted(record)).count()
    }

    /// Waits until that many EXECs have come by that are such.
    #[track_caller]
    pub fn wait(&self, what: &str, count: usize, wanted: impl Fn(&Record) -> bool) {
        self.shared.wait_until(what, |state| {
            state.records.iter().filter(|record| wanted(record)).count() >= count
        });
    }

    /// What happened to the connections so far.
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts
    }

    /// Waits until that many connections have been accepted since the start.
    #[track_caller]
    pub fn wait_for_connections(&self, count: usize) {
        self.shared
            .wait_until(&format!("{count} connections were made"), |state| {
                state.counts.connections >= count
            });
    }

    /// Cuts all connections. An EXEC that [`Action::Delay`] holds stays on its way to the server.
    pub fn cut_all(&self) {
        let mut state = self.shared.lock();
        let all: Vec<_> = state.connections.keys().copied().collect();
        all.into_iter().for_each(|number| _ = state.cut(number));
        self.shared.changed.notify_all();
    }

    /// Cuts all connections but those on which the rule holds an EXEC.
    pub fn cut_others(&self, rule: &Rule) {
        let kept = rule.connections();
        let mut state = self.shared.lock();
        let mut others: Vec<_> = state.connections.keys().copied().collect();
        others.retain(|number| !kept.contains(number));
        others.into_iter().for_each(|number| _ = state.cut(number));
        self.shared.changed.notify_all();
    }

    /// Whether new connections are closed as soon as they are made.
    pub fn refuse(&self, refuse: bool) {
        self.shared.lock().refusing = refuse;
    }

    /// Leads new connections to the server on another port. Those that exist stay where they are.
    pub fn set_upstream(&self, port: u16) {
        self.shared.lock().upstream = port;
    }

    /// Asks the closure for each new connection, by its number, whether and where it is to be cut. It must not call the proxy.
    pub fn cut_bytes(&self, chooser: impl FnMut(usize) -> Option<Cut> + Send + 'static) {
        self.shared.lock().chooser = Some(Box::new(chooser));
    }

    /// New connections are not cut after a number of bytes any more; those that were to be are cut now.
    pub fn no_more_cut_bytes(&self) {
        let mut state = self.shared.lock();
        state.chooser = None;
        let doomed = state.connections.iter().filter(|(_, it)| it.doomed);
        let doomed: Vec<_> = doomed.map(|(number, _)| *number).collect();
        doomed.into_iter().for_each(|number| _ = state.cut(number));
        self.shared.changed.notify_all();
    }
}

/// Cuts in both directions, for [`Proxy::cut_bytes`]: after a number of bytes of so many binary digits, each equally frequent.
/// A handshake is over after some ten digits; a full chunk has eighteen.
pub fn random_cuts(
    seed: u64,
    digits: Range<u32>,
) -> impl FnMut(usize) -> Option<Cut> + Send + 'static {
    let mut random = Random::new(seed);
    move |_| {
        let digits = u64::from(digits.start) + random.below(digits.len() as u64);
        let lowest = 1 << (digits - 1);
        Some(Cut {
            after: lowest + random.below(lowest),
            towards: match random.chance(50) {
                true => Towards::Server,
                false => Towards::Client,
            },
        })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.closing = true;
            for connection in state.connections.values() {
                let _ = connection.client.shutdown(Shutdown::Both);
                let _ = connection.server.shutdown(Shutdown::Both);
            }
        }
        self.shared.changed.notify_all();
        let acceptor = self.acceptor.take().expect("it was started");
        while !acceptor.is_finished() {
            // One more connection, so that accept returns and sees that the proxy is closing.
            let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(100));
        }
        let mut sound = acceptor.join().is_ok();
        let threads = std::mem::take(&mut self.shared.lock().threads);
        for thread in threads {
            sound &= thread.join().is_ok();
        }
        assert!(
            sound || thread::panicking(),
            "a thread of the proxy panicked"
        );
    }
}
