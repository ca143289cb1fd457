//! The way of the bytes: one thread for each direction of a connection.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use super::exec::{Command, Outcome};
use super::resp;
use super::rules::Action;
use super::state::{Cut, Link, Shared, Taken, Towards};

const BLOCK: usize = 64 * 1024;

pub fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        let mut state = shared.lock();
        if state.closing {
            return;
        }
        let Ok(client) = client else { continue };
        if state.refusing {
            state.counts.refused += 1;
            continue;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", state.upstream)) else {
            state.counts.unreachable += 1;
            continue;
        };
        let number = state.counts.connections;
        state.counts.connections += 1;
        let cut = state.chooser.as_mut().and_then(|choose| choose(number));
        for stream in [&client, &server] {
            stream.set_nodelay(true).expect("an option of a socket");
        }
        let (client, server) = (Arc::new(client), Arc::new(server));
        let link = Link {
            client: Arc::clone(&client),
            server: Arc::clone(&server),
            doomed: cut.is_some(),
            cut: false,
            ended: false,
            threads_ended: 0,
            awaited: Default::default(),
        };
        state.connections.insert(number, link);
        let way = |from: &Arc<TcpStream>, to: &Arc<TcpStream>, towards| Way {
            shared: Arc::clone(shared),
            number,
            from: Arc::clone(from),
            to: Arc::clone(to),
            left: left(cut, towards),
        };
        let requests = way(&client, &server, Towards::Server);
        let replies = way(&server, &client, Towards::Client);
        state.threads.retain(|thread| !thread.is_finished());
        state.threads.push(spawn(format!("requests-{number}"), || {
            requests.carry_requests()
        }));
        state.threads.push(spawn(format!("replies-{number}"), || {
            replies.carry_replies()
        }));
        drop(state);
        shared.changed.notify_all();
    }
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::Builder::new()
        .name(name)
        .spawn(work)
        .expect("a thread")
}

/// How many bytes may go in this direction.
fn left(cut: Option<Cut>, towards: Towards) -> u64 {
    cut.filter(|cut| cut.towards == towards)
        .map_or(u64::MAX, |cut| cut.after)
}

/// One direction of a connection.
struct Way {
    shared: Arc<Shared>,
    number: usize,
    from: Arc<TcpStream>,
    to: Arc<TcpStream>,
    /// How many bytes may still be handed on.
    left: u64,
}

/// What the client sends, as far as it has not been handed on.
#[derive(Default)]
struct Requests {
    bytes: Vec<u8>,
    /// The commands that are complete: where each ends, and the EXEC that it is.
    complete: Vec<(usize, Option<Taken>)>,
    /// What has come since MULTI.
    transaction: Option<Vec<Command>>,
}

impl Requests {
    /// The length of the command that begins there; where it is an EXEC, also what it is to execute.
    fn next_command(&mut self, at: usize) -> Option<(usize, Option<Vec<Command>>)> {
        let (length, command) = resp::command(&self.bytes[at..])?;
        let name = command[0].to_ascii_uppercase();
        let executed = match (name.as_slice(), &mut self.transaction) {
            (b"MULTI", transaction) => {
                *transaction = Some(Vec::new());
                None
            }
            (b"EXEC" | b"DISCARD", transaction) => transaction.take().filter(|_| name == b"EXEC"),
            (_, Some(transaction)) => {
                transaction.push(command);
                None
            }
            _ => None,
        };
        Some((length, executed))
    }
}

impl Way {
    /// From the client to the server.
    fn carry_requests(mut self) {
        let mut requests = Requests::default();
        let mut block = vec![0; BLOCK];
        while let Ok(1..) = read(&self.from, &mut block, &mut requests.bytes) {
            if self.carry_commands(&mut requests).is_err() {
                break;
            }
        }
        // What is held on its way to the client has nobody any more who waits for it.
        self.shared.change(|state| {
            if let Some(link) = state.connections.get_mut(&self.number) {
                link.cut = true;
            }
        });
        self.shared.wait_for_answers(self.number);
        let _ = self.to.shutdown(Shutdown::Both);
        self.shared.change(|state| state.thread_ended(self.number));
    }

