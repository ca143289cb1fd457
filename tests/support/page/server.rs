//! Serves the page with the headers of the program, and a status that the test sets.
//!
//! The page is reachable at `/` and below any folder (`/a/`, `/b/`), as behind a proxy: so a test knows which tab has asked.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use serde_json::Value;

use super::files::FILES;

/// What the program sends with the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What is asked for `status.json` gets.
#[derive(Clone)]
pub enum Answer {
    /// This status.
    Status(Value),
    /// Nothing: the connection is closed, as where no process listens.
    Nothing,
    /// Another status line and body.
    Other(&'static str, &'static str),
}

struct Shared {
    answer: Answer,
    /// The paths of all requests.
    asked: Vec<String>,
    ended: bool,
}

/// A running server; ends with its owner.
pub struct PageServer {
    shared: Arc<Mutex<Shared>>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

impl PageServer {
    /// On a free port of 127.0.0.1.
    pub fn start(status: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let shared = Arc::new(Mutex::new(Shared {
            answer: Answer::Status(status),
            asked: Vec::new(),
            ended: false,
        }));
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Self {
            shared,
            address,
            acceptor: Some(acceptor),
        }
    }

    /// `http://127.0.0.1:<port>/`
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// From now on this is answered.
    pub fn answer(&self, answer: Answer) {
        lock(&self.shared).answer = answer;
    }

    /// How often the status was asked for below a folder (`a`), or at the top (empty).
    pub fn asked(&self, folder: &str) -> usize {
        let path = if folder.is_empty() {
            "/status.json".to_owned()
        } else {
            format!("/{folder}/status.json")
        };
        let shared = lock(&self.shared);
        shared.asked.iter().filter(|asked| **asked == path).count()
    }
}

impl Drop for PageServer {
    fn drop(&mut self) {
        lock(&self.shared).ended = true;
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Mutex<Shared>>) {
    for stream in listener.incoming() {
        if lock(shared).ended {
            return;
        }
        let shared = Arc::clone(shared);
        if let Ok(stream) = stream {
            // The browser ends what it has opened.
            thread::spawn(move || serve(&stream, &shared));
        }
    }
}

fn serve(mut stream: &TcpStream, shared: &Mutex<Shared>) -> io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let Some(request) = lines.next().transpose()? else {
        return Ok(());
    };
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let name = path
        .rfind('/')
        .map_or("", |slash| &path[slash..])
        .to_owned();
    let answer = {
        let mut shared = lock(shared);
        shared.asked.push(path);
        shared.answer.clone()
    };
    if name == "/status.json" {
        return match answer {
            Answer::Status(status) => send(
                &mut stream,
                "200 OK",
                "application/json",
                &status.to_string(),
            ),
            Answer::Other(line, body) => send(&mut stream, line, "text/plain", body),
            Answer::Nothing => Ok(()),
        };
    }
    match FILES.iter().find(|(path, ..)| *path == name) {
        Some((_, kind, body)) => send(&mut stream, "200 OK", kind, body),
        None => send(&mut stream, "404 Not Found", "text/plain", ""),
    }
}

fn send(stream: &mut impl Write, line: &str, kind: &str, body: &str) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {line}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nContent-Security-Policy: {POLICY}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
