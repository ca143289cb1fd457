//! One connection: a request comes in, an answer goes out, and that is all. Nothing here waits; each state has an end in time and in
//! bytes.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::answer::{Answer, Body};
use super::request;
use super::routes::Desk;

/// How long a client may take to say what it wants.
const ASKING: Duration = Duration::from_secs(5);
/// How long it may take to read the answer.
const ANSWERING: Duration = Duration::from_secs(10);
/// How long it is read past what a client sends on behind its request: closing at once would take the answer from it.
const LEAVING: Duration = Duration::from_secs(1);
/// How many bytes of that.
const READ_PAST: usize = 64 << 10;
/// Bytes that are read at a time.
const PIECE: usize = 4 << 10;

/// A client.
pub struct Connection {
    /// Its socket.
    pub stream: TcpStream,
    /// When it is given up in this state.
    pub until: Instant,
    state: State,
}

enum State {
    /// The request, as far as it has come.
    Asking(Vec<u8>),
    Answering {
        head: Vec<u8>,
        body: Body,
        sent: usize,
    },
    /// The answer is out; so many bytes have come since.
    Leaving(usize),
}

impl Connection {
    /// Nothing has been said yet.
    pub fn new(stream: TcpStream, now: Instant) -> Self {
        Connection {
            stream,
            until: now + ASKING,
            state: State::Asking(Vec::new()),
        }
    }

    /// This answer is to be taken.
    #[cfg(test)]
    pub fn answering(stream: TcpStream, now: Instant, body: Vec<u8>) -> Self {
        Connection {
            stream,
            until: now + ANSWERING,
            state: State::Answering {
                head: Vec::new(),
                body: Body::Owned(body),
                sent: 0,
            },
        }
    }

    /// Whether it has not said yet what it wants.
    pub fn is_asking(&self) -> bool {
        matches!(self.state, State::Asking(_))
    }

    /// Bytes that are kept for it until it takes them.
    pub fn kept(&self) -> usize {
        match &self.state {
            State::Answering {
                body: Body::Owned(body),
                ..
            } => body.len(),
            _ => 0,
        }
    }

    /// Goes on as far as it can without waiting. Returns whether there is more to come.
    pub fn go_on(&mut self, now: Instant, desk: &mut Desk) -> bool {
        loop {
            let (next, time) = match &mut self.state {
                State::Asking(read) => match ask(&mut self.stream, read, desk) {
                    Ok(Some(answering)) => (answering, ANSWERING),
                    other => return is_unfinished(other),
                },
                State::Answering { head, body, sent } => {
                    match send(&mut self.stream, head, body, sent) {
                        Ok(true) => {
                            // A client that is gone already has no use for it.
                            let _ = self.stream.shutdown(Shutdown::Write);
                            (State::Leaving(0), LEAVING)
                        }
                        Ok(false) => return true,
                        Err(_) => return false,
                    }
                }
                State::Leaving(bytes) => return is_unfinished(leave(&mut self.stream, bytes)),
            };
            (self.state, self.until) = (next, now + time);
        }
    }
}

/// `None` is: nothing more has come for now; whatever else is the end.
fn is_unfinished<T>(result: io::Result<Option<T>>) -> bool {
    matches!(result, Ok(None))
}

/// Reads the request; when it is whole, the answer to it.
fn ask(stream: &mut TcpStream, read: &mut Vec<u8>, desk: &mut Desk) -> io::Result<Option<State>> {
    let mut piece = [0; PIECE];
    loop {
        let Some(count) = receive(stream, &mut piece)? else {
            return Ok(None);
        };
        read.extend_from_slice(&piece[..count]);
        let (answer, only_head) = match request::parse(read) {
            Ok(None) => continue,
            Ok(Some(request)) => (desk.answer(&request), request.method == "HEAD"),
            Err(answer) => (answer, false),
        };
        return Ok(Some(answering(answer, only_head)));
    }
}

fn answering(answer: Answer, only_head: bool) -> State {
    State::Answering {
        head: answer.head(),
        body: if only_head {
            Body::Borrowed(&[])
        } else {
            answer.body
        },
        sent: 0,
    }
}

/// Sends on; whether all is sent.
fn send(stream: &mut TcpStream, head: &[u8], body: &[u8], sent: &mut usize) -> io::Result<bool> {
    loop {
        let rest = match sent.checked_sub(head.len()) {
            None => &head[*sent..],
            Some(of_body) => &body[of_body..],
        };
        if rest.is_empty() {
            return Ok(true);
        }
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => *sent += count,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Reads past what still comes.
fn leave(stream: &mut TcpStream, bytes: &mut usize) -> io::Result<Option<()>> {
    let mut piece = [0; PIECE];
    while *bytes < READ_PAST {
        match receive(stream, &mut piece)? {
            None => return Ok(None),
            Some(count) => *bytes += count,
        }
    }
    Ok(Some(()))
}

/// Some bytes, or `None` where there are none for now. The end is an error here: nobody asks for anything behind it.
fn receive(stream: &mut TcpStream, piece: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match stream.read(piece) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => return Ok(Some(count)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
