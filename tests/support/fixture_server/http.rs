//! HTTP/1.1 by hand: one connection, its requests and whole answers.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use super::GET_REPO;
use super::faults;
use super::state::{Document, Shared};

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Request {
    /// The path and query, percent-decoded.
    pub path: String,
    /// The path and query as they were sent.
    pub target: String,
    /// The account: the `did` parameter of getRepo, or the path if that is a DID.
    pub did: Option<String>,
    /// The headers; names in lower case.
    pub headers: Vec<(String, String)>,
    /// When it had been read.
    pub at: Instant,
    /// Which connection it came by; requests with equal numbers shared one.
    pub connection: u64,
}

impl Request {
    /// The value of the first header of that name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether it asks for a repository.
    pub fn is_get_repo(&self) -> bool {
        self.target.split('?').next() == Some(GET_REPO)
    }
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Next {
    KeepAlive,
    Close,
}

/// Answers the requests of one connection until either side ends it.
pub fn serve(stream: &TcpStream, connection: u64, shared: &Shared) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    while let Ok(Some(request)) = read_request(&mut reader, connection) {
        let close = request.header("connection") == Some("close");
        match answer(stream, request, shared) {
            Ok(Next::KeepAlive) if !close => {}
            _ => return,
        }
    }
}

fn answer(stream: &TcpStream, request: Request, shared: &Shared) -> io::Result<Next> {
    let did = request.did.clone().unwrap_or_default();
    let get_repo = request.is_get_repo();
    let path = request.path.clone();
    let web = request.target == "/.well-known/did.json";

    let mut state = shared.lock();
    state.requests.push(request);
    if get_repo {
        let order = faults::Order {
            fault: state.next_fault(&did),
            car: state.repos.get(&did).cloned(),
            releases: state.releases(&did),
            did,
        };
        drop(state);
        return order.answer(stream, shared);
    }
    let ordered = state.made_to_order(&path);
    let document = if ordered.is_some() {
        ordered
    } else if web {
        state.web_document.clone()
    } else {
        state.documents.get(&did).cloned()
    };
    let is_cut = state.cuts_documents;
    drop(state);
    let document = document.unwrap_or_else(|| Document {
        status: 404,
        retry_after: None,
        body: serde_json::json!({ "message": format!("DID not registered: {did}") }).to_string(),
    });
    let Document { status, body, .. } = &document;
    if is_cut {
        let mut stream = stream;
        let (head, length) = (head(*status, "application/json"), body.len());
        let part = &body[..length / 2];
        stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{part}").as_bytes())?;
        return Ok(Next::Close);
    }
    // A redirect's body is its target.
    let location = (300..400).contains(status).then(|| body.clone());
    let location = location.map(|url| ("Location".to_owned(), url));
    let seconds = document.retry_after.map(|seconds| seconds.to_string());
    let wait = seconds.map(|seconds| ("Retry-After".to_owned(), seconds));
    let headers: Vec<_> = location.into_iter().chain(wait).collect();
    respond(
        stream,
        *status,
        &headers,
        "application/json",
        body.as_bytes(),
    )
}

/// One whole answer with its length.
pub fn respond(
    mut stream: &TcpStream,
    status: u16,
    headers: &[(String, String)],
    content_type: &str,
    body: &[u8],
) -> io::Result<Next> {
    let mut head = head(status, content_type);
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    Ok(Next::KeepAlive)
}

/// The status line and the content type; what says where the body ends is still missing.
pub fn head(status: u16, content_type: &str) -> String {
    let reason = match status {
        200 => "OK",
        301 => "Moved Permanently",
        302 => "Found",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        404 => "Not Found",
        410 => "Gone",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Other",
    };
    format!("HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\n")
}

/// The next request; `None` when the client has ended the connection. Only GET, so there is no body
/// to read.
fn read_request(reader: &mut impl BufRead, connection: u64) -> io::Result<Option<Request>> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut line = String::new();
    let mut headers = Vec::new();
    if reader.take(65_536).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_ascii_whitespace();
    let (Some("GET"), Some(target)) = (words.next(), words.next()) else {
        return Err(bad("not a GET request"));
    };
    let target = target.to_owned();
    loop {
        let mut line = String::new();
        reader.take(65_536).read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| bad("a header without a colon"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok(Some(Request {
        path: percent_decode(&target),
        did: did_of(&target),
        target,
        headers,
        at: Instant::now(),
        connection,
    }))
}

fn did_of(target: &str) -> Option<String> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let in_path = || percent_decode(path).strip_prefix('/').map(str::to_owned);
    let in_query = || {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix("did="))
            .map(percent_decode)
    };
    let did = if path == GET_REPO {
        in_query()
    } else {
        in_path()
    };
    did.filter(|did| did.starts_with("did:"))
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
