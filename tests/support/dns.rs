//! A DNS server that knows TXT records and nothing else (RFC 1035), over UDP.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What it does about a name; one that it does not know does not exist.
#[derive(Clone, Debug)]
pub enum Record {
    /// These texts, each in pieces of at most 255 bytes.
    Txt(Vec<String>),
    /// A name without TXT records.
    Empty,
    /// SERVFAIL.
    Fails,
}

/// A running server, on a free port of 127.0.0.1.
pub struct DnsServer {
    address: SocketAddr,
    known: Arc<Mutex<Known>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Known {
    records: HashMap<String, Record>,
    asked: Vec<String>,
    closing: bool,
}

impl DnsServer {
    /// Starts one that knows no name.
    pub fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let address = socket.local_addr().expect("an address");
        // So often it looks whether it is to end.
        let poll = Some(Duration::from_millis(20));
        socket.set_read_timeout(poll).expect("a time-out");
        let known = Arc::new(Mutex::new(Known::default()));
        let thread = thread::spawn({
            let known = Arc::clone(&known);
            move || serve(&socket, &known)
        });
        DnsServer {
            address,
            known,
            thread: Some(thread),
        }
    }

    /// `<address>:<port>`
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// What it says of a name from now on.
    pub fn put(&self, name: &str, record: Record) {
        lock(&self.known).records.insert(name.into(), record);
    }

    /// The names that it was asked for, each as often as it was.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.known).asked.clone()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        lock(&self.known).closing = true;
        let sound = self.thread.take().is_none_or(|it| it.join().is_ok());
        assert!(sound || thread::panicking(), "the DNS server panicked");
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn serve(socket: &UdpSocket, known: &Mutex<Known>) {
    let mut buffer = [0; 4096];
    loop {
        let received = socket.recv_from(&mut buffer);
        let mut known = lock(known);
        if known.closing {
            return;
        }
        let Ok((length, from)) = received else {
            continue;
        };
        let query = &buffer[..length];
        let (name, question) = question(query);
        known.asked.push(name.clone());
        let record = known.records.get(&name).cloned();
        let _ = socket.send_to(&answer(query, question, record), from);
    }
}

/// The name that is asked for, in lower case, and the bytes of the question.
fn question(query: &[u8]) -> (String, &[u8]) {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let length = usize::from(query[at]);
        let label = &query[at + 1..at + 1 + length];
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += 1 + length;
    }
    // The root, the type and the class.
    (labels.join("."), &query[12..at + 5])
}

fn answer(query: &[u8], question: &[u8], record: Option<Record>) -> Vec<u8> {
    let (code, texts) = match record {
        None => (3, Vec::new()),
        Some(Record::Fails) => (2, Vec::new()),
        Some(Record::Empty) => (0, Vec::new()),
        Some(Record::Txt(texts)) => (0, texts),
    };
    let mut answer = query[..2].to_vec();
    // A response, recursion desired and available; one question, so many answers.
    answer.extend([0x81, 0x80 | code, 0, 1, 0, texts.len() as u8, 0, 0, 0, 0]);
    answer.extend(question);
    for text in texts {
        let data: Vec<u8> = text
            .as_bytes()
            .chunks(255)
            .flat_map(|piece| std::iter::once(piece.len() as u8).chain(piece.iter().copied()))
            .collect();
        // The name of the question, TXT, IN, kept for a minute.
        answer.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60]);
        answer.extend((data.len() as u16).to_be_bytes());
        answer.extend(data);
    }
    answer
}
