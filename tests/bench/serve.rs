//! The server of a set, a process of its own: each account's PDS, and the directory of their DID documents.
//!
//! Plain HTTP/1.1 that keeps connections, one thread each. It does as little as it can: all answers are made before the first
//! request, a repo is written in one system call from memory. It takes a request for what its path says and reads nothing else in it.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::data::{self, Account, Store};
use crate::sets;

/// What is to be served.
struct Site {
    /// The bodies of all repos.
    bytes: Vec<u8>,
    accounts: HashMap<String, Answers>,
    delay: Duration,
}

/// The answers about one account.
struct Answers {
    document: Vec<u8>,
    /// The head of the answer, and what in the CAR is the account's own.
    repo: Vec<u8>,
    body: Range<usize>,
}

/// `serve <set>`: prints its port when it is ready, and serves until it is killed.
pub fn main(arguments: &[String]) -> ExitCode {
    let set = sets::all()
        .into_iter()
        .find(|set| arguments.first().is_some_and(|name| name == set.name));
    let Some(set) = set else {
        eprintln!("serve: the name of a set is expected");
        return ExitCode::from(2);
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let site = Arc::new(site(&set, port));
    println!("{port}");
    for stream in listener.incoming() {
        let site = Arc::clone(&site);
        let serve = move || {
            // The client has gone: so has the reason to serve it.
            let _ = stream.and_then(|stream| connection(&stream, &site));
        };
        let thread = thread::Builder::new().stack_size(128 * 1024).spawn(serve);
        thread.expect("a thread for a connection");
    }
    ExitCode::SUCCESS
}

fn site(set: &sets::Set, port: u16) -> Site {
    let store = Store::open();
    let bodies = store.bodies(set.repos);
    let mut bytes = fs::read(store.path(set.repos)).expect("the bodies");
    if set.shuffled {
        bytes = data::shuffle(&bytes, &bodies);
    }
    let url = format!("http://127.0.0.1:{port}");
    let accounts = (0..data::count(set)).map(|number| {
        let account = Account::new(number);
        let body = &bodies[number % bodies.len()];
        let head = account.head(body.root);
        let length = head.len() + body.place.len();
        let document = account.document(&url);
        let mut answer = answer("application/did+ld+json", document.len());
        answer.extend_from_slice(document.as_bytes());
        let mut repo = self::answer("application/vnd.ipld.car", length);
        repo.extend_from_slice(&head);
        let answers = Answers {
            document: answer,
            repo,
            body: body.place.clone(),
        };
        (account.did, answers)
    });
    Site {
        accounts: accounts.collect(),
        bytes,
        delay: Duration::from_millis(set.delay_ms),
    }
}

fn answer(kind: &str, length: usize) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n")
        .into_bytes()
}

/// Answers until the client has gone.
fn connection(mut stream: &TcpStream, site: &Site) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(2048, stream);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let target = line.split(' ').nth(1).unwrap_or_default();
        let did = target.rsplit(['/', '=']).next().unwrap_or_default();
        let answers = site.accounts.get(&did.replace("%3A", ":"));
        let is_repo = target.starts_with("/xrpc/");
        // The rest of the head.
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
        }
        thread::sleep(site.delay);
        match answers {
            Some(answers) if is_repo => {
                write_both(stream, &answers.repo, &site.bytes[answers.body.clone()])?;
            }
            Some(answers) => stream.write_all(&answers.document)?,
            None => stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
        }
    }
}

/// Writes two pieces with as few system calls as possible.
fn write_both(mut stream: &TcpStream, head: &[u8], body: &[u8]) -> io::Result<()> {
    let (mut head, mut body) = (head, body);
    while !head.is_empty() {
        let written = stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)])?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let of_head = written.min(head.len());
        (head, body) = (&head[of_head..], &body[written - of_head..]);
    }
    stream.write_all(body)
}
