//! Plays a [`Case`] over plain TCP.
//!
//! A listener serves one connection at a time: the program's one worker is one client, and never has two connections open to
//! a server.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::super::fixture_server::GET_REPO;
use super::super::generator::Repo;
use super::super::hostile::outcomes::DeadEnd;
use super::{Case, Scene, Step};

/// How much is sent at once where there is no end.
const PORTION: usize = 64 * 1024;

/// A running case. It ends when dropped, whatever its script is waiting for.
pub struct Adversary {
    url: String,
    _dead_end: Option<DeadEnd>,
    addresses: Vec<SocketAddr>,
    connections: Arc<Mutex<Connections>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Connections {
    closing: bool,
    /// The one of each listener.
    open: Vec<Option<Arc<TcpStream>>>,
}

impl Adversary {
    /// Listens on free ports of 127.0.0.1, which makes each listener another host.
    pub fn start(case: &Arc<Case>, repo: &Arc<Repo>) -> Self {
        let listeners: Vec<_> = (0..case.listeners)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"))
            .collect();
        let addresses: Vec<_> = listeners
            .iter()
            .map(|listener| listener.local_addr().expect("an address"))
            .collect();
        let dead_end = listeners.is_empty().then(DeadEnd::new);
        let connections = Arc::new(Mutex::new(Connections {
            closing: false,
            open: vec![None; listeners.len()],
        }));
        let url_of = |place: usize| {
            let address = addresses[place % addresses.len()];
            format!("http://{address}{GET_REPO}?did={}", repo.did)
        };
        let threads = listeners
            .into_iter()
            .enumerate()
            .map(|(place, listener)| {
                let player = Player {
                    case: Arc::clone(case),
                    repo: Arc::clone(repo),
                    connections: Arc::clone(&connections),
                    own_url: url_of(place),
                    next_url: url_of(place + 1),
                    place,
                };
                thread::Builder::new()
                    .name(format!("adversary-{place}"))
                    .spawn(move || player.serve(&listener))
                    .expect("a thread")
            })
            .collect();
        let url = match &dead_end {
            Some(dead_end) => dead_end.url(),
            None if case.https => format!("https://{}", addresses[0]),
            None => format!("http://{}", addresses[0]),
        };
        Self {
            url,
            _dead_end: dead_end,
            addresses,
            connections,
            threads,
        }
    }

    /// `http://<address>:<port>` of the first listener, or https.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Adversary {
    fn drop(&mut self) {
        let open = {
            let mut connections = lock(&self.connections);
            connections.closing = true;
            connections.open.clone()
        };
        for stream in open.into_iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let mut sound = true;
        for (thread, address) in self.threads.drain(..).zip(&self.addresses) {
            while !thread.is_finished() {
                // One more connection, so that accept returns and sees that the server is closing.
                let _ = TcpStream::connect_timeout(address, Duration::from_millis(100));
            }
            sound &= thread.join().is_ok();
        }
        assert!(
            sound || thread::panicking(),
            "a thread of the adversary panicked"
        );
    }
}

fn lock(connections: &Mutex<Connections>) -> MutexGuard<'_, Connections> {
    connections
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// One listener's part in a case.
struct Player {
    case: Arc<Case>,
    repo: Arc<Repo>,
    connections: Arc<Mutex<Connections>>,
    own_url: String,
    next_url: String,
    place: usize,
}

impl Player {
    fn serve(&self, listener: &TcpListener) {
        let mut earlier = 0;
        for stream in listener.incoming() {
            let Ok(stream) = stream.map(Arc::new) else {
                continue;
            };
            let mut connections = lock(&self.connections);
            if connections.closing {
                return;
            }
            connections.open[self.place] = Some(Arc::clone(&stream));
            drop(connections);
            // The client may go away at any point; most cases drive it to that.
            let _ = self.converse(&stream, &mut earlier);
            // The last owner closes the socket.
            lock(&self.connections).open[self.place] = None;
        }
    }

    fn converse(&self, stream: &TcpStream, earlier: &mut usize) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut requests = BufReader::new(stream);
        loop {
            if self.case.listens {
                read_request(&mut requests)?;
            }
            let scene = Scene {
                own_url: self.own_url.clone(),
                next_url: self.next_url.clone(),
                place: self.place,
                earlier: *earlier,
                repo: &self.repo,
            };
            *earlier += 1;
            let steps = (self.case.script)(&scene);
            for step in &steps {
                perform(step, stream)?;
            }
            if !matches!(steps.last(), Some(Step::KeepAlive)) {
                return Ok(());
            }
        }
    }
}

fn perform(step: &Step, mut stream: &TcpStream) -> io::Result<()> {
    match step {
        Step::Send(bytes) => stream.write_all(bytes),
        Step::Forever(bytes) => {
            let portion = bytes.repeat(PORTION.div_ceil(bytes.len()));
            loop {
                stream.write_all(&portion)?;
            }
        }
        Step::Drip(bytes) => bytes.iter().try_for_each(|byte| {
            stream.write_all(&[*byte])?;
            wait(stream, Some(Duration::from_secs(1)))
        }),
        Step::Second => wait(stream, Some(Duration::from_secs(1))),
        Step::Silence => wait(stream, None),
        Step::Reset => reset_on_close(stream),
        Step::KeepAlive => Ok(()),
    }
}

/// Reads the head of a request; an error when the client has gone away. Only GET, so there is no body.
fn read_request(requests: &mut impl BufRead) -> io::Result<()> {
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if requests.take(65_536).read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Lets time pass; an error as soon as either side ends the connection.
fn wait(mut stream: &TcpStream, time: Option<Duration>) -> io::Result<()> {
    stream.set_read_timeout(time)?;
    let result = loop {
        // Without a request read before, it is still to come, and is no sign of anything.
        match stream.read(&mut [0; 4096]) {
            Ok(0) => break Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                break Ok(());
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => break Err(e),
        }
    };
    stream.set_read_timeout(None)?;
    result
}

/// SO_LINGER with zero seconds: closing sends RST and forgets what is not yet sent.
#[allow(unsafe_code, reason = "the standard library has no stable call for it")]
fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the descriptor is open, and the pointer and the length describe a `linger` that
    // outlives the call.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