    fn carry_commands(&mut self, requests: &mut Requests) -> io::Result<()> {
        let mut at = 0;
        while let Some((length, transaction)) = requests.next_command(at) {
            let start = at;
            at += length;
            let taken = transaction.map(|it| self.shared.lock().take(self.number, it));
            let action = taken.and_then(|taken| taken.by).map(|(_, action)| action);
            if let (Some(taken), Some(Action::CutBefore | Action::Delay)) = (taken, action) {
                self.hand_on(requests, start)?;
                at = length;
                if action == Some(Action::CutBefore) {
                    self.cut(taken);
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                self.shared.hold(self.number, taken, false);
            }
            requests.complete.push((at, taken));
            if let (Some(taken), Some(Action::PauseAfter)) = (taken, action) {
                self.hand_on(requests, at)?;
                at = 0;
                self.shared.wait_for_answers(self.number);
                self.shared.hold(self.number, taken, true);
            }
        }
        self.hand_on(requests, at)
    }

    /// Cuts the connection, as the rule says that has taken this EXEC.
    fn cut(&self, taken: Taken) {
        self.shared.change(|state| {
            state.cut(self.number);
            state.caught(taken);
        });
    }

    /// Hands on the first bytes, which are complete commands; the replies to them are awaited from now on.
    fn hand_on(&mut self, requests: &mut Requests, length: usize) -> io::Result<()> {
        let number = self.number;
        let left = self.left;
        self.shared.change(|state| {
            for (end, taken) in requests.complete.drain(..) {
                if end as u64 > left {
                    continue;
                }
                if let Some(taken) = taken {
                    state.records[taken.exec].outcome = Outcome::Unanswered;
                }
                if let Some(link) = state.connections.get_mut(&number) {
                    link.awaited.push_back(taken);
                }
            }
        });
        let result = self.write(&requests.bytes[..length]);
        requests.bytes.drain(..length);
        result
    }

    /// From the server to the client.
    fn carry_replies(mut self) {
        let (mut bytes, mut block) = (Vec::new(), vec![0; BLOCK]);
        while let Ok(1..) = read(&self.from, &mut block, &mut bytes) {
            self.carry_complete_replies(&mut bytes);
        }
        let _ = self.write(&bytes);
        let _ = self.to.shutdown(Shutdown::Both);
        self.shared.change(|state| {
            if let Some(link) = state.connections.get_mut(&self.number) {
                link.ended = true;
            }
            state.thread_ended(self.number);
        });
    }

    /// Goes on when the client is gone, for the replies to the EXECs are of interest all the same.
    fn carry_complete_replies(&mut self, bytes: &mut Vec<u8>) {
        let (mut at, mut handed_on) = (0, 0);
        let mut answered = Vec::new();
        while let Some(length) = resp::reply(&bytes[at..]) {
            let taken = self.shared.change(|state| {
                let link = state.connections.get_mut(&self.number)?;
                let taken = link.awaited.pop_front()??;
                state.records[taken.exec].outcome = resp::outcome(&bytes[at..at + length]);
                Some(taken)
            });
            let action = taken.and_then(|taken| taken.by).map(|(_, action)| action);
            if let (Some(taken), Some(Action::CutAfter | Action::HoldReply)) = (taken, action) {
                self.hand_back(&bytes[handed_on..at], &mut answered);
                handed_on = at;
                match action {
                    Some(Action::HoldReply) => self.shared.hold(self.number, taken, true),
                    _ => self.cut(taken),
                }
            }
            at += length;
            answered.extend(taken);
        }
        self.hand_back(&bytes[handed_on..at], &mut answered);
        bytes.drain(..at);
    }

    /// Hands on replies, those to these EXECs among them.
    fn hand_back(&mut self, replies: &[u8], answered: &mut Vec<Taken>) {
        let cut = self.shared.lock().is_cut(self.number);
        let written = self.write(replies).is_ok() && !cut;
        self.shared.change(|state| {
            for taken in answered.drain(..) {
                state.records[taken.exec].handed_on = written;
            }
        });
    }

    /// Writes as much as may be written on this way; cuts the connection where that is not all.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let allowed = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        self.left -= allowed as u64;
        (&*self.to).write_all(&bytes[..allowed])?;
        if allowed == bytes.len() {
            return Ok(());
        }
        self.shared.change(|state| {
            if state.cut(self.number) {
                state.counts.cut_bytes += 1;
            }
        });
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

fn read(mut from: &TcpStream, block: &mut [u8], bytes: &mut Vec<u8>) -> io::Result<usize> {
    let count = from.read(block)?;
    bytes.extend_from_slice(&block[..count]);
    Ok(count)
}
