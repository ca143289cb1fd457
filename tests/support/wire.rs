//! A fixture server seen from the wire: what the checks of it share.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use super::fixture_server::FixtureServer;
use super::wait::LIMIT;

pub const DID: &str = "did:plc:abcdefghijklmnopqrstuvwx";

/// A client that shows what really comes over the wire.
pub struct Client(pub BufReader<TcpStream>);

pub struct Answer {
    pub status: u16,
    pub head: String,
    /// The body as it was sent, chunk lengths and all.
    pub body: Vec<u8>,
    /// How the connection ended behind the body; `None` when it was not read to its end.
    pub end: Option<io::Result<()>>,
}

impl Client {
    pub fn connect(server: &FixtureServer) -> Self {
        let stream = TcpStream::connect(server.host()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Self(BufReader::new(stream))
    }

    pub fn send(&mut self, target: &str) {
        let request = format!("GET {target} HTTP/1.1\r\nHost: here\r\nX-Test: Yes\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    pub fn head(&mut self) -> Answer {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(
                self.0.read_line(&mut head).unwrap(),
                0,
                "the head is cut: {head}"
            );
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer {
            status,
            head,
            body: Vec::new(),
            end: None,
        }
    }

    /// An answer with a length.
    pub fn get(&mut self, target: &str) -> Answer {
        self.send(target);
        let mut answer = self.head();
        let length: usize = answer.header("content-length").unwrap().parse().unwrap();
        answer.body.resize(length, 0);
        self.0.read_exact(&mut answer.body).unwrap();
        answer
    }

    /// An answer up to the end of the connection.
    pub fn get_to_end(&mut self, target: &str) -> Answer {
        self.send(target);
        let mut answer = self.head();
        answer.end = Some(self.0.read_to_end(&mut answer.body).map(drop));
        answer
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn ended_well(&self) -> bool {
        matches!(self.end, Some(Ok(())))
    }
}

pub fn target(did: &str) -> String {
    format!("/xrpc/com.atproto.sync.getRepo?did={did}")
}

/// A server with a repository of 100,000 bytes.
pub fn server_with_repo() -> (FixtureServer, Vec<u8>) {
    let server = FixtureServer::start();
    let car: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
    server.put_repo(DID, car.clone());
    (server, car)
}
