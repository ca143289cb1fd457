//! All connections, on one thread that waits for whichever is ready first.
//!
//! There are at most [`MOST`], and for all together at most [`MOST_KEPT`] bytes of answers are kept. One that is too many takes the place
//! of the oldest that has not said yet what it wants, or else of the oldest; those that take too long are given up. A few are
//! accepted at a time, so that however many come at once, each has its turn before it is the oldest. Pinned by the test here and by
//! `tests/http_clients.rs`.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};

use super::connection::Connection;
use super::routes::Desk;
use crate::status::{Phase, Slot};

/// Connections at a time.
const MOST: usize = 64;
/// Accepted at a time.
const ACCEPTED_AT_A_TIME: usize = 16;
/// Bytes of answers that are made and not taken yet.
const MOST_KEPT: usize = 16 << 20;
/// When it is tried again to accept after that failed, mostly for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
const FIRST: usize = 2;

/// The listening socket and whoever has come.
pub struct Connections {
    poll: Poll,
    listener: TcpListener,
    address: SocketAddr,
    waker: Arc<Waker>,
    ends: Arc<AtomicBool>,
    desk: Desk,
    /// In the order in which they came.
    open: BTreeMap<usize, Connection>,
    next: usize,
    /// When somebody may be accepted, if somebody waits.
    accept: Option<Instant>,
}

impl Connections {
    /// Listens; nobody is accepted before [`Connections::serve`].
    ///
    /// # Errors
    /// When the address is taken or is none of this machine.
    pub fn listen(address: SocketAddr, desk: Desk, ends: &Arc<AtomicBool>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(address)?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Connections {
            waker: Arc::new(Waker::new(poll.registry(), WAKER)?),
            address: listener.local_addr()?,
            poll,
            listener,
            ends: Arc::clone(ends),
            desk,
            open: BTreeMap::new(),
            next: FIRST,
            accept: None,
        })
    }

    /// Where it listens, with the port that was free.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Wakes the thread that serves.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Serves until it is told to end.
    pub fn serve(mut self, slot: &Slot) {
        let mut events = Events::with_capacity(2 * MOST);
        let mut until = self.desk.tick(Instant::now());
        loop {
            let untils = self.open.values().map(|open| open.until);
            let until_next = untils.chain(self.accept).fold(until, Instant::min);
            let wait = until_next.saturating_duration_since(Instant::now());
            slot.enter(Phase::Wait);
            match self.poll.poll(&mut events, Some(wait)) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                    log::error!("the HTTP server ends, for it cannot wait: {e}");
                    return;
                }
                _ => {}
            }
            if self.ends.load(Relaxed) {
                return;
            }
            slot.enter(Phase::Serve);
            let now = Instant::now();
            // An event that was handled and an interrupted wait leave none.
            for token in events.iter().map(|event| event.token()) {
                match token {
                    LISTENER => self.accept = Some(now),
                    WAKER => {}
                    Token(number) => self.go_on(number, now),
                }
            }
            self.accept(now);
            self.open.retain(|_, open| now < open.until);
            until = self.desk.tick(now);
        }
    }

    fn accept(&mut self, now: Instant) {
        if self.accept.is_none_or(|from| now < from) {
            return;
        }
        for _ in 0..ACCEPTED_AT_A_TIME {
            match self.listener.accept() {
                Ok((mut stream, _)) => {
                    self.make_room();
                    let number = self.next;
                    self.next += 1;
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    let registry = self.poll.registry();
                    if registry
                        .register(&mut stream, Token(number), interest)
                        .is_ok()
                    {
                        self.open.insert(number, Connection::new(stream, now));
                        self.go_on(number, now);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.accept = None;
                    return;
                }
                // The client has gone again meanwhile.
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                    ) => {}
                Err(e) => {
                    log::debug!("a connection cannot be accepted: {e}");
                    self.accept = Some(now + ACCEPT_AGAIN);
                    return;
                }
            }
        }
    }

    fn go_on(&mut self, number: usize, now: Instant) {
        let Some(connection) = self.open.get_mut(&number) else {
            return;
        };
        if !connection.go_on(now, &mut self.desk) {
            self.open.remove(&number);
            return;
        }
        self.forget_answers();
    }

    /// Gives up the oldest that have an answer to take, until the answers of all are within the bound.
    fn forget_answers(&mut self) {
        let kept = self
            .open
            .iter()
            .map(|(number, open)| (*number, open.kept()));
        let kept: Vec<_> = kept.filter(|(_, bytes)| *bytes > 0).collect();
        let mut all: usize = kept.iter().map(|(_, bytes)| bytes).sum();
        for (number, bytes) in kept {
            if all <= MOST_KEPT {
                return;
            }
            self.open.remove(&number);
            all -= bytes;
        }
    }

    fn make_room(&mut self) {
        if self.open.len() < MOST {
            return;
        }
        let mut asking = self.open.iter().filter(|(_, open)| open.is_asking());
        let oldest = asking.next().or_else(|| self.open.iter().next());
        if let Some(&oldest) = oldest.map(|(number, _)| number) {
            self.open.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use redis::io::tcp::socket2::SockRef;

    use super::*;
    use crate::cli::Cli;
    use crate::config::Config;
    use crate::http::Watched;
    use crate::shutdown::Shutdown;

    /// Connections that nobody serves but the test.
    fn connections() -> Connections {
        let cli = Cli {
            consumer: Some("one".to_owned()),
            ..Cli::default()
        };
        let config = Arc::new(Config::from_cli(&cli).unwrap());
        let watched = Watched::new(&config, &Shutdown::default());
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let desk = Desk::new(&watched, address.ip(), Instant::now());
        Connections::listen(address, desk, &Arc::default()).unwrap()
    }

    /// A client that does not read comes, and is given an answer of so many bytes.
    fn answer(connections: &mut Connections, bytes: usize) -> TcpStream {
        let client = TcpStream::connect(connections.address()).unwrap();
        // Nothing but a little of the answer can leave the program.
        SockRef::from(&client).set_recv_buffer_size(4096).unwrap();
        let stream = loop {
            match connections.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
            }
        };
        SockRef::from(&stream).set_send_buffer_size(4096).unwrap();
        let now = Instant::now();
        let number = connections.next;
        connections.next += 1;
        let connection = Connection::answering(stream, now, vec![b'a'; bytes]);
        connections.open.insert(number, connection);
        connections.go_on(number, now);
        client
    }

    #[test]
    fn answers_that_nobody_takes_are_kept_up_to_the_bound_and_the_oldest_go() {
        const MIB: usize = 1 << 20;
        let mut connections = connections();
        let kept = |connections: &Connections| {
            let kept = connections.open.values().map(|open| open.kept() / MIB);
            kept.collect::<Vec<_>>()
        };
        let mut deaf: Vec<_> = [1, 1, 1, 13]
            .map(|mib| answer(&mut connections, mib * MIB))
            .into();
        assert_eq!(kept(&connections), [1, 1, 1, 13], "as much as may be");
        // One answer can be as large as several that came before it.
        deaf.push(answer(&mut connections, 3 * MIB));
        assert_eq!(kept(&connections), [13, 3]);
        for _ in 0..20 {
            deaf.push(answer(&mut connections, 4 * MIB));
            assert!(kept(&connections).iter().sum::<usize>() <= MOST_KEPT / MIB);
        }
        assert_eq!(kept(&connections), [4; 4]);
        // Who asks for nothing keeps nothing, and stays.
        let stays = connections.open.len();
        deaf.push(answer(&mut connections, 0));
        assert_eq!(connections.open.len(), stays + 1);
    }
}
