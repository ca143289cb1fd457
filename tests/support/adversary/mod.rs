//! A server that means ill: a catalogue of ways to misbehave, each with the reasons that the contract allows for it, and the
//! raw TCP server that plays them.
//!
//! A [`Case`] is data: the bytes and pauses of its [`Step`]s go over the wire exactly as they stand. Its patience has no end:
//! where it waits, it waits until the client goes away, so whatever ends in time is ended by the program. [`storm`] sends the
//! program through cases.

pub mod connections;
pub mod endless;
pub mod gzip;
pub mod lengths;
pub mod redirects;
pub mod resources;
pub mod server;
pub mod statuses;
pub mod storm;

use super::generator::Repo;

pub const CAR: &str = "application/vnd.ipld.car";
const CHUNKED: &str = "Transfer-Encoding: chunked";
const CLOSE: &str = "Connection: close";

/// What the server does next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends these bytes again and again, for as long as the client takes them.
    Forever(Vec<u8>),
    /// Sends these bytes, one a second.
    Drip(Vec<u8>),
    /// Waits for a second.
    Second,
    /// Waits until the client goes away.
    Silence,
    /// Ends the connection with RST.
    Reset,
    /// Expects another request on the same connection; without this it is closed at the end of the script.
    KeepAlive,
}

/// What a script may refer to: the listener on which a request came in, and the account.
pub struct Scene<'a> {
    /// The URL of the same request on the listener itself, and on the next one of the ring.
    pub own_url: String,
    pub next_url: String,
    /// Which listener of the ring this is, from 0.
    pub place: usize,
    /// How many requests came in on it before this one.
    pub earlier: usize,
    pub repo: &'a Repo,
}

type Script = Box<dyn Fn(&Scene) -> Vec<Step> + Send + Sync>;

/// A way to misbehave.
pub struct Case {
    pub name: String,
    /// How the job may end: `done` or a reason. More than one where two rows of the contract's table fit.
    pub ends: Vec<&'static str>,
    /// How many listeners there are; none: nobody listens, the connection is refused.
    listeners: usize,
    /// Whether it reads a request before it acts.
    listens: bool,
    /// Whether the message names it with https; it has no TLS.
    https: bool,
    script: Script,
}

impl Case {
    pub fn new(
        name: impl Into<String>,
        ends: &[&'static str],
        script: impl Fn(&Scene) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            ends: ends.to_vec(),
            listeners: 1,
            listens: true,
            https: false,
            script: Box::new(script),
        }
    }

    /// A case whose steps depend on nothing.
    pub fn fixed(name: impl Into<String>, ends: &[&'static str], steps: Vec<Step>) -> Self {
        Self::new(name, ends, move |_| steps.clone())
    }

    /// Acts before it has read the request.
    fn deaf(mut self) -> Self {
        self.listens = false;
        self
    }

    /// Is asked over TLS, of which it does not understand a word.
    fn over_tls(self) -> Self {
        Self {
            https: true,
            ..self.deaf()
        }
    }

    /// Has so many listeners; the first is the one that the message names.
    fn ring(mut self, listeners: usize) -> Self {
        self.listeners = listeners;
        self
    }
}

/// The head of an answer: what follows `HTTP/1.1 ` on the first line, and the headers.
pub fn head(status: &str, headers: &[&str]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status}\r\n");
    for header in headers {
        text += header;
        text += "\r\n";
    }
    text += "\r\n";
    text.into_bytes()
}

/// A whole answer with its length.
pub fn answer(status: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let kind = format!("Content-Type: {kind}");
    let length = format!("Content-Length: {}", body.len());
    [head(status, &[&kind, &length]), body.to_vec()].concat()
}

/// The good answer.
pub fn good_answer(repo: &Repo) -> Vec<u8> {
    answer("200 OK", CAR, &repo.car())
}

/// The head of a good answer whose body is framed so.
pub fn car_head(framing: &str) -> Vec<u8> {
    head(
        "200 OK",
        &["Content-Type: application/vnd.ipld.car", framing],
    )
}

/// A chunk of chunked encoding.
fn chunk(content: &[u8]) -> Vec<u8> {
    let length = format!("{:x}\r\n", content.len());
    [length.as_bytes(), content, b"\r\n"].concat()
}
